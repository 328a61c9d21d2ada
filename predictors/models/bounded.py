"""The multilevel model under a ceiling, where outcomes level off.

    y_i = mu(eta_i + d_i) + e_i       mu(eta) = floor + (c - floor) / (1 + exp(-eta))
    d_i ~ N(0, s_eta^2), e_i ~ N(0, s_y^2), both over the row's weight

eta is the linear predictor of `Multilevel`, with its blocks, priors and group intercepts. RL
brings most good checkpoints to about one score: a straight line through such outcomes predicts
scores above any that RL can reach, and too wide a spread among the best.

The model under one ceiling c is fitted as in Lindstrom and Bates (1990, Biometrics 46). Around the
current eta0 the model is linear in the coefficients; mu' is d mu / d eta:

    y - mu + mu' eta0 = mu' X b + noise of variance s_y^2 + mu'^2 s_eta^2

1. The variances of the blocks maximise the marginal likelihood of this model, as in `Multilevel`.
   The share of the noise that is in eta then maximises it at these variances.
2. At fixed variances, the coefficients minimise the penalised sum of squares of y - mu, by
   Gauss-Newton steps that are halved until the sum falls. Rows on the plateau, where mu' is about
   0, have no influence on the slopes, but their scatter determines s_y.

The candidates for c are `ABOVE` standard deviations above the best outcome (at most the end of the
scale), and no ceiling. Each is judged by five folds of rows, with the variances fitted to all rows.
A ceiling has to lower the squared error by `LEAST_GAIN`. Otherwise the model is `Multilevel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from rlready.predictors.bound import Bound, candidate_bounds, scale_ends
from rlready.predictors.features import PlainColumns
from rlready.predictors.models.multilevel import (
    Equations,
    Multilevel,
    Prior,
    Rows,
    most_probable_variances,
)
from rlready.predictors.training_table import UNKNOWN, FloatArray

ABOVE = (0.05, 0.25, 1.0, 3.0)
"""Distances of the candidate ceilings above the best outcome, in standard deviations."""

LEAST_GAIN = 0.05
"""Share by which a ceiling has to lower the squared error of held-out rows."""

MIN_ROWS = 10
"""Smallest number of different rows for a ceiling: with fewer, the folds would judge by chance."""

_N_FOLDS = 5
_MOST_TURNS, _MOST_STEPS, _MOST_HALVINGS = 20, 20, 8
_STILL = 1e-3
"""The fit ends when no fitted mean changes by more than this, in standard deviations of y."""

_NEAR_END = 0.02
"""Share of the span at either end that the first logits leave out."""

_SHARE_WIDTH = 2.0
"""Prior standard deviation of the logit of the share of noise in eta, around a share of half."""


class Bounded(Multilevel):
    """Outcomes from proxies under a ceiling, if there is evidence for one.

    Args:
        columns: as for `Features`.
        levels: as for `Multilevel`.
        ends: lowest and highest possible outcome; infinity if there is no upper end. None: derive
            them from the range of the outcomes, see `scale_ends`; if an outcome is negative, there
            is no ceiling.
        seed: seed of the folds.

    Attributes:
        bound_: floor and ceiling; None if the model has no ceiling.
        bound_reason_: why the model has no ceiling; empty if it has one.
        cv_errors_: squared error of held-out rows under each ceiling, divided by the error without
            a ceiling.
        eta_share_: share of the noise that is in eta, at the typical slope of the rows.
        residual_sd_: as for `Multilevel`; with a ceiling, at the typical slope of the rows.
        y_mean_, y_sd_, group_sd_, group_effects_: as for `Multilevel`; with a ceiling, in eta.

    Example:
        >>> model = Bounded().fit(table.X, table.y)
        >>> model.bound_ or model.bound_reason_
    """

    def __init__(
        self,
        columns: PlainColumns | None = None,
        levels: str = UNKNOWN,
        ends: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(columns, levels)
        self.ends = ends
        self.seed = seed

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model. `sample_weight` is the precision of each outcome, in any unit."""
        rows = self._fit_rows(X, y, sample_weight)
        self.bound_: Bound | None = None
        self.cv_errors_: dict[str, float] = {}
        curve = self._best_curve(rows)
        self.bound_reason_ = curve if isinstance(curve, str) else ""
        if not isinstance(curve, str):
            self.bound_, self.y_mean_, self.y_sd_ = curve.bound, curve.middle, curve.sd
            self.coef_, self.covariance_ = curve.coef, curve.covariance(rows)
            self.variances_, self.eta_share_ = np.exp(curve.logs), curve.eta_share
            self._name_parts(curve.prior)
            self.residual_sd_ *= float(np.sqrt(curve.information))
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) expected outcomes."""
        predicted = super().predict(X)
        return predicted if self.bound_ is None else self.bound_.value(predicted)

    def _best_curve(self, rows: Rows) -> _Curve | str:
        """Return the fit under the best ceiling, or the reason why there is no ceiling."""
        ends = self.ends or scale_ends(rows.y)
        if isinstance(ends, str):
            return f"no ceiling: {ends}"
        if self.y_sd_ == 0.0:
            return "no ceiling: the outcomes do not differ"
        row_of = np.unique(rows.design.round(12), axis=0, return_inverse=True)[1].ravel()
        if row_of.max() + 1 < MIN_ROWS:
            return f"no ceiling: fewer than {MIN_ROWS} different rows"
        shuffled = np.random.default_rng(self.seed).permutation(row_of.max() + 1)
        fold_of = (shuffled % _N_FOLDS)[row_of]
        without = self._held_out_errors(rows, fold_of)
        best, most, failed = None, 0.0, []
        fitted = self.y_mean_ + self.y_sd_ * (rows.design @ self.coef_)
        for bound in candidate_bounds(rows.y, self.y_sd_, ends, ABOVE):
            name = f"{bound.ceiling:.6g}"
            curve = _Curve.fitted(bound, rows, self._prior(), fitted, _STILL * self.y_sd_)
            if curve is None:
                failed.append(name)
                continue
            gain = without - curve.held_out_errors(rows, fold_of)
            share, error = float(np.sum(gain)), float(np.std(gain) * np.sqrt(len(gain)))
            self.cv_errors_[name] = 1.0 - share / float(np.sum(without))
            if share >= max(LEAST_GAIN * float(np.sum(without)), error, most):
                best, most = curve, share
        if best is not None:
            return best
        if failed and not self.cv_errors_:
            return f"no ceiling: the fits under {', '.join(failed)} did not converge"
        return f"no ceiling saves {LEAST_GAIN:.0%} of the squared error of held-out rows"

    def _held_out_errors(self, rows: Rows, fold_of: NDArray[np.intp]) -> FloatArray:
        """Return the (n,) weighted squared errors of held-out rows without a ceiling."""
        errors, prior = np.empty(len(rows.y)), self._prior()
        logs = np.log(self.variances_)
        for fold in np.unique(fold_of):
            rest, out = rows.some(fold_of != fold), rows.some(fold_of == fold)
            response = (rest.y - self.y_mean_) / self.y_sd_ - rest.design @ prior.expected
            equations = Equations(rest.design, response, rest.weight, prior.block_of)
            coef = prior.expected + equations.posterior(logs)[0]
            predicted = self.y_mean_ + self.y_sd_ * (out.design @ coef)
            errors[fold_of == fold] = out.weight * (out.y - predicted) ** 2
        return errors


@dataclass(kw_only=True, eq=False)
class _Curve:
    """The model under one ceiling.

    Args:
        bound: the ceiling.
        prior: prior of the coefficients of standardised eta.
        middle: value of eta where the standardised eta is 0.
        sd: one unit of the standardised eta, in eta.
        information: mean square of mu' over the rows, at the start.
        logs: (7,) log variances of the blocks.
        coef: (q,) coefficients of standardised eta.
        eta_share: share of the noise that is in eta, where mu'^2 is `information`.
    """

    bound: Bound
    prior: Prior
    middle: float
    sd: float
    information: float
    logs: FloatArray
    coef: FloatArray
    eta_share: float = 0.5

    @staticmethod
    def fitted(
        bound: Bound, rows: Rows, prior: Prior, first: FloatArray, still: float
    ) -> _Curve | None:
        """Return the fit under a ceiling; None if it does not converge.

        Args:
            bound: the ceiling.
            rows: the training rows.
            prior: prior of the coefficients.
            first: (n,) predictions from which the fit begins.
            still: largest change of a fitted mean at which the fit ends.
        """
        target = bound.eta(rows.y, _NEAR_END)
        middle = float(np.average(target, weights=rows.weight))
        sd = float(np.sqrt(np.average((target - middle) ** 2, weights=rows.weight)))
        if sd < 1e-9:
            return None
        eta = bound.eta(first, _NEAR_END)
        curve = _Curve(
            bound=bound,
            prior=prior,
            middle=middle,
            sd=sd,
            information=float(np.average(bound.slope(eta) ** 2, weights=rows.weight)),
            logs=prior.logs,
            coef=prior.expected,
        )
        mean, noise = bound.value(eta), curve.noise(eta)
        for turn in range(_MOST_TURNS):
            linear = curve.linearised(rows, eta, noise)
            curve.logs = most_probable_variances(linear, prior.logs, curve.logs if turn else None)
            curve.eta_share = curve.best_share(rows, eta)
            # Go half of the way, in logarithms: with the full step some fits oscillate for ever.
            noise = np.sqrt(noise * curve.noise(eta)) if turn else curve.noise(eta)
            aim = prior.expected + curve.linearised(rows, eta, noise).posterior(curve.logs)[0]
            curve.coef = curve.settled(rows, noise, [curve.coef, aim])
            eta, before = curve.eta(rows), mean
            mean = bound.value(eta)
            if np.max(np.abs(mean - before)) <= still:
                return curve
        return None

    def eta(self, rows: Rows, coef: FloatArray | None = None) -> FloatArray:
        """Return the (n,) linear predictors of the rows."""
        return self.middle + self.sd * (rows.design @ (self.coef if coef is None else coef))

    def noise(self, eta: FloatArray, share: float | None = None) -> FloatArray:
        """Return the (n,) noise variances of the outcomes, relative to the typical slope."""
        share = self.eta_share if share is None else share
        return 1.0 - share + share * self.bound.slope(eta) ** 2 / self.information

    def linearised(self, rows: Rows, eta: FloatArray, noise: FloatArray) -> Equations:
        """Return the equations, linear around eta, of the deviation from the prior's means."""
        slope = self.bound.slope(eta)
        root = float(np.sqrt(self.information))
        design = rows.design * (slope / root)[:, None]
        response = (rows.y - self.bound.value(eta) + slope * (eta - self.middle)) / (root * self.sd)
        response = response - design @ self.prior.expected
        return Equations(design, response, rows.weight / noise, self.prior.block_of)

    def best_share(self, rows: Rows, eta: FloatArray) -> float:
        """Return the most probable share of the noise in eta, at the current variances."""

        def loss(logit: float) -> float:
            noise = self.noise(eta, 1.0 / (1.0 + np.exp(-logit)))
            value, _ = self.linearised(rows, eta, noise).loss(self.logs)
            return value + 0.5 * float(np.sum(np.log(noise))) + 0.5 * (logit / _SHARE_WIDTH) ** 2

        best = minimize_scalar(loss, bounds=(-8.0, 8.0), method="bounded", options={"xatol": 0.01})
        return float(1.0 / (1.0 + np.exp(-best.x)))

    def covariance(self, rows: Rows) -> FloatArray:
        """Return the (q, q) covariance of the coefficients."""
        eta = self.eta(rows)
        return self.linearised(rows, eta, self.noise(eta)).posterior(self.logs)[1]

    def settled(self, rows: Rows, noise: FloatArray, starts: list[FloatArray]) -> FloatArray:
        """Return the coefficients that minimise the penalised sum of squares, from the best start.

        Args:
            rows: the training rows.
            noise: (n,) variances of their noise, see `noise`.
            starts: coefficients from which the search may begin.
        """
        variances, expected = np.exp(self.logs), self.prior.expected
        unit = variances[-1] * self.information * self.sd**2

        def loss(coef: FloatArray) -> float:
            gap = rows.y - self.bound.value(self.eta(rows, coef))
            away = (coef - expected) ** 2 / variances[:-1][self.prior.block_of]
            return float((rows.weight / noise) @ gap**2 / unit + np.sum(away))

        losses = [loss(start) for start in starts]
        best, least = starts[int(np.argmin(losses))], min(losses)
        for _ in range(_MOST_STEPS):
            linear = self.linearised(rows, self.eta(rows, best), noise)
            step, before = expected + linear.posterior(self.logs)[0] - best, least
            for halving in range(_MOST_HALVINGS):
                nearer = best + step / 2.0**halving
                new = loss(nearer)
                if new < least:
                    best, least = nearer, new
                    break
            if before - least <= 1e-6 * (1.0 + before):
                break
        return best

    def held_out_errors(self, rows: Rows, fold_of: NDArray[np.intp]) -> FloatArray:
        """Return the (n,) weighted squared errors of held-out rows, with fixed variances."""
        errors, noise = np.empty(len(rows.y)), self.noise(self.eta(rows))
        for fold in np.unique(fold_of):
            rest, out = rows.some(fold_of != fold), rows.some(fold_of == fold)
            coef = self.settled(rest, noise[fold_of != fold], [self.coef])
            predicted = self.bound.value(self.eta(out, coef))
            errors[fold_of == fold] = out.weight * (out.y - predicted) ** 2
        return errors
