"""Samples on disk: those of one checkpoint for one benchmark under one protocol.

    samples/<checkpoint>/<benchmark digest>-<protocol digest>/
        about.json            which checkpoint, benchmark and protocol this is, for people
        part-<id>.parquet     one row per sample
        counts.parquet        problem_id, n, c, n_unparsed, n_unscored, n_truncated; those of
                              another answer format than boxed are in counts-<format>.parquet

A part appears by an atomic rename, so a kill loses at most the part that is being drawn. Verdicts
are added by rewriting a part in the same way, in separate columns for each answer format. Rows are
unique on (problem_id, sample_index); equal texts are valid draws and kept. Each part contains a
digest of its content: a damaged part is renamed and its samples are drawn again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checked_files import DamagedError, put_aside, table_with_digest
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.evaluators.sampling.sample_parts import (
    JUDGED,
    check_rows,
    is_open,
    read_part,
    sample_schema,
    verdict_columns,
    version_columns,
)
from rlready.evaluators.verification.verifier import CheckedAnswer
from rlready.registry.errors import SamplesError
from rlready.registry.records import AnswerFormat, FinishReason, Sample, Verdict
from rlready.registry.whole_file import replacing

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = ["problem_id", "sample_index"]
_COUNTED = ["problem_id", "n", "c"]

Judged = Mapping[AnswerFormat, Sequence[CheckedAnswer]]
"""Verdicts of one part in the order of its rows, by answer format."""


@dataclass(frozen=True, kw_only=True)
class SampleText:
    """The text of a sample, and how it ended; see `Sample`."""

    problem_id: str
    sample_index: int
    text: str
    n_tokens: int
    finish_reason: FinishReason


class SampleFolder:
    """The samples of one (checkpoint, benchmark, protocol).

    Args:
        path: its folder, which `lock` creates.
        problem_ids: ids of the benchmark's problems, in its order.

    Example:
        >>> folder = SampleFolder(path, [problem.id for problem in benchmark.problems])
        >>> with folder.lock():
        ...     missing = folder.missing(64)
    """

    def __init__(self, path: Path, problem_ids: Sequence[str]) -> None:
        self.path, self._problem_ids = path, tuple(problem_ids)
        self.set_aside: list[Path] = []
        """New names of the damaged parts that were renamed."""
        self._checked: set[tuple[str, int, int]] = set()

    @contextlib.contextmanager
    def lock(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the folder for one writer; calls `on_wait` and waits if another process holds it.

        The lock ends with its process, also when that is killed.
        """
        import fcntl

        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = (self.path / ".lock").open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            for leftover in self.path.glob(".tmp-*"):
                leftover.unlink(missing_ok=True)
            yield

    def describe(self, about: Mapping[str, Any]) -> None:
        """Write `about.json`."""
        text = json.dumps(about, indent=2, ensure_ascii=False, sort_keys=True)
        self._replace("about.json", text.encode())

    def add(self, samples: Sequence[Sample]) -> Path:
        """Write samples as one part, and return its path.

        Raises:
            SamplesError: if they cannot be written; earlier parts stay.
        """
        import pyarrow as pa

        schema = sample_schema()
        rows = [{name: getattr(sample, name) for name in schema.names} for sample in samples]
        table = pa.Table.from_pylist(rows, schema=schema)
        for name in JUDGED:
            table = table.append_column(name, pa.nulls(len(rows), pa.string()))
        name = f"part-{uuid.uuid4().hex[:16]}.parquet"
        self._write_table(name, table)
        return self.path / name

    def missing(self, n: int | Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the indices of the missing samples of each incomplete problem.

        Args:
            n: number of samples of every problem, or of each by its id.
        """
        stored, numbers = self._stored(), self._numbers(n)
        missing = {
            problem_id: tuple(
                i for i in range(numbers[problem_id]) if (problem_id, i) not in stored
            )
            for problem_id in self._problem_ids
        }
        return {problem_id: indices for problem_id, indices in missing.items() if indices}

    def n_stored(self) -> dict[str, int]:
        """Return the number of samples of each problem before the first missing one."""
        stored = self._stored()
        return {
            problem_id: next(i for i in itertools.count() if (problem_id, i) not in stored)
            for problem_id in self._problem_ids
        }

    def n_unjudged(
        self, checker_version: str, answer_formats: Sequence[AnswerFormat] = ("boxed",)
    ) -> int:
        """Return the number of samples that `unjudged` will yield."""
        parts = self._parts(_KEY, version_columns(answer_formats))
        return sum(
            len(table) for _, table in parts if is_open(table, checker_version, answer_formats)
        )

    def unjudged(
        self, checker_version: str, answer_formats: Sequence[AnswerFormat] = ("boxed",)
    ) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
        """Yield each part that this checker has not judged in all of the answer formats.

        With the path of the part comes the (problem id, text) of all its samples in order.
        """
        for path, table in self._parts([*_KEY, "text"], version_columns(answer_formats)):
            if is_open(table, checker_version, answer_formats):
                ids, texts = table["problem_id"].to_pylist(), table["text"].to_pylist()
                yield path, list(zip(ids, texts, strict=True))

    def judge(self, part: Path, judged: Judged, checker_version: str) -> None:
        """Write the verdicts of one part, in the order of its rows; a damaged part is renamed."""
        import pyarrow as pa

        try:
            table = read_part(part, None)
        except DamagedError:
            self.set_aside.append(put_aside(part))
            return
        for answer_format, checked in judged.items():
            columns = (
                [answer.verdict.value for answer in checked],
                [answer.extracted for answer in checked],
                [checker_version] * len(checked),
            )
            for name, values in zip(verdict_columns(answer_format), columns, strict=True):
                table = _with_column(table, name, pa.array(values, pa.string()))
        self._write_table(part.name, table)

    def without_entropy(self, n: int) -> list[SampleText]:
        """Return the samples among 0..n-1 of every problem that have no entropy."""
        return [text for text, entropy_sum in self._texts(n) if entropy_sum is None]

    def texts(self, n: int) -> Iterator[SampleText]:
        """Yield the samples among 0..n-1 of every problem, in no fixed order."""
        return (text for text, _ in self._texts(n))

    def _texts(self, n: int) -> Iterator[tuple[SampleText, float | None]]:
        names = [field.name for field in dataclasses.fields(SampleText)]
        for _, table in self._parts([*names, "entropy_sum"]):
            for row in table.to_pylist():
                if row["sample_index"] < n:
                    yield SampleText(**{name: row[name] for name in names}), row["entropy_sum"]

    def add_entropies(self, entropy_sums: Mapping[tuple[str, int], float]) -> None:
        """Write entropies of samples, in nats, by (problem id, sample index)."""
        import pyarrow as pa

        for path, table in self._parts(sample_schema().names):
            keys = zip(*(table[name].to_pylist() for name in _KEY), strict=True)
            old = table["entropy_sum"].to_pylist()
            new = [entropy_sums.get(key, before) for key, before in zip(keys, old, strict=True)]
            if new != old:
                whole = read_part(path, None)  # `_parts` has checked it
                column = pa.array(new, pa.float64())
                self._write_table(path.name, _with_column(whole, "entropy_sum", column))

    def judged(
        self,
        n: int | Mapping[str, int],
        answer_format: AnswerFormat = "boxed",
        lenient_format: AnswerFormat | None = None,
    ) -> list[ProblemSamples]:
        """Return samples 0..n-1 of every problem with their verdicts, in the benchmark's order.

        Args:
            n: as in `missing`.
            answer_format: answer format of the verdicts.
            lenient_format: answer format of `lenient_verdicts`; None for none.

        Raises:
            SamplesError: if a sample is missing or has no verdict.
        """
        verdict, extracted, _ = verdict_columns(answer_format)
        lenient = verdict_columns(lenient_format or answer_format)[0]
        names = [*_KEY, "n_tokens", "finish_reason", "entropy_sum"]
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for _, table in self._parts(names, list(dict.fromkeys([verdict, extracted, lenient]))):
            for row in table.to_pylist():
                rows.setdefault((row["problem_id"], row["sample_index"]), row)
        problems, numbers = [], self._numbers(n)
        for problem_id in self._problem_ids:
            number = numbers[problem_id]
            samples = [rows[key] for i in range(number) if (key := (problem_id, i)) in rows]
            samples = [row for row in samples if row[verdict] and row[lenient]]
            if len(samples) < number:
                n_missing = number - len(samples)
                raise SamplesError(
                    f"{n_missing} of {number} samples of problem {problem_id} are missing",
                    why=f"they were removed from {self.path} while this ran",
                    fix="Run the same command again: it draws what is missing",
                )
            lenient_verdicts = [Verdict(row[lenient]) for row in samples]
            problems.append(
                ProblemSamples(
                    problem_id=problem_id,
                    verdicts=[Verdict(row[verdict]) for row in samples],
                    lenient_verdicts=None if lenient_format is None else lenient_verdicts,
                    answers=[row[extracted] for row in samples],
                    n_tokens=[row["n_tokens"] for row in samples],
                    is_truncated=[row["finish_reason"] == "length" for row in samples],
                    entropy_sums=[row["entropy_sum"] for row in samples],
                )
            )
        return problems

    def write_counts(
        self, counts: Sequence[ProblemCounts], answer_format: AnswerFormat = "boxed"
    ) -> Path:
        """Write the counts of one answer format, and return the path of their file."""
        import pyarrow as pa

        name = counts_name(answer_format)
        self._write_table(name, pa.Table.from_pylist([dataclasses.asdict(row) for row in counts]))
        return self.path / name

    def _numbers(self, n: int | Mapping[str, int]) -> Mapping[str, int]:
        return dict.fromkeys(self._problem_ids, n) if isinstance(n, int) else n

    def _stored(self) -> set[tuple[str, int]]:
        tables = [table for _, table in self._parts(_KEY)]
        return {key for t in tables for key in zip(*(t[k].to_pylist() for k in _KEY), strict=True)}

    def _parts(
        self, columns: list[str], judged: Sequence[str] = ()
    ) -> Iterator[tuple[Path, pa.Table]]:
        """Yield the undamaged parts with these columns and columns of verdicts; see `read_part`."""
        for path in sorted(self.path.glob("part-*.parquet")):
            try:
                # Read a part whole once: nobody else writes it while the folder is locked.
                status = path.stat()
                key = (path.name, status.st_size, status.st_mtime_ns)
                if key not in self._checked:
                    check_rows(read_part(path, None), set(self._problem_ids))
                    self._checked.add(key)
                table = read_part(path, columns, judged=judged)
            except DamagedError:
                self.set_aside.append(put_aside(path))
                continue
            yield path, table

    def _write_table(self, name: str, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = pa.BufferOutputStream()
        pq.write_table(
            table_with_digest(table), buffer, compression="zstd", write_page_checksum=True
        )
        self._replace(name, buffer.getvalue().to_pybytes())

    def _replace(self, name: str, content: bytes) -> None:
        path = self.path / name
        with _writing(path), replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def earlier_counts(
    path: Path, warn: Callable[[str], None], answer_format: AnswerFormat = "boxed"
) -> list[dict[str, tuple[int, int]]]:
    """Return the counts of other checkpoints for the same benchmark and protocol.

    Args:
        path: `samples/<checkpoint>/<benchmark digest>-<protocol digest>` of the present checkpoint;
            the others are found beside it.
        warn: called with a message about each damaged file, which is not used.
        answer_format: answer format of the counts.

    Returns:
        (n, c) by problem id, one entry for each checkpoint.
    """
    earlier = []
    for other in sorted(path.parent.parent.glob(f"*/{path.name}/{counts_name(answer_format)}")):
        if other.parent == path:
            continue
        try:
            table = read_part(other, None, _COUNTED)
        except DamagedError as error:
            warn(
                f"{other} is damaged ({error}) and is not used; evaluating that checkpoint again "
                "replaces it"
            )
            continue
        columns = [table[name].to_pylist() for name in _COUNTED]
        earlier.append({p: (int(n), int(c)) for p, n, c in zip(*columns, strict=True)})
    return earlier


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    position = table.schema.get_field_index(name)
    if position < 0:
        return table.append_column(name, column)
    return table.set_column(position, name, column)


def counts_name(answer_format: AnswerFormat) -> str:
    """Return the name of the file with the counts of an answer format."""
    return "counts.parquet" if answer_format == "boxed" else f"counts-{answer_format}.parquet"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SamplesError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Free some space or name another --samples-dir, and run the same command again: "
            "what was written before is kept",
        ) from error
