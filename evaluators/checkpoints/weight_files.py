"""The safetensors files of a checkpoint: which ones are read, their headers, a check for NaN.

Only `check_finite` reads weights; everything else reads the files' headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.registry.digest import file_key
from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_AGAIN = "Copy or download the folder again"
_LFS_POINTER = b"version https://git-lfs"
_LENGTH_BYTES = 8
"""A file begins with the length of its header, in so many bytes."""

_FLOATS: dict[str, tuple[Any, int]] = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),
}
"""Integer type of the same size, and the first integer that means infinity or NaN, by format."""

# Old versions of transformers stored the value of masked positions as a buffer, which became -inf
# in float16 files of GPT-NeoX and Pythia. No model uses it.
_MASK_VALUES = (".masked_bias", ".causal_mask")

# A piece fits into a processor's cache, which makes the check three times as fast.
_PIECE = 1 << 16
_FINITE_VERSION = "finite-1"
"""Part of the name of a remembered result; increases when the check changes."""


@dataclass(frozen=True)
class TensorHeader:
    """File, shape and number format of a tensor (`kind`, such as `BF16` or `I8`)."""

    file: Path
    shape: tuple[int, ...]
    kind: str


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers would load: model.safetensors, else those in the index.

    Raises:
        CheckpointError: if there is neither, or the index is damaged or names a missing file.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if index.is_file():
        named = _files_of_index(index)
        missing = [path.name for path in named if not path.is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(named)} weight files ({missing[0]}, ...)",
                why="its index names them",
                fix=_AGAIN,
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
    """Return the headers of all tensors, in the order of the names; raises as `open_file`."""
    headers = {}
    for path in weight_files(folder):
        headers.update(file_headers(path))
    return dict(sorted(headers.items()))


def file_headers(path: Path) -> dict[str, TensorHeader]:
    """Return the headers of the tensors of one file; raises as `open_file`."""
    headers = {}
    with open_file(path, framework="np") as file:
        for name in list(file.keys()):
            content = file.get_slice(name)
            headers[name] = TensorHeader(
                file=path, shape=tuple(content.get_shape()), kind=content.get_dtype()
            )
    return headers


def open_file(path: Path, framework: str = "pt") -> Any:
    """Open a safetensors file as a context manager; raise CheckpointError if it is damaged.

    `framework` is the type of its tensors: `pt` (torch), or `np`, which does not import torch.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework=framework)
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


def check_finite(folder: Path, cache_dir: Path | None = None) -> None:
    """Raise a CheckpointError for the first tensor with NaN or infinity, except mask buffers.

    Needs no torch. A file that passed is remembered in `cache_dir` by its path, size and
    modification time; with None it is read every time.
    """
    check_finite_files(weight_files(folder), cache_dir)


def check_finite_files(paths: Iterable[Path], cache_dir: Path | None = None) -> None:
    """Check some files in the way of `check_finite`."""
    for path in paths:
        entry = None if cache_dir is None else cache_dir / f"{file_key(path)}.{_FINITE_VERSION}"
        if entry is not None and entry.is_file():
            continue
        for name, kind, content in _contents(path):
            if not name.endswith(_MASK_VALUES):
                _check_tensor(content, kind, name, path)
        if entry is not None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.touch()


def zero_tensors(path: Path) -> set[str]:
    """Return the names of the tensors of a file in which every number is 0 or -0."""
    zero = set()
    for name, kind, content in _contents(path):
        bits = _FLOATS[kind][0] if kind in _FLOATS else np.uint8
        magnitude = np.iinfo(bits).max >> int(kind in _FLOATS)
        if not (content.view(bits) & bits(magnitude)).any():
            zero.add(name)
    return zero


def _contents(path: Path) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    """Yield name, number format and bytes of every tensor, in the order of the file."""
    with open_file(path, framework="np"):
        # The library has checked that the header is JSON and its tensors fill the rest.
        content = np.memmap(path, dtype=np.uint8, mode="r")
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    header = json.loads(content[_LENGTH_BYTES:start].tobytes())
    header.pop("__metadata__", None)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = about["data_offsets"]
        yield name, about["dtype"], content[start + begin : start + end]


def _check_tensor(content: NDArray[np.uint8], kind: str, name: str, path: Path) -> None:
    if kind not in _FLOATS:
        return
    bits, first_bad = _FLOATS[kind]
    # As integers without the sign bit, NaN and infinity are above all finite floats.
    magnitude = bits(np.iinfo(bits).max >> 1)
    numbers = content.view(bits)
    n_bad = 0
    for begin in range(0, len(numbers), _PIECE):
        piece = numbers[begin : begin + _PIECE] & magnitude
        if piece.max() >= first_bad:
            n_bad += int((piece >= first_bad).sum())
    if n_bad:
        raise CheckpointError(
            f"tensor {name} in {path} holds {n_bad:,} of {len(numbers):,} numbers that are NaN or "
            "infinite",
            why="every loss and every sample of this checkpoint would be meaningless",
            fix="Training probably diverged: take an earlier checkpoint. If it was converted to "
            "float16, convert it to bfloat16 or float32 instead",
        )


def _files_of_index(index: Path) -> list[Path]:
    try:
        names = set(read_json_object(index, CheckpointError, fix=_AGAIN)["weight_map"].values())
        return [index.parent / Path(name).name for name in sorted(names)]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is not an index of weights",
            why=f"{type(error).__name__}: {str(error)[:300]}",
            fix=_AGAIN,
        ) from error
