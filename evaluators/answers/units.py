r"""Units after a number: which words are units, and how they convert.

    read_unit(r"\text{square} \text{centimeters}")  ->  Unit((("m", 2),), 1/10000)
    read_unit(r"/ \text{cm}^{3}")                   ->  Unit((("m", -3),), 10^6)
    read_unit(r"\text{or} \text{more}")             ->  None

A text with any word that is not a unit is not a quantity, and is compared as text. If both sides
have a unit, the units must be of one kind, and their sizes count (3 hours are 180 minutes). If only
one side has a unit, the numbers alone are compared.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from rlready.evaluators.answers.tables import TABLES, word_set


@dataclass(frozen=True)
class Unit:
    """A product of powers of base units, and the size of the unit in terms of this product.

    The powers are sorted by the names of the base units, without zeros.
    """

    powers: tuple[tuple[str, int], ...]
    size: Fraction


_EXPONENTS: dict[str, int] = TABLES["units"]["exponents"]
_LONG_PREFIXES = [prefix for prefix in _EXPONENTS if len(prefix) > 2]
_COMPOUND: dict[str, str] = TABLES["units"]["compound"]
# Plurals that change a number rather than say what is counted.
_NOT_NOUNS = word_set(TABLES["units"]["not_nouns"])
_FILLERS = word_set("of each a an us total old")
_POWER_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}


@functools.cache
def _table() -> dict[str, tuple[str, Fraction]]:
    table = {}
    for symbol, (prefixes, words) in TABLES["units"]["metric"].items():
        base = "L" if symbol == "l" else symbol
        for prefix in ["", *prefixes.split()]:
            table[prefix + symbol] = (base, Fraction(10) ** _EXPONENTS.get(prefix, 0))
        for word in words.split():
            for prefix in ["", *_LONG_PREFIXES]:
                table[prefix + word] = (base, Fraction(10) ** _EXPONENTS.get(prefix, 0))
    for base, size, spellings in re.findall(
        r"(\S+) (\S+): ((?:\S+ ?)+)", TABLES["units"]["spellings"]
    ):
        for spelling in spellings.split():
            table.setdefault(spelling, (base, Fraction(size)))
    return table


def _listed_unit(word: str) -> tuple[str, Fraction] | None:
    """Return base unit and size of one word. Symbols (`m`, `kg`) keep their case."""
    table = _table()
    if word in table:
        return table[word]
    lower = word.casefold().rstrip(".")
    for spelling in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if len(spelling) > 1 and spelling in table:
            return table[spelling]
    return None


def _noun(word: str) -> tuple[str, Fraction] | None:
    # Anything may be counted: 9 apples. A word that is not in the tables must be a plural.
    if not re.fullmatch(r"[a-z]{2,}(?<!u)(?<!i)(?<!s)s", word) or word in _NOT_NOUNS:
        return None
    return (word[:-2] if word.endswith(("ches", "shes", "xes")) else word[:-1], Fraction(1))


_FRACTION = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_BARE = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]+")
_TOKEN = re.compile(
    r"(?P<mu>\\mu\s*)?\\text\{(?P<word>[^{}]+)\}"
    r"(?:\s*\^\s*(?:\{\s*(?P<long>[-+]?\s*[0-9])\s*\}|(?P<short>[0-9])))?|(?P<over>/)|\\cdot|\\times|\*|-|\s+"
)


def _in_text(match: re.Match[str]) -> str:
    return match[0] if match[0][0] == "\\" else rf"\text{{{match[0]}}}"


def read_unit(text: str) -> Unit | None:
    """Return the unit that a rewritten text writes; None if any part of it is not a unit."""
    text = text.strip()
    if re.fullmatch(r"\([^()]*\)", text):
        text = text[1:-1]
    text = _BARE.sub(_in_text, _FRACTION.sub(r" \1 / \2 ", text))
    powers: dict[str, int] = {}
    size, place, sign, pending, n_nouns = Fraction(1), 0, 1, 1, 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return None
        place = token.end()
        word = token["word"] or ""
        lower = word.casefold()
        if token["over"] or lower == "per":
            sign = -1
        elif lower in _POWER_WORDS:
            pending = _POWER_WORDS[lower]
        elif word and lower not in _FILLERS:
            factor = _factor("mu" + word if token["mu"] else word)
            n_nouns += factor is None
            noun = _noun(lower) if factor is None and n_nouns <= 1 else None
            factor = Unit(((noun[0], 1),), noun[1]) if noun else factor
            if factor is None:
                return None
            exponent = (token["long"] or token["short"] or "1").replace(" ", "")
            power = sign * pending * int(exponent)
            for base, base_power in factor.powers:
                powers[base] = powers.get(base, 0) + base_power * power
            size, pending = size * factor.size**power, 1
    if not powers or pending != 1:
        return None
    return Unit(tuple(sorted((base, power) for base, power in powers.items() if power)), size)


def _factor(word: str) -> Unit | None:
    if word.casefold() in _COMPOUND or word in _COMPOUND:
        return read_unit(_COMPOUND.get(word) or _COMPOUND[word.casefold()])
    base_unit = _listed_unit(word)
    return Unit(((base_unit[0], 1),), base_unit[1]) if base_unit else None
