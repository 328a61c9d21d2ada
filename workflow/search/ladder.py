"""The ladder in the loop: takes in the rungs that a trainer has left, and sends on or stops.

A rung's value goes to the study before anything is decided, the decision before anything follows
from it: of a worker killed in between, the next call of any of them takes up the rest. A stopped
trial is closed as pruned. If later outcomes make it promising again it goes on as a trial of
another number, in the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.scales import UNKNOWN_TRIALS, linked
from rlready.predictors.search.ladder import Climbs, Decision, Ladder, Rung, decide, standings
from rlready.predictors.search.study import Asked
from rlready.registry.errors import ConfigError
from rlready.workflow.search.evaluate import registered
from rlready.workflow.search.folder import RungStatus, Status, trial_folder, write_status
from rlready.workflow.search.leases import asking
from rlready.workflow.search.open import Search
from rlready.workflow.search.registry import check_match
from rlready.workflow.search.rungs import (
    CONTINUES,
    DECISIONS,
    FORESEEN,
    GPU_HOURS,
    RUNG_ERRORS,
    RUNG_HOURS,
    STOPPED,
    climbs_of,
    next_rung,
    proxy_of,
    spent_hours,
)
from rlready.workflow.search.trial import (
    Told,
    asked_before,
    noted,
    tell,
    trial_of,
    write_attributes,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_COMPLETE = "n_complete"


def rung_of(search: Search, number: int) -> str | None:
    """What the trainer of a trial is told for {rung}; None without a ladder."""
    if search.ladder is None:
        return None
    return next_rung(trial_of(search, number), search.ladder).name


def climb(search: Search, number: int, status: Status) -> Told | None:
    """Take in a trial's rungs; what became of it, or None if it goes on.

    Raises:
        ConfigError: if a rung is unknown, its value cannot be of its kind, or its checkpoint was
            not made by the asked recipe or has no such proxy.
        StoreError: if its checkpoint is not registered.
    """
    ladder = search.ladder
    if ladder is None or not status.rungs:
        return None
    given = {ladder.index(name): one for name, one in status.rungs.items()}
    trial = trial_of(search, number)
    new = {
        step: _measured(search, number, ladder.rungs[step], one)
        for step, one in given.items()
        if step not in trial.intermediate_values
    }
    if not new and status.rung == next_rung(trial, ladder).name:
        return None  # decided before
    outcome = new.get(len(ladder.rungs) - 1)
    is_finished = status.is_finished or outcome is not None
    with asking(search.engine, search.study.study_name):
        trial = trial_of(search, number)
        if trial.state.is_finished():
            return None if is_finished else _told_before(trial)
        if new:
            _keep(search, trial, ladder, new)
        if not is_finished:
            return _decided(search, number, ladder, status)
    if outcome is not None and not status.is_finished:
        return tell(search, number, value=outcome.value, se=outcome.se)
    return None


def taken_up(search: Search) -> Asked | None:
    """A stopped trial whose chances have risen, as a new trial that goes on from its last rung.

    Only after another outcome became known, and only where its folder is.
    """
    from optuna.trial import TrialState, create_trial

    ladder = search.ladder
    if ladder is None:
        return None
    if not any(STOPPED in one.user_attrs for one in search.study.get_trials(deepcopy=False)):
        return None
    climbs, trials = climbs_of(search.study, ladder)
    n_complete = _n_complete(climbs)
    stopped = [
        row
        for row, trial in enumerate(trials)
        if trial.state == TrialState.PRUNED
        and _n_complete_at_stop(trial, ladder) < n_complete
        and trial_folder(search.root, trial.number).is_dir()
    ]
    if not stopped:
        return None
    found = standings(ladder, climbs, seed=search.config.seed)
    last = climbs.last
    rising = [row for row in stopped if found.p_top[row] >= ladder.least_chance(int(last[row]))]
    if not rising:
        return None
    row = max(rising, key=lambda one: float(found.p_top[one]))
    decision = decide(ladder, climbs, found, row)
    old = trials[row]
    left = {STOPPED, FORESEEN}
    attributes = {k: v for k, v in old.user_attrs.items() if k not in left}
    attributes |= _kept(old, ladder, decision, n_complete) | {CONTINUES: old.number}
    storage = search.study._storage
    trial_id = storage.create_new_trial(
        search.study._study_id,
        template_trial=create_trial(
            state=TrialState.RUNNING,
            params=old.params,
            distributions=old.distributions,
            user_attrs=attributes,
            intermediate_values=old.intermediate_values,
            constraints=old.constraints,
        ),
    )
    return asked_before(search, storage.get_trial(trial_id))


def linked_folder(search: Search, number: int) -> Path:
    """The folder of a trial, made if it is new; that of the stopped one, for one that goes on."""
    folder = trial_folder(search.root, number)
    if search.ladder is not None and not folder.exists():
        old = trial_of(search, number).user_attrs.get(CONTINUES)
        before = folder if old is None else trial_folder(search.root, old)
        if before.is_dir():
            folder.symlink_to(before.name, target_is_directory=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_continued(search: Search, number: int) -> bool:
    """Whether a trial goes on with what a stopped one left."""
    return search.ladder is not None and CONTINUES in trial_of(search, number).user_attrs


def _decided(search: Search, number: int, ladder: Ladder, status: Status) -> Told | None:
    """Decide after a trial's last rung, once; what became of it, or None if it goes on."""
    trial = trial_of(search, number)
    rung = ladder.rungs[max(trial.intermediate_values)].name
    kept = trial.user_attrs.get(DECISIONS, {}).get(rung)
    if kept is None:
        climbs, trials = climbs_of(search.study, ladder)
        row = [one.number for one in trials].index(number)
        decision = decide(ladder, climbs, standings(ladder, climbs, seed=search.config.seed), row)
        attributes = _kept(trial, ladder, decision, _n_complete(climbs))
        write_attributes(search, number, attributes)
        kept = attributes[DECISIONS][rung]
    if not kept["goes_on"]:
        return _stop(search, trial, str(kept["reason"]))
    wanted = next_rung(trial, ladder).name
    # Only if it is news: a file that changes is a sign of life of its worker.
    if status.rung != wanted:
        folder = trial_folder(search.root, number)
        write_status(folder, rung=wanted, state="asked", decision=kept["reason"])
    return None


def _told_before(trial: FrozenTrial) -> Told:
    from optuna.trial import TrialState

    if trial.state == TrialState.COMPLETE:
        return Told(trial=trial.number, state="told", value=trial.value, is_new=False)
    state = "stopped" if STOPPED in trial.user_attrs else "failed"
    reason = trial.user_attrs.get(STOPPED) or trial.user_attrs.get("rlready:failed", "")
    return Told(trial=trial.number, state=state, reason=str(reason), is_new=False)


def _stop(search: Search, trial: FrozenTrial, reason: str) -> Told:
    from optuna.trial import TrialState

    write_attributes(search, trial.number, {STOPPED: reason})
    # `study.tell` would make the last rung's value the trial's own.
    search.study._storage.set_trial_state_values(trial._trial_id, state=TrialState.PRUNED)
    return noted(search, Told(trial=trial.number, state="stopped", reason=reason))


def _kept(
    trial: FrozenTrial, ladder: Ladder, decision: Decision, n_complete: int
) -> dict[str, Any]:
    """Attributes that hold a decision after a trial's last rung."""
    rung = ladder.rungs[max(trial.intermediate_values)].name
    said = {**decision.to_dict(), _COMPLETE: n_complete}
    kept = {DECISIONS: {**trial.user_attrs.get(DECISIONS, {}), rung: said}}
    return kept if decision.predicted is None else {**kept, FORESEEN: list(decision.predicted)}


def _n_complete_at_stop(trial: FrozenTrial, ladder: Ladder) -> int:
    rung = ladder.rungs[max(trial.intermediate_values)].name
    return int(trial.user_attrs.get(DECISIONS, {}).get(rung, {}).get(_COMPLETE, 0))


def _keep(
    search: Search, trial: FrozenTrial, ladder: Ladder, new: Mapping[int, RungStatus]
) -> None:
    """Write rungs that are new to the study; an outcome is told, only its cost is kept here."""
    errors = dict(trial.user_attrs.get(RUNG_ERRORS, {}))
    hours = dict(trial.user_attrs.get(RUNG_HOURS, {}))
    for step, one in new.items():
        name = ladder.rungs[step].name
        if one.se is not None:
            errors[name] = one.se
        if one.gpu_hours is not None:
            hours[name] = one.gpu_hours
    attributes = {RUNG_ERRORS: errors, RUNG_HOURS: hours}
    write_attributes(search, trial.number, {k: v for k, v in attributes.items() if v})
    storage = search.study._storage
    for step, one in new.items():
        if step < len(ladder.rungs) - 1 and one.value is not None:
            storage.set_trial_intermediate_value(trial._trial_id, step, one.value)
    climbed = storage.get_trial(trial._trial_id)
    write_attributes(search, trial.number, {GPU_HOURS: spent_hours(climbed, ladder)})


def _n_complete(climbs: Climbs) -> int:
    return int(np.isfinite(climbs.values[:, -1]).sum())


def _measured(search: Search, number: int, rung: Rung, given: RungStatus) -> RungStatus:
    """A rung with its value, which may be a proxy of a registered checkpoint.

    Raises:
        ConfigError: if the value cannot be of the rung's kind: no law could be fitted any more.
    """
    if given.value is None:
        given = _from_registry(search, number, rung, given)
    value = np.array([given.value], dtype=np.float64)
    linked(value, np.full(1, np.nan), rung.column(value).kind, UNKNOWN_TRIALS, rung.name)
    return given


def _from_registry(search: Search, number: int, rung: Rung, given: RungStatus) -> RungStatus:
    if rung.proxy is None:
        raise ConfigError(
            f"rung {rung.name!r} of trial {number} has a checkpoint and no value",
            why="the space file names no proxy for it",
            fix="Give its value, or the rung a proxy",
        )
    if search.registry is None:
        raise ConfigError(
            f"rung {rung.name!r} of trial {number} has no value without the registry",
            fix="Leave --cold out, or give its value",
        )
    asked = asked_before(search, trial_of(search, number))
    if asked is None:
        raise ConfigError(f"trial {number} has no recipe")
    reference = registered(search, number, asked.recipe, str(given.checkpoint))
    stored = search.registry.store.find(reference)
    check_match(asked.recipe, stored.checkpoint.recipe, stored.checkpoint.name)
    value, se = proxy_of(search.registry.store, stored.checkpoint.id, rung.proxy)
    return RungStatus(value=value, se=se, gpu_hours=given.gpu_hours, checkpoint=given.checkpoint)
