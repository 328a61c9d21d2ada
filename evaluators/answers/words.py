r"""Answers in words: fixed phrases, choices, sentences; and what text and numbers alone decide.

settled(r"\text{no} \text{solution}", r"\emptyset")  ->  True
settled("B", r"( \text{B} ) 12")                     ->  True
settled("x+1", "1+x")                                ->  None: for the algebra
"""

from __future__ import annotations

import re
from fractions import Fraction

from rlready.evaluators.answers.numerals import (
    NUMBER_WORDS,
    Numeral,
    equal_numerals,
    read_based,
    read_number,
)
from rlready.evaluators.answers.tables import TABLES, word_set

WORD = re.compile(r"\\text\{([^{}]*)\}")

_ARTICLES = word_set("a an the")
LETTER_WORD = re.compile(r"\\text\{([A-Za-z])\}")


def same_text(gold: str, answer: str) -> bool:
    """Return whether two rewritten texts differ only in spaces, braces and the case of words."""
    return _bare_text(gold) == _bare_text(answer)


def _bare_text(text: str) -> str:
    text = LETTER_WORD.sub(r"\1", text)
    text = WORD.sub(lambda m: rf"\text{{{m[1].casefold()}}}", text)
    text = re.sub(r"([_^])\s*\{\s*([A-Za-z0-9])\s*\}", r"\1\2", text)
    # 2 1/3 is not 21/3.
    return re.sub(r"\s+", "", re.sub(r"(?<=[0-9])\s+(?=[0-9.])", "~", text))


# --- phrases ----------------------------------------------------------------------------------

_PHRASES = {name: re.compile(pattern) for name, pattern in TABLES["phrases"].items()}
REALS = (r"\mathbb{R}", r"\R")


def read_phrase(text: str) -> str | None:
    """Return the name of the fixed phrase (or sign) that a rewritten text is, or None."""
    text = text.strip()
    if text == r"\emptyset" or re.fullmatch(r"\\\{\s*\\\}", text):
        return "none"
    inner = re.sub(r"^[A-Za-z]\s*\\in\s*", "", text)
    if inner == r"\mathbb{Z}":
        return "integers"
    if inner in REALS or re.fullmatch(
        r"\(\s*-\\infty\s*,\s*\+?\\infty\s*\)|-\\infty\s*<\s*[a-z]\s*<\s*\+?\\infty", inner
    ):
        return "reals"
    words = " ".join(word.casefold().rstrip(".,!") for word in WORD.findall(text))
    if not words or re.sub(r"[\s.,!]", "", WORD.sub("", text)):
        return None
    return next((name for name, form in _PHRASES.items() if form.fullmatch(words)), None)


# --- choices ----------------------------------------------------------------------------------

_CHOICE = re.compile(
    r"(?:\\text\{(?:option|choice|answer)\}\s*)?(?P<open>\(?)\s*(?:\\text\{)?(?P<letter>[A-J])\}?\s*(?P<close>[).:]?)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\(\s*(?:\\text\{)?([A-J])\}?\s*\)|(?:\\text\{)?\b([A-J])\}?\s*\)")


def same_choice(gold: str, answer: str) -> bool | None:
    """Return whether an answer names the gold's letter; None if the gold is not a choice.

    `(B)`, `B)`, `b`, `B.` and `(B) 12` name B; `(A) or (B)` and `B*2` do not.
    """
    answer = answer.strip()
    wanted = re.fullmatch(r"\(?\s*(?:\\text\{)?([A-J])\}?\s*\)?", gold.strip())
    match = _CHOICE.match(answer) if wanted else None
    if not wanted or not match:
        return None
    rest = answer[match.end() :].strip()
    if rest and (
        not match["close"]
        or _LABEL.search(rest)
        or re.match(r"[-+*/^=,<>|]|\\(?:text\{(?:or|and|is|not)\}|cdot|times|cup)", rest)
    ):
        return None
    if match["open"] and match["close"] != ")":
        return None
    return match["letter"].upper() == wanted[1]


# --- sentences ---

_FILLERS = word_set(TABLES["lead_words"])
_LEAD = re.compile(r"\s*(?:\\text\{([^{}]*)\}\s*[,:]?|[=:,])\s*")
CLAUSE = re.compile(r",?\s*\\text\{(?:where|with|for|if|when)\}", re.IGNORECASE)
ANY_SYMBOL = re.compile(
    r"(?:\\text\{(?:for|where|with|any|all|every|some|each|an|a|arbitrary|real|constant|constants|numbers?|the|value|values|of|is)\}\s*)+"
    r"(?P<symbol>[A-Za-z]|\\[a-z]+)(?:\s*\\in\s*\\mathbb\{R\}|\s*\\text\{(?:is|a|an|any|real|constant|arbitrary|number)\})*",
    re.IGNORECASE,
)


def settled(gold: str, answer: str, tolerance: Fraction = Fraction(0)) -> bool | None:
    """Return whether two rewritten answers are equal; None if only algebra can decide."""
    if same_text(gold, answer):
        return True
    if not gold.strip() or not answer.strip():
        return False
    choice = same_choice(gold, answer)
    if choice is not None:
        return choice
    based, other_based = read_based(gold), read_based(answer)
    if based or other_based:
        return based == other_based
    number, other = _number(gold), _number(answer)
    if number and other:
        return equal_numerals(number, other, tolerance)
    phrase, other_phrase = read_phrase(gold), read_phrase(answer)
    if (phrase and other_phrase) or (phrase or other_phrase) not in (None, "reals"):
        return phrase == other_phrase
    return None


def _number(text: str) -> Numeral | None:
    word = WORD.fullmatch(text.strip())
    if word and word[1].casefold() in NUMBER_WORDS:
        return Numeral(Fraction(NUMBER_WORDS[word[1].casefold()]))
    return read_number(text)


def bare_answer(text: str) -> str:
    r"""Return the answer in a rewritten text, without "the answer is" and `\approx`."""
    before, sign, after = _without_lead(text).partition(r"\approx")
    return (before.strip() or after.strip()) if sign else before


def _without_lead(text: str) -> str:
    """The text without "Therefore", "The answer is", "= " and the like before it."""
    place = 0
    while match := _LEAD.match(text, place):
        if match[1] is not None and match[1].casefold() not in _FILLERS:
            break
        place = match.end()
    return text[place:] if place < len(text) else text


def with_signs(text: str) -> str:
    r"""`4 \text{by} 12` as `4 \times 12`, `7 \text{to} 32` as `7:32`."""
    text = re.sub(r"(?<=[0-9}])\s*\\text\{by\}\s*(?=[0-9])", r" \\times ", text)
    return re.sub(r"(?<=[0-9])\s*\\text\{to\}\s*(?=[0-9])", ":", text)


def split_clause(text: str) -> tuple[str, str]:
    """Return a text without its clause ("where ...", "for any ..."), and the clause."""
    match = CLAUSE.search(text)
    if match is None:
        return text, ""
    return text[: match.start()].strip(), text[match.start() :].lstrip(", ")


def words_and_formulas(text: str) -> list[tuple[str, str]]:
    """Return the words and formulas of a text in their order, each with its kind."""
    segments: list[tuple[str, str]] = []
    place = 0
    text = _without_lead(LETTER_WORD.sub(r" \1 ", text))
    for match in [*WORD.finditer(text), None]:
        formula = text[place : match.start() if match else len(text)].strip(" ,.;:")
        if formula:
            segments.append(("formula", formula))
        if match is None:
            break
        place = match.end()
        word = match[1].casefold().rstrip(".,")
        if word in _ARTICLES:
            continue
        if segments and segments[-1][0] == "words":
            segments[-1] = ("words", f"{segments[-1][1]} {word}")
        else:
            segments.append(("words", word))
    return segments


def predicate_of(segments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the predicate of a sentence: everything after its first "is"."""
    for index, (kind, words) in enumerate(segments):
        if kind == "words" and (match := re.search(r"(?:^| )(?:is|are) (.+)", words)):
            return [("words", match[1]), *segments[index + 1 :]]
    return []
