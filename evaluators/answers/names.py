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
    relations = [_equation(part) for part in parts]
    names = [name for name, _ in relations]
    if names[0] and not any(read_structure(part).kind == "relation" for part in parts[1:]):
        return [relations[0][1], *parts[1:]]
    # x_1 = 1, x_2 = 4 are the roots of one equation.
    is_one_name = "" not in names and len(set(map(stem_of, names))) == 1
    if is_one_name and (len(set(names)) == 1 or "(" not in names[0]):
        return [value for _, value in relations]
    return parts


def _equation(text: str) -> tuple[str, str]:
    """Return name and value of `x = 5`; empty texts for anything but one named equation."""
    form = read_structure(text)
    return name_and_value(form) if (form.kind, form.mark) == ("relation", "=") else ("", "")


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
    relations = [_equation(part) for part in parts]
    names = [name for name, _ in relations]
    if "" in names or names != sorted(set(names)):
        return None
    return tuple(value for _, value in relations)


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
