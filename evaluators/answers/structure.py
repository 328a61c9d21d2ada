r"""The structure of a rewritten answer: a list, set, interval, relation, matrix or quantity.

    read_structure(r"\{1, 2\}")  ->  Structure("set", ("1", "2"))
    read_structure(r"x=1 \text{or} x=2")  ->  Structure("list", ("x=1", "x=2"), "or")
    read_structure("]0,1[")  ->  Structure("pair", ("0", "1"), "()")
    read_structure(r"2 < x \le 5")  ->  Structure("relation", ("2", "x", "5"), "< <=")

Only the top level is read; the parts are texts again. Takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rlready.evaluators.answers.numerals import Numeral, read_number
from rlready.evaluators.answers.units import Unit, read_unit


@dataclass(frozen=True)
class Structure:
    """The kind and the parts of an answer.

    Args:
        kind: list, set, tuple, pair, union, builder, relation, matrix or single.
        parts: its members, ends, sides or cells, as texts.
        mark: of a list "", "or" or "and"; of a pair or tuple its brackets; of a relation its signs.
    """

    kind: str
    parts: tuple[str, ...]
    mark: str = ""


_OPEN, _CLOSE = "([{", ")]}"
_STEP = re.compile(r"\\text\{[^{}]*\}|\\(?:begin|end)\{[^{}]*\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_WORD = re.compile(r"\\text\{([^{}]*)\}")
_SIGNS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in"}


def top_level(text: str) -> list[tuple[str, int, int]]:
    """Return each token outside all brackets, with where it begins and ends."""
    tokens, depth, environments = [], 0, 0
    for step in _STEP.finditer(text):
        token = step[0]
        kind = token[-1] if token in (r"\{", r"\}") else token
        environments += token.startswith(r"\begin{") - token.startswith(r"\end{")
        if kind in _CLOSE or kind in (r"\rfloor", r"\rceil", r"\rangle"):
            depth -= 1
        if depth <= 0 and environments <= 0:
            tokens.append((token, step.start(), step.end()))
        if kind in _OPEN or kind in (r"\lfloor", r"\lceil", r"\langle"):
            depth += 1
    return tokens


def _split(text: str, separators: frozenset[str] | set[str]) -> tuple[list[str], list[str]]:
    parts, marks, begin = [], [], 0
    for token, start, end in top_level(text):
        if token in separators:
            parts.append(text[begin:start].strip())
            marks.append(token)
            begin = end
    return [*parts, text[begin:].strip()], marks


_LIST_MARKS = frozenset({",", ";", r"\text{or}", r"\text{and}", r"\text{Or}", r"\text{And}"})


def read_structure(text: str) -> Structure:
    """Return the structure of a rewritten text; `single` if it has no other."""
    text = _without_outer_braces(text.strip())
    if read_number(text) is not None:
        return Structure("single", (text,))
    bracketed = _bracketed(text)
    if bracketed is not None:
        return bracketed
    parts, marks = _split(text, _LIST_MARKS)
    if marks:
        items = _list(parts, marks)
        return items if len(items.parts) > 1 else Structure("single", (text,))
    if r"\pm" in text or r"\mp" in text:
        return Structure("list", _signs(text))
    parts, marks = _split(text, set(_SIGNS))
    if marks and all(parts):
        return Structure("relation", tuple(parts), " ".join(_SIGNS[mark] for mark in marks))
    parts, marks = _split(text, {r"\cup"})
    if marks:
        forms = [read_structure(part) for part in parts]
        if all(form.kind == "set" for form in forms):
            return Structure("set", tuple(member for form in forms for member in form.parts))
        return Structure("union", tuple(parts))
    return _matrix(text) or Structure("single", (text,))


def ascending(relation: Structure) -> Structure:
    """Return a chain of `>` and `>=` turned around; other relations are returned unchanged."""
    signs = relation.mark.split()
    if not set(signs) <= {">", ">="}:
        return relation
    mark = " ".join(reversed(signs)).replace(">", "<")
    return Structure("relation", relation.parts[::-1], mark)


def _without_outer_braces(text: str) -> str:
    # With two tokens at the top level, the first bracket is closed by the last one.
    while text[:1] + text[-1:] == "{}" and len(top_level(text)) == 2 and not _is_set(text):
        text = text[1:-1].strip()
    return text


def _is_set(text: str) -> bool:
    inner = {token for token, _, _ in top_level(text[1:-1])}
    return bool({",", ";"} & inner) or bool(re.match(r"\{\s*[A-Za-z]\s*(?:\\in[^|:]*)?[|:]", text))


def _list(parts: list[str], marks: list[str]) -> Structure:
    words = {mark[6:-1].casefold() for mark in marks if mark.startswith(r"\text")}
    # "19, 46, and 82" leaves an empty part between the comma and the word.
    items = _expanded([part for part in parts if part])
    return Structure("list", items, words.pop() if len(words) == 1 else "")


def _expanded(parts: list[str]) -> tuple[str, ...]:
    return tuple(half for part in parts for half in (_signs(part) if r"\pm" in part else (part,)))


def _signs(text: str) -> tuple[str, str]:
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return upper, lower


_BRACKETS = {"(": "(", "[": "[", r"\{": "{", "{": "{", r"\langle": "<"}
_CLOSERS = {")": ")", "]": "]", r"\}": "}", "}": "}", r"\rangle": ">"}


def _bracketed(text: str) -> Structure | None:
    steps = list(_STEP.finditer(text))
    if len(steps) < 2 or steps[0][0] not in _BRACKETS or steps[-1][0] not in _CLOSERS:
        return None
    first, last = steps[0], steps[-1]
    inner = text[first.end() : last.start()].strip()
    left, right = _BRACKETS[first[0]], _CLOSERS[last[0]]
    if not _is_balanced(inner):
        return None
    if left + right == "{}":
        return _braced(inner)
    parts, marks = _split(inner, {",", ";"})
    if left + right == "<>":
        return Structure("tuple", tuple(parts), "()")
    if "" in parts:
        return None
    if len(parts) == 2 and left in "([" and right in ")]":
        return Structure("pair", tuple(parts), left + right)
    if left + right not in ("()", "[]"):
        return None
    return Structure("tuple", tuple(parts), "()") if marks else read_structure(inner)


def _is_balanced(inner: str) -> bool:
    depth = 0
    for step in _STEP.finditer(inner):
        kind = step[0][-1] if step[0] in (r"\{", r"\}") else step[0]
        depth += (kind in _OPEN) - (kind in _CLOSE)
        if depth < 0:
            return False
    return depth == 0


def _braced(inner: str) -> Structure:
    if not inner:
        return Structure("single", (r"\emptyset",))
    parts, marks = _split(inner, {"|", ":"})
    if marks and len(parts) == 2 and re.match(r"[A-Za-z]\s*(?:\\in|$)", parts[0]):
        return Structure("builder", tuple(parts))
    items, _ = _split(inner, _LIST_MARKS)
    return Structure("set", _expanded(items))


_ENVIRONMENT = re.compile(
    r"(?P<scale>.*?)(?P<open>[\[(]?)\s*\\begin\{(?P<name>[pbB]?matrix|smallmatrix|array)\}(?:\{[lcr|\s]*\})?"
    r"(?P<body>.*)\\end\{(?P=name)\}\s*(?P<close>[\])]?)",
    re.DOTALL,
)


def _matrix(text: str) -> Structure | None:
    match = _ENVIRONMENT.fullmatch(text)
    if not match or r"\begin" in match["body"] or (match["open"] == "") != (match["close"] == ""):
        return None
    scale = match["scale"].strip()
    if re.search(r"[-+]\s*$|[=,;]", scale) and scale not in ("-", "+"):
        return None
    factor = scale.rstrip("*").removesuffix(r"\cdot").removesuffix(r"\times").strip()
    scale = "-1" if scale == "-" else factor
    rows = re.split(r"\\\\(?:\[[^\]]*\])?", match["body"].replace(r"\hline", ""))
    cells = [[cell.strip() for cell in row.split("&")] for row in rows if row.strip()]
    if not cells or len({len(row) for row in cells}) != 1:
        return None
    texts = tuple(f"({scale}) \\cdot ({c})" if scale else c for row in cells for c in row)
    return Structure("matrix", texts, f"{len(cells)}x{len(cells[0])}")


# --- quantities -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A value with a unit, or several that are added (3 hours 20 minutes).

    Args:
        values: text of each value.
        units: of each value; None if it has none.
        scale: factor of each value, from a word such as "million" that is not in the values.
    """

    values: tuple[str, ...]
    units: tuple[Unit | None, ...]
    scale: Fraction = Fraction(1)

    def number(self, index: int) -> Numeral | None:
        """Return the number of one value, scaled; None if it is not a plain number."""
        number = read_number(self.values[index])
        if number is None:
            return None
        return Numeral(number.value * self.scale, number.digits, number.is_percent)


_SCALES = {
    "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "万": 10**4, "亿": 10**8,
}  # fmt: skip
_CURRENCY_FIRST = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\text\{(?:US|A|C|HK)\}\s*|(?:US|HK|[AC])(?=\s*\\text))?\s*(?P<unit>\\text\{(?:dollar|euro|sterling|yen|rupee|ruble|won|Rs|USD|rs|USD|EUR|RMB)\.?\})(?:\s*\.(?=\s))?"
    r"\s*(?P<value>(?!\\text).+)"
)
_SUM_PART = re.compile(
    r"(?P<value>[0-9]+(?:\.[0-9]+)?|[0-9]*\s*\\frac\{[0-9]+\}\{[0-9]+\}|[0-9]+ [0-9]+/[0-9]+)"
    r"\s*(?P<unit>\\text\{[^{}]+\})\s*(?:\\text\{and\}|,)?\s*"
)
_UNIT_START = re.compile(
    r"\s*(?:/\s*)?(?:\(\s*)?(?:\\frac\s*\{\s*(?:\\mu\s*)?)?(?:\\mu\s*)?\\text\{"
)
_BARE_UNIT = re.compile(
    r"(?P<value>.*[0-9}).]|.*\\pi)(?P<gap>\s*)(?P<unit>(?:[kcmd]?m|[mk]?g|s|[mM]?L|h|N|J|W|V|K)(?:\s*\^\s*\{?[234]\}?)?(?:\s*/\s*(?:s|h|m|kg|g|L)(?:\s*\^\s*\{?[234]\}?)?)?"
    r"|\\frac\{(?:[kc]?m|k?g|J|N)\}\{(?:s|h|m|kg|g|L)(?:\s*\^\s*\{?[234]\}?)?\})"
)


def read_quantity(text: str) -> Quantity | None:
    r"""Return the quantity that a text writes; None if one of its words is not part of a unit."""
    text = text.strip()
    if r"\text" not in text:
        return None
    if match := _CURRENCY_FIRST.fullmatch(text):
        text = f"{match['sign']}{match['value']} {match['unit']}"
    start = _UNIT_START.search(text)
    if start is None or start.start() == 0:
        return None
    value, rest = text[: start.start()].strip(), text[start.start() :].strip()
    scale = Fraction(1)
    while match := re.match(r"\\text\{([^{}]+)\}\s*", rest):
        if match[1].casefold() not in _SCALES:
            break
        scale, rest = scale * _SCALES[match[1].casefold()], rest[match.end() :]
    if re.search(r"[<>]|\\(?:le|ge|ne)(?![a-z])|=.*=", value):
        return None
    unit = read_unit(rest) if rest else None
    if unit is not None or (not rest and scale != 1):
        return Quantity((value,), (unit,), scale)
    return _sum(text)


def _sum(text: str) -> Quantity | None:
    values, units, place = [], [], 0
    while place < len(text):
        match = _SUM_PART.match(text, place)
        unit = read_unit(match["unit"]) if match else None
        if match is None or unit is None:
            return None
        values.append(match["value"])
        units.append(unit)
        place = match.end()
    sizes = [unit.size for unit in units]
    is_falling = len(sizes) > 1 and sizes == sorted(set(sizes), reverse=True)
    is_sum = is_falling and len({unit.powers for unit in units}) == 1
    return Quantity(tuple(values), tuple(units)) if is_sum else None


def with_bare_unit(text: str, *, is_gold: bool) -> str | None:
    r"""Return `576\pi m^{2}` as `576\pi \text{m}^{2}`; None if its last letter is not a unit.

    A letter may be a unit or a variable. It is a unit after a space, with a power, or in an answer
    to a gold without letters, and only if the value has no other letter.
    """
    match = _BARE_UNIT.fullmatch(text.strip())
    is_letter = match is not None and len(match["unit"]) == 1 and not match["gap"]
    if not match or (is_letter and (is_gold or match["unit"] not in "msgL")):
        return None
    if re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", match["value"])):
        return None
    unit = re.sub(r"(?<![\\A-Za-z])[A-Za-z]+", lambda m: rf"\text{{{m[0]}}}", match["unit"])
    return f"{match['value']} {unit}"
