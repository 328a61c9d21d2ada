"""Item prior: the difficulty of each problem of a benchmark, learnt from earlier checkpoints.

Two-way model, checkpoint x problem (a Rasch model with random effects; Fluid Benchmarking, arXiv
2509.11106, uses similar models for accuracy):

    logit p_ij = ability_i + easiness_j + interaction_ij,   interaction_ij ~ N(0, tau^2)

- easiness_j follows any law on the grid of `laws`; problems that nobody ever solves are at its
  lower end. It is learnt by EM together with the abilities, and tau by maximum likelihood.
- A new checkpoint's ability is learnt from its own samples, and so is how much it disagrees with
  the earlier checkpoints about single problems (`_DISAGREEMENTS` x tau). Both are integrated.

The checkpoints may have any number of samples of each problem, also none.

Axes: I earlier checkpoints, P problems, G points of the grid, R new checkpoints, H pairs
(ability, tau), U different pairs (n, c).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr, softmax

from rlready.evaluators.adaptive.laws import (
    LOGIT_G,
    STEP,
    CountBatch,
    Floats,
    Ints,
    Moments,
    central,
    em,
    mean_of_problems,
    solved_G,
)
from rlready.registry.errors import EvaluationError

MIN_CHECKPOINTS = 3
"""With fewer checkpoints, easiness and interaction cannot be distinguished."""

_TAUS = (0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0)
_DISAGREEMENTS = (0.65, 1.0, 1.5, 2.3, 3.5)
_DISAGREEMENT_PRIOR = (0.25, 0.4, 0.2, 0.1, 0.05)
_FIT_ROUNDS = 12
_FAR_BELOW = 10.0
"""Larger values of tau are not tried once the log-likelihood is this far below the best one."""

_LARGEST_ABILITY = 6.0
_N_ABILITIES = 24
_PROBLEMS_AT_A_TIME = 64
_TINY = 1e-300


@dataclass(frozen=True)
class ItemPrior:
    """Easiness of every problem, estimated from earlier checkpoints.

    Args:
        easiness_PG: posterior of each problem's easiness on the grid.
        tau: standard deviation of the interaction, in logits.
        ability_sd: standard deviation of the earlier checkpoints' abilities, in logits.
    """

    easiness_PG: Floats
    tau: float
    ability_sd: float

    def fit(self, counts: CountBatch) -> ItemFit:
        """Fit new checkpoints with these counts of the same problems."""
        if counts.n_RP.shape[1] != len(self.easiness_PG):
            raise EvaluationError(
                f"the item prior is of {len(self.easiness_PG)} problems, "
                f"the counts are of {counts.n_RP.shape[1]}",
                fix="Give the counts of the same benchmark, in its order",
            )
        coarse = ItemFit(self, counts, np.arange(-_LARGEST_ABILITY, _LARGEST_ABILITY + 0.1, 0.5))
        return ItemFit(self, counts, coarse.narrowed())


def fit_item_prior(n_IP: Ints, c_IP: Ints) -> ItemPrior:
    """Fit the prior to the counts of earlier checkpoints.

    Args:
        n_IP: number of scored samples; 0 if a checkpoint has none of a problem.
        c_IP: how many of them are CORRECT.

    Raises:
        EvaluationError: for fewer than `MIN_CHECKPOINTS` checkpoints.
    """
    if len(n_IP) < MIN_CHECKPOINTS:
        raise EvaluationError(
            f"{len(n_IP)} earlier checkpoints have counts of this benchmark",
            why=f"item difficulties need {MIN_CHECKPOINTS} or more",
            fix="Estimate without a prior",
        )
    batch = CountBatch(n_IP, c_IP)
    likelihood_IPG = batch.likelihood_UG[batch.pair_RP]
    ability_I, easiness_G = np.zeros(len(n_IP)), np.full(len(LOGIT_G), 1.0 / len(LOGIT_G))
    best_score = -np.inf
    best_fit = (easiness_G[None], 0.0, ability_I)
    for tau in _TAUS:
        log_IPG = np.log(np.maximum(likelihood_IPG @ blur(tau, 0.0).T, _TINY))
        ability_I, easiness_G = _fit_abilities(log_IPG, ability_I, easiness_G)
        joint_PG = _shifted(log_IPG, ability_I).sum(axis=0) + np.log(easiness_G)
        top_P1 = joint_PG.max(axis=1, keepdims=True)
        score = float((np.log(np.exp(joint_PG - top_P1).sum(axis=1)) + top_P1[:, 0]).sum())
        if score > best_score:
            best_score, best_fit = score, (softmax(joint_PG, axis=-1), tau, ability_I)
        elif score < best_score - _FAR_BELOW:
            break
    easiness_PG, tau, ability_I = best_fit
    return ItemPrior(easiness_PG, tau, float(np.std(ability_I, ddof=1)))


def blur(sd: float, shift: float) -> Floats:
    """Return the transition matrix of the grid for adding noise N(shift, sd^2), (G, G)."""
    n = len(LOGIT_G)
    # The chance only depends on the distance, so that few values fill the matrix.
    below = ndtr(((np.arange(1 - n, n) + 0.5) * STEP - shift) / sd)
    matrix = below[np.arange(n)[None] - np.arange(n)[:, None] + n - 1]
    matrix[:, -1] = 1.0
    matrix[:, 1:] -= matrix[:, :-1].copy()
    return np.asarray(matrix, dtype=np.float64)


@dataclass(frozen=True)
class ItemFit:
    """Posterior of new checkpoints under an item prior; a `Fit`.

    Args:
        prior: prior of the problems.
        counts: counts of the new checkpoints.
        ability_A: abilities that are tried, in logits.
    """

    prior: ItemPrior
    counts: CountBatch
    ability_A: Floats

    @cached_property
    def _hyper(self) -> list[tuple[float, float, float]]:
        """Ability, tau and log prior weight of each H."""
        sd = 2.0 * max(self.prior.ability_sd, 0.5)
        pairs = zip(_DISAGREEMENTS, _DISAGREEMENT_PRIOR, strict=True)
        return [
            (float(ability), self.prior.tau * factor, np.log(weight) - (ability / sd) ** 2 / 2)
            for factor, weight in pairs
            for ability in self.ability_A
        ]

    @cached_property
    def _blur_GHG(self) -> Floats:
        return np.stack([blur(tau, ability) for ability, tau, _ in self._hyper], axis=1)

    def _chunks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield some problems and the law of their p under each H, shape (problems, G, H)."""
        n_problems, n_points = self.prior.easiness_PG.shape
        flat_GHG = self._blur_GHG.reshape(n_points, -1)
        for begin in range(0, n_problems, _PROBLEMS_AT_A_TIME):
            chunk = slice(begin, begin + _PROBLEMS_AT_A_TIME)
            law = self.prior.easiness_PG[chunk] @ flat_GHG
            yield chunk, law.reshape(-1, len(self._hyper), n_points).transpose(0, 2, 1)

    @cached_property
    def _chance_RPH(self) -> Floats:
        return np.maximum(self._expected([self.counts.likelihood_UG])[0], _TINY)

    def _expected(self, values: list[Floats]) -> list[Floats]:
        """Return the means of functions of a pair and p over each problem's law.

        Args:
            values: each function's values at the pairs and points of the grid, (U, G).

        Returns:
            Their means, (R, P, H) each.
        """
        means = [np.empty((*self.counts.n_RP.shape, len(self._hyper))) for _ in values]
        for chunk, law_PGH in self._chunks():
            for problem, law_GH in enumerate(law_PGH, start=chunk.start):
                pairs, pair_R = np.unique(self.counts.pair_RP[:, problem], return_inverse=True)
                for value_UG, mean_RPH in zip(values, means, strict=True):
                    mean_RPH[:, problem] = (value_UG[pairs] @ law_GH)[pair_R]
        return means

    @cached_property
    def weight_RH(self) -> Floats:
        """See `Fit`."""
        log_prior_H = np.array([weight for _, _, weight in self._hyper])
        return np.asarray(softmax(log_prior_H + np.log(self._chance_RPH).sum(axis=1), axis=-1))

    @cached_property
    def score_RP(self) -> Floats:
        """See `Fit`."""
        return np.asarray(-np.log(np.einsum("rh,rph->rp", self.weight_RH, 1.0 / self._chance_RPH)))

    def moments(self, k: int) -> Moments:
        """See `Fit`."""
        shares = [self.counts.likelihood_UG * solved_G(k) ** power for power in (1, 2, 3)]
        powers = [expected_RPH / self._chance_RPH for expected_RPH in self._expected(shares)]
        total = Moments(*(moment_RPH.sum(axis=1) for moment_RPH in central(*powers)))
        return mean_of_problems(total, self.counts.n_RP.shape[1])

    def prior_RPG(self) -> Floats:
        """See `Fit`."""
        prior_RPG = np.empty((*self.counts.n_RP.shape, len(LOGIT_G)))
        for chunk, law_PGH in self._chunks():
            prior_RPG[:, chunk] = (law_PGH @ self.weight_RH.T).transpose(2, 0, 1)
        return prior_RPG

    def narrowed(self) -> Floats:
        """Return a finer grid of abilities, over the range that the posteriors leave possible."""
        n_disagreements = len(_DISAGREEMENTS)
        weight_RA = self.weight_RH.reshape(len(self.weight_RH), n_disagreements, -1).sum(axis=1)
        mean_R = weight_RA @ self.ability_A
        variance_R = weight_RA @ self.ability_A**2 - mean_R**2
        # A posterior narrower than the grid's step appears as one point, so add a margin.
        sd_R = np.sqrt(np.maximum(variance_R, 0.0)) + 0.15
        low, high = (mean_R - 4.0 * sd_R).min(), (mean_R + 4.0 * sd_R).max()
        return np.linspace(low, high, _N_ABILITIES)


def _fit_abilities(log_IPG: Floats, ability_I: Floats, easiness_G: Floats) -> tuple[Floats, Floats]:
    """Fit the abilities (mean 0) and the law of easiness for one tau, by EM from an earlier fit."""
    slope_IPG = np.gradient(log_IPG, STEP, axis=2)
    bend_IPG = np.gradient(slope_IPG, STEP, axis=2)
    for _ in range(_FIT_ROUNDS):
        joint_PG = _shifted(log_IPG, ability_I).sum(axis=0)
        top_P1 = joint_PG.max(axis=1, keepdims=True)
        scaled_PG = np.maximum(np.exp(joint_PG - top_P1), _TINY)
        ones = np.ones((1, 1, len(scaled_PG)))
        easiness_G = em(scaled_PG[None], ones, easiness_G[None, None], 5)[0, 0]
        posterior_PG = scaled_PG * easiness_G
        posterior_PG /= posterior_PG.sum(axis=1, keepdims=True)
        slope_I = np.einsum("ipg,pg->i", _shifted(slope_IPG, ability_I), posterior_PG)
        bend_I = np.einsum("ipg,pg->i", _shifted(bend_IPG, ability_I), posterior_PG)
        # A weak prior around 0 keeps the ability of a checkpoint that solves nothing finite.
        step_I = (slope_I - ability_I / 9.0) / np.maximum(-bend_I + 1.0 / 9.0, 0.5)
        ability_I = ability_I + np.clip(step_I, -1.0, 1.0)
        ability_I = ability_I - ability_I.mean()
    return ability_I, easiness_G


def _shifted(value_IPG: Floats, ability_I: Floats) -> Floats:
    """Interpolate each checkpoint's values at easiness + ability."""
    n_points = value_IPG.shape[2]
    place_IG = np.clip(np.arange(n_points) + ability_I[:, None] / STEP, 0, n_points - 1)
    left_IG = np.minimum(place_IG.astype(np.int64), n_points - 2)
    share_IG = place_IG - left_IG
    shifted_IPG = np.empty_like(value_IPG)
    rows = zip(shifted_IPG, value_IPG, left_IG, share_IG, strict=True)
    for shifted_PG, value_PG, left_G, share_G in rows:
        # In place: these arrays are the largest of a fit.
        left_PG = value_PG[:, left_G]
        np.subtract(value_PG[:, left_G + 1], left_PG, out=shifted_PG)
        shifted_PG *= share_G
        shifted_PG += left_PG
    return shifted_IPG
