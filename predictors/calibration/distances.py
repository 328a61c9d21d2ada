"""Distances of rows from the training rows, and the same distances of held-out training rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.training_table import FloatArray


def importance(rows: FloatArray, y: FloatArray, group_of: NDArray[np.intp]) -> FloatArray:
    """Return (p,) weights of squared differences, from correlations with outcomes inside groups.

    A proxy without correlation keeps a quarter, because it may matter away from the training rows.
    """
    _, position = np.unique(group_of, return_inverse=True)
    means = np.bincount(position, weights=y) / np.bincount(position)
    outcome = y - means[position]
    scale = np.sqrt(np.sum(rows**2, axis=0) * np.sum(outcome**2))
    correlation = np.divide(
        np.abs(rows.T @ outcome), scale, out=np.zeros(rows.shape[1]), where=scale > 1e-12
    )
    return np.asarray(0.25 + 0.75 * correlation)


def shrunken_precision(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the inverse of the shrunken covariance, and each row's leave-one-out distance.

    The distance is the square root of v' C^-1 v / p. Its square is the leverage in units of p / n.
    """
    n, p = rows.shape
    share = p / (p + n)
    covariance = (1.0 - share) * (rows.T @ rows) / n + share * np.eye(p)
    precision: FloatArray = np.linalg.inv(covariance)
    squares = np.einsum("ni,ij,nj->n", rows, precision, rows)
    # The covariance without row i, by the formula of Sherman and Morrison.
    without = squares / np.maximum(1.0 - (1.0 - share) * squares / n, 1e-3)
    return precision, np.sqrt(without / p)


def mahalanobis(v: FloatArray, precision: FloatArray) -> FloatArray:
    """Return the (n,) square roots of v' C^-1 v / p: about 1 for rows with the covariance C."""
    return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", v, precision, v) / v.shape[1]))


def half_ranges_away(v: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the (n, p) distances from the middle of the training range, in half ranges."""
    half = (high - low) / 2.0
    away = np.abs(v - (high + low) / 2.0)
    return np.divide(away, half, out=np.zeros_like(v), where=half > 1e-12)


def half_ranges_from_others(rows: FloatArray) -> FloatArray:
    """Return the (n, p) distances of training rows, each from the range of all other rows."""
    ordered = np.sort(rows, axis=0)
    low = np.where(rows == ordered[0], ordered[1], ordered[0])
    high = np.where(rows == ordered[-1], ordered[-2], ordered[-1])
    return half_ranges_away(rows, low, high)


def weighted_distances(v: FloatArray, rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the (n, m) weighted distances of each row of `v` to each of `rows`."""
    a, b = v * np.sqrt(weights), rows * np.sqrt(weights)
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def dimension(centres: FloatArray) -> float:
    """Return how many directions groups differ in: (sum of eigenvalues)^2 / sum of squares."""
    away = centres - centres.mean(axis=0)
    scale = away.std(axis=0)
    away = away / np.where(scale > 0, scale, 1.0)
    eigenvalues = np.linalg.svd(away, compute_uv=False) ** 2
    total = float(np.sum(eigenvalues**2))
    return float(np.sum(eigenvalues)) ** 2 / total if total > 0 else 1.0


def tail_quantile(score: FloatArray, share: float) -> float:
    """Return the score that a new row exceeds with probability `share`.

    With few rows it is above the largest observed score.
    """
    top = float(np.quantile(score, 1.0 - share, method="weibull"))
    beyond = 1.0 / (share * (len(score) + 1.0))
    # Distances have nearly normal tails: if the probability falls by a factor e, add a tenth.
    return top * (1.0 + 0.1 * np.log(beyond)) if beyond > 1.0 else top
