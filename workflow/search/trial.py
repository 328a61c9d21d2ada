"""What a trial gave: the study is told a value, that of a checkpoint, or that there is none."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlready.predictors.search.study import (
    IS_PREDICTED,
    SUPERSEDES,
    Asked,
    is_predicted,
    supersede,
    superseded,
    trials_by_run,
)
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.registry.redaction import redacted
from rlready.workflow.search.evaluate import registered
from rlready.workflow.search.folder import Status, read_number, trial_folder, write_status
from rlready.workflow.search.leases import asking
from rlready.workflow.search.open import CHECKPOINT, Search, recipe_cost
from rlready.workflow.search.registry import Measured

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of a trial.

    Args:
        trial: its number.
        state: "told" or "failed"; "waiting" while the registry cannot say its value.
        value: what the study was told.
        se: its standard error.
        checkpoint: registered id, where the value came from the registry.
        reason: why it failed or waits.
        is_new: False if the study knew.
        is_predicted: whether the value is what a predictor says.
        cost: what it cost, where the search has a cost.
    """

    trial: int
    state: str
    value: float | None = None
    se: float | None = None
    checkpoint: str | None = None
    reason: str = ""
    is_new: bool = True
    is_predicted: bool = False
    cost: float | None = None


def tell(
    search: Search,
    number: int,
    *,
    value: float | None = None,
    se: float | None = None,
    checkpoint: str | None = None,
    cost: float | None = None,
) -> Told:
    """The study is told a trial's value, or that of the checkpoint that it gave.

    Its cost, where the search has one, is what is given here, or else what the trial's status file
    says under its name. A checkpoint that the registry does not know is evaluated, if the space
    file says how.

    The first who tells wins; telling the same value again changes nothing. A trial that was given
    up enters once more, with its value: no finished run is lost.

    Raises:
        ConfigError: if there is no such trial, it was told another value, the value is no finite
            number, or the checkpoint was not made by the asked recipe.
        StoreError: if the checkpoint, or what predicts it, is not registered.
    """
    told = _told(search, number, value, se, checkpoint, cost)
    search.show()
    return told


def tell_status(search: Search, number: int, status: Status) -> Told:
    """The study is told what whoever trained has left in a trial's folder; see `tell`."""
    return tell(
        search,
        number,
        value=status.value,
        se=status.se,
        checkpoint=status.checkpoint if status.value is None else None,
    )


def _told(
    search: Search,
    number: int,
    value: float | None,
    se: float | None,
    checkpoint: str | None,
    cost: float | None,
) -> Told:
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
        is_predicted=measured is not None and measured.is_predicted,
        cost=_cost(search, trial, cost),
    )
    # One at a time: of two who tell it differently the second must see what the first wrote.
    with asking(search.engine, search.study.study_name):
        told = _entered(search, told)
    return noted(search, told)


def _entered(search: Search, told: Told) -> Told:
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = trial_of(search, told.trial)
    if not trial.state.is_finished():
        write_attributes(search, told.trial, _attributes(search, told))
        # Whoever tells past us, by Optuna alone, knows no lock.
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            search.study.tell(told.trial, _values(told))
            return told
        trial = trial_of(search, told.trial)
    trial = _latest(search, trial)
    if trial.state != TrialState.COMPLETE:
        return _enter_again(search, trial, told)
    assert told.value is not None
    known = trial.values[0]
    if math.isclose(known, told.value, rel_tol=1e-9):
        return replace(told, is_new=False)
    if told.is_predicted and trial.user_attrs.get(CHECKPOINT) == told.checkpoint:
        # A predictor says a little else once the registry has grown.
        return replace(told, value=known, is_new=False)
    if is_predicted(trial) and not told.is_predicted:
        supersede(search.study, trial, _values(told), _attributes(search, told))
        return told
    raise ConfigError(
        f"trial {told.trial} was told {known:.6g} before, now {told.value:.6g}",
        fix="A trial has one value; record a second measurement in the registry",
    )


def fail(search: Search, number: int, reason: str) -> Told:
    """The trial is marked failed, with the reason, unless it is finished."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = trial_of(search, number)
    reason = redacted(reason)  # the last words of a trainer, which may hold its tokens
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
    was_asked = 0 <= number < len(trials) and (
        "rlready:run" not in trials[number].user_attrs
        and trials[number].state not in (TrialState.WAITING, TrialState.PRUNED)
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
    recipe = Recipe.from_dict(kept["rlready:recipe"])
    return Asked.of(trial.number, recipe, kept.get("rlready:origin", "again"), kept)


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
    known = registered(search, trial.number, asked.recipe, checkpoint)
    return search.registry.measured(known, asked.recipe)


def _cost(search: Search, trial: FrozenTrial, given: float | None) -> float | None:
    """What a trial cost: as given, or as its folder, its attributes or its recipe say."""
    name = search.settings.cost
    if name is None:
        if given is not None:
            raise ConfigError(
                f"trial {trial.number} is told the cost {given:g}, and the search has none",
                fix='Add cost = "gpu_hours" to the space file, and give the study another name',
            )
        return None
    cost = given
    if cost is None:
        cost = _told_number(search, trial, name)
    if cost is None:
        recipe = Recipe.from_dict(trial.user_attrs["rlready:recipe"])
        cost = recipe_cost(search.space, recipe, name)
    if cost is None or not 0.0 <= cost < math.inf:
        raise ConfigError(
            f"trial {trial.number} is told the {name} {cost}",
            fix=f'Give --cost, or put "{name}": 1.5 into the status.json of its folder',
        )
    return cost


def _told_number(search: Search, trial: FrozenTrial, name: str) -> float | None:
    folder = trial_folder(search.root, trial.number)
    said = read_number(folder, name) if (folder / "status.json").is_file() else None
    kept = trial.user_attrs.get(f"rlready:{name}")
    return kept if said is None else said


def _values(told: Told) -> list[float]:
    assert told.value is not None
    return [told.value] if told.cost is None else [told.value, told.cost]


def _checked(number: int, value: float | None, se: float | None) -> float:
    if value is None or not math.isfinite(value):
        raise ConfigError(
            f"trial {number} is told the value {value}", fix="Give a finite number, or a checkpoint"
        )
    if se is not None and not 0.0 <= se < math.inf:
        raise ConfigError(f"trial {number} is told the standard error {se}", fix="Give 0 or more")
    return float(value)


def _latest(search: Search, trial: FrozenTrial) -> FrozenTrial:
    """What has taken the trial's place, or itself."""
    trials = search.study.get_trials(deepcopy=False)
    replaced, number = superseded(trials), trial.number
    while number in replaced:
        number = replaced[number]
    return trials[number]


def _attributes(search: Search, told: Told) -> dict[str, Any]:
    found: dict[str, Any] = {}
    hours = _told_number(search, trial_of(search, told.trial), "gpu_hours")
    if hours is not None:
        found["rlready:gpu_hours"] = hours
    if told.is_predicted:
        found[IS_PREDICTED] = True
    other = trials_by_run(search.study).get(told.checkpoint or "")
    if other is not None and other.number != told.trial:
        found[SUPERSEDES] = other.number
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
            values=_values(told),
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**trial.user_attrs, **_attributes(search, told), "rlready:late": late},
            constraints=trial.constraints,
        )
    )
    return told
