"""The registry in MLflow: a checkpoint is a LoggedModel, an evaluation a run.

    LoggedModel  model type base-model, sft-checkpoint or rl-checkpoint. The weights stay where they
                 are; the model's own artifact is an MLmodel file of 1 kB that names their place
    run          the evaluation's metrics, artifacts (`evaluation.json`, `config.json`, counts,
                 figures) and links: the checkpoint is an output of the run that registered it and
                 an input of every later run; its parents are inputs

An outcome is also a run, with metrics and a tag on the model that RL began from (`put_outcome`).
`record_tags` defines the tags and metrics, `backends` where MLflow keeps them.

Readers take READY models and the evaluations in their tags. A new model becomes READY, and a known
model gets the tag of a further evaluation, after everything else is written. A killed writer leaves
a RUNNING run and perhaps a PENDING model. Putting the same evaluation again finds both by their
tags and continues with them (`put_evaluation`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store import put_evaluation, put_outcome
from rlready.registry.mlflow_store.backends import ApiBackend, Backend, Opened
from rlready.registry.mlflow_store.evaluations import stored_evaluations
from rlready.registry.mlflow_store.mlflow_calls import EXISTS, or_none, quiet
from rlready.registry.mlflow_store.record_tags import safe_key, stored_checkpoints
from rlready.registry.mlflow_store.sql_backends import PostgresBackend, SqlBackend, SqliteBackend
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation
from rlready.registry.redaction import redacted
from rlready.registry.store import StoredCheckpoint, StoredEvaluation, StoredOutcome, pick

_LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens by default."""
VIEW = "?workflowType=machine_learning"
"""End of an address in MLflow: without it, a new browser shows the view for GenAI. No tag of
an experiment changes this (3.17)."""
_USER = re.compile(r"(?<=://)[^/]*@")


class MlflowStore:
    """A registry of checkpoints in MLflow (`Store` is the specification).

    Args:
        tracking_uri: MLflow's: sqlite:///file.db, postgresql://..., http://server:5000, or another
            that MLflow accepts. None takes MLFLOW_TRACKING_URI, or MLflow's own default.
        experiment: name of the MLflow experiment; it is created when something is put.

    Raises:
        StoreError: if MLflow keeps no models at such a URI.

    Example:
        >>> store = MlflowStore("sqlite:///mlflow.db")
        >>> [stored.checkpoint.name for stored in store.checkpoints()]
        ['step-500', 'step-1000']
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "rlready") -> None:
        with quiet():
            self._backend = _open_backend(tracking_uri)
        self.tracking_uri = self._backend.uri
        self.experiment = experiment
        self._is_prepared = False

    def __repr__(self) -> str:
        return f"MlflowStore({self._backend.shown!r}, experiment={self.experiment!r})"

    def check(self, checkpoint: Checkpoint) -> None:
        """See `Store.check`. Creates the database if there is none, to test that it can be."""
        with self._open("checking a checkpoint", write=True) as opened:
            put_evaluation.read_before(opened, checkpoint)

    def put_evaluation(
        self, evaluation: Evaluation, artifacts: Mapping[str, Path] | None = None
    ) -> StoredEvaluation:
        """See `Store.put_evaluation`.

        Inside `mlflow run` the project's run becomes the evaluation's run, and `mlflow run` sets
        its final status.
        """
        files = put_evaluation.checked_artifacts(artifacts or {})
        with self._open(f"storing evaluation {evaluation.id[:12]}", write=True) as opened:
            return put_evaluation.put(opened, evaluation, files)

    def put_outcome(self, outcome: Outcome) -> StoredOutcome:
        """See `Store.put_outcome`. Inside `mlflow run` its run is below the project's run."""
        with self._open(f"storing outcome {outcome.id[:12]}", write=True) as opened:
            return put_outcome.put(opened, outcome)

    def find(self, reference: str) -> StoredCheckpoint:
        """See `Store.find`."""
        with self._open("looking for a checkpoint") as opened:
            ready = [row for row in opened.rows([reference], whole=True) if row.is_ready]
            if ready:
                return pick(reference, stored_checkpoints(ready))
            # A name or a prefix is resolved by the checkpoints alone, a small part of the data.
            id_ = pick(reference, stored_checkpoints(opened.rows(None))).checkpoint.id
            ready = [row for row in opened.rows([id_], whole=True) if row.is_ready]
            return pick(id_, stored_checkpoints(ready))

    def checkpoints(self) -> list[StoredCheckpoint]:
        """See `Store.checkpoints`."""
        with self._open("reading the registry") as opened:
            return stored_checkpoints(opened.rows(None, whole=True))

    def evaluations(self) -> list[Evaluation]:
        """See `Store.evaluations`. Configurations are read from the artifacts of their runs."""
        with self._open("reading the evaluations") as opened:
            return stored_evaluations(opened)

    @contextlib.contextmanager
    def opened(self, doing: str, *, write: bool = False) -> Iterator[Opened]:
        """Open the registry for what is kept beside the checkpoints: tags and predictors.

        MLflow prints nothing inside, and its failures become a StoreError.

        Args:
            doing: named in the error if it fails.
            write: create what is missing.

        Raises:
            StoreError: if the registry cannot be reached or, for reading, does not exist.
        """
        with self._open(doing, write=write) as opened:
            if not opened.experiment_id and not self._backend.exists():
                raise StoreError(
                    f"there is no registry at {self._backend.shown} yet",
                    fix="Correct MLFLOW_TRACKING_URI, or put a checkpoint: rlready evaluate",
                )
            yield opened

    def ui_hint(self) -> str:
        """Return the address, and the command before it, that open the registry for a person."""
        id_ = ""
        # The work is done: a missing page must not make it fail.
        with contextlib.suppress(StoreError), self._open("looking for the experiment") as opened:
            id_ = opened.experiment_id
        page = f"/#/experiments/{id_}/models{VIEW}" if id_ else ""
        if isinstance(self._backend, SqlBackend):
            command = f"mlflow ui --backend-store-uri '{self._backend.shown}'"
            return f"{command}\nthen open {_LOCAL_UI}{page}"
        # A browser asks for the password; an address with stars in its place would be wrong.
        return _USER.sub("", self._backend.shown) + page

    @contextlib.contextmanager
    def _open(self, doing: str, *, write: bool = False) -> Iterator[Opened]:
        """Open the registry; one that does not exist reads as empty."""
        with quiet():
            try:
                if write:
                    experiment_id = self._experiment_to_write()
                else:
                    experiment_id = self._active_experiment() if self._backend.exists() else ""
                yield Opened(backend=self._backend, experiment_id=experiment_id)
            except StoreError:
                raise
            except Exception as error:
                if not isinstance(error, _backend_errors()):
                    raise
                raise StoreError(
                    f"the registry at {self._backend.shown} failed while {doing}",
                    why=redacted(_reason(error), self.tracking_uri),
                    fix=_remedy(error, self._backend.shown),
                ) from error
            finally:
                self._backend.close()

    def _experiment_to_write(self) -> str:
        """Return the id of the experiment; creates the database and the experiment if missing."""
        if self._is_prepared:
            self._backend.exists()
        else:
            self._backend.prepare()
            self._is_prepared = True
        return self._active_experiment() or self._create_experiment()

    def _active_experiment(self) -> str:
        experiment = self._backend.experiment(self.experiment)
        if experiment is None:
            return ""
        id_, is_active = experiment
        if not is_active:
            raise StoreError(
                f"experiment {self.experiment!r} of {self._backend.shown} is deleted",
                fix=f"`mlflow experiments restore --experiment-id {id_}` brings it back; or give "
                "another --experiment",
            )
        return id_

    def _create_experiment(self) -> str:

        # By default MLflow would put the artifacts below the working directory of the first caller.
        root = self._backend.artifact_root
        location = None if root is None else (root / safe_key(self.experiment)).as_uri()
        create = self._backend.client().create_experiment
        id_ = or_none(EXISTS, create, self.experiment, artifact_location=location)
        return self._active_experiment() if id_ is None else str(id_)


def _open_backend(tracking_uri: str | None) -> Backend:
    """Return the backend of a tracking URI; raise StoreError if MLflow keeps no models there."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        import mlflow

        uri = str(mlflow.get_tracking_uri())  # MLflow's own default; an old ./mlruns comes first
    scheme = uri.partition(":")[0].lower()
    if scheme == "sqlite":
        return SqliteBackend(uri)
    if scheme.startswith("postgresql"):
        return PostgresBackend(uri)
    if scheme == "file" or ("://" not in uri and not scheme.startswith("databricks")):
        raise StoreError(
            f"the tracking URI {uri!r} is a folder",
            why="MLflow 3.13 and later refuse the file store, and earlier ones keep no checkpoints",
            fix="Give a database such as sqlite:///mlflow.db; `mlflow migrate-filestore "
            "--source FOLDER --target sqlite:///mlflow.db` copies the contents of the folder",
        )
    return ApiBackend(uri)


def _backend_errors() -> tuple[type[Exception], ...]:
    """Return what MLflow, SQLAlchemy, drivers, the network and the disk raise."""
    from sqlalchemy.exc import SQLAlchemyError

    errors: list[type[Exception]] = [OSError, SQLAlchemyError, ImportError]
    if "mlflow.exceptions" in sys.modules:  # else MLflow is not in use
        errors.append(sys.modules["mlflow.exceptions"].MlflowException)
    return tuple(errors)


def _reason(error: Exception) -> str:
    """Return the first line of the innermost message; SQLAlchemy's repeats the whole statement."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(getattr(cause, "orig", None) or cause).strip()
    return text.partition("\n")[0] or type(cause).__name__


def _remedy(error: Exception, shown: str) -> str:
    text = str(error)
    if "out-of-date database schema" in text or "no such table" in text:
        return (
            "Another version of MLflow made this database. Take a backup, then run "
            f"`mlflow db upgrade '{shown}'`"
        )
    if isinstance(error, ImportError):
        return "Install it, for example the driver of this database, or give another tracking URI"
    if "database is locked" in text:
        return "Another process has been writing for a long time. Try again"
    return "Correct this, and repeat the call: readers see nothing that is half done"
