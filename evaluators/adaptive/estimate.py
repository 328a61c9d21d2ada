"""pass@k estimated from fewer than k samples per problem, with its errors.

- Formula: mean over problems of E[1 - (1-p)^k | counts]. The distribution of p over problems is
  averaged over five models (`laws`): `beta` and `logit-normal`, each with and without zero
  inflation, and `smoothed NPMLE`. If earlier checkpoints of the benchmark exist, the `item prior`
  is a sixth one. Each model is weighted by how well it predicts the counts of problems that were
  left out of its fit (stacking: Yao et al. 2018, arXiv 1704.02030).
  Beta-binomial pass@k: Kazdan et al. 2025, arXiv 2510.05197.
- Unit: probability. Average: over problems, each with the same weight.
- Masked: as in `pass_at_k`, UNSCORED samples count in neither n nor c.
- The number of samples may differ between problems and may depend on earlier samples
  (`allocation`): the likelihood is the same whatever the reason for stopping. The unbiased
  estimate needs a number of samples that is fixed beforehand.
- Its keys are `pass_at_<k>_est`, never those of the unbiased proxy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlready.evaluators.adaptive.item_prior import ItemPrior
from rlready.evaluators.adaptive.laws import (
    CountBatch,
    Fit,
    Floats,
    Moments,
    fit_families,
    fit_npmle,
    solved_G,
)
from rlready.evaluators.metrics.estimates import Estimate
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.errors import EvaluationError

EVALUATOR_VERSION = "1"

_STACKING_ROUNDS = 60
_STACKING_PSEUDO_COUNT = 1.0
_N_DRAWS = 4000
_LEAST_SD = 1e-9
_RESOLUTION = 1e-4


@dataclass(frozen=True)
class Mixture:
    """Posterior of pass@k of R sets: a mixture over the laws of all models.

    Args:
        weight_RH: weight of each law; rows sum to 1.
        moments: moments of pass@k under each law.
    """

    weight_RH: Floats
    moments: Moments

    @cached_property
    def mean_R(self) -> Floats:
        """Posterior mean."""
        return np.asarray((self.weight_RH * self.moments.mean).sum(axis=1))

    @cached_property
    def of_laws_R(self) -> Floats:
        """Part of the variance that comes from the uncertainty about the law."""
        off_RH = self.moments.mean - self.mean_R[:, None]
        return np.asarray((self.weight_RH * off_RH**2).sum(axis=1))

    @cached_property
    def sd_R(self) -> Floats:
        """Posterior standard deviation."""
        within_R = (self.weight_RH * self.moments.variance).sum(axis=1)
        return np.asarray(np.sqrt(within_R + self.of_laws_R))

    def interval(self, level: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return both ends of the shortest credible interval of each set.

        A law is drawn first, then pass@k under it. The shortest interval can reach 1 when a
        benchmark is almost solved; an interval with equal tails would exclude 1. Ends are rounded
        outwards to `_RESOLUTION`, the accuracy of the grid.

        Under one law pass@k is a mean of independent numbers. It is drawn from the shifted gamma
        distribution with the same first three moments (Pearson's type III), which keeps the
        skewness that one unsolved problem among many solved ones causes.
        """
        lows, highs = [], []
        for row, weight_H in enumerate(self.weight_RH):
            law = rng.choice(len(weight_H), size=_N_DRAWS, p=weight_H / weight_H.sum())
            draws = _pearson_draws(Moments(*(moment[row, law] for moment in self.moments)), rng)
            low, high = _shortest(np.clip(draws, 0.0, 1.0), level)
            lows.append(np.floor(low / _RESOLUTION) * _RESOLUTION)
            highs.append(min(1.0, np.ceil(high / _RESOLUTION) * _RESOLUTION))
        return np.array(lows), np.array(highs)


@dataclass(frozen=True)
class Average:
    """Models fitted to R sets of counts, averaged for each set by stacking.

    Args:
        counts: the counts that they were fitted to.
        fits: the fitted models.
    """

    counts: CountBatch
    fits: tuple[Fit, ...]

    @cached_property
    def weight_RM(self) -> Floats:
        """Weight of each model for each set."""
        return stacking_weights(np.stack([fit.score_RP for fit in self.fits]))

    def mixture(self, k: int) -> Mixture:
        """Return the posterior of each set's pass@k."""
        weights = [self.weight_RM[:, [m]] * fit.weight_RH for m, fit in enumerate(self.fits)]
        moments = [fit.moments(k) for fit in self.fits]
        columns = (np.hstack(parts) for parts in zip(*moments, strict=True))
        return Mixture(np.hstack(weights), Moments(*columns))

    @cached_property
    def posterior_RPG(self) -> Floats:
        """Posterior of each problem's p on the grid."""
        prior_RPG = sum(
            self.weight_RM[:, m, None, None] * fit.prior_RPG() for m, fit in enumerate(self.fits)
        )
        joint_RPG = prior_RPG * self.counts.likelihood_UG[self.counts.pair_RP]
        return np.asarray(joint_RPG / joint_RPG.sum(axis=2, keepdims=True))


def average(counts: CountBatch, prior: ItemPrior | None, seed: int) -> Average:
    """Fit all models to R sets of counts."""
    rng = np.random.default_rng(seed)
    fits: list[Fit] = [*fit_families(counts), fit_npmle(counts, rng)]
    if prior is not None:
        fits.append(prior.fit(counts))
    return Average(counts, tuple(fits))


def stacking_weights(score_MRP: Floats) -> Floats:
    """Return the weights of M models whose mixture predicts left-out counts best, shape (R, M)."""
    chance_MRP = np.exp(score_MRP - score_MRP.max(axis=0))
    n_models, n_sets, n_problems = chance_MRP.shape
    weight_MR = np.full((n_models, n_sets), 1.0 / n_models)
    pseudo = _STACKING_PSEUDO_COUNT / n_models
    for _ in range(_STACKING_ROUNDS):
        share_MRP = weight_MR[:, :, None] * chance_MRP
        share_MR = (share_MRP / share_MRP.sum(axis=0)).sum(axis=2)
        weight_MR = (share_MR + pseudo) / (n_problems + _STACKING_PSEUDO_COUNT)
    return weight_MR.T


def estimate_pass_at_k(
    counts: Sequence[ProblemCounts],
    ks: Sequence[int],
    benchmark: str,
    *,
    prior: ItemPrior | None = None,
    seed: int = 0,
) -> list[Estimate]:
    """Return pass@k of a benchmark for each k, from any number of samples per problem.

    `se_within` is the posterior standard deviation on these problems.

    Args:
        counts: one entry per problem.
        ks: each 1 or more.
        benchmark: name of the benchmark, for messages.
        prior: the evidence of earlier checkpoints on the same problems, in the same order.
        seed: seed of the bootstrap.

    Raises:
        EvaluationError: if there are no problems or no scored samples.
    """
    if not any(p.n for p in counts):
        raise EvaluationError(
            f"pass@k of {benchmark} has no scored samples to estimate from",
            fix="Draw samples first",
        )
    batch = CountBatch(np.array([[p.n for p in counts]]), np.array([[p.c for p in counts]]))
    fitted = average(batch, prior, seed)
    estimates = []
    for k in ks:
        mixture = fitted.mixture(k)
        se, se_within = _se_over_problems(fitted, k, mixture), float(mixture.sd_R[0])
        estimates.append(
            Estimate(
                value=float(mixture.mean_R[0]),
                se=None if se is None else max(se, se_within),
                se_within=se_within,
            )
        )
    return estimates


def _se_over_problems(fitted: Average, k: int, mixture: Mixture) -> float | None:
    """Return the standard error over problems, which includes the uncertainty about the law."""
    n_problems = fitted.counts.n_RP.shape[1]
    if n_problems < 2:
        return None
    f_G = solved_G(k)
    mean_P, square_P = fitted.posterior_RPG[0] @ f_G, fitted.posterior_RPG[0] @ f_G**2
    of_problems = float(mean_P.var(ddof=1) + (square_P - mean_P**2).mean())
    return math.sqrt(max(of_problems, 0.0) / n_problems + float(mixture.of_laws_R[0]))


def _pearson_draws(moments: Moments, rng: np.random.Generator) -> Floats:
    mean, variance, third = moments
    sd = np.sqrt(np.maximum(variance, 0.0))
    skewness = third / np.maximum(sd, _LEAST_SD) ** 3
    # Below 0.01 the distribution is normal to three digits, and the gamma's shape would overflow.
    skewness = np.where(np.abs(skewness) < 0.01, 0.01, np.clip(skewness, -1e3, 1e3))
    shape = 4.0 / skewness**2
    return np.asarray(mean + sd * (rng.standard_gamma(shape) - shape) * skewness / 2.0)


def _shortest(draws: Floats, level: float) -> tuple[float, float]:
    """Return both ends of the shortest interval that contains this share of the draws."""
    ordered = np.sort(draws)
    n_inside = math.ceil(level * len(ordered))
    widths = ordered[n_inside - 1 :] - ordered[: len(ordered) - n_inside + 1]
    begin = int(np.argmin(widths))
    return float(ordered[begin]), float(ordered[begin + n_inside - 1])
