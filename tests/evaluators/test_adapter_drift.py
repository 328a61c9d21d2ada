"""The change that an adapter makes, from its factors and from merged weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import make_adapter
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
from rlready.evaluators.checkpoints.adapter import LowRank
from rlready.evaluators.checkpoints.folder import load_tokenizer, open_weights
from rlready.evaluators.metrics.adapter_drift import adapter_change, merged_weight, squared_norm
from rlready.evaluators.metrics.weight_drift import weight_change
from rlready.testbed.training.model import ModelSize, build_model, save_checkpoint
from rlready.testbed.training.tokenizer import world_tokenizer

SIDES = st.integers(1, 24)


@given(
    outputs=SIDES,
    inputs=SIDES,
    rank=st.integers(1, 12),
    scaling=st.floats(-16, 16).filter(lambda s: abs(s) > 1e-3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
)
def test_the_norm_of_the_product_needs_no_product(
    outputs: int, inputs: int, rank: int, scaling: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((rank, inputs), generator=generator).to(dtype)
    b = torch.randn((outputs, rank), generator=generator).to(dtype)
    dense = scaling * (b.double() @ a.double())
    expected = float(dense.square().sum())
    largest = scaling**2 * float(a.double().square().sum() * b.double().square().sum())
    assert squared_norm(a, b, scaling) == pytest.approx(expected, rel=1e-9, abs=1e-13 * largest)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**31))
def test_a_transposed_layout_gives_the_transposed_weight(
    outputs: int, inputs: int, rank: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank)
    weight_0, magnitude = torch.randn(outputs, inputs), torch.rand(outputs)
    names: dict[str, Any] = {"base_name": "x", "a": "a", "b": "b", "magnitude": None}
    change = LowRank(**names, scaling=0.5, is_transposed=False)
    turned = LowRank(**names, scaling=0.5, is_transposed=True)
    for m in (None, magnitude):
        weight = merged_weight(change, weight_0, a, b, m)
        torch.testing.assert_close(merged_weight(turned, weight_0.T, a, b, m).T, weight)
        if m is not None:
            torch.testing.assert_close(weight.norm(dim=1), m)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = world_tokenizer()
    model = build_model(tokenizer, ModelSize(n_layers=2), seed=0)
    return save_checkpoint(model, tokenizer, tmp_path_factory.mktemp("models") / "base")


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "r": 6},
        {"use_dora": True},
        {"modules_to_save": ["o_proj", "input_layernorm"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    ],
)
def test_the_numbers_are_those_of_the_merged_folder(
    base: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    weights = open_weights(str(make_adapter(tmp_path / "lora", base, **lora)))
    assert weights.adapter is not None
    tokenizer = load_tokenizer(base)
    own = AdaptableModel(base, "cpu", torch.float32)
    merged: Any = own.with_adapter(weights.adapter, tokenizer, merge=True)
    merged.save_pretrained(tmp_path / "merged")
    dense = weight_change(tmp_path / "merged", base)
    steps: list[int] = []
    change = adapter_change(weights.adapter, base, on_progress=steps.append)
    assert [layer.name for layer in change.layers] == [layer.name for layer in dense.layers]
    assert steps == list(range(1, len(change.layers) + 1))
    assert change.update_norms() == pytest.approx(dense.update_norms(), rel=1e-5)
    assert change.rotations() == pytest.approx(dense.rotations(), abs=1e-4)
    assert change.update_norms()["all"] > 0.01
    assert change.update_norms()["gate_proj"] == change.rotations()["gate_proj"] == 0.0


def test_gpt2_keeps_its_weights_the_other_way_round(tmp_path: Path) -> None:
    """Its layers are `Conv1D`, and its files lack the first part of the modules' names."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = world_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(config)
        save_checkpoint(model, tokenizer, tmp_path / "base")
    lora = {"target_modules": ["c_attn", "attn.c_proj"], "fan_in_fan_out": True}
    weights = open_weights(str(make_adapter(tmp_path / "lora", tmp_path / "base", **lora)))
    assert weights.adapter is not None
    own = AdaptableModel(weights.path, "cpu", torch.float32)
    merged: Any = own.with_adapter(weights.adapter, tokenizer, merge=True)
    merged.save_pretrained(tmp_path / "merged")
    dense = weight_change(tmp_path / "merged", weights.path)
    change = adapter_change(weights.adapter, weights.path)
    assert change.update_norms() == pytest.approx(dense.update_norms(), rel=1e-5)
    assert change.rotations() == pytest.approx(dense.rotations(), abs=1e-4)
