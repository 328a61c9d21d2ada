"""Propose the recipes to try next, by a model of the finished runs over a pool of candidates.

A candidate's score is its predicted outcome plus `beta` standard deviations of the prediction.
A positive beta explores, 0 trusts the prediction, and a negative beta prefers certain recipes,
which suits a last recipe that will not be checked. One recipe explores at a time: the first of a
batch. The others trust the prediction, because with noisy outcomes a batch that explores as a whole
finds less than a ridge regression (`bench/search_replay.py`). The recipes of a batch are picked one
by one: each pick is treated as run with its predicted outcome, so the uncertainty around it
shrinks, and recipes closer to it than `apart` are not picked. Running trials are treated in the
same way. A recipe far from every finished run is marked, or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.search.candidates import (
    Guard,
    Proximity,
    anywhere,
    candidates,
    gaps_to_nearest,
    nearby,
    within_limits,
)
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import BoolArray, Points
from rlready.predictors.search.surrogate import Belief, MixtureModel
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

# How many of the best candidates each round of refinement starts from.
_N_BEST = 30


@dataclass(frozen=True, kw_only=True)
class ProposerConfig:
    """How recipes are proposed.

    Args:
        beta: weight of the standard deviation in the score of the recipe that explores. 1 comes
            nearest to the optimum of a continuous space (`bench/simplex.py`) and of real RL
            outcomes (`bench/octothinker.py`); with 0 for all, both stop far from it.
        n_candidates: size of the pool; about as many more are drawn near its best candidates.
        n_refinements: rounds of candidates around the best of the earlier rounds.
        apart: smallest distance between recipes of a batch, in lengths of the fitted model.
        out_of_domain: "mark" proposes them with their mark; "exclude" leaves them out.
        max_rows: finished runs to fit on; of more runs, the best half and a random rest.
        n_startup: runs before the model is used; None: sources plus axes, from 8 to 12.
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
        """Return the number of runs before the model is used."""
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
        """Return all runs, or `representative` ones if there are more."""
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
        reasons: why a recipe is not IN; empty if it is.
        indices: row of each among the candidates, where these were given.
    """

    points: Points
    mean: FloatArray
    sd: FloatArray
    domain: tuple[Proximity, ...]
    reasons: tuple[str, ...]
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.points)

    @staticmethod
    def joined(parts: Sequence[Proposals]) -> Proposals:
        """Join proposals in their order."""
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
    explores: bool = True,
) -> Proposals:
    """Propose n recipes of the space; `explores` says whether the first of them explores.

    Recipes fill the space until `config.n_startup` runs are finished or running. With several
    objectives each pick draws new priorities (ParEGO), so that a batch spreads over the front.

    Raises:
        ConfigError: if no recipe can be found that keeps the limits of the space.
    """
    config = config or ProposerConfig()
    n_running = 0 if running is None else len(running)
    if len(runs) + n_running < config.startup(space) or len(runs) < 2:
        return _fill_space(space, runs, n, rng, running)
    scorer = _Scorer(space, runs.some(config.max_rows), config, rng)
    scorer.beta = config.beta if explores else 0.0
    # The first recipe and the others have different scores, and priorities are drawn for each.
    sizes = [1] * n if runs.outcomes.shape[1] > 1 else [1, n - 1] if n > 1 else [1]
    parts: list[Proposals] = []
    for size in sizes:
        taken = [part.points for part in parts] + ([] if running is None else [running])
        parts.append(scorer.pick(scorer.pool(), size, Points.joined(taken) if taken else None))
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
    """Propose n recipes of a list of candidates; `indices` are their rows.

    At least two runs must be finished.
    """
    config = config or ProposerConfig()
    scorer = _Scorer(space, runs.some(config.max_rows), config, rng)
    return scorer.pick(candidates, min(n, len(candidates)), running)


def fit_models(space: RecipeSpace, runs: Runs) -> list[MixtureModel]:
    """Return the surrogate of each objective, fitted on the runs."""
    X, errors = space.features(runs.points), runs.errors
    return [
        MixtureModel(space.feature_groups).fit(
            X, runs.outcomes[:, k], None if errors is None else errors[:, k]
        )
        for k in range(runs.outcomes.shape[1])
    ]


class _Scorer:
    """Models of the objectives, and the scores that they give to candidates."""

    def __init__(
        self, space: RecipeSpace, runs: Runs, config: ProposerConfig, rng: np.random.Generator
    ) -> None:
        self.space, self.runs, self.config, self.rng = space, runs, config, rng
        self.beta = config.beta
        self.models = fit_models(space, runs)
        self.guard = Guard(space, runs.points)
        self.priorities = self._draw_priorities()

    def pool(self) -> Points:
        """Return candidates from the whole space, and ever closer to the best of them."""
        size = self.config.n_candidates
        self.priorities = self._draw_priorities()
        best = self.runs.points.rows(np.argsort(-self._of_runs())[:8])
        pool = candidates(self.space, best, size, self.rng)
        score = self._hope(pool)
        for turn in range(self.config.n_refinements):
            top = pool.rows(np.argsort(-score)[:_N_BEST])
            near = nearby(self.space, top, size // 8, self.rng, reach=0.5**turn)
            pool, score = Points.joined([pool, near]), np.r_[score, self._hope(near)]
        # The best candidates lie close together; a batch with distances needs some of the others.
        order = np.argsort(-score)
        return pool.rows(np.r_[order[: size // 4], order[size // 4 :: 8]])

    def pick(self, pool: Points, n: int, running: Points | None) -> Proposals:
        """Pick the n best of the pool, apart from one another and from running trials."""
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
            # If none is inside, all stay open and the marks tell the user.
            is_open &= inside | ~(inside & is_open).any()
        chosen: list[int] = []
        for _ in range(n):
            score = np.where(is_open, self._score(beliefs), -np.inf)
            row = int(np.argmax(score))
            if not np.isfinite(score[row]):
                # `apart` excludes the rest of the pool: take the best of that rest.
                left = np.setdiff1d(np.arange(len(pool)), chosen)
                row = int(left[np.argmax(self._score(beliefs)[left])])
            chosen.append(row)
            self.beta = 0.0
            self._assume_ran(beliefs, row, is_open)
            self.priorities = self._draw_priorities()
        rows = np.array(chosen, dtype=np.intp)
        points = everything.rows(rows)
        domain, reasons = self.guard.judge(points)
        predictions = [
            model.predict(self.space.features(points), return_std=True) for model in self.models
        ]
        return Proposals(
            points=points,
            mean=np.stack([mean for mean, _ in predictions], axis=1),
            sd=np.stack([sd for _, sd in predictions], axis=1),
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
        hopes = [belief.mean + self.beta * belief.sd for belief in beliefs]
        return self._combined(np.stack(hopes, axis=1))

    def _of_runs(self) -> FloatArray:
        X = self.space.features(self.runs.points)
        return self._combined(np.stack([model.predict(X) for model in self.models], axis=1))

    def _combined(self, values: FloatArray) -> FloatArray:
        """Combine objectives by the augmented Chebyshev sum, each scaled by its range."""
        if values.shape[1] == 1:
            return values[:, 0]
        low, high = self.runs.outcomes.min(axis=0), self.runs.outcomes.max(axis=0)
        scaled = (values - high) / np.maximum(high - low, 1e-12) * self.priorities
        return np.asarray(scaled.min(axis=1) + 0.05 * scaled.sum(axis=1))

    def _draw_priorities(self) -> FloatArray:
        priorities: FloatArray = self.rng.dirichlet(np.ones(len(self.models)))
        return priorities


def representative(outcomes: FloatArray, at_most: int) -> NDArray[np.intp]:
    """Return the rows of (n, objectives) outcomes to fit on: all, or the best half and others."""
    if len(outcomes) <= at_most:
        return np.arange(len(outcomes), dtype=np.intp)
    standing = np.argsort(np.argsort(-outcomes, axis=0), axis=0).min(axis=1)
    order = np.argsort(standing, kind="stable")
    best, rest = order[: at_most // 2], order[at_most // 2 :]
    drawn = np.random.default_rng(0).choice(rest, at_most - len(best), replace=False)
    return np.sort(np.r_[best, drawn]).astype(np.intp)


def _fill_space(
    space: RecipeSpace, runs: Runs, n: int, rng: np.random.Generator, running: Points | None
) -> Proposals:
    """Propose uniform mixtures, with axes far from those that were tried.

    Mixtures far from one another would be single sources, which say little about blends.
    """
    taken = runs.points if running is None else Points.joined([runs.points, running])
    guard = Guard(space, runs.points) if len(runs) else None
    chosen: list[Points] = []
    for _ in range(n):
        drawn = anywhere(space, 16, rng, (1.0,))
        if not len(drawn):
            drawn = within_limits(space, space.stratified())
        if not len(drawn):
            raise ConfigError(
                "no recipe was found that keeps the limits of the space",
                why="floors, caps, repetitions, epochs and the token budget leave little or none",
                fix="Widen n_unique or epochs, or raise max_repetitions",
            )
        d = len(space.sources)
        row = 0
        if space.axes and len(taken):
            gaps = gaps_to_nearest(space.features(drawn)[:, d:], space.features(taken)[:, d:])
            row = int(np.argmax(gaps))
        pick = drawn.rows(slice(row, row + 1))
        chosen.append(pick)
        taken = Points.joined([taken, pick])
    points = Points.joined(chosen)
    unknown = np.full((n, max(1, runs.outcomes.shape[1])), np.nan)
    domain, reasons = (
        guard.judge(points) if guard else ((Proximity.OUT,) * n, ("no run is finished",) * n)
    )
    return Proposals(
        points=points,
        mean=unknown,
        sd=unknown,
        domain=domain,
        reasons=reasons,
        indices=np.arange(n, dtype=np.intp),
    )
