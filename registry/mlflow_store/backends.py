"""The places where MLflow keeps its data.

Backend          the interface
SqliteBackend    a file (`sql_backends.py`)
PostgresBackend  a database (`sql_backends.py`)
ApiBackend       everything else that MLflow accepts, above all a server
Opened           a backend with one experiment, which puts and readers work on
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.locks import claim
from rlready.registry.mlflow_store.mlflow_calls import import_quietly
from rlready.registry.mlflow_store.pages.descriptions import NOTE
from rlready.registry.mlflow_store.record_tags import (
    CHECKPOINT,
    EVALUATION,
    KEY,
    OUTCOME,
    RANKED_ALIAS,
    TAG,
    ModelRow,
)
from rlready.registry.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONNECT_S = 5
"""Seconds to wait for a connection to a server."""

_READ_TAGS = (CHECKPOINT, EVALUATION, OUTCOME, NOTE, TAG, RANKED_ALIAS)
_MANY = 20  # keys; reading everything takes fewer requests than looking for so many
_PAGE = 1000


class Backend(ABC):
    """A place where MLflow keeps its data; `shown` is its tracking URI without a password."""

    artifact_root: Path | None = None
    """Folder of a new experiment's artifacts; None leaves the choice to MLflow."""

    def __init__(self, uri: str, shown: str) -> None:
        self.uri, self.shown = uri, shown
        self._clients: dict[str, MlflowClient] = {}

    def client(self, uri: str | None = None) -> MlflowClient:
        """Return an MLflow client for a tracking URI, by default the backend's own.

        Reading a database by SQL needs no client, and hence no import of MLflow.
        """
        import_quietly()
        from mlflow import MlflowClient

        uri = uri or self.uri
        if uri not in self._clients:
            self._clients[uri] = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return self._clients[uri]

    @abstractmethod
    def exists(self) -> bool:
        """Return False if there is nothing to read yet.

        Raises:
            StoreError: if the backend cannot be reached.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make MLflow able to write: create its tables if there are none.

        Raises:
            StoreError: if the backend cannot be reached or written.
        """

    @abstractmethod
    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep other writers of this key out."""

    @abstractmethod
    def rows(self, experiment_id: str, keys: Sequence[str] | None, whole: bool) -> list[ModelRow]:
        """Return models of an experiment, the oldest first.

        Args:
            experiment_id: MLflow's.
            keys: only models with these fingerprints, READY or PENDING, with what their pages say.
                None reads all READY ones.
            whole: read the evaluations and outcomes too, not only the checkpoints.
        """

    @abstractmethod
    def experiment(self, name: str) -> tuple[str, bool] | None:
        """Return an experiment's id and whether it is active; None if it does not exist."""

    @abstractmethod
    def run_of(self, experiment_id: str, tag: str, id_: str) -> str | None:
        """Return the id of the oldest run that is not deleted and whose tag has this value."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections, so that a fork between two calls inherits none."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The registry inside `MlflowStore.opened`; without an experiment if nothing was stored yet."""

    backend: Backend
    experiment_id: str

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for this registry."""
        return self.backend.client()

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep other writers of this key out."""
        return self.backend.lock(key)

    def rows(self, keys: Sequence[str] | None, *, whole: bool = False) -> list[ModelRow]:
        """Return the models of checkpoints, the oldest first; see `Backend.rows`."""
        return self.backend.rows(self.experiment_id, keys, whole) if self.experiment_id else []

    def run_of(self, tag: str, id_: str) -> str | None:
        """Return the id of the oldest run whose tag has this value."""
        return self.backend.run_of(self.experiment_id, tag, id_) if self.experiment_id else None


class ApiBackend(Backend):
    """An MLflow server, or a database of another kind that MLflow knows."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri.rstrip("/"), redacted(uri.rstrip("/")))

    def exists(self) -> bool:
        """See `Backend.exists`. Any answer of a server counts, even a refusal."""
        if not self.uri.startswith(("http://", "https://")):
            return True
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        try:
            # One short attempt; the calls that follow retry for minutes, as the user has set it.
            http_request(
                get_default_host_creds(self.uri),
                "/health",
                "GET",
                max_retries=0,
                timeout=CONNECT_S,
                raise_on_status=False,
            )
        except MlflowException as error:
            raise unreachable(self.shown, redacted(_innermost(error), self.uri)) from error
        return True

    def prepare(self) -> None:
        """See `Backend.prepare`."""
        self.exists()

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Claim a registered model's name."""
        return claim(self.client(), key)

    def rows(self, experiment_id: str, keys: Sequence[str] | None, whole: bool) -> list[ModelRow]:
        """See `Backend.rows`."""
        rows: dict[str, ModelRow] = {}
        wanted = None if keys is None else dict.fromkeys(keys)
        for key in [None] if wanted is None or len(wanted) > _MANY else wanted:
            for model in self._models(experiment_id, key):
                if wanted is not None and model.tags.get(KEY) not in wanted:
                    continue
                row = ModelRow(
                    model_id=model.model_id,
                    is_ready=str(model.status) == "READY",
                    model_type=model.model_type or "",
                    created_ms=model.creation_timestamp,
                    updated_ms=model.last_updated_timestamp,
                    tags={k: v for k, v in model.tags.items() if k.startswith(_READ_TAGS)},
                )
                if CHECKPOINT in row.tags and (row.is_ready or keys is not None):
                    rows[row.model_id] = row
        return sorted(rows.values(), key=lambda row: (row.created_ms, row.model_id))

    def experiment(self, name: str) -> tuple[str, bool] | None:
        """See `Backend.experiment`."""
        experiment = self.client().get_experiment_by_name(name)
        if experiment is None:
            return None
        return str(experiment.experiment_id), experiment.lifecycle_stage == "active"

    def run_of(self, experiment_id: str, tag: str, id_: str) -> str | None:
        """See `Backend.run_of`."""
        runs = self.client().search_runs(
            [experiment_id],
            f"tags.`{tag}` = '{id_}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return str(runs[0].info.run_id) if runs else None

    def close(self) -> None:
        """See `Backend.close`. MLflow manages these connections itself."""

    def _models(self, experiment_id: str, key: str | None) -> Iterator[Any]:
        token = None
        while True:
            page = self.client().search_logged_models(
                [experiment_id],
                filter_string=None if key is None else f"tags.`{KEY}` = '{key}'",
                # Oldest first: new models come at the end and shift no page.
                order_by=[{"field_name": "creation_timestamp", "ascending": True}],
                max_results=_PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return


def unreachable(shown: str, why: str) -> StoreError:
    """Return the error for a registry that does not answer."""
    return StoreError(
        f"the registry at {shown} cannot be reached",
        why=why.strip().partition("\n")[0],
        fix="Start it, correct MLFLOW_TRACKING_URI, or work on a file: sqlite:///mlflow.db",
    )


def with_driver(uri: str) -> str:
    """Return a URI in which PostgreSQL has a driver; raise StoreError if none is installed.

    Without a driver in the URI, SQLAlchemy 2.0 assumes psycopg2, and 2.1 psycopg 3.
    """
    scheme, _, rest = uri.partition(":")
    if scheme != "postgresql":
        return uri
    for driver in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(driver):
            return f"postgresql+{driver}:{rest}"
    raise StoreError(
        "no driver for PostgreSQL is installed", fix="pip install psycopg2-binary, or psycopg"
    )


def _innermost(error: BaseException) -> str:
    """Return the message of the first cause, which says more than the outer ones."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # not None here
    return str(error)
