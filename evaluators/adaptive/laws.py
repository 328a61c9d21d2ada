"""Laws of problem difficulty on one grid of success probabilities, fitted to counts.

A problem is solved by a sample with chance p; over the problems of a benchmark p follows an unknown
law. Families for it, each fitted to (n, c) of every problem:

- `beta` and `logit-normal`: their two parameters integrated over a grid of them;
- the same two, zero-inflated: with a share of problems that no sample ever solves;
- `smoothed NPMLE`: any law on the grid, by EM (Laird 1978), with a pseudo-count of
  `SMOOTHING` problems spread evenly over the grid's logits; its uncertainty by a Bayesian bootstrap
  over problems (Rubin 1981).

All work on R sets of problems at a time (one for a user, many in a benchmark), and only on the
pairs (n, c) that differ, so that a fit is a few products of matrices.

Axes: R sets, P problems, U different pairs (n, c), V different pairs of one set, G points of the
grid, H laws of a family.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, expit, ndtr

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEP = 0.25
LOGIT_G: Floats = np.arange(-14.0, 10.0 + STEP / 2, STEP)
"""Logits of p. At the lower end p is 8e-7: for the k in use, a problem that is never solved."""

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
    """What a fitted model says of the sets: a mixture of H laws, each set with its own weights."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def weight_RH(self) -> Floats:
        """Posterior weights of the laws; rows sum to 1."""

    @property
    def score_RP(self) -> Floats:
        """Log chance of each problem's count as foreseen from the other problems."""

    def moments(self, k: int) -> Moments:
        """Posterior moments of the sets' pass@k under each law."""

    def prior_RPG(self) -> Floats:
        """The law of each problem's p before its own count, averaged over the mixture."""


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
        """Which of the U pairs each problem has."""
        return self._pairs[2]

    @cached_property
    def weight_RU(self) -> Floats:
        """How many problems of each set have each pair."""
        n_sets, n_pairs = len(self.n_RP), len(self._pairs[0])
        flat = self.pair_RP + n_pairs * np.arange(n_sets)[:, None]
        found = np.bincount(flat.ravel(), minlength=n_sets * n_pairs)
        return found.reshape(n_sets, n_pairs).astype(np.float64)

    @cached_property
    def _own(self) -> tuple[Ints, Floats]:
        width = int((self.weight_RU > 0).sum(axis=1).max())
        own_RV = np.argsort(-self.weight_RU, axis=1, kind="stable")[:, :width]
        return own_RV, np.take_along_axis(self.weight_RU, own_RV, axis=1)

    @property
    def own_weight_RV(self) -> Floats:
        """How many problems of the set have each of its own pairs; 0 where it has fewer pairs."""
        return self._own[1]

    @cached_property
    def own_likelihood_RVG(self) -> Floats:
        """`likelihood_UG` of each set's own pairs."""
        return self.likelihood_UG[self._own[0]]

    @cached_property
    def own_pair_RP(self) -> Ints:
        """Which of its set's own pairs each problem has."""
        n_sets, n_pairs = self.weight_RU.shape
        place_RU = np.zeros((n_sets, n_pairs), dtype=np.int64)
        np.put_along_axis(place_RU, self._own[0], np.arange(self._own[0].shape[1])[None], axis=1)
        return np.take_along_axis(place_RU, self.pair_RP, axis=1)

    @cached_property
    def likelihood_UG(self) -> Floats:
        """Chance of each pair at each point of the grid, over its largest value."""
        return binomial_likelihood(self._pairs[0], self._pairs[1])


def binomial_likelihood(n_U: Ints, c_U: Ints) -> Floats:
    """Likelihood of c of n at each point of the grid, its largest value 1, shape (U, G).

    Averaged over the cell of the point: with many samples the likelihood is narrower than a cell.
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
    """Chance that one of k samples is correct, at each point of the grid; mean over its cell."""
    logit_GS = LOGIT_G[:, None] + _CELL
    return np.asarray(-np.expm1(-k * np.logaddexp(0.0, logit_GS)).mean(axis=1))


def central(first: Floats, second: Floats, third: Floats) -> Moments:
    """Central moments from those about 0."""
    variance = np.maximum(second - first**2, 0.0)
    return Moments(first, variance, third - 3.0 * first * second + 2.0 * first**3)


def mean_of_problems(total: Moments, n_problems: int) -> Moments:
    """Moments of the mean of independent problems from the sums of their moments."""
    return Moments(
        total.mean / n_problems, total.variance / n_problems**2, total.third / n_problems**3
    )


@dataclass(frozen=True)
class SharedLawsFit:
    """A family of laws that all sets share, weighted for each by its posterior.

    Args:
        name: of the family.
        counts: what it was fitted to.
        law_HG: the laws, equally likely beforehand.
    """

    name: str
    counts: CountBatch
    law_HG: Floats

    @cached_property
    def _chance_UH(self) -> Floats:
        return np.maximum(self.counts.likelihood_UG @ self.law_HG.T, _TINY)

    @cached_property
    def weight_RH(self) -> Floats:
        """See `Fit`."""
        return softmax(self.counts.weight_RU @ np.log(self._chance_UH))

    @cached_property
    def score_RP(self) -> Floats:
        """See `Fit`. Leaving a problem out divides the posterior weights by its likelihood."""
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
        return mean_of_problems(
            Moments(*(weight_RU @ own for own in central(*powers))), self.counts.n_RP.shape[1]
        )

    def prior_RPG(self) -> Floats:
        """See `Fit`."""
        law_RG = self.weight_RH @ self.law_HG
        return np.broadcast_to(law_RG[:, None], (*self.counts.n_RP.shape, law_RG.shape[1]))


@dataclass(frozen=True)
class OwnLawsFit:
    """Laws of its own for every set, equally likely: draws of the NPMLE.

    Args:
        name: of the model.
        counts: what it was fitted to.
        law_RHG: the draws.
        score_RP: see `Fit`.
    """

    name: str
    counts: CountBatch
    law_RHG: Floats
    score_RP: Floats

    @property
    def weight_RH(self) -> Floats:
        """See `Fit`."""
        return np.full(self.law_RHG.shape[:2], 1.0 / self.law_RHG.shape[1])

    def moments(self, k: int) -> Moments:
        """See `Fit`."""
        likelihood_RGV = self.counts.own_likelihood_RVG.transpose(0, 2, 1)
        chance_RHV = np.maximum(self.law_RHG @ likelihood_RGV, _TINY)
        share_RHG = self.law_RHG
        powers = []
        for _ in range(3):
            share_RHG = share_RHG * solved_G(k)
            powers.append(share_RHG @ likelihood_RGV / chance_RHV)
        weight_RV1 = self.counts.own_weight_RV[:, :, None]
        found = Moments(*((own @ weight_RV1)[:, :, 0] for own in central(*powers)))
        return mean_of_problems(found, self.counts.n_RP.shape[1])

    def prior_RPG(self) -> Floats:
        """See `Fit`."""
        law_RG = self.law_RHG.mean(axis=1)
        return np.broadcast_to(law_RG[:, None], (*self.counts.n_RP.shape, law_RG.shape[1]))


def fit_families(counts: CountBatch) -> list[Fit]:
    """The four families of two or three parameters."""
    laws = {"beta": _beta_laws(), "logit-normal": _logit_normal_laws()}
    laws |= {f"zero-inflated {name}": _zero_inflated(law_HG) for name, law_HG in laws.items()}
    return [*(SharedLawsFit(name, counts, law_HG) for name, law_HG in laws.items())]


def fit_npmle(counts: CountBatch, rng: np.random.Generator) -> OwnLawsFit:
    """The smoothed NPMLE with bootstrap draws, and its score by cross-validation over problems."""
    likelihood_RVG, weight_RV = counts.own_likelihood_RVG, counts.own_weight_RV
    n_problems = counts.n_RP.shape[1]
    start_RHG = np.full((len(weight_RV), 1, len(LOGIT_G)), 1.0 / len(LOGIT_G))
    law_RHG = em(likelihood_RVG, weight_RV[:, None], start_RHG, _EM_ROUNDS)
    # Rubin's bootstrap: weights Dirichlet(1, ..., 1) over problems; equal pairs are added up.
    weight_RHV = rng.gamma(np.repeat(weight_RV[:, None], _N_BOOTSTRAP, axis=1))
    weight_RHV *= n_problems / weight_RHV.sum(axis=2, keepdims=True)
    drawn_RHG = np.repeat(law_RHG, _N_BOOTSTRAP, axis=1)
    drawn_RHG = em(likelihood_RVG, weight_RHV, drawn_RHG, _BOOTSTRAP_ROUNDS)
    return OwnLawsFit("smoothed NPMLE", counts, drawn_RHG, _cross_validated(counts, rng))


def em(likelihood_RVG: Floats, weight_RHV: Floats, law_RHG: Floats, n_rounds: int) -> Floats:
    """Mixing laws that raise the likelihood of the weighted pairs, after so many rounds of EM."""
    base = SMOOTHING / len(LOGIT_G)
    total_RH1 = weight_RHV.sum(axis=2, keepdims=True) + SMOOTHING
    likelihood_RGV = np.ascontiguousarray(likelihood_RVG.transpose(0, 2, 1))
    for _ in range(n_rounds):
        chance_RHV = np.maximum(law_RHG @ likelihood_RGV, _TINY)
        law_RHG = (law_RHG * ((weight_RHV / chance_RHV) @ likelihood_RVG) + base) / total_RH1
    return law_RHG


def softmax(log_RH: Floats) -> Floats:
    """Weights that sum to 1 over the last axis."""
    scaled = np.exp(log_RH - log_RH.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))


def _cross_validated(counts: CountBatch, rng: np.random.Generator) -> Floats:
    n_sets, n_problems = counts.n_RP.shape
    n_folds = min(_FOLDS, n_problems)
    fold_P = rng.permutation(n_problems) % n_folds
    kept_RFV = np.repeat(counts.own_weight_RV[:, None], n_folds, axis=1)
    sets_R1 = np.arange(n_sets)[:, None]
    np.subtract.at(kept_RFV, (sets_R1, fold_P[None], counts.own_pair_RP), 1.0)
    # From the even law: beginning at the law of all problems would show it what is held out.
    start_RFG = np.full((n_sets, n_folds, len(LOGIT_G)), 1.0 / len(LOGIT_G))
    law_RFG = em(counts.own_likelihood_RVG, kept_RFV, start_RFG, _EM_ROUNDS // 2)
    chance_RFV = np.maximum(law_RFG @ counts.own_likelihood_RVG.transpose(0, 2, 1), _TINY)
    return np.asarray(np.log(chance_RFV)[sets_R1, fold_P[None], counts.own_pair_RP])


@lru_cache(maxsize=1)
def _beta_laws() -> Floats:
    """Beta laws on the grid: mean by even logits, alpha + beta by even logarithms."""
    mean_H, size_H = _crossed(
        expit(np.arange(-6.5, 4.1, 0.5)), np.geomspace(0.1, 60.0, 12, dtype=np.float64)
    )
    edges = expit(LOGIT_G[:-1] + STEP / 2)
    alpha_H1, beta_H1 = (mean_H * size_H)[:, None], ((1.0 - mean_H) * size_H)[:, None]
    return _masses(np.asarray(betainc(alpha_H1, beta_H1, edges), dtype=np.float64))


@lru_cache(maxsize=1)
def _logit_normal_laws() -> Floats:
    """Logit-normal laws on the grid: mean even, standard deviation by even logarithms."""
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
    """Mass of each cell of the grid, from the chance to lie below each inner edge."""
    n_laws = len(below_HE)
    ends = np.zeros((n_laws, 1)), np.ones((n_laws, 1))
    return np.maximum(np.diff(np.hstack([ends[0], below_HE, ends[1]]), axis=1), 0.0)
