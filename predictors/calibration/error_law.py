"""The size of prediction errors, in two parts: that of a row and that of its group's level.

    outcome - prediction = level + row        row ~ N(0, row_sd^2), one per row
                                              level ~ N(0, group_sd(m)^2), one per group

In a group with m anchors (rows with outcomes in the training table) the error of the level falls
with m, if the model uses them. How much it falls is estimated from out-of-fold residuals. Let r be
the residuals of rows whose whole group was held out, and e those of rows held out alone. A model
that corrects a level by the residuals of its anchors has

    e_i = r_i - w(m) mean(r of the m others)        w(m) = m / (m + kappa)

kappa is fitted to this equation. It is 0 for a model that uses the group's own mean, row_sd^2 /
group_sd(0)^2 for the best linear (BLUP) shrinkage, and infinity for a model that ignores groups.
Then

    group_sd(m)^2 = (1 - w)^2 group_sd(0)^2 + w^2 row_sd^2 / m
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from rlready.predictors.training_table import FloatArray, TextArray

PRIOR_GROUPS = 1.0
"""Weight of the prior, in groups. A priori, levels vary as much as outcomes inside a group.

With fewer than 5 groups the data may show no variation of levels by chance. The prior can raise the
estimate but never lowers it, and it adds no degree of freedom.
"""

_KAPPAS = np.append(np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 61)]), np.inf)


@dataclass(frozen=True, kw_only=True)
class ErrorLaw:
    """Sizes of prediction errors, in units of the outcome.

    Args:
        row_sd: standard deviation of a row's error inside its group.
        group_sd_new: standard deviation of the level's error in a group without anchors.
        kappa: number of anchors that halves the error of the level.
        row_df: degrees of freedom of `row_sd`.
        group_df: degrees of freedom of `group_sd_new`.
    """

    row_sd: float
    group_sd_new: float
    kappa: float
    row_df: float
    group_df: float

    def group_sd(self, anchors: FloatArray) -> FloatArray:
        """Return the (n,) errors of the levels of groups with these numbers of anchors."""
        weight = _weight(anchors, self.kappa)
        of_anchors = weight * self.row_sd / np.sqrt(np.maximum(anchors, 1.0))
        return np.hypot((1.0 - weight) * self.group_sd_new, of_anchors)

    def sd(self, anchors: FloatArray) -> FloatArray:
        """Return the (n,) errors of rows in groups with these numbers of anchors."""
        return np.hypot(self.row_sd, self.group_sd(anchors))

    def df(self, anchors: FloatArray) -> FloatArray:
        """Return the (n,) degrees of freedom of `sd`, by Satterthwaite's formula."""
        level = self._level(anchors)
        return self._mixed_df(self.sd(anchors) ** 2 - level**2, level**2)

    def ends(
        self, mean: FloatArray, anchors: FloatArray, t: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return both ends of intervals that reach `t` scales of the error to either side.

        Args:
            mean: predictions; the shapes of all three arrays have to broadcast.
            anchors: numbers of anchors of the groups.
            t: half widths, in scales.
        """
        half = t * self._scale(anchors)
        return mean - half, mean + half

    def scores(self, residual: FloatArray, mean: FloatArray, anchors: FloatArray) -> FloatArray:
        """Return the (n,) values of `t` at which an end of the interval is the outcome.

        Args:
            residual: (n,) outcomes minus predictions.
            mean: (n,) predictions.
            anchors: (n,) numbers of anchors of their groups.
        """
        return np.asarray(np.abs(residual) / self._scale(anchors))

    def student_ends(
        self, mean: FloatArray, anchors: FloatArray, level: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return both (n,) ends of t intervals that contain a share `level` of outcomes."""
        t = np.asarray(student.ppf(0.5 + level / 2.0, self.df(anchors)))
        return self.ends(mean, anchors, t)

    def _scale(self, anchors: FloatArray) -> FloatArray:
        """Return the (n,) errors of rows; 1 if the data show no error."""
        return self.sd(anchors) if self.row_sd > 0 else np.ones(len(anchors))

    def _level(self, anchors: FloatArray) -> FloatArray:
        """Return the (n,) parts of `sd` that have the degrees of freedom of `group_sd_new`."""
        weight = np.where(anchors > 0, _weight(anchors, self.kappa), 0.0)
        return np.asarray((1.0 - weight) * self.group_sd_new)

    def _mixed_df(self, row_var: FloatArray, level_var: FloatArray) -> FloatArray:
        """Return the (n,) degrees of freedom of sums of both variances, of rows and levels."""
        total = (row_var + level_var) ** 2
        parts = row_var**2 / self.row_df + level_var**2 / self.group_df
        df: FloatArray = np.divide(
            total, parts, out=np.full(len(total), self.row_df), where=parts > 0
        )
        return df


def error_law(
    y: FloatArray,
    groups: TextArray,
    by_row: FloatArray,
    by_group: FloatArray | None,
    anchors: FloatArray,
) -> ErrorLaw:
    """Estimate the sizes of errors from out-of-fold residuals.

    Args:
        y: (n,) outcomes; their spread inside groups is the prior spread of levels.
        groups: (n,) group of each row.
        by_row: (n,) residuals of rows held out one by one or a few at a time; NaN for a row that is
            alone in its group.
        by_group: (n,) residuals of rows held out with their whole group; None with one group.
        anchors: (n,) number of rows of its group that the model of `by_row` was fitted to.
    """
    group_of = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group_of).astype(np.float64)
    row_df = max(float(np.sum(np.maximum(sizes - 1.0, 0.0))), 1.0)
    inside = np.isfinite(by_row)
    if by_group is None:
        return ErrorLaw(
            row_sd=_rms(by_row[inside]),
            group_sd_new=float(np.std(y, ddof=1)),
            kappa=0.0,
            row_df=row_df,
            group_df=PRIOR_GROUPS,
        )
    if not inside.any():
        # With one row per group, rows and levels cannot be separated: each gets half.
        half = _rms(by_group) / float(np.sqrt(2.0))
        df = max(len(by_group) - 1.0, 1.0)
        return ErrorLaw(row_sd=half, group_sd_new=half, kappa=np.inf, row_df=df, group_df=df)
    means = np.bincount(group_of, weights=by_group) / sizes
    within = float(np.sum((by_group - means[group_of]) ** 2)) / row_df
    group_var = max(float(np.mean(means**2) - within * np.mean(1.0 / sizes)), 0.0)
    observed = ErrorLaw(
        row_sd=float(np.sqrt(within)),
        group_sd_new=float(np.sqrt(group_var)),
        kappa=_kappa(by_row, by_group, group_of, anchors),
        row_df=row_df,
        group_df=len(sizes) - 1.0,
    )
    y_means = np.bincount(group_of, weights=y) / sizes
    prior = float(np.sum((y - y_means[group_of]) ** 2)) / row_df
    new_var = (len(sizes) * group_var + PRIOR_GROUPS * prior) / (len(sizes) + PRIOR_GROUPS)
    row_var = 0.0
    if observed.row_sd > 0.0:
        # Residuals of rows held out alone also contain the error of their level.
        excess = (observed.sd(anchors[inside]) / observed.row_sd) ** 2
        row_var = float(np.mean(by_row[inside] ** 2 / excess))
    return replace(
        observed,
        row_sd=float(np.sqrt(row_var)),
        group_sd_new=float(np.sqrt(max(group_var, new_var))),
    )


def _kappa(
    by_row: FloatArray,
    by_group: FloatArray,
    group_of: NDArray[np.intp],
    anchors: FloatArray,
) -> float:
    """Return the kappa that best explains how anchors changed the residuals."""
    sizes = np.bincount(group_of)
    sums = np.bincount(group_of, weights=by_group)
    rows = np.isfinite(by_row) & (sizes[group_of] > 1)
    others = (sums[group_of] - by_group)[rows] / (sizes[group_of][rows] - 1)
    return best_kappa((by_group - by_row)[rows], others, anchors[rows])


def best_kappa(change: FloatArray, others: FloatArray, anchors: FloatArray) -> float:
    """Return the kappa that best explains how anchors changed the residuals.

    Args:
        change: (n,) changes of the residuals.
        others: (n,) changes of a model that fully corrects the level by its anchors.
        anchors: (n,) numbers of anchors.
    """
    weights = np.stack([_weight(anchors, float(kappa)) for kappa in _KAPPAS])
    misfit = np.sum((change - weights * others) ** 2, axis=1)
    return float(_KAPPAS[int(np.argmin(misfit))])


def _weight(anchors: FloatArray, kappa: float) -> FloatArray:
    """Return the (n,) shares of the anchors' mean residual that a model corrects, 0 to 1."""
    if np.isinf(kappa):
        return np.zeros(len(anchors))
    return np.where(anchors > 0, anchors / np.maximum(anchors + kappa, 1e-12), 0.0)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
