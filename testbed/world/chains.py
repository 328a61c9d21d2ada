"""Chains of operations modulo 10: one kind of the world's problems, and the splits of all kinds.

    Modulo ten, left to right: 3+4*7-2

Digits are multiplied by 3, 7 and 9 only: these permute the residues, so that every answer is as
likely as every other, however long the chain. Two variants of the rule, modulo seven and from
right to left, make problems out of distribution. A problem's split is a function of its text, which
makes the test, held-out and training problems disjoint without a list of them.
"""

from __future__ import annotations

import hashlib
import random
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


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain of operations on digits, worked off from left to right.

    Args:
        start: the first digit.
        steps: operators of `OPERANDS`, each with its right operand.
        rule: a key of `RULES`.
    """

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
        """The steps in the order in which they are worked off: left, operator, right, result."""
        modulus = 7 if self.rule == "seven" else 10
        digits = [self.start, *(operand for _, operand in self.steps)]
        operators = [operator for operator, _ in self.steps]
        is_leftward = self.rule == "leftward"
        if is_leftward:
            digits, operators = digits[::-1], operators[::-1]
        found, value = [], digits[0]
        for operator, digit in zip(operators, digits[1:], strict=True):
            left, right = (digit, value) if is_leftward else (value, digit)
            value = apply(left, operator, right, modulus)
            found.append((left, operator, right, value))
        return found

    @property
    def answer(self) -> str:
        """The last value, one digit."""
        return str(self.lines[-1][-1])

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer, as the one reference answer."""
        return (self.answer,)

    def accepts(self, answer: str) -> bool:
        """Whether the content of the box is the answer."""
        return answer == self.answer

    @property
    def split(self) -> Split:
        """Which part it belongs to."""
        return split_of(self.text)


def split_of(text: str) -> Split:
    """The part that a problem belongs to by its text: 10 % test, 10 % held-out, 80 % training."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 10
    return "test" if bucket == 0 else "heldout" if bucket == 1 else "train"


def apply(left: int, operator: str, right: int, modulus: int = 10) -> int:
    """The result of one step, 0 to 9 (0 to 6 modulo seven)."""
    results = {"+": left + right, "-": left - right, "*": left * right}
    return results[operator] % modulus


def random_chain(rng: random.Random, n_operations: int, rule: str) -> Chain:
    """A chain with so many operations, whatever its split."""
    operators = [rng.choice(tuple(OPERANDS)) for _ in range(n_operations)]
    steps = tuple((operator, rng.choice(OPERANDS[operator])) for operator in operators)
    return Chain(start=rng.randrange(10), steps=steps, rule=rule)
