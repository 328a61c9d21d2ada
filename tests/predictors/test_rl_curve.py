"""Statistics of an RL curve, and what is told about a file that cannot give them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlready.predictors.rl_curve import Curve, CurvePoint, read_curves, statistic
from rlready.registry.errors import CurveError

VALUES = st.floats(-1e300, 1e300) | st.floats(0, 1)


@st.composite
def curves(draw: st.DrawFn, min_size: int = 1) -> Curve:
    """A curve of rising budgets above 0."""
    budgets = draw(
        st.lists(st.floats(1e-3, 1e6), min_size=min_size, max_size=12, unique=True).map(sorted)
    )
    errors = st.none() | st.floats(0, 1)
    points = [CurvePoint(budget=b, value=draw(VALUES), se=draw(errors)) for b in budgets]
    return Curve(benchmark="x", points=tuple(points))


def a_curve(*values: float, first: float = 10.0, se: float | None = 0.01) -> Curve:
    """Points ten budget units apart."""
    points = [CurvePoint(budget=first + 10 * i, value=v, se=se) for i, v in enumerate(values)]
    return Curve(benchmark="x", points=tuple(points))


def end(curve: Curve) -> float:
    return curve.points[-1].budget


@given(curve=curves(min_size=5))
def test_peak_smoothed_peak_and_last_mean_are_ordered(curve: Curve) -> None:
    peak, smoothed, last = (
        statistic(curve, name, end(curve)).value
        for name in ("peak", "smoothed_peak_5", "last_5_mean")
    )
    assert peak >= smoothed >= last >= min(point.value for point in curve.points)


@given(curve=curves(), share=st.floats(0, 1))
def test_the_value_at_a_budget_lies_within_its_neighbours(curve: Curve, share: float) -> None:
    first = curve.points[0].budget
    budget = min(first + share * (end(curve) - first), end(curve))
    left = max((p for p in curve.points if p.budget <= budget), key=lambda p: p.budget)
    right = min((p for p in curve.points if p.budget >= budget), key=lambda p: p.budget)
    found = statistic(curve, "value_at_budget", budget)
    assert min(left.value, right.value) <= found.value <= max(left.value, right.value)
    assert found.n_evaluations == (1 if left is right else 2)
    assert (found.se is None) == (left.se is None or right.se is None)


@given(curve=curves())
def test_the_value_at_a_point_is_the_points(curve: Curve) -> None:
    for point in curve.points:
        found = statistic(curve, "value_at_budget", point.budget)
        assert (found.value, found.se) == (point.value, point.se)


@given(curve=curves(), budget=st.floats(1e-3, 1e6))
def test_a_larger_budget_never_lowers_the_peak(curve: Curve, budget: float) -> None:
    assume(curve.points[0].budget <= budget <= end(curve))
    whole = statistic(curve, "peak", end(curve))
    part = statistic(curve, "peak", budget)
    assert part.value <= whole.value
    assert part.n_evaluations <= whole.n_evaluations == len(curve.points)


@given(curve=curves(min_size=5))
def test_points_beyond_the_budget_change_nothing(curve: Curve) -> None:
    before = end(curve)
    longer = dataclasses.replace(
        curve, points=(*curve.points, CurvePoint(budget=before * 2, value=1e308))
    )
    for name in ("value_at_budget", "peak", "smoothed_peak_5", "last_5_mean"):
        assert statistic(longer, name, before) == statistic(curve, name, before)


def test_known_values() -> None:
    curve = a_curve(0.1, 0.5, 0.4, 0.3, 0.2, 0.9, 0.0)
    assert statistic(curve, "peak", 70).value == 0.9
    assert statistic(curve, "smoothed_peak_5", 70).value == pytest.approx(0.46)
    assert statistic(curve, "last_5_mean", 70).value == pytest.approx(0.36)
    assert statistic(curve, "value_at_budget", 12.5).value == pytest.approx(0.2)
    assert statistic(curve, "last_5_mean", 50).value == pytest.approx(0.3)


def test_the_point_before_rl_counts_for_interpolation_only() -> None:
    curve = a_curve(0.9, 0.5, 0.4, 0.3, 0.2, first=0)
    assert statistic(curve, "value_at_budget", 5).value == pytest.approx(0.7)
    assert statistic(curve, "peak", 40).value == 0.5
    with pytest.raises(CurveError, match="has 4 there"):
        statistic(curve, "last_5_mean", 40)


def test_errors_of_one_runs_evaluations_do_not_average_out() -> None:
    """The evaluations share their problems: five of them are no five times as many problems."""
    curve = a_curve(0.1, 0.2, 0.3, 0.4, 0.5, se=0.02)
    for name in ("value_at_budget", "peak", "smoothed_peak_5", "last_5_mean"):
        assert statistic(curve, name, 50).se == pytest.approx(0.02)
    assert statistic(curve, "value_at_budget", 45).se == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("name", "budget", "message"),
    [
        ("value_at_budget", 31, "beyond the curve's end.*3 points is at 30.*up to 30"),
        ("peak", 60, "beyond the curve's end"),
        ("value_at_budget", 5, "before the curve's beginning.*from 10 to 30"),
        ("peak", 5, "needs 1 point after.*has 0"),
        ("smoothed_peak_5", 30, "needs 5 points.*has 3"),
        ("last_5_mean", 20, "needs 5 points.*has 2"),
    ],
)
def test_a_statistic_that_the_curve_cannot_give_is_told(
    name: str, budget: float, message: str
) -> None:
    with pytest.raises(CurveError, match=message):
        statistic(a_curve(0.1, 0.2, 0.3), name, budget)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "no points"),
        ([(1, 0.1), (1, 0.2)], "from budget 1 to 1"),
        ([(2, 0.1), (1, 0.2)], "from budget 2 to 1"),
        ([(1, math.nan)], "value nan"),
        ([(math.inf, 0.1)], "budget inf"),
        ([(-1, 0.1)], "budget -1"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(CurveError, match=message):
        Curve(benchmark="x", points=tuple(CurvePoint(budget=b, value=v) for b, v in points))


def write(folder: Path, text: str) -> Path:
    path = folder / "curve.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_holds_a_curve_a_benchmark(tmp_path: Path) -> None:
    path = write(tmp_path, "steps,a,a_se,b\n0,0.1,0.01,\n20,0.2,,0.5\n\n40,0.3,0.03,0.6\n")
    found = read_curves(path, "steps")
    assert list(found) == ["a", "b"]
    assert [(p.budget, p.value, p.se) for p in found["a"].points] == [
        (0, 0.1, 0.01),
        (20, 0.2, None),
        (40, 0.3, 0.03),
    ]
    assert [(p.budget, p.value) for p in found["b"].points] == [(20, 0.5), (40, 0.6)]


def test_one_column_of_values_takes_the_name_that_is_given(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffbudget, value ,se\r\n1,0.1,0.01\r\n")
    (found,) = read_curves(path, "exaflop", "gsm8k").items()
    assert found[0] == "gsm8k"
    assert found[1].points == (CurvePoint(budget=1, value=0.1, se=0.01),)


def test_the_unit_picks_among_budget_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "steps,gpu_hours,a\n10,0.5,0.1\n20,1.0,0.2\n")
    assert list(read_curves(path, "gpu_hours")) == ["a"]
    assert read_curves(path, "gpu_hours")["a"].points[-1].budget == 1.0


def test_a_column_that_is_not_asked_for_need_not_hold_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "steps,a,note\n10,0.5,good\n")
    assert list(read_curves(path, "steps", "a")) == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("steps,a\n", "holds no points"),
        ("a,b\n1,2\n", "no budget column in steps.*columns are a, b.*Name the column `budget`"),
        ("gpu_hours,a\n1,2\n", "no budget column in steps.*--budget-unit gpu_hours"),
        ("steps\n1\n", "no column of values"),
        ("steps,a\n20,0.1\n10,0.2\n", "line 3: steps is 10 after 20"),
        ("steps,a\n10,0.1\n10,0.2\n", "line 3: steps is 10 again"),
        ("steps,a\n-1,0.1\n", "line 2: steps is -1"),
        ("steps,a\n10,nan\n", "line 2: a is 'nan', not a finite number"),
        ("steps,a\n10,inf\n", "line 2: a is 'inf', not a finite number"),
        ("steps,a\n,0.1\n", "line 2: steps is '', not a finite number"),
        ("steps,a\n10,high\n", "line 2: a is 'high'"),
        ("steps,a,a_se\n10,0.1,-1\n", "standard error -1"),
        ("steps,a\n10,0,1\n", "line 2: 3 cells for 2 columns"),
        ("steps,a,a\n10,0.1,0.2\n", "names the column 'a' twice"),
        ("steps,\n10,0.1\n", "a column without a name"),
        ("steps,value\n10,0.1\n", "--benchmark NAME"),
        ("steps,a\n10,\n", "has no points"),
        ('steps,a\n10,"0.1\n', "not a CSV file"),
    ],
)
def test_a_bad_file_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CurveError, match=message) as error:
        read_curves(write(tmp_path, text), "steps")
    assert "curve.csv" in str(error.value)


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "steps,a,b\n10,0.1,0.2\n")
    with pytest.raises(CurveError, match=r"no column 'c'.*values are a, b"):
        read_curves(path, "steps", "c")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CurveError, match=r"cannot read .*none\.csv"):
        read_curves(tmp_path / "none.csv", "steps")
    binary = tmp_path / "curve.parquet"
    binary.write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(CurveError, match=r"not UTF-8.*as CSV in UTF-8"):
        read_curves(binary, "steps")
