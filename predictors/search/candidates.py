"""Candidate recipes, and how far each lies from the recipes whose outcome is known."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import BoolArray, Points
from rlready.predictors.training_table import FloatArray


def candidates(space: RecipeSpace, best: Points, n: int, rng: np.random.Generator) -> Points:
    """Draw about n recipes that keep all limits, over the whole space and near the best.

    Mixtures come from Dirichlet laws, single sources, the stratified mixture, the best recipes with
    some weights changed, and the best blended with others.
    """
    parts = [anywhere(space, n // 2, rng), space.stratified()]
    single = space.simplex.project(np.eye(len(space.sources)))
    parts.append(space.start(single))
    if len(best):
        parts.append(nearby(space, best, n // 2, rng))
        same_axes = np.repeat(best.axes[:1], len(single), axis=0)
        parts.append(Points(weights=single, axes=same_axes))
    return within_limits(space, Points.joined(parts))


def anywhere(
    space: RecipeSpace,
    n: int,
    rng: np.random.Generator,
    concentrations: Sequence[float] = (0.1, 0.3, 1.0),
) -> Points:
    """Draw about n recipes that keep all limits, over the whole space.

    Mixtures come in equal parts from Dirichlet laws with these concentrations: 1 is uniform, a
    smaller one prefers few sources.
    """
    d = len(space.sources)
    parts = np.array_split(np.empty(n), len(concentrations))
    drawn = [
        rng.dirichlet(np.full(d, alpha), len(part))
        for alpha, part in zip(concentrations, parts, strict=True)
    ]
    weights = space.simplex.project(np.vstack(drawn))
    axes = rng.random((n, len(space.axes)))
    for k, axis in enumerate(space.axes):
        if axis.kind == "categorical":
            axes[:, k] = rng.integers(0, len(axis.choices), n)
    return within_limits(space, Points(weights=weights, axes=axes))


def nearby(
    space: RecipeSpace, best: Points, n: int, rng: np.random.Generator, reach: float = 1.0
) -> Points:
    """Draw about n changed copies of the best that keep all limits; `reach` scales the steps."""
    of = rng.integers(0, len(best), n)
    weights, axes = best.weights[of], best.axes[of].copy()
    d = weights.shape[1]
    # Steps of three sizes in a few, some or all weights, on the square-root scale of the model.
    step = reach * rng.choice([0.02, 0.08, 0.25], (n, 1)) * rng.standard_normal((n, d))
    step *= rng.random((n, d)) < rng.choice([0.15, 0.4, 1.0], (n, 1))
    changed = np.maximum(np.sqrt(weights) + step, 0.0) ** 2
    is_blend = rng.random(n) < 0.2
    share = reach * rng.beta(1.0, 4.0, (n, 1))
    blended = (1.0 - share) * weights + share * rng.dirichlet(np.full(d, 0.1), n)
    changed = np.where(is_blend[:, None], blended, changed)
    total = changed.sum(axis=1, keepdims=True)
    changed = np.where(total > 0.0, changed / np.maximum(total, 1e-300), weights)
    for k, axis in enumerate(space.axes):
        moves = rng.random(n) < 0.5
        if axis.kind == "categorical":
            other = rng.integers(0, len(axis.choices), n)
            axes[:, k] = np.where(moves & (rng.random(n) < 0.3), other, axes[:, k])
        else:
            moved = axes[:, k] + reach * rng.choice([0.02, 0.1, 0.3], n) * rng.standard_normal(n)
            axes[:, k] = np.where(moves, np.clip(moved, 0.0, 1.0), axes[:, k])
    return within_limits(space, Points(weights=space.simplex.project(changed), axes=axes))


def within_limits(space: RecipeSpace, points: Points) -> Points:
    """Return the points that keep all limits, after moving the others towards them."""
    is_allowed = space.keeps_limits(points)
    if is_allowed.all():
        return points
    mended = space.mended(points.rows(~is_allowed))
    mended = mended.rows(space.keeps_limits(mended))
    return Points.joined([points.rows(is_allowed), mended])


LEAST_SHARE = 0.01
"""Weight from which a recipe counts as one with a source."""

_NEW_SHARE = 0.25


def tried_sources(points: Points) -> BoolArray:
    """Return (sources,) whether any of the recipes has each source."""
    return np.asarray((points.weights >= LEAST_SHARE).any(axis=0))


def with_source(space: RecipeSpace, best: Points, source: int) -> Points:
    """Return a recipe with a quarter of a source, the rest as in the best; none if limits forbid.

    A quarter shows its effect over the noise of a run, and stays near a recipe that is known.
    """
    weights = (1.0 - _NEW_SHARE) * best.weights[:1]
    weights[:, source] += _NEW_SHARE
    points = Points(weights=space.simplex.project(weights), axes=best.axes[:1])
    points = within_limits(space, points)
    return points.rows(points.weights[:, source] >= LEAST_SHARE)


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
    with a choice or a source that no run has: shares interpolate, but no run prices a new source.
    """

    _FEWEST = 8

    def __init__(self, space: RecipeSpace, finished: Points) -> None:
        self._space = space
        self._finished = self._mapped(finished)
        self._choices = finished.axes
        self._is_new = ~tried_sources(finished)
        gaps = (
            gaps_to_nearest(self._finished, self._finished, skip_self=True)
            if len(finished) > 1
            else np.ones(1)
        )
        third, spread = np.quantile(gaps, 0.75), np.subtract(*np.quantile(gaps, [0.75, 0.25]))
        self.edge = float(third + 1.5 * spread)
        self.fence = float(third + 3.0 * spread)

    def nearest(self, points: Points) -> FloatArray:
        """Return the gap (n,) of each recipe; infinite with a choice or source no run has."""
        gaps = gaps_to_nearest(self._mapped(points), self._finished)
        uses_new = (points.weights[:, self._is_new] >= LEAST_SHARE).any(axis=1)
        return np.where(self._is_unseen(points) | uses_new, np.inf, gaps)

    def judge(self, points: Points) -> tuple[tuple[Proximity, ...], tuple[str, ...]]:
        """Return the proximity of each recipe, and the reason where it is not IN."""
        verdicts = [self._judge(float(gap)) for gap in self.nearest(points)]
        for row, is_new in enumerate((points.weights >= LEAST_SHARE) & self._is_new):
            if is_new.any():
                names = [self._space.sources[i].name for i in np.flatnonzero(is_new)]
                reason = f"no finished run has {', '.join(names)}, so its effect cannot be priced"
                verdicts[row] = (Proximity.OUT, reason)
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
