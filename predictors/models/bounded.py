"""The multilevel model under a ceiling, where outcomes level off.

    y_i = floor + (c - floor) / (1 + exp(-eta_i)) + e_i        e_i ~ N(0, s_y^2 / weight_i)

eta is the linear predictor of `Multilevel`, with its blocks, priors and group intercepts. RL brings
most good checkpoints to about one score: a straight line through such outcomes predicts scores above
any that RL can reach, and too wide a spread among the best.

Fit of one ceiling c, after Lindstrom and Bates (1990, Biometrics 46), two steps in turn:

1. coefficients at fixed variances by penalised Gauss-Newton steps on the working response
   z = eta + mu' (y - mu) / k, weights k = max(mu', 0.02 (c - floor))^2. Rows on the plateau, whose
   mu' is about 0, so neither explode nor move the solution. A step is halved until the penalised
   sum of squares falls;
2. variances of the blocks from the marginal likelihood of the working response.

Choice of c: `ABOVE` standard deviations above the best outcome, at most the end of the scale, or no
ceiling at all. Each is judged by five folds of rows, with its variances of all rows. A ceiling has
to lower the squared error by `LEAST_GAIN`; else the model is `Multilevel` itself.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlready.predictors.bound import Bound, candidate_bounds, scale_ends
from rlready.predictors.features import PlainColumns
from rlready.predictors.fit_input import checked_outcomes
from rlready.predictors.models.multilevel import Multilevel, _Equations
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray

ABOVE = (0.05, 0.25, 1.0, 3.0)
"""Ceilings that are tried, in standard deviations of the outcomes above the best one."""

LEAST_GAIN = 0.05
"""Share of the squared error of held-out rows that a ceiling has to save."""

MIN_ROWS = 10
"""With fewer different rows than this no ceiling is tried: its folds would be chance."""

_N_FOLDS = 5
_MOST_TURNS, _MOST_STEPS, _MOST_HALVINGS = 12, 20, 8
_STILL = 1e-3
"""Largest change of a fitted mean, in standard deviations of the outcomes, that ends the turns."""

_NEAR_END = 0.02
"""Share of the span at either end where the slope counts as this near, and logits are clipped."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Training rows: (n, q) design, (n,) outcomes and weights with mean 1."""

    design: FloatArray
    y: FloatArray
    weight: FloatArray

    def some(self, chosen: NDArray[np.intp]) -> _Rows:
        """Return some of the rows, by position."""
        return _Rows(self.design[chosen], self.y[chosen], self.weight[chosen])


class Bounded(Multilevel):
    """Outcomes from proxies under a ceiling, if there is evidence for one.

    Args:
        columns: as for `Features`.
        ends: lowest and highest possible outcome (infinity: none). None: by the range of the
            outcomes, see `scale_ends`; outcomes with a negative one among them get no ceiling.
        seed: of the folds.

    Attributes:
        bound_: floor and ceiling; None if no ceiling was taken.
        bound_reason_: why not, in words; empty if one was.
        cv_errors_: squared error of held-out rows of each ceiling, over that without one.
        residual_sd_: as of `Multilevel`, in units of the outcome.
        group_sd_, group_effects_: as of `Multilevel`; under a ceiling in units of eta.

    Example:
        >>> model = Bounded().fit(table.X, table.y)
        >>> model.bound_ or model.bound_reason_
    """

    def __init__(
        self,
        columns: PlainColumns | None = None,
        ends: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(columns)
        self.ends = ends
        self.seed = seed

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model. `sample_weight`: precision of each outcome, in any unit."""
        super().fit(X, y, sample_weight)
        X, y, weight = checked_outcomes(self, X, y, sample_weight)
        self.bound_: Bound | None = None
        self.cv_errors_: dict[str, float] = {}
        rows = _Rows(self._design(self.features_.views(X)), y, weight)
        self.bound_reason_ = self._take_best(rows)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """(n,) expected outcomes; with `return_std` also their (n,) standard deviations."""
        predicted = super().predict(X, return_std)
        if self.bound_ is None or return_std:
            return predicted
        return self.bound_.value(predicted)

    def predictive(self, X: Any) -> Predictive:
        """What is known of the outcome of one RL run from each row; see `Multilevel`."""
        linear = super().predictive(X)
        if self.bound_ is None:
            return linear
        mean = self.bound_.value(linear.mean)
        slope = self.bound_.slope(mean)
        # The linear model counts the residual as a part of eta; it is one of the outcome.
        own = np.maximum(linear.row_sd**2 - self.y_sd_**2 * self._share("residual"), 0.0)
        noise = np.full(len(mean), self.residual_sd_)
        return Predictive(
            mean=mean,
            row_sd=np.hypot(slope * np.sqrt(own), noise),
            group_sd=slope * linear.group_sd,
            groups=linear.groups,
            df=self.df_,
            bound=self.bound_,
            additive_sd=noise,
        )

    def _take_best(self, rows: _Rows) -> str:
        """Become the model of the best ceiling, or return in words why there is none."""
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
        without = self._held_out_error(rows, fold_of)
        best, least, failed = None, (1.0 - LEAST_GAIN) * without, []
        for bound in candidate_bounds(rows.y, self.y_sd_, ends, ABOVE):
            model = self._under(bound, rows)
            name = f"{bound.ceiling:.6g}"
            if model is None:
                failed.append(name)
                continue
            error = model._held_out_error(rows, fold_of)
            self.cv_errors_[name] = error / without
            if error <= least:
                best, least = model, error
        if best is not None:
            best.cv_errors_ = self.cv_errors_
            self.__dict__.update(best.__dict__)
            return ""
        if failed and not self.cv_errors_:
            return f"no ceiling: the fits under {', '.join(failed)} did not converge"
        return f"no ceiling saves {LEAST_GAIN:.0%} of the squared error of held-out rows"

    def _under(self, bound: Bound, rows: _Rows) -> Self | None:
        """Return a copy of this model fitted under a ceiling; None if it does not converge."""
        model = copy(self)
        model.bound_ = bound
        start = bound.eta(rows.y, _NEAR_END)
        model.y_mean_ = float(np.average(start, weights=rows.weight))
        model.y_sd_ = float(np.sqrt(np.average((start - model.y_mean_) ** 2, weights=rows.weight)))
        if model.y_sd_ < 1e-9:
            return None
        fitted = self.y_mean_ + self.y_sd_ * (rows.design @ self.coef_)
        eta = bound.eta(fitted, _NEAR_END)
        model.information_ = float(np.average(bound.slope(bound.value(eta)) ** 2, weights=rows.weight))
        mean, coefficients = bound.value(eta), None
        for turn in range(_MOST_TURNS):
            response, weight = model._working(rows, eta)
            model._fit_variances(rows.design, response, weight, model.variances_ if turn else None)
            coefficients = model._settled(rows, coefficients)
            eta = model._eta(rows, coefficients)
            before, mean = mean, bound.value(eta)
            if np.max(np.abs(mean - before)) <= _STILL * self.y_sd_:
                break
        else:
            return None
        # Coefficients and covariance at the solution, with the variances of the last turn.
        response, weight = model._working(rows, eta)
        _, model.covariance_ = model._equations(rows.design, response, weight)
        model.coef_ = coefficients
        model.residual_sd_ = model._noise_sd()
        return model

    def _eta(self, rows: _Rows, coefficients: FloatArray) -> FloatArray:
        return self.y_mean_ + self.y_sd_ * (rows.design @ coefficients)

    def _noise_sd(self) -> float:
        """s_y: the residual of the working response, in units of the outcome."""
        return self.y_sd_ * float(np.sqrt(self.information_ * self._share("residual")))

    def _working(self, rows: _Rows, eta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (n,) working response, standardised, and its weights, both at eta."""
        bound = self.bound_
        share = expit(eta)
        slope = bound.span * share * (1.0 - share)
        curvature = np.maximum(slope, bound.span * _NEAR_END * (1.0 - _NEAR_END)) ** 2
        response = eta + slope * (rows.y - bound.value(eta)) / curvature
        return (response - self.y_mean_) / self.y_sd_, rows.weight * curvature / self.information_

    def _equations(
        self, design: FloatArray, response: FloatArray, weight: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return coefficients and their covariance at the present variances."""
        block_of = self._block_of()
        expected = self._expected(block_of)
        equations = _Equations(design, response - design @ expected, weight, block_of)
        departure, covariance = equations.solve(np.log(self.variances_))
        return expected + departure, covariance

    def _loss(self, rows: _Rows, coefficients: FloatArray) -> float:
        """Return the penalised sum of squares under the ceiling, in units of s_y^2."""
        block_of = self._block_of()
        away = coefficients - self._expected(block_of)
        gap = rows.y - self.bound_.value(self._eta(rows, coefficients))
        penalty = float(np.sum(away**2 / self.variances_[block_of]))
        return float(rows.weight @ gap**2) / self._noise_sd() ** 2 + penalty

    def _settled(self, rows: _Rows, first: FloatArray | None = None) -> FloatArray:
        """Return the coefficients that minimise `_loss`, from `first` or `coef_`, the better."""
        starts = [self.coef_] if first is None else [self.coef_, first]
        losses = [self._loss(rows, start) for start in starts]
        best, loss = starts[int(np.argmin(losses))], min(losses)
        for _ in range(_MOST_STEPS):
            aim, _ = self._equations(rows.design, *self._working(rows, self._eta(rows, best)))
            step, before = aim - best, loss
            for halving in range(_MOST_HALVINGS):
                nearer = best + step / 2.0**halving
                new = self._loss(rows, nearer)
                if new < loss:
                    best, loss = nearer, new
                    break
            if before - loss <= 1e-6 * (1.0 + before):
                break
        return best

    def _held_out_error(self, rows: _Rows, fold_of: NDArray[np.intp]) -> float:
        """Return the weighted squared error of rows held out by folds, variances as they are."""
        error = 0.0
        for fold in np.unique(fold_of):
            rest, out = rows.some(np.flatnonzero(fold_of != fold)), rows.some(np.flatnonzero(fold_of == fold))
            if self.bound_ is None:
                response = (rest.y - self.y_mean_) / self.y_sd_
                coefficients, _ = self._equations(rest.design, response, rest.weight)
                predicted = self._eta(out, coefficients)
            else:
                predicted = self.bound_.value(self._eta(out, self._settled(rest)))
            error += float(out.weight @ (out.y - predicted) ** 2)
        return error
