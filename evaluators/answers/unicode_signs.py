r"""Unicode signs as LaTeX writes them.

from_unicode("½π ≤ 10⁻³")  ->  r"\frac{1}{2}\pi  \le  10^{-3}"
"""

from __future__ import annotations

import re
import unicodedata

from rlready.evaluators.answers.tables import TABLES

_SIGNS = TABLES["unicode"]
# Full-width forms of ASCII.
_SIGNS |= {chr(0xFF01 + k): chr(0x21 + k) for k in range(94) if chr(0xFF01 + k) not in _SIGNS}
_TRANSLATION = str.maketrans(_SIGNS)
# Zero-width characters, soft hyphens and marks of direction.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufe0f\ufeff]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢₐₓₖₘ", "0123456789+-()niaxkm", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_CIRCLED = re.compile("[①-⑳]")


def from_unicode(text: str) -> str:
    """Return the text with its signs as commands and without invisible characters."""
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    text = _RAISED_RUN.sub(lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", text)
    text = _LOWERED_RUN.sub(lambda m: "_{" + "".join(_LOWERED[c] for c in m[0]) + "}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _CIRCLED.sub(lambda m: rf"\textcircled{{{ord(m[0]) - 0x245F}}}", text)
    return text.translate(_TRANSLATION)


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"
