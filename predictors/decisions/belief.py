"""What a planner believes of candidates after their RL runs: posterior means of the true scores.

For normal draws the posterior mean is linear in the observed scores:

    believed = mean + (observed - mean) K,    K = (P + s^2 I)^-1 P

with the covariance P of the true scores and the noise s of one run. Under a ceiling the draws are
skewed: an observation above the ceiling is mostly luck, and a linear rule would believe it. There
the linear rule is a summary of all observations, which counts as one observation of the row

    z = truth + N(0, v),    v = var (1 / r - 1),    r = var(believed) / var

and E[truth | z] follows by quadrature over the row's own distribution. This is exact if the rows
are independent, and nearly so if they share little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray

_LATENT = np.linspace(-6.0, 6.0, 241)
_WEIGHTS = np.exp(-0.5 * _LATENT**2) / np.exp(-0.5 * _LATENT**2).sum()
_N_KNOTS = 201
_FINEST = 0.06
"""Smallest sd of an observation, in sd of the row: above the distance of two points."""


def posterior_means(
    predictive: Predictive,
    matched: Predictive,
    rows: NDArray[np.intp],
    observed: FloatArray,
    rl_noise: float,
) -> FloatArray:
    """Return (D, N) expected true scores of N candidates, given one observed score of each.

    Args:
        predictive: distribution of the true scores of all candidates.
        matched: the same after `Predictive.matched`.
        rows: (N,) positions of the observed candidates.
        observed: (D, N) observed scores.
        rl_noise: standard deviation of the noise of one score.
    """
    mean, level = matched.mean[rows], matched.group_sd[rows]
    same = matched.groups[rows][:, None] == matched.groups[rows][None, :]
    prior = np.where(same, np.outer(level, level), 0.0) + np.diag(matched.row_sd[rows] ** 2)
    gain = np.linalg.solve(prior + max(rl_noise, 1e-9) ** 2 * np.eye(len(rows)), prior)
    believed: FloatArray = mean + (observed - mean) @ gain
    if predictive.bound is None or predictive.additive_sd is None or rl_noise == 0.0:
        return believed
    variance = np.diag(prior)
    reliability = np.clip(np.diag(prior @ gain) / np.maximum(variance, 1e-300), 1e-9, 1.0)
    z = mean + (believed - mean) / reliability
    noise = np.maximum(variance * (1.0 / reliability - 1.0), _FINEST**2 * variance)
    curve, additive = _on_the_curve(predictive, matched, rows)
    for i in np.flatnonzero(variance > 0.0):
        knots = np.linspace(z[:, i].min(), z[:, i].max(), _N_KNOTS)
        gap = knots[:, None] - curve[:, i]
        total = additive[i] + noise[i]
        log_weight = np.log(_WEIGHTS) - 0.5 * gap**2 / total
        weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        means = curve[:, i] + additive[i] / total * gap
        believed[:, i] = np.interp(z[:, i], knots, np.average(means, axis=1, weights=weight))
    return believed


def _on_the_curve(
    predictive: Predictive, matched: Predictive, rows: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """Return (points, N) scores without the additive error, and its (N,) variances."""
    bound, additive_sd = predictive.bound, predictive.additive_sd
    assert bound is not None
    assert additive_sd is not None
    mean, wide = predictive.mean[rows], predictive.spread_of_scale
    additive = np.minimum(additive_sd, predictive.row_sd)[rows] ** 2
    moving = predictive.sd[rows] ** 2 - additive
    steps = np.sqrt(wide * moving) / bound.slope_at(mean) * _LATENT[:, None]
    return bound.moved(mean, steps), wide * additive
