"""Intervals of rows that are held out are those that a user would get for such rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulation import simulate

from rlready.predictors.calibration.held_out import NO_INTERVAL, assess_held_out
from rlready.predictors.calibration.intervals import Regime
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.training_table import TrainingTable
from rlready.predictors.validation.folds import leave_group_out


@pytest.fixture(scope="module")
def table() -> TrainingTable:
    return simulate(4, 6, np.random.default_rng(3)).table


def test_a_left_out_group_is_told_what_a_new_group_is_told(table: TrainingTable) -> None:
    """It was told the interval of a known group, from a fit that had seen its outcomes."""
    folds = leave_group_out(table)
    found = assess_held_out(table, folds, np.zeros(len(table)))
    assert set(found["regime"]) == {Regime.NEW_GROUP_MODEL.value}
    rest = np.setdiff1d(np.arange(len(table)), folds[1])
    expected = CalibratedPredictor().fit(table.rows(rest)).assess(table.X).iloc[folds[1]]
    pd.testing.assert_frame_equal(found.iloc[folds[1]], expected)


def test_rows_stand_in_the_order_of_the_table(table: TrainingTable) -> None:
    rows = np.arange(len(table))
    folds = [rows[rows % 3 == 2], rows[rows % 3 == 0], rows[rows % 3 == 1]]
    found = assess_held_out(table, folds, np.zeros(len(table)))
    assert found.index.tolist() == table.X.index.tolist()
    assert set(found["regime"]) == {Regime.KNOWN_GROUP.value}


def test_where_too_few_rows_remain_the_prediction_stands_without_an_interval() -> None:
    table = simulate(2, 4, np.random.default_rng(0)).table
    predicted = np.arange(8.0)
    found = assess_held_out(table, leave_group_out(table), predicted)
    assert found["prediction"].tolist() == predicted.tolist()
    assert found["low"].isna().all()
    assert set(found["regime"]) == {NO_INTERVAL}
    assert found["promise"].str.contains("4 checkpoints have an outcome").all()
