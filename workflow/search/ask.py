"""A recipe search with the user's trainer in it: ask and tell, by any number of workers.

The study's database says which trials there are and who holds them (`search_leases`); the trials'
folders are how a search and whoever trains talk (`search_folder`). No step needs the worker that
did the one before: what a killed one leaves is taken up by the next call of any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.predictors.search.study import Asked
from rlready.predictors.search.study import ask as ask_study
from rlready.registry.errors import RlreadyError
from rlready.workflow.search.folder import (
    manifest,
    read_status,
    recipe_toml,
    trial_folder,
    write_status,
    write_text,
)
from rlready.workflow.search.leases import Lease, asking
from rlready.workflow.search.open import MirrorTo, Search, SearchConfig, open_search
from rlready.workflow.search.trial import (
    Told,
    asked_before,
    fail,
    noted,
    tell,
    tell_status,
    trial_of,
    write_attributes,
)

__all__ = [
    "Handed",
    "MirrorTo",
    "Search",
    "SearchConfig",
    "Synced",
    "Told",
    "ask",
    "fail",
    "open_search",
    "settle",
    "sync",
    "tell",
]


@dataclass(frozen=True, kw_only=True)
class Handed:
    """A trial that a worker now holds.

    Args:
        asked: its recipe, and what is known of it.
        folder: where it lies.
        lease: until when it is held.
    """

    asked: Asked
    folder: Path
    lease: Lease

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
        }


@dataclass(frozen=True, kw_only=True)
class Synced:
    """What was found in the folders.

    Args:
        done: trials that were told, or marked failed.
        waiting: trials that nobody has finished yet.
        problems: (trial, why its folder could not be taken in).
    """

    done: tuple[Told, ...]
    waiting: tuple[int, ...]
    problems: tuple[tuple[int, str], ...]


def ask(search: Search) -> Handed:
    """A trial for this worker: one whose worker fell silent, or else a new one.

    Raises:
        ConfigError: if no recipe keeps the limits of the space, or its manifest cannot be made.
    """
    handed = _next(search.unmirrored)
    search.show()
    return handed


def sync(search: Search) -> Synced:
    """Take in what whoever trains has left in the trials' folders.

    A status file that changed is a sign of life: the trial is held for another period.
    """
    found = _taken_in(search.unmirrored)
    search.show(None)
    return found


def _taken_in(search: Search) -> Synced:
    done: list[Told] = []
    waiting: list[int] = []
    problems: list[tuple[int, str]] = []
    for number, folder in _open_folders(search).items():
        is_finished = False
        try:
            status = read_status(folder)
            is_finished = status.is_finished
            is_open = status.state in ("asked", "running")
            if is_finished:
                done.append(tell_status(search, number, status))
            elif is_open:
                waiting.append(number)
                search.leases.extend(number, (folder / "status.json").stat().st_mtime)
            elif status.state == "failed" and not trial_of(search, number).state.is_finished():
                done.append(fail(search, number, status.error or "its trainer said so"))
        except RlreadyError as error:
            problems.append((number, str(error)))
            if is_finished:
                # It waits for a person; training it once more would not help.
                search.leases.extend(number, search.leases.clock())
    return Synced(done=tuple(done), waiting=tuple(waiting), problems=tuple(problems))


def settle(search: Search) -> Synced:
    """Bring leases, folders and study into line; every ask begins with it."""
    found = _settled(search.unmirrored)
    search.show(None)
    return found


def _settled(search: Search) -> Synced:
    from optuna.trial import TrialState

    found = _taken_in(search)
    trials = search.study.get_trials(deepcopy=False)
    search.leases.adopt(t.number for t in trials if t.state == TrialState.RUNNING)
    for lease in search.leases.all():
        trial = trials[lease.trial]
        if trial.state == TrialState.COMPLETE:
            noted(search, Told(trial=trial.number, state="told", value=trial.values[0]))
        elif trial.state.is_finished():
            search.leases.close(trial.number)
    for lease in search.leases.spent():
        fail(search, lease.trial, f"no worker finished it, {lease.retries + 1} held it")
    return found


def _next(search: Search) -> Handed:
    _settled(search.hurried)
    while (lease := search.leases.take_expired(search.config.worker)) is not None:
        asked = asked_before(search, trial_of(search, lease.trial))
        if asked is not None:
            return _hand(search, asked, lease)
        # Killed while its recipe was drawn: there is nothing to offer.
        fail(search, lease.trial, "its worker was gone before it had a recipe")
    with asking(search.engine, search.study.study_name):
        asked = ask_study(search.study, search.space)
        lease = search.leases.take(asked.number, search.config.worker)
    return _hand(search, asked, lease)


def _open_folders(search: Search) -> dict[int, Path]:
    """Folders of trials that the study has no value of: of 10,000 the others need no look."""
    from optuna.trial import TrialState

    trials = search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL))
    folders = {trial.number: trial_folder(search.root, trial.number) for trial in trials}
    return {number: folder for number, folder in folders.items() if folder.is_dir()}


def _hand(search: Search, asked: Asked, lease: Lease) -> Handed:
    write_attributes(search, asked.number, {"rlready:worker": lease.worker})
    folder = trial_folder(search.root, asked.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.toml", recipe_toml(asked.recipe))
    if search.settings.data:
        import json

        rows = manifest(asked.recipe, search.settings.data, search.config.seed + asked.number)
        write_text(folder / "manifest.json", json.dumps(rows) + "\n")
    write_status(
        folder,
        study=search.study.study_name,
        trial=asked.number,
        state="asked",
        worker=lease.worker,
        deadline=lease.deadline,
        retries=lease.retries,
        recipe_digest=asked.recipe.digest,
        value=None,
        se=None,
        checkpoint=None,
        error=None,
    )
    return Handed(asked=asked, folder=folder, lease=lease)
