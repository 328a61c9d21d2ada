"""Where MLflow keeps its data, and what differs between the places: reach, create, lock, read.

SqliteBackend    a file: created whole or not at all, in WAL mode; read by SQL
PostgresBackend  a database: created under an advisory lock; read by SQL
ClientBackend    everything else that MLflow accepts, a server first of all; read by its API
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.descriptions import NOTE
from rlready.registry.mlflow_store.locks import advisory_lock, claim, file_lock
from rlready.registry.mlflow_store.record_tags import CHECKPOINT, EVALUATION, KEY, OUTCOME
from rlready.registry.mlflow_store.schema import holds_mlflow
from rlready.registry.mlflow_store.sql import (
    ModelRow,
    has_schema,
    open_engine,
    read_experiment,
    read_rows,
    read_run_of,
)
from rlready.registry.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import URL

_READ = (CHECKPOINT, EVALUATION, OUTCOME, NOTE)
_PAGE = 1000
_CONNECT_S = 5


class Backend(Protocol):
    """A place where MLflow keeps its data."""

    uri: str
    """What MLflow is given."""
    shown: str
    """The same for people, without a password."""
    artifact_root: Path | None
    """Where a new experiment's artifacts belong; None leaves it to MLflow."""

    def exists(self) -> bool:
        """False if there is nothing to read yet. Raises StoreError if it cannot be reached."""

    def prepare(self, client: ClientMaker) -> None:
        """Return once MLflow can write there; its tables are created if there are none.

        Raises:
            StoreError: if it cannot be reached or written.
        """

    def lock(self, client: MlflowClient, key: str) -> AbstractContextManager[None]:
        """Keep other writers of this key out."""

    def rows(
        self, client: ClientMaker, experiment_id: str, keys: Sequence[str] | None, whole: bool
    ) -> list[ModelRow]:
        """Models of an experiment, the oldest first, with the tags that the codec reads.

        Args:
            client: makes a client; called by backends that read through MLflow.
            experiment_id: MLflow's.
            keys: only models with these fingerprints, READY or PENDING; None reads all that
                are READY.
            whole: with the evaluations; otherwise the checkpoints alone.
        """

    def experiment(self, client: ClientMaker, name: str) -> tuple[str, bool] | None:
        """An experiment's id, and whether it is active; None if there is none of this name."""

    def run_of(self, client: ClientMaker, experiment_id: str, tag: str, id_: str) -> str | None:
        """Id of the oldest run that is not deleted and whose tag has this value."""

    def close(self) -> None:
        """Close connections: none is left open between calls, for a fork to inherit."""


class ClientMaker(Protocol):
    """Makes an MLflow client for a tracking URI, ours by default."""

    def __call__(self, uri: str | None = None) -> MlflowClient:
        """A client."""


def open_backend(tracking_uri: str | None) -> Backend:
    """The backend of a tracking URI. Nothing is touched yet.

    Raises:
        StoreError: if MLflow keeps no models there, or a driver is missing.
    """
    uri = str(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _default_uri())
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
            "--source FOLDER --target sqlite:///mlflow.db` takes over what the folder holds",
        )
    return ClientBackend(uri)


class SqliteBackend:
    """A SQLite file."""

    def __init__(self, uri: str) -> None:
        database = _parsed(uri).database
        if not database or database == ":memory:":
            raise StoreError(
                f"the tracking URI {uri!r} is a database in memory",
                why="it would be empty for every other process, `mlflow ui` included",
                fix="Give a file, such as sqlite:///mlflow.db, or use MemoryStore",
            )
        # Absolute, so that a later change of the working directory changes nothing.
        self.path = Path(database).absolute()
        self.uri = self.shown = _sqlite_uri(self.path)
        self.artifact_root: Path | None = self.path.parent / "mlruns"
        self._engine = open_engine(self.uri)
        self._is_mlflow = False

    def exists(self) -> bool:
        """See `Backend.exists`."""
        if not self.path.parent.is_dir():
            raise StoreError(
                f"the registry {self.path} cannot be opened",
                why=f"there is no folder {self.path.parent}",
                fix=f"Create it (mkdir -p {self.path.parent}), or correct the tracking URI",
            )
        if self.path.is_dir():
            raise StoreError(
                f"the registry {self.path} is a folder",
                fix="Give a file in it: --tracking-uri sqlite:///FOLDER/mlflow.db",
            )
        if not self._is_mlflow and self.path.is_file() and self.path.stat().st_size > 0:
            self._is_mlflow = holds_mlflow(self._engine, self.shown)
        return self._is_mlflow and self.path.is_file()

    def prepare(self, client: ClientMaker) -> None:
        """See `Backend.prepare`."""
        self.exists()
        # SQLite writes its log beside the file, so the folder must be writable too.
        for path in (self.path.parent, *([self.path] if self.path.exists() else [])):
            if not os.access(path, os.W_OK):
                raise StoreError(
                    f"the registry {self.path} cannot be written",
                    why=f"{path} is not writable for this user",
                    fix="Give another tracking URI, or ask its owner for the right to write",
                )
        if not has_schema(self._engine):
            with self._locked():
                if not has_schema(self._engine):
                    self._create(client)
        self._write_ahead()

    def lock(self, client: MlflowClient, key: str) -> AbstractContextManager[None]:
        """One lock for all keys: SQLite has one writer at a time anyway."""
        return self._locked()

    def rows(
        self, client: ClientMaker, experiment_id: str, keys: Sequence[str] | None, whole: bool
    ) -> list[ModelRow]:
        """See `Backend.rows`."""
        return read_rows(self._engine, experiment_id, keys, whole)

    def experiment(self, client: ClientMaker, name: str) -> tuple[str, bool] | None:
        """See `Backend.experiment`."""
        return read_experiment(self._engine, name)

    def run_of(self, client: ClientMaker, experiment_id: str, tag: str, id_: str) -> str | None:
        """See `Backend.run_of`."""
        return read_run_of(self._engine, experiment_id, tag, id_)

    def close(self) -> None:
        """See `Backend.close`."""
        self._engine.dispose()

    def _locked(self) -> AbstractContextManager[None]:
        return file_lock(self.path.with_name(self.path.name + ".rlready.lock"))

    def _create(self, client: ClientMaker) -> None:
        """Build the tables in another file, so that no kill leaves half of them."""
        is_empty = self.path.is_file() and self.path.stat().st_size == 0
        if self.path.exists() and not is_empty:  # half-made: MLflow decides what to do
            client().search_experiments(max_results=1)
            return
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        try:
            client(_sqlite_uri(fresh)).search_experiments(max_results=1)
            if is_empty:  # left by `touch`, or by a kill: nothing is lost with it
                fresh.replace(self.path)
                self.close()  # a connection to the file that is gone
                return
            # A link, not a rename: it fails if another tool has just created the file.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, self.path)
        finally:
            fresh.unlink(missing_ok=True)

    def _write_ahead(self) -> None:
        """2.3 times faster writes; lasts in the file. Where it cannot be had, it is not needed."""
        import sqlite3

        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(self.path, timeout=1)) as connection,
        ):
            connection.execute("PRAGMA journal_mode=WAL")


class PostgresBackend:
    """A PostgreSQL database."""

    artifact_root: Path | None = None

    def __init__(self, uri: str) -> None:
        url = _parsed(with_driver(uri))
        self.uri = url.render_as_string(hide_password=False)
        self.shown = redacted(url.render_as_string(), uri)
        self._engine = open_engine(self.uri, connect_timeout=_CONNECT_S)

    def exists(self) -> bool:
        """See `Backend.exists`."""
        self._reach()
        return has_schema(self._engine) and holds_mlflow(self._engine, self.shown)

    def prepare(self, client: ClientMaker) -> None:
        """See `Backend.prepare`."""
        if not self.exists():
            with advisory_lock(self._engine, "rlready.schema"):
                client().search_experiments(max_results=1)

    def lock(self, client: MlflowClient, key: str) -> AbstractContextManager[None]:
        """An advisory lock of the key."""
        return advisory_lock(self._engine, f"rlready.{key}")

    def rows(
        self, client: ClientMaker, experiment_id: str, keys: Sequence[str] | None, whole: bool
    ) -> list[ModelRow]:
        """See `Backend.rows`."""
        return read_rows(self._engine, experiment_id, keys, whole)

    def experiment(self, client: ClientMaker, name: str) -> tuple[str, bool] | None:
        """See `Backend.experiment`."""
        return read_experiment(self._engine, name)

    def run_of(self, client: ClientMaker, experiment_id: str, tag: str, id_: str) -> str | None:
        """See `Backend.run_of`."""
        return read_run_of(self._engine, experiment_id, tag, id_)

    def close(self) -> None:
        """See `Backend.close`."""
        self._engine.dispose()

    def _reach(self) -> None:
        # Before MLflow does: it tries ten times, for more than a minute.
        import sqlalchemy as sa

        try:
            self._engine.connect().close()
        except sa.exc.OperationalError as error:
            raise unreachable(self.shown, redacted(str(error.orig), self.uri)) from error


class ClientBackend:
    """An MLflow server, or another database that MLflow knows."""

    artifact_root: Path | None = None

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.shown = redacted(self.uri)

    def exists(self) -> bool:
        """See `Backend.exists`. Any answer counts, a refusal too."""
        if not self.uri.startswith(("http://", "https://")):
            return True
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        try:
            # One short try; the calls that follow retry for minutes, as the user has set it.
            http_request(
                get_default_host_creds(self.uri),
                "/health",
                "GET",
                max_retries=0,
                timeout=_CONNECT_S,
                raise_on_status=False,
            )
        except MlflowException as error:
            raise unreachable(self.shown, redacted(_innermost(error), self.uri)) from error
        return True

    def prepare(self, client: ClientMaker) -> None:
        """See `Backend.prepare`."""
        self.exists()

    def lock(self, client: MlflowClient, key: str) -> AbstractContextManager[None]:
        """A claim on a registered model's name."""
        return claim(client, key)

    def rows(
        self, client: ClientMaker, experiment_id: str, keys: Sequence[str] | None, whole: bool
    ) -> list[ModelRow]:
        """See `Backend.rows`."""
        rows: dict[str, ModelRow] = {}
        for key in [None] if keys is None else dict.fromkeys(keys):
            for model in _paged(client(), experiment_id, key):
                row = _client_row(model)
                if CHECKPOINT in row.tags and (row.is_ready or keys is not None):
                    rows[row.model_id] = row
        return sorted(rows.values(), key=lambda row: (row.created_ms, row.model_id))

    def experiment(self, client: ClientMaker, name: str) -> tuple[str, bool] | None:
        """See `Backend.experiment`."""
        found = client().get_experiment_by_name(name)
        if found is None:
            return None
        return str(found.experiment_id), found.lifecycle_stage == "active"

    def run_of(self, client: ClientMaker, experiment_id: str, tag: str, id_: str) -> str | None:
        """See `Backend.run_of`."""
        found = client().search_runs(
            [experiment_id],
            f"tags.`{tag}` = '{id_}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return str(found[0].info.run_id) if found else None

    def close(self) -> None:
        """See `Backend.close`. The connections are MLflow's own."""


def unreachable(shown: str, why: str) -> StoreError:
    """The error for a registry that does not answer."""
    return StoreError(
        f"the registry at {shown} cannot be reached",
        why=why.strip().partition("\n")[0],
        fix="Start it, correct MLFLOW_TRACKING_URI, or work on a file: sqlite:///mlflow.db",
    )


def _default_uri() -> str:
    """MLflow's own default, whose rules (an old ./mlruns wins) are its own business."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def _parsed(uri: str) -> URL:
    """The parts of a database's URI.

    Raises:
        StoreError: if it has no such parts.
    """
    import sqlalchemy as sa

    try:
        return sa.engine.make_url(uri)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise StoreError(
            f"the tracking URI {redacted(uri)!r} cannot be read",
            why=redacted(str(error), uri),
            fix="Give sqlite:///mlflow.db, or postgresql://user@host:5432/name; special characters "
            "of a password are written as %40 for @, %2F for / and so on",
        ) from None
    # `from None`: the text of the cause would hold the URI.


def _sqlite_uri(path: Path) -> str:
    import sqlalchemy as sa

    # MLflow makes a folder of the URI's text, so a space must not be written as %20 without need.
    plain = f"sqlite:///{path}"
    if sa.engine.make_url(plain).database == str(path):
        return plain
    return sa.engine.URL.create("sqlite", database=str(path)).render_as_string()


def with_driver(uri: str) -> str:
    """The URI with the driver that is installed, where it is of PostgreSQL and names none.

    SQLAlchemy 2.0 takes such a URI for psycopg2, 2.1 for psycopg 3.

    Raises:
        StoreError: if no driver is installed.
    """
    scheme, _, rest = uri.partition(":")
    return f"postgresql+{_postgres_driver()}:{rest}" if scheme == "postgresql" else uri


def _postgres_driver() -> str:
    for driver in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(driver):
            return driver
    raise StoreError(
        "no driver for PostgreSQL is installed", fix="pip install psycopg2-binary, or psycopg"
    )


def _innermost(error: BaseException) -> str:
    """The message of the first cause, which says more than those of the layers round it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # not None here
    return str(error)


def _paged(client: MlflowClient, experiment_id: str, key: str | None) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_logged_models(
            [experiment_id],
            filter_string=None if key is None else f"tags.`{KEY}` = '{key}'",
            # Oldest first: what is added meanwhile comes at the end and moves no page.
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            max_results=_PAGE,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _client_row(model: Any) -> ModelRow:
    return ModelRow(
        model_id=model.model_id,
        is_ready=str(model.status) == "READY",
        model_type=model.model_type or "",
        created_ms=model.creation_timestamp,
        updated_ms=model.last_updated_timestamp,
        tags={k: v for k, v in model.tags.items() if k.startswith(_READ)},
    )
