"""An open search: its study, its folder, and the registry's runs in it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.predictors.search.rungs import Rungs
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import SpaceFile
from rlready.predictors.search.study import (
    KnownRun,
    SamplerName,
    WarmStart,
    add_known_runs,
    open_study,
)
from rlready.predictors.search.trials import RECIPE, STOPPED, UID, trials_by_checkpoint
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.registry.toml_file import naming_file, read_toml_file
from rlready.workflow.search.database import open_database, study_lock
from rlready.workflow.search.mirror import Mirror, MirrorTo, open_mirror
from rlready.workflow.search.registry import RegistryValues, differences
from rlready.workflow.search.settings import TOKENS, LoopSettings, loop_settings

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from sqlalchemy import Engine

    from rlready.workflow.progress import Clock


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

    def __post_init__(self) -> None:
        if not self.lease_s > 0.0 or self.max_retries < 0:
            raise ConfigError(
                f"a lease of {self.lease_s:g} s with {self.max_retries} retries",
                fix="Give a positive period, and 0 retries or more",
            )
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigError(
                f"{self.name!r} is not a name for a study", fix="It names a folder too"
            )

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study or self.space.stem


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """An open search; made by `open_search`.

    Args:
        config: as it was called.
        settings: what the space file says beyond the recipes.
        rungs: after which steps trials are measured; None if only at their end.
        study: of Optuna.
        storage: of the study.
        engine: of the study's database.
        space: the study's recipes.
        registry: None where nothing is asked of it.
        warm_start: what became of the registry's rows.
        mirror: shows trials in MLflow; None where nothing is shown.
        progress: shows what takes long.
        clock: seconds since 1970.
    """

    config: SearchConfig
    settings: LoopSettings
    rungs: Rungs | None
    study: Study
    storage: BaseStorage
    engine: Engine
    space: RecipeSpace
    registry: RegistryValues | None
    warm_start: WarmStart
    mirror: Mirror | None
    progress: Clock | None
    clock: Callable[[], float]

    @property
    def root(self) -> Path:
        """Folder of the trials' folders."""
        return self.config.folder / self.config.name

    def trial_id(self, number: int) -> int:
        """Id of a trial in the storage.

        Raises:
            KeyError: if there is no such trial.
        """
        study_id = self.storage.get_study_id_from_name(self.config.name)
        return int(self.storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def lock(self) -> AbstractContextManager[None]:
        """Keep other workers of the study from asking, claiming and telling."""
        return study_lock(self.engine, self.config.name)

    def show(self, *, everything: bool = False) -> None:
        """Write ended trials to MLflow, as far as the search is shown there (`Mirror.update`)."""
        if self.mirror is not None:
            self.mirror.update(everything=everything)


def open_search(
    config: SearchConfig,
    registry: RegistryValues | None = None,
    *,
    mirror: MirrorTo | None = None,
    progress: Clock | None = None,
    clock: Callable[[], float] = time.time,
) -> Search:
    """A new search or the one of that name, with the registry's runs in it.

    Args:
        config: as it was called.
        registry: where it finds finished runs and the values of checkpoints; None leaves it out.
        mirror: where its trials are shown; None: nowhere.
        progress: shows what takes long; None shows nothing.
        clock: seconds since 1970.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    import optuna

    file = read_toml_file(config.space, SpaceFile)
    with naming_file(config.space):
        space, rungs = file.recipe_space(), file.rungs
    settings = _settings(config, space, file)
    if rungs is not None and settings.cost is not None:
        raise ConfigError(
            "the space file has rungs and a cost",
            why="a pruner compares trials by one outcome",
            fix="Leave one of them out",
        )
    database = open_database(config.storage)
    storage = optuna.storages.get_storage(database)
    with study_lock(database.engine, config.name):
        study, space = open_study(
            space,
            name=config.name,
            sampler=config.sampler,
            storage=storage,
            seed=config.seed,
            directions=("maximize",) if settings.cost is None else ("maximize", "minimize"),
        )
        if rungs is not None:
            study.pruner = rungs.make_pruner()
        if UID not in study.user_attrs:
            study.set_user_attr(UID, uuid.uuid4().hex)
        warm_start = _warm_start(study, space, registry, settings.cost)
    facts = {"study": config.name, "space": config.space.name, "sampler": config.sampler}
    return Search(
        config=config,
        settings=settings,
        rungs=rungs,
        study=study,
        storage=storage,
        engine=database.engine,
        space=space,
        registry=registry,
        warm_start=warm_start,
        mirror=open_mirror(mirror, study, facts, progress),
        progress=progress,
        clock=clock,
    )


def _settings(config: SearchConfig, space: RecipeSpace, file: SpaceFile) -> LoopSettings:
    """The settings of the space file, with the data that the caller names.

    Raises:
        ConfigError: if the caller names data of a source that the space does not have.
    """
    settings = loop_settings(file, config.space)
    names = {source.name for source in space.sources}
    unknown = sorted(set(config.data) - names)
    if unknown:
        raise ConfigError(
            f"--data names {', '.join(unknown)}, not a source of the space",
            fix=f"Sources: {', '.join(sorted(names))}",
        )
    return replace(settings, data={**settings.data, **config.data})


def _warm_start(
    study: Study, space: RecipeSpace, registry: RegistryValues | None, cost: str | None
) -> WarmStart:
    """Enter the registry's runs as finished trials, with their outcome or its prediction."""
    if registry is None:
        return WarmStart(n_added=0, n_known=0, left_out=())
    rows = registry.runs()
    entered, asked = trials_by_checkpoint(study), _asked_recipes(study)
    left_out: list[tuple[str, str]] = []
    runs: list[KnownRun] = []
    unknown: dict[str, Recipe] = {}
    for run in rows.recorded:
        number = None if run.name in entered else _trial_of_recipe(run.recipe, asked)
        if number is None:
            runs.append(run)
        else:
            left_out.append((run.name, f"trial {number} asked for it, and is not told yet"))
    for name, recipe in rows.open.items():
        try:
            if name not in entered and _trial_of_recipe(recipe, asked) is None:
                space.points(recipe)
                unknown[name] = recipe
        except ConfigError as error:
            left_out.append((name, error.what))
    predicted, unpredictable = registry.foreseen(unknown, rows.target)
    runs += predicted
    if cost is not None:
        runs = [_with_cost(run, space, cost) for run in runs]
    warm_start = add_known_runs(study, space, runs)
    return replace(warm_start, left_out=(*warm_start.left_out, *left_out, *unpredictable))


def recipe_cost(space: RecipeSpace, recipe: Recipe, cost: str) -> float | None:
    """The cost that follows from a recipe: its tokens, or a number of that name in it."""
    if cost == TOKENS:
        tokens = space.tokens(space.points(recipe))
        return None if tokens is None else float(tokens[0])
    number = recipe.extra.get(cost)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number)


def _with_cost(run: KnownRun, space: RecipeSpace, cost: str) -> KnownRun:
    try:
        number = recipe_cost(space, run.recipe, cost)
    except ConfigError:
        return run  # not in the space, which is reported when it is entered
    if number is None:
        return replace(run, fault=f"its recipe has no {cost}, which is the search's cost")
    return replace(run, values=(*run.values, number), errors=run.errors and (*run.errors, 0.0))


def _asked_recipes(study: Study) -> dict[int, Recipe]:
    """The recipes of running and stopped trials, whose outcomes enter when they are told."""
    from optuna.trial import TrialState

    states = (TrialState.RUNNING, TrialState.PRUNED)
    return {
        trial.number: Recipe.from_dict(trial.user_attrs[RECIPE])
        for trial in study.get_trials(deepcopy=False, states=states)
        if RECIPE in trial.user_attrs
        and (trial.state == TrialState.RUNNING or STOPPED in trial.user_attrs)
    }


def _trial_of_recipe(recipe: Recipe, asked: Mapping[int, Recipe]) -> int | None:
    return next((number for number, one in asked.items() if not differences(one, recipe)), None)
