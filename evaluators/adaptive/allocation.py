"""Adaptive allocation: which problems get the next samples, and when there are enough.

The next block of samples goes to the problem where it is expected to reduce the variance of the
benchmark's pass@k most. For a problem with posterior q on the grid and f(p) = 1 - (1-p)^k, m
further samples with y correct ones reduce the variance by Var f - E_y[Var(f | y)] on average (law
of total variance). A problem that is always solved, or surely never, gets no samples.

With this allocation the number of samples depends on earlier results. The estimates from the
likelihood (`estimate`) remain valid; the unbiased formula only holds again once every problem has
the same number of samples.

Axes: P problems (of one or many checkpoints), G points of the grid, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln

from rlready.evaluators.adaptive.laws import LOGIT_G, Floats, Ints, solved_G

_MAX_BLOCKS = 4
"""Blocks that one problem may get in one round; the next round knows their results."""

_LEAST_BLOCK = 4
"""Samples of the smallest block."""

_GROWTH = 0.5
"""Samples of a round, as a share of all samples drawn before. Rounds get longer because each costs
a start of the engine and a wait for the slowest answer."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When adaptive sampling ends.

    Args:
        target_se: standard error of pass@k at which sampling ends.
        max_per_problem: largest number of samples of one problem.
        max_mean: largest number of samples per problem, averaged over the benchmark.
        minimum: samples that every problem gets first.
    """

    target_se: float
    max_per_problem: int
    max_mean: float
    minimum: int = 4


def next_samples(posterior_PG: Floats, n_P: Ints, k: int, se: float, budget: Budget) -> Ints:
    """Return how many samples each problem gets next; all are 0 when sampling has ended.

    Args:
        posterior_PG: posterior of each problem's p on the grid.
        n_P: samples drawn so far, including UNSCORED ones, which cost as much.
        k: k of the wanted pass@k.
        se: present standard error of pass@k.
        budget: when sampling ends.
    """
    short_P = np.maximum(budget.minimum - n_P, 0)
    if short_P.any():
        return short_P
    n_left = int(budget.max_mean * len(n_P)) - int(n_P.sum())
    if se <= budget.target_se or n_left < 1:
        return np.zeros_like(n_P)
    n_wanted = min(n_left, max(round(_GROWTH * n_P.sum()), _LEAST_BLOCK))
    block = max(_LEAST_BLOCK, round(n_P.mean() / _MAX_BLOCKS * 2))
    drop_PB = expected_drop(posterior_PG, k, block)
    room_P = np.maximum(budget.max_per_problem - n_P, 0)
    extra_P = best_blocks(drop_PB, room_P, -(-n_wanted // block), block)
    # Whole blocks may exceed what is left: cut the last problems' samples.
    before_P = np.cumsum(extra_P) - extra_P
    return np.asarray(np.clip(n_left - before_P, 0, extra_P))


def expected_drop(posterior_PG: Floats, k: int, block: int) -> Floats:
    """Return the expected drop of the variance of each problem's pass@k by each block, (P, B)."""
    f_G = solved_G(k)
    weighted_PG = posterior_PG * f_G
    mean_P = weighted_PG.sum(axis=1)
    explained_PB = np.empty((len(posterior_PG), _MAX_BLOCKS + 1))
    explained_PB[:, 0] = 0.0
    for b in range(1, _MAX_BLOCKS + 1):
        chance_GY = _binomial(b * block)
        chance_PY = np.maximum(posterior_PG @ chance_GY, 1e-300)
        explained = ((weighted_PG @ chance_GY) ** 2 / chance_PY).sum(axis=1) - mean_P**2
        explained_PB[:, b] = np.maximum(explained, 0.0)
    return np.diff(explained_PB, axis=1)


def best_blocks(drop_PB: Floats, room_P: Ints, n_blocks: int, block: int) -> Ints:
    """Return the samples of each problem if the `n_blocks` most useful blocks are drawn.

    Args:
        drop_PB: expected drop of the variance by each block.
        room_P: largest number of further samples of each problem.
        n_blocks: how many blocks are drawn.
        block: samples of a block.
    """
    # No block may count more than the one before it, so that all blocks can be ranked together.
    drop_PB = np.minimum.accumulate(drop_PB, axis=1)
    size_PB = np.clip(room_P[:, None] - np.arange(drop_PB.shape[1]) * block, 0, block)
    order = np.argsort(np.where(size_PB > 0, -drop_PB, np.inf), axis=None, kind="stable")
    chosen_PB = np.zeros(drop_PB.size, dtype=np.int64)
    chosen_PB[order[:n_blocks]] = 1
    return np.asarray((chosen_PB.reshape(drop_PB.shape) * size_PB).sum(axis=1))


def _binomial(n: int) -> Floats:
    """Return the chance of y correct ones of n at each point of the grid, shape (G, n + 1)."""
    p_G1 = expit(LOGIT_G)[:, None]
    y = np.arange(n + 1)
    log_ways = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    # Compute 1 - p from its logit: near p = 1 the difference would lose digits.
    q_G1 = expit(-LOGIT_G)[:, None]
    return np.asarray(np.exp(log_ways + y * np.log(p_G1) + (n - y) * np.log(q_G1)))
