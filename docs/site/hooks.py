"""Hooks of mkdocs: where the packages are, and links that leave the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDERS = ("registry", "evaluators", "predictors", "testbed", "workflow")
_OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./[^)]*)\)")


def on_startup(**_: Any) -> None:
    """Show the folders as the packages `rlready.<folder>`, which setup.py maps on installation."""
    packages = ROOT / "build" / "packages" / "rlready"
    packages.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        link = packages / folder
        if not link.is_symlink():
            link.symlink_to(ROOT / folder, target_is_directory=True)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files outside docs/, which work on a forge only, by the file's path."""
    return _OUTSIDE.sub(_as_path, markdown)


def _as_path(link: re.Match[str]) -> str:
    text, path = link[1], link[2].removeprefix("../")
    return f"`{path}`" if text.strip("`/") in (path, Path(path).name) else f"{text} (`{path}`)"
