"""Values of parsed expressions: exact fractions, or floating-point numbers with a wide exponent.

Every operation is bounded. `2^{10^9}` is a float with an exponent of a billion, never an integer of
a billion bits, and a number beyond that range raises `TooLarge` at once. Expressions without a rule
(sums, derivatives, words) raise `Unknown`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

# Exact fractions up to this size (about 30,000 digits) cost milliseconds.
MAX_EXACT_BITS = 100_000
# Numbers beyond 2^(10^9) are not compared.
MAX_EXPONENT_BITS = 1_000_000_000
# sin(10^50) needs 170 bits more than sin(1). For larger arguments the need has no bound.
MAX_PERIODIC_BITS = 200
MAX_FACTORIAL_BITS = 40
PRECISION_BITS = 400
# Two numbers are equal if they agree in all but these last bits of the working precision.
GUARD_BITS = 60
# For intermediate results up to 2^(10^5) the precision is raised until a difference of 1 shows.
MAX_SCALE_BITS = 100_000


class TooLarge(Exception):
    """A number, or an amount of work, beyond the bounds of this module."""


class Unknown(Exception):
    """An expression that this module does not evaluate."""


class Undefined(Unknown):
    """An expression without a value at one point: 1/x at 0."""


# --- exact ------------------------------------------------------------------------------------


def exact_value(node: Any) -> Fraction | None:
    """Return the rational number that a closed expression equals; None if it has no short one."""
    if node.is_Rational:
        return Fraction(int(node.p), int(node.q))
    if node.is_Float:
        return _decimal(node)
    name = type(node).__name__
    if name not in ("UnevaluatedExpr", "Add", "Mul", "Pow", "factorial"):
        return None
    exact = [value for part in node.args if (value := exact_value(part)) is not None]
    if len(exact) < len(node.args):
        return None
    if name == "Pow":
        base, exponent = exact
        is_whole = exponent.denominator == 1 and (base != 0 or exponent > 0)
        is_long = _bits(base) * abs(exponent.numerator) > MAX_EXACT_BITS
        return base ** int(exponent) if is_whole and not is_long else None
    if name == "factorial":
        n = exact[0].numerator
        # log2(n!) < n log2 n
        is_whole = exact[0].denominator == 1 and n >= 0
        is_short = n * n.bit_length() <= MAX_EXACT_BITS
        return Fraction(math.factorial(n)) if is_whole and is_short else None
    if name == "Mul":
        product = Fraction(1)
        for value in exact:
            product *= value
            if _bits(product) > MAX_EXACT_BITS:
                return None
        return product
    total = sum(exact, Fraction(0))
    return total if name == "UnevaluatedExpr" or _bits(total) <= MAX_EXACT_BITS else None


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _decimal(number: Any) -> Fraction:
    # sympy stores a decimal in binary, with enough digits to restore the written ones.
    from sympy import sstr

    return Fraction(sstr(number, full_prec=True))


# --- floating point with a wide exponent ------------------------------------------------------

_PLAIN = ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "asin", "acos", "atan")
_PERIODIC = ("sin", "cos", "tan", "cot", "sec", "csc")
_CONSTANTS = {"Pi": "pi", "Exp1": "e", "GoldenRatio": "phi"}


class PointEvaluator:
    """Evaluation of expressions at one point.

    Args:
        at: value of each symbol.
        precision: working precision, in bits.
        salt: changes the values of functions that are only names, such as `f(2)`.
    """

    def __init__(
        self, at: dict[str, complex], precision: int = PRECISION_BITS, salt: int = 0
    ) -> None:
        import mpmath

        self.context = mpmath.MPContext()
        self.context.prec = precision
        self.at, self._salt = at, salt
        self.scale = 0
        """Largest absolute binary exponent among all intermediate results."""
        context = self.context
        self._rules: dict[str, Callable[..., Any]] = {
            "Add": lambda *values: context.fsum(values),
            "Mul": lambda *values: context.fprod(values),
            "Pow": self._power,
            "log": lambda x, base=None: context.ln(x) / (1 if base is None else context.ln(base)),
            "factorial": lambda x: context.factorial(self._bounded(x)),
            "binomial": lambda n, k: context.binomial(self._bounded(n), self._bounded(k)),
            "Abs": abs,
            "floor": lambda x: context.floor(self._on_grid(x)),
            "ceiling": lambda x: context.ceil(self._on_grid(x)),
            "UnevaluatedExpr": lambda x: x,
            "Max": max,
            "Min": min,
            "Mod": self._remainder,
            "exp": lambda x: self._power(+context.e, x),
            **{name: getattr(context, name) for name in _PLAIN},
            **{name: partial(self._periodic, name) for name in _PERIODIC},
        }

    def value(self, node: Any) -> Any:
        """Return the (complex) value at this point.

        Raises:
            Unknown: if the expression has no value here.
            TooLarge: if the value is beyond the limits.
        """
        result = self._value(node)
        if not self.context.isfinite(result):
            raise Undefined(str(type(node).__name__))
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
            exact = _decimal(node)
            return context.mpf(exact.numerator) / exact.denominator
        if name in _CONSTANTS:
            return +getattr(context, _CONSTANTS[name])
        if name == "ImaginaryUnit":
            return context.mpc(0, 1)
        if name == "Symbol" and node.name in self.at:
            return context.convert(self.at[node.name])
        values = [self.value(part) for part in node.args]
        if is_undefined(node):
            return self._undefined(name, values)
        if name not in self._rules:
            raise Unknown(name)
        if name == "Pow" and not context.im(values[0]) and context.re(values[0]) < 0:
            exponent = exact_value(node.exp) if node.exp.is_number else None
            if exponent and exponent.denominator > 1 and exponent.denominator % 2:
                # Take the real root: the cube root of -8 is -2.
                sign = -1 if exponent.numerator % 2 else 1
                return sign * self._power(-values[0], values[1])
        try:
            return self._rules[name](*values)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise Undefined(f"{name}: {error}") from error

    def _periodic(self, name: str, x: Any) -> Any:
        if x and self.context.mag(x) > MAX_PERIODIC_BITS:
            raise TooLarge(f"{name} of a number of {self.context.mag(x)} bits")
        return getattr(self.context, name)(x)

    def _undefined(self, name: str, values: list[Any]) -> Any:
        """Return a random number for `f(2)`, which only depends on the name and the arguments."""
        rounded = [self.context.nstr(self.context.chop(value, 1e-40), 40) for value in values]
        rng = random.Random(f"{name} {rounded} {self._salt}")
        return 1 + self.context.mpf(rng.getrandbits(200)) / self.context.mpf(2) ** 200

    def _power(self, base: Any, exponent: Any) -> Any:
        context = self.context
        if not base:
            if context.re(exponent) <= 0:
                raise Undefined("0 to a power that is not positive")
            return context.zero
        if exponent and context.mag(exponent) > 64:
            raise TooLarge("an exponent of over 64 bits")
        logarithm = context.ln(abs(base))
        if abs(logarithm * context.re(exponent)) > MAX_EXPONENT_BITS:
            raise TooLarge("a power beyond the exponent's range")
        return context.power(base, exponent)

    def _bounded(self, x: Any) -> Any:
        """Return the argument of a factorial or binomial if it is not too large."""
        if x and self.context.mag(x) > MAX_FACTORIAL_BITS:
            raise TooLarge(f"a factorial or binomial of over {MAX_FACTORIAL_BITS} bits")
        return x

    def _on_grid(self, x: Any) -> Any:
        # log_2(8) is computed as 3 - 2^-399.
        nearest = self.context.nint(x)
        near = abs(x - nearest) < self.context.mpf(2) ** (GUARD_BITS - self.context.prec)
        return nearest if near else x

    def _remainder(self, x: Any, modulus: Any) -> Any:
        if x and self.context.mag(x) > self.context.prec - GUARD_BITS:
            raise TooLarge("a remainder of a number longer than the precision")
        return x - modulus * self.context.floor(self._on_grid(x / modulus))


def is_undefined(node: Any) -> bool:
    """Return whether a node is a function without a definition, such as `f(5)`."""
    from sympy.core.function import AppliedUndef

    return isinstance(node, AppliedUndef)


def compare_at(one: Any, other: Any, at: dict[str, complex]) -> tuple[bool, bool, int]:
    """Compare two expressions at a point.

    Returns:
        Whether they agree, whether that is certain, and how many of the two are real. It is not
        certain if the values agree in their leading bits but are too long to compare the last.
    """
    evaluator = PointEvaluator(at)
    one_value, other_value = evaluator.value(one), evaluator.value(other)
    if GUARD_BITS * 2 < evaluator.scale <= MAX_SCALE_BITS:
        evaluator = PointEvaluator(at, precision=PRECISION_BITS + 2 * evaluator.scale)
        one_value, other_value = evaluator.value(one), evaluator.value(other)
    context, is_exact = evaluator.context, evaluator.scale <= MAX_SCALE_BITS
    unit = context.mpf(2) ** (GUARD_BITS - context.prec)
    size = max(abs(one_value), abs(other_value))
    if is_exact:
        size = max(size, context.mpf(2) ** evaluator.scale)
    same = bool(abs(one_value - other_value) <= unit * size)
    n_real = sum(bool(abs(context.im(v)) <= unit * size) for v in (one_value, other_value))
    return same, is_exact or not same, n_real
