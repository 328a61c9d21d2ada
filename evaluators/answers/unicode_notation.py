r"""Unicode signs as LaTeX writes them.

from_unicode("½π ≤ 10⁻³")  ->  r"\frac{1}{2}\pi  \le  10^{-3}"
"""

from __future__ import annotations

import re
import unicodedata

from rlready.evaluators.answers.word_tables import word_list

_SIGNS = {
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "―": "-", "﹣": "-", "－": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ",
    "∕": "/", "⁄": "/", "∶": ":", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ", "Ø": r"\emptyset ", "∖": r"\setminus ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "∧": r"\land ", "∨": r"\lor ",
    "∣": r"\mid ", "→": r"\to ",
    "°": r"^{\circ}", "º": r"^{\circ}",
    "˚": r"^{\circ}", "′": "'", "″": "''", "…": r"\ldots ", "⋯": r"\cdots ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "√": r"\sqrt ",
    "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "°C": r"\celsius ", "℃": r"\text{celsius}", "℉": r"\text{fahrenheit}",
    "Å": r"\text{angstrom}",
    "π": r"\pi ", "€": r"\text{euro}", "£": r"\text{sterling}", "¥": r"\text{yen}",
    "₹": r"\text{rupee}",
    "₽": r"\text{ruble}", "₩": r"\text{won}", "¢": r"\text{cent}", "％": r"\%",
    "‰": r"\permille ",
    "‘": "'", "’": "'", "，": ", ", "；": ";", "、": ", ", "。": ".", "：": ":",
    "（": "(", "）": ")", "【": "[", "】": "]", "✓": "", "✔": "", "✅": "", "☑": "",
    "■": "", "∎": "", "□": "",
    "µ": r"\mu ", "∝": r"\propto ", "∫": r"\int ", "∑": r"\sum ", "∏": r"\prod ",
    "∠": r"\angle ",
    "⊥": r"\perp ", "∥": r"\parallel ", "△": r"\triangle ", "≡": r"\equiv ",
    "∀": r"\forall ", "∃": r"\exists ",
}  # fmt: skip
_GREEK = word_list(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "_ sigma tau upsilon phi chi psi omega"
)
_SIGNS |= {
    chr(code): rf"\{name} " for code, name in enumerate(_GREEK, start=0x3B1) if name not in "_pi"
}
_SIGNS |= {
    name: rf"\{command} "
    for name, command in zip(
        "ΓΔΘΛΞΠΣΦΨΩϕϑϵ",
        word_list("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi vartheta epsilon"),
        strict=True,
    )
}
_SIGNS["ϕ"], _SIGNS["φ"] = r"\phi ", r"\varphi "
_SIGNS |= {chr(0xFF01 + k): chr(0x21 + k) for k in range(94) if chr(0xFF01 + k) not in _SIGNS}
_TRANSLATION = str.maketrans({sign: text for sign, text in _SIGNS.items() if len(sign) == 1})
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
