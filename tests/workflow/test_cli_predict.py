"""`rlready fit | rank | plan | tag | resolve` on one registry: the way from proxies to a tag."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backends import copy_database
from click.testing import CliRunner, Result
from simulation import simulate
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.calibration.trusted_types import trusted_types
from rlready.predictors.models.catalogue import model_names
from rlready.registry.mlflow_store.predictors.skops_file import unfamiliar_types
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.workflow.cli.main import main

pytestmark = pytest.mark.slow

N_CHECKPOINTS, N_OUTCOMES = 20, 15
TARGET = "value_at_budget/60steps@gsm8k"

Run = Callable[..., Result]


def put_registry(uri: str, *, is_noise: bool = False) -> None:
    """Checkpoints whose pass@64 and loss foresee the outcome, or (`is_noise`) do not."""
    rng = np.random.default_rng(7)
    store = MlflowStore(uri)
    for number in range(1, N_CHECKPOINTS + 1):
        quality = float(rng.normal())
        seen = float(rng.normal()) if is_noise else quality + 0.2 * float(rng.normal())
        recipe = Recipe(base_model="Qwen2.5-0.5B", sources={"numina": 1.0}, learning_rate=1e-5)
        proxies = (
            a_proxy(name="pass_at_1", value=0.3 + 0.05 * float(rng.normal()), se=0.02),
            a_proxy(value=0.7 + 0.05 * seen, se=0.01),
            a_proxy(name="heldout_nll", value=1.2 - 0.1 * seen, se=0.01, benchmark="heldout"),
        )
        checkpoint = a_checkpoint(number, recipe=recipe, name=f"sft-{number:02d}")
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies, config={}))
        if number <= N_OUTCOMES:
            value = 0.6 + 0.04 * quality + 0.005 * float(rng.normal())
            store.put_outcome(an_outcome(number, value=value, se=0.005))


@pytest.fixture(scope="module")
def registry(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("registry")
    copy_database(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        put_registry(uri)
        fitted = CliRunner().invoke(main, ["fit", "--tracking-uri", uri, "--json"])
    assert fitted.exit_code == 0, fitted.output
    (folder / "fit.json").write_text(fitted.stdout.splitlines()[-1])
    return uri


@pytest.fixture
def run(registry: str) -> Run:
    return lambda *flags: CliRunner().invoke(main, [*map(str, flags), "--tracking-uri", registry])


def test_a_fit_says_what_it_rests_on_and_how_well_it_does(registry: str) -> None:
    path = Path(registry.removeprefix("sqlite:///")).with_name("fit.json")
    report = json.loads(path.read_text())
    assert report["target"] == TARGET
    assert report["features"] == ["pass_at_1@gsm8k", "pass_at_64@gsm8k", "heldout_nll@heldout"]
    assert (report["n_rows"], report["n_without_outcome"]) == (N_OUTCOMES, 5)
    loo = report["validation"]["loo"]
    assert loo[report["model"]]["spearman"]["value"] > 0.7
    assert report["practice"] == "pass_at_1@gsm8k"


def test_fitting_the_same_registry_again_adds_no_version(run: Run) -> None:
    again = json.loads(run("fit", "--json").stdout.splitlines()[-1])
    assert (again["is_new"], again["version"]) == (False, "1")


def test_a_ranking_has_every_checkpoint_with_reasons(run: Run) -> None:
    found = json.loads(run("rank", "--json").stdout)
    assert found["is_claimed"]
    assert len(found["rows"]) == N_CHECKPOINTS
    ranked = [row["expected"] for row in found["rows"] if row["rank"]]
    assert ranked == sorted(ranked, reverse=True)
    assert all(row["low"] <= row["predicted"] <= row["high"] for row in found["rows"])
    assert all(row["reasons"] for row in found["rows"])


def test_a_recorded_outcome_narrows_what_is_known_of_its_checkpoint(run: Run) -> None:
    rows = {row["id"]: row for row in json.loads(run("rank", "--json").stdout)["rows"]}
    known, unknown = rows["sft-01"], rows["sft-20"]
    width = known["expected_high"] - known["expected_low"]
    assert width < 0.5 * (unknown["high"] - unknown["low"])


def test_what_is_called_predicted_has_not_seen_the_outcome(run: Run) -> None:
    """It once was the prediction and the outcome in one number."""
    for row in json.loads(run("rank", "--json").stdout)["rows"]:
        assert row["low"] <= row["predicted"] <= row["high"]
        if row["recorded"] is None:
            assert (row["expected"], row["expected_low"]) == (row["predicted"], None)
        else:
            assert abs(row["expected"] - row["recorded"]) < abs(row["predicted"] - row["recorded"])


def test_a_plan_names_checkpoints_without_an_outcome(run: Run, tmp_path: Path) -> None:
    figure = tmp_path / "regret.png"
    found = json.loads(run("plan", "--rl-runs", 2, "--figure", figure, "--json").stdout)
    assert set(found["chosen"]) <= {f"sft-{number:02d}" for number in range(16, 21)}
    assert len(found["chosen"]) == 2
    regrets = [value["regret"] for value in found["policies"]["predicted"]]
    assert regrets[-1] < regrets[0] + 1e-5  # a Monte Carlo mean: equal regrets differ a little
    assert not found["is_retrospective"]
    assert (found["realised_regret"], found["practice_regret"]) == (None, None)
    assert found["practice"] == "pass_at_1@gsm8k"
    replayed, factor = found["replay"], found["replay"]["factors"]["expected"]
    assert replayed["n_rows"] == N_OUTCOMES
    assert {"expected", "pass_at_1@gsm8k", "random"} <= set(replayed["policies"])
    for value in found["policies"]["expected"]:
        assert value["regret"] == pytest.approx(factor * value["by_model"])
    assert figure.stat().st_size > 10_000


def test_a_plan_says_what_is_known_and_what_is_expected(run: Run) -> None:
    """It once compared an expected .223 of the practice with a realised .0129 of the plan."""
    shown = " ".join(run("plan", "--rl-runs", 2).output.split())
    assert "Expected, not known yet" in shown
    assert f"Known: regret of plans on {N_OUTCOMES} recorded outcomes left out" in shown
    assert "2 RL runs of such a plan lost" in shown
    assert "as many by pass_at_1@gsm8k" in shown


def test_the_tag_leads_a_trainer_to_the_best_ready_checkpoint(run: Run) -> None:
    dry = run("tag", "--dry-run")
    assert dry.exit_code == 0, dry.output
    tagged = run("tag", "--json")
    assert tagged.exit_code == 0, tagged.output
    family = json.loads(tagged.stdout)["families"][0]
    assert len(family["tagged"]) == N_CHECKPOINTS
    ready = [
        row["id"]
        for row in json.loads(run("rank", "--json").stdout)["rows"]
        if row["readiness"] == "READY"
    ]
    # The alias says who gets the next run: sft-01 to sft-15 had theirs.
    unspent = [name for name in ready if int(name.removeprefix("sft-")) > N_OUTCOMES]
    names = {one["checkpoint_id"]: one["name"] for one in family["tagged"]} | {None: None}
    assert names[family["chosen"]] == next(iter(unspent), None)
    family = json.loads(run("tag", "--allow-trained", "--json").stdout)["families"][0]
    assert names[family["chosen"]] == (unspent or ready)[0]
    resolved = run("resolve", f"models:/{family['name']}@rl-ready")
    # These weights are made up: the way ends at the folder that is not there, if not before.
    assert resolved.exit_code == 2
    assert ("weights/step-" if unspent else "which had its RL run") in resolved.output


def test_people_get_tables(run: Run) -> None:
    for flags in (["rank"], ["plan", "--rl-runs", 1], ["fit"]):
        shown = run(*flags)
        assert shown.exit_code == 0, shown.output
        assert TARGET in shown.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["fit", "--target", "peak/1steps@x"], "there is no outcome 'peak/1steps@x'"),
        (["fit", "--features", "nope@x"], "has no column 'nope@x'"),
        (["fit", "--group", "nope"], "has no column 'nope'"),
        (["fit", "--model", "nope"], "there is no model 'nope'"),
        (["rank", "--predictor", "nope"], "nope"),
        (["rank", "--group", "nope"], "there is no group nope"),
        (["plan", "--rl-runs", "1", "--policy", "nope"], "there is no policy 'nope'"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(run: Run, flags: list[str], message: str) -> None:
    failed = run(*flags)
    assert failed.exit_code == 2
    assert message in failed.output
    assert "Traceback" not in failed.output


def test_proxies_without_a_signal_rank_and_plan_nothing(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_database(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    put_registry(uri, is_noise=True)
    flags = ["--tracking-uri", uri, "--json"]
    assert CliRunner().invoke(main, ["fit", *flags]).exit_code == 0
    ranking = json.loads(CliRunner().invoke(main, ["rank", *flags]).stdout)
    assert not ranking["is_claimed"]
    assert {row["readiness"] for row in ranking["rows"]} == {"UNDECIDED"}
    planned = CliRunner().invoke(main, ["plan", "--rl-runs", "1", *flags])
    assert planned.exit_code == 2
    assert "no signal" in planned.output


def test_a_registry_without_outcomes_is_told(sqlite_uri: str) -> None:
    failed = CliRunner().invoke(main, ["fit", "--tracking-uri", sqlite_uri])
    assert failed.exit_code == 2
    assert "holds no outcome" in failed.output


def test_every_model_can_be_stored_with_the_types_that_are_trusted() -> None:
    """A class that is not listed would make `fit --model NAME` end in a refusal."""
    table = simulate(3, 8, np.random.default_rng(0)).table
    for name in model_names(table.columns):
        fitted = CalibratedPredictor(name, n_folds=2).fit(table)
        assert set(unfamiliar_types(fitted)) <= set(trusted_types()), name
