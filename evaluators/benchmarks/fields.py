"""From a row of a benchmark to a `Problem`: which fields are read, and how.

Names are tried in this order, first as written and then ignoring case; names in a suite file
replace them:

    id        id, unique_id, idx
    problem   problem, question, prompt
    answer    answers_latex, answers, answer, final_answer, expected_answer, ground_truth,
              reward_model.ground_truth, solution
    error_tolerance   optional: largest difference from the reference (1e-1)

A dot leads into a field: `reward_model.ground_truth` is the `ground_truth` of the mapping in the
field `reward_model`, unless a field has that whole name. A mapping may be JSON or a Python `repr`.

A problem may be a list of messages, as verl and TRL write prompts. It becomes the text of the
user's turn, after that of a system turn and a blank line if it has one.

Lists of accepted answers come before a single answer, which may be a raw form: 96 of the 272 raw
`answer`s of Minerva do not accept their own LaTeX form, but their `answers_latex` do.

A row without an id gets `text-` and 16 hexadecimal digits of the digest of its text. This id does
not depend on the order of the rows or on the answer.

A number becomes its exact decimal text without trailing zeros (27.0 -> `27`, 1e-3 -> `0.001`). A
text loses the white space around it; `reference_answers.py` describes lists that were written as a
text, and whole solutions. A list in a row with `is_multiple_answer` (OlympiadBench) is one answer
with several parts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from rlready.evaluators.benchmarks.lost_escapes import lost_escape
from rlready.evaluators.benchmarks.reference_answers import (
    UnreadableAnswer,
    answer_of,
    listed,
    without_thousands,
)
from rlready.evaluators.benchmarks.row_fields import (
    columns_of,
    decoded,
    field_values,
    joined_text,
    unwrapped,
)
from rlready.evaluators.benchmarks.rows import Row
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.foreign_files import parse_json
from rlready.registry.records import Problem

ListMeaning = Literal["any", "all"]

ID_FIELDS = ("id", "unique_id", "idx")
PROBLEM_FIELDS = ("problem", "question", "prompt")
ANSWER_FIELDS = (
    "answers_latex",
    "answers",
    "answer",
    "final_answer",
    "expected_answer",
    "ground_truth",
    "reward_model.ground_truth",
    "solution",
)
TOLERANCE_FIELDS = ("error_tolerance",)
MULTIPLE_FIELDS = ("is_multiple_answer",)
CHOICE_FIELDS = ("choices", "options")

MAX_EXPONENT = 400
"""Largest power of ten of a numeric answer: `1e999999999` would be a text of a gigabyte."""

_ID_DIGITS = 16
_PROMPT_ROLES = (["user"], ["system", "user"], ["developer", "user"])
_MESSAGES_TEXT = re.compile(r"""\[\s*\{\s*['"](?:role|content)['"]\s*:""")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields of a problem, in the order in which they are tried.

    Args:
        id: optional unless `is_id_required`.
        problem: the question.
        answer: one reference answer or a list of them.
        error_tolerance: largest difference from the answer that a problem allows; may be missing.
        is_id_required: whether a row without any of the id fields is an error.
    """

    id: tuple[str, ...] = ID_FIELDS
    problem: tuple[str, ...] = PROBLEM_FIELDS
    answer: tuple[str, ...] = ANSWER_FIELDS
    error_tolerance: tuple[str, ...] = TOLERANCE_FIELDS
    is_id_required: bool = False

    def for_other_file(self) -> Fields:
        """Return the fields for another file: the unusual names first, then the usual ones.

        The file may be a copy with the same names, or a user's file with the usual names.
        """
        usual, names = Fields(), {}
        for role in ("id", "problem", "answer", "error_tolerance"):
            defaults = getattr(usual, role)
            unusual = [n for n in getattr(self, role) if n.casefold() not in defaults]
            names[role] = (*unusual, *defaults)
        return Fields(**names, is_id_required=False)

    def columns(self, where: str, names: Sequence[str]) -> list[str]:
        """Return the columns to read; raise BenchmarkError if a required field is missing."""
        required = ("problem", "answer", "id") if self.is_id_required else ("problem", "answer")
        for role in required:
            if not columns_of(names, getattr(self, role)):
                raise _missing(where, names, self, role)
        optional = (*self.id, *self.error_tolerance, *MULTIPLE_FIELDS, *CHOICE_FIELDS)
        return columns_of(names, (*self.problem, *self.answer, *optional))


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How the answer field is read.

    Args:
        after: the answer follows the last occurrence of this text, and commas between thousands
            are removed (GSM8K: `... #### 1,234` is `1234`). None: the answer is the whole text.
        is_marker_required: if False, `after` may be missing from all answers of the file.
        list_means: "any": each element of a list is an accepted answer. "all": the elements are
            parts of one answer, which is then `a, b, c`.
        is_json: the field is JSON: a list, a text or a number. This allows several answers in a CSV
            cell.
    """

    after: str | None = None
    is_marker_required: bool = True
    list_means: ListMeaning = "any"
    is_json: bool = False

    def __post_init__(self) -> None:
        if self.after is not None and not self.after.strip():
            raise ConfigError("answer_after is empty", fix="Leave it out, or name the marker")

    def settled(self, rows: Sequence[Row], fields: Fields) -> AnswerForm:
        """Return the form for these rows: an optional marker is in all answers, or in none."""
        if self.after is None or self.is_marker_required:
            return self
        answers = [field_values(row.values, fields.answer)[:1] for row in rows]
        has_marker = any(self.after in str(value) for places in answers for _, value in places)
        after = self.after if has_marker else None
        return dataclasses.replace(self, after=after, is_marker_required=True)


class _Cell(NamedTuple):
    """A value with its role, its row and the name of its field."""

    where: str
    role: str
    field: str
    value: Any

    def error(self, what: str, *, why: str = "", fix: str = "") -> BenchmarkError:
        """Return an error that names the place, for example: what = "is empty"."""
        place = f"the {self.role} of {self.where}"
        return BenchmarkError(f"{place} {what} (field {self.field!r})", why=why, fix=fix)


def to_problem(row: Row, fields: Fields, form: AnswerForm | None) -> Problem:
    """Return the problem of a row; without a form for answers it has none.

    Raises:
        BenchmarkError: if a field is missing or invalid, or its text is damaged.
    """
    text = _problem_text(_cell(row, fields, "problem"))
    answers = _answers(row, _cell(row, fields, "answer"), form) if form else ()
    has_id = fields.is_id_required or bool(field_values(row.values, fields.id))
    name = _scalar(_cell(row, fields, "id")) if has_id else text_id(text)
    tolerance = _error_tolerance(row, fields)
    return Problem(id=name, text=text, answers=answers, error_tolerance=tolerance)


def text_id(text: str) -> str:
    """Return the id of a problem whose row has none, which depends on its text alone."""
    return f"text-{digest(text)[:_ID_DIGITS]}"


def decimal_text(value: int | float | Decimal) -> str:
    """Return the exact decimal text of a number: no exponent, no trailing zeros, no `-0`.

    Raises:
        ValueError: for NaN, an infinity, or a power of ten beyond `MAX_EXPONENT`.
    """
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{value} is not a number")
    if abs(number.adjusted()) > MAX_EXPONENT and number:
        raise ValueError(f"its size is beyond 1e{MAX_EXPONENT}")
    text = format(number, "f") if number else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _problem_text(cell: _Cell) -> str:
    messages = cell.value
    if isinstance(messages, str) and _MESSAGES_TEXT.match(text := unwrapped(messages)):
        messages = decoded(text)
        if not _is_messages(messages):
            raise cell.error(
                f"looks like a list of messages and cannot be read: {_shown(cell.value)}",
                fix="Write it as JSON, or name a field with the question's text",
            )
    if _is_messages(messages):
        cell = cell._replace(value=_prompt_of(cell, messages))
    if not isinstance(cell.value, str):
        raise cell.error(
            f"is a {type(cell.value).__name__}, not a text: {_shown(cell.value)}",
            why="a problem is a text, or a list of messages with role and content",
            fix="Name the field with the question's text; a dot leads into a mapping: "
            'problem = "question.text"',
        )
    _check_text(cell, cell.value)
    return cell.value


def _is_messages(value: object) -> bool:
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, Mapping) and "role" in turn for turn in turns)


def _prompt_of(cell: _Cell, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the user's turn, after that of a system turn."""
    texts = [joined_text(turn.get("content")) for turn in messages]
    roles = [turn["role"] for turn in messages]
    if roles not in _PROMPT_ROLES or None in texts:
        raise cell.error(
            f"has messages of the roles {', '.join(map(str, roles))}",
            why="a problem is the text of one user turn, with or without a system turn before it",
            fix="Write the whole prompt as one user turn with a text as its content",
        )
    return "\n\n".join(text for text in texts if text and text.strip())


def _error_tolerance(row: Row, fields: Fields) -> str | None:
    """Return the tolerance as a decimal text; None if the field is missing, null, empty or 0."""
    name, value = next(iter(field_values(row.values, fields.error_tolerance)), ("", ""))
    if isinstance(value, str) and not value.strip():
        return None
    try:
        text = decimal_text(value if isinstance(value, int | float) else Decimal(str(value)))
        is_positive = Decimal(text) >= 0 and not isinstance(value, bool)
    except (ValueError, ArithmeticError):
        is_positive = False
    if not is_positive:
        raise BenchmarkError(
            f"the {name} of {row.where} is {_shown(value)}",
            why="it is not a number that is 0 or more",
            fix="Give the largest difference from the answer that counts, such as 0.1",
        )
    return text if Decimal(text) else None


def _answers(row: Row, cell: _Cell, form: AnswerForm) -> tuple[str, ...]:
    _require_no_index(row, cell)
    value = _from_json(cell) if form.is_json else cell.value
    parts = list(value) if isinstance(value, list | tuple) else [value]
    texts = [text for part in parts for text in _answer_texts(cell, part, len(parts), form)]
    if not texts:
        raise BenchmarkError(f"{row.where} has an empty list of answers in {cell.field!r}")
    marks = [value for _, value in field_values(row.values, MULTIPLE_FIELDS)]
    is_multiple = any(
        mark is True or (isinstance(mark, str) and mark.strip().casefold() == "true")
        for mark in marks
    )
    if form.list_means == "all" or is_multiple:
        texts = [", ".join(texts)]
    return tuple(dict.fromkeys(texts))


def _require_no_index(row: Row, cell: _Cell) -> None:
    """Check that the answer is not the index of a choice, as in MMLU; models do not write it."""
    for name, choices in field_values(row.values, CHOICE_FIELDS):
        choices = decoded(choices) if isinstance(choices, str) else choices
        is_text = isinstance(cell.value, str)
        if not isinstance(choices, list) or (is_text and cell.value in map(str, choices)):
            continue
        text = str(cell.value).strip()
        if text.isdecimal() and int(text) < len(choices):
            raise cell.error(
                f"is {text}, probably the index of one of its {len(choices)} {name}",
                why="it is compared with what the model writes, and models do not write an index",
                fix="Write the letter or the text of the right choice, and the choices into the "
                "problem",
            )


def _answer_texts(cell: _Cell, part: object, n_parts: int, form: AnswerForm) -> list[str]:
    """Return the reference answers in one element of a list of answers."""
    try:
        elements = listed(part) if isinstance(part, str) else None
        if elements is not None and n_parts > 1:
            raise UnreadableAnswer("it has a list within a list", "Write one list of answers")
        parts = [part] if elements is None else elements
        return [_answer_text(cell._replace(value=part), form) for part in parts]
    except UnreadableAnswer as error:
        raise cell.error(f"cannot be used: {_shown(part)}", why=error.why, fix=error.fix) from error


def _answer_text(cell: _Cell, form: AnswerForm) -> str:
    text = _scalar(cell)
    if form.after is not None:
        _, marker, tail = text.rpartition(form.after)
        if not marker or not tail.strip():
            raise cell.error(
                f"has nothing after {form.after!r}: {_shown(text)}",
                why="the suite says that the answer follows this marker",
                fix="Correct the row, or the suite's answer_after",
            )
        return without_thousands(tail)
    if not isinstance(cell.value, str):
        return text
    answer = answer_of(text, cell.field)
    # A whole solution has ordinary line breaks, but an answer rarely has one.
    _check_escapes(cell, cell.value if answer == text else answer, "answer")
    return answer


def _from_json(cell: _Cell) -> object:
    try:
        return parse_json(str(cell.value), exact=True)
    except ValueError as error:
        raise cell.error(
            f"is not JSON: {_shown(cell.value)}",
            why=str(error),
            fix="Correct the row, or leave answer_json out",
        ) from error


def _scalar(cell: _Cell) -> str:
    """Return the text of an id or of one answer."""
    value = cell.value
    if isinstance(value, str):
        _check_text(cell, value)
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        kind = "null" if value is None else type(value).__name__
        is_mapping = isinstance(value, Mapping)
        raise cell.error(
            f"is {kind}, neither text nor number: {_shown(value)}",
            fix=f'Name the field within it: {cell.role} = "{cell.field}.NAME"'
            if is_mapping
            else 'Write it as a text, such as "True", or as a number',
        )
    try:
        return decimal_text(value)
    except ValueError as error:
        raise cell.error("cannot be written out", why=str(error)) from error


def _check_text(cell: _Cell, text: str) -> None:
    if not text.strip():
        raise cell.error("is empty", fix="Fill it, or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON may contain half of a surrogate pair, which is not text and has no digest.
        raise cell.error(f"is not valid Unicode: {_shown(text)}", why=error.reason) from error
    _check_escapes(cell, text, "problem")


def _check_escapes(cell: _Cell, text: str, kind: Literal["answer", "problem"]) -> None:
    if lost := lost_escape(text, kind):
        raise cell.error(lost.what, why=lost.why, fix=lost.fix)


def _cell(row: Row, fields: Fields, role: str) -> _Cell:
    """Return the first of the role's fields that has a value."""
    places = field_values(row.values, getattr(fields, role))
    if not places:
        raise _missing(row.where, row.values, fields, role)
    return _Cell(row.where, role, *places[0])


def _missing(where: str, names: Iterable[str], fields: Fields, role: str) -> BenchmarkError:
    present = ", ".join(map(repr, names)) or "none"
    tried = ", ".join(map(repr, getattr(fields, role)))
    return BenchmarkError(
        f"{where} has no {role}",
        why=f"none of the fields {tried} has a value; the row has the fields {present}",
        fix=f'Fill it, or name the field in a suite file: {role} = "..."',
    )


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
