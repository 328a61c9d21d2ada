"""Features of a short, cheap RL probe: the first evaluations of an RL run.

Over the first n evaluations after budget 0, y at budgets x:

    level   mean of y                                       unit of the score
    slope   least-squares slope of y over ln x              score per e-fold of budget
    gain    level - the score before RL                     unit of the score

and, from a curve of token entropy over RL steps, the early drop (H10 - H150) / H10 (arXiv
2606.18487, where a drop of more than 0.5 by step 150 preceded a collapse).
"""

from __future__ import annotations

import math

import numpy as np

from rlready.predictors.rl_curve import Curve, statistic
from rlready.registry.errors import CurveError

PROBE_LENGTHS = (3, 6)
"""Number of evaluations of a short and of a longer probe."""

EARLY_STEP, LATE_STEP = 10.0, 150.0


def probe_features(curve: Curve, start: float | None = None) -> dict[str, float]:
    """Return the features of each probe that the curve is long enough for.

    Args:
        curve: evaluations of one RL run.
        start: the score before RL; by default the curve's value at budget 0, if it has one.

    Returns:
        `probe_<n>_level`, `probe_<n>_slope` and, with a start, `probe_<n>_gain`, for n = 3 and 6.

    Raises:
        CurveError: if the curve has fewer than three evaluations after the start.
    """
    after = [point for point in curve.points if point.budget > 0]
    if len(after) < PROBE_LENGTHS[0]:
        raise CurveError(
            f"an RL probe of {curve.benchmark} needs {PROBE_LENGTHS[0]} evaluations after the "
            f"start; the curve has {len(after)}",
            fix="Evaluate more often, or continue RL",
        )
    if start is None and curve.points[0].budget == 0:
        start = curve.points[0].value
    features: dict[str, float] = {}
    for n in PROBE_LENGTHS:
        if len(after) < n:
            continue
        log_x = np.log([point.budget for point in after[:n]])
        y = np.array([point.value for point in after[:n]])
        centred = log_x - log_x.mean()
        features[f"probe_{n}_level"] = float(y.mean())
        features[f"probe_{n}_slope"] = float((centred * y).sum() / (centred**2).sum())
        if start is not None:
            features[f"probe_{n}_gain"] = float(y.mean()) - start
    return features


def early_entropy_drop(curve: Curve, early: float = EARLY_STEP, late: float = LATE_STEP) -> float:
    """Return (H_early - H_late) / H_early of a curve of token entropy over RL steps.

    Raises:
        CurveError: if the curve does not reach both steps, or the entropy is not above 0 early.
    """
    first = statistic(curve, "value_at_budget", early).value
    if not (math.isfinite(first) and first > 0.0):
        raise CurveError(f"the token entropy of {curve.benchmark} at step {early:g} is {first:g}")
    return (first - statistic(curve, "value_at_budget", late).value) / first
