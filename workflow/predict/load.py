"""Load a stored predictor and apply it to the current rows of the registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.calibration.domain import Place
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.calibration.trusted_types import trusted_types
from rlready.predictors.predictive import Predictive
from rlready.predictors.public.blend import (
    FEWEST_OF_PREDICTOR_ALONE,
    blended,
    levelled,
    weight_of_prior,
)
from rlready.predictors.public.order import order_checkpoints
from rlready.predictors.public.posterior import OrderPosterior
from rlready.predictors.training_table import FloatArray
from rlready.registry.mlflow_store.predictors.records import check_columns
from rlready.registry.mlflow_store.predictors.store import get_predictor
from rlready.workflow.predict.own_style import with_own_style
from rlready.workflow.predict.registry_table import RegistryTable, registry_table

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.mlflow_store.store import MlflowStore


@dataclass(frozen=True, kw_only=True, eq=False)
class AppliedPredictor:
    """A stored predictor with the current rows of the registry.

    Args:
        predictor: the fitted predictor.
        meta: its version, address and parameters.
        data: the current registry, with the predictor's target, proxies and groups.
        early: the order by public and recorded outcomes, if the predictor was fitted on so few
            outcomes that both are used. Rows without an outcome are blended (`public/blend.py`).
    """

    predictor: CalibratedPredictor
    meta: Any
    data: RegistryTable
    early: OrderPosterior | None = None

    @property
    def prior_weight(self) -> float:
        """Weight of public outcomes beside the predictor."""
        if self.early is None:
            return 0.0
        has_signal = self.predictor.signal_.found()
        return weight_of_prior(len(self.predictor.ids_), has_signal=has_signal)

    @property
    def remark(self) -> str:
        """The basis of the answers besides the predictor, in words; empty if there is none."""
        n = len(self.predictor.ids_)
        if self.early is None:
            return ""
        signal = self.predictor.signal_
        if not signal.found():
            tested = f"show no signal yet (p {signal.p:.2g})"
            return (
                f"the {n} outcomes {tested if signal.can_be_tested() else 'are too few to test'}: "
                "checkpoints without an outcome are placed by public outcomes"
            )
        return (
            f"with {n} outcomes of your own, public outcomes weigh {self.prior_weight:.0%} in the "
            f"predictions, 0% from {FEWEST_OF_PREDICTOR_ALONE}"
        )

    @cached_property
    def posterior(self) -> Predictive:
        """Distribution of the true score of each row, given the row's recorded outcome if any."""
        return self._blended(self.predictor.posterior(self.data.table))

    @cached_property
    def unseen(self) -> Predictive:
        """Distribution of each row's true score, by models that have not seen its outcome."""
        return self._blended(self.predictor.unseen(self.data.table))

    @cached_property
    def assessed(self) -> pd.DataFrame:
        """Predictions for each row by models that have not seen its outcome, blended with `early`.

        A row out of the predictor's domain is placed by `early` alone.
        """
        alone = self._alone
        if self.early is None:
            return alone
        table, weight = self.data.table, self._weights
        mean, ends = self.unseen.mean, self.early.interval()
        shift = mean - table.shown(alone["prediction"].to_numpy())
        ends_alone = np.sort(
            [table.shown(alone[end].to_numpy()) for end in ("low", "high")], axis=0
        )
        blended_ends = [
            np.where(levelled(self.early), weight * by_order + (1.0 - weight) * end, end + shift)
            for by_order, end in zip(ends, ends_alone, strict=True)
        ]
        low, high = np.sort([table.shown(end) for end in blended_ends], axis=0)
        is_out = (weight > 0) & (alone["domain"] == Place.OUT.value).to_numpy()
        words = "out of the predictor's domain, placed by public outcomes alone"
        return alone.assign(
            prediction=table.shown(mean),
            low=low,
            high=high,
            promise=alone["promise"].where(weight == 0, "blended with public outcomes: no promise"),
            domain=alone["domain"].mask(is_out, Place.EDGE.value),
            reasons=alone["reasons"].mask(is_out, words),
        )

    @cached_property
    def _alone(self) -> pd.DataFrame:
        return self.predictor.assess_unseen(self.data.table)

    @cached_property
    def _weights(self) -> FloatArray:
        """The (n,) weights of `early` in the rows."""
        is_out = (self._alone["domain"] == Place.OUT.value).to_numpy()
        return np.where(self.has_outcome, 0.0, np.where(is_out, 1.0, self.prior_weight))

    def _blended(self, predictive: Predictive) -> Predictive:
        return predictive if self.early is None else blended(predictive, self.early, self._weights)

    @property
    def names(self) -> list[str]:
        """The (n,) names of the checkpoints, with the id if several share a name."""
        return self.data.names

    @cached_property
    def outcomes(self) -> dict[str, float]:
        """The recorded outcomes by name, in the user's target."""
        shown = self.data.table.shown(self.data.table.y)
        return {self.names[i]: float(shown[i]) for i in np.flatnonzero(self.has_outcome)}

    @property
    def has_outcome(self) -> NDArray[np.bool_]:
        """The (n,) flags of checkpoints from which RL was run."""
        return np.isfinite(self.data.table.y)


def load(store: MlflowStore, reference: str, *, own_style: Sequence[str] = ()) -> AppliedPredictor:
    """Load a stored predictor and apply it to the current rows of the registry.

    Args:
        store: the registry.
        reference: NAME, models:/NAME@ALIAS or models:/NAME/3.
        own_style: held-out sets of the checkpoints' own style, for a predictor of few outcomes.

    Raises:
        StoreError: if there is no such predictor, if it was changed after it was stored, or if the
            registry's columns were measured in another way.
    """
    loaded = get_predictor(store, reference, trusted_types=trusted_types())
    groups = [part for part in str(loaded.meta.params["groups"]).split(",") if part != "none"]
    features = [name for name, *_ in loaded.estimator.columns_]
    kinds = json.loads(loaded.meta.params.get("kinds", "[]"))
    data = registry_table(
        store, target=loaded.meta.target, features=features, groups=groups, kinds=kinds
    )
    check_columns(loaded.meta, data.versions)
    applied = AppliedPredictor(predictor=loaded.estimator, meta=loaded.meta, data=data)
    n_fitted, has_signal = len(loaded.estimator.ids_), loaded.estimator.signal_.found()
    if weight_of_prior(n_fitted, has_signal=has_signal) == 0.0:
        return applied
    styled = with_own_style(data, own_style)
    table = styled.data.table
    early = order_checkpoints(table.X, table.columns, table.y, own_style=styled.columns)
    return replace(applied, early=early)
