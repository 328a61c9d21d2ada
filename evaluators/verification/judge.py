"""The work of a child process of the answer check: algebra on one gold and one answer at a time.

The parent's environment variables turn gmpy2 off, so that long computations can be interrupted.
"""

from __future__ import annotations

import importlib
import logging
import warnings

from rlready.evaluators.answers.rewriting import rewrite
from rlready.evaluators.child_tasks import limit_memory
from rlready.evaluators.verification.accepted_answers import split_tolerance
from rlready.evaluators.verification.comparison import Comparison
from rlready.evaluators.verification.expression_equality import FormulaAlgebra
from rlready.evaluators.verification.expression_values import TooLarge
from rlready.evaluators.verification.size_limits import over_cap


class Judge:
    """Algebra on one gold and one answer, in the main thread of a child process."""

    def __init__(self, memory_mb: int) -> None:
        limit_memory(memory_mb << 20)
        # Import now: it takes a second, which would count as time of the first task.
        importlib.import_module("math_verify")
        # math-verify logs every timeout and every input that it cannot parse.
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        self._algebra = FormulaAlgebra()

    def __call__(self, task: str, gold: str, answer: str) -> bool | str:
        """Return whether the answer is right, or the reason why the gold cannot be judged.

        For the task "answer" both texts are within the limits on texts. The task "gold" checks
        whether a gold can be compared with itself.
        """
        if task == "gold" and (excess := over_cap(gold)):
            return excess
        gold, tolerance = split_tolerance(gold)
        gold = rewrite(gold)
        gold_excess = self._excess(gold)
        if task == "gold":
            return gold_excess or bool(gold)
        if gold_excess:
            return f"the gold has {gold_excess}"
        answer = rewrite(answer)
        if self._excess(answer):
            return False
        try:
            return Comparison(self._algebra, tolerance).equal(gold, answer)
        except TooLarge:
            pass
        # If the gold can be compared with itself, the answer is too large.
        try:
            self._algebra.same_formula(gold, gold)
        except TooLarge as error:
            return f"too large to compare: {error}"
        return False

    def _excess(self, text: str) -> str | None:
        """Return the limit that the algebra of a rewritten text exceeds; None if there is none."""
        try:
            self._algebra.require_within_limits(text)
        except TooLarge as error:
            return str(error)
        return None
