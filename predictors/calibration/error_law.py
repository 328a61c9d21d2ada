"""How far predictions are from outcomes, as a law in two parts: the row's own and its group's.

    outcome - prediction = level + own        own ~ N(0, row_sd^2), one a row
                                              level ~ N(0, group_sd(m)^2), one a group

A group that has m anchors (rows with outcomes in the training table) has a level error that falls
with m, if the model uses them. How much it does is not asked of the model but seen from its
out-of-fold residuals: with r the residuals of rows whose whole group was held out and e those of
rows held out alone, a model that corrects a level by the anchors' residuals gives

    e_i = r_i - w(m) mean(r of the m others)        w(m) = m / (m + kappa)

kappa is fitted to that: 0 for a group's own mean, row_sd^2 / group_sd(0)^2 for the best linear
(BLUP) shrinkage, infinity for a model that does not look at groups. Then

    group_sd(m)^2 = (1 - w)^2 group_sd(0)^2 + w^2 row_sd^2 / m
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from rlready.predictors.training_table import FloatArray, TextArray

PRIOR_GROUPS = 1.0
"""A priori, levels of groups differ as much as outcomes do inside a group; this belief counts as
much as one group seen. It may widen what the data say, which below 5 groups can be "no difference"
by accident; it never narrows it, and adds no degree of freedom to what was seen."""

_KAPPAS = np.append(np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 61)]), np.inf)


@dataclass(frozen=True, kw_only=True)
class ErrorLaw:
    """Sizes of prediction errors, in units of the outcome.

    Args:
        row_sd: error of a row inside its group.
        group_sd_new: error of the level of a group without anchors.
        kappa: how many anchors it takes to halve the level's error.
        row_df: degrees of freedom of `row_sd`.
        group_df: those of `group_sd_new`.
    """

    row_sd: float
    group_sd_new: float
    kappa: float
    row_df: float
    group_df: float

    def group_sd(self, anchors: FloatArray) -> FloatArray:
        """Error of the level of groups with so many anchors."""
        weight = _weight(anchors, self.kappa)
        own = weight * self.row_sd / np.sqrt(np.maximum(anchors, 1.0))
        return np.hypot((1.0 - weight) * self.group_sd_new, own)

    def sd(self, anchors: FloatArray) -> FloatArray:
        """Error of rows of groups with so many anchors."""
        found: FloatArray = np.hypot(self.row_sd, self.group_sd(anchors))
        return found

    def df(self, anchors: FloatArray) -> FloatArray:
        """Degrees of freedom of `sd`, by Satterthwaite's formula."""
        level = np.where(
            anchors > 0, (1.0 - _weight(anchors, self.kappa)) * self.group_sd_new, self.group_sd_new
        )
        rest = self.sd(anchors) ** 2 - level**2
        total = (rest + level**2) ** 2
        parts = rest**2 / self.row_df + level**4 / self.group_df
        found: FloatArray = np.divide(
            total, parts, out=np.full(len(total), self.row_df), where=parts > 0
        )
        return found

    def half_width(self, anchors: FloatArray, level: float) -> FloatArray:
        """Half the width of t intervals that hold a share `level` of outcomes."""
        width: FloatArray = student.ppf(0.5 + level / 2.0, self.df(anchors)) * self.sd(anchors)
        return width


def error_law(
    y: FloatArray,
    groups: TextArray,
    by_row: FloatArray,
    by_group: FloatArray | None,
    anchors: FloatArray,
) -> ErrorLaw:
    """The law that out-of-fold residuals follow.

    Args:
        y: (n,) outcomes: their spread inside groups is what is believed of levels beforehand.
        groups: (n,) group of each row.
        by_row: (n,) residuals of rows held out one by one or a few at a time; NaN where a row was
            not (the only one of its group).
        by_group: (n,) residuals of rows held out with their whole group; None with one group.
        anchors: (n,) rows of its group that the model of `by_row` had seen.
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
        return _law_of_lonely_rows(by_group)
    means = np.bincount(group_of, weights=by_group) / sizes
    within = float(np.sum((by_group - means[group_of]) ** 2)) / row_df
    group_var = max(float(np.mean(means**2) - within * np.mean(1.0 / sizes)), 0.0)
    seen = ErrorLaw(
        row_sd=float(np.sqrt(within)),
        group_sd_new=float(np.sqrt(group_var)),
        kappa=_kappa(by_row, by_group, group_of, anchors),
        row_df=row_df,
        group_df=len(sizes) - 1.0,
    )
    believed = _spread_inside(y, group_of, sizes, row_df)
    new_var = (len(sizes) * group_var + PRIOR_GROUPS * believed) / (len(sizes) + PRIOR_GROUPS)
    return replace(
        seen,
        row_sd=float(np.sqrt(_row_variance(seen, by_row[inside], anchors[inside]))),
        group_sd_new=float(np.sqrt(max(group_var, new_var))),
    )


def _law_of_lonely_rows(residuals: FloatArray) -> ErrorLaw:
    """With one row a group, rows and levels cannot be told apart: half of the variance each."""
    half = _rms(residuals) / float(np.sqrt(2.0))
    df = max(len(residuals) - 1.0, 1.0)
    return ErrorLaw(row_sd=half, group_sd_new=half, kappa=np.inf, row_df=df, group_df=df)


def _row_variance(shape: ErrorLaw, by_row: FloatArray, anchors: FloatArray) -> float:
    """Variance of rows alone, from residuals that hold their level's error too."""
    if shape.row_sd == 0.0:
        return 0.0
    excess = (shape.sd(anchors) / shape.row_sd) ** 2
    return float(np.mean(by_row**2 / excess))


def _spread_inside(
    y: FloatArray, group_of: NDArray[np.intp], sizes: FloatArray, df: float
) -> float:
    means = np.bincount(group_of, weights=y) / sizes
    return float(np.sum((y - means[group_of]) ** 2)) / df


def _kappa(
    by_row: FloatArray,
    by_group: FloatArray,
    group_of: NDArray[np.intp],
    anchors: FloatArray,
) -> float:
    """The shrinkage that best explains what anchors changed in the residuals."""
    sizes = np.bincount(group_of)
    sums = np.bincount(group_of, weights=by_group)
    rows = np.isfinite(by_row) & (sizes[group_of] > 1)
    others = (sums[group_of] - by_group)[rows] / (sizes[group_of][rows] - 1)
    change = (by_group - by_row)[rows]
    weights = np.stack([_weight(anchors[rows], float(kappa)) for kappa in _KAPPAS])
    misfit = np.sum((change - weights * others) ** 2, axis=1)
    return float(_KAPPAS[int(np.argmin(misfit))])


def _weight(anchors: FloatArray, kappa: float) -> FloatArray:
    """How much of the anchors' mean residual a model takes over, 0..1."""
    if np.isinf(kappa):
        return np.zeros(len(anchors))
    return np.where(anchors > 0, anchors / np.maximum(anchors + kappa, 1e-12), 0.0)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
