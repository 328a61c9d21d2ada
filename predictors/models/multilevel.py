"""A linear model of checkpoints in groups, with all its shares of variance learned at once.

    y_i = mean + slopes . (levels and standings of the proxies) + u_(group of i) + e_i

Slopes, group intercepts u and the mean are normal a priori, so their posterior is in closed form
(Henderson's mixed-model equations); the variances of the blocks are where the marginal likelihood
times a weak prior is highest (type-II maximum a posteriori, found with its exact gradient):

- `raw` features carry the level of the group, `centred` ones only the standing in it. A slope that
  holds between groups as inside them goes to the first block, one that holds inside only to the
  second (Mundlak 1978, with both shrunken instead of one tested). That is what makes one model
  serve proxies of one common benchmark and losses that no two groups share.
- In each, proxies of one kind with a sign also enter as their mean (seven accuracies are one
  witness heard seven times, not seven witnesses). The sign is knowledge: that mean's slope is
  expected to be positive. With few rows the model so falls back to the signed average of the
  kinds, and departs from it as the data ask.
- u is partially pooled. With less than about five groups its variance is nearly its prior's,
  which is wide; it cannot be estimated as 0 by accident as REML does.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from rlready.predictors.features import Features, PlainColumns, Views
from rlready.predictors.fit_input import checked_outcomes
from rlready.predictors.models.matern import most_probable
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TextArray

_PRIOR_SHARES = {"mean": 0.4, "own": 0.1, "group": 0.3, "residual": 0.2}
"""Share of the variance of the outcomes that each part explains, at the prior's middle."""

_PRIOR_SLOPE = 0.5
"""Standard deviations of the outcome that a checkpoint is expected to be better by which is one
better by all kinds of proxies: they are taken to explain a quarter of its variance."""

_PRIOR_WIDTH = 1.5
"""Standard deviation of the logarithm of each variance: from a twentieth to twenty times."""

_FLAT = 100.0
"""Variance of the mean, in variances of the outcome: as good as free."""


class Multilevel(RegressorMixin, BaseEstimator):
    """Outcomes from proxies, with partially pooled group intercepts.

    Args:
        columns: as for `Features`.

    Attributes:
        group_sd_: standard deviation of group intercepts, beyond what the proxies' levels tell.
        residual_sd_: of an outcome around its expectation in its group, one RL run's noise
            included, for a row of weight 1.
        df_: degrees of freedom of `residual_sd_`: rows less groups less what the slopes use up.
        group_df_: of `group_sd_`: groups less 1, at least 1.
        group_effects_: intercept of each training group, by name, drawn towards 0.
        features_: the fitted `Features`.
    """

    def __init__(self, columns: PlainColumns | None = None) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """The model, fitted. `sample_weight`: precision of each outcome, in any unit."""
        self.features_ = Features(self.columns).fit(X)
        X, y, weight = checked_outcomes(self, X, y, sample_weight)
        self.n_features_in_ = self.features_.n_features_in_
        if hasattr(self.features_, "feature_names_in_"):
            self.feature_names_in_ = self.features_.feature_names_in_
        views = self.features_.views(X)
        self.kind_of_ = _kinds(self.features_)
        self.kind_sd_ = [_kind_sds(rows, self.kind_of_) for rows in (views.raw, views.centred)]
        self.y_mean_ = float(np.average(y, weights=weight))
        self.y_sd_ = float(np.sqrt(np.average((y - self.y_mean_) ** 2, weights=weight)))
        if self.y_sd_ < 1e-9 * (1.0 + abs(self.y_mean_)):
            self.y_sd_ = 0.0  # outcomes that do not differ: nothing is to be told by any proxy
        self.group_names_ = list(map(str, np.unique(views.groups)))
        self._fit_variances(self._design(views), (y - self.y_mean_) / (self.y_sd_ or 1.0), weight)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """(n,) expected outcomes; with `return_std` also their (n,) standard deviations."""
        check_is_fitted(self)
        if not return_std:
            return self.y_mean_ + self.y_sd_ * (self._design(self.features_.views(X)) @ self.coef_)
        predictive = self.predictive(X)
        return predictive.mean, predictive.sd

    def predictive(self, X: Any) -> Predictive:
        """What is known of the outcome of one RL run from each row.

        What the rows of a group share is the unknown of their mean design row (and the intercept of
        a new group); the rest is each row's own.
        """
        check_is_fitted(self)
        views = self.features_.views(X)
        design = self._design(views)
        names, group_of = np.unique(views.groups, return_inverse=True)
        middle = np.array([design[group_of == g].mean(axis=0) for g in range(len(names))])
        shared = np.einsum("gi,ij,gj->g", middle, self.covariance_, middle)
        shared = shared + np.where(np.isin(names, self.group_names_), 0.0, self._share("group"))
        own = design - middle[group_of]
        row = np.einsum("ni,ij,nj->n", own, self.covariance_, own) + self._share("residual")
        return Predictive(
            mean=self.y_mean_ + self.y_sd_ * (design @ self.coef_),
            row_sd=self.y_sd_ * np.sqrt(row),
            group_sd=self.y_sd_ * np.sqrt(shared)[group_of],
            groups=views.groups,
            df=self.df_,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _share(self, block: str) -> float:
        return float(self.variances_[self.blocks_.index(block)])

    def _design(self, views: Views) -> FloatArray:
        """(n, q) blocks of columns: mean, raw kinds, raw, centred kinds, centred, groups."""
        parts = [np.ones((len(views.groups), 1))]
        for rows, sds in zip((views.raw, views.centred), self.kind_sd_, strict=True):
            parts += [_kind_means(rows, self.kind_of_) / sds, rows]
        parts.append(_indicators(views.groups, self.group_names_))
        return np.hstack(parts)

    def _block_of(self) -> NDArray[np.intp]:
        """(q,) block of each column of the design; the last block, the residual, has none."""
        n_kinds, n_proxies = len(self.kind_sd_[0]), self.kind_of_.shape[1]
        sizes = [1, n_kinds, n_proxies, n_kinds, n_proxies, len(self.group_names_)]
        return np.repeat(np.arange(len(sizes)), sizes).astype(np.intp)

    def _expected(self, block_of: NDArray[np.intp]) -> FloatArray:
        """(q,) coefficients that are expected beforehand: 0 but for the kinds' means."""
        is_kind = block_of == self.blocks_.index("raw_kinds")
        return np.where(is_kind, _PRIOR_SLOPE / max(len(self.kind_sd_[0]), 1), 0.0)

    def _fit_variances(self, design: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self.blocks_ = ["mean", "raw_kinds", "raw", "centred_kinds", "centred", "group", "residual"]
        block_of = self._block_of()
        n_kinds, n_proxies = max(len(self.kind_sd_[0]), 1), self.kind_of_.shape[1]
        kinds, own = _PRIOR_SHARES["mean"] / n_kinds, _PRIOR_SHARES["own"] / n_proxies
        groups, residual = _PRIOR_SHARES["group"], _PRIOR_SHARES["residual"]
        prior = np.log([_FLAT, kinds, own, kinds, own, groups, residual])
        expected = self._expected(block_of)
        equations = _Equations(design, y - design @ expected, weight, block_of)
        free = np.arange(1, len(prior))

        def loss(chosen: FloatArray) -> tuple[float, FloatArray]:
            logs = np.concatenate([prior[:1], chosen])
            value, gradient = equations.loss(logs)
            return value, gradient[free]

        width = np.full(len(free), _PRIOR_WIDTH)
        solution = most_probable(loss, prior[free], width, reach=8.0)
        logs = np.concatenate([prior[:1], solution.x])
        self.variances_ = np.exp(logs)
        departure, self.covariance_ = equations.solve(logs)
        self.coef_ = expected + departure
        self.n_iter_ = int(solution.nit)
        self.group_sd_ = self.y_sd_ * float(np.sqrt(self._share("group")))
        self.residual_sd_ = self.y_sd_ * float(np.sqrt(self._share("residual")))
        used = float(np.sum(1.0 - np.diag(self.covariance_) / self.variances_[block_of]))
        self.df_ = max(len(y) - used, 1.0)
        self.group_df_ = max(len(self.group_names_) - 1.0, 1.0)
        effects = self.y_sd_ * self.coef_[block_of == self.blocks_.index("group")]
        self.group_effects_ = dict(zip(self.group_names_, map(float, effects), strict=True))


class _Equations:
    """Mixed-model equations of a design, in the number of columns, whatever the number of rows."""

    def __init__(
        self, design: FloatArray, y: FloatArray, weight: FloatArray, block_of: NDArray[np.intp]
    ) -> None:
        self.n, self.block_of = len(y), block_of
        weighted = design * weight[:, None]
        self.gram, self.moment = design.T @ weighted, weighted.T @ y
        self.y_square = float(y @ (weight * y))
        self.n_blocks = int(block_of.max()) + 2

    def solve(self, logs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Posterior mean (q,) and covariance (q, q) of the coefficients."""
        mean, covariance, _ = self._posterior(logs)
        return mean, covariance

    def loss(self, logs: FloatArray) -> tuple[float, FloatArray]:
        """Minus the log marginal likelihood, and its gradient by the log variances."""
        mean, covariance, log_determinant = self._posterior(logs)
        residual = float(np.exp(logs[-1]))
        lam = np.exp(logs[:-1])[self.block_of]
        rss = max(float(self.y_square - 2 * mean @ self.moment + mean @ self.gram @ mean), 0.0)
        penalty = float(np.sum(mean**2 / lam))
        value = 0.5 * (
            log_determinant + np.sum(np.log(lam)) + self.n * logs[-1] + rss / residual + penalty
        )
        kept = np.diag(covariance) / lam
        gradient = np.zeros(self.n_blocks)
        np.add.at(gradient, self.block_of, 0.5 * (1.0 - kept - mean**2 / lam))
        gradient[-1] = 0.5 * (self.n - np.sum(1.0 - kept) - rss / residual)
        return float(value), gradient

    def _posterior(self, logs: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        residual = float(np.exp(logs[-1]))
        precision = self.gram / residual
        precision[np.diag_indices_from(precision)] += 1.0 / np.exp(logs[:-1])[self.block_of]
        factor = cho_factor(precision, lower=True)
        covariance = cho_solve(factor, np.eye(len(precision)))
        mean = covariance @ self.moment / residual
        return mean, covariance, 2.0 * float(np.sum(np.log(np.diag(factor[0]))))


def _kinds(features: Features) -> FloatArray:
    """(K, p) the signed mean of each kind's proxies that have a sign."""
    signed = [
        kind if sign else "" for kind, sign in zip(features.kinds_, features.signs_, strict=True)
    ]
    names = sorted(set(signed) - {""})
    rows = [np.where([kind == name for kind in signed], features.signs_, 0.0) for name in names]
    return np.array([row / np.abs(row).sum() for row in rows]).reshape(-1, len(signed))


def _kind_means(rows: FloatArray, kind_of: FloatArray) -> FloatArray:
    return rows @ kind_of.T


def _kind_sds(rows: FloatArray, kind_of: FloatArray) -> FloatArray:
    sds = _kind_means(rows, kind_of).std(axis=0)
    return np.where(sds > 1e-9, sds, 1.0)


def _indicators(groups: TextArray, names: list[str]) -> FloatArray:
    return np.asarray(groups[:, None] == np.asarray(names)[None, :], dtype=np.float64)
