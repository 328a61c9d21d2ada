"""What a database holds before MLflow is let near it: nothing, MLflow's tables, or another's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError

if TYPE_CHECKING:
    from sqlalchemy import Engine

_MIGRATIONS = ("store", "db_migrations", "versions")


def holds_mlflow(engine: Engine, shown: str) -> bool:
    """Whether MLflow keeps something in a database; False if there is nothing in it yet.

    Args:
        engine: of an existing database.
        shown: how to name it.

    Raises:
        StoreError: if it is not a database, is another program's, or a newer MLflow's.
    """
    import sqlalchemy as sa

    try:
        tables = set(sa.inspect(engine).get_table_names())
        version = _version(engine) if "alembic_version" in tables else None
    except sa.exc.DatabaseError as error:
        if isinstance(error, sa.exc.OperationalError):  # locked or out of reach
            raise
        raise StoreError(
            f"the registry at {shown} cannot be read",
            why=str(error.orig),
            fix="It is damaged, or no SQLite database. Put back a copy, or give another file: "
            "--tracking-uri sqlite:///FILE.db",
        ) from error
    foreign = sorted(tables - {"alembic_version"})
    if foreign and "experiments" not in tables:
        raise StoreError(
            f"the database {shown} belongs to another program",
            why=f"it has no table of MLflow, but {', '.join(foreign[:5])}",
            fix="Give another one, which is then created: --tracking-uri sqlite:///FILE.db",
        )
    if version is not None:
        _check_version(version, shown)
    return bool(foreign)


def _version(engine: Engine) -> str | None:
    import sqlalchemy as sa

    with engine.connect() as connection:
        row = connection.execute(sa.text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def _check_version(version: str, shown: str) -> None:
    """Raise a StoreError if the installed MLflow has no migration of this name."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return
    versions = Path(spec.origin).parent.joinpath(*_MIGRATIONS)
    names = {path.name.partition("_")[0] for path in versions.glob("*.py")}
    if names and version not in names:
        from importlib.metadata import version as version_of

        raise StoreError(
            f"the database {shown} was made by a newer MLflow",
            why=f"MLflow {version_of('mlflow')} does not know its schema {version}",
            fix="Install a newer one: pip install --upgrade mlflow",
        )
