"""The trials of a recipe search as Optuna stores them: attribute keys, and which trials count.

Besides parameters, values and state, a trial is described by its attributes alone; all their keys
are defined here. A finished trial never changes: a value that becomes known later enters as a
trial of its own, which names the old one (`superseded`). The registry's runs enter as finished
trials (`add_known_runs`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState, create_trial

from rlready.predictors.search.proposer import Runs, representative
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# The recipe, and what the sampler said about it.
RECIPE = "rlready:recipe"
ORIGIN = "rlready:origin"
DOMAIN = "rlready:domain"
DOMAIN_REASON = "rlready:domain_reason"
PREDICTED = "rlready:predicted"
"""[mean, standard deviation] of each objective."""
EXPLORES = "rlready:explores"
"""Set if the uncertainty of the prediction counted in favour of the recipe."""

# The worker that trains it.
WORKER = "rlready:worker"
LEASE = "rlready:lease"

# Its result.
ERRORS = "rlready:errors"
"""Standard errors of the values."""
IS_PREDICTED = "rlready:is_predicted"
"""Whether the value is a prediction, not an outcome."""
PUBLIC = "rlready:public"
"""How the value followed from public outcomes when it was told, in words; see `values`."""
CHECKPOINT = "rlready:checkpoint"
GPU_HOURS = "rlready:gpu_hours"
FAILED = "rlready:failed"
STOPPED = "rlready:stopped"
"""Why the pruner stopped the trial."""
FORESEEN = "rlready:foreseen"
"""Of a stopped trial: [mean, standard deviation] of the outcome that it would have had."""

# Its relation to the registry and to other trials.
RUN = "rlready:run"
"""Id of the checkpoint in the registry that is this trial."""
SUPERSEDES = "rlready:supersedes"
"""Number of the trial that this one replaces: its prediction became an outcome."""
LATE = "rlready:late"
"""`rlready:late:<number>` of the failed or stopped trial whose value came later."""
CONTINUES = "rlready:continues"
"""Number of the stopped trial that this one continued, in studies of earlier versions."""

# Attributes of the study.
SPACE = "rlready:space"
SPACE_FILE = "rlready:space_file"
"""Path of the space file with which the study was opened last."""
SOURCE_FILES = "rlready:source_files"
"""SHA-256 of the file of each source, by its name."""
UID = "rlready:uid"
"""An id of the study that stays unique if a study of the same name is created elsewhere."""
MIRRORED = "rlready:mirrored"
"""The registries that show the study in MLflow."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The claim of a worker on a trial.

    Args:
        worker: name of the worker; empty if it was killed before it wrote the lease.
        deadline: time in seconds since 1970 after which the trial is offered again.
        retries: how often the trial was offered again.
    """

    worker: str
    deadline: float
    retries: int = 0


def was_asked(trial: FrozenTrial) -> bool:
    """Return whether a trial was given out for training: not from the registry, not queued."""
    if RUN in trial.user_attrs or trial.state.name == "WAITING":
        return False
    return trial.state.name != "PRUNED" or STOPPED in trial.user_attrs


def is_predicted(trial: FrozenTrial) -> bool:
    """Return whether a trial's value is a prediction, not an outcome."""
    return bool(trial.user_attrs.get(IS_PREDICTED))


def superseded(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return the replaced trials, each with the number of the trial that has its value now.

    The surrogate and all reports leave replaced trials out; Optuna's own samplers see both.
    """
    replaced = {}
    for trial in trials:
        if not trial.values or trial.state.name != "COMPLETE":
            continue
        attributes = trial.user_attrs
        for number in (attributes.get(SUPERSEDES), attributes.get(CONTINUES)):
            if number is not None:
                replaced[int(number)] = trial.number
        if LATE in attributes:
            replaced[int(attributes[LATE].rpartition(":")[2])] = trial.number
    return replaced


def current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that no other trial has replaced."""
    replaced = superseded(trials)
    return [trial for trial in trials if trial.number not in replaced]


def supersede(
    study: Study, old: FrozenTrial, values: Sequence[float], attributes: Mapping[str, Any]
) -> None:
    """Add a finished trial with the recipe of an old one, which it replaces.

    Args:
        study: the study of both trials.
        old: the trial that is replaced.
        values: the first objectives; the others are those of the old trial.
        attributes: new attributes; origin and recipe stay those of the old trial.
    """
    dropped, unchanged = (IS_PREDICTED, PUBLIC, ERRORS), (ORIGIN, RECIPE)
    inherited = {key: value for key, value in old.user_attrs.items() if key not in dropped}
    news = {key: value for key, value in attributes.items() if key not in unchanged}
    study.add_trial(
        create_trial(
            values=[*values, *old.values[len(values) :]],
            params=old.params,
            distributions=old.distributions,
            user_attrs={**inherited, **news, SUPERSEDES: old.number},
            constraints=old.constraints,
        )
    )


def enter_late(
    study: Study, number: int, values: Sequence[float], attributes: Mapping[str, Any]
) -> float | None:
    """Enter the value of a trial that has already ended, for example failed or stopped.

    Returns:
        The value that the study already had; None if the new value was entered.

    Raises:
        ConfigError: if the study has another value for the trial, which is not a prediction.
    """
    trials = study.get_trials(deepcopy=False)
    replaced, last = superseded(trials), number
    while last in replaced:
        last = replaced[last]
    trial = trials[last]
    if trial.state != TrialState.COMPLETE:
        study.add_trial(
            create_trial(
                values=values,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**trial.user_attrs, **attributes, LATE: f"{LATE}:{last}"},
                constraints=trial.constraints,
                intermediate_values=trial.intermediate_values,
            )
        )
        return None
    stored = float(trial.values[0])
    is_same_checkpoint = trial.user_attrs.get(CHECKPOINT) == attributes.get(CHECKPOINT)
    # A prediction changes a little whenever the registry grows.
    is_same_prediction = is_same_checkpoint and bool(attributes.get(IS_PREDICTED))
    is_public = PUBLIC in trial.user_attrs
    if is_public and PUBLIC not in attributes:
        pass  # a predictor replaces public outcomes, as an outcome does
    elif is_same_prediction or math.isclose(stored, values[0], rel_tol=1e-9):
        return values[0] if is_public else stored
    elif not is_predicted(trial) or attributes.get(IS_PREDICTED):
        raise ConfigError(
            f"trial {number} was told {stored:.6g} before, now {values[0]:.6g}",
            fix="A trial has one value; record a second measurement in the registry",
        )
    supersede(study, trial, values, attributes)
    return None


def senses(study: Study) -> FloatArray:
    """Return (objectives,) signs: 1 where higher is better, -1 where lower is better."""
    return np.array([1.0 if d.name == "MAXIMIZE" else -1.0 for d in study.directions])


def runs_of(
    space: RecipeSpace,
    trials: Sequence[FrozenTrial],
    sense: FloatArray,
    at_most: int | None = None,
) -> Runs:
    """Return finished trials as runs, with the sign of outcomes such that higher is better.

    Args:
        space: the study's recipes.
        trials: finished trials.
        sense: (objectives,) signs of `senses`.
        at_most: if there are more trials, `representative` ones are taken. They are chosen by
            outcome before any parameters are read, because reading 10,000 recipes is slow.
    """
    outcomes = np.array([trial.values for trial in trials], dtype=np.float64)
    outcomes = outcomes.reshape(len(trials), len(sense)) * sense
    rows = representative(outcomes, at_most or len(trials))
    chosen = [trials[row] for row in rows]
    errors = np.array([_errors(trial.user_attrs, len(sense)) for trial in chosen])
    return Runs(
        points=space.from_parameters([trial.params for trial in chosen]),
        outcomes=outcomes[rows],
        errors=errors.reshape(len(chosen), len(sense)),
    )


def trials_by_checkpoint(study: Study) -> dict[str, FrozenTrial]:
    """Return the finished trials of registered checkpoints, by the checkpoint's id."""
    trials = current(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    ids = [(trial.user_attrs.get(key), trial) for trial in trials for key in (RUN, CHECKPOINT)]
    return {id_: trial for id_, trial in ids if id_ is not None}


def _errors(attributes: Mapping[str, Any], n: int) -> list[float]:
    stored = [np.nan if error is None else float(error) for error in attributes.get(ERRORS) or ()]
    return [*stored, *[np.nan] * (n - len(stored))]


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A recipe of the registry whose outcome is recorded or predicted.

    Args:
        name: id of the checkpoint; each id enters a study once.
        recipe: how the checkpoint was made.
        values: its objectives, in the order and sense of the study.
        errors: their standard errors, if known.
        is_predicted: whether the outcome is a prediction, because RL was not run.
        public: how the prediction follows from public outcomes, in words; empty if it does not.
        is_standing: whether the outcome is a standing in a group, in standard deviations.
        fault: why the run cannot enter; empty if nothing is wrong.
    """

    name: str
    recipe: Recipe
    values: tuple[float, ...]
    errors: tuple[float, ...] | None = None
    is_predicted: bool = False
    public: str = ""
    is_standing: bool = False
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """How the registry's runs entered a study.

    Args:
        n_added: number of runs that became trials now.
        n_known: number of runs that were trials before.
        left_out: (name, reason) of the runs that did not enter.
        n_predicted: how many of the added runs have a predicted outcome.
        n_superseded: how many of the added runs replaced their prediction.
    """

    n_added: int
    n_known: int
    left_out: tuple[tuple[str, str], ...]
    n_predicted: int = 0
    n_superseded: int = 0


def add_known_runs(study: Study, space: RecipeSpace, runs: Sequence[KnownRun]) -> WarmStart:
    """Make a finished trial of every run that is in the space.

    A run that is already a trial (by name) is not added again, unless the trial holds a prediction
    and the run an outcome, or the trial a value from public outcomes and the run a predictor's:
    then the run replaces it. A recipe that breaks a limit
    enters with its constraint, because its outcome is still true.
    """
    trials = trials_by_checkpoint(study)
    added: list[KnownRun] = []
    n_known, n_superseded, left_out = 0, 0, []
    for run in runs:
        trial = trials.get(run.name)
        if trial is not None and not _replaces(run, trial):
            n_known += 1
            continue
        if trial is not None:
            supersede(study, trial, run.values[:1], _attributes(run))
            n_superseded += 1
        elif reason := _add(study, space, run):
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


def _replaces(run: KnownRun, trial: FrozenTrial) -> bool:
    if run.is_predicted:
        return PUBLIC in trial.user_attrs and not run.public
    return is_predicted(trial)


def _add(study: Study, space: RecipeSpace, run: KnownRun) -> str:
    """Add a run as a finished trial, or return why it cannot enter."""
    n_objectives = len(study.directions)
    if run.fault:
        return run.fault
    if len(run.values) != n_objectives:
        return f"it has {len(run.values)} values for {n_objectives} objectives"
    if not np.isfinite(run.values).all():
        return f"its values are {run.values}"
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
            constraints={k: float(values[0]) for k, values in space.limits(points).items()},
        )
    )
    return ""


def _attributes(run: KnownRun) -> dict[str, Any]:
    attributes: dict[str, Any] = {RUN: run.name, ORIGIN: "registry", RECIPE: run.recipe.to_dict()}
    if run.is_predicted:
        attributes[IS_PREDICTED] = True
    if run.public:
        attributes[PUBLIC] = run.public
    if run.errors is not None:
        attributes[ERRORS] = list(run.errors)
    return attributes
