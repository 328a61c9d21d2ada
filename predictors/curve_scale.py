"""Convert scores to shares between 0 and 1.

The unit is never guessed: 55.0 beside a pass@1 of 0.40 may be a percentage or a mistake.
Percentages need `--percent` or a percent sign after each number. A column that seems to mix units
is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rlready.predictors.curve_file import PERCENT, CurveTable, Row
from rlready.registry.errors import CurveError

MAX_SE = 0.5
"""Largest possible standard error of a score between 0 and 1."""

_JUMP = 30.0
"""With `--percent`, a score of at most 1 and a neighbour this many times larger mix two units.

The units differ by a factor of 100; RL changes a score by less between two points of a curve."""


def as_share(value: float, what: str, *, percent: bool) -> float:
    """Return a single score as a share between 0 and 1.

    Args:
        value: the score as the user gave it.
        what: its description, for messages.
        percent: whether it is a percentage.

    Raises:
        CurveError: if it is out of range, or --percent is given for a share.
    """
    if not percent:
        if not 0.0 <= value <= 1.0:
            raise CurveError(
                f"{what} is {value:g}, and a score is a share between 0 and 1",
                fix="If it is a percentage, add --percent" if 1.0 < value <= 100.0 else "",
            )
        return value
    if not 0.0 <= value <= 100.0:
        raise CurveError(f"{what} is {value:g} with --percent", fix="Give a number from 0 to 100")
    if 0.0 < value <= 1.0:
        raise CurveError(
            f"{what} is {value:g} with --percent, which would be a score of {value / 100:g}",
            why="a number up to 1 is more likely a share than a percentage",
            fix=f"Leave --percent out; for {value:g} % give {value / 100:g}",
        )
    return value / 100.0


def scaled(table: CurveTable, rows: Sequence[Row], column: str, percent: bool) -> list[float]:
    """Return the scores in a column as shares between 0 and 1.

    Args:
        table: of evaluations.
        rows: rows in which the column is not empty.
        column: of scores.
        percent: whether they are percentages.

    Raises:
        CurveError: if a cell is not a number, a score is out of range, or units are mixed.
    """
    signed = _is_signed(table, rows, column)
    fix = "Leave the cell empty if it was not measured"
    values = [table.number(row, column, fix) for row in rows]
    top = 100.0 if percent or signed else 1.0
    for row, value in zip(rows, values, strict=True):
        if not 0.0 <= value <= top:
            raise _out_of_range(f"{table.path}, {row.place}: {column}", value, values, top)
    if percent and not signed:
        _check_percentages(table, rows, column, values)
    return [value / top for value in values]


def scaled_errors(
    table: CurveTable, rows: Sequence[Row], column: str | None, scores: str, percent: bool
) -> list[float | None]:
    """Return the standard errors of a column of scores as shares; None where a cell is empty.

    Raises:
        CurveError: if one is not a number, is negative, or is too large for the error of a score.
    """
    if column is None:
        return [None] * len(rows)
    signed = _is_signed(table, rows, scores)
    errors: list[float | None] = []
    for row in rows:
        text = row.cells[column]
        # Many logs write the deviation over a single run as NaN.
        if not text or text.lower() == "nan":
            errors.append(None)
            continue
        where = f"{table.path}, {row.place}: {column}"
        if text.endswith(PERCENT) != signed:
            raise CurveError(f"{where} is {text!r}", fix=f"Write it in the unit of {scores}")
        error = table.number(row, column, "Leave the cell empty if it is not known")
        share = error / 100.0 if percent or signed else error
        if not 0.0 <= share <= MAX_SE:
            raise CurveError(
                f"{where} is {text}, which cannot be a standard error of {scores}",
                why=f"a standard error {error:g} "
                + ("is negative" if error < 0 else "is larger than that of any score from 0 to 1"),
                fix=f"Write it in the unit of {scores}, or leave the cell empty",
            )
        errors.append(share)
    return errors


def _is_signed(table: CurveTable, rows: Sequence[Row], column: str) -> bool:
    """Return whether all numbers of a column have percent signs; refuse a mixture."""
    signs = [row.cells[column].endswith(PERCENT) for row in rows]
    if any(signs) and not all(signs):
        odd = rows[signs.index(not signs[0])]
        raise CurveError(
            f"{table.path}, {odd.place}: {column} is {odd.cells[column]!r} after "
            f"{rows[0].cells[column]!r}",
            why="the column mixes percentages with plain numbers",
            fix="Write all of its numbers in one unit",
        )
    return any(signs)


def _out_of_range(where: str, value: float, values: Sequence[float], top: float) -> CurveError:
    if top > 1.0 or not 1.0 < value <= 100.0:
        unit = "a percentage from 0 to 100" if top > 1.0 else "a share between 0 and 1"
        return CurveError(f"{where} is {value:g}, and a score is {unit}", fix="Correct it")
    shares = [other for other in values if 0.0 < other <= 1.0]
    if shares:
        return CurveError(
            f"{where} is {value:g}, and a score is a share between 0 and 1",
            why=f"the column also holds {shares[0]:g}: it mixes shares with percentages, or "
            "it is not a score",
            fix="Write all of its numbers in one unit; if all are percentages, add --percent",
        )
    return CurveError(
        f"{where} is {value:g}, and a score is a share between 0 and 1",
        fix="If the column holds percentages, add --percent",
    )


def _check_percentages(
    table: CurveTable, rows: Sequence[Row], column: str, values: Sequence[float]
) -> None:
    """Refuse shares among the numbers of a column under --percent."""
    if any(values) and max(values) <= 1.0:
        raise CurveError(
            f"{table.path}: no number of {column} is above 1, and --percent would divide them "
            "by 100",
            why="they are more likely shares than percentages",
            fix="Leave --percent out; if they are percentages below 1, write a percent sign "
            "after each",
        )
    for (before, left), (row, right) in itertools.pairwise(zip(rows, values, strict=True)):
        small, large = sorted((left, right))
        if 0.0 < small <= 1.0 and large > _JUMP * small:
            raise CurveError(
                f"{table.path}: {column} goes from {left:g} in {before.place} to {right:g} in "
                f"{row.place}",
                why="this step is too large for percentages: the column seems to mix shares "
                "with percentages",
                fix="Write all of its numbers in one unit; a percent sign after each "
                "makes it a percentage",
            )
