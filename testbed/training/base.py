"""The base model: pretrained in one stage on noisy solutions of all skills; part of the package.

    python -m rlready.testbed.training.base --out FOLDER

creates the content of `testbed/base_model/` again: an ordinary checkpoint with float16
weights, under 1 MB, with settings, losses and the digest of the weights in `base.json`. It takes
about six minutes on one core. Other machines may round sums differently and so produce other
weights.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlready.evaluators.checkpoints.folder import load_tokenizer
from rlready.registry.digest import digest, file_sha256
from rlready.registry.errors import CheckpointError, RlreadyError
from rlready.registry.foreign_files import read_json_object
from rlready.testbed.folders import find_or_make
from rlready.testbed.training.model import ModelSize, build_model, save_checkpoint
from rlready.testbed.training.tokenizer import encode_pairs, world_tokenizer
from rlready.testbed.training.train import Examples, TrainSettings, train
from rlready.testbed.world.skills import draw_any
from rlready.testbed.world.solutions import solution

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE_VERSION = 1
"""Increases when the same settings give another base."""

SHIPPED = Path(__file__).parents[1] / "base_model"
MARK = "base.json"
WEIGHTS = "model.safetensors"

_LOSS_EVERY = 400  # steps; a reported loss is the mean of the last hundred

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
_STYLES: Mapping[str, float] = {"canonical": 0.2, "shuffled": 0.4, "terse": 0.25, "answer": 0.15}


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """How a base is pretrained; no example is repeated.

    `noise` is the share of solutions with a wrong step; `skills` (with variants) and `styles` are
    shares too. The seed is that of weights, examples and batches.
    """

    n_steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 4e-3
    noise: float = 0.12
    skills: Mapping[str, float] = field(default_factory=lambda: dict(_SKILLS))
    styles: Mapping[str, float] = field(default_factory=lambda: dict(_STYLES))
    size: ModelSize = ModelSize(width=96, n_layers=3, mlp_width=256)  # noqa: RUF009  # it is frozen
    seed: int = 0

    @property
    def digest(self) -> str:
        """Id of the settings."""
        return digest([BASE_VERSION, dataclasses.asdict(self)])


def corpus(settings: BaseSettings, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Return the training examples: problems of the training split, solved in all styles."""
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


def shipped_base() -> Path:
    """Return the folder of the shipped base, an ordinary checkpoint, after checking its weights.

    Raises:
        CheckpointError: if the weights are missing or differ from the shipped ones.

    Example:
        >>> shipped_base().name
        'base_model'
    """
    mark, weights = SHIPPED / MARK, SHIPPED / WEIGHTS
    report = read_json_object(mark, CheckpointError) if mark.is_file() else {}
    actual = file_sha256(weights) if weights.is_file() else None
    if actual is None or actual != report.get("weights_sha256"):
        raise CheckpointError(
            f"the testbed's base in {SHIPPED} is incomplete or was changed",
            why=f"the SHA-256 of {WEIGHTS} is {actual}, {report.get('weights_sha256')} was shipped",
            fix="Install rlready again, or make it with "
            f"python -m rlready.testbed.training.base --out {SHIPPED}",
        )
    return SHIPPED


def pretrain(
    settings: BaseSettings, folder: Path, on_step: Callable[[int, float], None] | None = None
) -> Path:
    """Pretrain a base in the folder, unless it holds the same base already; return the folder.

    `on_step` is called after each step with the number of steps done and the loss. A folder that
    holds anything else is not changed, and raises a ConfigError.
    """
    find_or_make(folder, MARK, settings.digest, lambda draft: _pretrain(settings, draft, on_step))
    return folder


def _pretrain(
    settings: BaseSettings, folder: Path, on_step: Callable[[int, float], None] | None
) -> dict[str, Any]:
    import torch

    begin = time.process_time()
    tokenizer = world_tokenizer()
    model = build_model(tokenizer, settings.size, seed=settings.seed)
    training = TrainSettings(
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=100,
        seed=settings.seed,
        n_bucketed=16,
    )
    losses = train(model, corpus(settings, tokenizer), training, on_step)
    cpu_seconds = time.process_time() - begin
    save_checkpoint(model.half(), tokenizer, folder)
    # Saved from a folder, as for every later checkpoint: transformers records that in a file that
    # is part of the checkpoint's id.
    load_tokenizer(folder).save_pretrained(folder)
    ends = range(_LOSS_EVERY, len(losses) + 1, _LOSS_EVERY)
    return {
        "version": BASE_VERSION,
        "settings": dataclasses.asdict(settings),
        "n_parameters": model.num_parameters(),
        "losses": {end: round(statistics.fmean(losses[end - 100 : end]), 4) for end in ends},
        "cpu_seconds": round(cpu_seconds, 1),
        "torch": torch.__version__,
        "weights_sha256": file_sha256(folder / WEIGHTS),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to create. It must not exist, be empty, or hold the same base.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=BaseSettings.n_steps, show_default=True
)
@click.option("--seed", default=0, show_default=True, help="Of weights, examples and batches.")
def main(*, out: Path, steps: int, seed: int) -> None:
    """Pretrain the testbed's base, about six minutes on one core."""

    def on_step(n_done: int, loss: float) -> None:
        if n_done % 100 == 0:
            click.echo(f"step {n_done} of {steps}, loss {loss:.3f} nats/token", err=True)

    try:
        click.echo(pretrain(BaseSettings(n_steps=steps, seed=seed), out, on_step))
    except RlreadyError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
