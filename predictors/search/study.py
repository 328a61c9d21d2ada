"""Recipe search as an Optuna study: samplers, warm start, asking.

The study is an ordinary one: any sampler of Optuna can take part, several workers share it through
its storage, and optuna-dashboard opens it. Inside it a trial is the parameters of one recipe
(`RecipeSpace.parameters`), limits are its constraints, and what is known of the recipe stands in
its user attributes (`rlready:recipe`, `rlready:domain`, ...).
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
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

SamplerName = Literal["surrogate", "gp", "tpe", "random"]

SIMPLEX_OF: Mapping[str, Parametrisation] = {
    "surrogate": "stick",
    "gp": "stick",
    "tpe": "softmax",
    "random": "stick",
}
"""Coordinates of the mixture that suit each sampler (`bench/simplex.py`)."""

_SPACE = "rlready:space"
_PREFIX = "rlready:"
_RECIPE = "rlready:recipe"

IS_PREDICTED = "rlready:is_predicted"
"""Attribute of a finished trial: its value is what a predictor says."""

SUPERSEDES = "rlready:supersedes"
"""Attribute of a finished trial: number of the one whose place it has taken."""

# A sampler that does not know of limits may miss them for ever; then a recipe is drawn for it.
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A recipe of the registry whose outcome is known, or predicted.

    Args:
        name: the checkpoint's id; no two trials stand for one.
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
        n_added: rows that are trials now.
        n_known: rows that were trials before.
        left_out: (name, reason) of the rows that are none.
        n_predicted: of those added, how many entered with a predicted outcome.
        n_superseded: of those added, how many took the place of their prediction.
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
        domain: "in", "edge" or "out" of what finished runs tell about; None if not judged.
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
    def of(cls, number: int, recipe: Recipe, origin: str, kept: Mapping[str, Any]) -> Asked:
        """The recipe of a trial with what its attributes say of it."""
        predicted = kept.get(f"{_PREFIX}predicted")
        return cls(
            number=number,
            recipe=recipe,
            origin=origin,
            domain=kept.get(f"{_PREFIX}domain"),
            reason=kept.get(f"{_PREFIX}domain_reason", ""),
            predicted=None if predicted is None else tuple((m, s) for m, s in predicted),
        )


def space_for(space: RecipeSpace, sampler: SamplerName) -> RecipeSpace:
    """The space in the coordinates that it names itself, or else in those that suit the sampler."""
    return space if space.simplex_kind else space.with_simplex(SIMPLEX_OF[_known(sampler)])


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

    _known(name)
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

    _known(sampler)
    space = space_for(space, sampler)
    study = optuna.create_study(
        study_name=name, storage=storage, directions=list(directions), load_if_exists=True
    )
    wanted = [direction.upper() for direction in directions]
    if [direction.name for direction in study.directions] != wanted:
        raise ConfigError(
            f"study {name!r} has the directions {[d.name.lower() for d in study.directions]}, "
            f"not {list(directions)}",
            fix="Give the study another name",
        )
    kept = study.user_attrs.get(_SPACE)
    if kept is None:
        study.set_user_attr(
            _SPACE, {"digest": space.digest, "simplex": space.simplex.parametrisation}
        )
        enqueue(study, space, space.stratified(), origin="stratified")
    else:
        space = space.with_simplex(kept["simplex"])
        if space.digest != kept["digest"]:
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
            space.parameters(points, row),
            user_attrs={f"{_PREFIX}origin": origin},
            skip_if_exists=True,
        )


def add_known_runs(study: Study, space: RecipeSpace, runs: Sequence[KnownRun]) -> WarmStart:
    """Make a finished trial of every run that is in the space.

    A run that is a trial already (by name) is not added again, unless that trial holds a prediction
    and the run an outcome: then the outcome takes its place (`superseded`). A recipe that breaks a
    limit enters too, with its constraint: what it tells is true all the same.
    """
    before = trials_by_run(study)
    added: list[KnownRun] = []
    n_known, n_superseded, left_out = 0, 0, []
    for run in runs:
        old = before.get(run.name)
        if old is not None and (run.is_predicted or not is_predicted(old)):
            n_known += 1
            continue
        reason = "" if old is not None else _fault(run, len(study.directions))
        try:
            points = None if old is not None or reason else space.points(run.recipe)
        except ConfigError as error:
            reason = error.what
        if reason:
            left_out.append((run.name, reason))
            continue
        if old is not None:
            supersede(study, old, run.values[:1], _attributes(run))
            n_superseded += 1
        elif points is not None:
            _add(study, space, points, run)
        before.pop(run.name, None)
        added.append(run)
    return WarmStart(
        n_added=len(added),
        n_known=n_known,
        left_out=tuple(left_out),
        n_predicted=sum(run.is_predicted for run in added),
        n_superseded=n_superseded,
    )


def trials_by_run(study: Study) -> dict[str, FrozenTrial]:
    """The present trial of every checkpoint that is one, by its id."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, FrozenTrial] = {}
    for trial in current(trials):
        for key in ("run", "checkpoint"):
            name = trial.user_attrs.get(f"{_PREFIX}{key}")
            if name is not None:
                found[name] = trial
    return found


def is_predicted(trial: FrozenTrial) -> bool:
    """Whether a trial's value is what a predictor says, and no outcome."""
    return bool(trial.user_attrs.get(IS_PREDICTED))


def supersede(
    study: Study, old: FrozenTrial, values: Sequence[float], attributes: Mapping[str, Any]
) -> None:
    """Add a finished trial with the recipe of an old one that takes its place.

    Args:
        study: of both.
        old: what it takes the place of.
        values: its first objectives; the others are those of the old one.
        attributes: what is known anew.
    """
    from optuna.trial import create_trial

    dropped = (IS_PREDICTED, f"{_PREFIX}errors")
    kept = {key: value for key, value in old.user_attrs.items() if key not in dropped}
    # The origin stays: who proposed the recipe has not changed.
    given = {k: v for k, v in attributes.items() if k not in (f"{_PREFIX}origin", _RECIPE)}
    study.add_trial(
        create_trial(
            values=[*values, *old.values[len(values) :]],
            params=old.params,
            distributions=old.distributions,
            user_attrs={**kept, **given, SUPERSEDES: old.number},
            constraints=old.constraints,
        )
    )


def ask(study: Study, space: RecipeSpace) -> Asked:
    """The next recipe to train, which keeps all limits of the space.

    What a sampler proposes against a limit is closed as pruned with its constraint, so that the
    sampler learns of it, and asked for again; after 20 such the recipe is drawn at random.

    Raises:
        ConfigError: if no recipe keeps the limits.
    """
    from optuna.trial import TrialState

    distributions = space.distributions()
    for attempt in range(_TRIES + 1):
        if attempt == _TRIES:
            _enqueue_random(study, space)
        trial = study.ask(fixed_distributions=distributions)
        points = space.from_parameters([trial.params])
        limits = _constraints(space, points)
        for name, value in limits.items():
            trial.set_constraint(name, value)
        recipe = space.recipe(points)
        trial.set_user_attr(_RECIPE, recipe.to_dict())
        if all(value <= 0.0 for value in limits.values()):
            return _asked(study, trial, recipe)
        study.tell(trial, state=TrialState.PRUNED)
    raise ConfigError("no recipe was found that keeps the limits of the space")


def finished_runs(study: Study, space: RecipeSpace) -> Runs:
    """All finished trials with their outcomes turned so that higher is better."""
    from optuna.trial import TrialState

    from rlready.predictors.search.sampler import runs_of

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    mine = [trial for trial in current(trials) if space.covers(trial.params)]
    return runs_of(space, mine, senses(study))


def superseded(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Which trial has taken the place of which: a prediction's, when its outcome became known.

    Optuna keeps what a trial was told for ever, so the true value enters as a trial of its own.
    The surrogate and every report leave the old one out; Optuna's own samplers see both.
    """
    told = [trial for trial in trials if trial.values]
    found = {trial.user_attrs.get(SUPERSEDES): trial.number for trial in told}
    return {old: new for old, new in found.items() if old is not None}


def current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that no other has taken the place of."""
    replaced = superseded(trials)
    return [trial for trial in trials if trial.number not in replaced]


def senses(study: Study) -> FloatArray:
    """(objectives,) 1 where more is better, -1 where less is."""
    return np.array([1.0 if d.name == "MAXIMIZE" else -1.0 for d in study.directions])


def propose_recipes(
    study: Study, space: RecipeSpace, n: int, *, seed: int = 0, config: ProposerConfig | None = None
) -> list[Asked]:
    """Recipes by the surrogate alone, without touching the study; their numbers are -1."""
    found = propose(
        space, finished_runs(study, space), n, np.random.default_rng(seed), config=config
    )
    turned = found.mean * senses(study)
    return [
        Asked(
            number=-1,
            recipe=space.recipe(found.points, row),
            origin="surrogate",
            domain=str(found.domain[row]),
            reason=found.reasons[row],
            predicted=_predicted(turned[row], found.sd[row]),
        )
        for row in range(n)
    ]


def _asked(study: Study, trial: Trial, recipe: Recipe) -> Asked:
    # The sampler wrote its attributes past the trial's own copy.
    kept = study._storage.get_trial(trial._trial_id).user_attrs
    origin = kept.get(f"{_PREFIX}origin") or type(study.sampler).__name__
    return Asked.of(trial.number, recipe, str(origin).removesuffix("Sampler").lower(), kept)


def _predicted(mean: FloatArray, sd: FloatArray) -> tuple[tuple[float, float], ...] | None:
    if not np.isfinite(mean).all():
        return None
    return tuple((float(m), float(s)) for m, s in zip(mean, sd, strict=True))


def _enqueue_random(study: Study, space: RecipeSpace) -> None:
    nothing = Points(weights=np.empty((0, len(space.sources))), axes=np.empty((0, len(space.axes))))
    rng = np.random.default_rng(len(study.get_trials(deepcopy=False)))
    drawn = propose(space, Runs(points=nothing, outcomes=np.empty((0, 1))), 1, rng)
    study.enqueue_trial(space.parameters(drawn.points), user_attrs={f"{_PREFIX}origin": "random"})


def _constraints(space: RecipeSpace, points: Points) -> dict[str, float]:
    return {name: float(values[0]) for name, values in space.limits(points).items()}


def _add(study: Study, space: RecipeSpace, points: Points, run: KnownRun) -> None:
    from optuna.trial import create_trial

    study.add_trial(
        create_trial(
            values=list(run.values),
            params=space.parameters(points),
            distributions=space.distributions(),
            user_attrs=_attributes(run),
            constraints=_constraints(space, points),
        )
    )


def _fault(run: KnownRun, n_objectives: int) -> str:
    if run.fault:
        return run.fault
    if len(run.values) != n_objectives:
        return f"it has {len(run.values)} values for {n_objectives} objectives"
    return "" if np.isfinite(run.values).all() else f"its values are {run.values}"


def _attributes(run: KnownRun) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        f"{_PREFIX}run": run.name,
        f"{_PREFIX}origin": "registry",
        _RECIPE: run.recipe.to_dict(),
    }
    if run.is_predicted:
        attributes[IS_PREDICTED] = True
    if run.errors is not None:
        attributes[f"{_PREFIX}errors"] = list(run.errors)
    return attributes


def _known(name: str) -> SamplerName:
    for known in get_args(SamplerName):
        if name == known:
            found: SamplerName = known
            return found
    raise ConfigError(f"sampler {name!r} is unknown", fix=f"Known: {', '.join(SIMPLEX_OF)}")
