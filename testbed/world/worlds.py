"""The testbed's worlds: which skills are taught, trained by RL and measured in each.

The first world has skills that the base knows. In the world "headroom" the base knows two of six
skills; the four others are learned from SFT or not at all, because RL cannot reward what is never
drawn. Settings name a mixture of skills, which belongs to one world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlready.registry.errors import ConfigError
from rlready.testbed.world.skills import MIXES, SKILLS

HEADROOM_SKILLS = ("chain_easy", "add3", "sub2", "mul3", "octal2", "sort4")
"""The base knows the first two only."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A set of skills, with the mixtures of them that recipes and RL may name.

    Args:
        name: as profiles and tables name it.
        skills: benchmarks and sources, in the order of tables.
        mixes: shares of the skills by the name of the mixture; the first has equal shares.

    Example:
        >>> world_of("headroom").skills[:2]
        ('chain_easy', 'add3')
    """

    name: str
    skills: tuple[str, ...]
    mixes: Mapping[str, Mapping[str, float]]

    @property
    def even(self) -> Mapping[str, float]:
        """Equal shares of all skills."""
        return next(iter(self.mixes.values()))


FIRST = World(name="first", skills=SKILLS, mixes=MIXES)
HEADROOM = World(
    name="headroom",
    skills=HEADROOM_SKILLS,
    mixes={"headroom": dict.fromkeys(HEADROOM_SKILLS, 1 / len(HEADROOM_SKILLS))},
)
WORLDS = (FIRST, HEADROOM)

ALL_SKILLS = tuple(dict.fromkeys(skill for world in WORLDS for skill in world.skills))
ALL_MIXES = {name: shares for world in WORLDS for name, shares in world.mixes.items()}


def world_of(mix: str) -> World:
    """Return the world that a mixture belongs to; an unknown mixture raises a ConfigError."""
    for world in WORLDS:
        if mix in world.mixes:
            return world
    raise ConfigError(f"mix is {mix!r}", fix=f"Known mixes: {', '.join(ALL_MIXES)}")
