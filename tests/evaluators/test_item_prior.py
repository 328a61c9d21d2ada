"""The two-way model of checkpoints and problems: what it finds, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rlready.evaluators.adaptive.estimate import average
from rlready.evaluators.adaptive.item_prior import MIN_CHECKPOINTS, ItemPrior, blur, fit_item_prior
from rlready.evaluators.adaptive.laws import LOGIT_G, CountBatch, Floats, Ints
from rlready.registry.errors import EvaluationError

N_EARLIER, N_PROBLEMS = 12, 60


def _world(tau: float, n_new: int, seed: int = 0) -> tuple[Ints, Ints, Floats, Floats]:
    """Counts of earlier checkpoints, p of new ones, and the problems' easiness."""
    rng = np.random.default_rng(seed)
    easiness_P = rng.normal(-2.0, 2.0, N_PROBLEMS)
    shape = (N_EARLIER + n_new, N_PROBLEMS)
    logit_IP = easiness_P + rng.normal(0.0, 0.7, (shape[0], 1)) + rng.normal(0.0, tau, shape)
    n_IP = np.full((N_EARLIER, N_PROBLEMS), 64)
    c_IP = rng.binomial(n_IP, expit(logit_IP[:N_EARLIER]))
    return n_IP, c_IP, expit(logit_IP[N_EARLIER:]), easiness_P


@pytest.fixture(scope="module")
def prior() -> ItemPrior:
    """Of the world with interaction sd 0.8."""
    n_IP, c_IP, _, _ = _world(0.8, 0)
    return fit_item_prior(n_IP, c_IP)


def test_finds_interaction_and_easiness_again(prior: ItemPrior) -> None:
    easiness_P = _world(0.8, 0)[3]
    assert 0.5 <= prior.tau <= 1.1
    assert 0.3 <= prior.ability_sd <= 1.2
    assert np.corrcoef(prior.easiness_PG @ LOGIT_G, easiness_P)[0, 1] > 0.95
    np.testing.assert_allclose(prior.easiness_PG.sum(axis=1), 1.0)


def test_checkpoints_that_disagree_give_a_larger_interaction(prior: ItemPrior) -> None:
    n_IP, c_IP, _, _ = _world(2.0, 0)
    assert fit_item_prior(n_IP, c_IP).tau > 1.4 > prior.tau


def test_adding_noise_keeps_the_mass_and_moves_the_mean() -> None:
    matrix = blur(0.5, 1.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    middle = len(LOGIT_G) // 2
    assert matrix[middle] @ LOGIT_G == pytest.approx(LOGIT_G[middle] + 1.0, abs=1e-6)
    assert matrix.min() >= 0.0


def test_a_new_checkpoints_ability_is_learnt_from_its_own_samples(prior: ItemPrior) -> None:
    """A checkpoint that solves nothing in 8 samples a problem must not inherit the others' p."""
    n_RP = np.full((2, N_PROBLEMS), 8)
    c_RP = np.stack([np.zeros(N_PROBLEMS, dtype=np.int64), np.full(N_PROBLEMS, 7)])
    fitted = prior.fit(CountBatch(n_RP, c_RP))
    weak, strong = (fitted.weight_RH * fitted.moments(64).mean).sum(axis=1)
    assert weak < 0.35
    assert strong > 0.95


def test_history_makes_eight_samples_more_exact_than_they_are_alone() -> None:
    """40 new checkpoints; measured ratio of the errors is about one half."""
    n_IP, c_IP, p_RP, _ = _world(0.8, 40)
    prior = fit_item_prior(n_IP, c_IP)
    rng = np.random.default_rng(1)
    counts = CountBatch(np.full(p_RP.shape, 8), rng.binomial(8, p_RP))
    true_R = (1.0 - (1.0 - p_RP) ** 64).mean(axis=1)
    with_history, without = (
        average(counts, prior, 0).mixture(64),
        average(counts, None, 0).mixture(64),
    )
    errors = [float(np.sqrt(((m.mean_R - true_R) ** 2).mean())) for m in (with_history, without)]
    assert errors[0] < 0.8 * errors[1]
    low_R, high_R = with_history.interval(0.9, rng)
    assert np.mean((low_R <= true_R) & (true_R <= high_R)) > 0.75


def test_a_history_of_other_problems_loses_its_weight(prior: ItemPrior) -> None:
    """Counts that have nothing to do with the earlier ones: shuffled, and far apart."""
    rng = np.random.default_rng(4)
    p_P = expit(np.where(rng.random(N_PROBLEMS) < 0.5, -5.0, 3.0))
    counts = CountBatch(np.full((1, N_PROBLEMS), 32), rng.binomial(32, p_P)[None])
    assert average(counts, prior, 0).weight_RM[0, -1] < 0.3


def test_problems_that_a_checkpoint_has_no_samples_of_are_allowed() -> None:
    n_IP, c_IP, _, _ = _world(0.8, 0)
    n_IP[0, :30] = c_IP[0, :30] = 0
    assert np.isfinite(fit_item_prior(n_IP, c_IP).easiness_PG).all()


def test_too_few_checkpoints_are_an_error() -> None:
    few = np.ones((MIN_CHECKPOINTS - 1, 4), dtype=np.int64)
    with pytest.raises(EvaluationError, match="earlier checkpoints"):
        fit_item_prior(few, few)


def test_counts_of_another_benchmark_are_an_error(prior: ItemPrior) -> None:
    ones = np.ones((1, N_PROBLEMS + 1), dtype=np.int64)
    with pytest.raises(EvaluationError, match="60 problems"):
        prior.fit(CountBatch(ones, ones))
