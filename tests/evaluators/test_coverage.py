"""The coverage ratio against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.metrics.coverage import comparable, coverage_ratio
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.errors import EvaluationError


def counts(*correct: int, n: int = 32) -> list[ProblemCounts]:
    return [ProblemCounts(problem_id=f"p{i}", n=n, c=c) for i, c in enumerate(correct)]


def test_it_is_the_definition_written_out() -> None:
    base, sft = (2, 4, 1, 0, 32), (1, 8, 0, 5, 32)

    def f(c: int) -> float:
        return 1 - (1 - c / 32) ** 16

    # pass@16 of the base is 0.76, 0.94, 0.5, 0 and 1: the last two are out of (0.05, 0.95).
    lost = f(2) - f(1) + f(1) - f(0)
    gained = f(8) - f(4)
    found = coverage_ratio(counts(*sft), counts(*base))
    assert found.value == pytest.approx(lost / gained)
    assert found.se is not None


@given(st.lists(st.integers(0, 32), min_size=2, max_size=8))
def test_the_order_of_problems_does_not_matter(correct: list[int]) -> None:
    base, sft = counts(1, 2, *[3] * len(correct)), counts(0, 4, *correct)
    assert coverage_ratio(sft, base).value == coverage_ratio(sft, list(reversed(base))).value


def test_nothing_gained_is_undefined_not_infinite() -> None:
    with pytest.raises(EvaluationError, match="gained on none of the 2"):
        coverage_ratio(counts(1, 1), counts(2, 2))


def test_other_problems_are_told() -> None:
    with pytest.raises(EvaluationError, match="on different problems"):
        coverage_ratio(counts(1, 1), counts(2))


def test_too_few_samples_of_the_base_are_told() -> None:
    with pytest.raises(EvaluationError, match="pass@16"):
        coverage_ratio(counts(1, 1), counts(2, 2, n=8))


def test_one_failed_check_leaves_its_problem_out_and_the_ratio_there() -> None:
    """Too few scored samples of one problem removed the ratio of the whole benchmark."""
    base, sft = counts(2, 4, 1), counts(1, 8, 0)
    short = [*base[:2], ProblemCounts(problem_id="p2", n=15, c=1, n_unscored=17)]
    assert coverage_ratio(sft, short) == coverage_ratio(sft[:2], base[:2])
    unscored = [*sft[:2], ProblemCounts(problem_id="p2", n=0, c=0, n_unscored=32)]
    assert coverage_ratio(unscored, base) == coverage_ratio(sft[:2], base[:2])
    assert len(comparable(sft, short)) == 2
