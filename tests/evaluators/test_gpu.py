"""Samples, losses, adapters and weight drift on a GPU are those of the CPU, up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import make_adapter

from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer, open_weights
from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.tokens import TokenizedExample
from rlready.evaluators.metrics.adapter_drift import adapter_change
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw
from rlready.registry.records import Problem, Protocol
from rlready.testbed.training.model import untrained_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PROBLEMS = [Problem(id=str(i), text="1+2" + "*3" * i + " mod 10", answers=("1",)) for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


def examples(n_ids: int) -> list[TokenizedExample]:
    rng = np.random.default_rng(0)
    return [
        TokenizedExample(f"e{n}", rng.integers(0, n_ids, n), np.arange(n) >= n // 3, n)
        for n in (200, 90, 31, 7)
    ]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=str
)
def test_losses_are_those_of_the_cpu(folder: Path, dtype: torch.dtype, tolerance: float) -> None:
    n_ids = len(load_tokenizer(folder))
    nlls, expected = (
        np.concatenate(token_losses(load_model(folder, device, kind), examples(n_ids)))
        for device, kind in (("cuda", dtype), ("cpu", torch.float32))
    )
    assert (np.abs(nlls - expected) / (1 + np.abs(expected))).mean() <= tolerance


def test_float32_samples_are_those_of_the_cpu(folder: Path) -> None:
    """Each follows its own stream; a token may turn over where its number falls into a gap."""
    tokenizer = load_tokenizer(folder)
    draws = [Draw(problem=problem, sample_indices=tuple(range(32))) for problem in PROBLEMS]
    protocol = Protocol(prompt_template="{problem}", max_tokens=24)

    def texts(device: str) -> dict[tuple[str, int], str]:
        sampler = HfSampler(load_model(folder, device, torch.float32), tokenizer)
        samples = [sample for part in sampler.draw(draws, protocol) for sample in part]
        return {(sample.problem_id, sample.sample_index): sample.text for sample in samples}

    on_gpu, on_cpu = texts("cuda"), texts("cpu")
    assert on_gpu.keys() == on_cpu.keys()
    assert sum(on_gpu[key] == on_cpu[key] for key in on_cpu) >= 0.97 * len(on_cpu)


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_computes_what_it_does_on_the_cpu(
    folder: Path, tmp_path: Path, merge: bool
) -> None:
    adapter = open_weights(str(make_adapter(tmp_path / "lora", folder))).adapter
    assert adapter is not None
    ids = torch.arange(3, 60)[None]
    logits = []
    for device in ("cuda", "cpu"):
        models = AdaptableModel(folder, device, torch.float32)
        model: Any = models.with_adapter(adapter, load_tokenizer(folder), merge)
        with torch.inference_mode():
            logits.append(model(input_ids=ids.to(device)).logits.cpu())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)


def test_weight_drift_is_that_of_the_cpu(folder: Path, tmp_path: Path) -> None:
    adapter = open_weights(str(make_adapter(tmp_path / "lora", folder))).adapter
    assert adapter is not None
    on_gpu, on_cpu = (adapter_change(adapter, folder, device) for device in ("cuda", "cpu"))
    assert on_gpu.update_norms() == pytest.approx(on_cpu.update_norms(), rel=1e-5)
    assert on_gpu.rotations() == pytest.approx(on_cpu.rotations(), abs=1e-2)
