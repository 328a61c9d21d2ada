r"""Numbers, degrees, binomials and intervals of a rewritten text in one notation.

tidy_numbers("1{,}000")     ->  "1000"
tidy_numbers("4.6e-24")     ->  r"4.6\times 10^{-24}"
tidy_numbers("C_n^k")       ->  r"\binom{n}{k}"
tidy_numbers("]0,1[")       ->  "(0,1)"
"""

from __future__ import annotations

import re

from rlready.evaluators.answers.tables import TABLES

_STEPS = {
    name: [(re.compile(pattern), replacement) for pattern, replacement in steps]
    for name, steps in TABLES["notation"].items()
}
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ANGLE = re.compile(r"([0-9.]+)\s*\^\s*(?:\\circ(?![a-z])|\{\s*\\circ\s*\})")
_FRENCH = re.compile(r"(?<![0-9A-Za-z)}\]])\]\s*([^\[\]]+?[,;][^\[\]]+?)\s*([\[\]])")
_GROUPED = re.compile(
    r"(?<![0-9.,A-Za-z_^{(\\}\]])([0-9]{1,3}(?:(?:\{,\}|\s)[0-9]{3})+)(?![0-9]|\{,\}|\s*/)"
)
# Beside anything else, a comma before three digits belongs to the number: x = 350,000 pages.
_COMMAS = re.compile(r"(?<![0-9.,\w(\[{])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,)\]}])")
_ONLY_NUMBERS = re.compile(r"[-+0-9,.\s]*")
_LONG_POWER = re.compile(r"\^\s*([0-9]{2,})")
_DOTTED = re.compile(r"(?<=[0-9.])\\dot\s*\{[0-9]\}(?:[0-9]*\\dot\s*\{[0-9]\})?")


def tidy_numbers(text: str) -> str:
    """Return the text with its numbers, and what is written like one, in one notation."""
    text = _stepped("binomials", text)
    if _TRIGONOMETRIC.search(text):
        text = _ANGLE.sub(r"(\\frac{\1 \\pi }{180})", text)
    text = _FRENCH.sub(lambda m: f"({m[1]}{')' if m[2] == '[' else ']'}", text)
    text = _GROUPED.sub(_digits, _stepped("signs", text))
    if not _ONLY_NUMBERS.fullmatch(text):
        text = _COMMAS.sub(_digits, text)
    text = _stepped("numbers", text)
    # Outside LaTeX, 10^24 has the exponent 24; inside, the exponent is 2.
    if "\\" not in text.replace(r"\times ", ""):
        text = _LONG_POWER.sub(r"^{\1}", text)
    text = _DOTTED.sub(lambda m: rf"\overline{{{_digits(m)}}}", text)
    return _stepped("spaces", text).strip()


def _stepped(name: str, text: str) -> str:
    for pattern, replacement in _STEPS[name]:
        text = pattern.sub(replacement, text)
    return text


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match[0])
