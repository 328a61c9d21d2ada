"""Claim: held-out loss at 150,000 tokens needs 1/5 of naive's peak memory, at twice its speed.

Naive is what evaluation scripts do: batches of eight padded examples in file order, full logits in
float32, one cross-entropy over them. Both ways score the same ragged examples under the same random
Qwen3-shaped model, each in a process of its own, so that peak memory can be compared. Memory is
counted above the loaded model; speed in tokens of the examples (no padding) per second of processor
time, one thread, with the check that chooses how to pack. Losses must agree to 1e-4 relative.

    python bench/heldout.py --quick            # about a minute
    python bench/heldout.py --json             # all of it, for machines
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.evaluators.heldout.loss import example_losses
from rlready.evaluators.heldout.tokens import TokenizedExample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 151_936
NAIVE_BATCH = 8
WAYS = ("ours", "naive")
MEMORY_TO_REACH = 1 / 5
SPEED_TO_REACH = 2.0
AGREEMENT = 1e-4


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a measurement is."""

    hidden: int
    layers: int
    n_examples: int
    longest: int


FULL = Size(hidden=256, layers=8, n_examples=48, longest=800)
QUICK = Size(hidden=256, layers=4, n_examples=16, longest=400)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way's numbers; memory is the peak above the loaded model."""

    way: str
    nll: float
    n_tokens: int
    cpu_seconds: float
    peak_mb: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the examples, without padding, per second of processor time."""
        return self.n_tokens / self.cpu_seconds


def examples(size: Size) -> list[TokenizedExample]:
    """Ragged lengths (log-normal, as of solutions); the first quarter of each is the prompt."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(size.longest / 4), 0.8, size.n_examples))
    made = []
    for i, n in enumerate(lengths.clip(8, size.longest).astype(int)):
        ids = rng.integers(0, VOCABULARY, n)
        made.append(TokenizedExample(f"e{i}", ids, np.arange(n) >= max(1, n // 4), 4 * int(n)))
    return made


def build(size: Size) -> PreTrainedModel:
    """A random model whose vocabulary outweighs its body, as in small models of real families."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 32,
        num_key_value_heads=size.hidden // 64,
        head_dim=32,
        tie_word_embeddings=True,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def naive_nll(model: PreTrainedModel, made: Sequence[TokenizedExample]) -> float:
    """Token mean from padded batches and full logits."""
    import torch

    total, n_scored = 0.0, 0
    for first in range(0, len(made), NAIVE_BATCH):
        batch = made[first : first + NAIVE_BATCH]
        width = max(len(e.token_ids) for e in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, e in enumerate(batch):
            n = len(e.token_ids)
            ids[row, :n], mask[row, :n] = torch.from_numpy(e.token_ids), 1
            labels[row, :n] = torch.from_numpy(np.where(e.is_response, e.token_ids, -100))
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
            total += torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            ).item()
        n_scored += int((labels[:, 1:] != -100).sum())
    return total / n_scored


def our_nll(model: PreTrainedModel, made: Sequence[TokenizedExample]) -> float:
    """Token mean as `heldout_nll` takes it."""
    losses = example_losses(model, made)
    return sum(loss.nll_sum for loss in losses) / sum(loss.n_tokens for loss in losses)


def measure(way: str, size: Size) -> Measured:
    """Time and peak memory of one way, in this process."""
    made, model = examples(size), build(size)
    score = our_nll if way == "ours" else naive_nll
    score(model, made[:1])  # Threads, kernels and lazy imports are no part of either way.
    loaded = memory_mb("VmRSS")
    start = time.process_time()
    nll = score(model, made)
    cpu_seconds = time.process_time() - start
    return Measured(
        way=way,
        nll=nll,
        n_tokens=sum(len(e.token_ids) for e in made),
        cpu_seconds=cpu_seconds,
        peak_mb=memory_mb("VmHWM") - loaded,
    )


def memory_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (peak) of this process.

    Not `ru_maxrss`, which starts at the parent's peak.
    """
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field)]
    return int(line.split()[1]) / 1024


def measure_apart(way: str, *, quick: bool) -> Measured:
    """The same in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--way", way, *(["--quick"] if quick else [])]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return Measured(**json.loads(done.stdout))


def compare(ours: Measured, naive: Measured) -> dict[str, Any]:
    """Both measurements, the ratios and whether they reach what was set."""
    memory = ours.peak_mb / naive.peak_mb
    speed = ours.tokens_per_second / naive.tokens_per_second
    difference = abs(ours.nll - naive.nll) / naive.nll
    return {
        "ours": {**asdict(ours), "tokens_per_second": ours.tokens_per_second},
        "naive": {**asdict(naive), "tokens_per_second": naive.tokens_per_second},
        "memory_ratio": memory,
        "speed_ratio": speed,
        "relative_difference": difference,
        "is_reached": memory <= MEMORY_TO_REACH
        and speed >= SPEED_TO_REACH
        and difference <= AGREEMENT,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small version")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(asdict(measure(options.way, QUICK if options.quick else FULL))))
        return 0
    result = compare(*(measure_apart(way, quick=options.quick) for way in WAYS))
    for way in WAYS:
        row = result[way]
        speed, memory = f"{row['tokens_per_second']:.0f}", f"{row['peak_mb']:.0f}"
        print(f"{way}: {speed} tokens/cpu-s, {memory} MB above the model, {row['nll']:.6f} nats")
    print(
        f"speed {result['speed_ratio']:.1f}x (reach {SPEED_TO_REACH}), memory 1/"
        f"{1 / result['memory_ratio']:.1f} (reach 1/{1 / MEMORY_TO_REACH:.0f}), relative "
        f"difference {result['relative_difference']:.1e}"
    )
    if options.json:
        print(json.dumps(result))
    return 0 if result["is_reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
