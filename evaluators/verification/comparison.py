r"""Equality of two rewritten answers: first their structures, then their parts and formulas.

    Comparison(algebra).equal("1, 2", "2, 1")       ->  True
    Comparison(algebra).equal("(1, 2)", "(2, 1)")   ->  False
    Comparison(algebra).equal(r"\text{odd} n", r"\text{even} n")  ->  False

Only formulas that the parser can read completely are passed on to `expression_equality`. Any other
text, such as one with words, only equals a text with the same words around equal formulas. In case
of doubt, two answers are not equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from rlready.evaluators.answers.names import (
    are_ordinates,
    has_indices,
    has_names,
    letters_in,
    name_and_value,
    name_of,
    named_point,
    named_values,
    stem_of,
    values_of_one_name,
)
from rlready.evaluators.answers.numerals import Numeral, equal_numbers, equal_numerals, read_number
from rlready.evaluators.answers.structure import (
    Quantity,
    Structure,
    ascending,
    read_quantity,
    read_structure,
    with_bare_unit,
)
from rlready.evaluators.answers.words import (
    ANY_SYMBOL,
    CLAUSE,
    LETTER_WORD,
    REALS,
    WORD,
    bare_answer,
    predicate_of,
    same_text,
    settled,
    split_clause,
    with_signs,
    words_and_formulas,
)
from rlready.evaluators.verification.expression_equality import FormulaAlgebra

# Expressions that a problem may ask for as a whole: a + b, x^2 + y^2, sin A. The left side of an
# equation to solve (2x = 6) is not one of them.
_SUBJECT = re.compile(
    r"\\(?:sin|cos|tan)\s*\(?\s*(?:[A-Z]|\\[a-z]+)\s*\)?"
    r"|[A-Za-z](?:\^\{?[0-9]\}?)?(?:\s*(?:[-+*/:]|\\cdot|\\times)?\s*[A-Za-z](?:\^\{?[0-9]\}?)?)+"
    r"|\\frac\s*\{\s*[A-Za-z]+\s*\}\s*\{\s*[A-Za-z]+\s*\}"
)
_CROSS = re.compile(r"[A-Za-z]\s*\\times\s*[A-Za-z]")
_DOT = re.compile(r"[A-Za-z]\s*\\cdot\s*[A-Za-z]")


class Comparison:
    """Compares rewritten texts within a tolerance; the algebra compares their formulas."""

    def __init__(self, algebra: FormulaAlgebra, tolerance: Fraction = Fraction(0)) -> None:
        self._algebra, self._tolerance = algebra, tolerance

    def equal(self, gold: str, answer: str) -> bool:
        """Return whether an answer equals a gold, both rewritten."""
        gold, answer = bare_answer(gold), bare_answer(answer)
        decided = settled(gold, answer, self._tolerance)
        if decided is not None:
            return decided
        signed = with_signs(gold), with_signs(answer)
        if signed != (gold, answer):
            return self.equal(*signed)
        if CLAUSE.search(gold) or CLAUSE.search(answer):
            return self._equal_with_clauses(gold, answer)
        return self._equal_forms(gold, answer)

    # --- words --------------------------------------------------------------------------------

    def _equal_with_clauses(self, gold: str, answer: str) -> bool:
        gold_main, gold_clause = split_clause(gold)
        main, clause = split_clause(answer)
        if gold_clause and clause:
            return self.equal(gold_main, main) and self._equal_words(gold_clause, clause)
        extra, formula = gold_clause or clause, gold_main if gold_clause else main
        match = ANY_SYMBOL.fullmatch(extra)
        if match and formula and match["symbol"] in formula:
            return self.equal(gold_main, main)
        return self._equal_words(gold, answer)

    def _equal_words(self, gold: str, answer: str) -> bool:
        """Return whether two texts have the same words around equal formulas."""
        one, other = words_and_formulas(gold), words_and_formulas(answer)
        # A formula has no words, so that its comparison does not call this function again.
        if len(one) == len(other) and all(
            a_kind == b_kind
            and (a == b if a_kind == "words" else same_text(a, b) or self._equal_forms(a, b))
            for (a_kind, a), (b_kind, b) in zip(one, other, strict=True)
        ):
            return True
        return bool(other) and len(one) > 1 and predicate_of(one) == other

    # --- forms --------------------------------------------------------------------------------

    def _equal_forms(self, gold: str, answer: str) -> bool:
        gold_quantity = _quantity(gold, answer, is_gold=True)
        quantity = _quantity(answer, gold, is_gold=False)
        if gold_quantity or quantity:
            return self._equal_quantities(
                gold_quantity or Quantity((gold,), (None,)),
                quantity or Quantity((answer,), (None,)),
            )
        one, other = read_structure(gold), read_structure(answer)
        kinds = one.kind, other.kind
        if kinds == ("relation", "relation"):
            return self._equal_relations(gold, answer, one, other)
        same = self._same_set(one, other) if kinds != ("pair", "pair") else None
        if same is not None:
            return same
        if kinds == ("list", "list"):
            return self._equal_lists(one, other)
        if other.kind == "relation":
            return self._equal_to_named(gold, other, is_gold_named=False)
        if one.kind == "relation":
            return self._equal_to_named(answer, one, is_gold_named=True)
        if "single" not in kinds:
            return self._equal_structures(one, other)
        if kinds == ("single", "single"):
            return self._equal_singles(one.parts[0], other.parts[0])
        return self._equal_single_and_structure(gold, one, answer, other)

    def _same_set(self, gold: Structure, answer: Structure) -> bool | None:
        """Return whether two sets of real numbers are equal; None if one of them is not a set."""
        if not (_is_set(gold) and _is_set(answer)):
            return None
        # A tolerance applies to single numbers, not to the ends of intervals.
        return self._algebra.same_set(gold, answer, Comparison(self._algebra).equal)

    def _equal_singles(self, gold: str, answer: str) -> bool:
        decided = settled(gold, answer, self._tolerance)
        if decided is not None:
            return decided
        if WORD.search(LETTER_WORD.sub("", gold + answer)):
            return self._equal_words(gold, answer)
        ratio = _equal_ratios(gold, answer)
        if ratio is not None:
            return ratio
        point, other = named_point(gold), named_point(answer)
        if point and other and point[0] == other[0]:
            return self.equal(point[1], other[1])
        # The parser treats upright letters as plain letters.
        gold, answer = LETTER_WORD.sub(r" \1 ", gold), LETTER_WORD.sub(r" \1 ", answer)
        # The letters may be vectors, so that a cross product does not equal a dot product.
        for left, right in ((gold, answer), (answer, gold)):
            if _CROSS.search(left) and _DOT.search(right):
                return False
        if self._tolerance and self._algebra.is_within(gold, answer, self._tolerance):
            return True
        return self._algebra.same_formula(gold, answer)

    def _equal_single_and_structure(
        self, gold: str, one: Structure, answer: str, other: Structure
    ) -> bool:
        """Return whether a formula equals a structure: 5 and `{5}`, `P(3,4)` and `(3,4)`."""
        if any(re.match(r"\\(?:emptyset|\{)", part) for part in (*one.parts, *other.parts)):
            return False  # a set that contains a set
        if one.kind == "set" and len(one.parts) == 1:
            return self.equal(one.parts[0], answer)
        if other.kind == "set" and len(other.parts) == 1:
            return self.equal(gold, other.parts[0])
        gold_point, point = named_point(gold), named_point(answer)
        if gold_point and other.kind in ("pair", "tuple"):
            return self.equal(gold_point[1], answer)
        if point and one.kind in ("pair", "tuple"):
            return self.equal(gold, point[1])
        is_matrix = "matrix" in (one.kind, other.kind)
        return is_matrix and self._algebra.same_formula(gold, answer)

    def _equal_structures(self, gold: Structure, answer: Structure) -> bool:
        kinds = gold.kind, answer.kind
        if kinds == ("set", "set"):
            return self._covers(gold.parts, answer.parts) and self._covers(answer.parts, gold.parts)
        if set(kinds) == {"set", "list"}:
            listed = answer if kinds[0] == "set" else gold
            return listed.mark != "or" and self._same_members(
                self._distinct(gold), self._distinct(answer)
            )
        if kinds in (("tuple", "tuple"), ("pair", "pair"), ("matrix", "matrix")):
            return gold.mark == answer.mark and self._all_equal(gold.parts, answer.parts)
        if set(kinds) == {"pair", "tuple"}:
            return {gold.mark, answer.mark} == {"()"} and self._all_equal(gold.parts, answer.parts)
        if gold.kind == "list" and answer.kind in ("tuple", "pair") and answer.mark == "()":
            values = named_values(gold.parts)
            return values is not None and self._all_equal(values, answer.parts)
        if answer.kind == "list" and gold.kind in ("tuple", "pair") and gold.mark == "()":
            values = named_values(answer.parts)
            if values is None and not answer.mark and "=" not in "".join(answer.parts):
                values = answer.parts
            return values is not None and self._all_equal(gold.parts, values)
        return False

    # --- lists and sets -----------------------------------------------------------------------

    def _equal_lists(self, gold: Structure, answer: Structure) -> bool:
        if {gold.mark, answer.mark} == {"or", "and"}:
            return False
        if has_names(gold.parts) != has_names(answer.parts):
            return self._all_equal(gold.parts, answer.parts)
        if has_indices(gold.parts) and has_indices(answer.parts):
            return self._same_members(gold.parts, answer.parts)
        golds, answers = values_of_one_name(gold.parts), values_of_one_name(answer.parts)
        # If only one list has a name, as in n = 2, 3, 4 and 2, 3, 4, the name does not count.
        if golds is not gold.parts and answers is not answer.parts:
            stems = [stem_of(name_of(form.parts[0])) for form in (gold, answer)]
            if stems[0] != stems[1]:
                return False
        return self._same_members(golds, answers)

    def _distinct(self, form: Structure) -> Sequence[str]:
        if form.kind == "list":
            return values_of_one_name(form.parts)
        members: list[str] = []
        for part in form.parts:
            if not any(self.equal(member, part) for member in members):
                members.append(part)
        return members

    def _covers(self, members: Sequence[str], others: Sequence[str]) -> bool:
        return all(any(self.equal(member, other) for member in members) for other in others)

    def _same_members(self, golds: Sequence[str], answers: Sequence[str]) -> bool:
        rest = list(answers)
        if len(golds) != len(rest):
            return False
        for gold in golds:
            index = next((i for i, other in enumerate(rest) if self.equal(gold, other)), None)
            if index is None:
                return False
            del rest[index]
        return True

    def _all_equal(self, golds: Sequence[str], answers: Sequence[str]) -> bool:
        return len(golds) == len(answers) and all(map(self.equal, golds, answers))

    # --- relations ----------------------------------------------------------------------------

    def _equal_relations(self, gold: str, answer: str, one: Structure, other: Structure) -> bool:
        if set(one.mark.split()) == set(other.mark.split()) == {"="}:
            (name, value), (other_name, other_value) = name_and_value(one), name_and_value(other)
            if name and other_name:
                if same_text(name, other_name) or are_ordinates(name, other_name):
                    return self.equal(value, other_value)
                if WORD.search(name + other_name) or r"\angle" in name + other_name:
                    return False
            return self._all_equal(one.parts, other.parts) or self._algebra.same_equation(
                gold, answer
            )
        chain, other_chain = ascending(one), ascending(other)
        is_chain = chain.mark == "!=" or set(chain.mark.split()) <= {"<", "<="}
        is_same_chain = is_chain and chain.mark == other_chain.mark
        if is_same_chain and self._all_equal(chain.parts, other_chain.parts):
            return True
        same = self._same_set(one, other)
        if same is None and len(one.parts) == len(other.parts) == 2:
            return self._algebra.same_equation(gold, answer)
        return bool(same)

    def _equal_to_named(self, text: str, relation: Structure, *, is_gold_named: bool) -> bool:
        if relation.mark == "in" and re.fullmatch(r"[A-Za-z]|\\[a-z]+", relation.parts[0]):
            inner = relation.parts[1]
            return self.equal(inner, text) if is_gold_named else self.equal(text, inner)
        if set(relation.mark.split()) != {"="}:
            return False
        name, value = name_and_value(relation)
        if is_gold_named:
            return bool(name) and self.equal(value, text)
        if not name:
            left, value = relation.parts[0], relation.parts[-1]
            if letters_in(left) and not _SUBJECT.fullmatch(left):
                return False
            if not letters_in(left) and not all(
                self.equal(part, value) for part in relation.parts[:-1]
            ):
                return False
        return self.equal(text, value)

    # --- quantities ---------------------------------------------------------------------------

    def _equal_quantities(self, gold: Quantity, answer: Quantity) -> bool:
        if len(gold.values) != len(answer.values) or len(gold.values) > 1:
            totals = _total(gold), _total(answer)
            return None not in totals and totals[0] == totals[1]
        unit, other = gold.units[0], answer.units[0]
        if unit and other and unit.powers != other.powers:
            return False
        number, other_number = gold.number(0), answer.number(0)
        ratio = other.size / unit.size if unit and other else Fraction(1)
        if number and other_number:
            if number.is_percent != other_number.is_percent and (unit or other):
                return False
            if ratio != 1:
                other_number = Numeral(other_number.value * ratio, None, other_number.is_percent)
            return equal_numerals(number, other_number, self._tolerance)
        if ratio != 1:
            return False
        if gold.scale == answer.scale:
            return self.equal(gold.values[0], answer.values[0])
        scaled = [f"{q.scale} \\cdot ({q.values[0]})" for q in (gold, answer)]
        return self.equal(*scaled)


def _quantity(text: str, other: str, *, is_gold: bool) -> Quantity | None:
    quantity = read_quantity(text)
    if quantity is not None:
        value = quantity.values[0]
        has_two_units = with_bare_unit(value, is_gold=is_gold) is not None
        is_equation = "=" in value and not name_of(value)
        return None if has_two_units or is_equation else quantity
    bare = with_bare_unit(text, is_gold=is_gold)
    # A letter is a unit only if the other side has no letters, or only those of its unit.
    if bare is None or letters_in(with_bare_unit(other, is_gold=not is_gold) or other):
        return None
    return read_quantity(bare)


def _total(quantity: Quantity) -> tuple[Fraction, object] | None:
    total, kinds = Fraction(0), set()
    for index, unit in enumerate(quantity.units):
        number = quantity.number(index)
        if number is None or unit is None:
            return None
        total += number.value * unit.size
        kinds.add(unit.powers)
    return (total, kinds.pop()) if len(kinds) == 1 else None


def _is_set(form: Structure) -> bool:
    """Return whether a structure may be a set of real numbers, as an interval or inequality is."""
    if form.kind in ("pair", "union", "builder"):
        return True
    if form.kind == "relation":
        return set(form.mark.split()) <= {"<", "<=", ">", ">=", "!=", "in"}
    if form.kind == "list":
        parts = [read_structure(part) for part in form.parts]
        return all(part.kind == "relation" and _is_set(part) for part in parts)
    is_single = form.kind == "single"
    return is_single and (form.parts[0] in REALS or r"\setminus" in form.parts[0])


_RATIO = re.compile(r"[0-9.]+(?:\s*:\s*[0-9.]+)+")


def _equal_ratios(gold: str, answer: str) -> bool | None:
    one, other = _RATIO.fullmatch(gold), _RATIO.fullmatch(answer)
    if one and other:
        return re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer)
    if answer.count(":") + gold.count(":") != 1 or not (one or other):
        return None
    number, other_number = (read_number(text.replace(":", "/")) for text in (gold, answer))
    is_fraction = re.search(r"\\frac|/", answer if one else gold)
    return bool(number and other_number and is_fraction and equal_numbers(number, other_number))
