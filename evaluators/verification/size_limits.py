"""Limits on the size of answers, as texts and as parsed expressions, so that every check ends."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rlready.evaluators.verification.expression_values import PointEvaluator, TooLarge, Unknown

# A grader would not read a text beyond these limits as an answer. The longest reference answer in
# six public benchmarks, several matrices, has 993 characters.
MAX_ANSWER_CHARS = 2_000
# The LaTeX parser's time grows with the square of the nesting: 3 s at 50 nested fractions.
MAX_NESTING = 24
MAX_DIGIT_RUN = 256
# The parser expands determinants and evaluates binomials on the spot: 6 by 6 symbols take a second.
MAX_DETERMINANT_CELLS = 30
# A binomial of five digits takes milliseconds; one of nine digits never ends.
MAX_BINOMIAL_DIGITS = 5
MAX_NODES = 600
# Sums and products of more terms are left unevaluated, as is an expansion to a higher power.
MAX_TERMS = 10_000
MAX_EXPANDED_POWER = 50


def over_cap(answer: str) -> str | None:
    """Return the limit that an answer exceeds, in words; None if it may be parsed."""
    if len(answer) > MAX_ANSWER_CHARS:
        return f"{len(answer)} characters, over {MAX_ANSWER_CHARS}"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"nesting of {deepest}, over {MAX_NESTING}"
    longest = max((len(run) for run in re.findall(r"[0-9]+", answer)), default=0)
    if longest > MAX_DIGIT_RUN:
        return f"{longest} digits in a row, over {MAX_DIGIT_RUN}"
    cells = answer.count("&")
    if cells > MAX_DETERMINANT_CELLS and re.search(r"\\det|vmatrix", answer):
        return f"a determinant beside {cells} column marks, over {MAX_DETERMINANT_CELLS}"
    if "binom" in answer and longest > MAX_BINOMIAL_DIGITS:
        return f"a binomial beside {longest} digits, over {MAX_BINOMIAL_DIGITS}"
    return None


def require_within_limits(tree: Any) -> None:
    """Raise `TooLarge` if algebra on an expression might not end in reasonable time."""
    for count, node in enumerate(nodes(tree)):
        if count == MAX_NODES:
            raise TooLarge(f"more than {MAX_NODES} nodes")
        name = type(node).__name__
        if name in ("Sum", "Product") and _n_terms(node) > MAX_TERMS:
            raise TooLarge(f"more than {MAX_TERMS} terms")
        if name == "Pow" and node.exp.is_Integer and node.base.free_symbols:
            if node.base.is_Add and abs(int(node.exp)) > MAX_EXPANDED_POWER:
                raise TooLarge(f"a sum to a power over {MAX_EXPANDED_POWER}")
        elif name in ("Pow", "factorial", "binomial", "exp", "Mod") and not node.free_symbols:
            with contextlib.suppress(Unknown):
                PointEvaluator({}).value(node)


def nodes(tree: Any) -> Iterator[Any]:
    """Yield each node of an expression, in no particular order."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(getattr(node, "_unsorted_args", None) or parts_of(node))


def parts_of(node: Any) -> Sequence[Any]:
    """Return the nodes directly below a node; for a matrix, its elements."""
    # The elements of a matrix are not in `args`.
    return list(node.flat()) if hasattr(node, "flat") else list(getattr(node, "args", ()))


def _n_terms(node: Any) -> float:
    n = 1.0
    for limits in node.args[1:]:
        lower, upper = limits.args[1:3]
        n *= float(upper - lower) + 1 if (upper - lower).is_number else 1.0
    return n
