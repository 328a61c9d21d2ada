"""The weights of outcomes in a fit."""

from __future__ import annotations

import numpy as np

from rlready.predictors.training_table import FloatArray, TrainingTable


def outcome_weights(table: TrainingTable) -> FloatArray | None:
    """Return weights 1 / (tau^2 + se^2) with mean 1; None if errors are unknown or all equal.

    tau^2 is the variance of outcomes inside a group without their noise. It is at least a tenth of
    their variance, so that one exact outcome among noisy ones cannot dominate the fit. A missing
    error is replaced by the root mean square of the others.
    """
    errors = table.y_error[np.isfinite(table.y_error)]
    if not len(errors):
        return None
    error = np.where(np.isfinite(table.y_error), table.y_error, _usual(errors))
    if np.allclose(error, error[0]):
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


def error_notes(table: TrainingTable) -> list[str]:
    """Return notes on what is assumed for outcomes without a standard error."""
    errors = table.y_error[np.isfinite(table.y_error)]
    n_missing = len(table) - len(errors)
    if not len(errors):
        return [
            "outcomes have no standard errors: each recorded outcome is taken as exact, and the "
            "noise of RL runs cannot be separated from what the proxies do not explain"
        ]
    if not n_missing:
        return []
    return [
        f"{n_missing} of {len(table)} outcomes have no standard error: it is taken to be "
        f"{_usual(errors):.3g}, the root mean square of the others"
    ]


def _usual(errors: FloatArray) -> float:
    return float(np.sqrt(np.mean(errors**2)))
