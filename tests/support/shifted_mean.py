"""A small estimator of our own: what a predictor's file holds beyond scikit-learn's types."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from rlready.registry.errors import ConfigError

TYPES = ("shifted_mean.Centre", "shifted_mean.ShiftedMean")


class Centre:
    """A value that is no estimator."""

    def __init__(self, value: float) -> None:
        self.value = value


class ShiftedMean(RegressorMixin, BaseEstimator):
    """The mean outcome and the first column, with an interval."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def fit(self, X: pd.DataFrame, y: Any) -> Self:
        self.centre_ = Centre(float(np.mean(y)) + self.shift)
        return self

    def predict(self, X: pd.DataFrame) -> Any:
        return self.centre_.value + X.iloc[:, 0].fillna(0.0).to_numpy()

    def assess(self, X: pd.DataFrame) -> pd.DataFrame:
        if not set(X["group"]) <= {"a", "b"}:
            raise ConfigError(f"group {sorted(set(X['group']))} is not known")
        found = self.predict(X)
        return pd.DataFrame({"prediction": found, "low": found - 1, "high": found + 1})
