"""Any regressor, with a partially pooled intercept for each group of checkpoints.

The outcomes of a group share a level that no proxy explains. As in mixed-effects forests (Hajjem
et al. 2014), the regressor is fitted to the outcomes minus the intercept of their group, and the
intercepts are fitted to the residuals of the regressor. These residuals are those of held-out rows,
because a forest explains its own training rows completely.

Mixed-effects forests iterate from intercepts of 0 or of the groups' means, and stay near the start:
with six groups a forest can explain any six levels, or none. Here the first intercepts are those of
`Multilevel`, which weighs how much of the levels the proxies explain.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.linear_model import RidgeCV
from sklearn.utils.validation import check_is_fitted

from rlready.predictors.features import PlainColumns
from rlready.predictors.models.multilevel import Multilevel
from rlready.predictors.models.proxy_regressor import ProxyRegressor
from rlready.predictors.training_table import FloatArray

_N_FOLDS = 5

_PRIOR_GROUPS = 3.0
"""Weight of the prior on the variance between groups, as a number of groups."""


class GroupIntercept(MetaEstimatorMixin, ProxyRegressor):
    """A regressor on `Features`, plus an intercept for each group.

    Args:
        regressor: regressor of the outcomes minus the intercept of their group; its `fit` has to
            take `sample_weight`. None: ridge, with a penalty chosen by leave-one-out.
        columns: as for `Features`.

    Attributes:
        group_sd_, residual_sd_: standard deviations, between groups and inside them, of the
            regressor's residuals in held-out rows.
        effects_: (G,) intercepts of the groups `group_names_`.
        features_: the fitted `Features`.
        regressor_: the fitted regressor.
    """

    def __init__(self, regressor: Any = None, columns: PlainColumns | None = None) -> None:
        self.regressor = regressor
        self.columns = columns

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model. `sample_weight` is the precision of each outcome, in any unit."""
        X, y, weight = self._fit_features(X, y, sample_weight)
        views = self.features_.views(X)
        names, group_of = np.unique(views.groups, return_inverse=True)
        self.group_names_ = list(map(str, names))
        level_free = y
        if len(names) > 1:
            effects = Multilevel(self.columns).fit(X, y, sample_weight=weight).group_effects_
            level_free = y - np.array([effects[name] for name in self.group_names_])[group_of]
        rest = y - self._out_of_fold(views.both, level_free, weight, group_of)
        self._fit_intercepts(rest - np.average(rest, weights=weight), weight, group_of)
        self.regressor_ = self._new().fit(views.both, level_free, sample_weight=weight)
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) expected outcomes; a group without outcomes has the intercept 0."""
        check_is_fitted(self)
        views = self.features_.views(X)
        predicted: FloatArray = np.ravel(self.regressor_.predict(views.both))
        effects = dict(zip(self.group_names_, self.effects_, strict=True))
        predicted = predicted + np.array([effects.get(str(group), 0.0) for group in views.groups])
        return predicted

    def _new(self) -> Any:
        return ridge() if self.regressor is None else clone(self.regressor)

    def _out_of_fold(
        self, matrix: FloatArray, y: FloatArray, weight: FloatArray, group_of: Any
    ) -> FloatArray:
        """Return held-out predictions; the rows of a group are spread over the folds."""
        n_folds = min(_N_FOLDS, len(y))
        if n_folds < 2:
            return np.full(len(y), float(y.mean()))
        fold = np.empty(len(y), dtype=np.intp)
        fold[np.argsort(group_of, kind="stable")] = np.arange(len(y)) % n_folds
        predicted = np.empty(len(y))
        for number in range(n_folds):
            is_fitted = fold != number
            model = self._new().fit(
                matrix[is_fitted], y[is_fitted], sample_weight=weight[is_fitted]
            )
            predicted[~is_fitted] = np.ravel(model.predict(matrix[~is_fitted]))
        return predicted

    def _fit_intercepts(self, rest: FloatArray, weight: FloatArray, group_of: Any) -> None:
        """Fit the variances of residuals inside and between groups, and the intercepts (BLUP)."""
        n_groups = len(self.group_names_)
        size = np.bincount(group_of, weights=weight, minlength=n_groups)
        mean = np.bincount(group_of, weights=weight * rest, minlength=n_groups) / size
        total = float(np.average(rest**2, weights=weight))
        df, group_df = max(float(len(rest) - n_groups), 1.0), max(n_groups - 1.0, 1.0)
        squares = float(weight @ (rest - mean[group_of]) ** 2)
        within = squares / df if len(rest) > n_groups else total / 2
        spread = float(np.sum((mean - mean.mean()) ** 2)) / group_df
        moment = max(spread - within * float(np.mean(1.0 / size)), 0.0)
        # The prior guess for the groups is half of the total variance: weak, and never 0.
        between = (group_df * moment + _PRIOR_GROUPS * total / 2) / (group_df + _PRIOR_GROUPS)
        self.group_sd_, self.residual_sd_ = float(np.sqrt(between)), float(np.sqrt(within))
        variance = between + within / size
        shrink = np.divide(between, variance, out=np.zeros_like(variance), where=variance > 0)
        self.effects_ = shrink * mean if n_groups > 1 else np.zeros(1)


def ridge() -> RidgeCV:
    """Return a ridge regressor that chooses its penalty by leave-one-out, from a wide grid."""
    return RidgeCV(alphas=np.logspace(-1, 3, 9))
