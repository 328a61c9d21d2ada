"""The safetensors files of a checkpoint: which ones count, what is in them, whether it is finite.

Names and shapes come from the files' headers, so nothing here but `check_finite` reads weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.digest import file_key
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LFS_POINTER = b"version https://git-lfs"
_NARROW_BYTES = 1
# Elements of an 8-bit tensor that are widened at a time.
_CHUNK_ELEMENTS = 1 << 24
_FINITE_VERSION = "finite-1"
"""Part of the name of a remembered answer; rises when the check changes."""


@dataclass(frozen=True)
class TensorHeader:
    """Where a tensor is and what it looks like.

    Args:
        file: that holds it.
        shape: of the tensor.
    """

    file: Path
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, as transformers chooses them.

    `model.safetensors` if it is there, else the files that the index names. Others beside them (an
    adapter, `consolidated.safetensors`) are not read.

    Raises:
        CheckpointError: if there is neither, a file of the index is missing, or the index is
            damaged.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if index.is_file():
        named = _files_of_index(index)
        missing = [path.name for path in named if not path.is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(named)} weight files ({missing[0]}, ...)",
                why="its index names them",
                fix="Copy or download the folder again",
            )
        return [single] if single.is_file() else named
    if single.is_file():
        return [single]
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if not others:
        raise CheckpointError(
            f"{folder} holds no weights", why="there is no *.safetensors file in it"
        )
    raise CheckpointError(
        f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}",
        why=f"without one of them, the weights in {', '.join(others[:3])} cannot be put together",
        fix="Copy or download the folder again, the index included",
    )


def tensor_headers(folder: Path) -> dict[str, TensorHeader]:
    """Every tensor of a checkpoint, in the order of the names.

    Raises:
        CheckpointError: as `weight_files`, or if a file is damaged.
    """
    headers = {}
    for path in weight_files(folder):
        with open_file(path) as file:
            names = list(file.keys())
            for name in names:
                shape = tuple(file.get_slice(name).get_shape())
                headers[name] = TensorHeader(file=path, shape=shape)
    return dict(sorted(headers.items()))


def open_file(path: Path, device: str = "cpu") -> Any:
    """The safetensors file, opened for torch; a context manager.

    Raises:
        CheckpointError: if it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
        raise CheckpointError(
            f"{path} cannot be loaded: it is not a whole safetensors file of weights",
            why="it is a pointer of Git LFS" if is_pointer else f"{type(error).__name__}: {error}",
            fix="Run git lfs pull in its folder"
            if is_pointer
            else "Its copy or download was cut short, or the disk was full: copy it again",
        ) from error


def check_finite(
    folder: Path,
    cache_dir: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Return if no weight is NaN or infinite.

    Reads tensor by tensor, so the peak is the largest one. A file that passed is remembered by
    (path, size, modification time), as its digest is.

    Args:
        folder: of the checkpoint.
        cache_dir: where files that passed are remembered; None reads them every time.
        on_progress: called with the number of tensors done so far.

    Raises:
        CheckpointError: naming the first tensor that is not finite.
    """
    n_done = 0
    for path in weight_files(folder):
        entry = None if cache_dir is None else cache_dir / f"{file_key(path)}.{_FINITE_VERSION}"
        if entry is not None and entry.is_file():
            continue
        with open_file(path) as file:
            names = list(file.keys())
            for name in names:
                _check_tensor(file.get_tensor(name), name, path)
                n_done += 1
                if on_progress is not None:
                    on_progress(n_done)
        if entry is not None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.touch()


def _check_tensor(tensor: torch.Tensor, name: str, path: Path) -> None:
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return
    # NaN passes through a minimum and a maximum; aminmax needs no memory and a tenth of the time
    # of isfinite, but does not know 8-bit floats.
    is_narrow = tensor.element_size() <= _NARROW_BYTES
    parts = tensor.reshape(-1).split(_CHUNK_ELEMENTS) if is_narrow else (tensor,)
    for part in parts:
        low, high = torch.aminmax(part.float() if is_narrow else part)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            n_bad = int((~torch.isfinite(tensor.float())).sum())
            raise CheckpointError(
                f"tensor {name} in {path} holds {n_bad:,} of {tensor.numel():,} numbers that are "
                "NaN or infinite",
                why="every loss and every sample of this checkpoint would be meaningless",
                fix="Training probably diverged: take an earlier checkpoint. If it was converted "
                "to float16, convert it to bfloat16 or float32 instead",
            )


def _files_of_index(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / Path(name).name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{index} is not an index of weights",
            why=f"{type(error).__name__}: {str(error)[:300]}",
            fix="Copy or download it again",
        ) from error
