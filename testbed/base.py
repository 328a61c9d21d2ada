"""The base model: pretrained in one stage on noisy solutions of all skills, and shipped.

    python -m rlready.testbed.base --out testbed/base

makes the folder `base/` beside this module again: float16 weights under 1 MB, tokenizer, settings
and losses. `base_checkpoint` gives it as an ordinary float32 checkpoint and checks its digest.
A base for other settings takes a few minutes on one core.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.testbed.model import ModelSize, build_model
from rlready.testbed.skills import draw_any
from rlready.testbed.solutions import solution
from rlready.testbed.train import Examples, TrainSettings, train
from rlready.testbed.world_tokenizer import encode_pairs, world_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "base"
MARK = "base.json"

_SKILLS: Mapping[str, float] = {
    "chain_easy": 0.15,
    "chain_hard": 0.2,
    "count3": 0.15,
    "count4": 0.15,
    "add2": 0.1,
    "add3": 0.15,
    "chain_seven": 0.05,
    "chain_leftward": 0.05,
}
_STYLES: Mapping[str, float] = {"canonical": 0.15, "shuffled": 0.4, "terse": 0.25, "answer": 0.2}


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """How a base is pretrained.

    Args:
        n_steps: optimizer steps, no example twice.
        batch_size: examples a step.
        learning_rate: peak.
        noise: share of the solutions with a wrong step.
        skills: shares of the skills and variants.
        styles: shares of the styles.
        size: of the model.
        seed: of weights, examples and batches.
    """

    n_steps: int = 3600
    batch_size: int = 64
    learning_rate: float = 5e-3
    noise: float = 0.15
    skills: Mapping[str, float] = field(default_factory=lambda: dict(_SKILLS))
    styles: Mapping[str, float] = field(default_factory=lambda: dict(_STYLES))
    size: ModelSize = field(default_factory=ModelSize)
    seed: int = 0

    @property
    def digest(self) -> str:
        """Id of the settings."""
        return digest(dataclasses.asdict(self))

    @property
    def training(self) -> TrainSettings:
        """How the model is trained."""
        return TrainSettings(
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=100,
            seed=self.seed,
            n_bucketed=16,
        )


def corpus(settings: BaseSettings, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """The training examples: problems of the training split, solved in all styles."""
    rng = random.Random(f"base/{settings.seed}")
    n = settings.n_steps * settings.batch_size
    skills = rng.choices(list(settings.skills), list(settings.skills.values()), k=n)
    styles: list[Any] = rng.choices(list(settings.styles), list(settings.styles.values()), k=n)
    pairs = []
    for skill, style in zip(skills, styles, strict=True):
        puzzle = draw_any(skill, "train", rng)
        is_wrong = rng.random() < settings.noise
        pairs.append((puzzle.text, solution(puzzle, style, rng, is_wrong=is_wrong)))
    return encode_pairs(tokenizer, pairs)
