"""Which problems get the next samples, and when there are enough.

The next block of samples goes where the posterior variance of the benchmark's pass@k is expected
to drop most: for problem j with posterior q_j on the grid and f(p) = 1 - (1-p)^k, m further
samples leave Var f - Var_y E[f | y] on average, y their number of correct ones (law of total
variance). A problem that is solved always, or surely never, gets none.

Sampling in this way makes n depend on what was seen. Estimates from the likelihood
(`difficulty`) hold as they are; the unbiased formula does not, until every problem is topped up
to the same n. Everything drawn is kept, so that can be done later.

Axes: J problems (of one or many checkpoints), G points of the grid, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln

from rlready.evaluators.adaptive.laws import LOGIT_G, Floats, Ints, solved_G
from rlready.registry.errors import EvaluationError

_MAX_BLOCKS = 4
"""Blocks that one problem may get in one round: beyond, what comes back should decide."""

_LEAST_BLOCK = 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How adaptive sampling goes on, and where it ends.

    Args:
        target_se: it ends when the posterior standard deviation of pass@k is this or less.
        max_per_problem: no problem gets more samples.
        max_mean: nor the benchmark more than this many a problem on average.
        minimum: samples that every problem gets first.
        growth: samples of one round, as a share of those drawn before: rounds get longer, since
            each costs a start of the engine and a wait for the slowest answer.
    """

    target_se: float
    max_per_problem: int
    max_mean: float
    minimum: int = 4
    growth: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.target_se < 1.0:
            raise EvaluationError(
                f"the target standard error is {self.target_se}",
                fix="Give a probability such as 0.01",
            )
        if not 1 <= self.minimum <= self.max_per_problem:
            raise EvaluationError(
                f"adaptive sampling from {self.minimum} samples a problem cannot stay under "
                f"{self.max_per_problem}",
                fix="Give at least 1, and no minimum above the maximum",
            )


def next_samples(posterior_PG: Floats, n_P: Ints, k: int, se: float, budget: Budget) -> Ints:
    """How many samples each problem gets next; all 0 where sampling has ended.

    Args:
        posterior_PG: of each problem's p on the grid.
        n_P: samples drawn so far, UNSCORED ones too: they were paid for.
        k: of the pass@k that is wanted.
        se: its present standard error.
        budget: what may be spent.
    """
    short_P = np.maximum(budget.minimum - n_P, 0)
    if short_P.any():
        return short_P
    left = int(budget.max_mean * len(n_P)) - int(n_P.sum())
    if se <= budget.target_se or left < 1:
        return np.zeros_like(n_P)
    wanted = min(left, max(round(budget.growth * n_P.sum()), _LEAST_BLOCK))
    block = max(_LEAST_BLOCK, round(n_P.mean() / _MAX_BLOCKS * 2))
    drop_PB = expected_drop(posterior_PG, k, block)
    room_P = np.maximum(budget.max_per_problem - n_P, 0)
    given_P = best_blocks(drop_PB, room_P, -(-wanted // block), block)
    return _first(given_P, left)


def expected_drop(posterior_JG: Floats, k: int, block: int) -> Floats:
    """Expected drop of the variance of a problem's pass@k by each further block, (J, blocks)."""
    f_G = solved_G(k)
    weighted_JG = posterior_JG * f_G
    mean_J = weighted_JG.sum(axis=1)
    explained_JB = np.empty((len(posterior_JG), _MAX_BLOCKS + 1))
    explained_JB[:, 0] = 0.0
    for b in range(1, _MAX_BLOCKS + 1):
        chance_GY = _binomial(b * block)
        chance_JY = np.maximum(posterior_JG @ chance_GY, 1e-300)
        explained = ((weighted_JG @ chance_GY) ** 2 / chance_JY).sum(axis=1) - mean_J**2
        explained_JB[:, b] = np.maximum(explained, 0.0)
    return np.diff(explained_JB, axis=1)


def best_blocks(drop_PB: Floats, room_P: Ints, n_blocks: int, block: int) -> Ints:
    """Samples of each problem if the n_blocks most useful blocks are given, none beyond its room.

    A problem's second block counts no more than its first here, so that they can be ranked one by
    one.
    """
    drop_PB = np.minimum.accumulate(drop_PB, axis=1)
    size_PB = np.clip(room_P[:, None] - np.arange(drop_PB.shape[1]) * block, 0, block)
    order = np.argsort(np.where(size_PB > 0, -drop_PB, np.inf), axis=None, kind="stable")
    chosen_PB = np.zeros(drop_PB.size, dtype=np.int64)
    chosen_PB[order[:n_blocks]] = 1
    return np.asarray((chosen_PB.reshape(drop_PB.shape) * size_PB).sum(axis=1))


def _first(given_P: Ints, left: int) -> Ints:
    """The first so many of the samples given."""
    before_P = np.cumsum(given_P) - given_P
    return np.asarray(np.clip(left - before_P, 0, given_P))


def _binomial(n: int) -> Floats:
    """Chance of y correct ones of n at each point of the grid, shape (G, n + 1)."""
    p_G1 = expit(LOGIT_G)[:, None]
    y = np.arange(n + 1)
    log_ways = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    # 1 - p by its own logit: near p = 1 the difference would lose its digits.
    q_G1 = expit(-LOGIT_G)[:, None]
    return np.asarray(np.exp(log_ways + y * np.log(p_G1) + (n - y) * np.log(q_G1)))
