"""Outcomes from the shares of a data mixture: weights on a simplex instead of proxies.

The loss of a domain falls about linearly in the logarithm of its share, and for every share the
first examples matter most. The plane therefore uses log(share + 0.003). The smooth part uses square
roots, whose distances (Hellinger distances) stay finite at 0. The prediction is the mean of this
Gaussian process and of extremely randomised trees, which do not depend on the scale of a share.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from rlready.predictors.models.gaussian_process import checked_precisions, fit_process
from rlready.predictors.training_table import FloatArray

_FLOOR = 0.003
"""Shares below this are nearly equal: a source with so few examples has almost no effect."""


class MixtureRegressor(RegressorMixin, BaseEstimator):
    """The mean of a Gaussian process and extremely randomised trees on mixture weights.

    Args:
        columns: columns of a frame that are shares. None: all columns. Rows need not sum to 1; a
            negative share counts as 0.
        n_trees: number of trees; with 0 the process alone predicts.
        seed: seed of the forest.
    """

    def __init__(self, columns: list[str] | None = None, n_trees: int = 200, seed: int = 0) -> None:
        self.columns = columns
        self.n_trees = n_trees
        self.seed = seed

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model. `sample_weight` is the precision of each outcome, in any unit."""
        X, y = validate_data(self, self._chosen(X), y, dtype=np.float64, y_numeric=True)
        weight = checked_precisions(sample_weight, X)
        smooth = _smooth(X)
        self.process_ = fit_process(_plane(X), smooth, y, weight)
        self.trees_ = None
        if self.n_trees:
            trees = ExtraTreesRegressor(
                n_estimators=self.n_trees, max_features=0.5, random_state=self.seed
            )
            self.trees_ = trees.fit(smooth, y, sample_weight=weight)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the (n,) expected outcomes; with `return_std` also their standard deviations.

        The deviation combines that of the process with half of the difference of the two models.
        """
        check_is_fitted(self)
        X = validate_data(self, self._chosen(X), reset=False, dtype=np.float64)
        mean, sd = self.process_.predict(_plane(X), _smooth(X))
        if self.trees_ is not None:
            apart = self.trees_.predict(_smooth(X)) - mean
            mean, sd = mean + apart / 2, np.hypot(sd, apart / 2)
        return (mean, sd) if return_std else mean

    def _chosen(self, X: Any) -> Any:
        return X if self.columns is None else X[self.columns]


def _plane(shares: FloatArray) -> FloatArray:
    return np.log(np.maximum(shares, 0.0) + _FLOOR)


def _smooth(shares: FloatArray) -> FloatArray:
    return np.sqrt(np.maximum(shares, 0.0))
