r"""Where an RL curve would end: a robust fit of its ceiling, or the answer that it does not tell.

The law (arXiv 2510.13786), with x the budget spent:

    P(x) = P0 + (A - P0) * s(x)        s(x) = 1 / (1 + (x / C)^-B)

A is the ceiling, C the budget at which half of the gain is made, B the steepness, P0 the score
before RL. For given (B, C) the law is linear in A and P0, so the fit searches (B, C) on a grid and
solves the rest exactly: it has no starting values and no local minima.

Robust: Huber's loss finds the curve, concentration steps keep the best-fitting three quarters of
the points (least trimmed squares), then every point whose modified z-score 0.6745 |r| / MAD is at
most 3.5 comes back and a plain least squares fit ends it. A run that collapses late, or single bad
evaluations, are so left out; `n_trimmed` says how many.

The interval is the profile likelihood's: all A for which some (B, C) fits not significantly worse
(F test with n - parameters degrees of freedom). Neighbouring evaluations of a run go astray
together, so the threshold is widened by (1 + r) / (1 - r), r the lag-1 correlation of residuals.
Where the curve does not bend yet, the profile stays flat and the interval says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rlready.predictors.rl_curve import Curve
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

_LARGEST_Z = 3.5
_HUBER = 1.345
_N_STEEPNESS, _N_HALF, _N_CEILING = 30, 60, 241
# Weight of a start that is known, beside 1 of each evaluation.
_FIXED = 1e6
# A share of points that a collapse or bad evaluations may take without moving the fit.
_KEPT_SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class CeilingRule:
    """Bounds of the fit, and when its answer counts.

    Args:
        steepness: bounds of B.
        half_budget: bounds of C, in units of the smallest and the largest budget of the curve.
        level: of the interval.
        fewest_points: evaluations after the start below which nothing is claimed.
        widest: widest interval of A, as a share of the gain A - P0.
        noise_width: an interval narrower than this many times the noise of one evaluation counts
            too, however small the gain; 3.3 is the 90 % interval of a single evaluation.
    """

    steepness: tuple[float, float] = (0.3, 12.0)
    half_budget: tuple[float, float] = (0.5, 4.0)
    level: float = 0.9
    fewest_points: int = 8
    widest: float = 0.5
    noise_width: float = 3.3


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The ceiling of a curve.

    Args:
        value: A, in the unit of the curve; None if the curve does not identify it.
        low: lower end of its interval, -inf if it has none. A lower end alone may be of use.
        high: upper end, inf if it has none.
        start: P0.
        half_budget: C, in the unit of the budget.
        steepness: B.
        noise: standard deviation of the residuals of the points that were kept.
        n_points: evaluations that the fit saw.
        n_trimmed: evaluations that it left out as outliers.
        why_not: why it is not identified; empty if it is.
    """

    value: float | None
    low: float
    high: float
    start: float
    half_budget: float
    steepness: float
    noise: float
    n_points: int
    n_trimmed: int
    why_not: str = ""

    def to_dict(self) -> dict[str, float | int | str | None]:
        """The fields for JSON, with None for what is infinite or undefined."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in vars(self).items()
        }


def fit_ceiling(
    curve: Curve,
    start: float | None = None,
    *,
    start_error: float = 0.0,
    upper: float | None = None,
    rule: CeilingRule | None = None,
) -> Ceiling:
    """The ceiling of a curve, or why the curve does not tell it.

    Args:
        curve: evaluations of one RL run.
        start: the score before RL, in the curve's unit; None fits it too.
        start_error: how far P0 may lie from it (a standard deviation): its own error, and what
            the first steps of RL lose or win by format alone. 0 fixes P0.
        upper: the largest possible score (1, 100), if there is one.
        rule: bounds and thresholds.

    Raises:
        ConfigError: if `start` or `upper` is not finite, or `upper` lies below a score.
    """
    rule = rule or CeilingRule()
    x = np.array([point.budget for point in curve.points])
    y = np.array([point.value for point in curve.points])
    _check(y, start, start_error, upper)
    n_after = int((x > 0).sum())
    if n_after < rule.fewest_points:
        why = f"{n_after} evaluations after the start; {rule.fewest_points} are needed"
        return _nothing(len(x), start, why)
    data = _Data.of(y, start, start_error)
    coarse = _Shapes.spread(x, rule)
    shapes = _refined(data, coarse, coarse, np.ones(len(x)))
    kept = _kept_points(data, shapes)
    shapes = _refined(data, coarse, shapes, kept)
    fit = _least_squares(data, shapes, kept)
    low, high = _profile(data, shapes, kept, fit, rule.level)
    found = Ceiling(
        value=float(fit.ceiling[fit.best]),
        low=low,
        high=high if upper is None else min(high, upper),
        start=float(fit.start[fit.best]),
        half_budget=float(shapes.half[fit.best]),
        steepness=float(shapes.steep[fit.best]),
        noise=float(np.sqrt(fit.loss[fit.best] / max(int(kept.sum()) - data.n_parameters, 1))),
        n_points=len(x),
        n_trimmed=len(x) - int(kept.sum()),
    )
    why = _why_not(found, float(x[kept].max()), rule)
    return replace(found, value=None, why_not=why) if why else found


@dataclass(frozen=True, eq=False)
class _Data:
    """What is fitted.

    Args:
        score: (points,) y.
        start: observed P0; 0 where there is none.
        start_weight: its weight beside that of a point; 0 where there is none.
        noise: of one evaluation, from differences of neighbours, which need no model.
        floor: differences that the grid of shapes does not resolve, taken as noise.
    """

    score: FloatArray
    start: float
    start_weight: float
    noise: float
    floor: float

    @staticmethod
    def of(score: FloatArray, start: float | None, start_error: float) -> _Data:
        """The data of a curve, with the score before RL as one more observation."""
        floor = max(1e-3 * float(np.ptp(score)), 1e-9 * abs(float(score.mean())), 1e-300)
        noise = float(np.median(np.abs(np.diff(score, 2)))) / (0.6745 * math.sqrt(6.0))
        noise = max(noise, floor)
        weight = min((noise / start_error) ** 2, _FIXED) if start_error > 0 else _FIXED
        return _Data(score, start or 0.0, 0.0 if start is None else weight, noise, floor)

    @property
    def n_parameters(self) -> int:
        """Fitted numbers: A, B, C, and P0 where nothing is known of it."""
        return 3 if self.start_weight else 4


@dataclass(frozen=True, eq=False)
class _Shapes:
    """The candidates (B, C), s of each at each budget.

    Args:
        budget: (points,) x.
        steep: (shapes,) B.
        half: (shapes,) C.
        rise_SP: (shapes, points) s.
    """

    budget: FloatArray
    steep: FloatArray
    half: FloatArray
    rise_SP: FloatArray

    @staticmethod
    def of(budget: FloatArray, steep: FloatArray, half: FloatArray) -> _Shapes:
        """The shapes of all pairs of `steep` and `half`."""
        steep, half = (a.ravel() for a in np.meshgrid(steep, half, indexing="ij"))
        with np.errstate(divide="ignore"):
            log_x = np.log(budget)
        exponent = -steep[:, None] * (log_x - np.log(half)[:, None])
        return _Shapes(budget, steep, half, 1.0 / (1.0 + np.exp(np.minimum(exponent, 700.0))))

    @staticmethod
    def spread(budget: FloatArray, rule: CeilingRule) -> _Shapes:
        """Shapes over all that the rule allows."""
        after = budget[budget > 0]
        steep = np.geomspace(*rule.steepness, _N_STEEPNESS)
        half = np.geomspace(
            rule.half_budget[0] * after.min(), rule.half_budget[1] * after.max(), _N_HALF
        )
        return _Shapes.of(budget, steep, half)

    def around(self, steep: float, half: float) -> _Shapes:
        """These, and a finer grid about one shape."""
        fine = _Shapes.of(
            self.budget, _finer(np.unique(self.steep), steep), _finer(np.unique(self.half), half)
        )
        return _Shapes(
            self.budget,
            np.concatenate([self.steep, fine.steep]),
            np.concatenate([self.half, fine.half]),
            np.concatenate([self.rise_SP, fine.rise_SP]),
        )


def _finer(grid: FloatArray, at: float) -> FloatArray:
    # Wide and fine enough for the profile, not only for the optimum: with the coarse grid alone
    # intervals that say 90 % held 83 %.
    place = int(np.searchsorted(grid, at))
    low, high = grid[max(place - 4, 0)], grid[min(place + 4, len(grid) - 1)]
    fine: FloatArray = np.geomspace(low, high, 31)
    return fine


@dataclass(frozen=True, eq=False)
class _Fit:
    """Weighted least squares of every shape: (shapes,) A, P0 and the weighted loss."""

    ceiling: FloatArray
    start: FloatArray
    loss: FloatArray

    @property
    def best(self) -> int:
        """The shape with the smallest loss."""
        return int(np.argmin(self.loss))

    @property
    def gain(self) -> FloatArray:
        """(shapes,) A - P0."""
        return self.ceiling - self.start


def _least_squares(
    data: _Data, shapes: _Shapes, weight: NDArray[np.float64] | NDArray[np.bool_]
) -> _Fit:
    """The fit of each shape with a gain of 0 or more; `weight`: (points,) or (shapes, points)."""
    rise, y = shapes.rise_SP, data.score
    w = np.broadcast_to(np.asarray(weight, dtype=np.float64), rise.shape)
    total = np.maximum(w.sum(axis=1) + data.start_weight, 1e-12)
    mean_rise = (w * rise).sum(axis=1) / total
    mean_y = ((w * y).sum(axis=1) + data.start_weight * data.start) / total
    norm = (w * rise**2).sum(axis=1) - total * mean_rise**2
    cross = (w * rise * (y - mean_y[:, None])).sum(axis=1)
    # A shape that has hardly begun within the data says nothing of A: no gain.
    gain = np.maximum(cross / np.where(norm > 1e-9, norm, np.inf), 0.0)
    begin = mean_y - gain * mean_rise
    fitted = begin[:, None] + gain[:, None] * rise
    loss = (w * (y - fitted) ** 2).sum(axis=1) + data.start_weight * (begin - data.start) ** 2
    return _Fit(begin + gain, begin, loss)


def _refined(
    data: _Data,
    coarse: _Shapes,
    shapes: _Shapes,
    weight: NDArray[np.float64] | NDArray[np.bool_],
) -> _Shapes:
    """The coarse grid, and a finer one about the best of `shapes`."""
    best = _least_squares(data, shapes, weight).best
    return coarse.around(float(shapes.steep[best]), float(shapes.half[best]))


def _residuals(data: _Data, shapes: _Shapes, fit: _Fit) -> FloatArray:
    """(points,) residuals of the best shape."""
    best = fit.best
    residual: FloatArray = data.score - fit.start[best] - fit.gain[best] * shapes.rise_SP[best]
    return residual


def _kept_points(data: _Data, shapes: _Shapes) -> NDArray[np.bool_]:
    """(points,) whether each point belongs to the curve: Huber, trimming, then the z-score."""
    residual = _huber_residuals(data, shapes)
    n_core = max(math.ceil(_KEPT_SHARE * len(residual)), data.n_parameters + 1)
    core = np.zeros(len(residual), dtype=bool)
    for _ in range(20):
        before = core
        core = np.zeros(len(residual), dtype=bool)
        core[np.argsort(np.abs(residual), kind="stable")[:n_core]] = True
        if (core == before).all():
            break
        residual = _residuals(data, shapes, _least_squares(data, shapes, core))
    mad = max(float(np.median(np.abs(residual))), data.floor)
    return np.asarray(0.6745 * np.abs(residual) / mad <= _LARGEST_Z)


def _huber_residuals(data: _Data, shapes: _Shapes) -> FloatArray:
    """Residuals of the shape with the smallest Huber loss, by reweighting."""
    scale = data.noise
    weight: FloatArray = np.ones(shapes.rise_SP.shape)
    for _ in range(8):
        fit = _least_squares(data, shapes, weight)
        residual = data.score - fit.start[:, None] - fit.gain[:, None] * shapes.rise_SP
        z = np.abs(residual) / scale
        weight = np.minimum(1.0, _HUBER / np.maximum(z, 1e-12))
    loss = np.where(z <= _HUBER, 0.5 * z**2, _HUBER * (z - 0.5 * _HUBER)).sum(axis=1)
    best: FloatArray = residual[int(np.argmin(loss))]
    return best


def _profile(
    data: _Data, shapes: _Shapes, kept: NDArray[np.bool_], fit: _Fit, level: float
) -> tuple[float, float]:
    """The interval of A."""
    best = float(fit.ceiling[fit.best])
    free = int(kept.sum()) - data.n_parameters
    if free < 1:
        return -math.inf, math.inf
    noise2 = max(float(fit.loss[fit.best]) / free, data.floor**2)
    widened = _inflation(_residuals(data, shapes, fit)[kept])
    margin = noise2 * widened * float(stats.f.ppf(level, 1, free))
    noise, spread = math.sqrt(noise2), float(np.ptp(data.score[kept]))
    steps = np.geomspace(0.02 * noise / math.sqrt(free), 10.0 * (spread + noise), _N_CEILING)
    sides = []
    for sign in (-1.0, 1.0):
        candidates = best + sign * steps
        losses = _loss_at(data, shapes, kept, candidates)
        outside = np.flatnonzero(losses > fit.loss[fit.best] + margin)
        sides.append(float(candidates[outside[0]]) if len(outside) else sign * math.inf)
    return sides[0], sides[1]


def _loss_at(
    data: _Data, shapes: _Shapes, kept: NDArray[np.bool_], ceilings: FloatArray
) -> FloatArray:
    """(ceilings,) the smallest sum of squares with A fixed, over all shapes and P0 <= A."""
    # y = A - gain * rest, and the start is one more observation, at which rest is 1.
    rest = 1.0 - shapes.rise_SP[:, kept]
    y, w0 = data.score[kept], data.start_weight
    norm = (rest**2).sum(axis=1) + w0
    cross = np.outer(rest.sum(axis=1) + w0, ceilings) - (rest @ y + w0 * data.start)[:, None]
    squares = ((ceilings[:, None] - y) ** 2).sum(axis=1) + w0 * (ceilings - data.start) ** 2
    losses = squares - np.maximum(cross, 0.0) ** 2 / np.maximum(norm, 1e-12)[:, None]
    found: FloatArray = losses.min(axis=0)
    return found


def _inflation(residual: FloatArray) -> float:
    """(1 + r) / (1 - r) of the lag-1 correlation r of residuals, from 1 to 9."""
    norm = float((residual**2).sum())
    if norm <= 0.0 or len(residual) < 3:
        return 1.0
    correlation = float((residual[1:] * residual[:-1]).sum()) / norm
    # The residuals of a fit are less correlated than the errors by about this much.
    correlation += (1.0 + 3.0 * max(correlation, 0.0)) / len(residual)
    correlation = min(max(correlation, 0.0), 0.8)
    return (1.0 + correlation) / (1.0 - correlation)


def _why_not(found: Ceiling, largest_budget: float, rule: CeilingRule) -> str:
    """Why the curve does not identify the ceiling; empty if it does."""
    gain, width = (found.value or 0.0) - found.start, found.high - found.low
    if gain <= 0.0:
        return "the scores do not rise above the start"
    if found.half_budget > largest_budget:
        return (
            f"half of the gain would come at budget {found.half_budget:.3g}, beyond the largest "
            f"one in the fit, {largest_budget:.3g}: the curve still rises"
        )
    if not math.isfinite(width):
        end = "upper" if math.isfinite(found.low) else "lower"
        return f"its {rule.level:.0%} interval has no {end} end: the curve does not level off"
    if width > max(rule.widest * gain, rule.noise_width * found.noise):
        return (
            f"its {rule.level:.0%} interval is {width:.3g} wide: more than {rule.widest:g} of the "
            f"gain {gain:.3g}, and than {rule.noise_width:g} times the noise {found.noise:.2g}"
        )
    return ""


def _nothing(n_points: int, start: float | None, why: str) -> Ceiling:
    nan = math.nan
    return Ceiling(
        value=None,
        low=-math.inf,
        high=math.inf,
        start=nan if start is None else start,
        half_budget=nan,
        steepness=nan,
        noise=nan,
        n_points=n_points,
        n_trimmed=0,
        why_not=why,
    )


def _check(y: FloatArray, start: float | None, start_error: float, upper: float | None) -> None:
    if not 0.0 <= start_error < math.inf:
        raise ConfigError(f"the standard error of the start is {start_error}", fix="Give 0 or more")
    for name, value in (("start", start), ("upper", upper)):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{name} of an RL curve is {value}", fix="Give a finite number")
    top = float(y.max())
    if upper is not None and top > upper:
        raise ConfigError(
            f"the curve has a score of {top:g} above the largest possible one, {upper:g}",
            fix="Give 1 for shares, 100 for percent, or no upper bound",
        )
