"""Where the next samples go, and when sampling ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from rlready.evaluators.adaptive.allocation import Budget, best_blocks, expected_drop, next_samples
from rlready.evaluators.adaptive.estimate import average
from rlready.evaluators.adaptive.laws import LOGIT_G, CountBatch, Floats, solved_G

BUDGET = Budget(target_se=0.01, max_per_problem=256, max_mean=64)


def _around(logit: float, width: float) -> Floats:
    law_G = np.exp(-(((LOGIT_G - logit) / width) ** 2) / 2.0)
    return np.asarray(law_G / law_G.sum())


def test_the_drop_is_the_variance_less_what_is_left_on_average() -> None:
    """Law of total variance, written out for one problem and four samples."""
    posterior_G, f_G = _around(-3.0, 1.5), solved_G(64)
    p_G = 1.0 / (1.0 + np.exp(-LOGIT_G))
    left = 0.0
    for y in range(5):
        joint_G = posterior_G * binom.pmf(y, 4, p_G)
        own_G = joint_G / joint_G.sum()
        left += joint_G.sum() * (own_G @ f_G**2 - (own_G @ f_G) ** 2)
    before = posterior_G @ f_G**2 - (posterior_G @ f_G) ** 2
    assert expected_drop(posterior_G[None], 64, 4)[0, 0] == pytest.approx(before - left, rel=1e-6)


def test_samples_go_where_pass_at_k_is_unsure() -> None:
    """Not to what is surely solved, nor to what surely never is, however unsure its p may be."""
    posterior_PG = np.stack([_around(1.0, 0.5), _around(-13.0, 0.5), _around(-4.0, 1.5)])
    extra_P = next_samples(posterior_PG, np.full(3, 16), 64, 0.1, BUDGET)
    assert extra_P[2] > 0
    assert extra_P[:2].sum() == 0


def test_every_problem_gets_the_minimum_first() -> None:
    posterior_PG = np.stack([_around(0.0, 1.0)] * 3)
    extra_P = next_samples(posterior_PG, np.array([0, 2, 9]), 64, 0.5, BUDGET)
    assert extra_P.tolist() == [4, 2, 0]


def test_ends_at_the_target_and_at_the_budget() -> None:
    posterior_PG = np.stack([_around(-4.0, 1.5)] * 2)
    assert next_samples(posterior_PG, np.full(2, 16), 64, 0.01, BUDGET).sum() == 0
    assert next_samples(posterior_PG, np.full(2, 64), 64, 0.5, BUDGET).sum() == 0
    assert 0 < next_samples(posterior_PG, np.full(2, 62), 64, 0.5, BUDGET).sum() <= 4


@given(
    st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
    st.integers(1, 20),
)
def test_no_problem_gets_more_than_its_room(
    drops: list[float], room: list[int], n_blocks: int
) -> None:
    drop_PB = np.array(drops)[:, None] * np.array([1.0, 0.6, 0.4, 0.3])
    extra_P = best_blocks(drop_PB, np.array(room), n_blocks, 8)
    assert (extra_P >= 0).all()
    assert (extra_P <= np.array(room)).all()
    assert extra_P.sum() <= 8 * n_blocks


def test_the_same_number_of_samples_tells_more_where_it_is_given_well() -> None:
    """20 benchmarks, the same problems for both; measured ratio of the errors is about 0.6."""
    rng = np.random.default_rng(0)
    p_RP = rng.beta(0.4, 2.0, (20, 60))
    budget = Budget(target_se=1e-6, max_per_problem=512, max_mean=24)
    n_RP, c_RP = np.zeros(p_RP.shape, dtype=np.int64), np.zeros(p_RP.shape, dtype=np.int64)
    while True:
        fitted = average(CountBatch(n_RP, c_RP), None, 0)
        pairs = zip(fitted.posterior_RPG, n_RP, strict=True)
        extra_RP = np.stack([next_samples(q_PG, n_P, 64, 1.0, budget) for q_PG, n_P in pairs])
        if not extra_RP.any():
            break
        n_RP, c_RP = n_RP + extra_RP, c_RP + rng.binomial(extra_RP, p_RP)
    assert (n_RP.sum(axis=1) <= 24 * 60).all()
    even = CountBatch(np.full(p_RP.shape, 24), rng.binomial(24, p_RP))
    assert fitted.mixture(64).sd_R.mean() < 0.85 * average(even, None, 0).mixture(64).sd_R.mean()
