"""One row of a file that another tool wrote: its place, and values of the right type.

Every getter raises a `SamplesError` that names the file, the line and the field.

    row = SourceRow(path, "line 3", {"score": 1.0, "acc": True})
    row.number("score")  ->  1.0
    row.number("reward")  ->  SamplesError: run.jsonl, line 3: the field reward is missing
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rlready.evaluators.benchmarks.row_fields import joined_text
from rlready.registry.errors import SamplesError

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class SourceRow:
    """A row of a file.

    Args:
        path: the file.
        place: its place in the file, for example `line 3`.
        values: the fields; nested fields are reached by `inner`.
        prefix: name of the field that holds these values, with a dot, for messages.
    """

    path: Path
    place: str
    values: Mapping[str, Any]
    prefix: str = ""

    @property
    def where(self) -> str:
        """File and place, for messages."""
        return f"{self.path}, {self.place}"

    def has(self, name: str) -> bool:
        """Return whether the field exists and is not null."""
        return self.values.get(name) is not None

    def number(self, name: str) -> float:
        """Return a finite number; True and False are 1 and 0."""
        value = self.value(name)
        if isinstance(value, bool | int | float) and math.isfinite(value):
            return float(value)
        if isinstance(value, float):
            self.refuse(name, f"is {'NaN' if math.isnan(value) else 'infinite'}")
        self.refuse(name, f"is {shown(value)}, not a number")

    def score(self, name: str) -> float | None:
        """Return a number, or None for null and NaN, which stand for a sample without a score."""
        value = self.values[name] if name in self.values else self.value(name)
        is_nan = isinstance(value, float) and math.isnan(value)
        return None if value is None or is_nan else self.number(name)

    def whole(self, name: str) -> int:
        """Return a whole number of 0 or more; a text of digits is accepted."""
        value = self.value(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, f"is {shown(value)}, not a whole number")
        if not (math.isfinite(value) and value == int(value) and 0 <= value < 2**63):
            self.refuse(name, f"is {value}, not a whole number of 0 or more")
        return int(value)

    def text(self, name: str) -> str:
        """Return a text; a number becomes its decimal form."""
        value = self.value(name)
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return str(int(value)) if value == int(value) else str(value)
        self.refuse(name, f"is {shown(value)}, not a text")

    def conversation(self, name: str) -> str:
        """Return a text or the contents of a list of chat messages, one message a line."""
        return self._conversation(name, self.value(name))

    def question(self, name: str) -> str:
        """Return a prompt, a text or a list of chat messages, which must not be empty."""
        text = self.conversation(name)
        if not text.strip():
            self.refuse(name, "is empty, so nothing tells this problem from others")
        return text

    def message(self) -> str:
        """Return the content of a chat message; empty if it is null, as beside tool calls."""
        return self.conversation("content") if self.has("content") else ""

    def sequence(self, name: str) -> Sequence[Any]:
        """Return a list."""
        value = self.value(name)
        if not isinstance(value, list):
            self.refuse(name, f"is {shown(value)}, not a list")
        return value

    def inner(self, name: str) -> SourceRow:
        """Return the object in a field as a row with the same place."""
        value = self.value(name)
        if not isinstance(value, dict):
            self.refuse(name, f"is {shown(value)}, not an object")
        return SourceRow(self.path, self.place, value, f"{self.prefix}{name}.")

    def items(self, name: str) -> Iterator[SourceRow]:
        """Yield the objects of a list in a field."""
        for number, value in enumerate(self.sequence(name), 1):
            if not isinstance(value, dict):
                self.refuse(name, f"holds {shown(value)} as item {number}, not an object")
            yield SourceRow(self.path, self.place, value, f"{self.prefix}{name}[{number}].")

    def value(self, name: str) -> Any:
        """Return the value of a field that has to exist."""
        value = self.values.get(name)
        if value is None:
            reason = "is null" if name in self.values else "is missing"
            self.refuse(name, reason, why=f"the row has {shown_names(self.values)}")
        return value

    def refuse(self, name: str, reason: str, *, why: str = "", fix: str = "") -> NoReturn:
        """Raise the error that a field of this row cannot be used."""
        raise SamplesError(
            f"{self.where}: the field {self.prefix}{name} {reason}", why=why, fix=fix
        )

    def _conversation(self, name: str, value: Any) -> str:
        text = joined_text(value)
        if text is not None:
            return text
        if isinstance(value, dict) and "content" in value:
            return "" if value["content"] is None else self._conversation(name, value["content"])
        if isinstance(value, list):
            return "\n".join(self._conversation(name, message) for message in value)
        self.refuse(name, f"is {shown(value)}, not a text or a list of chat messages")


def alike(rows: Iterable[SourceRow], *names: str) -> Iterator[SourceRow]:
    """Yield rows that all have, or all lack, each of these fields; null means that it is missing.

    A row that lacks what tells benchmarks or problems apart would become a problem of its own.

    Raises:
        SamplesError: if a row differs from the first one.
    """
    first: tuple[SourceRow, list[bool]] | None = None
    for row in rows:
        present = [row.has(name) for name in names]
        if first is None:
            first = row, present
        for name, before, now in zip(names, first[1], present, strict=True):
            if before != now:
                row.refuse(
                    name,
                    "is missing or null" if before else "is given",
                    why=f"{first[0].place} {'has' if before else 'does not have'} it",
                    fix="Keep the rows of one run and one version of the tool",
                )
        yield row


def shown(value: object) -> str:
    """Return a value in a few characters."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 4]} ..."


def shown_names(names: Sequence[str] | Mapping[str, Any], most: int = 12) -> str:
    """Return the first names of a list in one line."""
    first = [name if len(name) <= _SHOWN_CHARACTERS else f"{name[:56]} ..." for name in names]
    more = f" and {len(first) - most} more" if len(first) > most else ""
    return (", ".join(first[:most]) + more) or "no fields"
