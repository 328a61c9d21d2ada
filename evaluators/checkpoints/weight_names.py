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
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.weight_errors import (
    ADAPTER_PART,
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
from rlready.evaluators.checkpoints.weight_glance import tokens_beyond
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Buffers that older versions of transformers saved, for example the causal mask of GPT-2 and
# GPT-NeoX as `attn.bias`. They are made anew from the configuration.
_OLD_BUFFER = re.compile(
    r"(^|\.)(position_ids|masked_bias|causal_mask|rotary_(pos_)?emb\.\w+|inv_freq"
    r"|(self_)?(attn|attention)\.bias)$"
)

_TOKEN_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


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
    """Return if every token of the tokenizer's files has a row in the embedding.

    A tokenizer's class may add special tokens by itself, such as Qwen2's unknown token: no user
    put them there, and a prompt that holds one is an error when it is read.

    Args:
        folder: of the checkpoint, with the tokenizer's files.
        tokenizer: of the checkpoint.
        n_token_ids: rows of the embedding; None checks nothing.

    Raises:
        CheckpointError: naming the token of the largest id.
    """
    if n_token_ids is None:
        return
    beyond = tokens_beyond(tokenizer.get_vocab(), n_token_ids)
    beyond = {token: n for token, n in beyond.items() if _is_in_files(token, folder)}
    if beyond:
        raise token_error(folder, beyond, n_token_ids)


def _is_in_files(token: str, folder: Path) -> bool:
    """Whether the tokenizer's files name a token; True where they are not all JSON."""
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
    missing = sorted(info["missing_keys"], key=natural)
    unexpected = sorted(info["unexpected_keys"], key=natural)
    if missing or info["mismatched_keys"]:
        _check_gaps(folder, names)
    if missing:
        raise missing_error(
            folder, missing, names, _n_layers(config), bool(config.tie_word_embeddings)
        )
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"], key=lambda item: natural(item[0]))
        raise shape_error(folder, name, found, wanted, len(info["mismatched_keys"]) - 1)
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


def _belongs(name: str, expected: Collection[str], config: PretrainedConfig) -> bool:
    """Whether a tensor that the model does not use is a part of its architecture."""
    if _OLD_BUFFER.search(name) or _is_next_token_layer(name, config):
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
        missing.sort(key=natural)
        raise CheckpointError(
            f"{folder} lacks {count(len(missing))} of its model: {first_names(missing)}",
            why="the other experts have them",
            fix="Save the whole model again with save_pretrained",
        )


def _n_rows(model: Any) -> int | None:
    with contextlib.suppress(NotImplementedError, AttributeError):
        return int(model.get_input_embeddings().weight.shape[0])
    return None


def _n_layers(config: PretrainedConfig) -> str:
    return str(getattr(config.get_text_config(), "num_hidden_layers", "an unknown number of"))


def _pattern(name: str) -> str:
    """The name with `*` for every number of a layer or expert."""
    return re.sub(r"\.\d+(?=\.)", ".*", f".{name}").removeprefix(".")
