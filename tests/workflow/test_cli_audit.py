"""`rank` and `plan` freeze what they predict, and `rlready audit` judges it afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backends import client_of, copy_database
from click.testing import CliRunner, Result
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation
from rlready.workflow.cli.main import main

pytestmark = pytest.mark.slow

N, N_BEFORE = 16, 10
Run = Callable[..., Result]


def put_outcome(store: MlflowStore, number: int) -> None:
    noise = 0.01 * float(np.random.default_rng(number).standard_normal())
    store.put_outcome(an_outcome(number, value=0.2 + 0.5 * number / (N + 2) + noise, se=0.01))


@pytest.fixture(scope="module")
def fitted(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    copy_database(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        store = MlflowStore(uri)
        order = np.random.default_rng(0).permutation(np.arange(1, N + 1)).tolist()
        for number in order:
            quality = number / (N + 2)
            proxies = (
                a_proxy(value=quality, se=0.01),
                a_proxy(name="pass_at_1", value=quality / 2 + 0.02 * (number % 3), se=0.01),
            )
            checkpoint = a_checkpoint(number)
            store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
        for number in order[:N_BEFORE]:
            put_outcome(store, number)
        run = CliRunner().invoke(main, ["fit", "--tracking-uri", uri])
        assert run.exit_code == 0, run.output
        for words in (["rank"], ["plan", "--rl-runs", "2"]):
            done = CliRunner().invoke(main, [*words, "--tracking-uri", uri, "--json"])
            assert json.loads(done.stdout)["frozen"]["is_new"], done.output
        (folder / "later.json").write_text(json.dumps(order[N_BEFORE:]))
    return folder


@pytest.fixture
def run(fitted: Path) -> Run:
    uri = f"sqlite:///{fitted / 'mlflow.db'}"
    return lambda *flags: CliRunner().invoke(main, [*map(str, flags), "--tracking-uri", uri])


def test_the_same_predictions_are_written_once(run: Run) -> None:
    said = json.loads(run("rank", "--json").stdout)["frozen"]
    assert (said["n_predictions"], said["is_new"]) == (N - N_BEFORE, False)
    assert json.loads(run("plan", "--rl-runs", 2, "--json").stdout)["frozen"]["is_new"] is False
    assert len(json.loads(run("audit", "--json").stdout)["scores"]) == 2


@pytest.mark.parametrize(
    "words", [["rank"], ["plan", "--rl-runs", "2"], ["plan", "--rl-steps", "120"]]
)
def test_the_kinds_of_the_fit_are_shown(run: Run, words: list[str]) -> None:
    found = json.loads(run(*words, "--no-freeze", "--json").stdout)
    assert {name: kind["kind"] for name, kind in found["kinds"].items()} == {
        "pass_at_1@gsm8k": "accuracy",
        "pass_at_64@gsm8k": "accuracy",
    }
    text = " ".join(run(*words, "--no-freeze").output.split())
    assert "kinds: accuracy, higher is better: pass_at_1@gsm8k, pass_at_64@gsm8k" in text


def test_no_freeze_writes_nothing(run: Run) -> None:
    ranked = run("rank", "--top", 2, "--no-freeze", "--json")
    assert json.loads(ranked.stdout)["frozen"] is None
    assert len(json.loads(run("audit", "--json").stdout)["scores"]) == 2


def page_of(folder: Path, number: int) -> str:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    model_id = MlflowStore(uri).find(a_checkpoint(number).id).model_id
    return str(client_of(uri).get_logged_model(model_id).tags["mlflow.note.content"])


def test_rank_writes_the_verdict_onto_the_pages(run: Run, fitted: Path) -> None:
    ranked = json.loads(run("rank", "--json").stdout)
    assert ranked["pages"] == "the checkpoints' pages in MLflow already show this ranking"
    places = {row["id"]: row["rank"] for row in ranked["rows"]}
    for number in range(1, N + 1):
        rank = places[a_checkpoint(number).name]
        assert f"rank {rank} of {N}" in page_of(fitted, number).splitlines()[0]
    assert json.loads(run("rank", "--no-freeze", "--json").stdout)["pages"] is None


def test_tag_puts_the_alias_onto_the_page(run: Run, fitted: Path) -> None:
    said = json.loads(run("tag", "--json").stdout)
    (family,) = said["families"]
    chosen = [n for n in range(1, N + 1) if a_checkpoint(n).id == family["chosen"]]
    shown = [n for n in range(1, N + 1) if "rl-ready" in page_of(fitted, n).splitlines()[0]]
    assert shown == chosen
    before = [page_of(fitted, number) for number in range(1, N + 1)]
    assert "already show" in json.loads(run("tag", "--json").stdout)["pages"]
    assert [page_of(fitted, number) for number in range(1, N + 1)] == before


def test_a_registry_that_cannot_be_written_still_ranks(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: MlflowStore) -> str:
        raise StoreError("the registry cannot be written", why="it is read-only")

    monkeypatch.setattr(MlflowStore, "_experiment_to_write", refuse)
    ranked = run("rank", "--json")
    assert ranked.exit_code == 0, ranked.output
    said = json.loads(ranked.stdout)
    assert len(said["rows"]) == N
    assert said["pages"].startswith("the checkpoints' pages in MLflow do not show this ranking")
    assert "it is read-only" in said["pages"]


def test_before_any_outcome_nothing_is_judged(run: Run) -> None:
    report = json.loads(run("audit", "--json").stdout)
    assert report["overall"] is None
    assert report["verdict"].startswith("Nothing can be judged yet")
    assert [score["n_judged"] for score in report["scores"]] == [0, 0]


def test_a_target_that_was_not_predicted_is_told(run: Run) -> None:
    failed = run("audit", "--target", "peak/1steps@x")
    assert failed.exit_code == 2
    assert "no prediction of peak/1steps@x was frozen" in failed.output


def test_a_registry_without_predictions_is_told(sqlite_uri: str) -> None:
    failed = CliRunner().invoke(main, ["audit", "--tracking-uri", sqlite_uri])
    assert failed.exit_code == 2
    assert "no prediction was frozen yet" in failed.output


def test_outcomes_that_came_later_judge_the_predictions(
    run: Run, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fitted)
    store = MlflowStore(f"sqlite:///{fitted / 'mlflow.db'}")
    later = json.loads((fitted / "later.json").read_text())
    for number in later:
        put_outcome(store, number)
    report = json.loads(run("audit", "--json").stdout)
    overall = report["overall"]
    assert overall["n_judged"] == N - N_BEFORE
    assert overall["coverage"] >= 0.5
    assert overall["spearman"] > 0.7
    assert "Judged on 6 predictions made before the outcome" in report["verdict"]
    rank, plan = report["scores"]
    assert (rank["command"], plan["command"]) == ("rank", "plan")
    assert plan["n_chosen_judged"] == plan["n_practice_judged"] == 2
    assert plan["regret"] is not None
    shown = " ".join(run("audit").output.split())
    assert "Predictions of value_at_budget/60steps@gsm8k made before the outcome" in shown
    assert "the choice by plan on" in shown
    # A new ranking predicts nothing: every outcome is there.
    again = json.loads(run("rank", "--json").stdout)["frozen"]
    assert (again["n_predictions"], again["is_new"]) == (0, None)


def test_a_changed_prediction_is_refused(run: Run, fitted: Path) -> None:
    path = next(fitted.glob("mlruns/**/frozen_prediction.json"))
    text = path.read_text()
    try:
        path.write_text(text.replace('"level": 0.9', '"level": 0.8'))
        failed = run("audit")
        assert failed.exit_code == 2
        assert "was changed after it was made" in failed.output
        assert "Traceback" not in failed.output
    finally:
        path.write_text(text)
    assert run("audit").exit_code == 0
