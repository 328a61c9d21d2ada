"""A search that is open: its study, its leases, its folders, and the registry's runs in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.study import (
    KnownRun,
    SamplerName,
    WarmStart,
    add_known_runs,
    open_study,
    trials_by_run,
)
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.search.leases import Leases, asking, open_storage
from rlready.workflow.search.mirror import A_FEW, Mirror
from rlready.workflow.search.registry import RegistryValues, differences
from rlready.workflow.search.settings import TOKENS, LoopSettings, read_settings

if TYPE_CHECKING:
    from optuna.study import Study

    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.workflow.progress import Clock

CHECKPOINT = "rlready:checkpoint"
"""Attribute of a trial: registered id of what it gave."""

UID = "rlready:uid"
"""Attribute of a study: an id that no other study has, whatever its name."""


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
class MirrorTo:
    """Where a search is shown.

    Args:
        store: the registry.
        is_wanted: False shows only a search that was shown there before.
        warn: told if the registry fails.
    """

    store: MlflowStore
    is_wanted: bool = True
    warn: Callable[[str], None] = lambda text: None


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
        settings: what the space file says beyond the recipes.
        mirror: keeps its runs in MLflow; None where nothing is mirrored.
        progress: shows what takes long.
        may_evaluate: whether a checkpoint that the registry does not know is evaluated now.
    """

    study: Study
    space: RecipeSpace
    leases: Leases
    engine: Any
    root: Path
    config: SearchConfig
    registry: RegistryValues | None
    warm_start: WarmStart
    settings: LoopSettings = field(default_factory=LoopSettings)
    mirror: Mirror | None = None
    progress: Clock | None = None
    may_evaluate: bool = True

    def show(self, at_most: int | None = A_FEW) -> None:
        """Bring MLflow into line with the study, as far as it is mirrored."""
        if self.mirror is not None:
            self.mirror.update(at_most)

    @property
    def unmirrored(self) -> Search:
        """The same search, for steps after which the caller mirrors them all at once."""
        return replace(self, mirror=None)

    @property
    def hurried(self) -> Search:
        """The same search for whoever asks: an ask answers soon, evaluating is for a sync."""
        return replace(self, mirror=None, may_evaluate=False)


def open_search(
    config: SearchConfig,
    registry: RegistryValues | None = None,
    *,
    mirror: MirrorTo | None = None,
    progress: Clock | None = None,
    clock: Callable[[], float] | None = None,
) -> Search:
    """A new search or the one of that name, with the registry's runs in it.

    Args:
        config: as it was called.
        registry: what it begins with, and what values checkpoints; None leaves it out.
        mirror: where its runs are shown; None: nowhere.
        progress: shows what takes long; None shows nothing.
        clock: seconds since 1970.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    space = RecipeSpace.from_toml(config.space)
    settings = read_settings(config.space)
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
            space,
            name=name,
            sampler=config.sampler,
            storage=storage,
            seed=config.seed,
            directions=("maximize",) if settings.cost is None else ("maximize", "minimize"),
        )
        if UID not in study.user_attrs:
            study.set_user_attr(UID, uuid.uuid4().hex)
        warm = _warm_start(study, space, registry, settings.cost)
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
        mirror=None
        if mirror is None
        else _mirror(mirror, study, leases, storage.engine, config, progress),
        settings=replace(settings, data={**settings.data, **config.data}),
        progress=progress,
    )


def _mirror(
    to: MirrorTo,
    study: Study,
    leases: Leases,
    engine: Any,
    config: SearchConfig,
    progress: Clock | None,
) -> Mirror | None:
    made = Mirror(
        to.store,
        study,
        leases,
        engine,
        uid=study.user_attrs[UID],
        facts={"study": study.study_name, "space": config.space.name, "sampler": config.sampler},
        warn=to.warn,
        progress=progress,
    )
    return made if to.is_wanted or made.is_begun else None


def _warm_start(
    study: Study, space: RecipeSpace, registry: RegistryValues | None, cost: str | None
) -> WarmStart:
    if registry is None:
        return WarmStart(n_added=0, n_known=0, left_out=())
    found = registry.runs()
    known, asked = trials_by_run(study), _asked_for(study)
    left_out: list[tuple[str, str]] = []
    recorded: list[KnownRun] = []
    fitting: dict[str, Recipe] = {}
    for run in found.recorded:
        number = None if run.name in known else _made_for(run.recipe, asked)
        if number is None:
            recorded.append(run)
        else:
            left_out.append((run.name, f"trial {number} asked for it, and is not told yet"))
    for name, recipe in found.open.items():
        try:
            if name not in known and _made_for(recipe, asked) is None:
                space.points(recipe)
                fitting[name] = recipe
        except ConfigError as error:
            left_out.append((name, error.what))
    foreseen, not_foreseen = registry.foreseen(fitting, found.target)
    runs = [*recorded, *foreseen]
    if cost is not None:
        runs = [_with_cost(run, space, cost) for run in runs]
    warm = add_known_runs(study, space, runs)
    return replace(warm, left_out=(*warm.left_out, *left_out, *not_foreseen))


def recipe_cost(space: RecipeSpace, recipe: Recipe, cost: str) -> float | None:
    """What a recipe itself says of its cost: its tokens, or a number of that name in it."""
    if cost == TOKENS:
        tokens = space.tokens(space.points(recipe))
        return None if tokens is None else float(tokens[0])
    found = recipe.extra.get(cost)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found)


def _with_cost(run: KnownRun, space: RecipeSpace, cost: str) -> KnownRun:
    try:
        found = recipe_cost(space, run.recipe, cost)
    except ConfigError:
        return run  # not of the space: told when it is entered
    if found is None:
        return replace(run, fault=f"its recipe has no {cost}, which is the search's cost")
    return replace(run, values=(*run.values, found), errors=run.errors and (*run.errors, 0.0))


def _asked_for(study: Study) -> dict[int, Recipe]:
    """The recipes of trials that are out: what they give enters when they are told."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    asked = {trial.number: trial.user_attrs.get("rlready:recipe") for trial in trials}
    return {number: Recipe.from_dict(values) for number, values in asked.items() if values}


def _made_for(recipe: Recipe, asked: Mapping[int, Recipe]) -> int | None:
    return next((n for n, wanted in asked.items() if not differences(wanted, recipe)), None)
