r"""The surroundings of a box that belong to its answer: signs, factors, units, the rest of a list.

    r"so $x = -\boxed{5}$"                       "-5"
    r"$\boxed{5} \times 10^{3}$ tons"            r"5 \times 10^{3}"
    r"it costs \$\boxed{5}"                      r"\$5"
    r"$\boxed{28}$ pct"                          r"28\%"
    r"$\frac{\boxed{3}}{4}$"                     r"\frac{3}{4}"
    r"$\boxed{4}$, $\boxed{9}$ and $\boxed{25}$" "4, 9, 25"

Inside a formula, everything up to the next relation, comma or word belongs to the box. Outside a
formula, only text that touches the box without a space, and a unit after it.

A box is a frame and not a pair of brackets. A number directly before a boxed number is therefore
not a factor of it: `7*000\boxed{7}` is 7. Outside a formula, a number before `*`, `+` or `-` does
not belong to the box either: there the calculation has ended, and the box holds its result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A balanced box: where its command begins, where it ends, and what it holds."""

    begin: int
    end: int
    content: str


class Gap(NamedTuple):
    """The text between two boxes of one answer.

    `after` belongs to the box before it (a percent sign), `before` to the box after it (a sign).
    `between` is how the two are joined, as LaTeX.
    """

    after: str
    between: str
    before: str


_WINDOW = 300
"""Characters on each side of a box in which its formula is looked for."""
_LONGEST_GAP = 80

# --- units ------------------------------------------------------------------------------------

_PERCENT = r"\\?%|percent|per[ ]cent|pct\b\.?"
_SCALE = r"hundred|thousand|million|billion|trillion|dozen"
_UNIT = (
    r"(?:square[ ]|cubic[ ]|sq\.?[ ]|cu\.?[ ])?(?:"
    r"[kcm]?m|[kcmd]?m[²³]|kg|mg|g|mL|ml|ft|feet|foot|inch(?:es)?|yards?|miles?|mph|mi"
    r"|(?:kilo|centi|milli)?met(?:er|re)s?|(?:kilo|milli)?grams?|lit(?:er|re)s?|pounds?|lbs?"
    r"|hours?|hrs?|minutes?|mins?|seconds?|days?|weeks?|months?|years?"
    r"|dollars?|cents?|euros?|degrees?|radians?|units?)"
    r"(?:[ ]?\^[ ]?\{?[23]\}?|[²³]|[ ]squared|[ ]cubed)?(?:[ ]?/[ ]?(?:h|s|hr|min)\b)?"
    r"(?:[ ]per[ ](?:hour|minute|second|day|week|month|year))?"
)
# These words change a number, so they cannot be left out.
_BOUND = r"or[ ](?:more|less|fewer|greater|higher|lower)"
_AFTER = re.compile(
    rf"[ \t~]{{0,3}}(?:(?P<percent>{_PERCENT})|(?P<words>{_SCALE}|{_UNIT}|{_BOUND}))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)


def _unit_after(text: str) -> tuple[str, str]:
    """Return the unit, percent sign or scale word that begins a text, and the text after it."""
    match = _AFTER.match(text)
    if not match:
        return "", text
    unit = r"\%" if match["percent"] else rf" \text{{ {match['words']}}}"
    return unit, text[match.end() :]


# --- between boxes ----------------------------------------------------------------------------

_TEXT_WORDS = re.compile(r"\\(?:text[a-z]*|mbox|mathrm|hbox)\s*\{([^{}]{0,40})\}")
_NO_INK = re.compile(r"\\[()\[\]]|\$|\\q?quad(?![A-Za-z])|\\\\|\\[,;:! ]|~|\*\*|&(?=&)")
_GAP = re.compile(
    rf"""
    (?P<after> (?:[ ]?(?:\\?%|\^\s?(?:\\circ|\{{\s?\\circ\s?\}}|°)|°|!))? (?:{_AFTER.pattern})? )
    [ ]? (?P<between> [.]?[ ]?
        (?: [,;，；、] [ ]? (?:and|or)?
          | and/or | and | or | & | \\& | \\(?:land|lor|wedge|vee)(?![A-Za-z]) )
        (?: [ ]? (?:also|either|else|maybe|perhaps|possibly|alternatively) )?
      | as[ ]well[ ]as | along[ ]with | together[ ]with | alternatively )
    [ ]? (?P<before> (?:[A-Za-z](?:_\{{?[A-Za-z0-9]\}}?)?[ ]?=[ ]?)? (?:\\pm|[-+\u2212]|\\?[$€£])? )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "3 hours and 20 minutes", each number in a box.
_GAP_WITH_WORDS = re.compile(r"[^.!?\n]{0,50}[ ](?P<word>and|or)", re.IGNORECASE)
# `\frac{\boxed{1}}{\boxed{2}}` or `\boxed{1} < x < \boxed{2}`: one expression. Words, an equals
# sign or spaces alone do not make one expression.
_GLUE = re.compile(
    r"(?:[-+*/^_{}()!|:<>\u2264\u2265]|\\(?:times|cdot|div|pm|sqrt|pi|leq?|geq?|lt|gt)(?![A-Za-z])"
    r"|[ ]|\^?[0-9]|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))*"
)
_OPERATOR = re.compile(r"[-+*/^_{}()|:<>\u2264\u2265]|\\[a-z]")


def gap_between(text: str) -> Gap | None:
    """Return what joins two boxes, given the text between them; None for two separate answers."""
    if len(text) > _LONGEST_GAP:
        return None
    plain = " ".join(_NO_INK.sub(" ", _TEXT_WORDS.sub(r" \1 ", text)).split())
    if match := _GAP.fullmatch(plain):
        is_choice = re.search(r"(?i)or|\\lor|\\vee|alternatively", match["between"])
        after = match["after"].strip()
        before = match["before"].replace("\u2212", "-")
        before += " " if before.endswith("=") else ""
        unit = _unit_after(after)[0] or after
        return Gap(unit, r" \text{ or } " if is_choice else ", ", before)
    if match := _GAP_WITH_WORDS.fullmatch(plain):
        return Gap("", r" \text{ or } " if match["word"].lower() == "or" else ", ", "")
    if "\n" not in text and "$" not in text and _OPERATOR.search(text) and _GLUE.fullmatch(text):
        return Gap("", text, "")
    return None


def joined_boxes(text: str, boxes: Sequence[Box], gaps: Sequence[Gap]) -> str:
    """Return the answer that boxes with a gap between two of them give with their surroundings."""
    if len(boxes) == 1 and _is_alone(text, boxes[0]):
        return boxes[0].content
    left, right = _context(text, boxes[0].begin, boxes[-1].end, boxes[0].content)
    if len(boxes) == 1 and not left and not right:
        return boxes[0].content
    # Names count where each box has one of its own: "a = 2, b = 3", but not "x_1 = 2, x_2 = 3".
    name = re.search(r"([A-Za-z](?:_\{?[A-Za-z0-9]\}?)?\s?=\s?)[-+]?\$?$", text[: boxes[0].begin])
    letters = {gap.before[:1] for gap in gaps if "=" in gap.before} | (
        {name[1][0]} if name else set()
    )
    is_named = bool(gaps) and len(letters) == len(boxes)
    answer = (name[1] if is_named and name else "") + left
    afters = [*(gap.after for gap in gaps), right]
    befores = [gap.before if is_named else gap.before.split("=")[-1].strip() for gap in gaps]
    befores.insert(0, left)
    is_list = all("," in gap.between or "or" in gap.between for gap in gaps)
    for index, box in enumerate(boxes):
        before, after = befores[index], afters[index]
        if index and is_list:
            answer += gaps[index - 1].between + before
        elif index:
            before = gaps[index - 1].between
            answer += before
            after = after or (gaps[index].between if index < len(gaps) else "")
        elif gaps and not is_list:
            after = gaps[0].between
        answer += _grouped(box.content, before, after) + afters[index]
    return answer.strip()


def _is_alone(text: str, box: Box) -> bool:
    """Return whether a box is a whole formula at the end of a sentence, as most boxes are."""
    is_formula = text[box.begin - 1 : box.begin] == "$" == text[box.end : box.end + 1]
    is_touched = text[max(0, box.begin - 2) : box.begin - 1] in ("-", "\u2212", "$", "\\")
    return is_formula and not is_touched and text[box.end + 1 : box.end + 2] in ("", ".", "\n")


_ATOM = re.compile(r"[0-9][0-9.,]*|[A-Za-z]|\\[A-Za-z]+\s*(?:\{[^{}]*\}){0,2}")


def _grouped(content: str, before: str, after: str) -> str:
    """Return a box's content, in parentheses where its neighbours would break it up."""
    content = content.strip("$ ").removeprefix(r"\(").removesuffix(r"\)").strip()
    before, after = before.rstrip(), after.lstrip()
    is_bound_left = bool(before) and before[-1] not in "{([,;=$"
    is_bound_right = bool(after) and after[0] not in "})],;" and not after.startswith(r"\text")
    if not is_bound_left and (not is_bound_right or after == r"\%"):
        return content
    touches_digit = (content[:1].isdigit() and before[-1:].isdigit()) or (
        content[-1:].isdigit() and after[:1].isdigit()
    )
    return content if _ATOM.fullmatch(content) and not touches_digit else f"({content})"


# --- around boxes -----------------------------------------------------------------------------

_MATH = (
    r"\\(?:[cdt]?frac|sqrt|pi|pm|mp|cdot|times|div|circ|degree|infty|log|ln|lg|exp|a?(?:rc)?"
    r"(?:sin|cos|tan|cot|sec|csc)|theta|alpha|beta|gamma|delta|lambda|mu|sigma|phi|varphi|omega"
    r"|left|right|binom|cup|cap|setminus|overline|vec|hat|mathbb|lfloor|rfloor|lceil|rceil)"
    r"(?![A-Za-z])"
)
_TOKEN = re.compile(
    rf"(?P<skip>\s+|\\[,;:! ]|~|\\(?:displaystyle|textstyle|big+[lr]?|Big+[lr]?)(?![A-Za-z]))"
    rf"|(?P<open>[({{\[]|\\\{{|\\lbrace)|(?P<close>[)}}\]]|\\\}}|\\rbrace)"
    rf"|(?P<math>{_MATH}|\\[%$]|[-+*/^_!%|°²³€£\u2212]"
    rf"|[0-9]+(?:[.,][0-9]+)*(?:\.\Z)?|\.[0-9]+|,[0-9]{{3}}(?![0-9])|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|')"
    rf"|(?P<soft>[,;])|(?P<hard>\\[A-Za-z]+|\\.|[A-Za-z]+|.)",
    re.DOTALL,
)
# Commands that change how their argument looks and nothing else.
_LOOK = re.compile(
    r"(?:\\(?:math(?:bf|rm|it|sf)|text(?:bf|it|rm|sf)?|bm|boldsymbol|underline|large|color\{[a-z]+\}"
    r"|textcolor\{[a-z]+\}|ensuremath|displaystyle)\s*|(?<![A-Za-z0-9^_}\]\s]))\{\s*$"
)
_FENCE = re.compile(r"\\[()\[\]]|(?<!\\)\$\$?|\n[ \t]*\n")
_BARE_RIGHT = re.compile(
    r"(?:(?:[ ]?\\(?:times|cdot|%)[ ]?|\\[A-Za-z]+[ ]?)(?:\{[^{}\n]{0,80}\}|[-+0-9.^]){0,8}"
    r"|[^\s\\$]){0,99}"
)


# A boxed number, and a number before it: digits, or digits in brackets (a label), with its marks.
_NUMBER_IN_BOX = re.compile(
    r"[\s${]*[-+\u2212]?\s*(?:\\?[$€£]\s*)?(?:\.?[0-9]|\\[cdt]?frac\s*\{?\s*[-+]?[0-9])"
)
_NUMBER_BEFORE = re.compile(
    r"(?:[0-9][0-9.,]*(?<![.,])|[(\[{]\s*[0-9]+\s*[)\]}])(?:\\?%|[!'°])*\s*$"
)
_CALCULATION_BEFORE = re.compile(r"[0-9)\]}!%]\s*[-+*\u2212]$")
# The number is an argument or an index of these, and the box what they are applied to.
_TAKES_ARGUMENT = re.compile(
    r"(?:_|\\(?:[cdt]?frac|binom|sqrt|log|ln|lg|exp|a?(?:rc)?(?:sin|cos|tan|cot|sec|csc))\s*\^?)\s*$"
)


def _is_past_calculation(left: str, content: str, is_math: bool) -> bool:
    """Return whether the text before a boxed number is a calculation and not a part of it."""
    if not _NUMBER_IN_BOX.match(content):
        return False
    if number := _NUMBER_BEFORE.search(left):
        return not _TAKES_ARGUMENT.search(left[: number.start()])
    return not is_math and bool(_CALCULATION_BEFORE.search(left))


def _context(text: str, begin: int, end: int, content: str) -> tuple[str, str]:
    """Return the text before and after two positions that belongs to the answer between them.

    `content` is what the first box of the answer holds.
    """
    left, right, rest, is_math = _formula_around(text, begin, end)
    while (look := _LOOK.search(left)) and right.lstrip().startswith("}"):
        left, right = left[: look.start()], right.lstrip()[1:]
    left_part, opened = _left_of_box(left, is_math)
    if _is_past_calculation(left_part, content, is_math):
        left_part, opened = "", 0
    right_part, is_closed, is_whole = _right_of_box(right, opened, is_math)
    # `3 \times \boxed{4} = 12` fills a gap; `-\boxed{5} = x` does not.
    is_gap = right[len(right_part) :].lstrip().startswith("=") and bool(
        re.search(r"[0-9A-Za-z)}]", left_part.replace(r"\pm", ""))
    )
    if not is_closed or is_gap:
        return "", ""
    if left_part.strip() == "{" and right_part.strip() == "}":
        left_part = right_part = ""
    if is_whole and not right_part.strip(r"\ "):
        right_part, _ = _unit_after(rest)
    return left_part, right_part


def _formula_around(text: str, begin: int, end: int) -> tuple[str, str, str, bool]:
    """Return the formula before and after a box, the text after it, and whether it has fences."""
    left, right = text[max(0, begin - _WINDOW) : begin], text[end : end + _WINDOW]
    if (other := max(left.rfind(r"\boxed"), left.rfind(r"\fbox"))) >= 0:
        left = left[max(other + 1, left.rfind("}") + 1) :]
    fences = list(_FENCE.finditer(left))
    fence = fences[-1].group() if fences else ""
    inside = left[fences[-1].end() :] if fences else left
    closing = next((f for f in _FENCE.finditer(right) if f.group() not in (r"\(", r"\[")), None)
    within = right[: closing.start()] if closing else right
    if closing and (fence in (r"\(", r"\[") or (fence[:1] == "$" == closing.group()[:1])):
        is_prose = re.search(r"(?<![\\A-Za-z{])[A-Za-z]{3,}[ .,:]", _TEXT_WORDS.sub("", within))
        if fence[0] == "\\" or not (is_prose or re.search(r"[a-z]{3,} [a-z]{2,}", inside)):
            before = left[: fences[-1].start()]
            if not inside.strip() and re.search(r"(?:^|[\s(])[-\u2212]$", before):
                inside = "-"  # `-$\boxed{5}$`
            return inside, within, right[closing.end() :], True
    inside = left[max(map(left.rfind, " \t\n")) + 1 :]
    inside = inside[re.sub(r"\\\$", "  ", inside).rfind("$") + 1 :]
    if left.endswith("$") and not left.endswith("$$"):
        inside = r"\$"  # a dollar sign that opens no formula is a price
    elif re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}[-\u2212]?$", inside):
        inside = ""
    inside = inside.lstrip("*_")
    match = _BARE_RIGHT.match(right)
    within = match.group() if match else ""
    return inside, within, right[len(within) :], False


def _left_of_box(left: str, is_math: bool) -> tuple[str, int]:
    """Return the end of the left part that belongs to the box, and how many brackets it opens."""
    tokens = list(_TOKEN.finditer(left))
    depth = opened = 0
    keep = soft = group_end = len(left)  # where to begin; where the last comma and group end
    soft_seen = False
    for token in reversed(tokens):
        kind = token.lastgroup
        if kind == "close":
            group_end = group_end if depth else token.end()
            depth += 1
        elif kind == "open" and depth:
            depth -= 1
        elif kind == "open":
            opened += 1
            soft_seen = False
        elif depth:
            continue
        elif kind == "hard" or (not is_math and kind == "skip"):
            if token.group()[0] == "\\" and left[token.end() : keep + 1].strip() == "{":
                keep = group_end  # the argument of a command that does not belong to the box
            break
        elif kind == "soft" and not soft_seen:
            soft, soft_seen = token.end(), True
        keep = token.start()
    if soft_seen:
        keep = max(keep, soft)
    if depth:
        return "", 0
    return re.sub(r"\\[,;:! ]|~", " ", left[keep:]).lstrip(), opened


def _right_of_box(right: str, opened: int, is_math: bool) -> tuple[str, bool, bool]:
    """Return the beginning of the right part that belongs to the box.

    Also return whether it closes the brackets that the left part opened, and whether nothing else
    of the formula follows.
    """
    depth, stop, skipped_until = opened, len(right), 0
    for token in _TOKEN.finditer(right):
        if token.start() < skipped_until:
            continue
        kind = token.lastgroup
        words = _TEXT_WORDS.match(right, token.start())
        if words and not depth:
            if not _unit_after(words[1].strip())[0]:
                stop = token.start()
                break
            skipped_until = words.end()
            continue
        if kind == "open":
            depth += 1
        elif kind == "close":
            if not depth:
                stop = token.start()
                break
            depth -= 1
        elif kind == "hard" or (kind == "soft" and not depth) or (token[0] in "!'" and not is_math):
            stop = token.start()
            break
    part = re.sub(r"(?:\\[,;:! ]|[-+*/^_~]|\\(?:times|cdot)|\s)+$", "", right[:stop].rstrip())
    return part, depth == 0, not right[stop:].strip(" *")


# --- an answer in a line of text --------------------------------------------------------------

_NUMBER_START = re.compile(
    r"(?P<number>[-+\u2212]?\s?(?:\\?\$|[€£])?\s?(?:[0-9]+\s(?=[0-9]+/[0-9]))?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?"
    r"(?:\.?[0-9]+)?(?:\s?/\s?[0-9]+)?(?:\s?\\?%)?)(?P<rest>.*)",
    re.DOTALL,
)
_FILLER = re.compile(
    r"(?:therefore|thus|then|simply|just|indeed|equal to|given by|approximately|about)\b[ ,:]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|[*_\"')\]]|$)|\n|;\s")
# Words after a number that change it; any others say what is counted.
_CHANGES = re.compile(
    r"[0-9=<>^*\\+]|\b(?:or|more|less|fewer|least|most|than|times|if|not|half|quarter|third"
    rf"|{_SCALE}|(?!a\b)[a-z])\b",
    re.IGNORECASE,
)
_AROUND = " \t\r\n,;:*_`\"'"


def plain_answer(text: str) -> str | None:
    """Return the answer that a line of text begins with; None if there is none.

    It ends with its sentence, and words that only say what was counted are left out:
    "72 clips in all. I hope ..." gives "72", but "5 or more" stays whole.
    """
    text = text.lstrip(_AROUND + ">")
    while filler := _FILLER.match(text):
        text = text[filler.end() :]
    end = _SENTENCE_END.search(text)
    sentence = (text[: end.start()] if end else text).strip(_AROUND).removesuffix(".")
    fenced = re.fullmatch(r"\$([^$]+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", sentence, re.DOTALL)
    if fenced:
        return next(inner for inner in fenced.groups() if inner).strip() or None
    match = _NUMBER_START.match(sentence)
    number = match["number"].strip() if match else ""
    if match and any(c.isdecimal() for c in number) and match["rest"][:1] in ("", *" ,(*\\"):
        return counted(number, match["rest"]) or sentence
    return sentence or None


def counted(value: str, rest: str) -> str | None:
    """Return a value with the unit that follows it; None if the rest changes it ("5 or more").

    Words that only say what was counted are left out.
    """
    end = _SENTENCE_END.search(rest)
    rest = rest[: end.start()] if end else rest
    unit, rest = _unit_after(rest)
    return None if _CHANGES.search(rest) else value + unit
