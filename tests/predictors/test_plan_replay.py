"""What plans lost on recorded outcomes, and the correction of what they expect."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from rlready.predictors.decisions.plan_replay import FEWEST_ROWS, Replay, _realised, replay
from rlready.predictors.decisions.rl_plan import EXPECTED, PREDICTED, RANDOM, PlanRule, plan
from rlready.predictors.predictive import Predictive

PRACTICE = "pass_at_1@world"


def predictive(mean: np.ndarray, row_sd: float) -> Predictive:
    n = len(mean)
    return Predictive(
        mean=mean, row_sd=np.full(n, row_sd), group_sd=np.zeros(n), groups=np.array(["g"] * n)
    )


def a_replay(claimed_sd: float, true_sd: float, n: int = 48, seed: int = 0) -> Replay:
    """Predictions that claim one error and have another."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.5, 0.1, n)
    mean = truth + true_sd * rng.standard_normal(n)
    made = replay(predictive(mean, claimed_sd), truth, 6, scores={PRACTICE: rng.random(n)})
    assert made is not None
    return made


def test_an_honest_predictor_loses_about_what_it_expected() -> None:
    factors = [a_replay(0.05, 0.05, seed=seed).factors[EXPECTED] for seed in range(12)]
    assert np.mean(factors) == pytest.approx(1.0, abs=0.35)


def test_too_wide_a_claim_is_cut_and_too_bold_a_one_is_raised() -> None:
    assert a_replay(0.15, 0.01).factors[EXPECTED] < 0.35
    assert a_replay(0.01, 0.15).factors[EXPECTED] > 3.0


def test_hindsight_is_the_best_of_the_part_less_the_best_of_the_chosen() -> None:
    outcomes = np.array([0.2, 0.9, 0.5, 0.7])
    assert _realised(outcomes, [0, 3, 1, 2], 3) == pytest.approx([0.7, 0.2, 0.0])


def test_random_choices_lose_the_mean_over_all_choices() -> None:
    outcomes = np.array([0.2, 0.9, 0.5, 0.7, 0.1])
    for runs, regret in enumerate(_realised(outcomes, None, 4), start=1):
        best = [max(chosen) for chosen in itertools.combinations(outcomes, runs)]
        assert regret == pytest.approx(0.9 - np.mean(best))


def test_the_factor_counts_the_expectation_as_one_more_part() -> None:
    """Perfect predictions lose nothing: the factor is then 1 / (parts + 1), never 0."""
    made = a_replay(0.1, 0.0)
    assert made.n_parts == 4
    assert made.at(PREDICTED, 1).realised == 0.0
    assert made.factors[PREDICTED] == pytest.approx(0.2)


def test_a_corrected_plan_keeps_its_choice_and_what_the_model_said() -> None:
    made = a_replay(0.15, 0.01)
    ids = [f"c{i}" for i in range(12)]
    raw = plan(predictive(np.linspace(0, 1, 12), 0.1), ids, 3, rl_noise=0.01, rule=PlanRule())
    corrected = made.corrected(raw)
    assert corrected.chosen == raw.chosen
    factor = made.factors[EXPECTED]
    pairs = zip(corrected.policies[EXPECTED], raw.policies[EXPECTED], strict=True)
    for ours, before in pairs:
        assert ours.regret == pytest.approx(factor * before.regret)
        assert ours.by_model == before.regret
        if before.worth is not None:
            assert ours.worth == pytest.approx(factor * before.worth)


def test_few_outcomes_replay_nothing() -> None:
    n = FEWEST_ROWS - 1
    assert replay(predictive(np.arange(n) / 10, 0.1), np.arange(n) / 10, 3) is None


def test_the_replay_has_every_policy_and_is_json() -> None:
    made = a_replay(0.05, 0.05)
    assert {EXPECTED, PRACTICE, RANDOM} <= set(made.policies)
    assert json.loads(json.dumps(made.to_dict()))["n_rows"] == 48
    assert [run.n_runs for run in made.policies[EXPECTED]] == [1, 2, 3, 4, 5, 6]


def test_a_part_is_never_run_whole() -> None:
    """All runs of a part lose nothing, which says nothing of a plan."""
    made = a_replay(0.05, 0.05, n=FEWEST_ROWS)
    assert len(made.policies[EXPECTED]) == 3
