r"""Whether two rewritten answers are one: their forms first, then their parts, down to formulas.

    Comparison(same_formula).equal("1, 2", "2, 1")       ->  True
    Comparison(same_formula).equal("(1, 2)", "(2, 1)")   ->  False
    Comparison(same_formula).equal(r"\text{odd} n", r"\text{even} n")  ->  False

A formula is handed on (to `equality`) only if it consists of nothing but what the parser reads. A
text with anything else, above all with words, equals only a text with the same words around equal
formulas. In doubt two answers are not equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

from rlready.evaluators.answer_forms import Form, Quantity, read_form, read_quantity, with_bare_unit
from rlready.evaluators.numerals import (
    Numeral,
    equal_numbers,
    equal_numerals,
    read_based,
    read_number,
)

_WORD = re.compile(r"\\text\{([^{}]*)\}")


class Algebra(Protocol):
    """What decides about formulas."""

    def same_formula(self, gold: str, answer: str) -> bool:
        """Whether two formulas without words are equal."""
        ...

    def is_within(self, gold: str, answer: str, tolerance: Fraction) -> bool:
        """Whether two closed formulas differ by no more than a tolerance."""
        ...

    def same_equation(self, gold: str, answer: str) -> bool:
        """Whether two equations or inequalities have the same solutions."""
        ...

    def same_set(self, gold: Form, answer: Form) -> bool | None:
        """Whether two sets of real numbers are equal; None if one of them cannot be read."""
        ...


# --- text -------------------------------------------------------------------------------------

_ARTICLES = frozenset("a an the".split())
_LETTER_WORD = re.compile(r"\\text\{([A-Za-z])\}")


def same_text(gold: str, answer: str) -> bool:
    """Whether two rewritten texts differ in spaces, braces and the case of words alone."""
    return _bare_text(gold) == _bare_text(answer)


def _bare_text(text: str) -> str:
    text = _LETTER_WORD.sub(r"\1", text)
    text = _WORD.sub(lambda m: rf"\text{{{m[1].casefold()}}}", text)
    text = re.sub(r"([_^])\s*\{\s*([A-Za-z0-9])\s*\}", r"\1\2", text)
    return re.sub(r"\s+", "", text)


# --- phrases ----------------------------------------------------------------------------------

_PHRASES = {
    "none": (
        r"(?:there (?:is|are) )?no (?:such |real )?(?:solutions?|roots?)(?: exists?)?"
        r"|(?:it |the equation |the system )?has no (?:real )?(?:solutions?|roots?)"
        r"|(?:the )?(?:empty|null) set|no solutions? set|(?:the )?solution set is empty|inconsistent"
        r"|(?:the )?solutions? (?:does not|do not|doesn't|don't) exist"
    ),
    "reals": (
        r"(?:(?:the )?set of )?(?:all|every|any) (?:of )?(?:the )?reals?(?: numbers?)?|(?:the )?(?:set of )?(?:the )?real numbers|all real values"
        r"|(?:the )?reals|r|all real x|x is (?:any|a) real number"
    ),
    "integers": r"(?:(?:the )?set of )?all (?:the )?integers|(?:the )?(?:set of )?(?:the )?integers|all integer values",
    "undefined": r"(?:the limit |it )?(?:does not|doesn't|do not|don't) exist|dne|d\.n\.e|(?:the )?limit does not exist",
    "many": r"(?:there are )?infinitely many(?: solutions?)?|infinite(?: number of)? solutions|infinite",
}
_PHRASE = {name: re.compile(pattern) for name, pattern in _PHRASES.items()}
_EMPTY = (r"\emptyset",)
_REALS = (r"\mathbb{R}", r"\R")


def read_phrase(text: str) -> str | None:
    """Return which of a few fixed answers in words (or as a sign) a rewritten text is, or None."""
    text = text.strip()
    if text in _EMPTY or re.fullmatch(r"\\\{\s*(?:\\emptyset)?\s*\\\}", text):
        return "none"
    membership = re.fullmatch(r"(?:[A-Za-z]\s*\\in\s*)?(.*)", text)
    inner = membership[1].strip() if membership else text
    if inner == r"\mathbb{Z}":
        return "integers"
    if inner in _REALS or re.fullmatch(
        r"\(\s*-\\infty\s*,\s*\+?\\infty\s*\)|-\\infty\s*<\s*[a-z]\s*<\s*\+?\\infty", inner
    ):
        return "reals"
    words = " ".join(word.casefold().rstrip(".,!") for word in _WORD.findall(text))
    if not words or re.sub(r"[\s.,!]", "", _WORD.sub("", text)):
        return None
    return next((name for name, form in _PHRASE.items() if form.fullmatch(words)), None)


# --- choices ----------------------------------------------------------------------------------

_CHOICE = re.compile(
    r"(?:\\text\{(?:option|choice|answer)\}\s*)?(?P<open>\(?)\s*(?:\\text\{)?(?P<letter>[A-J])\}?\s*(?P<close>[).:]?)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\(\s*(?:\\text\{)?([A-J])\}?\s*\)|(?:\\text\{)?\b([A-J])\}?\s*\)")


def same_choice(gold: str, answer: str) -> bool | None:
    """Whether an answer names the gold's letter; None if the gold is not a choice.

    `(B)`, `B)`, `b`, `B.` and `(B) 12` name B; `(A) or (B)` and `B*2` do not.
    """
    wanted = re.fullmatch(r"\(?\s*(?:\\text\{)?([A-J])\}?\s*\)?", gold.strip())
    if not wanted:
        return None
    match = _CHOICE.match(answer.strip())
    if not match:
        return None
    rest = answer.strip()[match.end() :].strip()
    has_mark = match["close"] in ").:" and match["close"] != ""
    if rest and (
        not has_mark
        or _LABEL.search(rest)
        or re.match(r"[-+*/^=,<>|]|\\(?:text\{(?:or|and|is|not)\}|cdot|times|cup)", rest)
    ):
        return None
    if match["open"] and match["close"] != ")":
        return None
    return match["letter"].upper() == wanted[1]


# --- the comparison ---------------------------------------------------------------------------

_FILLERS = frozenset(
    "therefore thus hence so it this that is are was the answer answers final result solution solutions we get "
    "have obtain line curve equation value number function point equals following then required".split()
)
_LEAD = re.compile(r"\s*(?:\\text\{([^{}]*)\}\s*[,:]?|[=:,])\s*")
_CLAUSE = re.compile(r",?\s*\\text\{(?:where|with|for|if|when)\}", re.IGNORECASE)
_ANY_SYMBOL = re.compile(
    r"(?:\\text\{(?:for|where|with|any|all|every|some|each|an|a|arbitrary|real|constant|constants|numbers?|the|value|values|of|is)\}\s*)+"
    r"(?P<symbol>[A-Za-z]|\\[a-z]+)(?:\s*\\in\s*\\mathbb\{R\}|\s*\\text\{(?:is|a|an|any|real|constant|arbitrary|number)\})*",
    re.IGNORECASE,
)


class Comparison:
    """Compares rewritten texts; formulas are left to the algebra."""

    def __init__(self, algebra: Algebra, tolerance: Fraction = Fraction(0)) -> None:
        self._algebra, self._tolerance = algebra, tolerance

    def equal(self, gold: str, answer: str) -> bool:
        """Whether an answer is the gold's, both of them rewritten."""
        gold, answer = bare_answer(gold), bare_answer(answer)
        decided = settled(gold, answer, self._tolerance)
        if decided is not None:
            return decided
        for one, other in ((gold, answer), (_by_words(gold), _by_words(answer))):
            if one != gold or other != answer:
                return self.equal(one, other)
        if self._has_clause(gold) or self._has_clause(answer):
            return self._equal_with_clauses(gold, answer)
        return self._equal_forms(gold, answer)

    # --- words --------------------------------------------------------------------------------

    def _has_clause(self, text: str) -> bool:
        return bool(_CLAUSE.search(text))

    def _equal_with_clauses(self, gold: str, answer: str) -> bool:
        gold_main, gold_clause = _clause(gold)
        main, clause = _clause(answer)
        if gold_clause and clause:
            return self.equal(gold_main, main) and self._equal_words(gold_clause, clause)
        extra, formula = gold_clause or clause, gold_main if gold_clause else main
        match = _ANY_SYMBOL.fullmatch(extra)
        if match and formula and match["symbol"] in formula:
            return self.equal(gold_main, main)
        return self._equal_words(gold, answer)

    def _equal_words(self, gold: str, answer: str) -> bool:
        """Whether two texts have the same words around equal formulas."""
        one, other = _segments(gold), _segments(answer)
        if len(one) == len(other) and all(
            a_kind == b_kind and (a == b if a_kind == "words" else self._equal_segment(a, b))
            for (a_kind, a), (b_kind, b) in zip(one, other, strict=True)
        ):
            return True
        return bool(other) and len(one) > 1 and _predicate(one) == other

    def _equal_segment(self, gold: str, answer: str) -> bool:
        # Without a word in it a segment cannot come back here.
        return same_text(gold, answer) or self._equal_forms(gold, answer)

    # --- forms --------------------------------------------------------------------------------

    def _equal_forms(self, gold: str, answer: str) -> bool:
        gold_quantity = _quantity(gold, answer, is_gold=True)
        quantity = _quantity(answer, gold, is_gold=False)
        if gold_quantity or quantity:
            return self._equal_quantities(
                gold_quantity or Quantity((gold,), (None,)),
                quantity or Quantity((answer,), (None,)),
            )
        gold_form, form = read_form(gold), read_form(answer)
        kinds = gold_form.kind, form.kind
        if kinds == ("relation", "relation"):
            return self._equal_relations(gold, answer, gold_form, form)
        if _is_set(gold_form) and _is_set(form) and kinds != ("pair", "pair"):
            same = self._algebra.same_set(gold_form, form)
            if same is not None:
                return same
        if gold_form.kind == form.kind == "list":
            return self._equal_lists(gold_form, form)
        if form.kind == "relation" and gold_form.kind != "relation":
            return self._equal_to_named(gold, gold_form, form, is_gold_named=False)
        if gold_form.kind == "relation":
            return self._equal_to_named(answer, form, gold_form, is_gold_named=True)
        if "single" not in kinds:
            return self._equal_structures(gold_form, form)
        if kinds == ("single", "single"):
            return self._equal_singles(gold_form.parts[0], form.parts[0])
        return self._one_of_a_kind(gold, gold_form, answer, form)

    def _equal_singles(self, gold: str, answer: str) -> bool:
        decided = settled(gold, answer, self._tolerance)
        if decided is not None:
            return decided
        if _WORD.search(_LETTER_WORD.sub("", gold + answer)):
            return self._equal_words(gold, answer)
        ratio = _equal_ratios(gold, answer)
        if ratio is not None:
            return ratio
        point, other = _point(gold), _point(answer)
        if point and other and point[0] == other[0]:
            return self.equal(point[1], other[1])
        gold, answer = _as_formula(gold), _as_formula(answer)
        if _are_other_products(gold, answer) or _are_other_products(answer, gold):
            return False
        if self._tolerance and self._algebra.is_within(gold, answer, self._tolerance):
            return True
        return self._algebra.same_formula(gold, answer)

    def _one_of_a_kind(self, gold: str, gold_form: Form, answer: str, form: Form) -> bool:
        """Whether a structure and a formula are one, as `{5}` and 5, `P(3,4)` and `(3,4)` are."""
        if gold_form.kind == "set" and len(gold_form.parts) == 1:
            return self.equal(gold_form.parts[0], answer)
        if form.kind == "set" and len(form.parts) == 1:
            return self.equal(gold, form.parts[0])
        return self._point_equals(gold, gold_form, answer, form)

    def _point_equals(self, gold: str, gold_form: Form, answer: str, form: Form) -> bool:
        """Whether `P(3,4)` and `(3,4)` are one: only one of both is named."""
        gold_point, point = _point(gold), _point(answer)
        if gold_point and form.kind in ("pair", "tuple"):
            return self.equal(gold_point[1], answer)
        if point and gold_form.kind in ("pair", "tuple"):
            return self.equal(gold, point[1])
        if "matrix" in (gold_form.kind, form.kind):
            return self._algebra.same_formula(gold, answer)
        return False

    def _equal_structures(self, gold: Form, answer: Form) -> bool:
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
            values = _named_values(gold.parts)
            return values is not None and self._all_equal(values, answer.parts)
        if answer.kind == "list" and gold.kind in ("tuple", "pair") and gold.mark == "()":
            values = _named_values(answer.parts)
            if values is None and not any("=" in part for part in answer.parts):
                values = answer.parts if not answer.mark else None
            return values is not None and self._all_equal(gold.parts, values)
        return False

    # --- lists and sets -----------------------------------------------------------------------

    def _equal_lists(self, gold: Form, answer: Form) -> bool:
        if {gold.mark, answer.mark} == {"or", "and"}:
            return False
        if _has_names(gold.parts) != _has_names(answer.parts):
            return self._all_equal(gold.parts, answer.parts)
        if _has_indices(gold.parts) and _has_indices(answer.parts):
            return self._same_members(gold.parts, answer.parts)
        golds, answers = _without_name(gold.parts), _without_name(answer.parts)
        if (golds is gold.parts) != (answers is answer.parts):
            # One of both has a name for all: n = 2, 3, 4 and 2, 3, 4.
            return self._same_members(golds, answers)
        if golds is not gold.parts and _stem(_name(gold.parts[0])) != _stem(_name(answer.parts[0])):
            return False
        return self._same_members(golds, answers)

    def _distinct(self, form: Form) -> Sequence[str]:
        if form.kind == "list":
            return _without_name(form.parts)
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

    def _equal_relations(self, gold: str, answer: str, gold_form: Form, form: Form) -> bool:
        if set(gold_form.mark.split()) == set(form.mark.split()) == {"="}:
            (name, value), (other_name, other) = _named(gold_form), _named(form)
            if name and other_name:
                if same_text(name, other_name) or _are_both_ordinates(name, other_name):
                    return self.equal(value, other)
                if _WORD.search(name + other_name) or r"\angle" in name + other_name:
                    return False
            return self._all_equal(gold_form.parts, form.parts) or self._algebra.same_equation(
                gold, answer
            )
        one, other_one = _ascending(gold_form), _ascending(form)
        if one and other_one and one[0] == other_one[0] and len(one[0]) > 0:
            if self._all_equal(one[1], other_one[1]):
                return True
        if _is_set(gold_form) and _is_set(form):
            same = self._algebra.same_set(gold_form, form)
            if same is not None:
                return same
        if len(gold_form.parts) == len(form.parts) == 2:
            return self._algebra.same_equation(gold, answer)
        return False

    def _equal_to_named(
        self, text: str, form: Form, relation: Form, *, is_gold_named: bool
    ) -> bool:
        if relation.mark == "in" and re.fullmatch(r"[A-Za-z]|\\[a-z]+", relation.parts[0]):
            inner = relation.parts[1]
            return self.equal(inner, text) if is_gold_named else self.equal(text, inner)
        if set(relation.mark.split()) != {"="}:
            return False
        name, value = _named(relation)
        if is_gold_named:
            return bool(name) and self.equal(value, text)
        if not name:
            left, right = relation.parts[0], relation.parts[-1]
            if (
                _letters(left)
                and len(set(_letters(left))) < 2
                and not re.search(r"\\(?:sin|cos|tan|log|ln|frac\s*\{d)", left)
            ):
                return False
            if not _letters(left) and not all(
                self.equal(part, right) for part in relation.parts[:-1]
            ):
                return False
            value = right
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


def settled(gold: str, answer: str, tolerance: Fraction = Fraction(0)) -> bool | None:
    """Whether text, numbers, phrases and choices alone settle it; None if they do not.

    Args:
        gold: rewritten.
        answer: rewritten.
        tolerance: largest difference of numbers that the gold allows.
    """
    if same_text(gold, answer):
        return True
    if not gold.strip() or not answer.strip():
        return False
    choice = same_choice(gold, answer)
    if choice is not None:
        return choice
    based, other_based = read_based(gold), read_based(answer)
    if based or other_based:
        return based == other_based
    number, other = _number(gold), _number(answer)
    if number and other:
        return equal_numerals(number, other, tolerance)
    phrase, other_phrase = read_phrase(gold), read_phrase(answer)
    if (phrase and other_phrase) or (phrase or other_phrase) not in (None, "reals"):
        return phrase == other_phrase
    return None


_NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
}


def _number(text: str) -> Numeral | None:
    word = _WORD.fullmatch(text.strip())
    if word and word[1].casefold() in _NUMBER_WORDS:
        return Numeral(Fraction(_NUMBER_WORDS[word[1].casefold()]))
    return read_number(text)


def bare_answer(text: str) -> str:
    """The answer itself, of a rewritten text that says that it is one, or roughly how large it is."""
    return _exact_part(_without_lead(text))


def _exact_part(text: str) -> str:
    r"""The text before `\approx`; what follows if nothing comes before it."""
    before, sign, after = text.partition(r"\approx")
    return (before.strip() or after.strip()) if sign else text


def _without_lead(text: str) -> str:
    """The text without "Therefore", "The answer is", "= " and the like before it."""
    place = 0
    while match := _LEAD.match(text, place):
        if match[1] is not None and match[1].casefold() not in _FILLERS:
            break
        place = match.end()
    return text[place:] if place < len(text) else text


def _by_words(text: str) -> str:
    r"""`4 \text{by} 12` as `4 \times 12`, `7 \text{to} 32` as `7:32`."""
    text = re.sub(r"(?<=[0-9}])\s*\\text\{by\}\s*(?=[0-9])", r" \\times ", text)
    return re.sub(r"(?<=[0-9])\s*\\text\{to\}\s*(?=[0-9])", ":", text)


def _clause(text: str) -> tuple[str, str]:
    match = _CLAUSE.search(text)
    if match is None:
        return text, ""
    return text[: match.start()].strip(), text[match.start() :].lstrip(", ")


def _segments(text: str) -> list[tuple[str, str]]:
    """Words and formulas of a text, in turn, each with its kind."""
    segments: list[tuple[str, str]] = []
    place = 0
    text = _without_lead(_LETTER_WORD.sub(r" \1 ", text))
    for match in [*_WORD.finditer(text), None]:
        formula = text[place : match.start() if match else len(text)].strip(" ,.;:")
        if formula:
            segments.append(("formula", formula))
        if match is None:
            break
        place = match.end()
        word = match[1].casefold().rstrip(".,")
        if word in _ARTICLES:
            continue
        if segments and segments[-1][0] == "words":
            segments[-1] = ("words", f"{segments[-1][1]} {word}")
        else:
            segments.append(("words", word))
    return segments


def _predicate(segments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What a sentence says of its subject: all that follows its first "is"."""
    for index, (kind, words) in enumerate(segments):
        if kind == "words" and (match := re.search(r"(?:^| )(?:is|are) (.+)", words)):
            return [("words", match[1]), *segments[index + 1 :]]
    return []


def _quantity(text: str, other: str, *, is_gold: bool) -> Quantity | None:
    quantity = read_quantity(text)
    if quantity is not None:
        has_two_units = with_bare_unit(quantity.values[0], is_gold=is_gold) is not None
        return None if has_two_units else quantity
    bare = with_bare_unit(text, is_gold=is_gold)
    # A letter is a unit only beside a number, or a quantity, without one.
    if bare is None or re.search(
        r"[A-Za-z]",
        re.sub(
            r"\\text\{[^{}]*\}|\\[A-Za-z]+", "", with_bare_unit(other, is_gold=not is_gold) or other
        ),
    ):
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


_NAME = re.compile(
    r"(?:\\angle\s*|\\triangle\s*|m\s*\\angle\s*)?"
    r"(?:\\text\{[^{}]*\}\s*)*(?:[A-Z]{1,4}|[a-z]|\\(?!angle|frac|sqrt|text)[A-Za-z]+|\\text\{[^{}]*\}|\\overline\s*\{\s*[A-Z]+\s*\}|\\(?:bar|hat|vec|overrightarrow)\s*\{\s*[A-Za-z]+\s*\})'*"
    r"(?:\s*_\s*(?:\{[^{}]*\}|[A-Za-z0-9]))?'*(?:\s*\([^()=<>]*\)|\s*\[[^\[\]=<>]*\])?"
    r"|\|\s*\\?[A-Za-z]{1,2}(?:_[0-9])?\s*\||\\frac\s*\{\s*d\s*[a-zA-Z]?\s*\}\s*\{\s*d\s*[a-z]\s*\}"
)


def _is_name(text: str) -> bool:
    text = text.strip()
    return bool(_NAME.fullmatch(text)) and not re.fullmatch(r"\\(?:pi|infty)|[ei]", text)


def _name(text: str) -> str:
    form = read_form(text)
    return _named(form)[0] if form.kind == "relation" else ""


def _named(relation: Form) -> tuple[str, str]:
    """Name and value of `x = 5`, `5 = x` and `A = x y = 5`; an empty name if there is none."""
    first, last = relation.parts[0], relation.parts[-1]
    if _is_name(first):
        return first, last
    if len(relation.parts) == 2 and _is_name(last):
        return last, first
    return "", ""


def _without_name(parts: tuple[str, ...]) -> Sequence[str]:
    """The values of a list whose members all have one name; the same list if they have not."""
    forms = [read_form(part) for part in parts]
    named = [
        _named(form) if form.kind == "relation" and form.mark == "=" else None for form in forms
    ]
    if (
        named[0]
        and named[0][0]
        and not any(named[1:])
        and not any(form.kind == "relation" for form in forms[1:])
    ):
        return [named[0][1], *parts[1:]]
    names = [pair[0] for pair in named if pair and pair[0]]
    if len(names) != len(parts):
        return parts
    # x_1 = 1, x_2 = 4 are the roots of one equation.
    stems = set(map(_stem, names))
    if len(stems) == 1 and (len(set(names)) == 1 or "(" not in names[0]):
        return [pair[1] for pair in named if pair]
    return parts


def _stem(name: str) -> str:
    return re.sub(r"\s*_\s*(?:\{[^{}]*\}|\w)|\s", "", name)


def _has_names(parts: tuple[str, ...]) -> bool:
    """Whether each part has a name of its own: x = 1, y = 2."""
    names = [_name(part) for part in parts]
    return "" not in names and len(set(map(_stem, names))) == len(names)


def _has_indices(parts: tuple[str, ...]) -> bool:
    """Whether every part has a name, and some of the names an index: x_1 = 1, x_2 = 4."""
    names = [_name(part) for part in parts]
    return "" not in names and any("_" in name for name in names)


def _named_values(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """The values of `x=2, y=5`, in the order of their names; None if that order is not the written one."""
    forms = [read_form(part) for part in parts]
    if any(form.kind != "relation" or form.mark != "=" for form in forms):
        return None
    named = [_named(form) for form in forms]
    names = [name for name, _ in named]
    if "" in names or len(set(names)) != len(names) or names != sorted(names):
        return None
    return tuple(value for _, value in named)


def _are_both_ordinates(name: str, other: str) -> bool:
    names = {re.sub(r"\s", "", name), re.sub(r"\s", "", other)}
    return "y" in names and bool(names & {"f(x)", "y(x)", "g(x)"})


def _ascending(form: Form) -> tuple[str, Sequence[str]] | None:
    """Signs and parts of a chain of inequalities, turned so that they ascend."""
    signs = form.mark.split()
    if set(signs) <= {"<", "<="}:
        return form.mark, form.parts
    if set(signs) <= {">", ">="}:
        return " ".join(sign.replace(">", "<") for sign in reversed(signs)), form.parts[::-1]
    if signs == ["!="]:
        return form.mark, form.parts
    return None


def _is_set(form: Form) -> bool:
    """Whether a form may be a set of real numbers that is written as interval or inequality."""
    if form.kind in ("pair", "union", "builder"):
        return True
    if form.kind == "relation":
        return set(form.mark.split()) <= {"<", "<=", ">", ">=", "!=", "in"}
    if form.kind == "list":
        return all(
            _is_set(read_form(part)) and read_form(part).kind == "relation" for part in form.parts
        )
    return (
        form.parts[0] in _REALS or r"\setminus" in form.parts[0] if form.kind == "single" else False
    )


def _letters(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]", re.sub(r"\\text\{[^{}]*\}|\\[A-Za-z]+", "", text))


_RATIO = re.compile(r"[0-9.]+(?:\s*:\s*[0-9.]+)+")


def _equal_ratios(gold: str, answer: str) -> bool | None:
    one, other = _RATIO.fullmatch(gold), _RATIO.fullmatch(answer)
    if one and other:
        return re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer)
    if answer.count(":") + gold.count(":") == 1 and (one or other):
        number, other_number = (
            read_number(gold.replace(":", "/")),
            read_number(answer.replace(":", "/")),
        )
        fraction = answer if one else gold
        if number and other_number and re.search(r"\\frac|/", fraction):
            return equal_numbers(number, other_number)
        return False
    return None


_POINT = re.compile(r"([A-Z])\s*(\(.+\))")


def _point(text: str) -> tuple[str, str] | None:
    match = _POINT.fullmatch(text.strip())
    if not match or read_form(match[2]).kind not in ("pair", "tuple"):
        return None
    return match[1], match[2]


_CROSS = re.compile(r"[A-Za-z]\s*\\times\s*[A-Za-z]")
_DOT = re.compile(r"[A-Za-z]\s*\\cdot\s*[A-Za-z]")


def _are_other_products(gold: str, answer: str) -> bool:
    """Whether one is a cross product where the other is a dot product, of letters that may be vectors."""
    return bool(_CROSS.search(gold) and _DOT.search(answer))


def _as_formula(text: str) -> str:
    """The text for the parser: upright letters as letters, degrees beside a function in radians."""
    return _LETTER_WORD.sub(r" \1 ", text)


Judge = Callable[[str, str], bool]
