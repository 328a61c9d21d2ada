"""Short runs of TRL's trainers on the testbed's tiny model, for tests of callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from rlready.testbed.world.measure import load


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


PAIRS = [
    (f"Modulo ten, left to right: {i}+{i + 1}", f"\\boxed{{{(2 * i + 1) % 10}}}") for i in range(8)
]


def _common(folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "save_steps": 2,
        "eval_steps": 2,
        "eval_strategy": "steps",
        "learning_rate": 1e-3,
        **settings,
    }


def sft_trainer(
    start: Path, folder: Path, callbacks: Sequence[Any], n_steps: int = 4, **settings: Any
) -> Any:
    """A trainer of 4 steps that saves and evaluates every second one."""
    model, tokenizer = load(start)
    rows = [[_message("user", q), _message("assistant", a)] for q, a in PAIRS]
    config = SFTConfig(
        assistant_only_loss=True,
        per_device_train_batch_size=2,
        **_common(folder, max_steps=n_steps, **settings),
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"messages": rows}),
        eval_dataset=Dataset.from_dict({"messages": rows[:4]}),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def is_right(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """Whether each completion ends in its answer."""
    return [float(a in some[0]["content"]) for some, a in zip(completions, answer, strict=True)]


def grpo_trainer(
    start: Path, folder: Path, callbacks: Sequence[Any], n_steps: int = 4, **settings: Any
) -> Any:
    """A GRPO trainer of 4 steps in groups of 4, with held-out prompts."""
    model, tokenizer = load(start)
    prompts = {
        "prompt": [[_message("user", question)] for question, _ in PAIRS],
        "answer": [answer for _, answer in PAIRS],
    }
    config = GRPOConfig(
        num_generations=4,
        max_completion_length=24,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        **_common(folder, max_steps=n_steps, **settings),
    )
    trainer = GRPOTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        reward_funcs=is_right,
        train_dataset=Dataset.from_dict(prompts),
        eval_dataset=Dataset.from_dict(prompts),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
