"""How much of pass@1 the answer format costs: strict and lenient verdicts of the same samples.

- `lenient_pass_at_1`: pass@1 with the answer wherever it stands (the answer format `auto`).
- `format_gap`: lenient pass@1 - strict pass@1, the strict one in the answer format asked for. A
  checkpoint with a large gap fails by format, one with a small gap fails by skill.
- Unit: probability. Average: over problems, each with the same weight.
- Standard errors: over problems, and within from new samples on the same problems, both of the
  paired differences. So the gap's error is smaller than those of two independent pass@1.
- The gap may be negative: where a sample holds two answers, the formats may read different ones.

The version rises when one of these may move.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rlready.evaluators.metrics.estimates import Estimate, mean
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.registry.records import Verdict

EVALUATOR_VERSION = "1"


def format_gap(problems: Sequence[ProblemSamples]) -> Estimate | None:
    """Lenient minus strict pass@1 over the problems that have scored samples in both.

    None if there are none, or the samples have no lenient verdicts.
    """
    gaps, variances = [], []
    for problem in problems:
        strict, lenient = problem.counts, problem.lenient_counts
        if lenient is None or not strict.n or not lenient.n:
            continue
        gaps.append(lenient.c / lenient.n - strict.c / strict.n)
        variances.append(_variance_of_mean(problem))
    if not gaps:
        return None
    estimate, within = mean(gaps), math.sqrt(math.fsum(variances)) / len(gaps)
    if not math.isfinite(within):
        return estimate
    se = None if estimate.se is None else max(estimate.se, within)
    return dataclasses.replace(estimate, se=se, se_within=within)


def _variance_of_mean(problem: ProblemSamples) -> float:
    """Variance of one problem's mean paired difference; infinite for fewer than two pairs."""
    pairs = zip(problem.verdicts, problem.lenient_verdicts or (), strict=True)
    differences = [
        int(lenient is Verdict.CORRECT) - int(strict is Verdict.CORRECT)
        for strict, lenient in pairs
        if Verdict.UNSCORED not in (strict, lenient)
    ]
    if len(differences) < 2:
        return math.inf
    return float(np.var(differences, ddof=1)) / len(differences)
