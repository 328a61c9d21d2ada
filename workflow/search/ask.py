"""Ask for trials and take in their results, by any number of workers.

The study says which trials there are and who holds them; the trials' folders are how a search and
the trainer talk. No step needs the worker that did the one before: what a killed one leaves is
taken up by the next call of any of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.predictors.search.study import Asked
from rlready.predictors.search.study import ask as ask_study
from rlready.registry.errors import RlreadyError
from rlready.workflow.search.folder import read_status
from rlready.workflow.search.open import Search
from rlready.workflow.search.trial import RELEASED, Lease, Told, Trial

_OPEN = ("asked", "running")


@dataclass(frozen=True, kw_only=True)
class Handed:
    """A trial that a worker now holds.

    Args:
        trial: to be told, failed or stopped.
        asked: its recipe, and what was predicted of it.
        lease: until when it is held.
        rung: the step up to which to train; None without rungs.
        problems: (trial, why its folder could not be taken in) of other trials.
    """

    trial: Trial
    asked: Asked
    lease: Lease
    rung: int | None = None
    problems: tuple[tuple[int, str], ...] = ()

    @property
    def folder(self) -> Path:
        """Where its recipe lies, and its results go."""
        return self.trial.folder

    def to_dict(self) -> dict[str, Any]:
        """The trial as one JSON object."""
        predicted = self.asked.predicted
        return {
            "trial": self.asked.number,
            "folder": str(self.folder),
            "recipe": self.asked.recipe.to_dict(),
            "origin": self.asked.origin,
            "domain": self.asked.domain,
            "domain_reason": self.asked.reason,
            "predicted": None if predicted is None else predicted[0][0],
            "predicted_sd": None if predicted is None else predicted[0][1],
            "worker": self.lease.worker,
            "deadline": self.lease.deadline,
            "retries": self.lease.retries,
            "rung": self.rung,
        }


@dataclass(frozen=True, kw_only=True)
class Synced:
    """What was found in the folders.

    Args:
        done: trials that were told, stopped, or marked failed.
        waiting: trials that are not finished yet.
        problems: (trial, why its folder could not be taken in).
    """

    done: tuple[Told, ...]
    waiting: tuple[int, ...]
    problems: tuple[tuple[int, str], ...]


def ask(search: Search) -> Handed:
    """A trial for this worker: one whose worker fell silent, or else a new one.

    Finished folders are taken in first, so that the proposal knows of them. Checkpoints are not
    evaluated then: an ask answers soon.

    Raises:
        ConfigError: if no recipe keeps the limits of the space, or its manifest cannot be made.
    """
    synced = _sync(search, evaluate=False)
    if synced.done:
        search.show()
    with search.lock():
        trial, asked, lease = _next(search)
    trial.hand_out(lease)
    return Handed(trial=trial, asked=asked, lease=lease, rung=trial.step, problems=synced.problems)


def sync(search: Search) -> Synced:
    """Take in what trainers have left in the trials' folders, and give up trials nobody finishes.

    A status file that changed is a sign of life: the trial is held for another period.
    """
    synced = _sync(search, evaluate=True)
    search.show(everything=True)
    return synced


def _sync(search: Search, *, evaluate: bool) -> Synced:
    done: list[Told] = []
    problems: list[tuple[int, str]] = []
    signs_of_life: dict[int, float] = {}
    trials = Trial.all(search)
    for trial in trials:
        if not (trial.folder / "status.json").is_file():
            continue
        try:
            told = _take_in(trial, evaluate=evaluate)
            changed = (trial.folder / "status.json").stat().st_mtime
            signs_of_life[trial.number] = changed
            done += [] if told is None else [told]
        except RlreadyError as error:
            problems.append((trial.number, str(error)))
            with contextlib.suppress(RlreadyError):
                if read_status(trial.folder).is_finished:
                    # It waits for a person; training it once more would not help.
                    signs_of_life[trial.number] = search.clock()
    with search.lock():
        waiting = [trial for trial in trials if not trial.frozen.state.is_finished()]
        for trial in waiting:
            _check_lease(trial, signs_of_life.get(trial.number))
    faulty = {number for number, _ in problems}
    numbers = [trial.number for trial in waiting if trial.number in signs_of_life]
    return Synced(
        done=tuple(done),
        waiting=tuple(number for number in numbers if number not in faulty),
        problems=tuple(problems),
    )


def _take_in(trial: Trial, *, evaluate: bool) -> Told | None:
    """What became of a trial by its folder, if that is new."""
    state = trial.frozen.state.name
    if state in ("COMPLETE", "PRUNED"):
        # Its worker was killed between telling the study and closing the folder.
        with contextlib.suppress(RlreadyError):
            if read_status(trial.folder).state in _OPEN:
                trial.close_folder()
        return None
    status = read_status(trial.folder)
    if status.state in _OPEN:
        return trial.take_in(status, evaluate=evaluate)
    if status.state == "failed" and state == "RUNNING":
        return trial.fail(status.error or "its trainer said so")
    return None


def _check_lease(trial: Trial, seen: float | None) -> None:
    """Extend the lease of a trial by a sign of life, or give the trial up after its retries."""
    config, lease = trial.search.config, trial.lease
    if lease is None:
        # Its worker was killed before it could write a lease, or used Optuna alone.
        lease = trial.hold("")
    if seen is not None and seen + config.lease_s > lease.deadline > RELEASED:
        lease = trial.hold(lease.worker, retries=lease.retries, until=seen + config.lease_s)
    if lease.deadline <= trial.search.clock() and lease.retries >= config.max_retries:
        trial.fail(f"no worker finished it, {lease.retries + 1} held it")


def _next(search: Search) -> tuple[Trial, Asked, Lease]:
    """A trial whose lease has run out, or a new one; the caller holds the study's lock."""
    config = search.config
    for trial in Trial.all(search):
        lease = trial.lease
        if lease is None or lease.deadline > search.clock():
            continue
        asked = trial.asked
        if asked is not None:
            return trial, asked, trial.hold(config.worker, retries=lease.retries + 1)
        trial.fail("its worker was gone before it had a recipe")
    asked = ask_study(search.study, search.space)
    trial = Trial(search, asked.number)
    return trial, asked, trial.hold(config.worker)
