"""Folders that tests read from."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""

SUPPORT = Path(__file__).parent
"""Modules that tests and their child processes import."""

DATA = ROOT / "tests" / "data"
"""Test data of the repository."""

SHARED = ROOT.parent / "shared" / "data"
"""Larger data beside the checkout; tests that need it are skipped where it is missing."""


def data_path(name: str) -> Path:
    """A file or folder of test data: of the repository if it is there, else beside the checkout."""
    return DATA / name if (DATA / name).exists() else SHARED / name
