"""Partial least squares for one outcome, with sample weights (scikit-learn's has none)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rlready.predictors.models.proxy_regressor import checked_weights
from rlready.predictors.training_table import FloatArray


class WeightedPLS(RegressorMixin, BaseEstimator):
    """PLS1 by NIPALS (Wold et al. 2001), on features of similar scale.

    Args:
        n_components: number of directions; fewer if the data have fewer. The default is 2: in
            tables of tens of rows the first direction is what all proxies share, the second is
            the contrast of losses and scores.

    Attributes:
        coef_: (p,) slopes.
        intercept_: intercept of the prediction.
    """

    def __init__(self, n_components: int = 2) -> None:
        self.n_components = n_components

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the directions and their slopes."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        weight = checked_weights(sample_weight, X)
        mean, y_mean = np.average(X, axis=0, weights=weight), float(np.average(y, weights=weight))
        root = np.sqrt(weight / weight.sum())
        rows, rest = (X - mean) * root[:, None], (y - y_mean) * root
        directions: list[FloatArray] = []
        loadings: list[FloatArray] = []
        slopes: list[float] = []
        floor = 1e-12 * (1.0 + float(np.abs(rows.T @ rest).max()))
        for _ in range(min(self.n_components, *X.shape)):
            covariance = rows.T @ rest
            size = float(np.linalg.norm(covariance))
            if size <= floor:
                break
            directions.append(covariance / size)
            scores = rows @ directions[-1]
            square = float(scores @ scores)
            loadings.append(rows.T @ scores / square)
            slopes.append(float(rest @ scores) / square)
            rows = rows - np.outer(scores, loadings[-1])
            rest = rest - slopes[-1] * scores
        self.coef_ = np.zeros(X.shape[1])
        if directions:
            # The slopes of the features from those of the components: W (P' W)^-1 q.
            W, P = np.array(directions).T, np.array(loadings).T
            self.coef_ = W @ np.linalg.solve(P.T @ W, np.array(slopes))
        self.intercept_ = y_mean - float(mean @ self.coef_)
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) predictions."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(X @ self.coef_ + self.intercept_)
