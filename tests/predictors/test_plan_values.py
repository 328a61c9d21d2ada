"""Plans whose regrets have a closed form, exact where nothing is uncertain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from rlready.predictors.decisions.rl_plan import (
    ANCHOR,
    EXPECTED,
    PREDICTED,
    RANDOM,
    Incumbent,
    PlanRule,
    RlPlan,
    plan,
    true_scores,
)
from rlready.predictors.predictive import Predictive
from rlready.registry.errors import ConfigError

MANY = PlanRule(n_draws=40_000)
FEW = PlanRule(n_draws=400)


def law(
    mean: list[float], row_sd: float = 0.0, group_sd: float = 0.0, groups: str = ""
) -> Predictive:
    n = len(mean)
    return Predictive(
        mean=np.array(mean),
        row_sd=np.full(n, row_sd),
        group_sd=np.full(n, group_sd),
        groups=np.array(list(groups or "g" * n)),
    )


def planned(predictive: Predictive, n_runs: int = 1, **settings: Any) -> RlPlan:
    ids = [f"c{i}" for i in range(len(predictive.mean))]
    return plan(predictive, ids, n_runs, **{"rl_noise": 0.0, "rule": FEW, **settings})


def regrets(made: RlPlan, policy: str) -> list[float]:
    return [value.regret for value in made.policies[policy]]


def best_of_two(gap: float, sd: float) -> float:
    """Expected maximum of N(0, sd^2) and N(gap, sd^2)."""
    spread = math.sqrt(2.0) * sd
    return gap * float(norm.cdf(gap / spread)) + spread * float(norm.pdf(gap / spread))


def test_where_all_is_known_each_policy_loses_what_it_leaves() -> None:
    score = np.array([3.0, 1.0, 2.0])
    made = planned(law([1.0, 3.0, 2.0]), scores={"pass_at_1": score})
    assert regrets(made, PREDICTED) == regrets(made, EXPECTED) == [0.0, 0.0, 0.0]
    assert [value.chosen for value in made.policies[PREDICTED]] == ["c1", "c2", "c0"]
    assert regrets(made, "pass_at_1") == [2.0, 1.0, 0.0]
    assert [value.chosen for value in made.policies["pass_at_1"]] == ["c0", "c2", "c1"]
    assert regrets(made, RANDOM) == pytest.approx([1.0, 1 / 3, 0.0], abs=0.1)
    assert made.p_best == {"c0": 0.0, "c1": 1.0, "c2": 0.0}
    assert [value.n_runs for value in made.policies[RANDOM]] == [1, 2, 3]
    assert [value.worth for value in made.policies["pass_at_1"]] == [None, 1.0, 1.0]


def test_an_incumbent_is_kept_unless_a_run_beats_it() -> None:
    incumbent = Incumbent(id="old", value=2.5)
    score = np.array([3.0, 1.0, 2.0])
    made = planned(law([1.0, 3.0, 2.0]), incumbent=incumbent, scores={"pass_at_1": score})
    assert regrets(made, PREDICTED) == [0.0, 0.0, 0.0]
    assert made.policies[PREDICTED][0].worth == 0.5
    assert regrets(made, "pass_at_1") == [0.5, 0.5, 0.0]
    assert [value.worth for value in made.policies["pass_at_1"]] == [0.0, 0.0, 0.5]


def test_an_incumbents_true_score_varies_by_its_sd() -> None:
    """One candidate at 0 never beats what is known, .5; the loss is E max(0, -N(.5, 1))."""
    made = planned(law([0.0]), incumbent=Incumbent(id="old", value=0.5, sd=1.0), rule=MANY)
    lost = float(norm.pdf(0.5)) - 0.5 * float(norm.cdf(-0.5))
    assert regrets(made, PREDICTED) == pytest.approx([lost], rel=0.05)
    assert made.policies[PREDICTED][0].worth == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("gap", [0.0, 1.0])
@pytest.mark.parametrize(
    ("group_sd", "groups", "sd"), [(0.0, "aa", 1.0), (2.0, "aa", 1.0), (2.0, "ab", 5.0**0.5)]
)
def test_two_noisy_runs_are_kept_by_their_posterior(
    gap: float, group_sd: float, groups: str, sd: float
) -> None:
    """A level that both share changes neither the best nor the choice; one of each does."""
    made = planned(law([0.0, gap], 1.0, group_sd, groups), rl_noise=1.5, rule=MANY)
    posterior = sd**2 / math.sqrt(sd**2 + 1.5**2)
    expected = best_of_two(gap, sd) - best_of_two(gap, posterior)
    for policy in (PREDICTED, EXPECTED):
        assert regrets(made, policy)[1] == pytest.approx(expected, abs=0.02)
    assert regrets(made, PREDICTED)[0] == pytest.approx(best_of_two(gap, sd) - gap, abs=0.03)


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
def test_the_practice_keeps_the_best_observed_score(gap: float) -> None:
    score = np.array([1.0, 0.0])
    made = planned(law([0.0, gap], 1.0), rl_noise=2.0, rule=MANY, scores={"pass_at_1": score})
    seen = math.sqrt(2.0 * (1.0 + 2.0**2))
    chosen = gap * norm.cdf(gap / seen) + seen * norm.pdf(gap / seen) / (1.0 + 2.0**2)
    expected = [best_of_two(gap, 1.0), best_of_two(gap, 1.0) - chosen]
    assert regrets(made, "pass_at_1") == pytest.approx(expected, abs=0.03)
    assert regrets(made, RANDOM)[1] == pytest.approx(expected[1], abs=0.03)


def test_the_error_of_a_regret_is_that_of_a_mean() -> None:
    """A coin between 0 and 1, 400 times."""
    (value, _) = planned(law([0.0, 1.0])).policies[RANDOM]
    assert value.regret_se == pytest.approx(0.5 / math.sqrt(400), rel=0.02)


@pytest.mark.parametrize(
    ("n", "n_runs", "n_max", "n_values"),
    [
        (12, 1, None, 8),
        (12, 9, None, 9),
        (12, 2, 3, 3),
        (12, 4, 3, 4),
        (5, 1, None, 5),
        (1, 1, 9, 1),
    ],
)
def test_regret_is_given_up_to_eight_runs_or_as_many_as_asked(
    n: int, n_runs: int, n_max: int | None, n_values: int
) -> None:
    made = planned(law([float(i) for i in range(n)]), n_runs, n_max=n_max)
    assert {len(values) for values in made.policies.values()} == {n_values}
    assert len(made.chosen) == n_runs
    assert made.notes == ()
    assert len(made.in_words()) == n_runs


def test_one_more_run_than_candidates_is_noted() -> None:
    assert planned(law([0.0, 1.0]), 2).notes == ()
    assert planned(law([0.0, 1.0]), 3).notes == ("there are only 2 candidates",)


def test_runs_that_add_nothing_follow_the_mean() -> None:
    made = planned(law([1.0, 3.0, 2.0]), 3, incumbent=Incumbent(id="old", value=9.0))
    assert made.policy == EXPECTED
    assert made.chosen == ("c1", "c2", "c0")


def test_the_anchor_is_the_best_row_of_the_least_known_group() -> None:
    predictive = law([5.0, 4.0, 1.0, 2.0], 0.1, groups="aabb")
    predictive = Predictive(
        mean=predictive.mean,
        row_sd=predictive.row_sd,
        group_sd=np.array([0.1, 0.1, 3.0, 3.0]),
        groups=predictive.groups,
    )
    chosen = [value.chosen for value in planned(predictive).policies[ANCHOR]]
    assert chosen == ["c0", "c3", "c1", "c2"]
    one = planned(predictive, n_max=1).policies[ANCHOR]
    assert [value.chosen for value in one] == ["c0"]
    two = planned(predictive, n_max=2).policies[ANCHOR]
    assert [value.chosen for value in two] == ["c0", "c3"]


def test_an_anchor_that_is_first_already_stays_there() -> None:
    predictive = Predictive(
        mean=np.array([1.0, 4.0, 3.0]),
        row_sd=np.full(3, 0.1),
        group_sd=np.array([0.1, 3.0, 0.1]),
        groups=np.array(list("aba")),
    )
    chosen = [value.chosen for value in planned(predictive).policies[ANCHOR]]
    assert chosen == ["c1", "c2", "c0"]
    assert ANCHOR not in planned(law([0.0, 1.0])).policies


def test_a_hundredth_of_the_variance_stays_when_noise_is_taken_off() -> None:
    assert true_scores(law([0.0], 1.0), 0.6).row_sd == pytest.approx([0.8])
    assert true_scores(law([0.0], 2.0), 2.0).row_sd == pytest.approx([0.2])
    assert true_scores(law([0.0], 1.0), 5.0).row_sd == pytest.approx([0.1])


@pytest.mark.parametrize(("rl_noise", "allowed"), [(0.0, True), (-0.1, False), (math.inf, False)])
def test_noise_is_a_finite_number_from_zero(rl_noise: float, allowed: bool) -> None:
    if allowed:
        assert planned(law([0.0, 1.0]), rl_noise=rl_noise).rl_noise == rl_noise
        return
    with pytest.raises(ConfigError, match="the noise of one RL run is"):
        planned(law([0.0, 1.0]), rl_noise=rl_noise)


def test_a_hundred_draws_are_the_fewest() -> None:
    assert PlanRule(n_draws=100).n_draws == 100
    with pytest.raises(ConfigError, match="99 draws"):
        PlanRule(n_draws=99)


def test_a_plan_needs_an_id_for_each_candidate_and_a_run() -> None:
    with pytest.raises(ConfigError, match="1 ids for 2 predictions"):
        plan(law([0.0, 1.0]), ["c0"], 1, rl_noise=0.1)
    with pytest.raises(ConfigError, match="for -1 RL runs"):
        planned(law([0.0, 1.0]), -1)
    with pytest.raises(ConfigError, match="'x' is missing for some candidates"):
        planned(law([0.0, 1.0]), scores={"x": np.array([1.0])})


def test_words_tell_the_worth_of_each_run_beside_an_incumbent() -> None:
    made = planned(law([1.0, 3.0]), 2, incumbent=Incumbent(id="old", value=2.5))
    assert made.in_words()[0].startswith("RL run 1, from c1, is worth 0.5: expected regret 0")
    assert made.in_words()[1].startswith("RL run 2, from c0, is worth 0: expected regret 0")


def test_a_run_tells_of_its_own_group_and_of_no_other() -> None:
    """The second run is hopeless itself; it tells of the first one's level if they share it."""
    incumbent = Incumbent(id="old", value=0.0)
    apart, together = (
        regrets(
            planned(
                law([0.0, -99.0], 0.3, 2.0, groups), rl_noise=2.0, incumbent=incumbent, rule=MANY
            ),
            PREDICTED,
        )
        for groups in ("ab", "aa")
    )
    assert apart[1] == pytest.approx(apart[0], abs=1e-9)
    assert together[1] < together[0] - 0.02
