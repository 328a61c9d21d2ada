"""Shares of reward groups equal brute force over all groups."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.metrics.reward_groups import PromptRewards, most_solved, reward_groups
from rlready.evaluators.metrics.sample_metrics import signal_share
from rlready.registry.errors import EvaluationError

REWARDS = st.sampled_from([0.0, 1.0, -1.0, 0.1 + 0.2, 0.3, 0.5])
PROMPTS = st.lists(st.lists(REWARDS, min_size=0, max_size=8), min_size=1, max_size=5)


def prompts_of(rewards: list[list[float]]) -> list[PromptRewards]:
    return [PromptRewards(prompt_id=str(i), rewards=tuple(r)) for i, r in enumerate(rewards)]


def brute_force(rewards: list[float], size: int, solved_at: float) -> tuple[Fraction, ...]:
    """Shares of all groups of samples: equal, equal and unsolved, equal and solved."""
    groups = list(itertools.combinations(rewards, size))
    equal = [group for group in groups if all(math.isclose(r, group[0]) for r in group)]
    solved = [group for group in equal if group[0] >= solved_at - 1e-9]
    n = len(groups)
    return (
        Fraction(len(equal), n),
        Fraction(len(equal) - len(solved), n),
        Fraction(len(solved), n),
    )


@given(PROMPTS, st.integers(2, 5), st.sampled_from([1.0, 0.3, 0.0]))
def test_shares_equal_brute_force(rewards: list[list[float]], size: int, solved_at: float) -> None:
    enough = [r for r in rewards if len(r) >= size]
    if not enough:
        with pytest.raises(EvaluationError, match="no prompt has"):
            reward_groups(prompts_of(rewards), size, solved_at)
        return
    found = reward_groups(prompts_of(rewards), size, solved_at)
    means = [
        sum(parts) / len(enough)
        for parts in zip(*(brute_force(r, size, solved_at) for r in enough), strict=True)
    ]
    values = (found.equal.value, found.equal_unsolved.value, found.equal_solved.value)
    assert values == pytest.approx([float(share) for share in means], abs=1e-12)
    assert found.n_prompts == len(enough)
    assert found.n_short == len(rewards) - len(enough)
    scored = [r for r in rewards if r]
    assert found.mean_reward.value == pytest.approx(
        sum(sum(r) / len(r) for r in scored) / len(scored)
    )
    assert 0.0 <= found.least_useful <= found.useful + 1e-12
    assert found.useful - 1e-12 <= found.most_useful <= 1.0


@given(st.lists(st.integers(0, 10), min_size=1, max_size=6), st.integers(2, 8))
def test_rewards_of_0_and_1_give_the_signal_share(correct: list[int], size: int) -> None:
    prompts = prompts_of([[1.0] * c + [0.0] * (10 - c) for c in correct])
    counts = [ProblemCounts(problem_id=str(i), n=10, c=c) for i, c in enumerate(correct)]
    share = signal_share(counts, size)
    assert share is not None
    assert reward_groups(prompts, size).useful == pytest.approx(share.value)


def test_the_share_is_unbiased_whatever_the_number_of_samples() -> None:
    """The mean over all outcomes of n fair coins is 2 / 2^G."""
    for n in (3, 4, 6):
        coins = [list(flips) for flips in itertools.product([0.0, 1.0], repeat=n)]
        assert reward_groups(prompts_of(coins), 3).equal.value == pytest.approx(2 / 8)


def test_a_batch_is_binomial_in_its_useful_groups() -> None:
    groups = reward_groups(prompts_of([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), 2)
    assert groups.useful_in_batch(64) == (32.0, 4.0)
    assert groups.none_useful(2) == 0.25


def test_agreeing_prompts_bound_the_share_by_their_number() -> None:
    """With a standard error of 0, 48 prompts without a useful group still leave 6 % possible."""
    groups = reward_groups(prompts_of([[0.0] * 8] * 48), 8)
    assert groups.equal.se == 0.0
    assert groups.most_useful == pytest.approx(1 - 0.05 ** (1 / 48))
    assert reward_groups(prompts_of([[0.0, 1.0]] * 48), 2).least_useful < 1.0
    assert most_solved(8) == pytest.approx(0.312, abs=1e-3)


def test_a_group_has_two_samples_or_more() -> None:
    with pytest.raises(EvaluationError, match="undefined"):
        PromptRewards(prompt_id="a", rewards=(1.0,)).equal_groups(1)
