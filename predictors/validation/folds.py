"""Ways to hold rows out, and what models fitted on the rest say about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.training_table import FloatArray, TrainingTable

Rows = NDArray[np.intp]
Model = Any
"""A scikit-learn regressor: scikit-learn ships no types to say so."""
MakeModel = Callable[[], Model]
"""A new, unfitted regressor that takes `TrainingTable.X`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldFit:
    """A model that has not seen the rows `held_out`."""

    model: Model
    held_out: Rows


def leave_one_out(table: TrainingTable, at_most: int | None = None, seed: int = 0) -> list[Rows]:
    """Each row alone; with more rows than `at_most`, that many random folds of equal size."""
    n = len(table)
    if at_most is None or n <= at_most:
        return [np.array([row], dtype=np.intp) for row in range(n)]
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(part).astype(np.intp) for part in np.array_split(order, at_most)]


def leave_group_out(table: TrainingTable) -> list[Rows]:
    """All rows of each group."""
    groups = table.groups
    return [np.flatnonzero(groups == name).astype(np.intp) for name in np.unique(groups)]


def fit_model(make: MakeModel, table: TrainingTable) -> Model:
    """A model fitted on all rows of the table, weighted by what their errors allow."""
    from rlready.predictors.validation.row_weights import outcome_weights

    return make().fit(table.X, table.y, sample_weight=outcome_weights(table))


def fit_folds(make: MakeModel, table: TrainingTable, folds: Sequence[Rows]) -> list[FoldFit]:
    """For each fold, a model fitted on all other rows."""
    everything = np.arange(len(table))
    return [
        FoldFit(
            model=fit_model(make, table.rows(np.setdiff1d(everything, held_out))),
            held_out=held_out,
        )
        for held_out in folds
    ]


def out_of_fold(fits: Sequence[FoldFit], table: TrainingTable) -> FloatArray:
    """(n,) prediction of each row by the model that has not seen it; NaN if none held it out."""
    predicted = np.full(len(table), np.nan)
    for fit in fits:
        predicted[fit.held_out] = fit.model.predict(table.X.iloc[fit.held_out])
    return predicted
