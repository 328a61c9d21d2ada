"""SQLite files and PostgreSQL databases of MLflow, read by SQL.

Reading needs no MLflow, and takes seconds for what MLflow's API needs a minute for (10,000
checkpoints). Writing goes through MLflow alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.backends import CONNECT_S, Backend, unreachable, with_driver
from rlready.registry.mlflow_store.locks import advisory_lock, file_lock
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
    from sqlalchemy import URL

_READY, _PENDING = 2, 1  # `LoggedModelStatus` as the database writes it
_MIGRATIONS = ("store", "db_migrations", "versions")


class SqlBackend(Backend):
    """A database that is read by SQL; `connect_args` are for the driver that the URI names."""

    def __init__(self, uri: str, shown: str, **connect_args: object) -> None:
        import sqlalchemy as sa

        super().__init__(uri, shown)
        # An engine of our own, separate from MLflow's. Nothing is connected yet.
        self._engine = sa.create_engine(uri, connect_args=connect_args)

    def rows(self, experiment_id: str, keys: Sequence[str] | None, whole: bool) -> list[ModelRow]:
        """See `Backend.rows`."""
        # `_` matches any character in LIKE; no tag of rlready has another one there.
        tags = f"t.tag_key = '{CHECKPOINT}'"
        if whole:
            tags += f" OR t.tag_key LIKE '{EVALUATION}.%' OR t.tag_key LIKE '{OUTCOME}.%'"
        if keys is not None:
            tags += f" OR t.tag_key IN ('{NOTE}', '{TAG}', '{RANKED_ALIAS}')"
        # One statement, hence one state of the registry, whatever is written meanwhile.
        query = (
            "SELECT m.model_id, m.status, m.model_type, m.creation_timestamp_ms,"
            " m.last_updated_timestamp_ms, t.tag_key, t.tag_value "
            "FROM logged_models m JOIN logged_model_tags t ON t.model_id = m.model_id "
            "WHERE m.experiment_id = :experiment AND m.lifecycle_stage = 'active' "
            f"AND m.status IN ({_READY}{'' if keys is None else f', {_PENDING}'}) "
            f"AND ({tags}) "
        )
        values: dict[str, Any] = {"experiment": int(experiment_id)}
        if keys is not None:
            query += (
                "AND m.model_id IN (SELECT model_id FROM logged_model_tags "
                f"WHERE tag_key = '{KEY}' AND tag_value IN :keys) "
            )
            values["keys"] = list(dict.fromkeys(keys))
        rows: dict[str, ModelRow] = {}
        for model_id, status, kind, created, updated, key, text in self._select(
            query + "ORDER BY m.creation_timestamp_ms, m.model_id", values
        ):
            if model_id not in rows:
                rows[model_id] = ModelRow(
                    model_id=model_id,
                    is_ready=status == _READY,
                    model_type=kind or "",
                    created_ms=created,
                    updated_ms=updated,
                )
            rows[model_id].tags[key] = text
        return [row for row in rows.values() if CHECKPOINT in row.tags]

    def experiment(self, name: str) -> tuple[str, bool] | None:
        """See `Backend.experiment`."""
        query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name"
        rows = self._select(query, {"name": name})
        return (str(rows[0][0]), rows[0][1] == "active") if rows else None

    def run_of(self, experiment_id: str, tag: str, id_: str) -> str | None:
        """See `Backend.run_of`."""
        query = (
            "SELECT r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE t.key = :tag AND t.value = :id "
            "AND r.experiment_id = :experiment AND r.lifecycle_stage = 'active' "
            "ORDER BY r.start_time, r.run_uuid"
        )
        rows = self._select(query, {"tag": tag, "id": id_, "experiment": int(experiment_id)})
        return str(rows[0][0]) if rows else None

    def close(self) -> None:
        """See `Backend.close`."""
        self._engine.dispose()

    def _select(self, query: str, values: dict[str, Any]) -> Sequence[Any]:
        import sqlalchemy as sa

        statement = sa.text(query)
        if "keys" in values:
            statement = statement.bindparams(sa.bindparam("keys", expanding=True))
        with self._engine.connect() as connection:
            return connection.execute(statement, values).all()

    def _schema_version(self) -> str | None:
        """Return the version that MLflow's migrations set last; None if they have not run."""
        import sqlalchemy as sa

        if not sa.inspect(self._engine).has_table("alembic_version"):
            return None
        rows = self._select("SELECT version_num FROM alembic_version", {})
        return str(rows[0][0]) if rows else None

    def _holds_mlflow(self) -> bool:
        """Return whether MLflow keeps data in an existing database; False if it is empty.

        Raises:
            StoreError: if it is not a database, or belongs to another program or a newer MLflow.
        """
        import sqlalchemy as sa

        try:
            tables = set(sa.inspect(self._engine).get_table_names())
            version = self._schema_version()
        except sa.exc.DatabaseError as error:
            if isinstance(error, sa.exc.OperationalError):  # locked or out of reach
                raise
            raise StoreError(
                f"the registry at {self.shown} cannot be read",
                why=str(error.orig),
                fix="It is damaged, or not a SQLite database. Put back a copy, or give another "
                "file: --tracking-uri sqlite:///FILE.db",
            ) from error
        others = sorted(tables - {"alembic_version"})
        if others and "experiments" not in tables:
            raise StoreError(
                f"the database {self.shown} belongs to another program",
                why=f"it has no table of MLflow, but {', '.join(others[:5])}",
                fix="Give another one, which is then created: --tracking-uri sqlite:///FILE.db",
            )
        if version is not None:
            _check_version(version, self.shown)
        return bool(others)


class SqliteBackend(SqlBackend):
    """A SQLite file. It is created whole or not at all, and put into WAL mode."""

    def __init__(self, uri: str) -> None:
        database = _parsed(uri).database
        if not database or database == ":memory:":
            raise StoreError(
                f"the tracking URI {uri!r} is a database in memory",
                why="it would be empty for every other process, `mlflow ui` included",
                fix="Give a file, such as sqlite:///mlflow.db, or use MemoryStore",
            )
        # Absolute, so that a change of the working directory has no effect.
        self.path = Path(database).absolute()
        super().__init__(_sqlite_uri(self.path), _sqlite_uri(self.path))
        self.artifact_root = self.path.parent / "mlruns"
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
            self._is_mlflow = self._holds_mlflow()
        return self._is_mlflow and self.path.is_file()

    def prepare(self) -> None:
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
        if not self._has_schema():
            with self.lock("schema"):
                if not self._has_schema():
                    self._create()
        # WAL makes writes 2.3 times as fast and stays set in the file. It is only an optimization.
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(self.path, timeout=1)) as connection,
        ):
            connection.execute("PRAGMA journal_mode=WAL")

    def lock(self, key: str) -> AbstractContextManager[None]:
        """One lock for all keys: SQLite has one writer at a time anyway."""
        return file_lock(self.path.with_name(self.path.name + ".rlready.lock"))

    def _has_schema(self) -> bool:
        # Connecting would create the file.
        return self.path.exists() and self._schema_version() is not None

    def _create(self) -> None:
        """Create the tables in another file, so that no kill leaves half of them."""
        is_empty = self.path.is_file() and self.path.stat().st_size == 0
        if self.path.exists() and not is_empty:  # half-made: MLflow decides what to do
            self.client().search_experiments(max_results=1)
            return
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        try:
            self.client(_sqlite_uri(fresh)).search_experiments(max_results=1)
            if is_empty:  # left by `touch`, or by a kill: nothing is lost with it
                fresh.replace(self.path)
                self.close()  # a connection to the file that is gone
                return
            # A link, not a rename: it fails if another tool has just created the file.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, self.path)
        finally:
            fresh.unlink(missing_ok=True)


class PostgresBackend(SqlBackend):
    """A PostgreSQL database. Its tables are created under an advisory lock."""

    def __init__(self, uri: str) -> None:
        url = _parsed(with_driver(uri))
        super().__init__(
            url.render_as_string(hide_password=False),
            redacted(url.render_as_string(), uri),
            connect_timeout=CONNECT_S,
        )

    def exists(self) -> bool:
        """See `Backend.exists`."""
        import sqlalchemy as sa

        try:  # before MLflow does: it tries ten times, for more than a minute
            self._engine.connect().close()
        except sa.exc.OperationalError as error:
            raise unreachable(self.shown, redacted(str(error.orig), self.uri)) from error
        return self._schema_version() is not None and self._holds_mlflow()

    def prepare(self) -> None:
        """See `Backend.prepare`."""
        if not self.exists():
            with advisory_lock(self._engine, "rlready.schema"):
                self.client().search_experiments(max_results=1)

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Hold an advisory lock of the key."""
        return advisory_lock(self._engine, f"rlready.{key}")


def _parsed(uri: str) -> URL:
    """Return the parts of a database's URI; raise StoreError if it cannot be parsed."""
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
    # `from None`: the text of the cause would contain the URI.


def _sqlite_uri(path: Path) -> str:
    import sqlalchemy as sa

    # MLflow makes a folder of the URI's text, so a space is written as %20 only where it must be.
    plain = f"sqlite:///{path}"
    if sa.engine.make_url(plain).database == str(path):
        return plain
    return sa.engine.URL.create("sqlite", database=str(path)).render_as_string()


def _check_version(version: str, shown: str) -> None:
    """Raise a StoreError if the installed MLflow has no migration of this name."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return
    versions = Path(spec.origin).parent.joinpath(*_MIGRATIONS)
    names = {path.name.partition("_")[0] for path in versions.glob("*.py")}
    if names and version not in names:
        raise StoreError(
            f"the database {shown} was made by a newer MLflow",
            why=f"MLflow {version_of('mlflow')} does not know its schema {version}",
            fix="Install a newer one: pip install --upgrade mlflow",
        )
