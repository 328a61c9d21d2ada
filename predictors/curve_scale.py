"""Scores as shares between 0 and 1, whether they were written as shares or as percentages.

Nothing is guessed: 55.0 beside a pass@1 of 0.40 may be a percentage or a mistake. Percentages need
`--percent`, or a percent sign behind each number; a column that seems to mix both is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rlready.predictors.curve_file import PERCENT, CurveTable, Row
from rlready.registry.errors import CurveError

MAX_SE = 0.5
"""Largest standard error of a score between 0 and 1, which one problem of two would have."""

_JUMP = 30.0
"""Under `--percent`, 0.55 and then 40 is a change of unit; 0.8 and then 3.3 may be progress.

Two units differ by a factor of 100, less what RL changes between two points of a curve."""


def as_share(value: float, what: str, *, percent: bool) -> float:
    """A score that stands alone as a share between 0 and 1.

    Args:
        value: as it was given.
        what: what it is called, for messages.
        percent: it is a percentage.

    Raises:
        CurveError: if it is out of range, or a share is called a percentage.
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
            fix=f"Leave --percent out; if {value:g} % is meant, give {value / 100:g}",
        )
    return value / 100.0


def scaled(table: CurveTable, rows: Sequence[Row], column: str, percent: bool) -> list[float]:
    """The scores in a column as shares between 0 and 1.

    Args:
        table: of evaluations.
        rows: those in which the column is not empty.
        column: of scores.
        percent: they are percentages.

    Raises:
        CurveError: if a cell holds no number, a score is out of range, or scales are mixed.
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
    """The standard errors beside a column of scores, in the same unit; None where there is none.

    Raises:
        CurveError: if one is no number, negative, or larger than a score's can be.
    """
    if column is None:
        return [None] * len(rows)
    signed = _is_signed(table, rows, scores)
    errors: list[float | None] = []
    for row in rows:
        text = row.cells[column]
        # A deviation over one run is NaN in many logs: nothing is known.
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
                f"{where} is {text}, which is no standard error of {scores}",
                why=f"a standard error {error:g} "
                + ("is negative" if error < 0 else "is more than a score from 0 to 1 can have"),
                fix=f"Write it in the unit of {scores}, or leave the cell empty",
            )
        errors.append(share)
    return errors


def _is_signed(table: CurveTable, rows: Sequence[Row], column: str) -> bool:
    """Whether the numbers of a column carry percent signs: all of them, or none."""
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
    """Raise CurveError if numbers that are called percentages are shares, or mixed with shares."""
    if any(values) and max(values) <= 1.0:
        raise CurveError(
            f"{table.path}: no number of {column} is above 1, and --percent would divide them "
            "by 100",
            why="they are more likely shares than percentages",
            fix="Leave --percent out; if they are percentages below 1, write a percent sign "
            "behind each",
        )
    for (before, left), (row, right) in itertools.pairwise(zip(rows, values, strict=True)):
        small, large = sorted((left, right))
        if 0.0 < small <= 1.0 and large > _JUMP * small:
            raise CurveError(
                f"{table.path}: {column} goes from {left:g} in {before.place} to {right:g} in "
                f"{row.place}",
                why="with --percent this is too large a step: the column seems to mix shares "
                "with percentages",
                fix="Write all of its numbers in one unit; a percent sign behind each is taken "
                "as it is",
            )
