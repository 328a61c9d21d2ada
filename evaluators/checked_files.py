"""Files that later runs read again, with a digest of their content.

A flipped bit or an edited digit must not be logged as a result. Therefore a file that does not
match its digest gets the suffix `.damaged` and is named in a warning, and the caller makes it
again. Files without a digest, from earlier versions, are accepted and get one when they are written
again.
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
    """A file whose content has changed since it was written."""


def read_back(path: Path, read: Callable[[Path], T], warn: Callable[[str], None]) -> T | None:
    """Read a file; return None if it is missing, or if it is damaged and was renamed.

    Args:
        path: the file.
        read: reads the file; any error means that the file is damaged.
        warn: called with a message about a damaged file.
    """
    if not path.is_file():
        return None
    try:
        return read(path)
    except (PermissionError, FileNotFoundError):  # renaming it would not help
        return None
    # The readers of zip, NumPy and JSON files raise errors of nearly any type for damaged files.
    except Exception as error:
        aside = put_aside(path)
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        warn(f"{path.name} is damaged ({reason}); it was renamed to {aside.name} and is made again")
        return None


def put_aside(path: Path) -> Path:
    """Rename a damaged file, replacing an older file of the new name; return the new path."""
    return path.replace(path.with_suffix(".damaged"))


def with_digest(values: Mapping[str, Any]) -> str:
    """Return an object as JSON text, together with its digest."""
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
    """Check that a table is unchanged; one without a digest is accepted.

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
    # A digest of the values, so that encodings and the borders of chunks do not matter.
    sha = hashlib.sha256()
    for name in sorted(table.column_names):
        sha.update(json.dumps([name, table[name].to_pylist()]).encode())
    return sha.hexdigest()
