"""Whether the weights in a folder are those of the model that its config.json describes.

transformers fills what it does not find with random numbers and ignores what it does not know. So
its own loader is run first on tensors without content (torch's meta device), whose names and shapes
come from the files' headers: it renames, merges and ties as it does on loading, and says what is
left over. Nothing is read but headers; a model of 80 layers takes well under a second.

Refused: missing tensors, other shapes, and further tensors of the architecture (a layer too many, a
bias that the model has not). Told and ignored: tensors of further heads, such as `v_head.*`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.weight_files import TensorHeader, tensor_headers
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_NAMED = 3
"""Tensors that a message names."""

# What wrappers put into the middle of a name: FSDP, activation checkpointing, torch.compile.
_INNER_WRAPPERS = re.compile(
    r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|_forward_module)\."
)
_WRITTEN_BY = {
    "module.": "DDP or DeepSpeed",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Lightning Fabric",
    "base_model.model.": "peft",
    "pretrained_model.": "a TRL model with a value head",
    "model.": "a Lightning module",
}
_ADAPTER_PART = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\b")
# Buffers that older versions of transformers saved. They are made anew from the configuration.
_OLD_BUFFER = re.compile(
    r"(^|\.)(position_ids|masked_bias|causal_mask|rotary_(pos_)?emb\.\w+|inv_freq)$"
)
# A multimodal tokenizer names a token that stands for an image, even beside a text-only model.
_PLACEHOLDER = re.compile(r"image|img|video|audio|vision", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CheckedNames:
    """What is left to know of weights that belong to their configuration.

    Args:
        extra: tensors that the model does not use, such as those of a value head.
        n_token_ids: rows of the embedding; None if it could not be told.
    """

    extra: tuple[str, ...] = ()
    n_token_ids: int | None = None


def check_names(folder: Path, config: PretrainedConfig) -> CheckedNames:
    """Check names and shapes of the weights against the configuration; reads headers only.

    Where transformers cannot say what it expects (a model that it does not know, weights that are
    quantized), nothing is checked: the engine has to say.

    Raises:
        CheckpointError: naming the first tensors that are missing, too many or of another shape.
    """
    headers = tensor_headers(folder)
    if getattr(config, "quantization_config", None) is not None:
        return CheckedNames()
    try:
        model, info = _dry_load(config, headers)
    except Exception:  # the loaders raise whatever their files make them raise
        # Experts are merged into one tensor: if one is missing, the error does not name it.
        _check_gaps(folder, list(headers))
        return CheckedNames()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    extra = check_loading(folder, info, expected, list(headers), config)
    return CheckedNames(extra=extra, n_token_ids=_n_rows(model))


def check_token_ids(
    folder: Path, tokenizer: PreTrainedTokenizerBase, n_token_ids: int | None
) -> None:
    """Return if every token of the tokenizer has a row in the embedding.

    Rows without a token are fine: embeddings are padded. So are tokens that stand for an image or
    a sound, which no text of a benchmark is split into.

    Args:
        folder: of the checkpoint, for the message.
        tokenizer: of the checkpoint.
        n_token_ids: rows of the embedding; None checks nothing.

    Raises:
        CheckpointError: naming the token of the largest id.
    """
    if n_token_ids is None:
        return
    special = set(tokenizer.all_special_tokens)
    beyond = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number >= n_token_ids and not (_PLACEHOLDER.search(token) and token not in special)
    }
    if not beyond:
        return
    token = max(beyond, key=lambda name: beyond[name])
    raise CheckpointError(
        f"the tokenizer in {folder} has {len(beyond)} tokens beyond the embedding, the last one "
        f"{token!r} with id {beyond[token]}",
        why=f"the embedding has {n_token_ids} rows, for the ids 0 to {n_token_ids - 1}",
        fix="Take the tokenizer that the model was trained with; or, if tokens were added for "
        "training, save the model after model.resize_token_embeddings(len(tokenizer))",
    )


def check_loading(
    folder: Path,
    info: Mapping[str, Any],
    expected: Mapping[str, Sequence[int]],
    names: Collection[str],
    config: PretrainedConfig,
) -> tuple[str, ...]:
    """What transformers found on loading, judged.

    Args:
        folder: of the checkpoint, for messages.
        info: as `from_pretrained(..., output_loading_info=True)` gives it.
        expected: shapes of the model's own tensors.
        names: tensors in the files.
        config: of the model.

    Returns:
        Tensors of further heads, which are ignored.

    Raises:
        CheckpointError: if a tensor is missing, too many or of another shape.
    """
    missing = sorted(info["missing_keys"], key=_natural)
    unexpected = sorted(info["unexpected_keys"], key=_natural)
    if missing or info["mismatched_keys"]:
        _check_gaps(folder, names)
    if missing:
        raise _missing_error(folder, missing, names, config)
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"], key=lambda item: _natural(item[0]))
        n_others = len(info["mismatched_keys"]) - 1
        raise CheckpointError(
            f"tensor {name} in {folder} has the shape {_shape(found)}, and config.json asks for "
            f"{_shape(wanted)}" + (f" (and {_n_tensors(n_others)} more)" if n_others else ""),
            why="config.json belongs to other weights, or a part of the tensor is missing",
            fix="Put the config.json of this very checkpoint beside the weights",
        )
    adapter = [name for name in unexpected if _ADAPTER_PART.search(name)]
    if adapter:
        raise _adapter_error(f"{folder} holds more than its model", adapter)
    owned = [name for name in unexpected if _belongs(name, expected, names, config)]
    if owned:
        raise CheckpointError(
            f"{folder} holds {_n_tensors(len(owned))} that the model of its config.json does "
            f"not have: {_first(owned)}",
            why="the weights belong to a larger model, or to one with other parts, and only a part "
            "of it would be measured",
            fix=f"Put the config.json of this very checkpoint beside the weights"
            f" (num_hidden_layers is {_n_layers(config)} in this one)",
        )
    return tuple(name for name in unexpected if not _is_old_buffer(name, names))


def _dry_load(
    config: PretrainedConfig, headers: Mapping[str, TensorHeader]
) -> tuple[Any, Mapping[str, Any]]:
    """Load tensors without content; the model, and what transformers says of its loading."""
    import torch
    from transformers import AutoModelForCausalLM

    tensors = {
        name: torch.empty(header.shape, device="meta", dtype=torch.float32)
        for name, header in headers.items()
    }
    with quiet_loading():
        with torch.device("meta"):
            kind: Any = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return model, info


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' progress bar and its table of keys out of the terminal."""
    from transformers.utils import logging as transformers_logging

    is_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if is_shown:
            transformers_logging.enable_progress_bar()


def _missing_error(
    folder: Path, missing: Sequence[str], names: Collection[str], config: PretrainedConfig
) -> CheckpointError:
    what = f"{folder} lacks {_n_tensors(len(missing))} of its model: {_first(missing)}"
    adapter = sorted((name for name in names if _ADAPTER_PART.search(name)), key=_natural)
    if adapter:
        return _adapter_error(what, adapter)
    parts = _prefixes(missing, names)
    if parts:
        shown = " and ".join(
            f"{part!r}" + (f" (written by {_WRITTEN_BY[part]})" if part in _WRITTEN_BY else "")
            for part in parts
        )
        return CheckpointError(
            what,
            why=f"the names in its files hold {shown}, which those of the model do not",
            # The full stop that ends a message must not end a command.
            fix="Remove it from the names, which rewrites the files: "
            f"{_renaming(folder, parts)}  # then run this again",
        )
    if all(name.startswith("lm_head.") for name in missing):
        return CheckpointError(
            what,
            why="without it the output is random numbers; tie_word_embeddings is "
            f"{str(config.tie_word_embeddings).lower()} in config.json, so the embedding does not "
            "stand for it",
            fix="Save the model again with its head. Only if it was trained with the head tied to "
            'the embedding, write "tie_word_embeddings": true into config.json',
        )
    return CheckpointError(
        what,
        why="transformers would put random numbers in their place; the files hold "
        f"{_n_tensors(len(names))}, and config.json has {_n_layers(config)} layers",
        fix="Save the whole model again with save_pretrained, or put the config.json of this very "
        "checkpoint beside the weights",
    )


def _adapter_error(what: str, adapter: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        what,
        why=f"it holds the parts of an adapter that was not merged: {_first(adapter)}",
        fix="Merge it, and save the whole model: "
        "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)",
    )


def _prefixes(missing: Sequence[str], names: Collection[str]) -> list[str]:
    """Parts of the files' names without which they are the missing ones; none if that is not why.

    First what stands in the middle or at the front by a wrapper's habit, then any common front.
    """
    inner = sorted({part for name in names for part in _INNER_WRAPPERS.findall(name)})
    bare = {_INNER_WRAPPERS.sub("", name) for name in names}
    if bare.issuperset(missing):
        return inner
    fronts = {
        name.removesuffix(missing[0])
        for name in bare
        if name.endswith(f".{missing[0]}") and name != missing[0]
    }
    for front in sorted(fronts, key=len):
        if all(front + name in bare for name in missing):
            return [*inner, front]
    return []


def _renaming(folder: Path, parts: Sequence[str]) -> str:
    """A command that takes the parts out of all names in the folder's files."""
    taken = "".join(
        f".replace({part!r}, '')" if _INNER_WRAPPERS.fullmatch(part) else f".removeprefix({part!r})"
        for part in parts
    )
    return (
        'python -c "import glob; from safetensors.torch import load, save_file; '
        f"[save_file({{k{taken}: v for k, v in load(open(f, 'rb').read()).items()}}, f, "
        f"{{'format': 'pt'}}) for f in glob.glob('{folder}/*.safetensors')]\""
    )


def _belongs(
    name: str, expected: Collection[str], names: Collection[str], config: PretrainedConfig
) -> bool:
    """Whether a tensor that the model does not use is a part of its architecture."""
    if _is_old_buffer(name, names) or _is_next_token_layer(name, config):
        return False
    pattern = _pattern(name)
    patterns = {_pattern(other) for other in expected}
    # Files of the model without its head leave the first part of the name out.
    fronts = {"", *(other.partition(".")[0] + "." for other in expected)}
    owners = {other.rpartition(".")[0] for other in patterns}
    blocks = {other.partition(".*.")[0] for other in patterns if ".*." in other}
    return any(
        front + pattern in patterns
        or (front + pattern).rpartition(".")[0] in owners
        or (".*." in pattern and (front + pattern).partition(".*.")[0] in blocks)
        for front in fronts
    )


def _is_old_buffer(name: str, names: Collection[str]) -> bool:
    # GPT-2 and GPT-NeoX kept their causal mask as `attn.bias`; a bias has a weight beside it.
    owner, _, leaf = name.rpartition(".")
    return bool(_OLD_BUFFER.search(name)) or (leaf == "bias" and f"{owner}.weight" not in names)


def _is_next_token_layer(name: str, config: PretrainedConfig) -> bool:
    """Whether it is of a layer for multi-token prediction, which are numbered after the others."""
    text: Any = config.get_text_config()
    n_further = getattr(text, "num_nextn_predict_layers", None) or 0
    number = re.search(r"\.layers\.(\d+)\.", name)
    return bool(number) and 0 <= int(number[1]) - text.num_hidden_layers < n_further  # type: ignore[index]


def _check_gaps(folder: Path, names: Collection[str]) -> None:
    """Return if all experts are there, each with the tensors that the others have.

    Raises:
        CheckpointError: naming the first tensors that are missing.
    """
    # Of each kind of tensor in an expert: the layers and, in each, the experts that have it.
    kinds: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for name in names:
        parts = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if parts:
            kind = (_pattern(parts[1]), parts[3])
            kinds.setdefault(kind, set()).add((parts[1], parts[2]))
    blocks: dict[str, set[tuple[str, str]]] = {}
    for (block, _), own in kinds.items():
        blocks.setdefault(block, set()).update(own)
    missing = [
        f"{layer}.{expert}.{leaf}"
        for (block, leaf), own in kinds.items()
        for layer in {layer for layer, _ in blocks[block]}
        for expert in {expert for _, expert in blocks[block]}
        if (layer, expert) not in own
    ]
    if missing:
        missing.sort(key=_natural)
        raise CheckpointError(
            f"{folder} lacks {_n_tensors(len(missing))} of its model: {_first(missing)}",
            why="the other experts have them",
            fix="Save the whole model again with save_pretrained",
        )


def _n_rows(model: Any) -> int | None:
    with contextlib.suppress(NotImplementedError, AttributeError):
        return int(model.get_input_embeddings().weight.shape[0])
    return None


def _n_layers(config: PretrainedConfig) -> str:
    return str(getattr(config.get_text_config(), "num_hidden_layers", "an unknown number of"))


def _n_tensors(n: int) -> str:
    return "1 tensor" if n == 1 else f"{n:,} tensors"


def _first(names: Sequence[str]) -> str:
    further = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + further


def _pattern(name: str) -> str:
    """The name with `*` for every number of a layer or expert."""
    return re.sub(r"\.\d+(?=\.)", ".*", f".{name}").removeprefix(".")


def _natural(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "()"
