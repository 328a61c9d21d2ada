"""Supervised fine-tuning of the base on a recipe's data.

On one machine the same base, recipe and seed give the same losses bit for bit.
"""

from __future__ import annotations

import dataclasses
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.registry.digest import digest, fingerprint
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.testbed.folders import find_or_make
from rlready.testbed.measure import load
from rlready.testbed.model import save_checkpoint
from rlready.testbed.skills import MIXES, draw_mixture
from rlready.testbed.solutions import STYLES, Style, solution
from rlready.testbed.tokenizer import encode_pairs
from rlready.testbed.train import SCHEDULE, TrainSettings, train

SFT_VERSION = 1
"""Rises when the same recipe gives another checkpoint."""

BATCH_SIZE = 64
_WARMUP_STEPS = 10
MARK = "sft.json"


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """What is varied between SFT runs.

    Args:
        budget: examples seen, repetitions included.
        n_unique: different examples; budget / n_unique is the number of epochs.
        style: how the solutions are written.
        noise: share of the examples with a wrong step; which ones they are stays the same in
            every epoch.
        mix: a key of `MIXES`, or the shares of the skills.
        learning_rate: peak of the schedule.
        seed: of the examples and of their order.
    """

    budget: int = 6400
    n_unique: int = 6400
    style: Style = "canonical"
    noise: float = 0.0
    mix: str = "mixed"
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n_unique <= self.budget:
            raise ConfigError(
                f"n_unique is {self.n_unique} with a budget of {self.budget} examples",
                fix="Give at least 1 and at most the budget",
            )
        if not 0.0 <= self.noise <= 1.0 or not self.learning_rate > 0.0:
            raise ConfigError(
                f"noise is {self.noise} and the learning rate {self.learning_rate}",
                fix="Give a noise in [0, 1] and a positive rate",
            )
        if self.style not in STYLES or self.mix not in MIXES:
            raise ConfigError(
                f"style is {self.style!r} and mix {self.mix!r}",
                fix=f"Known styles: {', '.join(STYLES)}; mixes: {', '.join(MIXES)}",
            )

    @property
    def id(self) -> str:
        """All axes in one readable word, which names folders and runs."""
        return (
            f"b{self.budget}-u{self.n_unique}-{self.style}-n{self.noise:g}-{self.mix}"
            f"-r{self.learning_rate:g}-s{self.seed}"
        )

    @property
    def n_steps(self) -> int:
        """Optimizer steps."""
        return max(1, round(self.budget / BATCH_SIZE))

    def record(self, base_model: str, base_revision: str | None = None) -> Recipe:
        """The recipe as the registry keeps it."""
        return Recipe(
            base_model=base_model,
            base_revision=base_revision,
            sources=MIXES[self.mix],
            n_unique=self.n_unique,
            epochs=self.budget / self.n_unique,
            learning_rate=self.learning_rate,
            schedule=SCHEDULE,
            batch_size=BATCH_SIZE,
            loss_weighting="none",
            seed=self.seed,
            extra={
                "budget": self.budget,
                "style": self.style,
                "noise": self.noise,
                "mix": self.mix,
                "warmup_steps": _WARMUP_STEPS,
            },
        )


@dataclass(frozen=True, kw_only=True)
class SftResult:
    """An SFT checkpoint.

    Args:
        folder: the checkpoint, with `sft.json` in it.
        losses: of every step, nats a response token.
        cpu_seconds: what it cost; of the first time, if it was found.
        is_new: whether this call made it.
    """

    folder: Path
    losses: tuple[float, ...]
    cpu_seconds: float
    is_new: bool


def examples_of(recipe: SftRecipe) -> list[tuple[str, str]]:
    """The recipe's different examples: questions with the responses to learn."""
    rng = random.Random(f"sft/{recipe.seed}")
    puzzles = draw_mixture(MIXES[recipe.mix], "train", recipe.n_unique, recipe.seed)
    n_wrong = round(recipe.noise * recipe.n_unique)
    wrong = set(rng.sample(range(recipe.n_unique), n_wrong))
    return [
        (puzzle.text, solution(puzzle, recipe.style, rng, is_wrong=i in wrong))
        for i, (_, puzzle) in enumerate(puzzles)
    ]


def sft(base: Path, recipe: SftRecipe, folder: Path) -> SftResult:
    """The checkpoint that the recipe gives, made now if it is not there.

    Args:
        base: folder of the checkpoint to begin from.
        recipe: what is trained on, and how.
        folder: does not exist, is empty, or holds this very result.

    Raises:
        ConfigError: if the folder holds anything else. Nothing is changed.
    """
    key = digest([SFT_VERSION, fingerprint(base), dataclasses.asdict(recipe)])
    report, is_new = find_or_make(folder, MARK, key, lambda draft: _train(base, recipe, draft))
    return SftResult(
        folder=folder,
        losses=tuple(report["losses"]),
        cpu_seconds=report["cpu_seconds"],
        is_new=is_new,
    )


def _train(base: Path, recipe: SftRecipe, folder: Path) -> dict[str, Any]:
    begin = time.process_time()
    model, tokenizer = load(base)
    settings = TrainSettings(
        n_steps=recipe.n_steps,
        batch_size=BATCH_SIZE,
        learning_rate=recipe.learning_rate,
        warmup_steps=_WARMUP_STEPS,
        seed=recipe.seed,
        n_bucketed=4,
    )
    losses = train(model, encode_pairs(tokenizer, examples_of(recipe)), settings)
    save_checkpoint(model, tokenizer, folder)
    return {
        "recipe": dataclasses.asdict(recipe),
        "cpu_seconds": round(time.process_time() - begin, 2),
        "losses": losses,
    }
