"""Settings of a search in its space file that do not change the recipes: data, cost, evaluation.

    cost = "gpu_hours"                # second objective, less is better
    [sources.gsm8k]
    path = "gsm8k.jsonl"              # local data: trials get a manifest of its rows

    [evaluate]                        # how a trained folder is evaluated: as `rlready evaluate`
    benchmarks = ["gsm8k=gsm8k_test.jsonl"]
    held_out = ["val.jsonl"]
    samples = 64

Relative paths are relative to the folder of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, Strict, create_model

from rlready.evaluators.benchmarks.problems import parse_benchmark_option
from rlready.evaluators.heldout.examples import parse_heldout_option
from rlready.predictors.search.space_file import SpaceFile
from rlready.registry.toml_file import TomlTable, check_table, naming_file
from rlready.workflow.evaluate.config import EvaluateConfig

TOKENS = "tokens"
"""The cost that follows from the recipe alone."""

# The trial, or the search's own flags, give these.
_OF_THE_TRIAL = ("checkpoint", "recipe", "step", "kind", "name", "experiment", "tracking_uri")


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Settings of a search that do not change its recipes.

    Args:
        data: JSONL file of each source that is local.
        cost: name of the second objective; None: there is one objective.
        evaluate: fields of `EvaluateConfig`; None: checkpoints are evaluated elsewhere.
    """

    data: Mapping[str, Path] = field(default_factory=dict)
    cost: str | None = None
    evaluate: Mapping[str, Any] | None = None


def loop_settings(file: SpaceFile, path: Path) -> LoopSettings:
    """Return the settings of a space file that was read from the path.

    Raises:
        ConfigError: at an unknown key or an invalid value of [evaluate].
    """
    folder = path.resolve().parent
    with naming_file(path):
        return LoopSettings(
            data={
                name: folder / source.path
                for name, source in file.sources.items()
                if source.path is not None
            },
            cost=file.cost,
            evaluate=None if file.evaluate is None else _evaluate(file.evaluate, folder),
        )


def _evaluate(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    table = check_table(values, _evaluate_table(), name="evaluate")
    settings = {
        name: _with_absolute_paths(name, getattr(table, name), folder)
        for name in table.model_fields_set
    }
    EvaluateConfig(checkpoint="of a trial", **settings)
    return settings


@cache
def _evaluate_table() -> type[TomlTable]:
    """Return the model of [evaluate]: the fields of `EvaluateConfig` that a file may give."""
    hints = get_type_hints(EvaluateConfig)
    fields: dict[str, Any] = {
        each.name: (_toml_type(hints[each.name]), each.default)
        for each in dataclasses.fields(EvaluateConfig)
        if each.name not in _OF_THE_TRIAL
    }
    return create_model("EvaluateTable", __base__=TomlTable, **fields)


def _toml_type(hint: Any) -> Any:
    """Return a type that takes a list for a tuple, and a text for a path."""
    if hint is str:
        return Annotated[str, AfterValidator(_not_empty)]
    if hint is Path:
        return Annotated[Path, Strict(False)]
    if get_origin(hint) is tuple:
        element = _toml_type(get_args(hint)[0])
        return Annotated[tuple[element, ...], Strict(False)]  # type: ignore[valid-type]
    if type(None) in get_args(hint):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        return _toml_type(inner) | None
    return hint


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("It should not be empty")
    return text


def _with_absolute_paths(name: str, value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        return tuple(_with_absolute_paths(name, each, folder) for each in value)
    if isinstance(value, Path):
        return folder / value
    if name == "benchmarks":
        source = parse_benchmark_option(value)
        if not isinstance(source.location, Path):
            return value
        answer_format = f":{source.answer_format}" if source.answer_format else ""
        return f"{source.name}{answer_format}={folder / source.location}"
    if name == "held_out":
        set_name, file = parse_heldout_option(value)
        return f"{set_name}={folder / file}"
    is_file = (name == "suite" and value.endswith(".toml")) or (
        name == "base" and (folder / value).is_dir()
    )
    return str(folder / value) if is_file else value
