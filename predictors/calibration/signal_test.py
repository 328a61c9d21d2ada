"""A permutation test: do the proxies order the outcomes inside groups?

The statistic of a proxy is its pooled rank correlation with the outcome inside groups. Ranks are
taken inside each group and divided by the group's size + 1, so that the levels of groups have no
influence. The null hypothesis permutes outcomes inside their groups. The p-values of all proxies
are those of Westfall and Young's step-down maximum, so that a table of 40 proxies does not have one
"significant" proxy by chance. The global p-value is that of the largest statistic.

Levels of groups are not tested: with 3 to 10 groups no proxy can be shown to predict them. With one
or very few checkpoints in each group, even the best order would not be significant. Then nothing
is tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rlready.predictors.training_table import FloatArray, TrainingTable

LEVEL = 0.05
"""Accepted probability that proxies without a signal seem to have one."""

N_PERMUTATIONS = 2_000


@dataclass(frozen=True, kw_only=True)
class ProxySignal:
    """The result of the test for one proxy.

    Args:
        proxy: column of the proxy.
        spearman: rank correlation with the outcome inside groups, -1 to 1; 0 if undefined.
        p: p-value of this proxy alone, two-sided.
        adjusted_p: p-value among all proxies of the table.
        n: number of rows with the proxy, in groups where at least two rows have it.
    """

    proxy: str
    spearman: float
    p: float
    adjusted_p: float
    n: int


@dataclass(frozen=True, kw_only=True)
class SignalReport:
    """The result of the test for a table.

    Args:
        proxies: one entry per proxy, in the order of the table.
        p: p-value of the largest statistic, for the hypothesis that no proxy has a signal; NaN if
            the rows are too few to reject it in any order.
        group_p: p-value inside each group alone; 1 if the group does not allow a test.
        n_permutations: number of permutations.
    """

    proxies: tuple[ProxySignal, ...]
    p: float
    group_p: Mapping[str, float]
    n_permutations: int

    def found(self) -> bool:
        """Return whether any proxy has a signal, at `LEVEL`."""
        return self.p <= LEVEL

    def can_be_tested(self) -> bool:
        """Return whether there are enough rows to find a signal."""
        return not math.isnan(self.p)

    def in_words(self) -> str:
        """Return the result as one sentence."""
        if not self.can_be_tested():
            return (
                "the proxies cannot be tested: too few checkpoints of one group have an outcome "
                "(5 of one group suffice, or 6 groups of 2)"
            )
        if not self.found():
            return (
                f"no signal here: no proxy orders the outcomes inside a group better than chance "
                f"(p {self.p:.2g}, {len(self.proxies)} proxies)"
            )
        best = min(self.proxies, key=lambda one: (one.adjusted_p, -abs(one.spearman)))
        return (
            f"signal: {best.proxy} orders the outcomes inside a group (Spearman "
            f"{best.spearman:+.2f}, n {best.n}, p {best.adjusted_p:.2g} among "
            f"{len(self.proxies)} proxies)"
        )


def signal_report(
    table: TrainingTable, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> SignalReport:
    """Run the permutation test on the rows of the table that have an outcome."""
    table = table.with_outcome()
    names, group_of = np.unique(table.groups, return_inverse=True)
    proxies = table.X[[column.name for column in table.columns]].to_numpy(dtype=float)
    ranks = _ranks_inside(proxies, group_of)
    outcome = _ranks_inside(table.y[:, None], group_of)[:, 0]
    permuted = _permuted_inside(outcome, group_of, n_permutations, np.random.default_rng(seed))
    pooled = np.abs(_statistics(ranks, outcome, permuted))
    adjusted = _step_down(pooled)
    group_p = {}
    for group, name in enumerate(names):
        inside = np.where((group_of == group)[:, None], ranks, np.nan)
        group_p[str(name)] = _p(np.abs(_statistics(inside, outcome, permuted)).max(axis=1))
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
        p=_p(pooled.max(axis=1)) if _least_p(ranks, outcome, group_of) <= LEVEL else math.nan,
        group_p=group_p,
        n_permutations=n_permutations,
    )


def _ranks_inside(values: FloatArray, group_of: NDArray[np.intp]) -> FloatArray:
    """Return (n, k) centred ranks inside each group, divided by the group's size + 1.

    Missing values, and values that are alone in their group, have no rank (NaN).
    """
    ranks = np.full(values.shape, np.nan)
    for group in range(int(group_of.max()) + 1):
        for k in range(values.shape[1]):
            rows = np.flatnonzero((group_of == group) & np.isfinite(values[:, k]))
            if len(rows) >= 2:
                ranked = rankdata(values[rows, k])
                ranks[rows, k] = (ranked - ranked.mean()) / (len(rows) + 1)
    return ranks


def _permuted_inside(
    outcome: FloatArray, group_of: NDArray[np.intp], n: int, rng: np.random.Generator
) -> FloatArray:
    """Return (n, rows) permutations of the outcomes' ranks inside groups."""
    by_group = np.argsort(group_of, kind="stable")
    # The keys of each group have their own range, so one sort permutes inside all groups.
    keys = group_of[by_group] + rng.random((n, len(outcome)))
    permuted = np.empty((n, len(outcome)))
    permuted[:, by_group] = outcome[by_group][np.argsort(keys, axis=1)]
    return permuted


def _statistics(ranks: FloatArray, outcome: FloatArray, permuted: FloatArray) -> FloatArray:
    """Return (1 + n, k) covariances of ranks, the observed one first, divided by their spread.

    The spread is that under permutation. It puts proxies with missing cells on the same scale.
    """
    covariances = np.nan_to_num(np.vstack([outcome, permuted])) @ np.nan_to_num(ranks)
    spread = covariances[1:].std(axis=0)
    scaled: FloatArray = np.divide(
        covariances, spread, out=np.zeros_like(covariances), where=spread > 1e-12
    )
    return scaled.round(9)


def _least_p(ranks: FloatArray, outcome: FloatArray, group_of: NDArray[np.intp]) -> float:
    """Return the p-value of the best possible order, which 2 of all orders inside groups reach."""
    n_orders = 1.0
    for group in np.unique(group_of):
        rows = (group_of == group) & np.isfinite(ranks).any(axis=1) & np.isfinite(outcome)
        ties = np.unique(outcome[rows], return_counts=True)[1]
        n_orders *= math.exp(math.lgamma(rows.sum() + 1) - sum(map(math.lgamma, ties + 1)))
        if n_orders > 1e9:
            break
    return min(2.0 / n_orders, 1.0)


def _step_down(statistics: FloatArray) -> FloatArray:
    """Return (k,) p-values adjusted for all proxies (Westfall and Young 1993, algorithm 4.1)."""
    order = np.argsort(-statistics[0], kind="stable")
    tails = np.maximum.accumulate(statistics[:, order][:, ::-1], axis=1)[:, ::-1]
    stepwise = np.array([_p(tails[:, step], statistics[0, k]) for step, k in enumerate(order)])
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(stepwise)
    return adjusted


def _p(statistics: FloatArray, observed: float | None = None) -> float:
    """Return the share of orders, the observed one included, that are at least as extreme."""
    first = statistics[0] if observed is None else observed
    return float((1 + np.sum(statistics[1:] >= first)) / len(statistics))


def _pooled_correlation(ranks: FloatArray, y: FloatArray, group_of: NDArray[np.intp]) -> float:
    """Return the correlation of both ranks inside groups, on rows that have both."""
    has_rank = np.isfinite(ranks)
    outcome = _ranks_inside(np.where(has_rank, y, np.nan)[:, None], group_of)[has_rank, 0]
    spread = float(np.sqrt(np.sum(ranks[has_rank] ** 2) * np.sum(outcome**2)))
    return float(np.sum(ranks[has_rank] * outcome) / spread) if spread > 1e-12 else 0.0
