"""The verdict on each completion: its final answer is compared with the reference answers (golds).

The rules, in this order:
1. A completion without an answer in the answer format (`answers.extraction`; by default a box) is
   UNPARSED. If only its reasoning contains a box, it is INCORRECT: it withdrew its answer.
2. Equal texts, plain numbers, fixed phrases and choices are decided without a child process
   (`answers.words`). The rule for numbers is in `answers.numerals`.
3. An answer over a size limit (length, nesting, digits; later: nodes, exponents, factorials) is
   INCORRECT if the gold is within the limit. To drop such answers would raise the accuracy of a
   model that rambles. If the gold is over a limit too, only the same text is CORRECT, and every
   other answer is UNSCORED.
4. Otherwise a child process compares lists, sets, intervals, relations, quantities and words
   (`comparison`). Formulas are compared by their values (`expression_equality`), and by math-verify
   if they have none. A text that the parser cannot read completely only equals the same text.
5. If the check runs out of time or memory, or its process dies, the answer is UNSCORED.

The child processes need a POSIX system. Each distinct pair of gold and answer is checked once.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rlready.evaluators.answers.extraction import extract, extract_boxed, is_withdrawn
from rlready.evaluators.answers.rewriting import rewrite
from rlready.evaluators.answers.words import bare_answer, settled
from rlready.evaluators.child_tasks import child_arguments
from rlready.evaluators.process_pool import Pool, TaskFailure
from rlready.evaluators.verification.accepted_answers import split_tolerance
from rlready.evaluators.verification.size_limits import over_cap
from rlready.registry.errors import ConfigError
from rlready.registry.records import AnswerFormat, Problem, Verdict

# Increased when a verdict may change.
RULES_VERSION = "3"
_DECIDES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")

MAX_WORKERS = 8
# Time between the alarm inside a child process and the kill from outside.
GRACE_S = 2.0
# Characters of an extracted answer that `check` returns.
MAX_EXTRACTED_CHARS = 500
_MAX_LISTED_GOLDS = 5

# gmpy2 does not react to signals while it computes; Python's integers do. The hash seed fixes the
# order of symbols, and with it the results of sympy, in every run.
_WORKER_ENVIRONMENT = {
    "SYMPY_GROUND_TYPES": "python",
    "MPMATH_NOGMPY": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

Result = bool | TaskFailure


@functools.cache
def checker_version() -> str:
    """Return the versions of our rules and libraries; verdicts of two versions are never mixed."""
    libraries = " ".join(f"{name} {version(name)}" for name in _DECIDES)
    return f"rlready-rules {RULES_VERSION} {libraries}"


@dataclass(frozen=True)
class CheckedAnswer:
    """The verdict on one completion, and its answer (at most 500 characters, None without one)."""

    verdict: Verdict
    extracted: str | None


class Verifier:
    r"""Checks completions in child processes, which start when they are first needed.

    Any thread may call it; calls wait for each other. Close it, or use it in `with`.

    Args:
        n_workers: number of child processes; by default one per usable core, at most 8.
        timeout_s: time limit for one answer and one gold. Beyond it the answer is UNSCORED.
        memory_mb: limit on the address space of a child process.

    Example:
        with Verifier() as verifier:
            (checked,) = verifier.check([(("1/2",), r"... so \boxed{0.5}.")])
        checked.verdict  # Verdict.CORRECT
    """

    def __init__(
        self, *, n_workers: int | None = None, timeout_s: float = 5.0, memory_mb: int = 4096
    ) -> None:
        for name, value in (("workers", n_workers), ("timeout", timeout_s), ("memory", memory_mb)):
            if value is not None and not value > 0:
                raise ConfigError(f"verifier {name} is {value}", fix="Give a positive number")
        self._results: dict[tuple[str, str], Result] = {}
        self._lock = threading.Lock()
        self._pool = Pool(
            child_arguments("rlready.evaluators.verification.judge:Judge", timeout_s, memory_mb),
            environment=_WORKER_ENVIRONMENT,
            n_workers=n_workers or min(MAX_WORKERS, _usable_cores()),
            timeout_s=timeout_s + GRACE_S,
        )

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes. A later call starts new ones."""
        with self._lock:
            self._pool.close()

    def check(
        self,
        items: Sequence[tuple[tuple[str, ...], str]],
        on_progress: Callable[[int], None] | None = None,
        answer_format: AnswerFormat = "boxed",
    ) -> list[CheckedAnswer]:
        """Return the result for each item, in the order of the items.

        Args:
            items: the golds of a problem, and a completion. It is CORRECT if its answer equals
                any of them.
            on_progress: called from time to time with the number of newly finished items.
            answer_format: where the answer stands in a completion. An answer that two formats
                find is only checked once.

        Raises:
            EvaluationError: if no child process can be started.
        """
        with self._lock:
            extracted = [extract(text, answer_format) for _, text in items]
            open_pairs: dict[int, set[tuple[str, str]]] = {}
            users: dict[tuple[str, str], list[int]] = {}
            for index, ((golds, _), answer) in enumerate(zip(items, extracted, strict=True)):
                for pair in {(gold, answer) for gold in golds if answer is not None}:
                    if pair not in self._results:
                        result = judge_without_algebra(*pair)
                        if result is None:
                            open_pairs.setdefault(index, set()).add(pair)
                            users.setdefault(pair, []).append(index)
                        else:
                            self._results[pair] = result
            report = on_progress or (lambda _: None)
            report(len(items) - len(open_pairs))
            for pair in self._judge_all(list(users)):
                for index in users[pair]:
                    open_pairs[index].discard(pair)
                report(sum(not open_pairs[index] for index in users[pair]))
            return [
                self._checked(golds, text, answer)
                for (golds, text), answer in zip(items, extracted, strict=True)
            ]

    def unreadable_golds(self, problems: Sequence[Problem]) -> list[tuple[str, str]]:
        """Return problem id and text of each gold that is unparsable or does not equal itself."""
        golds = [(problem.id, gold) for problem in problems for gold in problem.answers]
        distinct = list(dict.fromkeys(gold for _, gold in golds))
        # Unbalanced braces can be parsed as text, but they cannot occur in a box.
        boxes = {gold: extract_boxed(f"\\boxed{{{gold}}}") for gold in distinct}
        wrong = {gold for gold, box in boxes.items() if box is None}
        distinct = [gold for gold in distinct if gold not in wrong]
        with self._lock:
            accepted = dict(self._pool.run([("gold", gold, gold) for gold in distinct]))
        wrong |= {distinct[i] for i, result in accepted.items() if result is not True}
        return [(problem, gold) for problem, gold in golds if gold in wrong]

    def _judge_all(self, pairs: Sequence[tuple[str, str]]) -> Any:
        """Yield each pair when it is judged."""
        ordered = sorted(pairs)  # equal golds are neighbours, and so are parsed once
        for index, result in self._pool.run([("answer", *pair) for pair in ordered]):
            self._results[ordered[index]] = (
                TaskFailure(result) if isinstance(result, str) else result
            )
            yield ordered[index]

    def _checked(self, golds: Sequence[str], text: str, answer: str | None) -> CheckedAnswer:
        if answer is None:
            verdict = Verdict.INCORRECT if is_withdrawn(text) else Verdict.UNPARSED
            return CheckedAnswer(verdict, None)
        results = [self._results[gold, answer] for gold in golds]
        is_failed = any(isinstance(result, TaskFailure) for result in results)
        verdict = Verdict.UNSCORED if is_failed else Verdict.INCORRECT
        verdict = Verdict.CORRECT if True in results else verdict
        return CheckedAnswer(verdict, answer[:MAX_EXTRACTED_CHARS])


def list_golds(golds: Sequence[tuple[str, str]]) -> str:
    """Return the first few golds with their problems, for a message."""
    shown = "; ".join(
        f"problem {problem} has {gold[:80]!r}" for problem, gold in golds[:_MAX_LISTED_GOLDS]
    )
    return shown + ("; ..." if len(golds) > _MAX_LISTED_GOLDS else "")


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def judge_without_algebra(gold: str, answer: str) -> Result | None:
    """Return whether two answers are equal by text, limits and plain numbers; None for algebra."""
    if gold.strip() == answer.strip():
        return True
    if gold_excess := over_cap(gold):
        return TaskFailure(f"the gold has {gold_excess}")
    if over_cap(answer):
        return False
    gold, tolerance = split_tolerance(gold)
    if gold.strip() == answer.strip():
        return True
    return settled(bare_answer(rewrite(gold)), bare_answer(rewrite(answer)), tolerance)
