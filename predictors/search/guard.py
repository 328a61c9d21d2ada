"""How far a proposed recipe lies from the recipes whose outcome is known."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import BoolArray, Points
from rlready.predictors.training_table import FloatArray


class Proximity(StrEnum):
    """How far a recipe lies from those whose outcome is known."""

    IN = "in"
    EDGE = "edge"
    OUT = "out"


class Guard:
    """Tells whether recipes lie near finished runs.

    A recipe's gap is the distance to its nearest finished run: the Hellinger distance of mixtures;
    the whole range of an axis counts 1. The gaps between finished runs set the limits. A recipe is
    at the EDGE beyond their third quartile + 1.5 interquartile ranges, and OUT beyond 3 of them, or
    with a choice that no run has.
    """

    _FEWEST = 8

    def __init__(self, space: RecipeSpace, finished: Points) -> None:
        self._space = space
        self._finished = self._mapped(finished)
        self._choices = finished.axes
        gaps = (
            gaps_to_nearest(self._finished, self._finished, skip_self=True)
            if len(finished) > 1
            else np.ones(1)
        )
        third, spread = np.quantile(gaps, 0.75), np.subtract(*np.quantile(gaps, [0.75, 0.25]))
        self.edge = float(third + 1.5 * spread)
        self.fence = float(third + 3.0 * spread)

    def nearest(self, points: Points) -> FloatArray:
        """Return the gap (n,) of each recipe; infinite with a choice that no run has."""
        gaps = gaps_to_nearest(self._mapped(points), self._finished)
        return np.where(self._is_unseen(points), np.inf, gaps)

    def judge(self, points: Points) -> tuple[tuple[Proximity, ...], tuple[str, ...]]:
        """Return the proximity of each recipe, and the reason where it is not IN."""
        verdicts = [self._judge(float(gap)) for gap in self.nearest(points)]
        return tuple(where for where, _ in verdicts), tuple(reason for _, reason in verdicts)

    def _judge(self, gap: float) -> tuple[Proximity, str]:
        if not np.isfinite(gap):
            return Proximity.OUT, "it has a choice that no finished run has"
        gap_text = f"its nearest finished run is {gap:.2f} away, theirs from one another"
        if gap > self.fence + 1e-12:
            return Proximity.OUT, f"{gap_text} at most {self.fence:.2f}"
        if len(self._finished) < self._FEWEST:
            return Proximity.EDGE, f"only {len(self._finished)} runs are finished"
        if gap > self.edge + 1e-12:
            return Proximity.EDGE, f"{gap_text} mostly under {self.edge:.2f}"
        return Proximity.IN, ""

    def _mapped(self, points: Points) -> FloatArray:
        features = self._space.features(points)
        d = len(self._space.sources)
        # Divided by root 2, disjoint mixtures are 1 apart.
        mixture = np.sqrt(np.maximum(features[:, :d], 0.0)) / np.sqrt(2.0)
        return np.hstack([mixture, features[:, d:]])

    def _is_unseen(self, points: Points) -> BoolArray:
        unseen = np.zeros(len(points), dtype=bool)
        for k, axis in enumerate(self._space.axes):
            if axis.kind == "categorical":
                unseen |= ~np.isin(points.axes[:, k], self._choices[:, k])
        return unseen


def gaps_to_nearest(
    points: FloatArray, finished: FloatArray, skip_self: bool = False
) -> FloatArray:
    """Return the (n,) Euclidean distance of each point to the nearest of the finished ones."""
    squares = (
        (points**2).sum(axis=1)[:, None] + (finished**2).sum(axis=1) - 2.0 * points @ finished.T
    )
    if skip_self:
        squares[np.diag_indices(len(squares))] = np.inf
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0.0)))
