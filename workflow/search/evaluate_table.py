"""The table [evaluate] of a space file: how a trained folder is evaluated.

    [evaluate]                        # flags of `rlready evaluate`
    benchmarks = ["gsm8k=gsm8k_test.jsonl"]
    held_out = ["val.jsonl"]
    samples = 64

Relative paths are relative to the folder of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, Strict, create_model

from rlready.evaluators.benchmarks.problems import parse_benchmark_option
from rlready.evaluators.heldout.examples import parse_heldout_option
from rlready.registry.toml_file import TomlTable, check_table
from rlready.workflow.evaluate.config import EvaluateConfig

# The trial and the flags of the search give these.
_OF_THE_TRIAL = ("checkpoint", "recipe", "step", "kind", "name", "experiment", "tracking_uri")


def evaluate_settings(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields of `EvaluateConfig` that the table sets.

    Args:
        values: the table.
        folder: folder of the space file.

    Raises:
        ConfigError: at an unknown key or an invalid value.
    """
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
    """Return a type that accepts a list for a tuple, and a text for a path."""
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
