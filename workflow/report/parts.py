"""What a report is made of: sections with text, figures and tables, all of plain values.

Values come from models and from other people's files. Nothing here is HTML: the template escapes
every text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

Value = str | int | float | bool | None

_FORMULA = ("=", "+", "-", "@", "\t")
"""Spreadsheets take a text that begins so for a formula."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval that a cell of a table draws; all numbers on the scale of its column."""

    low: float
    high: float
    value: float
    recorded: float | None = None

    @property
    def numbers(self) -> list[float]:
        """All numbers that are drawn."""
        numbers = (self.low, self.high, self.value, self.recorded)
        return [number for number in numbers if number is not None]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Args:
        value: what is sorted and what the CSV file holds.
        text: what is shown; by default the value.
        details: lines that a reader can open.
        interval: drawn in place of a text.
    """

    value: Value
    text: str = ""
    details: Sequence[str] = ()
    interval: Interval | None = None

    @property
    def shown(self) -> str:
        """What is shown."""
        return self.text or ("" if self.value is None else str(self.value))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its heading, its name in the CSV file, and whether it holds numbers."""

    title: str
    key: str
    is_number: bool = True
    is_shown: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted, filtered and downloaded.

    Args:
        id: unique on the page; also the name of the CSV file.
        caption: what it shows.
        columns: of each row.
        rows: the cells.
        marked: rows that are highlighted, by position, with a short text.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    marked: Mapping[int, str] = field(default_factory=dict)

    def csv_text(self) -> str:
        """Return the table as CSV, also the columns that the page does not show."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for row in self.rows:
            writer.writerow([_csv_value(cell.value) for cell in row])
        return text.getvalue()

    def csv_address(self) -> str:
        """Return the CSV file as an address that holds its content."""
        return "data:text/csv;charset=utf-8," + quote(self.csv_text())

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Ends of the scale on which cells draw their intervals.

        One hopeless checkpoint would make all other intervals look like points: the scale begins at
        the median of the low ends.
        """
        intervals = [cell.interval for row in self.rows for cell in row if cell.interval]
        if not intervals:
            return 0.0, 1.0
        low = sorted(each.low for each in intervals)[len(intervals) // 2]
        return low, max(number for each in intervals for number in each.numbers)


def _csv_value(value: Value) -> Value:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return "" if value is None else value


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An element of a figure: its tag, its attributes, and its text (of a shape: what it means)."""

    tag: str
    attributes: Mapping[str, str | float]
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Key:
    """An entry of a figure's legend: the style of the marks and what they are."""

    style: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure.

    Args:
        id: unique on the page.
        title: above the figure.
        text: what it shows, for readers who do not see it.
        width, height: of its own units.
        marks: in the order in which they are drawn.
        keys: the legend.
    """

    id: str
    title: str
    text: str
    width: float
    height: float
    marks: Sequence[Mark]
    keys: Sequence[Key] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report.

    Args:
        id: unique on the page.
        title: its heading.
        words: paragraphs.
        figures: side by side where there is room.
        tables: below them.
        notes: a list below the tables.
    """

    id: str
    title: str
    words: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report.

    Args:
        title: of the page.
        subtitle: the target and what it rests on.
        verdict: one sentence to act on.
        chosen: checkpoints to train, each with its reasons.
        remarks: what tempers the verdict.
        missing: what the page cannot show yet, and how to get it.
        sections: in order.
        facts: for `rlready report --json`.
    """

    title: str
    subtitle: str
    verdict: str
    chosen: Mapping[str, Sequence[str]]
    remarks: Sequence[str]
    missing: Sequence[str]
    sections: Sequence[Section]
    facts: Mapping[str, Any]
