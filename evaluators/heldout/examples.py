"""Held-out SFT examples, read from a file.

A file is JSON lines (`.gz` or not), a JSON list (`.json`) or Parquet (`.parquet`). JSON lines may
have any other name, and also `.json` if the first character is not a bracket. A row is one example
in one of the formats of SFT data sets (`rows.py`), for example:

    {"prompt": "2 + 2 =", "response": "4"}
    {"problem": "What is 2 + 2?", "solution": "2 + 2 = 4"}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

Rows of one file may have different formats. `tokens.py` says which part of an example is scored.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlready.evaluators.heldout.rows import FORMATS, KEYS, Form, Message, conversation
from rlready.registry.compressed_files import DAMAGE, check_expansion
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.foreign_files import parse_json

MAX_LIST_BYTES = 256 << 20
"""Largest JSON list, which is read as a whole. JSON lines have no such limit."""

_BATCH_ROWS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Row(NamedTuple):
    """A row with its place for messages and its number, such as `line-3`."""

    where: str
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HeldoutExample:
    """One conversation whose assistant turns are scored.

    Args:
        id: names the example in messages; unique in its set.
        messages: the turns. The forms prompt and problem have one of the user and one of the
            assistant.
        form: keys of the row; a `problem` still needs its prompt template.
        tools: JSON list of tools for the chat template; empty if there are none.

    Example:
        >>> load_heldout(Path("held.jsonl")).examples[0].messages[1].content
        '4'
    """

    id: str
    messages: tuple[Message, ...]
    form: Form
    tools: str = ""

    def content(self) -> list[object]:
        """Return everything that the loss depends on, as JSON values."""
        turns: list[object] = [
            [m.role, m.content] if m.is_scored else [m.role, m.content, "not scored"]
            for m in self.messages
        ]
        return [self.form, turns, self.tools] if self.tools else [self.form, turns]


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


def load_heldout(path: Path, name: str | None = None) -> HeldoutSet:
    """Return the examples of a file.

    Args:
        path: the file.
        name: of the set; by default the file's name without its suffix.

    Raises:
        BenchmarkError: naming file and line, for a file that cannot be read or holds no example,
            and for a row that `conversation` refuses.

    Example:
        >>> load_heldout(Path("held.jsonl")).examples[0].id
        'line-1'
    """
    seen: Counter[str] = Counter()
    examples = []
    for row in _rows(path):
        value = row.values.get("id")
        row_id = str(value) if isinstance(value, str | int) and value != "" else row.name
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


def _rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a held-out file, in its order."""
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path)
    return _list_rows(path) if _is_list(path) else _json_lines(path)


def _is_list(path: Path) -> bool:
    if not path.name.lower().removesuffix(".gz").endswith(".json"):
        return False
    return next((line for line in _lines(path) if line.strip()), b"").lstrip().startswith(b"[")


def _json_lines(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            values = _parsed(line, where, "Write one JSON object a line")
            yield _checked(where, f"line-{number}", values)


def _list_rows(path: Path) -> Iterator[_Row]:
    parts, n_bytes = [], 0
    for line in _lines(path):
        n_bytes += len(line)
        if n_bytes > MAX_LIST_BYTES:
            raise BenchmarkError(
                f"{path} is a JSON list of more than {MAX_LIST_BYTES} bytes",
                why="it is read as a whole",
                fix="Write it as JSON lines, one object a line (.jsonl)",
            )
        parts.append(line)
    fix = "Write a list of JSON objects, or one object a line (.jsonl)"
    for number, values in enumerate(_parsed(b"".join(parts), str(path), fix), start=1):
        yield _checked(f"{path}, item {number}", f"item-{number}", values)


def _parquet_rows(path: Path) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        check_expansion(path, BenchmarkError)
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # Only what is read: a picture in another column would be loaded otherwise.
            needed = [name for name in names if name in KEYS] or names
            for batch in file.iter_batches(_BATCH_ROWS, columns=needed):
                for values in batch.to_pylist():
                    number += 1
                    yield _Row(f"{path}, row {number}", f"row-{number}", values)
    # pyarrow raises both for a damaged file.
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(
            f"{path} cannot be read as Parquet", why=str(error), fix="Write the file again"
        ) from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        check_expansion(path, BenchmarkError)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(b"\xef\xbb\xbf")
    except (*DAMAGE, OSError) as error:
        raise BenchmarkError(f"held-out file {path} cannot be read", why=str(error)) from error


def _parsed(text: bytes, where: str, fix: str) -> Any:
    try:
        return parse_json(text.decode("utf-8"))
    except ValueError as error:
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise BenchmarkError(f"{where} is not {kind}", why=str(error), fix=fix) from error


def _checked(where: str, name: str, values: Any) -> _Row:
    if not isinstance(values, dict):
        raise BenchmarkError(
            f"{where} holds a {type(values).__name__}", fix=f"Write a JSON object with {FORMATS}"
        )
    return _Row(where, name, values)
