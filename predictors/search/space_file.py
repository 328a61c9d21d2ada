"""The space file: one TOML file that describes a search.

    token_budget = 2.0e8
    [recipe]
    base_model = "org/base"
    [sources.gsm8k]
    mean_tokens = 310
    [learning_rate]
    low = 1e-6
    high = 1e-4

`space_template.toml` has every key with a comment; `rlready search init` writes it to a file.
An axis is a range (`low`, `high`, optional `log`, `int`) or a list of `choices`. `cost`, [rungs],
[evaluate], [decontaminate] and the files of sources do not change the recipes: `workflow/search`
uses them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from rlready.predictors.search.rungs import Rungs
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import (
    LOSS_WEIGHTINGS,
    RECIPE_FIELDS,
    Axis,
    Parametrisation,
    Source,
)
from rlready.registry.errors import ConfigError, RecordError
from rlready.registry.records import Recipe
from rlready.registry.toml_file import TomlTable, check_table, naming_file, read_toml_file

_TEMPLATE = Path(__file__).with_name("space_template.toml")
_FILTERS = ("length_filter", "difficulty_filter")
_NAMED_AXES = (*RECIPE_FIELDS, *_FILTERS)
_LOG_BY_DEFAULT = ("n_unique", "epochs", "learning_rate", "batch_size")
_INT_BY_DEFAULT = ("n_unique", "batch_size")
_RANGE = re.compile(r"([0-9.]*)-([0-9.]*)")


def _checked_choice(choice: Any) -> Any:
    if not isinstance(choice, str | int | float):
        raise ValueError("Choices are texts, numbers, true or false")
    if isinstance(choice, float) and not math.isfinite(choice):
        raise ValueError("It should be a finite number")
    return choice


Positive = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]


class SourceTable(TomlTable):
    """A table [sources.NAME]."""

    available_tokens: Positive | None = None
    mean_tokens: Positive | None = None
    floor: float = 0.0
    cap: float = 1.0
    max_repetitions: Positive | None = None
    path: Text | None = None
    fields: dict[str, Text] = Field(default={})
    pass_rate: Text | None = None
    counts: Text | None = None


class DecontaminateTable(TomlTable):
    """The table [decontaminate]."""

    benchmarks: list[Text] | None = None
    max_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1


class AxisTable(TomlTable):
    """A table of a searched setting."""

    low: float | None = None
    high: float | None = None
    is_log: bool | None = Field(default=None, alias="log")
    is_int: bool | None = Field(default=None, alias="int")
    choices: list[Annotated[Any, AfterValidator(_checked_choice)]] | None = Field(
        default=None, min_length=1
    )


class SpaceFile(TomlTable):
    """A space file, with the type of each value checked."""

    token_budget: Positive | None = None
    max_repetitions: Positive | None = None
    simplex: Parametrisation | None = None
    recipe: dict[str, Any] = Field(default={})
    sources: dict[str, SourceTable] = Field(default={})
    n_unique: AxisTable | None = None
    epochs: AxisTable | None = None
    learning_rate: AxisTable | None = None
    schedule: AxisTable | None = None
    batch_size: AxisTable | None = None
    loss_weighting: AxisTable | None = None
    length_filter: AxisTable | None = None
    difficulty_filter: AxisTable | None = None
    axes: dict[str, AxisTable] = Field(default={})
    rungs: Rungs | None = None
    cost: Text | None = None
    evaluate: dict[str, Any] | None = None
    decontaminate: DecontaminateTable = Field(default=DecontaminateTable())

    def recipe_space(self) -> RecipeSpace:
        """Return the recipes that the file allows.

        Raises:
            ConfigError: if two keys contradict each other, or no recipe is allowed.
        """
        fixed = _recipe(self.recipe)
        axes = self._axes()
        fixed_axes = [axis.name for axis in axes if axis.name in fixed.to_dict()]
        if fixed_axes:
            raise ConfigError(f"{', '.join(fixed_axes)} is both searched and fixed in [recipe]")
        if not self.sources:
            raise ConfigError("the space names no sources", fix="Add a table [sources.NAME]")
        budget = self.token_budget
        space = RecipeSpace(
            sources=tuple(
                _source(name, table, self.max_repetitions) for name, table in self.sources.items()
            ),
            axes=tuple(axis for axis in axes if budget is None or axis.name != "epochs"),
            token_budget=budget,
            epochs_range=_epochs_range(budget, axes, fixed),
            simplex_kind=self.simplex,
            fixed=fixed,
        )
        _check_repetitions(space)
        return space

    def _axes(self) -> list[Axis]:
        named = ((name, getattr(self, name)) for name in _NAMED_AXES)
        axes = [_axis(name, table) for name, table in named if table is not None]
        for name, table in self.axes.items():
            if name in type(self).model_fields:
                raise ConfigError(f"axes.{name} has a name that is taken", fix=f"Write [{name}]")
            if not name.strip() or ":" in name:
                raise ConfigError(f"axes has the name {name!r}", fix="Write a name without a colon")
            axes.append(_axis(name, table))
        return axes


def read_space(path: Path | str) -> RecipeSpace:
    """Read the recipe space of a TOML file.

    Example:
        >>> space = read_space("mix.toml")
        >>> space.recipe(space.stratified()).sources
        {'gsm8k': 0.5, 'numina': 0.5}

    Raises:
        ConfigError: if it cannot be read, has an unknown key, or allows no recipe.
    """
    file = read_toml_file(Path(path), SpaceFile)
    with naming_file(path):
        return file.recipe_space()


def parse_space(values: Mapping[str, Any]) -> RecipeSpace:
    """Return the recipe space of parsed TOML values.

    Example:
        >>> parse_space({"sources": {"gsm8k": {"floor": 0.1}, "numina": {}}}).simplex.floors
        array([0.1, 0. ])

    Raises:
        ConfigError: at an unknown key, a value of another type, or if no recipe is allowed.
    """
    return check_table(values, SpaceFile).recipe_space()


def write_template(path: Path) -> None:
    """Write a commented space file with every key, which can be used as it is.

    Raises:
        ConfigError: if the file exists, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already, and is not changed",
            fix="Name another file: rlready search init FILE.toml",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Name a file in a folder that exists and that you can write to",
        ) from error


def numeric_range(choice: str) -> tuple[float, float]:
    """Return the lowest and highest value that a filter lets pass; "all" has infinite ends.

    Raises:
        ConfigError: if the text is neither "all" nor LOW-HIGH.
    """
    if choice == "all":
        return -math.inf, math.inf
    match = _RANGE.fullmatch(choice)
    try:
        if match is None:
            raise ValueError(choice)
        low = float(match[1]) if match[1] else -math.inf
        high = float(match[2]) if match[2] else math.inf
    except ValueError as error:
        raise ConfigError(
            f"filter {choice!r} is not a range", fix='Write "all", "0-2048", "512-" or "-2048"'
        ) from error
    if low >= high:
        raise ConfigError(
            f"filter {choice!r} lets nothing pass", fix="Write the smaller number first"
        )
    return low, high


def _source(name: str, table: SourceTable, default_repetitions: float | None) -> Source:
    if table.available_tokens is not None and table.mean_tokens is None:
        raise ConfigError(
            f"sources.{name} has available_tokens but no mean_tokens",
            why="weights are shares of the examples; mean lengths turn them into tokens",
            fix="Add the mean number of tokens of its examples",
        )
    for key in ("fields", "pass_rate", "counts"):
        if getattr(table, key) and (table.path is None or (table.pass_rate and table.counts)):
            raise ConfigError(
                f"sources.{name} has {key} "
                + ("but no path" if table.path is None else "and counts"),
                fix="Give the file with its rows as path, and one of pass_rate and counts",
            )
    return Source(
        name=name,
        available_tokens=table.available_tokens,
        mean_tokens=1.0 if table.mean_tokens is None else table.mean_tokens,
        floor=table.floor,
        cap=table.cap,
        max_repetitions=table.max_repetitions or default_repetitions,
    )


def _axis(name: str, table: AxisTable) -> Axis:
    if table.choices is not None:
        if len(table.model_fields_set) > 1:
            raise ConfigError(f"{name} has choices and a range", fix="Give one of them")
        return Axis(name=name, kind="categorical", choices=_choices(name, table.choices))
    if name in ("schedule", "loss_weighting", *_FILTERS):
        raise ConfigError(f"{name} is not a range of numbers", fix="Give it a list of choices")
    low, high = table.low, table.high
    if low is None or high is None:
        raise ConfigError(f"{name} has no low and high", fix="Give both, or a list of choices")
    is_log = name in _LOG_BY_DEFAULT if table.is_log is None else table.is_log
    is_int = name in _INT_BY_DEFAULT if table.is_int is None else table.is_int
    if low > high or ((is_log or name in RECIPE_FIELDS) and low <= 0.0):
        raise ConfigError(f"{name} goes from {low:g} to {high:g}", fix="Give 0 < low <= high")
    if is_int and (low != round(low) or high != round(high)):
        raise ConfigError(f"{name} goes from {low:g} to {high:g}", fix="Give whole numbers")
    return Axis(name=name, kind="int" if is_int else "float", low=low, high=high, log=is_log)


def _choices(name: str, choices: list[Any]) -> tuple[Any, ...]:
    if len({(isinstance(choice, bool), choice) for choice in choices}) < len(choices):
        raise ConfigError(f"{name} has a choice twice: {choices}")
    unknown = [choice for choice in choices if choice not in LOSS_WEIGHTINGS]
    if name == "loss_weighting" and unknown:
        raise ConfigError(
            f"loss weighting {unknown[0]!r} is unknown", fix=f"Known: {', '.join(LOSS_WEIGHTINGS)}"
        )
    for choice in choices:
        if name in _FILTERS:
            numeric_range(str(choice))
        elif name in RECIPE_FIELDS:
            _recipe({name: choice})
    return tuple(choices)


def _epochs_range(budget: float | None, axes: list[Axis], fixed: Recipe) -> tuple[float, float]:
    axis = next((axis for axis in axes if axis.name == "epochs"), None)
    if budget is None or axis is None:
        if budget is not None and fixed.epochs is not None:
            raise ConfigError(
                "token_budget and a fixed number of epochs leave nothing to search",
                fix="Leave one out, or give [epochs] a range",
            )
        return 0.0, math.inf
    if axis.kind == "categorical":
        raise ConfigError("with a token_budget epochs follow from it", fix="Give low and high")
    return axis.low, axis.high


def _check_repetitions(space: RecipeSpace) -> None:
    """Refuse repetition limits that no recipe can be checked against."""
    limited = [source.name for source in space.sources if source.max_repetitions is not None]
    if limited and space.tokens(space.stratified()) is None:
        raise ConfigError(
            f"max_repetitions of {', '.join(limited)} cannot be checked",
            why="the space does not say on how many tokens a recipe trains",
            fix="Give token_budget, or n_unique and epochs",
        )


def _recipe(values: Mapping[str, Any]) -> Recipe:
    if "sources" in values:
        raise ConfigError("[recipe] fixes the sources", fix="Give each a floor and a cap instead")
    try:
        return Recipe.from_dict(values)
    except RecordError as error:
        raise ConfigError(error.what, why=error.why, fix=error.fix) from error
