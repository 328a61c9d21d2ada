r"""Commands and words of an answer: what is decoration goes, and every word gets its own `\text{}`.

Rewriter(r"\textcolor{red}{\dfrac12}").rewritten()  ->  r"\frac{1}{2}"
Rewriter(r"5 \text{ or more}").rewritten()         ->  r"5  \text{or}  \text{more} "
"""

from __future__ import annotations

import re

from rlready.evaluators.answers.word_tables import word_set

MAX_DEPTH = 60

PROSE = re.compile(r"\\text\w*\s*\{[^{}]*\}|\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z][A-Za-z'-]+")
_TEXT_COMMANDS = word_set(
    "text textbf textit textrm textsf texttt textsc textnormal textup textmd mbox hbox emph "
    "mathrm operatorname mathop rm bf unit"
)
_UNWRAPPED = word_set(
    "mathbf boldsymbol bm pmb mathit mathsf mathnormal underline boxed fbox displaystyle "
    "ensuremath underbrace bold bf it rm sf tt large Large small normalsize mathstrut "
    "textstyle scriptstyle cancel "
    "mathord mathbin mathrel limits nolimits displaylimits nonumber notag"
)
_SPACING = word_set(
    "quad qquad thinspace medspace thickspace enspace enskip hspace negthinspace allowbreak "
    "checkmark blacksquare qed"
)
_SIZES = word_set(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm "
    "mleft mright"
)
_SAME = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne",
    "lt": "<", "gt": ">",
    "varnothing": "emptyset", "infin": "infty", "dbinom": "binom", "tbinom": "binom",
    "bullet": "cdot",
    "ast": "*", "colon": ":", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|",
    "lbrace": "{",
    "rbrace": "}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "wedge": "land",
    "vee": "lor", "bigcup": "cup", "bigcap": "cap", "isin": "in", "backslash": "setminus",
    "varepsilon": "epsilon", "euro": "text{euro}", "EUR": "text{euro}",
    "pounds": "text{sterling}", "textdollar": "text{dollar}", "dollar": "text{dollar}",
    "to": "to", "rightarrow": "to", "longrightarrow": "to", "simeq": "approx",
    "approxeq": "approx",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "vdots": "ldots",
    "arccosh": "arcosh", "imath": "i", "jmath": "j", "textpi": "pi", "lor": "text{or}",
    "land": "text{and}", "percent": "%", "R": "mathbb{R}", "Reals": "mathbb{R}",
    "reals": "mathbb{R}",
}  # fmt: skip
FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth "
    "sech csch "
    "arsinh arcosh artanh arcsinh arctanh ln log lg exp max min gcd lcm det sqrt"
)
_PLAIN_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "infty": "infty", "inf": "infty",
    "infinity": "infty", "oo": "infty", "pi": "pi", "Pi": "pi", "theta": "theta",
}  # fmt: skip
_FRACTIONS = word_set("frac dfrac tfrac cfrac nicefrac sfrac flatfrac")
_ACCENTS = word_set("vec hat overrightarrow widehat")
# Runs of two or three letters are products, except for these; longer ones are words.
_SHORT_UNITS = word_set(
    "min sec day hr km cm mm kg mg ml mL ft lb oz yd mph kph nm dm ms Hz eV kJ kW kN usd USD EUR "
    "AM PM am pm Rs rs"
)
_SHORT_WORDS = _SHORT_UNITS | word_set(
    "or and not all any odd the for no yes is are if to in by per of at on none one two six "
    "ten dne "
    "DNE am pm set max min it we so has its"
)
_ALWAYS_UNITS = word_set(
    "km cm mm kg mg ml mL ft lb lbs mph kph Hz eV keV MeV GeV kJ kW kN nm kHz MHz kPa"
)

_CHINESE = {
    "或": "or", "或者": "or", "和": "and", "与": "and", "且": "and", "无解": "no solution",
    "不存在": "does not exist", "空集": "empty set", "全体实数": "all real numbers",
}  # fmt: skip
_PIECE = re.compile(r"\\[A-Za-z]+\*?|\\.|[A-Za-z]+|[0-9]+|\s+|[\u3400-\u9fff]+|.", re.DOTALL)


class TooDeep(Exception):
    """Raised for groups nested beyond all use; the answer is then compared as it stands."""


class Rewriter:
    """One pass over the pieces of a text."""

    def __init__(self, text: str) -> None:
        self._pieces = _PIECE.findall(text)
        self._place = self._depth = 0

    def rewritten(self, until: str | None = None) -> str:
        """Return the rest of the text rewritten, up to a closing piece at this level.

        Raises:
            TooDeep: if groups and arguments are nested beyond `MAX_DEPTH`.
        """
        self._enter()
        output: list[str] = []
        while self._place < len(self._pieces):
            piece = self._pieces[self._place]
            self._place += 1
            if piece == until:
                break
            output.append(self._piece(piece, output))
        self._depth -= 1
        return "".join(output)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeep

    def _piece(self, piece: str, before: list[str]) -> str:
        if piece == "{":
            return _group(self.rewritten("}"), before)
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
            return self._unwrapped()
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
            return self._accent(name)
        if name == "degree":
            return r"^{\circ}"
        same = _SAME.get(name, name)
        return same if not same[0].isalpha() else self._spaced(same)

    def _spaced(self, name: str) -> str:
        if name in ("{", "}"):
            return "\\" + name
        return name if len(name) == 1 else rf"\{name}" + ("" if name.endswith("}") else " ")

    def _size(self) -> str:
        self._skip_space()
        following = self._next()
        if following in (".", "\\."):
            self._place += 1
        if following in ("<", ">"):
            self._place += 1
            return {"<": r"\langle ", ">": r"\rangle "}[following]
        return ""

    def _unwrapped(self) -> str:
        self._skip_space()
        return self._argument() if self._next() == "{" else " "

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

    def _accent(self, name: str) -> str:
        argument = self._argument().strip()
        return argument if re.fullmatch(r"[A-Za-z]", argument) else rf"\{name}{{{argument}}}"

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
        is_short = _is_short_word(run) and self._stands_alone(run, before)
        is_unit = run in _ALWAYS_UNITS or (follows_number and run in _SHORT_UNITS)
        return rf" \text{{{run}}} " if is_long or is_short or is_unit else run

    def _stands_alone(self, run: str, before: list[str]) -> bool:
        """Whether no formula touches a short word; a unit may follow its number at once."""
        last, following = before[-1] if before else " ", self._next() or " "
        is_free_before = bool(re.search(r"[\s(,;]$", last))
        if run in _SHORT_UNITS:
            return bool(re.search(r"[\s})\]0-9,;/]$", last)) and not following[0].isalnum()
        return is_free_before and (following.isspace() or following in ".,;:!")

    # --- arguments ----------------------------------------------------------------------------

    def _next(self) -> str:
        return self._pieces[self._place] if self._place < len(self._pieces) else ""

    def _skip_space(self) -> None:
        while self._next().isspace() and self._next():
            self._place += 1

    def _argument(self, *, is_number_whole: bool = False) -> str:
        """What TeX takes as an argument: a group, a command, or one character."""
        self._skip_space()
        piece = self._next()
        self._place += 1
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
        while self._place < len(self._pieces):
            piece = self._pieces[self._place]
            depth += (piece == "{") - (piece == "}")
            self._place += 1
            if not depth:
                return "".join(self._pieces[start : self._place - 1])
        return "".join(self._pieces[start:])

    def _inside_parentheses(self) -> str:
        depth = 1
        output: list[str] = []
        while self._place < len(self._pieces):
            piece = self._pieces[self._place]
            depth += (piece == "(") - (piece == ")")
            self._place += 1
            if not depth:
                break
            output.append(self._piece(piece, output))
        return "".join(output)


def _is_short_word(run: str) -> bool:
    return run in _SHORT_WORDS or (run.istitle() and run.casefold() in _SHORT_WORDS)


def _group(content: str, before: list[str]) -> str:
    # Braces that hold nothing together go: {,} and {}^nC_k.
    if content.strip() == ",":
        return "{,}"
    return f"{{{content}}}" if content.strip() else ""


_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*(?:[-.][A-Za-z]+)*\.?|[\u3400-\u9fff]+")
_LETTER_NAMES = frozenset("eid")


def _words(raw: str, command: str) -> str:
    r"""A text's content, with each of its words in `\text{}` and its formulas as formulas."""
    name = raw.strip()
    is_unit = name in ("min", "sec") and command != "operatorname"
    if (name in FUNCTIONS or name in _PLAIN_NAMES) and not is_unit:
        return rf"\{_PLAIN_NAMES.get(name, name)} "
    if name in _LETTER_NAMES:
        return f" {name} "
    pieces = re.split(r"\$([^$]*)\$", raw)
    output = []
    for index, piece in enumerate(pieces):
        if index % 2:
            output.append(Rewriter(piece).rewritten())
        elif "\\" in piece:
            inner = PROSE.sub(lambda m: m[0] if m[0][0] == "\\" else rf"\text{{{m[0]}}}", piece)
            output.append(Rewriter(inner).rewritten() if inner != raw else inner)
        else:
            output.append(_WORD.sub(_one_word, piece.replace("~", " ")))
    return " " + " ".join(output) + " "


def _one_word(match: re.Match[str]) -> str:
    word = match[0]
    if not re.fullmatch(r"(?:[A-Za-z]\.)+", word):
        word = word.rstrip(".")
    return rf" \text{{{word}}} "
