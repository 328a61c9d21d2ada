"""Claim: on a GPU the loss forward reaches at least 40 % of the chip's matrix peak.

One command of under 8 minutes on an H200, for models with random bfloat16 weights in the shapes of
Qwen2.5 0.5B and 7B, made on the spot:

- `sampling`: tokens per second of the hf engine, and the peak of memory.
- `loss`: tokens per second of `token_losses`, and the share of the chip's bfloat16 matrix peak that
  the useful multiplications make up: 2 per weight and token in the body, 2 per weight of the head
  and scored token, 2 n^2 x width per layer for causal attention in an example of n tokens. It is
  given for rows of 4,096 tokens (the default), 8,192 and 16,384; the claim is about the default
  at 7B.
- `agreement`: losses on the GPU against float32 on the CPU, in float32 (mean deviation of a token
  as a share of 1 + NLL below 1e-4) and in bfloat16 (below 3e-2, as `token_nll.py` allows).
- `weights`: time of the weight-space proxies of a 1B shape, for whole weights and for an adapter.
- `tests`: `pytest -m gpu`.

The peak is the vendor's dense figure, where the chip is known, and a measured product of two large
matrices beside it. A part that fails or finds no time left says so, and the others go on. Without a
GPU nothing is run, except with `--dry-run`, which runs every part on the CPU with a tiny shape.

    python bench/gpu.py [--dry-run] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

GOAL_SHARE = 0.4
BUDGET_S = 450.0
TESTS_S = 120
ROOT = Path(__file__).parents[1]
GPU_TESTS = ("tests/evaluators/test_gpu.py", "tests/evaluators/test_hf_engine.py")
VENDOR_TFLOPS = {"H200": 989.4, "H100": 989.4, "A100": 311.9}
"""Dense bfloat16 peaks of the SXM modules, from NVIDIA's data sheets."""

ROWS = (4096, 8192, 16384)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a Qwen2 model, and the sizes of its jobs."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    is_tied: bool
    n_samples: int
    max_tokens: int
    n_examples: int
    example_tokens: int

    def model(self, device: str, dtype: Any, spread: float = 0.02) -> Any:
        """Return a model with random weights in evaluation mode."""
        import torch
        from transformers import AutoModelForCausalLM, Qwen2Config

        config = Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=32768,
            tie_word_embeddings=self.is_tied,
            initializer_range=spread,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        torch.manual_seed(0)
        with torch.device(device):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return model.eval()

    def useful_flops(self, model: Any, n_scored: int) -> float:
        """Return the multiplications and additions of the loss of all examples."""
        head = self.vocabulary * self.hidden
        body = sum(p.numel() for p in model.parameters()) - head * (1 if self.is_tied else 2)
        n_tokens = self.n_examples * self.example_tokens
        attention = 2 * self.layers * self.hidden * self.n_examples * self.example_tokens**2
        return float(2 * body * n_tokens + 2 * head * n_scored + attention)


SHAPES = {
    "0.5B": Shape(
        hidden=896, layers=24, heads=14, kv_heads=2, mlp=4864, vocabulary=151_936, is_tied=True,
        n_samples=1024, max_tokens=128, n_examples=512, example_tokens=1024,
    ),
    "7B": Shape(
        hidden=3584, layers=28, heads=28, kv_heads=4, mlp=18_944, vocabulary=152_064, is_tied=False,
        n_samples=1024, max_tokens=128, n_examples=256, example_tokens=1024,
    ),
}  # fmt: skip
WEIGHTS_SHAPE = replace(SHAPES["0.5B"], hidden=1536, layers=20, heads=12, mlp=8960)
"""1.2B parameters."""

TINY = Shape(
    hidden=64, layers=2, heads=2, kv_heads=1, mlp=96, vocabulary=320, is_tied=False,
    n_samples=8, max_tokens=4, n_examples=6, example_tokens=24,
)  # fmt: skip


class Run:
    """The parts of one run, each with its result or the reason why there is none."""

    def __init__(self, device: str, is_dry: bool) -> None:
        self.device, self.is_dry = device, is_dry
        self.begin = time.perf_counter()
        self.parts: dict[str, Any] = {}

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return BUDGET_S - (time.perf_counter() - self.begin)

    def part(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Run one part."""
        if self.left_s < 30.0:
            self.parts[name] = {"not_run": f"{self.left_s:.0f} s were left"}
            return
        begin = time.perf_counter()
        try:
            result = measure()
        except Exception as error:  # the other parts are worth having
            result = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        self.parts[name] = {**result, "part_s": round(time.perf_counter() - begin, 1)}
        free(self.device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="every part on the CPU, tiny")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--quick", action="store_true", help="the 0.5B shape only")
    arguments = parser.parse_args()
    import torch

    if not arguments.dry_run and not torch.cuda.is_available():
        if not arguments.json:
            print("not run: torch sees no CUDA device")
        print(json.dumps({"bench": "gpu", "not_run": "no CUDA device"}))
        return 0
    run = Run("cpu" if arguments.dry_run else "cuda", arguments.dry_run)
    shapes = {"tiny": TINY} if run.is_dry else SHAPES
    if arguments.quick and not run.is_dry:
        shapes = {"0.5B": SHAPES["0.5B"]}
    run.part("peak", lambda: peak(run))
    tflops = run.parts["peak"].get("vendor_tflops") or run.parts["peak"].get("measured_tflops")
    for name, shape in shapes.items():
        run.part(f"sampling {name}", lambda shape=shape: sampling(run, shape))
        for rows in ROWS:
            run.part(
                f"loss {name} rows {rows}",
                lambda shape=shape, rows=rows: losses(run, shape, rows, tflops),
            )
    run.part("agreement", lambda: agreement(run))
    run.part("weights 1B", lambda: weights(run))
    run.part("tests", lambda: gpu_tests(run))
    result = summary(run, list(shapes)[-1])
    if not arguments.json:
        for name, part in run.parts.items():
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in part.items()))
    print(json.dumps(result))
    return 0


def summary(run: Run, largest: str) -> dict[str, Any]:
    import torch
    import transformers

    share = run.parts[f"loss {largest} rows {ROWS[0]}"].get("share_of_peak")
    return {
        "bench": "gpu",
        "dry_run": run.is_dry,
        "device": "cpu" if run.is_dry else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "goal_share": GOAL_SHARE,
        "reached": None if run.is_dry or share is None else share >= GOAL_SHARE,
        "complete": not any({"error", "not_run"} & part.keys() for part in run.parts.values()),
        "seconds": round(time.perf_counter() - run.begin, 1),
        "parts": run.parts,
    }


def peak(run: Run) -> dict[str, Any]:
    """Measure the product of two large matrices in bfloat16."""
    import torch

    n = 128 if run.is_dry else 8192
    a, b = (torch.randn(n, n, device=run.device).to(torch.bfloat16) for _ in range(2))
    seconds = min(timed(run.device, lambda: a @ b) for _ in range(3 if run.is_dry else 20))
    name = "" if run.is_dry else torch.cuda.get_device_name()
    vendor = next((value for key, value in VENDOR_TFLOPS.items() if key in name), None)
    return {"measured_tflops": round(2 * n**3 / seconds / 1e12, 3), "vendor_tflops": vendor}


def sampling(run: Run, shape: Shape) -> dict[str, Any]:
    """Measure the hf engine: 16 problems, as many samples as the shape asks for."""
    import torch

    from rlready.evaluators.sampling.hf import HfSampler
    from rlready.evaluators.sampling.sampler import Draw
    from rlready.registry.records import Problem, Protocol
    from rlready.testbed.training.tokenizer import world_tokenizer

    sampler = HfSampler(shape.model(run.device, torch.bfloat16), world_tokenizer())
    n_problems = min(16, shape.n_samples)
    problems = [
        Problem(id=str(i), text=f"{i}+{i}*3 mod 10", answers=("1",)) for i in range(n_problems)
    ]

    def draw(n_each: int, max_tokens: int) -> int:
        draws = [Draw(problem=p, sample_indices=tuple(range(n_each))) for p in problems]
        protocol = Protocol(prompt_template="{problem}", max_tokens=max_tokens)
        return sum(s.n_tokens for part in sampler.draw(draws, protocol) for s in part)

    draw(1, 2)
    reset_memory(run.device)
    n_tokens: list[int] = []
    n_each = max(1, shape.n_samples // n_problems)
    seconds = timed(run.device, lambda: n_tokens.append(draw(n_each, shape.max_tokens)))
    return {
        "tokens_per_s": round(n_tokens[0] / seconds, 1),
        "tokens": n_tokens[0],
        "gib": memory_gib(run.device),
    }


def losses(run: Run, shape: Shape, rows: int, tflops: float | None) -> dict[str, Any]:
    """Measure the held-out loss; the second half of each example is scored."""
    import torch

    from rlready.evaluators.heldout.loss import token_losses

    model = shape.model(run.device, torch.bfloat16)
    made = examples(shape)
    token_losses(model, made[:8], max_tokens_per_pack=rows)
    reset_memory(run.device)
    seconds = timed(run.device, lambda: token_losses(model, made, max_tokens_per_pack=rows))
    n_tokens = shape.n_examples * shape.example_tokens
    n_scored = sum(int(example.is_response.sum()) for example in made)
    rate = shape.useful_flops(model, n_scored) / seconds / 1e12
    return {
        "tokens_per_s": round(n_tokens / seconds, 1),
        "tflops": round(rate, 4),
        "share_of_peak": round(rate / tflops, 4) if tflops else None,
        "gib": memory_gib(run.device),
    }


def examples(shape: Shape) -> list[Any]:
    """Return examples of random tokens, all of one length."""
    from rlready.evaluators.heldout.tokens import TokenizedExample

    rng, n = np.random.default_rng(0), shape.example_tokens
    return [
        TokenizedExample(f"e{i}", rng.integers(3, shape.vocabulary, n), np.arange(n) >= n // 2, n)
        for i in range(shape.n_examples)
    ]


def agreement(run: Run) -> dict[str, Any]:
    """Compare losses with float32 on the CPU, for a few layers with distinct predictions."""
    import torch

    from rlready.evaluators.heldout.loss import token_losses

    shape = TINY if run.is_dry else replace(SHAPES["0.5B"], layers=4, n_examples=4)
    shape = replace(shape, example_tokens=min(shape.example_tokens, 256))
    made = examples(shape)
    model = shape.model("cpu", torch.float32, spread=0.05)
    expected = np.concatenate(token_losses(model, made)).astype(np.float64)
    result: dict[str, Any] = {}
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        nlls = np.concatenate(token_losses(model.to(run.device, dtype), made)).astype(np.float64)
        deviation = float((np.abs(nlls - expected) / (1 + np.abs(expected))).mean())
        name = str(dtype).removeprefix("torch.")
        result |= {f"{name}_deviation": deviation, f"{name}_agrees": deviation <= tolerance}
    return {**result, "spread_of_nll": round(float(expected.std()), 3)}


def weights(run: Run) -> dict[str, Any]:
    """Time the weight-space proxies of whole weights and of an adapter."""
    import torch
    from safetensors.torch import save_file

    from rlready.evaluators.checkpoints.adapter import read_adapter
    from rlready.evaluators.metrics.adapter_drift import adapter_change
    from rlready.evaluators.metrics.weight_drift import weight_change

    shape, rank = (TINY if run.is_dry else WEIGHTS_SHAPE), 16
    model = shape.model(run.device, torch.bfloat16)
    with tempfile.TemporaryDirectory() as scratch:
        base, own, lora = (Path(scratch) / name for name in ("base", "own", "lora"))
        model.save_pretrained(base)
        factors = {}
        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.Linear) and name != "lm_head":
                    b = 0.01 * torch.randn(module.out_features, rank, device=run.device)
                    a = 0.01 * torch.randn(rank, module.in_features, device=run.device)
                    factors[f"base_model.model.{name}.lora_A.weight"] = a.cpu()
                    factors[f"base_model.model.{name}.lora_B.weight"] = b.cpu()
                    module.weight += (b @ a).to(module.weight.dtype)
        model.save_pretrained(own)
        lora.mkdir()
        save_file(factors, lora / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["x"]}
        (lora / "adapter_config.json").write_text(json.dumps(settings))
        n_parameters = sum(p.numel() for p in model.parameters())
        changes: list[Any] = []
        whole_s = timed(run.device, lambda: changes.append(weight_change(own, base, run.device)))
        adapter = read_adapter(lora)
        lora_s = timed(
            run.device, lambda: changes.append(adapter_change(adapter, base, run.device))
        )
    norms = [change.update_norms()["all"] for change in changes]
    return {
        "parameters": n_parameters,
        "whole_s": round(whole_s, 2),
        "adapter_s": round(lora_s, 2),
        "update_norms": [round(norm, 5) for norm in norms],
    }


def gpu_tests(run: Run) -> dict[str, Any]:
    """Run the tests that are marked `gpu`; without one they are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *GPU_TESTS], cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    result = {"summary": lines[-1].strip("= "), "passed": done.returncode == 0}
    return result if done.returncode == 0 else {**result, "error": "\n".join(lines[-15:])}


def timed(device: str, work: Callable[[], Any]) -> float:
    """Return the seconds that the work takes on the device."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def reset_memory(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def memory_gib(device: str) -> float | None:
    """Return the peak of the GPU's memory since the last reset."""
    import torch

    return None if device == "cpu" else round(torch.cuda.max_memory_allocated() / 2**30, 2)


def free(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    raise SystemExit(main())
