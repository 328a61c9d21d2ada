"""Values out of a TOML file, of the type that they are meant to be, or an error that names them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rlready.registry.errors import ConfigError


def check_keys(where: str, values: Mapping[str, Any], known: Iterable[str]) -> None:
    """Return if a table has known keys only.

    Raises:
        ConfigError: naming the unknown, and the known.
    """
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"{where} has the unknown key {', '.join(map(repr, unknown))}",
            fix=f"Known: {', '.join(known)}",
        )


def a_table(name: str, given: Any, fix: str = "") -> Mapping[str, Any]:
    """The table, if it is one."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} is {given!r}, no table", fix=fix)
    return given


def a_number(name: str, given: Any) -> float:
    """The finite number, if it is one."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ConfigError(f"{name} is {given!r}, no finite number")
    return float(given)


def a_text(name: str, given: Any) -> str:
    """The text, if it is one and not empty."""
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{name} is {given!r}, no text")
    return given
