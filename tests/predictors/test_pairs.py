"""Rows of different groups are compared by one fit, and the order follows from the comparisons."""

from __future__ import annotations

import itertools
import json
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin

from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.predictors.validation.pairs import PAIR_SCORES, PairScorer
from rlready.predictors.validation.report import ValidationReport
from rlready.predictors.validation.scores import ClearRule, PredictionScorer
from rlready.predictors.validation.validate import validate

GROUPS = np.array(["a", "a", "b", "b", "c"])
Y = np.array([0.1, 0.2, 0.3, 0.4, 0.5])


def gaps_of(predicted: list[float]) -> np.ndarray:
    return np.subtract.outer(predicted, predicted)


def values(scorer: PairScorer) -> dict[str, float | None]:
    return {name: score.value for name, score in scorer.scores(PAIR_SCORES).items()}


def test_a_right_order_has_full_marks() -> None:
    found = values(PairScorer(Y, gaps_of(list(Y)), GROUPS, rule=ClearRule(unit=0.05)))
    assert found["decision_accuracy"] == found["decision_accuracy_clear"] == 1.0
    assert found["regret_at_1"] == 0.0


def test_known_comparisons_give_known_scores() -> None:
    """8 pairs of different groups; c is taken to be the worst, which is wrong in 4 of them."""
    predicted = [1.0, 2.0, 3.0, 4.0, 0.0]
    scorer = PairScorer(Y, gaps_of(predicted), GROUPS, rule=ClearRule(unit=0.15))
    found = scorer.scores(PAIR_SCORES)
    assert found["decision_accuracy"].value == pytest.approx(4 / 8)
    assert found["decision_accuracy"].n == 8
    # Clear pairs (more than .15 apart): a1-b3, a1-b4, a2-b4 right; a1-c, a2-c, b3-c wrong.
    assert found["decision_accuracy_clear"].value == pytest.approx(3 / 6)
    assert found["decision_accuracy_clear"].n == 6
    assert scorer.borda == pytest.approx([1 / 3, 1 / 3, 1.0, 1.0, 0.0])
    assert found["regret_at_1"].value == pytest.approx(0.15)  # b3 or b4, a coin
    assert found["regret_at_2"].value == pytest.approx(0.1)


def test_pairs_inside_a_group_do_not_count() -> None:
    gaps = gaps_of(list(Y))
    gaps[0, 1], gaps[1, 0] = np.nan, np.nan
    gaps[2, 3], gaps[3, 2] = 9.0, -9.0
    assert values(PairScorer(Y, gaps, GROUPS))["decision_accuracy"] == 1.0


def test_a_tie_counts_half() -> None:
    assert values(PairScorer(Y, np.zeros((5, 5)), GROUPS))["decision_accuracy"] == 0.5


def test_a_missing_comparison_is_an_error() -> None:
    gaps = gaps_of(list(Y))
    gaps[0, 4] = np.nan
    with pytest.raises(ValueError, match="finite comparison"):
        PairScorer(Y, gaps, GROUPS)


@given(st.lists(st.floats(-3, 3, width=16), min_size=4, max_size=9), st.integers(0, 99))
def test_with_one_row_a_group_and_one_fit_it_is_the_order_of_the_fit(
    y: list[float], seed: int
) -> None:
    predicted = np.random.default_rng(seed).permutation(len(y)).astype(float)
    groups = np.arange(len(y)).astype(str)
    ours = PairScorer(y, np.subtract.outer(predicted, predicted), groups).scores(PAIR_SCORES)
    theirs = PredictionScorer(y, predicted).scores(PAIR_SCORES)
    for name in PAIR_SCORES:
        assert ours[name].value == pytest.approx(theirs[name].value), name


def test_a_row_that_a_draw_leaves_out_does_not_count() -> None:
    scorer = PairScorer(Y, gaps_of([1.0, 2.0, 3.0, 4.0, 0.0]), GROUPS)
    without_c = np.array([[1.0, 1.0, 1.0, 1.0, 0.0]])
    assert scorer.at(without_c, ["decision_accuracy"])["decision_accuracy"][0] == 1.0


class Line(RegressorMixin, BaseEstimator):
    """A line through one column."""

    def __init__(self, column: str = "x") -> None:
        self.column = column

    def fit(self, X: pd.DataFrame, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        self.line_ = np.polyfit(X[self.column], y, 1)
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return np.polyval(self.line_, X[self.column])


class AlmostConstant(Line):
    """The mean of the outcomes that it has seen, and next to nothing of column z."""

    def fit(self, X: pd.DataFrame, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return self.mean_ + 1e-6 * X["z"].to_numpy()


def a_table(n_groups: int = 4, n_rows: int = 6, level: float = 0.0) -> TrainingTable:
    """Column x tells the outcome up to noise; z tells nothing; groups differ by `level`."""
    rng = np.random.default_rng(0)
    x, z, noise = rng.normal(size=(3, n_groups * n_rows))
    group = np.repeat(np.arange(n_groups), n_rows)
    frame = pd.DataFrame({"x": x, "z": z, "y": 60 + 3 * x + noise + level * group})
    frame["g"] = [f"g{i:02d}" for i in group]
    return training_table(frame, target="y", features=["x", "z"], groups=["g"])


def validated(table: TrainingTable, model: Any = Line, **settings: Any) -> ValidationReport:
    return validate(
        table, {"ours": model}, **{"splits": ("group",), "n_draws": 100, "n_jobs": 1} | settings
    )


def test_pairs_of_a_validation_are_those_of_fits_without_both_groups() -> None:
    table = a_table()
    gaps = np.zeros((24, 24))
    for a, b in itertools.permutations(np.unique(table.groups), 2):
        rows, others = np.flatnonzero(table.groups == a), np.flatnonzero(table.groups == b)
        rest = np.flatnonzero(~np.isin(table.groups, [a, b]))
        model = Line().fit(table.X.iloc[rest], table.y[rest])
        predicted = model.predict(table.X)
        gaps[np.ix_(rows, others)] = predicted[rows][:, None] - predicted[others]
    found = validated(table).pairs.models["ours"].scores
    expected = PairScorer(table.y, gaps, table.groups).scores(PAIR_SCORES)
    assert {name: interval.score for name, interval in found.items()} == expected


def test_pairs_are_not_biased_by_the_means_of_folds() -> None:
    """A fold's mean runs against the level that it leaves out: pooled, all decisions were wrong."""
    report = validated(a_table(n_groups=9, level=50.0), AlmostConstant)
    pooled = report.splits["group"].models["ours"].scores["decision_accuracy"].score.value
    ours = report.pairs.models["ours"].scores["decision_accuracy"].score.value
    assert pooled < 0.2
    assert ours == pytest.approx(0.5, abs=0.1)


def test_groups_in_blocks_are_all_compared() -> None:
    report = validated(a_table(n_groups=14, n_rows=3))
    found = report.pairs.models["ours"].scores["decision_accuracy"].score
    assert found.n == 14 * 13 // 2 * 9
    assert found.value > 0.8


def test_two_groups_cannot_be_compared_and_the_reason_is_said() -> None:
    report = validated(a_table(n_groups=2))
    found = report.to_dict()["pairs"]["default"]["decision_accuracy"]
    assert found["value"] is None
    assert "need 3 groups" in found["reason"]
    assert any("decisions between groups need 3 groups" in note for note in report.notes)
    assert report.within["ours"]["decision_accuracy"].score.value > 0.7


def test_order_inside_groups_and_level_stand_beside_the_pairs() -> None:
    report = validated(a_table(), splits=("loo", "group"), holdout=a_table(), baseline="z")
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    group = found["group"]["ours"]
    assert found["within"]["ours"]["spearman"] == group["spearman_within"]
    assert found["level"]["ours"] == {"r2": group["r2"]}
    assert set(found["pairs"]["ours"]) == set(PAIR_SCORES)
    for part in ("loo", "group", "holdout", "pairs", "within", "level"):
        assert found[part]["default"] == found[part]["ours"], part
        assert {"value", "lo", "hi"} <= set(next(iter(found[part]["default"].values())))
    assert found["differences"]["pairs"]["ours"]["decision_accuracy"]["value"] > 0


def test_one_group_has_an_order_inside_it_and_no_level() -> None:
    report = validated(a_table(n_groups=1, n_rows=12), splits=("loo", "group"))
    assert report.within["ours"]["spearman"].score.value > 0.5
    assert report.level == {}
    assert "within" not in validated(a_table(), splits=("loo",)).to_dict()


def test_a_model_that_cannot_be_fitted_without_two_groups_says_so() -> None:
    class Needs(Line):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
            if len(X) < 13:
                raise ValueError("needs 13 rows")
            return super().fit(X, y)

    report = validated(a_table(), Needs)
    assert report.splits["group"].models["ours"].problem == ""
    assert "needs 13 rows" in report.pairs.models["ours"].problem


def test_every_interval_of_pairs_holds_its_score() -> None:
    for model in validated(a_table(), baseline="z").pairs.models.values():
        for interval in model.scores.values():
            if interval.lo is not None:
                assert interval.lo - 1e-9 <= interval.score.value <= interval.hi + 1e-9
