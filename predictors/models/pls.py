"""Partial least squares for one outcome, with weights, which scikit-learn's does not take."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from rlready.predictors.training_table import FloatArray


class WeightedPLS(RegressorMixin, BaseEstimator):
    """PLS1 by NIPALS (Wold et al. 2001), on features of like scale.

    Args:
        n_components: directions, at most as many as the data have. Two: on tables of tens of rows
            the first is what all proxies share, the second the contrast of losses and scores.

    Attributes:
        coef_: (p,) slopes.
        intercept_: of the prediction.
    """

    def __init__(self, n_components: int = 2) -> None:
        self.n_components = n_components

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """The directions and their slopes, fitted."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if not (weight > 0).any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        mean, y_mean = np.average(X, axis=0, weights=weight), float(np.average(y, weights=weight))
        root = np.sqrt(weight / weight.sum())
        rows, left = (X - mean) * root[:, None], (y - y_mean) * root
        directions: list[FloatArray] = []
        loadings: list[FloatArray] = []
        slopes: list[float] = []
        floor = 1e-12 * (1.0 + float(np.abs(rows.T @ left).max()))
        for _ in range(min(self.n_components, *X.shape)):
            covariance = rows.T @ left
            size = float(np.linalg.norm(covariance))
            if size <= floor:
                break
            direction = covariance / size
            scores = rows @ direction
            square = float(scores @ scores)
            loadings.append(rows.T @ scores / square)
            slopes.append(float(left @ scores) / square)
            directions.append(direction)
            rows = rows - np.outer(scores, loadings[-1])
            left = left - slopes[-1] * scores
        self.coef_ = _slopes(directions, loadings, slopes, X.shape[1])
        self.intercept_ = y_mean - float(mean @ self.coef_)
        return self

    def predict(self, X: Any) -> FloatArray:
        """(n,) predictions."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        predicted: FloatArray = X @ self.coef_ + self.intercept_
        return predicted


def _slopes(
    directions: list[FloatArray], loadings: list[FloatArray], slopes: list[float], n: int
) -> FloatArray:
    """(p,) slopes of the features from those of the components: W (P' W)^-1 q."""
    if not directions:
        return np.zeros(n)
    W, P = np.array(directions).T, np.array(loadings).T
    return np.asarray(W @ np.linalg.solve(P.T @ W, np.array(slopes)))
