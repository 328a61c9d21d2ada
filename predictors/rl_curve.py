r"""Curves: the evaluations of one RL run, and the statistics that can serve as an outcome.

A curve is read from a CSV file with one row per evaluation and a rising budget:

    steps,gsm8k,gsm8k_se
    0,0.412,0.013
    20,0.455,0.014
    40,0.471,0.014

The budget is in a column named after its unit (steps, gpu_hours, exaflop, samples), in `budget`, or
in a column with a logger's name for steps. Each benchmark has a column (`curve_columns` lists the
accepted names); the column of a single benchmark may be named `value`. Standard errors are in
`<benchmark>_se`, or in `se`. An empty cell means that nothing was evaluated. `curve_file` lists the
formats. Scores are shares between 0 and 1 (`curve_scale`).

For budgets x_1 < ... < x_m with values y_i, and the points with 0 < x_i <= B:

    value_at_budget  y at B, or linear between the two neighbours of B
    peak             max y_i
    smoothed_peak_5  max over i of the mean of y_i ... y_(i+4)
    last_5_mean      mean of the last five y_i

so peak >= smoothed_peak_5 >= last_5_mean. Nothing is extrapolated: a budget B outside the curve is
an error. A point at budget 0 is the checkpoint before RL; only `value_at_budget` uses it. A peak is
the best of many noisy numbers and therefore biased upwards; `smoothed_peak_5` is less biased, the
other two are unbiased.

The evaluations of a run use the same problems, so their errors do not average out. The standard
error of a mean is therefore the mean of the standard errors, which is an upper bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlready.predictors.curve_columns import Columns, choose, error_column
from rlready.predictors.curve_file import CurveTable, Row, read_table
from rlready.predictors.curve_scale import scaled, scaled_errors
from rlready.registry.errors import CurveError
from rlready.registry.outcomes import BudgetUnit, Statistic

_WINDOW = 5
_THOUSANDS = re.compile(r"[+-]?[1-9]\d*,\d{3}")


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One evaluation: the budget spent so far, the value, and its standard error if known.

    Example:
        >>> CurvePoint(budget=20, value=0.455, se=0.014)
        CurvePoint(budget=20, value=0.455, se=0.014)
    """

    budget: float
    value: float
    se: float | None = None


@dataclass(frozen=True, kw_only=True)
class CurveValue:
    """A statistic of a curve.

    Args:
        value: the statistic.
        se: standard error over problems; None if a point has no standard error.
        n_evaluations: number of points used.
    """

    value: float
    se: float | None
    n_evaluations: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The evaluations of one RL run on one benchmark.

    Args:
        benchmark: name of the benchmark, for messages.
        points: at least one evaluation, in the order of the budgets.

    Raises:
        CurveError: if there is no point, a budget does not rise, or a number is not finite.

    Example:
        >>> points = (CurvePoint(budget=0, value=0.41), CurvePoint(budget=20, value=0.45))
        >>> Curve(benchmark="gsm8k", points=points).points[-1].value
        0.45
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
    """Compute a statistic of a curve up to a budget in the unit of the curve.

    Raises:
        CurveError: if the budget lies outside the curve, or too few points lie below it.
    """
    first, last = curve.points[0].budget, curve.points[-1].budget
    if budget > last:
        raise CurveError(
            f"{name} of {curve.benchmark} at budget {budget:g} is beyond the curve's end",
            why=f"the last of its {len(curve.points)} points is at {last:g}, and nothing is "
            "extrapolated",
            fix=f"Give a budget up to {last:g}, or continue RL",
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
    """Read the curves in a file of evaluations, by benchmark.

    Args:
        path: the file; its scores are shares from 0 to 1.
        unit: unit of the budget.
        benchmark: the only benchmark to read, from its column or from `value`; None reads every
            column of values.

    Raises:
        CurveError: if the file has another form; the message names the line and the column.
    """
    table = read_table(path)
    return curves(table, choose(table, unit, benchmark, None, {}))


def curves(table: CurveTable, columns: Columns, *, percent: bool = False) -> dict[str, Curve]:
    """Return the curves in the columns of a table, by benchmark.

    Args:
        table: the evaluations.
        columns: the columns to read.
        percent: whether scores without a percent sign are percentages.

    Raises:
        CurveError: if a number cannot be read, a budget does not rise, or a score is out of range.
    """
    if not table.rows:
        raise CurveError(f"{table.path} holds no points", fix="Add a row for each evaluation")
    return {name: _curve(table, columns, name, percent) for name in columns.values}


def _check_point(benchmark: str, point: CurvePoint, before: float) -> None:
    if not math.isfinite(point.value) or not 0.0 <= point.budget < math.inf:
        raise CurveError(
            f"the curve of {benchmark} has value {point.value} at budget {point.budget}",
            fix="Leave out points that were not measured; budgets are 0 or more",
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
    # Clip, because rounding could leave the range of the two neighbours.
    return min(max(left * (1.0 - share) + right * share, min(left, right)), max(left, right))


def _peak(points: Sequence[CurvePoint]) -> CurveValue:
    best = max(points, key=lambda point: point.value)
    return CurveValue(value=best.value, se=best.se, n_evaluations=len(points))


def _smoothed_peak(points: Sequence[CurvePoint]) -> CurveValue:
    windows = (points[i : i + _WINDOW] for i in range(len(points) - _WINDOW + 1))
    best = max(map(_mean, windows), key=lambda mean: mean.value)
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


def _curve(table: CurveTable, columns: Columns, benchmark: str, percent: bool) -> Curve:
    column = columns.values[benchmark]
    error = error_column(table, column)
    rows = [row for row in table.rows if row.cells[column]]
    budgets = [_budget(table, row, columns.budget) for row in rows]
    scores = scaled(table, rows, column, percent)
    errors = scaled_errors(table, rows, error, column, percent)
    points: list[CurvePoint] = []
    for row, budget, value, se in zip(rows, budgets, scores, errors, strict=True):
        point = CurvePoint(budget=budget, value=value, se=se)
        # A run that resumes at its last step logs the same evaluation twice.
        if points and point == points[-1]:
            continue
        if points and budget <= points[-1].budget:
            before = points[-1].budget
            fault = "again" if budget == before else f"after {before:g}"
            raise CurveError(
                f"{table.path}, {row.place}: {columns.budget} is {budget:g} {fault}",
                why="every row needs a larger budget than the one before",
                fix="Sort the rows, and keep one for each budget and one RL run for each file",
            )
        points.append(point)
    return Curve(benchmark=f"{column} in {table.path.name}", points=tuple(points))


def _budget(table: CurveTable, row: Row, column: str) -> float:
    text = row.cells[column]
    if table.decimal_comma and _THOUSANDS.fullmatch(text):
        raise CurveError(
            f"{table.path}, {row.place}: {column} is {text!r}, which may be a decimal comma or "
            "thousands",
            fix="Write it with a decimal point, or without a separator",
        )
    budget = table.number(row, column, "Leave the row out, or correct it")
    if budget < 0.0:
        raise CurveError(f"{table.path}, {row.place}: {column} is {budget:g}", fix="Give 0 or more")
    return budget
