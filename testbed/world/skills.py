"""The world's skills: kinds of problems, how they are drawn, and mixtures of them.

Each skill is a distribution of problems. SFT and RL use the six skills of `SKILLS`. The variants of
the chain rule, which neither uses, measure the effect on problems out of distribution.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from rlready.registry.errors import ConfigError
from rlready.testbed.world.chains import Chain, Split, random_chain
from rlready.testbed.world.puzzles import (
    LARGEST_NUMBER,
    LARGEST_VALUE,
    Addition,
    AnyPuzzle,
    Countdown,
    values,
)
from rlready.testbed.world.untaught import DRAW

SKILLS = ("chain_easy", "chain_hard", "count3", "count4", "add2", "add3")
"""Skills of SFT and RL."""
VARIANTS = ("chain_seven", "chain_leftward")
"""Out of distribution: other rules, used in pretraining only."""

# With 10,000 problems, so many draws miss the last remaining problem once in 20,000 times.
_OLD_IN_A_ROW = 100_000

MIXES: Mapping[str, Mapping[str, float]] = {
    "mixed": dict.fromkeys(SKILLS, 1 / 6),
    "easy": {"chain_easy": 0.4, "count3": 0.3, "add2": 0.3},
    "hard": {"chain_hard": 0.4, "count4": 0.3, "add3": 0.3},
    "chains": {"chain_easy": 0.4, "chain_hard": 0.4, "count3": 0.1, "add3": 0.1},
    "countdown": {"chain_hard": 0.1, "count3": 0.4, "count4": 0.4, "add3": 0.1},
}
"""Mixtures of skills that a recipe may name."""


def _chain(n_operations: tuple[int, ...], rule: str = "ten") -> Callable[[random.Random], Chain]:
    return lambda rng: random_chain(rng, rng.choice(n_operations), rule)


def _countdown(n_numbers: int) -> Callable[[random.Random], Countdown]:
    def draw(rng: random.Random) -> Countdown:
        while True:
            start, *others = (rng.randint(1, LARGEST_NUMBER) for _ in range(n_numbers))
            steps = tuple((rng.choice("+-*"), other) for other in others)
            passed = values(start, steps)
            if min(passed) >= 0 and max(passed) <= LARGEST_VALUE and passed[-1] >= 1:
                numbers = tuple(sorted((start, *others)))
                return Countdown(numbers=numbers, target=passed[-1], solution=(start, steps))

    return draw


def _addition(n_digits: int) -> Callable[[random.Random], Addition]:
    least, beyond = 10 ** (n_digits - 1), 10**n_digits
    return lambda rng: Addition(
        left=rng.randrange(least, beyond), right=rng.randrange(least, beyond)
    )


_DRAW: Mapping[str, Callable[[random.Random], AnyPuzzle]] = {
    **DRAW,
    "chain_easy": _chain((2, 3)),
    "chain_hard": _chain((4, 5)),
    "count3": _countdown(3),
    "count4": _countdown(4),
    "add2": _addition(2),
    "add3": _addition(3),
    "chain_seven": _chain((2, 3), "seven"),
    "chain_leftward": _chain((2, 3), "leftward"),
}


def draw_any(skill: str, split: Split, rng: random.Random) -> AnyPuzzle:
    """Return a random problem of a skill and split; repeated calls may return it again."""
    if skill not in _DRAW:
        raise ConfigError(f"skill is {skill!r}", fix=f"Known skills: {', '.join(_DRAW)}")
    while True:
        puzzle = _DRAW[skill](rng)
        if puzzle.split == split:
            return puzzle


def draw_different(skill: str, split: Split, n: int, seed: int) -> list[AnyPuzzle]:
    """Return different random problems, or raise a ConfigError if there are fewer than n.

    A larger n gives the same problems and more.
    """
    rng = random.Random(f"{skill}/{split}/{seed}")
    puzzles: dict[str, AnyPuzzle] = {}
    n_old = 0
    while len(puzzles) < n:
        puzzle = draw_any(skill, split, rng)
        n_old = n_old + 1 if puzzle.text in puzzles else 0
        puzzles.setdefault(puzzle.text, puzzle)
        if n_old >= _OLD_IN_A_ROW:
            raise ConfigError(
                f"skill {skill} has only {len(puzzles)} different problems for the split {split}",
                fix="Give it a smaller share, or ask for fewer examples",
            )
    return list(puzzles.values())


def draw_mixture(
    weights: Mapping[str, float], split: Split, n: int, seed: int
) -> list[tuple[str, AnyPuzzle]]:
    """Return n different problems with their skills, in random order; weights sum to 1.

    The first problems of a longer draw are not those of a shorter one.
    """
    exact = [(weight * n, skill) for skill, weight in weights.items()]
    counts = {skill: int(share) for share, skill in exact}
    by_rest = sorted(exact, key=lambda pair: (-(pair[0] - int(pair[0])), pair[1]))
    for _, skill in by_rest[: n - sum(counts.values())]:
        counts[skill] += 1
    drawn = [
        (skill, puzzle)
        for skill, count in counts.items()
        for puzzle in draw_different(skill, split, count, seed)
    ]
    random.Random(f"order/{seed}").shuffle(drawn)
    return drawn
