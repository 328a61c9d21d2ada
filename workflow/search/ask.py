"""Ask for trials and take in their results, by any number of workers.

The study says which trials there are and who holds them; the trials' folders are how a search and
the trainer talk. No step needs the worker that did the one before: what a killed one leaves is
taken up by the next call of any of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from rlready.registry.errors import RlreadyError
from rlready.workflow.search.folder import read_status
from rlready.workflow.search.open import Search
from rlready.workflow.search.trial import Told, Trial


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


def ask(search: Search) -> Trial:
    """A trial for this worker: one whose worker fell silent, or else a new one.

    Finished folders are taken in first, so that the proposal knows of them.

    Raises:
        ConfigError: if no recipe keeps the limits of the space, or its manifest cannot be made.
    """
    sync(search, evaluate=False)
    return Trial.next(search)


def sync(search: Search, *, evaluate: bool = True) -> Synced:
    """Take in what trainers have left in the trials' folders, and give up trials nobody finishes.

    A status file that changed is a sign of life: the trial is held for another period.

    Args:
        search: that is brought up to date.
        evaluate: whether checkpoints that the registry does not know are evaluated, and MLflow is
            brought up to date in full. That may take long.
    """
    done: list[Told] = []
    problems: dict[int, str] = {}
    signs_of_life: dict[int, float] = {}
    trials = Trial.all(search)
    for trial in trials:
        status_file = trial.folder / "status.json"
        if not status_file.is_file():
            continue
        try:
            told = trial.sync(evaluate=evaluate)
            done += [] if told is None else [told]
            signs_of_life[trial.number] = status_file.stat().st_mtime
        except RlreadyError as error:
            problems[trial.number] = str(error)
            with contextlib.suppress(RlreadyError):
                if read_status(trial.folder).is_finished:
                    # It waits for a person; training it once more would not help.
                    signs_of_life[trial.number] = search.clock()
    with search.lock():
        open_trials = [trial for trial in trials if not trial.frozen.state.is_finished()]
        for trial in open_trials:
            trial.check_lease(signs_of_life.get(trial.number))
    if done or evaluate:
        search.show(everything=evaluate)
    waiting = [t.number for t in open_trials if t.number in signs_of_life.keys() - problems.keys()]
    return Synced(done=tuple(done), waiting=tuple(waiting), problems=tuple(problems.items()))
