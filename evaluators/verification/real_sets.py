r"""One form for sets of real numbers: intervals, unions, inequalities and conditions.

read_set(read_structure("(2,5]"))              ->  RealSet("", (Piece("2", "5", True, False),))
read_set(read_structure(r"2 < x \le 5"))       ->  RealSet("x", (Piece("2", "5", True, False),))
read_set(read_structure(r"x \ne 3"))           ->  RealSet("x", (below 3, above 3))
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlready.evaluators.answers.structure import Structure, ascending, read_structure

LOWEST, HIGHEST = r"-\infty", r"\infty"
_INFINITIES = {LOWEST: -math.inf, HIGHEST: math.inf}


@dataclass(frozen=True)
class Piece:
    """An interval, with its ends as texts."""

    low: str
    high: str
    is_low_open: bool
    is_high_open: bool


@dataclass(frozen=True)
class RealSet:
    """A union of intervals, and the name of the variable if it was written."""

    name: str
    pieces: tuple[Piece, ...]


Value = Callable[[str], Any]
_NAME = re.compile(r"[A-Za-z](?:_\{?\w\}?)?|\\(?!infty|pi)[a-z]+")
_ABSOLUTE = re.compile(r"\|\s*([A-Za-z])\s*\|")
_WHOLE = (Piece(LOWEST, HIGHEST, True, True),)


def read_set(form: Structure, value: Value) -> RealSet | None:
    """Return the set; None if this module cannot read the structure.

    `value` returns the number in a text; None if the text is not a number.
    """
    if form.kind == "pair":
        low, high = form.parts
        return RealSet("", (Piece(low, high, form.mark[0] == "(", form.mark[1] == ")"),))
    if form.kind == "union":
        return _union([read_set(read_structure(part), value) for part in form.parts], value)
    if form.kind == "builder":
        return _builder(form, value)
    if form.kind == "list":
        sets = [read_set(read_structure(part), value) for part in form.parts]
        both = _intersection(sets, value)
        # "x < 1, x > 3" has no common part: the comma means "or".
        is_union = form.mark == "or" or (not form.mark and both is not None and not both.pieces)
        return _union(sets, value) if is_union else both
    if form.kind == "relation":
        return _relation(form, value)
    if form.kind == "single":
        return _single(form.parts[0], value)
    return None


def _single(text: str, value: Value) -> RealSet | None:
    if text.strip() == r"\mathbb{R}":
        return RealSet("", _WHOLE)
    base, sign, removed = text.partition(r"\setminus")
    points = read_structure(removed.strip())
    if not sign or points.kind != "set":
        return None
    outer = read_set(read_structure(base.strip()), value)
    return _intersection([outer, *(RealSet("", _without(point)) for point in points.parts)], value)


def _without(point: str) -> tuple[Piece, Piece]:
    return Piece(LOWEST, point, True, True), Piece(point, HIGHEST, True, True)


def _builder(form: Structure, value: Value) -> RealSet | None:
    name, sign, domain = form.parts[0].partition(r"\in")
    condition = read_structure(form.parts[1])
    if condition.kind == "list" and not condition.mark:
        condition = replace(condition, mark="and")
    inner = read_set(condition, value)
    is_real = not sign or domain.strip() == r"\mathbb{R}"
    return inner if inner and inner.name == name.strip() and is_real else None


def _relation(form: Structure, value: Value) -> RealSet | None:
    form = ascending(form)
    signs, parts = form.mark.split(), form.parts
    if signs == ["in"] and _NAME.fullmatch(parts[0]):
        inner = read_set(read_structure(parts[1]), value)
        return inner and RealSet(parts[0], inner.pieces)
    if len(parts) == 3 and set(signs) <= {"<", "<="} and _NAME.fullmatch(parts[1]):
        return RealSet(parts[1], (Piece(parts[0], parts[2], signs[0] == "<", signs[1] == "<"),))
    if len(parts) != 2:
        return None
    if signs == ["!="]:
        name, point = (parts[0], parts[1]) if _NAME.fullmatch(parts[0]) else (parts[1], parts[0])
        return RealSet(name, _without(point)) if _NAME.fullmatch(name) else None
    if not set(signs) <= {"<", "<="}:
        return None
    is_open = signs[0] == "<"
    if _NAME.fullmatch(parts[0]):
        return RealSet(parts[0], (Piece(LOWEST, parts[1], True, is_open),))
    if _NAME.fullmatch(parts[1]):
        return RealSet(parts[1], (Piece(parts[0], HIGHEST, is_open, True),))
    return _absolute(parts, is_open, value)


def _absolute(parts: Sequence[str], is_open: bool, value: Value) -> RealSet | None:
    for index in (0, 1):
        match, bound = _ABSOLUTE.fullmatch(parts[index].strip()), parts[1 - index]
        number = value(bound) if match else None
        if match and number is not None and number > 0:
            opposite = f"-({bound})"
            if index == 0:
                return RealSet(match[1], (Piece(opposite, bound, is_open, is_open),))
            below = Piece(LOWEST, opposite, True, is_open)
            return RealSet(match[1], (below, Piece(bound, HIGHEST, is_open, True)))
    return None


# --- union and intersection, by the values of the ends ----------------------------------------


def _common_name(sets: Sequence[RealSet | None]) -> str | None:
    if any(item is None for item in sets):
        return None
    names = {item.name for item in sets if item is not None and item.name}
    return (names.pop() if names else "") if len(names) < 2 else None


def _ends(pieces: Sequence[Piece], value: Value) -> list[tuple[Any, Any]] | None:
    """Return the ends of intervals as numbers; None if one of them is not a number."""

    def number(text: str) -> Any:
        plain = re.sub(r"[\s+]", "", text)
        return _INFINITIES[plain] if plain in _INFINITIES else value(text)

    ends = [(number(piece.low), number(piece.high)) for piece in pieces]
    return None if any(end is None for pair in ends for end in pair) else ends


def _union(sets: Sequence[RealSet | None], value: Value) -> RealSet | None:
    name = _common_name(sets)
    if name is None:
        return None
    pieces = [piece for item in sets if item is not None for piece in item.pieces]
    ends = _ends(pieces, value)
    if ends is None:
        return None
    merged: list[tuple[Piece, Any]] = []
    spans = zip(ends, pieces, strict=True)
    for (low, high), piece in sorted(spans, key=lambda span: (span[0][0], span[1].is_low_open)):
        last, last_high = merged[-1] if merged else (None, None)
        touches = last is not None and (
            low < last_high or (low == last_high and not (piece.is_low_open and last.is_high_open))
        )
        if last is None or not touches:
            merged.append((piece, high))
        elif high > last_high or (high == last_high and not piece.is_high_open):
            joined = replace(last, high=piece.high, is_high_open=piece.is_high_open)
            merged[-1] = (joined, high)
    return RealSet(name, tuple(piece for piece, _ in merged))


def _intersection(sets: Sequence[RealSet | None], value: Value) -> RealSet | None:
    name = _common_name(sets)
    if name is None:
        return None
    pieces: list[Piece] = list(_WHOLE)
    for item in sets:
        assert item is not None
        crossed = [_crossed(one, other, value) for one in pieces for other in item.pieces]
        pieces = []
        for common in crossed:
            if common is None:
                return None
            pieces += common
    return _union([RealSet(name, tuple(pieces))], value)


def _crossed(one: Piece, other: Piece, value: Value) -> list[Piece] | None:
    """Return the common part, which may be empty; None if an end is not a number."""
    ends = _ends((one, other), value)
    if ends is None:
        return None
    spans = list(zip(ends, (one, other), strict=True))
    low, is_low_open, low_text = max((low, p.is_low_open, p.low) for (low, _), p in spans)
    high, is_closed, high_text = min((high, not p.is_high_open, p.high) for (_, high), p in spans)
    if low > high or (low == high and (is_low_open or not is_closed)):
        return []
    return [Piece(low_text, high_text, is_low_open, not is_closed)]


def same_sets(gold: RealSet, answer: RealSet, equal: Callable[[str, str], bool]) -> bool:
    """Return whether two sets have the same pieces, and the same variable if both name one."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    return len(gold.pieces) == len(answer.pieces) and all(
        (one.is_low_open, one.is_high_open) == (other.is_low_open, other.is_high_open)
        and equal(one.low, other.low)
        and equal(one.high, other.high)
        for one, other in zip(gold.pieces, answer.pieces, strict=True)
    )


# --- conditions that are not solved -----------------------------------------------------------


def is_described_by(
    pieces: Sequence[Piece], holds: Callable[[Any], bool | None], value: Value
) -> bool:
    """Return whether a condition holds in these intervals and nowhere else, tested at points.

    The points are every end, both sides of it, and random numbers of all sizes. `holds` returns
    None at a point where the condition is undefined.
    """
    ends = _ends(pieces, value) or []
    finite = [end for pair in ends for end in pair if abs(end) != math.inf]
    if not finite:
        return False
    for piece, (low, high) in zip(pieces, ends, strict=True):
        if (low == -math.inf and not piece.is_low_open) or (
            high == math.inf and not piece.is_high_open
        ):
            return False
    rng = random.Random("points")
    points = [end + side * (1 + abs(end)) * 2.0**-30 for end in finite for side in (-1, 0, 1)]
    points += [rng.uniform(-size, size) for size in (1, 3, 10, 30, 100, 1000) for _ in range(20)]
    for point in points:
        inside = any(
            (low < point or (low == point and not piece.is_low_open))
            and (point < high or (high == point and not piece.is_high_open))
            for piece, (low, high) in zip(pieces, ends, strict=True)
        )
        if bool(holds(point)) != inside:
            return False
    return True
