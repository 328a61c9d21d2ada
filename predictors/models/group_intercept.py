"""Any regressor, with a partially pooled intercept for each group of checkpoints.

Outcomes of one group share a level that no proxy tells. As in mixed-effects forests (Hajjem et al.
2014), the regressor is fitted on outcomes less the group's intercept, and the intercepts on what it
leaves, over rows that it was not fitted on: a forest leaves nothing of its own rows. Where those
iterate from intercepts of 0 or of the groups' means, they stay near where they began (with six
groups a forest can explain any six levels, or none); here the first intercepts are those of
`Multilevel`, which weighs what the proxies tell of the levels against what they do not.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.linear_model import RidgeCV
from sklearn.utils.validation import check_is_fitted

from rlready.predictors.features import Features, PlainColumns, Variant, views_as_matrix
from rlready.predictors.fit_input import checked_outcomes
from rlready.predictors.models.multilevel import Multilevel
from rlready.predictors.training_table import FloatArray, TextArray

_N_FOLDS = 5

_PRIOR_GROUPS = 3.0
"""Groups that the prior of the variance between groups counts as."""


class GroupIntercept(RegressorMixin, MetaEstimatorMixin, BaseEstimator):
    """A regressor on `Features`, plus an intercept for each group.

    Args:
        regressor: fitted on the features and the outcomes less their group's intercept; takes
            `sample_weight`. None: ridge, its penalty by leave-one-out.
        columns: as for `Features`.
        variant: of the features: "raw", "centred" or "both".

    Attributes:
        group_sd_, residual_sd_, df_, group_df_, group_effects_, features_: as of `Multilevel`;
            the variances are of rows that the regressor was not fitted on.
        regressor_: the fitted regressor.
    """

    def __init__(
        self,
        regressor: Any = None,
        columns: PlainColumns | None = None,
        variant: Variant = "both",
    ) -> None:
        self.regressor = regressor
        self.columns = columns
        self.variant = variant

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """The model, fitted. `sample_weight`: precision of each outcome, in any unit."""
        self.features_ = Features(self.columns, variant=self.variant).fit(X)
        X, y, weight = checked_outcomes(self, X, y, sample_weight)
        self.n_features_in_ = self.features_.n_features_in_
        if hasattr(self.features_, "feature_names_in_"):
            self.feature_names_in_ = self.features_.feature_names_in_
        views = self.features_.views(X)
        matrix = views_as_matrix(views, self.variant)
        names, group_of = np.unique(views.groups, return_inverse=True)
        self.group_names_ = list(map(str, names))
        level_free = y - self._first_intercepts(X, y, weight)[group_of]
        left = y - self._out_of_fold(matrix, level_free, weight, group_of)
        self._fit_intercepts(left - np.average(left, weights=weight), weight, group_of)
        self.regressor_ = self._new().fit(matrix, level_free, sample_weight=weight)
        return self

    def predict(self, X: Any) -> FloatArray:
        """(n,) expected outcomes; a group without outcomes has the intercept 0."""
        check_is_fitted(self)
        views = self.features_.views(X)
        matrix = views_as_matrix(views, self.variant)
        predicted: FloatArray = np.ravel(self.regressor_.predict(matrix))
        return predicted + _effects(views.groups, self.group_names_, self.effects_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @property
    def group_effects_(self) -> dict[str, float]:
        """Intercept of each training group."""
        return dict(zip(self.group_names_, map(float, self.effects_), strict=True))

    def _new(self) -> Any:
        return ridge() if self.regressor is None else clone(self.regressor)

    def _first_intercepts(self, X: Any, y: FloatArray, weight: FloatArray) -> FloatArray:
        """(G,) what `Multilevel` cannot tell of each group's level from the proxies."""
        if len(self.group_names_) < 2:
            return np.zeros(1)
        effects = Multilevel(self.columns).fit(X, y, sample_weight=weight).group_effects_
        return np.array([effects[name] for name in self.group_names_])

    def _out_of_fold(
        self, matrix: FloatArray, y: FloatArray, weight: FloatArray, group_of: Any
    ) -> FloatArray:
        """Predictions of each row without it; the folds take turns inside each group."""
        n_folds = min(_N_FOLDS, len(y))
        if n_folds < 2:
            return np.full(len(y), float(y.mean()))
        fold = np.empty(len(y), dtype=np.intp)
        fold[np.argsort(group_of, kind="stable")] = np.arange(len(y)) % n_folds
        predicted = np.empty(len(y))
        for number in range(n_folds):
            rest = fold != number
            model = self._new().fit(matrix[rest], y[rest], sample_weight=weight[rest])
            predicted[~rest] = np.ravel(model.predict(matrix[~rest]))
        return predicted

    def _fit_intercepts(self, left: FloatArray, weight: FloatArray, group_of: Any) -> None:
        """Variances inside and between groups of what is left, and the intercepts (BLUP)."""
        n_groups = len(self.group_names_)
        size = np.bincount(group_of, weights=weight, minlength=n_groups)
        mean = np.bincount(group_of, weights=weight * left, minlength=n_groups) / size
        total = float(np.average(left**2, weights=weight))
        self.df_ = max(float(len(left) - n_groups), 1.0)
        self.group_df_ = max(n_groups - 1.0, 1.0)
        squares = float(weight @ (left - mean[group_of]) ** 2)
        within = squares / self.df_ if len(left) > n_groups else total / 2
        spread = float(np.sum((mean - mean.mean()) ** 2)) / self.group_df_
        moment = max(spread - within * float(np.mean(1.0 / size)), 0.0)
        # Half of the whole variance is the prior's guess for the groups: weak, and never 0.
        between = (self.group_df_ * moment + _PRIOR_GROUPS * total / 2) / (
            self.group_df_ + _PRIOR_GROUPS
        )
        self.group_sd_, self.residual_sd_ = float(np.sqrt(between)), float(np.sqrt(within))
        sure = between + within / size
        shrink = np.divide(between, sure, out=np.zeros_like(sure), where=sure > 0)
        self.effects_ = shrink * mean if n_groups > 1 else np.zeros(1)


def ridge() -> RidgeCV:
    """Ridge over a wide grid of penalties, chosen by leave-one-out in closed form."""
    return RidgeCV(alphas=np.logspace(-1, 3, 9))


def _effects(groups: TextArray, names: list[str], effects: FloatArray) -> FloatArray:
    known = dict(zip(names, effects, strict=True))
    return np.array([known.get(str(group), 0.0) for group in groups])
