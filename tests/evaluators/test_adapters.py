"""LoRA adapters: what is read, what is refused, and what the model computes with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import change_config, make_adapter
from safetensors.torch import load_file, save_file

from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
from rlready.evaluators.checkpoints.adapter import Adapter, check_contents, read_adapter
from rlready.evaluators.checkpoints.folder import (
    load_model,
    load_tokenizer,
    open_weights,
)
from rlready.registry.errors import CheckpointError
from rlready.testbed.training.model import ModelSize, build_model, save_checkpoint
from rlready.testbed.training.tokenizer import world_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "saved": {"modules_to_save": ["o_proj"]},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}},
    "one layer": {"layers_to_transform": [1], "target_modules": ["q_proj"]},
}
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = world_tokenizer()
    model = build_model(tokenizer, ModelSize(n_layers=2), seed=0)
    return save_checkpoint(model, tokenizer, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def originals(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: make_adapter(folder / name, base, **KINDS[name]) for name in KINDS}


@pytest.fixture
def folder(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["plain"], tmp_path / "lora"))


def opened(folder: Path) -> Adapter:
    adapter = open_weights(str(folder)).adapter
    assert adapter is not None
    return adapter


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_peft_and_of_the_merged_weights(
    kind: str, originals: dict[str, Path], base: Path
) -> None:
    from peft import PeftModel

    adapter, tokenizer = opened(originals[kind]), load_tokenizer(base)
    plain: Any = load_model(base, "cpu", torch.float32)
    own = AdaptableModel(base, "cpu", torch.float32)
    unmerged = logits(own.with_adapter(adapter, tokenizer))
    merged = logits(own.with_adapter(adapter, tokenizer, merge=True))
    with pytest.warns(FutureWarning, match="gradient_checkpointing"):  # transformers, of peft
        expected = logits(PeftModel.from_pretrained(plain, str(originals[kind])).eval())
    assert torch.equal(unmerged, expected)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def test_one_base_model_serves_several_adapters(originals: dict[str, Path], base: Path) -> None:
    tokenizer, own = load_tokenizer(base), AdaptableModel(base, "cpu", torch.float32)
    plain = logits(own.base())
    first = logits(own.with_adapter(opened(originals["plain"]), tokenizer))
    second = logits(own.with_adapter(opened(originals["dora"]), tokenizer))
    assert not torch.equal(first, second)
    assert torch.equal(logits(own.with_adapter(opened(originals["plain"]), tokenizer)), first)
    assert torch.equal(logits(own.base()), plain)
    assert own.n_loads == 1
    # Saved modules and merged weights stay in the model, so it is loaded again after them.
    own.with_adapter(opened(originals["saved"]), tokenizer)
    assert torch.equal(logits(own.base()), plain)
    own.with_adapter(opened(originals["plain"]), tokenizer, merge=True)
    assert torch.equal(logits(own.base()), plain)
    assert own.n_loads == 3


def test_an_adapter_is_named_by_its_own_folder_and_runs_on_its_base(
    folder: Path, base: Path
) -> None:
    weights = open_weights(str(folder))
    assert (weights.name, weights.uri) == ("lora", folder.as_uri())
    assert weights.path == base
    assert weights.base is not None
    assert weights.base.path == base
    assert weights.tokenizer_folder == base
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder)
    assert open_weights(str(folder)).tokenizer_folder == folder


def test_the_fingerprint_is_of_the_adapter_and_its_base(
    folder: Path, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    mark = open_weights(str(folder)).fingerprint()
    assert mark not in (
        open_weights(str(base)).fingerprint(),
        open_weights(str(originals["rslora"])).fingerprint(),
    )
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    change_config(folder, base_model_name_or_path=str(moved), peft_version="9.9")
    assert open_weights(str(folder)).fingerprint() == mark
    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"] += 1.0
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert open_weights(str(folder)).fingerprint() != mark
    assert open_weights(str(folder), str(base)).fingerprint() == mark
    change_config(folder, lora_alpha=9)
    assert open_weights(str(folder), str(base)).fingerprint() != mark


def test_the_base_is_found_beside_the_adapter(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder.parent / "base")
    change_config(folder, base_model_name_or_path="../base")
    assert open_weights(str(folder)).path == folder.parent / "base"


def test_the_base_is_found_in_the_cache_of_the_hub(folder: Path, base: Path) -> None:
    """Without a network; the cache is laid out as huggingface_hub does it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = folder.parent / "hub" / "models--some-org--some-base"
    shutil.copytree(base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    change_config(folder, base_model_name_or_path="some-org/some-base")
    code = "import sys; from rlready.evaluators.checkpoints.folder import open_weights as o; "
    code += "w = o(sys.argv[1]); print(w.base.uri); print(w.path)"
    environment = {**os.environ, "HF_HUB_CACHE": str(repo.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    uri, path = done.stdout.split()
    assert uri == f"hf://some-org/some-base@{commit}"
    assert Path(path) == repo / "snapshots" / commit


def test_the_revision_of_the_base_is_asked_for(folder: Path) -> None:
    change_config(folder, base_model_name_or_path="some-org/some-base", revision="v2")
    assert read_adapter(folder).base_reference == "some-org/some-base@v2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LOHA"}, r"type 'LOHA'.*only LoRA is read"),
        ({"peft_type": ["LORA"]}, r"type \['LORA'\].*only LoRA is read"),
        ({"init_lora_weights": "pissa"}, r"'pissa'.*changes the base model before training"),
        ({"bias": "all"}, r"uses bias=all.*does not read this setting"),
        ({"layer_replication": [[0, 2]]}, r"uses layer_replication"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, r"uses megatron_config"),
        ({"trainable_token_indices": [1]}, r"uses trainable_token_indices"),
        ({"a_setting_of_2030": True}, r"uses a_setting_of_2030=True"),
        ({"r": 0}, r"the rank r=0"),
        ({"r": 8}, r"has the shape 4 x .* the rank 8.*different adapters"),
        ({"lora_alpha": "8"}, r"lora_alpha='8'"),
        ({"rank_pattern": {"q_proj": "two"}}, r"a number for each pattern"),
        ({"alpha_pattern": {"(": 2}}, r"not a regular expression"),
        ({"base_model_name_or_path": None}, r"does not name its base model.*--base FOLDER"),
        ({"base_model_name_or_path": "/nowhere/base"}, r"there is no folder /nowhere/base.*--base"),
    ],
)
def test_what_is_not_read_is_refused_by_name(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    change_config(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        open_weights(str(folder))


def test_a_pickled_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled adapter only \(adapter_model.bin\)"):
        open_weights(str(folder))
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks adapter_model.safetensors"):
        open_weights(str(folder))


def test_a_damaged_adapter_is_told(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_weights(str(folder))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        open_weights(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, t: {name: t} if "0.mlp.down_proj.lora_B" not in name else {}, "without a"),
        (lambda name, t: {name.replace("lora_", "lora_embedding_"): t}, "not those of embeddings"),
        (lambda name, t: {name.replace("layers.1", "layers.7"): t}, r"layers\.7.*does not have"),
        (lambda name, t: {name: t[:, :8].clone() if "_A" in name else t}, "another size or voc"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: Any, message: str) -> None:
    file = folder / "adapter_model.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(file).items():
        tensors |= change(name, tensor)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        open_weights(str(folder))


def test_a_missing_layer_is_told(folder: Path, base: Path) -> None:
    """With peft alone, a layer that the file lacks keeps fresh factors, with a warning."""
    file = folder / "adapter_model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if "layers.1" not in name}
    save_file(tensors, file, {"format": "pt"})
    own = AdaptableModel(base, "cpu", torch.float32)
    with pytest.raises(CheckpointError, match="lacks factors of layers"):
        own.with_adapter(opened(folder), load_tokenizer(base))


def test_a_base_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = world_tokenizer()
    model = build_model(tokenizer, ModelSize(width=96, n_layers=2), seed=0)
    other = save_checkpoint(model, tokenizer, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"96.*another size or vocabulary.*--base FOLDER"):
        open_weights(str(folder), str(other))


def test_an_adapter_is_not_a_base(folder: Path, originals: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        open_weights(str(folder), str(originals["rslora"]))


def test_tied_embeddings_are_not_adapted(folder: Path, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "head", base, modules_to_save=["embed_tokens"])
    with pytest.raises(CheckpointError, match="ties the embedding to the head"):
        open_weights(str(adapter))


def test_a_fresh_adapter_is_refused_without_running_it(base: Path, tmp_path: Path) -> None:
    adapter = opened(make_adapter(tmp_path / "fresh", base, noise=0.0))
    with pytest.raises(CheckpointError, match=r"changes nothing: B is zero in all 6 layers"):
        check_contents(adapter)


def test_factors_that_cancel_out_are_refused(folder: Path, base: Path) -> None:
    """No factor is zero, but their product is."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensors[name] = torch.cat([tensor[:2], 0 * tensor[:2]])
        else:
            tensors[name] = torch.cat([0 * tensor[:, :2], tensor[:, :2]], dim=1)
    save_file(tensors, file, {"format": "pt"})
    adapter = opened(folder)
    check_contents(adapter)
    own = AdaptableModel(base, "cpu", torch.float32)
    with pytest.raises(CheckpointError, match="same logits on 3 prompts"):
        own.with_adapter(adapter, load_tokenizer(base), merge=True)


def test_a_merge_that_rounding_removes_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = opened(make_adapter(tmp_path / "small", base, noise=1e-6))
    own = AdaptableModel(base, "cpu", torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"rounding to bfloat16 removed it.*Leave --merge"):
        own.with_adapter(adapter, load_tokenizer(base), merge=True)


def test_factors_that_are_not_finite_are_told(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        check_contents(opened(folder))
