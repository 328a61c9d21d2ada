"""Update norms and rotations against plain linear algebra."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlready.evaluators.metrics.weight_drift import (
    WeightChange,
    check_base,
    n_tensors,
    principal_angle,
    weight_change,
    weight_proxies,
)
from rlready.registry.errors import CheckpointError


def spectral(seed: int, m: int = 48, n: int = 40) -> torch.Tensor:
    """A matrix whose leading eight singular values stand apart."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(m, m, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(n, n, generator=generator))
    values = torch.cat([torch.linspace(20.0, 13.0, 8), torch.linspace(1.0, 0.1, n - 8)])
    return left[:, :n] @ torch.diag(values) @ right.T


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_an_unchanged_checkpoint_has_moved_by_nothing(tmp_path: Path) -> None:
    tensors = {"model.layers.0.self_attn.q_proj.weight": spectral(0)}
    change = weight_change(write(tmp_path / "a", tensors), write(tmp_path / "b", tensors))
    assert change.update_norms() == {"all": 0.0, "q_proj": 0.0}
    assert change.rotations() == {"all": 0.0, "q_proj": 0.0}


def test_the_update_norm_of_a_module_is_that_of_its_stacked_layers(tmp_path: Path) -> None:
    base = {f"model.layers.{i}.mlp.up_proj.weight": spectral(i) for i in range(3)}
    own = {name: tensor + 0.01 * (i + 1) for i, (name, tensor) in enumerate(base.items())}
    change = weight_change(write(tmp_path / "a", own), write(tmp_path / "b", base))
    stacked, stacked_0 = torch.cat(list(own.values())), torch.cat(list(base.values()))
    expected = float((stacked - stacked_0).norm() / stacked_0.norm())
    assert change.update_norms()["up_proj"] == pytest.approx(expected, rel=1e-5)
    assert len(change.layers) == n_tensors(tmp_path / "a") == 3


def test_the_rotation_equals_that_of_a_full_svd() -> None:
    weight_0 = spectral(1)
    weight = weight_0 + 0.3 * torch.randn(48, 40, generator=torch.Generator().manual_seed(5))
    angles = []
    for side in (0, 2):
        own, other = torch.linalg.svd(weight)[side], torch.linalg.svd(weight_0)[side]
        own, other = (own[:, :8], other[:, :8]) if side == 0 else (own[:8].T, other[:8].T)
        angles.append(torch.arccos(torch.linalg.svdvals(own.T @ other).clamp(0, 1)))
    assert principal_angle(weight, weight_0) == pytest.approx(
        float(torch.cat(angles).mean()), abs=2e-3
    )


def test_a_tiny_change_turns_by_a_tiny_angle() -> None:
    """The arc cosine alone loses angles below 3e-4 in float32."""
    weight_0 = spectral(2)
    noise = torch.randn(48, 40, generator=torch.Generator().manual_seed(6))
    small = principal_angle(weight_0 + 1e-4 * noise, weight_0)
    large = principal_angle(weight_0 + 1e-3 * noise, weight_0)
    assert 0.0 < small < 1e-4
    assert large == pytest.approx(10 * small, rel=0.1)


def test_orthogonal_subspaces_are_a_right_angle_apart() -> None:
    eye = torch.eye(40)
    weight_0 = eye[:, :8] @ torch.diag(torch.linspace(9, 5, 8)) @ eye[:, :8].T
    weight = eye[:, 8:16] @ torch.diag(torch.linspace(9, 5, 8)) @ eye[:, 8:16].T
    assert principal_angle(weight, weight_0) == pytest.approx(math.pi / 2, abs=1e-3)


def test_norms_biases_and_embeddings_have_no_rotation(tmp_path: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": torch.randn(60, 40),
        "model.norm.weight": torch.ones(40),
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(40),
    }
    changed = {name: tensor + 0.5 for name, tensor in tensors.items()}
    change = weight_change(write(tmp_path / "a", changed), write(tmp_path / "b", tensors))
    assert change.rotations() == {}
    # The bias was all zeros: it has no relative change.
    assert set(change.update_norms()) == {"all", "embed_tokens", "norm"}


def test_bfloat16_shards_give_what_one_file_gives(tmp_path: Path) -> None:
    base = {f"model.layers.{i}.mlp.up_proj.weight": spectral(i).bfloat16() for i in range(2)}
    own = {name: tensor * 1.25 for name, tensor in base.items()}
    whole = weight_change(write(tmp_path / "a", own), write(tmp_path / "b", base))
    sharded = tmp_path / "c"
    sharded.mkdir()
    for i, (name, tensor) in enumerate(own.items()):
        save_file({name: tensor}, sharded / f"model-{i}.safetensors")
    weight_map = {name: f"model-{i}.safetensors" for i, name in enumerate(own)}
    index = json.dumps({"weight_map": weight_map})
    (sharded / "model.safetensors.index.json").write_text(index)
    assert weight_change(sharded, tmp_path / "b") == whole
    assert whole.update_norms()["all"] == pytest.approx(0.25, rel=1e-2)


def test_another_vocabulary_is_told(tmp_path: Path) -> None:
    own = write(tmp_path / "a", {"model.embed_tokens.weight": torch.ones(64, 8)})
    base = write(tmp_path / "b", {"model.embed_tokens.weight": torch.ones(60, 8)})
    with pytest.raises(CheckpointError, match=r"64 x 8 .* 60 x 8 .* another vocabulary"):
        weight_change(own, base)


def test_another_architecture_is_told(tmp_path: Path) -> None:
    own = write(tmp_path / "a", {"model.layers.0.q_proj.weight": torch.ones(4, 4)})
    base = write(tmp_path / "b", {"transformer.h.0.c_attn.weight": torch.ones(4, 4)})
    with pytest.raises(CheckpointError, match="is not the base model"):
        weight_change(own, base)


def test_a_tied_head_may_be_written_in_one_of_them_only(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": torch.ones(60, 8)}
    own = write(tmp_path / "a", {**tensors, "lm_head.weight": torch.ones(60, 8)})
    assert len(weight_change(own, write(tmp_path / "b", tensors)).layers) == 1


def test_weights_that_are_not_finite_are_told(tmp_path: Path) -> None:
    own = write(tmp_path / "a", {"x.weight": torch.full((4, 4), math.nan)})
    with pytest.raises(CheckpointError, match="not finite"):
        weight_change(own, write(tmp_path / "b", {"x.weight": torch.ones(4, 4)}))


def test_proxies_name_the_module_and_the_base(tmp_path: Path) -> None:
    base = write(tmp_path / "b", {"model.layers.0.mlp.up_proj.weight": spectral(0)})
    own = write(tmp_path / "a", {"model.layers.0.mlp.up_proj.weight": spectral(0) + 0.1})
    change: WeightChange = weight_change(own, base)
    proxies = weight_proxies(change, "base", "0" * 32)
    assert {p.name for p in proxies} == {
        "update_norm/all",
        "update_norm/up_proj",
        "rotation/all",
        "rotation/up_proj",
    }
    assert all(p.se is None and p.benchmark == "base" for p in proxies)


def test_tensors_that_the_model_does_not_use_are_left_out(tmp_path: Path) -> None:
    base = {"model.layers.0.mlp.up_proj.weight": spectral(0)}
    head = {"v_head.summary.weight": torch.ones(1, 8)}
    own = write(tmp_path / "a", {**base, **head})
    with pytest.raises(CheckpointError, match=r"1 tensors are in one of them only.*v_head"):
        check_base(own, write(tmp_path / "b", base))
    check_base(own, tmp_path / "b", tuple(head))
    change = weight_change(own, tmp_path / "b", ignored=tuple(head))
    assert change.update_norms() == {"all": 0.0, "up_proj": 0.0}
    assert n_tensors(own, tuple(head)) == 1
