"""The surrogate of a search: a Gaussian process from recipes to outcomes, with a linear part.

    outcome = level + a linear part in (w, sqrt w, other axes) + a smooth part + noise
    smooth part ~ Matern 5/2 of the distance  sum over groups g of |x_g - x'_g|^2 / l_g^2

The mixture enters as sqrt w. Its distance is then Hellinger's, and the first percent of a source
counts more than the last, as in RegMix's runs: trained on 512 runs, ridge on raw weights ranks
unseen mixtures at Spearman 0.90, a process on sqrt w at 0.99. With few runs the linear part (a
ridge regression) dominates, with many the smooth part. The variances and the length of each group
maximise the posterior under log-normal priors, by L-BFGS from the priors' centres, so the fit is
deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from rlready.predictors.models.matern import Matern, matern_of_many, most_probable
from rlready.predictors.training_table import FloatArray

_JITTER = 1e-8
# Centres and standard deviations of the logs of: linear variance, smooth variance, noise variance
# (outcomes standardised), and each length over the median distance of the runs.
_PRIOR_MEAN = np.log([0.5, 0.5, 0.02])
_PRIOR_SD = np.array([1.5, 1.5, 1.5])
_LENGTH_SD = 0.7
_MAX_ITERATIONS = 40
# Hyperparameters need no more rows; the posterior itself uses all of them.
_ROWS_FOR_LENGTHS = 200


# Without a base of scikit-learn, whose import takes a third of the time of `search ask`.
class MixtureModel:
    """Regressor of outcomes on recipe features, with a standard deviation for each prediction.

    Args:
        groups: group of each feature. Group 0 is the mixture; features of one group share a length.
            None: all features belong to the mixture.

    Attributes:
        noise_sd_: standard deviation of an outcome around the model, in its unit.
        lengths_: length of each group, in units of `sqrt w` and of the axes.
    """

    def __init__(self, groups: Sequence[int] | None = None) -> None:
        self.groups = groups

    def fit(self, X: FloatArray, y: FloatArray, y_error: FloatArray | None = None) -> MixtureModel:
        """Fit on (n, p) features and (n,) outcomes; `y_error` are their standard errors."""
        X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if X.ndim != 2 or y.shape != (len(X),) or len(y) < 2:
            raise ValueError(f"needs two rows or more, X is {X.shape} and y {y.shape}")
        if not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise ValueError("X and y must be finite")
        self.n_features_in_ = X.shape[1]
        self.groups_ = np.zeros(X.shape[1], int) if self.groups is None else np.array(self.groups)
        self.level_, self.scale_ = float(y.mean()), float(max(y.std(), 1e-12))
        linear = self._linear_columns(X)
        self.linear_mean_ = linear.mean(axis=0)
        # The scale of a source that no run used must not be 0: a candidate may use it.
        spread = np.maximum(linear.std(axis=0), 0.02) * np.sqrt(linear.shape[1])
        self.linear_scale_ = spread
        error = np.zeros(len(y)) if y_error is None else np.nan_to_num(y_error) / self.scale_
        rows = _Rows(self._mapped(X), self._linear(X), (y - self.level_) / self.scale_, error**2)
        self._fit_hyperparameters(rows)
        self.noise_sd_ = float(np.sqrt(self.noise_) * self.scale_)
        self._condition(rows)
        return self

    def predict(self, X: FloatArray, return_std: bool = False) -> Any:
        """Return (n,) predicted outcomes; with `return_std` also (n,) deviations without noise."""
        belief = self.belief(X)
        return (belief.mean, belief.sd) if return_std else belief.mean

    def belief(self, X: FloatArray) -> Belief:
        """Return the predicted outcomes of many recipes, ready for `Belief.assume_ran`."""
        X = np.asarray(X, dtype=np.float64)
        smooth, linear = self._smooth(X), self._linear(X)
        cross = self._kernel(smooth, linear, self.rows_.smooth, self.rows_.linear)
        solved = solve_triangular(self.cholesky_, cross.T, lower=True, check_finite=False)
        prior = self.linear_variance_ * (linear**2).sum(axis=1) + self.smooth_variance_
        return Belief(
            model=self,
            smooth=smooth,
            linear=linear,
            mean=self.level_ + self.scale_ * (cross @ self.weights_),
            solved=solved,
            variance=np.maximum(prior - (solved**2).sum(axis=0), 1e-12),
        )

    def _smooth(self, X: FloatArray) -> FloatArray:
        return np.asarray(self._mapped(X) / self.lengths_[self.groups_])

    def _mapped(self, X: FloatArray) -> FloatArray:
        return np.asarray(np.where(self.groups_ == 0, np.sqrt(np.maximum(X, 0.0)), X))

    def _linear_columns(self, X: FloatArray) -> FloatArray:
        return np.hstack([X, np.sqrt(np.maximum(X[:, self.groups_ == 0], 0.0))])

    def _linear(self, X: FloatArray) -> FloatArray:
        return np.asarray((self._linear_columns(X) - self.linear_mean_) / self.linear_scale_)

    def _fit_hyperparameters(self, rows: _Rows) -> None:
        if len(rows.y) > _ROWS_FOR_LENGTHS:
            chosen = np.linspace(0, len(rows.y) - 1, _ROWS_FOR_LENGTHS).astype(int)
            columns = (rows.smooth, rows.linear, rows.y, rows.error2)
            rows = _Rows(*(column[chosen] for column in columns))
        names, group_of = np.unique(self.groups_, return_inverse=True)
        squares = np.stack(
            [_distances(rows.smooth[:, group_of == g], None) ** 2 for g in range(len(names))]
        )
        base = _median_off_diagonal(squares)
        fitted = _maximum_posterior(squares / base[:, None, None], rows)
        self.linear_variance_, self.smooth_variance_, self.noise_ = np.exp(fitted[:3])
        lengths = np.ones(int(self.groups_.max()) + 1)
        # With g groups each of them at its median is sqrt(g) lengths away.
        lengths[names] = np.exp(fitted[3:]) * np.sqrt(base)
        self.lengths_ = lengths

    def _condition(self, rows: _Rows) -> None:
        """Posterior of all rows; their smooth part is not yet divided by the lengths."""
        smooth = rows.smooth / self.lengths_[self.groups_]
        self.rows_ = _Rows(smooth, rows.linear, rows.y, rows.error2)
        kernel = self._kernel(smooth, rows.linear, smooth, rows.linear)
        kernel[np.diag_indices(len(rows.y))] += self.noise_ + rows.error2 + _JITTER
        self.cholesky_ = np.linalg.cholesky(kernel)
        self.weights_ = cho_solve((self.cholesky_, True), rows.y)

    def _kernel(
        self, smooth: FloatArray, linear: FloatArray, smooth2: FloatArray, linear2: FloatArray
    ) -> FloatArray:
        kernel = matern_of_many(_distances(smooth, smooth2))
        kernel *= self.smooth_variance_
        kernel += (self.linear_variance_ * linear) @ linear2.T
        return kernel


@dataclass(kw_only=True, eq=False)
class Belief:
    """Predicted outcomes of n recipes; `assume_ran` updates them.

    Args:
        model: the fitted model.
        smooth: (n, p) recipes as the smooth part sees them.
        linear: (n, q) as the linear part sees them.
        mean: (n,) predictions, in the unit of the outcome.
        solved: (rows, n) of the posterior.
        variance: (n,) posterior variances, of the standardised outcome.
    """

    model: MixtureModel
    smooth: FloatArray
    linear: FloatArray
    mean: FloatArray
    solved: FloatArray
    variance: FloatArray

    @property
    def sd(self) -> FloatArray:
        """(n,) standard deviations, noise of a run not included."""
        return np.asarray(np.sqrt(self.variance) * self.model.scale_)

    def gain_over(self, row: int) -> tuple[FloatArray, FloatArray]:
        """Return the (n,) mean and standard deviation of outcome minus the outcome of a recipe."""
        variance = self.variance + self.variance[row] - 2.0 * self._covariance(row)
        sd = np.sqrt(np.maximum(variance, 0.0)) * self.model.scale_
        return self.mean - self.mean[row], np.asarray(sd)

    def assume_ran(self, row: int) -> None:
        """Treat one of the recipes as run, with its predicted outcome ("kriging believer").

        The predictions stay the same; the standard deviations near the recipe shrink.
        """
        added = self._covariance(row) / np.sqrt(self.variance[row] + self.model.noise_ + _JITTER)
        self.solved = np.vstack([self.solved, added])
        self.variance = np.maximum(self.variance - added**2, 1e-12)

    def _covariance(self, row: int) -> FloatArray:
        """(n,) posterior covariances with one of the recipes, of the standardised outcome."""
        kernel = self.model._kernel(
            self.smooth[row : row + 1], self.linear[row : row + 1], self.smooth, self.linear
        )[0]
        return np.asarray(kernel - self.solved[:, row] @ self.solved)


@dataclass(frozen=True, eq=False)
class _Rows:
    smooth: FloatArray
    linear: FloatArray
    y: FloatArray
    error2: FloatArray


def _distances(left: FloatArray, right: FloatArray | None) -> FloatArray:
    right = left if right is None else right
    squares: FloatArray = (-2.0 * left) @ right.T
    squares += (left**2).sum(axis=1)[:, None]
    squares += (right**2).sum(axis=1)
    np.maximum(squares, 0.0, out=squares)
    return np.sqrt(squares, out=squares)


def _median_off_diagonal(squares: FloatArray) -> FloatArray:
    upper = np.triu_indices(squares.shape[1], 1)
    medians = np.median(squares[:, upper[0], upper[1]], axis=1)
    means = squares[:, upper[0], upper[1]].mean(axis=1)
    # If an axis hardly varied, its whole range is one length.
    return np.where(medians > 1e-12, medians, np.where(means > 1e-12, means, 1.0))


def _maximum_posterior(squares: FloatArray, rows: _Rows) -> FloatArray:
    """(3 + groups,) logs of the variances and of the lengths over their base."""
    n, n_groups = len(rows.y), len(squares)
    gram = rows.linear @ rows.linear.T
    mean = np.r_[_PRIOR_MEAN, np.full(n_groups, 0.5 * np.log(n_groups))]
    sd = np.r_[_PRIOR_SD, np.full(n_groups, _LENGTH_SD)]
    diagonal = np.diag_indices(n)

    def objective(theta: FloatArray) -> tuple[float, FloatArray]:
        linear, smooth, noise = np.exp(theta[:3])
        weight = np.exp(-2.0 * theta[3:])
        square = np.tensordot(weight, squares, axes=1)
        matern = Matern(np.sqrt(square))
        correlation = matern.value
        kernel = linear * gram + smooth * correlation
        kernel[diagonal] += noise + rows.error2 + _JITTER
        factor = cho_factor(kernel, lower=True, check_finite=False)
        solved = cho_solve(factor, rows.y, check_finite=False)
        pull = 0.5 * (cho_solve(factor, np.eye(n), check_finite=False) - np.outer(solved, solved))
        value = 0.5 * float(rows.y @ solved) + float(np.log(np.diag(factor[0])).sum())
        slope = smooth * pull * (-5.0 / 6.0) * (1.0 + matern.scaled) * matern.decay
        gradient = np.r_[
            linear * (pull * gram).sum(),
            smooth * (pull * correlation).sum(),
            noise * np.trace(pull),
            -2.0 * weight * np.einsum("ij,gij->g", slope, squares),
        ]
        return value, gradient

    solution = most_probable(objective, mean, sd, reach=4.0 * sd, max_iterations=_MAX_ITERATIONS)
    return np.asarray(solution.x, dtype=np.float64)
