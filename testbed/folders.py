"""Results that are folders: each appears all at once, and is found again instead of made twice."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_json_object


def find_result(folder: Path, mark: str, key: str) -> dict[str, Any] | None:
    """The report of the result in a folder; None if there is no folder, or an empty one.

    Args:
        folder: where it may be.
        mark: name of the report's file.
        key: digest of all that decides the result.

    Raises:
        ConfigError: if the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / mark
    report = read_json_object(path, ConfigError) if path.is_file() else {}
    if report.get("key") != key:
        raise ConfigError(
            f"{folder} holds something else",
            why=f"its {mark} has the key {report.get('key')}, {key} is wanted",
            fix="Remove the folder, or name another",
        )
    return dict(report)


def find_or_make(
    folder: Path, mark: str, key: str, make: Callable[[Path], Mapping[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """The report of the result in a folder, and whether this call made it.

    Args:
        folder: does not exist, is empty, or holds this very result.
        mark: name of the report's file.
        key: digest of all that decides the result.
        make: writes the result into the draft that it is given, and returns the report. The draft
            becomes the folder when that is done; after an error nothing is left of it.

    Raises:
        ConfigError: if the folder holds something else. Nothing is changed.
    """
    found = find_result(folder, mark, key)
    if found is not None:
        return found, False
    with _appearing(folder, mark, key) as draft:
        report = {"key": key, **make(draft)}
        (draft / mark).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return find_result(folder, mark, key) or {}, True


@contextlib.contextmanager
def _appearing(folder: Path, mark: str, key: str) -> Iterator[Path]:
    """A draft that becomes the folder when the block ends; after an error nothing is left.

    Where another process finished the same result first, its folder stays.
    """
    folder = folder.resolve()  # "." has neither a name nor a parent to make the draft in
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        yield draft
        try:
            draft.rename(folder)
        except OSError:
            if find_result(folder, mark, key) is None:
                raise
