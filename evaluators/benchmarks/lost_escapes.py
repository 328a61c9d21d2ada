r"""LaTeX commands that lost their backslash because JSON or Python read it as an escape.

    {"answer": "\frac{1}{2}"}     JSON reads \f as a form feed, so the answer becomes `rac{1}{2}`

JSON has five such escapes (`\b`, `\f`, `\n`, `\r`, `\t`), Python two more (`\a`, `\v`). Any other
single backslash is an error in JSON, but these give no error: `\beta`, `\frac`, `\neq`, `\right`,
`\times`.

Control characters other than tabs and line ends are never part of a text. A tab or a line end is
refused only if the letters after it complete a LaTeX command. If they are an ordinary word or
variable too (`\ne`: a line that begins with e), it depends on the kind of text.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["answer", "problem", "example"]
"""A reference answer, a problem, or a held-out example. Examples may contain program code and
tables, so that only clear cases of lost commands are refused in them."""


class LostEscape(NamedTuple):
    """The character in place of a backslash, the reason, and what to write in the file."""

    what: str
    why: str
    fix: str


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# An example may be a terminal's log, which has escape characters.
_CONTROLS_IN_EXAMPLES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
_ESCAPES = {
    "\a": ("a bell", "a"),
    "\b": ("a backspace", "b"),
    "\t": ("a tab", "t"),
    "\n": ("a line break", "n"),
    "\v": ("a vertical tab", "v"),
    "\f": ("a form feed", "f"),
    "\r": ("a carriage return", "r"),
}
_TEXT_COMMAND = r"ext(?:bf|it|rm|tt|sf|sc|md|up|normal|color)?(?=\s*\{)|ilde(?=\s*\{)"
# `x \ne 5`, `x \to 0`, `\nu = 3` outside of formulas: few texts have a space before such a break.
_SHORT = (
    r"(?<=\S )\ne(?= ?[0-9\\{-])|(?<=\S )\nu(?= ?[0-9\\=<])|(?<=[ =(+])\t(?:o|an)(?= ?[0-9\\({x])"
)
# The remaining letters of commands whose first letter became a tab or a line end.
_CERTAIN = re.compile(
    rf"{_SHORT}|\t(?:{_TEXT_COMMAND}|(?:imes|heta|herefore|frac|binom|au|anh|op|ag(?=\s*\{{)|extstyle|"
    r"ilde|riangle(?:left|right|down|q|lefteq|righteq)?|hickapprox|hicksim)(?![A-Za-z]))"
    r"|\n(?:eq(?![.:])|abla|otin|ot|leq|geq|cong|prec|succ|subseteq|supseteq|earrow|warrow|"
    r"ewline|olimits|onumber|atural|(?:left|right|Left|Right)(?:right)?arrow)(?![A-Za-z])"
    r"|\r(?:ight(?:left)?(?:arrow|harpoons)?|ho|angle|floor|ceil|m|oot|brace|brack|vert|Vert)"
    r"(?![A-Za-z])"
)
_UNCERTAIN = re.compile(
    r"(?:\t(?:an|o)|\n(?:e|u|i|eg|mid|sim|less|gtr|exists|parallel))(?![A-Za-z])"
)
_IN_EXAMPLES = re.compile(
    rf"{_SHORT}|\t(?:{_TEXT_COMMAND}|(?:d?frac|binom)(?=\s*\{{)|(?:imes|heta|herefore|riangle)(?![A-Za-z]))"
    r"|\n(?:eq(?=\s*(?:[\\${0-9-]|[A-Za-z](?![A-Za-z])))|abla|otin)(?![A-Za-z])"
    r"|\r(?:ight(?:arrow)?|ho|angle|floor|ceil|brace)(?![A-Za-z])"
)
_DISPLAYED = re.compile(r"\\begin(?![A-Za-z])|\$\$|\\\[")
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")


def lost_escape(text: str, kind: Kind) -> LostEscape | None:
    """Return the first sign that a command of this text lost its backslash; None without one."""
    controls = _CONTROLS_IN_EXAMPLES if kind == "example" else _CONTROLS
    if control := controls.search(text):
        return _described(text, control.start())
    certain = _IN_EXAMPLES if kind == "example" else _CERTAIN
    if rest := certain.search(text):
        return _described(text, rest.start())
    if kind == "example":
        return None
    for rest in _UNCERTAIN.finditer(text):
        if _is_lost(text, rest.start(), kind):
            return _described(text, rest.start())
    return None


def _is_lost(text: str, at: int, kind: Kind) -> bool:
    """Return whether white space before a word replaces the first letter of a command."""
    if kind == "answer":
        # Only an answer with an environment or a displayed formula has several lines.
        return not _DISPLAYED.search(text)
    before = text[:at].replace("$$", "")
    is_inline_math = len(_UNESCAPED_DOLLAR.findall(before)) % 2 == 1
    # A line that was wrapped inside a formula does not end with a space or an opening sign.
    return is_inline_math and (text[at] == "\t" or before.endswith(tuple(" ({[^_=$")))


def _described(text: str, at: int) -> LostEscape:
    character, rest = text[at], text[at + 1 : at + 11]
    if character not in _ESCAPES:
        return LostEscape(
            f"holds the control character U+{ord(character):04X} before {rest!a}",
            "a text must not contain control characters",
            "Remove the character",
        )
    name, letter = _ESCAPES[character]
    word = re.match("[A-Za-z]*", rest)
    command = letter + (word[0] if word else "")
    fix = rf"Write \\{command} with two backslashes in the file, or remove {name.split(' ', 1)[1]}s"
    if character in "\t\n\r":
        fix = (
            rf"Write \\{command} with two backslashes in the file. If {name} is meant, put a space "
            "after it"
        )
    return LostEscape(
        f"holds {name} before {rest!a}",
        rf"JSON or Python probably read the first letter of \{command} as an escape",
        fix,
    )
