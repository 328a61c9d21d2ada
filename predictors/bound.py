"""A mean that levels off: outcomes between a floor and a ceiling, through a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from rlready.predictors.training_table import FloatArray

_LEAST_SHARE = 0.01
"""Share of the span at either end in which all values are treated alike."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The curve mu(eta) = floor + (ceiling - floor) / (1 + exp(-eta)).

    Args:
        floor: limit of the curve at low eta.
        ceiling: limit of the curve at high eta.
        end: highest possible value of an outcome, at least `ceiling`; infinity if there is none.

    Example:
        >>> Bound(floor=0.0, ceiling=0.8, end=1.0).value(np.zeros(1))
        array([0.4])
    """

    floor: float
    ceiling: float
    end: float = float("inf")

    @property
    def span(self) -> float:
        """Distance between floor and ceiling."""
        return self.ceiling - self.floor

    def value(self, eta: FloatArray) -> FloatArray:
        """Return mu(eta), in any shape."""
        return np.asarray(self.floor + self.span * expit(eta), dtype=np.float64)

    def share(self, value: FloatArray, least: float = _LEAST_SHARE) -> FloatArray:
        """Return the part of the span below each value, from `least` to 1 - `least`."""
        return np.clip((np.asarray(value) - self.floor) / self.span, least, 1.0 - least)

    def eta(self, value: FloatArray, least: float = _LEAST_SHARE) -> FloatArray:
        """Return the inverse of `value`; shares are first clipped to `least` and 1 - `least`."""
        return np.asarray(logit(self.share(value, least)), dtype=np.float64)

    def slope(self, eta: FloatArray) -> FloatArray:
        """Return d mu / d eta, in any shape."""
        share = expit(eta)
        return np.asarray(self.span * share * (1.0 - share), dtype=np.float64)

    def moved(self, value: FloatArray, away: FloatArray) -> FloatArray:
        """Return the values after a step of `away` in eta; the shapes have to broadcast.

        No value passes the ceiling. A value beyond an end of the curve (a fit without a ceiling
        gives such values) moves as far as the end would, and never further up.
        """
        eta = self.eta(value)
        moved = np.asarray(eta + away, dtype=np.float64)
        # `value`, but in place: draws of many rows go through here.
        expit(moved, out=moved)
        moved *= self.span
        moved += self.floor
        moved -= self.value(eta)
        moved += value
        return np.minimum(moved, np.maximum(value, self.ceiling), out=moved)

    def slope_at(self, value: FloatArray) -> FloatArray:
        """Return d mu / d eta at the points where the curve has these values."""
        return self.slope(self.eta(value))


def scale_ends(y: FloatArray) -> tuple[float, float] | str:
    """Return the lowest and highest possible outcome, or the reason why they are unknown.

    Outcomes within 0..1 are read as shares, outcomes within 0..100 as percentages. Other outcomes
    without a negative number have no upper end. With a negative number (for example the negative
    of a loss) there is no lower end either.
    """
    low, high = float(y.min()), float(y.max())
    if low < 0.0:
        return "an outcome is negative, so the lowest possible one is not known"
    if high <= 1.0:
        return 0.0, 1.0
    return 0.0, 100.0 if high <= 100.0 else float("inf")


def candidate_bounds(
    y: FloatArray, sd: float, ends: tuple[float, float], above: tuple[float, ...]
) -> list[Bound]:
    """Return one bound for each distance in `above`; no ceiling is beyond the end of the scale.

    Args:
        y: (n,) outcomes.
        sd: their standard deviation.
        ends: lowest and highest possible outcome.
        above: distances of the ceilings from the best outcome, in `sd`, smallest first.
    """
    floor, end = ends
    ceilings = dict.fromkeys(min(float(y.max()) + distance * sd, end) for distance in above)
    return [Bound(floor=floor, ceiling=c, end=end) for c in ceilings if c > floor]
