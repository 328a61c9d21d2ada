"""Rows of benchmark files and hub data sets, each with its place (file and line or row).

Local files are JSON lines (`.jsonl`, `.jsonl.gz`), CSV with a header (`.csv`), Parquet
(`.parquet`) and JSON lists (`.json`; JSON lines if no bracket comes first), UTF-8 throughout. They
may come from any source, so that the sizes of lines and files and the number of rows are limited.
An absent field, a null and an empty CSV cell all mean a missing value.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlready.registry.compressed_files import DAMAGE, check_expansion
from rlready.registry.errors import BenchmarkError
from rlready.registry.foreign_files import parse_json, read_text

MAX_LINE_BYTES = 4 << 20
"""Largest line of a text file. The longest problem of the seven usual benchmarks has 5 kB."""
MAX_ROWS = 1_000_000
MAX_FILE_BYTES = 1 << 30
"""Largest size of a file after decompression."""

MAX_LIST_BYTES = 256 << 20
"""Largest JSON list, which is read as a whole."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet", ".json")

_BATCH_ROWS = 1024


class Row(NamedTuple):
    """A row and its place, for example `aime.jsonl, line 3`."""

    where: str
    values: Mapping[str, Any]


Rows = Iterator[Row]
Columns = Callable[[str, Sequence[str]], list[str]]
"""Returns the columns to read from the name and columns of a table, or raises an error."""


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


def file_rows(path: Path, columns: Columns) -> Rows:
    """Return the rows of a local file, in their order.

    Raises:
        BenchmarkError: if the file is missing, of an unknown form, damaged, or over a limit.
    """
    suffix = suffix_of(path)
    if not path.is_file():
        raise BenchmarkError(f"there is no file {path}", fix="Check the path")
    check_expansion(path, BenchmarkError)
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    if suffix == ".csv":
        return _csv_rows(path, columns)
    return _json_list_rows(path) if suffix == ".json" and _is_list(path) else _json_rows(path)


def suffix_of(path: Path) -> str:
    """Return the file's suffix, one of `SUFFIXES`; raise BenchmarkError for another or a folder."""
    if path.is_dir():
        raise BenchmarkError(f"{path} is a folder, not a file", fix="Name a file in it")
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
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
        _check_count(where, len(table))
        # Read only these columns, so that pictures in other columns are not decoded.
        table = table.select_columns(columns(where, table.column_names))
        for number, values in enumerate(table, start=1):
            yield Row(f"{where}, row {number}", values)


def _json_rows(path: Path) -> Rows:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _object_row(where, _parsed(line, where, "Write one JSON object a line"))


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _json_list_rows(path: Path) -> Rows:
    fix = "Write it as JSON lines, UTF-8, one object a line (.jsonl)"
    text = read_text(path, BenchmarkError, fix, MAX_LIST_BYTES)
    rows = _parsed(text, str(path), "Write a list of JSON objects, or one object a line (.jsonl)")
    _check_count(str(path), len(rows))
    for number, values in enumerate(rows, start=1):
        yield _object_row(f"{path}, item {number}", values)


def _parsed(text: str, where: str, fix: str) -> Any:
    try:
        return parse_json(text, exact=True)
    except ValueError as error:
        raise BenchmarkError(f"{where} is not JSON", why=str(error), fix=fix) from error


def _object_row(where: str, values: object) -> Row:
    if not isinstance(values, dict):
        fix = 'Write one object a line, such as {"problem": "...", "answer": "..."}'
        if isinstance(values, list):
            fix += ", or give a file with one list the suffix .json"
        raise BenchmarkError(f"{where} is not a JSON object but a {type(values).__name__}", fix=fix)
    return Row(where, values)


def _csv_rows(path: Path, columns: Columns) -> Rows:
    reader = csv.reader(_lines(path), strict=True)
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


def _parquet_rows(path: Path, columns: Columns) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_count(str(path), file.metadata.num_rows)
            needed = columns(str(path), file.schema_arrow.names)
            number = n_bytes = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=needed):
                n_bytes += batch.nbytes
                if n_bytes > MAX_FILE_BYTES:
                    raise _too_large(f"{path} has more than {MAX_FILE_BYTES} bytes")
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", values)
    # pyarrow raises both for a damaged file.
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(
            f"{path} cannot be read as Parquet", why=str(error), fix="Write the file again"
        ) from error


def _lines(path: Path) -> Iterator[str]:
    """Yield decoded lines with their line ends; nothing is read beyond the limits."""
    number = n_bytes = 0
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        while True:
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
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
            if len(line) > MAX_LINE_BYTES:
                raise BenchmarkError(
                    f"{where} is longer than {MAX_LINE_BYTES} bytes",
                    why="no problem is that long",
                    fix="Check that the file has one problem per line",
                )
            if n_bytes > MAX_FILE_BYTES:
                raise _too_large(f"{path} has more than {MAX_FILE_BYTES} bytes")
            _check_count(str(path), number)
            try:
                # The file may begin with a byte order mark, which spreadsheets write.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BenchmarkError(
                    f"{where} is not UTF-8",
                    why=f"byte {error.start} of the line is 0x{line[error.start]:02x}",
                    fix="Save the file as UTF-8",
                ) from error


def _check_count(where: str, n_rows: int) -> None:
    if n_rows > MAX_ROWS:
        raise _too_large(f"{where} has more than {MAX_ROWS} rows")


def _too_large(what: str) -> BenchmarkError:
    return BenchmarkError(
        what,
        why="a benchmark of that size is probably the wrong file",
        fix="Keep the problems that you want to evaluate",
    )
