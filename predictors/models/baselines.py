"""Baselines that a predictor has to beat: a straight line through one proxy, or no fit at all.

They follow current practice: they use numbers in their own unit, treat all checkpoints alike, and
ignore groups and standard errors.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from rlready.predictors.features import PlainColumns
from rlready.predictors.models.proxy_regressor import ProxyRegressor, checked_outcomes
from rlready.predictors.training_table import GROUP, FloatArray
from rlready.registry.errors import ConfigError


class _Baseline(ProxyRegressor):
    """A regressor that scikit-learn's checks do not expect to predict well."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


class OneProxy(_Baseline):
    """A line through one proxy, or through the mean of one proxy over several benchmarks.

    Args:
        proxies: columns of `X`. None: the first column.
        logarithm: whether to use log(1 + value) in place of the value; for counts.

    Attributes:
        slope_, intercept_: parameters of the line, by weighted least squares; the slope is 0 if
            the proxy is the same in all rows.
        n_missing_: number of training rows without the proxy, which are ignored.
        middle_: mean of the proxy over the other rows; it replaces the proxy where it is missing.
    """

    def __init__(self, proxies: list[str] | None = None, logarithm: bool = False) -> None:
        self.proxies = proxies
        self.logarithm = logarithm

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the line.

        Raises:
            ConfigError: if the proxy is not a column, or has no number in any row.
        """
        self._values(X, reset=True)
        X, y, weight = checked_outcomes(self, X, y, sample_weight)
        values = self._values(X, reset=False)
        is_measured = np.isfinite(values)
        if not is_measured.any():
            name = ", ".join(self.proxies) if self.proxies else "the first column"
            raise ConfigError(f"{name} has no number in any of {len(y)} rows")
        self.n_missing_ = int((~is_measured).sum())
        values, y, weight = values[is_measured], y[is_measured], weight[is_measured]
        self.middle_ = float(np.average(values, weights=weight))
        distance = values - self.middle_
        square = float(weight @ distance**2)
        tiny = 1e-18 * (1.0 + self.middle_**2) * len(y)
        self.slope_ = float(weight @ (distance * y)) / square if square > tiny else 0.0
        self.intercept_ = float(np.average(y, weights=weight)) - self.slope_ * self.middle_
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) points of the line."""
        check_is_fitted(self)
        values = self._values(X, reset=False)
        values = np.where(np.isfinite(values), values, self.middle_)
        return np.asarray(self.intercept_ + self.slope_ * values)

    def _values(self, X: Any, *, reset: bool) -> FloatArray:
        """Return the (n,) means of each row's measured numbers; NaN if a row has none."""
        if self.proxies is None:
            if GROUP in getattr(X, "columns", ()):
                X = X.drop(columns=GROUP)
            matrix = validate_data(
                self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan"
            )[:, :1]
        else:
            missing = [name for name in self.proxies if name not in getattr(X, "columns", ())]
            if missing:
                raise ConfigError(f"the rows have no column {', '.join(map(repr, missing))}")
            matrix = np.column_stack([np.asarray(X[name], dtype=float) for name in self.proxies])
            self.n_features_in_ = len(self.proxies)
        is_measured = np.isfinite(matrix)
        if self.logarithm:
            matrix = np.log1p(np.maximum(matrix, 0.0))
        total, count = np.where(is_measured, matrix, 0.0).sum(axis=1), is_measured.sum(axis=1)
        mean: FloatArray = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        return mean


class RankAverage(_Baseline):
    """The mean of the standardised proxies, each with its sign.

    This model only ranks. The mean is scaled to the mean and the standard deviation of the training
    outcomes, and nothing else is fitted. The predictions have the unit of the outcomes, but they do
    not predict levels, and they vary as much as if the proxies explained everything.

    Args:
        columns: as for `Features`. Proxies without a sign are ignored; if none has a sign, larger
            values of each count as better.
    """

    def __init__(self, columns: PlainColumns | None = None) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the scale of the predictions."""
        X, y, weight = self._fit_features(X, y, sample_weight)
        signs = self.features_.signs_
        self.signs_ = signs if signs.any() else np.ones(len(signs))
        scores = self._scores(X)
        self.middle_ = float(np.average(scores, weights=weight))
        self.y_mean_ = float(np.average(y, weights=weight))
        spread = float(scores.std())
        self.scale_ = float(y.std()) / spread if spread > 1e-12 else 0.0
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) means of the proxies, in the unit of the outcomes."""
        check_is_fitted(self)
        predicted: FloatArray = self.y_mean_ + self.scale_ * (self._scores(X) - self.middle_)
        return predicted

    def _scores(self, X: Any) -> FloatArray:
        scores: FloatArray = self.features_.views(X).raw @ self.signs_ / np.abs(self.signs_).sum()
        return scores
