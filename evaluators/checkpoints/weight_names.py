"""Check that the weights in a folder belong to the model that its config.json describes.

transformers fills missing tensors with random numbers and ignores unknown ones. So its loader runs
first on tensors without content (torch's meta device), with the names and shapes in the files'
headers. It renames, merges and ties tensors as it does on loading, and reports what is left over.
Only headers are read: a model of 80 layers takes well under a second.

Errors: missing tensors, wrong shapes, and surplus tensors of the architecture (an additional layer,
an additional bias). Ignored with a warning: tensors of additional heads (`v_head.*`), scales of a
quantized key-value cache and TransformerEngine's `_extra_state`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.header_checks import tokens_beyond
from rlready.evaluators.checkpoints.weight_errors import (
    ADAPTER_PART,
    KV_SCALE,
    adapter_error,
    count,
    first_names,
    missing_error,
    natural,
    shape_error,
    surplus_error,
    token_error,
)
from rlready.evaluators.checkpoints.weight_files import TensorHeader, tensor_headers
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Buffers that older versions of transformers saved, for example the causal mask of GPT-2 and
# GPT-NeoX as `attn.bias`. Today they are computed from the configuration.
_OLD_BUFFER = re.compile(
    r"(^|\.)(position_ids|masked_bias|causal_mask|rotary_(pos_)?emb\.\w+|inv_freq"
    r"|(self_)?(attn|attention)\.bias)$"
)

# The first is written by TransformerEngine. The others scale a key-value cache of 8-bit numbers,
# and the engines here keep the cache in the model's own number format.
_NO_PARAMETER = re.compile(r"(^|\.)_extra_state$|" + KV_SCALE.pattern)

_TOKEN_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True, kw_only=True)
class CheckedNames:
    """Unused tensors (such as a value head's), and rows of the embedding, None if unknown."""

    extra: tuple[str, ...] = ()
    n_token_ids: int | None = None


def check_names(folder: Path, config: PretrainedConfig) -> CheckedNames:
    """Check names and shapes of the weights against the configuration; reads headers only.

    Unknown models and quantized weights are not checked here, but by the engine that loads them.
    """
    headers = tensor_headers(folder)
    if getattr(config, "quantization_config", None) is not None:
        return CheckedNames()
    try:
        model, info = _dry_load(config, headers)
    except Exception:  # the files can make the loaders raise anything
        # Experts are merged into one tensor. If one is missing, the error does not name it.
        _check_gaps(folder, list(headers))
        return CheckedNames()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    extra = check_loading(folder, info, expected, list(headers), config)
    n_token_ids = None
    with contextlib.suppress(NotImplementedError, AttributeError):
        n_token_ids = int(model.get_input_embeddings().weight.shape[0])
    return CheckedNames(extra=extra, n_token_ids=n_token_ids)


def check_token_ids(
    folder: Path, tokenizer: PreTrainedTokenizerBase, n_token_ids: int | None
) -> None:
    """Check that every token of the tokenizer's files has a row in the embedding, if it is known.

    Special tokens that only the tokenizer's class adds, such as Qwen2's unknown token, are allowed.
    `check_prompts` raises an error if a prompt contains one.
    """
    if n_token_ids is None:
        return
    beyond = tokens_beyond(tokenizer.get_vocab(), n_token_ids)
    beyond = {token: n for token, n in beyond.items() if _is_in_files(token, folder)}
    if beyond:
        raise token_error(folder, beyond, n_token_ids)


def _is_in_files(token: str, folder: Path) -> bool:
    """Return whether the tokenizer's files contain a token; True if they are not all JSON."""
    if not (folder / "tokenizer.json").is_file():
        return True
    paths = [folder / name for name in _TOKEN_FILES if (folder / name).is_file()]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    # JSON may escape what is not ASCII.
    forms = {json.dumps(token), json.dumps(token, ensure_ascii=False)}
    return any(form in text for text in texts for form in forms)


def check_loading(
    folder: Path,
    info: Mapping[str, Any],
    expected: Mapping[str, Sequence[int]],
    names: Collection[str],
    config: PretrainedConfig,
) -> tuple[str, ...]:
    """Check the report of transformers' loader; return the names of ignored tensors.

    Args:
        folder: of the checkpoint, for messages.
        info: report of `from_pretrained(..., output_loading_info=True)`.
        expected: shapes of the model's own tensors.
        names: of the tensors in the files.
        config: of the model.

    Raises:
        CheckpointError: naming the first tensors that are missing, surplus or of another shape.
    """
    missing = sorted(info["missing_keys"], key=natural)
    unexpected = sorted(info["unexpected_keys"], key=natural)
    if missing or info["mismatched_keys"]:
        _check_gaps(folder, names)
    if missing:
        raise missing_error(
            folder, missing, names, _n_layers(config), bool(config.tie_word_embeddings)
        )
    if info["mismatched_keys"]:
        name, shape, wanted = min(info["mismatched_keys"], key=lambda item: natural(item[0]))
        raise shape_error(folder, name, shape, wanted, len(info["mismatched_keys"]) - 1)
    adapter = [name for name in unexpected if ADAPTER_PART.search(name)]
    if adapter:
        raise adapter_error(f"{folder} holds more than its model", adapter)
    owned = [name for name in unexpected if _belongs(name, expected, config)]
    if owned:
        raise surplus_error(folder, owned, _n_layers(config))
    return tuple(name for name in unexpected if not _OLD_BUFFER.search(name))


def _dry_load(
    config: PretrainedConfig, headers: Mapping[str, TensorHeader]
) -> tuple[Any, Mapping[str, Any]]:
    """Load tensors without content; return the model and the loader's report."""
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


def _belongs(name: str, expected: Collection[str], config: PretrainedConfig) -> bool:
    """Return whether an unused tensor is a part of the model's architecture."""
    if any(pattern.search(name) for pattern in (_OLD_BUFFER, _NO_PARAMETER)):
        return False
    if _is_next_token_layer(name, config):
        return False
    pattern = _pattern(name)
    patterns = {_pattern(other) for other in expected}
    # In files of a model without its head, names lack the first part.
    fronts = {"", *(other.partition(".")[0] + "." for other in expected)}
    owners = {other.rpartition(".")[0] for other in patterns}
    blocks = {other.partition(".*.")[0] for other in patterns if ".*." in other}
    return any(
        front + pattern in patterns
        or (front + pattern).rpartition(".")[0] in owners
        or (".*." in pattern and (front + pattern).partition(".*.")[0] in blocks)
        for front in fronts
    )


def _is_next_token_layer(name: str, config: PretrainedConfig) -> bool:
    """Return whether a tensor is in a multi-token prediction layer, numbered after the others."""
    text: Any = config.get_text_config()
    n_further = getattr(text, "num_nextn_predict_layers", None) or 0
    number = re.search(r"\.layers\.(\d+)\.", name)
    return bool(number) and 0 <= int(number[1]) - text.num_hidden_layers < n_further  # type: ignore[index]


def _check_gaps(folder: Path, names: Collection[str]) -> None:
    """Raise a CheckpointError unless all experts exist and have the same tensors."""
    # For each kind of tensor in an expert: the (layer, expert) pairs that have it.
    kinds: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for name in names:
        parts = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if parts:
            kind = (_pattern(parts[1]), parts[3])
            kinds.setdefault(kind, set()).add((parts[1], parts[2]))
    blocks: dict[str, set[tuple[str, str]]] = {}
    for (block, _), experts in kinds.items():
        blocks.setdefault(block, set()).update(experts)
    missing = [
        f"{layer}.{expert}.{leaf}"
        for (block, leaf), experts in kinds.items()
        for layer in {layer for layer, _ in blocks[block]}
        for expert in {expert for _, expert in blocks[block]}
        if (layer, expert) not in experts
    ]
    if missing:
        missing.sort(key=natural)
        raise CheckpointError(
            f"{folder} lacks {count(len(missing))} of its model: {first_names(missing)}",
            why="the other experts have them",
            fix="Save the whole model again with save_pretrained",
        )


def _n_layers(config: PretrainedConfig) -> str:
    return str(getattr(config.get_text_config(), "num_hidden_layers", "an unknown number of"))


def _pattern(name: str) -> str:
    """Return the name with `*` for every number of a layer or expert."""
    return re.sub(r"\.\d+(?=\.)", ".*", f".{name}").removeprefix(".")
