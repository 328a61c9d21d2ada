"""Joint draws in blocks: memory that does not grow with the draws, and the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from rlready.predictors.decisions import draw_blocks
from rlready.predictors.decisions.draw_blocks import (
    BLOCK,
    block_sizes,
    expected_order,
    greedy_order,
    shortlist,
)
from rlready.predictors.decisions.ranking import Candidates, rank
from rlready.predictors.decisions.readiness import ReadyRule
from rlready.predictors.decisions.rl_plan import EXPECTED, PREDICTED, RANDOM, PlanRule, plan
from rlready.predictors.decisions.step_plan import plan_steps
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray

N_MANY = 10_000


class Drawn(Predictive):
    """A distribution that remembers in `SIZES` how large its arrays of draws were."""

    def draw(self, n_draws: int, rng: np.random.Generator) -> FloatArray:
        SIZES.append(n_draws * len(self.mean))
        return super().draw(n_draws, rng)


SIZES: list[int] = []


def many(n: int) -> Drawn:
    rng = np.random.default_rng(0)
    return Drawn(
        mean=rng.normal(0.5, 0.1, n),
        row_sd=np.full(n, 0.05),
        group_sd=np.full(n, 0.02),
        groups=np.array([f"g{i % 20}" for i in range(n)]),
    )


def candidates(predictive: Predictive) -> Candidates:
    n = len(predictive.mean)
    return Candidates(
        ids=[f"c{i}" for i in range(n)],
        predictive=predictive,
        low=predictive.mean - 0.1,
        high=predictive.mean + 0.1,
        interval="90%",
        domain=["in"] * n,
    )


@pytest.mark.parametrize(
    ("n_draws", "n_rows"), [(20_000, 48), (20_000, 500), (20_000, N_MANY), (100, 3_000_000)]
)
def test_blocks_add_up_and_none_is_larger_than_allowed(n_draws: int, n_rows: int) -> None:
    sizes = list(block_sizes(n_draws, n_rows))
    assert sum(sizes) == n_draws
    assert max(sizes) * n_rows <= max(BLOCK, n_rows)


def test_a_small_table_is_drawn_at_once() -> None:
    """The numbers of a table of usual size are those of the version without blocks."""
    assert list(block_sizes(20_000, 52)) == [20_000]


def test_no_array_of_draws_of_ten_thousand_rows_is_larger_than_a_block() -> None:
    """`rank` took 2.1 GB for 500 rows: twelve arrays of 20,000 draws each."""
    SIZES.clear()
    predictive, rule = many(N_MANY), ReadyRule(n_draws=300)
    rank(candidates(predictive), rule=rule)
    ids = [f"c{i}" for i in range(N_MANY)]
    plan(predictive, ids, 3, rl_noise=0.01, rule=PlanRule(n_draws=300))
    plan_steps(
        predictive,
        ids,
        600,
        budget=200,
        spread=0.1,
        rl_noise=0.01,
        rule=PlanRule(n_draws=300),
    )
    assert sum(SIZES) >= 5 * 300 * N_MANY
    assert max(SIZES) <= BLOCK


def test_answers_of_many_blocks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    predictive, ids = many(60), [f"c{i}" for i in range(60)]
    whole = plan(predictive, ids, 3, rl_noise=0.01, rule=PlanRule(n_draws=8_000))
    ranked = rank(candidates(predictive), rule=ReadyRule(n_draws=8_000))
    monkeypatch.setattr(draw_blocks, "BLOCK", 60 * 90)
    parts = plan(predictive, ids, 3, rl_noise=0.01, rule=PlanRule(n_draws=8_000))
    for name in (EXPECTED, PREDICTED, RANDOM):
        for one, other in zip(whole.policies[name], parts.policies[name], strict=True):
            assert other.regret == pytest.approx(one.regret, abs=5 * one.regret_se + 1e-9)
            assert other.regret_se == pytest.approx(one.regret_se, rel=0.2)
    assert sum(parts.p_best.values()) == pytest.approx(1.0)
    again = rank(candidates(predictive), rule=ReadyRule(n_draws=8_000))
    for one_row, other_row in zip(ranked.rows, again.rows, strict=True):
        assert other_row.p_best == pytest.approx(one_row.p_best, abs=0.03)
        assert other_row.p_match == pytest.approx(one_row.p_match, abs=0.03)
    assert sum(row.p_best or 0.0 for row in again.rows) == pytest.approx(1.0)


def test_the_candidates_that_matter_are_the_best_and_the_uncertain() -> None:
    predictive = Predictive(
        mean=np.array([0.9, 0.1, 0.8, 0.2]),
        row_sd=np.array([0.01, 0.01, 0.01, 1.0]),
        group_sd=np.zeros(4),
        groups=np.array(["g"] * 4),
    )
    assert shortlist(predictive, 2).tolist() == [0, 3]
    assert shortlist(predictive, 4).tolist() == [0, 1, 2, 3]


def test_a_shortlist_chooses_as_all_candidates_do(monkeypatch: pytest.MonkeyPatch) -> None:
    predictive = many(200)
    every = greedy_order(predictive.draw(4_000, np.random.default_rng(0)), 3, -np.inf)
    monkeypatch.setattr(draw_blocks, "_SHORTLIST", 40)
    few = expected_order(predictive, 3, -np.inf, 4_000, np.random.default_rng(0))
    assert few.tolist() == every.tolist()
