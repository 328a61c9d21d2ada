"""Claims: verdicts on numbers are those of exact rationals; no text crashes or sways the check.

Numbers: pairs of integers, decimals, fractions, percents, mixed numbers, repeating decimals and
scientific notation, equal or nearly so. The generator knows both values as fractions and decides
by the rule in `evaluators/answers/numerals.py`, written out a second time here. Target: 100 %
agreement.

Fuzz: strings cut and joined from real answers, commands, brackets and Unicode. Every answer is
checked twice, the second time in another order and in fresh processes. Target: no verdict that
differs, and no answer UNSCORED for any reason but its own time, memory or size.

    python bench/verdict_numbers.py [--quick] [--json] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from rlready.evaluators.verification.verifier import Verifier, checker_version
from rlready.registry.records import Verdict

N_PAIRS, N_STRINGS = 10_000, 20_000
CASES = Path(__file__).parents[1] / "tests" / "data" / "verdict_cases.jsonl"
FRAGMENT_TEXT = r"""
\frac \sqrt \text{ \mathrm{ \infty ! !! ^ _ { } ( ) [ ] \{ \} | , ; : = < > \le \ne \pm
+ - * / . ... % $ \$ \left \right \sum_{n=1}^{5} \int_0^1 dx \log_2 \sin \cos f(x) f(5)
C(4,2) x y n i e \pi 0 1 7 12 3.5 1e9 10^{10} 2^{2^{20}} \binom{5}{2} \begin{pmatrix} &
\\ \end{pmatrix} \text{or} \text{and} km cm or and not no solution \emptyset \mathbb{R}
\cup \in \boxed{ \overline{3} \circ \bmod 7 \lfloor \rfloor \hat ' \prime
"""
FRAGMENTS = FRAGMENT_TEXT.split() + list("½²√−×∞≤٥５元°€\u200b\u202e\u00ad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the pairs and strings")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    share = 10 if arguments.quick else 1
    rng = random.Random(arguments.seed)
    numbers = measure_numbers(rng, N_PAIRS // share)
    fuzz = measure_fuzz(rng, N_STRINGS // share)
    if not arguments.json:
        print(checker_version())
        print(f"numbers: {numbers['n_agree']} of {numbers['n_pairs']} pairs as exact rationals")
        for case in numbers["differ"]:
            print("  ", case)
        print(
            f"fuzz: {fuzz['n_strings']} strings in {fuzz['seconds']:.0f} s, "
            f"{fuzz['n_unscored']} unscored, {fuzz['n_order']} verdicts that depend on the order"
        )
        for reason in fuzz["reasons"]:
            print("  ", reason)
    print(json.dumps({"bench": "verdict_numbers", "numbers": numbers, "fuzz": fuzz}))


# --- numbers ----------------------------------------------------------------------------------


def measure_numbers(rng: random.Random, n_pairs: int) -> dict[str, Any]:
    pairs = [_pair(rng) for _ in range(n_pairs)]
    with Verifier() as verifier:
        checked = verifier.check(
            [((gold[0],), rf"\boxed{{{answer[0]}}}") for gold, answer in pairs]
        )
    differ = [
        (gold[0], answer[0], str(result.verdict), _expected(gold, answer))
        for (gold, answer), result in zip(pairs, checked, strict=True)
        if (result.verdict is Verdict.CORRECT) is not _expected(gold, answer)
    ]
    return {"n_pairs": n_pairs, "n_agree": n_pairs - len(differ), "differ": differ[:10]}


# A text, its exact value, its significant digits (0 if it has no decimal point), and: a percentage?
Written = tuple[str, Fraction, int, bool]


def _pair(rng: random.Random) -> tuple[Written, Written]:
    gold = _written(rng, _value(rng))
    value = gold[1] * 100 if gold[3] and rng.random() < 0.3 else gold[1]
    change = rng.random()
    if change < 0.3:
        value += Fraction(rng.choice((-1, 1)), 10 ** rng.randrange(0, 8))
    elif change < 0.4:
        value *= 1 + Fraction(rng.choice((-1, 1)), 10 ** rng.randrange(3, 9))
    elif change < 0.45:
        value = -value
    elif change < 0.6:
        return gold, _rounded(rng, value)
    return gold, _written(rng, value)


def _value(rng: random.Random) -> Fraction:
    kind = rng.randrange(4)
    if kind == 0:
        return Fraction(rng.randrange(-10_000_000, 10_000_000))
    if kind == 1:
        return Fraction(rng.randrange(-(10**6), 10**6), 10 ** rng.randrange(1, 7))
    return Fraction(rng.randrange(-999, 999), rng.randrange(1, 200))


def _written(rng: random.Random, value: Fraction) -> Written:
    notations = [_as_fraction, _as_percent, _as_mixed, _as_decimal, _as_scientific]
    rng.shuffle(notations)
    for notation in notations:
        written = notation(rng, value)
        if written is not None:
            return written
    raise AssertionError(value)


def _as_fraction(rng: random.Random, value: Fraction) -> Written | None:
    factor = rng.choice((1, 1, 2, 3))
    top, bottom = value.numerator * factor, value.denominator * factor
    form = rng.choice((r"\frac{{{0}}}{{{1}}}", r"\dfrac{{{0}}}{{{1}}}", "{0}/{1}"))
    return form.format(top, bottom), value, 0, False


def _as_mixed(rng: random.Random, value: Fraction) -> Written | None:
    whole, rest = divmod(abs(value), 1)
    if not whole or not rest:
        return None
    sign = "-" if value < 0 else ""
    form = rng.choice((r"{0}{1}\frac{{{2}}}{{{3}}}", "{0}{1} {2}/{3}"))
    return form.format(sign, whole, rest.numerator, rest.denominator), value, 0, False


def _decimal_text(value: Fraction) -> tuple[str, int] | None:
    places = next((k for k in range(16) if (value * 10**k).denominator == 1), None)
    if places is None:
        return None
    digits = str(abs(value.numerator * 10**places // value.denominator)).rjust(places + 1, "0")
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    text = ("-" if value < 0 else "") + whole + (f".{decimals}" if decimals else "")
    return text, len((whole + decimals).lstrip("0")) if decimals else 0


def _as_decimal(rng: random.Random, value: Fraction) -> Written | None:
    decimal = _decimal_text(value)
    if decimal is None:
        return None
    text, digits = decimal
    whole, point, decimals = text.partition(".")
    if rng.random() < 0.3:
        separator = rng.choice((",", "{,}", r"\,", " "))
        whole = f"{int(whole):,}".replace(",", separator) if whole not in ("-0",) else whole
    return whole + point + decimals, value, digits, False


def _as_percent(rng: random.Random, value: Fraction) -> Written | None:
    inner = rng.choice((_as_decimal, _as_mixed))(rng, value * 100)
    if inner is None:
        return None
    return inner[0] + rng.choice((r"\%", "%", r" \%")), value, inner[2], True


def _as_scientific(rng: random.Random, value: Fraction) -> Written | None:
    exponent = rng.randrange(-6, 7)
    decimal = _decimal_text(value / Fraction(10) ** exponent)
    if decimal is None:
        return None
    form = rng.choice((r"{0} \times 10^{{{1}}}", r"{0} \cdot 10^{{{1}}}", "{0}e{1}"))
    return form.format(decimal[0], exponent), value, decimal[1], False


def _rounded(rng: random.Random, value: Fraction) -> Written:
    places = rng.randrange(1, 9)
    scaled = round(value * 10**places) + (rng.choice((-1, 1)) if rng.random() < 0.3 else 0)
    decimal = Fraction(scaled, 10**places)
    sign, digits = "-" if scaled < 0 else "", str(abs(scaled)).rjust(places + 1, "0")
    text = f"{sign}{digits[:-places]}.{digits[-places:]}"
    return text, decimal, len(digits.lstrip("0")), False


def _expected(gold: Written, answer: Written) -> bool:
    """The rule of `evaluators/answers/numerals.py`, written a second time."""
    golds = [gold[1]] + ([gold[1] * 100] if gold[3] and not answer[3] else [])
    return any(
        value == answer[1]
        or _rounds_to(value, answer[1], answer[2], 100 if answer[3] else 1)
        or _rounds_to(answer[1], value, gold[2], 100 if gold[3] and value == gold[1] else 1)
        for value in golds
    )


def _rounds_to(value: Fraction, decimal: Fraction, digits: int, scale: int) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 or digits < 5:
        return False
    # The decimal was written times `scale`; half of its last place is the margin.
    written = decimal * scale
    places = next(
        k for k in range(-20, 60) if abs(written) * Fraction(10) ** k >= 10 ** (digits - 1)
    )
    return abs(value * scale - written) * Fraction(10) ** places <= Fraction(1, 2)


# --- fuzz -------------------------------------------------------------------------------------


def measure_fuzz(rng: random.Random, n_strings: int) -> dict[str, Any]:
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    texts = [row["golds"][0] for row in rows] + [row["completion"] for row in rows]
    items = [((rng.choice(texts[: len(rows)]),), _string(rng, texts)) for _ in range(n_strings)]
    began = time.monotonic()
    with Verifier() as verifier:
        first = verifier.check(items)
    order = list(range(len(items)))
    rng.shuffle(order)
    with Verifier(n_workers=1) as verifier:
        second = dict(zip(order, verifier.check([items[i] for i in order]), strict=True))
        # Holds the reasons of the pairs that failed.
        results = verifier._results
    differ = [i for i, result in enumerate(first) if result.verdict is not second[i].verdict]
    reasons = sorted({str(r) for r in results.values() if not isinstance(r, bool)})
    return {
        "n_strings": n_strings,
        "n_correct": sum(result.verdict is Verdict.CORRECT for result in first),
        "n_unscored": sum(result.verdict is Verdict.UNSCORED for result in first),
        "n_order": len(differ),
        "differ": [items[i] for i in differ[:5]],
        "reasons": reasons[:20],
        "seconds": round(time.monotonic() - began, 1),
    }


def _string(rng: random.Random, texts: list[str]) -> str:
    kind = rng.random()
    text = rng.choice(texts)
    if kind < 0.4:
        content = "".join(rng.choice(FRAGMENTS) for _ in range(rng.randrange(1, 12)))
    elif kind < 0.7:
        cut = rng.randrange(len(text) + 1)
        content = text[:cut] + rng.choice(FRAGMENTS) + text[cut + rng.randrange(3) :]
    else:
        other = rng.choice(texts)
        content = text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other) + 1) :]
    return rf"\boxed{{{content}}}"


if __name__ == "__main__":
    main()
