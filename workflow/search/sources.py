"""The rows of a source's file as arrays, read once and kept beside the study.

Of each row a scan keeps what drawing needs: a key of its text, its length, its difficulty, and
whether it overlaps with a benchmark. The text of a row is that of its turns, in any format of
`rlready evaluate --held-out`; of a row in none of them, all texts in it apart from its id.

- Two rows are equal if their texts are, after Unicode NFKC, in lower case and with white space as
  one space.
- The length is `n_tokens` if the first row has it; else the tokens of the texts, without a chat
  template, if a tokenizer is given; else the words.
- The difficulty is 1 - the pass rate of a reference model, from `counts` or a column, or else the
  column `difficulty`.
- A row overlaps with a benchmark as in `evaluators/metrics/text_overlap.py`: a turn is a problem,
  contains one word for word, or shares 13 words in a row with one.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.evaluators.benchmarks.fields import ID_FIELDS, text_id
from rlready.evaluators.benchmarks.problems import BenchmarkSource, load_benchmark
from rlready.evaluators.benchmarks.row_fields import field_values
from rlready.evaluators.benchmarks.rows import Row
from rlready.evaluators.heldout.examples import HeldoutForm, example_rows
from rlready.evaluators.heldout.rows import KEYS, conversation
from rlready.evaluators.heldout.turns import Message, is_weighted
from rlready.evaluators.metrics.text_overlap import PromptIndex
from rlready.registry.digest import digest, file_sha256
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.whole_file import replacing

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_VERSION = 1
_MAX_EXAMPLES = 5
_TOKENIZED_AT_ONCE = 1000
_COUNTED = ("problem_id", "n", "c")


@dataclass(frozen=True, kw_only=True)
class LocalSource:
    """A source of a space whose rows are in a file here.

    Args:
        name: of the source.
        path: JSON lines, a JSON list, Parquet or CSV.
        fields: names of the file's fields, as in `HeldoutForm`.
        pass_rate: column with the pass rate of a reference model, 0 to 1.
        counts: counts of `rlready evaluate` on these rows (`counts/NAME.parquet`), or its folder
            of samples.
        max_repetitions: how often its rows may be repeated; None: each at most once an epoch.
    """

    name: str
    path: Path
    fields: Mapping[str, str] = field(default_factory=dict)
    pass_rate: str | None = None
    counts: Path | None = None
    max_repetitions: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScannedFile:
    """What a scan keeps of n rows.

    Args:
        sha256: digest of the file.
        keys: (n,) keys of the texts; equal texts have equal keys.
        lengths: (n,) lengths; NaN where the row does not say.
        difficulty: (n,) 0 to 1; NaN where it is not known.
        overlaps: (n,) whether it shares words with a benchmark.
        weighted: (n,) False for rows of weight 0.
        length_unit: unit of the lengths.
        examples: (row, benchmark/problem, text of the problem) of some overlaps.
    """

    sha256: str
    keys: NDArray[np.uint64]
    lengths: FloatArray
    difficulty: FloatArray
    overlaps: BoolArray
    weighted: BoolArray
    length_unit: str
    examples: tuple[tuple[int, str, str], ...]

    def __len__(self) -> int:
        return len(self.keys)


_ARRAYS = ("keys", "lengths", "difficulty", "overlaps", "weighted")


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """Scans files, or returns what an earlier scan of the same file found.

    Args:
        folder: folder of the results.
        benchmarks: benchmarks with which rows must not overlap.
        tokenizer: folder of the tokenizer that counts lengths; None counts words.
        say: called with a line before a file is scanned.
    """

    folder: Path
    benchmarks: tuple[BenchmarkSource, ...] = ()
    tokenizer: Path | None = None
    say: Callable[[str], None] = lambda text: None

    def scan(self, source: LocalSource) -> ScannedFile:
        """Return the rows of a source.

        Raises:
            ConfigError: if a file is missing, cannot be read or has no rows.
        """
        for path in (source.path, source.counts):
            if path is not None and not path.exists():
                raise ConfigError(
                    f"source {source.name} has no file {path}",
                    fix=f"Correct sources.{source.name} in the space file, or give --data "
                    f"{source.name}=FILE",
                )
        sha256 = self._sha256(source.path)
        counts = None if source.counts is None else _counts_file(source.counts)
        file = self.folder / f"{digest(self._about(source, counts, sha256))[:16]}.npz"
        try:
            return _read(file)
        except FileNotFoundError:
            pass
        # A damaged file raises errors of nearly any type; it is made again.
        except Exception as error:
            self.say(f"{file} is damaged ({type(error).__name__}) and is made again")
        self.say(f"reading source {source.name}: {source.path}")
        scanned = self._scanned(source, counts, sha256)
        if not len(scanned):
            raise ConfigError(
                f"source {source.name} is empty: {source.path} has 0 rows",
                fix="Give a file with training examples, or remove the source's path",
            )
        _write(file, scanned)
        return scanned

    def _sha256(self, path: Path) -> str:
        try:
            return file_sha256(path, self.folder)
        except OSError as error:
            raise ConfigError(f"cannot read {path}", why=error.strerror or str(error)) from error

    def _about(self, source: LocalSource, counts: Path | None, sha256: str) -> list[object]:
        """Return everything that the result of a scan depends on."""
        benchmarks = [
            [s.name, self._sha256(s.location) if isinstance(s.location, Path) else str(s.location)]
            for s in self.benchmarks
        ]
        vocabulary = self.tokenizer and self.tokenizer / "tokenizer.json"
        has_vocabulary = vocabulary is not None and vocabulary.is_file()
        return [
            _VERSION,
            sha256,
            dict(source.fields),
            source.pass_rate,
            None if counts is None else self._sha256(counts),
            benchmarks,
            str(self.tokenizer),
            self._sha256(vocabulary) if vocabulary is not None and has_vocabulary else None,
        ]

    def _scanned(self, source: LocalSource, counts: Path | None, sha256: str) -> ScannedFile:
        problems = self._problems()
        index = PromptIndex(problems)
        reader = _RowReader(source, {} if counts is None else _pass_rates(counts))
        arrays: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
        lengths = _Lengths(self.tokenizer)
        examples: list[tuple[int, str, str]] = []
        for number, row in enumerate(example_rows(source.path, all_columns)):
            texts, user = reader.texts(row)
            hits = sorted(set().union(*(set().union(*index.hits(text)) for text in texts)))
            if hits and len(examples) < _MAX_EXAMPLES:
                examples.append((number, hits[0], problems[hits[0]][:200]))
            arrays["keys"].append(_key(texts))
            arrays["difficulty"].append(reader.difficulty(row, user))
            arrays["overlaps"].append(bool(hits))
            arrays["weighted"].append(is_weighted(row.values, row.where))
            lengths.add(row, texts)
        return ScannedFile(
            sha256=sha256,
            keys=np.array(arrays["keys"], dtype=np.uint64),
            lengths=lengths.finished(),
            difficulty=np.array(arrays["difficulty"], dtype=np.float64),
            overlaps=np.array(arrays["overlaps"], dtype=bool),
            weighted=np.array(arrays["weighted"], dtype=bool),
            length_unit=lengths.unit,
            examples=tuple(examples),
        )

    def _problems(self) -> dict[str, str]:
        return {
            f"{source.name}/{problem.id}": problem.text
            for source in self.benchmarks
            for problem in load_benchmark(source).problems
        }


class _RowReader:
    """Reads texts and difficulties of the rows of one source."""

    def __init__(self, source: LocalSource, pass_rates: Mapping[str, float]) -> None:
        unknown = sorted(source.fields.keys() - set(KEYS))
        if unknown:
            raise ConfigError(
                f"sources.{source.name}.fields names {unknown[0]!r}",
                fix=f"Write NAME = FIELD, with NAME one of: {', '.join(KEYS)}",
            )
        self._source, self._pass_rates = source, pass_rates
        self._form = HeldoutForm(fields=source.fields)

    def texts(self, row: Row) -> tuple[list[str], str]:
        """Return the texts of a row, and that of the user's first turn (empty if unknown)."""
        try:
            messages = conversation(self._form.values(row), row.where).messages
        except BenchmarkError:
            if self._source.fields:
                raise
            values = {k: v for k, v in row.values.items() if k not in ID_FIELDS}
            return list(_strings(values)), ""
        user = next((message.content for message in messages if message.role == "user"), "")
        return [text for message in messages for text in _of_turn(message)], user

    def difficulty(self, row: Row, user: str) -> float:
        """Return 0 to 1, or NaN if it is not known."""
        if self._source.counts is not None:
            places = field_values(row.values, ID_FIELDS)
            rate = self._pass_rates.get(str(places[0][1])) if places else None
            rate = self._pass_rates.get(text_id(user)) if rate is None else rate
            return math.nan if rate is None else 1.0 - rate
        if self._source.pass_rate is not None:
            return 1.0 - _number(row, self._source.pass_rate, highest=1.0)
        return _number(row, "difficulty")


class _Lengths:
    """Lengths of rows; the first row decides their unit."""

    def __init__(self, tokenizer: Path | None) -> None:
        self._tokenizer = tokenizer
        self._encode: Any = None
        self._lengths: list[float] = []
        self._waiting: list[str] = []
        self.unit = ""

    def add(self, row: Row, texts: Sequence[str]) -> None:
        if not self.unit:
            by_tokenizer = "words" if self._tokenizer is None else f"tokens of {self._tokenizer}"
            self.unit = by_tokenizer if row.values.get("n_tokens") is None else "n_tokens"
        if self.unit == "n_tokens":
            self._lengths.append(_number(row, "n_tokens"))
        elif self.unit == "words":
            self._lengths.append(float(sum(len(text.split()) for text in texts)))
        else:
            self._waiting.append("\n".join(texts))
            if len(self._waiting) >= _TOKENIZED_AT_ONCE:
                self._tokenize()

    def finished(self) -> FloatArray:
        self._tokenize()
        return np.array(self._lengths, dtype=np.float64)

    def _tokenize(self) -> None:
        if not self._waiting:
            return
        assert self._tokenizer is not None
        if self._encode is None:
            from rlready.evaluators.checkpoints.folder import load_tokenizer

            self._encode = load_tokenizer(self._tokenizer)
        encoded = self._encode(self._waiting, add_special_tokens=False, verbose=False)
        self._lengths += [float(len(ids)) for ids in encoded["input_ids"]]
        self._waiting = []


def all_columns(where: str, names: Sequence[str]) -> list[str]:
    """Return all columns of a table."""
    return list(names)


def _of_turn(message: Message) -> Iterator[str]:
    if message.content:
        yield message.content
    if message.extra:
        yield message.extra


def _strings(value: object) -> Iterator[str]:
    """Yield the texts in a value, in the order of its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _strings(value[key])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _key(texts: Sequence[str]) -> int:
    """Return a number that is the same for equal texts, after normalisation."""
    normal = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    content = json.dumps(normal, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _number(row: Row, name: str, highest: float = math.inf) -> float:
    value = row.values.get(name)
    if value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0.0 <= number <= highest:
        limits = "0 or more" if math.isinf(highest) else f"0 to {highest:g}"
        raise ConfigError(f"{row.where}: {name} is {value!r}", fix=f"Give a number, {limits}")
    return number


def _counts_file(path: Path) -> Path:
    """Return the file of counts: the path itself, or that in a folder of samples."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("counts*.parquet"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ConfigError(
            f"{path} has {len(files)} files counts*.parquet ({names})",
            fix="Name the file of counts that `rlready evaluate` wrote",
        )
    return files[0]


def _pass_rates(path: Path) -> dict[str, float]:
    """Return the pass rate of each problem, by its id; problems without a scored sample are not."""
    rates = {}
    for row in example_rows(path, all_columns):
        try:
            name, n, c = (row.values[key] for key in _COUNTED)
            if not 0 <= c <= n:
                raise ValueError(f"{c} of {n} samples are correct")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{row.where} is not a row of counts",
                why=f"{type(error).__name__}: {error}",
                fix=f"It needs {', '.join(_COUNTED)}, as in the counts of `rlready evaluate`",
            ) from error
        if n:
            rates[str(name)] = c / n
    return rates


def _write(path: Path, scanned: ScannedFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps([scanned.sha256, scanned.length_unit, scanned.examples])
    arrays = {name: getattr(scanned, name) for name in _ARRAYS}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, about=np.array(about), **arrays)
    except OSError as error:
        raise ConfigError(f"cannot write {path}", why=error.strerror or str(error)) from error


def _read(path: Path) -> ScannedFile:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in _ARRAYS}
        sha256, unit, examples = json.loads(str(file["about"]))
    return ScannedFile(
        sha256=sha256,
        length_unit=unit,
        examples=tuple((row, name, text) for row, name, text in examples),
        **arrays,
    )
