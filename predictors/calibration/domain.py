"""The domain of a training table: is a row inside, at the edge or outside, and why?

Proxies are compared on the scale of their kind (`scales.py`) and inside groups, because groups may
differ in level. A row of a known group is measured from that group's training rows, a row of a new
group from the rows of the same request. There are three tests, each a distance over its fence:

- range: a proxy lies outside the training range by more than 10 % of the range;
- dissimilarity: distance to the nearest training row, with proxies weighted by their correlation
  with the outcome, divided by the leave-one-out outer fence of that distance (Meyer and Pebesma
  2021, area of applicability);
- leverage: v' C^-1 v / n divided by 3 p / n, with a covariance C shrunk to the identity.

With 40 proxies, some fence is always exceeded by chance. The largest of the three is therefore
compared with its values on training rows that are held out one by one. Together the tests then flag
a share `FALSE_FLAGS` of rows that are like the training rows, for any number of proxies. Beyond 1.5
times that limit a row is out. The mean of a new group is also compared with the known groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as fisher

from rlready.predictors.calibration.distances import (
    dimension,
    half_ranges_away,
    half_ranges_from_others,
    importance,
    mahalanobis,
    shrunken_precision,
    tail_quantile,
    weighted_distances,
)
from rlready.predictors.scales import linked, n_trials
from rlready.predictors.training_table import (
    GROUP,
    Column,
    FloatArray,
    Kind,
    TextArray,
    TrainingTable,
    groups_of,
)

if TYPE_CHECKING:
    import pandas as pd

FALSE_FLAGS = 0.04
"""Accepted share of rows like the training rows that are flagged as edge or out."""

_ROW_SHARE_NEW, _GROUP_SHARE_NEW = 0.02, 0.02
"""The accepted shares in new groups, where a row is flagged alone or with its group."""

_RANGE_FENCE = 1.2
"""Limit of the range test, in half ranges from the middle: 10 % of the range beyond an end."""

_LEVERAGE_FENCE = 3.0
_OUT = 1.5
_DISAGREEMENT_FENCE = 2.0
_TESTS = ("range", "dissimilarity", "leverage")


class Place(StrEnum):
    """The position of a row relative to the domain."""

    IN = "in"
    EDGE = "edge"
    OUT = "out"


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """The positions of rows relative to the domain, with reasons.

    Args:
        places: (n,) position of each row.
        reasons: (n,) reasons in words; empty for a row that is in the domain.
        score: (n,) largest distance divided by its limit: above 1 a row is at the edge, above 1.5
            it is out.
    """

    places: tuple[Place, ...]
    reasons: tuple[tuple[str, ...], ...]
    score: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDomain:
    """A description of the training rows.

    Args:
        names: (p,) proxies.
        kinds: (p,) kind of each.
        trials: (p,) number of trials behind shares, see `scales.n_trials`.
        groups: (G,) names of the groups.
        sizes: (G,) number of rows of each group.
        centres: (G, p) mean of each group, on the linear scale; NaN if it has no number.
        sd: (p,) standard deviation inside groups; 0 if the proxy is constant.
        rows: (n, p) deviations of training rows from their group, in `sd`.
        weights: (p,) weights of the proxies in the dissimilarity.
        precision: (p, p) inverse of the shrunken covariance of `rows`.
        fences: (3,) fences of range, dissimilarity and leverage.
        edge: limit of the largest of the three, for rows of known groups.
        edge_new: the same limit for rows of new groups.
        categories: values in the training rows, for each column of texts.
    """

    names: list[str]
    kinds: list[str]
    trials: list[float]
    groups: TextArray
    sizes: FloatArray
    centres: FloatArray
    sd: FloatArray
    rows: FloatArray
    weights: FloatArray
    precision: FloatArray
    fences: FloatArray
    edge: float
    edge_new: float
    categories: dict[str, list[str]]

    def place(
        self,
        X: pd.DataFrame,
        *,
        disagreement: FloatArray | None = None,
        cv_error: float | None = None,
    ) -> Placed:
        """Return whether rows are in the domain, and why not.

        Args:
            X: rows to place; all rows of a new group have to be given together.
            disagreement: (n,) range of the predictions of different models, in units of the
                outcome.
            cv_error: the model's out-of-fold error, with which the disagreement is compared.
        """
        groups = groups_of(X)
        z = _on_scale(X, self.names, self.kinds, self.trials)
        is_known = np.isin(groups, self.groups)
        centres, factor = self._centres(z, groups)
        v = np.nan_to_num((z - centres) / np.where(self.sd > 0, self.sd, 1.0) * factor[:, None])
        v[:, self.sd == 0] = 0.0
        distances = self._distances(v)
        limit = np.where(is_known, self.edge, self.edge_new)
        score = distances.max(axis=1) / limit
        reasons: list[list[str]] = [[] for _ in range(len(X))]
        for row in np.flatnonzero(score > 1.0):
            passed = np.flatnonzero(distances[row] > limit[row])
            reasons[row] = [self._in_words(_TESTS[test], X, v, int(row)) for test in passed]
        self._judge_new_groups(z, groups, is_known, score, reasons)
        self._judge_cells(X, z, score, reasons)
        if disagreement is not None and cv_error:
            far = disagreement / (_DISAGREEMENT_FENCE * cv_error)
            for row in np.flatnonzero(far > 1.0):
                reasons[row].append(
                    f"predictions of different models are {disagreement[row]:.3g} apart, "
                    f"{disagreement[row] / cv_error:.1f} times the error of prediction"
                )
            score = np.maximum(score, np.minimum(far, _OUT))
        places = np.select([score > _OUT, score > 1.0], [Place.OUT, Place.EDGE], Place.IN)
        return Placed(
            places=tuple(Place(place) for place in places.tolist()),
            reasons=tuple(map(tuple, reasons)),
            score=score,
        )

    def _centres(self, z: FloatArray, groups: TextArray) -> tuple[FloatArray, FloatArray]:
        """Return the (n, p) centres of the rows' groups, and (n,) factors of deviations from them.

        The factor corrects deviations from an estimated centre, which are too small.
        """
        centres, factor = np.empty_like(z), np.empty(len(z))
        for name in np.unique(groups):
            rows = groups == name
            at = np.flatnonzero(self.groups == name)
            if len(at):
                centres[rows] = self.centres[at[0]]
                factor[rows] = 1.0 / np.sqrt(1.0 + 1.0 / self.sizes[at[0]])
            else:
                n = int(rows.sum())
                centres[rows] = _mean(z[rows])
                factor[rows] = np.sqrt(n / (n - 1.0)) if n > 1 else 0.0
        return centres, factor

    def _distances(self, v: FloatArray) -> FloatArray:
        """Return (n, 3) ranges, dissimilarities and leverages, each divided by its fence."""
        away = half_ranges_away(v, self.rows.min(axis=0), self.rows.max(axis=0)).max(axis=1)
        nearest = weighted_distances(v, self.rows, self.weights).min(axis=1)
        return np.column_stack([away, nearest, mahalanobis(v, self.precision)]) / self.fences

    def _in_words(self, test: str, X: pd.DataFrame, v: FloatArray, row: int) -> str:
        if test == "leverage":
            leverage = mahalanobis(v[[row]], self.precision)[0] ** 2
            return (
                f"an unusual combination of proxies: leverage {leverage:.1f} p/n "
                f"(usual is 1, the limit is {(self.fences[2] * self.edge) ** 2:.1f})"
            )
        if test == "dissimilarity":
            nearest = weighted_distances(v[[row]], self.rows, self.weights).min()
            return (
                f"the nearest training row is {nearest:.2g} times as far away as training rows "
                f"are from each other"
            )
        low, high = self.rows.min(axis=0), self.rows.max(axis=0)
        k = int(np.argmax(half_ranges_away(v[[row]], low, high)[0]))
        return (
            f"{self.names[k]} {float(X[self.names[k]].iloc[row]):.4g} is {v[row, k]:+.1f} standard "
            f"deviations from its group (training rows: {low[k]:+.1f} to {high[k]:+.1f})"
        )

    def _judge_new_groups(
        self,
        z: FloatArray,
        groups: TextArray,
        is_known: NDArray[np.bool_],
        score: FloatArray,
        reasons: list[list[str]],
    ) -> None:
        """Flag the rows of new groups whose level is unlike the levels of the known groups."""
        n_groups = len(self.groups)
        if n_groups < 2:
            return
        usable = np.isfinite(self.centres).all(axis=0) & (self.sd > 0)
        spread = self.centres[:, usable].std(axis=0, ddof=1)
        if not usable.any():
            return
        fence = fisher.ppf(1.0 - _GROUP_SHARE_NEW, dimension(self.centres[:, usable]), n_groups - 1)
        for name in np.unique(groups[~is_known]):
            rows = groups == name
            noise = max(1.0 / int(rows.sum()) - float(np.mean(1.0 / self.sizes)), 0.0)
            variance = spread**2 * (1.0 + 1.0 / n_groups) + noise * self.sd[usable] ** 2
            away = _mean(z[rows])[usable] - self.centres[:, usable].mean(axis=0)
            t = np.nan_to_num(away / np.sqrt(np.maximum(variance, 1e-18)))
            far = float(np.sqrt(np.mean(t**2) / fence))
            score[rows] = np.maximum(score[rows], far)
            if far > 1.0:
                k = int(np.argmax(np.abs(t)))
                proxy = np.array(self.names)[usable][k]
                reason = (
                    f"the level of group {name} is unlike that of the known groups, most in "
                    f"{proxy} ({t[k]:+.1f} standard deviations)"
                )
                for row in np.flatnonzero(rows):
                    reasons[row].append(reason)

    def _judge_cells(
        self, X: pd.DataFrame, z: FloatArray, score: FloatArray, reasons: list[list[str]]
    ) -> None:
        """Flag missing proxies, changes of constant proxies, and texts that no training row has."""
        missing = ~np.isfinite(z)
        for row in np.flatnonzero(missing.mean(axis=1) > 0.5):
            score[row] = max(score[row], _OUT + 1.0 if missing[row].all() else 1.01)
            reasons[row].append(
                f"{int(missing[row].sum())} of {len(self.names)} proxies are missing"
            )
        for k in np.flatnonzero(self.sd == 0):
            constant = np.nanmean(self.centres[:, k])
            changed = np.abs(z[:, k] - constant) > 1e-6 * (1.0 + abs(constant))
            for row in np.flatnonzero(changed & np.isfinite(z[:, k])):
                score[row] = max(score[row], 1.01)
                reasons[row].append(f"{self.names[k]} had another, constant value in training")
        for column, values in self.categories.items():
            for at, value in enumerate(X[column].astype(str) if column in X else ()):
                if value not in values:
                    score[at] = max(score[at], _OUT + 1.0)
                    reasons[at].append(
                        f"{column} {value!r} was not among the training rows: {', '.join(values)}"
                    )


def domain_of(table: TrainingTable) -> TrainingDomain:
    """Describe the rows of a table; outcomes are only used for the weights of the proxies."""
    names = [column.name for column in table.columns]
    kinds = [column.kind.value for column in table.columns]
    trials = [_trials(table.X, column) for column in table.columns]
    z = _on_scale(table.X, names, kinds, trials)
    groups, group_of = np.unique(table.groups, return_inverse=True)
    sizes = np.bincount(group_of).astype(np.float64)
    centres = np.stack([_mean(z[group_of == g]) for g in range(len(groups))])
    # A row that is alone in its group has no deviation. If nearly all are, use one common group.
    inside = sizes[group_of] > 1
    if inside.sum() < 3:
        groups, sizes = np.array(["all rows"]), np.array([float(len(z))])
        centres, inside = _mean(z)[None], np.ones(len(z), dtype=bool)
        group_of = np.zeros(len(z), dtype=np.intp)
    factor = np.sqrt(sizes / np.maximum(sizes - 1.0, 1.0))[group_of]
    deviations = (z - centres[group_of]) * factor[:, None]
    sd = np.sqrt(
        np.nan_to_num(np.nanmean(np.where(inside[:, None], deviations, np.nan) ** 2, axis=0))
    )
    sd = np.where(sd > 1e-9 * (1.0 + np.abs(np.nanmean(z, axis=0))), sd, 0.0)
    rows = np.nan_to_num(deviations[inside] / np.where(sd > 0, sd, 1.0)) * (sd > 0)
    weights = importance(rows, table.y[inside], group_of[inside])
    precision, loo_leverage = shrunken_precision(rows)
    pairwise = weighted_distances(rows, rows, weights)
    unit = max(float(pairwise[~np.eye(len(rows), dtype=bool)].mean()), 1e-12)
    weights = weights / unit**2
    np.fill_diagonal(pairwise, np.inf)
    nearest = pairwise.min(axis=1) / unit
    quarter, three_quarters = np.percentile(nearest, [25, 75])
    outer = three_quarters + 1.5 * (three_quarters - quarter)
    fences = np.array([_RANGE_FENCE, max(outer, 1e-9), np.sqrt(_LEVERAGE_FENCE)])
    away = half_ranges_from_others(rows).max(axis=1)
    score = (np.column_stack([away, nearest, loo_leverage]) / fences).max(axis=1)
    described = {GROUP, *names, *(column.error for column in table.columns if column.error)}
    texts = [c for c in table.X if c not in described and table.X[c].dtype.kind not in "fiub"]
    return TrainingDomain(
        names=names,
        kinds=kinds,
        trials=trials,
        groups=groups,
        sizes=sizes,
        centres=centres,
        sd=sd,
        rows=rows,
        weights=weights,
        precision=precision,
        fences=fences,
        edge=tail_quantile(score, FALSE_FLAGS),
        edge_new=tail_quantile(score, _ROW_SHARE_NEW),
        categories={str(name): sorted(set(table.X[name].astype(str))) for name in texts},
    )


def _trials(X: pd.DataFrame, column: Column) -> float:
    has_error = column.error is not None and column.error in X
    errors = X[column.error].to_numpy(dtype=float) if has_error else np.full(len(X), np.nan)
    return n_trials(X[column.name].to_numpy(dtype=float), errors, column.kind)


def _on_scale(
    X: pd.DataFrame, names: Sequence[str], kinds: Sequence[str], trials: Sequence[float]
) -> FloatArray:
    """Return the (n, p) proxies on the scale of their kind."""
    columns = [
        linked(X[name].to_numpy(dtype=float), np.zeros(len(X)), Kind(kind), n, name)[0]
        for name, kind, n in zip(names, kinds, trials, strict=True)
    ]
    return np.column_stack(columns)


def _mean(z: FloatArray) -> FloatArray:
    """Return the (p,) means of the columns over the rows that have them; NaN if none has."""
    is_measured = np.isfinite(z)
    count, total = is_measured.sum(axis=0), np.where(is_measured, z, 0.0).sum(axis=0)
    mean: FloatArray = np.divide(total, count, out=np.full(z.shape[1], np.nan), where=count > 0)
    return mean
