"""Means over problems (or held-out examples) with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over problems with its standard errors; None where one is not defined.

    Args:
        value: the mean.
        se: standard error over problems: how far the mean would move with new ones. It contains
            `se_within`, and is never smaller.
        se_within: standard error from the finite number of samples on these problems.

    Example:
        >>> Estimate(value=0.5, se=0.04, se_within=0.01)
    """

    value: float
    se: float | None
    se_within: float | None = None


def mean(values: Iterable[float]) -> Estimate:
    """Return the plain mean over problems."""
    values_P = np.array(list(values), dtype=np.float64)
    return Estimate(value=float(values_P.mean()), se=_standard_error(values_P))


def ratio(numerator_P: npt.NDArray[np.float64], denominator_P: npt.NDArray[np.float64]) -> Estimate:
    """Return sum over sum, with the linearised standard error of a ratio (Cochran 1977, eq. 2.39).

    With equal denominators it is the mean and its standard error.
    """
    value = float(numerator_P.sum() / denominator_P.sum())
    residuals_P = (numerator_P - value * denominator_P) / denominator_P.mean()
    return Estimate(value=value, se=_standard_error(residuals_P))


def with_sampling_error(estimate: Estimate, se_within: float) -> Estimate:
    """Return the estimate with `se_within`, and `se` no smaller; unchanged if it is not finite."""
    if not math.isfinite(se_within):
        return estimate
    se = None if estimate.se is None else max(estimate.se, se_within)
    return Estimate(value=estimate.value, se=se, se_within=se_within)


def _standard_error(values_P: npt.NDArray[np.float64]) -> float | None:
    if len(values_P) < 2:
        return None
    return float(values_P.std(ddof=1) / math.sqrt(len(values_P)))
