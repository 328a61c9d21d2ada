"""Tables of words, commands, signs and units, as `tables.toml` beside this module holds them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

TABLES: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("tables.toml").read_text(encoding="utf-8")
)


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text: `word_set("or and not")` has three."""
    return frozenset(text.split())
