r"""The golds of a problem: its reference answers with their units and tolerances.

    accepted_answers(Problem(id="a", text="What percent are red?", answers=("25",)))
        ->  ("25", r"25\%")
    accepted_answers(Problem(id="b", text="Find g.", answers=("4.2",), error_tolerance="0.1"))
        ->  ("4.2 [error tolerance 0.1]",)

A verdict only depends on the golds, the answer and the checker version. Other facts of a problem,
such as a percentage that it asks for or its own tolerance, therefore become part of the golds.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rlready.registry.records import Problem

# "What percent of ...", "what is the percentage chance", "expressed as a percentage".
_ASKS_FOR_PERCENTAGE = re.compile(
    r"(?:what|which|by what|how many)(?:'s|\s+is|\s+was|\s+are)?"
    r"(?:\s+(?:the|approximate|total|exact))*\s+percent(?:age)?\b"
    r"|\b(?:as|in)\s+(?:a\s+)?percent(?:age)?\b"
    r"|\b(?:find|calculate|determine|compute)\s+the\s+percent(?:age)?\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9,]*)?(?:\.[0-9]+)?")
_TOLERANCE = re.compile(r"(.*) \[error tolerance ([0-9.eE+-]+)\]", re.DOTALL)


def accepted_answers(problem: Problem) -> tuple[str, ...]:
    """Return the golds of a problem; its own answers come first, in their order."""
    golds = problem.answers
    if asks_for_percentage(problem.text):
        bare = [gold for gold in golds if _PLAIN_NUMBER.fullmatch(gold.strip())]
        golds += tuple(rf"{gold.strip()}\%" for gold in bare)
    if problem.error_tolerance is not None:
        golds = tuple(f"{gold} [error tolerance {problem.error_tolerance}]" for gold in golds)
    return golds


def asks_for_percentage(text: str) -> bool:
    """Return whether one of a problem's questions, or its last sentence, asks for a percentage."""
    sentences = _SENTENCE_END.split(text.strip())
    questions = [s for s in sentences if s.rstrip().endswith("?")]
    return any(_ASKS_FOR_PERCENTAGE.search(sentence) for sentence in [*questions, sentences[-1]])


def split_tolerance(gold: str) -> tuple[str, Fraction]:
    """Return a gold without its tolerance, and the tolerance (0 if it has none)."""
    match = _TOLERANCE.fullmatch(gold)
    return (match[1], Fraction(match[2])) if match else (gold, Fraction(0))
