"""Held-out SFT examples, read from a file.

A file is JSON lines, UTF-8, `.gz` or not; a row is one example in one of three forms:

    {"prompt": "2 + 2 =", "response": "4"}
    {"problem": "What is 2 + 2?", "solution": "2 + 2 = 4"}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

A row that has several forms is read as `messages`, else as `prompt`, else as `problem`. Other keys
are ignored, except `id`, which names the example in messages. What of an example is scored is told
in `heldout_tokens.py`.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.expansion import DAMAGE, check_expansion
from rlready.registry.foreign_files import parse_json

Form = Literal["prompt", "problem", "messages"]

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = "`prompt` + `response`, `problem` + `solution`, or `messages`"

_PAIRS: tuple[tuple[Form, str], ...] = (("prompt", "response"), ("problem", "solution"))
# What a turn may carry beside its content and what a chat template would render: left out, the
# number would be that of another conversation.
_UNSUPPORTED_PARTS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class HeldoutExample:
    """One conversation whose assistant turns are scored.

    Args:
        id: names the example in messages; unique in its set.
        messages: the turns. Of forms prompt and problem, the user's and the assistant's.
        form: which keys the row had; a `problem` still needs its prompt template.
    """

    id: str
    messages: tuple[Message, ...]
    form: Form


@dataclass(frozen=True, kw_only=True)
class HeldoutSet:
    """Examples under one name."""

    name: str
    examples: tuple[HeldoutExample, ...]

    @property
    def digest(self) -> str:
        """Id of the content: the same examples in any order, file and with any ids are one set."""
        contents = ([e.form, [[m.role, m.content] for m in e.messages]] for e in self.examples)
        return digest(sorted(digest(content) for content in contents))

    def limit(self, n: int) -> HeldoutSet:
        """The first n examples.

        Raises:
            ConfigError: if n is not positive.
        """
        if n < 1:
            raise ConfigError(f"the limit of held-out examples is {n}", fix="Give 1 or more")
        return dataclasses.replace(self, examples=self.examples[:n])


def parse_heldout_option(text: str) -> tuple[str, Path]:
    """Name and file from `NAME=FILE` or `FILE`; a file alone is called by its stem.

    Raises:
        ConfigError: if the name cannot be part of a metric key, or the file is missing in the text.
    """
    before, equals, after = text.partition("=")
    # A `=` inside a path (`runs/lr=1/held.jsonl`) belongs to the path.
    name, file = (before, after) if equals and "/" not in before else ("", text)
    if not file.strip():
        raise ConfigError(f"held-out option {text!r} names no file", fix="Write NAME=FILE or FILE")
    if equals and file == after and not _NAME.fullmatch(name):
        raise ConfigError(
            f"held-out set has the name {name!r}",
            why="it becomes part of metric keys",
            fix="Use letters, digits, `_`, `-` and `.`",
        )
    return name or _stem(Path(file)), Path(file)


def load_heldout(path: Path, name: str | None = None) -> HeldoutSet:
    """The examples of a JSON lines file.

    Raises:
        BenchmarkError: naming file and line, for a file that cannot be read or holds no example,
            and for a row in none of the three forms, with an unknown role or without a response.
    """
    seen: Counter[str] = Counter()
    examples = []
    for where, n_line, row in _rows(path):
        given = row.get("id")
        row_id = str(given) if isinstance(given, str | int) and given != "" else f"line-{n_line}"
        seen[row_id] += 1
        # Several responses to one problem often share its id.
        row_id = row_id if seen[row_id] == 1 else f"{row_id}#{seen[row_id]}"
        form, messages = _conversation(row, where)
        examples.append(HeldoutExample(id=row_id, messages=messages, form=form))
    if not examples:
        raise BenchmarkError(
            f"{path} holds no held-out example", fix=f"Write one JSON object a line, with {FORMS}"
        )
    return HeldoutSet(name=name or _stem(path), examples=tuple(examples))


def _rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Place (for messages), line number and JSON object of every line that is not blank."""
    for n_line, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {n_line}"
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8-sig" if n_line == 1 else "utf-8"))
        except ValueError as error:
            kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
            raise BenchmarkError(
                f"{where} is not {kind}", why=str(error), fix="Write one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise BenchmarkError(
                f"{where} holds a {type(row).__name__}", fix=f"Write a JSON object with {FORMS}"
            )
        yield where, n_line, row


def _lines(path: Path) -> Iterator[bytes]:
    try:
        check_expansion(path, BenchmarkError)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (*DAMAGE, OSError) as error:
        raise BenchmarkError(f"held-out file {path} cannot be read", why=str(error)) from error


def _conversation(row: Mapping[str, Any], where: str) -> tuple[Form, tuple[Message, ...]]:
    if row.get("messages") is not None:
        return "messages", _messages(row["messages"], where)
    for prompt_key, response_key in _PAIRS:
        if row.get(prompt_key) is not None and row.get(response_key) is not None:
            turns = []
            for role, key in (("user", prompt_key), ("assistant", response_key)):
                text = _text(row[key], where, f"`{key}`")
                if not text.strip():
                    raise BenchmarkError(f"{where} has an empty `{key}`", fix="Remove the row")
                turns.append(Message(role, text))
            return prompt_key, tuple(turns)
    raise BenchmarkError(
        f"{where} is no held-out example",
        why=f"it has the fields {', '.join(sorted(row)) or '(none)'}",
        fix=f"Give {FORMS}",
    )


def _messages(value: object, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BenchmarkError(
            f"{where}: `messages` is no list of turns", fix='Give [{"role": ..., "content": ...}]'
        )
    turns = tuple(_message(turn, f"{where}, message {i}") for i, turn in enumerate(value))
    assistant = [turn for turn in turns if turn.role == "assistant"]
    if not assistant:
        raise BenchmarkError(f"{where} has no assistant turn", fix="Remove the row")
    if not any(turn.content.strip() for turn in assistant):
        raise BenchmarkError(f"{where} has only empty assistant turns", fix="Remove the row")
    return turns


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, dict) or "role" not in turn:
        raise BenchmarkError(f"{where} has no `role`", fix='Give {"role": ..., "content": ...}')
    role = turn["role"]
    if role not in ROLES:
        raise BenchmarkError(f"{where} has the role {role!r}", fix=f"Known: {', '.join(ROLES)}")
    extra = [key for key in _UNSUPPORTED_PARTS if turn.get(key)]
    if extra:
        raise BenchmarkError(
            f"{where} has {extra[0]!r} beside its content",
            why="only plain text is scored, and leaving it out would change the number",
            fix="Write it into `content`, as the SFT run saw it",
        )
    return Message(role, _text(turn.get("content"), where, "`content`"))


def _text(value: object, where: str, what: str) -> str:
    parts = value if isinstance(value, list) else [value]
    texts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else p for p in parts]
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(texts):
        raise BenchmarkError(f"{where}: {what} is no text", fix="Give a string, or text parts")
    text = "".join(strings)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BenchmarkError(f"{where}: {what} is no Unicode text", why=str(error)) from error
    return text


def _stem(path: Path) -> str:
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem) or "heldout"
