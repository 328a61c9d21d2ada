"""What the MLflow store leaves in MLflow, and how it fails."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from backends import client_of, free_port, fresh_postgres_database, new_experiment
from hypothesis import given
from hypothesis import strategies as st
from places import SUPPORT
from store_child import GSM8K, PROTOCOL, a_checkpoint, a_proxy, an_evaluation, an_outcome

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.locks import _create, claim
from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.pages.descriptions import checkpoint_description
from rlready.registry.mlflow_store.record_tags import (
    CHECKPOINT,
    checkpoint_tags,
    evaluation_tags,
    metrics_by_dataset,
    read_evaluations,
    safe_key,
)
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation

CHILD = SUPPORT / "store_child.py"


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    return MlflowStore(sqlite_uri)


def test_metrics_stand_on_the_model_under_benchmark_and_protocol(
    store: MlflowStore, client: Any
) -> None:
    stored = store.put_evaluation(an_evaluation(3, value=0.5))
    metrics = client.get_logged_model(stored.model_id).metrics
    shown = {(m.key, m.dataset_name, m.dataset_digest): m.value for m in metrics}
    sampled = ("gsm8k", f"{GSM8K[:16]}-{PROTOCOL[:16]}")
    assert shown[("pass_at_64", *sampled)] == 0.5
    assert shown[("pass_at_64_se", *sampled)] == 0.03
    assert shown[("pass_at_64_se_within", *sampled)] == 0.01
    assert shown[("pass_at_64_n", *sampled)] == 200
    assert shown[("heldout_nll", "gsm8k", GSM8K)] == 1.25
    assert {m.step for m in metrics} == {3}
    assert {m.run_id for m in metrics} == {stored.run_id}


def test_each_dataset_has_its_own_millisecond(store: MlflowStore, client: Any) -> None:
    stored = store.put_evaluation(an_evaluation())
    metrics = client.get_logged_model(stored.model_id).metrics
    datasets = {(m.dataset_name, m.dataset_digest) for m in metrics}
    assert len({(m.timestamp, m.dataset_name, m.dataset_digest) for m in metrics}) == len(datasets)
    assert len({m.timestamp for m in metrics}) == len(datasets) == 3


def test_a_missing_error_is_no_metric_and_nothing_is_nan(store: MlflowStore, client: Any) -> None:
    stored = store.put_evaluation(an_evaluation(proxies=(a_proxy(se=None, se_within=None),)))
    for values in (
        {m.key: m.value for m in client.get_logged_model(stored.model_id).metrics},
        client.get_run(stored.run_id).data.metrics,
    ):
        assert values == {"pass_at_64": 0.7, "pass_at_64_n": 200}
        assert all(math.isfinite(value) for value in values.values())


def test_the_model_page_shows_the_checkpoint(store: MlflowStore, client: Any) -> None:
    model = client.get_logged_model(store.put_evaluation(an_evaluation(4)).model_id)
    assert model.name == "Qwen2-5-0-5B-step4"
    assert model.model_type == "sft-checkpoint"
    wanted = {
        "rlready.key": a_checkpoint(4).id,
        "rlready.name": "Qwen2.5-0.5B-step4",
        "rlready.kind": "sft",
        "rlready.step": "4",
        "rlready.uri": "file:///weights/step-4",
        "rlready.recipe.learning_rate": "1e-05",
        "rlready.recipe.base_model": "Qwen2.5-0.5B",
        "mlflow.model.isExternal": "true",
    }
    assert wanted.items() <= model.tags.items()


def test_weights_are_referenced_by_an_mlmodel_file(store: MlflowStore, client: Any) -> None:
    from mlflow.models import Model

    model = client.get_logged_model(store.put_evaluation(an_evaluation()).model_id)
    (only,) = client.list_logged_model_artifacts(model.model_id)
    assert only.path == "MLmodel"
    assert only.file_size < 2000
    read = Model.load(model.artifact_location.removeprefix("file://"))
    assert read.metadata["weights_uri"] == a_checkpoint().uri
    assert read.model_id == model.model_id


def test_a_run_registers_its_model_as_output_and_later_ones_have_it_as_input(
    store: MlflowStore, client: Any
) -> None:
    first = store.put_evaluation(an_evaluation(value=0.1))
    second = store.put_evaluation(an_evaluation(value=0.2))
    runs = [client.get_run(put.run_id) for put in (first, second)]
    assert [[o.model_id for o in run.outputs.model_outputs] for run in runs] == [
        [first.model_id],
        [],
    ]
    assert [[i.model_id for i in run.inputs.model_inputs] for run in runs] == [[], [first.model_id]]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


def test_parents_are_linked_by_tag_and_by_run(store: MlflowStore, client: Any) -> None:
    parent = store.put_evaluation(an_evaluation(1))
    child = a_checkpoint(2, kind="rl", parents=(a_checkpoint(1).id,))
    stored = store.put_evaluation(an_evaluation(checkpoint=child))
    assert client.get_logged_model(stored.model_id).tags["rlready.parent"] == a_checkpoint(1).id
    inputs = client.get_run(stored.run_id).inputs.model_inputs
    assert [i.model_id for i in inputs] == [parent.model_id]


def test_artifacts_lie_with_the_run_beside_the_database(
    store: MlflowStore, client: Any, tmp_path: Path
) -> None:
    counts = tmp_path / "x.parquet"
    counts.write_bytes(b"counts")
    stored = store.put_evaluation(an_evaluation(), {"counts/gsm8k.parquet": counts})
    run = client.get_run(stored.run_id)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(tmp_path)
    assert json.loads((folder / "config.json").read_text()) == {"samples": 64}
    assert len(json.loads((folder / "evaluation.json").read_text())["proxies"]) == 3
    assert (folder / "counts" / "gsm8k.parquet").read_bytes() == b"counts"
    assert run.data.tags["rlready.samples.gsm8k"] == "file:///samples/gsm8k"


def test_an_outcome_stands_on_the_model_that_rl_began_from(store: MlflowStore, client: Any) -> None:
    store.put_evaluation(an_evaluation())
    stored = store.put_outcome(an_outcome())
    model = client.get_logged_model(stored.model_id)
    found = {
        m.key: (m.value, m.dataset_name, m.dataset_digest, m.step)
        for m in model.metrics
        if m.run_id == stored.run_id
    }
    dataset = ("gsm8k", an_outcome().rl_digest, 60)
    assert found == {
        "outcome/value_at_budget/60steps": (0.6, *dataset),
        "outcome/value_at_budget/60steps_se": (0.02, *dataset),
    }
    row = r"| value\_at\_budget/60steps&#64;gsm8k&ensp; | 0.6000 ± 0.0200&ensp; | 0&ensp; | grpo"
    assert row in model.tags["mlflow.note.content"]


def test_an_outcomes_run_leads_from_the_sft_model_to_the_rl_model(
    store: MlflowStore, client: Any
) -> None:
    parent = store.put_evaluation(an_evaluation(1))
    after = a_checkpoint(2, kind="rl", parents=(a_checkpoint(1).id,))
    child = store.put_evaluation(an_evaluation(checkpoint=after))
    stored = store.put_outcome(an_outcome(rl_checkpoint_id=after.id))
    run = client.get_run(stored.run_id)
    assert [i.model_id for i in run.inputs.model_inputs] == [parent.model_id]
    assert [o.model_id for o in run.outputs.model_outputs] == [child.model_id]
    # MLflow's list of runs folds it away below the run that measured the checkpoint.
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.info.run_name == "grpo 60steps of Qwen2.5-0.5B-step1"
    assert run.data.tags["rlready.rl_seed"] == "0"
    (only,) = client.list_artifacts(stored.run_id)
    assert only.path == "outcome.json"


def test_a_page_shows_conflicts_and_keeps_a_persons_own_text(
    store: MlflowStore, client: Any
) -> None:
    model_id = store.put_evaluation(an_evaluation()).model_id
    for value in (0.5, 0.7):
        store.put_outcome(an_outcome(value=value))
    assert "CONFLICT" in client.get_logged_model(model_id).tags["mlflow.note.content"]
    store.put_evaluation(an_evaluation(value=0.1))
    assert "CONFLICT" in client.get_logged_model(model_id).tags["mlflow.note.content"]
    client.set_logged_model_tags(model_id, {"mlflow.note.content": "mine"})
    store.put_outcome(an_outcome(value=0.6, seed=1))
    assert client.get_logged_model(model_id).tags["mlflow.note.content"] == "mine"


@pytest.mark.slow
def test_a_persons_own_text_is_kept_over_http_too(server_uri: str, tmp_path: Path) -> None:
    """It was overwritten: the description was not among the tags that a server was asked for."""
    store = MlflowStore(server_uri, new_experiment(server_uri, tmp_path))
    model_id = store.put_evaluation(an_evaluation()).model_id
    with quiet():
        client = client_of(server_uri)
        client.set_logged_model_tags(model_id, {"mlflow.note.content": "mine"})
        store.put_evaluation(an_evaluation(value=0.1))
        store.put_outcome(an_outcome())
        assert client.get_logged_model(model_id).tags["mlflow.note.content"] == "mine"


@pytest.mark.parametrize("name", ["../x", "/x", "", "config.json", "nowhere"])
def test_an_artifact_that_cannot_be_stored_stops_the_put(
    store: MlflowStore, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "file"
    if name != "nowhere":
        file.touch()
    with pytest.raises(StoreError, match="artifact"):
        store.put_evaluation(an_evaluation(), {name: file})
    assert store.checkpoints() == []


def test_models_of_one_key_are_read_as_one_checkpoint(store: MlflowStore, client: Any) -> None:
    """Two writers whose locks did not meet lose nothing."""
    first = store.put_evaluation(an_evaluation(value=0.1))
    other = an_evaluation(proxies=(a_proxy(name="token_entropy"),))
    experiment = client.get_experiment_by_name("rlready").experiment_id
    tags = evaluation_tags(other, 2**41, first.run_id)
    twin = client.create_logged_model(experiment, tags=tags | checkpoint_tags(a_checkpoint()))
    client.finalize_logged_model(twin.model_id, "READY")
    (read,) = store.checkpoints()
    assert read.model_id == first.model_id
    assert read.proxies == (*an_evaluation(value=0.1).proxies, *other.proxies)


def test_models_of_others_are_left_alone(store: MlflowStore, client: Any) -> None:
    store.put_evaluation(an_evaluation())
    experiment = client.get_experiment_by_name("rlready").experiment_id
    foreign = client.create_logged_model(experiment, name="sklearn", tags={"a": "b"})
    client.finalize_logged_model(foreign.model_id, "READY")
    assert len(store.checkpoints()) == 1


def test_a_sqlite_file_is_put_into_wal_mode(store: MlflowStore) -> None:
    store.check(a_checkpoint())
    path = store.tracking_uri.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    store = MlflowStore(f"sqlite:///{tmp_path / 'none.db'}")
    assert store.checkpoints() == []
    with pytest.raises(StoreError, match="it holds 0"):
        store.find("anything")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_database_needs_no_mlflow(store: MlflowStore, sqlite_uri: str) -> None:
    store.put_evaluation(an_evaluation())
    script = (
        "import sys; from rlready.registry.mlflow_store.store import MlflowStore; "
        f"print(len(MlflowStore({sqlite_uri!r}).checkpoints()), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "1 False\n"


def test_a_path_with_odd_characters_is_one_file(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b-é"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MlflowStore().put_evaluation(an_evaluation())
    assert len(MlflowStore("sqlite:///mlflow.db").checkpoints()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a b-é"]


class TestProjectRun:
    """Inside `mlflow run`, which names its run in the environment."""

    @pytest.fixture
    def project(self, store: MlflowStore, client: Any, monkeypatch: pytest.MonkeyPatch) -> str:
        """A run as `mlflow run` starts it, with a parameter that keeps the shell's quotes."""
        run = client.create_run("0")
        client.log_param(run.info.run_id, "name", "'a b'")
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        return str(run.info.run_id)

    def test_it_becomes_the_evaluations_run_and_is_left_running(
        self, store: MlflowStore, client: Any, project: str
    ) -> None:
        stored = store.put_evaluation(an_evaluation())
        assert stored.run_id == project
        run = client.get_run(project)
        assert run.info.status == "RUNNING"
        assert run.data.tags["rlready.evaluation"] == stored.evaluation_id
        assert run.data.metrics["pass_at_64"] == 0.7
        assert [o.model_id for o in run.outputs.model_outputs] == [stored.model_id]
        again = store.put_evaluation(an_evaluation())
        assert (again.is_new, client.get_run(project).info.status) == (False, "RUNNING")

    def test_further_evaluations_get_runs_below_it(
        self, store: MlflowStore, client: Any, project: str
    ) -> None:
        store.put_evaluation(an_evaluation(1))
        second = client.get_run(store.put_evaluation(an_evaluation(2)).run_id)
        assert second.data.tags["mlflow.parentRunId"] == project
        assert second.info.status == "FINISHED"

    def test_it_points_to_an_earlier_run_of_the_same_evaluation(
        self, store: MlflowStore, client: Any, project: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as outside:
            outside.delenv("MLFLOW_RUN_ID")
            first = store.put_evaluation(an_evaluation())
        again = store.put_evaluation(an_evaluation())
        assert (again.is_new, again.run_id) == (False, first.run_id)
        tags = client.get_run(project).data.tags
        assert tags["rlready.repeats_run"] == first.run_id
        assert tags["rlready.model_id"] == first.model_id
        assert "rlready.evaluation" not in tags

    def test_an_outcomes_run_stands_below_it(
        self, store: MlflowStore, client: Any, project: str
    ) -> None:
        store.put_evaluation(an_evaluation())
        first = store.put_outcome(an_outcome())
        run = client.get_run(first.run_id)
        assert run.data.tags["mlflow.parentRunId"] == project
        assert run.info.status == "FINISHED"
        assert store.put_outcome(an_outcome()).run_id == first.run_id
        tags = client.get_run(project).data.tags
        assert tags[f"rlready.repeats_run.{first.outcome_id[:12]}"] == first.run_id

    def test_a_run_of_another_registry_is_not_used(
        self, store: MlflowStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
        assert store.put_evaluation(an_evaluation()).run_id != "f" * 32


class TestFailures:
    """Each says what, why and what to do."""

    def test_a_server_that_is_not_there(self) -> None:
        uri = f"http://user:secret@127.0.0.1:{free_port()}"
        begun = time.monotonic()
        for call in (
            lambda store: store.checkpoints(),
            lambda store: store.check(a_checkpoint()),
            lambda store: store.put_evaluation(an_evaluation()),
        ):
            with pytest.raises(StoreError, match="cannot be reached") as error:
                call(MlflowStore(uri))
            assert "refused" in error.value.why
            assert "secret" not in str(error.value)
        assert time.monotonic() - begun < 10

    @pytest.mark.slow
    def test_a_server_that_never_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            begun = time.monotonic()
            with pytest.raises(StoreError, match="cannot be reached"):
                MlflowStore(f"http://127.0.0.1:{mute.getsockname()[1]}").checkpoints()
            assert time.monotonic() - begun < 15

    def test_a_postgres_that_is_not_there(self) -> None:
        uri = f"postgresql://user:secret@127.0.0.1:{free_port()}/db"
        with pytest.raises(StoreError, match="cannot be reached") as error:
            MlflowStore(uri).check(a_checkpoint())
        assert "secret" not in str(error.value)

    def test_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        store = MlflowStore(f"sqlite:///{tmp_path / 'gone' / 'mlflow.db'}")
        with pytest.raises(StoreError, match="there is no folder"):
            store.check(a_checkpoint())
        assert not (tmp_path / "gone").exists()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(StoreError, match="not writable"):
            MlflowStore(f"sqlite:///{tmp_path / 'mlflow.db'}").check(a_checkpoint())

    @pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/tmp/mlruns"])
    def test_the_file_store(self, uri: str) -> None:
        with pytest.raises(StoreError, match=r"sqlite:///mlflow\.db"):
            MlflowStore(uri)

    def test_a_database_in_memory(self) -> None:
        with pytest.raises(StoreError, match="in memory"):
            MlflowStore("sqlite://")

    def test_a_deleted_experiment(self, store: MlflowStore, client: Any) -> None:
        store.put_evaluation(an_evaluation())
        client.delete_experiment(client.get_experiment_by_name("rlready").experiment_id)
        for call in (store.checkpoints, lambda: store.check(a_checkpoint())):
            with pytest.raises(StoreError, match="mlflow experiments restore"):
                call()

    def test_a_database_of_another_mlflow(self, empty_database: Path, tmp_path: Path) -> None:
        # A path of its own: MLflow looks at the version once in a process.
        path = tmp_path / "old.db"
        path.write_bytes(empty_database.read_bytes())
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'cfd24bdc0731'")
        with pytest.raises(StoreError, match="mlflow db upgrade"):
            MlflowStore(f"sqlite:///{path}").put_evaluation(an_evaluation())

    def test_an_empty_file_becomes_a_registry(
        self, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It failed for ever: the tables were built in another file, which could not replace it."""
        path = tmp_path / "mlflow.db"
        path.touch()
        store = MlflowStore(f"sqlite:///{path}")
        # MLflow takes seconds to create tables; what it would have created is copied instead.
        backend: Any = store._backend
        monkeypatch.setattr(backend, "client", _copying(empty_database))
        assert store.checkpoints() == []
        backend.prepare()
        monkeypatch.undo()
        store.put_evaluation(an_evaluation())
        assert len(store.checkpoints()) == 1

    def test_a_database_without_tables_holds_nothing_yet(self, tmp_path: Path) -> None:
        path = tmp_path / "mlflow.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        assert path.stat().st_size > 0
        assert MlflowStore(f"sqlite:///{path}").checkpoints() == []

    @pytest.mark.parametrize("table", ["customers", "studies"])
    def test_a_database_of_another_program(self, tmp_path: Path, table: str) -> None:
        """MLflow put its tables between those of the other program."""
        path = tmp_path / "shop.db"
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE {table} (id INTEGER)")
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store = MlflowStore(f"sqlite:///{path}")
        before = path.read_bytes()
        for call in (store.checkpoints, lambda: store.check(a_checkpoint())):
            with pytest.raises(StoreError, match=f"shop.db belongs to another program.*{table}"):
                call()
        assert path.read_bytes() == before

    def test_a_database_of_a_newer_mlflow(self, empty_database: Path, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        path.write_bytes(empty_database.read_bytes())
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        store = MlflowStore(f"sqlite:///{path}")
        for call in (store.checkpoints, lambda: store.check(a_checkpoint())):
            with pytest.raises(StoreError, match=r"newer MLflow.*ffffffffffff.*pip install"):
                call()

    def test_a_damaged_database_and_a_folder(self, empty_database: Path, tmp_path: Path) -> None:
        content = empty_database.read_bytes()
        (tmp_path / "half.db").write_bytes(content[: len(content) // 2])
        with pytest.raises(StoreError, match=r"half.db cannot be read.*malformed.*Put back a copy"):
            MlflowStore(f"sqlite:///{tmp_path / 'half.db'}").checkpoints()
        with pytest.raises(StoreError, match="is a folder"):
            MlflowStore(f"sqlite:///{tmp_path}").checkpoints()

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "notes.db").write_text("not a database, but long enough to look like one" * 9)
        with pytest.raises(StoreError, match="not a database"):
            MlflowStore(f"sqlite:///{tmp_path / 'notes.db'}").checkpoints()

    @pytest.mark.parametrize(("text", "says"), [("{}", "edited"), ('{"format":2}', "format 2")])
    def test_a_tag_that_cannot_be_read(
        self, store: MlflowStore, client: Any, text: str, says: str
    ) -> None:
        stored = store.put_evaluation(an_evaluation())
        client.set_logged_model_tags(stored.model_id, {CHECKPOINT: text})
        with pytest.raises(StoreError, match=says):
            store.checkpoints()

    def test_a_recipe_that_is_no_json(self, store: MlflowStore) -> None:
        from rlready.registry.records import Recipe

        odd = a_checkpoint(recipe=Recipe(extra={"ratio": math.inf}))
        with pytest.raises(StoreError, match="JSON"):
            store.put_evaluation(an_evaluation(checkpoint=odd))
        assert store.checkpoints() == []


class TestHints:
    """How a person opens the registry."""

    def test_a_file_is_opened_by_mlflow_ui(self, store: MlflowStore) -> None:
        command, address = store.ui_hint().splitlines()
        assert command == f"mlflow ui --backend-store-uri '{store.tracking_uri}'"
        assert address == "then open http://127.0.0.1:5000"

    def test_the_page_is_that_for_model_training(self, store: MlflowStore) -> None:
        store.put_evaluation(an_evaluation())
        assert store.ui_hint().endswith("/models?workflowType=machine_learning")

    def test_no_password_is_shown(self) -> None:
        store = MlflowStore("postgresql+psycopg2://user:secret@host/db")
        assert "secret" not in store.ui_hint() + repr(store)

    @pytest.mark.slow
    def test_a_server_has_a_page(self, server_uri: str, tmp_path: Path) -> None:
        store = MlflowStore(server_uri, new_experiment(server_uri, tmp_path))
        store.put_evaluation(an_evaluation())
        assert store.ui_hint().startswith(f"{server_uri}/#/experiments/")


@pytest.mark.slow
class TestFirstUse:
    """Of a database that is not there yet."""

    def test_nothing_is_printed(self, tmp_path: Path) -> None:
        done = put_in_child(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
        assert (done.stdout, done.stderr) == ("ok\n", "")

    def test_nothing_is_printed_over_http(self, server_uri: str, tmp_path: Path) -> None:
        done = put_in_child(server_uri, tmp_path)
        assert (done.stdout, done.stderr) == ("ok\n", "")

    @pytest.mark.parametrize("kind", ["sqlite", "postgres"])
    def test_eight_at_once_all_succeed(
        self, kind: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        if kind == "sqlite":
            uri = f"sqlite:///{tmp_path / 'fresh.db'}"
        else:
            uri = fresh_postgres_database(request.getfixturevalue("postgres_uri"))
        command = [sys.executable, str(CHILD), uri, "rlready", "race", "8"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        assert len(MlflowStore(uri).checkpoints()) == 1
        assert not list(tmp_path.glob(".*.new*"))


@pytest.mark.slow
class TestClaims:
    """Locks on a server, which has none to offer."""

    def test_a_claim_keeps_others_out_and_is_gone_afterwards(self, server_uri: str) -> None:
        client, name = client_of(server_uri), "rlready-claim-k1"
        with quiet(), claim(client, "k1"):
            assert not _create(client, name, "another")
        with quiet():
            assert not client.search_registered_models(f"name = '{name}'")

    def test_a_dead_holders_claim_is_broken_at_once(self, server_uri: str) -> None:
        script = (
            "import os, sys; from mlflow import MlflowClient\n"
            "from rlready.registry.mlflow_store.locks import claim\n"
            f"c = MlflowClient({server_uri!r}, {server_uri!r})\n"
            "with claim(c, 'k2'): os.kill(os.getpid(), 9)\n"
        )
        assert subprocess.run([sys.executable, "-c", script]).returncode == -9
        begun = time.monotonic()
        with quiet(), claim(client_of(server_uri), "k2"):
            assert time.monotonic() - begun < 10

    def test_an_unknown_holders_claim_is_broken_when_its_lease_is_over(
        self, server_uri: str
    ) -> None:
        client = client_of(server_uri)
        with quiet():
            client.create_registered_model("rlready-claim-k3", tags={"rlready.owner": "another"})
            begun = time.monotonic()
            with claim(client, "k3", lease_s=1.0):
                assert time.monotonic() - begun >= 1.0


@given(st.text(max_size=300))
def test_any_name_becomes_a_key_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(safe_key(name) + "_se_within")


@given(
    st.lists(
        st.builds(a_proxy, name=st.sampled_from(["a", "a_se", "a@", "a=", "a_n", "a_2", "a__se"])),
        unique_by=lambda proxy: proxy.name,
    )
)
def test_every_proxy_keeps_a_metric_of_its_own(proxies: list[Any]) -> None:
    """Names that MLflow cannot tell apart, or that look like another's error, lose no value."""
    numbered = [a_proxy(name=p.name, value=float(i + 10)) for i, p in enumerate(proxies)]
    evaluation = Evaluation(checkpoint=a_checkpoint(), proxies=tuple(numbered))
    values = [v for d in metrics_by_dataset(evaluation) for v in d.values.values()]
    assert {proxy.value for proxy in numbered} <= set(values)


def test_long_evaluations_are_cut_into_tags_and_read_back() -> None:
    proxies = tuple(a_proxy(name=f"update_norm/{i}", value=i / 7) for i in range(900))
    evaluation = Evaluation(checkpoint=a_checkpoint(), proxies=proxies)
    tags = evaluation_tags(evaluation, 5, "run")
    assert len(tags) > 2
    assert max(map(len, tags.values())) <= 15_000
    (read,) = read_evaluations(dict(reversed(tags.items())))
    assert (read.id, read.at_ms, read.run_id, read.proxies) == (evaluation.id, 5, "run", proxies)


def put_in_child(uri: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Put an evaluation in a process of its own, which then prints `ok`."""
    script = (
        f"import sys; sys.path.insert(0, {str(CHILD.parent)!r})\n"
        "from store_child import an_evaluation, put\n"
        f"put({uri!r}, 'quiet', an_evaluation()); print('ok')\n"
    )
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


def note_of(client: Any, model_id: str) -> str:
    return str(client.get_logged_model(model_id).tags["mlflow.note.content"])


def test_the_model_page_shows_the_newest_value_of_every_proxy(
    store: MlflowStore, client: Any
) -> None:
    stored = store.put_evaluation(an_evaluation(1, value=0.5))
    assert "0.5000 ± 0.0300" in note_of(client, stored.model_id)
    store.put_evaluation(an_evaluation(1, value=0.75))
    assert "0.7500 ± 0.0300" in note_of(client, stored.model_id)
    assert "0.5000" not in note_of(client, stored.model_id)


def test_a_description_that_a_person_wrote_is_kept(store: MlflowStore, client: Any) -> None:
    stored = store.put_evaluation(an_evaluation(1, value=0.5))
    client.set_logged_model_tags(stored.model_id, {"mlflow.note.content": "our best one"})
    store.put_evaluation(an_evaluation(1, value=0.75))
    assert note_of(client, stored.model_id) == "our best one"


def test_names_cannot_break_out_of_the_description() -> None:
    text = checkpoint_description(a_checkpoint(1), [a_proxy(benchmark="x\n```\n<script>")])
    assert "<script" not in text
    assert text.count("```") == 0
    assert r"x?\`\`\`?&lt;script&gt;" in text


def _copying(database: Path) -> Any:
    """A maker of clients that copies a database to where MLflow would create one."""

    class Client:
        def __init__(self, uri: str) -> None:
            self._path = Path(uri.removeprefix("sqlite:///"))

        def search_experiments(self, max_results: int) -> None:
            self._path.write_bytes(database.read_bytes())

    return lambda uri=None: Client(uri)
