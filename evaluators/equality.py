"""Whether two parsed answers are equal, by numbers rather than by simplification.

    1/2004! and 1/2006!                 exact fractions, however small
    cos(pi/7)cos(2pi/7)cos(3pi/7)       400 bits, compared to 1/8 relative to its size
    (x+1)^2 and x^2+2x+1                the same at random points (Schwartz 1980, Zippel 1979)

math-verify rounds to six decimals, so that all that is small is equal, and otherwise asks sympy
to simplify, which may take for ever. Here every operation is bounded: powers and factorials are
floating point with a wide exponent, never a long integer. What this module does not know
(derivatives, sums, sets against tuples, words) it leaves to math-verify by answering None.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rlready.evaluators.answers import equal_numbers, fewest_digits, significant_digits

if TYPE_CHECKING:
    from sympy import Basic

# Exact fractions up to this size (about 30,000 digits) cost milliseconds.
MAX_EXACT_BITS = 100_000
# Beyond 2^(10^9) a number is too large to be compared, and larger than any that can be.
MAX_EXPONENT_BITS = 1_000_000_000
# sin(10^50) needs 170 bits more than sin(1); far larger arguments need them without bound.
MAX_PERIODIC_BITS = 200
MAX_FACTORIAL_BITS = 40
PRECISION_BITS = 400
# Two numbers are one if they agree in all but these bits of the working precision.
GUARD_BITS = 60
# Intermediate results beyond 2^(10^5) are not given the bits to see a difference of one.
MAX_SCALE_BITS = 100_000
MAX_NODES = 600
# Sums and products of more terms are left unevaluated, as is an expansion to a higher power.
MAX_TERMS = 10_000
MAX_EXPANDED_POWER = 50
N_POINTS = 3


class TooLarge(Exception):
    """A number, or an amount of work, beyond the bounds of this module."""


class Unknown(Exception):
    """Something that this module does not evaluate."""


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


def exact_value(node: Any) -> Fraction | None:
    """The rational number that a closed expression is; None if it is none or too long to write."""
    if node.is_Rational:
        return Fraction(int(node.p), int(node.q))
    if node.is_Float:
        return Fraction(_decimal_text(node))
    name = type(node).__name__
    if name == "UnevaluatedExpr":
        return exact_value(node.args[0])
    if name not in ("Add", "Mul", "Pow", "factorial"):
        return None
    values = [exact_value(part) for part in node.args]
    if any(value is None for value in values):
        return None
    return _EXACT[name]([value for value in values if value is not None])


def _exact_sum(values: list[Fraction]) -> Fraction | None:
    return _short(sum(values, Fraction(0)))


def _exact_product(values: list[Fraction]) -> Fraction | None:
    product: Fraction | None = Fraction(1)
    for value in values:
        product = None if product is None else _short(product * value)
    return product


def _exact_power(values: list[Fraction]) -> Fraction | None:
    base, exponent = values
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        return None
    if _bits(base) * abs(exponent.numerator) > MAX_EXACT_BITS:
        return None
    return base ** int(exponent)


def _exact_factorial(values: list[Fraction]) -> Fraction | None:
    import math

    # log2(n!) < n log2 n
    n = values[0]
    if n.denominator != 1 or n < 0 or n.numerator * n.numerator.bit_length() > MAX_EXACT_BITS:
        return None
    return Fraction(math.factorial(n.numerator))


_EXACT: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "Add": _exact_sum,
    "Mul": _exact_product,
    "Pow": _exact_power,
    "factorial": _exact_factorial,
}


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _short(value: Fraction) -> Fraction | None:
    return value if _bits(value) <= MAX_EXACT_BITS else None


def _decimal_text(number: Any) -> str:
    # sympy keeps a decimal in binary with enough digits to give the written ones back.
    from sympy import sstr

    return str(sstr(number, full_prec=True))


def decimal_digits(node: Any) -> int | None:
    r"""Significant digits if the expression is one written decimal; None if it is exact.

    A decimal may have a sign, a power of ten or a percent sign. In a longer expression
    (`2.5 \sqrt 2`) a decimal is taken at its word.
    """
    if node.is_Float:
        digits = _decimal_text(node).split("e")[0].replace(".", "").lstrip("-0").rstrip("0")
        return significant_digits(digits)
    if not node.is_Mul:
        return None
    floats = [part for part in node.args if part.is_Float]
    rest = [part for part in node.args if not part.is_Float]
    if len(floats) == 1 and all(_is_scale(part) for part in rest):
        return decimal_digits(floats[0])
    return None


def _is_scale(node: Any) -> bool:
    is_power = node.is_Pow and node.base == 10 and node.exp.is_Integer
    return is_power or node == -1 or type(node).__name__ == "UnevaluatedExpr"


# --- floating point with a wide exponent ------------------------------------------------------

_PLAIN = ("exp", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "asin", "acos", "atan")
_PERIODIC = ("sin", "cos", "tan", "cot", "sec", "csc")
_CONSTANTS = {"Pi": "pi", "Exp1": "e", "GoldenRatio": "phi"}


class Evaluation:
    """Values of expressions at one point, and how large the numbers on the way were.

    Args:
        at: value of each symbol by name.
        precision: in bits.
    """

    def __init__(self, at: dict[str, complex], precision: int = PRECISION_BITS) -> None:
        import mpmath

        self.context = mpmath.MPContext()
        self.context.prec = precision
        self.at = at
        self.scale = 0  # largest |binary exponent| met

    def value(self, node: Any) -> Any:
        """The (complex) number that the expression is at this point.

        Raises:
            Unknown: for a node without a rule, or an undefined value.
            TooLarge: beyond the bounds.
        """
        result = self._value(node)
        if not self.context.isfinite(result):
            raise Unknown(str(type(node).__name__))
        if result:
            magnitude = abs(self.context.mag(result))
            if magnitude > MAX_EXPONENT_BITS:
                raise TooLarge("a number beyond the exponent's range")
            self.scale = max(self.scale, magnitude)
        return result

    def _value(self, node: Any) -> Any:
        context, name = self.context, type(node).__name__
        if getattr(node, "is_Rational", False):
            return context.mpf(int(node.p)) / int(node.q)
        if name == "Float":
            exact = Fraction(_decimal_text(node))
            return context.mpf(exact.numerator) / exact.denominator
        if name in _CONSTANTS:
            return +getattr(context, _CONSTANTS[name])
        if name == "ImaginaryUnit":
            return context.mpc(0, 1)
        if name == "Symbol" and node.name in self.at:
            return self.context.convert(self.at[node.name])
        rule = getattr(self, f"_{name}", None)
        if rule is None and name not in _PLAIN + _PERIODIC:
            raise Unknown(name)
        values = [self.value(part) for part in node.args]
        try:
            return rule(*values) if rule else self._function(name, *values)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise Unknown(f"{name}: {error}") from error

    def _function(self, name: str, x: Any) -> Any:
        if name in _PERIODIC and x and self.context.mag(x) > MAX_PERIODIC_BITS:
            raise TooLarge(f"{name} of a number of {self.context.mag(x)} bits")
        if name == "exp":
            return self._Pow(+self.context.e, x)
        return getattr(self.context, name)(x)

    def _Add(self, *values: Any) -> Any:
        return self.context.fsum(values)

    def _Mul(self, *values: Any) -> Any:
        return self.context.fprod(values)

    def _Pow(self, base: Any, exponent: Any) -> Any:
        context = self.context
        if not base:
            if context.re(exponent) <= 0:
                raise Unknown("0 to a power that is not positive")
            return context.zero
        if exponent and context.mag(exponent) > 64:
            raise TooLarge("an exponent of over 64 bits")
        logarithm = context.ln(abs(base))
        if abs(logarithm * context.re(exponent)) > MAX_EXPONENT_BITS:
            raise TooLarge("a power beyond the exponent's range")
        return context.power(base, exponent)

    def _log(self, x: Any, base: Any = None) -> Any:
        return self.context.ln(x) if base is None else self.context.ln(x) / self.context.ln(base)

    def _factorial(self, x: Any) -> Any:
        if x and self.context.mag(x) > MAX_FACTORIAL_BITS:
            raise TooLarge(f"a factorial of over {MAX_FACTORIAL_BITS} bits")
        return self.context.factorial(x)

    def _binomial(self, n: Any, k: Any) -> Any:
        for x in (n, k):
            if x and self.context.mag(x) > MAX_FACTORIAL_BITS:
                raise TooLarge(f"a binomial of over {MAX_FACTORIAL_BITS} bits")
        return self.context.binomial(n, k)

    def _Abs(self, x: Any) -> Any:
        return abs(x)

    def _floor(self, x: Any) -> Any:
        return self.context.floor(self._on_grid(x))

    def _ceiling(self, x: Any) -> Any:
        return self.context.ceil(self._on_grid(x))

    def _on_grid(self, x: Any) -> Any:
        # log_2(8) comes as 3 - 2^-399.
        nearest = self.context.nint(x)
        near = abs(x - nearest) < self.context.mpf(2) ** (GUARD_BITS - self.context.prec)
        return nearest if near else x

    def _UnevaluatedExpr(self, x: Any) -> Any:
        return x

    def _Max(self, *values: Any) -> Any:
        return max(values)

    def _Min(self, *values: Any) -> Any:
        return min(values)

    def _Mod(self, x: Any, modulus: Any) -> Any:
        if x and self.context.mag(x) > self.context.prec - GUARD_BITS:
            raise TooLarge("a remainder of a number longer than the precision")
        return x - modulus * self.context.floor(self._on_grid(x / modulus))


def _agree(one: Any, other: Any, at: dict[str, complex]) -> tuple[bool, bool]:
    """Whether two expressions have the same value at a point, and whether it is sure.

    Not sure are values that agree in their leading bits but are too long to see the last, and
    differences between complex values, where the branch may differ.
    """
    evaluation = Evaluation(at)
    one_value, other_value = evaluation.value(one), evaluation.value(other)
    if GUARD_BITS * 2 < evaluation.scale <= MAX_SCALE_BITS:
        evaluation = Evaluation(at, precision=PRECISION_BITS + 2 * evaluation.scale)
        one_value, other_value = evaluation.value(one), evaluation.value(other)
    context, is_exact = evaluation.context, evaluation.scale <= MAX_SCALE_BITS
    unit = context.mpf(2) ** (GUARD_BITS - context.prec)
    size = max(abs(one_value), abs(other_value))
    if is_exact:
        size = max(size, context.mpf(2) ** evaluation.scale)
    same = abs(one_value - other_value) <= unit * size
    is_real = not any(abs(context.im(value)) > unit * size for value in (one_value, other_value))
    return bool(same), is_exact if same else is_real


def equal_constants(gold: Any, answer: Any) -> bool | None:
    """Whether two closed expressions are the same number; None if this is not known.

    Raises:
        TooLarge, Unknown: as `Evaluation.value`.
    """
    one, other = exact_value(gold), exact_value(answer)
    digits = fewest_digits(decimal_digits(gold), decimal_digits(answer))
    if one is not None and other is not None:
        return equal_numbers(one, other, digits) or _equal_percent(gold, one, answer, other, digits)
    if digits is not None:
        return _equal_rounded(gold, answer, digits)
    same, is_sure = _agree(gold, answer, {})
    if is_sure or not same:
        return same
    return None


def _equal_percent(
    gold: Any, one: Fraction, answer: Any, other: Fraction, digits: int | None
) -> bool:
    in_percent = _is_percent(gold) and not _is_percent(answer)
    return in_percent and equal_numbers(one * 100, other, digits)


def _is_percent(node: Any) -> bool:
    return bool(node.is_Mul) and any(type(p).__name__ == "UnevaluatedExpr" for p in node.args)


def _equal_rounded(gold: Any, answer: Any, digits: int) -> bool:
    evaluation = Evaluation({})
    one, other = evaluation.value(gold), evaluation.value(answer)
    context = evaluation.context
    size = max(abs(one), abs(other))
    if not size:
        return True
    exponent = int(context.floor(context.log10(size)))
    return bool(abs(one - other) <= context.mpf(10) ** (exponent - digits + 1) / 2)


# --- expressions with symbols -----------------------------------------------------------------


def equal_functions(gold: Any, answer: Any) -> bool | None:
    """Whether two expressions agree as functions of their symbols; None if this is not known.

    Agreement at random points, positive and negative, is equality but for a chance below 1e-50.
    A difference between real values at positive points is a difference.
    """
    names = sorted({s.name for node in (gold, answer) for s in node.free_symbols})
    for k in range(N_POINTS):
        same, is_sure = _agree(gold, answer, _point(names, k, sign=1))
        if not same:
            return False if is_sure else None
    mixed = [_agree(gold, answer, _point(names, k, sign=-1)) for k in range(N_POINTS)]
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


def _all_equal(golds: Sequence[Basic], answers: Sequence[Basic]) -> bool | None:
    pairs = [equal(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    if any(same is False for same in pairs):
        return False
    return None if any(same is None for same in pairs) else True


def _same_members(golds: list[Basic], answers: list[Basic]) -> bool | None:
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
