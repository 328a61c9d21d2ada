"""The recipes of a run, listed before anything is run.

They are a fixed selection from all combinations of the axes' levels. Each step adds the recipe
whose pairs of levels are the rarest so far, so that all levels, and all pairs of levels, occur
about equally often. The first 12 of 48 recipes are the design of 12.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlready.registry.errors import ConfigError
from rlready.testbed.training.sft import SftRecipe
from rlready.testbed.world.skills import MIXES, SKILLS
from rlready.testbed.world.solutions import STYLES

AXES: Mapping[str, tuple[Any, ...]] = {
    "budget": (1600, 6400),
    "epochs": (1, 8, 40),
    "style": STYLES,
    "noise": (0.0, 0.3),
    "mix": tuple(MIXES),
    "learning_rate": (5e-4, 2e-3, 8e-3),
}
"""Levels of each axis; `epochs` stands for n_unique = budget / epochs."""


def choose_recipes(n: int, seed: int = 0) -> list[SftRecipe]:
    """Return n different recipes; a larger n gives the same recipes and more.

    The seed is that of the selection. The recipes themselves keep SFT seed 0.
    """
    unused = list(itertools.product(*(range(len(levels)) for levels in AXES.values())))
    if not 1 <= n <= len(unused):
        raise ConfigError(f"a design of {n} recipes", fix=f"Give 1 to {len(unused)}")
    random.Random(f"design/{seed}").shuffle(unused)
    seen: Counter[tuple[int, int, int, int]] = Counter()
    chosen = []
    for _ in range(n):
        cell = min(unused, key=lambda cell: sum(seen[pair] for pair in _pairs(cell)))
        unused.remove(cell)
        seen.update(_pairs(cell))
        levels = {axis: AXES[axis][level] for axis, level in zip(AXES, cell, strict=True)}
        n_unique = levels["budget"] // levels.pop("epochs")
        chosen.append(SftRecipe(n_unique=n_unique, **levels))
    return chosen


def search_space(budget: int) -> str:
    """Return TOML of the recipes between the design's levels, for `rlready search --space`.

    Any mixture of the skills is allowed, not only the named ones. Every recipe sees `budget`
    examples, including repetitions: `n_unique` ranges from the value with the design's largest
    number of epochs to that with one epoch.
    """
    rates, noises = AXES["learning_rate"], AXES["noise"]
    styles = ", ".join(f'"{style}"' for style in AXES["style"])
    return (
        f"# Examples that a recipe sees; epochs are {budget} / n_unique.\n"
        f"token_budget = {budget}\n"
        '\n[recipe]\nbase_model = "testbed-base"\nseed = 0\n\n'
        + "".join(f"[sources.{skill}]\n" for skill in SKILLS)
        + f"\n[n_unique]\nlow = {budget // max(AXES['epochs'])}\nhigh = {budget}\n"
        f"\n[learning_rate]\nlow = {min(rates)}\nhigh = {max(rates)}\n"
        f"\n[axes.style]\nchoices = [{styles}]\n"
        f"\n[axes.noise]\nlow = {min(noises)}\nhigh = {max(noises)}\n"
    )


def _pairs(cell: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the levels of every two axes: axis, level, other axis, level."""
    return [(i, cell[i], j, cell[j]) for i, j in itertools.combinations(range(len(cell)), 2)]
