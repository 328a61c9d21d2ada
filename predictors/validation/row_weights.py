"""How much each outcome counts in a fit."""

from __future__ import annotations

import numpy as np

from rlready.predictors.training_table import FloatArray, TrainingTable


def outcome_weights(table: TrainingTable) -> FloatArray | None:
    """Weights 1 / (tau^2 + se^2) with mean 1, or None where the errors are unknown or all alike.

    tau^2 is what outcomes differ by beyond their noise inside a group (at least a tenth of their
    variance), so that one exact outcome among noisy ones cannot carry the whole fit.
    """
    error = table.y_error
    if not np.isfinite(error).all() or np.allclose(error, error[0] if len(error) else 0.0):
        return None
    spread = float(np.var(_centred(table), ddof=1)) if len(table) > 2 else 0.0
    tau2 = max(spread - float(np.mean(error**2)), 0.1 * spread)
    if tau2 <= 0.0:
        return None
    weights = 1.0 / (tau2 + error**2)
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def _centred(table: TrainingTable) -> FloatArray:
    centred = table.y.copy()
    groups = table.groups
    for name in np.unique(groups):
        centred[groups == name] -= centred[groups == name].mean()
    return centred
