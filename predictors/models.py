"""The models that outcomes are predicted with, by name, and the one that is taken by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import BayesianRidge

from rlready.predictors.dataset import Column
from rlready.predictors.features import PlainColumns, plain_columns
from rlready.predictors.group_intercept import GroupIntercept
from rlready.predictors.multilevel import Multilevel
from rlready.registry.errors import ConfigError

DEFAULT_MODEL = "multilevel"


def model_names(columns: Sequence[Column]) -> list[str]:
    """Names that `make_model` knows for these columns."""
    return list(_MODELS)


def make_model(name: str, columns: Sequence[Column]) -> Any:
    """An unfitted regressor that takes `TrainingTable.X`.

    Raises:
        ConfigError: if there is no model of that name.
    """
    if name == "default":
        name = DEFAULT_MODEL
    if name not in _MODELS:
        raise ConfigError(f"there is no model {name!r}", fix=f"Known: {', '.join(_MODELS)}")
    return _MODELS[name](plain_columns(columns))


def _ridge(columns: PlainColumns) -> Any:
    return GroupIntercept(columns=columns)


def _bayesian_ridge(columns: PlainColumns) -> Any:
    return GroupIntercept(BayesianRidge(), columns=columns)


def _extra_trees(columns: PlainColumns) -> Any:
    trees = ExtraTreesRegressor(n_estimators=60, min_samples_leaf=2, random_state=0)
    return GroupIntercept(trees, columns=columns)


_MODELS: dict[str, Callable[[PlainColumns], Any]] = {
    "multilevel": lambda columns: Multilevel(columns=columns),
    "ridge": _ridge,
    "bayesian_ridge": _bayesian_ridge,
    "extra_trees": _extra_trees,
}
