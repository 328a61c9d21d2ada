r"""The evaluations of one RL run as a curve, and the numbers that an outcome may be.

A curve is a CSV file, a row an evaluation, the budget rising:

    steps,gsm8k,gsm8k_se
    0,0.412,0.013
    20,0.455,0.014
    40,0.471,0.014

The budget stands in a column named after its unit (steps, gpu_hours, exaflop, samples) or in one
named `budget`. Values stand in one column a benchmark, or in `value`; standard errors in
`<benchmark>_se`, or in `se`. An empty cell is an evaluation that was not made.

With points x_1 < ... < x_m, values y, and only the points 0 < x_i <= B of a budget B:

    value_at_budget  y at B, or linear between the two neighbours of B
    peak             max y_i
    smoothed_peak_5  max over i of the mean of y_i ... y_(i+4)
    last_5_mean      mean of the last five y_i

so peak >= smoothed_peak_5 >= last_5_mean. Nothing is extrapolated: a budget beyond either end of
the curve is an error. A point at budget 0 is the checkpoint before RL; `value_at_budget` may
interpolate from it, the others leave it out. A peak is the best of many noisy numbers and
therefore too high on average; `smoothed_peak_5` is less so, the first and the last not at all.

Evaluations of one run share their problems, so their errors do not average out: the standard error
of a mean is taken to be the mean of the standard errors, an upper bound.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rlready.registry.errors import CurveError
from rlready.registry.records import BudgetUnit, Statistic

_WINDOW = 5
_SE = "_se"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One evaluation: the budget spent so far, the value, and its standard error if known."""

    budget: float
    value: float
    se: float | None = None


@dataclass(frozen=True, kw_only=True)
class CurveValue:
    """A statistic of a curve.

    Args:
        value: the number.
        se: its standard error over problems; None if a point has none.
        n_evaluations: points that it rests on.
    """

    value: float
    se: float | None
    n_evaluations: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The evaluations of one RL run on one benchmark.

    Args:
        benchmark: its name; with the file, for messages.
        points: by rising budget, at least one.

    Raises:
        CurveError: if there is no point, a budget does not rise, or a number is not finite.
    """

    benchmark: str
    points: tuple[CurvePoint, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise CurveError(f"the curve of {self.benchmark} has no points")
        before = -math.inf
        for point in self.points:
            _check_point(self.benchmark, point, before)
            before = point.budget


def statistic(curve: Curve, name: Statistic, budget: float) -> CurveValue:
    """A statistic of a curve within a budget, which is in the curve's unit.

    Raises:
        CurveError: if the curve cannot give it: the budget lies beyond an end, or there are too
            few points up to it.
    """
    first, last = curve.points[0].budget, curve.points[-1].budget
    if budget > last:
        raise CurveError(
            f"{name} of {curve.benchmark} at budget {budget:g} is beyond the curve's end",
            why=f"the last of its {len(curve.points)} points is at {last:g}, and nothing is "
            "extrapolated",
            fix=f"Give a budget up to {last:g}, or run RL on",
        )
    if name == "value_at_budget":
        if budget < first:
            raise CurveError(
                f"{name} of {curve.benchmark} at budget {budget:g} is before the curve's beginning",
                why=f"its first point is at {first:g}",
                fix=f"Give a budget from {first:g} to {last:g}, or add the checkpoint's own value "
                "at budget 0",
            )
        return _at(curve.points, budget)
    points = [point for point in curve.points if 0.0 < point.budget <= budget]
    needed, take = _WITHIN[name]
    if len(points) < needed:
        raise CurveError(
            f"{name} of {curve.benchmark} up to budget {budget:g} needs {needed} "
            f"point{'s' if needed > 1 else ''} after the start",
            why=f"the curve has {len(points)} there",
            fix="Evaluate more often, give a larger budget, or ask for value_at_budget",
        )
    return take(points)


def read_curves(path: Path, unit: BudgetUnit, benchmark: str | None = None) -> dict[str, Curve]:
    """The curves in a CSV file, by benchmark.

    Args:
        path: the file.
        unit: which column is the budget, if the file has several.
        benchmark: take its column alone, or else the column `value` under this name; None takes
            every column of values.

    Raises:
        CurveError: if it is no such file, with line and column.
    """
    header, rows = _read(path)
    budget = _budget_column(path, header, unit)
    columns = _value_columns(path, header, benchmark)
    if not rows:
        raise CurveError(f"{path} holds no points", fix="Add a row for each evaluation")
    budgets = _budgets(path, rows, budget)
    return {name: _curve(path, rows, budgets, column) for name, column in columns.items()}


def _check_point(benchmark: str, point: CurvePoint, before: float) -> None:
    if not math.isfinite(point.value) or not 0.0 <= point.budget < math.inf:
        raise CurveError(
            f"the curve of {benchmark} has value {point.value} at budget {point.budget}",
            fix="Leave out what was not measured; budgets are 0 or more",
        )
    if point.se is not None and not 0.0 <= point.se < math.inf:
        raise CurveError(
            f"the curve of {benchmark} has standard error {point.se} at budget {point.budget:g}"
        )
    if point.budget <= before:
        raise CurveError(
            f"the curve of {benchmark} goes from budget {before:g} to {point.budget:g}",
            why="every point needs a larger budget than the one before",
            fix="Sort the rows, and keep one for each budget and one RL run for each file",
        )


def _at(points: Sequence[CurvePoint], budget: float) -> CurveValue:
    after = next(i for i, point in enumerate(points) if point.budget >= budget)
    right = points[after]
    if right.budget == budget:
        return CurveValue(value=right.value, se=right.se, n_evaluations=1)
    left = points[after - 1]
    share = (budget - left.budget) / (right.budget - left.budget)
    value = _between(left.value, right.value, share)
    se = None
    if left.se is not None and right.se is not None:
        se = _between(left.se, right.se, share)
    return CurveValue(value=value, se=se, n_evaluations=2)


def _between(left: float, right: float, share: float) -> float:
    # Rounding must not lead out of the neighbours.
    return min(max(left * (1.0 - share) + right * share, min(left, right)), max(left, right))


def _peak(points: Sequence[CurvePoint]) -> CurveValue:
    best = max(points, key=lambda point: point.value)
    return CurveValue(value=best.value, se=best.se, n_evaluations=len(points))


def _smoothed_peak(points: Sequence[CurvePoint]) -> CurveValue:
    windows = (points[i : i + _WINDOW] for i in range(len(points) - _WINDOW + 1))
    best = max(map(_mean, windows), key=lambda found: found.value)
    return CurveValue(value=best.value, se=best.se, n_evaluations=len(points))


def _mean(points: Sequence[CurvePoint]) -> CurveValue:
    values = [point.value for point in points]
    errors = [point.se for point in points if point.se is not None]
    # Dividing first cannot overflow; the clip keeps rounding inside the window.
    mean = math.fsum(value / len(values) for value in values)
    return CurveValue(
        value=min(max(mean, min(values)), max(values)),
        se=math.fsum(errors) / len(errors) if len(errors) == len(points) else None,
        n_evaluations=len(points),
    )


def _last(points: Sequence[CurvePoint]) -> CurveValue:
    return _mean(points[-_WINDOW:])


_WITHIN: Mapping[str, tuple[int, Callable[[Sequence[CurvePoint]], CurveValue]]] = {
    "peak": (1, _peak),
    "smoothed_peak_5": (_WINDOW, _smoothed_peak),
    "last_5_mean": (_WINDOW, _last),
}


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The column names, and the rows that are not empty with their lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except OSError as error:
        raise CurveError(f"cannot read {path}", why=error.strerror or str(error)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CurveError(f"{path} is no CSV file", why=str(error)) from error
    if not lines:
        raise CurveError(f"{path} is empty", fix="Begin with a line of column names")
    header = [name.strip() for name in lines[0][1]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        fault = f"names the column {twice[0]!r} twice" if twice else "has a column without name"
        raise CurveError(f"{path} {fault}", why=f"its columns are {', '.join(header)}")
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise CurveError(
                f"{path}, line {line}: {len(row)} cells for {len(header)} columns",
                fix="Commas part cells, and a point is the decimal mark",
            )
    return header, [
        (line, dict(zip(header, map(str.strip, row), strict=True))) for line, row in lines[1:]
    ]


def _budget_column(path: Path, header: Sequence[str], unit: BudgetUnit) -> str:
    for name in (unit, "budget"):
        if name in header:
            return name
    other = [name for name in get_args(BudgetUnit) if name in header]
    raise CurveError(
        f"{path} has no budget column in {unit}",
        why=f"its columns are {', '.join(header)}",
        fix=f"Give --budget-unit {other[0]}"
        if other
        else f"Name the column `budget` or one of {', '.join(get_args(BudgetUnit))}",
    )


def _value_columns(path: Path, header: Sequence[str], benchmark: str | None) -> dict[str, str]:
    """Columns of values by the benchmark that they are of."""
    known = {"budget", *get_args(BudgetUnit)}
    found = [name for name in header if name not in known and not _is_error(name, header)]
    if not found:
        raise CurveError(
            f"{path} has no column of values",
            why=f"its columns are {', '.join(header)}",
            fix="Add `value`, or a column for each benchmark",
        )
    if benchmark is None:
        if "value" in found:
            raise CurveError(
                f"{path} does not say of which benchmark its column `value` is",
                fix="Give --benchmark NAME",
            )
        return {name: name for name in found}
    for name in (benchmark, "value"):
        if name in found:
            return {benchmark: name}
    raise CurveError(
        f"{path} has no column {benchmark!r}, and none named `value`",
        why=f"its columns of values are {', '.join(found)}",
        fix="Give one of these as --benchmark",
    )


def _is_error(name: str, header: Sequence[str]) -> bool:
    return (name == "se" and "value" in header) or (
        name.endswith(_SE) and name.removesuffix(_SE) in header
    )


def _budgets(path: Path, rows: Iterable[tuple[int, dict[str, str]]], column: str) -> list[float]:
    found: list[float] = []
    for line, row in rows:
        budget = _number(path, line, column, row[column])
        if budget < 0.0:
            raise CurveError(f"{path}, line {line}: {column} is {budget:g}", fix="Give 0 or more")
        if found and budget <= found[-1]:
            fault = "again" if budget == found[-1] else f"after {found[-1]:g}"
            raise CurveError(
                f"{path}, line {line}: {column} is {budget:g} {fault}",
                why="every row needs a larger budget than the one before",
                fix="Sort the rows, and keep one for each budget and one RL run for each file",
            )
        found.append(budget)
    return found


def _curve(
    path: Path,
    rows: Sequence[tuple[int, dict[str, str]]],
    budgets: Sequence[float],
    name: str,
) -> Curve:
    error = "se" if name == "value" else name + _SE
    points = [
        CurvePoint(
            budget=budget,
            value=_number(path, line, name, row[name]),
            se=_number(path, line, error, row[error]) if row.get(error) else None,
        )
        for (line, row), budget in zip(rows, budgets, strict=True)
        if row[name]
    ]
    return Curve(benchmark=f"{name} in {path.name}", points=tuple(points))


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CurveError(
            f"{path}, line {line}: {column} is {text!r}, no finite number",
            fix="Leave the cell empty if it was not measured"
            if column not in ("budget", *get_args(BudgetUnit))
            else "Leave the row out, or correct it",
        )
    return number
