"""What is taken as a checkpoint, and what is refused in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rlready.evaluators.checkpoints.folder import (
    load_model,
    load_tokenizer,
    open_weights,
    pick_device,
)
from rlready.registry.digest import fingerprint
from rlready.registry.errors import CheckpointError
from rlready.testbed.training.model import untrained_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("original") / "sft")


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "sft"))


def test_a_checkpoint_opens_and_loads(checkpoint: Path) -> None:
    weights = open_weights(str(checkpoint))
    assert weights.uri == checkpoint.as_uri()
    assert weights.name == "sft"
    assert load_tokenizer(weights.path).padding_side == "left"
    assert not load_model(weights.path, "cpu", torch.float32).training


def test_a_trainers_folder_is_named_with_its_run(checkpoint: Path) -> None:
    inner = checkpoint.rename(checkpoint.parent / "checkpoint-500")
    assert open_weights(str(inner)).name == f"{inner.parent.name}-checkpoint-500"


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "holds no config.json"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "holds no tokenizer"),
    ],
)
def test_a_missing_file_is_named(checkpoint: Path, remove: str, message: str) -> None:
    (checkpoint / remove).unlink()
    with pytest.raises(CheckpointError, match=message):
        open_weights(str(checkpoint))


def test_the_folder_above_checkpoints_points_to_them(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="sub-folders sft look like checkpoints"):
        open_weights(str(checkpoint.parent))


def test_pickled_weights_are_refused_with_the_way_to_convert(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle can run any code.*save_pretrained"):
        open_weights(str(checkpoint))


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 weight files \(model-1"):
        open_weights(str(checkpoint))


def test_truncated_weights_are_an_error_and_no_traceback_type(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(checkpoint, "cpu", torch.float32)


def test_code_in_a_checkpoint_is_not_run(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(checkpoint, "cpu", torch.float32)


def test_a_name_that_is_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        open_weights(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("device", "message"), [("tpu:x", "not a device"), ("meta", "supported")])
def test_a_strange_device_is_told(device: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        pick_device(device)


def test_the_fingerprint_is_of_the_content(checkpoint: Path, original: Path) -> None:
    assert fingerprint(checkpoint) == fingerprint(original)
    (checkpoint / "optimizer.pt").write_bytes(b"state")
    config = json.loads((checkpoint / "config.json").read_text())
    config["transformers_version"] = "9.9.9"
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert fingerprint(checkpoint) == fingerprint(original)
    config["rope_theta"] = 123.0
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert fingerprint(checkpoint) != fingerprint(original)


def test_the_fingerprint_changes_with_one_weight(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = fingerprint(checkpoint, cache)
    assert fingerprint(checkpoint, cache) == before
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(checkpoint, cache) != before
