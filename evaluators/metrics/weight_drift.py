"""How far SFT moved the weights from the base model's: update norms, turned singular subspaces.

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
`WeightChange.layers` keeps each tensor's own numbers. Embeddings, the output head, norms and
biases have no rotation: their singular subspaces say nothing about a linear map, or are too large.
A module that is all zeros in the base model (a new bias) has no relative change and is left out.

A subspace is as well defined as the gap after its r-th singular value is wide; where it is narrow,
the angle is large for the smallest change. Read it beside other checkpoints of the same base, not
alone. Leading subspaces come from subspace iteration with a fixed seed (`torch.svd_lowrank`); r = 8
of oversampled 16.

Tensors are read one by one from the safetensors files, so the peak is a few of the largest, not
two models. No published tool gives these numbers; `tests/test_weights.py` compares with a plain
SVD. Version 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """What happened to one tensor.

    Args:
        name: of the tensor.
        module: its kind, for example `q_proj`.
        squared_change: ||W - W_0||_F^2.
        squared_base: ||W_0||_F^2.
        rotation: mean principal angle in radians, None where it is not defined.
    """

    name: str
    module: str
    squared_change: float
    squared_base: float
    rotation: float | None


@dataclass(frozen=True, kw_only=True)
class WeightChange:
    """What happened to every tensor of a checkpoint."""

    layers: tuple[LayerChange, ...]

    def update_norms(self) -> dict[str, float]:
        """Relative change by module, and of `all`."""
        modules: dict[str, list[LayerChange]] = {"all": list(self.layers)}
        for layer in self.layers:
            modules.setdefault(layer.module, []).append(layer)
        norms = {}
        for module, own in modules.items():
            base = math.fsum(layer.squared_base for layer in own)
            if base > 0.0:
                norms[module] = math.sqrt(math.fsum(layer.squared_change for layer in own) / base)
        return norms

    def rotations(self) -> dict[str, float]:
        """Mean angle by module, radians, and of `all` that have one."""
        angles: dict[str, list[float]] = {}
        for layer in self.layers:
            if layer.rotation is not None:
                angles.setdefault("all", []).append(layer.rotation)
                angles.setdefault(layer.module, []).append(layer.rotation)
        return {module: math.fsum(own) / len(own) for module, own in angles.items()}


def weight_change(
    checkpoint: Path,
    base: Path,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
    ignored: Collection[str] = (),
) -> WeightChange:
    """Every weight of a checkpoint against its base model's.

    Args:
        checkpoint: folder with safetensors.
        base: the same of the base model.
        device: where the sums are made.
        on_progress: called with the number of tensors done so far.
        ignored: names of tensors that the model does not use.

    Raises:
        CheckpointError: if the two have other tensors, or tensors of other shapes.
    """
    own, other = _tensor_files(checkpoint, ignored), _tensor_files(base, ignored)
    _check_same(checkpoint, own, base, other)
    layers = []
    for name, (weight, weight_0) in _pairs(own, other, checkpoint, base):
        layers.append(_layer_change(name, weight.to(device), weight_0.to(device)))
        if on_progress is not None:
            on_progress(len(layers))
    return WeightChange(layers=tuple(layers))


def check_base(checkpoint: Path, base: Path, ignored: Collection[str] = ()) -> None:
    """Return if the two hold the same tensors in the same shapes; reads the files' headers only.

    Raises:
        CheckpointError: if they do not: another architecture or vocabulary.
    """
    own, other = tensor_headers(checkpoint), tensor_headers(base)
    _check_same(checkpoint, set(own) - set(ignored), base, set(other) - set(ignored))
    for name in own:
        if name in other and name not in ignored:
            _check_shape(name, own[name].shape, other[name].shape, checkpoint, base)


def n_tensors(checkpoint: Path, ignored: Collection[str] = ()) -> int:
    """How many tensors the folder's files hold: the total of `on_progress`."""
    return len(_tensor_files(checkpoint, ignored))


def weight_proxies(change: WeightChange, base_name: str, base_fingerprint: str) -> list[Proxy]:
    """The numbers of the module docstring as proxies, measured on the base model.

    They have no standard error: nothing was sampled. `n_problems` counts tensors.
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
    """Mean principal angle between the leading singular subspaces, radians in [0, pi/2].

    Args:
        weight: (m, n), float32.
        weight_0: of the same shape.
        rank: r, at most min(m, n).
    """
    import torch

    left, right = _leading(weight, rank)
    left_0, right_0 = _leading(weight_0, rank)
    angles = [_angles(own, other) for own, other in ((left, left_0), (right, right_0))]
    return float(torch.cat(angles).mean())


def _angles(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Principal angles of two orthonormal bases, stable for small ones (Bjorck, Golub 1973)."""
    import torch

    cosines = torch.linalg.svdvals(own.T @ other).clamp(0.0, 1.0)
    sines = torch.linalg.svdvals(other - own @ (own.T @ other)).clamp(0.0, 1.0).flip(0)
    return torch.where(cosines**2 < 0.5, torch.arccos(cosines), torch.arcsin(sines))


def _leading(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    oversampled = min(_OVERSAMPLED, *weight.shape)
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_SEED)
        left, _, right = torch.svd_lowrank(weight, q=oversampled, niter=_POWER_ITERATIONS)
    return left[:, :rank], right[:, :rank]


def _layer_change(name: str, weight: torch.Tensor, weight_0: torch.Tensor) -> LayerChange:
    import torch

    change = base = 0.0
    for rows, rows_0 in zip(
        weight.reshape(len(weight) if weight.ndim else 1, -1).split(_ROWS),
        weight_0.reshape(len(weight) if weight.ndim else 1, -1).split(_ROWS),
        strict=True,
    ):
        wide, wide_0 = rows.float(), rows_0.float()
        change += float((wide - wide_0).square().sum(dtype=torch.float64))
        base += float(wide_0.square().sum(dtype=torch.float64))
    if not (math.isfinite(change) and math.isfinite(base)):
        raise CheckpointError(
            f"tensor {name} holds numbers that are not finite",
            why="the checkpoint or its base model is broken",
        )
    rotation = None
    if _has_rotation(name, weight):
        rotation = 0.0 if change == 0.0 else principal_angle(weight.float(), weight_0.float())
    return LayerChange(
        name=name,
        module=_module(name),
        squared_change=change,
        squared_base=base,
        rotation=rotation,
    )


def _has_rotation(name: str, weight: torch.Tensor) -> bool:
    return (
        weight.ndim == 2
        and min(weight.shape) > 2 * RANK
        and not any(part in name for part in _NO_ROTATION)
    )


def _module(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` is `q_proj`; a bias is `q_proj.bias`."""
    parts = [part for part in name.split(".") if not re.fullmatch(r"\d+", part)]
    leaf = parts.pop() if len(parts) > 1 and parts[-1] in ("weight", "bias") else "weight"
    return parts[-1] + (".bias" if leaf == "bias" else "")


def _tensor_files(folder: Path, ignored: Collection[str]) -> dict[str, Path]:
    """File of each tensor, in the order of the names."""
    headers = tensor_headers(folder)
    return {name: header.file for name, header in headers.items() if name not in ignored}


def _check_same(checkpoint: Path, own: Collection[str], base: Path, other: Collection[str]) -> None:
    only_own = sorted(set(own) - set(other))
    only_base = sorted(set(other) - set(own))
    # A tied head is written or left out as the writer likes.
    missing = [name for name in [*only_own, *only_base] if not name.startswith("lm_head.")]
    if missing or not set(own) & set(other):
        raise CheckpointError(
            f"{base} is not the base model of {checkpoint}",
            why=f"{len(missing)} tensors are in one of them only, for example "
            f"{', '.join(missing[:3])}",
            fix="Name the model that SFT began from; merge an adapter first",
        )


def _pairs(
    own: Mapping[str, Path], other: Mapping[str, Path], checkpoint: Path, base: Path
) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Tensors of both, one pair at a time."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        files: dict[Path, Any] = {}

        def read(path: Path, name: str) -> torch.Tensor:
            if path not in files:
                files[path] = stack.enter_context(open_file(path))
            tensor: torch.Tensor = files[path].get_tensor(name)
            return tensor

        for name in (name for name in own if name in other):
            weight, weight_0 = read(own[name], name), read(other[name], name)
            _check_shape(name, weight.shape, weight_0.shape, checkpoint, base)
            yield name, (weight, weight_0)


def _check_shape(
    name: str, own: Sequence[int], other: Sequence[int], checkpoint: Path, base: Path
) -> None:
    if list(own) != list(other):
        raise CheckpointError(
            f"tensor {name} has the shape {_shape(own)} in {checkpoint} and {_shape(other)} in "
            f"{base}",
            why="another vocabulary or architecture cannot be compared weight by weight",
            fix="Name the model that SFT began from, with the same tokenizer",
        )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "()"
