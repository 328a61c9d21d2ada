"""A list of checkpoints in a TOML file, each with what is known of it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlready.evaluators.heldout.examples import parse_heldout_option
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_toml

_FILES = ("recipe", "prompt_template")
_FOLDERS = ("checkpoint", "base")
_OWN = {
    "checkpoint": str,
    "name": str,
    "recipe": str,
    "prompt_template": str,
    "base": str,
    "step": int,
    "kind": str,
    "parents": list,
    "held_out": list,
}
"""What an entry of a list may say of its checkpoint, and as what; the rest is said of all."""

_KINDS = {str: "a text", int: "a whole number", list: "a list of texts"}


def read_list(path: Path) -> list[dict[str, Any]]:
    """What a TOML file says of each checkpoint, as arguments of `EvaluateConfig`.

        [[checkpoint]]
        checkpoint = "sft-3/checkpoint-500"   # needed; a folder beside the file, or a hub id
        step = 500

    Relative paths are those beside the file, as in a suite.

    Raises:
        ConfigError: if it cannot be read, or says what cannot be meant.
    """
    content = read_toml(path)
    entries = content.get("checkpoint")
    if set(content) != {"checkpoint"} or not isinstance(entries, list) or not entries:
        raise ConfigError(
            f"{path} is no list of checkpoints",
            fix='Write a table for each: [[checkpoint]] and below it checkpoint = "FOLDER"',
        )
    return [_entry(f"{path}: checkpoint {i}", raw, path) for i, raw in enumerate(entries, 1)]


def _entry(where: str, raw: object, path: Path) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} is no table", fix="Write [[checkpoint]]")
    if "checkpoint" not in raw:
        raise ConfigError(f"{where} names no folder", fix='Add checkpoint = "FOLDER"')
    for key, value in raw.items():
        if key not in _OWN:
            known = ", ".join(_OWN)
            raise ConfigError(
                f"{where}: {key!r} cannot be said of one checkpoint",
                fix=f"Known keys: {known}. All else is a flag, for all of them",
            )
        texts = value if isinstance(value, list) else []
        if type(value) is not _OWN[key] or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{where}: {key} is {value!r}", fix=f"Give {_KINDS[_OWN[key]]}")
    found = dict(raw)
    for key in _FOLDERS:
        if key in raw and (path.parent / raw[key]).is_dir():
            found[key] = str(path.parent / raw[key])
    for key in _FILES:
        if key in raw:
            found[key] = path.parent / raw[key]
    if raw.get("kind", "sft") not in ("base", "sft", "rl"):
        raise ConfigError(f"{where}: kind is {raw['kind']!r}", fix="Take base, sft or rl")
    if "parents" in raw:
        found["parents"] = tuple(raw["parents"])
    if "held_out" in raw:
        options = map(parse_heldout_option, raw["held_out"])
        found["held_out"] = tuple(f"{name}={path.parent / file}" for name, file in options)
    return found
