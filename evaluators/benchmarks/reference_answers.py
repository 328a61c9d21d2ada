r"""Reference answers from lists and whole solutions, which some benchmark files contain instead.

Several answers in one text, as data frames and JSON dumps write them:

    ['70'], ["1/2", "0.5"], ['1' '2'], array(['70'], dtype=object), ('70',)   ->  a list

Only quoted elements make a list, because `[1, 2]` is an interval or a vector; `[70]` is 70.

For a whole solution in place of the answer, the first rule that applies gives the answer:

1. `... \boxed{5} ...`: the content of the box, with a sign, a percent or a degree sign that touches
   it. Boxes with only commas or "and" between them are one answer. A text that is just an answer
   with a box (`\boxed{5}`, `x = \boxed{5}`) is left as it is.
2. `... #### 1,234`: the text after the last mark, without commas between thousands (GSM8K). A line
   "The answer is: 1234" may follow it (MetaMath).
3. A solution whose last sentence is "The answer is 5.": the end of that sentence.

A solution is refused if these rules give several answers or none. A text without any of the three
marks is only a solution if it has the calculator marks of GSM8K (`<<2+3=5>>`), or if its field is
called `solution` and contains sentences. Any other sentence may be the answer itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlready.evaluators.answers.box_context import Box
from rlready.evaluators.answers.extraction import extract_boxed
from rlready.evaluators.answers.tables import TABLES
from rlready.evaluators.benchmarks.row_fields import unwrapped

MARK = "####"
SOLUTION_FIELDS = ("solution", "rationale", "reasoning", "output", "response")
"""Last parts of the names of fields that contain more than an answer."""

MAX_CHARS_AROUND_BOX = 24
"""Largest number of characters around a box in an answer, such as `x = `; more are a derivation."""

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_ELEMENT = re.compile(
    r"""\s*(?:'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,'"\[\](){}]+))"""
    r"\s*(?:,|(?=[\s'\"])|$)",
    re.DOTALL,
)
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_DICT = re.compile(r"""\{\s*(?:'[^']*'|"[^"]*")\s*:""")
# Escapes that only programs write. A single backslash before any other letter is LaTeX.
_HEX = r"(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})"
_WRITTEN = re.compile(rf"(?:[^\\]|\\[\\'\"/]|\\{_HEX})*", re.DOTALL)
_ESCAPE = re.compile(rf"\\(?:({_HEX})|(.))", re.DOTALL)

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE_BOX = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?|[A-Za-z](?![A-Za-z])")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;]|\\[()\[\],;:! ]|\\q?quad(?![a-z])|\\(?:text|mbox)\s*\{\s*(?:and|or)?\s*\}"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))*"
)
_NAME_BEFORE = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s*=\s*\Z")
_SIGN_BEFORE = re.compile(r"(?:^|[=&$({\[,:]|\\[(\[]|[a-z]{2}\s)\s*([-+−±]|\\pm)\s*\Z")
_PERCENT_AFTER = re.compile(r"\s*(\\?%|\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|°)")
# `2\boxed{3}`, `\boxed{3}\pi`, `\boxed{3}^2`: the box is not the whole answer.
_FACTOR_BEFORE = re.compile(
    r"(?:[0-9)\]}]|\\(?:pi|sqrt|cdot|times|frac|div)|(?:[-+/^_−±]|(?<!\*)\*|\\pm)\s*)\Z"
)
_TEXT_BEFORE = re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf)\s*\{[^{}]*\}\s*\Z|\\[\])]\Z")
_FACTOR_AFTER = re.compile(
    r"[0-9A-Za-z(^_!]|\s*\\(?:pi|sqrt|cdot|times|[dt]?frac|div|pm)(?![A-Za-z])"
    r"|\s*[-+*/]\s*(?:[0-9(]|\\(?!mathrm|text)|[A-Za-z](?![A-Za-z]))"
)
_QUOTED_WORDS = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_SENTENCE_END = re.compile(r"[A-Za-z0-9)}$][.!?](?:\s|$)|\n")
_CONNECTIVES = "|".join(TABLES["connectives"].split())
_STATED = re.compile(
    rf"(?:^|(?<=[.!?\n]))\s*(?:(?:{_CONNECTIVES}),?\s+)?(?:the\s+|our\s+)?(?:final\s+)?"
    r"answer\s*(?:is|:|=)\s*:?\s*(?P<answer>[^\n]*\S)\s*$",
    re.IGNORECASE,
)


class UnreadableAnswer(ValueError):
    """A text without a usable reference answer; the error has the reason and what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


def listed(text: str) -> list[str] | None:
    r"""Return the elements of a list that was written as a text; None if it is not one.

    If all backslashes are doubled, as `repr` and JSON write them, they are halved. Otherwise they
    are LaTeX and remain unchanged.

    Raises:
        UnreadableAnswer: for an empty list, a list within a list, or a mapping.
    """
    text = unwrapped(text)
    if _DICT.match(text):
        raise UnreadableAnswer(
            "it is a mapping written as a text",
            "Name the field within it, or write the answer alone",
        )
    if len(text) >= 2 and text[0] == text[-1] == '"':
        # A text in quotes is a JSON string.
        inner = _unquoted(text[1:-1]) if _WRITTEN.fullmatch(text[1:-1]) else None
        return None if inner is None or '"' in re.sub(r"\\.", "", text[1:-1]) else [inner]
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    inside = text[1:-1].strip()
    if not inside and text[0] == "[":
        raise UnreadableAnswer("it is an empty list", "Fill it, or drop the row")
    if re.match(r"\[\s*['\"]", inside):
        raise UnreadableAnswer(
            "it is a list within a list", "Write the accepted answers as one list"
        )
    if text[0] == "[" and _PLAIN_NUMBER.fullmatch(inside):
        return [inside]
    if not inside.startswith(("'", '"')) and inside not in ("None", "null"):
        return None
    elements, at = [], 0
    while at < len(inside):
        element = _ELEMENT.match(inside, at)
        if element is None:
            return None
        if element["bare"] in ("None", "null"):
            raise UnreadableAnswer("it has a missing answer", "Fill it, or drop the row")
        quoted = element["single"] if element["double"] is None else element["double"]
        elements.append(element["bare"] if quoted is None else _unquoted(quoted))
        at = element.end()
    return elements


def _unquoted(text: str) -> str:
    if not _WRITTEN.fullmatch(text):
        return re.sub(r"\\(['\"])", r"\1", text)
    characters = _ESCAPE.sub(lambda m: m[2] or chr(int(m[1][1:], 16)), text)
    # JSON writes characters beyond U+FFFF as two escapes.
    return characters.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def answer_of(text: str, field: str) -> str:
    """Return the reference answer in a text: the whole text, or the final answer of a solution.

    The name of the field may show that it contains a solution.

    Raises:
        UnreadableAnswer: for a solution whose answer is not marked, or is marked several times.
    """
    if _BOX.search(text) and (answer := _boxed_answer(text)) is not None:
        return answer
    if MARK in text:
        if (answer := _marked_answer(text)) is None:
            raise UnreadableAnswer(
                f"its last {MARK} is followed by nothing, or by more than an answer",
                f"Write the answer alone, or end the text in {MARK} and the answer",
            )
        return answer
    statement = _STATED.search(text)
    if statement and text[: statement.start()].strip():
        return statement["answer"].removesuffix(".").strip()
    is_solution = field.rpartition(".")[2].casefold() in SOLUTION_FIELDS
    has_sentence = (
        len(_WORD.findall(_QUOTED_WORDS.sub("", text))) >= 3
        and _SENTENCE_END.search(text.strip()) is not None
    )
    if _CALCULATOR.search(text) or (is_solution and has_sentence):
        raise UnreadableAnswer(
            "it is a whole solution without a mark before its answer, so that no model could "
            "match it",
            rf"End it in \boxed{{...}} or {MARK} and the answer, or name the field with the answer",
        )
    return text


def _marked_answer(text: str) -> str | None:
    """Return the text after the last mark; None if it is empty, or more than an answer."""
    answer, _, rest = text.rpartition(MARK)[2].strip().partition("\n")
    answer = without_thousands(_CALCULATOR.sub("", answer)).removesuffix(".")
    statement = _STATED.fullmatch(rest.strip())
    is_repeated = statement and without_thousands(statement["answer"].removesuffix(".")) == answer
    return answer if answer and (is_repeated or not rest.strip()) else None


def without_thousands(text: str) -> str:
    """Return the text without commas between thousands and white space around it."""
    return _THOUSANDS.sub("", text.strip())


def _boxed_answer(text: str) -> str | None:
    """Return the answer in the boxes of a solution; None if the text is just an answer."""
    boxes = list(_boxes(text))
    cuts = [0, *(place for box in boxes for place in (box.begin, box.end)), len(text)]
    outside = [text[begin:end] for begin, end in zip(cuts[::2], cuts[1::2], strict=True)]
    if _is_answer("".join(outside), outside[0]):
        return None
    run = [boxes.pop()]
    while boxes and _are_one_list(text, boxes[-1], run[0]):
        run.insert(0, boxes.pop())
    answers = [_with_neighbours(text, box) for box in run]
    earlier = [_with_neighbours(text, box) for box in boxes]
    if MARK in text[run[-1].end :] and (marked := _marked_answer(text)) is not None:
        earlier.append(marked)
    answers = answers[:1] if len(set(answers)) == 1 else answers
    if earlier and (len(answers) > 1 or set(earlier) != set(answers)):
        shown = ", ".join(dict.fromkeys([*earlier, *answers]))
        raise UnreadableAnswer(
            f"it is a solution with several answers marked: {shown[:80]}",
            "Write the answer alone",
        )
    begin, end = run[0].begin, run[-1].end
    brackets = text[begin - 1 : begin] + text[end : end + 1]
    joined = ", ".join(answers)
    return f"({joined})" if brackets == "()" and len(answers) > 1 else joined


def _is_answer(rest: str, before: str) -> bool:
    """Return whether the text around boxes, and before the first one, belongs to an answer."""
    around = _QUOTED_WORDS.sub("", rest).strip(" \t\n$\\[]().")
    n_words = len(_WORD.findall(around))
    # `x = `, or a unit after the box.
    is_short = len(around) <= MAX_CHARS_AROUND_BOX and around.count("=") <= 1
    return is_short and n_words <= (0 if before.strip(" \t\n$\\[(") else 1)


def _are_one_list(text: str, first: Box, second: Box) -> bool:
    """Return whether only separators, and perhaps a repeated `x =`, are between two boxes."""
    between = text[first.end : second.begin]
    name, other = _NAME_BEFORE.search(text[: first.begin][-40:]), _NAME_BEFORE.search(between)
    if other and (not name or name[1] != other[1]):
        return False
    return bool(_BETWEEN_BOXES.fullmatch(between[: other.start()] if other else between))


def _boxes(text: str) -> Iterator[Box]:
    """Yield start, end and content of each box that is not inside another one."""
    at = 0
    while box := _BOX.search(text, at):
        if bare := _BARE_BOX.match(text, box.end()):
            at = bare.end()
            yield Box(box.start(), at, bare[0])
            continue
        at = _closed(text, box.end())
        content = text[box.end() + 1 : at - 1].strip()
        if at < 0 or not content:
            raise UnreadableAnswer(
                "it has a box that is " + ("not closed" if at < 0 else "empty"),
                "Write the answer alone",
            )
        yield Box(box.start(), at, extract_boxed(content) or content)


def _closed(text: str, start: int) -> int:
    """Return the index after the brace that closes the one at `start`; -1 without one."""
    depth = 0
    for token in re.compile(r"\\.|[{}]|.", re.DOTALL).finditer(text, start):
        depth += (token[0] == "{") - (token[0] == "}")
        if depth <= 0:
            return token.end() if token[0] == "}" else -1
    return -1


def _with_neighbours(text: str, box: Box) -> str:
    """Return a box's content with the sign and the percent or degree sign that belong to it."""
    start, end, content = box
    before, sign = text[max(0, start - 80) : start], ""
    if touching := _SIGN_BEFORE.search(before):
        sign = touching[1]
    elif _FACTOR_BEFORE.search(before) and not _TEXT_BEFORE.search(before):
        raise _part(text, start, end)
    after = _PERCENT_AFTER.match(text, end)
    if _FACTOR_AFTER.match(text, after.end() if after else end):
        raise _part(text, start, end)
    sign = sign.removeprefix("+")
    if sign and not re.fullmatch(r"[0-9A-Za-z.,]+|\\[A-Za-z]+(?:\{[^{}]*\})*", content):
        content = f"({content})"
    return f"{sign}{content}{after[1] if after else ''}"


def _part(text: str, start: int, end: int) -> UnreadableAnswer:
    return UnreadableAnswer(
        f"its box is a part of a formula: {text[max(0, start - 12) : end + 12].strip()!a}",
        "Write the whole answer, alone or in the box",
    )
