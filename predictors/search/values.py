"""Values from public outcomes in a study: all of them come from one fit, and move with it.

Before there is a predictor, the value of a trial without an outcome is what `rlready rank` orders
by (`predictors/public`). It changes with every checkpoint and outcome of the registry, and a
finished trial of Optuna never changes. So an attribute of the study holds these values, which is
written anew as a whole. Without an outcome they are standings, which stand in no fit with outcomes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.trials import CHECKPOINT, ERRORS, PUBLIC, RUN, KnownRun, current

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_VALUES = "rlready:public_values"
"""Attribute of the study: the present values, as `write_public_values` writes them."""


def write_public_values(study: Study, runs: Sequence[KnownRun]) -> None:
    """Replace all values from public outcomes in a study by those of these runs, from one fit."""
    table = {
        "values": {run.name: [run.values[0], run.errors and run.errors[0]] for run in runs},
        "basis": runs[0].public if runs else "",
        "is_standing": any(run.is_standing for run in runs),
    }
    if runs or has_public_values(study):
        study.set_user_attr(_VALUES, table)


def finished_trials(study: Study, space: RecipeSpace) -> list[FrozenTrial]:
    """Return the finished trials that may stand in one fit and have all parameters of the space."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in comparable(study, current(trials)) if space.covers(t.params)]


def has_public_values(study: Study) -> bool:
    """Return whether values from public outcomes were ever written to the study."""
    return _VALUES in study.user_attrs


def has_standings(study: Study, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether the values of these trials, from `comparable`, are standings."""
    is_standing = study.user_attrs.get(_VALUES, {}).get("is_standing", False)
    return bool(is_standing) and any(PUBLIC in trial.user_attrs for trial in trials)


def comparable(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that may stand in one fit, each with its present value.

    Left out are values from public outcomes that the last fit did not give anew, and all standings
    as soon as one of the trials has an outcome. The study is not changed.
    """
    table = study.user_attrs.get(_VALUES) or {"values": {}}
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    has_outcome = any(PUBLIC not in trial.user_attrs for trial in finished)
    values = {} if has_outcome and table.get("is_standing") else table["values"]
    kept: list[FrozenTrial] = []
    for trial in trials:
        if trial.state.name != "COMPLETE" or PUBLIC not in trial.user_attrs:
            kept.append(trial)
        elif found := values.get(trial.user_attrs.get(CHECKPOINT) or trial.user_attrs[RUN]):
            kept.append(_revalued(trial, found, table["basis"]))
    return kept


def _revalued(trial: FrozenTrial, found: Sequence[float | None], basis: str) -> FrozenTrial:
    """Return a copy of a trial with another value."""
    revalued, (value, sd) = copy.copy(trial), found
    revalued.values = [value, *trial.values[1:]]
    others = (trial.user_attrs.get(ERRORS) or [])[1:]
    news: dict[str, Any] = {PUBLIC: basis, ERRORS: [sd, *others]}
    revalued.user_attrs = {**trial.user_attrs, **news}
    # The gain from a rung to a standing would mix units.
    revalued.intermediate_values = {}
    return revalued


def public_notes(study: Study) -> list[str]:
    """Return what a reader must know about the values from public outcomes of a study."""
    trials = current(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    used = [trial for trial in comparable(study, trials) if PUBLIC in trial.user_attrs]
    n_left_out = sum(PUBLIC in trial.user_attrs for trial in trials) - len(used)
    notes = []
    if used:
        notes.append(f"{len(used)} values are {used[0].user_attrs[PUBLIC]}")
    if n_left_out:
        notes.append(
            f"{n_left_out} values from public outcomes are left out: they have no common unit with "
            "the others, or cannot be given anew. RL outcomes in the registry give the unit: "
            "rlready outcome"
        )
    return notes
