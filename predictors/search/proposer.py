"""Which recipes to try next, by a model of the finished ones over a large pool of candidates.

A candidate's score is its predicted outcome plus `beta` standard deviations of the prediction.
Positive beta explores; 0 believes the prediction; negative beta ("predicted outcome minus beta
times sd") wants to be sure, which is right for a last recipe that nobody will check. A batch is
picked one by one: each pick is taken as run with its predicted outcome (what is unknown around it
shrinks), and nothing closer to it than `apart` is picked again. Trials that are running count the
same way. What lies far from every finished run is marked, or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import BoolArray, Points
from rlready.predictors.search.surrogate import Belief, MixtureModel
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

# How many of the best candidates each round of refinement starts from.
_KEPT = 30


class Domain(StrEnum):
    """How far a recipe lies from those whose outcome is known."""

    IN = "in"
    EDGE = "edge"
    OUT = "out"


@dataclass(frozen=True, kw_only=True)
class ProposerConfig:
    """How recipes are proposed.

    Args:
        beta: weight of the standard deviation in the score; see the module. 1 ends nearest to an
            optimum inside a continuous space (`bench/simplex.py`); from a short list of recipes
            less is better (`bench/search_replay.py`).
        n_candidates: size of the pool; about as many are looked at again near the best of it.
        n_refinements: rounds of candidates around the best of the rounds before.
        apart: least distance between recipes of a batch, in lengths of the fitted model.
        out_of_domain: "mark" proposes them with their mark; "exclude" leaves them out.
        max_rows: finished runs that the model is fitted on; of more, the best and a random rest.
        n_startup: runs before the model is used; None: sources and axes, within 8 and 12.
    """

    beta: float = 1.0
    n_candidates: int = 20_000
    n_refinements: int = 6
    apart: float = 0.05
    out_of_domain: Literal["mark", "exclude"] = "mark"
    max_rows: int = 300
    n_startup: int | None = None

    def __post_init__(self) -> None:
        if self.n_candidates < 100 or self.max_rows < 10 or self.n_refinements < 0:
            raise ConfigError(
                f"{self.n_candidates} candidates, {self.max_rows} rows, "
                f"{self.n_refinements} refinements",
                fix="Give at least 100, 10 and 0",
            )
        if not np.isfinite(self.beta) or self.apart < 0.0:
            raise ConfigError(f"beta is {self.beta}, apart {self.apart}", fix="Give finite numbers")

    def startup(self, space: RecipeSpace) -> int:
        """Runs before the model is used."""
        if self.n_startup is not None:
            return max(2, self.n_startup)
        return int(np.clip(len(space.sources) + len(space.axes), 8, 12))


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """Finished runs as the proposer sees them.

    Args:
        points: their recipes.
        outcomes: (n, objectives), higher is better.
        errors: (n, objectives) standard errors, NaN where unknown; None: all unknown.
    """

    points: Points
    outcomes: FloatArray
    errors: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.outcomes)

    def some(self, at_most: int) -> Runs:
        """All of them, or `representative` ones."""
        chosen = representative(self.outcomes, at_most)
        return Runs(
            points=self.points.rows(chosen),
            outcomes=self.outcomes[chosen],
            errors=None if self.errors is None else self.errors[chosen],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposals:
    """Recipes to try next, the most promising first.

    Args:
        points: the recipes.
        mean: (n, objectives) predicted outcomes, higher is better; NaN without a model.
        sd: (n, objectives) standard deviations of the predictions; NaN without a model.
        domain: how far each lies from the finished runs.
        reasons: why it is not in the domain; empty if it is.
        indices: row of each among the candidates, where these were given.
    """

    points: Points
    mean: FloatArray
    sd: FloatArray
    domain: tuple[Domain, ...]
    reasons: tuple[str, ...]
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.points)

    @staticmethod
    def joined(parts: Sequence[Proposals]) -> Proposals:
        """All of the parts, in their order."""
        return Proposals(
            points=Points.joined([part.points for part in parts]),
            mean=np.vstack([part.mean for part in parts]),
            sd=np.vstack([part.sd for part in parts]),
            domain=tuple(domain for part in parts for domain in part.domain),
            reasons=tuple(reason for part in parts for reason in part.reasons),
            indices=np.concatenate([part.indices for part in parts]),
        )


def propose(
    space: RecipeSpace,
    runs: Runs,
    n: int,
    rng: np.random.Generator,
    *,
    config: ProposerConfig | None = None,
    running: Points | None = None,
) -> Proposals:
    """The n recipes of the space to try next.

    Before `config.n_startup` runs are finished or under way, recipes fill the space. With more than
    one objective each pick weighs them anew (ParEGO), so that a batch spreads over the front.

    Raises:
        ConfigError: if no recipe can be found that keeps the limits of the space.
    """
    config = config or ProposerConfig()
    n_running = 0 if running is None else len(running)
    if len(runs) + n_running < config.startup(space) or len(runs) < 2:
        return _fill_space(space, runs, n, rng, running)
    scorer = _Scorer(space, runs.some(config.max_rows), config, rng)
    if runs.outcomes.shape[1] == 1:
        return scorer.pick(scorer.pool(), n, running)
    parts: list[Proposals] = []
    for _ in range(n):
        taken = [part.points for part in parts] + ([] if running is None else [running])
        parts.append(scorer.pick(scorer.pool(), 1, Points.joined(taken) if taken else None))
    return Proposals.joined(parts)


def propose_from(
    space: RecipeSpace,
    runs: Runs,
    candidates: Points,
    n: int,
    rng: np.random.Generator,
    *,
    config: ProposerConfig | None = None,
    running: Points | None = None,
) -> Proposals:
    """The n of a finite list of candidates to try next; `indices` says which.

    Needs two finished runs.
    """
    config = config or ProposerConfig()
    scorer = _Scorer(space, runs.some(config.max_rows), config, rng)
    return scorer.pick(candidates, min(n, len(candidates)), running)


class _Scorer:
    """Models of the objectives, and what they say of candidates."""

    def __init__(
        self, space: RecipeSpace, runs: Runs, config: ProposerConfig, rng: np.random.Generator
    ) -> None:
        self.space, self.runs, self.config, self.rng = space, runs, config, rng
        X = space.features(runs.points)
        errors = runs.errors
        self.models = [
            MixtureModel(space.feature_groups).fit(
                X, runs.outcomes[:, k], None if errors is None else errors[:, k]
            )
            for k in range(runs.outcomes.shape[1])
        ]
        self.guard = Guard(space, runs.points)
        self.weighting = self._draw_weighting()

    def pool(self) -> Points:
        """Candidates over the whole space, then closer and closer to the best of them."""
        size = self.config.n_candidates
        self.weighting = self._draw_weighting()
        best = self.runs.points.rows(np.argsort(-self._of_runs())[:8])
        found = candidates(self.space, best, size, self.rng)
        score = self._hope(found)
        for turn in range(self.config.n_refinements):
            top = found.rows(np.argsort(-score)[:_KEPT])
            near = nearby(self.space, top, size // 8, self.rng, reach=0.5**turn)
            found, score = Points.joined([found, near]), np.r_[score, self._hope(near)]
        # The best crowd together; a batch that has to lie apart needs some of the rest.
        order = np.argsort(-score)
        return found.rows(np.r_[order[: size // 4], order[size // 4 :: 8]])

    def pick(self, pool: Points, n: int, running: Points | None) -> Proposals:
        """The n best of the pool, apart from one another and from what is running."""
        n_running = 0 if running is None else len(running)
        everything = pool if running is None else Points.joined([pool, running])
        X = self.space.features(everything)
        beliefs = [model.belief(X) for model in self.models]
        is_open = np.ones(len(everything), dtype=bool)
        is_open[len(pool) :] = False
        for row in range(len(pool), len(pool) + n_running):
            self._assume_ran(beliefs, row, is_open)
        if self.config.out_of_domain == "exclude":
            inside = self.guard.nearest(everything) <= self.guard.fence
            # With none inside the marks have to tell.
            is_open &= inside | ~(inside & is_open).any()
        chosen: list[int] = []
        for _ in range(n):
            score = np.where(is_open, self._score(beliefs), -np.inf)
            row = int(np.argmax(score))
            if not np.isfinite(score[row]):
                # The pool is smaller than what `apart` asks for: take what is left of it.
                left = np.setdiff1d(np.arange(len(pool)), chosen)
                row = int(left[np.argmax(self._score(beliefs)[left])])
            chosen.append(row)
            self._assume_ran(beliefs, row, is_open)
            self.weighting = self._draw_weighting()
        rows = np.array(chosen, dtype=np.intp)
        points = everything.rows(rows)
        domain, reasons = self.guard.judge(points)
        said = [
            model.predict(self.space.features(points), return_std=True) for model in self.models
        ]
        return Proposals(
            points=points,
            mean=np.stack([mean for mean, _ in said], axis=1),
            sd=np.stack([sd for _, sd in said], axis=1),
            domain=domain,
            reasons=reasons,
            indices=rows,
        )

    def _assume_ran(self, beliefs: Sequence[Belief], row: int, is_open: BoolArray) -> None:
        near = np.zeros(len(is_open), dtype=bool)
        for belief in beliefs:
            gap = belief.smooth - belief.smooth[row]
            near |= (gap**2).sum(axis=1) < self.config.apart**2
            belief.assume_ran(row)
        is_open &= ~near
        is_open[row] = False

    def _hope(self, points: Points) -> FloatArray:
        X = self.space.features(points)
        score = self._score([model.belief(X) for model in self.models])
        if self.config.out_of_domain == "exclude":
            score[self.guard.nearest(points) > self.guard.fence] = -np.inf
        return score

    def _score(self, beliefs: Sequence[Belief]) -> FloatArray:
        hopes = [belief.mean + self.config.beta * belief.sd for belief in beliefs]
        return self._combined(np.stack(hopes, axis=1))

    def _of_runs(self) -> FloatArray:
        X = self.space.features(self.runs.points)
        return self._combined(np.stack([model.predict(X) for model in self.models], axis=1))

    def _combined(self, values: FloatArray) -> FloatArray:
        """One number a recipe: the augmented Chebyshev sum of the objectives, over their ranges."""
        if values.shape[1] == 1:
            return values[:, 0]
        low, high = self.runs.outcomes.min(axis=0), self.runs.outcomes.max(axis=0)
        scaled = (values - high) / np.maximum(high - low, 1e-12) * self.weighting
        return np.asarray(scaled.min(axis=1) + 0.05 * scaled.sum(axis=1))

    def _draw_weighting(self) -> FloatArray:
        weighting: FloatArray = self.rng.dirichlet(np.ones(len(self.models)))
        return weighting


class Guard:
    """Which recipes lie near finished runs.

    A recipe's gap is the distance to its nearest finished run (Hellinger in the mixture, a whole
    range of an axis counts 1). It is at the edge beyond the usual fence of the gaps that the runs
    have from one another (third quartile + 1.5 interquartile ranges), out beyond twice that reach,
    and out with a choice that no run has.
    """

    _FEWEST = 8

    def __init__(self, space: RecipeSpace, known: Points) -> None:
        self._space = space
        self._known = self._mapped(known)
        self._choices = known.axes
        gaps = _gaps(self._known, self._known, skip_self=True) if len(known) > 1 else np.ones(1)
        third, spread = np.quantile(gaps, 0.75), np.subtract(*np.quantile(gaps, [0.75, 0.25]))
        self.edge = float(third + 1.5 * spread)
        self.fence = float(third + 3.0 * spread)

    def nearest(self, points: Points) -> FloatArray:
        """(n,) gap of each recipe; infinite with a choice that no run has."""
        gaps = _gaps(self._mapped(points), self._known)
        return np.where(self._is_unseen(points), np.inf, gaps)

    def judge(self, points: Points) -> tuple[tuple[Domain, ...], tuple[str, ...]]:
        """The domain of each recipe and the reason where it is not in it."""
        found = [self._judge(float(gap)) for gap in self.nearest(points)]
        return tuple(domain for domain, _ in found), tuple(reason for _, reason in found)

    def _judge(self, gap: float) -> tuple[Domain, str]:
        if not np.isfinite(gap):
            return Domain.OUT, "it has a choice that no finished run has"
        said = f"its nearest finished run is {gap:.2f} away, theirs from one another"
        if gap > self.fence + 1e-12:
            return Domain.OUT, f"{said} at most {self.fence:.2f}"
        if len(self._known) < self._FEWEST:
            return Domain.EDGE, f"only {len(self._known)} runs are finished"
        if gap > self.edge + 1e-12:
            return Domain.EDGE, f"{said} mostly under {self.edge:.2f}"
        return Domain.IN, ""

    def _mapped(self, points: Points) -> FloatArray:
        features = self._space.features(points)
        d = len(self._space.sources)
        # Over root 2 disjoint mixtures are 1 apart.
        mixture = np.sqrt(np.maximum(features[:, :d], 0.0)) / np.sqrt(2.0)
        return np.hstack([mixture, features[:, d:]])

    def _is_unseen(self, points: Points) -> BoolArray:
        unseen = np.zeros(len(points), dtype=bool)
        for k, axis in enumerate(self._space.axes):
            if axis.kind == "categorical":
                unseen |= ~np.isin(points.axes[:, k], self._choices[:, k])
        return unseen


def representative(outcomes: FloatArray, at_most: int) -> NDArray[np.intp]:
    """Rows of (n, objectives) outcomes to fit on: all, or the best half and a random rest."""
    if len(outcomes) <= at_most:
        return np.arange(len(outcomes), dtype=np.intp)
    standing = np.argsort(np.argsort(-outcomes, axis=0), axis=0).min(axis=1)
    order = np.argsort(standing, kind="stable")
    best, rest = order[: at_most // 2], order[at_most // 2 :]
    drawn = np.random.default_rng(0).choice(rest, at_most - len(best), replace=False)
    return np.sort(np.r_[best, drawn]).astype(np.intp)


def candidates(space: RecipeSpace, best: Points, n: int, rng: np.random.Generator) -> Points:
    """About n recipes that keep all limits: all over the space, and near the best.

    Mixtures come from Dirichlet laws of several concentrations, even axes, single sources, the
    stratified mixture, the best with some weights changed, and the best blended with others.
    """
    parts = [anywhere(space, n // 2, rng), space.stratified()]
    single = space.simplex.project(np.eye(len(space.sources)))
    parts.append(space.start(single))
    if len(best):
        parts.append(nearby(space, best, n // 2, rng))
        same_axes = np.repeat(best.axes[:1], len(single), axis=0)
        parts.append(Points(weights=single, axes=same_axes))
    return _allowed(space, Points.joined(parts))


def anywhere(
    space: RecipeSpace,
    n: int,
    rng: np.random.Generator,
    concentrations: Sequence[float] = (0.1, 0.3, 1.0),
) -> Points:
    """About n recipes that keep all limits, all over the space.

    Mixtures come in equal parts from the Dirichlet laws of the concentrations: 1 is uniform, less
    prefers few sources.
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
    return _allowed(space, Points(weights=weights, axes=axes))


def nearby(
    space: RecipeSpace, best: Points, n: int, rng: np.random.Generator, reach: float = 1.0
) -> Points:
    """About n recipes within all limits, each a changed one of the best; `reach` scales steps."""
    of = rng.integers(0, len(best), n)
    weights, axes = best.weights[of], best.axes[of].copy()
    d = weights.shape[1]
    # Steps of three sizes in a few, some or all of the weights, in the model's own metric.
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
    return _allowed(space, Points(weights=space.simplex.project(changed), axes=axes))


def _allowed(space: RecipeSpace, points: Points) -> Points:
    kept = space.keeps_limits(points)
    if kept.all():
        return points
    mended = space.mended(points.rows(~kept))
    mended = mended.rows(space.keeps_limits(mended))
    return Points.joined([points.rows(kept), mended])


def _fill_space(
    space: RecipeSpace, runs: Runs, n: int, rng: np.random.Generator, running: Points | None
) -> Proposals:
    """Uniform mixtures, with axes far from those that were tried.

    Mixtures far from one another would be single sources, whose outcomes tell little about blends.
    """
    taken = runs.points if running is None else Points.joined([runs.points, running])
    guard = Guard(space, runs.points) if len(runs) else None
    chosen: list[Points] = []
    for _ in range(n):
        drawn = anywhere(space, 16, rng, (1.0,))
        if not len(drawn):
            drawn = _allowed(space, space.stratified())
        if not len(drawn):
            raise ConfigError(
                "no recipe was found that keeps the limits of the space",
                why="floors, caps, repetitions, epochs and the token budget leave little or none",
                fix="Widen n_unique or epochs, or raise max_repetitions",
            )
        d = len(space.sources)
        row = 0
        if space.axes and len(taken):
            gaps = _gaps(space.features(drawn)[:, d:], space.features(taken)[:, d:])
            row = int(np.argmax(gaps))
        pick = drawn.rows(slice(row, row + 1))
        chosen.append(pick)
        taken = Points.joined([taken, pick])
    points = Points.joined(chosen)
    unknown = np.full((n, max(1, runs.outcomes.shape[1])), np.nan)
    domain, reasons = (
        guard.judge(points) if guard else ((Domain.OUT,) * n, ("no run is finished",) * n)
    )
    return Proposals(
        points=points,
        mean=unknown,
        sd=unknown,
        domain=domain,
        reasons=reasons,
        indices=np.arange(n, dtype=np.intp),
    )


def _gaps(points: FloatArray, known: FloatArray, skip_self: bool = False) -> FloatArray:
    squares = (points**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2.0 * points @ known.T
    if skip_self:
        squares[np.diag_indices(len(squares))] = np.inf
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0.0)))
