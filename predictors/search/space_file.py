"""A recipe space from a TOML file.

    token_budget = 2.0e8              # tokens over all epochs; epochs then follow from n_unique
    max_repetitions = 4               # of any source that names none itself
    simplex = "stick"                 # default: as the sampler likes it

    [recipe]                          # what all recipes share
    base_model = "org/base"

    [sources.gsm8k]                   # weights are shares of the examples
    available_tokens = 1.2e7
    mean_tokens = 310
    floor = 0.05
    cap = 0.8

    [n_unique]
    low = 1000
    high = 100000
    [epochs]
    low = 1
    high = 8
    [learning_rate]
    low = 1e-6
    high = 1e-4
    [loss_weighting]
    choices = ["none", "pear_token"]
    [length_filter]                   # tokens of an example, "all" or LOW-HIGH
    choices = ["all", "0-2048"]

    [axes.warmup_share]               # anything else
    low = 0.0
    high = 0.1

An axis is a range (`low`, `high`, optional `log`, `int`) or a list of `choices`. The table [rungs]
says after how many steps trials are measured and may be stopped, see `rungs`. `cost`,
`sources.NAME.path` and the table [evaluate] change no recipe: see `workflow/search/settings`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rlready.predictors.search.rungs import parse_rungs
from rlready.predictors.search.simplex import Parametrisation
from rlready.predictors.search.space import (
    LOSS_WEIGHTINGS,
    RECIPE_FIELDS,
    Axis,
    RecipeSpace,
    Source,
)
from rlready.predictors.search.toml_values import a_number, a_table, check_keys
from rlready.registry.errors import ConfigError, RecordError
from rlready.registry.foreign_files import read_toml
from rlready.registry.records import Recipe

_FILTERS = ("length_filter", "difficulty_filter")
_NAMED_AXES = (*RECIPE_FIELDS, *_FILTERS)
_KEYS = (
    *("token_budget", "max_repetitions", "simplex", "recipe", "sources"),
    *(*_NAMED_AXES, "axes", "rungs", "cost", "evaluate"),
)
_SOURCE_KEYS = ("available_tokens", "mean_tokens", "floor", "cap", "max_repetitions", "path")
_RANGE_KEYS = ("low", "high", "log", "int")
_LOG_BY_DEFAULT = ("n_unique", "epochs", "learning_rate", "batch_size")
_INT_BY_DEFAULT = ("n_unique", "batch_size")
_RANGE = re.compile(r"([0-9.]*)-([0-9.]*)")


def read_space(path: Path) -> RecipeSpace:
    """The space that a TOML file describes.

    Raises:
        ConfigError: if it cannot be read, has an unknown key, or allows no recipe.
    """
    values = read_toml(path)
    try:
        return parse_space(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", why=error.why, fix=error.fix) from error


def parse_space(values: Mapping[str, Any]) -> RecipeSpace:
    """The space that TOML values describe.

    Raises:
        ConfigError: at an unknown key, a value of another type, or if no recipe is allowed.
    """
    check_keys("the space", values, _KEYS)
    if "rungs" in values:
        parse_rungs(values["rungs"])
    fixed = _recipe(a_table("recipe", values.get("recipe", {}), "Write [recipe]"))
    budget = _optional_number("token_budget", values)
    axes = [_axis(name, values[name]) for name in _NAMED_AXES if name in values]
    others = a_table("axes", values.get("axes", {}), "Write [axes]")
    for name in others:
        if name in _KEYS or ":" in name:
            raise ConfigError(f"axes.{name} has a name that is taken", fix=f"Write [{name}]")
    axes += [_axis(name, others[name]) for name in others]
    twice = [axis.name for axis in axes if axis.name in fixed.to_dict()]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is both searched and fixed in [recipe]")
    space = RecipeSpace(
        sources=_sources(values),
        axes=tuple(axis for axis in axes if budget is None or axis.name != "epochs"),
        token_budget=budget,
        epochs_range=_epochs_range(budget, axes, fixed),
        simplex_kind=_simplex(values.get("simplex")),
        fixed=fixed,
    )
    _check_repetitions(space)
    return space


def numeric_range(choice: str) -> tuple[float, float]:
    """Lowest and highest value that a filter lets pass; "all" has no ends.

    Raises:
        ConfigError: if the text is neither "all" nor LOW-HIGH.
    """
    if choice == "all":
        return -math.inf, math.inf
    found = _RANGE.fullmatch(choice)
    try:
        if found is None:
            raise ValueError(choice)
        low = float(found[1]) if found[1] else -math.inf
        high = float(found[2]) if found[2] else math.inf
    except ValueError as error:
        raise ConfigError(
            f"filter {choice!r} is no range", fix='Write "all", "0-2048", "512-" or "-2048"'
        ) from error
    if low >= high:
        raise ConfigError(f"filter {choice!r} lets nothing pass")
    return low, high


def _sources(values: Mapping[str, Any]) -> tuple[Source, ...]:
    tables = a_table("sources", values.get("sources", {}), "Write [sources]")
    if not tables:
        raise ConfigError("the space names no sources", fix="Add a table [sources.NAME]")
    default = _optional_number("max_repetitions", values)
    return tuple(
        _source(name, a_table(f"sources.{name}", tables[name], f"Write [sources.{name}]"), default)
        for name in tables
    )


def _source(name: str, values: Mapping[str, Any], max_repetitions: float | None) -> Source:
    check_keys(f"source {name!r}", values, _SOURCE_KEYS)
    available = _optional_number("available_tokens", values)
    length = _optional_number("mean_tokens", values)
    if available is not None and length is None:
        raise ConfigError(
            f"source {name!r} has available_tokens and no mean_tokens",
            why="weights are shares of the examples; lengths turn them into tokens",
            fix="Add the mean number of tokens of its examples",
        )
    own = _optional_number("max_repetitions", values)
    return Source(
        name=name,
        available_tokens=available,
        mean_tokens=1.0 if length is None else length,
        floor=a_number("floor", values.get("floor", 0.0)),
        cap=a_number("cap", values.get("cap", 1.0)),
        max_repetitions=max_repetitions if own is None else own,
    )


def _axis(name: str, given: Any) -> Axis:
    values = a_table(name, given, f"Write [{name}]")
    if "choices" in values:
        check_keys(name, values, ("choices",))
        return Axis(name=name, kind="categorical", choices=_choices(name, values["choices"]))
    check_keys(name, values, (*_RANGE_KEYS, "choices"))
    if name in ("schedule", "loss_weighting", *_FILTERS):
        raise ConfigError(f"{name} is no range of numbers", fix="Give it a list of choices")
    if "low" not in values or "high" not in values:
        raise ConfigError(f"{name} has no low and high", fix="Give both, or a list of choices")
    low, high = a_number(f"{name}.low", values["low"]), a_number(f"{name}.high", values["high"])
    log = _flag(f"{name}.log", values.get("log", name in _LOG_BY_DEFAULT))
    whole = _flag(f"{name}.int", values.get("int", name in _INT_BY_DEFAULT))
    if low > high or ((log or name in RECIPE_FIELDS) and low <= 0.0):
        raise ConfigError(f"{name} goes from {low:g} to {high:g}", fix="Give 0 < low <= high")
    if whole and (low != round(low) or high != round(high)):
        raise ConfigError(f"{name} goes from {low:g} to {high:g}", fix="Give whole numbers")
    return Axis(name=name, kind="int" if whole else "float", low=low, high=high, log=log)


def _choices(name: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{name}.choices is {given!r}", fix="Give a list of at least one")
    for choice in given:
        if not isinstance(choice, str | int | float):
            raise ConfigError(f"{name} has the choice {choice!r}", fix="Give texts or numbers")
    if len({(isinstance(choice, bool), choice) for choice in given}) < len(given):
        raise ConfigError(f"{name} has a choice twice: {given}")
    if name in _FILTERS:
        for choice in given:
            numeric_range(str(choice))
    unknown = [choice for choice in given if choice not in LOSS_WEIGHTINGS]
    if name == "loss_weighting" and unknown:
        raise ConfigError(
            f"loss weighting {unknown[0]!r} is unknown", fix=f"Known: {', '.join(LOSS_WEIGHTINGS)}"
        )
    for choice in given if name in RECIPE_FIELDS else ():
        try:
            Recipe.from_dict({name: choice})
        except RecordError as error:
            raise ConfigError(error.what, why=error.why, fix=error.fix) from error
    return tuple(given)


def _epochs_range(budget: float | None, axes: Iterable[Axis], fixed: Recipe) -> tuple[float, float]:
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
    """Refuse limits that would never be looked at."""
    limited = [source.name for source in space.sources if source.max_repetitions is not None]
    if (
        limited
        and space.tokens(space.start(space.simplex.fill(np.ones((1, len(space.sources)))))) is None
    ):
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
        raise ConfigError(f"[recipe]: {error.what}", why=error.why, fix=error.fix) from error


def _simplex(given: Any) -> Parametrisation | None:
    if given is None:
        return None
    known: tuple[Literal["stick", "softmax", "sparse", "dirichlet"], ...]
    known = get_args(Parametrisation)
    for kind in known:
        if given == kind:
            return kind
    raise ConfigError(f"simplex is {given!r}", fix=f"Known: {', '.join(known)}")


def _optional_number(name: str, values: Mapping[str, Any]) -> float | None:
    if name not in values:
        return None
    number = a_number(name, values[name])
    if number <= 0.0:
        raise ConfigError(f"{name} is {number:g}", fix="Give a positive number")
    return number


def _flag(name: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise ConfigError(f"{name} is {given!r}", fix="Give true or false")
    return given
