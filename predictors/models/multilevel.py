"""A linear model of checkpoints in groups that learns all its variances at the same time.

    y_i = mean + slopes . (levels and standings of the proxies) + u_(group of i) + e_i

Slopes, group intercepts u and the mean have normal priors, so their posterior is in closed form
(Henderson's mixed-model equations). The variances of the blocks maximise the marginal likelihood
times a weak prior (type-II maximum a posteriori, found with the exact gradient):

- `raw` features include the level of the group, `centred` features only the position inside it. A
  slope that is the same between groups and inside them goes to the first block; a slope that holds
  only inside groups goes to the second (as in Mundlak 1978, but both are shrunken instead of one
  being tested). One model can therefore use both proxies on a common benchmark and losses that no
  two groups share.
- In each block, proxies of one kind with a sign also enter as their mean: seven accuracies are one
  measurement repeated seven times. The sign is prior knowledge: the slope of that mean is expected
  to be positive. With few rows the model therefore falls back to the signed average of the kinds,
  and moves away from it as the data require.
- u is partially pooled. With fewer than about five groups its variance is close to the wide prior;
  unlike in REML, it cannot be estimated as 0 by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from sklearn.utils.validation import check_is_fitted

from rlready.predictors.features import Features, PlainColumns, Views
from rlready.predictors.models.matern import most_probable
from rlready.predictors.models.proxy_regressor import ProxyRegressor
from rlready.predictors.training_table import COMPARABLE, UNKNOWN, FloatArray
from rlready.registry.errors import ConfigError

_PRIOR_SHARES: Mapping[str, Mapping[str, Any]] = {
    UNKNOWN: {"raw": (0.4, 0.1), "centred": (0.4, 0.1), "group": 0.3, "residual": 0.2},
    COMPARABLE: {"raw": (0.6, 0.15), "centred": (0.1, 0.05), "group": 0.03, "residual": 0.2},
}
"""Share of the variance of the outcomes that each part explains at the prior's middle, by `levels`.

Slopes have two shares: that of the means of kinds, and that of single proxies. If levels are
comparable, slopes between groups are expected to equal those inside them, so little is left for
the intercepts.
"""

_PRIOR_SLOPE = 0.5
"""Expected gain, in standard deviations of the outcome, of a checkpoint that is one standard
deviation better on every kind of proxy: proxies are expected to explain a quarter of the variance.
"""

_PRIOR_WIDTH = 1.5
"""Prior standard deviation of the logarithm of each variance: a factor of twenty either way."""

_FLAT = 100.0
"""Prior variance of the mean, in variances of the outcome; large, so that the mean is free."""

_BLOCKS = ["mean", "raw_kinds", "raw", "centred_kinds", "centred", "group", "residual"]
"""Parts of the model with a variance of their own; the last has no columns in the design."""


class Multilevel(ProxyRegressor):
    """Outcomes from proxies, with partially pooled group intercepts.

    Args:
        columns: as for `Features`.
        levels: as `TrainingTable.levels`.

    Attributes:
        coef_, covariance_: (q,) posterior mean and (q, q) covariance of the coefficients, for
            outcomes minus `y_mean_` and divided by `y_sd_`.
        variances_: (7,) variance of each block, in variances of the outcome.
        group_sd_: standard deviation of group intercepts, beyond what the proxies' levels explain.
        residual_sd_: standard deviation of an outcome around its expectation in its group, for a
            row of weight 1. It includes the noise of one RL run.
        group_effects_: intercept of each training group, by name, shrunk towards 0.
        features_: the fitted `Features`.
    """

    def __init__(self, columns: PlainColumns | None = None, levels: str = UNKNOWN) -> None:
        self.columns = columns
        self.levels = levels

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model. `sample_weight` is the precision of each outcome, in any unit."""
        self._fit_rows(X, y, sample_weight)
        return self

    def _fit_rows(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        """Fit the model; return the training rows as design, outcomes and weights."""
        if self.levels not in _PRIOR_SHARES:
            raise ConfigError(
                f"there are no levels {self.levels!r}", fix=f"Known: {', '.join(_PRIOR_SHARES)}"
            )
        X, y, weight = self._fit_features(X, y, sample_weight)
        views = self.features_.views(X)
        self.kind_of_ = _kinds(self.features_)
        sds = [(rows @ self.kind_of_.T).std(axis=0) for rows in (views.raw, views.centred)]
        self.kind_sd_ = [np.where(sd > 1e-9, sd, 1.0) for sd in sds]
        self.y_mean_ = float(np.average(y, weights=weight))
        self.y_sd_ = float(np.sqrt(np.average((y - self.y_mean_) ** 2, weights=weight)))
        if self.y_sd_ < 1e-9 * (1.0 + abs(self.y_mean_)):
            self.y_sd_ = 0.0  # all outcomes are equal, so no proxy can explain anything
        self.group_names_ = list(map(str, np.unique(views.groups)))
        rows = Rows(self._design(views), y, weight)
        prior = self._prior()
        response = (y - self.y_mean_) / (self.y_sd_ or 1.0)
        equations = Equations(
            rows.design, response - rows.design @ prior.expected, weight, prior.block_of
        )
        logs = most_probable_variances(equations, prior.logs)
        departure, self.covariance_, _ = equations.posterior(logs)
        self.variances_, self.coef_ = np.exp(logs), prior.expected + departure
        self._name_parts(prior)
        return rows

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) expected outcomes."""
        check_is_fitted(self)
        return self.y_mean_ + self.y_sd_ * (self._design(self.features_.views(X)) @ self.coef_)

    def _design(self, views: Views) -> FloatArray:
        """Return the (n, q) design: mean, raw kinds, raw, centred kinds, centred, groups."""
        parts = [np.ones((len(views.groups), 1))]
        for rows, sds in zip((views.raw, views.centred), self.kind_sd_, strict=True):
            parts += [rows @ self.kind_of_.T / sds, rows]
        is_in_group = views.groups[:, None] == np.asarray(self.group_names_)[None, :]
        return np.hstack([*parts, is_in_group.astype(np.float64)])

    def _prior(self) -> Prior:
        """Return the prior of the coefficients and variances."""
        n_kinds, n_proxies = self.kind_of_.shape
        sizes = [1, n_kinds, n_proxies, n_kinds, n_proxies, len(self.group_names_)]
        block_of = np.repeat(np.arange(len(sizes)), sizes).astype(np.intp)
        shares, n_kinds = _PRIOR_SHARES[self.levels], max(n_kinds, 1)
        slopes = [
            share / n
            for view in ("raw", "centred")
            for share, n in zip(shares[view], (n_kinds, n_proxies), strict=True)
        ]
        return Prior(
            block_of=block_of,
            # Only the slopes of the kinds' means are expected to differ from 0.
            expected=np.where(block_of == _BLOCKS.index("raw_kinds"), _PRIOR_SLOPE / n_kinds, 0.0),
            logs=np.log([_FLAT, *slopes, shares["group"], shares["residual"]]),
        )

    def _name_parts(self, prior: Prior) -> None:
        """Set the attributes that people read: sizes of errors, and intercepts by group."""
        self.group_sd_, self.residual_sd_ = (
            self.y_sd_ * float(np.sqrt(self.variances_[_BLOCKS.index(block)]))
            for block in ("group", "residual")
        )
        effects = self.y_sd_ * self.coef_[prior.block_of == _BLOCKS.index("group")]
        self.group_effects_ = dict(zip(self.group_names_, map(float, effects), strict=True))


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows: (n, q) design, (n,) outcomes and weights with mean 1."""

    design: FloatArray
    y: FloatArray
    weight: FloatArray

    def some(self, chosen: NDArray[Any]) -> Rows:
        """Return some of the rows, by position or mask."""
        return Rows(self.design[chosen], self.y[chosen], self.weight[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """The prior of coefficients and variances, in standard deviations of the outcome.

    Args:
        block_of: (q,) block of each coefficient.
        expected: (q,) mean of each coefficient.
        logs: (7,) log variance of each block.
    """

    block_of: NDArray[np.intp]
    expected: FloatArray
    logs: FloatArray


def most_probable_variances(
    equations: Equations, prior: FloatArray, start: FloatArray | None = None
) -> FloatArray:
    """Return the (7,) log variances that maximise the marginal likelihood times the prior.

    Args:
        equations: equations of the rows.
        prior: (7,) prior middle of the log variances; the variance of the mean stays fixed.
        start: (7,) log variances where the search begins; by default the prior middle.
    """

    def loss(chosen: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = equations.loss(np.concatenate([prior[:1], chosen]))
        return value, gradient[1:]

    width = np.full(len(prior) - 1, _PRIOR_WIDTH)
    first = None if start is None else start[1:]
    best = most_probable(loss, prior[1:], width, reach=8.0, start=first)
    return np.concatenate([prior[:1], best.x])


class Equations:
    """The mixed-model equations of a design; they grow with its columns, not with its rows."""

    def __init__(
        self, design: FloatArray, y: FloatArray, weight: FloatArray, block_of: NDArray[np.intp]
    ) -> None:
        self.n, self.block_of = len(y), block_of
        weighted = design * weight[:, None]
        self.gram, self.moment = design.T @ weighted, weighted.T @ y
        self.y_square = float(y @ (weight * y))

    def posterior(self, logs: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Return mean (q,) and covariance (q, q) of the coefficients, and a log determinant."""
        residual = float(np.exp(logs[-1]))
        precision = self.gram / residual
        precision[np.diag_indices_from(precision)] += 1.0 / np.exp(logs[:-1])[self.block_of]
        factor = cho_factor(precision, lower=True)
        covariance = cho_solve(factor, np.eye(len(precision)))
        mean = covariance @ self.moment / residual
        return mean, covariance, 2.0 * float(np.sum(np.log(np.diag(factor[0]))))

    def loss(self, logs: FloatArray) -> tuple[float, FloatArray]:
        """Return minus the log marginal likelihood, and its gradient in the log variances."""
        mean, covariance, log_determinant = self.posterior(logs)
        residual = float(np.exp(logs[-1]))
        lam = np.exp(logs[:-1])[self.block_of]
        rss = max(float(self.y_square - 2 * mean @ self.moment + mean @ self.gram @ mean), 0.0)
        penalty = float(np.sum(mean**2 / lam))
        value = 0.5 * (
            log_determinant + np.sum(np.log(lam)) + self.n * logs[-1] + rss / residual + penalty
        )
        # Share of each coefficient's prior variance that remains after the data.
        open_share = np.diag(covariance) / lam
        gradient = np.zeros(len(logs))
        np.add.at(gradient, self.block_of, 0.5 * (1.0 - open_share - mean**2 / lam))
        gradient[-1] = 0.5 * (self.n - np.sum(1.0 - open_share) - rss / residual)
        return float(value), gradient


def _kinds(features: Features) -> FloatArray:
    """Return the (K, p) weights of each kind's signed mean, over the proxies with a sign."""
    signed = [
        kind if sign else "" for kind, sign in zip(features.kinds_, features.signs_, strict=True)
    ]
    names = sorted(set(signed) - {""})
    rows = [np.where([kind == name for kind in signed], features.signs_, 0.0) for name in names]
    return np.array([row / np.abs(row).sum() for row in rows]).reshape(-1, len(signed))
