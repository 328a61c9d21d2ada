"""The registry in MLflow: a checkpoint is a LoggedModel, an evaluation a run.

    LoggedModel  model type base-model, sft-checkpoint or rl-checkpoint; the weights stay where they
                 are, its own artifact is an MLmodel file of 1 kB that says where
    run          the evaluation's metrics, its artifacts (`evaluation.json`, `config.json`, counts,
                 figures), and links: the checkpoint is an output of the run that registered it and
                 an input of every later one; its parents are inputs

An outcome is a run too, and metrics and a tag on the model that RL began from (`mlflow_outcome`).
`mlflow_codec` says which tags and metrics these carry, `mlflow_backend` where they are kept.

A reader takes READY models, and of these the evaluations in their tags. A new model becomes READY,
and a known one gets the tag of a further evaluation, after everything else is written. A killed
writer leaves a RUNNING run and perhaps a PENDING model; putting the same evaluation again finds
both by their tags and goes on with them (`mlflow_write`).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store import put_evaluation as write
from rlready.registry.mlflow_store import put_outcome as mlflow_outcome
from rlready.registry.mlflow_store.backends import (
    Backend,
    PostgresBackend,
    SqliteBackend,
    open_backend,
)
from rlready.registry.mlflow_store.descriptions import NOTE
from rlready.registry.mlflow_store.mlflow_output import import_quietly, quiet
from rlready.registry.mlflow_store.record_tags import (
    EVALUATION,
    OUTCOME,
    Published,
    read_checkpoint,
    read_evaluations,
    safe_key,
)
from rlready.registry.mlflow_store.sql import ModelRow
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy
from rlready.registry.redaction import redacted
from rlready.registry.store import (
    StoredCheckpoint,
    StoredEvaluation,
    StoredOutcome,
    check_outcome,
    merge,
    newest,
    pick,
    unknown_parent,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_USER = re.compile(r"(?<=://)[^/]*@")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The registry while one of the modules beside this one works in it.

    Args:
        client: MLflow's, of this registry.
        backend: where MLflow keeps its data.
        experiment_id: MLflow's; None if nothing was put yet.
    """

    client: MlflowClient
    backend: Backend
    experiment_id: str | None

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep other writers of this key out."""
        return self.backend.lock(self.client, key)

    def rows(self, keys: Sequence[str]) -> list[ModelRow]:
        """Models of checkpoints with these ids, READY or PENDING, without their evaluations."""
        if self.experiment_id is None:
            return []
        return self.backend.rows(self._maker, self.experiment_id, keys, whole=False)

    def run_of(self, tag: str, id_: str) -> str | None:
        """Id of the oldest run whose tag has this value."""
        if self.experiment_id is None:
            return None
        return self.backend.run_of(self._maker, self.experiment_id, tag, id_)

    def _maker(self, uri: str | None = None) -> MlflowClient:
        return self.client


class MlflowStore:
    """A registry of checkpoints in MLflow (`Store` is the specification).

    Args:
        tracking_uri: MLflow's: sqlite:///file.db, postgresql://..., http://server:5000, or another
            that MLflow accepts. None takes MLFLOW_TRACKING_URI, or MLflow's own default.
        experiment: name of the MLflow experiment; it is created when something is put.

    Raises:
        StoreError: if MLflow keeps no models at such a URI.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "rlready") -> None:
        with quiet():
            self._backend = open_backend(tracking_uri)
        self.tracking_uri = self._backend.uri
        self.experiment = experiment
        self._clients: dict[str, MlflowClient] = {}
        self._is_prepared = False

    def __repr__(self) -> str:
        return f"MlflowStore({self._backend.shown!r}, experiment={self.experiment!r})"

    def check(self, checkpoint: Checkpoint) -> None:
        """See `Store.check`. Creates the database if there is none, so that this is tried too."""
        with self._speaking("checking a checkpoint"):
            self._known(self._writable_experiment(), checkpoint)

    def put_evaluation(
        self, evaluation: Evaluation, artifacts: Mapping[str, Path] | None = None
    ) -> StoredEvaluation:
        """See `Store.put_evaluation`.

        Inside `mlflow run` the project's run becomes the evaluation's run, and its final status
        is left to `mlflow run`.
        """
        files = write.checked_artifacts(artifacts or {})
        put = write.Put(evaluation=evaluation, id=evaluation.id, files=files)
        with self._speaking(f"storing evaluation {put.id[:12]}"):
            experiment_id = self._writable_experiment()
            client = self._client()
            with self._backend.lock(client, put.checkpoint.id):
                known = self._known(experiment_id, put.checkpoint)
                if put.id in known.published:
                    return write.repeat(client, put, known)
                left_over = self._backend.run_of(self._client, experiment_id, EVALUATION, put.id)
                run = write.evaluation_run(client, experiment_id, put, known, left_over)
                return write.store(client, experiment_id, put, known, run)

    def put_outcome(self, outcome: Outcome) -> StoredOutcome:
        """See `Store.put_outcome`. Inside `mlflow run` its run stands below the project's."""
        with self._speaking(f"storing outcome {outcome.id[:12]}"):
            experiment_id = self._writable_experiment()
            client = self._client()
            with self._backend.lock(client, outcome.checkpoint_id):
                before = self._before(experiment_id, outcome)
                if outcome.id in before.published:
                    return mlflow_outcome.repeat(client, outcome.id, before)
                left_over = self._backend.run_of(self._client, experiment_id, OUTCOME, outcome.id)
                run = mlflow_outcome.outcome_run(client, experiment_id, outcome, before, left_over)
                return mlflow_outcome.store(client, outcome, before, run)

    def find(self, reference: str) -> StoredCheckpoint:
        """See `Store.find`."""
        with self._speaking("looking for a checkpoint"):
            experiment_id = self._readable_experiment()
            if experiment_id is None:
                return pick(reference, [])
            rows = self._backend.rows(self._client, experiment_id, [reference], whole=True)
            ready = [row for row in rows if row.is_ready]
            if ready:
                return pick(reference, _stored(ready))
            # Whose name or prefix it is shows in the checkpoints alone, which are a small part.
            rows = self._backend.rows(self._client, experiment_id, None, whole=False)
            found = pick(reference, _stored(rows)).checkpoint.id
            rows = self._backend.rows(self._client, experiment_id, [found], whole=True)
            return pick(found, _stored([row for row in rows if row.is_ready]))

    def checkpoints(self) -> list[StoredCheckpoint]:
        """See `Store.checkpoints`."""
        with self._speaking("reading the registry"):
            experiment_id = self._readable_experiment()
            if experiment_id is None:
                return []
            return _stored(self._backend.rows(self._client, experiment_id, None, whole=True))

    @contextlib.contextmanager
    def opened(self, doing: str, *, write: bool = False) -> Iterator[Opened]:
        """The registry for what is kept beside the checkpoints: tags and predictors.

        MLflow is quiet inside, and its failures become a StoreError.

        Args:
            doing: told if it fails.
            write: create what is missing.

        Raises:
            StoreError: if it cannot be reached or, for reading, if there is none.
        """
        with self._speaking(doing):
            if not write and not self._backend.exists():
                raise StoreError(
                    f"there is no registry at {self._backend.shown} yet",
                    fix="Correct MLFLOW_TRACKING_URI, or put a checkpoint: rlready evaluate",
                )
            experiment_id = self._writable_experiment() if write else self._readable_experiment()
            yield Opened(client=self._client(), backend=self._backend, experiment_id=experiment_id)

    def ui_hint(self) -> str:
        """The command or address with which a person opens the registry."""
        if isinstance(self._backend, SqliteBackend | PostgresBackend):
            return f"mlflow ui --backend-store-uri '{self._backend.shown}'"
        with self._speaking("looking for the experiment"):
            experiment_id = self._readable_experiment()
        page = "" if experiment_id is None else f"/#/experiments/{experiment_id}/models"
        # A browser asks for the password; with stars for it the address would be wrong.
        return f"{_USER.sub('', self._backend.shown)}{page}"

    def _client(self, uri: str | None = None) -> MlflowClient:
        import_quietly()
        from mlflow import MlflowClient

        uri = uri or self.tracking_uri
        if uri not in self._clients:
            self._clients[uri] = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return self._clients[uri]

    @contextlib.contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Keep MLflow quiet, and tell its failures as a StoreError."""
        with quiet():
            try:
                yield
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

    def _readable_experiment(self) -> str | None:
        """Id of the experiment, None if there is none yet. Creates nothing."""
        if not self._backend.exists():
            return None
        return self._active(self._backend.experiment(self._client, self.experiment))

    def _writable_experiment(self) -> str:
        """Id of the experiment, made if there is none, as the database is."""
        if self._is_prepared:
            self._backend.exists()
        else:
            self._backend.prepare(self._client)
            self._is_prepared = True
        found = self._active(self._backend.experiment(self._client, self.experiment))
        return found or self._create_experiment()

    def _active(self, found: tuple[str, bool] | None) -> str | None:
        if found is None or found[1]:
            return None if found is None else found[0]
        raise StoreError(
            f"experiment {self.experiment!r} of {self._backend.shown} is deleted",
            fix=f"`mlflow experiments restore --experiment-id {found[0]}` brings it back; or give "
            "another --experiment",
        )

    def _create_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        root = self._backend.artifact_root
        # MLflow would put them under the working directory of whoever comes first.
        folder = None if root is None else root / safe_key(self.experiment)
        client = self._client()
        try:
            return str(
                client.create_experiment(
                    self.experiment,
                    artifact_location=None if folder is None else folder.as_uri(),
                )
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = self._active(self._backend.experiment(self._client, self.experiment))
            if found is None:
                raise
            return found

    def _known(self, experiment_id: str, checkpoint: Checkpoint) -> write.Known:
        """What is known; raises StoreError for an unknown parent or a contradiction."""
        keys = [checkpoint.id, *checkpoint.parents]
        rows = self._backend.rows(self._client, experiment_id, keys, whole=True)
        by_key: dict[str, list[ModelRow]] = {}
        for row in rows:
            by_key.setdefault(read_checkpoint(row.tags).id, []).append(row)
        ready = {key: [r for r in found if r.is_ready] for key, found in by_key.items()}
        for parent in checkpoint.parents:
            if not ready.get(parent):
                raise unknown_parent(checkpoint, parent)
        own_rows = ready.get(checkpoint.id, [])
        own = _stored(own_rows)
        if own:
            merge(own[0].checkpoint, checkpoint)
        published = [e for row in own_rows for e in read_evaluations(row.tags)]
        pending = [r for r in by_key.get(checkpoint.id, []) if not r.is_ready]
        return write.Known(
            stored=own[0] if own else None,
            published={e.id: e for e in published},
            pending=pending[0] if pending else None,
            parents=tuple(ready[parent][0].model_id for parent in checkpoint.parents),
            note=own_rows[0].tags.get(NOTE) if own_rows else None,
        )

    def _before(self, experiment_id: str, outcome: Outcome) -> mlflow_outcome.Before:
        """What an outcome meets; raises StoreError if it names what is not registered."""
        keys = [outcome.checkpoint_id, *filter(None, [outcome.rl_checkpoint_id])]
        rows = self._backend.rows(self._client, experiment_id, keys, whole=True)
        ready = [row for row in rows if row.is_ready]
        stored = {found.checkpoint.id: found for found in _stored(ready)}
        known = check_outcome(outcome, stored)
        own = [row for row in ready if read_checkpoint(row.tags).id == outcome.checkpoint_id]
        rl = stored.get(outcome.rl_checkpoint_id or "")
        published = [found for row in own for found in mlflow_outcome.read_outcomes(row.tags)]
        return mlflow_outcome.Before(
            stored=known,
            rl_model_id=None if rl is None else rl.model_id,
            published={found.id: found for found in published},
            note=own[0].tags.get(NOTE),
        )


def _stored(rows: Sequence[ModelRow]) -> list[StoredCheckpoint]:
    """READY models as checkpoints, the oldest first. Models of one key are one checkpoint."""
    by_key: dict[str, StoredCheckpoint] = {}
    evaluations: dict[str, list[Published]] = {}
    outcomes: dict[str, list[mlflow_outcome.PublishedOutcome]] = {}
    for row in rows:
        checkpoint = read_checkpoint(row.tags)
        found = read_evaluations(row.tags)
        after_rl = mlflow_outcome.read_outcomes(row.tags)
        first = by_key.get(checkpoint.id)
        if first is not None:
            # Left by two writers without a common lock. What the younger one holds is as true.
            found = sorted([*evaluations[checkpoint.id], *found], key=lambda e: (e.at_ms, e.id))
            both = {o.id: o for o in (*outcomes[checkpoint.id], *after_rl)}.values()
            after_rl = sorted(both, key=lambda o: (o.at_ms, o.id))
        evaluations[checkpoint.id] = found
        outcomes[checkpoint.id] = after_rl
        by_key[checkpoint.id] = StoredCheckpoint(
            checkpoint=first.checkpoint if first else checkpoint,
            model_id=first.model_id if first else row.model_id,
            proxies=_newest(found),
            updated_ms=max(row.updated_ms, first.updated_ms if first else 0),
            outcomes=tuple(published.outcome for published in after_rl),
        )
    return list(by_key.values())


def _newest(evaluations: Sequence[Published]) -> tuple[Proxy, ...]:
    proxies: tuple[Proxy, ...] = evaluations[0].proxies if evaluations else ()
    for evaluation in evaluations[1:]:
        proxies = newest(proxies, evaluation.proxies)
    return proxies


def _backend_errors() -> tuple[type[Exception], ...]:
    """What MLflow, SQLAlchemy, drivers, the network and the disk raise; MLflow if it is in use."""
    from sqlalchemy.exc import SQLAlchemyError

    found: list[type[Exception]] = [OSError, SQLAlchemyError, ImportError]
    if "mlflow.exceptions" in sys.modules:
        found.append(sys.modules["mlflow.exceptions"].MlflowException)
    return tuple(found)


def _reason(error: Exception) -> str:
    """The first line of the innermost message; SQLAlchemy's own repeats the whole statement."""
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
        return "Another process is writing for long. Try again"
    return "Correct this, and repeat the call: nothing is half done for a reader"
