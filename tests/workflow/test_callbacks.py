"""Callbacks in real trainers of TRL: what they register, also after resuming and after faults."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("trl", reason="TRL is not installed (extra `train`)")

from trl_runs import grpo_trainer, sft_trainer

from rlready.registry import MemoryStore, MlflowStore
from rlready.registry.errors import CurveError
from rlready.registry.store import StoredCheckpoint
from rlready.testbed import shipped_base
from rlready.workflow import RecordOutcome, RegisterCheckpoints
from rlready.workflow.cli.main import main

# TRL and its dependencies warn of their own experimental and deprecated parts.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

METRIC = "eval_rewards/is_right/mean"


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MlflowStore, Any]:
    """A folder with a finished SFT run, its registry and its trainer."""
    folder = tmp_path_factory.mktemp("sft")
    store = MlflowStore(f"sqlite:///{folder}/mlflow.db")
    callback = RegisterCheckpoints(store, recipe={"sources": {"sums": 1.0}})
    trainer = sft_trainer(shipped_base(), folder / "run", [callback])
    trainer.train()
    return folder, store, trainer


@pytest.fixture
def sft_folder(sft: tuple[Path, MlflowStore, Any], tmp_path: Path) -> Path:
    """A copy of the run, which a test may continue."""
    return Path(shutil.copytree(sft[0] / "run", tmp_path / "run"))


def losses(trainer: Any) -> dict[int, float]:
    rows = trainer.state.log_history
    return {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}


def trained(store: Any) -> dict[int | None, StoredCheckpoint]:
    """SFT checkpoints by their steps, each there once."""
    stored = [each for each in store.checkpoints() if each.checkpoint.kind == "sft"]
    by_step = {each.checkpoint.step: each for each in stored}
    assert len(by_step) == len(stored)
    return by_step


def test_every_checkpoint_has_its_recipe_step_parent_and_loss(
    sft: tuple[Path, MlflowStore, Any],
) -> None:
    _, store, trainer = sft
    (base,) = [each for each in store.checkpoints() if each.checkpoint.kind == "base"]
    assert base.checkpoint.uri == shipped_base().resolve().as_uri()
    stored = trained(store)
    assert set(stored) == {2, 4}
    for step, each in stored.items():
        recipe = each.checkpoint.recipe
        assert recipe is not None
        assert each.checkpoint.name == f"run-checkpoint-{step}"
        assert each.checkpoint.parents == (base.checkpoint.id,)
        assert (recipe.learning_rate, recipe.batch_size, recipe.n_unique) == (1e-3, 2, 8)
        assert recipe.sources == {"sums": 1.0}
        assert "hub_token" not in recipe.extra
        (loss,) = each.proxies
        assert (loss.name, loss.benchmark, loss.n_problems) == ("trainer_eval_loss", "eval", 4)
        assert loss.value == losses(trainer)[step or 0]
        assert loss.se is None


def test_a_resumed_run_registers_each_checkpoint_once(tmp_path: Path) -> None:
    """The first two steps run without a callback, as if their process was killed after a save."""
    store = MemoryStore()
    sft_trainer(shipped_base(), tmp_path, [], n_steps=2).train()
    trainer = sft_trainer(shipped_base(), tmp_path, [RegisterCheckpoints(store)], n_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert set(trained(store)) == {2, 4}
    again = sft_trainer(shipped_base(), tmp_path, [RegisterCheckpoints(store)], n_steps=6)
    again.train(resume_from_checkpoint=True)
    stored = trained(store)
    assert set(stored) == {2, 4, 6}
    for step, each in stored.items():
        assert [p.value for p in each.proxies] == [losses(again)[step or 0]]
    assert len({each.proxies[0].benchmark_digest for each in stored.values()}) == 1


def test_evaluate_in_another_process_adds_to_the_registered_checkpoint(
    sft: tuple[Path, MlflowStore, Any], tmp_path: Path
) -> None:
    """The folder also holds pickles (optimizer, arguments), which are not read."""
    folder, store, _ = sft
    problems = tmp_path / "sums.jsonl"
    problems.write_text(json.dumps({"problem": "Modulo ten, left to right: 1+2", "answer": "3"}))
    checkpoint = folder / "run" / "checkpoint-4"
    assert (checkpoint / "training_args.bin").is_file()
    before = store.find("run-checkpoint-4")
    arguments = [
        *("evaluate", str(checkpoint), "--benchmark", f"sums={problems}", "--samples", "2"),
        *("--max-tokens", "16", "--samples-dir", str(tmp_path / "samples"), "--device", "cpu"),
        *("--tracking-uri", store.tracking_uri, "--json"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    after = store.find("run-checkpoint-4")
    assert after.checkpoint == before.checkpoint
    assert {"trainer_eval_loss", "pass_at_1"} <= {proxy.name for proxy in after.proxies}
    assert len(trained(store)) == 2


def test_an_outcome_is_linked_to_its_parent_with_its_curves(
    sft: tuple[Path, MlflowStore, Any], tmp_path: Path
) -> None:
    folder, store, _ = sft
    parent = store.find("run-checkpoint-2").checkpoint
    callback = RecordOutcome(METRIC, benchmark="sums", store=store, rl_recipe={"data": "sums"})
    trainer = grpo_trainer(folder / "run" / "checkpoint-2", tmp_path / "rl", [callback])
    trainer.train()
    values = {row["step"]: row[METRIC] for row in trainer.state.log_history if METRIC in row}
    (outcome,) = store.find(parent.id).outcomes
    assert (outcome.key, outcome.value) == ("value_at_budget/4steps@sums", values[4])
    assert outcome.rl_recipe["data"] == "sums"
    assert outcome.rl_recipe["num_generations"] == 4
    assert outcome.seed == 42
    child = store.find(outcome.rl_checkpoint_id or "").checkpoint
    assert (child.kind, child.step, child.parents) == ("rl", 4, (parent.id,))
    from mlflow import MlflowClient

    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(store.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`rlready.rl_run` LIKE '%'")
    assert run.data.tags["rlready.rl_run"] == "finished at step 4 of 4"
    history = client.get_metric_history(run.info.run_id, f"curve/{METRIC}")
    assert {point.step: point.value for point in history} == values
    assert len(client.get_metric_history(run.info.run_id, "curve/reward")) == 4


def test_an_interrupted_run_is_recorded_up_to_its_last_evaluation(
    sft_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python calls when the process ends is called here; then the run is resumed."""
    at_exit: list[Any] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    store = MemoryStore()

    class Interrupt(RegisterCheckpoints):
        def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    start, callback = sft_folder / "checkpoint-2", RecordOutcome(METRIC, benchmark="x", store=store)
    first = grpo_trainer(start, tmp_path / "rl", [callback, Interrupt(store, kind="rl")])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    at_exit[-1]()
    (outcome,) = next(each for each in store.checkpoints() if each.outcomes).outcomes
    assert outcome.budget == 2
    resumed = RecordOutcome(METRIC, benchmark="x", store=store)
    second = grpo_trainer(start, tmp_path / "rl", [resumed])
    second.train(resume_from_checkpoint=True)
    outcomes = next(each for each in store.checkpoints() if each.outcomes).outcomes
    assert [each.budget for each in outcomes] == [2, 4]
    at_exit[-1]()  # training ended, so that nothing is recorded again
    assert len(next(each for each in store.checkpoints() if each.outcomes).outcomes) == 2


def test_a_registry_that_cannot_be_written_never_stops_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MlflowStore("sqlite:////proc/nowhere/mlflow.db")
    trainer = sft_trainer(shipped_base(), tmp_path / "run", [RegisterCheckpoints(store)])
    with caplog.at_level(logging.WARNING, "rlready"):
        trainer.train()
    assert trainer.state.global_step == 4
    first, last = [r.getMessage() for r in caplog.records if r.name == "rlready"]
    assert "Training continues" in first
    assert "rlready evaluate FOLDER" in first
    assert "2 checkpoints are not in the registry" in last


def test_a_registry_that_comes_back_gets_what_was_missed(tmp_path: Path) -> None:
    class Sometimes(MemoryStore):
        is_up = False

        def put_evaluation(self, *arguments: Any) -> Any:
            if not self.is_up:
                raise ConnectionError("refused")
            return super().put_evaluation(*arguments)

    class Repair(RegisterCheckpoints):
        def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            store.is_up = state.global_step >= 4

    store = Sometimes()
    callbacks = [RegisterCheckpoints(store), Repair(MemoryStore())]
    trainer = sft_trainer(shipped_base(), tmp_path, callbacks)
    trainer.train()
    assert {step: each.proxies[0].value for step, each in trained(store).items()} == losses(trainer)


def test_a_score_that_was_never_logged_is_named_with_those_that_were(
    sft_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    callback = RecordOutcome("eval_accuracy", benchmark="x", store=store)
    trainer = grpo_trainer(sft_folder / "checkpoint-2", tmp_path / "rl", [callback], n_steps=2)
    with caplog.at_level(logging.WARNING, "rlready"):
        trainer.train()
    (message,) = [r.getMessage() for r in caplog.records if r.name == "rlready"]
    assert "'eval_accuracy'" in message
    assert METRIC in message
    assert not any(each.outcomes for each in store.checkpoints())


def test_the_training_reward_is_refused_as_an_outcome() -> None:
    with pytest.raises(CurveError, match="training metric"):
        RecordOutcome("reward", benchmark="gsm8k")


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    class Untouched(MemoryStore):
        def put_evaluation(self, *_: Any) -> Any:
            raise AssertionError("written")

        find = checkpoints = put_outcome = put_evaluation

    (tmp_path / "checkpoint-2").mkdir()
    args = SimpleNamespace(output_dir=str(tmp_path))
    state = SimpleNamespace(is_world_process_zero=False, global_step=2, max_steps=2, log_history=[])
    for callback in (
        RegisterCheckpoints(Untouched()),
        RecordOutcome(METRIC, benchmark="x", store=Untouched()),
    ):
        for event in ("on_train_begin", "on_evaluate", "on_save", "on_train_end"):
            getattr(callback, event)(args, state, None, metrics={})
