"""Files of other tools: the rows in them, within limits and without running any code.

JSON lines (also `.jsonl.gz`), JSON, CSV, Parquet, and the zip archives of inspect_ai (`.eval`) are
read. Files that need code to be read (pickles, torch files) are refused by name. Lines, files and
lists have a largest size, and rows are read one at a time wherever the form allows it.
"""

from __future__ import annotations

import gzip
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlready.registry.compressed_files import DAMAGE, check_expansion
from rlready.registry.errors import SamplesError
from rlready.registry.foreign_files import parse_json, read_text
from rlready.workflow.importers.source_rows import SourceRow, shown

MAX_LINE_BYTES = 256 << 20
"""Largest line. ms-swift writes a whole batch of completions into one line."""
MAX_JSON_BYTES = 512 << 20
"""Largest JSON file that is read as a whole."""
MAX_FILE_BYTES = 16 << 30
MAX_FILES = 20_000
"""Most files below a path. AReaL writes one file for each prompt."""

CODE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy", ".npz")
"""Files that may hold pickles: reading one can run its author's code."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet", ".eval")

_FIRST_ROWS = 50
"""Rows whose names decide which tool wrote a file. A log may begin with rows of training only."""
_BATCH_ROWS = 64


@dataclass(frozen=True)
class SourceFile:
    """A file of a known suffix.

    Args:
        path: the file.
        suffix: one of `SUFFIXES`.
    """

    path: Path
    suffix: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the fields in the first rows, in their order."""
        if self.suffix == ".eval":
            return ()
        if self.suffix == ".csv":
            return tuple(first_row(self.path))
        if self.suffix == ".parquet":
            return _parquet_names(self.path)
        names: dict[str, None] = {}
        try:
            for row in itertools.islice(self.rows(), _FIRST_ROWS):
                names |= dict.fromkeys(row.values)
                inner = row.values.get("data")  # verl nests its numbers
                if isinstance(inner, dict):
                    names |= dict.fromkeys(f"data.{name}" for name in inner)
        except SamplesError:
            if not names:
                raise
            # The reader of the file will report the row that is wrong.
        return tuple(names)

    def rows(self) -> Iterator[SourceRow]:
        """Yield the rows: lines, items of a JSON list, one JSON object, or rows of a table."""
        check_expansion(self.path, SamplesError)
        if self.suffix == ".parquet":
            return _parquet_rows(self.path)
        if self.suffix == ".csv":
            return _csv_rows(self.path)
        if self.suffix == ".json":
            return _json_rows(self.path)
        return _line_rows(self.path)


def files_below(path: Path) -> tuple[list[SourceFile], list[Path]]:
    """Return the readable files at or below a path in order, and those that may hold pickles.

    Raises:
        SamplesError: if nothing exists there, or too many files do.
    """
    if not path.exists():
        raise SamplesError(f"there is no file or folder {path}", fix="Correct the path")
    files, refused = [], []
    for each in _walk(path):
        name = each.name.lower()
        suffix = next((s for s in sorted(SUFFIXES, key=len)[::-1] if name.endswith(s)), None)
        if suffix is not None:
            files.append(SourceFile(each, suffix))
        elif name.endswith(CODE_SUFFIXES):
            refused.append(each)
        elif path.is_file():
            raise SamplesError(
                f"{path} has an unknown suffix",
                why=f"files with {', '.join(SUFFIXES)} are read",
                fix="Name another file, or correct its name",
            )
    return files, refused


def _walk(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names)]
        if len(found) > MAX_FILES:
            raise SamplesError(
                f"{path} holds more than {MAX_FILES} files",
                fix="Name the folder of the evaluation's output, or one file in it",
            )
    return found


def first_row(path: Path) -> list[str]:
    """Return the cells of the first line of a CSV file."""
    import csv

    with path.open("rb") as file:
        line = file.readline(1 << 20).decode("utf-8-sig", "replace")
    return next(csv.reader([line]), [])


def _line_rows(path: Path) -> Iterator[SourceRow]:
    lines = _lines(path)
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):  # lm-eval before 0.4.3 wrote a list into a .jsonl file
        yield from _json_rows(path)
        return
    for number, line in itertools.chain([first], lines):
        if line.strip():
            yield _object(path, f"line {number}", _parsed(path, f"line {number}", line))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    n_bytes = 0
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        for number in itertools.count(1):
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except DAMAGE as error:
                raise SamplesError(
                    f"{path} is damaged after line {number - 1}",
                    why=str(error),
                    fix="Copy the file again",
                ) from error
            if not line:
                return
            n_bytes += len(line)
            if len(line) > MAX_LINE_BYTES or n_bytes > MAX_FILE_BYTES:
                raise SamplesError(
                    f"{path}, line {number}: the line or the file is too large",
                    why=f"a line has {MAX_LINE_BYTES >> 20} MiB at most, a file "
                    f"{MAX_FILE_BYTES >> 30} GiB",
                    fix="Check that it is the right file",
                )
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise SamplesError(
                    f"{path}, line {number} is not UTF-8", why=error.reason, fix="Save it as UTF-8"
                ) from error


def parsed_json(text: str) -> Any:
    """Return the value of a JSON text; NaN and infinities become floats that getters refuse."""
    return parse_json(text, constant=float)


def _parsed(path: Path, place: str, text: str) -> Any:
    try:
        return parsed_json(text)
    except ValueError as error:
        fix = "Write one JSON object a line"
        if not text.endswith("\n"):
            fix = "The file ends here: if the run still writes it, try again later; else remove "
            fix += "the line"
        raise SamplesError(f"{path}, {place} is not JSON", why=str(error), fix=fix) from error


def _object(path: Path, place: str, value: Any) -> SourceRow:
    if not isinstance(value, dict):
        raise SamplesError(f"{path}, {place}: {shown(value)} is not a JSON object")
    return SourceRow(path, place, value)


def _json_rows(path: Path) -> Iterator[SourceRow]:
    text = read_text(path, SamplesError, "", MAX_JSON_BYTES)
    try:
        value = parsed_json(text)
    except ValueError as error:
        if "\n" not in text.strip():
            raise SamplesError(f"{path} is not JSON", why=str(error)) from error
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines[0].rstrip().endswith("}"):
            raise SamplesError(f"{path} is not JSON", why=str(error)) from error
        for number, line in enumerate(text.splitlines(keepends=True), 1):  # lines under .json
            if line.strip():
                yield _object(path, f"line {number}", _parsed(path, f"line {number}", line))
        return
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield _object(path, f"item {number}", item)
    else:
        yield _object(path, "the object", value)


def _csv_rows(path: Path) -> Iterator[SourceRow]:
    import csv

    lines = (line for _, line in _lines(path))
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if cells and len(cells) != len(header):
                raise SamplesError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells for {len(header)} columns"
                )
            if cells:
                values = {
                    name: _cell(cell)
                    for name, cell in zip(header, cells, strict=True)
                    if cell.strip()
                }
                yield SourceRow(path, f"line {reader.line_num}", values)
    except csv.Error as error:
        raise SamplesError(f"{path} is not CSV", why=str(error)) from error


def _cell(text: str) -> Any:
    """Return the number in a cell, or its text."""
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text


def _parquet_names(path: Path) -> tuple[str, ...]:
    import pyarrow
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield SourceRow(path, f"row {number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> SamplesError:
    reason = str(error).partition("\n")[0]
    return SamplesError(f"{path} cannot be read as Parquet", why=reason, fix="Copy the file again")
