"""Proxies that need only the samples and their verdicts.

Each is a mean over problems, unless stated otherwise. Each problem has the same weight, and the
standard error is over problems. UNSCORED samples count in `unscored_share` only.

- `signal_share_g`: 1 - C(c,g)/C(n,g) - C(n-c,g)/C(n,g), the chance that a GRPO group of g samples
  has unequal rewards. Near 0, GRPO has no gradient. Unbiased; left out where n < g.
- `signal_variance_g`: p(1-p)(g-1)/g, the expected reward variance inside a group
  (arXiv 2606.18487). p(1-p) is estimated by c(n-c)/(n(n-1)), which does not depend on n as the
  plug-in does.
- `maj_at_k`: chance that the most frequent answer among k samples is correct, ties broken evenly.
  Exact at k = n, else over 100 seeded subsets. Equal answers are equal texts; all CORRECT ones are
  one answer; UNPARSED samples do not vote.
- `distinct_answer_share_8`: expected number of different answers among 8 samples, divided by 8; by
  exact rarefaction, so that it does not depend on n. UNPARSED samples count as one answer.
- `token_entropy`: next-token entropy at temperature 1 along the samples; sum over tokens / number
  of tokens, over all samples that have one: where the engine gives none, a few of each problem
  (`sampling/entropy.py`).
- `response_tokens`: drawn tokens of a sample, including the end token.
- `truncated_share`, `unparsed_share`, `unscored_share`: share of the problem's samples that were
  cut, hold no answer, or could not be checked.
- `lenient_pass_at_1`: pass@1 with the answer wherever it is (the answer format `auto`).
- `format_gap`: lenient pass@1 - strict pass@1, the latter in the requested answer format: how much
  of pass@1 the format costs. Both standard errors are those of the paired differences, so they are
  smaller than those of two independent pass@1. It is negative if samples contain two answers and
  the formats read different ones.

A version increases when one of its numbers may move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlready.evaluators.metrics.estimates import Estimate, mean, ratio, with_sampling_error
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, none_correct
from rlready.registry.records import Verdict

EVALUATOR_VERSION = FORMAT_GAP_VERSION = "1"

GROUP_SIZES = (8, 16)
"""Sizes of a GRPO group for the signal proxies; most trainers use 8 or 16."""

DISTINCT_AT = 8

SHARES = ("truncated", "unparsed", "unscored")

_MAJORITY_SUBSETS = 100


@dataclass(frozen=True, kw_only=True)
class ProblemSamples:
    """The judged samples of one problem, as far as the proxies need them.

    Args:
        problem_id: id of the problem.
        verdicts: verdict of each sample.
        answers: extracted answer of each sample, or None.
        n_tokens: drawn tokens of each sample.
        is_truncated: whether each sample was cut at the token limit.
        entropy_sums: entropy of each sample in nats; None if the engine gave none.
        lenient_verdicts: verdict of each sample in the answer format `auto`; None if the samples
            were not judged in it.
    """

    problem_id: str
    verdicts: Sequence[Verdict]
    answers: Sequence[str | None]
    n_tokens: Sequence[int]
    is_truncated: Sequence[bool]
    entropy_sums: Sequence[float | None]
    lenient_verdicts: Sequence[Verdict] | None = None

    @property
    def counts(self) -> ProblemCounts:
        """The samples of each kind of verdict."""
        return self._counts(self.verdicts)

    @property
    def lenient_counts(self) -> ProblemCounts | None:
        """The same with the lenient verdicts, if there are any."""
        return None if self.lenient_verdicts is None else self._counts(self.lenient_verdicts)

    def _counts(self, verdicts: Sequence[Verdict]) -> ProblemCounts:
        n_unscored = sum(v is Verdict.UNSCORED for v in verdicts)
        return ProblemCounts(
            problem_id=self.problem_id,
            n=len(verdicts) - n_unscored,
            c=sum(v is Verdict.CORRECT for v in verdicts),
            n_unparsed=sum(v is Verdict.UNPARSED for v in verdicts),
            n_unscored=n_unscored,
            n_truncated=sum(self.is_truncated),
        )

    def answer_labels(self) -> npt.NDArray[np.int64]:
        """Return one label per scored sample: 0 correct, -1 no answer, 1, 2, ... other answers."""
        wrong: dict[str, int] = {}
        labels = []
        for verdict, answer in zip(self.verdicts, self.answers, strict=True):
            if verdict is Verdict.CORRECT:
                labels.append(0)
            elif verdict is Verdict.UNPARSED:
                labels.append(-1)
            elif verdict is Verdict.INCORRECT:
                labels.append(wrong.setdefault((answer or "").strip(), len(wrong) + 1))
        return np.array(labels, dtype=np.int64)


def signal_share(counts: Sequence[ProblemCounts], group_size: int) -> Estimate | None:
    """Return the share of groups with reward variance; None if a problem has n < group_size."""
    if any(p.n < group_size for p in counts):
        return None
    return mean(
        1.0 - none_correct(p.n, p.c, group_size) - none_correct(p.n, p.n - p.c, group_size)
        for p in counts
    )


def signal_variance(counts: Sequence[ProblemCounts], group_size: int) -> Estimate | None:
    """Return the reward variance expected in a GRPO group; None if a problem has n < 2."""
    if any(p.n < 2 for p in counts):
        return None
    factor = (group_size - 1) / group_size
    return mean(factor * p.c * (p.n - p.c) / (p.n * (p.n - 1)) for p in counts)


def majority_at_k(problems: Sequence[ProblemSamples], k: int, seed: int = 0) -> Estimate | None:
    """Return the accuracy of the majority answer of k samples; None if a problem has n < k."""
    labels = [problem.answer_labels() for problem in problems]
    if any(len(labels_N) < k for labels_N in labels):
        return None
    rng = np.random.default_rng(seed)
    return mean(_majority(labels_N, k, rng) for labels_N in labels)


def distinct_answer_share(problems: Sequence[ProblemSamples]) -> Estimate | None:
    """Return distinct answers as a share of `DISTINCT_AT` samples; None if a problem has fewer."""
    shares = []
    for problem in problems:
        labels_N = problem.answer_labels()
        n = len(labels_N)
        if n < DISTINCT_AT:
            return None
        sizes = np.unique(labels_N, return_counts=True)[1]
        expected = math.fsum(1.0 - none_correct(n, int(size), DISTINCT_AT) for size in sizes)
        shares.append(expected / DISTINCT_AT)
    return mean(shares)


def token_entropy(problems: Sequence[ProblemSamples]) -> Estimate | None:
    """Return the entropy per drawn token in nats; None if a problem has no sample with one.

    Every problem contributes the same number of samples: the first of those that have one.
    """
    measured = [
        [(e, t) for e, t in zip(p.entropy_sums, p.n_tokens, strict=True) if e is not None]
        for p in problems
    ]
    least = min(map(len, measured))
    if least == 0:
        return None
    entropy_P = np.array([sum(entropy for entropy, _ in pairs[:least]) for pairs in measured])
    tokens_P = np.array([float(sum(n for _, n in pairs[:least])) for pairs in measured])
    return ratio(entropy_P, tokens_P)


def response_tokens(problems: Sequence[ProblemSamples]) -> Estimate:
    """Return the mean length of a sample in tokens."""
    return mean(float(np.mean(p.n_tokens)) for p in problems)


def verdict_share(problems: Sequence[ProblemSamples], kind: str) -> Estimate:
    """Return the share of the samples that are of this kind, one of `SHARES`."""
    counts = [problem.counts for problem in problems]
    return mean(getattr(p, f"n_{kind}") / (p.n + p.n_unscored) for p in counts)


def format_gap(problems: Sequence[ProblemSamples]) -> Estimate | None:
    """Return lenient minus strict pass@1 over the problems with scored samples in both.

    None if there are none, or the samples have no lenient verdicts.
    """
    gaps, variances = [], []
    for problem in problems:
        strict, lenient = problem.counts, problem.lenient_counts
        if lenient is None or not strict.n or not lenient.n:
            continue
        gaps.append(lenient.c / lenient.n - strict.c / strict.n)
        differences = [
            int(second is Verdict.CORRECT) - int(first is Verdict.CORRECT)
            for first, second in zip(problem.verdicts, problem.lenient_verdicts or (), strict=True)
            if Verdict.UNSCORED not in (first, second)
        ]
        # The variance of the mean is undefined for fewer than two pairs.
        n = len(differences)
        variances.append(math.inf if n < 2 else float(np.var(differences, ddof=1)) / n)
    if not gaps:
        return None
    return with_sampling_error(mean(gaps), math.sqrt(math.fsum(variances)) / len(gaps))


def _majority(labels_N: npt.NDArray[np.int64], k: int, rng: np.random.Generator) -> float:
    """Return the chance that the majority of k samples is correct."""
    if k == len(labels_N):
        return _vote(labels_N)
    subsets = (rng.permutation(labels_N)[:k] for _ in range(_MAJORITY_SUBSETS))
    return math.fsum(_vote(subset) for subset in subsets) / _MAJORITY_SUBSETS


def _vote(labels_N: npt.NDArray[np.int64]) -> float:
    votes = np.bincount(labels_N[labels_N >= 0], minlength=1)
    most = votes.max()
    if votes[0] == 0 or votes[0] < most:
        return 0.0
    return 1.0 / float((votes == most).sum())
