"""MLflow's tables, read by SQL: SQLite and PostgreSQL.

Reading needs no MLflow at all, and takes seconds for what takes its API a minute (10,000
checkpoints). Writing goes through MLflow alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.mlflow_store.descriptions import NOTE
from rlready.registry.mlflow_store.record_tags import CHECKPOINT, EVALUATION, KEY, OUTCOME

if TYPE_CHECKING:
    from sqlalchemy import Engine

READY, PENDING = 2, 1
"""`LoggedModelStatus` as the database writes it."""

# `_` stands for any character in LIKE; no tag of ours has one there.
_WHOLE = (f"{EVALUATION}.%", f"{OUTCOME}.%")


@dataclass(kw_only=True)
class ModelRow:
    """A LoggedModel of ours, before its tags are understood."""

    model_id: str
    is_ready: bool
    model_type: str
    created_ms: int
    updated_ms: int
    tags: dict[str, str] = field(default_factory=dict)


def open_engine(uri: str, **connect_args: object) -> Engine:
    """An engine of our own, apart from MLflow's; nothing is connected yet."""
    import sqlalchemy as sa

    return sa.create_engine(uri, connect_args=connect_args)


def has_schema(engine: Engine) -> bool:
    """Whether MLflow's migrations, which set this version last, have run."""
    import sqlalchemy as sa

    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
        return False  # and connecting would create it
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return False
        return bool(connection.execute(sa.text("SELECT version_num FROM alembic_version")).first())


def read_experiment(engine: Engine, name: str) -> tuple[str, bool] | None:
    """See `Backend.experiment`."""
    import sqlalchemy as sa

    query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name"
    with engine.connect() as connection:
        found = connection.execute(sa.text(query), {"name": name}).first()
    return None if found is None else (str(found[0]), found[1] == "active")


def read_run_of(engine: Engine, experiment_id: str, tag: str, id_: str) -> str | None:
    """See `Backend.run_of`."""
    import sqlalchemy as sa

    query = (
        "SELECT r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
        "WHERE t.key = :tag AND t.value = :id "
        "AND r.experiment_id = :experiment AND r.lifecycle_stage = 'active' "
        "ORDER BY r.start_time, r.run_uuid"
    )
    values = {"tag": tag, "id": id_, "experiment": int(experiment_id)}
    with engine.connect() as connection:
        found = connection.execute(sa.text(query), values).first()
    return None if found is None else str(found[0])


def read_rows(
    engine: Engine, experiment_id: str, keys: Sequence[str] | None, whole: bool
) -> list[ModelRow]:
    """See `Backend.rows`."""
    import sqlalchemy as sa

    tags = f"t.tag_key = '{CHECKPOINT}'"
    if whole:
        tags += "".join(f" OR t.tag_key LIKE '{pattern}'" for pattern in _WHOLE)
    if keys is not None:
        tags += f" OR t.tag_key = '{NOTE}'"
    # One statement, hence one state of the registry, whatever is written meanwhile.
    query = (
        "SELECT m.model_id, m.status, m.model_type, m.creation_timestamp_ms,"
        " m.last_updated_timestamp_ms, t.tag_key, t.tag_value "
        "FROM logged_models m JOIN logged_model_tags t ON t.model_id = m.model_id "
        "WHERE m.experiment_id = :experiment AND m.lifecycle_stage = 'active' "
        f"AND m.status IN ({READY}{'' if keys is None else f', {PENDING}'}) "
        f"AND ({tags}) "
    )
    values: dict[str, Any] = {"experiment": int(experiment_id)}
    if keys is not None:
        query += (
            "AND m.model_id IN (SELECT model_id FROM logged_model_tags "
            f"WHERE tag_key = '{KEY}' AND tag_value IN :keys) "
        )
        values["keys"] = list(dict.fromkeys(keys))
    statement = sa.text(query + "ORDER BY m.creation_timestamp_ms, m.model_id")
    if keys is not None:
        statement = statement.bindparams(sa.bindparam("keys", expanding=True))
    rows: dict[str, ModelRow] = {}
    with engine.connect() as connection:
        for model_id, status, kind, created, updated, key, text in connection.execute(
            statement, values
        ):
            row = rows.get(model_id)
            if row is None:
                row = rows[model_id] = ModelRow(
                    model_id=model_id,
                    is_ready=status == READY,
                    model_type=kind or "",
                    created_ms=created,
                    updated_ms=updated,
                )
            row.tags[key] = text
    return [row for row in rows.values() if CHECKPOINT in row.tags]
