r"""One notation for answers, which people write in many: the step before comparing and parsing.

    rewrite(r"**１½**")                         ->  r"1\frac{1}{2}"
    rewrite(r"\textcolor{red}{\nicefrac12}")    ->  r"\frac{1}{2}"
    rewrite(r"odd $n$"), rewrite(r"\text{odd } n")  ->  r"\text{odd} n"

The result is LaTeX without decoration. Every word gets its own `\text{}`, so that no word is read
as a product of letters or dropped. Takes time linear in the length of the answer.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from rlready.evaluators.answers.number_notation import tidy_numbers
from rlready.evaluators.answers.tables import TABLES, word_set

_MAX_DEPTH = 60

_PROSE = re.compile(r"\\text\w*\s*\{[^{}]*\}|\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z][A-Za-z'-]+")
_COMMANDS = TABLES["commands"]
_TEXT_COMMANDS, _UNWRAPPED = word_set(_COMMANDS["text"]), word_set(_COMMANDS["unwrapped"])
_SPACING, _SIZES = word_set(_COMMANDS["spacing"]), word_set(_COMMANDS["sizes"])
FUNCTIONS = word_set(_COMMANDS["functions"])
_FRACTIONS = word_set("frac dfrac tfrac cfrac nicefrac sfrac flatfrac")
_ACCENTS = word_set("vec hat overrightarrow widehat")
_SHORT_UNITS = word_set(_COMMANDS["short_units"])
_SHORT_WORDS = _SHORT_UNITS | word_set(_COMMANDS["short_words"])
_ALWAYS_UNITS = word_set(_COMMANDS["always_units"])
_SAME, _PLAIN_NAMES, _CHINESE = (_COMMANDS[table] for table in ("same", "plain_names", "chinese"))
_PIECE = re.compile(r"\\[A-Za-z]+\*?|\\.|[A-Za-z]+|[0-9]+|\s+|[\u3400-\u9fff]+|.", re.DOTALL)


# --- Unicode -----------------------------------------------------------------------------------

_SIGNS = TABLES["unicode"]
# Full-width forms of ASCII.
_SIGNS |= {chr(0xFF01 + k): chr(0x21 + k) for k in range(94) if chr(0xFF01 + k) not in _SIGNS}
_TRANSLATION = str.maketrans(_SIGNS)
# Zero-width characters, soft hyphens and marks of direction.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufe0f\ufeff]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢₐₓₖₘ", "0123456789+-()niaxkm")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢₐₓₖₘ]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_CIRCLED = re.compile("[①-⑳]")


def _without_unicode(text: str) -> str:
    """Return the text with its signs as LaTeX writes them, and without invisible characters."""
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    text = _RAISED_RUN.sub(lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = _VULGAR.sub(_fraction, text)
    text = _CIRCLED.sub(lambda m: rf"\textcircled{{{ord(m[0]) - 0x245F}}}", text)
    return text.translate(_TRANSLATION)


def _fraction(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[0]).split("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


# --- the whole answer --------------------------------------------------------------------------

_BOLD = re.compile(r"(?s)\s*(\*{1,3}|__|`+|\"|'{1,2})(?=\S)(.*?\S)\s*\1\s*[.,;]?\s*")
_ESCAPED_COMMAND = re.compile(r"\\\\(?=[A-Za-z])")
_LINE_END = re.compile(r"\\\\|\\newline(?![a-z])")
_END = re.compile(
    r"(?:\s|\\[,;:! ]|~|[.,;:]|\\(?:quad|qquad|checkmark|blacksquare|square|qed)(?![A-Za-z]))+$"
    r"|(?<!\\)\\$"
)
_START = re.compile(r"^(?:\s|[,;:])+")


@functools.lru_cache(maxsize=1024)
def rewrite(answer: str) -> str:
    """Return the answer in the notation of this module, without errors for any text."""
    text = _without_unicode(answer)
    if "begin" not in text:
        text = _LINE_END.sub(" ", _ESCAPED_COMMAND.sub(r"\\", text))
    text = _strip(text)
    while (match := _BOLD.fullmatch(text)) and match[1] not in match[2]:
        text = match[2]
    text = _words_outside_fences(text).replace("**", "^")
    try:
        text = _Rewriter(text).rewritten()
    except _TooDeepError:
        return text
    return tidy_numbers(_strip(text))


def _strip(text: str) -> str:
    # An ellipsis at the end is part of the answer.
    end = text if text.endswith("...") else _END.sub("", text)
    return _START.sub("", end)


_FENCE = re.compile(r"(?<!\\)\$\$?|\\[()\[\]]")
_DOLLARS = re.compile(r"\\\$|(?<![0-9A-Za-z}$\\])\$(?=\s*[0-9.])")


def _words_outside_fences(text: str) -> str:
    r"""Return the text without fences, with the words outside of `$...$` in `\text{}`."""
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
    return _PROSE.sub(lambda m: m[0] if m[0][0] == "\\" else rf"\text{{{m[0]}}}", piece)


# --- commands and words ------------------------------------------------------------------------


class _TooDeepError(Exception):
    """Raised for groups nested too deep; the answer is then compared without rewriting."""


class _Rewriter:
    """One pass over the pieces of a text."""

    def __init__(self, text: str) -> None:
        self._pieces = _PIECE.findall(text)
        self._place = self._depth = 0

    def rewritten(self, until: str | None = None) -> str:
        """Return the rest of the text rewritten, up to a closing piece at this level."""
        self._enter()
        output: list[str] = []
        while (piece := self._take()) and piece != until:
            output.append(self._piece(piece, output))
        self._depth -= 1
        return "".join(output)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _TooDeepError

    def _piece(self, piece: str, before: list[str]) -> str:
        if piece == "{":
            # Braces that hold nothing together go: {,} and {}^nC_k.
            content = self.rewritten("}")
            braced = f"{{{content}}}" if content.strip() else ""
            return "{,}" if content.strip() == "," else braced
        if piece[0] == "\\":
            return self._command(piece[1:].rstrip("*"))
        if piece[0].isascii() and piece[0].isalpha():
            return self._letters(piece, before)
        if "\u3400" <= piece[0] <= "\u9fff":
            return "".join(rf" \text{{{word}}} " for word in _CHINESE.get(piece, piece).split())
        if piece == "%":
            return r"\%"
        return " " if piece.isspace() or piece == "~" else piece

    def _command(self, name: str) -> str:
        self._enter()
        output = self._expanded(name)
        self._depth -= 1
        return output

    def _expanded(self, name: str) -> str:
        if name in (",", ";", ":", "!", " ", "/", "&") or name in _SPACING:
            if name == "!":
                self._skip_space()
                return ""
            return " "
        if not name or not name[0].isalpha():
            return {"$": r" \text{dollar} ", "|": "|"}.get(name, "\\" + name)
        if name in _SIZES:
            return self._size()
        if name in ("textcolor", "colorbox"):
            self._argument()
            return self._argument()
        if name == "color":
            self._argument()
            return ""
        if name in _UNWRAPPED and not (name in ("rm", "bf") and self._next() == "{"):
            self._skip_space()
            return self._argument() if self._next() == "{" else " "
        if name == "mathbb":
            return rf"\mathbb{{{self._raw_argument().strip()}}}"
        if name in ("begin", "end"):
            return rf"\{name}{{{self._raw_argument()}}}"
        if name in _TEXT_COMMANDS:
            return _words(self._raw_argument(), name)
        if name in _FRACTIONS:
            return rf"\frac{{{self._argument()}}}{{{self._argument()}}}"
        if name == "sqrt":
            return self._root()
        if name in _ACCENTS:
            argument = self._argument().strip()
            is_letter = re.fullmatch(r"[A-Za-z]", argument)
            return argument if is_letter else rf"\{name}{{{argument}}}"
        if name == "degree":
            return r"^{\circ}"
        same: str = _SAME.get(name, name)
        if not same[0].isalpha():
            return same
        return same if len(same) == 1 else rf"\{same}" + ("" if same.endswith("}") else " ")

    def _size(self) -> str:
        self._skip_space()
        following = self._next()
        if following in (".", "\\."):
            self._place += 1
        if following in ("<", ">"):
            self._place += 1
            return {"<": r"\langle ", ">": r"\rangle "}[following]
        return ""

    def _root(self) -> str:
        self._skip_space()
        index = ""
        if self._next() == "[":
            self._place += 1
            index = f"[{self.rewritten(']')}]"
        self._skip_space()
        if self._next() == "(":
            self._place += 1
            return rf"\sqrt{index}{{{self._inside_parentheses()}}}"
        return rf"\sqrt{index}{{{self._argument(is_number_whole=True)}}}"

    def _letters(self, run: str, before: list[str]) -> str:
        if run == "sqrt":
            return self._root()
        if run in _PLAIN_NAMES:
            return rf"\{_PLAIN_NAMES[run]} "
        if run in FUNCTIONS:
            return rf"\{run} "
        if len(run) == 1:
            return run
        follows_number = bool(before) and bool(
            re.search(r"[0-9.}]\s*$|[0-9}]\s*/\s*$", "".join(before[-3:]))
        )
        is_long = len(run) > 3 and not re.fullmatch(r"[A-Z]+|(.)\1*", run)
        is_short_word = run in _SHORT_WORDS or (run.istitle() and run.casefold() in _SHORT_WORDS)
        is_short = is_short_word and self._stands_alone(run, before)
        is_unit = run in _ALWAYS_UNITS or (follows_number and run in _SHORT_UNITS)
        return rf" \text{{{run}}} " if is_long or is_short or is_unit else run

    def _stands_alone(self, run: str, before: list[str]) -> bool:
        """Return whether no formula touches a short word; a unit may touch its number."""
        last, following = before[-1] if before else " ", self._next() or " "
        is_free_before = bool(re.search(r"[\s(,;]$", last))
        if run in _SHORT_UNITS:
            return bool(re.search(r"[\s})\]0-9,;/]$", last)) and not following[0].isalnum()
        return is_free_before and (following.isspace() or following in ".,;:!")

    # --- arguments ----------------------------------------------------------------------------

    def _next(self) -> str:
        return self._pieces[self._place] if self._place < len(self._pieces) else ""

    def _take(self) -> str:
        """Return the next piece and go past it; an empty text at the end."""
        piece = self._next()
        self._place += 1
        return piece

    def _skip_space(self) -> None:
        while self._next().isspace():
            self._place += 1

    def _argument(self, *, is_number_whole: bool = False) -> str:
        """Return what TeX takes as an argument: a group, a command, or one character."""
        self._skip_space()
        piece = self._take()
        if piece == "{":
            return self.rewritten("}")
        if piece[:1] == "\\":
            return self._command(piece[1:])
        if len(piece) > 1 and not (is_number_whole and piece.isdigit()):
            self._place -= 1
            self._pieces[self._place] = piece[1:]
        return piece if is_number_whole and piece.isdigit() else piece[:1]

    def _raw_argument(self) -> str:
        self._skip_space()
        if self._next() != "{":
            return self._argument()
        depth, start = 0, self._place + 1
        while piece := self._take():
            depth += (piece == "{") - (piece == "}")
            if not depth:
                return "".join(self._pieces[start : self._place - 1])
        return "".join(self._pieces[start:])

    def _inside_parentheses(self) -> str:
        depth = 1
        output: list[str] = []
        while piece := self._take():
            depth += (piece == "(") - (piece == ")")
            if not depth:
                break
            output.append(self._piece(piece, output))
        return "".join(output)


_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*(?:[-.][A-Za-z]+)*\.?|[\u3400-\u9fff]+")
_LETTER_NAMES = frozenset("eid")


def _words(raw: str, command: str) -> str:
    r"""Return a text's content, with each word in its own `\text{}`, and formulas rewritten."""
    name = raw.strip()
    is_unit = name in ("min", "sec") and command != "operatorname"
    if (name in FUNCTIONS or name in _PLAIN_NAMES) and not is_unit:
        return rf"\{_PLAIN_NAMES.get(name, name)} "
    if name in _LETTER_NAMES:
        return f" {name} "
    output = []
    for index, piece in enumerate(re.split(r"\$([^$]*)\$", raw)):
        if index % 2:
            output.append(_Rewriter(piece).rewritten())
        elif "\\" in piece:
            inner = _outside(piece)
            output.append(_Rewriter(inner).rewritten() if inner != raw else inner)
        else:
            output.append(_WORD.sub(_one_word, piece.replace("~", " ")))
    return " " + " ".join(output) + " "


def _one_word(match: re.Match[str]) -> str:
    word = match[0]
    if not re.fullmatch(r"(?:[A-Za-z]\.)+", word):
        word = word.rstrip(".")
    return rf" \text{{{word}}} "
