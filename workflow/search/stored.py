"""Read the studies of a database for a report; nothing is asked, told or created."""

from __future__ import annotations

from pathlib import Path

import optuna
import sqlalchemy as sa

from rlready.predictors.search.space_file import SpaceFile
from rlready.predictors.search.study import open_study
from rlready.predictors.search.trials import SPACE_FILE
from rlready.registry.errors import ConfigError
from rlready.registry.redaction import redacted
from rlready.registry.toml_file import naming_file, read_toml_file
from rlready.workflow.search.open import open_database
from rlready.workflow.search.report import SearchReport, search_report


def stored_studies(storage: str) -> list[str]:
    """Return the names of the studies in a database; none if its SQLite file does not exist.

    Example:
        >>> stored_studies("sqlite:///search.db")  # doctest: +SKIP
        ['mix']
    """
    if storage.startswith("sqlite"):
        path = sa.make_url(storage).database or ""
        if not Path(path).is_file():
            return []
    return sorted(optuna.get_all_study_names(storage=open_database(storage)))


def stored_report(storage: str, name: str, space: Path | None = None) -> SearchReport:
    """Return the report of a stored study.

    Args:
        storage: URL of the study's database.
        name: name of the study.
        space: TOML file of its recipes; by default the file with which it was opened last.

    Raises:
        ConfigError: if there is no such study, its space file is not found or is another one, or
            fewer than two trials are finished.
    """
    names = stored_studies(storage)
    if name not in names:
        known = f"Studies there: {', '.join(names)}" if names else "It holds no study"
        raise ConfigError(
            f"there is no study {name!r} in {redacted(storage)}",
            fix=f"{known}. Give the database of the study as --storage",
        )
    database = open_database(storage)
    known_file = optuna.load_study(study_name=name, storage=database).user_attrs.get(SPACE_FILE)
    path = space or Path(known_file or f"{name}.toml")
    if not path.is_file():
        raise ConfigError(
            f"the space file of study {name!r} is not found: {path}",
            why="the surface needs the ranges of the recipes",
            fix="Give the TOML file as --space",
        )
    file = read_toml_file(path, SpaceFile)
    with naming_file(path):
        recipes, cost = file.recipe_space(), file.cost
    study, recipes = open_study(
        recipes,
        name=name,
        storage=database,
        directions=("maximize",) if cost is None else ("maximize", "minimize"),
    )
    return search_report(study, recipes, cost=cost)
