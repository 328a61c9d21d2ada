"""Scores: known values, brute force, what leaves them unchanged, and what leaves them undefined."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlready.predictors.validation.scores import (
    ALL,
    ORDER,
    SCORES,
    ClearRule,
    PredictionScorer,
    clear_rule,
    noise_ceiling_r2,
    score_of,
)
from rlready.registry.errors import ConfigError

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=5)


def brute_force_regret(y: list[int], predicted: list[int], k: int) -> float:
    """The mean over all ways to break ties."""
    lost = []
    for order in permutations(range(len(y))):
        ranked = sorted(order, key=lambda i: -predicted[i])
        lost.append(max(y) - max(y[i] for i in ranked[:k]))
    return float(np.mean(lost))


def brute_force_decisions(y: list[int], predicted: list[int], apart: float) -> float | None:
    points = [
        0.5 + 0.5 * np.sign((y[i] - y[j]) * (predicted[i] - predicted[j]))
        for i, j in combinations(range(len(y)), 2)
        if abs(y[i] - y[j]) > apart
    ]
    return float(np.mean(points)) if points else None


@given(PAIRS)
def test_scores_are_what_enumeration_gives(rows: list[tuple[int, int]]) -> None:
    y, predicted = [row[0] * 2 for row in rows], [row[1] for row in rows]
    found = PredictionScorer(y, predicted).scores()
    for k in (1, 2, 3):
        value = found[f"regret_at_{k}"].value
        assert value == pytest.approx(brute_force_regret(y, predicted, k), abs=1e-9)
    for name, apart in (("decision_accuracy", 0), ("decision_accuracy_clear", 1)):
        assert found[name].value == pytest.approx(brute_force_decisions(y, predicted, apart))


@given(PAIRS)
def test_rank_correlations_are_those_of_scipy(rows: list[tuple[int, int]]) -> None:
    y, predicted = np.array(rows, dtype=float).T
    if np.ptp(y) == 0 or np.ptp(predicted) == 0:
        assert score_of("spearman", y, predicted) is None
        assert score_of("kendall", y, predicted) is None
        return
    assert score_of("spearman", y, predicted) == pytest.approx(
        stats.spearmanr(y, predicted).statistic, abs=1e-9
    )
    assert score_of("kendall", y, predicted) == pytest.approx(
        stats.kendalltau(y, predicted).statistic, abs=1e-6
    )


@given(PAIRS)
def test_an_increasing_transform_of_the_predictions_changes_no_score_of_order(
    rows: list[tuple[int, int]],
) -> None:
    y, predicted = np.array(rows, dtype=float).T
    groups = np.array(["a", "b"] * len(y))[: len(y)]
    for name in ORDER:
        assert score_of(name, y, predicted, groups) == score_of(
            name, y, np.exp(predicted) + 5, groups
        )


def test_a_perfect_prediction_scores_one_and_loses_nothing() -> None:
    y = [1.0, 5.0, 3.0, 9.0]
    values = [PredictionScorer(y, y).scores()[name].value for name in SCORES]
    assert values == [1, 1, 1, 1, 1, 0, 0, 0]


def test_known_values() -> None:
    y, predicted = [70.0, 72.0, 71.5, 75.0], [71.0, 73.0, 73.0, 72.0]
    found = PredictionScorer(y, predicted).scores()
    assert found["r2"].value == pytest.approx(1 - (1 + 1 + 2.25 + 9) / 13.1875)
    assert found["decision_accuracy"].value == pytest.approx((3 + 0.5) / 6)
    assert found["decision_accuracy"].n == 6
    assert found["decision_accuracy_clear"].n == 5
    assert found["decision_accuracy_clear"].value == pytest.approx(3 / 5)
    assert found["regret_at_1"].value == pytest.approx(75 - (72 + 71.5) / 2)
    assert found["regret_at_2"].value == 3
    assert found["regret_at_3"].value == 0


def test_scores_within_groups_look_at_no_other_pair() -> None:
    groups = np.array(["a", "a", "b", "b"])
    found = PredictionScorer([1.0, 2.0, 11.0, 14.0], [2.0, 1.0, 7.0, 8.0], groups).scores()
    assert found["decision_accuracy_within"].value == 0.5
    assert found["decision_accuracy_within"].n == 2
    assert found["spearman_within"].value == 0
    assert found["regret_at_1_within"].value == 0.5
    assert found["regret_at_3_within"].value is None


def test_clear_pairs_follow_the_standard_errors_if_they_are_known() -> None:
    y, error = np.array([1.0, 2.0, 9.0]), np.array([0.4, 0.4, 0.4])
    assert clear_rule(y, error) == ClearRule(by_error=True)
    found = PredictionScorer(y, y, y_error=error).scores()["decision_accuracy_clear"]
    assert found.n == 2, "1 is less than 2 x 0.57"
    assert clear_rule(y, np.array([0.1, np.nan, 0.1])) == ClearRule(unit=1.0)


def test_a_point_of_a_share_is_a_hundredth() -> None:
    assert clear_rule(np.array([0.2, 0.9])).unit == 0.01
    assert "0.01" in str(clear_rule(np.array([0.2, 0.9])))


@pytest.mark.parametrize(
    ("y", "predicted", "undefined", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0], ALL, "2 rows, and a score needs 3"),
        ([5.0, 5.0, 5.0], [1.0, 2.0, 3.0], SCORES[:5], "all outcomes are the same"),
        ([1.0, 2.0, 3.0], [7.0, 7.0, 7.0], SCORES[1:3], "all predictions are the same"),
        ([1.0, 1.2, 1.4], [1.0, 2.0, 3.0], SCORES[4:5], "no pair has outcomes more than 1 apart"),
    ],
)
def test_what_is_undefined_is_none_and_says_why(
    y: list[float], predicted: list[float], undefined: tuple[str, ...], reason: str
) -> None:
    found = PredictionScorer(y, predicted).scores()
    for name in undefined:
        assert found[name].value is None
        assert found[name].reason == reason
    assert all(score.value is None or np.isfinite(score.value) for score in found.values())


def test_a_constant_prediction_is_a_coin_and_a_blind_choice() -> None:
    found = PredictionScorer([1.0, 2.0, 6.0], [4.0, 4.0, 4.0]).scores()
    assert found["decision_accuracy"].value == 0.5
    assert found["regret_at_1"].value == pytest.approx(6 - 3)


def test_the_last_bits_of_a_sum_are_a_tie() -> None:
    """A flat line predicted 0.1 + 0.2 for one row and 0.3 for another, and ranked them."""
    assert score_of("spearman", [1.0, 2.0, 3.0], [0.3, 0.1 + 0.2, 0.3]) is None


def test_large_outcomes_lose_no_digits() -> None:
    y = np.array([1.0, 2.0, 4.0]) + 1e8
    assert score_of("r2", y, y + np.array([0.1, -0.1, 0.0])) == pytest.approx(
        1 - 0.02 / 4.6666667, abs=1e-6
    )


@given(PAIRS, st.integers(0, 2**32 - 1))
def test_a_weight_is_a_number_of_copies(rows: list[tuple[int, int]], seed: int) -> None:
    """Copies of a row make no pair; for R2 and rank correlations they are rows like others."""
    y, predicted = np.array(rows, dtype=float).T
    copies = np.random.default_rng(seed).integers(0, 3, len(y))
    if copies.sum() < 3:
        return
    weighted = PredictionScorer(y, predicted).at(copies[None].astype(float))
    spelled = PredictionScorer(np.repeat(y, copies), np.repeat(predicted, copies)).scores()
    for name in ("r2", "spearman", "kendall", "decision_accuracy"):
        expected = np.nan if spelled[name].value is None else spelled[name].value
        assert weighted[name][0] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_the_noise_ceiling_is_one_minus_the_share_of_noise() -> None:
    y: Any = np.array([1.0, 2.0, 3.0, 4.0])
    assert noise_ceiling_r2(y, np.full(4, 0.5)) == pytest.approx(1 - 0.25 / 1.25)
    assert noise_ceiling_r2(y, np.array([0.5, np.nan, 0.5, 0.5])) is None
    assert noise_ceiling_r2(np.ones(4), np.full(4, 0.5)) is None


def test_more_rows_than_their_pairs_fit_in_memory_are_refused() -> None:
    with pytest.raises(ConfigError, match="too many to compare all pairs"):
        PredictionScorer(np.arange(6000.0), np.arange(6000.0))
