"""A list of checkpoints in a TOML file, each with its own settings.

    [[checkpoint]]
    checkpoint = "sft-3/checkpoint-500"   # required; a folder beside the file, or a hub id
    step = 500

Relative paths are relative to the file's folder, as in a suite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from rlready.evaluators.heldout.examples import parse_heldout_option
from rlready.registry.records import CheckpointKind
from rlready.registry.toml_file import TomlTable, read_toml_file


class CheckpointEntry(TomlTable):
    """One checkpoint. All other settings are flags, which apply to every checkpoint."""

    checkpoint: str
    name: str | None = None
    recipe: str | None = None
    prompt_template: str | None = None
    base: str | None = None
    step: int | None = None
    kind: CheckpointKind | None = None
    parents: list[str] | None = None
    held_out: list[str] | None = None


class CheckpointList(TomlTable):
    """The whole file."""

    checkpoint: list[CheckpointEntry] = Field(min_length=1)


def read_list(path: Path) -> list[dict[str, Any]]:
    """Return the arguments of `EvaluateConfig` for each checkpoint in the file.

    Raises:
        ConfigError: if it cannot be read, or a key or value is invalid.
    """
    return [
        _arguments(entry, path.parent) for entry in read_toml_file(path, CheckpointList).checkpoint
    ]


def _arguments(entry: CheckpointEntry, folder: Path) -> dict[str, Any]:
    arguments = entry.model_dump(exclude_none=True)
    for key in ("checkpoint", "base"):
        if key in arguments and (folder / arguments[key]).is_dir():
            arguments[key] = str(folder / arguments[key])
    for key in ("recipe", "prompt_template"):
        if key in arguments:
            arguments[key] = folder / arguments[key]
    if entry.parents is not None:
        arguments["parents"] = tuple(entry.parents)
    if entry.held_out is not None:
        options = map(parse_heldout_option, entry.held_out)
        arguments["held_out"] = tuple(f"{name}={folder / file}" for name, file in options)
    return arguments
