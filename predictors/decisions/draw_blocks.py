"""Joint draws in blocks, so that memory does not grow with draws x candidates.

20,000 draws of 10,000 candidates are 1.6 GB for one array, and a plan needs several. A block holds
at most `BLOCK` numbers, whatever the number of candidates. A table of up to 52 candidates is still
one block of 20,000 draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray

BLOCK = 2**20
"""Numbers of one array of draws: 8 MB."""

_SHORTLIST = 128
_KEPT = 4 * BLOCK
_FEWEST_DRAWS = 100


def block_sizes(n_draws: int, n_rows: int) -> Iterator[int]:
    """Yield the number of draws of each block; they add up to `n_draws`.

    Example:
        >>> list(block_sizes(250, 10_000))
        [104, 104, 42]
    """
    size = max(BLOCK // n_rows, 1)
    for start in range(0, n_draws, size):
        yield min(size, n_draws - start)


def shortlist(predictive: Predictive, n_most: int) -> NDArray[np.intp]:
    """Return the candidates that may matter to a plan, in their order: at most `n_most`.

    They are the candidates with the largest expected gain over the best prediction (exact for a
    normal distribution). Of thousands of candidates, the others add almost nothing to any choice.

    Args:
        predictive: distribution of n candidates.
        n_most: largest number of candidates to return.
    """
    n = len(predictive.mean)
    if n <= n_most:
        return np.arange(n, dtype=np.intp)
    sd = np.maximum(predictive.sd, 1e-300)
    z = (predictive.mean - predictive.mean.max()) / sd
    gain = sd * (z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi))
    # If the expected gain is 0, the mean decides.
    return np.sort(np.lexsort((-predictive.mean, -gain))[:n_most]).astype(np.intp)


def draws_of(
    predictive: Predictive, rows: NDArray[np.intp], n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Return (n_draws, len(rows)) joint draws of some candidates; all n are drawn in blocks."""
    n = len(predictive.mean)
    chosen = np.empty((n_draws, len(rows)))
    start = 0
    for size in block_sizes(n_draws, n):
        chosen[start : start + size] = predictive.draw(size, rng)[:, rows]
        start += size
    return chosen


def expected_order(
    predictive: Predictive, n_max: int, floor: float, n_draws: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return (n_max,) candidates; each adds most to the expected best true score of the choice.

    Args:
        predictive: distribution of n candidates.
        n_max: number of candidates to choose.
        floor: best score so far; -inf if there is none.
        n_draws: number of joint draws; fewer are taken if very many candidates may matter.
        rng: generator of the draws.
    """
    rows = shortlist(predictive, max(_SHORTLIST, 2 * n_max))
    n_draws = min(n_draws, max(_KEPT // len(rows), _FEWEST_DRAWS))
    return rows[greedy_order(draws_of(predictive, rows, n_draws, rng), n_max, floor)]


def greedy_order(draws: FloatArray, n_max: int, floor: float) -> NDArray[np.intp]:
    """Return (n_max,) columns; each adds most to the expected best of the columns before it.

    Args:
        draws: (D, n) joint draws.
        n_max: number of columns to choose.
        floor: best score so far.
    """
    n_draws, n = draws.shape
    best = np.full(n_draws, floor)
    mean = draws.mean(axis=0)
    remaining, order = list(range(n)), []
    width = max(BLOCK // n_draws, 1)
    for _ in range(n_max):
        gains = np.concatenate(
            [
                np.maximum(draws[:, remaining[i : i + width]], best[:, None]).mean(axis=0)
                for i in range(0, len(remaining), width)
            ]
        )
        # If the gains are equal, the mean decides.
        chosen = remaining.pop(int(np.lexsort((-mean[remaining], -gains))[0]))
        best = np.maximum(best, draws[:, chosen])
        order.append(chosen)
    return np.array(order, dtype=np.intp)
