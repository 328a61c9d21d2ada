"""Checks of training rows that all our estimators share."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_consistent_length, column_or_1d

from rlready.predictors.training_table import FloatArray


def checked_outcomes(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Any, FloatArray, FloatArray]:
    """Return the rows with a positive weight, their outcomes, and their weights scaled to mean 1.

    Weights are precisions of outcomes, so only their ratios count.

    Raises:
        ValueError: if `y` is missing, not finite or of another length, or no weight is positive.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    y = column_or_1d(y, dtype=np.float64, warn=True)
    check_consistent_length(X, y)
    if not np.isfinite(y).all():
        raise ValueError("Input y contains NaN or infinity: fit on `table.with_outcome()`.")
    if sample_weight is None:
        return X, y, np.ones(len(y))
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if weight.shape != y.shape:
        raise ValueError(f"sample_weight.shape == {weight.shape}, expected {y.shape}!")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("sample_weight holds a negative or infinite weight.")
    if not (weight > 0).any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    used = weight > 0
    if not used.all():
        X = X.iloc[used] if hasattr(X, "iloc") else np.asarray(X)[used]
    return X, y[used], weight[used] / weight[used].mean()
