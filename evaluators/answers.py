r"""Final answers as text: how large they may be, and what their notation means.

    judge_text("1000", r"1\,000")    ->  True, without any algebra

Everything here is plain text and exact fractions, linear in the length of its input, and safe on
hostile input. What it cannot decide is left (as None) to the algebra in `verify`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Caps. A final answer beyond one of them is no answer that a grader would read; the longest
# reference answer in six public benchmarks has 993 characters, a proof's worth of matrices.
MAX_ANSWER_CHARS = 2_000
# The LaTeX parser's time grows with the square of the nesting: 3 s at 50 nested fractions.
MAX_NESTING = 24
MAX_DIGIT_RUN = 256
# The parser expands determinants and evaluates binomials on the spot: 6 by 6 symbols take a second.
MAX_DETERMINANT_CELLS = 30
# Of a binomial, five digits take milliseconds, nine never end.
MAX_BINOMIAL_DIGITS = 5
# Powers of ten beyond this are left to floating point with a wide exponent.
MAX_EXACT_EXPONENT = 5_000

# A decimal stands for the numbers that round to it. Fewer digits than six are taken as exact
# (0.333 is not 1/3); beyond fifteen come the rounding errors of double precision.
MIN_DECIMAL_DIGITS, MAX_DECIMAL_DIGITS = 6, 15


def over_cap(answer: str) -> str | None:
    """Which cap an answer breaks, in words; None if it may be parsed."""
    if len(answer) > MAX_ANSWER_CHARS:
        return f"{len(answer)} characters, over {MAX_ANSWER_CHARS}"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"nesting of {deepest}, over {MAX_NESTING}"
    longest = max((len(run) for run in re.findall(r"[0-9]+", answer)), default=0)
    if longest > MAX_DIGIT_RUN:
        return f"{longest} digits in a row, over {MAX_DIGIT_RUN}"
    cells = answer.count("&")
    if cells > MAX_DETERMINANT_CELLS and re.search(r"\\det|vmatrix", answer):
        return f"a determinant beside {cells} column marks, over {MAX_DETERMINANT_CELLS}"
    if "binom" in answer and longest > MAX_BINOMIAL_DIGITS:
        return f"a binomial beside {longest} digits, over {MAX_BINOMIAL_DIGITS}"
    return None


# --- notation ---------------------------------------------------------------------------------

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
        "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}",
        "√": r"\sqrt ", "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "…": r"\ldots ",
    }
)  # fmt: skip
_MATH_FENCES = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_ANSWER_IS = re.compile(
    r"(?is).*\b(?:answer|result|solution|solution\s+set)s?\b\s*(?:is|are|:|=|equals)\s*:?\s*(.+)"
)
# A sentence around one formula, for example: It is the line $y=x$. What is denied is no answer.
_ONE_FORMULA = re.compile(r"([^$0-9\\]*)\$([^$]+)\$([^$0-9\\]*)")
_DENIAL = re.compile(r"(?i)\b(?:no|not|none|never|except|unless|if)\b|n't")
_WORD = r"(?<![A-Za-z\\])[A-Za-z]{2,}"
_SENTENCE = re.compile(rf"(?:{_WORD}\s+){{2,}}{_WORD}")
# `\mathrm{e}` and `\mathrm{i}` are the constants; any other upright letter is a unit.
_UPRIGHT_CONSTANT = re.compile(r"\\(?:mathrm|operatorname|rm)\s*\{\s*([ei])\s*\}")
_GROUP_GAP = r"(?:\\[,;:! ]|~|\\thinspace\s?|\{,\}|[ ])"
_GROUPED = re.compile(rf"(?<![0-9.,\w\\}}])([0-9]{{1,3}})((?:{_GROUP_GAP}[0-9]{{3}})+)(?![0-9,])")
_E_NOTATION = re.compile(r"(?<![\w.}\\])([0-9]+\.?[0-9]*|\.[0-9]+)[eE]([+-]?[0-9]+)(?![\w.^])")
_FUNCTION = r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?(?![a-z])|\\(?:ln|log|exp|lg)(?![a-z])"
_TIMES_BEFORE_FUNCTION = re.compile(rf"(?:\\cdot|\\times|\*)\s*(?={_FUNCTION})")


# math-verify takes a last letter for a unit: `\sin 2t` for sin 2. After a function or a variable
# it is a variable; after a number (`2\pi m`) it may be either, and is left alone.
_LAST_LETTER = re.compile(r"(?P<head>.*[0-9}\s])(?P<letter>[A-Za-z])", re.DOTALL)
_NO_VARIABLE = re.compile(
    rf"\\(?:text|mathrm)\s*\{{[^{{}}]*\}}|(?!{_FUNCTION})\\[A-Za-z]+", re.DOTALL
)


def tidy(answer: str) -> str:
    r"""The same answer in notation that the LaTeX parser reads as people do.

    Unicode signs become commands, `1\,000` becomes 1000, `8.7e8` becomes `8.7 \times 10^{8}`,
    `\mathrm{e}` becomes e, the sign before a function is dropped (`\sin x \cdot \cos x` would be
    read as sin(x cos x)), and of "the answer is 5." the 5 stays.
    """
    text = _unfence(answer.translate(_SIGNS).strip())
    said = _ANSWER_IS.fullmatch(text)
    if said:
        text = _unfence(said.group(1).strip())
    text = _formula_of_sentence(text)
    text = _UPRIGHT_CONSTANT.sub(r" \1 ", text)
    text = _GROUPED.sub(lambda m: m.group(1) + "".join(re.findall(r"[0-9]{3}", m.group(2))), text)
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    return _keep_last_variable(_TIMES_BEFORE_FUNCTION.sub(" ", text).strip())


def _keep_last_variable(text: str) -> str:
    found = _LAST_LETTER.fullmatch(text)
    if not found or not re.search("[A-Za-z]", _NO_VARIABLE.sub("", found["head"].split("=")[-1])):
        return text
    return f"{found['head']}{{{found['letter']}}}"


def _formula_of_sentence(text: str) -> str:
    found = _ONE_FORMULA.fullmatch(text)
    if not found:
        return text
    words = f"{found.group(1)} {found.group(3)}"
    return text if _DENIAL.search(words) or not re.search(_WORD, words) else found.group(2).strip()


def _unfence(text: str) -> str:
    text = re.sub(r"(?<=[^.\\\s])\s*\.$", "", text)
    for left, right in _MATH_FENCES:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right):
            return text if left in inner or right in inner else inner.strip()
    return text


# --- numerals ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numeral:
    """A number as written.

    Args:
        value: exact, a percent sign already applied.
        digits: significant digits of a decimal within the bounds above; None for an exact number.
        is_percent: whether a percent sign was written.
    """

    value: Fraction
    digits: int | None = None
    is_percent: bool = False


_INTEGER = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:\{,\}[0-9]{3})+|[0-9]+"
_NUMERAL = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:\\?\$)?\s*(?P<integer>{_INTEGER})?(?P<decimals>\.[0-9]*)?"
    r"(?:\s*(?:\\times|\\cdot)\s*10\s*\^\s*(?:\{\s*(?P<braced>[-+]?[0-9]{1,9})\s*\}|(?P<bare>[0-9])))?"
    r"\s*(?P<percent>\\?%)?\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\}))?"
)
_FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\[dtc]?frac\s*\{\s*(?P<a>-?[0-9]+)\s*\}\s*\{\s*(?P<b>[0-9]+)\s*\}"
    r"|\\[dtc]?frac\s*(?P<c>[0-9])\s*(?P<d>[0-9])|(?P<e>[0-9]+)\s*/\s*(?P<f>[0-9]+))"
)
_BASED = re.compile(
    r"\(?(?P<digits>[0-9A-Za-z]+)\)?_\s*(?:\{\s*(?P<long>[0-9]{1,2})\s*\}|(?P<short>[0-9]))"
)


def read_number(text: str) -> Numeral | None:
    r"""The number that a tidied text is; None if it is not just one number.

    Integers with or without thousands separators, decimals, `a \times 10^{k}`, fractions of
    integers, numerals with a base as subscript (`204_5`); dollar, percent and degree signs.
    """
    if based := _BASED.fullmatch(text):
        return _read_based(based["digits"], int(based["long"] or based["short"]))
    if found := _FRACTION.fullmatch(text):
        top, bottom = (found["a"], found["b"]) if found["b"] else (found["c"], found["d"])
        top, bottom = (top, bottom) if bottom else (found["e"], found["f"])
        sign = -1 if found["sign"] == "-" else 1
        return Numeral(Fraction(sign * int(top), int(bottom))) if int(bottom) else None
    found = _NUMERAL.fullmatch(text)
    if not found or not (found["integer"] or (found["decimals"] or "") > "."):
        return None
    return _read_decimal(found)


def _read_decimal(found: re.Match[str]) -> Numeral | None:
    integer = re.sub(r"\D", "", found["integer"] or "")
    decimals = (found["decimals"] or "")[1:]
    exponent = int(found["braced"] or found["bare"] or 0)
    if abs(exponent) > MAX_EXACT_EXPONENT:
        return None
    value = Fraction(int(integer + decimals)) * Fraction(10) ** (exponent - len(decimals))
    value = -value if found["sign"] == "-" else value
    is_percent = bool(found["percent"])
    digits = significant_digits(integer + decimals) if decimals else None
    return Numeral(value / 100 if is_percent else value, digits, is_percent)


def _read_based(digits: str, base: int) -> Numeral | None:
    try:
        return Numeral(Fraction(int(digits, base))) if base >= 2 else None
    except ValueError:  # an index, as in x_1, and no base
        return None


def significant_digits(digits: str) -> int:
    """How many digits of a decimal count, within the bounds of this module."""
    written = len(digits.lstrip("0"))
    return min(max(written, MIN_DECIMAL_DIGITS), MAX_DECIMAL_DIGITS)


def equal_numbers(a: Fraction, b: Fraction, a_digits: int | None, b_digits: int | None) -> bool:
    """Whether two numbers are the same, as far as their written digits tell.

    Two decimals agree if they do when rounded to the fewer digits. A decimal agrees with an
    exact number if it is that number rounded, or cut off (1.4142135 for the root of two).

    Args:
        a: a number.
        b: another.
        a_digits: significant digits of a decimal; None if the number is exact.
        b_digits: of the other.
    """
    digits = fewest_digits(a_digits, b_digits)
    if a == b or digits is None:
        return a == b
    largest = max(abs(a), abs(b))
    # floor(log10), found within one and corrected.
    exponent = len(str(largest.numerator)) - len(str(largest.denominator))
    exponent -= largest < Fraction(10) ** exponent
    unit = Fraction(10) ** (exponent - digits + 1)
    if abs(a - b) <= unit / 2:
        return True
    if a_digits is not None and b_digits is not None:
        return False
    decimal, exact = (b, a) if a_digits is None else (a, b)
    return decimal * exact > 0 and 0 < abs(exact) - abs(decimal) < unit


def fewest_digits(*digits: int | None) -> int | None:
    """Significant digits at which numbers can be compared; None if all of them are exact."""
    return min((d for d in digits if d is not None), default=None)


def equal_numerals(gold: Numeral, answer: Numeral) -> bool:
    """Whether an answer is the gold's number.

    If the gold is a percentage, its number without the sign counts as well: "what percentage"
    asks for it. A sign that the gold does not have divides by 100.
    """
    if equal_numbers(gold.value, answer.value, gold.digits, answer.digits):
        return True
    in_percent = gold.is_percent and not answer.is_percent
    return in_percent and equal_numbers(gold.value * 100, answer.value, gold.digits, answer.digits)


# --- text -------------------------------------------------------------------------------------

_DOTS = re.compile(r"\\(?:l|c|v|d)?dots[cbmio]?(?![A-Za-z])|\.\.\.+")
_SPACING = re.compile(r"\\[,;:! ]|~|\\(?:quad|qquad|thinspace|left|right|displaystyle)(?![A-Za-z])")
_LOOSE_SPACE = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
# After a separator or before one, an ellipsis stands for left-out members of a list. After a
# digit it stands for further digits (0.333\ldots), which is another matter.
_LIST_ELLIPSIS = re.compile(r"[,;:+=<]…|…[,;:+=<]|\*…|…\*")


def canonical_text(answer: str) -> str:
    """The text without what makes no difference in print; for comparing, not for parsing."""
    text = _SPACING.sub(" ", _DOTS.sub("…", answer))
    text = re.sub(r"\\[dtc]frac", r"\\frac", re.sub(r"\\cdot(?![a-z])|\\times", "*", text))
    text = re.sub(r"(?<=[_^])\{([A-Za-z0-9])\}", r"\1", text)
    return _LOOSE_SPACE.sub("", re.sub(r"\s+", " ", text)).strip()


def _unwrap_text(answer: str) -> str:
    return _TEXT_COMMAND.sub(r" \1 ", answer)


def _plain_words(answer: str) -> str:
    return canonical_text(_unwrap_text(answer)).casefold().rstrip(".")


def judge_text(gold: str, answer: str) -> bool | None:
    """Whether an answer equals the gold, as far as text and exact numbers tell; None if not.

    Both within the caps.
    """
    if gold.strip() == answer.strip():
        return True
    gold, answer = tidy(gold), tidy(answer)
    number, other = read_number(gold), read_number(answer)
    if number and other:
        return equal_numerals(number, other)
    if _SENTENCE.search(_unwrap_text(gold)):
        return _plain_words(gold) == _plain_words(answer)  # the parser would multiply its letters
    gold, answer = canonical_text(gold), canonical_text(answer)
    if gold == answer:
        return True
    if _LIST_ELLIPSIS.search(gold) or _LIST_ELLIPSIS.search(answer):
        return False  # what stands behind the dots cannot be computed, only compared
    return None
