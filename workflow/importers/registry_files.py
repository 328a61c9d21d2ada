"""The whole registry as a folder of Parquet and JSON files, and back.

    checkpoints.parquet   id, uri, name, kind, step, parents, recipe (JSON)
    evaluations.parquet   id, checkpoint_id, config (JSON), references (JSON), oldest first
    proxies.parquet       evaluation_id and the fields of `Proxy`
    outcomes.parquet      id and the fields of `Outcome`, `rl_recipe` as JSON, oldest first
    registry.json         format, version, and the SHA-256 and rows of each file

Reading gives records that equal the written ones, with the same ids. Anything that does not match
its digest or its id is refused before the first record is put. Superseded outcomes are written and
read with the outcomes that replace them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlready.registry.compressed_files import check_expansion
from rlready.registry.digest import file_sha256
from rlready.registry.errors import ConfigError, RecordError, StoreError
from rlready.registry.foreign_files import parse_json, read_json_object
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe
from rlready.registry.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

FORMAT = 1
MANIFEST = "registry.json"
_TABLES = ("checkpoints", "evaluations", "proxies", "outcomes")
_FIX = "Write it again with `rlready export`"


@dataclass(frozen=True, kw_only=True)
class RegistryCounts:
    """The number of records of each kind, and how many of them were new to the registry."""

    checkpoints: int
    evaluations: int
    proxies: int
    outcomes: int
    n_new: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value is not None}

    def line(self, verb: str) -> str:
        """Return the counts in one line, for people."""
        text = (
            f"{verb} {self.checkpoints} checkpoints, {self.evaluations} evaluations, "
            f"{self.proxies} proxies and {self.outcomes} outcomes"
        )
        return text if self.n_new is None else f"{text}; {self.n_new} records are new"


def write_registry(folder: Path, store: Store) -> RegistryCounts:
    """Write the registry into a new or empty folder.

    Raises:
        ConfigError: if the folder holds something, or cannot be written.
        StoreError: if the registry cannot be read, or is empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} exists and is not an empty folder",
            why="an export never replaces files",
            fix="Name a new folder",
        )
    stored, evaluations = store.checkpoints(), store.evaluations()
    if not stored:
        raise StoreError("the registry holds no checkpoints", fix="`rlready evaluate` adds one")
    outcomes = [outcome for each in stored for outcome in each.outcomes]
    rows = {
        "checkpoints": [_checkpoint_row(each.checkpoint) for each in stored],
        "evaluations": [_evaluation_row(each) for each in evaluations],
        "proxies": [
            {"evaluation_id": each.id, **dataclasses.asdict(proxy)}
            for each in evaluations
            for proxy in each.proxies
        ],
        "outcomes": [_outcome_row(outcome) for outcome in outcomes],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(folder, rows)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}", why=error.strerror or str(error)) from error
    return RegistryCounts(**{name: len(rows[name]) for name in _TABLES})


def read_registry(folder: Path, store: Store) -> RegistryCounts:
    """Put all records of an export into a registry; records that it holds are not put again.

    Raises:
        StoreError: if the folder is not a complete export, or the registry contradicts it.
    """
    rows = _read_tables(folder)
    checkpoints = {row["id"]: _checkpoint(row) for row in rows["checkpoints"]}
    proxies: dict[str, list[Proxy]] = {}
    for row in rows["proxies"]:
        values = {key: value for key, value in row.items() if key != "evaluation_id"}
        proxies.setdefault(row["evaluation_id"], []).append(
            _record("proxies", row["evaluation_id"], partial(Proxy, **values))
        )
    evaluations = [_evaluation(row, checkpoints, proxies) for row in rows["evaluations"]]
    outcomes = [_outcome(row) for row in rows["outcomes"]]
    order = {id_: place for place, id_ in enumerate(_parents_first(checkpoints))}
    evaluations.sort(key=lambda each: order[each.checkpoint.id])  # stable: the oldest first
    new = [store.put_evaluation(evaluation).is_new for evaluation in evaluations]
    new += [store.put_outcome(outcome).is_new for outcome in outcomes]
    return RegistryCounts(**{name: len(rows[name]) for name in _TABLES}, n_new=sum(new))


def _checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    recipe = checkpoint.recipe
    return {
        "id": checkpoint.id,
        "uri": checkpoint.uri,
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "step": checkpoint.step,
        "parents": list(checkpoint.parents),
        "recipe": None if recipe is None else json.dumps(dataclasses.asdict(recipe)),
    }


def _evaluation_row(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "id": evaluation.id,
        "checkpoint_id": evaluation.checkpoint.id,
        "config": json.dumps(evaluation.config, default=str),
        "references": json.dumps(dict(evaluation.references)),
    }


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    values = dataclasses.asdict(outcome)
    return {"id": outcome.id, **values, "rl_recipe": json.dumps(values["rl_recipe"])}


def _write_tables(folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    files = {}
    for name in _TABLES:
        path = folder / f"{name}.parquet"
        table = pa.Table.from_pylist([dict(row) for row in rows[name]], schema=_schema(name))
        pyarrow.parquet.write_table(table, path, compression="zstd")
        files[path.name] = {"sha256": file_sha256(path), "rows": len(rows[name])}
    # Last, because a folder without it is not an export: the writer may be killed before.
    about = {"format": FORMAT, "rlready": version("rlready"), "files": files}
    (folder / MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _schema(name: str) -> pa.Schema:
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    names = {
        "checkpoints": {"id": text, "uri": text, "name": text, "kind": text, "step": whole,
                        "parents": pa.list_(text), "recipe": text},
        "evaluations": {"id": text, "checkpoint_id": text, "config": text, "references": text},
        "proxies": {"evaluation_id": text, "name": text, "value": number, "se": number,
                    "unit": text, "benchmark": text, "benchmark_digest": text, "n_problems": whole,
                    "n_samples": whole, "evaluator_version": text, "se_within": number,
                    "protocol_digest": text},
        "outcomes": {"id": text, "checkpoint_id": text, "algorithm": text, "budget": number,
                     "budget_unit": text, "statistic": text, "benchmark": text, "value": number,
                     "se": number, "seed": whole, "n_evaluations": whole, "rl_recipe": text,
                     "benchmark_digest": text, "protocol_digest": text, "evaluator_version": text,
                     "rl_checkpoint_id": text, "replaces": text},
    }  # fmt: skip
    return pa.schema(list(names[name].items()))


def _read_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table, after a check of format, digests and columns."""
    import pyarrow
    import pyarrow.parquet

    if not (folder / MANIFEST).is_file():
        raise StoreError(
            f"{folder} is not an export of a registry",
            why=f"it holds no {MANIFEST}",
            fix="Name the folder that `rlready export` wrote",
        )
    about = read_json_object(folder / MANIFEST, StoreError, fix=_FIX)
    if about.get("format") != FORMAT:
        raise StoreError(
            f"{folder} has the format {about.get('format')!r}",
            why=f"this rlready reads format {FORMAT}",
            fix="Use the version of rlready that wrote it, or a newer one",
        )
    files = about.get("files")
    tables = {}
    for name in _TABLES:
        path = folder / f"{name}.parquet"
        entry = files.get(path.name) if isinstance(files, dict) else None
        if not path.is_file() or not isinstance(entry, dict):
            raise StoreError(
                f"{folder} has no {path.name}, or {MANIFEST} does not name it", fix=_FIX
            )
        if file_sha256(path) != entry.get("sha256"):
            raise StoreError(f"{path} does not match its digest in {MANIFEST}", fix=_FIX)
        check_expansion(path, StoreError)
        try:
            table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise StoreError(f"{path} is not a Parquet file", why=reason, fix=_FIX) from error
        if not table.schema.equals(_schema(name), check_metadata=False):
            raise StoreError(f"{path} has other columns than those of format {FORMAT}", fix=_FIX)
        tables[name] = table.to_pylist()
    return tables


def _checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    values = None if row["recipe"] is None else _json(row, "recipe")
    recipe = None if values is None else _record("checkpoints", row["id"], lambda: Recipe(**values))
    return _record(
        "checkpoints",
        row["id"],
        lambda: Checkpoint(
            uri=row["uri"],
            fingerprint=row["id"],
            name=row["name"],
            kind=row["kind"],
            step=row["step"],
            recipe=recipe,
            parents=tuple(row["parents"] or ()),
        ),
    )


def _evaluation(
    row: Mapping[str, Any],
    checkpoints: Mapping[str, Checkpoint],
    proxies: Mapping[str, Sequence[Proxy]],
) -> Evaluation:
    if row["checkpoint_id"] not in checkpoints:
        raise StoreError(
            f"evaluation {row['id']} names the checkpoint {row['checkpoint_id']}, which the export "
            "does not hold",
            fix=_FIX,
        )
    evaluation = _record(
        "evaluations",
        row["id"],
        lambda: Evaluation(
            checkpoint=checkpoints[row["checkpoint_id"]],
            proxies=tuple(proxies.get(row["id"], ())),
            config=_json(row, "config"),
            references=_json(row, "references"),
        ),
    )
    if evaluation.id != row["id"]:
        raise StoreError(f"evaluation {row['id']} has the id {evaluation.id} by its content")
    return evaluation


def _outcome(row: Mapping[str, Any]) -> Outcome:
    values = {key: value for key, value in row.items() if key != "id"}
    values["rl_recipe"] = _json(row, "rl_recipe")
    outcome = _record("outcomes", row["id"], lambda: Outcome(**values))
    if outcome.id != row["id"]:
        raise StoreError(f"outcome {row['id']} has the id {outcome.id} by its content")
    return outcome


def _record(table: str, id_: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except (RecordError, TypeError, ValueError) as error:
        raise StoreError(f"{table}.parquet, record {id_} is invalid", why=str(error)) from error


def _json(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        value = parse_json(row[name], constant=float)
    except (TypeError, ValueError) as error:
        raise StoreError(f"record {row['id']}: {name} is not JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise StoreError(f"record {row['id']}: {name} is not a JSON object")
    return value


def _parents_first(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """Return the ids in an order in which each checkpoint comes after its parents."""
    order: dict[str, None] = {}
    waiting = list(checkpoints)
    while waiting:
        ready = [i for i in waiting if all(p in order for p in checkpoints[i].parents)]
        if not ready:
            missing = {p for i in waiting for p in checkpoints[i].parents} - set(checkpoints)
            raise StoreError(
                "the export does not hold all parents of its checkpoints",
                why=f"missing: {', '.join(sorted(missing)) or 'none, but they form a circle'}",
                fix=_FIX,
            )
        order |= dict.fromkeys(ready)
        waiting = [i for i in waiting if i not in order]
    return list(order)
