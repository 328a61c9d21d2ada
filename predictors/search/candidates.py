"""Recipes that a search may look at: all over the space, and near the best ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Points


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
