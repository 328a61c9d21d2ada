"""pass@k with both of its standard errors, from counts alone.

- Formula: mean over problems of 1 - C(n-c, k) / C(n, k), n scored and c correct samples of a
  problem (Chen et al. 2021, arXiv 2107.03374, eq. 1). Unbiased, whatever n >= k.
- Unit: probability. Average: over problems, each with the same weight.
- Masked: UNSCORED samples are in neither n nor c. UNPARSED ones are in n. A problem with fewer than
  k scored samples has no pass@k and is left out of the mean; `bounds` limits the effect of all
  UNSCORED samples.
- The same number: `openai/human-eval`, `estimate_pass_at_k`, for n >= k. It returns 1 for n < k;
  here that is an error.
- Standard errors (Miller 2024, arXiv 2411.00640, distinguishes the two): *over problems*, how far
  the mean would move with new problems (it contains the noise of sampling); *within*, how far it
  would move with new samples on these problems. With P problems, s^2 the sample variance of their
  estimates, and v the mean of their sampling variances,

      within^2 = v / P,    over problems^2 = (max(s^2 - v, 0) + v) / P = max(s^2, v) / P:

  because the variance between problems, estimated by s^2 - v, is not negative. Both are estimates,
  so s^2 < v happens, most often with few problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rlready.evaluators.metrics.estimates import Estimate, mean, with_sampling_error
from rlready.registry.errors import EvaluationError

EVALUATOR_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class ProblemCounts:
    """The number of samples of one problem, by verdict.

    Args:
        problem_id: id of the problem.
        n: scored samples: all but the UNSCORED ones.
        c: CORRECT samples.
        n_unparsed: samples without an answer.
        n_unscored: samples whose check failed; not in n.
        n_truncated: samples cut at the token limit, whatever their verdict.

    Example:
        >>> ProblemCounts(problem_id="aime24/07", n=64, c=5)
    """

    problem_id: str
    n: int
    c: int
    n_unparsed: int = 0
    n_unscored: int = 0
    n_truncated: int = 0


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that at least one of k samples, drawn from n, is correct.

    Unbiased for one problem (Chen et al. 2021, arXiv 2107.03374, eq. 1). Average over problems.

    Args:
        n: scored samples of the problem; UNSCORED ones are not counted.
        c: how many of them are CORRECT, 0 <= c <= n.
        k: 1 <= k <= n. With fewer than k samples the estimate is undefined, not 1.

    Raises:
        EvaluationError: if k > n or k < 1.

    Example:
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
    """
    if not 1 <= k <= n:
        raise EvaluationError(f"pass@{k} is undefined for {n} scored samples", fix="Take k <= n")
    return 1.0 - none_correct(n, c, k)


@lru_cache(maxsize=1 << 16)
def none_correct(n: int, c: int, k: int) -> float:
    """Return C(n-c, k) / C(n, k): the chance that k of n samples hold no correct one."""
    # Python's division of whole numbers rounds once, so this is exact to the last bit.
    return math.comb(n - c, k) / math.comb(n, k)


def mean_pass_at_k(counts: Sequence[ProblemCounts], k: int, benchmark: str) -> Estimate:
    """Return pass@k of a benchmark, over the problems with k or more scored samples.

    Args:
        counts: one entry per problem.
        k: number of samples that may be tried.
        benchmark: name of the benchmark, for the message.

    Raises:
        EvaluationError: if no problem has k scored samples; the nearest is named.

    Example:
        >>> mean_pass_at_k(counts, k=8, benchmark="math500").value
        0.62
    """
    scored = with_scored(counts, k)
    if not scored:
        raise too_few(counts, k, benchmark)
    # With half a correct sample added, so that it is not 0.
    rate = (sum(p.c for p in scored) + 0.5) / (sum(p.n for p in scored) + 1)
    within = math.fsum(sampling_variance(p.n, p.c, k, rate) for p in scored)
    estimate = mean(pass_at_k(p.n, p.c, k) for p in scored)
    return with_sampling_error(estimate, math.sqrt(max(within, 0.0)) / len(scored))


def with_scored(counts: Sequence[ProblemCounts], n: int) -> list[ProblemCounts]:
    """Return the problems with n or more scored samples."""
    return [problem for problem in counts if problem.n >= n]


def bounds(counts: Sequence[ProblemCounts], k: int) -> tuple[float, float] | None:
    """Return mean pass@k over all problems with all UNSCORED samples wrong, and with all right.

    None if a problem has fewer than k samples, UNSCORED ones included.
    """
    drawn = [problem.n + problem.n_unscored for problem in counts]
    if not counts or min(drawn) < k:
        return None
    pairs = list(zip(counts, drawn, strict=True))
    lower = math.fsum(pass_at_k(n, problem.c, k) for problem, n in pairs) / len(counts)
    upper = math.fsum(pass_at_k(n, p.c + p.n_unscored, k) for p, n in pairs) / len(counts)
    return lower, upper


@lru_cache(maxsize=1 << 14)
def sampling_variance(n: int, c: int, k: int, rate: float = 0.5) -> float:
    """Return the variance of one problem's estimate over new samples of the same problem.

    For 2k <= n the unbiased estimate: with h = C(n-c, k) / C(n, k), E[h]^2 is estimated without
    bias by the chance that 2k samples hold no correct one, so Var h = h^2 - C(n-c, 2k) / C(n, 2k).
    At k = 1 this is p(1-p)/(n-1). For larger k no unbiased estimate exists; then it is the exact
    variance under a binomial with p = (c + rate) / (n + 1), which is not 0 at c = 0 or c = n. With
    1/2 in place of the benchmark's rate it was up to 25 times too large on hard problems.

    Args:
        n: scored samples.
        c: correct ones among them.
        k: number of samples that may be tried.
        rate: share of correct samples on the benchmark, in (0, 1).
    """
    if 2 * k <= n:
        return none_correct(n, c, k) ** 2 - none_correct(n, c, 2 * k)
    p = (c + rate) / (n + 1)
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)
    chances = [
        math.exp(log_n - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * log_p + (n - j) * log_q)
        for j in range(n + 1)
    ]
    values = [none_correct(n, j, k) for j in range(n + 1)]
    expected = math.fsum(w * v for w, v in zip(chances, values, strict=True))
    return math.fsum(w * (v - expected) ** 2 for w, v in zip(chances, values, strict=True))


def too_few(counts: Sequence[ProblemCounts], k: int, benchmark: str) -> EvaluationError:
    """Return the error that no problem has k scored samples."""
    if not counts:
        return EvaluationError(f"pass@{k} of {benchmark} has no problems to average over")
    best = max(counts, key=lambda problem: problem.n)
    return EvaluationError(
        f"pass@{k} needs {k} scored samples of a problem; no problem of {benchmark} has so many. "
        f"{best.problem_id} has the most: {best.n} ({best.n_unscored} UNSCORED)",
        fix=f"Draw {k - best.n} more samples per problem, or ask for k <= {best.n}",
    )
