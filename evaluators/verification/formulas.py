r"""Parsing of formulas; a text that the parser would only read in part is not a formula.

    parse_formula(r"\frac{x}{2}")           ->  x/2
    parse_formula(r"3 \text{hours}")        ->  None: a word
    parse_formula(r"f'(x)")                 ->  None: the parser would drop the prime

math-verify's own preparation drops everything after the first `\text`, rewrites words and signs,
and cuts chains of equations. It is not used here: the parser only gets texts of known tokens, and
its grammar accepts a text completely or not at all.
"""

from __future__ import annotations

import re
from typing import Any

FUNCTION_NAMES = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth "
    "sech csch arsinh arcosh artanh ln log lg exp"
)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma "
    "tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega "
    "vartheta"
)
_OTHERS = (
    "frac sqrt cdot times div infty binom lfloor rfloor lceil rceil sum prod int lim to max min "
    "gcd lcm"
)
_COMMANDS = "|".join(f"{FUNCTION_NAMES} {_GREEK} {_OTHERS}".split())
# Possessive, because a text that does not match would otherwise take exponential time.
_TOKENS = re.compile(
    rf"(?:\\(?:{_COMMANDS})(?![A-Za-z])|\\%|[0-9]++\.?+[0-9]*+|\.[0-9]++|[A-Za-z]"
    r"|[-+*/^_(){}|!\[\],\s])++"
)
_DETERMINANT = re.compile(r"\\(?:begin|end)\{vmatrix\}|&|\\\\")
_FUNCTION = rf"\\(?:{'|'.join(FUNCTION_NAMES.split())})(?![a-z])"
# The parser reads `\sin x \cdot \cos x` as the sine of a product.
_TIMES_BEFORE_FUNCTION = re.compile(rf"(?:\\cdot|\\times|\*)\s*(?={_FUNCTION})")
# Indices that the grammar accepts and drops: 5_3, |x|_2 or \sin_2 x. It also reads 5!! as (5!)!.
_DROPPED = re.compile(r"(?<![A-Za-z\s])\s*_|!\s*!")
# The parser treats letters as polynomials: gcd(a, b) becomes 1 and lcm(a, b) becomes ab.
_DIVISOR_OF_LETTERS = re.compile(
    rf"\\(?:gcd|lcm)(?![a-z]).*?(?:(?<![A-Za-z\\])[A-Za-z]|\\(?:{'|'.join(_GREEK.split())})(?![a-z]))"
)
_INDEXED_COMMAND = re.compile(r"\\([A-Za-z]+)\s*_")
_INDEXED = frozenset(f"{_GREEK} log ln lg sum prod int lim max min".split())
# 2\frac{1}{3} is a sum. All other numbers side by side are a product, but the parser adds them:
# 2(3) becomes 5.
_MIXED = re.compile(
    r"(?<![\^_}\w.)])([0-9]+)\s*(\\frac\{\s*([0-9]+)\s*\}\{\s*([0-9]+)\s*\})(?!\s*[\^_])"
)
_SIDE_BY_SIDE = re.compile(
    r"(?:(?<![\^_0-9.])[0-9]+|[0-9.]*\.[0-9]+|\))\s*(?=\(|\\frac|(?<=\))[0-9])"
)
_AFTER_BRACE = re.compile(r"(?<=\})\s*(?=[0-9])")
_LOWER_LIMIT = re.compile(r"(?<=\\sum)\s*_\{\s*[a-z]\s*=|(?<=\\prod)\s*_\{\s*[a-z]\s*=")
_INDEX = re.compile(r"_\s*([0-9A-Za-z])")
_POWER_IN_PARENTHESES = re.compile(r"\^\s*\(")


def parse_formula(text: str) -> Any:
    """Return the expression of a rewritten text; None if the parser would not read all of it."""
    # The parser would drop these indices.
    commands = (match[1] for match in _INDEXED_COMMAND.finditer(text))
    if _DROPPED.search(text) or any(name not in _INDEXED for name in commands):
        return None
    text = _INDEX.sub(r"_{\1} ", text)
    if not _is_readable(text):
        return None
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from sympy import Derivative, Symbol

    # The parser takes a power of T for a transpose and drops it.
    text = re.sub(r"\^\s*(?:T|\{\s*T\s*\})", "^{T_{0}}", text)
    text = _with_products(_TIMES_BEFORE_FUNCTION.sub(" ", _braced_powers(text)))
    prepared = text.replace(r"\lg ", r"\log ")
    try:
        tree = latex2sympy(
            prepared,
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the grammar or sympy refuses the text: not a formula
        return None
    if not hasattr(tree, "free_symbols") or isinstance(tree, (str, bool)):
        return None
    # y is not a constant in dy/dx, so dy/dx is a symbol and not 0.
    named = {
        node: Symbol(str(node), real=True)
        for node in tree.atoms(Derivative)
        if not node.expr.has(*node.variables)
    }
    return tree.xreplace(named) if named else tree


def _is_readable(text: str) -> bool:
    if _DIVISOR_OF_LETTERS.search(text):
        return False
    text = _DETERMINANT.sub(" ", text) if "vmatrix" in text else text
    if not text.strip() or not _TOKENS.fullmatch(_LOWER_LIMIT.sub("_{", text)):
        return False
    # The parser would multiply two numbers side by side (5 5, 1.5.2).
    return not re.search(r"[0-9.]\s+[0-9.]|[0-9]\.[0-9]*\.|[-+*/^]\s*$", text)


def _with_products(text: str) -> str:
    """Write the sign between adjacent numbers."""
    text = _MIXED.sub(
        lambda m: f"({m[1]}+{m[2]})" if int(m[3]) < int(m[4]) else rf"{m[1]} \cdot {m[2]}", text
    )
    text = _SIDE_BY_SIDE.sub(lambda m: m[0] + r" \cdot ", text)
    if not re.search(_FUNCTION, text):
        text = _AFTER_BRACE.sub(r" \\cdot ", text)
    return text


def _braced_powers(text: str) -> str:
    """Write `2^(1/4)` as `2^{1/4}`, so that the exponent is everything in the parentheses."""
    while match := _POWER_IN_PARENTHESES.search(text):
        depth, place = 1, match.end()
        while place < len(text) and depth:
            depth += (text[place] == "(") - (text[place] == ")")
            place += 1
        if depth:
            return text
        text = f"{text[: match.start()]}^{{{text[match.end() : place - 1]}}}{text[place:]}"
    return text
