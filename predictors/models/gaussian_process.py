"""Gaussian processes for tens to hundreds of rows: a plane, a smooth departure, and noise.

    f(x) = mean + plane(x) + smooth(x),   y = f(x) + noise / sqrt(weight)

The variances of the three and the length of the smooth part (Matern 5/2, one length for all
features) maximise the marginal likelihood times a weak prior. Without the prior, a fit to 24 rows
and 17 features estimates the noise as 0 or as the whole variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rlready.predictors.models.matern import Matern, most_probable
from rlready.predictors.models.proxy_regressor import checked_weights
from rlready.predictors.training_table import FloatArray

_MIDDLE = np.log([0.5, 0.5, 1.0, 0.05])
"""Middle of the prior. Variances of plane, smooth part and noise are in variances of the outcome,
the length is in root mean square distances between rows."""

_WIDTH = np.array([1.5, 1.5, 0.7, 1.5])
"""Prior standard deviation of the logarithm of each."""

_FLAT = 100.0
"""Prior variance of the mean, in variances of the outcome; large, so that the mean is free."""


class GaussianProcess(RegressorMixin, BaseEstimator):
    """A plane and a smooth part over the same features, which should be of similar scale.

    Attributes:
        process_: the fitted `Process`.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the process. `sample_weight` is the precision of each outcome, in any unit."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.process_ = fit_process(X, X, y, checked_precisions(sample_weight, X))
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the (n,) expected f; with `return_std` also its standard deviation, no noise."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        mean, sd = self.process_.predict(X, X)
        return (mean, sd) if return_std else mean


@dataclass(eq=False)
class Process:
    """The distribution of f, given n rows.

    Args:
        hyper: variances of plane and smooth part, length, and variance of the noise, in the units
            below.
        plane: (n, p) standardised features of the plane.
        smooth: (n, p) features of the smooth part.
        plane_mean: (p,) means of the plane's features before they were standardised.
        plane_scale: common divisor of the plane's features.
        length_unit: root mean square distance between rows, in features of the smooth part.
        lower: (n, n) Cholesky factor of the covariance of the outcomes.
        alpha: (n,) inverse of that covariance times the outcomes.
        y_mean, y_sd: mean and standard deviation of the outcomes.
    """

    hyper: FloatArray
    plane: FloatArray
    smooth: FloatArray
    plane_mean: FloatArray
    plane_scale: float
    length_unit: float
    lower: FloatArray
    alpha: FloatArray
    y_mean: float
    y_sd: float

    def predict(self, plane: FloatArray, smooth: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the (m,) expected f and its (m,) standard deviations."""
        rows = (plane - self.plane_mean) / self.plane_scale
        distance = cdist(smooth, self.smooth) / self.length_unit
        cross = _FLAT + self.hyper[0] * (rows @ self.plane.T)
        cross = cross + self.hyper[1] * Matern(distance / self.hyper[2]).value
        mean = self.y_mean + self.y_sd * (cross @ self.alpha)
        prior = _FLAT + self.hyper[0] * np.sum(rows**2, axis=1) + self.hyper[1]
        explained = np.sum(solve_triangular(self.lower, cross.T, lower=True) ** 2, axis=0)
        return mean, self.y_sd * np.sqrt(np.maximum(prior - explained, 0.0))


def checked_precisions(sample_weight: Any, X: FloatArray) -> FloatArray:
    """Return the (n,) weights with mean 1; a row of weight 0 has nearly no effect."""
    weight = checked_weights(sample_weight, X)
    precisions: FloatArray = np.maximum(weight / weight.mean(), 1e-9)
    return precisions


def fit_process(
    plane: FloatArray, smooth: FloatArray, y: FloatArray, weight: FloatArray
) -> Process:
    """Return the process at the most probable variances and length.

    Args:
        plane: (n, p) features of the plane.
        smooth: (n, q) features of the smooth part.
        y: (n,) outcomes.
        weight: (n,) `checked_precisions` of the outcomes.
    """
    y_mean = float(np.average(y, weights=weight))
    y_sd = float(np.sqrt(np.average((y - y_mean) ** 2, weights=weight))) or 1.0
    plane_mean = plane.mean(axis=0)
    rows = plane - plane_mean
    plane_scale = float(np.sqrt(np.mean(np.sum(rows**2, axis=1)))) or 1.0
    rows = rows / plane_scale
    distance = cdist(smooth, smooth)
    length_unit = float(np.sqrt(np.mean(distance**2))) or 1.0
    kernel = _Kernel(rows @ rows.T, distance / length_unit, (y - y_mean) / y_sd, 1.0 / weight)
    logs = most_probable(kernel.loss, _MIDDLE, _WIDTH, reach=4 * _WIDTH).x
    lower, _ = cho_factor(kernel.covariance(np.exp(logs)), lower=True)
    lower = np.tril(lower)
    return Process(
        hyper=np.exp(logs),
        plane=rows,
        smooth=smooth,
        plane_mean=plane_mean,
        plane_scale=plane_scale,
        length_unit=length_unit,
        lower=lower,
        alpha=np.asarray(cho_solve((lower, True), kernel.y)),
        y_mean=y_mean,
        y_sd=y_sd,
    )


class _Kernel:
    """The covariance of the outcomes as a function of the four hyperparameters."""

    def __init__(
        self, product: FloatArray, distance: FloatArray, y: FloatArray, noise: FloatArray
    ) -> None:
        self.product, self.distance, self.y, self.noise = product, distance, y, noise

    def loss(self, logs: FloatArray) -> tuple[float, FloatArray]:
        """Return minus the log of the likelihood, and its gradient."""
        hyper = np.exp(logs)
        factor = cho_factor(self.covariance(hyper), lower=True)
        inverse = cho_solve(factor, np.eye(len(self.y)))
        alpha = inverse @ self.y
        value = 0.5 * float(self.y @ alpha) + float(np.sum(np.log(np.diag(factor[0]))))
        spare = inverse - np.outer(alpha, alpha)
        smooth = Matern(self.distance / hyper[2])
        by_part = (
            hyper[0] * np.sum(spare * self.product),
            hyper[1] * np.sum(spare * smooth.value),
            hyper[1] * np.sum(spare * smooth.slope),
            hyper[3] * np.sum(np.diag(spare) * self.noise),
        )
        return value, 0.5 * np.array(by_part)

    def covariance(self, hyper: FloatArray) -> FloatArray:
        """Return the (n, n) covariance of the outcomes."""
        smooth = hyper[1] * Matern(self.distance / hyper[2]).value
        covariance: FloatArray = _FLAT + hyper[0] * self.product + smooth
        # Even with the least noise and the largest weight, the Cholesky factor still exists.
        covariance[np.diag_indices_from(covariance)] += hyper[3] * self.noise + 1e-8
        return covariance
