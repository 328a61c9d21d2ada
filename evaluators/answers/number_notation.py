r"""Numbers, degrees, binomials and intervals of a rewritten text in one notation.

tidy_numbers("1{,}000")     ->  "1000"
tidy_numbers("4.6e-24")     ->  r"4.6\times 10^{-24}"
tidy_numbers("C_n^k")       ->  r"\binom{n}{k}"
tidy_numbers("]0,1[")       ->  "(0,1)"
"""

from __future__ import annotations

import re

_GROUPED = re.compile(
    r"(?<![0-9.,A-Za-z_^{(\\}\]])([0-9]{1,3})((?:(?:\{,\}|\s)[0-9]{3})+)(?![0-9]|\{,\}|\s*/)"
)
# Beside anything else, a comma before three digits belongs to the number: x = 350,000 pages.
_COMMAS = re.compile(r"(?<![0-9.,\w(\[{])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,)\]}])")
_ONLY_NUMBERS = re.compile(r"[-+0-9,.\s]*")
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")
_E_NOTATION = re.compile(
    r"(?<![A-Za-z_.}\\0-9])([0-9]+\.?[0-9]*|\.[0-9]+)\s*[eE]\s*(?:\{\s*)?([+-]?[0-9]+)(?:\s*\})?(?![A-Za-z0-9.^])"
)
_SPACED_E = re.compile(r"([0-9.]) e (?=\{?[+-]?[0-9])")
_POWER = re.compile(r"\^\s*([-+]?\s*[0-9]+)")
# People write x1 for x_1; x1 is never written for the product.
_INDEX_DIGITS = re.compile(r"(?<![A-Za-z0-9\\{_^])([A-Za-z])([0-9]+)(?![0-9.}])")
_X_FOR_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)|(?<=[0-9}])\s+x\s+(?=[0-9])")
_DOTTED = re.compile(r"(?<=[0-9.])((?:\\dot\s*\{[0-9]\})(?:[0-9]*\\dot\s*\{[0-9]\})?)")
_PARENTHESIZED_PERIOD = re.compile(r"(?<![A-Za-z0-9])([0-9]*\.[0-9]*)\(([0-9]+)\)(?![0-9])")
_INDEXED_LETTER = re.compile(r"\\text\{([A-Z])\}\s*(?=[_^])")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose ([^{}]*)\}")
_ONE = r"(?:\{([^{}]+)\}|([A-Za-z0-9]))"
_COMBINATIONS = re.compile(rf"(?<![A-Za-z0-9])C\s*_\s*{_ONE}\s*\^\s*{_ONE}")
_COMBINATIONS_RAISED = re.compile(rf"(?<![A-Za-z0-9])C\s*\^\s*{_ONE}\s*_\s*{_ONE}")
_PRESCRIPT = re.compile(rf"(?<![A-Za-z0-9}})])[_^]\s*{_ONE}\s*C\s*_\s*{_ONE}")
_DEGREES = re.compile(
    r"\s*\^\s*(?:\\circ(?![a-z])|\{\s*\\circ\s*\})\s*(?:(?:\\text\{)?([CF])(?![A-Za-z])\}?)?"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ANGLE = re.compile(r"([0-9.]+)\s*\^\s*(?:\\circ(?![a-z])|\{\s*\\circ\s*\})")
_FRENCH = re.compile(r"(?<![0-9A-Za-z)}\]])\]\s*([^\[\]]+?[,;][^\[\]]+?)\s*([\[\]])")
_FRENCH_HALF = re.compile(r"\[([^\[\]]+[,;][^\[\]]+)\[")
_WORD_INFINITY = re.compile(
    r"(?i)\\text\{(?:positive|plus) *\} *\\text\{infinity\}|\\text\{infinity\}"
)
_NEGATIVE_INFINITY = re.compile(r"(?i)\\text\{(?:negative|minus)\} *\\infty(?![a-z])")
_PERCENT_WORD = re.compile(
    r"(?i)\\text\{per\}\s*\\text\{cent\}"
    r"|\\text\{(?:percent|percents|pct|per cent|percentage)\.?\}(?!\s*\\text\{points?\})"
)


def tidy_numbers(text: str) -> str:
    """Return the text with its numbers, and what is written like one, in one notation."""
    text = _INDEXED_LETTER.sub(r"\1", text)
    text = _COMBINATIONS.sub(_binomial, _CHOOSE.sub(r"\\binom{\1}{\2}", text))
    text = _PRESCRIPT.sub(_binomial, _COMBINATIONS_RAISED.sub(_binomial_raised, text))
    if _TRIGONOMETRIC.search(text):
        text = _ANGLE.sub(r"(\\frac{\1 \\pi }{180})", text)
    text = _FRENCH_HALF.sub(r"[\1)", _FRENCH.sub(_interval, text))
    text = _DEGREES.sub(
        lambda m: (
            r" \text{degree} "
            if not m[1]
            else r" \text{celsius} "
            if m[1] == "C"
            else r" \text{fahrenheit} "
        ),
        text,
    )
    text = _NEGATIVE_INFINITY.sub(r"-\\infty ", _WORD_INFINITY.sub(r"\\infty ", text))
    text = _PERCENT_WORD.sub(r"\\%", text)
    text = _GROUPED.sub(lambda m: m[1] + "".join(re.findall(r"[0-9]{3}", m[2])), text)
    if not _ONLY_NUMBERS.fullmatch(text):
        text = _COMMAS.sub(lambda m: m[0].replace(",", ""), text)
    text = _DECIMAL_COMMA.sub(".", text)
    text = _E_NOTATION.sub(r"\1\\times 10^{\2}", _SPACED_E.sub(r"\1e", text))
    text = _INDEX_DIGITS.sub(r"\1_{\2}", text)
    text = _X_FOR_TIMES.sub(r"\\times ", text)
    text = _POWER.sub(
        lambda m: (
            "^{" + m[1].replace(" ", "") + "}"
            if m[1][0] in "+-" or (len(m[1]) > 1 and _is_plain_power(text))
            else m[0]
        ),
        text,
    )
    text = _DOTTED.sub(lambda m: r"\overline{" + re.sub(r"\D", "", m[1]) + "}", text)
    text = _PARENTHESIZED_PERIOD.sub(r"\1\\overline{\2}", text)
    return re.sub(r"\s+", " ", text).strip()


def _interval(match: re.Match[str]) -> str:
    return f"({match[1]}{')' if match[2] == '[' else ']'}"


def _is_plain_power(text: str) -> bool:
    # Outside LaTeX, 10^24 has the exponent 24; inside, the exponent is 2.
    return "\\" not in text.replace(r"\times ", "")


def _binomial(match: re.Match[str]) -> str:
    return rf"\binom{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}"


def _binomial_raised(match: re.Match[str]) -> str:
    return rf"\binom{{{match[3] or match[4]}}}{{{match[1] or match[2]}}}"
