"""What a space file says beyond its recipes: how a search sees data, cost and checkpoints.

    cost = "gpu_hours"                # second objective, less is better: a number in status.json;
                                      # "tokens" is known from the recipe
    [sources.gsm8k]
    path = "gsm8k.jsonl"              # local data: trials get a manifest of its rows

    [evaluate]                        # how a trained folder is evaluated: as `rlready evaluate`
    benchmarks = ["gsm8k=gsm8k_test.jsonl"]
    held_out = ["val.jsonl"]
    samples = 64

Relative paths are taken from the file's own folder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rlready.evaluators.benchmarks.problems import parse_benchmark_option
from rlready.evaluators.heldout.examples import parse_heldout_option
from rlready.predictors.search.toml_values import a_text
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_toml
from rlready.workflow.evaluate.config import EvaluateConfig

TOKENS = "tokens"
"""The cost that every recipe of a space has, without being told."""

# Said by the trial, or by the search's own flags.
_OF_THE_TRIAL = ("checkpoint", "recipe", "step", "kind", "name", "experiment", "tracking_uri")
_KINDS: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What a space file says beyond its recipes.

    Args:
        data: JSONL file of each source that is local.
        cost: name of the second objective; None: there is one objective.
        evaluate: fields of `EvaluateConfig`; None: checkpoints are evaluated elsewhere.
    """

    data: Mapping[str, Path] = field(default_factory=dict)
    cost: str | None = None
    evaluate: Mapping[str, Any] | None = None


def read_settings(path: Path) -> LoopSettings:
    """The settings in a space file that `recipe_file.read_space` has read without an error.

    Raises:
        ConfigError: at an unknown key of [evaluate], or a value that cannot be meant.
    """
    values = read_toml(path)
    folder = path.resolve().parent
    try:
        return LoopSettings(
            data={
                name: _path(f"sources.{name}.path", source["path"], folder)
                for name, source in values["sources"].items()
                if "path" in source
            },
            cost=a_text("cost", values["cost"]) if "cost" in values else None,
            evaluate=_evaluate(values["evaluate"], folder) if "evaluate" in values else None,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", why=error.why, fix=error.fix) from error


def _evaluate(given: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"evaluate is {given!r}, no table", fix="Write [evaluate]")
    hints = get_type_hints(EvaluateConfig)
    known = [f.name for f in dataclasses.fields(EvaluateConfig) if f.name not in _OF_THE_TRIAL]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(
            f"[evaluate] has the unknown key {', '.join(map(repr, unknown))}",
            fix=f"Known: {', '.join(known)}",
        )
    found = {key: _value(key, hints[key], value, folder) for key, value in given.items()}
    EvaluateConfig(checkpoint="of a trial", **found)
    return found


def _value(key: str, hint: Any, given: Any, folder: Path) -> Any:
    """A value of a field, of its type, with its paths made absolute."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if get_origin(hint) is tuple:
        if not isinstance(given, list):
            raise ConfigError(f"evaluate.{key} is {given!r}", fix="Give a list")
        return tuple(_value(key, kinds[0], one, folder) for one in given)
    kind = kinds[0]
    if kind is Path:
        return _path(f"evaluate.{key}", given, folder)
    if kind in _KINDS:
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        fits = is_number and math.isfinite(given) if kind is float else type(given) is kind
        if not fits:
            raise ConfigError(f"evaluate.{key} is {given!r}, not {_KINDS[kind]}")
        return kind(given)
    text = a_text(f"evaluate.{key}", given)
    if key == "benchmarks":
        source = parse_benchmark_option(text)
        where = source.location
        own = f":{source.answer_format}" if source.answer_format else ""
        return f"{source.name}{own}={folder / where}" if isinstance(where, Path) else text
    if key == "held_out":
        name, file = parse_heldout_option(text)
        return f"{name}={folder / file}"
    is_file = (key == "suite" and text.endswith(".toml")) or (
        key == "base" and (folder / text).is_dir()
    )
    return str(folder / text) if is_file else text


def _path(name: str, given: Any, folder: Path) -> Path:
    return folder / a_text(name, given)
