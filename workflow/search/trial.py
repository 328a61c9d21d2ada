"""A trial of a search: who works on it, what it gave, and how the study is told."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rlready.predictors.search.study import Asked, supersede
from rlready.predictors.search.trials import (
    CHECKPOINT,
    ERRORS,
    FAILED,
    FORESEEN,
    GPU_HOURS,
    IS_PREDICTED,
    LATE,
    LEASE,
    RECIPE,
    RUN,
    STOPPED,
    SUPERSEDES,
    WORKER,
    finished_trials,
    is_predicted,
    superseded,
    trials_by_checkpoint,
)
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.registry.redaction import redacted
from rlready.workflow.search.evaluate import registered
from rlready.workflow.search.folder import (
    Status,
    manifest,
    read_number,
    recipe_toml,
    trial_folder,
    write_status,
    write_text,
)
from rlready.workflow.search.open import Search, recipe_cost
from rlready.workflow.search.registry import Measured

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RELEASED = 0.0
"""Deadline of a lease whose worker has given the trial back."""

_FEWEST_GAINS = 3
"""Finished trials with a rung that say how a stopped one would have ended."""


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


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of a trial.

    Args:
        trial: its number.
        state: "told", "failed" or "stopped"; "waiting" while the registry cannot say its value.
        value: that the study was told.
        se: its standard error.
        checkpoint: registered id, where the value came from the registry.
        reason: why it failed, was stopped or waits.
        is_new: False if the study had the value already.
        is_predicted: whether the value is a prediction.
        cost: of the trial, where the search has a cost.
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


class Trial:
    """A trial that was asked for, by its number.

    All that is known of a trial is in the study; its folder is how the search and the trainer
    talk (`folder`). So any process can go on with a trial that another one began.

    The lease is an attribute of the trial, and is only written under the study's lock, so that
    two workers never hold one trial. Optuna's heartbeat was tried in its place: a worker that is
    killed between marking a stale trial failed and adding its retry loses the trial for good.

    Args:
        search: that it belongs to.
        number: in the study.

    Raises:
        ConfigError: if the study has asked for no such trial.
    """

    def __init__(self, search: Search, number: int) -> None:
        self.search, self.number = search, number
        number_to_id = search.storage.get_trial_id_from_study_id_trial_number
        try:
            self._id = number_to_id(search.study_id, number)
            was_asked = _was_asked(self.frozen)
        except KeyError:
            was_asked = False
        if not was_asked:
            raise ConfigError(
                f"study {search.study.study_name!r} has asked for no trial {number}",
                fix=f"See {search.root}, or `rlready search report`",
            )
        self.folder = trial_folder(search.root, number)

    @classmethod
    def all(cls, search: Search) -> list[Trial]:
        """The trials of a search that were asked for."""
        trials = search.study.get_trials(deepcopy=False)
        return [cls(search, frozen.number) for frozen in trials if _was_asked(frozen)]

    @property
    def frozen(self) -> FrozenTrial:
        """The trial as it stands in the study, not to be changed."""
        return self.search.storage.get_trial(self._id)

    @property
    def asked(self) -> Asked | None:
        """The recipe and what was predicted of it; None if its asker was killed before that."""
        attributes = self.frozen.user_attrs
        return Asked.of(self.number, attributes) if RECIPE in attributes else None

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""
        asked = self.asked
        if asked is None:
            raise ConfigError(f"trial {self.number} has no recipe")
        return asked.recipe

    @property
    def lease(self) -> Lease | None:
        """Who holds the trial; None if nobody has said so, or it is finished."""
        frozen = self.frozen
        values = None if frozen.state.is_finished() else frozen.user_attrs.get(LEASE)
        return None if values is None else Lease(**values)

    @property
    def step(self) -> int | None:
        """The rung to climb next; None if the search has no rungs."""
        rungs = self.search.rungs
        return None if rungs is None else rungs.next_step(self.frozen.intermediate_values)

    def write(self, attributes: Mapping[str, Any]) -> None:
        """Write attributes; those of a finished trial stay as they are."""
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError):
            for key, value in attributes.items():
                self.search.storage.set_trial_user_attr(self._id, key, value)

    # Leases. The caller of `hold` holds the study's lock.

    def hold(self, worker: str, *, retries: int = 0, until: float | None = None) -> Lease:
        """Give the trial to a worker.

        Args:
            worker: its name.
            retries: how often the trial was offered again.
            until: seconds since 1970; default: the period of a lease from now.
        """
        deadline = self._deadline() if until is None else until
        lease = Lease(worker=worker, deadline=deadline, retries=retries)
        self.write({LEASE: asdict(lease)})
        return lease

    def renew(self, lease: Lease) -> None:
        """Hold the trial for another period, unless another worker has it by now."""
        self._hold_on(lease, self._deadline())

    def release(self, lease: Lease) -> None:
        """Offer the trial to the next worker at once."""
        self._hold_on(lease, RELEASED)

    def keep(self) -> None:
        """Keep the trial from being offered for another period, whoever holds it."""
        with self.search.lock():
            lease = self.lease
            if lease is not None:
                self.write({LEASE: asdict(replace(lease, deadline=self._deadline()))})

    def _hold_on(self, lease: Lease, deadline: float) -> None:
        with self.search.lock():
            present = self.lease
            if present is not None and present == replace(lease, deadline=present.deadline):
                self.write({LEASE: asdict(replace(lease, deadline=deadline))})

    def _deadline(self) -> float:
        return self.search.clock() + self.search.config.lease_s

    # The folder.

    def hand_out(self, lease: Lease) -> None:
        """Write the folder for the worker that now holds the trial."""
        search, recipe = self.search, self.recipe
        self.write({WORKER: lease.worker})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "recipe.toml", recipe_toml(recipe))
        if search.settings.data:
            rows = manifest(recipe, search.settings.data, search.config.seed + self.number)
            write_text(self.folder / "manifest.json", json.dumps(rows) + "\n")
        write_status(
            self.folder,
            study=search.config.name,
            trial=self.number,
            state="asked",
            worker=lease.worker,
            deadline=lease.deadline,
            retries=lease.retries,
            recipe_digest=recipe.digest,
            rung=self.step,
            value=None,
            se=None,
            checkpoint=None,
            error=None,
        )

    def close_folder(self) -> Told:
        """Write what became of a finished trial to its folder, and return it."""
        frozen = self.frozen
        attributes = frozen.user_attrs
        told = Told(trial=self.number, state="failed", reason=attributes.get(FAILED, ""))
        if frozen.state.name == "COMPLETE":
            told = Told(trial=self.number, state="told", value=frozen.values[0])
        elif STOPPED in attributes:
            told = Told(trial=self.number, state="stopped", reason=attributes[STOPPED])
        self._note(told)
        return replace(told, is_new=False)

    def _note(self, told: Told) -> Told:
        if self.folder.is_dir():
            error = told.reason or None
            write_status(self.folder, state=told.state, told=told.value, error=error)
        return told

    # Results.

    def take_in(self, status: Status, *, evaluate: bool = True) -> Told | None:
        """Take in what the trainer has left in the folder; None if the trial goes on.

        Args:
            status: that was read there.
            evaluate: whether a checkpoint that the registry does not know is evaluated now.
        """
        if status.rungs:
            told = self._climb(status)
            if told is not None:
                return told
            last = status.rungs.get(self.search.rungs.steps[-1]) if self.search.rungs else None
            if last is not None and not status.is_finished:
                return self.tell(value=last)
        if not status.is_finished:
            return None
        checkpoint = status.checkpoint if status.value is None else None
        return self.tell(value=status.value, se=status.se, checkpoint=checkpoint, evaluate=evaluate)

    def tell(
        self,
        *,
        value: float | None = None,
        se: float | None = None,
        checkpoint: str | None = None,
        cost: float | None = None,
        evaluate: bool = True,
    ) -> Told:
        """Tell the study the trial's value, or that of the checkpoint that it gave.

        The first one to tell a value wins; telling the same value again changes nothing. If the
        trial has failed or was stopped, the value enters as a trial of its own, so that no
        finished run is lost.

        Args:
            value: outcome, more is better.
            se: its standard error.
            checkpoint: registered id or name, or a folder; its value is its recorded outcome, or
                else the predicted one.
            cost: of the trial, where the search has a cost; default: as the status file says.
            evaluate: whether a checkpoint that the registry does not know is evaluated now, if the
                space file says how.

        Raises:
            ConfigError: if the trial was told another value, the value is not a finite number, or
                the checkpoint was not made by the asked recipe.
            StoreError: if the checkpoint, or its predictor, is not registered.
        """
        measured = None if checkpoint is None else self._measured(checkpoint, evaluate)
        if measured is not None:
            value, se = measured.value, measured.se
        if value is None or not math.isfinite(value):
            raise ConfigError(
                f"trial {self.number} is told the value {value}",
                fix="Give a finite number, or a checkpoint",
            )
        if se is not None and not 0.0 <= se < math.inf:
            raise ConfigError(
                f"trial {self.number} is told the standard error {se}", fix="Give 0 or more"
            )
        told = Told(
            trial=self.number,
            state="told",
            value=float(value),
            se=se,
            checkpoint=None if measured is None else measured.checkpoint_id,
            is_predicted=measured is not None and measured.is_predicted,
            cost=self._cost(cost),
        )
        # Of two that tell different values at once, the second must see the value of the first.
        with self.search.lock():
            told = self._enter(told)
        return self._note(told)

    def fail(self, reason: str) -> Told:
        """Mark the trial failed, with the reason, unless it is finished."""
        return self._end("FAIL", "failed", FAILED, redacted(reason))

    def stop(self, reason: str) -> Told:
        """Mark the trial stopped, with the reason, unless it is finished."""
        return self._end("PRUNED", "stopped", STOPPED, reason)

    def _end(self, end: str, state: str, key: str, reason: str) -> Told:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        self.write({**self._gpu_hours(), key: reason})
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self.search.study.tell(self.number, state=TrialState[end])
        return self._note(Told(trial=self.number, state=state, reason=reason))

    def _enter(self, told: Told) -> Told:
        """Tell the study a value; the caller holds the study's lock."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState, create_trial

        assert told.value is not None
        study = self.search.study
        values = [told.value] if told.cost is None else [told.value, told.cost]
        attributes = self._attributes(told)
        if not self.frozen.state.is_finished():
            self.write(attributes)
            # Programs that use Optuna alone do not know the lock.
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):
                study.tell(self.number, values)
                return told
        trial = self._replacement()
        if trial.state != TrialState.COMPLETE:
            late = {LATE: f"{LATE}:{trial.number}"}
            study.add_trial(
                create_trial(
                    values=values,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={**trial.user_attrs, **attributes, **late},
                    constraints=trial.constraints,
                    intermediate_values=trial.intermediate_values,
                )
            )
            return told
        value = trial.values[0]
        if math.isclose(value, told.value, rel_tol=1e-9):
            return replace(told, is_new=False)
        if told.is_predicted and trial.user_attrs.get(CHECKPOINT) == told.checkpoint:
            # A prediction changes a little when the registry has grown.
            return replace(told, value=value, is_new=False)
        if is_predicted(trial) and not told.is_predicted:
            supersede(study, trial, values, attributes)
            return told
        raise ConfigError(
            f"trial {told.trial} was told {value:.6g} before, now {told.value:.6g}",
            fix="A trial has one value; record a second measurement in the registry",
        )

    def _replacement(self) -> FrozenTrial:
        """The trial that has this one's value by now, or itself."""
        trials = self.search.study.get_trials(deepcopy=False)
        replaced, number = superseded(trials), self.number
        while number in replaced:
            number = replaced[number]
        return trials[number]

    def _attributes(self, told: Told) -> dict[str, Any]:
        attributes: dict[str, Any] = self._gpu_hours()
        if told.is_predicted:
            attributes[IS_PREDICTED] = True
        if told.se is not None:
            attributes[ERRORS] = [told.se]
        if told.checkpoint is not None:
            attributes[CHECKPOINT] = told.checkpoint
            other = trials_by_checkpoint(self.search.study).get(told.checkpoint)
            if other is not None and other.number != self.number:
                attributes[SUPERSEDES] = other.number
        return attributes

    def _gpu_hours(self) -> dict[str, float]:
        hours = self._number("gpu_hours")
        return {} if hours is None else {GPU_HOURS: hours}

    def _measured(self, checkpoint: str, evaluate: bool) -> Measured:
        search, recipe = self.search, self.recipe
        if search.registry is None:
            raise ConfigError(
                f"checkpoint {checkpoint} has no value without the registry",
                fix="Leave --cold out, or give --value",
            )
        if evaluate:
            self.keep()  # an evaluation may take longer than a lease
        reference = registered(search, self.number, recipe, checkpoint, evaluate=evaluate)
        return search.registry.measured(reference, recipe)

    def _cost(self, cost: float | None) -> float | None:
        """The cost of the trial: as given, or as its folder, its attributes or its recipe say."""
        name = self.search.settings.cost
        if name is None:
            if cost is not None:
                raise ConfigError(
                    f"trial {self.number} is told the cost {cost:g}, and the search has none",
                    fix='Add cost = "gpu_hours" to the space file, and give the study another name',
                )
            return None
        if cost is None:
            cost = self._number(name)
        if cost is None:
            cost = recipe_cost(self.search.space, self.recipe, name)
        if cost is None or not 0.0 <= cost < math.inf:
            raise ConfigError(
                f"trial {self.number} is told the {name} {cost}",
                fix=f'Give --cost, or put "{name}": 1.5 into the status.json of its folder',
            )
        return cost

    def _number(self, name: str) -> float | None:
        """A number that the trainer has put into the status file, or that the study has."""
        number = None
        if (self.folder / "status.json").is_file():
            number = read_number(self.folder, name)
        return self.frozen.user_attrs.get(f"rlready:{name}") if number is None else number

    # Rungs.

    def _climb(self, status: Status) -> Told | None:
        """Report the values of new rungs to the study; what became of the trial if it is stopped.

        Raises:
            ConfigError: if a rung is not one of the space file's.
        """
        from optuna.trial import Trial as Handle

        rungs = self.search.rungs
        if rungs is None or set(status.rungs) - set(rungs.steps):
            raise ConfigError(
                f"trial {self.number} has values after {', '.join(map(str, status.rungs))} steps",
                fix="Give them for the steps that [rungs] of the space file names",
            )
        with self.search.lock():
            old, last = self.frozen.intermediate_values, rungs.steps[-1]
            steps = [step for step in sorted(status.rungs) if step not in old and step != last]
            if self.frozen.state.is_finished() or not steps:
                return None
            handle = Handle(self.search.study, self._id)
            for step in steps:
                handle.report(status.rungs[step], step)
            if last in status.rungs or status.is_finished:
                return None
            if not handle.should_prune():
                write_status(self.folder, rung=self.step, state="asked")
                return None
            step = steps[-1]
            self.write(self._foreseen(step))
            return self.stop(f"{status.rungs[step]:.4g} after {step} steps is too little to go on")

    def _foreseen(self, step: int) -> dict[str, list[float]]:
        """What the trial would have ended with: as the finished ones gained from this step on."""
        gains = [
            trial.values[0] - trial.intermediate_values[step]
            for trial in finished_trials(self.search.study, self.search.space)
            if step in trial.intermediate_values
        ]
        if len(gains) < _FEWEST_GAINS:
            return {}
        mean = math.fsum(gains) / len(gains)
        variance = math.fsum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1)
        return {FORESEEN: [self.frozen.intermediate_values[step] + mean, math.sqrt(variance)]}


def _was_asked(trial: FrozenTrial) -> bool:
    """Whether somebody was to train a trial: not an outcome of the registry, nor still queued."""
    if RUN in trial.user_attrs or trial.state.name == "WAITING":
        return False
    return trial.state.name != "PRUNED" or STOPPED in trial.user_attrs
