"""What a predictor has to beat: one proxy and a straight line, or no fit at all.

They are the practice, so they do as it does: the number in its own unit, all checkpoints in one
pot, no group and no standard error looked at.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rlready.predictors.features import Features, PlainColumns
from rlready.predictors.fit_input import checked_outcomes
from rlready.predictors.training_table import GROUP, FloatArray
from rlready.registry.errors import ConfigError


class OneProxy(RegressorMixin, BaseEstimator):
    """A line through the outcomes over one proxy, or over the mean of one on several benchmarks.

    Args:
        proxies: columns of `X`. None: the first column.
        logarithm: whether the line is over log(1 + value), for counts.

    Attributes:
        slope_, intercept_: of the line, by weighted least squares; slope 0 where the proxy does not
            differ between the rows.
        n_missing_: training rows without the proxy; they take no part.
        middle_: mean of the proxy over the others; stands in for a row without it.
    """

    def __init__(self, proxies: list[str] | None = None, logarithm: bool = False) -> None:
        self.proxies = proxies
        self.logarithm = logarithm

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """The line, fitted.

        Raises:
            ConfigError: if the proxy is not a column, or has no number in any row.
        """
        self._values(X, reset=True)
        X, y, weight = checked_outcomes(self, X, y, sample_weight)
        values = self._values(X, reset=False)
        known = np.isfinite(values)
        if not known.any():
            raise ConfigError(f"{self._name()} has no number in any of {len(y)} rows")
        self.n_missing_ = int((~known).sum())
        values, y, weight = values[known], y[known], weight[known]
        self.middle_ = float(np.average(values, weights=weight))
        distance = values - self.middle_
        square = float(weight @ distance**2)
        tiny = 1e-18 * (1.0 + self.middle_**2) * len(y)
        self.slope_ = float(weight @ (distance * y)) / square if square > tiny else 0.0
        self.intercept_ = float(np.average(y, weights=weight)) - self.slope_ * self.middle_
        return self

    def predict(self, X: Any) -> FloatArray:
        """(n,) points of the line."""
        check_is_fitted(self)
        values = self._values(X, reset=False)
        values = np.where(np.isfinite(values), values, self.middle_)
        return np.asarray(self.intercept_ + self.slope_ * values)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.regressor_tags.poor_score = True
        return tags

    def _name(self) -> str:
        return ", ".join(self.proxies) if self.proxies else "the first column"

    def _values(self, X: Any, *, reset: bool) -> FloatArray:
        """(n,) the proxy: its mean over the columns that have a number."""
        if self.proxies is None:
            if GROUP in getattr(X, "columns", ()):
                X = X.drop(columns=GROUP)
            matrix = validate_data(
                self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan"
            )[:, :1]
        else:
            lacking = [name for name in self.proxies if name not in getattr(X, "columns", ())]
            if lacking:
                raise ConfigError(f"the rows have no column {', '.join(map(repr, lacking))}")
            matrix = np.column_stack([np.asarray(X[name], dtype=float) for name in self.proxies])
            self.n_features_in_ = len(self.proxies)
        known = np.isfinite(matrix)
        if self.logarithm:
            matrix = np.log1p(np.maximum(matrix, 0.0))
        total, count = np.where(known, matrix, 0.0).sum(axis=1), known.sum(axis=1)
        mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        return np.asarray(mean)


class RankAverage(RegressorMixin, BaseEstimator):
    """The mean of the standardised proxies, each turned so that more is better: it only ranks.

    Nothing is fitted but units: proxies as `Features` see them, and the mean and the standard
    deviation of the outcomes, in which the mean of the proxies is told. Its values are outcomes in
    form; as predictions of a level they are worth nothing, and they are as spread as if the proxies
    told everything.

    Args:
        columns: as for `Features`. Proxies without a sign take no part; where none has one, more of
            each is taken as better.
    """

    def __init__(self, columns: PlainColumns | None = None) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """The mean's unit, fitted."""
        self.features_ = Features(self.columns, variant="raw").fit(X)
        X, y, weight = checked_outcomes(self, X, y, sample_weight)
        self.n_features_in_ = self.features_.n_features_in_
        if hasattr(self.features_, "feature_names_in_"):
            self.feature_names_in_ = self.features_.feature_names_in_
        signs = self.features_.signs_
        self.signs_ = signs if signs.any() else np.ones(len(signs))
        scores = self._scores(X)
        self.middle_ = float(np.average(scores, weights=weight))
        self.y_mean_ = float(np.average(y, weights=weight))
        spread = float(scores.std())
        self.scale_ = float(y.std()) / spread if spread > 1e-12 else 0.0
        return self

    def predict(self, X: Any) -> FloatArray:
        """(n,) the mean of the proxies, in the unit of the outcomes."""
        check_is_fitted(self)
        return self.y_mean_ + self.scale_ * (self._scores(X) - self.middle_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.regressor_tags.poor_score = True
        return tags

    def _scores(self, X: Any) -> FloatArray:
        scores: FloatArray = self.features_.transform(X) @ self.signs_ / np.abs(self.signs_).sum()
        return scores
