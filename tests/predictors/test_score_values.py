"""Scores worked out by hand, at the ends where a statement could be off by one."""

from __future__ import annotations

import numpy as np
import pytest

from rlready.predictors.validation.scores import (
    ClearRule,
    PredictionScorer,
    Score,
    clear_rule,
    lower_is_better,
    noise_ceiling_r2,
    score_of,
)
from rlready.registry.errors import ConfigError

NAN = float("nan")


def clear(rule: ClearRule, gap: float, error: float | None = None) -> bool:
    y = np.array([0.0, gap])
    return bool(rule.pairs(y, None if error is None else np.array([error, error]))[0, 1])


def test_a_point_is_more_than_its_rounding() -> None:
    """A difference of 1.0000000001 points is the rounding of one point, 1.000001 is not."""
    assert not clear(ClearRule(unit=1.0), 1.0)
    assert not clear(ClearRule(unit=1.0), 1.0000000001)
    assert clear(ClearRule(unit=1.0), 1.000001)
    assert not clear(ClearRule(unit=0.01), 0.31 - 0.30)
    assert clear(ClearRule(unit=0.01), 0.0101)
    assert clear(ClearRule(unit=1.0), -1.5)


def test_two_standard_errors_of_the_difference_are_not_yet_clear() -> None:
    rule = ClearRule(by_error=True)
    assert not clear(rule, 2.0 * np.hypot(0.5, 0.5), 0.5)
    assert clear(rule, 2.0 * np.hypot(0.5, 0.5) + 1e-6, 0.5)
    with pytest.raises(ValueError, match="standard errors"):
        rule.pairs(np.zeros(2), None)


def test_one_point_is_the_rule_by_default() -> None:
    assert ClearRule() == ClearRule(unit=1.0, by_error=False)


def test_no_row_is_clearly_different_from_itself() -> None:
    y = np.array([1.0, 2.5, 9.0])
    assert ClearRule(unit=1.0).pairs(y, None).diagonal().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("y", "unit"),
    [([0.0, 1.0], 0.01), ([-1.0, 1.0], 0.01), ([0.5, 1.01], 1.0), ([0.2, NAN], 0.01), ([NAN], 1.0)],
)
def test_outcomes_up_to_one_are_shares(y: list[float], unit: float) -> None:
    assert clear_rule(np.array(y)) == ClearRule(unit=unit)


def test_errors_of_rows_without_an_outcome_are_not_needed() -> None:
    y, error = np.array([5.0, NAN]), np.array([0.5, NAN])
    assert clear_rule(y, error).by_error
    assert not clear_rule(np.array([NAN]), np.array([0.5])).by_error


def test_three_rows_have_a_ceiling_and_scores_and_two_have_not() -> None:
    y = np.array([1.0, 2.0, 3.0])
    assert noise_ceiling_r2(y, np.full(3, 0.5)) == pytest.approx(1 - 0.25 / (2 / 3))
    assert noise_ceiling_r2(y[:2], np.full(2, 0.5)) is None
    assert score_of("r2", y, y) == 1.0
    assert score_of("r2", y[:2], y[:2]) is None


def test_five_thousand_rows_are_the_most() -> None:
    assert len(PredictionScorer(np.arange(5000.0), np.arange(5000.0)).y) == 5000
    with pytest.raises(ConfigError, match="5,001 rows"):
        PredictionScorer(np.arange(5001.0), np.arange(5001.0))


def test_missing_numbers_are_an_error() -> None:
    for y, predicted in (([1, 2, NAN], [1, 2, 3]), ([1, 2, 3], [1, np.inf, 3])):
        with pytest.raises(ValueError, match="finite"):
            PredictionScorer(y, predicted)


def test_only_regret_is_better_when_lower() -> None:
    assert lower_is_better("regret_at_1_within")
    assert not lower_is_better("r2")


def test_weights_enter_each_score_as_counts() -> None:
    y, predicted = [1.0, 2.0, 4.0, 8.0], [1.0, 4.0, 2.0, 7.0]
    found = PredictionScorer(y, predicted).at(np.array([[2.0, 1.0, 1.0, 0.0]]))
    mean = (2 * 1 + 2 + 4) / 4
    spread = 2 * (1 - mean) ** 2 + (2 - mean) ** 2 + (4 - mean) ** 2
    assert found["r2"][0] == pytest.approx(1 - (0 + 4 + 4) / spread)
    # Pairs by how often both are drawn: 2 + 2 right, 1 wrong. Gaps of 1 are not clear.
    assert found["decision_accuracy"][0] == pytest.approx(4 / 5)
    assert found["decision_accuracy_clear"][0] == pytest.approx(2 / 3)
    assert found["regret_at_1"][0] == 4 - 2
    assert found["regret_at_2"][0] == 0


def test_a_draw_of_one_row_leaves_most_scores_undefined() -> None:
    found = PredictionScorer([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]).at(np.array([[0.0, 0.0, 3.0]]))
    assert np.isnan([found[name][0] for name in ("r2", "spearman", "decision_accuracy")]).all()
    assert found["regret_at_1"][0] == 0


def test_kendall_divides_by_pairs_that_are_not_tied() -> None:
    y, predicted = [1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 3.0]
    # 5 untied pairs of each; of these 4 agree, and the two ties count nothing.
    assert score_of("kendall", y, predicted) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("y", "predicted", "k", "lost"),
    [
        ([9, 5, 1, 0], [1, 1, 1, 9], 2, 9 - (9 + 5 + 1) / 3),
        ([9, 5, 1, 0], [1, 1, 1, 9], 3, 9 - (9 + 9 + 5) / 3),
        ([9, 5, 1, 0], [0, 1, 1, 1], 2, 9 - (5 + 5 + 1) / 3),
        ([9, 5, 1, 0], [0, 1, 2, 3], 3, 4),
        ([9, 5, 1, 0], [1, 1, 1, 1], 1, 9 - 15 / 4),
        # 6 pairs of four: the best of them is 9 in 3, 5 in 2, 1 in 1.
        ([9, 5, 1, 0], [1, 1, 1, 1], 2, 9 - (3 * 9 + 2 * 5 + 1) / 6),
        ([9, 5, 1, 0], [1, 1, 1, 1], 3, 9 - (3 * 9 + 5) / 4),
        # The row that is surely taken is better than most of the tied ones.
        ([9, 5, 1, 0], [1, 2, 1, 1], 2, 9 - (9 + 5 + 5) / 3),
    ],
)
def test_regret_is_the_mean_over_ways_to_break_ties(
    y: list[float], predicted: list[float], k: int, lost: float
) -> None:
    assert score_of(f"regret_at_{k}", y, predicted) == pytest.approx(lost)


GROUPS = np.array(["a", "a", "b", "b", "b", "c", "d", "d", "d", "d"])
Y = np.array([1.0, 2.0, 1.0, 2.0, 3.0, 5.0, 1.0, 2.0, 3.0, 4.0])
PREDICTED = np.array([2.0, 1.0, 1.0, 3.0, 2.0, 0.0, 4.0, 3.0, 2.0, 1.0])


def test_scores_within_are_means_over_groups_that_have_enough_rows() -> None:
    found = PredictionScorer(Y, PREDICTED, GROUPS, rule=ClearRule(unit=1.5)).scores()
    # By rows of their group in a draw: 2 x -1, 3 x .5, 4 x -1, of groups that weigh alike.
    assert found["spearman_within"] == Score(value=pytest.approx((-1 + 0.5 - 1) / 3), n=3)
    assert found["regret_at_1_within"] == Score(value=pytest.approx((1 + 1 + 3) / 3), n=3)
    assert found["regret_at_3_within"] == Score(value=pytest.approx(1.0), n=1)
    assert found["decision_accuracy_within"] == Score(value=pytest.approx(2 / 10), n=10)
    assert found["decision_accuracy_clear_within"] == Score(value=pytest.approx(1 / 4), n=4)


def test_a_group_counts_as_often_as_it_is_drawn() -> None:
    weights = np.zeros((1, len(Y)))
    weights[0, :2], weights[0, 2:5] = 2.0, 1.0
    found = PredictionScorer(Y, PREDICTED, GROUPS).at(weights, ["spearman_within"])
    assert found["spearman_within"][0] == pytest.approx((2 * -1 + 1 * 0.5) / 3)


def test_a_part_keeps_its_groups_errors_and_rule() -> None:
    error = np.full(len(Y), 0.25)
    scorer = PredictionScorer(Y, PREDICTED, GROUPS, error)
    rows = np.isin(GROUPS, ["a", "d"])
    predicted = np.where(rows, Y, np.nan)
    part = scorer.of(rows, predicted)
    assert part.rule.by_error
    found = part.scores(["decision_accuracy_within", "decision_accuracy_clear"])
    assert found["decision_accuracy_within"] == Score(value=1.0, n=7)
    # 1 is more than 2 x .354: all pairs that differ.
    assert found["decision_accuracy_clear"].n == 13


@pytest.mark.parametrize(
    ("name", "y", "predicted", "reason"),
    [
        ("decision_accuracy_within", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "no group has rows"),
        ("decision_accuracy_clear_within", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "no pair has"),
        ("kendall", [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], "all predictions are the same"),
        ("decision_accuracy_clear", [1.0, 1.5, 1.9], [1.0, 2.0, 3.0], "no pair has"),
    ],
)
def test_undefined_scores_say_why(
    name: str, y: list[float], predicted: list[float], reason: str
) -> None:
    found = PredictionScorer(y, predicted, np.array(["a", "b", "c"])).scores([name])[name]
    assert found.value is None
    assert reason in found.reason


def test_rounding_errors_of_predictions_are_ties_and_small_gaps_are_not() -> None:
    y = [1.0, 2.0, 3.0]
    assert score_of("decision_accuracy", y, [1.0, 1.0 + 1e-13, 1.0 + 2e-13]) == 0.5
    assert score_of("decision_accuracy", y, [1.0, 1.0 + 1e-10, 1.0 + 2e-10]) == 1.0
    assert score_of("decision_accuracy", y, [1e-20, 2e-20, 3e-20]) == 1.0
    assert score_of("decision_accuracy", y, [0.0, 0.0, 0.0]) == 0.5
    # An outcome spread of rounding errors has no R2.
    assert score_of("r2", np.array([0.1 + 0.2, 0.3, 0.3]) + 1e9, y) is None
