"""The kernel and the search for hyperparameters that our Gaussian processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize

from rlready.predictors.training_table import FloatArray

_ROOT5 = np.sqrt(5.0)


class Matern:
    """The Matern 5/2 kernel (1 + s + s^2 / 3) exp(-s), where s is the distance times root 5.

    Args:
        distance: distances between rows, in units of the length.
    """

    def __init__(self, distance: FloatArray) -> None:
        self.scaled = _ROOT5 * distance
        self.decay = np.exp(-self.scaled)

    @property
    def value(self) -> FloatArray:
        """Correlations of the rows."""
        return np.asarray((1.0 + self.scaled + self.scaled**2 / 3.0) * self.decay)

    @property
    def slope(self) -> FloatArray:
        """Derivatives of the correlations by the logarithm of the length."""
        return np.asarray(self.scaled**2 * (1.0 + self.scaled) / 3.0 * self.decay)


def matern_of_many(distance: FloatArray) -> FloatArray:
    """Return `Matern(distance).value` up to rounding, and overwrite the distances.

    With 20,000 candidates the time is spent on memory, so nothing is copied.
    """
    scaled = distance
    scaled *= _ROOT5
    kernel: FloatArray = scaled / 3.0
    kernel += 1.0
    kernel *= scaled
    kernel += 1.0
    np.negative(scaled, out=scaled)
    kernel *= np.exp(scaled, out=scaled)
    return kernel


def most_probable(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    middle: FloatArray,
    width: FloatArray,
    *,
    reach: FloatArray | float,
    max_iterations: int = 15_000,
    start: FloatArray | None = None,
) -> Any:
    """Minimise a loss plus the loss of a normal prior, by L-BFGS.

    Args:
        loss: minus the log likelihood of log hyperparameters, with its gradient.
        middle: means of the prior.
        width: standard deviations of the prior.
        reach: largest distance from the middle that the search may reach.
        max_iterations: limit of L-BFGS.
        start: where the search begins; by default at the prior's middle.

    Returns:
        The result of `scipy.optimize.minimize`.
    """

    def penalised(logs: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = loss(logs)
        away = (logs - middle) / width
        return value + 0.5 * float(away @ away), gradient + away / width

    return minimize(
        penalised,
        middle if start is None else start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(middle - reach, middle + reach, strict=True)),
        options={"maxiter": max_iterations},
    )
