"""Held-out SFT examples, read from a file.

A file is JSON lines (packed as `.gz` or not), a JSON list or Parquet; a row is one example in one
of the formats of SFT data sets (`heldout_rows.py`), for example:

    {"prompt": "2 + 2 =", "response": "4"}
    {"problem": "What is 2 + 2?", "solution": "2 + 2 = 4"}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

Rows of one file may have different formats. What of an example is scored is told in
`heldout_tokens.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rlready.evaluators.heldout.files import example_rows
from rlready.evaluators.heldout.rows import FORMATS, Form, Message, conversation
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class HeldoutExample:
    """One conversation whose assistant turns are scored.

    Args:
        id: names the example in messages; unique in its set.
        messages: the turns. Of forms prompt and problem, the user's and the assistant's.
        form: which keys the row had; a `problem` still needs its prompt template.
        tools: JSON list of tools for the chat template; empty if there are none.
    """

    id: str
    messages: tuple[Message, ...]
    form: Form
    tools: str = ""

    def content(self) -> list[object]:
        """All that the loss depends on."""
        turns: list[object] = [
            [m.role, m.content] if m.is_scored else [m.role, m.content, "not scored"]
            for m in self.messages
        ]
        return [self.form, turns, self.tools] if self.tools else [self.form, turns]


@dataclass(frozen=True, kw_only=True)
class HeldoutSet:
    """Examples under one name."""

    name: str
    examples: tuple[HeldoutExample, ...]

    @property
    def digest(self) -> str:
        """Id of the content: the same examples in any order, file and with any ids are one set."""
        return digest(sorted(digest(example.content()) for example in self.examples))

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
    """The examples of a file.

    Raises:
        BenchmarkError: naming file and line, for a file that cannot be read or holds no example,
            and for a row that `conversation` refuses.
    """
    seen: Counter[str] = Counter()
    examples = []
    for row in example_rows(path):
        given = row.values.get("id")
        row_id = str(given) if isinstance(given, str | int) and given != "" else row.name
        seen[row_id] += 1
        # Several responses to one problem often share its id.
        row_id = row_id if seen[row_id] == 1 else f"{row_id}#{seen[row_id]}"
        read = conversation(row.values, row.where)
        examples.append(
            HeldoutExample(id=row_id, messages=read.messages, form=read.form, tools=read.tools)
        )
    if not examples:
        raise BenchmarkError(
            f"{path} holds no held-out example", fix=f"Write one JSON object a line, with {FORMATS}"
        )
    return HeldoutSet(name=name or _stem(path), examples=tuple(examples))


def _stem(path: Path) -> str:
    stem = path.name.removesuffix(".gz")
    for suffix in (".jsonl", ".json", ".parquet"):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem) or "heldout"
