"""Held-out SFT examples, read from a file.

A file is JSON lines (`.gz` or not), a JSON list (`.json`), Parquet (`.parquet`) or CSV (`.csv`).
JSON lines may have any other name. A row is one example in one of the formats of SFT data sets
(`rows.py`), for example:

    {"prompt": "2 + 2 =", "response": "4"}
    {"problem": "What is 2 + 2?", "solution": "2 + 2 = 4"}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

Rows of one file may have different formats. `tokens.py` says which part of an example is scored.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.row_fields import columns_of, field_values
from rlready.evaluators.benchmarks.rows import SUFFIXES, Columns, FileKind, Row, file_rows
from rlready.evaluators.heldout.rows import FORMATS, KEYS, Form, conversation
from rlready.evaluators.heldout.turns import Message, is_weighted
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError

EXAMPLES = FileKind(
    row="example",
    fields='{"prompt": "...", "response": "..."}',
    max_line_bytes=64 << 20,
    max_file_bytes=16 << 30,
    takes_any_suffix=True,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class HeldoutForm:
    """What a held-out file does not say itself.

    Args:
        response_marker: the text before the response in rows with `text`; empty if there is none.
        fields: names of the file's fields, by the names of `rows.py`; a dot leads into a mapping.
            If there are any, a row is read from these fields, and of the others only from `id`,
            `tools`, `system`, `weight` and `chat_template_kwargs`.

    Example:
        >>> form = HeldoutForm(response_marker="### Response:")
        >>> load_heldout(Path("held.jsonl"), form=form).examples[0].messages[1].content
        '4'
    """

    response_marker: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_options(cls, response_marker: str | None, fields: Sequence[str]) -> HeldoutForm:
        r"""Return the form that the options of the command line describe.

        Args:
            response_marker: the marker, in which `\n` and `\t` are a line break and a tab.
            fields: texts `NAME=FIELD`.

        Raises:
            ConfigError: if an option is invalid.
        """
        marker = (response_marker or "").replace("\\n", "\n").replace("\\t", "\t")
        if response_marker is not None and not marker.strip():
            raise ConfigError("--response-marker is empty", fix="Give a text such as 'Answer:'")
        names: dict[str, str] = {}
        for text in fields:
            name, _, path = (part.strip() for part in text.partition("="))
            if name not in KEYS or not path or name in names:
                raise ConfigError(
                    f"--held-out-field {text!r} cannot be used",
                    why=f"{name} is given twice" if name in names else "",
                    fix=f"Write NAME=FIELD, once for each NAME, one of: {', '.join(KEYS)}",
                )
            names[name] = path
        return cls(response_marker=marker, fields=names)

    def columns(self, where: str, names: Sequence[str]) -> list[str]:
        """Return the columns of a table to load; pictures in others are not."""
        needed = [name for name in names if name in KEYS]
        needed += [n for n in columns_of(names, list(self.fields.values())) if n not in needed]
        return needed or list(names)

    def values(self, row: Row) -> Mapping[str, Any]:
        """Return the values of a row by the names of `rows.py`."""
        if not self.fields:
            return row.values
        beside = ("id", "tools", "system", "weight", "chat_template_kwargs")
        values = {name: row.values[name] for name in beside if name in row.values}
        for name, path in self.fields.items():
            places = field_values(row.values, (path,))
            if places:
                values[name] = places[0][1]
            elif name not in beside and name not in ("input", "history"):
                raise BenchmarkError(
                    f"{row.where} has no field {path!r}",
                    why=f"it has the fields {', '.join(sorted(row.values)) or '(none)'}",
                    fix=f"Correct --held-out-field {name}={path}",
                )
        return values


@dataclass(frozen=True, kw_only=True)
class HeldoutExample:
    """One conversation whose assistant turns are scored.

    Args:
        id: names the example in messages; unique in its set.
        messages: the turns. The forms prompt and problem have one of the user and one of the
            assistant.
        form: keys of the row; a `problem` still needs its prompt template.
        tools: JSON list of tools for the chat template; empty if there are none.
        plain_prompt: as in `rows.Conversation`.
        variables: JSON object of variables for the chat template; empty if there are none.

    Example:
        >>> load_heldout(Path("held.jsonl")).examples[0].messages[1].content
        '4'
    """

    id: str
    messages: tuple[Message, ...]
    form: Form
    tools: str = ""
    plain_prompt: str = ""
    variables: str = ""

    def content(self) -> list[object]:
        """Return everything that the loss depends on, as JSON values."""
        turns = [message.content_values() for message in self.messages]
        more = [self.tools, self.plain_prompt, self.variables]
        while more and not more[-1]:
            more.pop()
        return [self.form, turns, *more]


@dataclass(frozen=True, kw_only=True)
class HeldoutSet:
    """Examples under one name.

    Example:
        >>> heldout = load_heldout(Path("held.jsonl"), name="math")
        >>> heldout.name, len(heldout.examples)
        ('math', 1)
    """

    name: str
    examples: tuple[HeldoutExample, ...]
    n_weightless: int = 0
    """Rows of weight 0, which are left out."""

    @property
    def digest(self) -> str:
        """Id of the content; the order of the examples, their ids and the file do not matter."""
        return digest(sorted(digest(example.content()) for example in self.examples))

    def limit(self, n: int) -> HeldoutSet:
        """Return the set with its first n examples only."""
        if n < 1:
            raise ConfigError(f"the limit of held-out examples is {n}", fix="Give 1 or more")
        return dataclasses.replace(self, examples=self.examples[:n])


def parse_heldout_option(text: str) -> tuple[str, Path]:
    """Return name and file of `NAME=FILE` or `FILE`; the name of a file alone is its stem."""
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


def load_heldout(
    path: Path, name: str | None = None, form: HeldoutForm | None = None
) -> HeldoutSet:
    """Return the examples of a file.

    Args:
        path: the file.
        name: of the set; by default the file's name without its suffix.
        form: what the file does not say itself.

    Raises:
        BenchmarkError: naming file and line, for a file that cannot be read or holds no example,
            and for a row that `conversation` refuses.

    Example:
        >>> load_heldout(Path("held.jsonl")).examples[0].id
        'line-1'
    """
    form = form or HeldoutForm()
    seen: Counter[str] = Counter()
    examples = []
    n_weightless = 0
    for row in example_rows(path, form.columns):
        values = form.values(row)
        if not is_weighted(values, row.where):
            n_weightless += 1
            continue
        value = values.get("id")
        is_named = isinstance(value, str | int) and value != ""
        row_id = str(value) if is_named else row.where.rpartition(", ")[2].replace(" ", "-")
        seen[row_id] += 1
        # Several responses to one problem often share its id.
        row_id = row_id if seen[row_id] == 1 else f"{row_id}#{seen[row_id]}"
        read = conversation(values, row.where, form.response_marker)
        examples.append(HeldoutExample(id=row_id, **vars(read)))
    if not examples:
        raise BenchmarkError(
            f"{path} holds no held-out example",
            why=f"all {n_weightless} of its rows have weight 0" if n_weightless else "",
            fix=f"Write one JSON object a line, with {FORMATS}",
        )
    return HeldoutSet(name=name or _stem(path), examples=tuple(examples), n_weightless=n_weightless)


def _stem(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
    stem = path.name[: len(path.name) - len(suffix)].removesuffix(".gz")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem) or "heldout"


def example_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a file of examples; null keys of nested objects are left out.

    Args:
        path: the file.
        columns: chooses the columns of a table.

    Raises:
        BenchmarkError: if the file cannot be read.
    """
    try:
        for row in file_rows(path, columns, EXAMPLES):
            # In Parquet all objects of a list have the same keys, of which most may be null.
            is_table = path.suffix.lower() == ".parquet"
            yield Row(row.where, _without_nulls(row.values)) if is_table else row
    except OSError as error:
        raise BenchmarkError(f"held-out file {path} cannot be read", why=str(error)) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
