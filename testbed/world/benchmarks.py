"""The world's benchmarks: test problems in two disjoint halves, and as files.

The half `before` is measured before RL, the half `after` after RL, so that an outcome shares no
problems with the proxies that predict it; `all` is both halves.

Benchmarks whose answers are numbers are written as JSONL for `rlready evaluate`. Countdown is left
out: its answers are expressions, and a verifier that compares values would accept the target
itself. `measure.count` judges them.

Held-out examples are correct solutions of held-out problems, one file per style, because the loss
on a style that differs from the recipe's measures the style more than the skill.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rlready.testbed.world.measure import Item
from rlready.testbed.world.skills import SKILLS, VARIANTS, draw_different, draw_mixture
from rlready.testbed.world.solutions import STYLES, solution
from rlready.testbed.world.worlds import FIRST, World

Half = Literal["before", "after", "all"]

N_PER_HALF = 100
_SEED = 0


def benchmark(skill: str, half: Half, n_per_half: int = N_PER_HALF) -> list[Item]:
    """Return test problems of a skill. A problem has the same id in `before`, `after` and `all`.

    A smaller `n_per_half` gives the first of the same problems.
    """
    # Alternating, so that the problems of a half do not depend on the number.
    puzzles = draw_different(skill, "test", 2 * n_per_half, _SEED)
    items = [Item(id=f"{skill}-{i:04d}", puzzle=puzzle) for i, puzzle in enumerate(puzzles)]
    return {"before": items[::2], "after": items[1::2], "all": items}[half]


def benchmarks(
    half: Half, n_per_half: int = N_PER_HALF, skills: Sequence[str] = SKILLS
) -> dict[str, list[Item]]:
    """Return the benchmarks of several skills by name."""
    return {skill: benchmark(skill, half, n_per_half) for skill in skills}


def write_benchmarks(
    folder: Path, n_per_half: int = N_PER_HALF, world: World = FIRST
) -> list[Path]:
    """Write `<half>/<skill>.jsonl` for the benchmarks that `rlready evaluate` can judge.

    Each line has `id`, `problem` and `answer`.

    Example:
        >>> [path.name for path in write_benchmarks(Path("inputs"))][:2]
        ['chain_easy.jsonl', 'chain_hard.jsonl']
    """
    skills = (*world.skills, *(VARIANTS if world == FIRST else ()))
    written = []
    halves: tuple[Half, ...] = ("before", "after")
    for half in halves:
        for name, items in benchmarks(half, n_per_half, skills).items():
            rows = [
                {"id": item.id, "problem": item.puzzle.text, "answer": item.puzzle.answers[0]}
                for item in items
                if item.puzzle.answers
            ]
            if rows:
                written.append(_write_rows(folder / half / f"{name}.jsonl", rows))
    return written


def write_heldout(folder: Path, n: int = 200, world: World = FIRST) -> list[Path]:
    """Write `heldout_<style>.jsonl`, each with n solved problems of all skills.

    Each line has `id` and `messages`. The problems are the same in every style.

    Example:
        >>> [path.name for path in write_heldout(Path("inputs"), 60)][0]
        'heldout_canonical.jsonl'
    """
    puzzles = [puzzle for _, puzzle in draw_mixture(world.even, "heldout", n, _SEED)]
    written = []
    for style in STYLES:
        rng = random.Random(f"heldout/{_SEED}")
        rows = [
            {
                "id": f"heldout-{i:04d}",
                "messages": [
                    {"role": "user", "content": puzzle.text},
                    {"role": "assistant", "content": solution(puzzle, style, rng)},
                ],
            }
            for i, puzzle in enumerate(puzzles)
        ]
        written.append(_write_rows(folder / f"heldout_{style}.jsonl", rows))
    return written


def _write_rows(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
