"""pass@k from fewer than k samples a problem: value, errors and credible interval.

- Formula: mean over problems of E[1 - (1-p)^k | counts]. The law of p over problems is averaged
  over `beta` and `logit-normal`, each with and without zero inflation, and `smoothed NPMLE`
  (`difficulty_laws`), and over the `item prior` where earlier checkpoints of the benchmark are
  known, weighted by how well each foretells the counts of problems held out (stacking: Yao et al.
  2018, arXiv 1704.02030).
  Beta-binomial pass@k: Kazdan et al. 2025, arXiv 2510.05197.
- Unit: probability. Average: over problems, each with the same weight.
- Masked: as `pass_at_k`: UNSCORED samples are in neither n nor c.
- Where every problem has n >= k, the unbiased estimate is given instead: it needs no law.
- The number of samples may differ from problem to problem, and may depend on earlier samples
  (`allocation`): the likelihood does not ask why sampling stopped. The unbiased one does.
- Its keys are `pass_at_<k>_est`, never those of the unbiased proxy.

The interval is of the pass@k of these very problems, and integrates the laws' parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, mean_pass_at_k
from rlready.registry.errors import EvaluationError

EVALUATOR_VERSION = "1"

_STACKING_ROUNDS = 60
_STACKING_PSEUDO_COUNT = 1.0
_N_DRAWS = 4000
_LEAST_SD = 1e-9
_RESOLUTION = 1e-4


@dataclass(frozen=True, kw_only=True)
class PassEstimate:
    """pass@k of a benchmark for one checkpoint.

    Args:
        k: samples that may be tried.
        value: posterior mean, or the unbiased estimate.
        se: standard error over problems: how far the value would move with new ones.
        se_within: posterior standard deviation on these problems.
        low: lower end of the credible interval on these problems.
        high: its upper end.
        level: of the interval.
        model_weights: share of each model; `{"unbiased": 1.0}` where n >= k everywhere.
    """

    k: int
    value: float
    se: float | None
    se_within: float
    low: float
    high: float
    level: float
    model_weights: Mapping[str, float]


@dataclass(frozen=True)
class Mixture:
    """Posterior of pass@k of R sets: a mixture over the laws of all models.

    Args:
        weight_RH: of each law; rows sum to 1.
        moments: of pass@k under each law.
    """

    weight_RH: Floats
    moments: Moments

    @cached_property
    def mean_R(self) -> Floats:
        """Posterior mean."""
        return np.asarray((self.weight_RH * self.moments.mean).sum(axis=1))

    @cached_property
    def of_laws_R(self) -> Floats:
        """The part of the variance that comes from not knowing the law."""
        off_RH = self.moments.mean - self.mean_R[:, None]
        return np.asarray((self.weight_RH * off_RH**2).sum(axis=1))

    @cached_property
    def sd_R(self) -> Floats:
        """Posterior standard deviation."""
        within_R = (self.weight_RH * self.moments.variance).sum(axis=1)
        return np.asarray(np.sqrt(within_R + self.of_laws_R))

    def interval(self, level: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Ends of the shortest credible intervals, by drawing a law and then pass@k under it.

        The shortest one reaches to 1 where a benchmark is as good as solved; tails of equal size
        would shut 1 out. Ends are rounded outwards to `_RESOLUTION`, which the grid can tell.

        Under one law pass@k is a mean of independent numbers: a gamma law with its three first
        moments, shifted (Pearson's type III), stands for it. It keeps the skewness that one
        unsolved problem among many solved ones makes.
        """
        lows, highs = [], []
        for row, weight_H in enumerate(self.weight_RH):
            law = rng.choice(len(weight_H), size=_N_DRAWS, p=weight_H / weight_H.sum())
            draws = _pearson_draws(Moments(*(own[row, law] for own in self.moments)), rng)
            low, high = _shortest(np.clip(draws, 0.0, 1.0), level)
            lows.append(np.floor(low / _RESOLUTION) * _RESOLUTION)
            highs.append(min(1.0, np.ceil(high / _RESOLUTION) * _RESOLUTION))
        return np.array(lows), np.array(highs)


@dataclass(frozen=True)
class Average:
    """Models fitted to R sets of counts, averaged for each set by stacking.

    Args:
        counts: what they were fitted to.
        fits: the models.
    """

    counts: CountBatch
    fits: tuple[Fit, ...]

    @cached_property
    def weight_RM(self) -> Floats:
        """Weight of each model for each set."""
        return stacking_weights(np.stack([fit.score_RP for fit in self.fits]))

    def mixture(self, k: int) -> Mixture:
        """Posterior of each set's pass@k."""
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
    """All models fitted to R sets of counts."""
    rng = np.random.default_rng(seed)
    fits: list[Fit] = [*fit_families(counts), fit_npmle(counts, rng)]
    if prior is not None:
        fits.append(prior.fit(counts))
    return Average(counts, tuple(fits))


def stacking_weights(score_MRP: Floats) -> Floats:
    """Weights of M models that foretell held-out counts best as a mixture, shape (R, M)."""
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
    is_adaptive: bool = False,
    level: float = 0.9,
    seed: int = 0,
) -> list[PassEstimate]:
    """pass@k of a benchmark for each k, from any number of samples a problem.

    Args:
        counts: one entry a problem.
        ks: each 1 or more.
        benchmark: its name, for messages.
        prior: what earlier checkpoints say about the same problems, in the same order.
        is_adaptive: whether earlier samples decided how many a problem got; then the unbiased
            formula is not, and is not used.
        level: of the credible interval.
        seed: of the bootstrap and of the interval's draws.

    Raises:
        EvaluationError: if there are no problems, no scored samples, or a k below 1.
    """
    _check(counts, ks, benchmark)
    least = 0 if is_adaptive else min(p.n for p in counts)
    fitted = None
    if max(ks) > least:
        batch = CountBatch(np.array([[p.n for p in counts]]), np.array([[p.c for p in counts]]))
        fitted = average(batch, prior, seed)
    return [
        _unbiased(counts, k, benchmark, level, seed)
        if fitted is None or k <= least
        else _from_average(fitted, k, level, seed)
        for k in ks
    ]


def _unbiased(
    counts: Sequence[ProblemCounts], k: int, benchmark: str, level: float, seed: int
) -> PassEstimate:
    found = mean_pass_at_k(counts, k, benchmark)
    se_within = found.se_within or 0.0
    one = np.ones((1, 1))
    mixture = Mixture(one, Moments(one * found.value, one * se_within**2, one * 0.0))
    low, high = mixture.interval(level, np.random.default_rng(seed))
    return PassEstimate(
        k=k,
        value=found.value,
        se=found.se,
        se_within=se_within,
        low=float(low[0]),
        high=float(high[0]),
        level=level,
        model_weights={"unbiased": 1.0},
    )


def _from_average(fitted: Average, k: int, level: float, seed: int) -> PassEstimate:
    mixture = fitted.mixture(k)
    low, high = mixture.interval(level, np.random.default_rng(seed))
    se, se_within = _se_over_problems(fitted, k, mixture), float(mixture.sd_R[0])
    return PassEstimate(
        k=k,
        value=float(mixture.mean_R[0]),
        se=None if se is None else max(se, se_within),
        se_within=se_within,
        low=float(low[0]),
        high=float(high[0]),
        level=level,
        model_weights={
            fit.name: float(weight)
            for fit, weight in zip(fitted.fits, fitted.weight_RM[0], strict=True)
        },
    )


def _se_over_problems(fitted: Average, k: int, mixture: Mixture) -> float | None:
    """Spread of the problems' own pass@k over their number, and what is unsure about the law."""
    n_problems = fitted.counts.n_RP.shape[1]
    if n_problems < 2:
        return None
    f_G = solved_G(k)
    own_P, square_P = fitted.posterior_RPG[0] @ f_G, fitted.posterior_RPG[0] @ f_G**2
    of_problems = float(own_P.var(ddof=1) + (square_P - own_P**2).mean())
    return math.sqrt(max(of_problems, 0.0) / n_problems + float(mixture.of_laws_R[0]))


def _pearson_draws(moments: Moments, rng: np.random.Generator) -> Floats:
    mean, variance, third = moments
    sd = np.sqrt(np.maximum(variance, 0.0))
    skewness = third / np.maximum(sd, _LEAST_SD) ** 3
    # Below this the gamma law is a normal one to three digits, and its shape would overflow.
    skewness = np.where(np.abs(skewness) < 0.01, 0.01, np.clip(skewness, -1e3, 1e3))
    shape = 4.0 / skewness**2
    return np.asarray(mean + sd * (rng.standard_gamma(shape) - shape) * skewness / 2.0)


def _shortest(draws: Floats, level: float) -> tuple[float, float]:
    """Ends of the shortest interval that holds this share of the draws."""
    ordered = np.sort(draws)
    n_inside = math.ceil(level * len(ordered))
    widths = ordered[n_inside - 1 :] - ordered[: len(ordered) - n_inside + 1]
    begin = int(np.argmin(widths))
    return float(ordered[begin]), float(ordered[begin + n_inside - 1])


def _check(counts: Sequence[ProblemCounts], ks: Sequence[int], benchmark: str) -> None:
    if not counts or not any(p.n for p in counts):
        raise EvaluationError(
            f"pass@k of {benchmark} has no scored samples to estimate from",
            fix="Draw samples first",
        )
    if not ks or min(ks) < 1:
        raise EvaluationError(
            f"pass@k of {benchmark} is asked for k = {list(ks)}", fix="Give k >= 1"
        )
