"""Checks of the headers of weight files, which need neither torch nor transformers.

They find names that a wrapper changed, missing or surplus layers, a missing head, and a tokenizer
with more tokens than the embedding has rows, in a fraction of a second. Only certain errors are
reported: layers are counted only for models whose layers are all alike. `weight_names.py` then
lets transformers check the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.weight_errors import (
    ADAPTER_PART,
    INNER_WRAPPERS,
    adapter_error,
    count,
    missing_error,
    natural,
    shape_error,
    surplus_error,
    token_error,
)
from rlready.evaluators.checkpoints.weight_files import TensorHeader, tensor_headers
from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object

# In these models every layer has the same tensors, and `num_hidden_layers` counts the layers.
_ALIKE = frozenset(
    (
        *("gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral"),
        *("olmo2", "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2"),
    )
)
_LAYER = re.compile(r"((?:^|.*\.)(?:layers|h)\.)(\d+)\.(.+)")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
_INTEGERS = ("I", "U", "BOOL")
"""Beginnings of the names that safetensors gives to integer formats: I8, U8, I32, BOOL, ..."""
_MOST_DOTS = 2
"""Most dots in the name of an embedding or a head, as in `model.embed_tokens.weight`."""
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings)\.weight$")
# With `INNER_WRAPPERS`: no model of transformers has names with these parts.
_FRONT_WRAPPERS = re.compile(r"^(?:(?:module|base_model\.model)\.)+")
# The usual name of an embedding, after the prefix of an unknown wrapper.
_FRONTED = re.compile(
    r"(.+?\.)((?:model\.embed_tokens|transformer\.wte|gpt_neox\.embed_in)\.weight)"
)
# transformers removes the first itself (Lightning); the second belongs to multimodal models.
_TAKEN_FRONTS = re.compile(r"model\.|.*language_model\..*")
# Multimodal tokenizers have placeholder tokens for images, even in text-only models.
_PLACEHOLDER = re.compile(r"image|img|video|audio|vision", re.IGNORECASE)


def check_headers(folder: Path) -> None:
    """Check the tensors' names and shapes as far as that is possible without transformers."""
    headers = tensor_headers(folder)
    if not headers:
        raise CheckpointError(
            f"the weight files in {folder} are empty: they hold no tensor",
            why="saving was cut short, or the process that saved held no weights (FSDP, DeepSpeed)",
            fix="Save the whole model again with save_pretrained, or copy the folder again",
        )
    config = read_json_object(folder / "config.json", CheckpointError, constant=str)
    if config.get("quantization_config"):
        return
    n_layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = sorted(headers, key=natural)
    adapter = [name for name in names if ADAPTER_PART.search(name)]
    if adapter:
        raise adapter_error(f"{folder} does not hold the weights of a whole model", adapter)
    whole = [n for n in names if n.endswith(".weight") and headers[n].kind.startswith(_INTEGERS)]
    if whole:
        others = f" and {count(len(whole) - 1)} more" if whole[1:] else ""
        raise CheckpointError(
            f"tensor {whole[0]}{others} in {folder} holds whole numbers ({headers[whole[0]].kind})",
            why="they are quantized, and config.json has no quantization_config that says how to "
            "read them: taken as they are, they would be other weights",
            fix="Copy the config.json of the quantized checkpoint, or save the model unquantized",
        )
    bare = [_FRONT_WRAPPERS.sub("", INNER_WRAPPERS.sub("", name)) for name in names]
    if not set(bare) & set(names):
        raise missing_error(folder, sorted(bare, key=natural), names, n_layers, False)
    if config.get("model_type") in _ALIKE and isinstance(n_layers, int):
        _check_front(folder, names, n_layers)
        _check_layers(folder, names, n_layers)
        if config.get("tie_word_embeddings") is False and not any(map(_HEAD.search, names)):
            head = "embed_out.weight" if config["model_type"] == "gpt_neox" else "lm_head.weight"
            raise missing_error(folder, [head], names, n_layers, False)
        _check_shapes(folder, headers, config)
    _check_tokenizer(folder, headers)


def tokens_beyond(vocabulary: Mapping[str, int], n_token_ids: int) -> dict[str, int]:
    """Return tokens beyond the embedding's rows, without those for images or sounds.

    No text contains the latter.
    """
    return {
        token: number
        for token, number in vocabulary.items()
        if number >= n_token_ids and not _PLACEHOLDER.search(token)
    }


def _check_front(folder: Path, names: Collection[str], n_layers: int) -> None:
    """Check that the name of the embedding has no unknown prefix."""
    for embedding in filter(None, map(_FRONTED.fullmatch, names)):
        front = embedding[1]
        if embedding[2] not in names and not _TAKEN_FRONTS.fullmatch(front):
            bare = [name.removeprefix(front) for name in names if name.startswith(front)]
            raise missing_error(folder, sorted(bare, key=natural), names, n_layers, False)


def _check_layers(folder: Path, names: Collection[str], n_layers: int) -> None:
    parts = [match for match in map(_LAYER.fullmatch, names) if match]
    # An additional head may have layers of its own.
    fronts = Counter(match[1] for match in parts)
    parts = [match for match in parts if match[1] == max(fronts, key=lambda name: fronts[name])]
    layers: dict[int, set[str]] = {}
    for match in parts:
        layers.setdefault(int(match[2]), set()).add(match[3])
    if not layers:
        return
    surplus = [match[0] for match in parts if int(match[2]) >= n_layers]
    if surplus:
        raise surplus_error(folder, surplus, n_layers)
    # An old buffer may have been saved in some layers only.
    common = Counter(leaf for leaves in layers.values() for leaf in leaves)
    usual = [leaf for leaf, n in common.items() if 2 * n > len(layers)]
    missing = [
        f"{parts[0][1]}{number}.{leaf}"
        for number in range(n_layers)
        for leaf in usual
        if leaf not in layers.get(number, ())
    ]
    if missing:
        missing.sort(key=natural)
        raise missing_error(folder, missing, names, n_layers, False)


def _check_shapes(
    folder: Path, headers: Mapping[str, TensorHeader], config: Mapping[str, Any]
) -> None:
    """Check the shapes of the embedding and the head against config.json."""
    n_rows, width = config.get("vocab_size"), config.get("hidden_size", config.get("n_embd"))
    if not isinstance(n_rows, int) or not isinstance(width, int):
        return
    wanted = (n_rows, width)
    for name, header in headers.items():
        # A longer name may belong to an additional head.
        is_checked = _EMBEDDING.search(name) or _HEAD.search(name)
        if is_checked and name.count(".") <= _MOST_DOTS and header.shape != wanted:
            raise shape_error(folder, name, header.shape, wanted)


def _check_tokenizer(folder: Path, headers: Mapping[str, TensorHeader]) -> None:
    rows = [header.shape[0] for name, header in headers.items() if _EMBEDDING.search(name)]
    path = folder / "tokenizer.json"
    if len(rows) != 1 or not path.is_file():
        return
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(path))
    except Exception:  # the library has no exception class; `load_tokenizer` reports the reason
        return
    beyond = tokens_beyond(tokenizer.get_vocab(with_added_tokens=True), rows[0])
    if beyond:
        raise token_error(folder, beyond, rows[0])
