"""Fits of several models to parts of one table, each done once, on all cores if that is faster."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlready.predictors.training_table import FloatArray, TrainingTable
from rlready.predictors.validation.folds import MakeModel, Rows, fit_without
from rlready.registry.errors import RlreadyError

Progress = Callable[[int, int], None]
"""A function that is called with the number of finished fits and the number of all fits."""

_PROCESSES_PAY_S = 10.0
"""Seconds of work that justify another process, which takes about 4 s to start."""

_CHUNK = 24

Key = tuple[str, bytes]
"""The name of a model, and the rows that its fit leaves out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldRun:
    """Predictions of a model that was fitted without some rows.

    Args:
        predicted: (n,) for every row of the table; NaN if the model could not be fitted.
        problem: why the model could not be fitted; empty if it was.
        warnings: warnings of the fit.
    """

    predicted: FloatArray
    problem: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """True if all rows get the same prediction."""
        largest = float(np.max(np.abs(self.predicted)))
        return bool(np.ptp(self.predicted) <= 1e-12 * largest)


class FoldRuns:
    """The fits of a validation.

    Args:
        table: rows with outcomes.
        models: function that makes each model, by name.
        n_jobs: largest number of processes; by default one per core.
    """

    def __init__(
        self, table: TrainingTable, models: Mapping[str, MakeModel], n_jobs: int | None = None
    ) -> None:
        self._table, self._models, self._n_jobs = table, models, n_jobs
        self._done: dict[Key, FoldRun] = {}

    def run(self, folds: Sequence[Rows], progress: Progress | None = None) -> None:
        """Fit each model without each of these sets of rows; existing fits are not repeated."""
        todo = {(name, rows.tobytes()): rows for name in self._models for rows in folds}
        keys = [key for key in todo if key not in self._done]
        # One timed fit of each model decides whether several processes are faster; the results are
        # the same. The very first fits are not timed, because they also import libraries.
        for _ in range(2):
            began = time.process_time()
            rest = [key for key in keys if key not in self._done]
            first = {name: (name, rows) for name, rows in reversed(rest)}.values()
            for key in first:
                self._done[key] = _run(self._models[key[0]], self._table, todo[key])
            each_s = (time.process_time() - began) / max(len(first), 1)
        rest = [key for key in keys if key not in self._done]
        n_jobs = self._jobs() if each_s * len(rest) > _PROCESSES_PAY_S else 1
        for start in range(0, len(rest), _CHUNK * n_jobs):
            chunk = rest[start : start + _CHUNK * n_jobs]
            self._done.update(zip(chunk, self._several(chunk, todo, n_jobs), strict=True))
            if progress is not None:
                progress(len(keys) - len(rest) + start + len(chunk), len(keys))

    def without(self, model: str, rows: Rows) -> FoldRun:
        """Return the run of a model without these rows; `run` must have done it."""
        return self._done[model, rows.tobytes()]

    def warnings(self) -> list[str]:
        """Return the different warnings of the models."""
        return sorted(
            {f"{key[0]}: {text}" for key, run in self._done.items() for text in run.warnings}
        )

    def _several(
        self, keys: Iterable[Key], rows: Mapping[Key, Rows], n_jobs: int
    ) -> Iterable[FoldRun]:
        if n_jobs == 1:
            return [_run(self._models[key[0]], self._table, rows[key]) for key in keys]
        from joblib import Parallel, delayed

        runs: list[FoldRun] = Parallel(n_jobs=n_jobs)(
            delayed(_run)(self._models[key[0]], self._table, rows[key]) for key in keys
        )
        return runs

    def _jobs(self) -> int:
        if self._n_jobs is not None:
            return self._n_jobs
        from joblib import cpu_count

        return int(cpu_count())


def _run(make: MakeModel, table: TrainingTable, held_out: Rows) -> FoldRun:
    nothing = np.full(len(table), np.nan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = fit_without(make, table, held_out).model
            predicted = np.asarray(model.predict(table.X), dtype=np.float64)
        # scikit-learn raises a ValueError for data to which a model cannot be fitted.
        except (RlreadyError, ValueError) as error:
            n_rows, why = len(table) - len(held_out), str(error).splitlines()[0]
            return FoldRun(predicted=nothing, problem=f"cannot be fitted to {n_rows} rows: {why}")
    if not np.isfinite(predicted).all():
        return FoldRun(predicted=nothing, problem="its predictions are not finite")
    texts = {f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught}
    return FoldRun(predicted=predicted, warnings=tuple(sorted(texts)))
