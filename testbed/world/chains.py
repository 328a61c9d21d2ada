"""Chains of operations modulo 10: one kind of the world's problems, and the splits of all kinds.

    Modulo ten, left to right: 3+4*7-2

Digits are multiplied by 3, 7 and 9 only. These permute the residues, so that all answers are
equally likely in chains of any length. Two variants of the rule, modulo seven and from right to
left, make problems out of distribution. A problem's split is a function of its text, which makes
the test, held-out and training problems disjoint without a list of them.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Split = Literal["test", "heldout", "train"]
Step = tuple[str, int]
"""An operator and its right operand."""

OPERANDS: Mapping[str, tuple[int, ...]] = {
    "+": tuple(range(10)),
    "-": tuple(range(10)),
    "*": (3, 7, 9),
}
RULES: Mapping[str, str] = {
    "ten": "Modulo ten, left to right: ",
    "seven": "Modulo seven, left to right: ",
    "leftward": "Modulo ten, right to left: ",
}
"""How the question of each rule begins."""


class Puzzle(ABC):
    """A problem of any kind, with an exact check of its answer."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The problem as it is asked."""

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """Reference answers, each of which is right; empty if there are too many to list."""

    @property
    def split(self) -> Split:
        """The part that the problem belongs to: 10 % test, 10 % held-out, 80 % training."""
        bucket = int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8]) % 10
        return "test" if bucket == 0 else "heldout" if bucket == 1 else "train"

    def accepts(self, answer: str) -> bool:
        """Return whether the content of the box is a right answer."""
        return answer in self.answers


@dataclass(frozen=True, kw_only=True)
class Line:
    """One step: two operands, or three with a carry, an operator between them, and the result.

    `carried` is the index of the operand that the line before gave, -1 if there is none. `tail` is
    written behind the operands.
    """

    operands: tuple[int, ...]
    operator: str
    result: int
    carried: int = -1
    tail: str = ""


@dataclass(frozen=True, kw_only=True)
class Chain(Puzzle):
    """A first digit, and steps of an operator and its right operand, by a rule of `RULES`."""

    start: int
    steps: tuple[Step, ...]
    rule: str = "ten"

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        expression = "".join(f"{operator}{operand}" for operator, operand in self.steps)
        return f"{RULES[self.rule]}{self.start}{expression}"

    @property
    def lines(self) -> list[tuple[int, str, int, int]]:
        """The steps in their order of evaluation: left, operator, right, result."""
        modulus = 7 if self.rule == "seven" else 10
        digits = [self.start, *(operand for _, operand in self.steps)]
        operators = [operator for operator, _ in self.steps]
        is_leftward = self.rule == "leftward"
        if is_leftward:
            digits, operators = digits[::-1], operators[::-1]
        lines, value = [], digits[0]
        for operator, digit in zip(operators, digits[1:], strict=True):
            left, right = (digit, value) if is_leftward else (value, digit)
            value = apply(left, operator, right, modulus)
            lines.append((left, operator, right, value))
        return lines

    @property
    def answer(self) -> str:
        """The last value, one digit."""
        return str(self.lines[-1][-1])

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer, as the only reference answer."""
        return (self.answer,)


def apply(left: int, operator: str, right: int, modulus: int = 10) -> int:
    """Return the result of one step, 0 to 9 (0 to 6 modulo seven)."""
    results = {"+": left + right, "-": left - right, "*": left * right}
    return results[operator] % modulus


def random_chain(rng: random.Random, n_operations: int, rule: str) -> Chain:
    """Return a chain with so many operations, of any split."""
    operators = [rng.choice(tuple(OPERANDS)) for _ in range(n_operations)]
    steps = tuple((operator, rng.choice(OPERANDS[operator])) for operator in operators)
    return Chain(start=rng.randrange(10), steps=steps, rule=rule)
