"""Paired differences between two checkpoints on the same problems or examples.

Two checkpoints that answer the same problems share what is easy and what is hard. The difference
within each problem removes this common part, so its standard error is smaller than that of two
separate means (Miller 2024, arXiv 2411.00640, section 4).

    pass@k   d_i = pass@k_B(i) - pass@k_A(i); mean over the problems that both have k samples of
    loss     sum(nll_B - nll_A) / sum(tokens) over the examples that both scored, nats per token

The interval is Student's t interval over problems or examples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlready.evaluators.metrics.estimates import Estimate, mean, ratio
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, pass_at_k

if TYPE_CHECKING:
    from rlready.evaluators.heldout.loss import ExampleLoss
    from rlready.registry.records import Proxy


_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The mean difference B - A over items that both checkpoints were measured on.

    Args:
        value: B - A, in the unit of the metric.
        se: standard error over items; None for fewer than two.
        low: lower end of the interval; None if `se` is None or 0.
        high: upper end.
        level: share of such intervals that contain the true difference.
        n: items in common.
        n_left_out: items that only one of the two has, or with too few samples.
        is_paired: False if only the two means are known. Then `se` treats them as independent,
            which makes the interval wider than a paired one.

    Example:
        >>> paired_pass_at_k(counts_a, counts_b, k=1).value
        0.125
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    level: float
    n: int
    n_left_out: int = 0
    is_paired: bool = True

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


def paired_pass_at_k(
    counts_a: Sequence[ProblemCounts],
    counts_b: Sequence[ProblemCounts],
    k: int,
    level: float = 0.95,
) -> PairedDifference | None:
    """Return the difference of pass@k; None if no problem has k samples of both.

    Args:
        counts_a: of checkpoint A, in any order.
        counts_b: of checkpoint B, in any order.
        k: at least 1.
        level: of the interval, in (0, 1).

    Example:
        >>> paired_pass_at_k(counts_a, counts_b, k=4)
    """
    a, b = ({c.problem_id: c for c in counts if c.n >= k} for counts in (counts_a, counts_b))
    common = [problem for problem in a if problem in b]
    if not common:
        return None
    differences = mean(pass_at_k(b[p].n, b[p].c, k) - pass_at_k(a[p].n, a[p].c, k) for p in common)
    problems = {c.problem_id for c in [*counts_a, *counts_b]}
    return _within_one(_with_interval(differences, level, len(common), len(problems) - len(common)))


def paired_loss(
    losses_a: Sequence[ExampleLoss], losses_b: Sequence[ExampleLoss], level: float = 0.95
) -> PairedDifference | None:
    """Return the difference of the loss in nats per token; None if no example is comparable.

    Examples whose numbers of scored tokens differ are left out: the two models were not scored on
    the same text.

    Example:
        >>> paired_loss(losses_a, losses_b).value
        -0.04
    """
    a, b = ({loss.id: loss for loss in losses} for losses in (losses_a, losses_b))
    common = [i for i in a if i in b and a[i].n_tokens == b[i].n_tokens > 0]
    if not common:
        return None
    difference = np.array([b[i].nll_sum - a[i].nll_sum for i in common])
    n_tokens = np.array([float(a[i].n_tokens) for i in common])
    n_left_out = len(a.keys() | b.keys()) - len(common)
    return _with_interval(ratio(difference, n_tokens), level, len(common), n_left_out)


def mean_difference(
    parts: Sequence[PairedDifference], level: float = 0.95
) -> PairedDifference | None:
    """Return the plain mean over benchmarks of paired differences; None if there are none.

    The benchmarks are independent: se^2 = sum of se_i^2 / m^2. The interval is Student's with the
    degrees of freedom of Welch and Satterthwaite. `n` is the number of problems of all benchmarks.

    Example:
        >>> mean_difference([on_gsm8k, on_aime24]).is_paired
        True
    """
    if not parts:
        return None
    m, errors = len(parts), [part.se for part in parts]
    squares = [error**2 for error in errors if error is not None]
    se = math.sqrt(math.fsum(squares)) / m if len(squares) == m else None
    freedom = 1.0
    if se is not None and se > _LEAST:
        pairs = zip(squares, parts, strict=True)
        spread = math.fsum(square**2 / (part.n - 1) for square, part in pairs)
        freedom = math.fsum(squares) ** 2 / spread
    value = math.fsum(part.value for part in parts) / m
    made = _with_interval(
        Estimate(value=value, se=se),
        level,
        sum(part.n for part in parts),
        sum(part.n_left_out for part in parts),
        freedom,
    )
    return _within_one(made)


def unpaired(a: Proxy, b: Proxy, level: float = 0.95) -> PairedDifference:
    """Return the difference of two stored means, as if they were independent.

    Example:
        >>> unpaired(proxy_a, proxy_b).is_paired
        False
    """
    se = None if a.se is None or b.se is None else math.hypot(a.se, b.se)
    n = min(a.n_problems, b.n_problems)
    difference = _with_interval(Estimate(value=b.value - a.value, se=se), level, n, 0)
    difference = dataclasses.replace(difference, is_paired=False)
    return _within_one(difference) if a.unit == "probability" else difference


def _within_one(difference: PairedDifference) -> PairedDifference:
    """Return the difference of two probabilities with its interval cut at -1 and 1."""
    if difference.low is None or difference.high is None:
        return difference
    return dataclasses.replace(
        difference, low=max(difference.low, -1.0), high=min(difference.high, 1.0)
    )


def _with_interval(
    estimate: Estimate, level: float, n: int, n_left_out: int, freedom: float | None = None
) -> PairedDifference:
    from scipy.stats import t

    freedom = n - 1 if freedom is None else freedom
    half = None if estimate.se is None else float(t.ppf((1 + level) / 2, freedom)) * estimate.se
    # Where all items differ alike (both solve all), they say nothing about the spread of others.
    is_known = half is not None and math.isfinite(half) and half > _LEAST
    return PairedDifference(
        value=estimate.value,
        se=estimate.se,
        low=estimate.value - half if half is not None and is_known else None,
        high=estimate.value + half if half is not None and is_known else None,
        level=level,
        n=n,
        n_left_out=n_left_out,
    )
