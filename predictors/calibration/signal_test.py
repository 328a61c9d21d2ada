"""Do the proxies say anything about outcomes inside a group? A permutation test's answer.

For each proxy: the rank correlation with the outcome inside groups, pooled (ranks are taken inside
each group and divided by the group's size + 1, so that no level of a group enters). Null law:
outcomes permuted inside their groups. The p-values of the family are those of Westfall and Young's
step-down maximum, so that a table of 40 proxies does not find its one "significant" proxy by
chance; the global answer is the p-value of the largest statistic of all.

Levels of groups are not judged here: with 3 to 10 groups no proxy can show that it predicts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rlready.predictors.training_table import FloatArray, TrainingTable

LEVEL = 0.05
"""How often proxies without any signal may pass for having one."""

N_PERMUTATIONS = 2_000


@dataclass(frozen=True, kw_only=True)
class ProxySignal:
    """What the test says of one proxy.

    Args:
        proxy: its column.
        spearman: rank correlation with the outcome inside groups, -1..1; 0 if it cannot be told.
        p: p-value of this proxy alone, two-sided.
        adjusted_p: p-value among all proxies of the table.
        n: rows that have it, in groups where at least two do.
    """

    proxy: str
    spearman: float
    p: float
    adjusted_p: float
    n: int


@dataclass(frozen=True, kw_only=True)
class SignalReport:
    """What the test says of a table.

    Args:
        proxies: one entry a proxy, in the table's order.
        p: p-value of the largest statistic: of the claim that no proxy has any signal.
        group_p: the same inside each group alone; 1 where a group cannot tell.
        n_permutations: outcomes were permuted so often.
    """

    proxies: tuple[ProxySignal, ...]
    p: float
    group_p: Mapping[str, float]
    n_permutations: int

    def found(self, level: float = LEVEL) -> bool:
        """Whether some proxy has a signal."""
        return self.p <= level

    def in_words(self, level: float = LEVEL) -> str:
        """One sentence for people."""
        best = min(self.proxies, key=lambda one: (one.adjusted_p, -abs(one.spearman)))
        if not self.found(level):
            return (
                f"no signal here: no proxy orders the outcomes inside a group better than chance "
                f"(p {self.p:.2g}, {len(self.proxies)} proxies)"
            )
        return (
            f"signal: {best.proxy} orders the outcomes inside a group (Spearman "
            f"{best.spearman:+.2f}, n {best.n}, p {best.adjusted_p:.2g} among "
            f"{len(self.proxies)} proxies)"
        )


def signal_report(
    table: TrainingTable, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> SignalReport:
    """The permutation test on the rows of the table that have an outcome."""
    table = table.with_outcome()
    names, group_of = np.unique(table.groups, return_inverse=True)
    proxies = table.X[[column.name for column in table.columns]].to_numpy(dtype=float)
    ranks = _ranks_inside(proxies, group_of)
    outcome = _ranks_inside(table.y[:, None], group_of)[:, 0]
    permuted = _permuted_inside(outcome, group_of, n_permutations, np.random.default_rng(seed))
    pooled = np.abs(_statistics(ranks, outcome, permuted, np.ones(len(outcome), dtype=bool)))
    maxima = pooled.max(axis=1)
    adjusted = _step_down(pooled)
    group_p = {}
    for group, name in enumerate(names):
        inside = np.abs(_statistics(ranks, outcome, permuted, group_of == group)).max(axis=1)
        group_p[str(name)] = _p(inside)
    return SignalReport(
        proxies=tuple(
            ProxySignal(
                proxy=column.name,
                spearman=_pooled_correlation(ranks[:, k], table.y, group_of),
                p=_p(pooled[:, k]),
                adjusted_p=float(adjusted[k]),
                n=int(np.isfinite(ranks[:, k]).sum()),
            )
            for k, column in enumerate(table.columns)
        ),
        p=_p(maxima),
        group_p=group_p,
        n_permutations=n_permutations,
    )


def _ranks_inside(values: FloatArray, group_of: NDArray[np.intp]) -> FloatArray:
    """(n, k) centred ranks inside each group over its size + 1; NaN where there is none.

    A number that stands alone in its group has nothing to be ranked against: NaN too.
    """
    ranks = np.full(values.shape, np.nan)
    for group in range(int(group_of.max()) + 1):
        rows = np.flatnonzero(group_of == group)
        for k in range(values.shape[1]):
            known = rows[np.isfinite(values[rows, k])]
            if len(known) >= 2:
                found = rankdata(values[known, k])
                ranks[known, k] = (found - found.mean()) / (len(known) + 1)
    return ranks


def _permuted_inside(
    outcome: FloatArray, group_of: NDArray[np.intp], n: int, rng: np.random.Generator
) -> FloatArray:
    """(n, rows) the outcomes' ranks, each row permuted inside groups."""
    by_group = np.argsort(group_of, kind="stable")
    # Keys of a group lie between those of its neighbours: one sort permutes inside all groups.
    keys = group_of[by_group] + rng.random((n, len(outcome)))
    permuted = np.empty((n, len(outcome)))
    permuted[:, by_group] = outcome[by_group][np.argsort(keys, axis=1)]
    return permuted


def _statistics(
    ranks: FloatArray, outcome: FloatArray, permuted: FloatArray, chosen: NDArray[np.bool_]
) -> FloatArray:
    """(1 + n, k) covariances of ranks over their spread under permutation; the first is observed.

    Dividing by the spread puts proxies with missing cells on one scale with the others.
    """
    x = np.where(np.isfinite(ranks) & chosen[:, None], ranks, 0.0)
    y = np.nan_to_num(np.vstack([outcome, permuted]))
    covariances = y @ x
    spread = covariances[1:].std(axis=0)
    found: FloatArray = np.divide(
        covariances, spread, out=np.zeros_like(covariances), where=spread > 1e-12
    )
    return found.round(9)


def _step_down(statistics: FloatArray) -> FloatArray:
    """(k,) p-values of the family, Westfall and Young 1993, algorithm 4.1 (step-down max T)."""
    order = np.argsort(-statistics[0], kind="stable")
    tails = np.maximum.accumulate(statistics[:, order][:, ::-1], axis=1)[:, ::-1]
    stepwise = np.array([_p(tails[:, step], statistics[0, k]) for step, k in enumerate(order)])
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(stepwise)
    return adjusted


def _p(statistics: FloatArray, observed: float | None = None) -> float:
    """Share of permutations, the observed order among them, at least as extreme as observed."""
    first = statistics[0] if observed is None else observed
    return float((1 + np.sum(statistics[1:] >= first)) / len(statistics))


def _pooled_correlation(ranks: FloatArray, y: FloatArray, group_of: NDArray[np.intp]) -> float:
    """Correlation of a proxy's ranks inside groups with the outcome's, on rows that have both."""
    known = np.isfinite(ranks)
    if not known.any():
        return 0.0
    outcome = _ranks_inside(np.where(known, y, np.nan)[:, None], group_of)[known, 0]
    spread = float(np.sqrt(np.sum(ranks[known] ** 2) * np.sum(outcome**2)))
    return float(np.sum(ranks[known] * outcome) / spread) if spread > 1e-12 else 0.0
