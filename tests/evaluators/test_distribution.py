"""Proxies from samples: known values, brute force, and independence of n."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.metrics import sample_metrics as distribution
from rlready.evaluators.metrics.estimates import ratio
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.registry.records import Verdict

C, I, P, U = Verdict.CORRECT, Verdict.INCORRECT, Verdict.UNPARSED, Verdict.UNSCORED  # noqa: E741


def samples(verdicts: list[Verdict], answers: list[str | None] | None = None) -> ProblemSamples:
    n = len(verdicts)
    return ProblemSamples(
        problem_id="p",
        verdicts=verdicts,
        answers=answers or [None if v in (P, U) else str(v) for v in verdicts],
        n_tokens=[10] * n,
        is_truncated=[False] * n,
        entropy_sums=[5.0] * n,
    )


def test_counts_keep_the_four_verdicts_apart() -> None:
    found = samples([C, I, P, U, U]).counts
    assert (found.n, found.c, found.n_unparsed, found.n_unscored) == (3, 1, 1, 2)


@given(st.integers(2, 10), st.data())
def test_signal_share_equals_enumeration_of_groups(n: int, data: st.DataObject) -> None:
    c, g = data.draw(st.integers(0, n)), data.draw(st.integers(2, n))
    rewards = [1] * c + [0] * (n - c)
    groups = list(itertools.combinations(rewards, g))
    share = sum(len(set(group)) > 1 for group in groups) / len(groups)
    found = distribution.signal_share([ProblemCounts(problem_id="p", n=n, c=c)], g)
    assert found is not None
    assert found.value == pytest.approx(share, abs=1e-12)


@given(st.integers(2, 10), st.data())
def test_signal_variance_equals_the_mean_variance_over_groups(n: int, data: st.DataObject) -> None:
    c, g = data.draw(st.integers(0, n)), data.draw(st.integers(2, n))
    rewards = [1.0] * c + [0.0] * (n - c)
    groups = [np.var(group) for group in itertools.combinations(rewards, g)]
    found = distribution.signal_variance([ProblemCounts(problem_id="p", n=n, c=c)], g)
    assert found is not None
    assert found.value == pytest.approx(np.mean(groups), abs=1e-12)


def test_signal_is_left_out_where_a_problem_has_too_few_samples() -> None:
    rows = [ProblemCounts(problem_id="a", n=16, c=8), ProblemCounts(problem_id="b", n=7, c=3)]
    assert distribution.signal_share(rows, 8) is None
    assert distribution.signal_share(rows[:1], 8) is not None


def test_majority_takes_the_most_frequent_answer_and_splits_ties() -> None:
    right = samples([C, C, I, I, I], ["1", "1.0", "2", "3", "3"])
    tie = distribution.majority_at_k([right], 5)
    assert tie is not None
    assert tie.value == 0.5  # two correct in two notations, two wrong ones equal
    wrong = distribution.majority_at_k([samples([C, I, I], ["1", "2", "2"])], 3)
    assert wrong is not None
    assert wrong.value == 0.0


def test_majority_of_samples_without_answers_is_wrong() -> None:
    found = distribution.majority_at_k([samples([P, P, P])], 3)
    assert found is not None
    assert found.value == 0.0


def test_majority_of_subsets_is_close_to_enumeration() -> None:
    problem = samples([C] * 5 + [I] * 4, ["1"] * 5 + ["2", "2", "3", "4"])
    wins = []
    for subset in itertools.combinations(["1"] * 5 + ["2", "2", "3", "4"], 3):
        votes = {a: subset.count(a) for a in subset}
        best = [a for a in votes if votes[a] == max(votes.values())]
        wins.append(1 / len(best) if "1" in best else 0.0)
    found = distribution.majority_at_k([problem] * 40, 3)
    assert found is not None
    assert found.value == pytest.approx(np.mean(wins), abs=0.03)


def test_distinct_answers_do_not_depend_on_the_number_of_samples() -> None:
    few = distribution.distinct_answer_share([samples([I] * 8, list("aabbccdd"))])
    assert few is not None
    assert few.value == 0.5
    many = distribution.distinct_answer_share([samples([I] * 8000, list("aabbccdd") * 1000)])
    assert many is not None
    expected = 4 * (1 - 0.75**8) / 8
    assert many.value == pytest.approx(expected, rel=1e-3)


def test_entropy_is_per_token_over_all_samples_and_left_out_if_an_engine_lacks_it() -> None:
    found = distribution.token_entropy([samples([C, I])])
    assert found is not None
    assert found.value == pytest.approx(0.5)
    lacking = ProblemSamples(
        problem_id="p",
        verdicts=[C],
        answers=["1"],
        n_tokens=[3],
        is_truncated=[False],
        entropy_sums=[None],
    )
    assert distribution.token_entropy([lacking]) is None


def test_ratio_has_the_linearised_standard_error() -> None:
    rng = np.random.default_rng(1)
    denominator = rng.integers(5, 50, 400).astype(float)
    numerator = denominator * 2 + rng.normal(0, 5, 400)
    found = ratio(numerator, denominator)
    boots = []
    for _ in range(400):
        rows = rng.integers(0, 400, 400)
        boots.append(numerator[rows].sum() / denominator[rows].sum())
    assert found.se == pytest.approx(np.std(boots), rel=0.15)


def test_verdict_shares_are_shares_of_what_was_drawn() -> None:
    drawn = [samples([C, P, U, U])]
    shares = [distribution.verdict_share(drawn, kind).value for kind in distribution.SHARES]
    assert shares == pytest.approx([0.0, 0.25, 0.5])
