"""Rows of different groups are compared by one fit, and the order follows from the comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.predictors.validation.pairs import PAIR_SCORES, PairScorer
from rlready.predictors.validation.scores import ClearRule, PredictionScorer

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
