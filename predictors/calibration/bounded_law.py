"""The size of prediction errors under a ceiling: small where outcomes level off, wide on the slope.

    outcome = mu(eta + level + row) + noise      level ~ N(0, group_sd(m)^2), row ~ N(0, row_sd^2)
                                                 noise ~ N(0, additive_sd^2)

where eta is the point at which the curve has the predicted value. The variance of errors is about

    additive_sd^2 + slope^2 (row_sd^2 + group_sd(m)^2)

where `slope` is the root mean square of the slopes of the chords from the prediction to the points
that normal errors of eta reach on the curve.

`row_sd`, `group_sd` and the anchors m are as in `error_law.py`, but in eta. They are the most
probable ones given the residuals of rows whose whole group was held out, because these residuals
share the error of their level.

An interval reaches t scales of eta along the curve, combined with t scales of the noise. It
therefore never passes the ceiling by more than t scales of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import t as student

from rlready.predictors.bound import Bound
from rlready.predictors.calibration.error_law import PRIOR_GROUPS, ErrorLaw, best_kappa
from rlready.predictors.training_table import FloatArray, TextArray

_PRIOR_WIDTH = 1.0
"""Prior standard deviation of the logarithm of each size of errors, around equal parts."""

_LEAST = 1e-4
"""Smallest additive noise, as a share of the span. Without any noise, no interval could contain an
outcome above the ceiling."""

_N_HALVINGS = 60

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()


@dataclass(frozen=True, kw_only=True)
class BoundedLaw(ErrorLaw):
    """Sizes of prediction errors; those of `ErrorLaw` are in eta.

    Args:
        bound: the ceiling of the model that was fitted to all rows.
        additive_sd: standard deviation of the noise, in units of the outcome.
    """

    bound: Bound
    additive_sd: float

    def ends(
        self, mean: FloatArray, anchors: FloatArray, t: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Do the same as `ErrorLaw.ends`; no end is outside the scale of outcomes."""
        low, high = (mean + sign * self._reach(mean, anchors, sign * t) for sign in (-1.0, 1.0))
        return np.maximum(low, self.bound.floor), np.minimum(high, self.bound.end)

    def scores(self, residual: FloatArray, mean: FloatArray, anchors: FloatArray) -> FloatArray:
        """Do the same as `ErrorLaw.scores`, along the curve."""
        size, sign = np.abs(residual), np.sign(residual)
        low, high = np.zeros(len(size)), size / self.additive_sd
        for _ in range(_N_HALVINGS):
            middle = (low + high) / 2.0
            is_short = self._reach(mean, anchors, sign * middle) < size
            low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
        return high

    def student_ends(
        self, mean: FloatArray, anchors: FloatArray, level: float
    ) -> tuple[FloatArray, FloatArray]:
        """Do the same as `ErrorLaw.student_ends`; on the plateau, levels have no influence."""
        slope, of_level = self.bound.slope_at(mean), self._level(anchors)
        rest = self.additive_sd**2 + slope**2 * (self.sd(anchors) ** 2 - of_level**2)
        df = self._mixed_df(rest, (slope * of_level) ** 2)
        t = np.asarray(student.ppf(0.5 + level / 2.0, df))
        return self.ends(mean, anchors, t)

    def _reach(self, mean: FloatArray, anchors: FloatArray, t: FloatArray) -> FloatArray:
        """Return the distances of interval ends from the predictions, with the sign of t."""
        on_curve = self.bound.moved(mean, t * self.sd(anchors)) - mean
        return np.hypot(on_curve, t * self.additive_sd)


def bounded_law(
    y: FloatArray,
    groups: TextArray,
    by_row: FloatArray,
    by_group: FloatArray | None,
    anchors: FloatArray,
    bound: Bound,
) -> BoundedLaw:
    """Estimate the sizes of errors from out-of-fold residuals.

    Args:
        y: (n,) outcomes.
        groups: (n,) group of each row.
        by_row: (n,) residuals of rows held out a few at a time, see `error_law`.
        by_group: (n,) residuals of rows held out with their whole group; None with one group.
        anchors: (n,) number of rows of its group that the model of `by_row` was fitted to.
        bound: the ceiling of the model that was fitted to all rows.
    """
    group_of = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group_of).astype(np.float64)
    row_df = max(float(np.sum(np.maximum(sizes - 1.0, 0.0))), 1.0)
    inside, eta = np.isfinite(by_row), bound.eta(y)
    mean = y - np.where(inside, by_row, 0.0)
    if by_group is None:
        rows = np.arange(int(inside.sum()))
        additive, row_sd, level_sd = _most_probable(by_row[inside], mean[inside], rows, bound)
        return BoundedLaw(
            bound=bound,
            additive_sd=additive,
            # One group contains no information on levels, so rows and levels are one part.
            row_sd=float(np.hypot(row_sd, level_sd)),
            group_sd_new=float(np.std(eta, ddof=1)),
            kappa=0.0,
            row_df=row_df,
            group_df=PRIOR_GROUPS,
        )
    additive, row_sd, level_sd = _most_probable(by_group, y - by_group, group_of, bound)
    if not inside.any():
        df = max(len(y) - 1.0, 1.0)
        return BoundedLaw(
            bound=bound,
            additive_sd=additive,
            row_sd=row_sd,
            group_sd_new=level_sd,
            kappa=np.inf,
            row_df=df,
            group_df=df,
        )
    means = np.bincount(group_of, weights=eta) / sizes
    prior = float(np.sum((eta - means[group_of]) ** 2)) / row_df
    new_var = (len(sizes) * level_sd**2 + PRIOR_GROUPS * prior) / (len(sizes) + PRIOR_GROUPS)
    slope = _mean_slope(bound, y - by_group, float(np.hypot(row_sd, level_sd)))
    law = BoundedLaw(
        bound=bound,
        additive_sd=additive,
        row_sd=row_sd,
        group_sd_new=level_sd,
        kappa=_kappa(by_row, by_group, group_of, anchors, slope, additive, row_sd),
        row_df=row_df,
        group_df=len(sizes) - 1.0,
    )
    # The residuals of rows held out alone show the size of the errors of rows.
    in_eta = law.sd(anchors)
    variance = additive**2 + (_mean_slope(bound, mean, in_eta) * in_eta) ** 2
    factor = float(np.sqrt(np.mean((by_row**2 / variance)[inside])))
    return replace(
        law,
        additive_sd=max(factor * additive, _LEAST * bound.span),
        row_sd=factor * row_sd,
        group_sd_new=float(np.sqrt(max(level_sd**2, new_var))),
    )


def _kappa(
    by_row: FloatArray,
    by_group: FloatArray,
    group_of: NDArray[np.intp],
    anchors: FloatArray,
    slope: FloatArray,
    additive_sd: float,
    row_sd: float,
) -> float:
    """Return the kappa that best explains how anchors changed the residuals."""
    weight = slope / (additive_sd**2 + (slope * row_sd) ** 2)
    information = weight * slope
    tells, sums = (np.bincount(group_of, weights=each) for each in (weight * by_group, information))
    others = np.divide(
        tells[group_of] - weight * by_group,
        sums[group_of] - information,
        out=np.zeros(len(slope)),
        where=sums[group_of] - information > 1e-9 * sums[group_of],
    )
    rows = np.isfinite(by_row) & (np.bincount(group_of)[group_of] > 1)
    return best_kappa((by_group - by_row)[rows], (slope * others)[rows], anchors[rows])


def _mean_slope(bound: Bound, mean: FloatArray, sd: FloatArray | float) -> FloatArray:
    """Return the (n,) root mean squares of the slopes of chords to normal errors of eta."""
    sd = np.maximum(sd, 1e-9)
    away = bound.moved(mean, _NODES[:, None] * sd) - mean
    return np.asarray(np.sqrt(_NODE_WEIGHTS @ away**2) / sd)


def _most_probable(
    residual: FloatArray, mean: FloatArray, group_of: NDArray[np.intp], bound: Bound
) -> tuple[float, float, float]:
    """Return the most probable additive_sd, row_sd and group_sd, given the residuals."""
    size = max(float(np.sqrt(np.mean(residual**2))), _LEAST * bound.span)
    typical = float(np.sqrt(np.mean(bound.slope_at(mean) ** 2)))
    middle = np.log(np.array([size, size / typical, size / typical]) / np.sqrt(3.0))
    members = [np.flatnonzero(group_of == group) for group in np.unique(group_of)]

    def loss(logs: FloatArray) -> float:
        additive, row, group = np.exp(2.0 * logs)
        value = 0.5 * float(np.sum(((logs - middle) / _PRIOR_WIDTH) ** 2))
        slope = _mean_slope(bound, mean, float(np.sqrt(row + group)))
        for rows in members:
            m = slope[rows]
            covariance = np.diag(additive + m**2 * row) + group * np.outer(m, m)
            factor = cho_factor(covariance, lower=True)
            value += float(np.sum(np.log(np.diag(factor[0]))))
            value += 0.5 * float(residual[rows] @ cho_solve(factor, residual[rows]))
        return value

    logs = minimize(loss, middle, method="L-BFGS-B", bounds=[(m - 6.0, m + 6.0) for m in middle]).x
    additive, row, group = map(float, np.exp(logs))
    return max(additive, _LEAST * bound.span), row, group
