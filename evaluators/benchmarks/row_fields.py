"""Values of a row, by a list of possible names; a dot leads into a mapping.

    row = {"prompt": [...], "reward_model": {"style": "rule", "ground_truth": "5"}}
    field_values(row, ("reward_model.ground_truth",))  ->  [("reward_model.ground_truth", "5")]

Names are first compared as written, then ignoring case. A mapping may also be a text (JSON or a
Python `repr`), as in tables that were saved as CSV. Fields that are null are left out.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlready.registry.foreign_files import parse_json

MAX_LITERAL_CHARS = 1 << 18
"""Largest text that is parsed as a Python literal, which takes a hundred times its memory."""

_ARRAY = re.compile(r"(?:(?:np|numpy)\.)?array\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)


def field_values(values: Mapping[str, Any], candidates: Sequence[str]) -> list[tuple[str, Any]]:
    """Return full names and values of the fields that are not null, the best match first."""
    places: dict[str, Any] = {}
    for fold in (str, str.casefold):
        for candidate in candidates:
            for name, value in _lookup(values, candidate, fold):
                is_null = value is None or (isinstance(value, float) and math.isnan(value))
                if not is_null:
                    places.setdefault(name, value)
    return list(places.items())


def joined_text(value: object) -> str | None:
    """Return the text of a message's content, a string or a list of text parts; None for others.

    Parts are strings or, as OpenAI writes them, `{"type": "text", "text": ...}`.
    """
    parts = value if isinstance(value, list) else [value]
    texts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else p for p in parts]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(texts) else None


def unwrapped(text: str) -> str:
    """Return the text without white space around it and without numpy's `array(...)`."""
    array = _ARRAY.fullmatch(text.strip())
    return array[1].strip() if array else text.strip()


def columns_of(names: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Return the columns of a table that may contain one of the fields, in the table's order."""
    wanted = {candidate.casefold() for candidate in candidates}
    wanted |= {candidate.partition(".")[0] for candidate in wanted}
    return [name for name in names if name.casefold() in wanted]


def decoded(text: str) -> object:
    """Return the value of a text as JSON or a Python literal; None if it is neither."""
    try:
        return parse_json(text, exact=True)
    except ValueError:
        pass
    if len(text) > MAX_LITERAL_CHARS:
        return None
    try:
        value: object = ast.literal_eval(text)
    # The errors of `literal_eval` for a text that is too deep or not a literal.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value


def _lookup(
    values: Mapping[str, Any], path: str, fold: Callable[[str], str]
) -> Iterator[tuple[str, Any]]:
    yield from ((name, value) for name, value in values.items() if fold(name) == fold(path))
    head, dot, tail = path.partition(".")
    if not dot:
        return
    for name, value in values.items():
        if fold(name) == fold(head) and isinstance(mapping := _mapping(value), Mapping):
            for inner, inner_value in _lookup(mapping, tail, fold):
                yield f"{name}.{inner}", inner_value


def _mapping(value: object) -> object:
    is_text = isinstance(value, str) and value.lstrip().startswith("{")
    return decoded(str(value).strip()) if is_text else value
