"""Weight drift of a LoRA adapter, from its factors: the numbers of `weight_drift.py`.

The merged weight is W = W_0 + s B A, so its change has the norm

    ||s B A||_F^2 = s^2 tr((B A)^T (B A)) = s^2 tr((B^T B)(A A^T)) = s^2 sum((B^T B) * (A A^T))

which needs two matrices of rank x rank only, in float64. Tensors that the adapter does not touch
have not changed. Rotations, the magnitudes of DoRA and saved modules need W itself, which exists
for one tensor at a time. The numbers are those of the merged weights before rounding: a merged
folder in bfloat16 differs from them by its rounding, which for small updates is not small.

`tests/evaluators/test_adapter_drift.py` compares with the dense computation. The version is that of
`weight_drift.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.adapter import Adapter, LowRank
from rlready.evaluators.checkpoints.weight_files import open_file, tensor_headers
from rlready.evaluators.metrics.weight_drift import (
    LayerChange,
    WeightChange,
    has_rotation,
    layer_change,
    module_of,
    principal_angle,
)
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def adapter_change(
    adapter: Adapter,
    base: Path,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
    ignored: Collection[str] = (),
) -> WeightChange:
    """Return the change of every weight of the base model that merging an adapter would make.

    Args:
        adapter: fits the base model.
        base: folder of the base model.
        device: torch device of the computation.
        on_progress: called with the number of tensors done so far.
        ignored: names of tensors that the base model does not use.

    Raises:
        CheckpointError: if a number is not finite, or the adapter belongs to another model.

    Example:
        >>> weights = open_weights("runs/lora/checkpoint-500")
        >>> adapter_change(weights.adapter, weights.path).update_norms()["all"]
        0.0042
    """
    headers = {n: header for n, header in tensor_headers(base).items() if n not in ignored}
    low_rank = {change.base_name: change for change in adapter.low_rank(headers)}
    saved = adapter.saved(headers)
    layers = []
    with ExitStack() as stack:
        opened = {
            path: stack.enter_context(open_file(path))
            for path in sorted({header.file for header in headers.values()} | {adapter.file})
        }
        factors = opened[adapter.file]
        for name, header in headers.items():
            weight_0 = opened[header.file].get_tensor(name).to(device)
            if name in low_rank:
                layer = _low_rank_change(low_rank[name], weight_0, factors)
            else:
                own = factors.get_tensor(saved[name]).to(device) if name in saved else weight_0
                layer = layer_change(name, own, weight_0)
            layers.append(layer)
            if on_progress is not None:
                on_progress(len(layers))
    return WeightChange(layers=tuple(layers))


def squared_norm(a: torch.Tensor, b: torch.Tensor, scaling: float) -> float:
    """Return ||scaling * B A||_F^2 without computing B A.

    Args:
        a: (rank, inputs).
        b: (outputs, rank).
        scaling: factor.
    """
    import torch

    wide_a, wide_b = a.to(torch.float64), b.to(torch.float64)
    # Rounding may bring a sum that is 0 in exact arithmetic below it.
    return max(0.0, scaling**2 * float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum()))


def merged_weight(
    change: LowRank,
    weight_0: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    magnitude: torch.Tensor | None,
) -> torch.Tensor:
    """Return the merged weight in float32, in the layout of the base model's file."""
    import torch

    base = weight_0.float().T if change.is_transposed else weight_0.float()
    weight = torch.addmm(base, b.float(), a.float(), alpha=change.scaling)
    if magnitude is not None:
        weight *= (magnitude.float().flatten() / weight.norm(dim=1))[:, None]
    return weight.T if change.is_transposed else weight


def _low_rank_change(change: LowRank, weight_0: torch.Tensor, factors: Any) -> LayerChange:
    import torch

    a, b = (factors.get_tensor(name).to(weight_0.device) for name in (change.a, change.b))
    magnitude = None
    if change.magnitude is not None:
        magnitude = factors.get_tensor(change.magnitude).to(weight_0.device)
        weight = merged_weight(change, weight_0, a, b, magnitude)
        return layer_change(change.base_name, weight, weight_0)
    squared = squared_norm(a, b, change.scaling)
    base = float(weight_0.float().square().sum(dtype=torch.float64))
    if not (math.isfinite(squared) and math.isfinite(base)):
        raise CheckpointError(
            f"tensor {change.base_name} or its adapter holds numbers that are not finite",
            why="the adapter or its base model is broken",
        )
    rotation = None
    if has_rotation(change.base_name, weight_0):
        merged = merged_weight(change, weight_0, a, b, None)
        rotation = 0.0 if squared == 0.0 else principal_angle(merged, weight_0.float())
    return LayerChange(
        name=change.base_name,
        module=module_of(change.base_name),
        squared_change=squared,
        squared_base=base,
        rotation=rotation,
    )
