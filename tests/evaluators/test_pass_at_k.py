"""pass@k against enumeration, exact fractions, and its own algebra."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import counts

from rlready.evaluators.metrics.pass_at_k import (
    ProblemCounts,
    bounds,
    mean_pass_at_k,
    pass_at_k,
    sampling_variance,
    with_scored,
)
from rlready.registry.errors import EvaluationError


def _exact(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@given(counts(), st.integers(1, 9))
def test_equals_enumeration_of_all_subsets(problem: ProblemCounts, k: int) -> None:
    if k > problem.n:
        return
    outcomes = [True] * problem.c + [False] * (problem.n - problem.c)
    subsets = list(itertools.combinations(outcomes, k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(problem.n, problem.c, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 16, 64, 255, 256])
def test_equals_exact_fractions_at_256_samples(k: int) -> None:
    for c in range(257):
        assert abs(pass_at_k(256, c, k) - float(_exact(256, c, k))) < 1e-12


@given(st.integers(1, 60), st.data())
def test_grows_with_k_and_with_c(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    here = pass_at_k(n, c, k)
    assert 0.0 <= here <= 1.0
    if k < n:
        assert pass_at_k(n, c, k + 1) >= here - 1e-15
    if c < n:
        assert pass_at_k(n, c + 1, k) >= here - 1e-15


ONE_SHORT = [
    ProblemCounts(problem_id="ok", n=64, c=3),
    ProblemCounts(problem_id="07", n=61, c=3, n_unscored=3),
]


def test_a_problem_with_too_few_scored_samples_does_not_take_the_others_number_away() -> None:
    """One UNSCORED sample removed pass@k from the whole benchmark."""
    assert mean_pass_at_k(ONE_SHORT, 64, "aime24") == mean_pass_at_k(ONE_SHORT[:1], 64, "aime24")
    assert with_scored(ONE_SHORT, 64) == ONE_SHORT[:1]
    assert with_scored(ONE_SHORT, 61) == ONE_SHORT


def test_too_few_scored_samples_everywhere_are_an_error_that_names_a_problem() -> None:
    """The worst published pass@k bug divided by a configured n (lighteval issue 771)."""
    message = r"no problem of aime24 has so many. 07 has the most: 61 \(3 UNSCORED\)"
    with pytest.raises(EvaluationError, match=message):
        mean_pass_at_k(ONE_SHORT[1:], 64, "aime24")


@given(st.lists(counts(min_n=1), min_size=1, max_size=5), st.data())
def test_bounds_hold_whatever_the_unscored_samples_are(
    rows: list[ProblemCounts], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, min(row.n + row.n_unscored for row in rows)))
    ends = bounds(rows, k)
    assert ends is not None
    judged = []
    for row in rows:
        right = data.draw(st.integers(0, row.n_unscored))
        n = row.n + row.n_unscored
        judged.append(ProblemCounts(problem_id=row.problem_id, n=n, c=row.c + right))
    assert ends[0] - 1e-12 <= mean_pass_at_k(judged, k, "b").value <= ends[1] + 1e-12


def test_bounds_need_k_samples_of_every_problem() -> None:
    assert bounds(ONE_SHORT, 65) is None
    assert bounds(ONE_SHORT[:1], 64) == (1.0, 1.0)


def test_no_problems_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no problems"):
        mean_pass_at_k([], 1, "empty")


@pytest.mark.parametrize(("n", "k"), [(4, 1), (6, 2), (9, 4)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_variance_estimate_is_unbiased_for_2k_up_to_n(n: int, k: int, p: float) -> None:
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    values = [pass_at_k(n, c, k) for c in range(n + 1)]
    mean = sum(w * v for w, v in zip(weights, values, strict=True))
    variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
    expected = sum(w * sampling_variance(n, c, k) for c, w in enumerate(weights))
    assert mean == pytest.approx(1 - (1 - p) ** k)
    assert expected == pytest.approx(variance)


@given(counts(min_n=2, max_n=30))
def test_variance_at_k_1_is_the_textbook_one(problem: ProblemCounts) -> None:
    p = problem.c / problem.n
    expected = p * (1 - p) / (problem.n - 1)
    assert sampling_variance(problem.n, problem.c, 1) == pytest.approx(expected, abs=1e-15)


@given(st.integers(2, 20), st.data())
def test_variance_is_never_negative(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert sampling_variance(n, c, k) >= -1e-15


def test_variance_beyond_half_of_n_is_close_to_that_of_repeated_sampling() -> None:
    rng = np.random.default_rng(0)
    n, k, p = 32, 32, 0.03
    draws = rng.binomial(n, p, 20_000)
    truth = np.var([pass_at_k(n, int(c), k) for c in draws])
    typical = np.mean([sampling_variance(n, int(c), k) for c in draws[:2000]])
    assert typical == pytest.approx(truth, rel=0.35)


@given(st.lists(counts(min_n=8, max_n=12), min_size=2, max_size=6), st.integers(1, 8))
def test_the_error_over_problems_contains_the_one_within(
    problems: list[ProblemCounts], k: int
) -> None:
    """Equal problems had an error of 0 over problems beside one of 0.2 within."""
    found = mean_pass_at_k(problems, k, "b")
    assert found.se is not None
    assert found.se_within is not None
    assert found.se >= found.se_within


def test_the_error_over_problems_is_the_textbook_one_where_problems_differ() -> None:
    rows = [ProblemCounts(problem_id=str(c), n=64, c=c) for c in (2, 20, 40, 63)]
    shares = np.array([2, 20, 40, 63]) / 64
    found = mean_pass_at_k(rows, 1, "b")
    assert found.se == pytest.approx(shares.std(ddof=1) / 2)


@pytest.mark.parametrize(("a", "b"), [(0.05, 5.0), (0.3, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (8, 8), (8, 6)])
def test_the_error_within_is_near_the_truth_beyond_half_of_n(
    a: float, b: float, n: int, k: int
) -> None:
    """On hard problems it was up to 5 times too large: a prior of 1/2 stood for each of them."""
    rng = np.random.default_rng(3)
    estimates, truths = [], []
    for _ in range(40):
        shares = rng.beta(a, b, 40)
        rows = [
            ProblemCounts(problem_id=str(i), n=n, c=int(c))
            for i, c in enumerate(rng.binomial(n, shares))
        ]
        found = mean_pass_at_k(rows, k, "b")
        assert found.se_within is not None
        estimates.append(found.se_within**2 * 40)
        truths.append(np.mean([_true_variance(n, p, k) for p in shares]))
    assert np.sqrt(np.mean(estimates) / np.mean(truths)) == pytest.approx(1.0, abs=0.45)


def _true_variance(n: int, p: float, k: int) -> float:
    chances = np.array([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    values = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
    return float(chances @ (values - chances @ values) ** 2)


def test_standard_error_over_problems_needs_two_problems() -> None:
    one = mean_pass_at_k([ProblemCounts(problem_id="a", n=8, c=4)], 1, "b")
    assert one.se is None
    assert one.se_within == pytest.approx(math.sqrt(0.25 / 7))
    two = mean_pass_at_k(
        [ProblemCounts(problem_id="a", n=8, c=8), ProblemCounts(problem_id="b", n=8, c=0)], 1, "b"
    )
    assert two.value == 0.5
    assert two.se == pytest.approx(0.5)
    assert two.se_within == 0.0
