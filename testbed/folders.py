"""Results that are folders: each appears all at once, and is found again instead of made twice."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlready.registry.errors import ConfigError


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
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if report.get("key") != key:
        raise ConfigError(
            f"{folder} holds something else",
            why=f"its {mark} has the key {report.get('key')}, {key} is wanted",
            fix="Remove the folder, or name another",
        )
    return dict(report)


@contextlib.contextmanager
def appearing(folder: Path, mark: str, key: str) -> Iterator[Path]:
    """A draft that becomes the folder when the block ends; after an error nothing is left.

    Where another process finished the same result first, its folder stays.
    """
    folder = folder.resolve()
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


def write_report(path: Path, key: str, report: Mapping[str, Any]) -> None:
    """Write the report of a result, with its key, as JSON."""
    path.write_text(json.dumps({"key": key, **report}, indent=1) + "\n", encoding="utf-8")
