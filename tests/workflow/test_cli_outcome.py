"""`rlready outcome`, `rlready table`: what they record, print and refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from store_child import a_checkpoint, a_proxy, an_evaluation

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Checkpoint, Evaluation
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main

Run = Callable[..., Result]
RL = ("--algorithm", "grpo", "--budget", 60, "--budget-unit", "steps")
NAME = a_checkpoint(1).name
KEY = "value_at_budget/60steps@gsm8k"
OTHER = "d4" * 16


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    """A registry with one SFT checkpoint, measured by pass@1 on gsm8k and aime24."""
    made = MlflowStore(sqlite_uri)
    put(made, a_checkpoint(1), gsm8k=0.4, aime24=0.1)
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    return lambda *flags: CliRunner().invoke(main, [str(flag) for flag in flags])


def put(
    store: MlflowStore, checkpoint: Checkpoint, protocol: str = "c3" * 16, **scores: float
) -> None:
    proxies = tuple(
        a_proxy(name="pass_at_1", benchmark=name, value=value, protocol_digest=protocol)
        for name, value in scores.items()
    )
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))


def after_rl(number: int = 2, **changes: object) -> Checkpoint:
    return a_checkpoint(number, **{"kind": "rl", "parents": (a_checkpoint(1).id,), **changes})


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


CURVE = "steps,gsm8k,gsm8k_se\n0,0.4,0.02\n40,0.5,0.02\n80,0.7,0.02\n"


def a_curve(path: Path, text: str = CURVE) -> Path:
    path.write_text(text)
    return path


def test_a_number_is_recorded_once(run: Run, store: MlflowStore, tmp_path: Path) -> None:
    recipe = tmp_path / "rl.toml"
    recipe.write_text('data = "dapo"\ngroup_size = 8\n')
    flags = (*RL, "--value", 0.61, "--se", 0.02, "--benchmark", "gsm8k", "--seed", 3)
    flags = ("outcome", NAME, *flags, "--rl-recipe", recipe, "--json")
    first, second = (json.loads(run(*flags).stdout) for _ in range(2))
    (outcome,) = first["outcomes"]
    assert (outcome["key"], outcome["value"], outcome["se"]) == (KEY, 0.61, 0.02)
    assert (outcome["seed"], outcome["rl_recipe"]) == (3, {"data": "dapo", "group_size": 8})
    assert [r["outcomes"][0]["is_new"] for r in (first, second)] == [True, False]
    assert first["conflicts"] == first["warnings"] == []
    assert len(store.find(NAME).outcomes) == 1


def test_a_curve_gives_the_statistics_that_are_asked_for(
    run: Run, store: MlflowStore, tmp_path: Path
) -> None:
    curve = a_curve(tmp_path / "curve.csv")
    done = run("outcome", NAME, *RL, "--curve", curve, "--statistic", "peak,value_at_budget")
    assert done.exit_code == 0, done.output
    found = {o.key: (o.value, o.n_evaluations) for o in store.find(NAME).outcomes}
    assert found["peak/60steps@gsm8k"] == (0.5, 1)
    assert found[KEY] == (pytest.approx(0.6), 2)
    assert "0.6000 ± 0.0200" in done.output


def test_a_column_may_have_commas_in_its_name(run: Run, store: MlflowStore, tmp_path: Path) -> None:
    """One text holds all maps inside `mlflow run`; lm-evaluation-harness names columns so."""
    text = 't,"gsm8k/exact_match,strict-match",aime_score\n60,52.5,3\n'
    curve = a_curve(tmp_path / "curve.csv", text)
    maps = "steps=t,gsm8k=gsm8k/exact_match,strict-match,aime24=aime_score"
    done = run("outcome", NAME, *RL, "--curve", curve, "--map", maps, "--percent")
    assert done.exit_code == 0, done.output
    found = {o.benchmark: o.value for o in store.find(NAME).outcomes}
    assert found == {"gsm8k": 0.525, "aime24": 0.03}
    assert "was read as gsm8k" in " ".join(done.output.split())


def test_an_rl_checkpoint_gives_what_its_parent_was_measured_on(
    run: Run, store: MlflowStore
) -> None:
    put(store, after_rl(), gsm8k=0.7, aime24=0.2, math500=0.5)
    done = run("outcome", NAME, *RL, "--rl-checkpoint", after_rl().name, "--seed", 0)
    assert done.exit_code == 0, done.output
    outcomes = store.find(NAME).outcomes
    assert {o.benchmark: (o.value, o.se) for o in outcomes} == {
        "gsm8k": (0.7, 0.03),
        "aime24": (0.2, 0.03),
    }
    assert {o.rl_checkpoint_id for o in outcomes} == {after_rl().id}
    assert {(o.protocol_digest, o.evaluator_version) for o in outcomes} == {("c3" * 16, "1")}


def test_a_folder_is_known_by_its_content(run: Run, store: MlflowStore, tmp_path: Path) -> None:
    from rlready.registry.digest import fingerprint

    folder = untrained_checkpoint(tmp_path / "rl")
    text = refused(run("outcome", NAME, *RL, "--rl-checkpoint", folder))
    assert "is not in the registry" in text
    assert f"--kind rl --parent {a_checkpoint(1).id[:12]}" in text
    put(store, after_rl(fingerprint=fingerprint(folder)), gsm8k=0.7)
    done = run("outcome", NAME, *RL, "--rl-checkpoint", folder)
    assert done.exit_code == 0, done.output
    assert "left out aime24" in " ".join(done.output.split())
    assert [o.key for o in store.find(NAME).outcomes] == [KEY]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (after_rl(kind="sft"), "registered with kind sft"),
        (after_rl(parents=()), "no parent"),
        (after_rl(parents=(a_checkpoint(9).id,)), "parent 9000"),
    ],
)
def test_an_rl_checkpoint_of_another_parent_is_refused(
    run: Run, store: MlflowStore, checkpoint: Checkpoint, message: str
) -> None:
    put(store, a_checkpoint(9), gsm8k=0.4)
    put(store, checkpoint, gsm8k=0.7)
    text = refused(run("outcome", NAME, *RL, "--rl-checkpoint", checkpoint.id))
    assert "is not an RL checkpoint of" in text
    assert message in text
    assert store.find(NAME).outcomes == ()


def test_an_rl_checkpoint_measured_by_another_protocol_is_refused(
    run: Run, store: MlflowStore
) -> None:
    put(store, after_rl(), OTHER, gsm8k=0.7)
    text = refused(run("outcome", NAME, *RL, "--rl-checkpoint", after_rl().id))
    assert "with another protocol than its parent" in text
    assert "--temperature" in text
    assert store.find(NAME).outcomes == ()


def test_an_rl_checkpoint_measured_on_other_problems_is_refused(
    run: Run, store: MlflowStore
) -> None:
    proxy = a_proxy(name="pass_at_1", benchmark_digest=OTHER)
    store.put_evaluation(Evaluation(checkpoint=after_rl(), proxies=(proxy,)))
    text = refused(run("outcome", NAME, *RL, "--rl-checkpoint", after_rl().id))
    assert "with other problems than its parent" in text
    assert "--limit" in text


def test_conflicts_are_kept_shown_and_ended_by_a_correction(run: Run, store: MlflowStore) -> None:
    flags = ("outcome", NAME, *RL, "--benchmark", "gsm8k", "--seed", 0)
    for value in (0.5, 0.7):
        done = run(*flags, "--value", value)
        assert done.exit_code == 0, done.output
    assert "CONFLICT" in done.output
    shown = run("show", NAME)
    assert "CONFLICT" in shown.output
    wrong, right = (outcome.id for outcome in store.find(NAME).outcomes)
    assert json.loads(run("show", NAME, "--json").output)["conflicts"] == [[wrong, right]]
    table = run("table")
    assert "conflict" in table.stderr
    assert pd.read_csv(io.StringIO(table.stdout))["conflicts"].tolist() == [KEY]
    done = run(*flags, "--value", 0.7, "--replaces", wrong[:8])
    assert done.exit_code == 0, done.output
    assert "CONFLICT" not in run("show", NAME).output
    assert len(store.find(NAME).outcomes) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "0 of --value, --curve and --rl-checkpoint"),
        (["--value", 1, "--curve", "curve.csv"], "2 of --value, --curve"),
        (["--value", 0.5], "--value is given without --benchmark"),
        (["--value", "nan", "--benchmark", "a"], "is nan"),
        (["--value", "high", "--benchmark", "a"], "is not a valid float"),
        (["--value", 0.5, "--benchmark", "a", "--se", -1], "standard error"),
        (["--value", 0.5, "--benchmark", "train/reward"], "the training reward also rises"),
        (["--value", 0.5, "--benchmark", "a", "--budget", 0], "without RL a number is a proxy"),
        (["--value", 0.5, "--benchmark", "a", "--budget-unit", "days"], "is not one of"),
        (["--value", 0.5, "--benchmark", "a", "--statistic", "best"], "no statistic 'best'"),
        (["--value", 0.5, "--benchmark", "a", "--statistic", "peak,last_5_mean"], "one number"),
        (["--value", 0.5, "--benchmark", "a", "--rl-recipe", "none.toml"], "cannot read none.toml"),
        (["--value", 0.5, "--benchmark", "a", "--rl-recipe", "date.toml"], "RL recipe"),
        (["--value", 0.5, "--benchmark", "a", "--replaces", "abcd"], "matches 0 outcomes"),
        (["--curve", "none.csv"], "cannot read none.csv"),
        (["--curve", "curve.csv", "--se", 0.1], "--se is given without --value"),
        (["--curve", "curve.csv", "--budget-unit", "exaflop"], "no budget column in exaflop"),
        (["--curve", "falling.csv"], "line 3: steps is 10 after 20"),
        (["--curve", "curve.csv", "--statistic", "last_5_mean"], "needs 5 points"),
        (["--curve", "curve.csv", "--statistic", "best"], "no statistic 'best'"),
        (["--curve", "curve.csv", "--budget", 90], "beyond the curve's end"),
        (["--curve", "curve.csv", "--benchmark", "b"], "no column 'b'"),
        (["--rl-checkpoint", "nowhere"], "RL checkpoint nowhere is not in the registry"),
        (["--rl-checkpoint", NAME], "has the weights of"),
        (["--rl-checkpoint", "x", "--statistic", "peak"], "one point of the curve"),
    ],
)
def test_an_invalid_outcome_is_refused_with_a_reason(
    run: Run, store: MlflowStore, tmp_path: Path, flags: list[object], message: str
) -> None:
    a_curve(tmp_path / "curve.csv")
    a_curve(tmp_path / "falling.csv", "steps,gsm8k\n20,0.1\n10,0.2\n")
    (tmp_path / "date.toml").write_text("when = 2026-01-01\n")
    assert message in refused(run("outcome", NAME, *RL, *flags))
    assert store.find(NAME).outcomes == ()


def test_an_unknown_checkpoint_is_told(run: Run, store: MlflowStore) -> None:
    text = refused(run("outcome", "nothing", *RL, "--value", 0.5, "--benchmark", "a"))
    assert "no checkpoint 'nothing' in the registry" in text


def test_the_table_goes_to_stdout_as_csv(run: Run, store: MlflowStore) -> None:
    run("outcome", NAME, *RL, "--value", 0.5, "--benchmark", "gsm8k")
    store.put_evaluation(an_evaluation(5))
    done = run("table", "--target", KEY)
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(io.StringIO(done.stdout))
    assert frame["target"].tolist() == [0.5]
    assert frame["pass_at_1@gsm8k"].tolist() == [0.4]
    assert f"left out, as they have no {KEY}: 1 checkpoint" in done.stderr


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_the_table_goes_to_a_file_in_the_format_of_its_name(
    run: Run, store: MlflowStore, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / f"t.{kind}"
    done = run("table", "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    reader = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[kind]
    assert reader(out)["name"].tolist() == [NAME]


def test_an_unknown_target_lists_the_known_ones(run: Run, store: MlflowStore) -> None:
    run("outcome", NAME, *RL, "--value", 0.5, "--benchmark", "gsm8k")
    text = refused(run("table", "--target", "x"))
    assert f"It holds {KEY}" in text


def test_an_empty_registry_is_an_empty_table(run: Run) -> None:
    assert json.loads(run("table", "--json").stdout) == {"rows": [], "notes": []}
    assert json.loads(run("table", "--format", "json").stdout) == []
    assert run("table").stdout.startswith('"checkpoint_id"')
