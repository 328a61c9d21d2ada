"""The folder of a trial, through which a search and a trainer or scheduler exchange data.

    OUT/STUDY/trial-0007/recipe.toml     what to train; `rlready evaluate --recipe` reads it
                         status.json     state, lease and result of the trial
                         manifest.json   rows to train on, if sources are local files; see
                                         `manifest.py`, and read it with `read_manifest`
                         train.log       output of the training command

The trainer adds "value" (with "se", if known) or "checkpoint" (a folder or a registered id) to
status.json, and "gpu_hours" if they are known; or "state": "failed" with an "error". Each file is
written under another name and renamed, so that readers never see an incomplete one.

If the space file has rungs, "rung" is the step up to which to train. The trainer adds the values
so far as "rungs": {"20": 0.31, "60": 0.36}. The last one may be "value" or "checkpoint" instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_json_object
from rlready.registry.records import Recipe
from rlready.registry.whole_file import replacing

STATES = ("asked", "running", "told", "failed", "stopped")
DAMAGED = "status.damaged.json"
"""Name of a status file that could not be read, beside the new one."""

_SHOWN = 12
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Status:
    """The content of a status file.

    Args:
        state: one of `STATES`.
        value: outcome of the trial.
        se: standard error of the value.
        checkpoint: folder or registered id of the trained checkpoint.
        error: why the trial failed.
        told: the value that the study was told.
        rungs: values by the number of steps.
    """

    state: str = "asked"
    value: float | None = None
    se: float | None = None
    checkpoint: str | None = None
    error: str | None = None
    told: float | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether the study was not told a result yet."""
        return self.state in ("asked", "running")

    @property
    def is_finished(self) -> bool:
        """Whether there is a result to tell the study."""
        return self.is_open and (self.value is not None or self.checkpoint is not None)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a trial.

    Args:
        trial: number of the trial.
        state: "told", "failed" or "stopped"; "waiting" while the registry has no value for it.
        value: value that the study was told.
        se: standard error of the value.
        checkpoint: registered id, if the value came from the registry.
        reason: why the trial failed, was stopped or is waiting.
        is_new: False if the study already had the value.
        is_predicted: whether the value is a prediction.
        public: how the prediction follows from public outcomes, in words; empty if it does not.
        cost: cost of the trial, if the search has a cost.
    """

    trial: int
    state: str
    value: float | None = None
    se: float | None = None
    checkpoint: str | None = None
    reason: str = ""
    is_new: bool = True
    is_predicted: bool = False
    public: str = ""
    cost: float | None = None


def write_folder(
    folder: Path, recipe: Recipe, manifest: Mapping[str, Any] | None, **status: Any
) -> None:
    """Write the files of a trial for a worker that has claimed it.

    Args:
        folder: folder of the trial, which is created if necessary.
        recipe: what to train.
        manifest: rows to train on; None if no source is a file.
        status: entries of the status file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.toml", recipe_toml(recipe))
    if manifest is not None:
        write_text(folder / "manifest.json", json.dumps(manifest, ensure_ascii=False) + "\n")
    no_result = dict.fromkeys(("value", "se", "checkpoint", "error"))
    write_status(
        folder, **{**status, **no_result, "state": "asked", "recipe_digest": recipe.digest}
    )


def write_status(folder: Path, **changes: Any) -> None:
    """Change entries of the status file; None removes an entry.

    A trainer may have been killed while it wrote the file. What cannot be read must not stop the
    search, and is kept as `DAMAGED`.
    """
    path, before = folder / "status.json", {}
    if path.exists():
        try:
            before = read_json_object(path, ConfigError)
        except ConfigError:
            path.replace(folder / DAMAGED)
    values = {k: v for k, v in {**before, **changes}.items() if v is not None}
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_status(folder: Path) -> Status:
    """Read the status file.

    Raises:
        ConfigError: if it is not a JSON object, or an entry is invalid.
    """
    path = folder / "status.json"
    values = read_json_object(path, ConfigError)
    state = values.get("state", "asked")
    if state not in STATES:
        raise ConfigError(f"{path}: state is {state!r}", fix=f"Known: {', '.join(STATES)}")
    se = _number(path, "se", values.get("se"))
    if se is not None and se < 0.0:
        raise ConfigError(f"{path}: se is {se}", fix="Give 0 or more, or leave it out")
    texts = {key: values.get(key) for key in ("checkpoint", "error")}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"{path}: {key} is {text!r}, not a text")
    return Status(
        state=state,
        value=_number(path, "value", values.get("value")),
        se=se,
        checkpoint=texts["checkpoint"],
        error=texts["error"],
        told=_number(path, "told", values.get("told")),
        rungs=_rungs(path, values.get("rungs", {})),
    )


def read_number(folder: Path, key: str) -> float | None:
    """Return a number that the trainer added to the status file, or None.

    Raises:
        ConfigError: if the file is not a JSON object, or the entry not a finite number.
    """
    path = folder / "status.json"
    values = read_json_object(path, ConfigError) if path.is_file() else {}
    return _number(path, key, values.get(key))


def contents(folder: Path) -> str:
    """Return the names of what a folder holds, for messages."""
    if not folder.is_dir():
        return "nothing: it was removed"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest if names else "nothing"


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all, also if several workers write it at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML; `Recipe.from_dict` of the parsed text gives the same recipe."""
    values = recipe.to_dict()
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{_key(k)} = {_toml(v)}" for k, v in values.items() if k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{_key(name)}]"]
        lines += [f"{_key(key)} = {_toml(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _rungs(path: Path, values: Any) -> dict[int, float]:
    if not isinstance(values, dict) or not all(step.isdecimal() for step in values):
        raise ConfigError(f"{path}: rungs is {values!r}", fix='Write {"20": 0.31, ...}')
    numbers = {int(step): _number(path, f"rungs.{step}", one) for step, one in values.items()}
    return {step: number for step, number in numbers.items() if number is not None}


def _number(path: Path, key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{path}: {key} is {value!r}, not a finite number")
    return float(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, except for this one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(k)} = {_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    raise ConfigError(f"a recipe holds {value!r}, which TOML cannot express")
