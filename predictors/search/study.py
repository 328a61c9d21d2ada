"""Recipe search as an Optuna study: samplers, warm start, asking.

The study is an ordinary one: any sampler of Optuna can take part, several workers share it through
its storage, and optuna-dashboard opens it. A trial's parameters are those of one recipe
(`RecipeSpace.parameters`), limits are its constraints, and everything else about the recipe is in
its attributes (`trials`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from rlready.predictors.search.proposer import ProposerConfig, Runs, propose
from rlready.predictors.search.simplex import Parametrisation
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Points
from rlready.predictors.search.trials import (
    DOMAIN,
    DOMAIN_REASON,
    ERRORS,
    IS_PREDICTED,
    ORIGIN,
    PREDICTED,
    RECIPE,
    RUN,
    SPACE,
    finished_trials,
    is_predicted,
    runs_of,
    senses,
    supersede,
    trials_by_checkpoint,
)
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study

SamplerName = Literal["surrogate", "gp", "tpe", "random"]

SIMPLEX_OF: Mapping[str, Parametrisation] = {
    "surrogate": "stick",
    "gp": "stick",
    "tpe": "softmax",
    "random": "stick",
}
"""Coordinates of the mixture that suit each sampler (`bench/simplex.py`)."""

# A sampler that does not know of limits may miss them for ever; then a recipe is drawn for it.
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A recipe of the registry whose outcome is known, or predicted.

    Args:
        name: the checkpoint's id; each id enters a study once.
        recipe: how it was made.
        values: its objectives, in the study's order and sense.
        errors: their standard errors, if known.
        is_predicted: whether RL was not run from it.
        fault: why it cannot enter, where that is known.
    """

    name: str
    recipe: Recipe
    values: tuple[float, ...]
    errors: tuple[float, ...] | None = None
    is_predicted: bool = False
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What became of the registry's rows.

    Args:
        n_added: rows that became trials now.
        n_known: rows that were trials before.
        left_out: (name, reason) of the rows that did not enter.
        n_predicted: of those added, how many entered with a predicted outcome.
        n_superseded: of those added, how many replaced their prediction.
    """

    n_added: int
    n_known: int
    left_out: tuple[tuple[str, str], ...]
    n_predicted: int = 0
    n_superseded: int = 0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A recipe to train.

    Args:
        number: of its trial; `study.tell` takes it.
        recipe: what to train.
        origin: "stratified", "best", "surrogate", "gp", "tpe" or "random".
        domain: "in", "edge" or "out" of the region of the finished runs; None if not judged.
        reason: why it is not in the domain.
        predicted: (mean, sd) of each objective; None without a model.
    """

    number: int
    recipe: Recipe
    origin: str
    domain: str | None = None
    reason: str = ""
    predicted: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def of(cls, number: int, attributes: Mapping[str, Any]) -> Asked:
        """The recipe of a trial, with everything that its attributes say about it."""
        predicted = attributes.get(PREDICTED)
        return cls(
            number=number,
            recipe=Recipe.from_dict(attributes[RECIPE]),
            origin=attributes.get(ORIGIN, "again"),
            domain=attributes.get(DOMAIN),
            reason=attributes.get(DOMAIN_REASON, ""),
            predicted=None if predicted is None else tuple((m, s) for m, s in predicted),
        )


def space_for(space: RecipeSpace, sampler: SamplerName) -> RecipeSpace:
    """The space in the coordinates that it names itself, or else in those that suit the sampler."""
    _check_sampler(sampler)
    return space if space.simplex_kind else space.with_simplex(SIMPLEX_OF[sampler])


def make_sampler(
    name: SamplerName,
    space: RecipeSpace,
    *,
    seed: int = 0,
    config: ProposerConfig | None = None,
) -> BaseSampler:
    """A sampler of Optuna for the space (`space_for` it).

    Raises:
        ConfigError: if there is no such sampler, or it lacks a library.
    """
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    from rlready.predictors.search.sampler import SurrogateSampler

    _check_sampler(name)
    if name == "surrogate":
        return SurrogateSampler(space, seed=seed, config=config)
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "random":
        return RandomSampler(seed=seed)
    try:
        import torch  # noqa: F401 -- Optuna's own message about it is a traceback
    except ImportError as error:
        raise ConfigError(
            "the sampler gp needs torch, which is not installed",
            fix="Install rlready[local], or take --sampler surrogate, which needs none",
        ) from error
    return GPSampler(seed=seed, warn_independent_sampling=False)


def open_study(
    space: RecipeSpace,
    *,
    name: str,
    sampler: SamplerName = "surrogate",
    storage: Any = None,
    seed: int = 0,
    directions: Sequence[Literal["maximize", "minimize"]] = ("maximize",),
    config: ProposerConfig | None = None,
) -> tuple[Study, RecipeSpace]:
    """A new study or the one of that name, with the space in its coordinates.

    A study keeps the coordinates that it was made with, whatever sampler joins later. The
    stratified mixture is its first trial.

    Raises:
        ConfigError: if the study was made for another space or other objectives.
    """
    import optuna

    space = space_for(space, sampler)
    study = optuna.create_study(
        study_name=name, storage=storage, directions=list(directions), load_if_exists=True
    )
    stored_directions = [direction.name.lower() for direction in study.directions]
    if stored_directions != list(directions):
        raise ConfigError(
            f"study {name!r} has the directions {stored_directions}, not {list(directions)}",
            fix="Give the study another name",
        )
    stored_space = study.user_attrs.get(SPACE)
    if stored_space is None:
        facts = {"digest": space.digest, "simplex": space.simplex.parametrisation}
        study.set_user_attr(SPACE, facts)
        enqueue(study, space, space.stratified(), origin="stratified")
    else:
        space = space.with_simplex(stored_space["simplex"])
        if space.digest != stored_space["digest"]:
            raise ConfigError(
                f"study {name!r} was made for another recipe space",
                why="its trials could not be compared with those of this one",
                fix="Give the study another name; the registry's runs enter it again",
            )
    study.sampler = make_sampler(sampler, space, seed=seed, config=config)
    return study, space


def enqueue(study: Study, space: RecipeSpace, points: Points, *, origin: str) -> None:
    """Let each of the points be asked next, unless it is a trial already."""
    for row in range(len(points)):
        study.enqueue_trial(
            space.parameters(points, row), user_attrs={ORIGIN: origin}, skip_if_exists=True
        )


def add_known_runs(study: Study, space: RecipeSpace, runs: Sequence[KnownRun]) -> WarmStart:
    """Make a finished trial of every run that is in the space.

    A run that is a trial already (by name) is not added again, unless that trial holds a prediction
    and the run an outcome: then the outcome replaces it. A recipe that breaks a limit enters with
    its constraint, because its outcome is still true.
    """
    trials = trials_by_checkpoint(study)
    added: list[KnownRun] = []
    n_known, n_superseded, left_out = 0, 0, []
    for run in runs:
        trial = trials.get(run.name)
        if trial is not None and (run.is_predicted or not is_predicted(trial)):
            n_known += 1
            continue
        if trial is not None:
            supersede(study, trial, run.values[:1], _attributes(run))
            n_superseded += 1
        else:
            reason = _fault(run, len(study.directions)) or _add(study, space, run)
            if reason:
                left_out.append((run.name, reason))
                continue
        trials.pop(run.name, None)
        added.append(run)
    return WarmStart(
        n_added=len(added),
        n_known=n_known,
        left_out=tuple(left_out),
        n_predicted=sum(run.is_predicted for run in added),
        n_superseded=n_superseded,
    )


def ask(study: Study, space: RecipeSpace) -> Asked:
    """The next recipe to train, which keeps all limits of the space.

    What a sampler proposes against a limit is closed as pruned with its constraint, so that the
    sampler learns of it, and asked for again; after 20 such proposals the recipe is drawn at
    random.

    Raises:
        ConfigError: if no recipe keeps the limits.
    """
    from optuna.trial import TrialState

    from rlready.predictors.search.sampler import SurrogateSampler

    sampler, distributions = study.sampler, space.distributions()
    for attempt in range(_TRIES + 1):
        if attempt == _TRIES:
            _enqueue_random(study, space)
        trial = study.ask(fixed_distributions=distributions)
        points = space.from_parameters([trial.params])
        limits = _constraints(space, points)
        for name, limit in limits.items():
            trial.set_constraint(name, limit)
        attributes = {RECIPE: space.recipe(points).to_dict()}
        if isinstance(sampler, SurrogateSampler):
            attributes |= sampler.notes.pop(trial.number, {})
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        if all(limit <= 0.0 for limit in limits.values()):
            origin = type(sampler).__name__.removesuffix("Sampler").lower()
            return Asked.of(trial.number, {ORIGIN: origin, **trial.user_attrs})
        study.tell(trial, state=TrialState.PRUNED)
    raise ConfigError("no recipe was found that keeps the limits of the space")


def finished_runs(study: Study, space: RecipeSpace) -> Runs:
    """All finished trials with their outcomes turned so that higher is better."""
    return runs_of(space, finished_trials(study, space), senses(study))


def propose_recipes(
    study: Study, space: RecipeSpace, n: int, *, seed: int = 0, config: ProposerConfig | None = None
) -> list[Asked]:
    """Recipes by the surrogate alone, without touching the study; their numbers are -1."""
    runs = finished_runs(study, space)
    proposals = propose(space, runs, n, np.random.default_rng(seed), config=config)
    mean = proposals.mean * senses(study)
    return [
        Asked(
            number=-1,
            recipe=space.recipe(proposals.points, row),
            origin="surrogate",
            domain=str(proposals.domain[row]),
            reason=proposals.reasons[row],
            predicted=tuple(
                (float(m), float(s)) for m, s in zip(mean[row], proposals.sd[row], strict=True)
            )
            if np.isfinite(mean[row]).all()
            else None,
        )
        for row in range(n)
    ]


def _enqueue_random(study: Study, space: RecipeSpace) -> None:
    nothing = Points(weights=np.empty((0, len(space.sources))), axes=np.empty((0, len(space.axes))))
    rng = np.random.default_rng(len(study.get_trials(deepcopy=False)))
    drawn = propose(space, Runs(points=nothing, outcomes=np.empty((0, 1))), 1, rng)
    study.enqueue_trial(space.parameters(drawn.points), user_attrs={ORIGIN: "random"})


def _constraints(space: RecipeSpace, points: Points) -> dict[str, float]:
    return {name: float(values[0]) for name, values in space.limits(points).items()}


def _add(study: Study, space: RecipeSpace, run: KnownRun) -> str:
    """Add a run as a finished trial; return why it is not in the space, if it is not."""
    from optuna.trial import create_trial

    try:
        points = space.points(run.recipe)
    except ConfigError as error:
        return error.what
    study.add_trial(
        create_trial(
            values=list(run.values),
            params=space.parameters(points),
            distributions=space.distributions(),
            user_attrs=_attributes(run),
            constraints=_constraints(space, points),
        )
    )
    return ""


def _fault(run: KnownRun, n_objectives: int) -> str:
    if run.fault:
        return run.fault
    if len(run.values) != n_objectives:
        return f"it has {len(run.values)} values for {n_objectives} objectives"
    return "" if np.isfinite(run.values).all() else f"its values are {run.values}"


def _attributes(run: KnownRun) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        RUN: run.name,
        ORIGIN: "registry",
        RECIPE: run.recipe.to_dict(),
    }
    if run.is_predicted:
        attributes[IS_PREDICTED] = True
    if run.errors is not None:
        attributes[ERRORS] = list(run.errors)
    return attributes


def _check_sampler(name: str) -> None:
    if name not in get_args(SamplerName):
        raise ConfigError(f"sampler {name!r} is unknown", fix=f"Known: {', '.join(SIMPLEX_OF)}")
