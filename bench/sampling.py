"""Claim: the `hf` engine draws 64 samples a problem at least 3x as fast as plain `model.generate`.

Same checkpoint, same problems, same protocol, in one run, on one thread:

- `rlready`: `HfSampler.draw` over all problems.
- `generate per prompt`: for each problem one `model.generate(..., num_return_sequences=64)`.
- `generate per sample`: one `model.generate` for each sample, on a part of the problems.

A sample counts from its first token to its end token; padding behind it does not. Beside the
testbed's base, whose answers are short, a model with random weights draws long texts whose
lengths vary as much as those of a reasoning model do (an end token at every step with the same
chance).

    python bench/sampling.py [--quick] [--json] [--checkpoint DIR --benchmark FILE]
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from rlready.evaluators.benchmarks.problems import load_benchmark, parse_benchmark_option
from rlready.evaluators.benchmarks.prompts import encode, render
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw
from rlready.registry.records import Problem, Protocol
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.model import build_model
from rlready.testbed.training.tokenizer import world_tokenizer
from rlready.testbed.world.benchmarks import write_benchmarks

N_SAMPLES = 64
MEAN_LENGTH = 48


def measure(run: Callable[[], tuple[int, int]], repeats: int) -> dict[str, float]:
    """Samples and tokens per second of the fastest repeat, of CPU time and of wall time."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        n_samples, n_tokens = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if not best or cpu < best["cpu_s"]:
            best = {"cpu_s": cpu, "wall_s": wall, "samples_per_cpu_s": n_samples / cpu,
                    "tokens_per_cpu_s": n_tokens / cpu}  # fmt: skip
    return best


def ours(model: Any, tokenizer: Any, problems: Sequence[Problem], protocol: Protocol) -> Any:
    def run() -> tuple[int, int]:
        draws = [Draw(problem=p, sample_indices=tuple(range(N_SAMPLES))) for p in problems]
        parts = HfSampler(model, tokenizer).draw(draws, protocol)
        lengths = [sample.n_tokens for part in parts for sample in part]
        return len(lengths), sum(lengths)

    return run


def plain(
    model: Any, tokenizer: Any, problems: Sequence[Problem], protocol: Protocol, at_once: int
) -> Any:
    def run() -> tuple[int, int]:
        n_tokens = 0
        for problem in problems:
            text = render(tokenizer, protocol.prompt_template, problem.text)
            prompt = torch.tensor([encode(tokenizer, text)])
            for _ in range(N_SAMPLES // at_once):
                with torch.inference_mode():
                    ids = model.generate(
                        prompt,
                        attention_mask=torch.ones_like(prompt),
                        do_sample=True,
                        temperature=1.0,
                        top_k=0,
                        top_p=1.0,
                        num_return_sequences=at_once,
                        max_new_tokens=protocol.max_tokens,
                        pad_token_id=tokenizer.pad_token_id,
                    )
                n_tokens += useful_tokens(ids[:, prompt.shape[1] :], tokenizer.eos_token_id)
        return len(problems) * N_SAMPLES, n_tokens

    return run


def useful_tokens(ids: torch.Tensor, end: int) -> int:
    is_end = ids == end
    first = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, ids.shape[1])
    return int(first.sum())


def varied_model() -> tuple[Any, Any]:
    """Random weights, with the end token as likely at every step as gives MEAN_LENGTH tokens."""
    tokenizer = world_tokenizer()
    model = build_model(tokenizer, seed=0)
    end = tokenizer.eos_token_id

    def push(module: Any, args: Any, output: Any) -> None:
        others = output.logits.logsumexp(-1)
        output.logits[..., end] = others - torch.log(torch.tensor(MEAN_LENGTH - 1.0))

    model.register_forward_hook(push)
    return model, tokenizer


def compare(
    model: Any, tokenizer: Any, problems: Sequence[Problem], max_tokens: int, repeats: int
) -> dict[str, Any]:
    protocol = Protocol(prompt_template="{problem}", max_tokens=max_tokens)
    few = problems[: max(1, len(problems) // 16)]
    ours(model, tokenizer, few, protocol)()
    figures: dict[str, Any] = {
        "rlready": measure(ours(model, tokenizer, problems, protocol), repeats),
        "generate per prompt": measure(
            plain(model, tokenizer, problems, protocol, N_SAMPLES), repeats
        ),
        "generate per sample": measure(plain(model, tokenizer, few, protocol, 1), 1),
    }
    own = figures["rlready"]["tokens_per_cpu_s"]
    for name in ("generate per prompt", "generate per sample"):
        figures[f"ratio to {name}"] = own / figures[name]["tokens_per_cpu_s"]
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="Fewer problems.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON only.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="In place of the base.")
@click.option("--benchmark", type=click.Path(path_type=Path), help="Its problems.")
def main(quick: bool, as_json: bool, checkpoint: Path | None, benchmark: Path | None) -> None:
    """Compare the engine with plain generate loops."""
    torch.set_num_threads(1)
    n_problems, repeats = (16, 1) if quick else (64, 3)
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint is None or benchmark is None:
            write_benchmarks(Path(folder), n_problems)
            checkpoint, benchmark = shipped_base(), Path(folder) / "before" / "chain_hard.jsonl"
        loaded = load_benchmark(parse_benchmark_option(str(benchmark)))
        problems = loaded.problems[:n_problems]
        model = load_model(checkpoint, "cpu", torch.float32)
        tokenizer = load_tokenizer(checkpoint)
        figures = {
            "short answers": compare(model, tokenizer, problems, 96, repeats),
            "varied lengths": compare(*varied_model(), problems, 256, repeats),
        }
    result = {
        "bench": "sampling",
        "n_problems": len(problems),
        "n_samples": N_SAMPLES,
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        **figures,
    }
    if not as_json:
        for workload, rows in figures.items():
            click.echo(f"{workload}: {len(problems)} problems x {N_SAMPLES} samples, one thread")
            for name, row in rows.items():
                shown = f"{row:.2f}x" if isinstance(row, float) else (
                    f"{row['tokens_per_cpu_s']:,.0f} tokens/cpu-s, "
                    f"{row['samples_per_cpu_s']:,.0f} samples/cpu-s")  # fmt: skip
                click.echo(f"  {name}: {shown}")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
