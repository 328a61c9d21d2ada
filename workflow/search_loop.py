"""A recipe search with the user's trainer in it: ask and tell, by any number of workers.

The study's database says which trials there are and who holds them (`search_leases`); the trials'
folders are how a search and whoever trains talk (`search_folder`). No step needs the worker that
did the one before: what a killed one leaves is taken up by the next call of any of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.predictors.recipes import RecipeSpace
from rlready.predictors.search import Asked, SamplerName, WarmStart, add_known_runs, open_study
from rlready.predictors.search import ask as ask_study
from rlready.registry.errors import ConfigError, RlreadyError
from rlready.registry.records import Recipe
from rlready.workflow.search_folder import (
    manifest,
    read_status,
    recipe_toml,
    trial_folder,
    write_status,
    write_text,
)
from rlready.workflow.search_leases import Lease, Leases, asking, open_storage
from rlready.workflow.search_registry import Measured, RegistryValues

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_CHECKPOINT = "rlready:checkpoint"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What a search is called with.

    Args:
        space: TOML file of the recipes.
        study: its name; default: the file's.
        storage: URL of the study's database.
        sampler: who proposes.
        folder: where the studies' folders go.
        data: JSONL file of each source that is local.
        worker: who asks; default: host and process.
        lease_s: how long a worker may keep silent, seconds.
        max_retries: how often a trial is offered again.
        seed: of proposals and manifests.
    """

    space: Path
    study: str | None = None
    storage: str = "sqlite:///search.db"
    sampler: SamplerName = "surrogate"
    folder: Path = Path("search")
    data: Mapping[str, Path] = field(default_factory=dict)
    worker: str = ""
    lease_s: float = 86_400.0
    max_retries: int = 2
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """An open search; made by `open_search`.

    Args:
        study: of Optuna.
        space: its recipes.
        leases: who works on what.
        engine: of the study's database.
        root: folder of its trials.
        config: as it was called.
        registry: None where nothing is asked of it.
        warm_start: what became of the registry's rows.
    """

    study: Study
    space: RecipeSpace
    leases: Leases
    engine: Any
    root: Path
    config: SearchConfig
    registry: RegistryValues | None
    warm_start: WarmStart


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
class Told:
    """What became of a trial.

    Args:
        trial: its number.
        state: "told" or "failed".
        value: what the study was told.
        se: its standard error.
        checkpoint: registered id, where the value came from the registry.
        reason: why it failed.
        is_new: False if the study knew.
    """

    trial: int
    state: str
    value: float | None = None
    se: float | None = None
    checkpoint: str | None = None
    reason: str = ""
    is_new: bool = True


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


def open_search(
    config: SearchConfig,
    registry: RegistryValues | None = None,
    *,
    clock: Callable[[], float] | None = None,
) -> Search:
    """A new search or the one of that name, with the registry's runs in it.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    space = RecipeSpace.from_toml(config.space)
    known = {source.name for source in space.sources}
    unknown = sorted(set(config.data) - known)
    if unknown:
        raise ConfigError(
            f"--data names {', '.join(unknown)}, no source of the space",
            fix=f"Sources: {', '.join(sorted(known))}",
        )
    name = config.study or config.space.stem
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"{name!r} is no name for a study", fix="It names a folder too")
    storage = open_storage(config.storage)
    with asking(storage.engine, name):
        study, space = open_study(
            space, name=name, sampler=config.sampler, storage=storage, seed=config.seed
        )
        warm = _warm_start(study, space, registry)
    leases = Leases(
        storage.engine,
        name,
        period_s=config.lease_s,
        max_retries=config.max_retries,
        **({} if clock is None else {"clock": clock}),
    )
    return Search(
        study=study,
        space=space,
        leases=leases,
        engine=storage.engine,
        root=config.folder / name,
        config=config,
        registry=registry,
        warm_start=warm,
    )


def ask(search: Search) -> Handed:
    """A trial for this worker: one whose worker fell silent, or else a new one.

    Raises:
        ConfigError: if no recipe keeps the limits of the space, or its manifest cannot be made.
    """
    settle(search)
    while (lease := search.leases.take_expired(search.config.worker)) is not None:
        asked = _asked_before(search, _trial(search, lease.trial))
        if asked is not None:
            return _hand(search, asked, lease)
        # Killed while its recipe was drawn: there is nothing to offer.
        fail(search, lease.trial, "its worker was gone before it had a recipe")
    with asking(search.engine, search.study.study_name):
        asked = ask_study(search.study, search.space)
        lease = search.leases.take(asked.number, search.config.worker)
    return _hand(search, asked, lease)


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
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = _trial(search, number)
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
        _write_attributes(search, trial, told)
        # Another may tell it between our look and now.
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            search.study.tell(number, value)
            return _noted(search, told)
        trial = _trial(search, number)
    if trial.state != TrialState.COMPLETE:
        return _noted(search, _enter_again(search, trial, told))
    if trial.value is not None and math.isclose(trial.value, value, rel_tol=1e-9):
        return _noted(search, replace(told, is_new=False))
    raise ConfigError(
        f"trial {number} was told {trial.value:.6g} before, now {value:.6g}",
        fix="A trial has one value; record a second measurement in the registry",
    )


def sync(search: Search) -> Synced:
    """Take in what whoever trains has left in the trials' folders.

    A status file that changed is a sign of life: the trial is held for another period.
    """
    done: list[Told] = []
    waiting: list[int] = []
    problems: list[tuple[int, str]] = []
    for number, folder in _open_folders(search).items():
        is_finished = False
        try:
            status = read_status(folder)
            is_finished = status.is_finished
            if is_finished:
                done.append(
                    tell(
                        search,
                        number,
                        value=status.value,
                        se=status.se,
                        checkpoint=status.checkpoint if status.value is None else None,
                    )
                )
            elif status.state in ("asked", "running"):
                waiting.append(number)
                search.leases.extend(number, (folder / "status.json").stat().st_mtime)
            elif status.state == "failed" and not _trial(search, number).state.is_finished():
                done.append(fail(search, number, status.error or "its trainer said so"))
        except RlreadyError as error:
            problems.append((number, str(error)))
            if is_finished:
                # It waits for a person; training it once more would not help.
                search.leases.extend(number, search.leases.clock())
    return Synced(done=tuple(done), waiting=tuple(waiting), problems=tuple(problems))


def settle(search: Search) -> Synced:
    """Bring leases, folders and study into line; every ask begins with it."""
    from optuna.trial import TrialState

    found = sync(search)
    trials = search.study.get_trials(deepcopy=False)
    search.leases.adopt(t.number for t in trials if t.state == TrialState.RUNNING)
    for lease in search.leases.all():
        trial = trials[lease.trial]
        if trial.state == TrialState.COMPLETE:
            _noted(search, Told(trial=trial.number, state="told", value=trial.value))
        elif trial.state.is_finished():
            search.leases.close(trial.number)
    for lease in search.leases.spent():
        fail(search, lease.trial, f"no worker finished it, {lease.retries + 1} held it")
    return found


def _open_folders(search: Search) -> dict[int, Path]:
    """Folders of trials that the study has no value of: of 10,000 the others need no look."""
    from optuna.trial import TrialState

    trials = search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL))
    folders = {trial.number: trial_folder(search.root, trial.number) for trial in trials}
    return {number: folder for number, folder in folders.items() if folder.is_dir()}


def _warm_start(study: Study, space: RecipeSpace, registry: RegistryValues | None) -> WarmStart:
    if registry is None:
        return WarmStart(n_added=0, n_known=0, left_out=())
    told = {trial.user_attrs.get(_CHECKPOINT) for trial in study.get_trials(deepcopy=False)}
    # What a trial gave is a trial already.
    return add_known_runs(
        study, space, [run for run in registry.known_runs() if run.name not in told]
    )


def _hand(search: Search, asked: Asked, lease: Lease) -> Handed:
    folder = trial_folder(search.root, asked.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.toml", recipe_toml(asked.recipe))
    if search.config.data:
        import json

        rows = manifest(asked.recipe, search.config.data, search.config.seed + asked.number)
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


def _asked_before(search: Search, trial: FrozenTrial) -> Asked | None:
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


def _trial(search: Search, number: int) -> FrozenTrial:
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


def _measured(search: Search, trial: FrozenTrial, checkpoint: str) -> Measured:
    if search.registry is None:
        raise ConfigError(
            f"checkpoint {checkpoint} has no value without the registry",
            fix="Leave --cold out, or give --value",
        )
    asked = _asked_before(search, trial)
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


def _attributes(told: Told) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if told.se is not None:
        found["rlready:errors"] = [told.se]
    if told.checkpoint is not None:
        found[_CHECKPOINT] = told.checkpoint
    return found


def _write_attributes(search: Search, trial: FrozenTrial, told: Told) -> None:
    from optuna.exceptions import UpdateFinishedTrialError

    # `Trial.set_user_attr` needs the asking process; the storage takes it from any.
    with contextlib.suppress(UpdateFinishedTrialError):
        for key, value in _attributes(told).items():
            search.study._storage.set_trial_user_attr(trial._trial_id, key, value)


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
            user_attrs={**trial.user_attrs, **_attributes(told), "rlready:late": late},
            constraints=trial.constraints,
        )
    )
    return told


def _noted(search: Search, told: Told) -> Told:
    """Close the lease and say it in the folder; a kill before this is mended by `settle`."""
    search.leases.close(told.trial)
    folder = trial_folder(search.root, told.trial)
    if folder.is_dir():
        write_status(folder, state=told.state, told=told.value, error=told.reason or None)
    return told


def fail(search: Search, number: int, reason: str) -> Told:
    """The trial is marked failed, with the reason, unless it is finished."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = _trial(search, number)
    with contextlib.suppress(UpdateFinishedTrialError, ValueError):
        search.study._storage.set_trial_user_attr(trial._trial_id, "rlready:failed", reason)
        search.study.tell(number, state=TrialState.FAIL)
    return _noted(search, Told(trial=number, state="failed", reason=reason))
