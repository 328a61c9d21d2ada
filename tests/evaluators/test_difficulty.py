"""pass@k from few samples: against exact answers and the unbiased estimate, and its intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from rlready.evaluators.adaptive.estimate import (
    average,
    estimate_pass_at_k,
    stacking_weights,
)
from rlready.evaluators.adaptive.laws import (
    LOGIT_G,
    CountBatch,
    Floats,
    binomial_likelihood,
    em,
    fit_families,
    fit_npmle,
    solved_G,
)
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.errors import EvaluationError


def _problems(n: list[int], c: list[int]) -> list[ProblemCounts]:
    return [
        ProblemCounts(problem_id=str(i), n=own, c=correct)
        for i, (own, correct) in enumerate(zip(n, c, strict=True))
    ]


def _drawn(p_P: Floats, n: int, seed: int = 0) -> list[ProblemCounts]:
    c = np.random.default_rng(seed).binomial(n, p_P)
    return _problems([n] * len(p_P), c.tolist())


def _one(counts: list[ProblemCounts], k: int) -> tuple[float, float]:
    """Value and standard error on these problems."""
    estimate = estimate_pass_at_k(counts, [k], "toy")[0]
    assert estimate.se_within is not None
    return estimate.value, estimate.se_within


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=8))
@settings(max_examples=25)
def test_any_counts_give_a_probability_inside_its_interval(pairs: list[tuple[int, int]]) -> None:
    n_RP, c_RP = np.array([[max(p) + 1 for p in pairs]]), np.array([[min(p) for p in pairs]])
    fitted = average(CountBatch(n_RP, c_RP), None, 0)
    assert fitted.weight_RM.sum() == pytest.approx(1.0)
    for k in (1, 4, 64):
        mixture = fitted.mixture(k)
        low, high = mixture.interval(0.9, _rng())
        assert 0.0 <= low[0] <= high[0] <= 1.0
        assert low[0] - 0.01 <= mixture.mean_R[0] <= high[0] + 0.01
        assert 0.0 <= mixture.sd_R[0] < 1.0


def test_grows_with_k() -> None:
    counts = _drawn(np.random.default_rng(1).beta(0.5, 2.0, 40), 8)
    values = [estimate.value for estimate in estimate_pass_at_k(counts, [16, 32, 64, 256], "toy")]
    assert values == sorted(values)


def test_a_beta_law_gives_the_closed_form_of_the_beta_binomial() -> None:
    """pass@k = 1 - B(a, b + n - c + k) / B(a, b + n - c) for c = 0 under Beta(a, b)."""
    a, b, n, k = 0.7, 3.0, 16, 64
    p_G = 1.0 / (1.0 + np.exp(-LOGIT_G))
    law_G = p_G**a * (1.0 - p_G) ** b
    law_G /= law_G.sum()
    posterior_G = law_G * binomial_likelihood(np.array([n]), np.array([0]))[0]
    posterior_G /= posterior_G.sum()
    exact = -np.expm1(betaln(a, b + n + k) - betaln(a, b + n))
    assert posterior_G @ solved_G(k) == pytest.approx(exact, abs=2e-3)


def test_em_never_lowers_the_smoothed_likelihood() -> None:
    counts = CountBatch(np.full((1, 30), 16), np.random.default_rng(0).binomial(16, 0.2, (1, 30)))
    likelihood, weight = counts.set_likelihood_RVG, counts.set_weight_RV[:, None]
    law = np.full((1, 1, len(LOGIT_G)), 1.0 / len(LOGIT_G))
    scores = []
    for _ in range(12):
        fit = (weight * np.log(law @ likelihood.transpose(0, 2, 1))).sum()
        scores.append(fit + np.log(law).sum() / len(LOGIT_G))
        law = em(likelihood, weight, law, 1)
    assert law.sum() == pytest.approx(1.0)
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(scores))


def test_the_score_of_a_family_is_that_of_a_fit_without_the_problem() -> None:
    """Leaving one out by a division has to equal fitting again without it."""
    c_P = np.array([0, 0, 1, 3, 8, 8])
    whole = fit_families(CountBatch(np.full((1, 6), 8), c_P[None]))[0]
    rest = fit_families(CountBatch(np.full((1, 5), 8), c_P[None, 1:]))[0]
    prior_G = rest.prior_RPG()[0, 0]
    foreseen = prior_G @ binomial_likelihood(np.array([8]), c_P[:1])[0]
    assert whole.score_RP[0, 0] == pytest.approx(np.log(foreseen), abs=1e-9)


def test_sets_that_are_fitted_together_do_not_touch_each_other() -> None:
    c_RP = np.random.default_rng(3).binomial(16, [[0.1], [0.6]], (2, 25))
    n_RP = np.full_like(c_RP, 16)
    n_RP[0, :5], c_RP[0, :5] = 32, 1
    both = [*fit_families(CountBatch(n_RP, c_RP)), fit_npmle(CountBatch(n_RP, c_RP), _rng())]
    alone = CountBatch(n_RP[1:], c_RP[1:])
    for together, own in zip(both, [*fit_families(alone), fit_npmle(alone, _rng())], strict=True):
        means = [(f.weight_RH * f.moments(64).mean).sum(axis=1)[-1] for f in (together, own)]
        # The bootstrap draws differ; everything else is the same arithmetic.
        assert means[0] == pytest.approx(means[1], abs=0.01)


def test_the_order_of_the_problems_moves_it_by_less_than_its_error() -> None:
    """Folds and bootstrap go by place, everything else by counts."""
    counts = _drawn(np.random.default_rng(2).beta(0.4, 2.0, 30), 12)
    (forth, se), (back, _) = _one(counts, 64), _one(counts[::-1], 64)
    assert abs(forth - back) < 0.5 * se


def test_stacking_prefers_the_model_that_foretells_better() -> None:
    score_MRP = np.stack([np.full((1, 50), -1.0), np.full((1, 50), -2.0)])
    assert stacking_weights(score_MRP)[0, 0] > 0.9


def test_impossible_problems_are_not_given_away_to_luck() -> None:
    """With 30 % at p = 0 a plain beta law extrapolates far too high; the average holds back."""
    p_P = np.concatenate([np.zeros(60), np.random.default_rng(0).beta(2.0, 2.0, 140)])
    value, se = _one(_drawn(p_P, 64), 256)
    assert value == pytest.approx(0.7, abs=0.06)
    assert abs(value - 0.7) < 2.0 * se


def test_ninety_percent_intervals_hold_about_ninety_percent_of_the_truths() -> None:
    """150 benchmarks of 60 problems; at coverage 0.90 it fails less than once in 500."""
    rng = np.random.default_rng(7)
    p_RP = rng.beta(0.5, 2.0, (150, 60))
    n_RP = np.full(p_RP.shape, 32)
    mixture = average(CountBatch(n_RP, rng.binomial(n_RP, p_RP)), None, 0).mixture(64)
    low_R, high_R = mixture.interval(0.9, rng)
    true_R = (1.0 - (1.0 - p_RP) ** 64).mean(axis=1)
    assert 0.82 <= np.mean((low_R <= true_R) & (true_R <= high_R)) <= 0.98


@pytest.mark.parametrize("counts", [[], _problems([0, 0], [0, 0])])
def test_no_samples_are_an_error(counts: list[ProblemCounts]) -> None:
    with pytest.raises(EvaluationError, match="no scored samples"):
        estimate_pass_at_k(counts, [4], "toy")


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
