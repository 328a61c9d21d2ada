"""Numbers that a trainer logged, as one curve for each run, benchmark and kind of number.

A run that was resumed logs some steps again. The last row of a step counts, and a note says how
many earlier ones were left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlready.registry.errors import SamplesError
from rlready.workflow.importers.drawn import Logged, Meaning

_MEANING = {
    "mean": "mean over samples and problems: pass@1",
    "pass@k": "pass@k, unbiased",
    "any of n": "share of problems with a correct sample among n: pass@k for k = n only",
    "with replacement": "drawn with replacement or by vote: not pass@k, and never stored",
    "other": "not a score",
}


@dataclass
class LoggedCurve:
    """The values of one logged number, by step.

    Args:
        series: name of the benchmark, as far as the trainer names it.
        metric: name of the number.
        meaning: what it is.
        k: of pass@k.
        run: name of the run, where the file holds several.
        is_named: whether `series` names a benchmark.
        is_training: whether it is about the prompts of training.
        n: samples a problem, if the name of the number says it.
        points: value and place by step.
        n_repeated: rows that a later row of the same step replaced.
    """

    series: str
    metric: str
    meaning: Meaning
    k: int | None
    run: str
    is_named: bool
    is_training: bool
    n: int | None = None
    points: dict[float, tuple[float, str]] = field(default_factory=dict)
    n_repeated: int = 0
    _last: float = -1.0
    goes_back: bool = False

    def add(self, logged: Logged) -> None:
        """Add a value; it replaces that of an earlier row with the same step."""
        if logged.step in self.points:
            before = self.points.pop(logged.step)
            self.n_repeated += before[0] != logged.value
        self.goes_back |= logged.step < self._last
        self._last = logged.step
        self.points[logged.step] = (logged.value, logged.where)

    def values(self) -> list[tuple[float, float]]:
        """Return steps and values, by step."""
        return [(step, self.points[step][0]) for step in sorted(self.points)]

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as JSON values."""
        return {
            "series": self.series,
            "metric": self.metric,
            "run": self.run or None,
            "meaning": self.meaning,
            "what": _MEANING[self.meaning],
            "k": self.k,
            "is_training": self.is_training,
            "points": [list(point) for point in self.values()],
        }


def logged_curves(numbers: Iterable[Logged], percent: bool) -> list[LoggedCurve]:
    """Return the curves in the order in which they begin.

    Raises:
        SamplesError: if a score is not between 0 and 1, or, with `percent`, 0 and 100.
    """
    curves: dict[tuple[str, str, str], LoggedCurve] = {}
    for number in numbers:
        _check(number, percent)
        curve = curves.setdefault(
            (number.run, number.series, number.metric),
            LoggedCurve(
                series=number.series,
                metric=number.metric,
                meaning=number.meaning,
                k=number.k,
                run=number.run,
                is_named=number.is_named,
                is_training=number.is_training,
                n=number.n,
            ),
        )
        curve.add(number)
    if percent:
        for curve in curves.values():
            curve.points = {s: (v / 100.0, where) for s, (v, where) in curve.points.items()}
    return list(curves.values())


def notes(curves: Iterable[LoggedCurve]) -> list[str]:
    """Return a note on each curve whose steps go back."""
    return [
        f"{curve.metric}{f' of {curve.run}' if curve.run else ''}: the steps go back, as after a "
        f"resume; the last row of a step counts, and {curve.n_repeated} earlier values that "
        "differ are left out"
        for curve in curves
        if curve.goes_back or curve.n_repeated
    ]


def _check(number: Logged, percent: bool) -> None:
    top = 100.0 if percent else 1.0
    if 0.0 <= number.value <= top:
        return
    fix = ""
    if not percent and 1.0 < number.value <= 100.0:
        fix = "If it is a percentage, give --percent"
    raise SamplesError(
        f"{number.where}: {number.metric} is {number.value:g}, not a score from 0 to {top:g}",
        fix=fix or "Check that it is a score, and not a reward with a bonus or a penalty",
    )
