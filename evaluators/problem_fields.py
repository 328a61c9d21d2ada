"""From a row of a benchmark to a `Problem`: which fields, and how an answer is read.

Names are tried in the order in which they stand here, first as written and then without regard
to case; a mapping that the user gives replaces them:

    id        id, unique_id, idx
    problem   problem, question, prompt
    answer    answers_latex, answers, answer, final_answer, expected_answer

Lists of accepted answers come before a single one, since the single one may be a raw form: 96 of
the 272 raw `answer`s of Minerva do not accept their own LaTeX form, their `answers_latex` do.

A row without an id gets `text-` and 16 hexadecimal digits of its text's digest: the id survives
another order of the rows and a corrected answer.

A number becomes its exact decimal text without trailing zeros (27.0 -> `27`, 1e-3 -> `0.001`). A
text is taken as it is, without the white space around it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from rlready.evaluators.problem_rows import Row
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.foreign_files import parse_json
from rlready.registry.records import Problem

ListMeaning = Literal["any", "all"]

ID_FIELDS = ("id", "unique_id", "idx")
PROBLEM_FIELDS = ("problem", "question", "prompt")
ANSWER_FIELDS = ("answers_latex", "answers", "answer", "final_answer", "expected_answer")

MAX_EXPONENT = 400
"""Largest power of ten of a numeric answer: `1e999999999` would be a text of a gigabyte."""

_ID_DIGITS = 16
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields that hold a problem, in the order in which they are tried.

    Args:
        id: may be missing from a row unless `is_id_required`.
        problem: the question.
        answer: one reference answer or a list of them.
        is_id_required: whether a row without any of the id fields is an error.
    """

    id: tuple[str, ...] = ID_FIELDS
    problem: tuple[str, ...] = PROBLEM_FIELDS
    answer: tuple[str, ...] = ANSWER_FIELDS
    is_id_required: bool = False

    def for_other_file(self) -> Fields:
        """The fields of a file that stands in for the one these were written for.

        It may be a copy with the same names or a file of one's own with the usual ones, so names
        that are not usual are tried first and the usual ones after them.
        """
        return Fields(
            id=_first_unusual(self.id, ID_FIELDS),
            problem=_first_unusual(self.problem, PROBLEM_FIELDS),
            answer=_first_unusual(self.answer, ANSWER_FIELDS),
        )

    def columns(self, where: str, names: Sequence[str]) -> list[str]:
        """Those of a table's columns that are read.

        Raises:
            BenchmarkError: if no column can hold the problem, the answer, or a required id.
        """
        row = Row(where, dict.fromkeys(names, ""))
        kept = [field for role in ("problem", "answer") for field in _present(row, self, role)]
        if self.is_id_required:
            _present(row, self, "id")
        return list(dict.fromkeys(kept + _matches(names, self.id)))


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How the answer field is read.

    Args:
        after: the answer is what follows the last occurrence of this text, and commas between
            thousands are removed from it (GSM8K: `... #### 1,234` is `1234`). None: all of it.
        is_marker_required: if False, a file none of whose answers holds `after` is read as it
            stands; one that has it in some answers must have it in all.
        list_means: "any": each element of a list is an accepted answer. "all": the elements are
            parts of one answer, which is then `a, b, c`.
        is_json: the field's text is JSON: a list, a text or a number. A CSV cell can hold several
            answers that way.
    """

    after: str | None = None
    is_marker_required: bool = True
    list_means: ListMeaning = "any"
    is_json: bool = False

    def __post_init__(self) -> None:
        if self.after is not None and not self.after.strip():
            raise ConfigError("answer_after is empty", fix="Leave it out, or name the marker")
        if self.list_means not in get_args(ListMeaning):
            raise ConfigError(f"answer_list is {self.list_means!r}", fix='Give "any" or "all"')

    def settled(self, rows: Sequence[Row], fields: Fields) -> AnswerForm:
        """The form for exactly these rows: a marker that is not required is in all or in none."""
        if self.after is None or self.is_marker_required:
            return self
        answers = (row.values[name] for row in rows for name in _given(row, fields.answer)[:1])
        if any(self.after in str(answer) for answer in answers):
            return dataclasses.replace(self, is_marker_required=True)
        return dataclasses.replace(self, after=None)


def to_problem(row: Row, fields: Fields, form: AnswerForm) -> Problem:
    """The problem of a row.

    Raises:
        BenchmarkError: if a field is missing, empty, or of a type that cannot be meant.
    """
    text = _value(row, fields, "problem")
    if not isinstance(text, str):
        raise BenchmarkError(
            f"the problem of {row.where} is a {type(text).__name__}, not a text: {_shown(text)}",
            fix="Name the field with the question's text",
        )
    _check_text(row, "problem", text)
    answers = _answers(row, _value(row, fields, "answer"), form)
    names = _present(row, fields, "id") if fields.is_id_required else _given(row, fields.id)
    if not names:
        return Problem(id=f"text-{digest(text)[:_ID_DIGITS]}", text=text, answers=answers)
    return Problem(id=_scalar(row, "id", row.values[names[0]]), text=text, answers=answers)


def decimal_text(value: int | float | Decimal) -> str:
    """The exact decimal text of a number: no exponent, no trailing zeros, no `-0`.

    A float is what its shortest decimal form says (0.1 is `0.1`).

    Raises:
        ValueError: for NaN, an infinity, or a power of ten beyond `MAX_EXPONENT`.
    """
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{value} is no number")
    if abs(number.adjusted()) > MAX_EXPONENT and number:
        raise ValueError(f"its size is beyond 1e{MAX_EXPONENT}")
    text = format(number, "f") if number else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _answers(row: Row, value: object, form: AnswerForm) -> tuple[str, ...]:
    if form.is_json:
        value = _from_json(row, value)
    parts = value if isinstance(value, list | tuple) else [value]
    texts = [_answer_text(row, part, form) for part in parts]
    if not texts:
        raise BenchmarkError(f"{row.where} has an empty list of answers")
    if form.list_means == "all":
        texts = [", ".join(texts)]
    return tuple(dict.fromkeys(texts))


def _answer_text(row: Row, part: object, form: AnswerForm) -> str:
    text = _scalar(row, "answer", part)
    if form.after is None:
        return text
    _, marker, tail = text.rpartition(form.after)
    if not marker or not tail.strip():
        raise BenchmarkError(
            f"the answer of {row.where} has nothing after {form.after!r}: {_shown(text)}",
            why="the suite says that the answer follows this marker",
            fix="Correct the row, or the suite's answer_after",
        )
    return _THOUSANDS.sub("", tail.strip())


def _from_json(row: Row, value: object) -> object:
    try:
        return parse_json(str(value), exact=True)
    except ValueError as error:
        raise BenchmarkError(
            f"the answer of {row.where} is not JSON: {_shown(value)}",
            why=str(error),
            fix="Correct the row, or leave answer_json out",
        ) from error


def _scalar(row: Row, role: str, value: object) -> str:
    """The text of an id or of one answer."""
    if isinstance(value, str):
        _check_text(row, role, value)
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        kind = "null" if value is None else type(value).__name__
        raise BenchmarkError(
            f"the {role} of {row.where} is {kind}, neither text nor number: {_shown(value)}"
        )
    try:
        return decimal_text(value)
    except ValueError as error:
        raise BenchmarkError(
            f"the {role} of {row.where} cannot be written out", why=str(error)
        ) from error


def _check_text(row: Row, role: str, text: str) -> None:
    if not text.strip():
        raise BenchmarkError(f"the {role} of {row.where} is empty", fix="Fill it, or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON may hold half of a surrogate pair, which is no text and has no digest.
        raise BenchmarkError(
            f"the {role} of {row.where} is no valid Unicode: {_shown(text)}", why=error.reason
        ) from error


def _value(row: Row, fields: Fields, role: str) -> Any:
    return row.values[_present(row, fields, role)[0]]


def _present(row: Row, fields: Fields, role: str) -> list[str]:
    """The fields of the row that hold this role, best first."""
    names = _given(row, getattr(fields, role))
    if names:
        return names
    there = ", ".join(map(repr, row.values)) or "none"
    tried = ", ".join(map(repr, getattr(fields, role)))
    raise BenchmarkError(
        f"{row.where} has no {role}",
        why=f"none of the fields {tried} holds anything; the fields there are {there}",
        fix=f'Fill it, or name the field in a suite file: {role} = "..."',
    )


def _given(row: Row, candidates: Sequence[str]) -> list[str]:
    values = row.values
    return [name for name in _matches(values, candidates) if not _is_null(values[name])]


def _matches(names: Sequence[str] | Mapping[str, Any], candidates: Sequence[str]) -> list[str]:
    exact = [name for candidate in candidates for name in names if name == candidate]
    folded = [
        name
        for candidate in candidates
        for name in names
        if name.casefold() == candidate.casefold()
    ]
    return list(dict.fromkeys(exact + folded))


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _first_unusual(names: tuple[str, ...], usual: tuple[str, ...]) -> tuple[str, ...]:
    return (*(name for name in names if name.casefold() not in usual), *usual)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
