"""Records of predictors: fitted, stored and loaded ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.registry.digest import digest
from rlready.registry.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SIGNATURE = 2
"""Version of what a served predictor accepts; a fit with the same result becomes a new version."""
_DIGITS = 9
"""Significant digits of the predictions in an id; further ones differ between machines."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPredictor:
    """A fitted predictor with its training table, settings and validation.

    Args:
        estimator: fitted; its `predict` takes rows like those of `X`.
        X: the rows it was fitted on, a column per proxy (and per other input).
        table: the whole training table as it was read, for later fits.
        table_digest: id of the table's content.
        target: key of the outcome that it predicts.
        column_versions: how the numbers of each proxy's column were measured (see
            `table.CheckpointTable.versions`).
        optional: columns of `X` that a served row may lack: standard errors and the group.
        groups: columns of `table` whose values, joined by ` / `, are the group of a row.
        trusted_types: types in the estimator beyond those of scikit-learn, by full name.
        params: settings (model, groups, seed, ...), shown on its page.
        metrics: figures of its validation, by name; values that are not finite are left out.
        report: the validation report, JSON values.
        figures: PNG files by name.
        summary: the report in a few lines, for the page.

    Example:
        >>> fitted = FittedPredictor(estimator=estimator.fit(X, y), X=X, table=table.frame,
        ...     table_digest=digest, target=target, column_versions=table.versions)
        >>> put_predictor(store, fitted).meta.uri
        'models:/grpo-predictor/1'
    """

    estimator: Any
    X: pd.DataFrame
    table: pd.DataFrame
    table_digest: str
    target: str
    column_versions: Mapping[str, str]
    optional: Sequence[str] = ()
    groups: Sequence[str] = ()
    trusted_types: Sequence[str] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    summary: Sequence[str] = ()

    @cached_property
    def id(self) -> str:
        """Digest of table, target, parameters, and what it predicts for its own rows.

        The file itself cannot identify it: skops writes different bytes each time.
        """
        predicted = np.asarray(self.estimator.predict(self.X), dtype=float).ravel()
        return digest(
            {
                "signature": _SIGNATURE,
                "table": self.table_digest,
                "target": self.target,
                "columns": dict(self.column_versions),
                "params": {key: str(value) for key, value in self.params.items()},
                "estimator": _settings(self.estimator),
                "predicted": [f"{value:.{_DIGITS}g}" for value in predicted],
            }
        )


@dataclass(frozen=True, kw_only=True)
class PredictorMeta:
    """Facts of a stored predictor.

    Args:
        name: of the registered model.
        version: its number.
        id: `FittedPredictor.id`.
        target: key of the outcome.
        table_digest: id of the training table's content.
        n_rows: of that table.
        column_versions: how the numbers of each column were measured.
        params: settings of the fit.
        libraries: versions at the time of the fit.
        model_id: MLflow's.
        run_id: MLflow's; holds the report, the table and the figures.

    Example:
        >>> get_predictor(store).meta.target
        'value_at_budget/60steps@gsm8k'
    """

    name: str
    version: str
    id: str
    target: str
    table_digest: str
    n_rows: int
    column_versions: Mapping[str, str]
    params: Mapping[str, str]
    libraries: Mapping[str, str]
    model_id: str
    run_id: str

    @property
    def uri(self) -> str:
        """Reference for MLflow."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class StoredPredictor:
    """The stored version of a predictor, and whether this call stored it."""

    meta: PredictorMeta
    is_new: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedPredictor:
    """A predictor that passed the checks.

    Args:
        estimator: fitted.
        meta: facts of it.

    Example:
        >>> loaded = get_predictor(store, "models:/grpo-predictor/1")
        >>> loaded.estimator.predict(X).shape == (len(X),)
        True
    """

    estimator: Any
    meta: PredictorMeta


def check_columns(meta: PredictorMeta, table_versions: Mapping[str, str]) -> None:
    """Raise a StoreError if a column of the training table is missing or was measured otherwise.

    `table_versions` says how the numbers of each column of the other table were measured.
    """
    wanted = meta.column_versions
    missing = [name for name in wanted if name not in table_versions]
    other = [
        f"{name} (fitted: {wanted[name]}; table: {table_versions[name]})"
        for name in wanted
        if name in table_versions and table_versions[name] != wanted[name]
    ]
    if not missing and not other:
        return
    parts = [f"not in the table: {', '.join(missing)}"] if missing else []
    parts += [f"measured in another way: {'; '.join(other)}"] if other else []
    raise StoreError(
        f"predictor {meta.uri} does not fit this table",
        why=". ".join(parts),
        fix="Measure the checkpoints in the same way, or fit a new predictor: rlready fit",
    )


def _settings(estimator: Any) -> dict[str, str]:
    """Return an estimator's settings as texts, without the addresses of objects."""
    settings = {key: repr(value) for key, value in estimator.get_params(deep=True).items()}
    kind = f"{type(estimator).__module__}.{type(estimator).__qualname__}"
    return {"": kind, **{key: _ADDRESS.sub("", text) for key, text in settings.items()}}
