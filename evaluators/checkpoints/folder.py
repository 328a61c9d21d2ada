"""Open a checkpoint that a user names: check its folder, load its tokenizer and its model.

Only safetensors are read, and no code from a checkpoint is run: a pickle or a `modeling_*.py` file
could do anything on the machine that evaluates it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.adapter import (
    MERGE,
    TOKENIZERS,
    Adapter,
    is_adapter,
    read_adapter,
)
from rlready.evaluators.checkpoints.header_checks import check_headers
from rlready.evaluators.checkpoints.weight_errors import KV_SCALE
from rlready.evaluators.checkpoints.weight_files import (
    INDEX_FILE,
    SINGLE_FILE,
    tensor_headers,
    weight_files,
)
from rlready.evaluators.checkpoints.weight_names import (
    check_loading,
    check_names,
    check_token_ids,
    quiet_loading,
)
from rlready.registry.digest import adapter_fingerprint, digest, fingerprint
from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LARGE_BYTES = 2_000_000_000
"""Size of weights from which loading takes seconds, and a progress bar is shown."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
"""Number formats that a user can choose for an engine."""

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
    """The weights of a checkpoint that passed the checks: a whole model, or an adapter on one.

    Args:
        path: folder of the whole model; of an adapter's base model.
        uri: location for the registry: `file:///...` or `hf://org/name@commit`.
        name: short name for people.
        extra: tensors that the model does not use, such as those of a value head.
        base: the base model, if the checkpoint is an adapter.
        adapter: the adapter; None for a whole model.

    Example:
        >>> open_weights("runs/sft/checkpoint-500").name
        'sft-checkpoint-500'
    """

    path: Path
    uri: str
    name: str
    extra: tuple[str, ...] = ()
    base: Weights | None = None
    adapter: Adapter | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint's own folder; for an adapter it is not the one of the whole model."""
        return self.path if self.adapter is None else self.adapter.path

    @property
    def tokenizer_folder(self) -> Path:
        """The folder that holds the tokenizer: the adapter's if it has one."""
        has_own = self.adapter is not None and self.adapter.has_tokenizer
        return self.folder if has_own else self.path

    def fingerprint(self, cache_dir: Path | None = None) -> str:
        """Return the id of the content; of an adapter's files and its base model together."""
        content = fingerprint(self.path, cache_dir)
        if self.adapter is None:
            return content
        return adapter_fingerprint(self.adapter.path, content, cache_dir)

    def warnings(self) -> list[str]:
        """Return sentences about tensors that are ignored."""
        scales = [name for name in self.extra if KV_SCALE.search(name)]
        others = [name for name in self.extra if name not in scales]
        reasons = (
            (scales, "are scales of a quantized key-value cache, which no engine here uses, and"),
            (others, "are not used by the language model and"),
        )
        return [
            f"{self.name}: {len(names)} of its tensors {reason} are ignored "
            f"({', '.join(names[:3])}{', ...' if names[3:] else ''})"
            for names, reason in reasons
            if names
        ]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number format (such as `bfloat16`) and type of device (`cpu` or `cuda`) of a computation.

    Numbers of different precisions are not compared. Those of an unmerged adapter are different
    too: its base model's weights are not rounded after adding the adapter's.
    """

    dtype: str
    device: str
    is_unmerged: bool = False

    @property
    def digest(self) -> str | None:
        """Id of the precision; None for whole weights in float32 on a CPU, as in old records."""
        values = self.to_dict()
        return None if values == {"dtype": "float32", "device": "cpu"} else digest(values)

    def to_dict(self) -> dict[str, str]:
        """Return the precision as JSON values."""
        unmerged = {"adapter": "unmerged"} if self.is_unmerged else {}
        return {"dtype": self.dtype, "device": self.device, **unmerged}


def open_weights(reference: str, base: str | None = None) -> Weights:
    """Check and return the weights that a user names.

    Args:
        reference: a local folder, or a hub id `org/name` or `org/name@revision`.
        base: folder or hub id of the base model, if the weights are those of an adapter; None for
            the one that the adapter names.

    Raises:
        CheckpointError: if there is no such checkpoint, or it cannot be loaded safely.

    Example:
        >>> weights = open_weights("runs/sft/checkpoint-500")
        >>> model = load_model(weights.path, "cpu", torch.float32)
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        path = path.resolve()
        # Trainers name their folders `checkpoint-500`, which does not identify a run.
        run = f"{path.parent.name}-" if path.name.startswith("checkpoint") else ""
        return _checked(path, path.as_uri(), run + path.name, base)
    if path.exists():
        raise CheckpointError(
            f"{reference} is a file", fix="Name the folder that holds config.json and the weights"
        )
    if reference.count("/") == 1 and not reference.startswith((".", "/", "~")):
        repo_id = reference.partition("@")[0]
        path = _download(reference)
        # The name of a snapshot's folder is the commit of the revision.
        return _checked(path, f"hf://{repo_id}@{path.name}", repo_id.split("/")[1], base)
    raise CheckpointError(
        f"there is no folder {reference}",
        fix="Name a folder written by save_pretrained, or a hub id such as org/name@revision",
    )


def _checked(path: Path, uri: str, name: str, base: str | None) -> Weights:
    """Return the weights in a folder after its checks."""
    check_folder(path)
    if not is_adapter(path):
        return Weights(path=path, uri=uri, name=name)
    adapter = read_adapter(path)
    whole = _open_base(adapter, base)
    adapter.check_base(whole.path, tensor_headers(whole.path))
    return Weights(path=whole.path, uri=uri, name=name, base=whole, adapter=adapter)


def _open_base(adapter: Adapter, base: str | None) -> Weights:
    """Return the base model of an adapter: `base`, else the one that its folder names."""
    reference = base or adapter.base_reference
    if reference is None:
        raise CheckpointError(
            f"{adapter.path} does not name its base model",
            why="base_model_name_or_path in adapter_config.json is empty",
            fix="Name it: --base FOLDER",
        )
    beside = adapter.path / reference
    if base is None and not Path(reference).is_dir() and beside.is_dir():
        reference = str(beside)
    if is_adapter(Path(reference)):
        raise CheckpointError(
            f"the base model of {adapter.path} is an adapter itself: {reference}",
            why="an adapter is applied to a whole model",
            fix=f"Merge the first adapter, and name the merged model with --base: {MERGE}",
        )
    try:
        return open_weights(reference)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base model of the adapter {adapter.path} cannot be opened: {error.what}",
            why=error.why,
            fix=f"{'' if base else 'Name it with --base FOLDER. '}{error.fix}",
        ) from error


def folder_fingerprint(folder: Path, cache_dir: Path | None = None) -> str:
    """Return the fingerprint of a whole model or of an adapter, whose base model it reads too.

    Raises:
        CheckpointError: if the folder holds neither, or the base model cannot be opened.
    """
    if is_adapter(folder):
        return open_weights(str(folder)).fingerprint(cache_dir)
    return fingerprint(folder, cache_dir)


def check_folder(path: Path) -> None:
    """Raise a CheckpointError unless the folder is a complete and safe checkpoint or adapter."""
    has_weights = any(path.glob("*.safetensors"))
    if is_adapter(path):
        _check_adapter(path)
        return
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} holds no config.json",
            why="the folder was not written by save_pretrained" + _nearby(path),
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
    for name in _JSON_FILES:  # read here, since transformers does not say which file is damaged
        if (path / name).is_file():
            read_json_object(path / name, CheckpointError, fix=_AGAIN, constant=str)
    weight_files(path)
    if not any((path / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(
            f"{path} holds no tokenizer",
            why=f"none of {', '.join(TOKENIZERS)} is in it",
            fix="Save it beside the weights: tokenizer.save_pretrained(folder)",
        )
    check_headers(path)


def check_weights(path: Path, tokenizer_folder: Path | None = None) -> tuple[str, ...]:
    """Check that the weights match config.json and the tokenizer; reads the files' headers only.

    The tokenizer is that in `tokenizer_folder`, by default in the same folder.

    Returns the names of unused tensors, such as those of a value head. Nothing is checked without
    torch, which is not needed if a server draws the samples.

    Raises:
        CheckpointError: naming the tensors that are missing, surplus or of another shape, or a
            token without a row in the embedding.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return ()
    checked = check_names(path, load_config(path))
    folder = tokenizer_folder or path
    check_token_ids(folder, load_tokenizer(folder), checked.n_token_ids)
    return checked.extra


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer, which then pads on the left.

    Raises:
        CheckpointError: if it cannot be loaded.

    Example:
        >>> load_tokenizer(weights.path).padding_side
        'left'
    """
    from transformers import AutoTokenizer

    with _loading("tokenizer", path, TOKENIZERS):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    tokenizer.padding_side = "left"
    return tokenizer


def load_config(path: Path) -> PretrainedConfig:
    """Load the configuration; raise CheckpointError if it is damaged or needs foreign code."""
    from transformers import AutoConfig

    with _loading("configuration", path):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    return config


def load_model(path: Path, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load the checkpoint's model in evaluation mode.

    Raises:
        CheckpointError: if it cannot be loaded, needs code of its own, or its weights are not those
            of the model in config.json.

    Example:
        >>> load_model(weights.path, "cpu", torch.float32).training
        False
    """
    from transformers import AutoModelForCausalLM

    # A progress bar is shown only if loading takes seconds.
    is_large = sum(file.stat().st_size for file in weight_files(path)) >= LARGE_BYTES
    with _loading("model", path), contextlib.nullcontext() if is_large else quiet_loading():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # `check_loading` raises an error that names them
            output_loading_info=True,
        )
    model, info = loaded
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_loading(path, info, expected, list(tensor_headers(path)), model.config)
    with _loading("model", path):
        on_device: PreTrainedModel = model.to(device).eval()
    return on_device


@contextlib.contextmanager
def _loading(what: str, path: Path, files: Sequence[str] = ()) -> Iterator[None]:
    """Turn any error of a loader into a CheckpointError, about damaged JSON `files` first."""
    try:
        yield
    except Exception as error:  # the files can make the loaders raise anything
        for name in files:
            if name.endswith(".json") and (path / name).is_file():
                read_json_object(path / name, CheckpointError, fix=_AGAIN)
        raise CheckpointError(
            f"the {what} in {path} cannot be loaded", why=one_line(error)
        ) from error


def pick_device(wanted: str) -> str:
    """Return the torch device to use, the first GPU for `auto`; raise CheckpointError for none."""
    import torch

    has_cuda = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if has_cuda else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise CheckpointError(
            f"{wanted!r} is not a device", fix="Take auto, cpu, cuda or cuda:N"
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


def pick_dtype(device: str, wanted: str = "auto") -> torch.dtype:
    """Return the number format; `auto` is bfloat16 on a GPU that supports it, else float32."""
    import torch

    if wanted != "auto":
        chosen: torch.dtype = getattr(torch, wanted)
        return chosen
    if device.startswith("cuda") and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def pick_precision(device: str, dtype: str = "auto") -> Precision:
    """Return the precision that a model would have, without loading it; raises as `pick_device`."""
    device = pick_device(device)
    chosen = str(pick_dtype(device, dtype)).removeprefix("torch.")
    return Precision(dtype=chosen, device=device.partition(":")[0])


def _check_adapter(path: Path) -> None:
    if any((path / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        raise CheckpointError(
            f"{path} holds a whole model and adapter_config.json of an adapter",
            why="it does not say which of them is meant",
            fix="If the adapter is merged, remove adapter_config.json; if not, put the adapter "
            f"into a folder of its own, or merge it: {MERGE}",
        )
    read_adapter(path)


def _download(reference: str) -> Path:
    """Return the folder of a hub's checkpoint in the local cache, downloading what is missing."""
    from huggingface_hub import snapshot_download

    repo_id, _, revision = reference.partition("@")
    try:
        return Path(
            snapshot_download(repo_id, revision=revision or None, allow_patterns=_HUB_FILES)
        )
    except Exception as error:  # unreachable hub, unknown id, no permission: all end here
        raise CheckpointError(
            f"there is no folder {reference}, and no model of that id could be fetched",
            why=one_line(error),
            fix="Name a local folder, or check the id, the network and HF_TOKEN",
        ) from error


def _nearby(path: Path) -> str:
    inside = sorted(folder.parent.name for folder in path.glob("*/config.json"))
    return f"; its sub-folders {', '.join(inside[:5])} look like checkpoints" if inside else ""


def one_line(error: BaseException) -> str:
    """Return the class and the reason of another library's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The first line of pydantic's message has the number of problems, the others name them.
    if lines and " validation error" in lines[0]:
        problems = [line for line in lines[1:] if line.startswith("Value error, ")]
        lines = [(problems or lines[1:] or [""])[0].removeprefix("Value error, ")]
    # "Validation error for field 'vocab_size':" is followed by the reason.
    shown = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {shown[:300]}"
