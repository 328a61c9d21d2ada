"""The database of a study: SQLite for the workers of one machine, PostgreSQL for those of many."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import ConfigError, StoreError
from rlready.registry.mlflow_store.backends import with_driver
from rlready.registry.mlflow_store.locks import advisory_lock, file_lock
from rlready.registry.redaction import redacted

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Engine

_SQLITE_WAIT_S = 60.0
_ATTEMPTS = 5
_FIX = "Give sqlite:///search.db, or postgresql://user@host/name"


def open_database(url: str) -> RDBStorage:
    """Open the database of a study by its URL.

    Raises:
        ConfigError: if the URL is neither SQLite's nor PostgreSQL's, or the database is MLflow's.
        StoreError: if it cannot be opened, or its driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"the storage {redacted(url)!r} is not a database that workers can share", fix=_FIX
        )
    # Many writers of one SQLite file wait for one another; connections to a server may go stale.
    settings: dict[str, Any] = {"connect_args": {"timeout": _SQLITE_WAIT_S}}
    if scheme == "postgresql":
        settings = {"pool_pre_ping": True, "pool_size": 2}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = with_driver(_checked_url(url))
    _check_not_mlflow(url)
    for attempt in range(_ATTEMPTS):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=settings)
        except ImportError as error:
            raise StoreError(
                f"the storage {redacted(url)} cannot be opened",
                why="no driver for PostgreSQL is installed",
                fix="Install psycopg2-binary",
            ) from error
        except SQLAlchemyError as error:
            # Of several that make the tables at the same time all but one fail, once.
            if attempt == _ATTEMPTS - 1:
                raise StoreError(
                    f"the storage {redacted(url)} cannot be opened",
                    why=redacted(str(error), url).partition("\n")[0],
                ) from error
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def study_lock(engine: Engine, study: str) -> Iterator[None]:
    """Let one worker at a time ask for recipes of a study, claim its trials and tell values.

    The lock does not outlive its holder, and one process must not take it twice.
    """
    database = engine.url.database
    lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if engine.dialect.name == "postgresql":
        lock = advisory_lock(engine, f"rlready-search:{study}")
    elif database and database != ":memory:":
        lock = file_lock(Path(f"{database}.lock"))
    with lock:
        yield


def _check_not_mlflow(url: str) -> None:
    """Return if the database is not MLflow's.

    Raises:
        ConfigError: if it is. MLflow and Optuna both write the version of their schema to a table
            `alembic_version`; the second one finds the other's version and stops.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = sa.create_engine(url)
        tables = set(sa.inspect(engine).get_table_names())
        engine.dispose()
    except (ImportError, SQLAlchemyError):
        return  # Optuna meets the same error, which is reported there
    if "experiments" in tables and "studies" not in tables:
        raise ConfigError(
            f"the storage {redacted(url)} is MLflow's database",
            why="MLflow and Optuna both keep a table alembic_version",
            fix="Name another file, or another database on the same server",
        )


def _checked_url(url: str) -> str:
    """A database's URL that can be read; of SQLite without a query, which its driver ignores."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"the storage {redacted(url)!r} cannot be read", why=redacted(str(error), url), fix=_FIX
        ) from None  # the text of the cause would hold the URL
    if parts.get_backend_name() == "sqlite" and "uri" not in parts.query:
        return parts.set(query={}).render_as_string(hide_password=False)
    return url
