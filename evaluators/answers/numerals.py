r"""Plain numbers as written, and when two of them are equal.

    read_number(r"1{,}000.5")    ->  Numeral(2001/2, digits=5)
    read_number(r"2\frac{1}{3}") ->  Numeral(7/3)
    read_number(r"25\%")         ->  Numeral(1/4, is_percent=True)

The rule for numbers (`equal_numbers`):

1. A gold with an error tolerance accepts every number within it.
2. A number with a finite decimal (17, 0.25, 3/8, 40 %) equals only the same rational number:
   39295.8 is not 157183/4, and 8.47 is not 8.469999.
3. A value without a finite decimal (1/3, pi/2, the root of 2) also equals a decimal that has at
   least five significant digits and is its correct rounding: 0.33333 is 1/3, while 0.333, 0.33334
   and 0.66666 (for 2/3) are wrong.
4. A percent sign divides by 100. Where the gold carries the sign, its number alone counts too: 25
   for 25 %. Where only the answer carries it, 25 % is not 25. A problem that asks for a percentage
   has both golds (`verification.accepted_answers`).
5. A numeral with a base (52_8) equals only the same digits with the same base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rlready.evaluators.answers.tables import TABLES

# Powers of ten beyond this are left to floating point with a wide exponent.
MAX_EXACT_EXPONENT = 5_000
# A decimal with fewer significant digits is too rough for a value without a finite decimal.
MIN_DECIMAL_DIGITS = 5


@dataclass(frozen=True)
class Numeral:
    """A number as written.

    Args:
        value: exact, a percent sign already applied.
        digits: significant digits of a decimal; None for a number written without a point.
        is_percent: whether a percent sign was written.
    """

    value: Fraction
    digits: int | None = None
    is_percent: bool = False


_SIGN = r"(?P<sign>(?:[-+]\s*)?)"
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_POWER = (
    r"\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*"
    r"(?:\{\s*(?P<braced>[-+]?[0-9]{1,9})\s*\}|(?P<bare>[0-9]))"
)
_PERCENT = r"\s*(?P<percent>\\%)?"
_DECIMAL = re.compile(
    rf"{_SIGN}(?P<integer>{_INTEGER})?(?P<decimals>\.[0-9]*)?"
    rf"(?P<repeating>\\overline\s*\{{[0-9]+\}})?(?:{_POWER})?{_PERCENT}"
)
_POWER_OF_TEN = re.compile(
    rf"{_SIGN}10\s*\^\s*(?:\{{\s*(?P<braced>[-+]?[0-9]{{1,9}})\s*\}}|(?P<bare>[0-9])){_PERCENT}"
)
_QUOTIENT = re.compile(
    rf"{_SIGN}(?:(?P<whole>[0-9]+)\s*(?=\\frac|(?<=\s)[0-9]))?"
    rf"(?:\\frac\s*\{{\s*(?P<a>-?\s*{_INTEGER}|-?[0-9]*\.[0-9]+)\s*\}}"
    rf"\s*\{{\s*(?P<b>-?\s*{_INTEGER}|[0-9]*\.[0-9]+)\s*\}}"
    rf"|(?P<c>[0-9]+)\s*(?:/|\\div)\s*(?P<d>[0-9]+)){_PERCENT}"
)
_OPPOSITE = re.compile(r"-\s*\(\s*([^(),]*)\)|\(\s*([^(),]*)\)")


def read_number(text: str) -> Numeral | None:
    r"""Return the number that a rewritten text writes; None for anything but one number.

    Integers with or without thousands separators, decimals, repeating decimals, `a \times 10^{k}`,
    quotients of two numbers, mixed numbers; each with a percent sign or without.
    """
    text = text.strip()
    if match := _OPPOSITE.fullmatch(text):
        inner = read_number(match[1] or match[2] or "")
        if inner is None or inner.is_percent:
            return None
        return Numeral(-inner.value, inner.digits) if match[1] is not None else inner
    if match := _QUOTIENT.fullmatch(text):
        return _quotient(match)
    if match := _POWER_OF_TEN.fullmatch(text):
        exponent = int(match["braced"] or match["bare"])
        if abs(exponent) > MAX_EXACT_EXPONENT:
            return None
        return _numeral(match, Fraction(10) ** exponent, None)
    match = _DECIMAL.fullmatch(text)
    has_digits = match and (match["integer"] or (match["decimals"] or "") > ".")
    return _decimal(match) if match and has_digits else None


def _numeral(match: re.Match[str], value: Fraction, digits: int | None) -> Numeral:
    value = -value if match["sign"].startswith("-") else value
    is_percent = bool(match["percent"])
    return Numeral(value / 100 if is_percent else value, digits, is_percent)


def _quotient(match: re.Match[str]) -> Numeral | None:
    top, bottom = (match["a"], match["b"]) if match["b"] else (match["c"], match["d"])
    divisor = Fraction(re.sub(r"[\s,]", "", bottom))
    if not divisor:
        return None
    value = Fraction(re.sub(r"[\s,]", "", top)) / divisor
    if match["whole"]:
        # 2 7/3 and 2 -1/3 are not mixed numbers; their meaning is not clear.
        if not 0 <= value < 1 or "." in top + bottom:
            return None
        value += int(match["whole"])
    return _numeral(match, value, None)


def _decimal(match: re.Match[str]) -> Numeral | None:
    integer = re.sub(r"\D", "", match["integer"] or "")
    decimals = (match["decimals"] or "")[1:]
    exponent = int(match["braced"] or match["bare"] or 0)
    if abs(exponent) > MAX_EXACT_EXPONENT:
        return None
    unit = Fraction(10) ** (exponent - len(decimals))
    value = int(integer + decimals or "0") * unit
    if match["repeating"]:
        if match["decimals"] is None:
            return None
        period = re.sub(r"\D", "", match["repeating"])
        return _numeral(match, value + Fraction(int(period), 10 ** len(period) - 1) * unit, None)
    return _numeral(match, value, len((integer + decimals).lstrip("0")) if decimals else None)


def has_finite_decimal(value: Fraction) -> bool:
    """Return whether the number has a finite decimal: no prime factor but 2 and 5 below."""
    # A divisor of so many bits divides no power of ten unless it divides this one.
    return pow(10, value.denominator.bit_length(), value.denominator) == 0


def is_rounding(decimal: Fraction, digits: int | None, value: Fraction) -> bool:
    """Return whether a decimal is the correct rounding of a value without a finite decimal.

    Its digits are the significant ones; None if it was written without a point.
    """
    if digits is None or digits < MIN_DECIMAL_DIGITS or decimal * value <= 0:
        return False
    # The last digit's unit. The estimate of floor(log10) may be one too high and is corrected.
    size = abs(decimal)
    exponent = len(str(size.numerator)) - len(str(size.denominator))
    exponent -= size < Fraction(10) ** exponent
    unit = Fraction(10) ** (exponent - digits + 1)
    return abs(decimal - value) * 2 <= unit


def equal_numbers(a: Numeral, b: Numeral) -> bool:
    """Return whether two numbers are the same, by rules 2 and 3 of this module."""
    if a.value == b.value:
        return True
    if not has_finite_decimal(a.value):
        return is_rounding(b.value, b.digits, a.value)
    return not has_finite_decimal(b.value) and is_rounding(a.value, a.digits, b.value)


def equal_numerals(gold: Numeral, answer: Numeral, tolerance: Fraction = Fraction(0)) -> bool:
    """Return whether an answer is the gold's number, with or without the gold's percent sign."""
    if equal_numbers(gold, answer) or abs(gold.value - answer.value) <= tolerance:
        return True
    if not gold.is_percent or answer.is_percent:
        return False
    return equal_numbers(Numeral(gold.value * 100, gold.digits), answer)


# --- numerals with a base ---------------------------------------------------------------------

NUMBER_WORDS = {word: value for value, word in enumerate(TABLES["number_words"].split())}
_BASE_WORDS = {word: base for word, base in NUMBER_WORDS.items() if 2 <= base <= 16} | {
    "binary": 2,
    "octal": 8,
    "decimal": 10,
    "hexadecimal": 16,
}
_BASED = re.compile(
    r"\(?\s*(?P<digits>[0-9A-Za-z]+)\s*\)?\s*"
    r"(?:_\s*(?:\{\s*\(?(?P<long>[0-9]{1,2})\)?\s*\}|(?P<short>[0-9]))"
    r"|_\s*\{\s*(?P<word>[a-z]+)\s*\}"
    r"|\(?\s*(?:in\s+)?base\s*-?\s*(?P<base>[0-9]{1,2}|[a-z]+)\s*\)?)",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def read_based(text: str) -> tuple[str, int] | None:
    """Return digits and base of a numeral such as `204_5` or `52 (base 8)`; None for others."""
    match = _BASED.fullmatch(_TEXT.sub(r" \1 ", text).strip())
    if not match:
        return None
    word = match["long"] or match["short"] or match["word"] or match["base"] or ""
    base = int(word) if word.isdigit() else _BASE_WORDS.get(word.casefold(), 0)
    digits = match["digits"].casefold()
    try:
        int(digits, base)
    except ValueError:  # an index, as in x_1
        return None
    return (digits.lstrip("0") or "0", base) if base >= 2 and digits[0].isalnum() else None
