"""Paired differences agree with the paired t-test and change their sign with the order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel

from rlready.evaluators.heldout.loss import ExampleLoss
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.digest import digest
from rlready.registry.records import Proxy
from rlready.workflow.compare.paired import (
    PairedDifference,
    mean_difference,
    paired_loss,
    paired_pass_at_k,
    unpaired,
)

Pairs = list[tuple[int, int]]
pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=12)


def counts(values: list[int], n: int = 8) -> list[ProblemCounts]:
    return [ProblemCounts(problem_id=f"p{i}", n=n, c=c) for i, c in enumerate(values)]


def difference(values: Pairs, k: int = 1) -> PairedDifference:
    a, b = (counts(list(column)) for column in zip(*values, strict=True))
    result = paired_pass_at_k(a, b, k)
    assert result is not None
    return result


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    values = [(1, 4), (0, 2), (8, 7), (3, 3), (2, 6)]
    ours = difference(values)
    a, b = zip(*values, strict=True)
    peer = ttest_rel([x / 8 for x in b], [x / 8 for x in a]).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high))
    assert ours.value == pytest.approx(0.2)
    assert (ours.n, ours.n_left_out, ours.is_paired) == (5, 0, True)


@given(values=pairs, k=st.integers(1, 8))
def test_changing_places_changes_the_sign(values: Pairs, k: int) -> None:
    forwards, backwards = difference(values, k), difference([(b, a) for a, b in values], k)
    assert backwards.value == pytest.approx(-forwards.value)
    assert (backwards.low is None) == (forwards.high is None)
    if forwards.high is not None:
        assert backwards.low == pytest.approx(-forwards.high)
    assert forwards.is_clear == backwards.is_clear


@given(values=pairs, k=st.integers(1, 8))
def test_the_interval_contains_the_difference_and_stays_within_one(values: Pairs, k: int) -> None:
    result = difference(values, k)
    if result.low is None or result.high is None:
        # All problems differ alike: nothing is known of the spread, so nothing is claimed.
        assert result.se == pytest.approx(0.0, abs=1e-12)
        assert not result.is_clear
        return
    assert -1.0 <= result.low <= result.value + 1e-12
    assert result.value - 1e-12 <= result.high <= 1.0


def test_problems_with_too_few_samples_are_left_out_and_counted() -> None:
    a = [ProblemCounts(problem_id="x", n=8, c=2), ProblemCounts(problem_id="y", n=3, c=1)]
    b = [ProblemCounts(problem_id="x", n=8, c=4), ProblemCounts(problem_id="z", n=8, c=1)]
    result = paired_pass_at_k(a, b, 4)
    assert result is not None
    assert (result.n, result.n_left_out) == (1, 2)
    assert (result.se, result.low, result.high, result.is_clear) == (None, None, None, False)
    assert paired_pass_at_k(a[1:], b, 4) is None


def losses(sums: list[float], tokens: list[int]) -> list[ExampleLoss]:
    return [
        ExampleLoss(id=f"e{i}", nll_sum=nll, n_tokens=n, n_bytes=n)
        for i, (nll, n) in enumerate(zip(sums, tokens, strict=True))
    ]


def test_the_loss_is_weighted_by_tokens() -> None:
    result = paired_loss(losses([10.0, 3.0], [10, 2]), losses([5.0, 4.0], [10, 2]))
    assert result is not None
    assert result.value == pytest.approx((5.0 + 4.0 - 10.0 - 3.0) / 12)


def test_an_example_that_was_tokenized_otherwise_is_left_out() -> None:
    result = paired_loss(losses([10.0, 3.0], [10, 2]), losses([5.0, 4.0], [10, 3]))
    assert result is not None
    assert (result.n, result.n_left_out, result.value) == (1, 1, -0.5)
    assert paired_loss(losses([3.0], [2]), losses([4.0], [3])) is None


def test_two_means_alone_are_treated_as_independent() -> None:
    a, b = (
        Proxy(
            name="pass_at_1",
            value=value,
            se=se,
            unit="probability",
            benchmark="toy",
            benchmark_digest=digest("toy"),
            n_problems=50,
            n_samples=400,
            evaluator_version="1",
        )
        for value, se in ((0.5, 0.03), (0.9, 0.04))
    )
    result = unpaired(a, b)
    assert result.value == pytest.approx(0.4)
    assert result.se == pytest.approx(0.05)
    assert (result.is_paired, result.is_clear, result.n) == (False, True, 50)


def test_the_mean_over_benchmarks_is_welchs_test_of_the_differences() -> None:
    parts = [
        difference([(1, 4), (0, 2), (8, 7), (3, 3), (2, 6)]),
        difference([(1, 2), (5, 5), (4, 7)]),
    ]
    both = mean_difference(parts)
    assert both is not None
    assert both.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    squares = [part.se**2 for part in parts if part.se is not None]
    assert both.se == pytest.approx(sum(squares) ** 0.5 / 2)
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / 4 + squares[1] ** 2 / 2)
    assert both.se is not None
    assert both.high == pytest.approx(both.value + t.ppf(0.975, freedom) * both.se)
    assert (both.n, both.is_paired) == (8, True)
    assert mean_difference([]) is None
    alone = mean_difference([parts[0], difference([(1, 2)] * 2)])
    assert alone is not None
    assert alone.low is not None
    lonely = paired_pass_at_k(counts([1]), counts([2]), 1)
    assert lonely is not None
    unknown = mean_difference([parts[0], lonely])
    assert unknown is not None
    assert (unknown.se, unknown.low) == (None, None)
