"""RL steps are spent where they lower the regret, and no run is dropped before it can be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.predictors.decisions.rl_plan import Incumbent, PlanRule
from rlready.predictors.decisions.step_plan import Probe, conditioned, is_rising, plan_steps
from rlready.predictors.predictive import Predictive
from rlready.predictors.public.early_rl import EarlyReliability, earliest_drop, early_reliability
from rlready.registry.errors import ConfigError

RULE = PlanRule(n_draws=1000)
EXACT = EarlyReliability(steps=(0.0, 300.0), correlations=(0.999, 0.999), n_runs=1, source="test")
BLIND = EarlyReliability(steps=(0.0, 300.0), correlations=(0.01, 0.01), n_runs=1, source="test")


def equal_candidates(n: int, sd: float = 0.1) -> Predictive:
    zeros = np.zeros(n)
    return Predictive(
        mean=zeros, row_sd=zeros + sd, group_sd=zeros, groups=np.array(["one"] * n, dtype=np.str_)
    )


def names(n: int) -> list[str]:
    return [f"c{i}" for i in range(n)]


@pytest.mark.parametrize(
    ("budget", "first"), [(30, 30), (60, 40), (120, 40), (121, 41), (300, 100), (301, 101)]
)
def test_no_run_is_dropped_before_40_steps_or_a_third(budget: float, first: float) -> None:
    assert earliest_drop(budget) == first


def test_in_another_unit_only_the_third_counts() -> None:
    assert earliest_drop(30.0, in_steps=False) == pytest.approx(10.0)


@given(step=st.floats(0, 400), more=st.floats(0, 100), budget=st.floats(1, 400))
def test_a_later_score_is_trusted_no_less(step: float, more: float, budget: float) -> None:
    table = early_reliability()
    assert 0.0 <= table.at(step, budget) <= table.at(step + more, budget) <= 1.0


def test_the_table_has_the_measured_correlations() -> None:
    table = early_reliability()
    assert table.at(0, 1e9) == pytest.approx(0.032)
    assert table.at(40, 1e9) == pytest.approx(0.866)
    assert table.at(50, 50) == 1.0


def test_half_of_a_short_run_tells_what_half_of_a_long_one_does() -> None:
    table = early_reliability()
    longest = table.steps[-1]
    assert table.at(10, 20) == table.at(longest / 2, longest)


@given(
    n=st.integers(2, 12),
    runs=st.floats(1.0, 8.0),
    budget=st.sampled_from([60.0, 90.0, 200.0]),
)
def test_every_split_fits_the_total_and_the_rule(n: int, runs: float, budget: float) -> None:
    plan = plan_steps(
        equal_candidates(n),
        names(n),
        runs * budget,
        budget=budget,
        spread=0.1,
        rl_noise=0.01,
        rule=replace(RULE, n_draws=100),
    )
    for split in plan.splits:
        assert split.steps <= runs * budget * (1 + 1e-9)
        assert 1 <= split.n_finished <= split.n_probed <= n
        assert split.step >= earliest_drop(budget)
    assert len(plan.chosen) == plan.best.n_probed


def plan_of(reliability: EarlyReliability, n: int = 12) -> tuple[int, int]:
    plan = plan_steps(
        equal_candidates(n),
        names(n),
        900,
        budget=300,
        spread=0.1,
        rl_noise=0.0,
        reliability=reliability,
        rule=RULE,
    )
    return plan.best.n_probed, plan.best.n_finished


def test_probes_that_show_everything_are_spread_widely() -> None:
    probed, finished = plan_of(EXACT)
    assert probed == 7  # 7 probes of 100 steps and one run finished: 900
    assert finished == 1


def test_probes_that_show_nothing_are_not_bought() -> None:
    assert plan_of(BLIND) == (3, 3)


def test_the_regret_of_finishing_all_without_noise_is_0() -> None:
    plan = plan_steps(
        equal_candidates(3),
        names(3),
        900,
        budget=300,
        spread=0.1,
        rl_noise=0.0,
        rule=RULE,
    )
    assert plan.finish_now is not None
    assert plan.finish_now.regret == pytest.approx(0.0, abs=1e-12)
    assert str(plan.best) == "finish 3 now"


def test_an_incumbent_that_cannot_be_beaten_leaves_no_regret() -> None:
    plan = plan_steps(
        equal_candidates(4),
        names(4),
        600,
        budget=300,
        spread=0.1,
        rl_noise=0.01,
        incumbent=Incumbent(id="old", value=9.0),
        rule=RULE,
    )
    assert plan.best.regret == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total": 99.0}, "less than one probe costs"),
        ({"total": 299.0}, "finish no run of 300 steps"),
        ({"total": float("inf")}, "inf is not a number of RL steps"),
        ({"total": float("nan")}, "nan is not a number of RL steps"),
        ({"budget": 0.0}, "steps of a finished run is 0"),
        ({"spread": 0.0}, "the spread is 0"),
        ({"rl_noise": float("nan")}, "noise of one RL run is nan"),
        ({"ids": ["one"]}, "1 ids for 4 rows"),
    ],
)
def test_invalid_numbers_are_explained(changes: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {
        "predictive": equal_candidates(4),
        "ids": names(4),
        "total": 900.0,
        "budget": 300.0,
        "spread": 0.1,
        "rl_noise": 0.01,
        **changes,
    }
    call: Callable[..., object] = plan_steps
    with pytest.raises(ConfigError, match=words):
        call(arguments.pop("predictive"), arguments.pop("ids"), arguments.pop("total"), **arguments)


@pytest.mark.parametrize("total", [50, 99, 100, 299])
@pytest.mark.parametrize("incumbent", [None, Incumbent(id="old", value=0.0)])
def test_the_least_useful_number_is_said(total: float, incumbent: Incumbent | None) -> None:
    """A probe alone leaves nothing to keep; beside an incumbent this once was a crash."""
    with pytest.raises(ConfigError) as caught:
        plan_steps(
            equal_candidates(4),
            names(4),
            total,
            budget=300,
            spread=0.1,
            rl_noise=0.01,
            incumbent=incumbent,
        )
    assert "Give 300 or more" in str(caught.value)


def probed(values: list[float | None], step: float = 100.0, rising: bool = False) -> Predictive:
    probes = [None if v is None else Probe(step=step, value=v, is_rising=rising) for v in values]
    before = equal_candidates(len(values))
    return conditioned(before, probes, budget=300, spread=0.1)


def test_the_higher_of_two_probes_is_expected_to_end_higher() -> None:
    after = probed([0.2, 0.4, None])
    assert after.mean[1] > 0 > after.mean[0]
    assert after.mean[2] == 0.0
    assert after.row_sd[0] < 0.1 == after.row_sd[2]


def test_one_probe_of_a_group_says_nothing() -> None:
    assert probed([0.9, None]).mean.tolist() == [0.0, 0.0]


def test_a_shift_that_all_probes_share_says_nothing() -> None:
    assert probed([0.2, 0.4]).mean == pytest.approx(probed([0.5, 0.7]).mean)


def test_a_curve_that_still_rises_is_trusted_less() -> None:
    settled, rising = probed([0.2, 0.4]), probed([0.2, 0.4], rising=True)
    assert abs(rising.mean[1]) < abs(settled.mean[1])
    assert rising.row_sd[1] > settled.row_sd[1]


def test_two_exact_probes_give_the_difference_of_the_posterior() -> None:
    """With reliability r the difference shrinks by its share of variance, here nearly 1."""
    before = equal_candidates(2)
    probes = [Probe(step=100, value=0.0), Probe(step=100, value=0.2)]
    after = conditioned(before, probes, budget=300, spread=0.1, reliability=EXACT)
    assert after.mean[1] - after.mean[0] == pytest.approx(0.2, rel=0.01)


def test_a_rising_curve_is_told_from_a_plateau() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert is_rising(rising)
    assert not is_rising([0.1, 0.4, 0.5, 0.61, 0.59, 0.6, 0.6, 0.59, 0.6])
    assert not is_rising(rising, errors=[0.3] * 9)
    assert not is_rising([0.1, 0.2])
