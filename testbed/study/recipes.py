"""The recipes of a run, listed before anything is run.

They are a fixed selection from all combinations of the axes' levels. Each step adds the recipe
whose pairs of levels are the rarest so far, so that all levels, and all pairs of levels, occur
about equally often. The first 12 of 48 recipes are the design of 12.
"""

from __future__ import annotations

import itertools
import random
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlready.registry.errors import ConfigError
from rlready.testbed.training.sft import SftRecipe
from rlready.testbed.world.skills import MIXES
from rlready.testbed.world.solutions import STYLES
from rlready.testbed.world.worlds import FIRST, World

AXES: Mapping[str, tuple[Any, ...]] = {
    "budget": (1600, 6400),
    "epochs": (1, 8, 40),
    "style": STYLES,
    "noise": (0.0, 0.3),
    "mix": tuple(MIXES),
    "learning_rate": (5e-4, 2e-3, 8e-3),
}
"""Levels of each axis; `epochs` stands for n_unique = budget / epochs."""


HEADROOM_BUDGET = 7680
"""Examples that each recipe of the world "headroom" sees."""
_HEADROOM_RATES, _HEADROOM_UNIQUE = (1e-3, 8e-3), (100, 3840)
_MOST_DRAWN = 256


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


def drawn_recipes(n: int, world: World) -> list[SftRecipe]:
    """Return n random recipes of the world's search space; a larger n gives the same and more.

    Mixtures are uniform on the simplex.
    """
    import numpy as np

    from rlready.predictors.search.candidates import anywhere
    from rlready.predictors.search.space_file import parse_space

    space = parse_space(tomllib.loads(search_space(HEADROOM_BUDGET, world)))
    points = anywhere(space, _MOST_DRAWN, np.random.default_rng(0), (1.0,))
    if n > len(points):
        raise ConfigError(f"a design of {n} recipes", fix=f"Give 1 to {len(points)}")
    return [SftRecipe.from_record(space.recipe(points, row)) for row in range(n)]


def search_space(budget: int, world: World = FIRST) -> str:
    """Return TOML of the recipes between the design's levels, for `rlready search --space`.

    Any mixture of the skills is allowed, not only the named ones. Every recipe sees `budget`
    examples, including repetitions: `n_unique` ranges from the value with the design's largest
    number of epochs to that with one epoch.
    """
    rates, noises = AXES["learning_rate"], AXES["noise"]
    n_unique = budget // max(AXES["epochs"]), budget
    if world != FIRST:
        rates, n_unique = _HEADROOM_RATES, _HEADROOM_UNIQUE
    styles = ", ".join(f'"{style}"' for style in AXES["style"])
    return (
        f"# Examples that a recipe sees; epochs are {budget} / n_unique.\n"
        f"token_budget = {budget}\n"
        '\n[recipe]\nbase_model = "testbed-base"\nseed = 0\n\n'
        + "".join(f"[sources.{skill}]\n" for skill in world.skills)
        + f"\n[n_unique]\nlow = {min(n_unique)}\nhigh = {max(n_unique)}\n"
        f"\n[learning_rate]\nlow = {min(rates)}\nhigh = {max(rates)}\n"
        f"\n[axes.style]\nchoices = [{styles}]\n"
        f"\n[axes.noise]\nlow = {min(noises)}\nhigh = {max(noises)}\n"
    )


def _pairs(cell: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the levels of every two axes: axis, level, other axis, level."""
    return [(i, cell[i], j, cell[j]) for i, j in itertools.combinations(range(len(cell)), 2)]
