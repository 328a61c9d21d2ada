r"""Names before values: `x = 5`, `f(x) = 2x`, `\angle ABC = 60`, `P(3,4)`.

name_of("x_1 = 4")                    ->  "x_1"
named_values(("x = 2", "y = 5"))      ->  ("2", "5")
named_point("P(3,4)")                 ->  ("P", "(3,4)")
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlready.evaluators.answers.structure import Structure, read_structure

_NAME = re.compile(
    r"(?:\\angle\s*|\\triangle\s*|m\s*\\angle\s*)?"
    r"(?:\\text\{[^{}]*\}\s*)*(?:[A-Z]{1,4}|[a-z]|\\(?!angle|frac|sqrt|text)[A-Za-z]+|\\text\{[^{}]*\}|\\overline\s*\{\s*[A-Z]+\s*\}|\\(?:bar|hat|vec|overrightarrow)\s*\{\s*[A-Za-z]+\s*\})'*"
    r"(?:\s*_\s*(?:\{[^{}]*\}|[A-Za-z0-9]))?'*(?:\s*\([^()=<>]*\)|\s*\[[^\[\]=<>]*\])?"
    r"|\|\s*\\?[A-Za-z]{1,2}(?:_[0-9])?\s*\||\\frac\s*\{\s*d\s*[a-zA-Z]?\s*\}\s*\{\s*d\s*[a-z]\s*\}"
)


# (x, y) = (1, 2)
_NAMES = re.compile(r"\(\s*[A-Za-z]\s*(?:,\s*[A-Za-z]\s*)+\)")


def _is_name(text: str) -> bool:
    text = text.strip()
    if _NAMES.fullmatch(text):
        return True
    return bool(_NAME.fullmatch(text)) and not re.fullmatch(r"\\(?:pi|infty)|[ei]", text)


def name_of(text: str) -> str:
    """Return the name in `x = 5`; an empty text if the text has no name."""
    form = read_structure(text)
    return name_and_value(form)[0] if form.kind == "relation" else ""


def name_and_value(relation: Structure) -> tuple[str, str]:
    """Return name and value of `x = 5`, `5 = x` and `A = x y = 5`; empty texts without a name."""
    first, last = relation.parts[0], relation.parts[-1]
    if _is_name(first):
        return first, last
    if len(relation.parts) == 2 and _is_name(last):
        return last, first
    return "", ""


def values_of_one_name(parts: tuple[str, ...]) -> Sequence[str]:
    """Return the values of a list whose members share one name; otherwise the same list."""
    forms = [read_structure(part) for part in parts]
    named = [
        name_and_value(form) if form.kind == "relation" and form.mark == "=" else None
        for form in forms
    ]
    if (
        named[0]
        and named[0][0]
        and not any(named[1:])
        and not any(form.kind == "relation" for form in forms[1:])
    ):
        return [named[0][1], *parts[1:]]
    names = [pair[0] for pair in named if pair and pair[0]]
    if len(names) != len(parts):
        return parts
    # x_1 = 1, x_2 = 4 are the roots of one equation.
    stems = set(map(stem_of, names))
    if len(stems) == 1 and (len(set(names)) == 1 or "(" not in names[0]):
        return [pair[1] for pair in named if pair]
    return parts


def stem_of(name: str) -> str:
    """Return a name without its index: x for x_1."""
    return re.sub(r"\s*_\s*(?:\{[^{}]*\}|\w)|\s", "", name)


def has_names(parts: tuple[str, ...]) -> bool:
    """Return whether each part has a name of its own: x = 1, y = 2."""
    names = [name_of(part) for part in parts]
    return "" not in names and len(set(map(stem_of, names))) == len(names)


def has_indices(parts: tuple[str, ...]) -> bool:
    """Return whether every part has a name, and some of the names an index: x_1 = 1, x_2 = 4."""
    names = [name_of(part) for part in parts]
    return "" not in names and any("_" in name for name in names)


def named_values(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the values of `x=2, y=5`; None if the names are not in alphabetical order."""
    forms = [read_structure(part) for part in parts]
    if any(form.kind != "relation" or form.mark != "=" for form in forms):
        return None
    named = [name_and_value(form) for form in forms]
    names = [name for name, _ in named]
    if "" in names or len(set(names)) != len(names) or names != sorted(names):
        return None
    return tuple(value for _, value in named)


def are_ordinates(name: str, other: str) -> bool:
    """Return whether one of two names is y and the other `f(x)`."""
    names = {re.sub(r"\s", "", name), re.sub(r"\s", "", other)}
    return "y" in names and bool(names & {"f(x)", "y(x)", "g(x)"})


def letters_in(text: str) -> list[str]:
    """Return the letters of a text that are neither in a command nor in a word."""
    return re.findall(r"[A-Za-z]", re.sub(r"\\text\{[^{}]*\}|\\[A-Za-z]+", "", text))


_POINT = re.compile(r"([A-Z])\s*(\(.+\))")


def named_point(text: str) -> tuple[str, str] | None:
    """Return name and coordinates of a point such as `P(3,4)`; None for other texts."""
    match = _POINT.fullmatch(text.strip())
    if not match or read_structure(match[2]).kind not in ("pair", "tuple"):
        return None
    return match[1], match[2]
