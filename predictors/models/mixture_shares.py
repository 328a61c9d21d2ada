"""Outcomes from the shares of a data mixture: weights on a simplex, not proxies.

A domain's loss falls about linearly in the logarithm of its share, and no share tells more than
whether a domain is there at all; so the plane is over log(share + 0.003), the smooth part over
square roots, whose distances (Hellinger's) do not blow up at 0. Extremely randomised trees, which
take any bend without a scale, are averaged with it in equal parts.
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
"""Share below which two mixtures are alike: a source of so few examples teaches next to nothing."""


class MixtureRegressor(RegressorMixin, BaseEstimator):
    """The mean of a Gaussian process and extremely randomised trees on mixture weights.

    Args:
        columns: the shares among the columns of a frame. None: all columns. Rows need not sum to 1;
            a negative share counts as 0.
        n_trees: trees of the forest; 0 leaves the process alone.
        seed: of the forest.
    """

    def __init__(self, columns: list[str] | None = None, n_trees: int = 200, seed: int = 0) -> None:
        self.columns = columns
        self.n_trees = n_trees
        self.seed = seed

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """The model, fitted. `sample_weight`: precision of each outcome, in any unit."""
        X, y = validate_data(self, self._chosen(X), y, dtype=np.float64, y_numeric=True)
        weight = checked_precisions(sample_weight, X)
        plane, smooth = _plane(X), _smooth(X)
        self.process_ = fit_process(plane, smooth, y, weight)
        self.trees_ = None
        if self.n_trees:
            trees = ExtraTreesRegressor(
                n_estimators=self.n_trees, max_features=0.5, random_state=self.seed
            )
            self.trees_ = trees.fit(smooth, y, sample_weight=weight)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """(n,) expected outcomes; with `return_std` also their (n,) standard deviations.

        The deviation joins the process's own with half of how far the two models are apart.
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
