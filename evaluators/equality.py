"""Whether two parsed answers are equal, by numbers rather than by simplification.

    1/2004! and 1/2006!                 exact fractions, however small
    cos(pi/7)cos(2pi/7)cos(3pi/7)       400 bits, compared to 1/8 relative to its size
    (x+1)^2 and x^2+2x+1                the same at random points (Schwartz 1980, Zippel 1979)

math-verify rounds to six decimals, so that all that is small is equal, and otherwise asks sympy
to simplify, which may take for ever. Here expressions are compared by their `values`, each in
bounded time. What this module does not know (derivatives, sums, sets against tuples, words) it
leaves to math-verify by answering None.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from rlready.evaluators.answers import equal_numbers
from rlready.evaluators.values import (
    GUARD_BITS,
    PRECISION_BITS,
    Evaluation,
    TooLarge,
    Unknown,
    agree,
    decimal_digits,
    exact_value,
)

MAX_NODES = 600
# Sums and products of more terms are left unevaluated, as is an expansion to a higher power.
MAX_TERMS = 10_000
MAX_EXPANDED_POWER = 50
N_POINTS = 3
# Numbers that are compared to a decimal are written out to this size.
MAX_DECIMAL_BITS = 50_000


# --- the form of an expression ----------------------------------------------------------------


def require_affordable(tree: Any) -> None:
    """Pass if algebra on the tree ends in reasonable time.

    Raises:
        TooLarge: for too many nodes, terms, or powers to expand, or a number out of bounds.
    """
    for count, node in enumerate(_nodes(tree)):
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


def _nodes(tree: Any) -> Iterator[Any]:
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(getattr(node, "_unsorted_args", None) or _parts(node))


def _parts(node: Any) -> Sequence[Any]:
    # A matrix keeps its elements out of args.
    return list(node.flat()) if hasattr(node, "flat") else list(getattr(node, "args", ()))


def _n_terms(node: Any) -> float:
    n = 1.0
    for limits in node.args[1:]:
        lower, upper = limits.args[1:3]
        n *= float(upper - lower) + 1 if (upper - lower).is_number else 1.0
    return n


# --- numbers ----------------------------------------------------------------------------------


def equal_constants(gold: Any, answer: Any) -> bool | None:
    """Whether two closed expressions are the same number; None if this is not known.

    Raises:
        TooLarge, Unknown: as `Evaluation.value`.
    """
    digits = decimal_digits(gold), decimal_digits(answer)
    one, other = exact_value(gold), exact_value(answer)
    if one is not None and other is not None:
        in_percent = _is_percent(gold) and not _is_percent(answer)
        return equal_numbers(one, other, *digits) or (
            in_percent and equal_numbers(one * 100, other, *digits)
        )
    if digits != (None, None):
        if _differ_in_size(gold, answer):
            return False
        one, other = _real_fraction(gold, one), _real_fraction(answer, other)
        return one is not None and other is not None and equal_numbers(one, other, *digits)
    same, is_sure = agree(gold, answer, {})
    return same if is_sure or not same else None


def _differ_in_size(gold: Any, answer: Any) -> bool:
    evaluation = Evaluation({})
    one, other = evaluation.value(gold), evaluation.value(answer)
    if not one or not other:
        return bool(one) != bool(other)
    return bool(abs(evaluation.context.mag(one) - evaluation.context.mag(other)) > 2)


def _real_fraction(node: Any, exact: Fraction | None) -> Fraction | None:
    """The number with far more digits than any decimal has; None if it is not real."""
    if exact is not None:
        return exact
    evaluation = Evaluation({})
    value, context = evaluation.value(node), evaluation.context
    if abs(context.im(value)) > context.ldexp(abs(value), GUARD_BITS - PRECISION_BITS):
        return None
    mantissa, exponent = context.frexp(context.re(value))
    if abs(exponent) > MAX_DECIMAL_BITS:
        raise TooLarge(f"a decimal beside a number of {abs(exponent)} bits")
    digits = int(context.ldexp(mantissa, PRECISION_BITS))
    return Fraction(digits) * Fraction(2) ** int(exponent - PRECISION_BITS)


def _is_percent(node: Any) -> bool:
    return bool(node.is_Mul) and any(type(p).__name__ == "UnevaluatedExpr" for p in node.args)


# --- expressions with symbols -----------------------------------------------------------------


def equal_functions(gold: Any, answer: Any) -> bool | None:
    """Whether two expressions agree as functions of their symbols; None if this is not known.

    Agreement at random points, positive and negative, is equality but for a chance below 1e-50.
    A difference between real values at positive points is a difference.
    """
    names = sorted({s.name for node in (gold, answer) for s in node.free_symbols})
    for k in range(N_POINTS):
        same, is_sure = agree(gold, answer, _point(names, k, sign=1))
        if not same:
            return False if is_sure else None
    mixed = [agree(gold, answer, _point(names, k, sign=-1)) for k in range(N_POINTS)]
    return True if all(same for same, _ in mixed) else None


def _point(names: Sequence[str], k: int, sign: int) -> dict[str, complex]:
    point: dict[str, complex] = {}
    for index, name in enumerate(names):
        rng = random.Random(f"{name} {k} {sign}")
        # Odd numerators over 2^20: exact in binary, between 1/4 and 9/4, and no special value.
        value = (2 * rng.randrange(1 << 17, 9 << 17) + 1) / (1 << 20)
        point[name] = -value if sign < 0 and (index + k) % 2 == 0 else value
    if "i" in point:
        # math-verify has no imaginary unit: `i` is a symbol. What is equal for every i is equal
        # for the square root of -1 too.
        point["i"] = 1j
    return point


# --- structures -------------------------------------------------------------------------------


def equal(gold: Any, answer: Any) -> bool | None:
    """Whether two parsed answers are equal; None if this module does not know.

    Raises:
        TooLarge: if a number is out of bounds.
    """
    gold, answer = _as_gold_has_it(gold, answer)
    kinds = type(gold).__name__, type(answer).__name__
    if hasattr(gold, "flat") and hasattr(answer, "flat"):
        return gold.shape == answer.shape and _all_equal(gold.flat(), answer.flat())
    if kinds == ("Tuple", "Tuple"):
        return len(gold) == len(answer) and _all_equal(gold.args, answer.args)
    if kinds == ("FiniteSet", "FiniteSet"):
        return _same_members(list(gold.args), list(answer.args))
    if kinds == ("Interval", "Interval"):
        same_ends = (gold.left_open, gold.right_open) == (answer.left_open, answer.right_open)
        return same_ends and _all_equal((gold.start, gold.end), (answer.start, answer.end))
    if kinds == ("Equality", "Equality"):
        return _equal_equations(gold, answer)
    if getattr(gold, "is_Relational", False) or getattr(answer, "is_Relational", False):
        return None
    return _equal_scalars(gold, answer)


def _equal_scalars(gold: Any, answer: Any) -> bool | None:
    if not all(getattr(node, "is_commutative", False) for node in (gold, answer)):
        return None
    if not all(type(node).__module__.startswith("sympy.") for node in (gold, answer)):
        return None
    # One symbol may be a word (`\text{odd}`) that the other side spells as a product.
    if gold.is_Symbol or answer.is_Symbol:
        return None
    try:
        if gold.free_symbols or answer.free_symbols:
            return equal_functions(gold, answer)
        return equal_constants(gold, answer)
    except Unknown:
        return None


def _as_gold_has_it(gold: Any, answer: Any) -> tuple[Any, Any]:
    """Both without "x =", where only one has it, and a chain of equations cut to its ends."""
    gold, answer = _ends(gold), _ends(answer)
    if _is_equation(answer) and not _is_equation(gold):
        return gold, answer.rhs
    if _is_equation(gold) and gold.lhs.is_Symbol and not _is_relation(answer):
        return gold.rhs, answer
    return gold, answer


def _ends(node: Any) -> Any:
    parts = getattr(node, "_unsorted_args", ())
    if type(node).__name__ == "And" and parts and all(_is_equation(part) for part in parts):
        return type(parts[0])(parts[0].lhs, parts[-1].rhs, evaluate=False)
    return node


def _is_equation(node: Any) -> bool:
    return type(node).__name__ == "Equality"


def _is_relation(node: Any) -> bool:
    return bool(getattr(node, "is_Relational", False)) or type(node).__name__ == "And"


def _equal_equations(gold: Any, answer: Any) -> bool | None:
    if gold.lhs == answer.lhs:
        return equal(gold.rhs, answer.rhs)
    if gold.lhs.is_Symbol and answer.lhs.is_Symbol:
        return None
    return _is_multiple(gold, answer)


def _is_multiple(gold: Any, answer: Any) -> bool | None:
    """Whether one equation is a constant times the other; None if it is not."""
    try:
        one, other = gold.lhs - gold.rhs, answer.lhs - answer.rhs
        names = sorted({s.name for node in (one, other) for s in node.free_symbols})
        ratios = []
        for k in range(N_POINTS):
            evaluation = Evaluation(_point(names, k, sign=-1))
            ratios.append(evaluation.value(one) / evaluation.value(other))
    except (Unknown, ArithmeticError, TypeError):
        return None
    largest = max(abs(ratio) for ratio in ratios)
    unit = largest * evaluation.context.mpf(2) ** (GUARD_BITS - PRECISION_BITS)
    is_constant = largest and all(abs(ratio - ratios[0]) <= unit for ratio in ratios)
    return True if is_constant else None


def _all_equal(golds: Sequence[Any], answers: Sequence[Any]) -> bool | None:
    pairs = [equal(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    if any(same is False for same in pairs):
        return False
    return None if any(same is None for same in pairs) else True


def _same_members(golds: list[Any], answers: list[Any]) -> bool | None:
    """Whether two finite sets hold the same members, in any order."""
    if len(golds) != len(answers):
        return False
    for gold in golds:
        found = [equal(gold, answer) for answer in answers]
        if True in found:
            del answers[found.index(True)]
        else:
            return None if None in found else False
    return True
