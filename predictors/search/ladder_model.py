"""What the rungs that trials have climbed tell of their ends: a joint normal law, by Gibbs draws.

On standard scales (`standard`), turned so that more is better, rung j of a trial is

    z_j = a_j + sum over earlier rungs k of b_jk z_k + s_j e_j        e_j standard normal

and the last rung is the outcome: the autoregressive form of a multi-fidelity normal law (as in
Kennedy and O'Hagan 2000, with all earlier rungs in place of one). Where both rungs have a known
sense b_jk >= 0: a better value can then only raise what is expected of those that come after it.

Who climbs is decided by the rungs below, so each regression, on the rows that came so far, is
right without a correction (missing at random). A rung that was skipped is drawn with the rest, and
so is the true value behind one with a standard error.

Prior, which few rows are shrunk to: b_jk half normal (normal, where a sense is not known) with
scale 0.5, a_j normal with scale 1, s_j^2 inverse gamma (2, 0.6). The first of five rungs then has
a correlation with the outcome of 0.5 at the median and 0.2 to 0.9 in nine of ten draws (the first
of two: 0.3, and 0.0 to 0.8). A rung is listed because it is thought to tell something, and nobody
knows how much before the first trials have come to their ends; one whose sense is not known has 0
at the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from rlready.predictors.scales import damped, linked, middle_and_spread, n_trials, typical_spread
from rlready.predictors.training_table import Column, FloatArray

COEFFICIENT_SCALE, LEVEL_SCALE = 0.5, 1.0
NOISE_SHAPE, NOISE_RATE = 2.0, 0.6

_CHAINS, _BURN_IN = 64, 30
# Errors below this share of the rung's spread change nothing, and would make chains sticky.
_LEAST_ERROR = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class OutcomeScale:
    """Outcomes as normal scores: the one at share q from below is the normal law's q-quantile.

    Scores after RL pile up where all good recipes end; on this scale they do not, and what a draw
    may reach beyond the best outcome so far is little where the best ones are close together.
    Between outcomes the scale is linear, beyond the ends it goes on as over the nearest quarter.

    Args:
        values: (m,) different outcomes, in order.
        scores: (m,) theirs.
    """

    values: FloatArray
    scores: FloatArray

    @staticmethod
    def of(outcomes: FloatArray) -> OutcomeScale:
        """The scale of outcomes, of which some may be NaN."""
        known = np.sort(outcomes[np.isfinite(outcomes)])
        if len(known) == 0:
            return OutcomeScale(values=np.array([0.0, 1.0]), scores=np.array([0.0, 1.0]))
        values, first, count = np.unique(known, return_index=True, return_counts=True)
        scores = np.asarray(ndtri((first + 0.5 * count) / len(known)))
        if len(values) == 1:
            return OutcomeScale(values=values + np.array([0.0, 1.0]), scores=np.array([0.0, 1.0]))
        return OutcomeScale(values=values, scores=scores)

    def score(self, outcomes: FloatArray) -> FloatArray:
        """Normal scores of outcomes."""
        return _through(outcomes, self.values, self.scores)

    def outcome(self, scores: FloatArray) -> FloatArray:
        """Outcomes of normal scores."""
        return _through(scores, self.scores, self.values)

    def errors(self, outcomes: FloatArray, errors: FloatArray) -> FloatArray:
        """Standard errors of normal scores."""
        return (self.score(outcomes + errors) - self.score(outcomes - errors)) / 2.0


def _through(at: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Piecewise linear through the points; beyond the ends with the slope of the end quarter."""
    quarter = max(1, len(x) // 4)
    low = (y[quarter] - y[0]) / (x[quarter] - x[0])
    high = (y[-1] - y[-1 - quarter]) / (x[-1] - x[-1 - quarter])
    beyond = low * np.minimum(at - x[0], 0.0) + high * np.maximum(at - x[-1], 0.0)
    found: FloatArray = np.where(np.isnan(at), np.nan, np.interp(at, x, y) + beyond)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """D draws of the law's parameters and of the n trials' cells.

    Args:
        level: (D, J) a.
        weights: (D, J, J) b, strictly lower triangular.
        noise: (D, J) s.
        cells: (D, n, J) z of the rungs climbed; what lies beyond a trial's last one is not read.
    """

    level: FloatArray
    weights: FloatArray
    noise: FloatArray
    cells: FloatArray

    def ends(self, last: NDArray[np.intp], rng: np.random.Generator) -> FloatArray:
        """(D, n) outcomes on the standard scale.

        Args:
            last: (n,) index of the last rung that each trial climbed; -1 for none.
            rng: of what is not known.
        """
        return self._climbed(self.cells, last, rng)

    def ends_of(self, z: FloatArray, rng: np.random.Generator) -> FloatArray:
        """(D, m) outcomes of other trials, that climbed the rungs of (m, J) `z` up to a NaN."""
        last = np.isfinite(z).sum(axis=1) - 1
        return self._climbed(np.broadcast_to(z, (len(self.level), *z.shape)), last, rng)

    def _climbed(
        self, cells: FloatArray, last: NDArray[np.intp], rng: np.random.Generator
    ) -> FloatArray:
        cells = np.where(np.arange(cells.shape[2]) <= last[:, None], cells, 0.0)
        for j in range(cells.shape[2]):
            drawn = rng.standard_normal(cells.shape[:2]) * self.noise[:, j, None]
            drawn += self.level[:, j, None] + np.einsum(
                "dnk,dk->dn", cells[:, :, :j], self.weights[:, j, :j]
            )
            cells[:, :, j] = np.where(last >= j, cells[:, :, j], drawn)
        ends: FloatArray = cells[:, :, -1]
        return ends


def standard(
    values: FloatArray, errors: FloatArray, column: Column
) -> tuple[FloatArray, FloatArray]:
    """(n,) values of a rung on its standard scale, and their errors there.

    z = sign x (link(value) - middle) / spread, middle and spread robust, far values damped.

    Raises:
        ConfigError: if a value cannot be of the column's kind.
    """
    if not np.isfinite(values).any():
        return values, errors
    trials = n_trials(values, errors, column.kind)
    spread_of_one = typical_spread(values, column.kind, trials)
    at, error = linked(values, errors, column.kind, trials, column.name, spread_of_one)
    middle, spread = middle_and_spread(at)
    z, error = damped(at, error, np.full(1, middle), np.full(1, spread))
    return -z if column.sign < 0 else z, error


def fit_law(
    z: FloatArray,
    errors: FloatArray,
    has_sense: Sequence[bool],
    n_draws: int,
    rng: np.random.Generator,
) -> Law:
    """Draws from the law of J rungs, given n trials.

    Args:
        z: (n, J) on the standard scale; NaN where a rung was skipped or not reached.
        errors: (n, J) standard errors there; NaN or 0: exact.
        has_sense: (J,) whether more of the rung can only promise more of the outcome.
        n_draws: D; at least so many.
        rng: of the draws.
    """
    chains = _Chains(z, errors, np.asarray(has_sense, dtype=bool), rng)
    n_kept = -(-n_draws // _CHAINS)
    for _ in range(_BURN_IN):
        chains.sweep()
    kept = []
    for _ in range(n_kept):
        chains.sweep()
        kept.append([part.copy() for part in (chains.a, chains.b, chains.s, chains.cells)])
    level, weights, noise, cells = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    if not chains.is_latent.any():
        cells = np.broadcast_to(cells[:1], (len(level), *z.shape))
    return Law(level=level, weights=weights, noise=noise, cells=cells)


class _Chains:
    """Gibbs chains side by side, the first axis of every array."""

    def __init__(
        self,
        z: FloatArray,
        errors: FloatArray,
        has_sense: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> None:
        n_rungs = z.shape[1]
        self.rng = rng
        self.z, self.has_sense = z, has_sense
        known = np.isfinite(z)
        self.last = np.where(known.any(axis=1), n_rungs - 1 - known[:, ::-1].argmax(axis=1), -1)
        is_noisy = known & (np.nan_to_num(errors) > _LEAST_ERROR)
        was_skipped = ~known & (np.arange(n_rungs) < self.last[:, None])
        self.is_latent = is_noisy | was_skipped
        self.precision = np.where(is_noisy, 1.0 / np.where(is_noisy, errors, 1.0) ** 2, 0.0)
        self.rows = [np.flatnonzero(self.last >= j) for j in range(n_rungs)]
        # Without latent cells all chains see the same ones.
        n_copies = _CHAINS if self.is_latent.any() else 1
        self.cells = np.repeat(np.where(known, z, 0.0)[None], n_copies, axis=0)
        self.a = np.zeros((_CHAINS, n_rungs))
        self.b = np.zeros((_CHAINS, n_rungs, n_rungs))
        self.s = np.ones((_CHAINS, n_rungs))
        self._moments = [self._moment(j) for j in range(n_rungs)]

    def sweep(self) -> None:
        """Draw every parameter and every latent cell once."""
        for j in range(self.z.shape[1]):
            self._draw_regression(j)
        if self.is_latent.any():
            for at in np.flatnonzero(self.is_latent.any(axis=0)):
                self._draw_cells(int(at))
            self._moments = [self._moment(j) for j in range(self.z.shape[1])]

    def _moment(self, j: int) -> FloatArray:
        """Second moments of (1, rungs before j, rung j) over the rows that came to j."""
        cells = self.cells[:, self.rows[j], : j + 1]
        design = np.concatenate([np.ones((*cells.shape[:2], 1)), cells], axis=2)
        return np.asarray(design.transpose(0, 2, 1) @ design)

    def _draw_regression(self, j: int) -> None:
        moment = self._moments[j]
        gram, cross, own = moment[:, :-1, :-1], moment[:, :-1, -1], moment[:, -1, -1]
        beta = np.concatenate([self.a[:, j, None], self.b[:, j, :j]], axis=1)
        variance = self.s[:, j] ** 2
        for k in range(j + 1):
            scale = LEVEL_SCALE if k == 0 else COEFFICIENT_SCALE
            rest = cross[:, k] - (gram[:, k] * beta).sum(axis=1) + gram[:, k, k] * beta[:, k]
            precision = gram[:, k, k] / variance + 1.0 / scale**2
            mean, sd = rest / variance / precision, 1.0 / np.sqrt(precision)
            is_bound = k > 0 and bool(self.has_sense[k - 1] and self.has_sense[j])
            beta[:, k] = self._normal(mean, sd, is_bound)
        left = own - 2.0 * (beta * cross).sum(axis=1) + np.einsum("ck,ckl,cl->c", beta, gram, beta)
        rate = NOISE_RATE + 0.5 * np.maximum(left, 0.0)
        shape = NOISE_SHAPE + 0.5 * len(self.rows[j])
        self.s[:, j] = np.sqrt(rate / self.rng.standard_gamma(shape, _CHAINS))
        self.a[:, j], self.b[:, j, :j] = beta[:, 0], beta[:, 1:]

    def _normal(self, mean: FloatArray, sd: FloatArray, is_bound: bool) -> FloatArray:
        """(C,) normal numbers; those that are bound are at least 0."""
        if not is_bound:
            return mean + sd * self.rng.standard_normal(_CHAINS)
        # Beyond 30 deviations the tail has no number for its area.
        least = np.minimum(-mean / sd, 30.0)
        tail = ndtr(-least) * (1.0 - self.rng.random(_CHAINS))
        return np.maximum(mean - sd * np.asarray(ndtri(tail)), 0.0)

    def _draw_cells(self, j: int) -> None:
        rows = np.flatnonzero(self.is_latent[:, j])
        cells = self.cells[:, rows]
        expected = self.a[:, j, None] + np.einsum("cnk,ck->cn", cells[:, :, :j], self.b[:, j, :j])
        precision = 1.0 / self.s[:, j, None] ** 2 + self.precision[rows, j]
        pull = expected / self.s[:, j, None] ** 2
        pull = pull + self.precision[rows, j] * np.nan_to_num(self.z[rows, j])
        for k in range(j + 1, self.z.shape[1]):
            slope = self.b[:, k, j, None]
            without = np.einsum("cnl,cl->cn", cells[:, :, :k], self.b[:, k, :k])
            left = cells[:, :, k] - self.a[:, k, None] - without + slope * cells[:, :, j]
            weight = (self.last[rows] >= k) / self.s[:, k, None] ** 2
            precision = precision + weight * slope**2
            pull = pull + weight * slope * left
        noise = self.rng.standard_normal(pull.shape)
        self.cells[:, rows, j] = pull / precision + noise / np.sqrt(precision)
