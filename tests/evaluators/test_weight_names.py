"""Whole checkpoints of many architectures are taken; broken ones are refused by tensor and file."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlready.evaluators.checkpoints.folder import (
    Weights,
    check_folder,
    check_weights,
    load_config,
    load_model,
    open_weights,
)
from rlready.evaluators.checkpoints.header_checks import check_headers
from rlready.evaluators.checkpoints.weight_files import check_finite
from rlready.evaluators.checkpoints.weight_names import check_names
from rlready.registry.errors import CheckpointError
from rlready.testbed.training.model import untrained_checkpoint

Tensors = dict[str, torch.Tensor]

_SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OLD_SIZE = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _SIZE,
    "llama-tied": {**_SIZE, "model_type": "llama", "tie_word_embeddings": True},
    "qwen2": _SIZE,
    "qwen3": {**_SIZE, "head_dim": 8},
    "gemma2": {**_SIZE, "head_dim": 8},
    "gemma3": {"text_config": {**_SIZE, "head_dim": 8}, "vision_config": _VISION},
    "gpt2": {**_OLD_SIZE, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32},
    "gpt_neox": {**_SIZE, **_OLD_SIZE},
    "phi": {**_SIZE, "num_key_value_heads": 2},
    "phi3": _SIZE,
    "mixtral": {**_SIZE, "num_local_experts": 4},
    "qwen3_moe": {
        **_SIZE,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
    },
}


def write_model(name: str, folder: Path) -> Path:
    """An untrained model of an architecture, as save_pretrained leaves it; without tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = dict(ARCHITECTURES[name])
    config = AutoConfig.for_model(sizes.pop("model_type", name), **sizes)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def checked(folder: Path) -> tuple[str, ...]:
    """Both checks of the names, one after the other; returns the further heads."""
    check_headers(folder)
    return check_names(folder, load_config(folder)).extra


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a whole model."""
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = write_model(name, tmp_path_factory.mktemp("whole") / name)
        return folders[name]

    return get


def broken(folder: Path, copy: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(folder, copy)
    tensors = change(load_file(copy / "model.safetensors"))
    save_file(
        {k: v.clone() for k, v in tensors.items()}, copy / "model.safetensors", {"format": "pt"}
    )
    return copy


def without(pattern: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if not re.search(pattern, k)}


def renamed(pattern: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {re.sub(pattern, new, k): v for k, v in tensors.items()}


def repeated(pattern: str, new: str) -> Callable[[Tensors], Tensors]:
    """Tensors once more, under other names."""
    return lambda tensors: {
        **tensors,
        **{re.sub(pattern, new, k): v for k, v in tensors.items() if re.search(pattern, k)},
    }


def added(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name: torch.zeros(1, 4) for name in names}}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_whole_model_is_taken(name: str, whole: Callable[[str], Path]) -> None:
    folder = whole(name)
    assert checked(folder) == ()
    assert check_names(folder, load_config(folder)).n_token_ids == 64
    check_finite(folder)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_a_whole_model_in_bfloat16_shards_is_taken(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(whole(name), "cpu", torch.bfloat16)
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert checked(tmp_path) == ()
    check_finite(tmp_path)


PREFIXES = [
    (r"^", "module.", r"'module\.' \(written by DDP or DeepSpeed\)"),
    (r"^", "_orig_mod.", r"'_orig_mod\.' \(written by torch\.compile\)"),
    (r"^", "module._orig_mod.", r"'_orig_mod\.' .* and 'module\.'"),
    (r"layers\.1\.|^", r"\g<0>_fsdp_wrapped_module.", r"'_fsdp_wrapped_module\.'"),
    (r"layers\.\d+\.", r"\g<0>_checkpoint_wrapped_module.", r"'_checkpoint_wrapped_module\.'"),
    (r"^", "_forward_module.", r"'_forward_module\.'"),
    (r"^", "base_model.model.", r"'base_model\.model\.' \(written by peft\)"),
    (r"^", "policy.", r"'policy\.'"),
    (r"^", "policy.module.", r"'policy\.module\.'"),
]


@pytest.mark.parametrize(("pattern", "new", "message"), PREFIXES)
def test_a_wrappers_prefix_is_named_and_the_command_given_takes_it_away(
    pattern: str, new: str, message: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = broken(whole("llama"), tmp_path / "broken", renamed(pattern, new))
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors") as raised:
        checked(folder)
    assert re.search(message, raised.value.why)
    command = re.search(r'python -c "(.*)"', raised.value.fix)
    assert command is not None
    exec(command[1], {})
    assert checked(folder) == ()
    original = load_file(whole("llama") / "model.safetensors")
    mended = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, mended[name]) for name, tensor in original.items())


@pytest.mark.parametrize("front", ["student.", "policy.module.", "transformer."])
def test_any_wrappers_prefix_is_seen_at_a_glance(
    front: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = broken(whole("llama"), tmp_path / "broken", renamed("^", front))
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors") as raised:
        check_headers(folder)
    assert f"hold {front!r}" in raised.value.why


def test_a_prefix_that_transformers_removes_itself_is_taken(
    whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """A Lightning module's `model.` before every name: the same weights are loaded."""
    folder = broken(whole("llama"), tmp_path / "lightning", renamed("^", "model."))
    check_headers(folder)
    assert checked(folder) == ()
    ids = torch.tensor([[1, 5, 9]])
    logits = [
        load_model(path, "cpu", torch.float32)(ids).logits for path in (whole("llama"), folder)
    ]
    assert torch.equal(*logits)


BROKEN = [
    ("llama", without("lm_head"), r"lacks 1 tensor .*: lm_head\.weight.*tie_word_embeddings"),
    ("gpt_neox", without("embed_out|lm_head"), r"lacks 1 tensor"),
    ("llama", without(r"layers\.1\."), r"lacks 9 tensors .*: model\.layers\.1\.input_layernorm"),
    ("gpt2", without(r"h\.2\."), r"lacks 12 tensors .*\bh\.2\."),
    ("llama", without(r"layers\.1\.mlp\.up"), r"lacks 1 tensor .*: model\.layers\.1\.mlp\.up_proj"),
    ("llama", without("embed_tokens"), r"lacks 1 tensor .*: model\.embed_tokens"),
    ("llama-tied", without("embed_tokens"), r"lacks 2 tensors .*: .*model\.embed_tokens"),
    ("gemma3", without(r"language_model.*layers\.1\."), r"lacks 13 tensors .*layers\.1\."),
    ("mixtral", without(r"layers\.1\..*experts"), r"lacks 2 tensors .*layers\.1\.mlp\.experts"),
    ("qwen3_moe", without(r"layers\.1\..*experts\.2\.up"), r"experts\.2\.up_proj\.weight"),
    ("qwen3_moe", without(r"layers\.1\..*experts\.3\."), r"lacks 3 tensors .*1\.mlp\.experts\.3\."),
    ("llama", repeated(r"layers\.2\.", "layers.7."), r"holds 9 tensors .*model\.layers\.7\."),
    ("gemma3", repeated(r"(language_model.*layers)\.2\.", r"\1.7."), r"holds 13 .*layers\.7"),
    ("qwen3_moe", repeated(r"experts\.3\.", "experts.4."), r"has the shape 5 x .* asks for 4 x"),
    ("llama", added("model.layers.0.self_attn.q_proj.bias"), r"holds 1 tensor .*q_proj\.bias"),
    ("llama", added("model.layers.0.self_attn.q_norm.weight"), r"holds 1 tensor .*q_norm"),
    ("llama", added("model.layers.0.self_attn.q_proj.lora_A.default.weight"), "not merged"),
    ("llama", lambda t: {**t, "model.norm.weight": torch.ones(9)}, r"norm\.weight .* shape 9"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN)
def test_what_does_not_belong_to_the_config_is_refused_by_name(
    name: str,
    change: Callable[[Tensors], Tensors],
    message: str,
    whole: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = broken(whole(name), tmp_path / "broken", change)
    with pytest.raises(CheckpointError, match=message):
        checked(folder)
    # The same, should a model be loaded without the checks.
    with pytest.raises(CheckpointError):
        load_model(folder, "cpu", torch.float32)


def test_empty_weight_files_are_called_empty(whole: Callable[[str], Path], tmp_path: Path) -> None:
    """They were once reported as a missing lm_head."""
    folder = broken(whole("llama"), tmp_path / "empty", lambda tensors: {})
    with pytest.raises(CheckpointError, match="are empty: they hold no tensor"):
        check_headers(folder)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("model.layers.0.self_attn.q_proj._extra_state", "not used by the language model"),
        ("model.layers.0.self_attn.k_scale", "scales of a quantized key-value cache"),
        ("model.layers.1.self_attn.v_proj.output_scale", "scales of a quantized key-value cache"),
    ],
)
def test_tensors_that_are_no_parameters_are_ignored_with_a_warning(
    extra: str, words: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """They were once refused as those of a larger model."""
    folder = broken(whole("llama"), tmp_path / "extra", added(extra))
    names = checked(folder)
    assert names == (extra,)
    (warning,) = Weights(path=folder, uri="", name="sft", extra=names).warnings()
    assert words in warning
    assert extra in warning


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", added("model.layers.0.self_attn.rotary_emb.inv_freq")),
        ("gpt_neox", added(*(f"gpt_neox.layers.0.attention.{n}bias" for n in ("", "masked_")))),
        ("gpt2", lambda t: added("h.0.attn.bias")(renamed(r"^transformer\.", "")(t))),
        ("llama-tied", renamed(r"model\.embed_tokens", "lm_head")),
    ],
)
def test_old_names_that_transformers_understands_are_taken(
    name: str,
    change: Callable[[Tensors], Tensors],
    whole: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    assert checked(broken(whole(name), tmp_path / "old", change)) == ()


def test_whole_numbers_without_a_scale_are_refused(
    whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """They were taken as floats, and measured."""

    def quantized(tensors: Tensors) -> Tensors:
        return {k: v.to(torch.int8) if "lm_head" in k else v for k, v in tensors.items()}

    folder = broken(whole("llama"), tmp_path / "int8", quantized)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight .* whole numbers \(I8\)"):
        checked(folder)


def test_further_heads_are_told_and_ignored(whole: Callable[[str], Path], tmp_path: Path) -> None:
    heads = ("critic.model.lm_head.weight", "score.weight", "v_head.layers.9.bias")
    folder = broken(whole("llama"), tmp_path / "heads", added(*heads))
    assert checked(folder) == heads
    assert load_model(folder, "cpu", torch.float32) is not None


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with contextlib.redirect_stderr(io.StringIO()):
        return untrained_checkpoint(tmp_path / "sft")


def test_a_token_beyond_the_embedding_is_named(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    assert check_weights(checkpoint) == ()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    n_rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(checkpoint)
    check_folder(checkpoint)  # stands for no text
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(checkpoint)
    message = rf"'<tool>' with id {n_rows + 1}.* {n_rows} rows"
    with pytest.raises(CheckpointError, match=message):
        check_folder(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        check_weights(checkpoint)


def test_a_token_that_only_the_tokenizers_class_adds_is_taken(checkpoint: Path) -> None:
    """Qwen2Tokenizer adds an unknown token that this vocabulary does not have."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    n_rows = len(AutoTokenizer.from_pretrained(checkpoint))
    sizes = {**_SIZE, "vocab_size": n_rows, "eos_token_id": 264, "pad_token_id": 265}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **sizes))
    model.save_pretrained(checkpoint)
    assert len(AutoTokenizer.from_pretrained(checkpoint)) > n_rows
    check_folder(checkpoint)
    assert check_weights(checkpoint) == ()
    # The same token, named in the tokenizer's own files, is the user's.
    about = json.loads((checkpoint / "tokenizer_config.json").read_text())
    about["unk_token"] = "<|endoftext|>"
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"'<\|endoftext\|>' with id"):
        check_weights(checkpoint)


def test_a_configuration_out_of_range_is_told_with_its_reason(checkpoint: Path) -> None:
    about = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**about, "tie_word_embeddings": None}))
    with pytest.raises(CheckpointError, match=r"'tie_word_embeddings': \S+"):
        load_config(checkpoint)


def test_an_adapters_folder_is_refused_even_with_the_models_config(checkpoint: Path) -> None:
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"whole model and .* remove adapter_config\.json"):
        open_weights(str(checkpoint))
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter of type None.*merge_and_unload"):
        open_weights(str(checkpoint))


def test_shards_without_their_index_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor .*index\.json"):
        open_weights(str(checkpoint))


def test_a_file_cut_short_and_a_pointer_of_git_lfs_are_told(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be loaded.*cut short"):
        open_weights(str(checkpoint))
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_weights(str(checkpoint))


def test_a_damaged_index_is_told(checkpoint: Path) -> None:
    for text in ("{", "[]", json.dumps({"weight_map": 3}), "[" * 100_000):
        (checkpoint / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
            open_weights(str(checkpoint))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(dtype: str, bad: float, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    tensors = {
        # The largest number of the format, which is finite.
        "good": torch.full((70_001,), torch.finfo(kind).max, dtype=torch.float64).to(kind),
        "whole": torch.tensor([2**31 - 1, -1]),
        "empty": torch.empty(0),
        "broken": torch.ones(70_001, dtype=torch.float64).to(kind),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    check_finite(tmp_path, tmp_path / "cache")
    numbers = torch.ones(70_001, dtype=torch.float64)
    numbers[70_000] = bad
    tensors["broken"] = numbers.to(kind)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor broken .* 1 of 70,001 .* NaN or infinite"):
        check_finite(tmp_path, tmp_path / "cache")


def test_an_infinite_value_for_masked_positions_is_taken(tmp_path: Path) -> None:
    """Pythia's files in float16 hold one a layer: -1e9 is beyond that format."""
    mask = torch.tensor(-1e9).to(torch.float16)
    tensors = {"gpt_neox.layers.0.attention.masked_bias": mask, "a": torch.ones(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    check_finite(tmp_path)


def test_a_file_that_passed_is_not_read_again(tmp_path: Path, monkeypatch: Any) -> None:
    from rlready.evaluators.checkpoints import weight_files

    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    check_finite(tmp_path, tmp_path / "cache")
    monkeypatch.setattr(weight_files, "_contents", None)
    check_finite(tmp_path, tmp_path / "cache")


def test_names_numbers_and_tokens_are_checked_without_torch(checkpoint: Path) -> None:
    """Its import takes longer than a person waits for "the name of the folder is wrong"."""
    code = (
        "import sys; from rlready.evaluators.checkpoints import folder as c; "
        "from rlready.evaluators.checkpoints.weight_files import check_finite; "
        f"w = c.open_weights({str(checkpoint)!r}); check_finite(w.path); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
