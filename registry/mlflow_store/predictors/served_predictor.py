"""A stored predictor behind `mlflow models serve` and `mlflow.pyfunc.load_model`.

A predictor with a method `assess` answers with a row per checkpoint: prediction, interval, its
guarantee, domain and reasons. MLflow's scikit-learn loader would answer with the plain number, and
for a loss with its negative. MLflow finds this module by the name in MLmodel.

A row of `rlready table` is accepted as it is. Standard errors may be missing. The group is read
from the columns that named it in the fit. `name` and `checkpoint_id` come back with the answer, and
MLflow leaves out every other column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import RlreadyError
from rlready.registry.mlflow_store.predictors.skops_file import load_estimator

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

LOADER = "rlready.registry.served_predictor"
"""Name in MLmodel files, the same in all versions; `registry/served_predictor.py` leads here."""

MODEL_FILE = "model.skops"
GROUPS = "rlready.groups"
"""In the metadata of MLmodel: the columns that name a row's group."""

_GROUP = "group"
_ECHOED = ("name", "checkpoint_id")
_EMPTY = "none"  # a training table's word for a missing part of a group's name


class ServedPredictor:
    """A fitted predictor with a method `assess`, behind MLflow's interface.

    Args:
        estimator: the fitted predictor.
        optional: numeric columns that a row may lack; they are then unknown.
        groups: columns whose values, joined by ` / `, are the group of a row.
    """

    def __init__(
        self, estimator: Any, optional: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> None:
        self._estimator, self._optional, self._groups = estimator, optional, groups

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each row of the data; a server answers 400 if it cannot be assessed."""
        from mlflow.exceptions import MlflowException

        echoed = data[[name for name in _ECHOED if name in data]]
        try:
            assessment: pd.DataFrame = self._estimator.assess(self._completed(data))
        except RlreadyError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return echoed.join(assessment)

    def get_raw_model(self) -> Any:
        """Return the estimator."""
        return self._estimator

    def _completed(self, data: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with all columns of the fit."""
        import numpy as np

        missing = dict.fromkeys((name for name in self._optional if name not in data), np.nan)
        rows = data.assign(**missing)
        named = rows[_GROUP].notna().all() if _GROUP in rows else False
        if not named:
            rows = rows.drop(columns=_GROUP, errors="ignore")
            if self._groups and all(name in rows for name in self._groups):
                parts = [rows[name].map(_group_part) for name in self._groups]
                rows[_GROUP] = [" / ".join(row) for row in zip(*parts, strict=True)]
        return rows.drop(columns=[name for name in (*_ECHOED, *self._groups) if name in rows])


def served_signature(
    X: pd.DataFrame, answer: Any, optional: Sequence[str], groups: pd.DataFrame
) -> ModelSignature:
    """Return MLflow's signature of a served predictor.

    Args:
        X: rows as the predictor was fitted on.
        answer: what it answers for them.
        optional: columns of `X` that a row may lack.
        groups: the columns that name a row's group.
    """
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import DataType
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    inferred = infer_signature(X, answer)
    types = {name: DataType.string for name in _ECHOED}
    if len(groups.columns):
        types |= {each.name: each.type for each in infer_signature(groups).inputs.inputs}
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(each.type, each.name, required=each.required and each.name not in optional)
        for each in inferred.inputs.inputs
    ]
    present = {each.name for each in columns}
    columns += [
        ColSpec(kind, name, required=False) for name, kind in types.items() if name not in present
    ]
    return ModelSignature(inputs=Schema(columns), outputs=inferred.outputs)


def _group_part(value: Any) -> str:
    """Return one part of a group's name as the training table writes it."""
    text = "" if value is None or value != value else str(value).strip()
    return text or _EMPTY


def _load_pyfunc(path: str) -> ServedPredictor:
    """Load a predictor for MLflow, which calls this with the model's folder.

    The types that MLmodel lists are trusted, as MLflow itself does: serve only predictors that
    `get_predictor` accepts.
    """
    from mlflow.models import Model
    from mlflow.types import DataType

    model = Model.load(path)
    trusted = model.flavors["sklearn"].get("skops_trusted_types") or ()
    columns = [] if model.signature is None else model.signature.inputs.inputs
    groups = (model.metadata or {}).get(GROUPS) or ()
    numbers = [c.name for c in columns if not c.required and c.type == DataType.double]
    optional = [name for name in numbers if name not in groups]
    estimator = load_estimator(Path(path) / MODEL_FILE, trusted, path)
    return ServedPredictor(estimator, optional, groups)
