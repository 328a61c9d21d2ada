"""The errors for weights that do not match the model in config.json; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rlready.registry.errors import CheckpointError

_NAMED = 3
"""Tensors that a message names."""

# Parts that wrappers insert into a name: FSDP, activation checkpointing, torch.compile.
INNER_WRAPPERS = re.compile(
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
KV_SCALE = re.compile(r"\.(kv|[kvq])_scale$|\.[kv]_proj\.output_scale$")
"""Names of the scales of a quantized key-value cache, such as `self_attn.k_proj.k_scale`."""
ADAPTER_PART = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\b")


def missing_error(
    folder: Path, missing: Sequence[str], names: Collection[str], n_layers: object, is_tied: bool
) -> CheckpointError:
    """Return the error for missing tensors, with the fix if the names in the files show one.

    `n_layers` and `is_tied` are num_hidden_layers and tie_word_embeddings of config.json.
    """
    what = f"{folder} lacks {count(len(missing))} of its model: {first_names(missing)}"
    adapter = sorted((name for name in names if ADAPTER_PART.search(name)), key=natural)
    if adapter:
        return adapter_error(what, adapter)
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
            f"{str(is_tied).lower()} in config.json, so the embedding does not "
            "replace it",
            fix="Save the model again with its head. Only if it was trained with the head tied to "
            'the embedding, write "tie_word_embeddings": true into config.json',
        )
    return CheckpointError(
        what,
        why="transformers would put random numbers in their place; the files hold "
        f"{count(len(names))}, and config.json has {n_layers} layers",
        fix="Save the whole model again with save_pretrained, or put the config.json of this very "
        "checkpoint beside the weights",
    )


def adapter_error(what: str, adapter: Sequence[str]) -> CheckpointError:
    """Return the error for weights that hold tensors of an adapter."""
    return CheckpointError(
        what,
        why=f"it holds the parts of an adapter that was not merged: {first_names(adapter)}",
        fix="Merge it, and save the whole model: "
        "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)",
    )


def _prefixes(missing: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the parts to remove from the files' names to get the missing names, if any do.

    Known parts of wrappers are tried first, then any common prefix.
    """
    inner = sorted({part for name in names for part in INNER_WRAPPERS.findall(name)})
    bare = {INNER_WRAPPERS.sub("", name) for name in names}
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
    """Return a command that removes the parts from all names in the folder's files."""
    taken = "".join(
        f".replace({part!r}, '')" if INNER_WRAPPERS.fullmatch(part) else f".removeprefix({part!r})"
        for part in parts
    )
    return (
        'python -c "from pathlib import Path; from safetensors.torch import load, save_file; '
        f"[save_file({{k{taken}: v for k, v in load(f.read_bytes()).items()}}, f, "
        f"{{'format': 'pt'}}) for f in Path({str(folder)!r}).glob('*.safetensors')]\""
    )


def surplus_error(folder: Path, surplus: Sequence[str], n_layers: object) -> CheckpointError:
    """Return the error for surplus tensors of the architecture."""
    return CheckpointError(
        f"{folder} holds {count(len(surplus))} that the model of its config.json does not have: "
        f"{first_names(surplus)}",
        why="the weights belong to a larger model or to one with other parts, of which only a part "
        "would be measured",
        fix="Put the config.json of this very checkpoint beside the weights (num_hidden_layers is "
        f"{n_layers} in this one)",
    )


def shape_error(
    folder: Path, name: str, shape: Sequence[int], wanted: Sequence[int], n_others: int = 0
) -> CheckpointError:
    """Return the error for a tensor, and `n_others` more, of a wrong shape."""
    others = f" (and {count(n_others)} more)" if n_others else ""
    return CheckpointError(
        f"tensor {name} in {folder} has the shape {shape_text(shape)}, and config.json asks for "
        f"{shape_text(wanted)}{others}",
        why="config.json belongs to other weights, or a part of the tensor is missing",
        fix="Put the config.json of this very checkpoint beside the weights",
    )


def token_error(folder: Path, beyond: Mapping[str, int], n_token_ids: int) -> CheckpointError:
    """Return the error for tokens that have no row in the embedding."""
    token = max(beyond, key=lambda name: beyond[name])
    return CheckpointError(
        f"the tokenizer in {folder} has {len(beyond)} token{'s' * (len(beyond) > 1)} beyond the "
        f"embedding, the last one {token!r} with id {beyond[token]}",
        why=f"the embedding has {n_token_ids} rows, for the ids 0 to {n_token_ids - 1}",
        fix="Take the tokenizer that the model was trained with; or, if tokens were added for "
        "training, save the model after model.resize_token_embeddings(len(tokenizer))",
    )


def count(n: int) -> str:
    """Return a number of tensors in words."""
    return "1 tensor" if n == 1 else f"{n:,} tensors"


def first_names(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    further = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + further


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts layer 2 before layer 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text, such as `64 x 128`."""
    return " x ".join(map(str, shape)) or "()"
