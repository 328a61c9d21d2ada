"""Benchmarks as data: problems with reference answers, from local files or the hub.

    suite = load_suite("math7")
    suite = override(suite, [parse_benchmark_option("gsm8k=data/gsm8k_test.jsonl.gz")])
    benchmarks = [load_benchmark(source) for source in suite.sources]

A suite is a TOML file, such as `suite_math7.toml` beside this module; `SuiteTable` lists its keys.
Its local paths are relative to its own folder and must stay in it.

The digest of a benchmark covers the ids, texts and accepted answers of its problems. It ignores
the order of problems and answers, and their source: the same content as JSON lines, CSV or Parquet
is the same benchmark. `fields.py` describes the fields that are read.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from rlready.evaluators.benchmarks.fields import AnswerForm, Fields, ListMeaning, to_problem
from rlready.evaluators.benchmarks.rows import HubDataset, Rows, file_rows, hub_rows, suffix_of
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.records import ANSWER_FORMATS, AnswerFormat, Problem
from rlready.registry.toml_file import TomlTable, naming_file, read_toml_file

# `importlib.resources` cannot open a package without `__init__.py` in an editable install.
_PACKAGED = Path(__file__).parent
# MLflow accepts such a text as the name of a dataset and as a part of a metric key.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Problems with reference answers, under a name.

    Args:
        name: letters, digits, `_`, `.` and `-`.
        problems: at least one, with unique ids, in the order of their source.
        source: description of the file or data set, for people.
        answer_format: place of the answer in a completion; None for the format of the protocol.
            It is not a part of the digest.

    Example:
        benchmark = load_benchmark(parse_benchmark_option("data/gsm8k.jsonl"))
        benchmark.limit(100).digest
    """

    name: str
    problems: tuple[Problem, ...]
    source: str
    answer_format: AnswerFormat | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not self.problems:
            raise BenchmarkError(
                f"benchmark {self.name} has no problems",
                why=f"{self.source} contains none",
                fix="Check the file",
            )
        (name, count), *_ = Counter(problem.id for problem in self.problems).most_common(1)
        if count > 1:
            raise BenchmarkError(
                f"benchmark {self.name} has the problem id {name!r} more than once",
                why=f"in {self.source}",
                fix="Give each problem its own id",
            )

    @cached_property
    def digest(self) -> str:
        """Digest of the content: ids, texts and accepted answers, in any order."""
        # Without a tolerance the digest stays the same as before tolerances existed.
        contents = sorted(
            (p.id, p.text, sorted(set(p.answers)), *filter(None, [p.error_tolerance]))
            for p in self.problems
        )
        return digest(contents)

    def limit(self, n: int) -> Benchmark:
        """Return the benchmark with its first n problems at most; n is 1 or more."""
        if n < 1:
            raise ConfigError(f"the limit of problems is {n}", fix="Give 1 or more")
        return dataclasses.replace(self, problems=self.problems[:n])

    def without_golds(self, unreadable: Collection[tuple[str, str]]) -> Benchmark:
        """Return the benchmark without some reference answers, under another name.

        A problem without any other reference answer is left out: `toy` with five problems, of which
        two are left out, becomes `toy-readable3`.

        Args:
            unreadable: pairs of a problem's id and a reference answer.

        Raises:
            BenchmarkError: if no problem keeps a reference answer.
        """
        problems = tuple(
            dataclasses.replace(problem, answers=golds)
            for problem in self.problems
            if (golds := tuple(g for g in problem.answers if (problem.id, g) not in unreadable))
        )
        if not problems:
            raise BenchmarkError(
                f"benchmark {self.name} has no problem whose reference answer can be checked",
                fix="Write its reference answers as LaTeX",
            )
        name = f"{self.name}-readable{len(problems)}"
        return dataclasses.replace(self, name=name, problems=problems)


@dataclass(frozen=True, kw_only=True)
class BenchmarkSource:
    """A file or hub data set with a benchmark, and how to read it.

    Args:
        name: name of the benchmark.
        location: local file or hub data set.
        fields: names of the fields of a row.
        answers: how the answer field is read.
        answer_format: as in `Benchmark`.
    """

    name: str
    location: Path | HubDataset
    fields: Fields = field(default_factory=Fields)
    answers: AnswerForm = field(default_factory=AnswerForm)
    answer_format: AnswerFormat | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)

    def rows(self) -> Rows:
        """Return the rows of the file or data set, unchanged."""
        if isinstance(self.location, HubDataset):
            return hub_rows(self.name, self.location, self.fields.columns)
        return file_rows(self.location, self.fields.columns)


class SuiteTable(TomlTable):
    """A `[[benchmark]]` table of a suite file: a local path or a hub data set, and its fields."""

    name: str
    path: str | None = None
    hub: str | None = None
    config: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ] = Field(default_factory=list)
    split: str | None = None
    revision: str | None = None
    id: str | None = None
    problem: str | None = None
    answer: str | None = None
    error_tolerance: str | None = None
    answer_after: str | None = None
    answer_list: ListMeaning = "any"
    answer_json: bool = False
    answer_format: AnswerFormat | None = None


class SuiteFile(TomlTable):
    """A suite file; the description is for people."""

    description: str = ""
    benchmark: list[SuiteTable] = Field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Benchmarks that are measured together: at least one, with unique names."""

    name: str
    sources: tuple[BenchmarkSource, ...]

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"the suite has the benchmarks {', '.join(twice)} more than once",
                fix="Give each benchmark its own name",
            )
        if not names:
            raise ConfigError("the suite has no benchmark", fix="Add a [[benchmark]]")


def load_benchmark(source: BenchmarkSource) -> Benchmark:
    """Return the benchmark with all its problems.

    Raises:
        BenchmarkError: if a row cannot be read as a problem (with file, line or row, and field), if
            two rows have the same id, or if the source has no rows.

    Example:
        benchmark = load_benchmark(parse_benchmark_option("gsm8k=data/gsm8k_test.jsonl.gz"))
        benchmark.problems[0].answers
    """
    rows = list(source.rows())
    form = source.answers.settled(rows, source.fields)
    problems: dict[str, tuple[Problem, str]] = {}
    for row in rows:
        problem = to_problem(row, source.fields, form)
        if problem.id in problems:
            earlier, where = problems[problem.id]
            is_same = problem.text == earlier.text
            raise BenchmarkError(
                f"{row.where} has the id {problem.id!r} of {where}",
                why="the same problem occurs twice" if is_same else "ids must be unique",
                fix="Remove one of them, or give each its own id",
            )
        problems[problem.id] = problem, row.where
    return Benchmark(
        name=source.name,
        problems=tuple(problem for problem, _ in problems.values()),
        source=str(source.location),
        answer_format=source.answer_format,
    )


def load_suite(name_or_path: str) -> Suite:
    """Return a built-in suite by its name, or the suite of a TOML file.

    Raises:
        ConfigError: if the suite does not exist, or its file is invalid.

    Example:
        suite = load_suite("math7")
        benchmarks = [load_benchmark(source) for source in suite.sources]
    """
    if name_or_path in known_suites():
        path = _PACKAGED / f"suite_{name_or_path}.toml"
    else:
        path = Path(name_or_path)
    if path.suffix != ".toml" or not path.is_file():
        raise ConfigError(
            f"there is no suite {name_or_path!r}",
            why=f"the built-in suites are {', '.join(known_suites())}",
            fix="Name one of them, or an existing .toml file",
        )
    content = read_toml_file(path, SuiteFile)
    with naming_file(path):
        sources = tuple(_to_source(table, path.parent) for table in content.benchmark)
        return Suite(name=name_or_path, sources=sources)


def known_suites() -> list[str]:
    """Return the names of the built-in suites."""
    return sorted(path.stem.removeprefix("suite_") for path in _PACKAGED.glob("suite_?*.toml"))


def parse_benchmark_option(text: str) -> BenchmarkSource:
    """Return the source that `NAME=FILE`, `NAME:FORMAT=FILE` or `FILE` describes.

    The default name is the name of the file without its suffix. The text before the first `=` is
    a name only if it is a valid one, so `runs/lr=0.1/x.jsonl` is a file. FORMAT is the answer
    format of this benchmark: `gsm8k:hash=gsm8k.jsonl`.

    Raises:
        ConfigError: if the file is missing from the text, or the name or the format is invalid.
        BenchmarkError: if the suffix of the file is unknown, or it is a folder.
    """
    before, equals, file = text.partition("=")
    name, colon, answer_format = before.partition(":")
    if not equals or not _NAME.fullmatch(name) or (colon and not answer_format.isalpha()):
        name, colon, file = "", "", text
    if not file.strip():
        raise ConfigError(f"benchmark option {text!r} names no file", fix="Give NAME=FILE")
    path = Path(file)
    suffix = suffix_of(path)
    name = name or path.name[: -len(suffix)]
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a benchmark",
            why="a name has letters, digits, '_', '.' and '-' only",
            fix=f"Give it a name: NAME={file}",
        )
    if not colon:
        return BenchmarkSource(name=name, location=path)
    checked = check_answer_format(answer_format, f"answer format of --benchmark {text}")
    return BenchmarkSource(name=name, location=path, answer_format=checked)


def check_answer_format(text: str, what: str) -> AnswerFormat:
    """Return the answer format with this name.

    Raises:
        ConfigError: if it is unknown; the message begins with `what`, the name of the setting.
    """
    for answer_format in ANSWER_FORMATS:
        if text == answer_format:
            return answer_format
    raise ConfigError(f"{what} is {text!r}", fix=f"Known formats: {', '.join(ANSWER_FORMATS)}")


def override(suite: Suite, sources: Iterable[BenchmarkSource]) -> Suite:
    """Return the suite with some sources replaced, by their names; new names are added at the end.

    A replacement reads answers as the original does, and has the original's answer format unless it
    names another. The file may be a copy of the original data or a user's own file. Therefore the
    original's unusual field names are tried first and then the usual ones, and the mark before the
    answer (`answer_after`) may be missing if it is missing from all answers.

    Raises:
        ConfigError: if two of the sources have the same name.
    """
    sources = tuple(sources)
    if not sources:
        return suite
    by_name = {source.name: source for source in Suite(name=suite.name, sources=sources).sources}
    merged = [
        _replacement(source, by_name.pop(source.name)) if source.name in by_name else source
        for source in suite.sources
    ]
    return dataclasses.replace(suite, sources=(*merged, *by_name.values()))


def _replacement(original: BenchmarkSource, source: BenchmarkSource) -> BenchmarkSource:
    if source.answer_format is None:
        source = dataclasses.replace(source, answer_format=original.answer_format)
    if (source.fields, source.answers) != (Fields(), AnswerForm()):
        return source
    return dataclasses.replace(
        source,
        fields=original.fields.for_other_file(),
        answers=dataclasses.replace(original.answers, is_marker_required=False),
    )


def _to_source(table: SuiteTable, folder: Path) -> BenchmarkSource:
    names = {
        role: (name,)
        for role in ("id", "problem", "answer", "error_tolerance")
        if (name := getattr(table, role)) is not None
    }
    return BenchmarkSource(
        name=table.name,
        location=_to_location(f"benchmark {table.name!r}", table, folder),
        fields=Fields(**names, is_id_required=table.id is not None),
        answers=AnswerForm(
            after=table.answer_after, list_means=table.answer_list, is_json=table.answer_json
        ),
        answer_format=table.answer_format,
    )


def _to_location(where: str, table: SuiteTable, folder: Path) -> Path | HubDataset:
    if (table.path is None) == (table.hub is None):
        raise ConfigError(f"{where} needs either path or hub", fix="Give exactly one of them")
    if table.path is not None:
        hub_keys = [key for key in ("config", "split", "revision") if getattr(table, key)]
        if hub_keys:
            raise ConfigError(f"{where} has a path and {', '.join(hub_keys)}", fix="Leave them out")
        return _path_under(where, folder, table.path)
    if not _HUB_ID.fullmatch(table.hub or ""):
        raise ConfigError(f"hub of {where} is {table.hub!r}", fix='Give "owner/name"')
    if table.split is None:
        raise ConfigError(f"{where} has no split", fix='Add split = "test", or the right one')
    return HubDataset(
        id=table.hub or "",
        configs=tuple(table.config),
        split=table.split,
        revision=table.revision,
    )


def _path_under(where: str, folder: Path, text: str) -> Path:
    """Return the path that a suite file names; it must stay in the folder of the suite."""
    relative = os.path.normpath(text)
    if not text or os.path.isabs(text) or relative.split(os.sep)[0] == os.pardir:
        raise ConfigError(
            f"path of {where} is {text!r}",
            why="paths of a suite must stay in its folder",
            fix="Move the file there, or name it on the command line: --benchmark NAME=FILE",
        )
    return folder / relative


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"benchmark name {name!r} cannot be used",
            why="it becomes a part of MLflow keys and file names",
            fix="Use letters, digits, '_', '.' and '-', 100 at most",
        )
