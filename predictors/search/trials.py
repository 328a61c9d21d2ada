"""The trials of a recipe search as Optuna stores them: attribute keys, and which trials count.

A trial's attributes are its only record besides parameters, values and state, so that every key
is defined here and nowhere else. A finished trial never changes: a value that becomes known later
enters as a trial of its own, which names the old one (`superseded`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search.proposer import Runs, representative
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# What was asked for.
RECIPE = "rlready:recipe"
ORIGIN = "rlready:origin"
DOMAIN = "rlready:domain"
DOMAIN_REASON = "rlready:domain_reason"
PREDICTED = "rlready:predicted"
"""[mean, standard deviation] of each objective."""

# Who works on it.
WORKER = "rlready:worker"
LEASE = "rlready:lease"

# What came of it.
ERRORS = "rlready:errors"
"""Standard errors of the values."""
IS_PREDICTED = "rlready:is_predicted"
"""Whether the value is a prediction, not an outcome."""
CHECKPOINT = "rlready:checkpoint"
GPU_HOURS = "rlready:gpu_hours"
FAILED = "rlready:failed"
STOPPED = "rlready:stopped"
"""Why the pruner stopped it."""
FORESEEN = "rlready:foreseen"
"""Of a stopped trial: the outcome that it would have had, and its standard deviation."""

# Where it came from.
RUN = "rlready:run"
"""Id of the checkpoint in the registry that is this trial."""
SUPERSEDES = "rlready:supersedes"
"""Number of the trial that this one replaces: its prediction became an outcome."""
LATE = "rlready:late"
"""`rlready:late:<number>` of the failed or stopped trial whose value came later."""
CONTINUES = "rlready:continues"
"""Number of the stopped trial that this one went on with, in studies of earlier versions."""

# Of the study.
SPACE = "rlready:space"
UID = "rlready:uid"
"""An id that no other study has, whatever its name."""
MIRRORED = "rlready:mirrored"
"""Registries that show the study."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Who holds a trial.

    Args:
        worker: its name; empty if the worker was killed before it could say.
        deadline: seconds since 1970; then the trial is offered again.
        retries: how often it was offered again.
    """

    worker: str
    deadline: float
    retries: int = 0


def was_asked(trial: FrozenTrial) -> bool:
    """Whether a trial was to be trained: not an outcome of the registry, nor still queued."""
    if RUN in trial.user_attrs or trial.state.name == "WAITING":
        return False
    return trial.state.name != "PRUNED" or STOPPED in trial.user_attrs


def is_predicted(trial: FrozenTrial) -> bool:
    """Whether a trial's value is a prediction, not an outcome."""
    return bool(trial.user_attrs.get(IS_PREDICTED))


def superseded(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The replaced trials, each with the number of the trial that has its value now.

    The surrogate and every report leave the replaced ones out; Optuna's own samplers see both.
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
    """The trials that no other trial has replaced."""
    replaced = superseded(trials)
    return [trial for trial in trials if trial.number not in replaced]


def supersede(
    study: Study, old: FrozenTrial, values: Sequence[float], attributes: Mapping[str, Any]
) -> None:
    """Add a finished trial with the recipe of an old one, which it replaces.

    Args:
        study: of both.
        old: the trial that is replaced.
        values: its first objectives; the others are those of the old one.
        attributes: what is new; origin and recipe stay those of the old trial.
    """
    from optuna.trial import create_trial

    dropped, unchanged = (IS_PREDICTED, ERRORS), (ORIGIN, RECIPE)
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
    """Enter the value of a trial that has ended before; a failed or stopped one counts again.

    Returns:
        The value that the study had already; None if it had none, and now has this one.

    Raises:
        ConfigError: if the study has another value of the trial, which is not a prediction.
    """
    from optuna.trial import TrialState, create_trial

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
    # A prediction changes a little when the registry has grown.
    is_same_prediction = is_same_checkpoint and bool(attributes.get(IS_PREDICTED))
    if is_same_prediction or math.isclose(stored, values[0], rel_tol=1e-9):
        return stored
    if not is_predicted(trial) or attributes.get(IS_PREDICTED):
        raise ConfigError(
            f"trial {number} was told {stored:.6g} before, now {values[0]:.6g}",
            fix="A trial has one value; record a second measurement in the registry",
        )
    supersede(study, trial, values, attributes)
    return None


def senses(study: Study) -> FloatArray:
    """(objectives,) 1 where more is better, -1 where less is."""
    return np.array([1.0 if d.name == "MAXIMIZE" else -1.0 for d in study.directions])


def runs_of(
    space: RecipeSpace,
    trials: Sequence[FrozenTrial],
    sense: FloatArray,
    at_most: int | None = None,
) -> Runs:
    """Finished trials as runs, with outcomes turned so that higher is better.

    Args:
        space: the study's recipes.
        trials: finished ones.
        sense: (objectives,) 1 or -1, see `senses`.
        at_most: of more trials, `representative` ones are taken. They are chosen by outcome before
            any parameters are read, because reading 10,000 recipes is slow.
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


def finished_trials(study: Study, space: RecipeSpace) -> list[FrozenTrial]:
    """The finished trials that no other has replaced and whose parameters are the space's."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in current(trials) if space.covers(trial.params)]


def trials_by_checkpoint(study: Study) -> dict[str, FrozenTrial]:
    """The finished trial of every registered checkpoint that is one, by the checkpoint's id."""
    from optuna.trial import TrialState

    trials = current(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    ids = [(trial.user_attrs.get(key), trial) for trial in trials for key in (RUN, CHECKPOINT)]
    return {id_: trial for id_, trial in ids if id_ is not None}


def _errors(attributes: Mapping[str, Any], n: int) -> list[float]:
    stored = [np.nan if error is None else float(error) for error in attributes.get(ERRORS) or ()]
    return [*stored, *[np.nan] * (n - len(stored))]
