"""Rows of local files and hub data sets, each with its place (file and line or row).

Local files are JSON lines (`.jsonl`), CSV with a header (`.csv`), Parquet (`.parquet`) and JSON
lists (`.json`; JSON lines if no bracket comes first), UTF-8 throughout; text files may be
compressed (`.gz`). They may come from any source, so that the sizes of lines and files and the
number of rows are limited (`FileKind`). An absent field, a null and an empty CSV cell all mean a
missing value.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlready.registry.compressed_files import DAMAGE, check_expansion
from rlready.registry.errors import BenchmarkError
from rlready.registry.foreign_files import parse_json

MAX_ROWS = 1_000_000
MAX_LIST_BYTES = 256 << 20
"""Largest JSON list, which is read as a whole."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet", ".json", ".json.gz")

_BATCH_ROWS = 256
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A row and its place, for example `aime.jsonl, line 3`."""

    where: str
    values: Mapping[str, Any]


Rows = Iterator[Row]
Columns = Callable[[str, Sequence[str]], list[str]]
"""Returns the columns to read from the name and columns of a table, or raises an error."""


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """What the rows of a file are, and the limits of such files.

    Args:
        row: what a row is, for messages.
        fields: a row's fields, for messages.
        max_line_bytes: largest line of a text file.
        max_file_bytes: largest size of a file after decompression.
        is_exact: whether numbers with a point are read as `Decimal`.
        takes_any_suffix: whether a file with another suffix is read as JSON lines.
    """

    row: str
    fields: str
    max_line_bytes: int
    max_file_bytes: int
    is_exact: bool = False
    takes_any_suffix: bool = False


PROBLEMS = FileKind(
    row="problem",
    fields='{"problem": "...", "answer": "..."}',
    max_line_bytes=4 << 20,  # the longest problem of the seven usual benchmarks has 5 kB
    max_file_bytes=1 << 30,
    is_exact=True,
)


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set on the Hugging Face hub.

    Args:
        id: `owner/name`. `datasets` first looks for a local folder with this name.
        configs: names of the configs, in the order of reading; empty for the default config.
        split: name of the split.
        revision: commit or branch; None for the newest.
    """

    id: str
    configs: tuple[str, ...] = ()
    split: str = "test"
    revision: str | None = None

    def __str__(self) -> str:
        """Id, configs, split and revision on one line."""
        configs = f" [{', '.join(self.configs)}]" if self.configs else ""
        return f"{self.id}{configs} {self.split}" + (f"@{self.revision}" if self.revision else "")


def file_rows(path: Path, columns: Columns, kind: FileKind = PROBLEMS) -> Rows:
    """Return the rows of a local file, in their order.

    Args:
        path: the file.
        columns: chooses the columns of a table, or refuses it.
        kind: what the rows are.

    Raises:
        BenchmarkError: if the file is missing, of an unknown form, damaged, or over a limit.
    """
    suffix = suffix_of(path, kind)
    if not path.is_file():
        raise BenchmarkError(f"there is no file {path}", fix="Check the path")
    check_expansion(path, BenchmarkError)
    if suffix == ".parquet":
        return _parquet_rows(path, columns, kind)
    if suffix.startswith(".csv"):
        return _csv_rows(path, columns, kind)
    if suffix in (".json", ".json.gz") and _is_list(path):
        return _json_list_rows(path, kind)
    return _json_rows(path, kind)


def suffix_of(path: Path, kind: FileKind = PROBLEMS) -> str:
    """Return the file's suffix, one of `SUFFIXES`, or the last one where any is taken.

    Raises:
        BenchmarkError: for a folder, or another suffix.
    """
    if path.is_dir():
        raise BenchmarkError(f"{path} is a folder, not a file", fix="Name a file in it")
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    if kind.takes_any_suffix:
        return path.suffix
    raise BenchmarkError(
        f"the format of {path} is unknown",
        why=f"its name does not end with one of {', '.join(SUFFIXES)}",
        fix="Convert the file, or correct its name",
    )


def hub_rows(name: str, hub: HubDataset, columns: Columns) -> Rows:
    """Yield the rows of all configs of a hub data set, without running code from the hub.

    Raises:
        BenchmarkError: if `datasets` is not installed, or the data cannot be loaded.
    """
    local = f"Point it at a local file: --benchmark {name}=FILE"
    try:
        import datasets
    except ImportError as error:
        raise BenchmarkError(
            f"benchmark {name} is on the hub ({hub}), which needs `datasets`",
            why=str(error),
            fix=f"Install rlready[local], or: {local}",
        ) from error
    for config in hub.configs or (None,):
        where = f"{hub.id}{f' [{config}]' if config else ''}"
        try:
            table = datasets.load_dataset(
                hub.id, name=config, split=hub.split, revision=hub.revision
            )
        # A missing data set, no network, no rights, a server error, a broken file: the libraries
        # raise many types of errors, which all mean the same to a user.
        except Exception as error:
            raise BenchmarkError(
                f"benchmark {name} cannot be loaded from the hub ({hub})",
                why=f"{type(error).__name__}: {str(error)[:500]}",
                fix=local,
            ) from error
        _check_count(where, len(table), PROBLEMS)
        # Read only these columns, so that pictures in other columns are not decoded.
        table = table.select_columns(columns(where, table.column_names))
        for number, values in enumerate(table, start=1):
            yield Row(f"{where}, row {number}", values)


def _json_rows(path: Path, kind: FileKind) -> Rows:
    for number, line in enumerate(_lines(path, kind), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            values = _parsed(line, where, kind, "Write one JSON object a line")
            yield _object_row(where, values, kind)


def _is_list(path: Path) -> bool:
    try:
        with _open(path) as file:
            return bool(file.read(1 << 16).removeprefix(_BOM).lstrip().startswith(b"["))
    except DAMAGE:
        return False  # the reader of lines reports it


def _json_list_rows(path: Path, kind: FileKind) -> Rows:
    whole = dataclasses.replace(kind, max_line_bytes=MAX_LIST_BYTES, max_file_bytes=MAX_LIST_BYTES)
    text = "".join(_lines(path, whole))
    fix = "Write a list of JSON objects, or one object a line (.jsonl)"
    rows = _parsed(text, str(path), kind, fix)
    _check_count(str(path), len(rows), kind)
    for number, values in enumerate(rows, start=1):
        yield _object_row(f"{path}, item {number}", values, kind)


def _parsed(text: str, where: str, kind: FileKind, fix: str) -> Any:
    try:
        return parse_json(text, exact=kind.is_exact)
    except ValueError as error:
        raise BenchmarkError(f"{where} is not JSON", why=str(error), fix=fix) from error


def _object_row(where: str, values: object, kind: FileKind) -> Row:
    if not isinstance(values, dict):
        fix = f"Write one object a line, such as {kind.fields}"
        if isinstance(values, list):
            fix += ", or give a file with one list the suffix .json"
        raise BenchmarkError(f"{where} is not a JSON object but a {type(values).__name__}", fix=fix)
    return Row(where, values)


def _csv_rows(path: Path, columns: Columns, kind: FileKind) -> Rows:
    reader = csv.reader(_lines(path, kind), strict=True)
    where = f"{path}, line 1"
    try:
        header = next(reader, None)
        if header is None:
            return
        twice = sorted({field for field in header if header.count(field) > 1})
        if twice:
            raise BenchmarkError(f"{where} names the columns {twice} more than once")
        columns(f"{path} (its first line must be the header)", header)
        before = reader.line_num
        for cells in reader:
            where, before = f"{path}, line {before + 1}", reader.line_num
            if cells and len(cells) != len(header):
                raise BenchmarkError(
                    f"{where} has {len(cells)} cells, the header {len(header)}",
                    fix="Quote cells that contain commas or line breaks",
                )
            if cells:
                values = zip(header, cells, strict=True)
                yield Row(where, {field: cell if cell.strip() else None for field, cell in values})
    except csv.Error as error:
        raise BenchmarkError(
            f"{path} is not CSV after line {reader.line_num}",
            why=str(error),
            fix="Write it comma-separated, with double quotes",
        ) from error


def _parquet_rows(path: Path, columns: Columns, kind: FileKind) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_count(str(path), file.metadata.num_rows, kind)
            needed = columns(str(path), file.schema_arrow.names)
            number = n_bytes = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=needed):
                n_bytes += batch.nbytes
                if n_bytes > kind.max_file_bytes:
                    raise _too_large(f"{path} has more than {kind.max_file_bytes} bytes", kind)
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", values)
    # pyarrow raises both for a damaged file.
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(
            f"{path} cannot be read as Parquet", why=str(error), fix="Write the file again"
        ) from error


def _open(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _lines(path: Path, kind: FileKind) -> Iterator[str]:
    """Yield decoded lines with their line ends; nothing is read beyond the limits."""
    number = n_bytes = 0
    with _open(path) as file:
        while True:
            try:
                line = file.readline(kind.max_line_bytes + 1)
            except DAMAGE as error:
                raise BenchmarkError(
                    f"{path} is damaged after line {number}",
                    why=str(error),
                    fix="Copy the file again",
                ) from error
            if not line:
                return
            number += 1
            n_bytes += len(line)
            where = f"{path}, line {number}"
            if n_bytes > kind.max_file_bytes:
                raise _too_large(f"{path} has more than {kind.max_file_bytes} bytes", kind)
            if len(line) > kind.max_line_bytes:
                raise BenchmarkError(
                    f"{where} is longer than {kind.max_line_bytes} bytes",
                    why=f"no {kind.row} is that long",
                    fix=f"Check that the file has one {kind.row} per line",
                )
            _check_count(str(path), number, kind)
            try:
                # The file may begin with a byte order mark, which spreadsheets write.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BenchmarkError(
                    f"{where} is not UTF-8",
                    why=f"byte {error.start} of the line is 0x{line[error.start]:02x}",
                    fix="Save the file as UTF-8",
                ) from error


def _check_count(where: str, n_rows: int, kind: FileKind) -> None:
    if n_rows > MAX_ROWS:
        raise _too_large(f"{where} has more than {MAX_ROWS} rows", kind)


def _too_large(what: str, kind: FileKind) -> BenchmarkError:
    return BenchmarkError(
        what,
        why="a file of that size is probably the wrong one",
        fix=f"Keep the {kind.row}s that you want to evaluate, as JSON lines (.jsonl)",
    )
