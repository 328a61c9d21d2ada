"""Weight drift: update norms and rotations of singular subspaces from the base model to SFT.

For each weight W of the checkpoint and W_0 of its base model:

    update_norm/<module>  ||W - W_0||_F / ||W_0||_F                                       [ratio]
        (Scalpel vs Hammer, arXiv 2507.10616)
    rotation/<module>     mean over both sides of the mean principal angle between the subspaces
                          of the r leading singular vectors of W and of W_0               [radians]
        (RL heals OOD forgetting, arXiv 2509.12235: SFT turns singular vectors, and hardly moves
        singular values)

`<module>` is the kind of a matrix (q_proj, up_proj, embed_tokens, ...) over all layers: for the
norm both Frobenius norms are over all layers, so that the number is the one of their stacked
weights; the rotation is the plain mean over layers. `update_norm/all` is over every weight.
`WeightChange.layers` keeps the numbers of each tensor. Embeddings, the output head, norms and
biases have no rotation: they are not linear maps, or are too large. A module that is all zeros in
the base model (a new bias) has no relative change and is left out.

If the gap after the r-th singular value is narrow, even a small change gives a large angle.
Therefore only compare rotations of checkpoints of the same base model. The leading subspaces come
from subspace iteration with a fixed seed (`torch.svd_lowrank`); r = 8 of oversampled 16.

Tensors are read one by one from the safetensors files, so the peak is a few of the largest, not
two models. No published tool gives these numbers; `tests/evaluators/test_weights.py` compares
with a plain SVD. Version 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.evaluators.checkpoints.weight_errors import shape_text
from rlready.evaluators.checkpoints.weight_files import open_file, tensor_headers
from rlready.registry.errors import CheckpointError
from rlready.registry.records import Proxy

if TYPE_CHECKING:
    import torch

EVALUATOR_VERSION = "1"

RANK = 8
"""Leading singular vectors whose subspaces are compared."""

_OVERSAMPLED = 16
_POWER_ITERATIONS = 4
_SEED = 20_250_912
# Rows of a tensor that are widened to float32 at a time: a head of 150,000 x 4,096 in float32
# would be 2.5 GB, twice.
_ROWS = 8192
_NO_ROTATION = ("embed", "lm_head", "wte", "wpe", "output")


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """Change of one tensor.

    Args:
        name: name of the tensor.
        module: kind of the tensor, for example `q_proj`.
        squared_change: ||W - W_0||_F^2.
        squared_base: ||W_0||_F^2.
        rotation: mean principal angle in radians; None if it is not defined.
    """

    name: str
    module: str
    squared_change: float
    squared_base: float
    rotation: float | None


@dataclass(frozen=True, kw_only=True)
class WeightChange:
    """Changes of all tensors of a checkpoint."""

    layers: tuple[LayerChange, ...]

    def update_norms(self) -> dict[str, float]:
        """Return the relative change of each module, and of `all`."""
        modules: dict[str, list[LayerChange]] = {"all": list(self.layers)}
        for layer in self.layers:
            modules.setdefault(layer.module, []).append(layer)
        norms = {}
        for module, layers in modules.items():
            base = math.fsum(layer.squared_base for layer in layers)
            if base > 0.0:
                change = math.fsum(layer.squared_change for layer in layers)
                norms[module] = math.sqrt(change / base)
        return norms

    def rotations(self) -> dict[str, float]:
        """Return the mean angle of each module in radians, and of `all` that have one."""
        angles: dict[str, list[float]] = {}
        for layer in self.layers:
            if layer.rotation is not None:
                angles.setdefault("all", []).append(layer.rotation)
                angles.setdefault(layer.module, []).append(layer.rotation)
        return {module: math.fsum(values) / len(values) for module, values in angles.items()}


def weight_change(
    checkpoint: Path,
    base: Path,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
    ignored: Collection[str] = (),
) -> WeightChange:
    """Compare every weight of a checkpoint with its base model's.

    Args:
        checkpoint: folder with safetensors.
        base: folder of the base model.
        device: torch device of the computation.
        on_progress: called with the number of tensors done so far.
        ignored: names of tensors that the model does not use.

    Raises:
        CheckpointError: if names or shapes of the tensors differ.

    Example:
        >>> change = weight_change(Path("runs/sft/checkpoint-500"), Path("models/base"))
        >>> change.update_norms()["all"]
        0.0131
    """
    files = check_base(checkpoint, base, ignored)
    layers = []
    for name, weight, base_weight in _pairs(files):
        layers.append(layer_change(name, weight.to(device), base_weight.to(device)))
        if on_progress is not None:
            on_progress(len(layers))
    return WeightChange(layers=tuple(layers))


def check_base(
    checkpoint: Path, base: Path, ignored: Collection[str] = ()
) -> dict[str, tuple[Path, Path]]:
    """Check that two folders hold the same tensors in the same shapes; reads headers only.

    Returns:
        The files that hold each common tensor: the checkpoint's and the base model's.

    Raises:
        CheckpointError: if the architecture or the vocabulary differs.
    """
    headers, base_headers = (
        {name: header for name, header in tensor_headers(folder).items() if name not in ignored}
        for folder in (checkpoint, base)
    )
    unshared = [*sorted(headers.keys() - base_headers), *sorted(base_headers.keys() - headers)]
    # A tied head may be saved or omitted.
    missing = [name for name in unshared if not name.startswith("lm_head.")]
    shared = [name for name in headers if name in base_headers]
    if missing or not shared:
        raise CheckpointError(
            f"{base} is not the base model of {checkpoint}",
            why=f"{len(missing)} tensors are in one of them only, for example "
            f"{', '.join(missing[:3])}",
            fix="Name the model that SFT began from; merge an adapter first",
        )
    for name in shared:
        shape, base_shape = headers[name].shape, base_headers[name].shape
        if shape != base_shape:
            raise CheckpointError(
                f"tensor {name} has the shape {shape_text(shape)} in {checkpoint} and "
                f"{shape_text(base_shape)} in {base}",
                why="another vocabulary or architecture cannot be compared weight by weight",
                fix="Name the model that SFT began from, with the same tokenizer",
            )
    return {name: (headers[name].file, base_headers[name].file) for name in shared}


def n_tensors(checkpoint: Path, ignored: Collection[str] = ()) -> int:
    """Return the number of tensors of a checkpoint: the total of `on_progress`."""
    return len(tensor_headers(checkpoint).keys() - set(ignored))


def weight_proxies(change: WeightChange, base_name: str, base_fingerprint: str) -> list[Proxy]:
    """Return the numbers of the module docstring as proxies, with the base model as benchmark.

    Nothing is sampled, so they have no standard error. `n_problems` counts tensors.

    Example:
        >>> proxies = weight_proxies(change, "Qwen3-8B-Base", base_fingerprint)
    """
    named = [
        (f"update_norm/{module}", value, "ratio") for module, value in change.update_norms().items()
    ]
    named += [
        (f"rotation/{module}", value, "radians") for module, value in change.rotations().items()
    ]
    return [
        Proxy(
            name=name,
            value=value,
            se=None,
            unit=unit,
            benchmark=base_name,
            benchmark_digest=base_fingerprint,
            n_problems=len(change.layers),
            n_samples=0,
            evaluator_version=EVALUATOR_VERSION,
        )
        for name, value, unit in named
    ]


def principal_angle(weight: torch.Tensor, weight_0: torch.Tensor, rank: int = RANK) -> float:
    """Return the mean principal angle of the leading singular subspaces, radians in [0, pi/2].

    Args:
        weight: (m, n), float32.
        weight_0: weight of the base model, with the same shape.
        rank: r, at most min(m, n).
    """
    import torch

    left, right = _leading(weight, rank)
    left_0, right_0 = _leading(weight_0, rank)
    return float(torch.cat([_angles(left, left_0), _angles(right, right_0)]).mean())


def _angles(basis: torch.Tensor, basis_0: torch.Tensor) -> torch.Tensor:
    """Return the principal angles of two orthonormal bases, exact for small ones.

    Bjorck, Golub 1973.
    """
    import torch

    cosines = torch.linalg.svdvals(basis.T @ basis_0).clamp(0.0, 1.0)
    sines = torch.linalg.svdvals(basis_0 - basis @ (basis.T @ basis_0)).clamp(0.0, 1.0).flip(0)
    return torch.where(cosines**2 < 0.5, torch.arccos(cosines), torch.arcsin(sines))


def _leading(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    oversampled = min(_OVERSAMPLED, *weight.shape)
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_SEED)
        left, _, right = torch.svd_lowrank(weight, q=oversampled, niter=_POWER_ITERATIONS)
    return left[:, :rank], right[:, :rank]


def layer_change(name: str, weight: torch.Tensor, weight_0: torch.Tensor) -> LayerChange:
    """Return the change of one tensor; both are on the device of the computation.

    Raises:
        CheckpointError: if a number is not finite.
    """
    import torch

    change = base = 0.0
    n_rows = len(weight) if weight.ndim else 1
    pieces, pieces_0 = (w.reshape(n_rows, -1).split(_ROWS) for w in (weight, weight_0))
    for rows, rows_0 in zip(pieces, pieces_0, strict=True):
        wide, wide_0 = rows.float(), rows_0.float()
        change += float((wide - wide_0).square().sum(dtype=torch.float64))
        base += float(wide_0.square().sum(dtype=torch.float64))
    if not (math.isfinite(change) and math.isfinite(base)):
        raise CheckpointError(
            f"tensor {name} holds numbers that are not finite",
            why="the checkpoint or its base model is broken",
        )
    rotation = None
    if has_rotation(name, weight):
        rotation = 0.0 if change == 0.0 else principal_angle(weight.float(), weight_0.float())
    return LayerChange(
        name=name,
        module=module_of(name),
        squared_change=change,
        squared_base=base,
        rotation=rotation,
    )


def has_rotation(name: str, weight: torch.Tensor) -> bool:
    """Return whether a tensor is a linear map that is large enough for its rotation."""
    return (
        weight.ndim == 2
        and min(weight.shape) > 2 * RANK
        and not any(part in name for part in _NO_ROTATION)
    )


def module_of(name: str) -> str:
    """Return the kind of a tensor.

    `model.layers.3.self_attn.q_proj.weight` is `q_proj`; a bias is `q_proj.bias`.
    """
    parts = [part for part in name.split(".") if not re.fullmatch(r"\d+", part)]
    leaf = parts.pop() if len(parts) > 1 and parts[-1] in ("weight", "bias") else "weight"
    return parts[-1] + (".bias" if leaf == "bias" else "")


def _pairs(
    files: Mapping[str, tuple[Path, Path]],
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield the name of each tensor, its weight and its base model's weight."""
    with ExitStack() as stack:
        paths = {path for pair in files.values() for path in pair}
        opened = {path: stack.enter_context(open_file(path)) for path in sorted(paths)}
        for name, (path, base_path) in files.items():
            yield name, opened[path].get_tensor(name), opened[base_path].get_tensor(name)
