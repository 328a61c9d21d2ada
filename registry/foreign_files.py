"""JSON and TOML that other programs or people wrote, read within limits.

A checkpoint, a benchmark or a cache may come from anywhere. Python's readers follow nested
brackets until the interpreter's stack ends (`RecursionError`), take `1e999` for infinity, and keep
the last of two equal keys. The functions here raise `ValueError` with a plain reason instead, and
those that read a whole file raise the caller's own kind of `RlreadyError`.

    values = read_json_object(folder / "config.json", CheckpointError, fix="Save it again")
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from rlready.registry.errors import ConfigError, RlreadyError

MAX_DEPTH = 100
"""Most levels of nesting. The deepest configuration of a model has about six."""
MAX_DIGITS = 300
"""Most digits of an integer: much longer ones cannot become a float."""
MAX_JSON_BYTES = 64 << 20
"""Largest JSON file. The index of a model with 100,000 tensors has 10 MB."""
MAX_TOML_BYTES = 1 << 20
"""Largest TOML file; recipes and suites have some kilobytes."""

_LONG_INTEGER = "an integer in it needs more than the 64 bits that TOML allows"
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"
# The TOML reader needs quadratic time for a key of many parts: 20,000 parts took 7 s.
# Possessive repetitions that begin at the first letter of a word keep this search linear.
_KEY_PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_TOML_KEY = re.compile(rf"{_KEY_PART}(?:[ \t]*+\.[ \t]*+{_KEY_PART}){{{MAX_DEPTH}}}")
_SURROGATE = re.compile(r"\\u[dD][89abAB]")


def parse_json(
    text: str, *, exact: bool = False, constant: Callable[[str], Any] | None = None
) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the JSON text.
        exact: read numbers with a point or an exponent as `Decimal`, of any size.
        constant: called with `NaN`, `Infinity` and `-Infinity`, which Python writes although JSON
            does not have them; None refuses them.

    Raises:
        ValueError: if it is not JSON, nested deeper than `MAX_DEPTH`, names a key twice, or holds a
            number that cannot be represented.
    """
    try:
        value = json.loads(
            text,
            parse_float=_exact_number if exact else _finite_number,
            parse_int=_whole_number,
            parse_constant=constant or _refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value, text.count("[") + text.count("{"))
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text; raise ValueError as `parse_json` does."""
    if _LONG_TOML_KEY.search(text):
        raise ValueError(_TOO_DEEP)
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's limit on digits; its message names a setting of the interpreter
        raise ValueError(_LONG_INTEGER) from None
    _check_depth(values, len(text))
    if any(isinstance(value, int) and abs(value) >= 1 << 63 for value in _leaves(values)):
        raise ValueError(_LONG_INTEGER)
    return values


def read_json_object(
    path: Path,
    kind: type[RlreadyError],
    *,
    fix: str = "",
    constant: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Return the object in a JSON file, all of whose texts are valid Unicode.

    Args:
        path: the file.
        kind: of the error for a file that cannot be read or holds no JSON object.
        fix: what to do about such a file.
        constant: as in `parse_json`.
    """
    text = read_text(path, kind, fix, MAX_JSON_BYTES)
    try:
        value = parse_json(text, constant=constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise kind(f"{path} holds half of a surrogate pair", why=error.reason, fix=fix) from error
    except ValueError as error:
        raise kind(f"{path} cannot be read as JSON", why=str(error), fix=fix) from error
    if not isinstance(value, dict):
        raise kind(f"{path} holds a {type(value).__name__}, not a JSON object", fix=fix)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, UTF-8 with or without a byte order mark."""
    text = read_text(path, ConfigError, "", MAX_TOML_BYTES)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file", why=str(error)) from error


def read_text(path: Path, kind: type[RlreadyError], fix: str, max_bytes: int) -> str:
    """Return the text of a UTF-8 file of at most `max_bytes`, without its byte order mark."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise kind(f"cannot read {path}", why=error.strerror or str(error), fix=fix) from error
    if len(content) > max_bytes:
        raise kind(
            f"{path} is larger than {max_bytes} bytes",
            why="files of its kind are smaller",
            fix=fix or "Check that it is the right file",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path} is not UTF-8", why=str(error), fix=fix or "Save it as UTF-8") from error


def _check_depth(value: Any, n_brackets: int) -> None:
    """Raise a ValueError if containers are nested too deep. Recursion could exceed the stack."""
    if n_brackets <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _leaves(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict | list):
            waiting += _children(inner)
        else:
            yield inner


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {_shown(text)} is too large")
    return number


def _exact_number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError(f"the number {_shown(text)} is too large") from None


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"the number {_shown(text)} has {len(text.lstrip('-'))} digits")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"an object in it has the key {_shown(ascii(twice))} more than once")
    return values


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
