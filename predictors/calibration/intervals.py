"""Intervals for the outcome of one RL run, and the promise of each of them.

Rows of a group with outcomes in the training table and rows of a new group need different
intervals. There are therefore three regimes, and each interval names its regime:

- known group: jackknife+ (CV+) by rows, Barber, Candes, Ramdas, Tibshirani 2021 (arXiv
  1905.02928). Residuals are scaled by the error expected for the number of anchors
  (`error_law.py`), so that a group with 3 anchors gets wider intervals than one with 12.
- new group, with enough known ones: hierarchical conformal (Dunn, Wasserman, Ramdas, arXiv
  1809.07441; Lee, Barber, Willett, arXiv 2306.06342), CV+ by groups: each group weighs 1 / (G + 1),
  and 1 / (G + 1) is the weight of the new group. It is finite only if G >= ceil(1 / alpha) - 1.
- new group, with fewer known ones: a t interval from the variances of the error law.

Row-wise conformal intervals are not offered for new groups, because their coverage there is only
about a quarter of the nominal level.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from rlready.predictors.bound import Bound
from rlready.predictors.calibration.bounded_law import BoundedLaw, bounded_law
from rlready.predictors.calibration.error_law import ErrorLaw, error_law
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TextArray, TrainingTable
from rlready.predictors.validation.folds import (
    FoldFit,
    MakeModel,
    Rows,
    fit_folds,
    group_folds,
    out_of_fold,
    row_folds,
)
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 5
"""Smallest number of rows: with fewer, leaving one out does not show the size of errors."""


class Regime(StrEnum):
    """The method behind an interval."""

    KNOWN_GROUP = "known group"
    NEW_GROUP = "new group, hierarchical conformal"
    NEW_GROUP_MODEL = "new group, model-based"
    FEW_ROWS = "few rows, model-based"

    @property
    def promise(self) -> str:
        """The coverage that the interval promises, in words."""
        return {
            Regime.KNOWN_GROUP: "jackknife+ by rows, scaled by the number of anchors: covers on "
            "average over further checkpoints of the known groups, not in each group",
            Regime.NEW_GROUP: "hierarchical conformal: distribution-free, covers on average over "
            "new groups drawn like the known ones",
            Regime.NEW_GROUP_MODEL: "t interval from variances between and inside groups: "
            "model-based, not distribution-free",
            Regime.FEW_ROWS: "t interval from few out-of-fold errors: model-based, not "
            "distribution-free",
        }[self]


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """Models fitted without some rows, and their errors on these rows.

    Args:
        fits: the models; each row is held out by at most one of them.
        fit_of: (n,) position in `fits` of the model that has not seen the row; -1 if there is
            none.
        residuals: (n,) outcome minus prediction; NaN where `fit_of` is -1.
        predicted: (n,) predictions of these models; None in predictors of older versions.
    """

    fits: tuple[FoldFit, ...]
    fit_of: Rows
    residuals: FloatArray
    predicted: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Out-of-fold models and errors, from which intervals are computed.

    Args:
        groups: (n,) group of each training row.
        by_row: models and residuals of rows that were held out a few at a time.
        by_group: models and residuals of groups that were held out; None with one group.
        anchors: (n,) number of rows of the row's group to which the model of `by_row` was fitted.
        law: sizes of errors.
        rl_noise: standard error of one RL run's outcome; NaN if unknown.
    """

    groups: TextArray
    by_row: Residuals
    by_group: Residuals | None
    anchors: FloatArray
    law: ErrorLaw
    rl_noise: float


def calibrate(
    make: MakeModel,
    table: TrainingTable,
    *,
    n_folds: int,
    seed: int = 0,
    bound: Bound | None = None,
) -> Calibration:
    """Fit the models of all folds and take their residuals.

    Args:
        make: function that makes the model whose predictions get intervals.
        table: rows with outcomes.
        n_folds: largest number of folds of rows, and of groups.
        seed: seed of the folds.
        bound: the ceiling of the model that is fitted to all rows, if it has one.

    Raises:
        ConfigError: if the table has fewer than `MIN_ROWS` rows.
    """
    if len(table) < MIN_ROWS:
        raise ConfigError(
            f"{len(table)} checkpoints have an outcome: too few for an interval",
            why=f"errors are measured on rows that a fit leaves out; this needs {MIN_ROWS} rows",
            fix="Record outcomes of more checkpoints (`rlready outcome`)",
        )
    groups = table.groups
    by_row = _residuals(make, table, row_folds(table, n_folds, seed))
    by_group = None
    if len(np.unique(groups)) > 1:
        by_group = _residuals(make, table, group_folds(table, n_folds, seed))
    anchors = anchors_of(groups, groups)
    for fit in by_row.fits:
        anchors[fit.held_out] -= anchors_of(groups[fit.held_out], groups[fit.held_out])
    residuals = (by_row.residuals, None if by_group is None else by_group.residuals)
    if bound is None:
        law = error_law(table.y, groups, *residuals, anchors)
    else:
        law = bounded_law(table.y, groups, *residuals, anchors, bound)
    errors = table.y_error[np.isfinite(table.y_error)]
    return Calibration(
        groups=groups,
        by_row=by_row,
        by_group=by_group,
        anchors=anchors,
        law=law,
        rl_noise=float(np.sqrt(np.mean(errors**2))) if len(errors) else math.nan,
    )


def has_conformal(n_units: int, level: float) -> bool:
    """Return whether n rows or groups give a finite interval: n >= ceil(1 / alpha) - 1."""
    return n_units >= math.ceil(round(1.0 / (1.0 - level), 9)) - 1


def anchors_of(groups: TextArray, known: TextArray) -> FloatArray:
    """Return, for each row, the (n,) numbers of rows of `known` in its group."""
    counts = Counter(known.tolist())
    return np.array([counts[name] for name in groups.tolist()], dtype=np.float64)


def intervals(
    calibration: Calibration, X: pd.DataFrame, groups: TextArray, mean: FloatArray, level: float
) -> tuple[FloatArray, FloatArray, list[Regime]]:
    """Return the (n,) lower and upper ends of the intervals, and the regime of each row.

    Args:
        calibration: calibration of the model.
        X: rows to predict; pass all rows of a group together, because models may centre them.
        groups: (n,) groups of the rows.
        mean: (n,) predictions of the model fitted to all rows.
        level: share of outcomes that intervals contain, for example 0.9.
    """
    anchors = anchors_of(groups, calibration.groups)
    low, high = calibration.law.student_ends(mean, anchors, level)
    is_new = anchors == 0
    n_groups = len(np.unique(calibration.groups))
    regimes = np.where(is_new, Regime.NEW_GROUP_MODEL, Regime.FEW_ROWS).astype(object)
    n_held = int(np.isfinite(calibration.by_row.residuals).sum())
    if (~is_new).any() and has_conformal(n_held, level):
        ends = _jackknife_plus(calibration, X, anchors, level)
        low, high = np.where(is_new, low, ends[0]), np.where(is_new, high, ends[1])
        regimes[~is_new] = Regime.KNOWN_GROUP
    if is_new.any() and calibration.by_group and has_conformal(n_groups, level):
        ends = _hierarchical(calibration, calibration.by_group, X, level)
        low, high = np.where(is_new, ends[0], low), np.where(is_new, ends[1], high)
        regimes[is_new] = Regime.NEW_GROUP
    return low, high, [Regime(str(regime)) for regime in regimes]


def predictive(
    calibration: Calibration,
    groups: TextArray,
    mean: FloatArray,
    *,
    noise: bool,
    level: float = 0.9,
) -> Predictive:
    """Return the joint distribution of the outcomes of one RL run each, or of the true scores.

    Its degrees of freedom are those of the row's error. The error of a level has fewer; its scale
    is widened instead, so that intervals at `level` have the right width.

    Args:
        calibration: calibration of the model.
        groups: (n,) groups of the rows.
        mean: (n,) predictions of the rows.
        noise: whether to include the noise of one RL run. If outcomes have no standard errors, the
            noise cannot be separated and is always included.
        level: level of the intervals that have the right width.
    """
    law = calibration.law
    anchors = anchors_of(groups, calibration.groups)
    noise_sd = law.additive_sd if isinstance(law, BoundedLaw) else law.row_sd
    noise_var = np.full(len(mean), noise_sd**2)
    if not noise and np.isfinite(calibration.rl_noise):
        # Keep at least a tenth, because the variance of the residuals is itself an estimate.
        noise_var = np.maximum(noise_var - calibration.rl_noise**2, 0.1 * noise_var)
    level_sd = law.group_sd(anchors)
    tail = 0.5 + level / 2.0
    wider = student.ppf(tail, law.df(anchors)) / student.ppf(tail, law.row_df)
    total = (law.row_sd**2 + level_sd**2) * wider**2
    group_sd = np.sqrt(np.maximum(total - law.row_sd**2, 0.0))
    if not isinstance(law, BoundedLaw):
        return Predictive(
            mean=mean, row_sd=np.sqrt(noise_var), group_sd=group_sd, groups=groups, df=law.row_df
        )
    slope = law.bound.slope_at(mean)
    return Predictive(
        mean=mean,
        row_sd=np.sqrt(noise_var + (slope * law.row_sd) ** 2),
        group_sd=slope * group_sd,
        groups=groups,
        df=law.row_df,
        bound=law.bound,
        additive_sd=np.sqrt(noise_var),
    )


def _residuals(make: MakeModel, table: TrainingTable, folds: Sequence[Rows]) -> Residuals:
    fits = fit_folds(make, table, folds)
    fit_of = np.full(len(table), -1, dtype=np.intp)
    for position, fit in enumerate(fits):
        fit_of[fit.held_out] = position
    predicted = out_of_fold(fits, table)
    return Residuals(
        fits=tuple(fits), fit_of=fit_of, residuals=table.y - predicted, predicted=predicted
    )


def _predictions(held_out: Residuals, X: pd.DataFrame) -> FloatArray:
    """Return (training rows, rows of X) predictions, each by the model without the training row."""
    return np.stack([fit.model.predict(X) for fit in held_out.fits])[held_out.fit_of]


def _jackknife_plus(
    calibration: Calibration, X: pd.DataFrame, anchors: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    by_row = calibration.by_row
    held = np.isfinite(by_row.residuals)
    low, high = _ends(calibration, by_row, X, calibration.anchors, anchors, held)
    n = len(low)
    last = math.floor(round((1.0 - level) * (n + 1), 9)) - 1
    return np.sort(low, axis=0)[last], np.sort(high, axis=0)[n - 1 - last]


def _hierarchical(
    calibration: Calibration, by_group: Residuals, X: pd.DataFrame, level: float
) -> tuple[FloatArray, FloatArray]:
    sizes = anchors_of(calibration.groups, calibration.groups)
    weights = 1.0 / (sizes * (len(np.unique(calibration.groups)) + 1))
    everything = np.ones(len(sizes), dtype=bool)
    none, none_new = np.zeros(len(sizes)), np.zeros(len(X))
    low, high = _ends(calibration, by_group, X, none, none_new, everything)
    return -_upper_quantile(-low, weights, level), _upper_quantile(high, weights, level)


def _ends(
    calibration: Calibration,
    held_out: Residuals,
    X: pd.DataFrame,
    had: FloatArray,
    has: FloatArray,
    rows: NDArray[np.bool_],
) -> tuple[FloatArray, FloatArray]:
    """Return the ends around each fold's predictions of X, at the size of the fold's own error.

    Args:
        calibration: calibration of the model.
        held_out: the folds.
        X: rows to predict.
        had: (n,) numbers of anchors of the training rows.
        has: numbers of anchors of the rows of X.
        rows: (n,) the training rows to use.

    Returns:
        The lower and the upper ends, each with the shape (training rows, rows of X).
    """
    residuals = held_out.residuals[rows]
    # Only a law with a ceiling uses predictions, and predictors of older versions have no ceiling.
    predicted = residuals if held_out.predicted is None else held_out.predicted[rows]
    scores = calibration.law.scores(residuals, predicted, had[rows])
    means = _predictions(held_out, X)[rows]
    return calibration.law.ends(means, has, scores[:, None])


def _upper_quantile(values: FloatArray, weights: FloatArray, level: float) -> FloatArray:
    """Return, for each column, the smallest value with a weight of `level` at or below it."""
    order = np.argsort(values, axis=0)
    first = np.argmax(np.cumsum(weights[order], axis=0) >= level - 1e-9, axis=0)
    quantiles: FloatArray = np.sort(values, axis=0)[first, np.arange(values.shape[1])]
    return quantiles
