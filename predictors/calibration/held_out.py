"""Predictions and intervals for checkpoints whose outcome is held out.

Each fold has its own predictor, which is fitted and calibrated without the outcomes of the fold. A
row whose group was left out therefore gets the interval of a new group, like any checkpoint of an
unseen group, and the share of intervals that contain the outcome is an honest coverage.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.training_table import FloatArray, TrainingTable
from rlready.predictors.validation.folds import Rows
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

NO_INTERVAL = "no interval"
"""Regime of a fold whose remaining rows are too few for a calibrated fit."""

MAX_ROW_FOLDS = 20
"""Largest number of parts in which rows are held out, because each costs a calibrated fit."""

_PROCESSES_PAY_S = 15.0


def assess_held_out(
    table: TrainingTable,
    folds: Sequence[Rows],
    predicted: FloatArray,
    model: str = "default",
    seed: int = 0,
) -> pd.DataFrame:
    """Return `CalibratedPredictor.assess` of each fold by a predictor fitted to the other rows.

    Args:
        table: rows with outcomes.
        folds: sets of rows; each row is in one of them.
        predicted: (n,) out-of-fold predictions, higher is better. They are used, without an
            interval, if the other rows are too few for an interval.
        model: name of the model.
        seed: of folds and permutations.

    Example:
        >>> frame = assess_held_out(table, leave_group_out(table), predicted)  # doctest: +SKIP
        >>> frame[["prediction", "low", "high", "regime"]]  # doctest: +SKIP
    """
    import pandas as pd

    parts, todo = [], list(folds)
    # The first fold also imports libraries; the time of the second decides on processes.
    for _ in range(min(2, len(todo))):
        began = time.process_time()
        parts.append(_assess(table, todo.pop(0), predicted, model, seed))
    if todo and (time.process_time() - began) * len(todo) > _PROCESSES_PAY_S:
        from joblib import Parallel, delayed

        parts += Parallel(n_jobs=-1)(
            delayed(_assess)(table, rows, predicted, model, seed) for rows in todo
        )
    else:
        parts += [_assess(table, rows, predicted, model, seed) for rows in todo]
    order = np.argsort(np.concatenate(list(folds)), kind="stable")
    return pd.concat(parts).iloc[order]


def _assess(
    table: TrainingTable, held_out: Rows, predicted: FloatArray, model: str, seed: int
) -> pd.DataFrame:
    rest = np.setdiff1d(np.arange(len(table)), held_out)
    with warnings.catch_warnings():
        # The same model already warned in the validation.
        warnings.simplefilter("ignore")
        try:
            predictor = CalibratedPredictor(model, seed=seed).fit(table.rows(rest))
        except ConfigError as error:
            return _without_interval(table, held_out, predicted, str(error))
        # Pass all rows of a group, because models may centre them.
        return predictor.assess(table.X).iloc[held_out]


def _without_interval(
    table: TrainingTable, held_out: Rows, predicted: FloatArray, why: str
) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "prediction": table.shown(predicted[held_out]),
            "low": np.nan,
            "high": np.nan,
            "level": CalibratedPredictor().level,
            "regime": NO_INTERVAL,
            "promise": f"without these rows no interval is possible: {why}",
            "domain": "",
            "reasons": "",
        },
        index=table.X.index[held_out],
    )
