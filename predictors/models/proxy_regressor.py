"""The shared parts of our regressors on proxies: checks of the training rows, and the features."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, column_or_1d

from rlready.predictors.features import Features, PlainColumns
from rlready.predictors.training_table import FloatArray


class ProxyRegressor(RegressorMixin, BaseEstimator):
    """A regressor that accepts rows with missing proxies."""

    columns: PlainColumns | None

    def _fit_features(self, X: Any, y: Any, weight: Any) -> tuple[Any, FloatArray, FloatArray]:
        """Fit `features_`, and return the rows, outcomes and weights of `checked_outcomes`."""
        self.features_ = Features(self.columns).fit(X)
        self.n_features_in_ = self.features_.n_features_in_
        if hasattr(self.features_, "feature_names_in_"):
            self.feature_names_in_ = self.features_.feature_names_in_
        return checked_outcomes(self, X, y, weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def checked_outcomes(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Any, FloatArray, FloatArray]:
    """Return the rows with a positive weight, their outcomes, and their weights scaled to mean 1.

    Weights are precisions of outcomes, so only their ratios matter.

    Raises:
        ValueError: if `y` is missing, not finite or of another length, or if a weight is invalid.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    y = column_or_1d(y, dtype=np.float64, warn=True)
    check_consistent_length(X, y)
    if not np.isfinite(y).all():
        raise ValueError("Input y contains NaN or infinity: fit on `table.with_outcome()`.")
    weight = checked_weights(sample_weight, X)
    used = weight > 0
    if not used.all():
        X = X.iloc[used] if hasattr(X, "iloc") else np.asarray(X)[used]
    return X, y[used], weight[used] / weight[used].mean()


def checked_weights(sample_weight: Any, X: Any) -> FloatArray:
    """Return the (n,) sample weights; 1 for each row by default.

    Raises:
        ValueError: if a weight is negative or not finite, if no weight is positive, or if their
            number is wrong.
    """
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not (weight > 0).any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return np.asarray(weight, dtype=np.float64)
