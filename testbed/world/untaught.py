r"""Puzzles of the world "headroom" that the base has never seen: their skills come from SFT alone.

    Subtraction      Subtract: 74-36        4-6=8 / 7-3-1=3 / \boxed{38}
    Multiplication   Multiply: 347*3        7*3=21 / 4*3+2=14 / 3*3+1=10 / \boxed{1041}
    Base eight       Base eight: 45+27      5+7=14 / 4+2+1=7 / \boxed{74}
    Sorting          Sort: 5193             5193=1 / 593=3 / 59=5 / 9=9 / \boxed{1359}

(`/` stands for the end of a line.) Digits are worked through from the right; a difference is taken
modulo ten, and what it borrows is taken off the next one.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from rlready.testbed.world.chains import Line, Puzzle


class UntaughtPuzzle(Puzzle):
    """A puzzle that is worked out digit by digit."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer, as the only reference answer."""
        return (self.worked_out(None)[1],)

    @abstractmethod
    def worked_out(self, slip: random.Random | None) -> tuple[list[Line], str]:
        """Return the steps and the content of the box; `slip` chooses a step and makes it wrong."""


@dataclass(frozen=True, kw_only=True)
class Subtraction(UntaughtPuzzle):
    """The difference of two numbers with equally many digits, the larger one first."""

    left: int
    right: int

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Subtract: {self.left}-{self.right}"

    def worked_out(self, slip: random.Random | None) -> tuple[list[Line], str]:
        """See `UntaughtPuzzle`; leading zeros are left out of the answer."""
        pairs = list(zip(_digits(self.left), _digits(self.right), strict=True))
        wrong = _wrong_step(len(pairs), slip)
        steps, borrow, answer = [], 0, ""
        for i, (left, right) in enumerate(pairs):
            difference = left - right - borrow
            digit = difference % 10
            if slip is not None and i == wrong:
                digit = _other(digit, 10, slip)
            tail = "-1" if borrow else ""
            steps.append(Line(operands=(left, right), operator="-", tail=tail, result=digit))
            borrow, answer = int(difference < 0), f"{digit}{answer}"
        return steps, answer.lstrip("0") or "0"


@dataclass(frozen=True, kw_only=True)
class Multiplication(UntaughtPuzzle):
    """A number of several digits times one digit."""

    number: int
    factor: int

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Multiply: {self.number}*{self.factor}"

    def worked_out(self, slip: random.Random | None) -> tuple[list[Line], str]:
        """See `UntaughtPuzzle`."""
        digits = _digits(self.number)
        wrong = _wrong_step(len(digits), slip)
        steps, carry, answer = [], 0, ""
        for i, digit in enumerate(digits):
            tail = f"+{carry}" if carry else ""
            product = digit * self.factor + carry
            if slip is not None and i == wrong:
                product = _other(product, 90, slip)
            operands = (digit, self.factor)
            steps.append(Line(operands=operands, operator="*", tail=tail, result=product))
            carry, last = divmod(product, 10)
            answer = f"{last}{answer}"
        return steps, f"{carry or ''}{answer}".lstrip("0") or "0"


@dataclass(frozen=True, kw_only=True)
class OctalAddition(UntaughtPuzzle):
    """The sum of two numbers written in base eight, with equally many digits."""

    left: str
    right: str

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Base eight: {self.left}+{self.right}"

    def worked_out(self, slip: random.Random | None) -> tuple[list[Line], str]:
        """See `UntaughtPuzzle`; every number is written in base eight."""
        pairs = list(zip(map(int, self.left[::-1]), map(int, self.right[::-1]), strict=True))
        wrong = _wrong_step(len(pairs), slip)
        steps, carry, answer = [], 0, ""
        for i, (left, right) in enumerate(pairs):
            total = left + right + carry
            if slip is not None and i == wrong:
                total = _other(total, 15, slip)
            tail = "+1" if carry else ""
            steps.append(
                Line(operands=(left, right), operator="+", tail=tail, result=int(f"{total:o}"))
            )
            carry, last = divmod(total, 8)
            answer = f"{last}{answer}"
        return steps, f"{carry or ''}{answer}"


@dataclass(frozen=True, kw_only=True)
class Sorting(UntaughtPuzzle):
    """Different digits in ascending order; each step takes the smallest one out."""

    digits: tuple[int, ...]

    @property
    def text(self) -> str:
        """The problem as it is asked."""
        return f"Sort: {''.join(map(str, self.digits))}"

    def worked_out(self, slip: random.Random | None) -> tuple[list[Line], str]:
        """See `UntaughtPuzzle`; a wrong step takes another digit than the smallest."""
        wrong = _wrong_step(len(self.digits) - 1, slip)
        steps: list[Line] = []
        left, answer = list(self.digits), ""
        while left:
            taken = min(left)
            if slip is not None and len(steps) == wrong:
                taken = slip.choice([digit for digit in left if digit != taken])
            steps.append(Line(operands=tuple(left), operator="", tail="", result=taken))
            left.remove(taken)
            answer += str(taken)
        return steps, answer


def _subtraction(rng: random.Random) -> Subtraction:
    right, left = sorted(rng.randrange(10, 100) for _ in range(2))
    return Subtraction(left=left, right=right)


def _multiplication(rng: random.Random) -> Multiplication:
    return Multiplication(number=rng.randrange(100, 1000), factor=rng.randrange(2, 5))


def _octal(rng: random.Random) -> OctalAddition:
    left, right = (f"{rng.randrange(8, 8**2):o}" for _ in range(2))
    return OctalAddition(left=left, right=right)


def _sorting(rng: random.Random) -> Sorting:
    return Sorting(digits=tuple(rng.sample(range(10), 4)))


DRAW: dict[str, Callable[[random.Random], UntaughtPuzzle]] = {
    "sub2": _subtraction,
    "mul3": _multiplication,
    "octal2": _octal,
    "sort4": _sorting,
}
"""How the problems of each skill are drawn."""


def _digits(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]


def _wrong_step(n: int, slip: random.Random | None) -> int:
    return -1 if slip is None else slip.randrange(n)


def _other(value: int, below: int, rng: random.Random) -> int:
    """Return another value of 0 .. below - 1."""
    return (value + rng.randrange(1, below)) % below
