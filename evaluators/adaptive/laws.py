"""Laws of problem difficulty on one grid of success probabilities, fitted to counts.

A law is a distribution of p, the chance that one sample solves a problem, over the problems of a
benchmark. Three kinds of laws are fitted to the counts (n, c) of every problem:

- `beta` and `logit-normal`: a grid of their two parameters, weighted by its posterior;
- both again, zero-inflated: a share of the problems is never solved;
- `smoothed NPMLE`: any law on the grid, by EM (Laird 1978), with a pseudo-count of `SMOOTHING`
  problems spread evenly over the grid's logits. A Bayesian bootstrap over problems (Rubin 1981)
  gives its uncertainty.

All functions work on R sets of problems at once (one for a user, many in a benchmark script), and
only on the different pairs (n, c), so that a fit is a few matrix products.

Axes: R sets, P problems, U different pairs (n, c), V different pairs of one set, G points of the
grid, H laws of a family.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, expit, ndtr, softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEP = 0.25
LOGIT_G: Floats = np.arange(-14.0, 10.0 + STEP / 2, STEP)
"""Logits of p. At the lower end p is 8e-7: for any usual k such a problem is never solved."""

SMOOTHING = 1.0
_CELL: Floats = np.arange(-2.0, 3.0) / 5.0 * STEP
_EM_ROUNDS = 120
_BOOTSTRAP_ROUNDS = 30
_N_BOOTSTRAP = 40
_FOLDS = 5
_TINY = 1e-300


class Moments(NamedTuple):
    """Mean, variance and third central moment of a set's pass@k under each law, (R, H) each."""

    mean: Floats
    variance: Floats
    third: Floats


class Fit(Protocol):
    """A model fitted to the sets: a mixture of H laws, weighted for each set."""

    @property
    def weight_RH(self) -> Floats:
        """Posterior weights of the laws; rows sum to 1."""

    @property
    def score_RP(self) -> Floats:
        """Log chance of each problem's count, as predicted from the other problems."""

    def moments(self, k: int) -> Moments:
        """Return the posterior moments of the sets' pass@k under each law."""

    def prior_RPG(self) -> Floats:
        """Return the law of each problem's p before its own count, averaged over the mixture."""


@dataclass(frozen=True)
class CountBatch:
    """Counts of R sets of P problems.

    Args:
        n_RP: scored samples of each problem.
        c_RP: how many of them are CORRECT.
    """

    n_RP: Ints
    c_RP: Ints

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints, Ints]:
        top = int(self.n_RP.max(initial=0)) + 1
        codes, pair = np.unique(self.n_RP * top + self.c_RP, return_inverse=True)
        return codes // top, codes % top, pair.reshape(self.n_RP.shape)

    @property
    def pair_RP(self) -> Ints:
        """Index of each problem's pair among the U pairs."""
        return self._pairs[2]

    @cached_property
    def weight_RU(self) -> Floats:
        """Number of problems of each set with each pair."""
        n_sets, n_pairs = len(self.n_RP), len(self._pairs[0])
        flat = self.pair_RP + n_pairs * np.arange(n_sets)[:, None]
        numbers = np.bincount(flat.ravel(), minlength=n_sets * n_pairs)
        return numbers.reshape(n_sets, n_pairs).astype(np.float64)

    @cached_property
    def _set_pairs(self) -> Ints:
        """Indices of the pairs that occur in each set, the most frequent first, (R, V)."""
        width = int((self.weight_RU > 0).sum(axis=1).max())
        return np.argsort(-self.weight_RU, axis=1, kind="stable")[:, :width]

    @cached_property
    def set_weight_RV(self) -> Floats:
        """Number of problems with each pair of the set; 0 if the set has fewer pairs."""
        return np.take_along_axis(self.weight_RU, self._set_pairs, axis=1)

    @cached_property
    def set_likelihood_RVG(self) -> Floats:
        """`likelihood_UG` of the pairs of each set."""
        return self.likelihood_UG[self._set_pairs]

    @cached_property
    def set_pair_RP(self) -> Ints:
        """Index of each problem's pair among the V pairs of its set."""
        place_RU = np.zeros(self.weight_RU.shape, dtype=np.int64)
        places = np.arange(self._set_pairs.shape[1])[None]
        np.put_along_axis(place_RU, self._set_pairs, places, axis=1)
        return np.take_along_axis(place_RU, self.pair_RP, axis=1)

    @cached_property
    def likelihood_UG(self) -> Floats:
        """Likelihood of each pair at each point of the grid, divided by its largest value."""
        return binomial_likelihood(self._pairs[0], self._pairs[1])


def binomial_likelihood(n_U: Ints, c_U: Ints) -> Floats:
    """Return the likelihood of c of n at each point of the grid, scaled to at most 1, (U, G).

    It is averaged over the cell of the point: with many samples it is narrower than a cell.
    """
    logit_GS = LOGIT_G[:, None] + _CELL
    log_p_GS, log_q_GS = -np.logaddexp(0.0, -logit_GS), -np.logaddexp(0.0, logit_GS)
    total_UG = np.zeros((len(n_U), len(LOGIT_G)))
    c_U1, wrong_U1 = c_U[:, None].astype(float), (n_U - c_U)[:, None].astype(float)
    logs = [c_U1 * log_p_GS[:, s] + wrong_U1 * log_q_GS[:, s] for s in range(len(_CELL))]
    top_U1 = np.max([log.max(axis=1) for log in logs], axis=0)[:, None]
    for log in logs:
        total_UG += np.exp(log - top_U1)
    return np.maximum(total_UG / len(_CELL), _TINY)


@lru_cache(maxsize=32)
def solved_G(k: int) -> Floats:
    """Return the chance that one of k samples is correct, averaged over each cell of the grid."""
    logit_GS = LOGIT_G[:, None] + _CELL
    return np.asarray(-np.expm1(-k * np.logaddexp(0.0, logit_GS)).mean(axis=1))


def central(first: Floats, second: Floats, third: Floats) -> Moments:
    """Return central moments from moments about 0."""
    variance = np.maximum(second - first**2, 0.0)
    return Moments(first, variance, third - 3.0 * first * second + 2.0 * first**3)


def mean_of_problems(total: Moments, n_problems: int) -> Moments:
    """Return the moments of the mean of independent problems from the sums of their moments."""
    return Moments(
        total.mean / n_problems, total.variance / n_problems**2, total.third / n_problems**3
    )


@dataclass(frozen=True)
class SharedLawsFit:
    """A family of laws that all sets share; each set has its own posterior weights.

    Args:
        counts: the counts that it was fitted to.
        law_HG: the laws, equally likely beforehand.
    """

    counts: CountBatch
    law_HG: Floats

    @cached_property
    def _chance_UH(self) -> Floats:
        return np.maximum(self.counts.likelihood_UG @ self.law_HG.T, _TINY)

    @cached_property
    def weight_RH(self) -> Floats:
        """See `Fit`."""
        return np.asarray(softmax(self.counts.weight_RU @ np.log(self._chance_UH), axis=-1))

    @cached_property
    def score_RP(self) -> Floats:
        """See `Fit`; leaving a problem out divides the posterior weights by its likelihood."""
        inverse_RU = self.weight_RH @ (1.0 / self._chance_UH).T
        return np.take_along_axis(-np.log(inverse_RU), self.counts.pair_RP, axis=1)

    def moments(self, k: int) -> Moments:
        """See `Fit`."""
        share_UG = self.counts.likelihood_UG
        powers = []
        for _ in range(3):
            share_UG = share_UG * solved_G(k)
            powers.append(share_UG @ self.law_HG.T / self._chance_UH)
        weight_RU = self.counts.weight_RU
        total = Moments(*(weight_RU @ moment_UH for moment_UH in central(*powers)))
        return mean_of_problems(total, self.counts.n_RP.shape[1])

    def prior_RPG(self) -> Floats:
        """See `Fit`."""
        law_RG = self.weight_RH @ self.law_HG
        return np.broadcast_to(law_RG[:, None], (*self.counts.n_RP.shape, law_RG.shape[1]))


@dataclass(frozen=True)
class OwnLawsFit:
    """Equally likely laws, different for every set: draws of the NPMLE.

    Args:
        counts: the counts that it was fitted to.
        law_RHG: the draws.
        score_RP: see `Fit`.
    """

    counts: CountBatch
    law_RHG: Floats
    score_RP: Floats

    @property
    def weight_RH(self) -> Floats:
        """See `Fit`."""
        return np.full(self.law_RHG.shape[:2], 1.0 / self.law_RHG.shape[1])

    def moments(self, k: int) -> Moments:
        """See `Fit`."""
        likelihood_RGV = self.counts.set_likelihood_RVG.transpose(0, 2, 1)
        chance_RHV = np.maximum(self.law_RHG @ likelihood_RGV, _TINY)
        share_RHG = self.law_RHG
        powers = []
        for _ in range(3):
            share_RHG = share_RHG * solved_G(k)
            powers.append(share_RHG @ likelihood_RGV / chance_RHV)
        weight_RV1 = self.counts.set_weight_RV[:, :, None]
        total = Moments(*((moment_RHV @ weight_RV1)[:, :, 0] for moment_RHV in central(*powers)))
        return mean_of_problems(total, self.counts.n_RP.shape[1])

    def prior_RPG(self) -> Floats:
        """See `Fit`."""
        law_RG = self.law_RHG.mean(axis=1)
        return np.broadcast_to(law_RG[:, None], (*self.counts.n_RP.shape, law_RG.shape[1]))


def fit_families(counts: CountBatch) -> list[Fit]:
    """Fit the four families of two or three parameters."""
    laws = [_beta_laws(), _logit_normal_laws()]
    laws += [_zero_inflated(law_HG) for law_HG in laws]
    return [*(SharedLawsFit(counts, law_HG) for law_HG in laws)]


def fit_npmle(counts: CountBatch, rng: np.random.Generator) -> OwnLawsFit:
    """Fit the smoothed NPMLE, with bootstrap draws and a cross-validated score."""
    likelihood_RVG, weight_RV = counts.set_likelihood_RVG, counts.set_weight_RV
    n_problems = counts.n_RP.shape[1]
    start_RHG = np.full((len(weight_RV), 1, len(LOGIT_G)), 1.0 / len(LOGIT_G))
    law_RHG = em(likelihood_RVG, weight_RV[:, None], start_RHG, _EM_ROUNDS)
    # Rubin's bootstrap draws weights of problems from Dirichlet(1, ..., 1), as normalized gamma
    # variates. The weight of a pair is the sum over its problems, which is a gamma variate again.
    weight_RHV = rng.gamma(np.repeat(weight_RV[:, None], _N_BOOTSTRAP, axis=1))
    weight_RHV *= n_problems / weight_RHV.sum(axis=2, keepdims=True)
    drawn_RHG = np.repeat(law_RHG, _N_BOOTSTRAP, axis=1)
    drawn_RHG = em(likelihood_RVG, weight_RHV, drawn_RHG, _BOOTSTRAP_ROUNDS)
    return OwnLawsFit(counts, drawn_RHG, _cross_validated(counts, rng))


def em(likelihood_RVG: Floats, weight_RHV: Floats, law_RHG: Floats, n_rounds: int) -> Floats:
    """Return the mixing laws after `n_rounds` of EM on the smoothed likelihood of the pairs."""
    base = SMOOTHING / len(LOGIT_G)
    total_RH1 = weight_RHV.sum(axis=2, keepdims=True) + SMOOTHING
    likelihood_RGV = np.ascontiguousarray(likelihood_RVG.transpose(0, 2, 1))
    for _ in range(n_rounds):
        chance_RHV = np.maximum(law_RHG @ likelihood_RGV, _TINY)
        law_RHG = (law_RHG * ((weight_RHV / chance_RHV) @ likelihood_RVG) + base) / total_RH1
    return law_RHG


def _cross_validated(counts: CountBatch, rng: np.random.Generator) -> Floats:
    """Return the log chance of each problem's count under a fit without its fold."""
    n_sets, n_problems = counts.n_RP.shape
    n_folds = min(_FOLDS, n_problems)
    fold_P = rng.permutation(n_problems) % n_folds
    train_RFV = np.repeat(counts.set_weight_RV[:, None], n_folds, axis=1)
    sets_R1 = np.arange(n_sets)[:, None]
    np.subtract.at(train_RFV, (sets_R1, fold_P[None], counts.set_pair_RP), 1.0)
    # Start from the uniform law: the law of all problems already contains the left-out counts.
    start_RFG = np.full((n_sets, n_folds, len(LOGIT_G)), 1.0 / len(LOGIT_G))
    law_RFG = em(counts.set_likelihood_RVG, train_RFV, start_RFG, _EM_ROUNDS // 2)
    chance_RFV = np.maximum(law_RFG @ counts.set_likelihood_RVG.transpose(0, 2, 1), _TINY)
    return np.asarray(np.log(chance_RFV)[sets_R1, fold_P[None], counts.set_pair_RP])


@lru_cache(maxsize=1)
def _beta_laws() -> Floats:
    """Return beta laws with evenly spaced logits of the mean and logarithms of alpha + beta."""
    mean_H, size_H = _crossed(
        expit(np.arange(-6.5, 4.1, 0.5)), np.geomspace(0.1, 60.0, 12, dtype=np.float64)
    )
    edges = expit(LOGIT_G[:-1] + STEP / 2)
    alpha_H1, beta_H1 = (mean_H * size_H)[:, None], ((1.0 - mean_H) * size_H)[:, None]
    return _masses(np.asarray(betainc(alpha_H1, beta_H1, edges), dtype=np.float64))


@lru_cache(maxsize=1)
def _logit_normal_laws() -> Floats:
    """Return logit-normal laws with evenly spaced means and logarithms of the deviation."""
    mean_H, sd_H = _crossed(np.arange(-8.0, 4.1, 0.5), np.geomspace(0.3, 6.0, 10))
    edges = LOGIT_G[:-1] + STEP / 2
    return _masses(ndtr((edges - mean_H[:, None]) / sd_H[:, None]))


def _zero_inflated(law_HG: Floats) -> Floats:
    laws = []
    for share in (0.04, 0.1, 0.18, 0.3, 0.45, 0.65):
        inflated_HG = (1.0 - share) * law_HG
        inflated_HG[:, 0] += share
        laws.append(inflated_HG)
    return np.concatenate(laws)


def _crossed(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    left, right = np.meshgrid(first, second)
    return left.ravel(), right.ravel()


def _masses(below_HE: Floats) -> Floats:
    """Return the mass of each cell of the grid, from the mass below each inner edge."""
    return np.maximum(np.diff(below_HE, axis=1, prepend=0.0, append=1.0), 0.0)
