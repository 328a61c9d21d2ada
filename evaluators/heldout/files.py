"""Rows of held-out files: JSON lines, a JSON list (`.json`) or Parquet (`.parquet`).

JSON lines may have any other name and be packed (`.gz`). A `.json` file whose first character is
not a bracket holds JSON lines too.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlready.evaluators.heldout.rows import FORMATS, KEYS
from rlready.registry.compressed_files import DAMAGE, check_expansion
from rlready.registry.errors import BenchmarkError
from rlready.registry.foreign_files import parse_json

MAX_LIST_BYTES = 256 << 20
"""Largest JSON list, which is read as a whole. JSON lines have no such limit."""

_BATCH_ROWS = 256


class ExampleRow(NamedTuple):
    """A row, its number among the lines or items, and its place for messages."""

    where: str
    name: str
    values: Mapping[str, Any]


def example_rows(path: Path) -> Iterator[ExampleRow]:
    """The rows of a held-out file, in its order.

    Raises:
        BenchmarkError: if the file cannot be read, or a row is not a JSON object.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path)
    return _list_rows(path) if _is_list(path) else _json_lines(path)


def _is_list(path: Path) -> bool:
    if not path.name.lower().removesuffix(".gz").endswith(".json"):
        return False
    return next((line for line in _lines(path) if line.strip()), b"").lstrip().startswith(b"[")


def _json_lines(path: Path) -> Iterator[ExampleRow]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            values = _parsed(line, where, "Write one JSON object a line")
            yield _row(where, f"line-{number}", values)


def _list_rows(path: Path) -> Iterator[ExampleRow]:
    parts, n_bytes = [], 0
    for line in _lines(path):
        n_bytes += len(line)
        if n_bytes > MAX_LIST_BYTES:
            raise BenchmarkError(
                f"{path} is a JSON list of more than {MAX_LIST_BYTES} bytes",
                why="it is read as a whole",
                fix="Write it as JSON lines, one object a line (.jsonl)",
            )
        parts.append(line)
    fix = "Write a list of JSON objects, or one object a line (.jsonl)"
    for number, values in enumerate(_parsed(b"".join(parts), str(path), fix), start=1):
        yield _row(f"{path}, item {number}", f"item-{number}", values)


def _parquet_rows(path: Path) -> Iterator[ExampleRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        check_expansion(path, BenchmarkError)
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # Only what is read: a picture in another column would be loaded otherwise.
            needed = [name for name in names if name in KEYS] or names
            for batch in file.iter_batches(_BATCH_ROWS, columns=needed):
                for values in batch.to_pylist():
                    number += 1
                    yield ExampleRow(f"{path}, row {number}", f"row-{number}", values)
    # pyarrow raises both for a damaged file.
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(
            f"{path} cannot be read as Parquet", why=str(error), fix="Write the file again"
        ) from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        check_expansion(path, BenchmarkError)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(b"\xef\xbb\xbf")
    except (*DAMAGE, OSError) as error:
        raise BenchmarkError(f"held-out file {path} cannot be read", why=str(error)) from error


def _parsed(text: bytes, where: str, fix: str) -> Any:
    try:
        return parse_json(text.decode("utf-8"))
    except ValueError as error:
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise BenchmarkError(f"{where} is not {kind}", why=str(error), fix=fix) from error


def _row(where: str, name: str, values: Any) -> ExampleRow:
    if not isinstance(values, dict):
        raise BenchmarkError(
            f"{where} holds a {type(values).__name__}", fix=f"Write a JSON object with {FORMATS}"
        )
    return ExampleRow(where, name, values)
