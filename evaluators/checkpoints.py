"""From what a user names to a checked folder of weights, a tokenizer and a model.

Only safetensors are read and no code from a checkpoint is run: a pickle or a `modeling_*.py` could
do anything on the machine that evaluates it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
LARGE_BYTES = 2_000_000_000
"""Weights from here on take seconds to read."""

_JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_AGAIN = "Copy or download the folder again"
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A folder of weights that passed the checks.

    Args:
        path: the folder.
        uri: where the weights are, for the registry: `file:///...` or `hf://org/name@commit`.
        name: for people.
    """

    path: Path
    uri: str
    name: str


def open_weights(reference: str) -> Weights:
    """The checked weights that a user names.

    Args:
        reference: a local folder, or a hub id `org/name` or `org/name@revision`.

    Raises:
        CheckpointError: if there is no such checkpoint, or it cannot be loaded safely.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        path = path.resolve()
        check_folder(path)
        return Weights(path=path, uri=path.as_uri(), name=_folder_name(path))
    if path.exists():
        raise CheckpointError(
            f"{reference} is a file", fix="Name the folder that holds config.json and the weights"
        )
    if reference.count("/") == 1 and not reference.startswith((".", "/", "~")):
        return _download(reference)
    raise CheckpointError(
        f"there is no folder {reference}",
        fix="Name a folder written by save_pretrained, or a hub id such as org/name@revision",
    )


def check_folder(path: Path) -> None:
    """Return if the folder is a whole, safe checkpoint.

    Raises:
        CheckpointError: saying what is missing or refused.
    """
    has_weights = any(path.glob("*.safetensors"))
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} holds an adapter without its base model",
            why="an adapter alone draws no samples",
            fix="Merge it first: PeftModel.from_pretrained(base, path).merge_and_unload()"
            ".save_pretrained(folder)",
        )
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} holds no config.json",
            why="it is no folder that save_pretrained wrote" + _nearby(path),
            fix="Name the checkpoint's own folder",
        )
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    pickles = [name for name in pickles if name != "training_args.bin"]
    if not has_weights and pickles:
        raise CheckpointError(
            f"{path} holds pickled weights only ({', '.join(pickles[:3])})",
            why="loading a pickle can run any code, so they are refused",
            fix='Convert them on a machine that you trust with them: python -c "from transformers '
            f"import AutoModelForCausalLM as M; M.from_pretrained('{path}')"
            f".save_pretrained('{path}-safetensors')\", and copy the tokenizer files beside them",
        )
    if not has_weights:
        raise CheckpointError(
            f"{path} holds no weights", why="there is no *.safetensors file in it"
        )
    _check_json(path)
    _check_shards(path)
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(
            f"{path} holds no tokenizer",
            why=f"none of {', '.join(_TOKENIZERS)} is there",
            fix="Save it beside the weights: tokenizer.save_pretrained(folder)",
        )


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, padding on the left.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the loaders raise whatever their files make them raise
        for name in _TOKENIZERS:
            if name.endswith(".json") and (path / name).is_file():
                read_json_object(path / name, CheckpointError, fix=_AGAIN)
        raise CheckpointError(
            f"the tokenizer in {path} cannot be loaded", why=_brief(error)
        ) from error
    tokenizer.padding_side = "left"
    return tokenizer


def load_config(path: Path) -> PretrainedConfig:
    """The checkpoint's configuration.

    Raises:
        CheckpointError: if it cannot be loaded, or needs code of its own.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the same
        raise CheckpointError(
            f"the configuration in {path} cannot be loaded", why=_brief(error)
        ) from error
    return config


def load_model(path: Path, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The checkpoint's model in evaluation mode.

    Raises:
        CheckpointError: if it cannot be loaded, or needs code of its own.
    """
    from transformers import AutoModelForCausalLM

    try:
        with _bar_if_large(path):
            model: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
            )
        model = model.to(device)
    except Exception as error:  # the same
        raise CheckpointError(f"the model in {path} cannot be loaded", why=_brief(error)) from error
    loaded: PreTrainedModel = model.eval()
    return loaded


def pick_device(wanted: str) -> str:
    """The torch device to use: `auto` is the first GPU if there is one.

    Raises:
        CheckpointError: if the device is not there.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if has_cuda else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise CheckpointError(
            f"{wanted!r} is no device", fix="Known: auto, cpu, cuda, cuda:N"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise CheckpointError(f"device {wanted!r} is not supported", fix="Take auto, cpu or cuda")
    if device.type == "cuda" and (not has_cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise CheckpointError(
            f"there is no device {wanted}",
            why=f"torch sees {torch.cuda.device_count() if has_cuda else 0} CUDA devices",
            fix="Take --device cpu, or install a CUDA build of torch",
        )
    return wanted


def pick_dtype(device: str) -> torch.dtype:
    """bfloat16 on a GPU that has it, float32 elsewhere."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def _check_json(path: Path) -> None:
    """Before transformers reads them: what it says of a hostile file helps nobody."""
    for name in _JSON_FILES:
        if (path / name).is_file():
            read_json_object(path / name, CheckpointError, fix=_AGAIN, constant=str)


def _check_shards(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = set(read_json_object(index, CheckpointError, fix=_AGAIN)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is no index of weights", why=_brief(error), fix=_AGAIN
        ) from error
    missing = sorted(name for name in shards if not (path / str(name)).is_file())
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of {len(shards)} weight files ({missing[0]}, ...)",
            why="its index names them",
            fix=_AGAIN,
        )


def _download(reference: str) -> Weights:
    from huggingface_hub import snapshot_download

    repo_id, _, revision = reference.partition("@")
    try:
        path = Path(
            snapshot_download(repo_id, revision=revision or None, allow_patterns=_HUB_FILES)
        )
    except Exception as error:  # unreachable hub, unknown id, no permission: all end here
        raise CheckpointError(
            f"there is no folder {reference}, and no model of that id could be fetched",
            why=_brief(error),
            fix="Name a local folder, or check the id, the network and HF_TOKEN",
        ) from error
    check_folder(path)
    # A snapshot's folder carries the commit that the revision stood for.
    return Weights(path=path, uri=f"hf://{repo_id}@{path.name}", name=repo_id.split("/")[1])


@contextlib.contextmanager
def _bar_if_large(path: Path) -> Iterator[None]:
    """Show transformers' progress bar only where there is progress to watch."""
    from transformers.utils import logging

    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    is_hidden = size < LARGE_BYTES and logging.is_progress_bar_enabled()
    if is_hidden:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_hidden:
            logging.enable_progress_bar()


def _folder_name(path: Path) -> str:
    # Trainers name their folders `checkpoint-500`: alone that says nothing.
    return f"{path.parent.name}-{path.name}" if path.name.startswith("checkpoint") else path.name


def _nearby(path: Path) -> str:
    inside = sorted(folder.parent.name for folder in path.glob("*/config.json"))
    return f"; its sub-folders {', '.join(inside[:5])} look like checkpoints" if inside else ""


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
