r"""Read a file of the evaluations of an RL run as a table of texts.

    steps,gsm8k,gsm8k_se                       written by hand or by pandas (`;` and tabs too)
    Step,run-3 - eval/gsm8k,...__MIN,...__MAX  exported from wandb
    Wall time,Step,Value                       exported from TensorBoard
    steps,benchmark,value                      one row per number (`tag` for `benchmark`)
    {"log_history": [{"step": 10, ...}]}       trainer_state.json of transformers and TRL

Cells are separated by commas. If semicolons or tabs give the first line more columns, they are the
separator, and numbers may have a decimal comma. `curve_columns` chooses the columns to read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.registry.errors import CurveError
from rlready.registry.foreign_files import parse_json, read_text

VALUE = "value"
"""Name of the column of values where it is not named after a benchmark."""

PERCENT = "%"

_MAX_BYTES = 64 << 20

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+(?:e[+-]?\d+)?)", re.ASCII | re.IGNORECASE)
_SERIES = ("benchmark", "tag")
_OF_VALUE = (VALUE, "se", "stderr")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation: its place in the file, for messages, and its cells by column."""

    place: str
    cells: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CurveTable:
    """The content of a file of evaluations.

    Args:
        path: the file, for messages.
        columns: names, without spaces at the ends and without the index that pandas writes.
        rows: in the order of the file.
        decimal_comma: whether numbers may have a decimal comma.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    decimal_comma: bool = False

    def listed(self) -> str:
        """Return the names of the columns, for messages."""
        return ", ".join(self.columns)

    def number(self, row: Row, column: str, fix: str) -> float:
        """Return the finite number in a cell, without its percent sign.

        Raises:
            CurveError: if the cell holds no finite number.
        """
        text = row.cells[column]
        plain = text.removesuffix(PERCENT).rstrip()
        if self.decimal_comma:
            plain = _DECIMAL_COMMA.sub(r"\1.\2", plain)
        number = float(plain) if _NUMBER.fullmatch(plain) else math.nan
        if not math.isfinite(number):
            raise CurveError(
                f"{self.path}, {row.place}: {column} is {text!r}, not a finite number", fix=fix
            )
        return number


def read_table(path: Path) -> CurveTable:
    """Read a CSV file, or a JSON file if its name ends in `.json`.

    Raises:
        CurveError: if the file cannot be read or is not such a table; the message names the line.
    """
    # A file that is not UTF-8 is refused: a guess could change the name of a column.
    text = read_text(path, CurveError, "Export the benchmarks' columns as CSV in UTF-8", _MAX_BYTES)
    table = _of_json(path, text) if path.suffix.lower() == ".json" else _of_csv(path, text)
    return _one_column_a_series(table)


def _of_csv(path: Path, text: str) -> CurveTable:
    # Take the separator that gives the most columns; in a tie, the first of them.
    separator = max(",;\t", key=lambda mark: len(_first(text, mark)))
    try:
        lines = list(_cells(text, separator))
    except csv.Error as error:
        raise CurveError(f"{path} is not a CSV file", why=str(error)) from error
    if not lines:
        raise CurveError(f"{path} is empty", fix="Begin with a line of column names")
    header = [name.strip() for name in lines[0][1]]
    has_index = len(header) > 1 and header[0] == ""
    names = header[1:] if has_index else header
    repeated = sorted({name for name in names if names.count(name) > 1 and name})
    if repeated or "" in names:
        fault = (
            f"names the column {repeated[0]!r} twice" if repeated else "has a column without a name"
        )
        raise CurveError(f"{path} {fault}", why=f"its columns are {', '.join(header)}")
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise CurveError(
                f"{path}, line {line}: {len(cells)} cells for {len(header)} columns",
                fix="Separate cells by commas and write decimal points; decimal commas need "
                "semicolons between the cells",
            )
        values = [cell.strip() for cell in cells[has_index:]]
        rows.append(Row(place=f"line {line}", cells=dict(zip(names, values, strict=True))))
    return CurveTable(
        path=path, columns=tuple(names), rows=tuple(rows), decimal_comma=separator != ","
    )


def _cells(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, with their line numbers."""
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
    """Return the log history of a trainer's state, one row per entry."""
    try:
        # A loss may be NaN; that is refused only in a column that becomes a curve.
        state = parse_json(text, constant=str)
    except ValueError as error:
        raise CurveError(f"{path} is not a JSON file", why=str(error)) from error
    history = state.get("log_history") if isinstance(state, dict) else state
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise CurveError(
            f"{path} has no list `log_history` of JSON objects",
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
    """Give each benchmark a column, if each row names its benchmark."""
    lower = {name.lower(): name for name in table.columns}
    series = next((lower[name] for name in _SERIES if name in lower), None)
    if series is None or VALUE not in lower:
        return table
    value_columns = [lower[name] for name in _OF_VALUE if name in lower]
    others = [name for name in table.columns if name not in (series, *value_columns)]
    names = dict.fromkeys(row.cells[series] for row in table.rows)
    columns = [_named(name, part) for name in names for part in value_columns]
    if "" in names or len({*others, *columns}) < len(others) + len(columns):
        raise CurveError(
            f"{table.path} does not name one benchmark in each row of its column {series!r}",
            why=f"its columns are {table.listed()}",
        )

    def wide(row: Row) -> Row:
        cells = {name: row.cells[name] for name in others} | dict.fromkeys(columns, "")
        cells |= {_named(row.cells[series], part): row.cells[part] for part in value_columns}
        return Row(place=row.place, cells=cells)

    return CurveTable(
        path=table.path,
        columns=(*others, *columns),
        rows=tuple(wide(row) for row in table.rows),
        decimal_comma=table.decimal_comma,
    )


def _named(series: str, part: str) -> str:
    return series if part.lower() == VALUE else f"{series}_{part.lower()}"
