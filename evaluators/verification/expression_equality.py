"""Equality of two formulas, decided by their values instead of by simplification.

    1/2004! and 1/2006!                 exact fractions, however small
    cos(pi/7)cos(2pi/7)cos(3pi/7)       equal to 1/8 in 400 bits, relative to its size
    (x+1)^2 and x^2+2x+1                equal at random points (Schwartz 1980, Zippel 1979)
    ln(ab) and ln a + ln b              equal at points where both sides are real

math-verify rounds to six decimals, which makes all small numbers equal, and otherwise lets sympy
simplify, which may never end. This module compares the values of expressions
(`expression_values`), each in bounded time. Expressions without values (sums, integrals) are left
to math-verify.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from rlready.evaluators.answers.numerals import (
    Numeral,
    equal_numerals,
    is_rounding,
    read_number,
)
from rlready.evaluators.answers.structure import Structure, read_structure
from rlready.evaluators.verification.expression_values import (
    GUARD_BITS,
    PRECISION_BITS,
    PointEvaluator,
    TooLarge,
    Undefined,
    Unknown,
    compare_at,
    exact_value,
    is_undefined,
)
from rlready.evaluators.verification.formulas import parse_formula
from rlready.evaluators.verification.real_sets import RealSet, is_described_by, read_set, same_sets
from rlready.evaluators.verification.size_limits import nodes, parts_of, require_within_limits

# Largest exponent of a number that is compared with a decimal.
MAX_DECIMAL_BITS = 50_000
# A value within 1e-60 of a decimal with this many places counts as that decimal.
MAX_DECIMAL_PLACES = 40
# Two floor functions may differ only at points that no random point hits.
N_INTEGER_POINTS = 60
_DIRECTIONS = {"<": -1, "<=": -1, ">": 1, ">=": 1}
# Size of the points at which functions are compared, and whether some of them are negative.
_POINTS = (
    (1, False),
    (1, False),
    (1, True),
    (1, True),
    (1, True),
    (8, False),
    (8, True),
    (0.25, True),
)


# --- numbers ----------------------------------------------------------------------------------


def _same_constants(
    gold: Any, answer: Any, gold_number: Numeral | None, number: Numeral | None
) -> bool | None:
    """Return whether two closed expressions are the same number; None if it cannot decide."""
    exact, other_exact = exact_value(gold), exact_value(answer)
    one = gold_number or (None if exact is None else Numeral(exact))
    other = number or (None if other_exact is None else Numeral(other_exact))
    if one and other:
        return equal_numerals(one, other)
    same, is_sure, _ = compare_at(gold, answer, {})
    if same:
        return True if is_sure else None
    if gold_number:
        return _is_rounding_of(gold_number, answer)
    return number is not None and _is_rounding_of(number, gold)


def _is_rounding_of(decimal: Numeral, node: Any) -> bool:
    """Return whether a decimal is the correct rounding of a value without a finite decimal."""
    if decimal.digits is None:
        return False
    evaluator = PointEvaluator({})
    value, context = evaluator.value(node), evaluator.context
    if abs(context.im(value)) > context.ldexp(abs(value), GUARD_BITS - PRECISION_BITS):
        return False
    written = decimal.value
    size = context.mpf(written.numerator) / written.denominator
    if not value or not size or abs(context.mag(value) - context.mag(size)) > 1:
        return False
    mantissa, exponent = context.frexp(context.re(value))
    if abs(exponent) > MAX_DECIMAL_BITS:
        raise TooLarge(f"a decimal beside a number of {abs(exponent)} bits")
    digits = int(context.ldexp(mantissa, PRECISION_BITS))
    fraction = Fraction(digits) * Fraction(2) ** int(exponent - PRECISION_BITS)
    scaled = fraction * 10**MAX_DECIMAL_PLACES
    is_near_decimal = abs(scaled - round(scaled)) * 10**20 < 1
    return not is_near_decimal and is_rounding(written, decimal.digits, fraction)


# --- expressions with symbols -----------------------------------------------------------------


def _same_functions(gold: Any, answer: Any) -> bool | None:
    """Return whether two expressions are the same function; None if it cannot decide.

    They are compared at random points, positive and negative, where both are real. The chance of
    an accidental agreement is below 1e-50. If `i` occurs, or if they are never both real, they must
    agree as complex numbers.
    """
    names = sorted({symbol.name for node in (gold, answer) for symbol in node.free_symbols})
    n_real_points, agrees_complex, n_defined = 0, True, 0
    for k in range(len(_POINTS)):
        try:
            same, is_sure, n_real = compare_at(gold, answer, _point(names, k))
        except Undefined:
            continue
        n_defined += 1
        if n_real == 2 or "i" in names:
            n_real_points += 1
            if not same:
                return False if is_sure else None
        agrees_complex = agrees_complex and same
    if n_real_points < 2 and (n_defined < 2 or not agrees_complex):
        return None if n_defined == 0 else False
    return _agree_at_integers(gold, answer, names)


def _agree_at_integers(gold: Any, answer: Any, names: Sequence[str]) -> bool:
    """Return whether two expressions also agree at whole numbers, if one of them has steps."""
    steps = ("floor", "ceiling", "Mod")
    if not any(type(node).__name__ in steps for tree in (gold, answer) for node in nodes(tree)):
        return True
    for k in range(1, N_INTEGER_POINTS + 1):
        point: dict[str, complex] = {
            name: k if len(names) == 1 else random.Random(f"{name} {k}").randrange(1, 40)
            for name in names
        }
        try:
            if not compare_at(gold, answer, point)[0]:
                return False
        except Undefined:
            continue
    return True


def _point(names: Sequence[str], k: int) -> dict[str, complex]:
    size, is_mixed = _POINTS[k]
    point: dict[str, complex] = {}
    for index, name in enumerate(names):
        rng = random.Random(f"{name} {k}")
        # Odd numerators over 2^20 between 1/4 and 9/4: exact in binary, and never a special value.
        value = size * (2 * rng.randrange(1 << 17, 9 << 17) + 1) / (1 << 20)
        point[name] = -value if is_mixed and (index + k) % 2 == 0 else value
    if "i" in point:
        # The parser has no imaginary unit: `i` is a symbol. Expressions that are equal for every i
        # are also equal for the square root of -1.
        point["i"] = 1j
    return point


# --- formulas, equations and sets -------------------------------------------------------------


class FormulaAlgebra:
    """Compares formulas; parsed formulas are cached.

    The methods raise `TooLarge` for an expression beyond the limits.
    """

    def __init__(self) -> None:
        self._tree = functools.lru_cache(maxsize=2048)(parse_formula)

    def require_within_limits(self, text: str) -> None:
        """Check that every formula in a rewritten text is within the limits."""
        tree = self._tree(text)
        if tree is not None:
            require_within_limits(tree)
            return
        form = read_structure(text)
        if form.parts != (text,):
            for part in form.parts:
                self.require_within_limits(part)

    def same_formula(self, gold: str, answer: str) -> bool:
        """Return whether two formulas without words are equal."""
        from sympy import S

        gold_tree, tree = self._tree(gold), self._tree(answer)
        if gold_tree is None or tree is None:
            return False
        require_within_limits(gold_tree)
        require_within_limits(tree)
        if _is_unbounded(gold_tree) or _is_unbounded(tree):
            return gold_tree == tree and gold_tree in (S.Infinity, S.NegativeInfinity)
        if not (_is_scalar(gold_tree) and _is_scalar(tree)):
            return self._without_values(gold_tree, tree)
        try:
            if gold_tree.free_symbols or tree.free_symbols or _has_undefined(gold_tree, tree):
                same = _same_functions(gold_tree, tree)
            else:
                same = _same_constants(gold_tree, tree, read_number(gold), read_number(answer))
        except Unknown:
            same = None
        return self._without_values(gold_tree, tree) if same is None else same

    def _without_values(self, gold: Any, answer: Any) -> bool:
        """Return math-verify's verdict on two formulas that have no values, such as integrals."""
        if any(getattr(node, "is_Float", False) for tree in (gold, answer) for node in nodes(tree)):
            return bool(gold == answer)  # math-verify rounds decimals
        from math_verify import verify

        try:
            return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))
        except (MemoryError, RecursionError):
            raise
        except Exception:  # sympy raises errors of many types for a comparison without meaning
            return False

    def is_within(self, gold: str, answer: str, tolerance: Fraction) -> bool:
        """Return whether two closed formulas differ by no more than a tolerance."""
        one, other = self._number(gold), self._number(answer)
        if one is None or other is None:
            return False
        return bool(abs(one - other) * tolerance.denominator <= tolerance.numerator)

    def same_equation(self, gold: str, answer: str) -> bool:
        """Return whether one equation (or inequality) is a constant times the other."""
        forms = read_structure(gold), read_structure(answer)
        if any(form.kind != "relation" or len(form.parts) != 2 for form in forms):
            return False
        trees = self._scalar_trees([*forms[0].parts, *forms[1].parts])
        marks = forms[0].mark, forms[1].mark
        sign = _DIRECTIONS.get(marks[0], 0) * _DIRECTIONS.get(marks[1], 0)
        ends = [mark.endswith("=") if sign else mark for mark in marks]
        return trees is not None and ends[0] == ends[1] and _is_multiple(trees, sign)

    def _scalar_trees(self, texts: Sequence[str]) -> list[Any] | None:
        """Return the parsed formulas; None if one of them is not a finite scalar formula."""
        trees = [self._tree(text) for text in texts]
        if any(tree is None or not _is_scalar(tree) or _is_unbounded(tree) for tree in trees):
            return None
        for tree in trees:
            require_within_limits(tree)
        return trees

    def same_set(
        self, gold: Structure, answer: Structure, equal: Callable[[str, str], bool]
    ) -> bool | None:
        """Return whether two sets of real numbers are equal; None if one of them cannot be read.

        `equal` compares the ends of intervals.
        """
        one, other = read_set(gold, self._number), read_set(answer, self._number)
        if one is None:
            return None if other is None else self._is_solution(gold, other)
        return self._is_solution(answer, one) if other is None else same_sets(one, other, equal)

    def _is_solution(self, condition: Structure, solution: RealSet) -> bool | None:
        """Return whether a set solves an inequality in one variable; None for other conditions."""
        signs = condition.mark.split()
        if condition.kind != "relation" or not set(signs) <= {*_DIRECTIONS, "!="}:
            return None
        trees = self._scalar_trees(condition.parts)
        if trees is None:
            return None
        names = {symbol.name for tree in trees for symbol in tree.free_symbols}
        if len(names) != 1 or (solution.name and solution.name not in names):
            return None
        name = names.pop()
        return is_described_by(
            solution.pieces, lambda point: _holds(trees, signs, {name: point}), self._number
        )

    def _number(self, text: str) -> Any:
        """Return the real number that a closed formula equals; None if there is none."""
        trees = self._scalar_trees([text])
        if trees is None or trees[0].free_symbols:
            return None
        try:
            evaluator = PointEvaluator({})
            value = evaluator.value(trees[0])
        except Unknown:
            return None
        return evaluator.context.re(value) if not evaluator.context.im(value) else None


def _holds(trees: Sequence[Any], signs: Sequence[str], at: dict[str, Any]) -> bool | None:
    """Return whether a chain of inequalities holds at a point; None if a side is not real."""
    evaluator = PointEvaluator(at)
    context = evaluator.context
    try:
        sides = [evaluator.value(tree) for tree in trees]
    except Unknown:
        return None
    unit = context.mpf(2) ** (GUARD_BITS - PRECISION_BITS)
    if any(context.im(side) for side in sides):
        return None
    for sign, left, right in zip(signs, sides, sides[1:], strict=False):
        difference = context.re(left - right)
        is_equal = abs(difference) <= unit * max(1, abs(left), abs(right))
        holds = (
            not is_equal if sign == "!=" else (difference < 0) == (sign[0] == "<") and not is_equal
        )
        if not (holds or (is_equal and sign.endswith("=") and sign != "!=")):
            return False
    return True


def _is_scalar(tree: Any) -> bool:
    from sympy import Expr

    is_array = hasattr(tree, "shape")
    return isinstance(tree, Expr) and not is_array and tree.is_commutative is not False


def _is_unbounded(tree: Any) -> bool:
    """Return whether an infinite or undefined number occurs, other than as a limit."""
    from sympy import S

    bad = (S.Infinity, S.NegativeInfinity, S.ComplexInfinity, S.NaN)
    stack = [tree]
    while stack:
        node = stack.pop()
        if getattr(node, "is_Atom", False) and node in bad:
            return True
        if type(node).__name__ in ("Sum", "Product", "Integral", "Limit"):
            stack.append(node.args[0])
        else:
            stack.extend(parts_of(node))
    return False


def _has_undefined(*trees: Any) -> bool:
    return any(is_undefined(node) for tree in trees for node in nodes(tree))


def _is_multiple(trees: Sequence[Any], sign: int) -> bool:
    """Return whether one equation is a constant times the other.

    Args:
        trees: left and right side of one equation, then of the other.
        sign: sign that the constant must have; 0 allows both.
    """
    names = sorted({symbol.name for tree in trees for symbol in tree.free_symbols})
    if not names and not _has_undefined(*trees):
        return False
    ratios = []
    for k in range(len(_POINTS)):
        evaluator = PointEvaluator(_point(names, k), salt=k)
        try:
            left, right, other_left, other_right = (evaluator.value(tree) for tree in trees)
            ratios.append((left - right) / (other_left - other_right))
        except Undefined:
            continue
        except (Unknown, ArithmeticError):
            return False
    if len(ratios) < 2 or not ratios[0]:
        return False
    context = evaluator.context
    unit = max(abs(ratio) for ratio in ratios) * context.mpf(2) ** (GUARD_BITS - PRECISION_BITS)
    if any(abs(ratio - ratios[0]) > unit for ratio in ratios):
        return False
    return not sign or bool(sign * context.re(ratios[0]) > 0)
