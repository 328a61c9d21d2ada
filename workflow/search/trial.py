"""A trial of a search: its recipe, its lease, and how the study is told its result."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState

from rlready.predictors.search.rungs import foreseen
from rlready.predictors.search.study import Asked
from rlready.predictors.search.study import ask as ask_study
from rlready.predictors.search.trials import (
    CHECKPOINT,
    ERRORS,
    FAILED,
    FORESEEN,
    GPU_HOURS,
    IS_PREDICTED,
    LEASE,
    PUBLIC,
    RECIPE,
    STOPPED,
    SUPERSEDES,
    WORKER,
    Lease,
    enter_late,
    trials_by_checkpoint,
    was_asked,
)
from rlready.predictors.search.values import finished_trials
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.registry.redaction import redacted
from rlready.workflow.search.evaluate import measured_checkpoint
from rlready.workflow.search.folder import (
    Status,
    TrialResult,
    read_number,
    read_status,
    write_folder,
    write_status,
)
from rlready.workflow.search.open import Search
from rlready.workflow.search.registry import recipe_cost

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_RELEASED = 0.0
"""Deadline of a lease whose worker has given the trial back."""


class Trial:
    """A trial of a search, by its number: its recipe, its worker and its result.

    The study stores everything about a trial. Its folder passes the recipe to the trainer and the
    result back (`folder`). So any process can continue a trial that another one began.

    The lease is an attribute of the trial. It is written only under the study's lock, so two
    workers never hold one trial. Optuna's heartbeat cannot replace it: it loses a trial for good
    if a worker is killed after it marked the stale trial failed and before it added the retry.

    Args:
        search: the open search.
        number: number of the trial in the study.
        asked: its recipe, if the caller has it.

    Attributes:
        folder: folder of the trial.
        held: the lease that this process holds.

    Raises:
        ConfigError: if the study has no such trial.
    """

    def __init__(self, search: Search, number: int, *, asked: Asked | None = None) -> None:
        self.search, self.number, self._asked = search, number, asked
        self.folder = search.root / f"trial-{number:04d}"
        self.held: Lease | None = None
        try:
            self._id = search.storage.get_trial_id_from_study_id_trial_number(
                search.study_id, number
            )
            is_known = was_asked(self.frozen)
        except KeyError:
            is_known = False
        if not is_known:
            raise ConfigError(
                f"study {search.name!r} has asked for no trial {number}",
                fix=f"See {search.root}, or `rlready search report`",
            )

    @property
    def frozen(self) -> FrozenTrial:
        """The trial as the study has it now. Do not change it."""
        return self.search.storage.get_trial(self._id)

    @property
    def asked(self) -> Asked | None:
        """The recipe and its prediction; None if the worker was killed before it wrote them."""
        if self._asked is None and RECIPE in (attributes := self.frozen.user_attrs):
            self._asked = Asked.of(self.number, attributes)
        return self._asked

    @property
    def recipe(self) -> Recipe:
        """The recipe to train."""
        if self.asked is None:
            raise ConfigError(f"trial {self.number} has no recipe")
        return self.asked.recipe

    @property
    def lease(self) -> Lease | None:
        """The lease of the trial; None if it has none, or if the trial has ended."""
        frozen = self.frozen
        values = None if frozen.state.is_finished() else frozen.user_attrs.get(LEASE)
        return None if values is None else Lease(**values)

    @property
    def step(self) -> int | None:
        """The next rung; None if the search has no rungs."""
        rungs = self.search.rungs
        return None if rungs is None else rungs.next_step(self.frozen.intermediate_values)

    def _write(self, attributes: Mapping[str, Any]) -> None:
        """Write attributes, unless the trial has ended."""
        with contextlib.suppress(UpdateFinishedTrialError):
            for key, value in attributes.items():
                self.search.storage.set_trial_user_attr(self._id, key, value)

    def hold(self, worker: str, *, retries: int = 0, until: float | None = None) -> Lease:
        """Give the trial to a worker. The caller must hold the study's lock.

        Args:
            worker: name of the worker.
            retries: how often the trial was offered again.
            until: end of the lease, in seconds since 1970; default: one lease period from now.
        """
        if until is None:
            until = self.search.clock() + self.search.config.lease_s
        self.held = Lease(worker=worker, deadline=until, retries=retries)
        self._write({LEASE: asdict(self.held)})
        return self.held

    def release(self) -> None:
        """Offer the trial to the next worker at once."""
        self.renew(until=_RELEASED)

    def renew(self, *, until: float | None = None) -> None:
        """Extend the lease as `hold` does, unless another worker holds the trial now."""
        with self.search.lock():
            lease = self.lease
            held = self.held or lease
            if lease and held and (lease.worker, lease.retries) == (held.worker, held.retries):
                self.hold(lease.worker, retries=lease.retries, until=until)

    @classmethod
    def all(cls, search: Search) -> list[Trial]:
        """Return the trials of a search that were asked for."""
        trials = search.study.get_trials(deepcopy=False)
        return [cls(search, trial.number) for trial in trials if was_asked(trial)]

    @classmethod
    def next(cls, search: Search) -> Trial:
        """Return a trial for this worker: one whose lease has expired, or else a new one.

        Raises:
            ConfigError: if no recipe keeps the limits of the space, or the file of a source cannot
                be used.
        """
        pools = search.pools
        with search.lock():
            trial = cls._take_expired(search)
            if trial is None:
                limits = (lambda recipe: {}) if pools is None else pools.limits
                asked = ask_study(search.study, search.space, limits, seed=search.config.seed)
                trial = cls(search, asked.number, asked=asked)
                trial.hold(search.config.worker)
        assert trial.held is not None
        trial._write({WORKER: trial.held.worker})
        write_folder(
            trial.folder,
            trial.recipe,
            None
            if pools is None
            else pools.manifest(trial.recipe, search.config.seed + trial.number),
            study=search.name,
            trial=trial.number,
            rung=trial.step,
            **asdict(trial.held),
        )
        return trial

    @classmethod
    def _take_expired(cls, search: Search) -> Trial | None:
        for trial in cls.all(search):
            lease = trial.lease
            if lease is None or lease.deadline > search.clock():
                continue
            if trial.asked is not None:
                trial.hold(search.config.worker, retries=lease.retries + 1)
                return trial
            trial.fail("its worker was killed before it had a recipe")
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as one JSON object, the format of `rlready search ask --json`."""
        asked, lease = self.asked, self.held
        assert asked is not None
        assert lease is not None
        predicted, predicted_sd = asked.predicted[0] if asked.predicted else (None, None)
        return {
            "trial": self.number,
            "folder": str(self.folder),
            "recipe": asked.recipe.to_dict(),
            "origin": asked.origin,
            "domain": asked.domain,
            "domain_reason": asked.reason,
            "predicted": predicted,
            "predicted_sd": predicted_sd,
            **asdict(lease),
            "rung": self.step,
        }

    def check_lease(self, seen: float | None) -> None:
        """Extend the lease if the trainer is alive, or give the trial up after its retries.

        The caller must hold the study's lock.

        Args:
            seen: time of the last change of the status file, in seconds since 1970; None if there
                is no file.
        """
        config, lease = self.search.config, self.lease
        if lease is None:
            # The worker was killed before it wrote a lease, or it used Optuna directly.
            lease = self.hold("")
        if seen is not None and seen + config.lease_s > lease.deadline > _RELEASED:
            lease = self.hold(lease.worker, retries=lease.retries, until=seen + config.lease_s)
        if lease.deadline <= self.search.clock() and lease.retries >= config.max_retries:
            self.fail(f"no worker finished it, {lease.retries + 1} held it")

    def sync(self, *, evaluate: bool) -> TrialResult | None:
        """Tell the study the result in the folder, or correct the folder's status.

        Args:
            evaluate: whether a checkpoint that is not registered is evaluated now.

        Returns:
            The result, if it is new to the study.
        """
        frozen = self.frozen
        if frozen.state.name in ("COMPLETE", "PRUNED"):
            # A worker may have been killed between telling the study and writing the folder.
            with contextlib.suppress(ConfigError):
                if read_status(self.folder).is_open:
                    is_told = frozen.state.name == "COMPLETE"
                    self._note(
                        TrialResult(
                            trial=self.number,
                            state="told" if is_told else "stopped",
                            value=frozen.values[0] if is_told else None,
                            reason="" if is_told else frozen.user_attrs.get(STOPPED, ""),
                        )
                    )
            return None
        status = read_status(self.folder)
        if status.is_open:
            return self.take_in(status, evaluate=evaluate)
        if status.state == "failed" and not frozen.state.is_finished():
            return self.fail(status.error or "its trainer said so")
        return None

    def _note(self, result: TrialResult) -> TrialResult:
        if self.folder.is_dir():
            error = result.reason or None
            write_status(self.folder, state=result.state, told=result.value, error=error)
        return result

    def take_in(self, status: Status, *, evaluate: bool = True) -> TrialResult | None:
        """Tell the study the result in a status; return None if the trial continues."""
        value = status.value
        if status.rungs:
            result = self._climb(status)
            if result is not None:
                return result
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
    ) -> TrialResult:
        """Tell the study the trial's value, or the value of its checkpoint.

        The first value counts; telling the same value again changes nothing. If the trial has
        failed or was stopped, the value enters as a new trial, so that no finished run is lost.

        Args:
            value: outcome; higher is better.
            se: standard error of the value.
            checkpoint: registered id or name, or a folder. Its value is its recorded outcome, or
                else the predicted one.
            cost: cost of the trial, if the search has a cost; default: from the status file.
            evaluate: whether a checkpoint that is not registered is evaluated now, if the space
                file has [evaluate].

        Raises:
            ConfigError: if the trial was told another value, the value is not a finite number, or
                the checkpoint was not made by the recipe of the trial.
            StoreError: if the checkpoint, or its predictor, is not registered.
        """
        measured = None
        if checkpoint is not None:
            if evaluate:
                self.renew()  # an evaluation may take longer than a lease
            measured = measured_checkpoint(
                self.search, self.folder, self.recipe, checkpoint, evaluate=evaluate
            )
            value, se = measured.values[0], measured.errors[0] if measured.errors else None
        if value is None or not math.isfinite(value):
            raise ConfigError(
                f"trial {self.number} is told the value {value}",
                fix="Give a finite number, or a checkpoint",
            )
        if se is not None and not 0.0 <= se < math.inf:
            raise ConfigError(f"trial {self.number} is told the error {se}", fix="Give 0 or more")
        result = TrialResult(
            trial=self.number,
            state="told",
            value=float(value),
            se=se,
            checkpoint=None if measured is None else measured.name,
            is_predicted=measured is not None and measured.is_predicted,
            public=measured.public if measured else "",
            cost=self._cost(cost),
        )
        # If two workers tell different values at the same time, the second sees the first value.
        with self.search.lock():
            stored = self._enter(result)
            if result.public:
                self.search.enter_registry()  # a new checkpoint moves the values of the others
        return self._note(result if stored is None else replace(result, value=stored, is_new=False))

    def fail(self, reason: str) -> TrialResult:
        """Mark the trial failed, unless it has ended."""
        return self._end("FAIL", "failed", {FAILED: redacted(reason)}, redacted(reason))

    def _end(self, end: str, state: str, attributes: Mapping[str, Any], reason: str) -> TrialResult:
        with contextlib.suppress(ConfigError):  # a trial with an invalid status ends too
            attributes = {**self._gpu_hours(), **attributes}
        self._write(attributes)
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self.search.study.tell(self.number, state=TrialState[end])
        return self._note(TrialResult(trial=self.number, state=state, reason=reason))

    def _enter(self, result: TrialResult) -> float | None:
        """Tell the study a value; return the value that it already had, if any."""
        assert result.value is not None
        values = [result.value] if result.cost is None else [result.value, result.cost]
        attributes: dict[str, Any] = self._gpu_hours()
        errors = None if result.se is None else [result.se]
        facts = {ERRORS: errors, PUBLIC: result.public, IS_PREDICTED: result.is_predicted}
        attributes |= {key: fact for key, fact in facts.items() if fact}
        if result.checkpoint is not None:
            attributes[CHECKPOINT] = result.checkpoint
            other = trials_by_checkpoint(self.search.study).get(result.checkpoint)
            if other is not None and other.number != self.number:
                attributes[SUPERSEDES] = other.number
        if not self.frozen.state.is_finished():
            self._write(attributes)
            # A program that uses Optuna directly takes no lock, and may end the trial now.
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):
                self.search.study.tell(self.number, values)
                return None
        return enter_late(self.search.study, self.number, values, attributes)

    def _gpu_hours(self) -> dict[str, float]:
        hours = self._number("gpu_hours")
        return {} if hours is None else {GPU_HOURS: hours}

    def _cost(self, cost: float | None) -> float | None:
        """Return the cost: as given, or from the folder, the attributes or the recipe."""
        name = self.search.cost
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
        """Return a number from the status file or, if it is missing there, from the study."""
        number = read_number(self.folder, name)
        return self.frozen.user_attrs.get(f"rlready:{name}") if number is None else number

    def _climb(self, status: Status) -> TrialResult | None:
        """Report values of new rungs to the study; return the result if this stops the trial."""
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
            handle = OptunaTrial(search.study, self._id)
            for step in steps:
                handle.report(status.rungs[step], step)
            if last in status.rungs or status.is_finished:
                return None
            if not handle.should_prune():
                write_status(self.folder, rung=self.step, state="asked")
                return None
            step, value = steps[-1], status.rungs[steps[-1]]
            end = foreseen(value, step, finished_trials(search.study, search.space))
            self._write({} if end is None else {FORESEEN: end})
            reason = f"{value:.4g} after {step} steps is too little to go on"
            return self._end("PRUNED", "stopped", {STOPPED: reason}, reason)
