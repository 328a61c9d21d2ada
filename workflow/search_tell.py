"""What a trial gave: the study is told a value, that of a checkpoint, or that there is none."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlready.predictors.search import Asked
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.search_folder import trial_folder, write_status
from rlready.workflow.search_open import CHECKPOINT, Search
from rlready.workflow.search_registry import Measured
from rlready.workflow.search_rungs import GPU_HOURS, STOPPED, spent_hours

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of a trial.

    Args:
        trial: its number.
        state: "told", "failed" or "stopped".
        value: what the study was told.
        se: its standard error.
        checkpoint: registered id, where the value came from the registry.
        reason: why it failed or was stopped.
        is_new: False if the study knew.
    """

    trial: int
    state: str
    value: float | None = None
    se: float | None = None
    checkpoint: str | None = None
    reason: str = ""
    is_new: bool = True


def tell(
    search: Search,
    number: int,
    *,
    value: float | None = None,
    se: float | None = None,
    checkpoint: str | None = None,
) -> Told:
    """The study is told a trial's value, or that of the checkpoint that it gave.

    The first who tells wins; telling the same value again changes nothing. A trial that was given
    up enters once more, with its value: no finished run is lost.

    Raises:
        ConfigError: if there is no such trial, it was told another value, the value is no finite
            number, or the checkpoint was not made by the asked recipe.
        StoreError: if the checkpoint, or what predicts it, is not registered.
    """
    told = _told(search, number, value, se, checkpoint)
    search.show()
    return told


def _told(
    search: Search, number: int, value: float | None, se: float | None, checkpoint: str | None
) -> Told:
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = trial_of(search, number)
    measured = None
    if checkpoint is not None:
        measured = _measured(search, trial, checkpoint)
        value, se = measured.value, measured.se
    value = _checked(number, value, se)
    told = Told(
        trial=number,
        state="told",
        value=value,
        se=se,
        checkpoint=None if measured is None else measured.checkpoint_id,
    )
    if not trial.state.is_finished():
        write_attributes(search, number, _attributes(search, told))
        # Another may tell it between our look and now.
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            search.study.tell(number, value)
            return noted(search, told)
        trial = trial_of(search, number)
    if trial.state != TrialState.COMPLETE:
        return noted(search, _enter_again(search, trial, told))
    if trial.value is not None and math.isclose(trial.value, value, rel_tol=1e-9):
        return noted(search, replace(told, is_new=False))
    raise ConfigError(
        f"trial {number} was told {trial.value:.6g} before, now {value:.6g}",
        fix="A trial has one value; record a second measurement in the registry",
    )


def fail(search: Search, number: int, reason: str) -> Told:
    """The trial is marked failed, with the reason, unless it is finished."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = trial_of(search, number)
    with contextlib.suppress(UpdateFinishedTrialError, ValueError):
        search.study._storage.set_trial_user_attr(trial._trial_id, "rlready:failed", reason)
        search.study.tell(number, state=TrialState.FAIL)
    told = noted(search, Told(trial=number, state="failed", reason=reason))
    search.show()
    return told


def trial_of(search: Search, number: int) -> FrozenTrial:
    """The trial of a number that was asked for.

    Raises:
        ConfigError: if there is none.
    """
    from optuna.trial import TrialState

    trials = search.study.get_trials(deepcopy=False)
    is_stopped = 0 <= number < len(trials) and STOPPED in trials[number].user_attrs
    was_asked = 0 <= number < len(trials) and (
        "rlready:run" not in trials[number].user_attrs
        and (trials[number].state not in (TrialState.WAITING, TrialState.PRUNED) or is_stopped)
    )
    if not was_asked:
        raise ConfigError(
            f"study {search.study.study_name!r} has asked for no trial {number}",
            fix=f"See {search.root}, or `rlready search report`",
        )
    return trials[number]


def asked_before(search: Search, trial: FrozenTrial) -> Asked | None:
    """What was asked for in a trial; None if its worker was killed before it had a recipe."""
    kept = trial.user_attrs
    if "rlready:recipe" not in kept:
        return None
    predicted = kept.get("rlready:predicted")
    return Asked(
        number=trial.number,
        recipe=Recipe.from_dict(kept["rlready:recipe"]),
        origin=kept.get("rlready:origin", "again"),
        domain=kept.get("rlready:domain"),
        reason=kept.get("rlready:domain_reason", ""),
        predicted=None if predicted is None else tuple((m, s) for m, s in predicted),
    )


def noted(search: Search, told: Told) -> Told:
    """Close the lease and say it in the folder; a kill before this is mended by `settle`."""
    search.leases.close(told.trial)
    folder = trial_folder(search.root, told.trial)
    if folder.is_dir():
        write_status(folder, state=told.state, told=told.value, error=told.reason or None)
    return told


def write_attributes(search: Search, number: int, attributes: Mapping[str, Any]) -> None:
    """Write attributes of a trial that is not finished; of a finished one they stay as they are."""
    from optuna.exceptions import UpdateFinishedTrialError

    # `Trial.set_user_attr` needs the asking process; the storage takes it from any.
    storage, study_id = search.study._storage, search.study._study_id
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    with contextlib.suppress(UpdateFinishedTrialError):
        for key, value in attributes.items():
            storage.set_trial_user_attr(trial_id, key, value)


def _measured(search: Search, trial: FrozenTrial, checkpoint: str) -> Measured:
    if search.registry is None:
        raise ConfigError(
            f"checkpoint {checkpoint} has no value without the registry",
            fix="Leave --cold out, or give --value",
        )
    asked = asked_before(search, trial)
    if asked is None:
        raise ConfigError(f"trial {trial.number} has no recipe")
    return search.registry.measured(checkpoint, asked.recipe)


def _checked(number: int, value: float | None, se: float | None) -> float:
    if value is None or not math.isfinite(value):
        raise ConfigError(
            f"trial {number} is told the value {value}", fix="Give a finite number, or a checkpoint"
        )
    if se is not None and not 0.0 <= se < math.inf:
        raise ConfigError(f"trial {number} is told the standard error {se}", fix="Give 0 or more")
    return float(value)


def _attributes(search: Search, told: Told) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if search.ladder is not None:
        trial = trial_of(search, told.trial)
        found[GPU_HOURS] = spent_hours(trial, search.ladder, is_told=True)
    if told.se is not None:
        found["rlready:errors"] = [told.se]
    if told.checkpoint is not None:
        found[CHECKPOINT] = told.checkpoint
    return found


def _enter_again(search: Search, trial: FrozenTrial, told: Told) -> Told:
    from optuna.trial import create_trial

    late = f"rlready:late:{trial.number}"
    for other in search.study.get_trials(deepcopy=False):
        if other.user_attrs.get("rlready:late") == late:
            return replace(told, is_new=False)
    search.study.add_trial(
        create_trial(
            value=told.value,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**trial.user_attrs, **_attributes(search, told), "rlready:late": late},
            constraints=trial.constraints,
            intermediate_values=trial.intermediate_values,
        )
    )
    return told
