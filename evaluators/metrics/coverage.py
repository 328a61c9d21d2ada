"""Did SFT destroy coverage that the base model had? The ratio of losses to gains.

With p_i = c_i / n_i on problem i, f(p) = 1 - (1 - p)^K, and R the problems whose unbiased base
pass@K lies in (0.05, 0.95):

    coverage_ratio_K = sum over R of [f(base) - f(sft)]+  /  sum over R of [f(sft) - f(base)]+

(TailSFT, arXiv 2608.25756, definition 4.1). Above 1, SFT lost more of what the base model could
reach than it gained. Unit: ratio, >= 0. Standard error: linearised ratio over problems. Undefined
if R is empty, or SFT gained on no problem. UNSCORED samples are in neither n nor c.

No published tool gives this number; the paper's definition is the reference. Version 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlready.evaluators.metrics.estimates import Estimate, ratio
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, pass_at_k, too_few, with_scored
from rlready.registry.errors import EvaluationError

EVALUATOR_VERSION = "1"

COVERAGE_AT = 16
"""K, the size of a large GRPO group: a problem never solved in K samples gives no gradient."""

REACHABLE = (0.05, 0.95)


def coverage_ratio(
    checkpoint: Sequence[ProblemCounts], base: Sequence[ProblemCounts], k: int = COVERAGE_AT
) -> Estimate:
    """Return coverage lost over coverage gained.

    Problems without enough scored samples are left out, see `comparable`.

    Args:
        checkpoint: counts of the SFT checkpoint, one entry per problem.
        base: counts of its base model on the same problems, in any order.
        k: K, at most the base model's number of samples per problem.

    Raises:
        EvaluationError: if the problems differ, no problem of the base model has k samples, or the
            ratio is undefined.

    Example:
        >>> coverage_ratio(sft_counts, base_counts, k=16).value
        0.4
    """
    by_id = {problem.problem_id: problem for problem in base}
    if set(by_id) != {problem.problem_id for problem in checkpoint}:
        raise EvaluationError(
            "the checkpoint and its base model were measured on different problems",
            fix="Evaluate both on the same benchmark, with the same --limit",
        )

    def coverage(problem: ProblemCounts) -> float:
        return 1.0 - float((1.0 - problem.c / problem.n) ** k)

    lost, gained = [], []
    for problem, before in comparable(checkpoint, base, k):
        if REACHABLE[0] < pass_at_k(before.n, before.c, k) < REACHABLE[1]:
            change = coverage(problem) - coverage(before)
            lost.append(max(-change, 0.0))
            gained.append(max(change, 0.0))
    if not any(gained):
        if base and not with_scored(base, k):
            raise too_few(base, k, "the base model's samples")
        is_coarse = not gained and min(problem.n for problem in base) < 2 * k
        raise EvaluationError(
            f"coverage_ratio_{k} is undefined: SFT gained on none of the {len(gained)} problems "
            "that the base model sometimes solves",
            why="it divides by what was gained" if gained else "there is no such problem",
            fix=f"Draw {4 * k} samples or more: with few more than {k}, a problem's pass@{k} is "
            "0 or 1"
            if is_coarse
            else "",
        )
    return ratio(np.array(lost), np.array(gained))


def comparable(
    checkpoint: Sequence[ProblemCounts], base: Sequence[ProblemCounts], k: int = COVERAGE_AT
) -> list[tuple[ProblemCounts, ProblemCounts]]:
    """Return the problems with a scored sample of the checkpoint and k of the base model.

    One UNSCORED sample therefore does not make the ratio of a whole benchmark undefined.
    """
    by_id = {problem.problem_id: problem for problem in with_scored(base, k)}
    return [
        (problem, by_id[problem.problem_id])
        for problem in with_scored(checkpoint, 1)
        if problem.problem_id in by_id
    ]
