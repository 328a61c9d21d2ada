"""Predicted outcomes of checkpoints, as a joint distribution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.bound import Bound
from rlready.predictors.training_table import FloatArray, TextArray

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Quadrature of a standard normal number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictive:
    """Joint t distribution of the outcomes of n checkpoints, with a part shared within groups.

    outcome_i = mean_i + group_sd_i * u_(group of i) + row_sd_i * e_i

    with standard normal u (one per group) and e (one per checkpoint). Each draw divides both by the
    square root of the same chi2_df / df. Comparisons within a group do not depend on `group_sd`.

    Args:
        mean: (n,) predicted outcome, higher is better.
        row_sd: (n,) scale of the uncertainty of each checkpoint alone. It includes the noise of
            an RL run only if the target is the score of a single run.
        group_sd: (n,) scale of the uncertainty of the level of the checkpoint's group. It is near
            0 if the group has many outcomes.
        groups: (n,) group of each checkpoint.
        df: degrees of freedom of the variances; infinity gives a normal distribution.
        bound: ceiling of the mean, if it has one. Prediction errors then go through the sigmoid,
            so that no draw of a mean passes the ceiling; `row_sd` and `group_sd` are the scales
            of the errors at the predicted mean.
        additive_sd: (n,) part of `row_sd` that is added to the outcome itself; only with `bound`.

    Example:
        >>> predictive.draw(1000, np.random.default_rng(0)).shape
        (1000, 2)
    """

    mean: FloatArray
    row_sd: FloatArray
    group_sd: FloatArray
    groups: TextArray
    df: float = np.inf
    bound: Bound | None = None
    additive_sd: FloatArray | None = None

    def draw(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draw the outcomes jointly; return (n_draws, n) numbers."""
        names, group_of = np.unique(self.groups, return_inverse=True)
        shared = rng.standard_normal((n_draws, len(names)))[:, group_of]
        draws = rng.standard_normal((n_draws, len(self.mean)))
        scale = np.ones((n_draws, 1))
        if np.isfinite(self.df):
            scale = np.sqrt(self.df / rng.chisquare(self.df, size=(n_draws, 1)))
        # The arrays are large: each step overwrites them, which takes half the time.
        shared *= self.group_sd
        if self.bound is None or self.additive_sd is None:
            draws *= self.row_sd
            draws += shared
            draws *= scale
            draws += self.mean
            return draws
        additive = np.minimum(self.additive_sd, self.row_sd)
        draws *= np.sqrt(self.row_sd**2 - additive**2)
        draws += shared
        draws *= scale
        draws /= self.bound.slope_at(self.mean)
        draws = self.bound.moved(self.mean, draws)
        noise = rng.standard_normal(draws.shape)
        noise *= scale * additive
        draws += noise
        return draws

    def matched(self) -> Predictive:
        """Return the normal distribution with the means and covariances of the draws.

        With `bound` the draws are skewed: they fall further below the prediction than they rise
        above it, so their mean is not the prediction. An update by an
        observation has to start from the mean of the draws.
        """
        wide = self.spread_of_scale
        row, group = wide * self.row_sd**2, wide * self.group_sd**2
        mean = self.mean
        if self.bound is not None and self.additive_sd is not None:
            additive = wide * np.minimum(self.additive_sd, self.row_sd) ** 2
            moving = row - additive + group
            steps = np.sqrt(moving) / self.bound.slope_at(mean) * _NODES[:, None]
            draws = self.bound.moved(mean, steps)
            mean = _WEIGHTS @ draws
            share = (_WEIGHTS @ (draws - mean) ** 2) / np.maximum(moving, 1e-300)
            row, group = share * (row - additive) + additive, share * group
        return replace(
            self,
            mean=mean,
            row_sd=np.sqrt(row),
            group_sd=np.sqrt(group),
            df=np.inf,
            bound=None,
            additive_sd=None,
        )

    def rows(self, chosen: NDArray[np.intp]) -> Predictive:
        """Return the distribution of some of the checkpoints, by position."""
        return replace(
            self,
            mean=self.mean[chosen],
            row_sd=self.row_sd[chosen],
            group_sd=self.group_sd[chosen],
            groups=self.groups[chosen],
            additive_sd=None if self.additive_sd is None else self.additive_sd[chosen],
        )

    def interval(self, level: float) -> tuple[FloatArray, FloatArray]:
        """Return both ends of normal intervals around the means, without the error of the group."""
        z = NormalDist().inv_cdf(0.5 + level / 2)
        return self.mean - z * self.row_sd, self.mean + z * self.row_sd

    @property
    def spread_of_scale(self) -> float:
        """Factor of the variances due to their own uncertainty; 1 if its mean is infinite."""
        return self.df / (self.df - 2.0) if 2.0 < self.df < np.inf else 1.0

    @property
    def sd(self) -> FloatArray:
        """The (n,) scales of the outcomes, with the errors of row and group."""
        return np.hypot(self.row_sd, self.group_sd)
