"""A search in MLflow: one run a trial, whoever is killed, and nothing lost when MLflow is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import client_of, new_experiment
from places import SUPPORT
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation, Recipe
from rlready.workflow.search.folder import TrialResult
from rlready.workflow.search.mirror import Mirror
from rlready.workflow.search.open import Search, SearchConfig, open_search
from rlready.workflow.search.registry import RegistryValues
from rlready.workflow.search.run import ask, run, sync
from rlready.workflow.search.trial import Trial

SPACE = """
[recipe]
base_model = "org/base"
[sources.gsm8k]
[sources.numina]
floor = 0.1
[learning_rate]
low = 1e-6
high = 1e-4
"""

Open = Callable[..., Search]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the same search, mirrored to a registry."""
    (tmp_path / "mix.toml").write_text(SPACE)
    made: list[Search] = []

    def open_at(store: MlflowStore, *, warned: list[str] | None = None, **to: Any) -> Search:
        config = SearchConfig(
            space=tmp_path / "mix.toml",
            storage=f"sqlite:///{tmp_path / 'search.db'}",
            sampler="random",
            folder=tmp_path / "out",
            worker="a",
        )
        said: list[str] = [] if warned is None else warned
        registry = to.pop("registry", None)
        mirror = Mirror(store=store, warn=said.append, **to)
        made.append(open_search(config, registry, mirror=mirror))
        return made[-1]

    yield open_at
    for search in made:
        search.engine.dispose()


def tell(search: Search, number: int, **values: Any) -> TrialResult:
    """Tell as the command line does: the trial, and then MLflow."""
    told = Trial(search, number).tell(**values)
    search.show()
    return told


def runs_of(store: MlflowStore) -> tuple[list[Any], dict[int, Any]]:
    """Runs of studies, and of trials by number; two of one trial fail."""
    client = client_of(store.tracking_uri)
    with quiet():
        experiment = client.get_experiment_by_name(store.experiment)
        if experiment is None:
            return [], {}
        runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "rlready.search" in run.data.tags]
    children = [run for run in runs if "rlready.search_trial" in run.data.tags]
    numbers = [int(run.data.tags["rlready.search_trial"].partition("/")[2]) for run in children]
    assert len(set(numbers)) == len(numbers), f"trials with two runs: {sorted(numbers)}"
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children)
    return parents, dict(zip(numbers, children, strict=True))


def test_a_trial_is_a_run_below_that_of_its_study(opened: Open, sqlite_uri: str) -> None:
    store = MlflowStore(sqlite_uri)
    search = opened(store)
    first, second, third = (ask(search) for _ in range(3))
    tell(search, first.asked.number, value=0.5, se=0.01)
    second.fail("out of memory")
    search.show()
    (parent,), children = runs_of(store)
    assert parent.info.run_name == "search mix"
    assert (parent.info.status, parent.data.metrics["best_value"]) == ("RUNNING", 0.5)
    assert [children[k].info.status for k in children] == ["FAILED", "FINISHED"]
    told, recipe = children[0].data, first.asked.recipe
    assert (told.metrics["value"], told.metrics["value_se"]) == (0.5, 0.01)
    assert told.params["sources.gsm8k"] == f"{recipe.sources['gsm8k']:.4f}"
    assert float(told.params["learning_rate"]) == pytest.approx(recipe.learning_rate)
    assert told.tags["rlready.origin"] == "stratified"
    assert told.tags["rlready.worker"] == "a"
    assert children[1].data.tags["rlready.failed"] == "out of memory"
    tell(search, third.asked.number, value=0.6)
    (parent,), _ = runs_of(store)
    assert (parent.info.status, parent.data.metrics["best_value"]) == ("FINISHED", 0.6)


@pytest.mark.slow
def test_a_search_is_mirrored_over_http(opened: Open, server_uri: str, tmp_path: Path) -> None:
    store = MlflowStore(server_uri, new_experiment(server_uri, tmp_path))
    search = opened(store)
    tell(search, ask(search).asked.number, value=0.5)
    _, children = runs_of(store)
    assert children[0].info.status == "FINISHED"
    assert children[0].data.metrics == {"value": 0.5}


def test_only_trials_that_have_ended_since_are_written(
    opened: Open, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    search = opened(MlflowStore(sqlite_uri))
    for _ in range(3):
        tell(search, ask(search).asked.number, value=0.5)
    ask(search)
    assert search.mirror is not None
    assert search.mirror.update(search.study, {}) == 0
    written: list[str] = []
    original = MlflowClient.log_batch

    def counted(self: Any, run_id: str, **batch: Any) -> Any:
        written.extend([run_id] if batch.get("params") else [])
        return original(self, run_id, **batch)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tell(search, 3, value=0.4)
    assert len(written) == 1


def test_the_checkpoint_of_a_trial_is_the_input_of_its_run(opened: Open, sqlite_uri: str) -> None:
    store = MlflowStore(sqlite_uri)
    registry = RegistryValues(store=store, target=None, predictor="grpo-predictor")
    search = opened(store, registry=registry)
    handed = ask(search)
    checkpoint = a_checkpoint(9, recipe=handed.asked.recipe)
    stored = store.put_evaluation(
        Evaluation(checkpoint=checkpoint, proxies=(a_proxy(),), config={})
    )
    store.put_outcome(an_outcome(9, value=0.77))
    tell(search, handed.asked.number, checkpoint=checkpoint.id)
    _, children = runs_of(store)
    with quiet():
        run = client_of(sqlite_uri).get_run(children[0].info.run_id)
    assert [i.model_id for i in run.inputs.model_inputs] == [stored.model_id]
    assert children[0].data.tags["rlready.checkpoint_id"] == checkpoint.id


def test_a_registry_that_is_away_loses_nothing_and_is_caught_up_later(
    opened: Open, sqlite_uri: str, tmp_path: Path
) -> None:
    warned: list[str] = []
    away = MlflowStore(f"sqlite:///{tmp_path / 'no' / 'folder' / 'mlflow.db'}")
    search = opened(away, warned=warned)
    tell(search, ask(search).asked.number, value=0.5)
    assert search.study.trials[0].value == 0.5
    assert all("not mirrored to MLflow for now" in text for text in warned)
    assert len(warned) == 1
    (tmp_path / "no" / "folder").mkdir(parents=True)
    (tmp_path / "no" / "folder" / "mlflow.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    sync(search)
    _, children = runs_of(away)
    assert children[0].data.metrics == {"value": 0.5}


def test_runs_that_somebody_deleted_are_made_again(opened: Open, sqlite_uri: str) -> None:
    """A search whose registry began anew warned for ever of a run that was not found."""
    store = MlflowStore(sqlite_uri)
    search = opened(store)
    for _ in range(2):
        tell(search, ask(search).asked.number, value=0.5)
    ask(search)
    (parent,), children = runs_of(store)
    client = client_of(sqlite_uri)
    with quiet():
        client.delete_run(children[1].info.run_id)
    tell(search, 2, value=0.4)
    assert sorted(runs_of(store)[1]) == [0, 1, 2]
    with quiet():
        for run in (parent, *runs_of(store)[1].values()):
            client.delete_run(run.info.run_id)
    ask(search)
    sync(search)
    (again,), children = runs_of(store)
    assert again.info.run_id != parent.info.run_id
    assert sorted(children) == [0, 1, 2]


def test_a_trained_checkpoint_waits_for_a_registry_that_is_away(
    opened: Open, sqlite_uri: str, tmp_path: Path
) -> None:
    """It was marked failed, and the training was lost."""
    store = MlflowStore(sqlite_uri)
    registry = RegistryValues(store=store, target=None, predictor="grpo-predictor")
    search = opened(store, registry=registry)
    script = "import json, sys; json.dump({'checkpoint': 'sft-9'}, open(sys.argv[1], 'w'))"
    (tmp_path / "train.py").write_text(script)
    command = f"{sys.executable} {tmp_path / 'train.py'} {{out}}/status.json"
    (told,) = run(search, command, 1)
    assert told.state == "waiting"
    assert search.study.trials[0].state.name == "RUNNING"
    recipe = Recipe.from_dict(search.study.trials[0].user_attrs["rlready:recipe"])
    checkpoint = a_checkpoint(9, recipe=recipe, name="sft-9")
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=(a_proxy(),), config={}))
    store.put_outcome(an_outcome(9, value=0.77))
    assert [one.value for one in sync(search).done] == [0.77]


def test_telling_a_value_mirrors_only_what_was_mirrored_before(
    opened: Open, sqlite_uri: str
) -> None:
    store = MlflowStore(sqlite_uri)
    assert opened(store, is_wanted=False).mirror is None
    search = opened(store)
    tell(search, ask(search).asked.number, value=0.5)
    assert opened(store, is_wanted=False).mirror is not None


KILLED = """
import sys
from pathlib import Path
from store_child import kill_at
from rlready.registry.mlflow_store.mlflow_calls import import_quietly
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.search.run import ask
from rlready.workflow.search.mirror import Mirror
from rlready.workflow.search.open import SearchConfig, open_search

step, folder, uri = sys.argv[1:]
config = SearchConfig(space=Path(folder, "mix.toml"), storage=f"sqlite:///{folder}/search.db",
                      sampler="random", folder=Path(folder, "out"), worker="dead")
search = open_search(config, mirror=Mirror(store=MlflowStore(uri)))
import_quietly()
kill_at(step)
ask(search).tell(value=0.25)
search.show()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    ["after create_run 1", "after create_run 2", "before log_batch 2", "before set_terminated 1"],
)
def test_a_mirror_killed_anywhere_goes_on_in_the_same_runs(
    opened: Open, sqlite_uri: str, tmp_path: Path, step: str
) -> None:
    (tmp_path / "mix.toml").write_text(SPACE)
    tests = str(SUPPORT)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, step, str(tmp_path), sqlite_uri],
        env={**os.environ, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = MlflowStore(sqlite_uri)
    search = opened(store)
    if search.study.trials[0].value is None:
        tell(search, 0, value=0.25)
    sync(search)
    parents, children = runs_of(store)
    assert len(parents) == 1
    assert list(children) == [0]
    assert (children[0].info.status, children[0].data.metrics) == ("FINISHED", {"value": 0.25})
    client = client_of(sqlite_uri)
    with quiet():
        assert len(client.get_metric_history(children[0].info.run_id, "value")) == 1


WORKERS = """
import os, sys, traceback
from pathlib import Path
from rlready.registry.mlflow_store.mlflow_calls import import_quietly
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.search.run import ask
from rlready.workflow.search.mirror import Mirror
from rlready.workflow.search.open import SearchConfig, open_search

import mlflow.store.tracking.sqlalchemy_store, optuna
optuna.storages.RDBStorage
import_quietly()
folder, uri = sys.argv[1:]
children = []
for worker in range(4):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            config = SearchConfig(
                space=Path(folder, "mix.toml"), sampler="random", worker=str(worker),
                storage=f"sqlite:///{folder}/search.db", folder=Path(folder, "out"))
            search = open_search(config, mirror=Mirror(store=MlflowStore(uri)))
            for _ in range(3):
                ask(search).tell(value=0.5)
                search.show()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.slow
def test_workers_at_once_make_one_run_a_trial(
    opened: Open, sqlite_uri: str, tmp_path: Path
) -> None:
    (tmp_path / "mix.toml").write_text(SPACE)
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, str(tmp_path), sqlite_uri],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    store = MlflowStore(sqlite_uri)
    sync(opened(store))
    parents, children = runs_of(store)
    assert len(parents) == 1
    assert sorted(children) == list(range(12))
    assert {run.info.status for run in children.values()} == {"FINISHED"}
