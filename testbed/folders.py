"""Results that are folders: each appears all at once, and an existing result is reused."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_json_object


def _find(folder: Path, mark: str, key: str) -> dict[str, Any] | None:
    """Return the report of the result in a folder; None if the folder is missing or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / mark
    report = read_json_object(path, ConfigError) if path.is_file() else {}
    if report.get("key") != key:
        raise ConfigError(
            f"{folder} holds something else",
            why=f"its {mark} has the key {report.get('key')}, not {key}",
            fix="Remove the folder, or name another",
        )
    return dict(report)


def find_or_make(
    folder: Path, mark: str, key: str, make: Callable[[Path], Mapping[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Return the report of the result in a folder, and whether this call made the result.

    Args:
        folder: does not exist, is empty, or holds the result of this key.
        mark: name of the report's file.
        key: digest of everything that determines the result.
        make: writes the result into the draft folder that it gets, and returns the report. The
            draft then becomes the folder; after an error it is removed. If another process
            finished the same result first, its folder stays.

    Raises:
        ConfigError: if the folder holds something else. It is not changed then.
    """
    report = _find(folder, mark, key)
    if report is not None:
        return report, False
    folder = folder.resolve()  # "." has neither a name nor a parent to make the draft in
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        report = {"key": key, **make(draft)}
        (draft / mark).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:
            if _find(folder, mark, key) is None:
                raise
    return _find(folder, mark, key) or {}, True
