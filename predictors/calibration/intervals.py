"""Intervals for the outcome of one RL run, and what each of them promises.

A row of a group that has outcomes in the training table stands in another relation to it than a
row of a new group, so three regimes are kept apart and named beside each interval:

- known group: jackknife+ (CV+) by rows, Barber, Candes, Ramdas, Tibshirani 2021 (arXiv
  1905.02928). Residuals are scaled by what the error law (`error_law.py`) gives for the number of
  anchors, so that a group with 3 of them gets wider intervals than one with 12.
- new group, enough known ones: hierarchical conformal (Dunn, Wasserman, Ramdas, arXiv 1809.07441;
  Lee, Barber, Willett, arXiv 2306.06342), CV+ by groups: each group weighs 1 / (G + 1), and
  1 / (G + 1) stands for the group that was not seen. Finite only if G >= ceil(1 / alpha) - 1.
- new group, fewer: a t interval from the error law's variances.

Row-wise conformal on a new group covers about a quarter of what it says, so it is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
"""With fewer rows a model fitted on all but one of them says nothing about errors."""


class Regime(StrEnum):
    """How an interval came about."""

    KNOWN_GROUP = "known group"
    NEW_GROUP = "new group, hierarchical conformal"
    NEW_GROUP_MODEL = "new group, model-based"
    FEW_ROWS = "few rows, model-based"

    @property
    def promise(self) -> str:
        """What holds, in words."""
        return _PROMISES[self]

    @property
    def is_distribution_free(self) -> bool:
        """Whether coverage needs no law of errors, only groups drawn alike."""
        return self is Regime.NEW_GROUP


_PROMISES = {
    Regime.KNOWN_GROUP: (
        "jackknife+ by rows, scaled by the number of anchors: covers on average over further "
        "checkpoints of the known groups, not in each group"
    ),
    Regime.NEW_GROUP: (
        "hierarchical conformal: distribution-free, covers on average over new groups drawn like "
        "the known ones"
    ),
    Regime.NEW_GROUP_MODEL: (
        "t interval from variances between and inside groups: model-based, not distribution-free"
    ),
    Regime.FEW_ROWS: ("t interval from few out-of-fold errors: model-based, not distribution-free"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """Models that have not seen some rows, and how far they were off on them.

    Args:
        fits: the models; each row is held out by at most one.
        fit_of: (n,) position in `fits` of the model that has not seen a row; -1: none.
        residuals: (n,) outcome minus prediction; NaN where `fit_of` is -1.
    """

    fits: tuple[FoldFit, ...]
    fit_of: Rows
    residuals: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """What the intervals of a fitted model are made from.

    Args:
        groups: (n,) group of each training row.
        by_row: models and residuals of rows held out a few at a time.
        by_group: those of whole groups held out; None with one group.
        anchors: (n,) rows of its group that the model of `by_row` had seen.
        law: sizes of errors.
        rl_noise: standard error of one RL run's outcome; NaN if unknown.
    """

    groups: TextArray
    by_row: Residuals
    by_group: Residuals | None
    anchors: FloatArray
    law: ErrorLaw
    rl_noise: float


def calibrate(make: MakeModel, table: TrainingTable, *, n_folds: int, seed: int = 0) -> Calibration:
    """Fit the models of all folds and take their residuals.

    Args:
        make: makes the model whose predictions get intervals.
        table: rows with outcomes.
        n_folds: at most so many folds of rows, and so many of groups.
        seed: of the folds.

    Raises:
        ConfigError: if the table has fewer than `MIN_ROWS` rows.
    """
    if len(table) < MIN_ROWS:
        raise ConfigError(
            f"{len(table)} checkpoints have an outcome: too few for an interval",
            why=f"errors are taken from models that leave rows out; that needs {MIN_ROWS} rows",
            fix="Record outcomes of more checkpoints (`rlready outcome`)",
        )
    groups = table.groups
    by_row = _residuals(make, table, row_folds(table, n_folds, seed))
    by_group = None
    if len(np.unique(groups)) > 1:
        by_group = _residuals(make, table, group_folds(table, n_folds, seed))
    anchors = _anchors_seen(groups, by_row)
    law = error_law(
        table.y,
        groups,
        by_row.residuals,
        None if by_group is None else by_group.residuals,
        anchors,
    )
    known = table.y_error[np.isfinite(table.y_error)]
    return Calibration(
        groups=groups,
        by_row=by_row,
        by_group=by_group,
        anchors=anchors,
        law=law,
        rl_noise=float(np.sqrt(np.mean(known**2))) if len(known) else math.nan,
    )


def has_hierarchical(n_groups: int, level: float) -> bool:
    """Whether so many groups give a finite hierarchical interval: G >= ceil(1 / alpha) - 1."""
    return n_groups >= math.ceil(round(1.0 / (1.0 - level), 9)) - 1


def anchors_of(groups: TextArray, known: TextArray) -> FloatArray:
    """(n,) rows with outcomes that the group of each row has in the training table."""
    names, counts = np.unique(known, return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return np.array([found.get(name, 0) for name in groups.tolist()], dtype=np.float64)


def intervals(
    calibration: Calibration, X: pd.DataFrame, groups: TextArray, mean: FloatArray, level: float
) -> tuple[FloatArray, FloatArray, list[Regime]]:
    """Ends of the intervals, (n,) each, and the regime of each row.

    Args:
        calibration: of the model.
        X: rows to predict; those of one group together, as models may centre them.
        groups: (n,) their groups.
        mean: (n,) prediction of the model fitted on all rows.
        level: share of outcomes that intervals hold, e.g. 0.9.
    """
    anchors = anchors_of(groups, calibration.groups)
    half = calibration.law.half_width(anchors, level)
    low, high = mean - half, mean + half
    is_new = anchors == 0
    n_groups = len(np.unique(calibration.groups))
    regimes = np.where(is_new, Regime.NEW_GROUP_MODEL, Regime.FEW_ROWS).astype(object)
    n_held = int(np.isfinite(calibration.by_row.residuals).sum())
    if (~is_new).any() and n_held >= math.ceil(round(1.0 / (1.0 - level), 9)) - 1:
        ends = _jackknife_plus(calibration, X, anchors, level)
        low, high = np.where(is_new, low, ends[0]), np.where(is_new, high, ends[1])
        regimes[~is_new] = Regime.KNOWN_GROUP
    if is_new.any() and calibration.by_group and has_hierarchical(n_groups, level):
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
    """The joint law of the outcomes of rows: of one RL run each, or of their true scores.

    Its tails are those of the row's own error; what is known less well of a level, by fewer
    degrees of freedom, is made up for by its scale, so that intervals at `level` fit.

    Args:
        calibration: of the model.
        groups: (n,) groups of the rows.
        mean: (n,) their predictions.
        noise: whether the noise of one RL run is part of it. Where outcomes have no standard
            errors it cannot be told from the rest, and is part of it in any case.
        level: where the scale of levels is right.
    """
    from scipy.stats import t as student

    law = calibration.law
    anchors = anchors_of(groups, calibration.groups)
    row_var = np.full(len(mean), law.row_sd**2)
    if not noise and np.isfinite(calibration.rl_noise):
        # Never to nothing: the residuals' own variance is an estimate.
        row_var = np.maximum(row_var - calibration.rl_noise**2, 0.1 * row_var)
    level_sd = law.group_sd(anchors)
    tail = 0.5 + level / 2.0
    wider = student.ppf(tail, law.df(anchors)) / student.ppf(tail, law.row_df)
    total = (law.row_sd**2 + level_sd**2) * wider**2
    return Predictive(
        mean=mean,
        row_sd=np.sqrt(row_var),
        group_sd=np.sqrt(np.maximum(total - law.row_sd**2, 0.0)),
        groups=groups,
        df=law.row_df,
    )


def _residuals(make: MakeModel, table: TrainingTable, folds: Sequence[Rows]) -> Residuals:
    fits = fit_folds(make, table, folds)
    fit_of = np.full(len(table), -1, dtype=np.intp)
    for position, fit in enumerate(fits):
        fit_of[fit.held_out] = position
    return Residuals(fits=tuple(fits), fit_of=fit_of, residuals=table.y - out_of_fold(fits, table))


def _anchors_seen(groups: TextArray, by_row: Residuals) -> FloatArray:
    sizes = anchors_of(groups, groups)
    for fit in by_row.fits:
        sizes[fit.held_out] -= anchors_of(groups[fit.held_out], groups[fit.held_out])
    return sizes


def _jackknife_plus(
    calibration: Calibration, X: pd.DataFrame, anchors: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    by_row, law = calibration.by_row, calibration.law
    held = np.isfinite(by_row.residuals)
    scores = np.abs(by_row.residuals[held])
    if law.row_sd > 0:
        scores = scores / law.sd(calibration.anchors[held])
    means = np.stack([fit.model.predict(X) for fit in by_row.fits])[by_row.fit_of[held]]
    scale = law.sd(anchors) if law.row_sd > 0 else np.ones(len(X))
    spread = scores[:, None] * scale
    n = len(scores)
    last = math.floor(round((1.0 - level) * (n + 1), 9)) - 1
    low = np.sort(means - spread, axis=0)[last]
    high = np.sort(means + spread, axis=0)[n - 1 - last]
    return low, high


def _hierarchical(
    calibration: Calibration, by_group: Residuals, X: pd.DataFrame, level: float
) -> tuple[FloatArray, FloatArray]:
    sizes = anchors_of(calibration.groups, calibration.groups)
    n_groups = len(np.unique(calibration.groups))
    weights = 1.0 / (sizes * (n_groups + 1))
    means = np.stack([fit.model.predict(X) for fit in by_group.fits])[by_group.fit_of]
    scores = np.abs(by_group.residuals)[:, None]
    high = _upper_quantile(means + scores, weights, level)
    return -_upper_quantile(scores - means, weights, level), high


def _upper_quantile(values: FloatArray, weights: FloatArray, level: float) -> FloatArray:
    """(n,) smallest value of each column that has a weight of `level` at or below it."""
    order = np.argsort(values, axis=0)
    reached: NDArray[np.bool_] = np.cumsum(weights[order], axis=0) >= level - 1e-9
    first = np.argmax(reached, axis=0)
    found: FloatArray = np.take_along_axis(
        np.take_along_axis(values, order, axis=0), first[None], axis=0
    )[0]
    return found
