r"""Extraction of the final answer from a completion.

    r"... so the total is $\boxed{1\,000}$."    boxed    r"1\,000"
    r"\boxed{2} and $-\boxed{3}$"               boxed    "2, -3"
    "She sold 24 clips.\n#### 72"               hash     "72"
    "So the answer is 72 clips."                phrase   "72"

The reasoning (everything before `</think>`) is cut off first. If the completion runs on into
another problem ("Problem: ...", "User: ..."), the text before it counts. Then one of five formats
says where to look; `auto` takes the first format that is present.

Everything here works on plain text, in time linear in its length, and is safe on hostile input.
Whether two answers are equal is decided elsewhere (`verification`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from rlready.evaluators.answers.box_context import (
    Box,
    Gap,
    counted,
    gap_between,
    joined_boxes,
    plain_answer,
)
from rlready.registry.records import AnswerFormat

_REASONING = r"think(?:ing)?|thought|reason(?:ing)?|reflection|scratchpad|analysis"
_REASONING_ENDS = re.compile(
    rf"</(?:{_REASONING})>|\[/think\]|<\|end_of_thought\|>|◁/think▷", re.IGNORECASE
)
_REASONING_BEGINS = re.compile(
    rf"<(?:{_REASONING})>|\[think\]|<\|begin_of_thought\|>|◁think▷", re.IGNORECASE
)

_REASONING_MARKS = ("<", "◁", "[think]", "[/think]", "[THINK]", "[/THINK]")

# Another problem or turn. It ends a completion only after an answer: a model may well begin by
# repeating the problem. Inside a line it counts after the end of a sentence or formula.
_TITLE = (
    r"(?:problem|question|exercise|example|task|instruction|input|user|human|prompt|q|问题|题目)"
)
_NEXT_PROBLEM = re.compile(
    rf"""
    ^[ \t>\#*_-]{{0,8}} (?:next[ ]|new[ ]|another[ ])? {_TITLE}
        (?: [ \t]{{0,3}} [#]?[0-9]{{0,4}} [ \t]{{0,3}} [*_]{{0,3}} [:：]
          | [ \t]{{1,3}} [#]?[0-9]{{1,4}} [ \t]{{0,3}} [*_]{{0,3}} (?: [.)] | [ \t]{{0,3}}$ ) )
  | ^[ \t>\#*_-]{{0,8}} (?:problem|question|exercise|user|human) [ \t*_]{{0,6}} $
  | [<\[] (?:question|problem) [>\]]
  | (?<=[.!?}}$*)\]]) [ \t]{{1,3}} (?-i:Problem|Question|User|Human|Q) [ ]{{0,2}} [0-9]{{0,4}} :
  | <\|?(?:im_start|start_header_id)\|?> [ \t]{{0,3}} (?:user|human)
  | <\|(?:user|prompter|human|endoftext|im_end|eot_id|end)\|> | <｜User｜> | <start_of_turn>user
  | <end_of_turn> | \[INST\] | </s> | <eos>
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def extract(text: str, answer_format: AnswerFormat = "boxed") -> str | None:
    r"""Return the final answer of a completion as text; None if it has none in this format.

    Args:
        text: the completion.
        answer_format: `boxed`, the last `\boxed{...}` and its surroundings; `hash`, the text after
            `####`; `phrase`, the text after "the answer is"; `last`, the last number or formula;
            `auto`, the first of these that is present.
    """
    text = final_part(text)
    if _has_nothing_to_choose(text, answer_format) and (answer := extract_boxed(text)):
        return answer
    turns = _turns(text)
    if answer_format != "auto":
        return _first(turns, _READERS[answer_format])
    # The loop over turns is the outer one, because a box in a later turn answers another problem.
    # The last number may be any number, so that it is the last format to try.
    for turn in turns:
        for name in ("boxed", "hash", "phrase"):
            if answer := _READERS[name](turn):
                return answer
    return _first(turns, last_value)


def final_part(text: str) -> str:
    """Return the text after the reasoning; an empty text if the reasoning never ends."""
    if not any(mark in text for mark in _REASONING_MARKS):
        return text
    ends = [match.end() for match in _REASONING_ENDS.finditer(text)]
    if ends:
        text = text[ends[-1] :]
    begins = _REASONING_BEGINS.search(text)
    return text[: begins.start()] if begins else text


def is_withdrawn(text: str) -> bool:
    """Return whether a completion has boxes in its reasoning only: its answer was withdrawn."""
    reasoning = text[: len(text) - len(final_part(text))] or text
    return final_part(text) != text and bool(extract_boxed(reasoning))


def _has_nothing_to_choose(text: str, answer_format: AnswerFormat) -> bool:
    """Return whether a single box is the only answer, as it nearly always is: a fast path."""
    if text.count(r"\boxed") + text.count(r"\fbox") != 1:
        return False
    if answer_format == "auto":
        before = text[: max(text.find(r"\boxed"), text.find(r"\fbox"))]
        return "nswer" not in before and "####" not in before
    return answer_format == "boxed"


def _turns(text: str) -> list[str]:
    """Return the text, cut at each place where another problem or turn may begin."""
    cuts = [0, *(match.start() for match in _NEXT_PROBLEM.finditer(text)), len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts)]


def _first(turns: list[str], read: Callable[[str], str | None]) -> str | None:
    return next((answer for turn in turns if (answer := read(turn)) is not None), None) or None


# --- boxed ------------------------------------------------------------------------------------

# A doubled backslash before a box is an escaped one, as in output that was JSON.
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BOX_TOKEN = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])|\\(?!\\(?:boxed|fbox)(?![A-Za-z])).|[{}]", re.DOTALL
)
# `\boxed 5` and `\boxed x.`, but not "in \boxed form".
_BARE_BOX = re.compile(
    r"[ \t]*([-+]?[0-9][A-Za-z0-9.,/+\-]*|[A-Za-z](?=[ \t]*(?:[$.,;)\n]|\\[)\]]|\Z)))"
)
_MOST_BOXES = 64


def extract_boxed(text: str) -> str | None:
    r"""Return the answer in the last balanced `\boxed{...}` or `\fbox{...}`; None without one.

    The inner one of nested boxes counts. `\boxed 5` is read as `\boxed{5}`. Boxes that are joined
    by a comma, "and" or "or" are one list. A sign, factor, unit or percent sign that touches a box
    belongs to the answer.
    """
    commands = [match.start() for match in _BOX_COMMAND.finditer(text)]
    if not commands:
        return None
    # Nearly always the last box is balanced and one look at the end of the text is enough.
    last = _last_box(text, commands[-1], len(text)) or _last_box(text, 0, len(text))
    if last is None:
        return None
    is_cut = commands[-1] > last.end and gap_between(text[last.end : commands[-1]])
    if is_cut or not last.content:
        return ""
    boxes: list[Box] = [last]
    gaps: list[Gap] = []
    for begin in reversed([start for start in commands if start < last.begin][-_MOST_BOXES:]):
        earlier = _last_box(text, begin, boxes[0].begin)
        gap = gap_between(text[earlier.end : boxes[0].begin]) if earlier else None
        if earlier is None or gap is None or earlier.begin != begin:
            break
        boxes.insert(0, earlier)
        gaps.insert(0, gap)
    return joined_boxes(text, boxes, gaps)


def _last_box(text: str, begin: int, end: int) -> Box | None:
    """Return the last balanced box between two positions."""
    opened: list[tuple[int, int]] = []  # content start of each open brace; where its box begins
    best_start, best = -1, None
    command, box_end = -1, -1  # the box command that only spaces have followed
    for token in _BOX_TOKEN.finditer(text, begin, end):
        kind = token.group()
        if kind == "{":
            is_box = box_end >= 0 and not text[box_end : token.start()].strip()
            opened.append((token.end(), command if is_box else -1))
        elif kind == "}" and opened:
            start, box_begin = opened.pop()
            if box_begin >= 0 and start > best_start:
                content = text[start : token.start()].strip()
                best_start, best = start, Box(box_begin, token.end(), content)
        box_end = -1
        if kind in (r"\boxed", r"\fbox"):
            command, box_end = token.start(), token.end()
            bare = _BARE_BOX.match(text, box_end, end)
            if bare and box_end > best_start:
                content = bare.group(1).rstrip(".,")
                box = Box(command, bare.start(1) + len(content), content)
                best_start, best = box_end, box
    return best


# --- hash, phrase, last -----------------------------------------------------------------------

_HASH = re.compile(r"####[ \t]*\n?[ \t]*([^\n#]+)")
# A heading of the fourth level, as in "#### Step 1" or "#### 2. Add them", holds no answer.
_HEADING = re.compile(r"[0-9]+[.)]\s+[A-Za-z]|(?<![\\A-Za-z])[A-Za-z]{2,}")
_WORD_ANSWER = re.compile(r"(?i)(?:yes|no|true|false|none|infinity)\.?")
_PHRASE = re.compile(
    r"\banswer\b[*_]{0,3}[ \t]{0,3}(?:(?:is|are|equals|would be|should be|must be|will be)\b|[:=])"
    r"[ \t]{0,3}[:*_]{0,4}\s{0,4}(?!not\b)",
    re.IGNORECASE,
)
# A formula between fences. Prose between two dollar signs means that they are currency.
_FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,2000})\$\$|\\\((?P<b>(?:(?!\\[()]).){1,2000})\\\)"
    r"|\\\[(?P<c>(?:(?!\\[\[\]]).){1,2000})\\\]|(?<!\\)\$(?P<d>(?:[^$\n\\]|\\.){1,500})\$(?![0-9])",
    re.DOTALL,
)
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_AROUND = " \t\r\n.,;:!?*_`\"'"
_WORD = re.compile(r"\S+")
_LONGEST_PAIR = 100
_PAIR = re.compile(r"[(\[][^()\[\]\n]*,[^()\[\]\n]*\)$")
_SIMPLE_FRACTION = re.compile(r"[0-9]+/[0-9]+")
_EQUALS = re.compile(r"(?<![<>!\\])=(?!=)|\\approx(?![A-Za-z])")


def hash_answer(text: str) -> str | None:
    """Return the text after the last `####`, as in the solutions of GSM8K; None without one."""
    for match in reversed(list(_HASH.finditer(text))):
        line = match.group(1).strip()
        is_number = re.match(r"[-+\u2212]?\s*\\?[$€£]?\s*\.?[0-9]", line)
        heading = _HEADING.match(line) if is_number else _HEADING.search(line)
        if _BOX_COMMAND.search(line):
            return extract_boxed(line)
        if not heading or _WORD_ANSWER.fullmatch(line):
            return plain_answer(_last_side(line))
    return None


def phrase_answer(text: str) -> str | None:
    """Return the text after the last "the answer is" or "answer:"; None without one."""
    for match in reversed(list(_PHRASE.finditer(text))):
        rest = text[match.end() : match.end() + 2_000]
        if _BOX_COMMAND.search(rest.split("\n", 1)[0]):
            return extract_boxed(rest.split("\n\n", 1)[0])
        formula, answer = _FORMULA.match(rest), None
        if formula and not _PROSE.search(_inside(formula)):
            formulas, end = _listed(rest, formula)
            answer = counted(formulas, rest[end:])
        # With words that change the value ("or more"), the whole sentence is the answer.
        if answer := answer or plain_answer(rest):
            return answer
    return None


def last_value(text: str) -> str | None:
    """Return the last number or fenced formula, whichever comes later; None without either."""
    formulas = [f for f in _FORMULA.finditer(text) if not _PROSE.search(_inside(f))]
    begin = formulas[-1].end() if formulas else 0
    words = [w for w in _WORD.finditer(text, begin) if any(c.isdecimal() for c in w.group())]
    boxes = list(_BOX_COMMAND.finditer(text))
    if boxes and (not words or boxes[-1].start() >= words[-1].start()):
        return extract_boxed(text)
    if not words:
        return _last_side(_inside(formulas[-1])) if formulas else None
    number = words[-1].group().strip(_AROUND)
    rest = text[words[-1].start() + words[-1].group().rfind(number) + len(number) :]
    if number.endswith(")") and "(" not in number:
        pair = _PAIR.search(text[: len(text) - len(rest)][-_LONGEST_PAIR:])
        return pair.group() if pair else number.rstrip(")")
    if number.startswith("(") and number.endswith(")"):
        number = number[1:-1]
    if len(words) > 1 and _SIMPLE_FRACTION.fullmatch(number) and words[-2].group().isdecimal():
        number = f"{words[-2].group()} {number}"
    return plain_answer(_last_side(number) + rest.split("\n", 1)[0][:40])


def _inside(formula: re.Match[str]) -> str:
    return next(inner for inner in formula.groups() if inner is not None).strip()


def _listed(text: str, first: re.Match[str]) -> tuple[str, int]:
    """Return a formula with those joined to it by a comma, "and" or "or", and where they end."""
    parts, end = [_inside(first)], first.end()
    while len(parts) < _MOST_BOXES:
        comma = re.compile(r"\s*(?:,|;)?\s*(?:and|or)?\s*").match(text, end)
        following = _FORMULA.match(text, comma.end()) if comma else None
        if comma is None or following is None or not comma.group().strip():
            break
        parts.append(_inside(following))
        end = following.end()
    return ", ".join(part.rstrip(".,; ") for part in parts), end


def _last_side(formula: str) -> str:
    """Return the last side of an equation, which is its value."""
    return _EQUALS.split(formula)[-1].strip(_AROUND)


_READERS: dict[str, Callable[[str], str | None]] = {
    "boxed": extract_boxed,
    "hash": hash_answer,
    "phrase": phrase_answer,
    "last": last_value,
}
