"""How much each outcome counts in a fit."""

from __future__ import annotations

import numpy as np

from rlready.predictors.training_table import FloatArray, TrainingTable


def outcome_weights(table: TrainingTable) -> FloatArray | None:
    """Return weights 1 / (tau^2 + se^2) with mean 1; None if errors are unknown or all alike.

    tau^2 is the variance of outcomes inside a group beyond their noise, at least a tenth of their
    variance, so that one exact outcome among noisy ones cannot dominate the fit.
    """
    error = table.y_error
    if not np.isfinite(error).all() or np.allclose(error, error[0] if len(error) else 0.0):
        return None
    centred, groups = table.y.copy(), table.groups
    for name in np.unique(groups):
        centred[groups == name] -= centred[groups == name].mean()
    spread = float(np.var(centred, ddof=1)) if len(table) > 2 else 0.0
    tau2 = max(spread - float(np.mean(error**2)), 0.1 * spread)
    if tau2 <= 0.0:
        return None
    weights = 1.0 / (tau2 + error**2)
    return np.asarray(weights / weights.mean(), dtype=np.float64)
