"""The design of a testbed run, written to OUT/design.json before anything runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rlready.registry.digest import digest, fingerprint
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import parse_json
from rlready.testbed.study.recipes import choose_recipes, drawn_recipes
from rlready.testbed.study.unit import MEASURE_VERSION, Profile
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.grpo import GRPO_VERSION, GrpoSettings
from rlready.testbed.training.sft import SFT_VERSION, SftRecipe
from rlready.testbed.world.worlds import FIRST

BASE = "base"
"""Name of the unit that measures the base model."""

PROFILES: Mapping[str, Profile] = {
    "smoke": Profile(
        n_recipes=3,
        n_problems=5,
        n_samples=16,
        n_heldout=12,
        rl_seeds=(0,),
        grpo=GrpoSettings(
            n_steps=8, n_prompts=10, group_size=8, budgets=(0, 4, 8), n_eval_problems=5
        ),
    ),
    "small": Profile(n_recipes=12, n_problems=34, n_samples=64, n_heldout=60, rl_seeds=(0,)),
    "full": Profile(n_recipes=48, n_problems=34, n_samples=64, n_heldout=100, rl_seeds=(0, 1)),
    "long": Profile(
        n_recipes=24,
        n_problems=34,
        n_samples=64,
        n_heldout=100,
        rl_seeds=(0,),
        grpo=GrpoSettings(n_steps=240, budgets=(0, 30, 60, 120, 240)),
    ),
    "headroom": Profile(
        n_recipes=48,
        n_problems=20,
        n_samples=64,
        n_heldout=100,
        rl_seeds=(0, 1),
        grpo=GrpoSettings(mix="headroom", pool_size=256, n_prompts=16, n_eval_problems=64),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Design:
    """The recipes of a run, how they are measured, and by how many workers.

    Args:
        profile_name: a key of `PROFILES`.
        seed: of the choice of recipes.
        n_workers: processes that share the units.
        profile: sizes of the run.
        recipes: in the order of the design.
        versions: of the base, the code and the libraries that determine the numbers.
    """

    profile_name: str
    seed: int
    n_workers: int
    profile: Profile
    recipes: tuple[SftRecipe, ...]
    versions: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Digest of everything that determines the results; the number of workers does not."""
        recipes = [recipe.id for recipe in self.recipes]
        profile = dataclasses.asdict(self.profile)
        return digest([profile, recipes, self.seed, dict(self.versions)])


def make_design(profile_name: str, seed: int, n_workers: int) -> Design:
    """Return the design of a profile; raise ConfigError if there is no such profile."""
    if profile_name not in PROFILES:
        raise ConfigError(
            f"unknown profile {profile_name!r}", fix=f"Known profiles: {', '.join(PROFILES)}"
        )
    profile = PROFILES[profile_name]
    if profile.world == FIRST:
        recipes = choose_recipes(profile.n_recipes, seed)
    else:
        recipes = drawn_recipes(profile.n_recipes, profile.world)
    return Design(
        profile_name=profile_name,
        seed=seed,
        n_workers=n_workers,
        profile=profile,
        recipes=tuple(recipes),
        versions={
            "base": fingerprint(shipped_base()),
            "sft": SFT_VERSION,
            "grpo": GRPO_VERSION,
            "measure": MEASURE_VERSION,
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
    )


def write_design(out: Path, design: Design) -> None:
    """Write the design; raise ConfigError if the folder holds another run."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / "design.json").is_file():
        present = read_design(out)
        if present.key != design.key:
            raise ConfigError(
                f"{out} holds another run (profile {present.profile_name}, seed {present.seed}, "
                f"{dict(present.versions)})",
                fix="Name another --out, or remove the folder",
            )
    temporary = out / ".design.json"
    text = json.dumps(dataclasses.asdict(design), indent=1)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(out / "design.json")


def read_design(out: Path) -> Design:
    """Read the design of a run; raise ConfigError if the folder has none."""
    try:
        values = parse_json((out / "design.json").read_text(encoding="utf-8"))
        return TypeAdapter(Design).validate_python(values)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{out} holds no design of a testbed run", why=str(error), fix="Start it again"
        ) from error
