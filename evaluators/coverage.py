"""Did SFT destroy coverage that the base model had? The ratio of losses to gains.

With p_i = c_i / n_i on problem i, f(p) = 1 - (1 - p)^K, and R the problems whose unbiased base
pass@K lies in (0.05, 0.95):

    coverage_ratio_K = sum over R of [f(base) - f(sft)]+  /  sum over R of [f(sft) - f(base)]+

(TailSFT, arXiv 2608.25756, definition 4.1). Above 1, SFT lost more of what the base model could
reach than it gained. Unit: ratio, >= 0. Standard error: linearised ratio over problems. Undefined
if no problem lies in R, or SFT gained on none. UNSCORED samples are in neither n nor c.

No published tool gives the number; the paper's definition is the reference. Version 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlready.evaluators.estimates import Estimate, ratio
from rlready.evaluators.pass_at_k import ProblemCounts, pass_at_k
from rlready.registry.errors import EvaluationError

EVALUATOR_VERSION = "1"

COVERAGE_AT = 16
"""K, the size of a large GRPO group: what is out of reach in K samples gives no gradient."""

REACHABLE = (0.05, 0.95)


def coverage_ratio(
    checkpoint: Sequence[ProblemCounts], base: Sequence[ProblemCounts], k: int = COVERAGE_AT
) -> Estimate:
    """Coverage lost over coverage gained.

    Args:
        checkpoint: counts of the SFT checkpoint, a problem each.
        base: counts of its base model on the same problems, in any order.
        k: K, at most the base's samples a problem.

    Raises:
        EvaluationError: if the problems differ, a problem has fewer than k samples, or the ratio
            is undefined.
    """
    by_id = {problem.problem_id: problem for problem in base}
    if set(by_id) != {problem.problem_id for problem in checkpoint}:
        raise EvaluationError(
            "the checkpoint and its base model were measured on other problems",
            fix="Evaluate both on the same benchmark, with the same --limit",
        )
    lost, gained = [], []
    for problem in checkpoint:
        before = by_id[problem.problem_id]
        if REACHABLE[0] < pass_at_k(before.n, before.c, k) < REACHABLE[1]:
            change = _coverage(problem, k) - _coverage(before, k)
            lost.append(max(-change, 0.0))
            gained.append(max(change, 0.0))
    if not any(gained):
        is_coarse = not gained and min(problem.n for problem in base) < 2 * k
        raise EvaluationError(
            f"coverage_ratio_{k} is undefined: SFT gained on none of the {len(gained)} problems "
            f"that the base model solves sometimes",
            why="it divides by what was gained" if gained else "there is no such problem",
            fix=f"Draw {4 * k} samples or more: with hardly more than {k}, a problem's pass@{k} is "
            "0 or 1"
            if is_coarse
            else "",
        )
    return ratio(np.array(lost), np.array(gained))


def _coverage(problem: ProblemCounts, k: int) -> float:
    if problem.n == 0:
        raise EvaluationError(f"problem {problem.problem_id} has no scored sample")
    return 1.0 - float((1.0 - problem.c / problem.n) ** k)
