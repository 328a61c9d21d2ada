r"""One notation for what people write in several: the step before anything is compared or parsed.

    rewrite(r"**１½**")                         ->  r"1\frac{1}{2}"
    rewrite(r"\textcolor{red}{\nicefrac12}")    ->  r"\frac{1}{2}"
    rewrite(r"odd $n$"), rewrite(r"\text{odd } n")  ->  r"\text{odd} n"

The result is LaTeX without decoration. Every word stands in its own `\text{}`, so that no word can
be taken for a product of letters, and none is dropped. Linear in the length of the answer.
"""

from __future__ import annotations

import re

from rlready.evaluators.answers.command_notation import PROSE, Rewriter, TooDeep
from rlready.evaluators.answers.number_notation import tidy_numbers
from rlready.evaluators.answers.unicode_notation import from_unicode

_BOLD = re.compile(r"(?s)\s*(\*{1,3}|__|`+|\"|'{1,2})(?=\S)(.*?\S)\s*\1\s*[.,;]?\s*")
_ESCAPED_COMMAND = re.compile(r"\\\\(?=[A-Za-z])")
_LINE_END = re.compile(r"\\\\|\\newline(?![a-z])")
_END = re.compile(
    r"(?:\s|\\[,;:! ]|~|[.,;:]|\\(?:quad|qquad|checkmark|blacksquare|square|qed)(?![A-Za-z]))+$"
    r"|(?<!\\)\\$"
)
_START = re.compile(r"^(?:\s|[,;:])+")


def rewrite(answer: str) -> str:
    """Return the answer in the one notation of this module; never fails, whatever it holds."""
    text = from_unicode(answer)
    if "begin" not in text:
        text = _LINE_END.sub(" ", _ESCAPED_COMMAND.sub(r"\\", text))
    text = _strip(text)
    while (match := _BOLD.fullmatch(text)) and match[1] not in match[2]:
        text = match[2]
    text = _words_outside_fences(text).replace("**", "^")
    try:
        text = Rewriter(text).rewritten()
    except TooDeep:
        return text
    return tidy_numbers(_strip(text))


def _strip(text: str) -> str:
    # An ellipsis at the end is no decoration.
    end = text if text.endswith("...") else _END.sub("", text)
    return _START.sub("", end)


_FENCE = re.compile(r"(?<!\\)\$\$?|\\[()\[\]]")
_DOLLARS = re.compile(r"\\\$|(?<![0-9A-Za-z}$\\])\$(?=\s*[0-9.])")


def _words_outside_fences(text: str) -> str:
    r"""Put the words that stand outside `$...$` into `\text{}`; take the fences away."""
    marks = list(_FENCE.finditer(text))
    opening = [m for m in marks if m[0] in ("$", "$$", r"\(", r"\[")]
    is_balanced = len(marks) % 2 == 0 and len(opening) * 2 >= len(marks)
    if not marks or not is_balanced:
        text = _DOLLARS.sub(r"\\text{dollar} ", text)
        return _FENCE.sub(lambda m: " " if m[0].startswith("$") else m[0], text)
    parts, place, is_math = [], 0, False
    for mark in marks:
        piece = text[place : mark.start()]
        parts.append(piece if is_math else _outside(piece))
        place, is_math = mark.end(), not is_math
    return " ".join([*parts, _outside(text[place:])]).replace(r"\$", r"\text{dollar} ")


def _outside(piece: str) -> str:
    return PROSE.sub(lambda m: m[0] if m[0][0] == "\\" else rf"\text{{{m[0]}}}", piece)
