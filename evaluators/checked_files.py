"""Files that are read in a later run and contain a digest of their content.

A number from a disk is a result only if it is the number that was written: a flipped bit or an
edited digit must not be logged as a result. A file that does not match its digest is renamed to the
suffix `.damaged`, named in a warning, and made again by the caller. Files without a digest, from
earlier versions, are accepted, and get one when they are written the next time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlready.registry.foreign_files import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_DIGEST = "digest"
_TABLE_DIGEST = b"rlready.digest"


class DamagedError(Exception):
    """The content of a file is not what was written into it."""


def read_back(path: Path, read: Callable[[Path], T], warn: Callable[[str], None]) -> T | None:
    """Return what a reader returns for a file; None if it is missing, or damaged and renamed.

    Args:
        path: the file.
        read: the reader; any error of it means that the file is damaged.
        warn: called with a message about a damaged file.
    """
    if not path.is_file():
        return None
    try:
        return read(path)
    except (PermissionError, FileNotFoundError):  # moving it away would not help
        return None
    # Damage can make the readers of zip, NumPy and JSON files raise nearly anything.
    except Exception as error:
        aside = put_aside(path)
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        warn(f"{path.name} is damaged ({reason}); it was renamed to {aside.name} and is made again")
        return None


def put_aside(path: Path) -> Path:
    """Rename a damaged file, replacing an older file of the new name; return the new path."""
    return path.replace(path.with_suffix(".damaged"))


def with_digest(values: Mapping[str, Any]) -> str:
    """Return the JSON text of an object and its digest."""
    return json.dumps({**values, _DIGEST: _digest(values)})


def without_digest(text: str) -> dict[str, Any]:
    """Return the object that `with_digest` wrote.

    Raises:
        DamagedError: if its digest does not match.
        ValueError: if the text is not a JSON object.
    """
    values = parse_json(text, constant=float)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    written = values.pop(_DIGEST, None)
    if written is not None and written != _digest(values):
        raise DamagedError("its content does not match its digest")
    return values


def table_with_digest(table: pa.Table) -> pa.Table:
    """Return the table with a digest of all its columns in its metadata."""
    return table.replace_schema_metadata({_TABLE_DIGEST: _table_digest(table)})


def check_table(table: pa.Table) -> None:
    """Return if a table is unchanged, or has no digest.

    Raises:
        DamagedError: if a column, a name or a value has changed.
    """
    written = (table.schema.metadata or {}).get(_TABLE_DIGEST)
    try:
        if written is not None and written.decode() != _table_digest(table):
            raise DamagedError("its content does not match its digest")
    except (TypeError, ValueError) as error:  # bytes that are not text, or of another type
        raise DamagedError(str(error)) from error


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _table_digest(table: pa.Table) -> str:
    # By values, so that encodings and the borders of chunks do not matter.
    sha = hashlib.sha256()
    for name in sorted(table.column_names):
        sha.update(json.dumps([name, table[name].to_pylist()]).encode())
    return sha.hexdigest()
