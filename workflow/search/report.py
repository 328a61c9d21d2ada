"""The report of a search: recipes ranked by predicted outcome, and the response surface.

The surrogate is fitted on all finished trials, including the runs of the registry. The value of a
trial is a single noisy run, so recipes are ranked by their prediction, which runs of similar
recipes make more stable. The surface starts from the best recipe and moves the weight of one source
through its range; the other weights keep their proportions as far as floors and caps allow. If a
cost is the second objective, both are predicted, and the recipes that no other one beats in both
are the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search.candidates import Guard
from rlready.predictors.search.outlook import Outlook, study_outlook
from rlready.predictors.search.proposer import ProposerConfig, Runs, fit_models
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Points, fill
from rlready.predictors.search.study import propose_recipes
from rlready.predictors.search.trials import (
    CHECKPOINT,
    ERRORS,
    FORESEEN,
    GPU_HOURS,
    ORIGIN,
    PUBLIC,
    RECIPE,
    RUN,
    STOPPED,
    current,
    is_predicted,
    runs_of,
    senses,
)
from rlready.predictors.search.values import finished_trials, public_notes
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Z = 1.6449
"""Bands are +-Z standard deviations: 90 % of a normal distribution."""

_GRID = 25
_N_UNTRIED = 3


@dataclass(frozen=True, kw_only=True)
class RankedRecipe:
    """A recipe with its measured and predicted outcome.

    Args:
        trial: number of its trial; None if it was not tried.
        origin: what proposed it.
        recipe: the recipe.
        value: value that the study was told.
        se: standard error of the value.
        predicted: outcome that the surrogate predicts, without the noise of a run.
        sd: standard deviation of the prediction.
        low: lower end of the 90 % interval of the prediction.
        high: upper end of the interval.
        domain: "in", "edge" or "out" of the region of the finished runs.
        reason: why it is not in the domain.
        tokens: number of tokens to train on, if the space fixes it.
        is_predicted: whether `value` is a prediction and not an outcome.
        basis: "outcome" or "prediction", or how `value` follows from public outcomes.
        checkpoint: registered id of the trained checkpoint.
        gpu_hours: GPU-hours of the trial, if the trainer reported them.
        cost: cost that the study was told, if the search has a cost.
        predicted_cost: cost that the surrogate predicts.
        cost_sd: standard deviation of the predicted cost.
        on_front: whether no other recipe is predicted to be both better and cheaper.
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
    basis: str = ""
    checkpoint: str | None = None
    gpu_hours: float | None = None
    cost: float | None = None
    predicted_cost: float | None = None
    cost_sd: float | None = None
    on_front: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}


@dataclass(frozen=True, kw_only=True)
class SurfacePoint:
    """Predicted outcome at one weight of a source.

    Args:
        source: name of the source.
        weight: weight of the source.
        predicted: outcome that the surrogate predicts.
        low: lower end of the 90 % band.
        high: upper end of the band.
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
    """Results of a search.

    Args:
        study: name of the study.
        states: number of trials by state.
        rows: finished recipes, the best prediction first.
        untried: recipes that the surrogate would try next.
        surface: predicted outcome against the weight of every source.
        noise_sd: standard deviation of one run around the outcome of its recipe, as fitted.
        cost: name of the second objective; None: there is one objective.
        gpu_hours: GPU-hours of all trials; None if no trainer reported any.
        stopped: trials that the pruner stopped, the most promising first.
        outlook: what the next recipe can win; None if the model has too few finished trials, with a
            cost, or if the values are standings.
        notes: what a reader must know about values from public outcomes.
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
    outlook: Outlook | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, the format of `rlready search report --json`."""
        return {
            "study": self.study,
            "states": self.states,
            "noise_sd": self.noise_sd,
            "cost": self.cost,
            "gpu_hours": self.gpu_hours,
            "outlook": None if self.outlook is None else self.outlook.to_dict(),
            "notes": list(self.notes),
            "ranking": [row.to_dict() for row in self.rows],
            "stopped": list(self.stopped),
            "untried": [row.to_dict() for row in self.untried],
            "surface": [asdict(point) for point in self.surface],
        }


def search_report(study: Study, space: RecipeSpace, *, cost: str | None = None) -> SearchReport:
    """Return the report of a study.

    Args:
        study: the study.
        space: its recipes.
        cost: name of the second objective, if there is one.

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
    untried = [
        surrogate.rows(space.points(asked.recipe), asked.origin)[0]
        for asked in propose_recipes(study, space, _N_UNTRIED)
    ]
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
        outlook=study_outlook(study, space, [untried[0].recipe]),
        notes=tuple(public_notes(study)),
    )


def _total_hours(trials: Sequence[FrozenTrial]) -> float | None:
    """Return the GPU-hours of all trials; None if no trainer reported any."""
    spent = [t.user_attrs[GPU_HOURS] for t in current(trials) if GPU_HOURS in t.user_attrs]
    return float(sum(spent)) if spent else None


def _stopped(trials: Sequence[FrozenTrial]) -> tuple[dict[str, Any], ...]:
    """Return the facts of each stopped trial, the most promising first."""
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
        basis=attributes.get(PUBLIC) or ("prediction" if is_predicted(trial) else "outcome"),
        checkpoint=attributes.get(CHECKPOINT) or attributes.get(RUN),
        gpu_hours=attributes.get(GPU_HOURS),
        cost=trial.values[1] if len(trial.values) > 1 else None,
    )


def _fronted(rows: Sequence[RankedRecipe]) -> list[RankedRecipe]:
    """Mark the rows on the front of predicted outcome and cost, if there is a cost."""
    if any(row.predicted_cost is None for row in rows):
        return list(rows)
    gain = np.array([[row.predicted, -(row.predicted_cost or 0.0)] for row in rows])
    fronted = []
    for row, gains in zip(rows, gain, strict=True):
        is_beaten = (gain >= gains).all(axis=1) & (gain > gains).any(axis=1)
        fronted.append(replace(row, on_front=not is_beaten.any()))
    return fronted


class _Surrogate:
    """Models of the finished runs, one per objective, and the region where they are valid."""

    def __init__(self, space: RecipeSpace, runs: Runs) -> None:
        self.space = space
        self.models = fit_models(space, runs.some(ProposerConfig().max_rows))
        self.model = self.models[0]
        self.guard = Guard(space, runs.points)

    def predict(self, points: Points) -> tuple[FloatArray, FloatArray, list[str], Sequence[str]]:
        """Return (n,) means and standard deviations, and the domain and reason of each recipe."""
        mean, sd = self.model.predict(self.space.features(points), return_std=True)
        domain, reasons = self.guard.judge(points)
        return mean, sd, [str(each) for each in domain], reasons

    def rows(self, points: Points, origin: str = "") -> list[RankedRecipe]:
        """Return each of the points as a row with its predictions."""
        mean, sd, domain, reasons = self.predict(points)
        tokens = self.space.tokens(points)
        cost = cost_sd = None
        if len(self.models) > 1:
            # The models are fitted on negative costs, so that higher is better.
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
    """Return (n, sources) mixtures that move weight i through its range, from the best one."""
    floors, caps = space.simplex.floors.copy(), space.simplex.caps.copy()
    others = np.arange(len(best)) != i
    low = max(floors[i], 1.0 - caps[others].sum())
    high = min(caps[i], 1.0 - floors[others].sum())
    mixtures = []
    for weight in np.linspace(low, high, _GRID):
        floors[i] = caps[i] = weight
        mixtures.append(fill((best - floors)[None, :], floors, caps)[0])
    return np.array(mixtures)
