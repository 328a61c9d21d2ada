r"""The testbed's problems: chains of operations modulo 10, solved one step a line.

    problem    Modulo ten, left to right: 3+4*7-2
    solution   3+4=7
               7*7=9
               9-2=7
               \boxed{7}

Digits are multiplied by 3, 7 and 9 only: these permute the residues, so that every answer is as
likely as every other, however long the chain. Two variants of the rule, modulo seven and from
right to left, make problems out of distribution. A problem's split is a function of its text, which
makes the test, held-out and training problems disjoint without a list of them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rlready.registry.errors import ConfigError

Split = Literal["test", "heldout", "train"]
Step = tuple[str, int]
"""An operator and its right operand."""
Fact = tuple[int, str, int]
"""A digit, an operator and its right operand."""

OPERANDS: Mapping[str, tuple[int, ...]] = {
    "+": tuple(range(10)),
    "-": tuple(range(10)),
    "*": (3, 7, 9),
}
FACTS: tuple[Fact, ...] = tuple(
    (left, operator, right)
    for operator in OPERANDS
    for left in range(10)
    for right in OPERANDS[operator]
)
RULES: Mapping[str, str] = {
    "ten": "Modulo ten, left to right: ",
    "seven": "Modulo seven, left to right: ",
    "leftward": "Modulo ten, right to left: ",
}
"""How the question of each rule begins."""
DIFFICULTIES: Mapping[str, tuple[int, ...]] = {"easy": (2, 3), "hard": (4, 5)}
"""Numbers of operations of the problems of each difficulty."""


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

    def write_out(self, result_of: Callable[[int, str, int], int]) -> str:
        """A solution, one line a step and the boxed answer, in which `result_of` does the sums."""
        lines, value = [], self.start
        for operator, operand in self.steps:
            result = result_of(value, operator, operand)
            lines.append(f"{value}{operator}{operand}={result}")
            value = result
        return "\n".join([*lines, f"\\boxed{{{value}}}"])

    @property
    def solution(self) -> str:
        """The one correct solution."""
        return self.write_out(apply)

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


def is_correct_trace(chain: Chain, response: str) -> bool:
    """Whether a response is the chain's solution, every step of it, and nothing else.

    A chain has one solution. A right answer that was reached by a wrong step is refused.
    """
    return response.strip() == chain.solution


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Writes solutions, with mistakes if so wanted: the noise of a recipe.

    A teacher is sure of some facts (3+4=7) and shaky on others: how often a fact goes wrong
    differs from fact to fact (a Beta distribution), and it goes wrong the same way each time. A
    model that learns from the teacher inherits the pattern, and so finds some problems easy and
    others nearly impossible, as real checkpoints do. A wrong result is carried forward.

    Args:
        slip_rate: chance of a wrong step, averaged over the facts; 0 never errs.
        evenness: concentration of the Beta distribution. Large: all facts are alike; near 0: a
            fact is always right or always wrong.
        seed: which facts are the shaky ones.
    """

    slip_rate: float = 0.0
    evenness: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.slip_rate < 1.0 or not 0.0 < self.evenness < math.inf:
            raise ConfigError(
                f"a teacher has slip rate {self.slip_rate} and evenness {self.evenness}",
                fix="Give a slip rate of 0 to below 1 and a positive evenness",
            )

    @cached_property
    def slips(self) -> Mapping[Fact, tuple[float, int]]:
        """How often each fact goes wrong, and the wrong result it then has."""
        rng = random.Random(self.seed)
        a, b = self.evenness * self.slip_rate, self.evenness * (1.0 - self.slip_rate)
        return {
            fact: (rng.betavariate(a, b) if a else 0.0, (apply(*fact) + rng.randint(1, 9)) % 10)
            for fact in FACTS
        }

    def solve(self, chain: Chain, rng: random.Random) -> str:
        """A solution of the chain; `rng` decides where this one goes wrong."""

        def result_of(left: int, operator: str, right: int) -> int:
            slip_rate, wrong = self.slips[left, operator, right]
            return wrong if rng.random() < slip_rate else apply(left, operator, right)

        return chain.write_out(result_of)


def chains(difficulty: str, split: Split, seed: int) -> Iterator[Chain]:
    """Different random problems of one difficulty and split, without end in practice.

    The number of operations is drawn anew for each, so the shortest chains, of which there are
    few, run out long before the longest do.
    """
    rng = random.Random(f"{difficulty}/{split}/{seed}")
    seen: set[Chain] = set()
    while True:
        chain = _draw(rng, rng.choice(DIFFICULTIES[difficulty]))
        if chain.split == split and chain not in seen:
            seen.add(chain)
            yield chain


def draw_chains(difficulty: str, split: Split, n: int, seed: int) -> list[Chain]:
    """The first n of `chains`."""
    return list(itertools.islice(chains(difficulty, split, seed), n))


def _draw(rng: random.Random, n_operations: int) -> Chain:
    return random_chain(rng, n_operations, "ten")


def random_chain(rng: random.Random, n_operations: int, rule: str) -> Chain:
    """A chain with so many operations, whatever its split."""
    operators = [rng.choice(tuple(OPERANDS)) for _ in range(n_operations)]
    steps = tuple((operator, rng.choice(OPERANDS[operator])) for operator in operators)
    return Chain(start=rng.randrange(10), steps=steps, rule=rule)
