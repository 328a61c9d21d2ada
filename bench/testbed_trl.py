"""Claim: the testbed's own SFT and GRPO do what TRL's trainers do, and cost less on a tiny model.

Both begin from the shipped base and see the same data in the same order, with the same optimizer,
schedule and clipping, on one thread:

- SFT: `train` against `SFTTrainer`. The losses of all steps should be equal but for rounding.
- GRPO: `grpo` against `GRPOTrainer` with its defaults for a loss without KL. Each samples with its
  own engine and random numbers, so the curves of the mean reward should agree within the spread
  that seeds have. TRL divides by the standard deviation with n - 1 and counts the tokens of groups
  without signal in its mean, which scales a step's gradient by one factor; Adam hardly notices.

Needs TRL: `pip install -e '.[train]'`; without it the script says so and ends.

    python bench/testbed_trl.py [--quick] [--json]
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.grpo import GrpoSettings, grpo, prompts_of_steps
from rlready.testbed.training.sft import SftRecipe, examples_of
from rlready.testbed.training.tokenizer import encode_pairs
from rlready.testbed.training.train import TrainSettings, batches, one_thread, train
from rlready.testbed.world.measure import MAX_TOKENS, load
from rlready.testbed.world.puzzles import reward

LAST_STEPS = 10
"""Of a reward curve, compared as a mean."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trainer's curve, one number a step, and the CPU seconds of its training loop."""

    curve: tuple[float, ...]
    cpu_seconds: float

    @property
    def end(self) -> float:
        """Mean of the last steps."""
        return statistics.fmean(self.curve[-LAST_STEPS:])


def our_sft(recipe: SftRecipe, settings: TrainSettings) -> Run:
    model, tokenizer = load(shipped_base())
    begin = time.process_time()
    losses = train(model, encode_pairs(tokenizer, examples_of(recipe)), settings)
    return Run(curve=tuple(losses), cpu_seconds=time.process_time() - begin)


def trl_sft(recipe: SftRecipe, settings: TrainSettings, folder: Path) -> Run:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load(shipped_base())
    examples = examples_of(recipe)
    lengths = encode_pairs(tokenizer, examples).lengths
    order = torch.cat(list(itertools.islice(batches(lengths, settings), settings.n_steps)))
    rows = [
        [_message("user", question), _message("assistant", response)]
        for question, response in (examples[i] for i in order.tolist())
    ]
    config = SFTConfig(
        assistant_only_loss=True,
        max_length=None,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=settings.batch_size,
        **_common(folder, settings.n_steps),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"messages": rows}),
        optimizers=(optimizer, _schedule(optimizer, settings)),
    )
    return _trained(trainer, "loss")


def our_grpo(settings: GrpoSettings, folder: Path) -> Run:
    result = grpo(shipped_base(), settings, folder)
    return Run(curve=result.rewards, cpu_seconds=sum(result.cpu_seconds.values()))


def trl_grpo(settings: GrpoSettings, folder: Path) -> Run:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = load(shipped_base())
    items = [
        item
        for some in itertools.islice(prompts_of_steps(settings), settings.n_steps)
        for item in some
    ]
    puzzles = {item.id: item.puzzle for item in items}

    def is_right(completions: Sequence[Any], problem: Sequence[str], **_: Any) -> list[float]:
        pairs = zip(problem, completions, strict=True)
        return [float(reward(puzzles[key], some[0]["content"])) for key, some in pairs]

    config = GRPOConfig(
        num_generations=settings.group_size,
        max_completion_length=MAX_TOKENS,
        temperature=1.0,
        beta=0.0,
        epsilon=settings.clip,
        shuffle_dataset=False,
        per_device_train_batch_size=settings.n_prompts * settings.group_size,
        seed=settings.seed,
        **_common(folder, settings.n_steps),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    trainer = GRPOTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        reward_funcs=is_right,
        train_dataset=Dataset.from_dict(
            {
                "prompt": [[_message("user", item.puzzle.text)] for item in items],
                "problem": [item.id for item in items],
            }
        ),
        optimizers=(optimizer, _schedule(optimizer, settings)),
    )
    return _trained(trainer, "reward")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _common(folder: Path, n_steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": n_steps,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def _schedule(optimizer: Any, settings: TrainSettings | GrpoSettings) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate_share)


def _trained(trainer: Any, key: str) -> Run:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with one_thread():
        begin = time.process_time()
        trainer.train()
        cpu_seconds = time.process_time() - begin
    curve = [entry[key] for entry in trainer.state.log_history if key in entry]
    return Run(curve=tuple(map(float, curve)), cpu_seconds=cpu_seconds)


def compare(n_sft_steps: int, n_grpo_steps: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Curves and costs of both, and how far they are apart."""
    recipe = SftRecipe(budget=64 * n_sft_steps, n_unique=64 * n_sft_steps, noise=0.3)
    training = TrainSettings(n_steps=n_sft_steps, batch_size=64, learning_rate=2e-3, warmup_steps=5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        own, theirs = our_sft(recipe, training), trl_sft(recipe, training, folder / "sft")
        runs: dict[str, list[Run]] = {"rlready": [], "TRL": []}
        for seed in seeds:
            settings = GrpoSettings(n_steps=n_grpo_steps, budgets=(), seed=seed)
            runs["rlready"].append(our_grpo(settings, folder / f"own-{seed}"))
            runs["TRL"].append(trl_grpo(settings, folder / f"trl-{seed}"))
    figures: dict[str, Any] = {
        "sft": {
            "n_steps": n_sft_steps,
            "largest_difference_of_losses": max(
                abs(a - b) for a, b in zip(own.curve, theirs.curve, strict=True)
            ),
            "first_and_last_loss": [own.curve[0], own.curve[-1]],
            "cpu_s_per_step": {
                "rlready": own.cpu_seconds / n_sft_steps,
                "TRL": theirs.cpu_seconds / n_sft_steps,
            },
            "ratio": theirs.cpu_seconds / own.cpu_seconds,
        },
        "grpo": {
            "n_steps": n_grpo_steps,
            "first_reward": {name: [r.curve[0] for r in some] for name, some in runs.items()},
            f"mean_reward_of_last_{LAST_STEPS}": {
                name: [run.end for run in some] for name, some in runs.items()
            },
            "cpu_s_per_step": {
                name: statistics.fmean(run.cpu_seconds for run in some) / n_grpo_steps
                for name, some in runs.items()
            },
        },
    }
    costs = figures["grpo"]["cpu_s_per_step"]
    figures["grpo"]["ratio"] = costs["TRL"] / costs["rlready"]
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="Fewer steps, one seed.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON only.")
def main(quick: bool, as_json: bool) -> None:
    """Compare the testbed's training with TRL's."""
    if importlib.util.find_spec("trl") is None:
        click.echo(json.dumps({"bench": "testbed_trl", "skipped": "TRL is not installed"}))
        return
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    figures = compare(10, 10, (0,)) if quick else compare(25, 60, (0, 1, 2))
    if not as_json:
        for name, rows in figures.items():
            click.echo(name)
            for key, value in rows.items():
                click.echo(f"  {key}: {value}")
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    machine = platform.processor() or platform.machine()
    click.echo(
        json.dumps({"bench": "testbed_trl", "machine": machine, "versions": versions, **figures})
    )


if __name__ == "__main__":
    main()
