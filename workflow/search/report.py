"""What a search has found: recipes in order of predicted outcome, and the response surface.

The surrogate is fitted on all finished trials, those of the registry among them. A recipe's value
is one noisy run; what it is ranked by is the prediction for its recipe, which runs around it
steady. The surface moves one source's weight through its range, from the best recipe, the other
weights in their proportions as far as floors and caps let them. With a cost as second objective
each recipe has a prediction of both; those that no other one beats in both are the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search.candidates import Guard
from rlready.predictors.search.proposer import ProposerConfig, Runs
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Points, fill
from rlready.predictors.search.study import propose_recipes
from rlready.predictors.search.surrogate import MixtureModel
from rlready.predictors.search.trials import (
    CHECKPOINT,
    ERRORS,
    FORESEEN,
    GPU_HOURS,
    ORIGIN,
    RECIPE,
    RUN,
    STOPPED,
    current,
    finished_trials,
    is_predicted,
    runs_of,
    senses,
)
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Z = 1.6449
"""Bands are +-Z standard deviations: 90 % of a normal law."""

_GRID = 25


@dataclass(frozen=True, kw_only=True)
class RankedRecipe:
    """A recipe and what is known of its outcome.

    Args:
        trial: its number; None if nobody has tried it.
        origin: who proposed it.
        recipe: what to train.
        value: what the study was told.
        se: its standard error.
        predicted: outcome by the surrogate, noise of a run taken out.
        sd: standard deviation of the prediction.
        low, high: interval of the prediction, 90 %.
        domain: "in", "edge" or "out" of what finished runs tell about.
        reason: why it is not in the domain.
        tokens: that training sees, if the space says.
        is_predicted: whether `value` is what a predictor says, and no outcome.
        checkpoint: registered id of what it gave.
        gpu_hours: that the trial took, if the trainer has told them.
        cost: as told, where the search has a cost.
        predicted_cost: by the surrogate, and its standard deviation `cost_sd`.
        on_front: whether no other recipe is foreseen to be better and cheaper.
    """

    trial: int | None
    origin: str
    recipe: Recipe
    value: float | None
    se: float | None
    predicted: float
    sd: float
    low: float
    high: float
    domain: str
    reason: str
    tokens: float | None
    is_predicted: bool = False
    checkpoint: str | None = None
    gpu_hours: float | None = None
    cost: float | None = None
    predicted_cost: float | None = None
    cost_sd: float | None = None
    on_front: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as one JSON object."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}


@dataclass(frozen=True, kw_only=True)
class SurfacePoint:
    """Predicted outcome where a source has this weight.

    Args:
        source: its name.
        weight: its weight.
        predicted: outcome by the surrogate.
        low: end of the band.
        high: end of the band.
        domain: as in `RankedRecipe`.
    """

    source: str
    weight: float
    predicted: float
    low: float
    high: float
    domain: str


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """What a search has found.

    Args:
        study: its name.
        states: number of trials by state.
        rows: finished recipes, the best prediction first.
        untried: recipes that the surrogate would try next.
        surface: of every source.
        noise_sd: of one run around its recipe's outcome, as the surrogate sees it.
        cost: name of the second objective, None without one.
        gpu_hours: of all trials, None if nobody has said any.
        stopped: trials that the pruner has stopped, the most promising first.
    """

    study: str
    states: dict[str, int]
    rows: tuple[RankedRecipe, ...]
    untried: tuple[RankedRecipe, ...]
    surface: tuple[SurfacePoint, ...]
    noise_sd: float
    cost: str | None = None
    gpu_hours: float | None = None
    stopped: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object: the contract of `rlready search report --json`."""
        return {
            "study": self.study,
            "states": self.states,
            "noise_sd": self.noise_sd,
            "cost": self.cost,
            "gpu_hours": self.gpu_hours,
            "ranking": [row.to_dict() for row in self.rows],
            "stopped": list(self.stopped),
            "untried": [row.to_dict() for row in self.untried],
            "surface": [asdict(point) for point in self.surface],
        }


def search_report(
    study: Study, space: RecipeSpace, *, n_untried: int = 3, cost: str | None = None
) -> SearchReport:
    """The report of a study.

    Args:
        study: of Optuna.
        space: its recipes.
        n_untried: how many recipes to name that the surrogate would try next.
        cost: name of the second objective, if it has one.

    Raises:
        ConfigError: if fewer than two trials are finished.
    """
    trials, finished = study.get_trials(deepcopy=False), finished_trials(study, space)
    if len(finished) < 2:
        raise ConfigError(
            f"study {study.study_name!r} has {len(finished)} finished trials",
            why="a surrogate needs two",
            fix="Tell some: rlready search tell TRIAL --value V",
        )
    runs = runs_of(space, finished, senses(study))
    surrogate = _Surrogate(space, runs)
    rows = [
        _with_trial(row, trial)
        for row, trial in zip(surrogate.rows(runs.points), finished, strict=True)
    ]
    best = int(np.argmax([row.predicted for row in rows]))
    names = [trial.state.name.lower() for trial in trials]
    asked = propose_recipes(study, space, n_untried) if n_untried else []
    untried = [surrogate.rows(space.points(one.recipe), one.origin)[0] for one in asked]
    return SearchReport(
        study=study.study_name,
        states={name: names.count(name) for name in sorted(set(names))},
        rows=tuple(sorted(_fronted(rows), key=lambda row: -row.predicted)),
        untried=tuple(untried),
        surface=tuple(_surface(surrogate, runs.points.rows(np.array([best])))),
        noise_sd=surrogate.model.noise_sd_,
        cost=cost,
        gpu_hours=_total_hours(trials),
        stopped=_stopped(trials),
    )


def _total_hours(trials: Sequence[FrozenTrial]) -> float | None:
    """GPU-hours of all trials; None if nobody has said any."""
    spent = [t.user_attrs[GPU_HOURS] for t in current(trials) if GPU_HOURS in t.user_attrs]
    return float(sum(spent)) if spent else None


def _stopped(trials: Sequence[FrozenTrial]) -> tuple[dict[str, Any], ...]:
    """What is known of each stopped trial, the most promising first."""
    rows = []
    for trial in current(trials):
        attributes = trial.user_attrs
        if trial.state.name == "PRUNED" and STOPPED in attributes:
            foreseen, sd = attributes.get(FORESEEN, (None, None))
            rows.append(
                {
                    "trial": trial.number,
                    "recipe": attributes.get(RECIPE, {}),
                    "rungs": {str(k): v for k, v in sorted(trial.intermediate_values.items())},
                    "foreseen": foreseen,
                    "foreseen_sd": sd,
                    "gpu_hours": attributes.get(GPU_HOURS),
                    "reason": attributes[STOPPED],
                }
            )
    return tuple(sorted(rows, key=lambda row: -(row["foreseen"] or -math.inf)))


def _with_trial(row: RankedRecipe, trial: FrozenTrial) -> RankedRecipe:
    attributes = trial.user_attrs
    return replace(
        row,
        trial=trial.number,
        origin=str(attributes.get(ORIGIN, "unknown")),
        value=trial.values[0],
        se=(attributes.get(ERRORS) or [None])[0],
        is_predicted=is_predicted(trial),
        checkpoint=attributes.get(CHECKPOINT) or attributes.get(RUN),
        gpu_hours=attributes.get(GPU_HOURS),
        cost=trial.values[1] if len(trial.values) > 1 else None,
    )


def _fronted(rows: Sequence[RankedRecipe]) -> list[RankedRecipe]:
    """The rows, with their place on the front of predicted outcome and cost if there is a cost."""
    if any(row.predicted_cost is None for row in rows):
        return list(rows)
    gain = np.array([[row.predicted, -(row.predicted_cost or 0.0)] for row in rows])
    fronted = []
    for row, gains in zip(rows, gain, strict=True):
        is_beaten = (gain >= gains).all(axis=1) & (gain > gains).any(axis=1)
        fronted.append(replace(row, on_front=not is_beaten.any()))
    return fronted


class _Surrogate:
    """The models of finished runs, one an objective, and how far they reach."""

    def __init__(self, space: RecipeSpace, runs: Runs) -> None:
        some = runs.some(ProposerConfig().max_rows)
        self.space = space
        self.models = [
            MixtureModel(space.feature_groups).fit(
                space.features(some.points),
                some.outcomes[:, k],
                None if some.errors is None else some.errors[:, k],
            )
            for k in range(some.outcomes.shape[1])
        ]
        self.model = self.models[0]
        self.guard = Guard(space, runs.points)

    def predict(self, points: Points) -> tuple[FloatArray, FloatArray, list[str], Sequence[str]]:
        """Mean, standard deviation, domain and reason of each of n recipes."""
        mean, sd = self.model.predict(self.space.features(points), return_std=True)
        domain, reasons = self.guard.judge(points)
        return mean, sd, [str(one) for one in domain], reasons

    def rows(self, points: Points, origin: str = "") -> list[RankedRecipe]:
        """Each of n recipes with what is predicted of it."""
        mean, sd, domain, reasons = self.predict(points)
        tokens = self.space.tokens(points)
        cost = cost_sd = None
        if len(self.models) > 1:
            # The models see costs turned, so that more is better.
            cost, cost_sd = self.models[1].predict(self.space.features(points), return_std=True)
        return [
            RankedRecipe(
                trial=None,
                origin=origin,
                recipe=self.space.recipe(points, i),
                value=None,
                se=None,
                predicted=float(mean[i]),
                sd=float(sd[i]),
                low=float(mean[i] - Z * sd[i]),
                high=float(mean[i] + Z * sd[i]),
                domain=domain[i],
                reason=reasons[i],
                tokens=None if tokens is None else float(tokens[i]),
                predicted_cost=None if cost is None else -float(cost[i]),
                cost_sd=None if cost_sd is None else float(cost_sd[i]),
            )
            for i in range(len(points))
        ]


def _surface(surrogate: _Surrogate, best: Points) -> list[SurfacePoint]:
    space = surrogate.space
    surface: list[SurfacePoint] = []
    for i, source in enumerate(space.sources):
        mixtures = _through(space, best.weights[0], i)
        points = Points(weights=mixtures, axes=np.tile(best.axes, (len(mixtures), 1)))
        points = points.rows(space.keeps_limits(points))
        if not len(points):
            continue
        mean, sd, domain, _ = surrogate.predict(points)
        surface += [
            SurfacePoint(
                source=source.name,
                weight=float(points.weights[k, i]),
                predicted=float(mean[k]),
                low=float(mean[k] - Z * sd[k]),
                high=float(mean[k] + Z * sd[k]),
                domain=domain[k],
            )
            for k in range(len(points))
        ]
    return surface


def _through(space: RecipeSpace, best: FloatArray, i: int) -> FloatArray:
    """(n, sources) mixtures over the range of weight i, the rest near the best's proportions."""
    floors, caps = space.simplex.floors.copy(), space.simplex.caps.copy()
    others = np.arange(len(best)) != i
    low = max(floors[i], 1.0 - caps[others].sum())
    high = min(caps[i], 1.0 - floors[others].sum())
    mixtures = []
    for weight in np.linspace(low, high, _GRID):
        floors[i] = caps[i] = weight
        mixtures.append(fill((best - floors)[None, :], floors, caps)[0])
    return np.array(mixtures)
