"""What is known of outcomes that have not happened: a joint distribution over checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.training_table import FloatArray, TextArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictive:
    """Outcomes of n checkpoints, as a t distribution with a part that groups share.

    outcome_i = mean_i + group_sd_i * u_(group of i) + row_sd_i * e_i

    with u (one a group) and e (one a checkpoint) standard normal, both divided by the root of one
    chi2_df / df a draw. Comparisons inside a group do not depend on `group_sd`.

    Args:
        mean: (n,) predicted outcome, higher is better.
        row_sd: (n,) what is unknown of each checkpoint alone. The noise of one RL run is part of
            it only if the mean's target is one run's score.
        group_sd: (n,) what is unknown of the level of its group; nearly 0 with many anchors.
        groups: (n,) group of each.
        df: degrees of freedom of the variances; infinity: normal.
    """

    mean: FloatArray
    row_sd: FloatArray
    group_sd: FloatArray
    groups: TextArray
    df: float = np.inf

    def draw(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Joint draws, (n_draws, n)."""
        names, group_of = np.unique(self.groups, return_inverse=True)
        shared = rng.standard_normal((n_draws, len(names)))[:, group_of]
        alone = rng.standard_normal((n_draws, len(self.mean)))
        scale = np.ones((n_draws, 1))
        if np.isfinite(self.df):
            scale = np.sqrt(self.df / rng.chisquare(self.df, size=(n_draws, 1)))
        spread: FloatArray = scale * (self.group_sd * shared + self.row_sd * alone)
        return self.mean + spread

    def rows(self, chosen: NDArray[np.intp]) -> Predictive:
        """What is known of some of the checkpoints, by position."""
        return replace(
            self,
            mean=self.mean[chosen],
            row_sd=self.row_sd[chosen],
            group_sd=self.group_sd[chosen],
            groups=self.groups[chosen],
        )

    @property
    def sd(self) -> FloatArray:
        """(n,) scale of each outcome alone."""
        return np.hypot(self.row_sd, self.group_sd)
