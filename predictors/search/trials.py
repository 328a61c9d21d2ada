"""The trials of a recipe search as Optuna stores them: attribute keys, and which trials count.

A trial's attributes are its only record besides parameters, values and state, so that every key
is defined here and nowhere else. A finished trial never changes: a value that becomes known later
enters as a trial of its own, which names the old one (`superseded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search.proposer import Runs, representative
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.training_table import FloatArray

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
