"""Load a stored predictor and apply it to the registry as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.calibration.trusted_types import trusted_types
from rlready.predictors.predictive import Predictive
from rlready.registry.mlflow_store.predictors.records import check_columns
from rlready.registry.mlflow_store.predictors.store import get_predictor
from rlready.workflow.predict.registry_table import RegistryTable, registry_table

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.mlflow_store.store import MlflowStore


@dataclass(frozen=True, kw_only=True, eq=False)
class AppliedPredictor:
    """A stored predictor with the registry's present rows.

    Args:
        predictor: as fitted.
        meta: its version, address and parameters.
        data: the registry now, with the predictor's target, proxies and groups.
    """

    predictor: CalibratedPredictor
    meta: Any
    data: RegistryTable

    @cached_property
    def posterior(self) -> Predictive:
        """Distribution of the true score of each row; a recorded outcome counts in its own row."""
        return self.predictor.posterior(self.data.table)

    @cached_property
    def unseen(self) -> Predictive:
        """Distribution of the true score of each row, by models that have not seen its outcome."""
        return self.predictor.unseen(self.data.table)

    @cached_property
    def assessed(self) -> pd.DataFrame:
        """What is predicted of each row by models that have not seen its outcome."""
        return self.predictor.assess(self.data.table.X, self.unseen.mean)

    @cached_property
    def names(self) -> list[str]:
        """(n,) name of each checkpoint, with its id where several share a name."""
        frame = self.data.frame
        names, ids = frame["name"].astype(str), frame["checkpoint_id"].str.slice(stop=8)
        return names.where(~names.duplicated(keep=False), names + "-" + ids).tolist()

    @cached_property
    def outcomes(self) -> dict[str, float]:
        """Recorded outcomes by name, in the user's target."""
        shown = self.data.table.shown(self.data.table.y)
        return {self.names[i]: float(shown[i]) for i in np.flatnonzero(self.has_outcome)}

    @property
    def has_outcome(self) -> NDArray[np.bool_]:
        """(n,) whether RL was run from the checkpoint."""
        return np.isfinite(self.data.table.y)


def load(store: MlflowStore, reference: str) -> AppliedPredictor:
    """Return a stored predictor, applied to the registry as it is now.

    Raises:
        StoreError: if there is none, it was tampered with, or the registry's columns were measured
            in another way.
    """
    loaded = get_predictor(store, reference, trusted_types=trusted_types())
    groups = [part for part in str(loaded.meta.params["groups"]).split(",") if part != "none"]
    features = [name for name, *_ in loaded.estimator.columns_]
    data = registry_table(store, target=loaded.meta.target, features=features, groups=groups)
    check_columns(loaded.meta, data.versions)
    return AppliedPredictor(predictor=loaded.estimator, meta=loaded.meta, data=data)
