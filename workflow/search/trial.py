"""A trial of a search: who works on it, what it gave, and how the study is told."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rlready.predictors.search.rungs import foreseen
from rlready.predictors.search.study import ask as ask_study
from rlready.predictors.search.trials import (
    CHECKPOINT,
    ERRORS,
    FAILED,
    FORESEEN,
    GPU_HOURS,
    IS_PREDICTED,
    STOPPED,
    SUPERSEDES,
    WORKER,
    enter_late,
    finished_trials,
    trials_by_checkpoint,
    was_asked,
)
from rlready.registry.errors import ConfigError
from rlready.registry.redaction import redacted
from rlready.workflow.search.evaluate import registered
from rlready.workflow.search.folder import (
    Status,
    manifest,
    read_number,
    read_status,
    recipe_toml,
    write_status,
    write_text,
)
from rlready.workflow.search.leased_trial import RELEASED, LeasedTrial
from rlready.workflow.search.open import Search, recipe_cost
from rlready.workflow.search.registry import Measured

_OPEN = ("asked", "running")


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


class Trial(LeasedTrial):
    """A trial that was asked for, by its number.

    Everything that is known of a trial is in the study; its folder is how the search and the
    trainer talk (`folder`). So any process can go on with a trial that another one began.
    """

    @classmethod
    def all(cls, search: Search) -> list[Trial]:
        """The trials of a search that were asked for."""
        trials = search.study.get_trials(deepcopy=False)
        return [cls(search, trial.number) for trial in trials if was_asked(trial)]

    @classmethod
    def next(cls, search: Search) -> Trial:
        """A trial for this worker: one whose lease has run out, or else a new one.

        Raises:
            ConfigError: if no recipe keeps the limits of the space, or its manifest cannot be made.
        """
        with search.lock():
            trial = cls._expired(search)
            if trial is None:
                asked = ask_study(search.study, search.space)
                trial = cls(search, asked.number, asked=asked)
                trial.hold(search.config.worker)
        trial._hand_out()
        return trial

    @classmethod
    def _expired(cls, search: Search) -> Trial | None:
        for trial in cls.all(search):
            lease = trial.lease
            if lease is None or lease.deadline > search.clock():
                continue
            if trial.asked is not None:
                trial.hold(search.config.worker, retries=lease.retries + 1)
                return trial
            trial.fail("its worker was gone before it had a recipe")
        return None

    def to_dict(self) -> dict[str, Any]:
        """The trial as one JSON object: the contract of `rlready search ask --json`."""
        asked, lease = self.asked, self.held
        assert asked is not None
        assert lease is not None
        predicted = asked.predicted
        return {
            "trial": self.number,
            "folder": str(self.folder),
            "recipe": asked.recipe.to_dict(),
            "origin": asked.origin,
            "domain": asked.domain,
            "domain_reason": asked.reason,
            "predicted": None if predicted is None else predicted[0][0],
            "predicted_sd": None if predicted is None else predicted[0][1],
            **asdict(lease),
            "rung": self.step,
        }

    def check_lease(self, seen: float | None) -> None:
        """Extend the lease by a sign of life, or give the trial up after its retries.

        The caller holds the study's lock.

        Args:
            seen: when the status file changed last, seconds since 1970; None if there is none.
        """
        config, lease = self.search.config, self.lease
        if lease is None:
            # Its worker was killed before it could write a lease, or used Optuna alone.
            lease = self.hold("")
        if seen is not None and seen + config.lease_s > lease.deadline > RELEASED:
            lease = self.hold(lease.worker, retries=lease.retries, until=seen + config.lease_s)
        if lease.deadline <= self.search.clock() and lease.retries >= config.max_retries:
            self.fail(f"no worker finished it, {lease.retries + 1} held it")

    def _hand_out(self) -> None:
        """Write the folder for the worker that now holds the trial."""
        search, recipe, lease = self.search, self.recipe, self.held
        assert lease is not None
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
            **asdict(lease),
            recipe_digest=recipe.digest,
            rung=self.step,
            value=None,
            se=None,
            checkpoint=None,
            error=None,
        )

    def sync(self, *, evaluate: bool) -> Told | None:
        """Bring study and folder into line; what became of the trial, if that is new.

        Args:
            evaluate: whether a checkpoint that the registry does not know is evaluated now.
        """
        frozen, attributes = self.frozen, self.frozen.user_attrs
        if frozen.state.name in ("COMPLETE", "PRUNED"):
            # A worker may have been killed between telling the study and writing the folder.
            with contextlib.suppress(ConfigError):
                if read_status(self.folder).state in _OPEN:
                    told = Told(
                        trial=self.number, state="stopped", reason=attributes.get(STOPPED, "")
                    )
                    if frozen.state.name == "COMPLETE":
                        told = Told(trial=self.number, state="told", value=frozen.values[0])
                    self._note(told)
            return None
        status = read_status(self.folder)
        if status.state in _OPEN:
            return self.take_in(status, evaluate=evaluate)
        if status.state == "failed" and not frozen.state.is_finished():
            return self.fail(status.error or "its trainer said so")
        return None

    def _note(self, told: Told) -> Told:
        if self.folder.is_dir():
            error = told.reason or None
            write_status(self.folder, state=told.state, told=told.value, error=error)
        return told

    def take_in(self, status: Status, *, evaluate: bool = True) -> Told | None:
        """Take in what the trainer has left in the folder; None if the trial goes on.

        Args:
            status: that was read there.
            evaluate: whether a checkpoint that the registry does not know is evaluated now.
        """
        value = status.value
        if status.rungs:
            told = self._climb(status)
            if told is not None:
                return told
            if not status.is_finished and self.search.rungs is not None:
                value = status.rungs.get(self.search.rungs.steps[-1])
        if value is not None:
            return self.tell(value=value, se=status.se)
        if status.is_finished:
            return self.tell(checkpoint=status.checkpoint, evaluate=evaluate)
        return None

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
            stored = self._enter(told)
        if stored is not None:
            told = replace(told, value=stored, is_new=False)
        return self._note(told)

    def fail(self, reason: str) -> Told:
        """Mark the trial failed, with the reason, unless it has ended."""
        return self._end("FAIL", "failed", {FAILED: redacted(reason)}, redacted(reason))

    def stop(self, reason: str) -> Told:
        """Mark the trial stopped, with the reason, unless it has ended."""
        return self._end("PRUNED", "stopped", {STOPPED: reason}, reason)

    def _end(self, end: str, state: str, attributes: Mapping[str, Any], reason: str) -> Told:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        self.write({**self._gpu_hours(), **attributes})
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self.search.study.tell(self.number, state=TrialState[end])
        return self._note(Told(trial=self.number, state=state, reason=reason))

    def _enter(self, told: Told) -> float | None:
        """Tell the study a value under its lock; the value that it had already, if it had one."""
        from optuna.exceptions import UpdateFinishedTrialError

        assert told.value is not None
        values = [told.value] if told.cost is None else [told.value, told.cost]
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
        if not self.frozen.state.is_finished():
            self.write(attributes)
            # Programs that use Optuna alone do not know the lock.
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):
                self.search.study.tell(self.number, values)
                return None
        return enter_late(self.search.study, self.number, values, attributes)

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
            self.renew()  # an evaluation may take longer than a lease
        reference = registered(search, self.folder, recipe, checkpoint, evaluate=evaluate)
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
        number = read_number(self.folder, name)
        return self.frozen.user_attrs.get(f"rlready:{name}") if number is None else number

    def _climb(self, status: Status) -> Told | None:
        """Report the values of new rungs to the study; what became of the trial if it is stopped.

        Raises:
            ConfigError: if a rung is not one of the space file's.
        """
        from optuna.trial import Trial as Handle

        search, rungs = self.search, self.search.rungs
        if rungs is None or set(status.rungs) - set(rungs.steps):
            raise ConfigError(
                f"trial {self.number} has values after {', '.join(map(str, status.rungs))} steps",
                fix="Give them for the steps that [rungs] of the space file names",
            )
        with search.lock():
            old, last = self.frozen.intermediate_values, rungs.steps[-1]
            steps = [step for step in sorted(status.rungs) if step not in old and step != last]
            if self.frozen.state.is_finished() or not steps:
                return None
            handle = Handle(search.study, self._id)
            for step in steps:
                handle.report(status.rungs[step], step)
            if last in status.rungs or status.is_finished:
                return None
            if not handle.should_prune():
                write_status(self.folder, rung=self.step, state="asked")
                return None
            step, value = steps[-1], status.rungs[steps[-1]]
            end = foreseen(value, step, finished_trials(search.study, search.space))
            self.write({} if end is None else {FORESEEN: end})
            return self.stop(f"{value:.4g} after {step} steps is too little to go on")
