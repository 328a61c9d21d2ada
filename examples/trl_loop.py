"""SFT and GRPO with TRL's trainers, from the first step to a ranking, with nothing typed by hand.

1. Two SFT runs with `SFTTrainer`. `RegisterCheckpoints` puts every saved checkpoint in the registry
   with its recipe, its step, its base model and the trainer's held-out loss.
2. Each checkpoint is measured: pass@k on problems that no training has seen. This may as well run
   on another machine, because a checkpoint is found by the content of its folder.
3. GRPO with `GRPOTrainer` from two of the checkpoints. `RecordOutcome` links the score after RL to
   the SFT checkpoint that the run started from.
4. `rlready rank` orders the checkpoints by what is known now.

Everything is tiny, so that this runs on a CPU in less than a minute: the model has 0.2 M parameters
and comes with rlready. For your own run replace the model, the data and the settings.

    pip install 'rlready[train]'
    python examples/trl_loop.py [FOLDER]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from rlready.evaluators import load_tokenizer
from rlready.registry import MlflowStore
from rlready.testbed import shipped_base
from rlready.workflow import (
    Clock,
    EvaluateConfig,
    RecordOutcome,
    RegisterCheckpoints,
    evaluate_checkpoint,
)

Problem = tuple[str, str, str]
"""A question, its answer, and a solution."""


def problems(n: int, seed: int, n_terms: int) -> list[Problem]:
    """Return sums and products modulo ten, read from left to right."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        total = rng.randrange(10)
        question, steps = str(total), []
        for _ in range(n_terms - 1):
            sign, term = rng.choice("+-*"), rng.randrange(10)
            value = {"+": total + term, "-": total - term, "*": total * term}[sign] % 10
            steps.append(f"{total}{sign}{term}={value}")
            question, total = f"{question}{sign}{term}", value
        solution = "\n".join([*steps, f"\\boxed{{{total}}}"])
        made.append((f"Modulo ten, left to right: {question}", str(total), solution))
    return made


TRAIN, RL, HELD_OUT = problems(256, 1, 5), problems(64, 2, 5), problems(32, 3, 5)
COMMON = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "disable_tqdm": True,
    "logging_strategy": "no",
    "eval_strategy": "steps",
    "save_strategy": "steps",
}


def question(text: str) -> list[dict[str, str]]:
    """Return a chat with one question."""
    return [{"role": "user", "content": text}]


def chats(rows: Sequence[Problem]) -> Dataset:
    """Return the data of SFT."""
    turns = [[*question(q), {"role": "assistant", "content": s}] for q, _, s in rows]
    return Dataset.from_dict({"messages": turns})


def prompts(rows: Sequence[Problem]) -> Dataset:
    """Return the data of GRPO."""
    return Dataset.from_dict(
        {"prompt": [question(q) for q, _, _ in rows], "answer": [a for _, a, _ in rows]}
    )


def is_right(
    completions: Sequence[list[dict[str, str]]], answer: list[str], **_: object
) -> list[float]:
    """Return 1 for each completion with the right answer in a box, else 0."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(f"\\boxed{{{a}}}" in text) for text, a in zip(texts, answer, strict=True)]


def sft(folder: Path, learning_rate: float, store: MlflowStore) -> list[Path]:
    """Train on solutions, and return the saved checkpoints."""
    config = SFTConfig(
        output_dir=str(folder),
        max_steps=8,
        save_steps=4,
        eval_steps=4,
        learning_rate=learning_rate,
        per_device_train_batch_size=32,
        assistant_only_loss=True,
        **COMMON,
    )
    trainer = SFTTrainer(
        model=str(shipped_base()),
        args=config,
        processing_class=load_tokenizer(shipped_base()),
        train_dataset=chats(TRAIN),
        eval_dataset=chats(HELD_OUT),
        callbacks=[RegisterCheckpoints(store, recipe={"sources": {"chains": 1.0}})],
    )
    trainer.train()
    return sorted(folder.glob("checkpoint-*"))


def grpo(start: Path, folder: Path, store: MlflowStore) -> None:
    """Continue a checkpoint with RL, and record the score on held-out problems."""
    config = GRPOConfig(
        output_dir=str(folder),
        max_steps=6,
        save_steps=6,
        eval_steps=6,
        learning_rate=1e-3,
        num_generations=8,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        max_completion_length=48,
        **COMMON,
    )
    trainer = GRPOTrainer(
        model=str(start),
        args=config,
        processing_class=load_tokenizer(start),
        reward_funcs=is_right,
        train_dataset=prompts(RL),
        eval_dataset=prompts(HELD_OUT),
        callbacks=[RecordOutcome("eval_rewards/is_right/mean", benchmark="chains", store=store)],
    )
    trainer.train()


def main(folder: Path) -> None:
    """Run the loop in a folder."""
    store = MlflowStore(f"sqlite:///{folder / 'mlflow.db'}")
    rates = {"gentle": 3e-4, "harsh": 3e-2}
    checkpoints = {name: sft(folder / name, rate, store) for name, rate in rates.items()}

    rows = [{"problem": q, "answer": a} for q, a, _ in HELD_OUT]
    (folder / "chains.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "prompt.txt").write_text("{problem}")
    for path in (path for some in checkpoints.values() for path in some):
        config = EvaluateConfig(
            checkpoint=str(path),
            benchmarks=(f"chains={folder / 'chains.jsonl'}",),
            prompt_template=folder / "prompt.txt",
            samples=8,
            max_tokens=48,
            device="cpu",
            samples_dir=folder / "samples",
        )
        evaluate_checkpoint(config, store, Clock())

    for name, some in checkpoints.items():
        grpo(some[-1], folder / f"{name}-rl", store)

    rlready = str(Path(sys.executable).with_name("rlready"))
    subprocess.run([rlready, "list", "--tracking-uri", store.tracking_uri], check=True)
    subprocess.run([rlready, "rank", "--tracking-uri", store.tracking_uri], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
