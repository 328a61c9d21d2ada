r"""The evaluations of an RL run as they stand in a file: a table of texts, whoever wrote it.

    steps,gsm8k,gsm8k_se                       written by hand or by pandas (`;` and tabs too)
    Step,run-3 - eval/gsm8k,...__MIN,...__MAX  exported from wandb
    Wall time,Step,Value                       exported from TensorBoard
    steps,benchmark,value                      one row for each number (`tag` for `benchmark`)
    {"log_history": [{"step": 10, ...}]}       trainer_state.json of transformers and TRL

Commas separate the cells unless the first line holds more columns separated by semicolons or tabs;
then a number may have a decimal comma. `rl_curve` says which columns are meant.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.registry.errors import CurveError
from rlready.registry.foreign_files import parse_json

VALUE = "value"
"""The column of the values where it is not named after a benchmark."""

PERCENT = "%"

_MAX_BYTES = 64 << 20

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+(?:e[+-]?\d+)?)", re.ASCII | re.IGNORECASE)
_SERIES = ("benchmark", "tag")
_OF_VALUE = (VALUE, "se", "stderr")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation: where it stands in the file, and its cells by column."""

    place: str
    cells: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CurveTable:
    """What a file of evaluations holds.

    Args:
        path: the file, for messages.
        columns: their names, without spaces at the ends; the index of pandas is left out.
        rows: in the order of the file.
        decimal_comma: whether numbers may have one.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    decimal_comma: bool = False

    def listed(self) -> str:
        """The names of the columns, for messages."""
        return ", ".join(self.columns)

    def number(self, row: Row, column: str, fix: str) -> float:
        """The finite number in a cell; a percent sign behind it is left out.

        Raises:
            CurveError: if the cell holds none.
        """
        text = row.cells[column]
        plain = text.removesuffix(PERCENT).rstrip()
        if self.decimal_comma:
            plain = _DECIMAL_COMMA.sub(r"\1.\2", plain)
        number = float(plain) if _NUMBER.fullmatch(plain) else math.nan
        if not math.isfinite(number):
            raise CurveError(
                f"{self.path}, {row.place}: {column} is {text!r}, no finite number", fix=fix
            )
        return number


def read_table(path: Path) -> CurveTable:
    """The table in a file: CSV, or JSON where its name ends in `.json`.

    Raises:
        CurveError: if the file cannot be read or holds no table, with the line.
    """
    try:
        # A file that is not UTF-8 is refused: a guess could change the name of a column.
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise CurveError(f"cannot read {path}", why=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise CurveError(
            f"{path} is no CSV file", why=str(error), fix="Save it as CSV in UTF-8"
        ) from error
    if len(content) > _MAX_BYTES:
        raise CurveError(
            f"{path} is larger than {_MAX_BYTES >> 20} MB",
            why="a curve has some thousand rows",
            fix="Export the columns of the benchmarks alone",
        )
    table = _of_json(path, text) if path.suffix.lower() == ".json" else _of_csv(path, text)
    return _one_column_a_series(table)


def _of_csv(path: Path, text: str) -> CurveTable:
    # The first of these that gives most columns; commas win a tie.
    separator = max(",;\t", key=lambda mark: len(_first(text, mark)))
    try:
        lines = list(_cells(text, separator))
    except csv.Error as error:
        raise CurveError(f"{path} is no CSV file", why=str(error)) from error
    if not lines:
        raise CurveError(f"{path} is empty", fix="Begin with a line of column names")
    header = [name.strip() for name in lines[0][1]]
    has_index = len(header) > 1 and header[0] == ""
    names = header[1:] if has_index else header
    repeated = sorted({name for name in names if names.count(name) > 1 and name})
    if repeated or "" in names:
        fault = (
            f"names the column {repeated[0]!r} twice" if repeated else "has a column without name"
        )
        raise CurveError(f"{path} {fault}", why=f"its columns are {', '.join(header)}")
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise CurveError(
                f"{path}, line {line}: {len(cells)} cells for {len(header)} columns",
                fix="Commas separate cells, and a point is the decimal mark. With semicolons "
                "between the cells, a decimal comma is read too",
            )
        values = [cell.strip() for cell in cells[has_index:]]
        rows.append(Row(place=f"line {line}", cells=dict(zip(names, values, strict=True))))
    return CurveTable(
        path=path, columns=tuple(names), rows=tuple(rows), decimal_comma=separator != ","
    )


def _cells(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with their lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    for row in reader:
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def _first(text: str, separator: str) -> list[str]:
    try:
        return next((row for _, row in _cells(text, separator)), [])
    except csv.Error:
        return []


def _of_json(path: Path, text: str) -> CurveTable:
    """The log history of a trainer's state, a row an entry."""
    try:
        # A loss or a norm may be NaN; the text is refused only in a column that is read.
        state = parse_json(text, constant=str)
    except ValueError as error:
        raise CurveError(f"{path} is no JSON file", why=str(error)) from error
    history = state.get("log_history") if isinstance(state, dict) else state
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise CurveError(
            f"{path} holds no list `log_history` of JSON objects",
            fix="Give trainer_state.json as transformers or TRL wrote it, or a CSV file",
        )
    columns = tuple(dict.fromkeys(name for entry in history for name in entry))
    rows = tuple(
        Row(
            place=f"entry {i} of log_history",
            cells={name: _text(entry.get(name)) for name in columns},
        )
        for i, entry in enumerate(history, 1)
    )
    if not rows:
        raise CurveError(f"{path} is empty", why="its `log_history` holds no entries")
    return CurveTable(path=path, columns=columns, rows=rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _one_column_a_series(table: CurveTable) -> CurveTable:
    """The table with a column for each benchmark, where each row names its own."""
    lower = {name.lower(): name for name in table.columns}
    series = next((lower[name] for name in _SERIES if name in lower), None)
    if series is None or VALUE not in lower:
        return table
    moved = [lower[name] for name in _OF_VALUE if name in lower]
    kept = [name for name in table.columns if name not in (series, *moved)]
    names = dict.fromkeys(row.cells[series] for row in table.rows)
    columns = [_named(name, part) for name in names for part in moved]
    if "" in names or len({*kept, *columns}) < len(kept) + len(columns):
        raise CurveError(
            f"{table.path} does not name one benchmark in each row of its column {series!r}",
            why=f"its columns are {table.listed()}",
        )
    return CurveTable(
        path=table.path,
        columns=(*kept, *columns),
        rows=tuple(_spread(row, series, kept, columns, moved) for row in table.rows),
        decimal_comma=table.decimal_comma,
    )


def _spread(
    row: Row, series: str, kept: Sequence[str], columns: Sequence[str], moved: Sequence[str]
) -> Row:
    cells = {name: row.cells[name] for name in kept} | dict.fromkeys(columns, "")
    cells |= {_named(row.cells[series], part): row.cells[part] for part in moved}
    return Row(place=row.place, cells=cells)


def _named(series: str, part: str) -> str:
    return series if part.lower() == VALUE else f"{series}_{part.lower()}"
