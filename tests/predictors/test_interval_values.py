"""Intervals worked out by hand: models that predict known numbers, residuals 1, 2, 3, ..."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sklearn.base import BaseEstimator, RegressorMixin

from rlready.predictors.calibration.error_law import ErrorLaw
from rlready.predictors.calibration.intervals import (
    Calibration,
    Regime,
    Residuals,
    calibrate,
    has_conformal,
    intervals,
    predictive,
)
from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.predictors.validation.folds import FoldFit
from rlready.registry.errors import ConfigError

LAW = ErrorLaw(row_sd=0.0, group_sd_new=3.0, kappa=1.0, row_df=10.0, group_df=4.0)
X = pd.DataFrame({"x": [0.0]})


class Says:
    """Predicts one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return np.full(len(X), self.value)


def held_out(residuals: list[float], says: list[float]) -> Residuals:
    fits = [FoldFit(model=Says(v), held_out=np.array([i])) for i, v in enumerate(says)]
    return Residuals(
        fits=tuple(fits), fit_of=np.arange(len(says)), residuals=np.array(residuals, dtype=float)
    )


def calibration(
    groups: list[str], says: list[float] | None = None, law: ErrorLaw = LAW, **more: Any
) -> Calibration:
    """Residuals 1, 2, 3, ... with alternating sign, of rows and of groups."""
    n = len(groups)
    sizes = [(-1.0) ** i * (i + 1) for i in range(n)]
    parts = held_out(sizes, says or [0.0] * n)
    given: dict[str, Any] = {"anchors": np.full(n, 1.0), "rl_noise": 0.5} | more
    return Calibration(groups=np.array(groups), by_row=parts, by_group=parts, law=law, **given)


def ends(found: Calibration, group: str, level: float = 0.9) -> tuple[float, float, Regime]:
    low, high, regimes = intervals(found, X, np.array([group]), np.array([7.0]), level)
    return float(low[0]), float(high[0]), regimes[0]


@pytest.mark.parametrize(
    ("n", "end"), [(9, 9.0), (18, 18.0), (19, 18.0), (28, 27.0), (29, 27.0), (39, 36.0)]
)
def test_jackknife_plus_drops_floor_of_alpha_times_n_plus_1_less_one(n: int, end: float) -> None:
    """Barber et al.: the floor(alpha (n + 1))-th smallest lower end, and its mirror image."""
    assert ends(calibration(["a"] * n), "a") == (-end, end, Regime.KNOWN_GROUP)


def test_jackknife_plus_takes_each_end_by_itself() -> None:
    """Ends are predictions of different models: 5 + 4 is above 0 + 8."""
    found = calibration(["a"] * 9, says=[0, 0, 0, 5, 0, -9, 0, 0, 0])
    assert ends(found, "a") == (-15.0, 9.0, Regime.KNOWN_GROUP)


def half_width(law: ErrorLaw, anchors: list[float], level: float) -> list[float]:
    """Half widths of t intervals around 0."""
    _, high = law.student_ends(np.zeros(len(anchors)), np.array(anchors), level)
    return list(map(float, high))


def test_below_nine_rows_or_groups_ninety_percent_need_a_model() -> None:
    assert not has_conformal(8, 0.9)
    assert has_conformal(9, 0.9)
    half = half_width(LAW, [8.0], 0.9)[0]
    assert ends(calibration(["a"] * 8), "a") == (7.0 - half, 7.0 + half, Regime.FEW_ROWS)
    half = half_width(LAW, [0.0], 0.9)[0]
    few = calibration([f"g{i}" for i in range(8)])
    assert ends(few, "new") == (7.0 - half, 7.0 + half, Regime.NEW_GROUP_MODEL)
    enough = calibration([f"g{i}" for i in range(9)])
    assert ends(enough, "new") == (-9.0, 9.0, Regime.NEW_GROUP)
    assert ends(replace(enough, by_group=None), "new")[2] is Regime.NEW_GROUP_MODEL


@pytest.mark.parametrize(("n", "end"), [(9, 9.0), (18, 18.0), (19, 18.0), (29, 27.0)])
def test_each_group_weighs_one_over_groups_plus_one(n: int, end: float) -> None:
    assert ends(calibration([f"g{i}" for i in range(n)]), "new")[:2] == (-end, end)


def test_rows_share_the_weight_of_their_group() -> None:
    """19 groups; the last has 3 rows with the largest errors, a twentieth in all."""
    groups = [*(f"g{i:02d}" for i in range(18)), *["last"] * 3]
    assert ends(calibration(groups), "new")[:2] == (-18.0, 18.0)
    # A third of a twentieth more is needed at .91.
    assert ends(calibration(groups), "new", level=0.91)[:2] == (-19.0, 19.0)


def test_hierarchical_ends_move_with_the_models() -> None:
    found = calibration([f"g{i}" for i in range(9)], says=[0, 0, 0, 0, 0, 0, 0, 0, 3.0])
    assert ends(found, "new")[:2] == (-8.0, 12.0)


def test_intervals_of_known_and_new_rows_stand_side_by_side() -> None:
    found = calibration([f"g{i}" for i in range(9)])
    frame = pd.DataFrame({"x": [0.0, 0.0]})
    low, high, regimes = intervals(found, frame, np.array(["g1", "new"]), np.array([7.0, 7.0]), 0.5)
    # floor(.5 * 10) - 1 = 4: the 5th smallest; and the 5th of 9 groups, half of the weight.
    assert (low.tolist(), high.tolist()) == ([-5.0, -5.0], [5.0, 5.0])
    assert regimes == [Regime.KNOWN_GROUP, Regime.NEW_GROUP]


def test_residuals_are_scaled_by_the_error_of_their_anchors() -> None:
    law = replace(LAW, row_sd=1.0)
    found = calibration(["a"] * 9, law=law, anchors=np.full(9, 2.0))
    scale = float(law.sd(np.array([9.0]))[0] / law.sd(np.array([2.0]))[0])
    assert ends(found, "a")[:2] == pytest.approx((-9.0 * scale, 9.0 * scale))
    assert scale < 0.9


def test_rows_that_no_fold_held_out_do_not_count() -> None:
    found = calibration(["a"] * 10)
    found.by_row.residuals[9] = np.nan
    assert ends(found, "a") == (-9.0, 9.0, Regime.KNOWN_GROUP)
    found.by_row.residuals[8] = np.nan
    assert ends(found, "a")[2] is Regime.FEW_ROWS


def test_the_joint_law_has_the_halves_of_its_interval() -> None:
    law = ErrorLaw(row_sd=1.5, group_sd_new=2.0, kappa=1.0, row_df=10.0, group_df=4.0)
    found = calibration(["a"] * 9, law=law, rl_noise=0.6)
    groups, mean = np.array(["new", "a"]), np.array([1.0, 2.0])
    run = predictive(found, groups, mean, noise=True)
    assert run.row_sd == pytest.approx([1.5, 1.5])
    assert run.df == 10.0
    # A t interval of the joint law at .9 is as wide as that of the error law.
    half = student.ppf(0.95, 10.0) * np.hypot(run.row_sd, run.group_sd)
    assert half == pytest.approx(half_width(law, [0.0, 9.0], 0.9))
    wider = student.ppf(0.95, law.df(np.array([0.0]))[0]) / student.ppf(0.95, 10.0)
    assert run.group_sd[0] == pytest.approx(math.sqrt(6.25 * wider**2 - 2.25))
    at_half = predictive(found, groups, mean, noise=True, level=0.5)
    half = student.ppf(0.75, 10.0) * np.hypot(at_half.row_sd, at_half.group_sd)
    assert half == pytest.approx(half_width(law, [0.0, 9.0], 0.5))


@pytest.mark.parametrize(("noise", "row_sd"), [(0.6, 0.8), (0.99, math.sqrt(0.1)), (np.nan, 1.0)])
def test_the_noise_of_a_run_is_taken_off_the_row_but_a_tenth(noise: float, row_sd: float) -> None:
    found = calibration(["a"] * 9, law=replace(LAW, row_sd=1.0), rl_noise=noise)
    true = predictive(found, np.array(["a"]), np.array([0.0]), noise=False)
    assert true.row_sd == pytest.approx([row_sd])


class Mean(RegressorMixin, BaseEstimator):
    """The mean of the outcomes."""

    def fit(self, X: Any, y: FloatArray, sample_weight: Any = None) -> Self:
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return np.full(len(X), self.mean_)


def a_table(groups: list[str], errors: list[float] | None = None) -> TrainingTable:
    n = len(groups)
    frame = pd.DataFrame({"x": np.arange(n) + 1.0, "y": np.arange(n) * 1.0, "g": groups})
    frame["e"] = np.nan if errors is None else errors
    return training_table(frame, target="y", features=["x"], groups=["g"], target_error="e")


def test_calibration_counts_anchors_without_the_rows_of_the_fold() -> None:
    found = calibrate(Mean, a_table(["a", "a", "a", "b", "b"]), n_folds=20)
    assert found.anchors.tolist() == [2, 2, 2, 1, 1]
    assert [len(fit.held_out) for fit in found.by_row.fits] == [1] * 5
    assert found.by_row.residuals.tolist() == [-2.5, -1.25, 0.0, 1.25, 2.5]
    assert found.by_group is not None
    assert found.by_group.residuals.tolist() == [-3.5, -2.5, -1.5, 2.0, 3.0]
    both = calibrate(Mean, a_table(["a", "a", "a", "a", "a", "a"]), n_folds=2)
    assert both.anchors.tolist() == [3] * 6
    assert both.by_group is None


def test_a_lonely_row_is_held_out_by_no_fold_of_rows() -> None:
    found = calibrate(Mean, a_table(["a", "a", "a", "a", "b"]), n_folds=20)
    assert found.by_row.fit_of.tolist()[-1] == -1
    assert np.isnan(found.by_row.residuals[-1])
    assert found.anchors.tolist() == [3, 3, 3, 3, 1]


def test_the_noise_of_a_run_is_the_root_mean_square_of_known_errors() -> None:
    found = calibrate(Mean, a_table(["a"] * 5, [3.0, 4.0, np.nan, np.nan, np.nan]), n_folds=5)
    assert found.rl_noise == pytest.approx(math.sqrt(12.5))
    assert math.isnan(calibrate(Mean, a_table(["a"] * 5), n_folds=5).rl_noise)


def test_five_rows_suffice_and_four_do_not() -> None:
    assert calibrate(Mean, a_table(["a"] * 5), n_folds=5).anchors.tolist() == [4] * 5
    with pytest.raises(ConfigError, match="4 checkpoints have an outcome: too few"):
        calibrate(Mean, a_table(["a"] * 4), n_folds=4)
