"""Does the training table say anything about a row? In, at the edge or out of its domain, and why.

Proxies are compared on the scale of their kind (`links.py`) and inside groups: groups differ in
level without being strange. A row of a known group is measured from that group's training rows,
a row of a new group from the rows given with it. Three tests, each as a distance over its fence:

- range: a proxy more than 10 % of the training range beyond it;
- dissimilarity: distance to the nearest training row, proxies weighted by what they say about the
  outcome, over its own leave-one-out outer fence (Meyer and Pebesma 2021, area of applicability);
- leverage: v' C^-1 v / n over 3 p / n, with a covariance C shrunk to the identity.

With 40 proxies some fence is always passed by chance. So the largest of the three is compared with
what it is on training rows held out one by one: the family together flags a share `FALSE_FLAGS` of
rows that follow the training law, however many proxies there are. Beyond 1.5 times that a row is
out. For a new group its mean is compared with those of the known groups as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as fisher

from rlready.predictors.calibration.distances import (
    beyond,
    beyond_others,
    dimension,
    half_ranges_away,
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
)

if TYPE_CHECKING:
    import pandas as pd

FALSE_FLAGS = 0.04
"""Share of rows like the training rows that may be called edge or out."""

_ROW_SHARE_NEW, _GROUP_SHARE_NEW = 0.02, 0.02
"""The same in new groups, where a row can be flagged by itself or with its group."""

_RANGE_FENCE = 1.2
"""10 % of the range at either end, in half ranges from its middle."""

_LEVERAGE_FENCE = 3.0
_OUT = 1.5
_DISAGREEMENT_FENCE = 2.0
_TESTS = ("range", "dissimilarity", "leverage")


class Place(StrEnum):
    """Where a row stands."""

    IN = "in"
    EDGE = "edge"
    OUT = "out"


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Where rows stand, and why.

    Args:
        places: (n,) of each row.
        reasons: (n,) in words; empty where a row is in.
        score: (n,) largest distance over what training rows reach; 1: edge, 1.5: out.
    """

    places: tuple[Place, ...]
    reasons: tuple[tuple[str, ...], ...]
    score: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDomain:
    """What the training rows look like.

    Args:
        names: (p,) proxies.
        kinds: (p,) kind of each.
        trials: (p,) trials behind shares, see `links.n_trials`.
        groups: (G,) names of the groups.
        sizes: (G,) rows of each.
        centres: (G, p) mean of each group, on the linear scale; NaN where it has no number.
        sd: (p,) standard deviation inside groups; 0: the proxy is one constant.
        rows: (n, p) deviations of training rows from their group, in `sd`.
        weights: (p,) of the dissimilarity.
        precision: (p, p) inverse of the shrunken covariance of `rows`.
        fences: (3,) of range, dissimilarity, leverage.
        edge: the family's fence for rows of known groups.
        edge_new: the same for rows of new groups.
        categories: values seen, by column of the frame that holds texts.
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
        """Where rows stand.

        Args:
            X: rows; those of one new group together.
            disagreement: (n,) how far unlike models are apart, in units of the outcome.
            cv_error: the model's out-of-fold error, for comparison.
        """
        groups = np.asarray(X[GROUP].astype(str), dtype=np.str_)
        z = self._linear(X)
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
                    f"unlike models are {disagreement[row]:.3g} apart, "
                    f"{disagreement[row] / cv_error:.1f} times the error of prediction"
                )
            score = np.maximum(score, np.minimum(far, _OUT))
        places = np.select([score > _OUT, score > 1.0], [Place.OUT, Place.EDGE], Place.IN)
        return Placed(
            places=tuple(Place(place) for place in places.tolist()),
            reasons=tuple(tuple(found) for found in reasons),
            score=score,
        )

    def _linear(self, X: pd.DataFrame) -> FloatArray:
        return np.column_stack(
            [
                _linear(X[name].to_numpy(dtype=float), kind, trials, name)
                for name, kind, trials in zip(self.names, self.kinds, self.trials, strict=True)
            ]
        )

    def _centres(self, z: FloatArray, groups: TextArray) -> tuple[FloatArray, FloatArray]:
        """(n, p) centre of each row's group, (n,) factor that gives deviations the rows' spread."""
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
        """(n, 3) range, dissimilarity and leverage of deviations, each over its fence."""
        low, high = self.rows.min(axis=0), self.rows.max(axis=0)
        nearest = weighted_distances(v, self.rows, self.weights).min(axis=1)
        found = [beyond(v, low, high), nearest, mahalanobis(v, self.precision)]
        return np.column_stack(found) / self.fences

    def _in_words(self, test: str, X: pd.DataFrame, v: FloatArray, row: int) -> str:
        if test == "leverage":
            leverage = mahalanobis(v[[row]], self.precision)[0] ** 2
            return (
                f"an unusual combination of proxies: leverage {leverage:.1f} p/n, "
                f"usual is 1, far is {(self.fences[2] * self.edge) ** 2:.1f}"
            )
        if test == "dissimilarity":
            nearest = weighted_distances(v[[row]], self.rows, self.weights).min()
            return (
                f"the nearest training row is {nearest:.2g} times as far as training rows are "
                f"from each other"
            )
        low, high = self.rows.min(axis=0), self.rows.max(axis=0)
        k = int(np.argmax(half_ranges_away(v[[row]], low, high)[0]))
        return (
            f"{self.names[k]} {float(X[self.names[k]].iloc[row]):.4g} stands {v[row, k]:+.1f} "
            f"standard deviations from its group, training rows {low[k]:+.1f} to {high[k]:+.1f}"
        )

    def _judge_new_groups(
        self,
        z: FloatArray,
        groups: TextArray,
        is_known: NDArray[np.bool_],
        score: FloatArray,
        reasons: list[list[str]],
    ) -> None:
        """Flag the rows of new groups whose level is unlike that of the known ones."""
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
                said = (
                    f"the level of group {name} is unlike that of the known groups, most in "
                    f"{proxy} ({t[k]:+.1f} standard deviations)"
                )
                for row in np.flatnonzero(rows):
                    reasons[row].append(said)

    def _judge_cells(
        self, X: pd.DataFrame, z: FloatArray, score: FloatArray, reasons: list[list[str]]
    ) -> None:
        """Flag missing proxies, changed constants and texts that were never seen."""
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
                reasons[row].append(f"{self.names[k]} was the same in all training rows, not here")
        for column, seen in self.categories.items():
            if column not in X:
                continue
            for at, value in enumerate(X[column].astype(str)):
                if value not in seen:
                    score[at] = max(score[at], _OUT + 1.0)
                    reasons[at].append(
                        f"{column} {value!r} was not among the training rows: {', '.join(seen)}"
                    )


def domain_of(table: TrainingTable) -> TrainingDomain:
    """What the rows of a table look like; their outcomes only weigh the proxies."""
    names = [column.name for column in table.columns]
    trials = [_trials(table, column) for column in table.columns]
    z = np.column_stack(
        [
            _linear(table.X[c.name].to_numpy(dtype=float), c.kind, t, c.name)
            for c, t in zip(table.columns, trials, strict=True)
        ]
    )
    groups, group_of = np.unique(table.groups, return_inverse=True)
    sizes = np.bincount(group_of).astype(np.float64)
    centres = np.stack([_mean(z[group_of == g]) for g in range(len(groups))])
    # Rows alone in their group have no deviation; where all are, the table is one group.
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
    off_diagonal = pairwise[~np.eye(len(rows), dtype=bool)]
    weights = weights / max(float(off_diagonal.mean()), 1e-12) ** 2
    np.fill_diagonal(pairwise, np.inf)
    nearest = pairwise.min(axis=1) / max(float(off_diagonal.mean()), 1e-12)
    quarter, three_quarters = np.percentile(nearest, [25, 75])
    outer = three_quarters + 1.5 * (three_quarters - quarter)
    fences = np.array([_RANGE_FENCE, max(outer, 1e-9), np.sqrt(_LEVERAGE_FENCE)])
    held_out = np.column_stack([beyond_others(rows), nearest, loo_leverage]) / fences
    score = held_out.max(axis=1)
    return TrainingDomain(
        names=names,
        kinds=[column.kind.value for column in table.columns],
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
        categories=_categories(table),
    )


def _trials(table: TrainingTable, column: Column) -> float:
    values = table.X[column.name].to_numpy(dtype=float)
    if column.error is None or column.error not in table.X:
        return n_trials(values, np.full(len(values), np.nan), column.kind)
    return n_trials(values, table.X[column.error].to_numpy(dtype=float), column.kind)


def _linear(values: FloatArray, kind: str, trials: float, name: str) -> FloatArray:
    return linked(values, np.zeros(len(values)), Kind(kind), trials, name)[0]


def _mean(z: FloatArray) -> FloatArray:
    """(p,) mean of each column over the rows that have it; NaN where none has."""
    known = np.isfinite(z)
    count = known.sum(axis=0)
    total = np.where(known, z, 0.0).sum(axis=0)
    mean: FloatArray = np.divide(total, count, out=np.full(z.shape[1], np.nan), where=count > 0)
    return mean


def _categories(table: TrainingTable) -> dict[str, list[str]]:
    numbers: set[Any] = {GROUP}
    numbers |= {column.name for column in table.columns}
    numbers |= {column.error for column in table.columns if column.error}
    return {
        str(name): sorted(set(table.X[name].astype(str)))
        for name in table.X.columns
        if name not in numbers and table.X[name].dtype.kind not in "fiub"
    }
