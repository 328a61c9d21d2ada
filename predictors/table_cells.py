"""Read the cells of people's tables as numbers: missing ones, percent signs, mixed units.

A cell is a number, a number with a percent sign, or one of the words in `MISSING`. Anything else is
refused, and the message names the row and the column. A column has percent signs in all of its
cells or in none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

EMPTY = frozenset(["", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"])
"""Cells without a value, in lower case, in columns of numbers and of groups."""

MISSING = EMPTY | {
    *("-", "--", "---", "–", "—", ".", "...", "?", "/", "%", "n.a.", "n.a", "nil", "missing"),
    *("unknown", "tbd", "todo", "nd", "n.d.", "not run", "not measured", "pending"),
}
"""Cells that stand for a number that was not measured, in lower case."""

VERSIONS = "versions"
"""Key of a table's `attrs` that says, by column, how a column was measured."""

_LARGEST = 1e100
"""Limit of the size of a number, so that its square is finite too."""

_ROWS_NAMED = 5
_TEXT_SHOWN = 40

_JUMP = 30.0
"""The units differ by a factor of 100; typical scores of one column differ by less than this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The numbers of a column.

    Args:
        values: (n,) numbers; NaN where missing. `61%` is 61.
        is_percent: whether they have percent signs.
        words: count of each word for a missing number, as the user spells it.
    """

    values: NDArray[np.float64]
    is_percent: bool = False
    words: Counter[str] = field(default_factory=Counter)

    def note(self, name: str) -> str:
        """Describe how the cells of a column were read; empty if all are numbers or empty."""
        n = int(np.isfinite(self.values).sum())
        parts = [f"{count} {word!r} read as missing" for word, count in self.words.items()]
        if self.is_percent:
            parts.insert(0, f"{n} numbers with a percent sign read as percent")
        return f"{name}: {', '.join(parts)}" if parts else ""


def read_cells(column: pd.Series, name: str, rows: Sequence[str]) -> Cells:
    """Return the numbers of a column of a table.

    Args:
        column: numbers or texts.
        name: name of the column, for messages.
        rows: (n,) names of the rows, for messages.

    Raises:
        ConfigError: if a cell is neither a number nor a word for a missing number, if it is
            infinite or very large, or if only some of the numbers have a percent sign.

    Example:
        >>> read_cells(pd.Series(["61%", "n/a"]), "post", ["a", "b"]).values
        array([61., nan])
    """
    import pandas as pd

    read = pd.to_numeric(column, errors="coerce")
    values = read.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    has_text = np.isnan(values) & column.notna().to_numpy()
    is_signed, words = np.zeros(len(values), dtype=bool), Counter[str]()
    for row in np.flatnonzero(has_text).tolist():
        text = str(column.iloc[row]).strip()
        if text.lower() in MISSING:
            words[text] += bool(text)
            continue
        number = re.fullmatch(r"([-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s*[%％]", text)
        try:
            value = float(number[1] if number else text)
        except ValueError:
            raise ConfigError(
                f"column {name!r} is not numeric: {_place(row, rows)} holds {text[:_TEXT_SHOWN]!r}",
                fix="Write a number, or leave the cell empty (or n/a) if it was not measured",
            ) from None
        values[row], is_signed[row] = value, number is not None
    too_large = np.flatnonzero(np.abs(values) > _LARGEST)
    if len(too_large):
        row = int(too_large[0])
        size = "an infinite number" if np.isinf(values[row]) else f"{values[row]:g}"
        raise ConfigError(
            f"column {name!r}: {_place(row, rows)} holds {size}",
            why=f"numbers above {_LARGEST:g} cannot be used",
            fix="Correct it, or leave the cell empty (or n/a) if it was not measured",
        )
    is_plain = np.isfinite(values) & ~is_signed
    if is_signed.any() and is_plain.any():
        raise ConfigError(
            f"column {name!r} mixes numbers with and without a percent sign",
            why=f"without: {named_rows(np.flatnonzero(is_plain), rows, values)}; "
            f"with: {named_rows(np.flatnonzero(is_signed), rows, values)}",
            fix="Write all of its numbers in one unit",
        )
    return Cells(values=values, is_percent=bool(is_signed.any()), words=+words)


def is_numeric(column: pd.Series) -> bool:
    """Return whether a column is meant to hold numbers: at least half of its cells do.

    A text in such a column is an error (`read_cells`), not a reason to skip the column.
    """
    import pandas as pd

    if column.dtype.kind in "fiu":
        return True
    if column.dtype.kind not in "OUST":
        return False
    texts = column[column.notna()].astype(str).str.strip().str.lower()
    texts = texts[~texts.isin(MISSING)]
    n_numbers = int(pd.to_numeric(texts.str.rstrip("%％ "), errors="coerce").notna().sum())
    return 0 < len(texts) <= 2 * n_numbers


def mixed_units(values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the rows that look like shares and those that look like percentages; None if alike.

    Scores from 0 to 100 count as mixed if some are at most 1, others are above 1, and the medians
    of both parts differ by a factor of more than 30. If a column of percentages really holds
    numbers below 1, the user can state its kind.
    """
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() < 0 or finite.max() > 100:
        return None
    shares = np.flatnonzero((values > 0) & (values <= 1))
    percent = np.flatnonzero(values > 1)
    if not len(shares) or not len(percent):
        return None
    if np.median(values[percent]) <= _JUMP * np.median(values[shares]):
        return None
    return shares, percent


def named_rows(
    positions: NDArray[np.intp], rows: Sequence[str], values: NDArray[np.float64] | None = None
) -> str:
    """Return the names of the first few of some rows as text, with their numbers if given."""
    names = [
        rows[i] if values is None else f"{values[i]:g} in {_place(i, rows)}"
        for i in positions[:_ROWS_NAMED]
    ]
    more = len(positions) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _place(row: int, rows: Sequence[str]) -> str:
    name = str(rows[row])
    plain = f"row {row + 1}"
    return plain if name in ("", str(row)) else f"{plain} ({name[:_TEXT_SHOWN]})"
