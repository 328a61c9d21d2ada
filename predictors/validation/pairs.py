"""Order of checkpoints from different groups, judged by one fit that has seen neither group.

Pooling the predictions of different fits biases the order: if a group with a high level is left
out, the mean of the training rows is lower, and the other way round. Two rows of different groups
are therefore compared by one model that was fitted without both groups. These comparisons give

    decision_accuracy        share of pairs with different outcomes in the right order
    decision_accuracy_clear  the same for pairs whose outcomes differ clearly (`ClearRule`)
    spearman, regret_at_k    scores of the Borda order: share of comparisons won, ties count half

All scores use pairs from different groups. The order inside groups has its own scores (`within`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from rlready.predictors.training_table import FloatArray, TextArray
from rlready.predictors.validation.folds import Rows
from rlready.predictors.validation.scores import ClearRule, Matrix, PredictionScorer

_TIE = 1e-12
"""A smaller share of the largest predicted difference than this counts as a rounding error."""

PAIR_SCORES = (
    "decision_accuracy",
    "decision_accuracy_clear",
    "spearman",
    "regret_at_1",
    "regret_at_2",
    "regret_at_3",
)


MIN_GROUPS = 3
"""Smallest number of groups: of two groups, a fit without both would have no rows."""


def without_pairs(blocks: Sequence[Rows]) -> list[Rows]:
    """Return the sets of rows to leave out: each block, and each pair of blocks."""
    return [*blocks, *(union(a, b) for a, b in combinations(blocks, 2))]


def pair_gaps(
    n: int, blocks: Sequence[Rows], predicted: Callable[[Rows], FloatArray]
) -> FloatArray:
    """Return (n, n) predicted outcome of row i minus that of row j, by a fit without either block.

    Args:
        n: number of rows.
        blocks: the rows of each group, or of each block of groups where there are many. Rows of
            one block are compared by the fit without that block.
        predicted: function of some rows; returns the (n,) predictions of the fit without them.
    """
    gaps = np.zeros((n, n))
    for block in blocks:
        gaps[np.ix_(block, block)] = np.subtract.outer(*[predicted(block)[block]] * 2)
    for a, b in combinations(blocks, 2):
        values = predicted(union(a, b))
        gaps[np.ix_(a, b)] = np.subtract.outer(values[a], values[b])
        gaps[np.ix_(b, a)] = np.subtract.outer(values[b], values[a])
    return gaps


def union(a: Rows, b: Rows) -> Rows:
    """Return the rows of both sets, in order."""
    return np.union1d(a, b).astype(np.intp)


class PairScorer(PredictionScorer):
    """Compute the scores of comparisons between rows of different groups.

    Args:
        y: (n,) outcomes, higher is better.
        gaps: (n, n) predicted outcome of row i minus that of row j, by one model that has seen
            neither of their groups. Entries inside a group are ignored.
        groups: (n,) group of each row; there are at least two.
        y_error: (n,) standard errors of the outcomes.
        rule: which pairs are clear; by default `clear_rule`.

    Example:
        >>> gaps = np.subtract.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
        >>> PairScorer([0.1, 0.2, 0.3], gaps, np.array(["a", "b", "c"])).borda
        array([0. , 0.5, 1. ])
    """

    def __init__(
        self,
        y: ArrayLike,
        gaps: FloatArray,
        groups: TextArray,
        y_error: ArrayLike | None = None,
        rule: ClearRule | None = None,
    ) -> None:
        group_of = np.unique(groups, return_inverse=True)[1]
        self._different = (group_of[:, None] != group_of).astype(np.float32)
        if not np.isfinite(gaps[self._different > 0]).all():
            raise ValueError("each pair of rows of different groups needs a finite comparison")
        gaps = np.where(self._different > 0, gaps, 0.0)
        is_tie = np.abs(gaps) <= _TIE * np.abs(gaps).max(initial=0.0)
        self._wins: Matrix = np.where(is_tie, 0.0, np.sign(gaps)).astype(np.float32)
        n_compared = self._different.sum(axis=1)
        won = (self._different * (1.0 + self._wins) / 2.0).sum(axis=1)
        self.borda: FloatArray = np.divide(
            won, n_compared, out=np.full(len(won), 0.5), where=n_compared > 0
        ).astype(np.float64)
        super().__init__(y, self.borda, groups, y_error, rule)

    @cached_property
    def _agreement(self) -> Matrix:
        """The (n, n) agreement of comparisons and outcomes: 1 if equal, -1 if not, 0 at ties."""
        return self._y_signs * self._wins

    @cached_property
    def _pairs(self) -> dict[str, Matrix]:
        return {name: pairs * self._different for name, pairs in super()._pairs.items()}
