"""A search that is open: its study, its leases, its folders, and the registry's runs in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.predictors.ladder import Ladder
from rlready.predictors.recipes import RecipeSpace
from rlready.predictors.search import SamplerName, WarmStart, add_known_runs, open_study
from rlready.registry.errors import ConfigError
from rlready.workflow.search_leases import Leases, asking, open_storage
from rlready.workflow.search_mirror import A_FEW, Mirror
from rlready.workflow.search_registry import RegistryValues
from rlready.workflow.search_rungs import ladder_of

if TYPE_CHECKING:
    from optuna.study import Study

    from rlready.registry.mlflow_store import MlflowStore
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
        progress: shows long writing.
    """

    store: MlflowStore
    is_wanted: bool = True
    warn: Callable[[str], None] = lambda text: None
    progress: Clock | None = None


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
        mirror: keeps its runs in MLflow; None where nothing is mirrored.
        ladder: that its trials climb; None where they are trained in one go.
    """

    study: Study
    space: RecipeSpace
    leases: Leases
    engine: Any
    root: Path
    config: SearchConfig
    registry: RegistryValues | None
    warm_start: WarmStart
    mirror: Mirror | None = None
    ladder: Ladder | None = None

    def show(self, at_most: int | None = A_FEW) -> None:
        """Bring MLflow into line with the study, as far as it is mirrored."""
        if self.mirror is not None:
            self.mirror.update(at_most)

    @property
    def unmirrored(self) -> Search:
        """The same search, for steps after which the caller mirrors them all at once."""
        return replace(self, mirror=None)


def open_search(
    config: SearchConfig,
    registry: RegistryValues | None = None,
    *,
    mirror: MirrorTo | None = None,
    clock: Callable[[], float] | None = None,
) -> Search:
    """A new search or the one of that name, with the registry's runs in it.

    Args:
        config: as it was called.
        registry: what it begins with, and what values checkpoints; None leaves it out.
        mirror: where its runs are shown; None: nowhere.
        clock: seconds since 1970.

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
        if UID not in study.user_attrs:
            study.set_user_attr(UID, uuid.uuid4().hex)
        warm = _warm_start(study, space, registry)
        ladder = ladder_of(study, config.space, None if registry is None else registry.store)
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
        mirror=None if mirror is None else _mirror(mirror, study, leases, storage.engine, config),
        ladder=ladder,
    )


def _mirror(
    to: MirrorTo, study: Study, leases: Leases, engine: Any, config: SearchConfig
) -> Mirror | None:
    made = Mirror(
        to.store,
        study,
        leases,
        engine,
        uid=study.user_attrs[UID],
        facts={"study": study.study_name, "space": config.space.name, "sampler": config.sampler},
        warn=to.warn,
        progress=to.progress,
    )
    return made if to.is_wanted or made.is_begun else None


def _warm_start(study: Study, space: RecipeSpace, registry: RegistryValues | None) -> WarmStart:
    if registry is None:
        return WarmStart(n_added=0, n_known=0, left_out=())
    told = {trial.user_attrs.get(CHECKPOINT) for trial in study.get_trials(deepcopy=False)}
    # What a trial gave is a trial already.
    return add_known_runs(
        study, space, [run for run in registry.known_runs() if run.name not in told]
    )
