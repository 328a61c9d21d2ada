r"""One notation for what people write in several: the step before anything is compared or parsed.

    rewrite(r"**１½**")                         ->  r"1\frac{1}{2}"
    rewrite(r"\textcolor{red}{\nicefrac12}")    ->  r"\frac{1}{2}"
    rewrite(r"odd $n$"), rewrite(r"\text{odd } n")  ->  r"\text{odd} n"

The result is LaTeX without decoration. Every word stands in its own `\text{}`, so that no word can
be taken for a product of letters, and none is dropped. Linear in the length of the answer.
"""

from __future__ import annotations

import re
import unicodedata

MAX_DEPTH = 60

# --- Unicode ----------------------------------------------------------------------------------

_SIGNS = {
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "―": "-", "﹣": "-", "－": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ",
    "∕": "/", "⁄": "/", "∶": ":", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ", "Ø": r"\emptyset ", "∖": r"\setminus ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "∧": r"\land ", "∨": r"\lor ", "∣": r"\mid ", "→": r"\to ",
    "°": r"^{\circ}", "º": r"^{\circ}", "′": "'", "″": "''", "…": r"\ldots ", "⋯": r"\cdots ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "°C": r"\celsius ", "℃": r"\text{celsius}", "℉": r"\text{fahrenheit}", "Å": r"\text{angstrom}",
    "π": r"\pi ", "€": r"\text{euro}", "£": r"\text{sterling}", "¥": r"\text{yen}", "₹": r"\text{rupee}",
    "₽": r"\text{ruble}", "₩": r"\text{won}", "¢": r"\text{cent}", "％": r"\%", "‰": r"\permille ",
    "“": '"', "”": '"', "‘": "'", "’": "'", "，": ", ", "；": ";", "、": ", ", "。": ".", "：": ":",
    "（": "(", "）": ")", "【": "[", "】": "]", "✓": "", "✔": "", "✅": "", "☑": "", "■": "", "∎": "", "□": "",
    "µ": r"\mu ", "∝": r"\propto ", "∫": r"\int ", "∑": r"\sum ", "∏": r"\prod ", "∠": r"\angle ",
    "⊥": r"\perp ", "∥": r"\parallel ", "△": r"\triangle ", "≡": r"\equiv ", "∀": r"\forall ", "∃": r"\exists ",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho _ sigma "
    "tau upsilon phi chi psi omega"
).split()
_SIGNS |= {
    chr(code): rf"\{name} " for code, name in enumerate(_GREEK, start=0x3B1) if name not in "_pi"
}
_SIGNS |= {
    name: rf"\{command} "
    for name, command in zip(
        "ΓΔΘΛΞΠΣΦΨΩϕϑϵ",
        "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi vartheta epsilon".split(),
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


def _from_unicode(text: str) -> str:
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    text = _RAISED_RUN.sub(lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", text)
    text = _LOWERED_RUN.sub(lambda m: "_{" + "".join(_LOWERED[c] for c in m[0]) + "}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _CIRCLED.sub(lambda m: rf"\textcircled{{{ord(m[0]) - 0x245F}}}", text)
    return text.translate(_TRANSLATION)


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


# --- decoration -------------------------------------------------------------------------------

_BOLD = re.compile(r"(?s)\s*(\*\*\*?|__|`+|\"|'{1,2})(?=\S)(.*?\S)\s*\1\s*[.,;]?\s*")
_UNTOUCHED_DOUBLE_STAR = re.compile(r"\*\*")
_ESCAPED_COMMAND = re.compile(r"\\\\(?=[A-Za-z])")
_LINE_END = re.compile(r"\\\\|\\newline(?![a-z])")
_END = re.compile(
    r"(?:\s|\\[,;:! ]|~|[.,;:]|\\(?:quad|qquad|checkmark|blacksquare|square|qed)(?![A-Za-z]))+$|(?<!\\)\\$"
)
_START = re.compile(r"^(?:\s|[,;:])+")


def rewrite(answer: str) -> str:
    """Return the answer in the one notation of this module; never fails, whatever it holds."""
    text = _from_unicode(answer)
    if "begin" not in text:
        text = _LINE_END.sub(" ", _ESCAPED_COMMAND.sub(r"\\", text))
    text = _strip(text)
    while (match := _BOLD.fullmatch(text)) and match[1] not in match[2]:
        text = match[2]
    text = _words_outside_fences(text).replace("**", "^")
    try:
        text = _Rewriter(text).rewritten()
    except _TooDeep:
        return text
    return _finish(_strip(text))


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


_PROSE = re.compile(r"\\text\w*\s*\{[^{}]*\}|\\[A-Za-z]+|(?<![A-Za-z\\])[A-Za-z][A-Za-z'-]+")


def _outside(piece: str) -> str:
    return _PROSE.sub(lambda m: m[0] if m[0][0] == "\\" else rf"\text{{{m[0]}}}", piece)


# --- commands ---------------------------------------------------------------------------------

_TEXT_COMMANDS = frozenset(
    "text textbf textit textrm textsf texttt textsc textnormal textup textmd mbox hbox emph "
    "mathrm operatorname mathop rm bf unit".split()
)
_UNWRAPPED = frozenset(
    "mathbf boldsymbol bm pmb mathit mathsf mathnormal underline boxed fbox displaystyle ensuremath "
    "underbrace bold bf it rm sf tt large Large small normalsize mathstrut textstyle scriptstyle cancel "
    "mathord mathbin mathrel limits nolimits displaylimits nonumber notag".split()
)
_SPACING = frozenset(
    "quad qquad thinspace medspace thickspace enspace enskip hspace negthinspace allowbreak "
    "checkmark blacksquare qed".split()
)
_SIZES = frozenset(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm mleft mright".split()
)
_SAME = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "varnothing": "emptyset", "infin": "infty", "dbinom": "binom", "tbinom": "binom", "bullet": "cdot",
    "ast": "*", "colon": ":", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "lbrace": "{",
    "rbrace": "}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "wedge": "land",
    "vee": "lor", "bigcup": "cup", "bigcap": "cap", "isin": "in", "backslash": "setminus",
    "varepsilon": "epsilon", "euro": "text{euro}", "EUR": "text{euro}",
    "pounds": "text{sterling}", "textdollar": "text{dollar}", "dollar": "text{dollar}",
    "to": "to", "rightarrow": "to", "longrightarrow": "to", "simeq": "approx", "approxeq": "approx",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "vdots": "ldots",
    "arccosh": "arcosh", "imath": "i", "jmath": "j", "textpi": "pi", "lor": "text{or}",
    "land": "text{and}", "percent": "%", "R": "mathbb{R}", "Reals": "mathbb{R}", "reals": "mathbb{R}",
}  # fmt: skip
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch "
    "arsinh arcosh artanh arcsinh arctanh ln log lg exp max min gcd lcm det sqrt".split()
)
_PLAIN_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "infty": "infty", "inf": "infty",
                "infinity": "infty", "oo": "infty", "pi": "pi", "Pi": "pi", "theta": "theta"}  # fmt: skip
_FRACTIONS = frozenset("frac dfrac tfrac cfrac nicefrac sfrac flatfrac".split())
_ACCENTS = frozenset("vec hat overrightarrow widehat".split())
# Runs of two or three letters are products, except for these; longer ones are words.
_SHORT_UNITS = frozenset(
    "min sec day hr km cm mm kg mg ml mL ft lb oz yd mph kph nm dm ms Hz eV kJ kW kN usd USD EUR AM PM am pm Rs rs".split()
)
_SHORT_WORDS = _SHORT_UNITS | frozenset(
    "or and not all any odd the for no yes is are if to in by per of at on none one two six ten dne "
    "DNE am pm set max min it we so has its".split()
)
_ALWAYS_UNITS = frozenset(
    "km cm mm kg mg ml mL ft lb lbs mph kph Hz eV keV MeV GeV kJ kW kN nm kHz MHz kPa".split()
)

_CHINESE = {
    "或": "or", "或者": "or", "和": "and", "与": "and", "且": "and", "无解": "no solution",
    "不存在": "does not exist", "空集": "empty set", "全体实数": "all real numbers",
}  # fmt: skip
_PIECE = re.compile(r"\\[A-Za-z]+\*?|\\.|[A-Za-z]+|[0-9]+|\s+|[\u3400-\u9fff]+|.", re.DOTALL)


class _TooDeep(Exception):
    """Raised for groups and arguments nested beyond all use; the answer is compared as it stands."""


class _Rewriter:
    """One pass over the pieces of a text."""

    def __init__(self, text: str) -> None:
        self._pieces = _PIECE.findall(text)
        self._place = self._depth = 0

    def rewritten(self, until: str | None = None) -> str:
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
            raise _TooDeep

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
        if (
            len(run) > 3
            or run in _ALWAYS_UNITS
            or (_is_short_word(run) and self._stands_alone(run, before))
        ):
            if not (len(run) > 3 and re.fullmatch(r"[A-Z]+|(.)\1*", run)):
                return rf" \text{{{run}}} "
        return rf" \text{{{run}}} " if follows_number and run in _SHORT_WORDS else run

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
        depth, output = 1, []
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
    """A text's content, with each of its words in `\\text{}` and its formulas as formulas."""
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
            output.append(_Rewriter(piece).rewritten())
        elif "\\" in piece:
            inner = _PROSE.sub(lambda m: m[0] if m[0][0] == "\\" else rf"\text{{{m[0]}}}", piece)
            output.append(_Rewriter(inner).rewritten() if inner != raw else inner)
        else:
            output.append(_WORD.sub(_one_word, piece.replace("~", " ")))
    return " " + " ".join(output) + " "


def _one_word(match: re.Match[str]) -> str:
    word = match[0]
    if not re.fullmatch(r"(?:[A-Za-z]\.)+", word):
        word = word.rstrip(".")
    return rf" \text{{{word}}} "


# --- numbers and small forms ------------------------------------------------------------------

_GAP = r"(?:\{,\}|,|\s)"
_GROUPED = re.compile(
    r"(?<![0-9.,A-Za-z_^{(\\}\]])([0-9]{1,3})((?:(?:\{,\}|\s)[0-9]{3})+)(?![0-9]|\{,\}|\s*/)"
)
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")
_E_NOTATION = re.compile(
    r"(?<![A-Za-z_.}\\0-9])([0-9]+\.?[0-9]*|\.[0-9]+)\s*[eE]\s*(?:\{\s*)?([+-]?[0-9]+)(?:\s*\})?(?![A-Za-z0-9.^])"
)
_SPACED_E = re.compile(r"([0-9.]) e (?=\{?[+-]?[0-9])")
_POWER = re.compile(r"\^\s*([-+]?\s*[0-9]+)")
# People write x1 for x_1; nobody writes x1 for the product.
_INDEX_DIGITS = re.compile(r"(?<![A-Za-z0-9\\{_^])([A-Za-z])([0-9]+)(?![0-9.}])")
_X_FOR_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)|(?<=[0-9}])\s+x\s+(?=[0-9])")
_DOTTED = re.compile(r"(?<=[0-9.])((?:\\dot\s*\{[0-9]\})(?:[0-9]*\\dot\s*\{[0-9]\})?)")
_PARENTHESIZED_PERIOD = re.compile(r"(?<![A-Za-z0-9])([0-9]*\.[0-9]*)\(([0-9]+)\)(?![0-9])")
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
    r"(?i)\\text\{per\}\s*\\text\{cent\}|\\text\{(?:percent|percents|pct|per cent|percentage)\.?\}(?!\s*\\text\{points?\})"
)
_LETTER_TEXT = re.compile(r"\\text\{([A-Za-z])\}")


def _finish(text: str) -> str:
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
    text = _DECIMAL_COMMA.sub(".", text)
    text = _E_NOTATION.sub(r"\1\\times 10^{\2}", _SPACED_E.sub(r"\1e", text))
    text = _INDEX_DIGITS.sub(r"\1_{\2}", text)
    text = _X_FOR_TIMES.sub(r"\\times ", text)
    text = _POWER.sub(
        lambda m: (
            "^{" + m[1].replace(" ", "") + "}"
            if m[1][0] in "+-" or len(m[1]) > 1 and _is_plain_power(text)
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
