"""Which parsed expressions end in reasonable time: bounds on nodes, terms, powers and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlready.evaluators.verification.expression_values import Evaluation, TooLarge, Unknown

MAX_NODES = 600
# Sums and products of more terms are left unevaluated, as is an expansion to a higher power.
MAX_TERMS = 10_000
MAX_EXPANDED_POWER = 50


def require_affordable(tree: Any) -> None:
    """Pass if algebra on the tree ends in reasonable time.

    Raises:
        TooLarge: for too many nodes, terms, or powers to expand, or a number out of bounds.
    """
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
            _try_value(node)


def _try_value(node: Any) -> None:
    try:
        Evaluation({}).value(node)
    except Unknown:
        return


def nodes(tree: Any) -> Iterator[Any]:
    """Each node of a tree, in no particular order."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(getattr(node, "_unsorted_args", None) or parts_of(node))


def parts_of(node: Any) -> Sequence[Any]:
    """The nodes directly below a node; those of a matrix are its elements."""
    # A matrix keeps its elements out of args.
    return list(node.flat()) if hasattr(node, "flat") else list(getattr(node, "args", ()))


def _n_terms(node: Any) -> float:
    n = 1.0
    for limits in node.args[1:]:
        lower, upper = limits.args[1:3]
        n *= float(upper - lower) + 1 if (upper - lower).is_number else 1.0
    return n
