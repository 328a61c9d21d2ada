"""An open search: its study, the database of the study, its folder, and the registry's runs."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from rlready.evaluators.benchmarks.problems import BenchmarkSource
from rlready.predictors.search.rungs import Rungs
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import SpaceFile
from rlready.predictors.search.study import SamplerName, open_study
from rlready.predictors.search.trials import SOURCE_FILES, SPACE_FILE, UID, WarmStart
from rlready.predictors.search.values import public_notes
from rlready.registry.errors import ConfigError, StoreError
from rlready.registry.mlflow_store.backends import with_driver
from rlready.registry.mlflow_store.locks import advisory_lock, file_lock
from rlready.registry.redaction import redacted
from rlready.registry.toml_file import naming_file, read_toml_file
from rlready.workflow.search.evaluate_table import evaluate_settings
from rlready.workflow.search.local_data import benchmark_sources, local_sources
from rlready.workflow.search.manifest import Pools, open_pools
from rlready.workflow.search.manifest_rows import check_unchanged
from rlready.workflow.search.mirror import Mirror
from rlready.workflow.search.registry import RegistryValues
from rlready.workflow.search.sources import LocalSource, Scanner

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study

    from rlready.workflow.progress import Clock

_SQLITE_WAIT_S = 60.0
_ATTEMPTS = 5
_FIX = "Give sqlite:///search.db, or postgresql://user@host/name"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of a search that its caller chooses; the space file holds the others.

    Args:
        space: TOML file of the recipes.
        study: name of the study; default: the name of the space file.
        storage: URL of the study's database.
        sampler: what proposes recipes.
        folder: folder of the studies' folders.
        data: file of a source's rows, in place of its path in the space file.
        worker: name of the worker that asks.
        lease_s: how long a worker may be silent before its trial is offered again, in seconds.
        max_retries: how often a trial is offered again.
        seed: seed of proposals and manifests.
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
        name = self.name
        if not name or "/" in name or name.startswith(".") or not name.isprintable():
            raise ConfigError(
                f"{name!r} is not a name for a study",
                why="it names a folder too",
                fix="Name another with --study",
            )
        for folder in (self.folder, self.folder / name):
            if folder.exists() and not folder.is_dir():
                raise ConfigError(
                    f"{folder} is a file, and the trials need a folder of this name",
                    fix="Name another folder with --out, or move the file",
                )

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study or self.space.stem


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """An open search. Use `open_search` to make one.

    Args:
        config: settings that the caller chose.
        name: name of the study.
        root: folder of the trials' folders.
        space: the recipes, in the coordinates of the study.
        rungs: steps after which trials are measured; None: only at their end.
        data: the sources whose rows are in a file here.
        benchmarks: benchmarks with which their rows must not overlap.
        max_overlap: largest share of the rows of a file that may overlap with them.
        cost: name of the second objective; None: there is one objective.
        evaluate: fields of `EvaluateConfig` for trained folders; None: the search evaluates none.
        study: the study of Optuna.
        study_id: id of the study in its storage.
        storage: the storage of the study.
        engine: the database of the storage.
        registry: source of finished runs and checkpoint values; None: the registry is not read.
        warm_start: how the registry's runs entered the study.
        mirror: shows trials in MLflow; None: they are not shown.
        progress: shows long work; None shows nothing.
        clock: returns seconds since 1970.
    """

    config: SearchConfig
    name: str
    root: Path
    space: RecipeSpace
    rungs: Rungs | None
    data: tuple[LocalSource, ...]
    benchmarks: tuple[BenchmarkSource, ...]
    max_overlap: float
    cost: str | None
    evaluate: Mapping[str, Any] | None
    study: Study
    study_id: int
    storage: BaseStorage
    engine: sa.Engine
    registry: RegistryValues | None
    warm_start: WarmStart
    mirror: Mirror | None
    progress: Clock | None
    clock: Callable[[], float]

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep other workers of the study from asking, claiming and telling."""
        return study_lock(self.engine, self.name)

    @cached_property
    def pools(self) -> Pools | None:
        """The rows of the local sources; None if there are none.

        Raises:
            ConfigError: if a file cannot be used, or has changed since the study's first trial.
        """
        if not self.data:
            return None
        base = Path(self.space.fixed.base_model or "")
        has_lengths = "length_filter" in {
            *self.space.fixed.extra,
            *(a.name for a in self.space.axes),
        }
        scanner = Scanner(
            folder=self.root / "sources",
            benchmarks=self.benchmarks,
            tokenizer=base if has_lengths and (base / "tokenizer_config.json").is_file() else None,
            say=self.say,
        )
        pools = open_pools(self.data, self.space, scanner, self.max_overlap)
        with self.lock():
            files = dict(self.study.user_attrs.get(SOURCE_FILES, {}))
            for source in self.data:
                sha256 = files.setdefault(source.name, pools.pools[source.name].file.sha256)
                check_unchanged(source.name, source.path, sha256, scanner.folder)
            if files != self.study.user_attrs.get(SOURCE_FILES):
                self.study.set_user_attr(SOURCE_FILES, files)
        for pool in pools.pools.values():
            self.say(pool.summary())
        return pools

    def enter_registry(self) -> None:
        """Enter the registry's runs as they are now. The caller must hold the study's lock."""
        if self.registry is not None:
            self.registry.warm_start(self.study, self.space, self.cost)

    @property
    def notes(self) -> list[str]:
        """What a reader must know about values from public outcomes."""
        return public_notes(self.study)

    def say(self, text: str) -> None:
        """Show a line of progress, if anything shows it."""
        if self.progress is not None:
            self.progress.say(text)

    def show(self, *, everything: bool = False) -> None:
        """Write ended trials to MLflow, if the search is shown there (`Mirror.update`)."""
        if self.mirror is not None:
            facts = {"study": self.name, "space": self.config.space.name}
            facts["sampler"] = self.config.sampler
            self.mirror.update(self.study, facts, everything=everything)


def open_search(
    config: SearchConfig,
    registry: RegistryValues | None = None,
    *,
    mirror: Mirror | None = None,
    progress: Clock | None = None,
    clock: Callable[[], float] = time.time,
) -> Search:
    """Open the search of that name, or a new one, and add the registry's runs to it.

    Args:
        config: settings that the caller chose.
        registry: source of finished runs and checkpoint values; None: the registry is not read.
        mirror: shows trials in MLflow; None: they are not shown.
        progress: shows long work; None shows nothing.
        clock: returns seconds since 1970.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    file = _space_file(config.space)
    folder = config.space.resolve().parent
    with naming_file(config.space):
        space, rungs, cost = file.recipe_space(), file.rungs, file.cost
        evaluate = None if file.evaluate is None else evaluate_settings(file.evaluate, folder)
    unknown_sources = sorted(config.data.keys() - file.sources.keys())
    if unknown_sources:
        raise ConfigError(
            f"--data names {', '.join(unknown_sources)}, not a source of the space",
            fix=f"Sources: {', '.join(sorted(file.sources))}",
        )
    if rungs is not None and cost is not None:
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
            directions=("maximize",) if cost is None else ("maximize", "minimize"),
        )
        if rungs is not None:
            study.pruner = rungs.make_pruner()
        if UID not in study.user_attrs:
            study.set_user_attr(UID, uuid.uuid4().hex)
        space_file = str(config.space.resolve())
        if study.user_attrs.get(SPACE_FILE) != space_file:
            study.set_user_attr(SPACE_FILE, space_file)
        entered = WarmStart(n_added=0, n_known=0, left_out=())
        if registry is not None:
            entered = registry.warm_start(study, space, cost)
    is_shown = mirror is not None and mirror.shows(study)
    return Search(
        config=config,
        name=config.name,
        root=config.folder / config.name,
        space=space,
        rungs=rungs,
        data=local_sources(file, space, folder, config.data),
        benchmarks=benchmark_sources(file, evaluate or {}, folder),
        max_overlap=file.decontaminate.max_share,
        cost=cost,
        evaluate=evaluate,
        study=study,
        study_id=storage.get_study_id_from_name(config.name),
        storage=storage,
        engine=database.engine,
        registry=registry,
        warm_start=entered,
        mirror=mirror if is_shown else None,
        progress=progress,
        clock=clock,
    )


def _space_file(path: Path) -> SpaceFile:
    if not path.exists():
        raise ConfigError(
            f"the space file {path} does not exist",
            fix=f"Name yours with --space, or write one: rlready search init {path}",
        )
    return read_toml_file(path, SpaceFile)


def open_database(url: str) -> RDBStorage:
    """Open the database of a study by its URL.

    Raises:
        ConfigError: if the URL is neither SQLite's nor PostgreSQL's, or the database is MLflow's.
        StoreError: if it cannot be opened, or its driver is not installed.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"the storage {redacted(url)!r} is not a database that workers can share", fix=_FIX
        )
    # Writers of one SQLite file wait for each other; connections to a server may be closed by it.
    settings: dict[str, Any] = {"connect_args": {"timeout": _SQLITE_WAIT_S}}
    if scheme == "postgresql":
        settings = {"pool_pre_ping": True, "pool_size": 2}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = with_driver(_checked_url(url))
    _check_not_mlflow(url)
    for attempt in range(_ATTEMPTS):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=settings)
        except ImportError as error:
            raise StoreError(
                f"the storage {redacted(url)} cannot be opened",
                why="no driver for PostgreSQL is installed",
                fix="Install psycopg2-binary",
            ) from error
        except SQLAlchemyError as error:
            # If several workers create the tables at the same time, all but one of them fail once.
            if attempt == _ATTEMPTS - 1:
                raise StoreError(
                    f"the storage {redacted(url)} cannot be opened",
                    why=redacted(str(error), url).partition("\n")[0],
                    fix="Correct --storage, or start its server",
                ) from error
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError("unreachable")


def study_lock(engine: sa.Engine, study: str) -> contextlib.AbstractContextManager[None]:
    """Let one worker at a time ask for recipes of a study, claim its trials and tell values.

    The lock ends with the process that holds it. A process must not take it twice.
    """
    database = engine.url.database
    if engine.dialect.name == "postgresql":
        return advisory_lock(engine, f"rlready-search:{study}")
    if database and database != ":memory:":
        return file_lock(Path(f"{database}.lock"))
    return contextlib.nullcontext()


def _check_not_mlflow(url: str) -> None:
    """Check that the database is not MLflow's.

    Raises:
        ConfigError: if it is. MLflow and Optuna both write the version of their schema to a table
            `alembic_version`, and each stops if it reads the version of the other.
    """
    try:
        engine = sa.create_engine(url)
        tables = set(sa.inspect(engine).get_table_names())
        engine.dispose()
    except (ImportError, SQLAlchemyError):
        return  # Optuna meets the same error, and `open_database` reports it
    if "experiments" in tables and "studies" not in tables:
        raise ConfigError(
            f"the storage {redacted(url)} is MLflow's database",
            why="MLflow and Optuna both keep a table alembic_version",
            fix="Name another file, or another database on the same server",
        )


def _checked_url(url: str) -> str:
    """Return a valid URL; for SQLite without the query, which its driver ignores."""
    try:
        parts = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"the storage {redacted(url)!r} cannot be read", why=redacted(str(error), url), fix=_FIX
        ) from None  # the text of the cause would show the URL
    is_sqlite = parts.get_backend_name() == "sqlite"
    if is_sqlite and parts.database in (None, "", ":memory:"):
        raise ConfigError(
            f"the storage {url!r} names no file",
            why="a database in memory ends with this command, and its study with it",
            fix=_FIX,
        )
    if is_sqlite and "uri" not in parts.query:
        return parts.set(query={}).render_as_string(hide_password=False)
    return url
