r"""Written solutions in four styles, with a wrong step if one is asked for.

    canonical    3+4=7 / 7*7=9 / \boxed{9}          every step
    shuffled     4+3=7 / 7*7=9 / \boxed{9}          operands of + and * in random order
    terse        3+4=7 / *7=9 / \boxed{9}           the result of the line before is left out
    answer       \boxed{9}                          no chain of thought

(`/` stands for the end of a line.) A wrong step has a wrong result, and the following steps
continue from it, like the mistake of a careless teacher. In a countdown the box then holds a wrong
expression, and the last line claims that it gives the target.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Literal, get_args

from rlready.registry.errors import ConfigError
from rlready.testbed.world.chains import Chain, Line, Step, apply
from rlready.testbed.world.puzzles import Addition, AnyPuzzle, Countdown, values
from rlready.testbed.world.untaught import UntaughtPuzzle

Style = Literal["canonical", "shuffled", "terse", "answer"]
STYLES: tuple[Style, ...] = get_args(Style)


def solution(puzzle: AnyPuzzle, style: Style, rng: random.Random, *, is_wrong: bool = False) -> str:
    """Return a solution of the puzzle in this style, with one wrong step if `is_wrong`.

    `rng` chooses the order of operands and the wrong step. An unknown style is a ConfigError.
    """
    if style not in STYLES:
        raise ConfigError(f"style is {style!r}", fix=f"Known styles: {', '.join(STYLES)}")
    lines, answer = worked_out(puzzle, rng, is_wrong=is_wrong)
    written = [] if style == "answer" else [_written(line, style, rng) for line in lines]
    return "\n".join([*written, f"\\boxed{{{answer}}}"])


def worked_out(
    puzzle: AnyPuzzle, rng: random.Random, *, is_wrong: bool = False
) -> tuple[list[Line], str]:
    """Return the steps of a solution and the content of its box."""
    if isinstance(puzzle, Chain):
        return _chain(puzzle, rng, is_wrong)
    if isinstance(puzzle, Addition):
        return _addition(puzzle, rng, is_wrong)
    if isinstance(puzzle, UntaughtPuzzle):
        return puzzle.worked_out(rng if is_wrong else None)
    return _countdown(puzzle, rng, is_wrong)


def _written(line: Line, style: Style, rng: random.Random) -> str:
    operands = list(line.operands)
    if style == "terse" and line.carried >= 0:
        return f"{_without(operands, line)}={line.result}"
    if style == "terse" and not line.operator:
        return f"={line.result}"
    if style == "shuffled" and line.operator != "-":
        rng.shuffle(operands)
    tail = "" if style == "terse" else line.tail
    return f"{line.operator.join(map(str, operands))}{tail}={line.result}"


def _without(operands: list[int], line: Line) -> str:
    before, after = operands[: line.carried], operands[line.carried + 1 :]
    if len(operands) > 2:  # a carry leaves no operator behind
        return line.operator.join(map(str, before + after))
    return line.operator.join(("".join(map(str, before)), "".join(map(str, after))))


def _chain(chain: Chain, rng: random.Random, is_wrong: bool) -> tuple[list[Line], str]:
    right = chain.lines
    slip = rng.randrange(len(right)) if is_wrong else -1
    modulus, is_leftward = 7 if chain.rule == "seven" else 10, chain.rule == "leftward"
    lines: list[Line] = []
    for i, (left, operator, operand, _) in enumerate(right):
        carried = -1
        if lines:
            value, carried = lines[-1].result, int(is_leftward)
            left, operand = (left, value) if is_leftward else (value, operand)
        result = apply(left, operator, operand, modulus)
        if i == slip:
            result = (result + rng.randrange(1, modulus)) % modulus
        lines.append(
            Line(operands=(left, operand), operator=operator, result=result, carried=carried)
        )
    return lines, str(lines[-1].result)


def _addition(addition: Addition, rng: random.Random, is_wrong: bool) -> tuple[list[Line], str]:
    pairs = list(zip(_digits(addition.left), _digits(addition.right), strict=True))
    slip = rng.randrange(len(pairs)) if is_wrong else -1
    lines: list[Line] = []
    carry, total = 0, ""
    for i, pair in enumerate(pairs):
        operands = (*pair, 1) if carry else pair
        result = sum(operands)
        if i == slip:
            result = (result + rng.randrange(1, 19)) % 20
        carried = 2 if carry else -1
        lines.append(Line(operands=operands, operator="+", result=result, carried=carried))
        carry, digit = divmod(result, 10)
        total = f"{digit}{total}"
    return lines, f"{carry or ''}{total}"


def _digits(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]


def _countdown(puzzle: Countdown, rng: random.Random, is_wrong: bool) -> tuple[list[Line], str]:
    start, steps = puzzle.solution
    if is_wrong:
        steps = _spoilt(start, steps, rng)
    passed = values(start, steps)
    lines = [
        Line(operands=(left, operand), operator=operator, result=result, carried=0 if i else -1)
        for i, (left, (operator, operand), result) in enumerate(
            zip(passed, steps, passed[1:], strict=False)
        )
    ]
    if is_wrong:
        lines[-1] = dataclasses.replace(lines[-1], result=puzzle.target)
    return lines, f"{start}{''.join(f'{operator}{operand}' for operator, operand in steps)}"


def _spoilt(start: int, steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    """Return the steps with one operator changed so that they give another value."""
    target = values(start, steps)[-1]
    changed = [
        (*steps[:i], (operator, steps[i][1]), *steps[i + 1 :])
        for i in range(len(steps))
        for operator in "+-*"
    ]
    # There is at least one, since adding and subtracting a positive number differ.
    return rng.choice([wrong for wrong in changed if values(start, wrong)[-1] != target])
