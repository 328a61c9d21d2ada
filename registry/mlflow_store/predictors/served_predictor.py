"""A stored predictor behind `mlflow models serve` and `mlflow.pyfunc.load_model`.

A predictor with a method `assess` answers with a row per checkpoint: prediction, interval, its
guarantee, domain and reasons. MLflow's scikit-learn loader would answer with the plain number, and
for a loss with its negative. MLflow finds this module by the name in MLmodel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import RlreadyError
from rlready.registry.mlflow_store.predictors.skops_file import load_estimator

if TYPE_CHECKING:
    import pandas as pd

LOADER = "rlready.registry.served_predictor"
"""Name in MLmodel files, the same in all versions; `registry/served_predictor.py` leads here."""

MODEL_FILE = "model.skops"


class ServedPredictor:
    """A fitted predictor with a method `assess`, behind MLflow's interface."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each row of the data; a server answers 400 if it cannot be assessed."""
        from mlflow.exceptions import MlflowException

        try:
            assessment: pd.DataFrame = self._estimator.assess(data)
        except RlreadyError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return assessment

    def get_raw_model(self) -> Any:
        """Return the estimator."""
        return self._estimator


def _load_pyfunc(path: str) -> ServedPredictor:
    """Load a predictor for MLflow, which calls this with the model's folder.

    The types that MLmodel lists are trusted, as MLflow itself does: serve only predictors that
    `get_predictor` accepts.
    """
    from mlflow.models import Model

    flavor = Model.load(path).flavors["sklearn"]
    trusted = flavor.get("skops_trusted_types") or ()
    return ServedPredictor(load_estimator(Path(path) / MODEL_FILE, trusted, path))
