r"""The world's problems beside the chains: countdown and addition, with exact verifiers.

    Countdown   Left to right, make 20 of 3, 5, 7       \boxed{7-3*5}, for (7-3)*5
    Addition    Add digit by digit: 345+678             \boxed{1023}

A countdown problem has several right answers: any expression that uses each number once and gives
the target when it is evaluated from left to right. Its answer is evaluated here, because a verifier
that compares values would accept the bare target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlready.testbed.world.chains import Chain, Puzzle, Step
from rlready.testbed.world.untaught import UntaughtPuzzle

MAX_ANSWER_LENGTH = 64
"""Characters; a longer answer is wrong. Model output is untrusted."""
LARGEST_NUMBER = 12
"""Largest number in a countdown. With digits alone there are too few problems for a test split."""
LARGEST_VALUE = 99
"""Largest target, and largest value on the way to it."""

_EXPRESSION = re.compile(r"[0-9]{1,2}(?:[-+*][0-9]{1,2})+")
_TERM = re.compile(r"([-+*]?)([0-9]+)")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,12}")
_BOX = "\\boxed{"


@dataclass(frozen=True, kw_only=True)
class Countdown(Puzzle):
    """Reach a target with each number used once, working from left to right.

    Args:
        numbers: 1 to 12, in ascending order.
        target: value that the expression must have.
        solution: one right expression: the first number, then the steps. It is not part of the
            problem: two with the same numbers and target are equal.
    """

    numbers: tuple[int, ...]
    target: int
    solution: tuple[int, tuple[Step, ...]] = field(compare=False)

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Left to right, make {self.target} of {', '.join(map(str, self.numbers))}"

    @property
    def answers(self) -> tuple[str, ...]:
        """No answers: an expression is judged by its numbers too, not by its value alone."""
        return ()

    def accepts(self, answer: str) -> bool:
        """Return whether the expression uses each number once and gives the target."""
        if len(answer) > MAX_ANSWER_LENGTH or not _EXPRESSION.fullmatch(answer):
            return False
        (_, start), *steps = [(sign, int(number)) for sign, number in _TERM.findall(answer)]
        if sorted([start, *(number for _, number in steps)]) != list(self.numbers):
            return False
        return values(start, steps)[-1] == self.target


@dataclass(frozen=True, kw_only=True)
class Addition(Puzzle):
    """Two numbers with equally many digits, to be added digit by digit from the right."""

    left: int
    right: int

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Add digit by digit: {self.left}+{self.right}"

    @property
    def answers(self) -> tuple[str, ...]:
        """The sum."""
        return (str(self.left + self.right),)

    def accepts(self, answer: str) -> bool:
        """Return whether the answer is the sum, in digits; leading zeros are allowed."""
        is_number = _WHOLE_NUMBER.fullmatch(answer) is not None
        return is_number and int(answer) == self.left + self.right


AnyPuzzle = Chain | Countdown | Addition | UntaughtPuzzle


def values(start: int, steps: Sequence[Step]) -> list[int]:
    """Return the values of an expression after each step, from left to right."""
    passed = [start]
    for operator, operand in steps:
        left = passed[-1]
        passed.append({"+": left + operand, "-": left - operand, "*": left * operand}[operator])
    return passed


def boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}` of a response, None if no closed one is in it.

    The world's answers have no braces, so the box ends at the first one.
    """
    begin = text.rfind(_BOX)
    end = text.find("}", begin)
    return text[begin + len(_BOX) : end] if begin >= 0 and end >= 0 else None


def reward(puzzle: Puzzle, text: str) -> bool:
    """Return whether a response solves the problem: the box at its end holds a right answer.

    Only the answer counts, as in RL with verifiable rewards. If a puzzle has reference answers,
    every answer that is accepted here is also CORRECT for `rlready evaluate`, which knows more
    notations of a number.
    """
    answer = boxed(text)
    return answer is not None and puzzle.accepts(answer)
