r"""Units after a number: which words are one, and which two are the same.

    read_unit(r"\text{square} \text{centimeters}")  ->  Unit((("m", 2),), 1/10000)
    read_unit(r"/ \text{cm}^{3}")                   ->  Unit((("m", -3),), 10^6)
    read_unit(r"\text{or} \text{more}")             ->  None

A text that holds any word that is not a unit is not a quantity, and is compared as text. Where both
sides have a unit, they must be of one kind, and their sizes count (3 hours are 180 minutes). Where
only one side has a unit, the numbers alone are compared.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from rlready.evaluators.answers.word_tables import word_set


@dataclass(frozen=True)
class Unit:
    """A product of powers of base units.

    Args:
        powers: name and power of each base unit, sorted, without zeros.
        size: how many of this product one unit is.
    """

    powers: tuple[tuple[str, int], ...]
    size: Fraction


_EXPONENTS = {
    "n": -9, "mu": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9, "T": 12,
    "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3, "mega": 6, "giga": 9,
}  # fmt: skip
_LONG_PREFIXES = [prefix for prefix in _EXPONENTS if len(prefix) > 2]
# Symbol: short prefixes; words, which take the long prefixes.
_METRIC = {
    "m": ("n mu m c d k", "meter metre"), "g": ("mu m k", "gram gramme"),
    "s": ("n mu m", "second"), "L": ("mu m c d", "liter litre"), "l": ("m c d", ""),
    "N": ("k M", "newton"), "J": ("m k M G", "joule"), "W": ("m k M G T", "watt"),
    "V": ("m k M", "volt"), "A": ("mu m", "ampere amp"), "Hz": ("k M G", "hertz"),
    "Pa": ("k M G", "pascal"), "eV": ("m k M G T", "electronvolt"), "mol": ("m k", "mole"),
    "cal": ("k", "calorie"), "pc": ("k M G", "parsec"), "B": ("k M G T", "byte"),
    "F": ("n mu m", "farad"), "C": ("n mu m", "coulomb"), "T": ("mu m", "tesla"),
    "K": ("mu m", "kelvin"), "erg": ("", ""), "ohm": ("k M", ""), "rad": ("m", "radian"),
}  # fmt: skip
# Base unit, its size in that base unit, and its spellings.
_NAMED = """
s 1: sec 秒
s 60: min minute 分钟
s 3600: h hr hour 小时
s 86400: d day 天
s 604800: week wk
month 1: month mo 月 个月
year 1: year yr 年
year 10: decade
year 100: century centuries
inch 1: inch in
inch 12: foot feet ft
inch 36: yard yd
inch 63360: mile mi
ounce 1: ounce oz
ounce 16: pound lb lbs
cent 1: cent
cent 100: dollar usd
euro 1: euro eur
sterling 1: gbp sterling
yen 1: yen jpy
rupee 1: rupee inr rs
yuan 1: yuan rmb cny 元 块
won 1: won krw
ruble 1: ruble rub
degree 1: degree deg 度
celsius 1: celsius
fahrenheit 1: fahrenheit
gallon 1: gallon gal
gallon 1/4: quart qt
gallon 1/8: pint pt
gallon 1/16: cup
acre 1: acre
hectare 1: hectare ha
unit 1: unit
person 1: person people 人
child 1: child children man 1: man men
woman 1: woman women
am 1: am a.m. a.m
pm 1: pm p.m. p.m
tonne 1: tonne 吨
ton 1: ton
piece 1: 个 只 本 张 条 棵 件
age 1: 岁 周岁
m 1: 米
m 1/100: 厘米
m 1/1000: 毫米
m 1000: 千米 公里
g 1: 克
g 1000: 千克 公斤
L 1: 升
L 1/1000: 毫升
light-year 1: ly light-year
au 1: au
arcsec 1: arcsec
atm 1: atm
bar 1: bar
angstrom 1: angstrom
knot 1: knot
"""
_COMPOUND = {
    "mph": r"\text{mi} / \text{h}", "kph": r"\text{km} / \text{h}",
    "kmh": r"\text{km} / \text{h}",
    "kmph": r"\text{km} / \text{h}", "cc": r"\text{cm}^{3}", "sqft": r"\text{ft}^{2}",
    "平方米": r"\text{米}^{2}", "平方厘米": r"\text{厘米}^{2}", "平方千米": r"\text{千米}^{2}",
    "立方米": r"\text{米}^{3}", "立方厘米": r"\text{厘米}^{3}",
}  # fmt: skip
# Plurals that change a number rather than say what is counted.
_NO_NOUNS = word_set(
    "plus minus less times always is was has as this us hundreds thousands millions billions "
    "dozens scores pairs couples trillions halves thirds quarters fourths fifths sixths "
    "sevenths eighths ninths tenths hundredths thousandths tens ones twos threes fours fives "
    "percents squares cubes roots powers multiples factors divisors solutions remains equals "
    "exceeds divides others otherwise reds "
    "digits grosses degrees trios triples doubles"
)
_FILLERS = word_set("of each a an us total old")
_POWER_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}


@functools.cache
def _table() -> dict[str, tuple[str, Fraction]]:
    table = {}
    for symbol, (prefixes, words) in _METRIC.items():
        base = "L" if symbol == "l" else symbol
        for prefix in ["", *prefixes.split()]:
            table[prefix + symbol] = (base, Fraction(10) ** _EXPONENTS.get(prefix, 0))
        for word in words.split():
            for prefix in ["", *_LONG_PREFIXES]:
                table[prefix + word] = (base, Fraction(10) ** _EXPONENTS.get(prefix, 0))
    for base, size, spellings in re.findall(r"(\S+) (\S+): ((?:\S+ ?)+)", _NAMED):
        for spelling in spellings.split():
            table.setdefault(spelling, (base, Fraction(size)))
    return table


def _known(word: str) -> tuple[str, Fraction] | None:
    """Base unit and size of one word; symbols (`m`, `kg`) are spelled as they are."""
    table = _table()
    if word in table:
        return table[word]
    lower = word.casefold().rstrip(".")
    for spelling in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if len(spelling) > 1 and spelling in table:
            return table[spelling]
    return None


def _noun(word: str) -> tuple[str, Fraction] | None:
    # Whatever is counted: 9 apples. One that this module does not know must be a plural.
    if not re.fullmatch(r"[a-z]{2,}(?<!u)(?<!i)(?<!s)s", word) or word in _NO_NOUNS:
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
    r"""Return the unit that a text is, whole; None if any part of it is not a unit.

    Args:
        text: rewritten, so that each word stands in its own `\text{}`.
    """
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
    base_unit = _known(word)
    return Unit(((base_unit[0], 1),), base_unit[1]) if base_unit else None
