"""Many fits of many models to parts of one table, each done once, on all cores if that pays."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rlready.predictors.models.catalogue import make_model
from rlready.predictors.training_table import Column, FloatArray, TrainingTable
from rlready.predictors.validation.folds import MakeModel, Model, Rows, fit_model
from rlready.registry.errors import RlreadyError

Progress = Callable[[int, int], None]
"""Told how many fits of how many are done."""

_PROCESSES_PAY_S = 10.0
"""Starting a process takes some 4 s of its own, most of it imports."""

_CHUNK = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldRun:
    """What a model says that was fitted without some rows.

    Args:
        predicted: (n,) for every row of the table; NaN if it could not be fitted.
        problem: why it could not.
        warnings: what it warned of.
    """

    predicted: FloatArray
    problem: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether all rows get one number."""
        largest = float(np.max(np.abs(self.predicted)))
        return bool(np.ptp(self.predicted) <= 1e-12 * largest)


@dataclass(frozen=True)
class NamedModel:
    """How a model of `models.make_model` is made, from those columns that a part of a table has."""

    name: str
    columns: tuple[Column, ...]

    def __call__(self) -> Model:
        """The unfitted model."""
        return make_model(self.name, self.columns)

    def on(self, table: TrainingTable) -> NamedModel:
        """The same without the columns that have no number in any row of the table."""
        has = tuple(c for c in self.columns if np.isfinite(table.X[c.name]).any())
        return NamedModel(self.name, has)


class FoldRuns:
    """The fits of a validation.

    Args:
        table: rows with outcomes.
        models: how each model is made.
        n_jobs: processes at most; by default one a core.
    """

    def __init__(
        self, table: TrainingTable, models: Mapping[str, MakeModel], n_jobs: int | None = None
    ) -> None:
        self._table, self._models, self._n_jobs = table, models, n_jobs
        self._done: dict[tuple[str, bytes], FoldRun] = {}

    def run(self, left_out: Mapping[str, Iterable[Rows]], progress: Progress | None = None) -> None:
        """Fit each model without each of its sets of rows, those that are not done already."""
        todo = {
            (name, rows.tobytes()): rows
            for name, sets in left_out.items()
            for rows in sets
            if (name, rows.tobytes()) not in self._done
        }
        keys = list(todo)
        # A fit of each model tells whether processes pay; what is computed does not depend on it.
        # The very first ones are no measure: they import what they need.
        for _ in range(2):
            began = time.process_time()
            first = _first_of_each([key for key in keys if key not in self._done])
            for key in first:
                self._done[key] = _run(self._models[key[0]], self._table, todo[key])
            each_s = (time.process_time() - began) / max(len(first), 1)
        rest = [key for key in keys if key not in self._done]
        expected_s = each_s * len(rest)
        n_jobs = self._jobs() if expected_s > _PROCESSES_PAY_S else 1
        for start in range(0, len(rest), _CHUNK * n_jobs):
            chunk = rest[start : start + _CHUNK * n_jobs]
            for key, found in zip(chunk, self._several(chunk, todo, n_jobs), strict=True):
                self._done[key] = found
            if progress is not None:
                progress(len(keys) - len(rest) + start + len(chunk), len(keys))

    def without(self, model: str, rows: Rows) -> FoldRun:
        """What the model says that was fitted without these rows; `run` has to have done it."""
        return self._done[model, rows.tobytes()]

    def warnings(self) -> list[str]:
        """What the models warned of, each once."""
        return sorted(
            {f"{key[0]}: {text}" for key, run in self._done.items() for text in run.warnings}
        )

    def _several(
        self, keys: list[tuple[str, bytes]], rows: Mapping[tuple[str, bytes], Rows], n_jobs: int
    ) -> list[FoldRun]:
        if n_jobs == 1:
            return [_run(self._models[key[0]], self._table, rows[key]) for key in keys]
        from joblib import Parallel, delayed

        calls = (delayed(_run)(self._models[key[0]], self._table, rows[key]) for key in keys)
        found: list[FoldRun] = Parallel(n_jobs=n_jobs)(calls)
        return found

    def _jobs(self) -> int:
        if self._n_jobs is not None:
            return self._n_jobs
        from joblib import cpu_count

        return int(cpu_count())


def _first_of_each(keys: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return list({name: (name, rows) for name, rows in reversed(keys)}.values())


def _run(make: MakeModel, table: TrainingTable, left_out: Rows) -> FoldRun:
    rest = np.setdiff1d(np.arange(len(table)), left_out)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            part = table.rows(rest)
            model = fit_model(make.on(part) if isinstance(make, NamedModel) else make, part)
            predicted = np.asarray(model.predict(table.X), dtype=np.float64)
        # scikit-learn tells what it cannot be fitted to by a ValueError.
        except (RlreadyError, ValueError) as error:
            problem = f"cannot be fitted to {len(rest)} rows: {str(error).splitlines()[0]}"
            return FoldRun(predicted=np.full(len(table), np.nan), problem=problem)
    if not np.isfinite(predicted).all():
        return FoldRun(
            predicted=np.full(len(table), np.nan), problem="its predictions are not finite"
        )
    told = {f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught}
    return FoldRun(predicted=predicted, warnings=tuple(sorted(told)))
