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

    They are those that are expected to beat the best prediction by most. This is exact for a normal
    distribution; the rest of thousands of candidates would add nearly nothing to any choice.

    Args:
        predictive: of n candidates.
        n_most: candidates that are kept.
    """
    n = len(predictive.mean)
    if n <= n_most:
        return np.arange(n, dtype=np.intp)
    sd = np.maximum(predictive.sd, 1e-300)
    z = (predictive.mean - predictive.mean.max()) / sd
    gain = sd * (z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi))
    # Where no gain is left at all, the mean decides.
    return np.sort(np.lexsort((-predictive.mean, -gain))[:n_most]).astype(np.intp)


def draws_of(
    predictive: Predictive, rows: NDArray[np.intp], n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Return joint draws of some candidates, (n_draws, len(rows)); all n are drawn in blocks."""
    n = len(predictive.mean)
    kept = np.empty((n_draws, len(rows)))
    start = 0
    for size in block_sizes(n_draws, n):
        kept[start : start + size] = predictive.draw(size, rng)[:, rows]
        start += size
    return kept


def expected_order(
    predictive: Predictive, n_max: int, floor: float, n_draws: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return (n_max,) candidates, each adding most to the expected best true score of the chosen.

    Args:
        predictive: of n candidates.
        n_max: candidates to choose.
        floor: score that is already there; -inf if there is none.
        n_draws: joint draws; fewer if the candidates that may matter are very many.
        rng: for the draws.
    """
    rows = shortlist(predictive, max(_SHORTLIST, 2 * n_max))
    n_draws = min(n_draws, max(_KEPT // len(rows), _FEWEST_DRAWS))
    return rows[greedy_order(draws_of(predictive, rows, n_draws, rng), n_max, floor)]


def greedy_order(draws: FloatArray, n_max: int, floor: float) -> NDArray[np.intp]:
    """Return (n_max,) columns, each adding most to the expected best of those chosen so far.

    Args:
        draws: (D, n) joint draws.
        n_max: columns to choose.
        floor: score that is already there.
    """
    n_draws, n = draws.shape
    best = np.full(n_draws, floor)
    mean = draws.mean(axis=0)
    left, order = list(range(n)), []
    width = max(BLOCK // n_draws, 1)
    for _ in range(n_max):
        gains = np.concatenate(
            [
                np.maximum(draws[:, left[i : i + width]], best[:, None]).mean(axis=0)
                for i in range(0, len(left), width)
            ]
        )
        # Where no draw prefers any, the mean decides.
        chosen = left.pop(int(np.lexsort((-mean[left], -gains))[0]))
        best = np.maximum(best, draws[:, chosen])
        order.append(chosen)
    return np.array(order, dtype=np.intp)
