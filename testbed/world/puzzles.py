r"""The world's problems beside the chains: countdown and addition, with exact verifiers.

    Countdown   Left to right, make 20 of 3, 5, 7       \boxed{7-3*5}, for (7-3)*5
    Addition    Add digit by digit: 345+678             \boxed{1023}

A countdown problem has several right answers: any expression that uses each number once and comes
to the target when it is worked off from left to right. Its answer is judged here, by evaluating
it: a verifier that compares values would take the bare target for right.

Every problem, chains included, has `text`, `split` (a function of the text), `answers` (the
reference answers; none where they are too many to list) and `accepts`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlready.testbed.world.chains import Chain, Split, Step, split_of

MAX_ANSWER_LENGTH = 64
"""Characters; a longer answer is none. Model output is untrusted."""
LARGEST_NUMBER = 12
"""Of a countdown's numbers. With digits alone there are too few problems for a test split."""
LARGEST_VALUE = 99
"""Of targets and of the values on the way to them."""

_EXPRESSION = re.compile(r"[0-9]{1,2}(?:[-+*][0-9]{1,2})+")
_TERM = re.compile(r"([-+*]?)([0-9]+)")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,12}")
_BOX = "\\boxed{"


class Puzzle(Protocol):
    """What every kind of problem knows about itself."""

    @property
    def text(self) -> str:
        """The problem as it is asked."""

    @property
    def split(self) -> Split:
        """Which part it belongs to."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Reference answers, any of which counts; empty if values do not decide."""

    def accepts(self, answer: str) -> bool:
        """Whether the content of the box is a right answer."""


@dataclass(frozen=True, kw_only=True)
class Countdown:
    """Reach a target with each number used once, working from left to right.

    Args:
        numbers: 1 to 12, in ascending order.
        target: what the expression has to come to.
        known: one right expression: the first number, then the steps. It is not part of the
            problem: two with the same numbers and target are equal.
    """

    numbers: tuple[int, ...]
    target: int
    known: tuple[int, tuple[Step, ...]] = field(compare=False)

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Left to right, make {self.target} of {', '.join(map(str, self.numbers))}"

    @property
    def split(self) -> Split:
        """Which part it belongs to."""
        return split_of(self.text)

    @property
    def answers(self) -> tuple[str, ...]:
        """None: an expression is judged by its numbers too, not by its value alone."""
        return ()

    def accepts(self, answer: str) -> bool:
        """Whether the expression uses each number once and comes to the target."""
        if len(answer) > MAX_ANSWER_LENGTH or not _EXPRESSION.fullmatch(answer):
            return False
        (_, start), *steps = [(sign, int(number)) for sign, number in _TERM.findall(answer)]
        if sorted([start, *(number for _, number in steps)]) != list(self.numbers):
            return False
        return values(start, steps)[-1] == self.target


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Two numbers to be added, digit by digit from the right.

    Args:
        left: the first number.
        right: the second one, with as many digits.
    """

    left: int
    right: int

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Add digit by digit: {self.left}+{self.right}"

    @property
    def split(self) -> Split:
        """Which part it belongs to."""
        return split_of(self.text)

    @property
    def answers(self) -> tuple[str, ...]:
        """The sum."""
        return (str(self.left + self.right),)

    def accepts(self, answer: str) -> bool:
        """Whether the answer is the sum, written as a whole number."""
        return is_number(answer, self.left + self.right)


def values(start: int, steps: Sequence[Step]) -> list[int]:
    """The whole numbers that an expression passes through, worked off from left to right."""
    found = [start]
    for operator, operand in steps:
        left = found[-1]
        found.append({"+": left + operand, "-": left - operand, "*": left * operand}[operator])
    return found


def is_number(answer: str, expected: int) -> bool:
    """Whether a text is this whole number, in digits alone."""
    return _WHOLE_NUMBER.fullmatch(answer) is not None and int(answer) == expected


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` of a response, None if it holds no closed one.

    The world's answers have no braces, so the box ends at the first one.
    """
    begin = text.rfind(_BOX)
    end = text.find("}", begin)
    return text[begin + len(_BOX) : end] if begin >= 0 and end >= 0 else None


def reward(puzzle: Puzzle | Chain, text: str) -> bool:
    """Whether a response solves the problem: the box at its end holds a right answer.

    Only the answer counts, as in RL with verifiable rewards. Where a puzzle has reference
    answers, whatever is accepted here is CORRECT for `rlready evaluate` as well, which knows
    more ways of writing a number.
    """
    answer = boxed(text)
    return answer is not None and puzzle.accepts(answer)
