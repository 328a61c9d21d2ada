"""Ways to hold rows out, and models fitted to the other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.models.catalogue import make_model
from rlready.predictors.training_table import GROUP, UNKNOWN, Column, FloatArray, TrainingTable
from rlready.predictors.validation.row_weights import outcome_weights

Rows = NDArray[np.intp]
Model = Any
"""A scikit-learn regressor, for which scikit-learn has no type."""
MakeModel = Callable[[], Model]
"""A function that returns a new, unfitted regressor for `TrainingTable.X`."""


@dataclass(frozen=True)
class NamedModel:
    """A function that makes a model of `make_model`, with its name and columns."""

    name: str
    columns: tuple[Column, ...]
    levels: str = UNKNOWN

    def __call__(self) -> Model:
        """Return the unfitted model."""
        return make_model(self.name, self.columns, levels=self.levels)

    def on(self, table: TrainingTable) -> NamedModel:
        """Return a copy without the columns that are empty in the table."""
        columns = tuple(c for c in self.columns if np.isfinite(table.X[c.name]).any())
        return NamedModel(self.name, columns, self.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldFit:
    """A model that has not seen the rows `held_out`."""

    model: Model
    held_out: Rows


def twins(table: TrainingTable) -> Rows:
    """Return, for each row, the (n,) first row with the same group and the same proxies."""
    proxies = table.X[[GROUP, *(column.name for column in table.columns)]]
    kind = proxies.groupby(list(proxies.columns), dropna=False, sort=False).ngroup()
    _, first, inverse = np.unique(kind, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.intp)


def leave_one_out(table: TrainingTable, at_most: int, seed: int = 0) -> list[Rows]:
    """Return one fold per row and its twins; `at_most` random folds if there are more rows.

    Twins share a fold, because a twin in training would reveal the outcome of the held-out row.
    """
    twin_of = twins(table)
    leaders = np.unique(twin_of)
    parts = list(leaders[:, None])
    if len(leaders) > at_most:
        order = np.random.default_rng(seed).permutation(len(leaders))
        parts = [leaders[part] for part in np.array_split(order, at_most)]
    return [np.flatnonzero(np.isin(twin_of, part)).astype(np.intp) for part in parts]


def leave_group_out(table: TrainingTable) -> list[Rows]:
    """Return the rows of each group."""
    groups = table.groups
    return [np.flatnonzero(groups == name).astype(np.intp) for name in np.unique(groups)]


def row_folds(table: TrainingTable, at_most: int, seed: int = 0) -> list[Rows]:
    """Return folds of rows, in which the rows of a group are spread out. Twins share a fold.

    A row that is alone in its group is in no fold: without it, its group would be a new group.
    """
    groups, twin_of = table.groups, twins(table)
    names, sizes = np.unique(groups, return_counts=True)
    size_of = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    order = np.random.default_rng(seed).permutation(len(table))
    order = order[np.argsort(groups[order], kind="stable")]
    leaders = [row for row in order if twin_of[row] == row and size_of[groups[row]] > 1]
    n_folds = min(at_most, len(leaders))
    fold_of = {row: position % n_folds for position, row in enumerate(leaders)}
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for row in range(len(table)):
        if twin_of[row] in fold_of:
            folds[fold_of[twin_of[row]]].append(row)
    return [np.array(fold, dtype=np.intp) for fold in folds]


def group_folds(table: TrainingTable, at_most: int, seed: int = 0) -> list[Rows]:
    """Return folds of whole groups: one group each, or several if there are more than `at_most`."""
    names, group_of = np.unique(table.groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.array_split(order, min(at_most, len(names)))
    return [np.flatnonzero(np.isin(group_of, part)).astype(np.intp) for part in parts]


def fit_model(make: MakeModel, table: TrainingTable) -> Model:
    """Return a model fitted to all rows, weighted by the errors of the outcomes."""
    if isinstance(make, NamedModel):
        make = make.on(table)
    return make().fit(table.X, table.y, sample_weight=outcome_weights(table))


def fit_without(make: MakeModel, table: TrainingTable, held_out: Rows) -> FoldFit:
    """Return a model fitted to all rows but these."""
    rest = np.setdiff1d(np.arange(len(table)), held_out)
    return FoldFit(model=fit_model(make, table.rows(rest)), held_out=held_out)


def fit_folds(make: MakeModel, table: TrainingTable, folds: Sequence[Rows]) -> list[FoldFit]:
    """Return, for each fold, a model fitted to all other rows."""
    return [fit_without(make, table, held_out) for held_out in folds]


def out_of_fold(fits: Sequence[FoldFit], table: TrainingTable) -> FloatArray:
    """Return the (n,) predictions by models that have not seen the row; NaN without a model."""
    return assembled(
        len(table),
        [fit.held_out for fit in fits],
        [fit.model.predict(table.X.iloc[fit.held_out]) for fit in fits],
    )


def assembled(n: int, folds: Sequence[Rows], predictions: Sequence[FloatArray]) -> FloatArray:
    """Return the (n,) predictions of all folds in the order of the table; NaN if in no fold."""
    predicted = np.full(n, np.nan)
    for rows, values in zip(folds, predictions, strict=True):
        predicted[rows] = values
    return predicted
