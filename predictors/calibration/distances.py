"""Distances of rows from training rows, and what they are on training rows held out one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.training_table import FloatArray


def importance(rows: FloatArray, y: FloatArray, group_of: NDArray[np.intp]) -> FloatArray:
    """(p,) weights of squared differences: correlation with the outcome inside groups, and more.

    A proxy that says nothing keeps a quarter: what it says may change away from the training rows.
    """
    _, position = np.unique(group_of, return_inverse=True)
    means = np.bincount(position, weights=y) / np.bincount(position)
    outcome = y - means[position]
    scale = np.sqrt(np.sum(rows**2, axis=0) * np.sum(outcome**2))
    correlation = np.divide(
        np.abs(rows.T @ outcome), scale, out=np.zeros(rows.shape[1]), where=scale > 1e-12
    )
    weights: FloatArray = 0.25 + 0.75 * correlation
    return weights


def shrunken_precision(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inverse of the covariance drawn to the identity, and each row's leave-one-out distance.

    The distance is the root of v' C^-1 v / p: its square is the leverage in units of p / n.
    """
    n, p = rows.shape
    share = p / (p + n)
    covariance = (1.0 - share) * (rows.T @ rows) / n + share * np.eye(p)
    precision: FloatArray = np.linalg.inv(covariance)
    squares = np.einsum("ni,ij,nj->n", rows, precision, rows)
    # Sherman and Morrison: the covariance without row i.
    without = squares / np.maximum(1.0 - (1.0 - share) * squares / n, 1e-3)
    return precision, np.sqrt(without / p)


def mahalanobis(v: FloatArray, precision: FloatArray) -> FloatArray:
    """(n,) root of v' C^-1 v / p: about 1 for rows of the law behind C."""
    found: FloatArray = np.sqrt(np.einsum("ni,ij,nj->n", v, precision, v) / v.shape[1])
    return found


def half_ranges_away(v: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """(n, p) distance from the middle of the training range, in half ranges."""
    half = (high - low) / 2.0
    away = np.abs(v - (high + low) / 2.0)
    return np.divide(away, half, out=np.zeros_like(v), where=half > 1e-12)


def beyond(v: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """(n,) distance of the furthest column from the middle of its range, in half ranges."""
    furthest: FloatArray = np.max(half_ranges_away(v, low, high), axis=1)
    return furthest


def beyond_others(rows: FloatArray) -> FloatArray:
    """(n,) the same for each training row, from the range of all others."""
    ordered = np.sort(rows, axis=0)
    low = np.where(rows == ordered[0], ordered[1], ordered[0])
    high = np.where(rows == ordered[-1], ordered[-2], ordered[-1])
    furthest: FloatArray = np.max(half_ranges_away(rows, low, high), axis=1)
    return furthest


def weighted_distances(v: FloatArray, rows: FloatArray, weights: FloatArray) -> FloatArray:
    """(n, m) weighted distance of each row of `v` to each of `rows`."""
    a, b = v * np.sqrt(weights), rows * np.sqrt(weights)
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
    distances: FloatArray = np.sqrt(np.maximum(squares, 0.0))
    return distances


def dimension(centres: FloatArray) -> float:
    """Independent directions in which groups differ: (sum of eigenvalues)^2 / sum of squares."""
    away = centres - centres.mean(axis=0)
    scale = away.std(axis=0)
    away = away / np.where(scale > 0, scale, 1.0)
    eigenvalues = np.linalg.svd(away, compute_uv=False) ** 2
    total = float(np.sum(eigenvalues**2))
    return float(np.sum(eigenvalues)) ** 2 / total if total > 0 else 1.0


def tail_quantile(score: FloatArray, share: float) -> float:
    """What a further score passes with the chance `share`; above the largest if n is small."""
    top = float(np.quantile(score, 1.0 - share, method="weibull"))
    beyond = 1.0 / (share * (len(score) + 1.0))
    # Scores are distances with nearly normal tails: each factor e in chance is about a tenth.
    return top * (1.0 + 0.1 * np.log(beyond)) if beyond > 1.0 else top
