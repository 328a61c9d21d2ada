"""Samples on disk: what one checkpoint drew for one benchmark under one protocol.

    samples/<checkpoint>/<benchmark digest>-<protocol digest>/
        about.json            which checkpoint, benchmark and protocol this is, for people
        part-<id>.parquet     one row a sample
        counts.parquet        problem_id, n, c, n_unparsed, n_unscored, n_truncated; those of an
                              answer format other than boxed are in counts-<format>.parquet

A part appears by an atomic rename, so a kill loses at most the part being drawn. Verdicts are
filled in by rewriting a part the same way, in columns of their own for each answer format: what
is looked for in a sample changes no sample. Unique on (problem_id, sample_index); equal texts are
valid draws and kept. A part carries a digest of its content: a damaged part is set aside and its
samples are drawn again.
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

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = ["problem_id", "sample_index"]
_COUNTED = ["problem_id", "n", "c"]

Judged = Mapping[AnswerFormat, Sequence[CheckedAnswer]]
"""Verdicts of one part in the order of its rows, by where the answer was looked for."""


@dataclass(frozen=True, kw_only=True)
class SampleText:
    """What a sample says, and how it ended; see `Sample`."""

    problem_id: str
    sample_index: int
    text: str
    n_tokens: int
    finish_reason: FinishReason


class SampleFolder:
    """The samples of one (checkpoint, benchmark, protocol).

    Args:
        path: its folder; made when it is locked.
        problem_ids: of the benchmark, in its order.
    """

    def __init__(self, path: Path, problem_ids: Sequence[str]) -> None:
        self.path, self._problem_ids = path, tuple(problem_ids)
        self.set_aside: list[Path] = []
        """Damaged parts found so far, under the names they were given."""
        self._checked: set[tuple[str, int, int]] = set()

    @contextlib.contextmanager
    def lock(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the folder for one writer; another process waits here.

        The lock dies with its process, so a kill leaves none behind.

        Args:
            on_wait: called once if another process holds it.
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
        """Write samples as one part; returns its path.

        Raises:
            SamplesError: if the disk takes no more; parts written before stay.
        """
        import pyarrow as pa

        schema = sample_schema()
        rows = [{name: getattr(sample, name) for name in schema.names} for sample in samples]
        table = pa.Table.from_pylist(rows, schema=schema)
        empty = [pa.nulls(len(rows), pa.string())] * len(JUDGED)
        for name, column in zip(JUDGED, empty, strict=True):
            table = table.append_column(name, column)
        name = f"part-{uuid.uuid4().hex[:16]}.parquet"
        self._write_table(name, table)
        return self.path / name

    def missing(self, n: int | Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Of each problem, which of the samples 0..n-1 are not there; complete ones left out.

        Args:
            n: wanted of every problem, or of each by its id.
        """
        there, wanted = self._there(), self._wanted(n)
        absent = {
            problem_id: tuple(i for i in range(wanted[problem_id]) if (problem_id, i) not in there)
            for problem_id in self._problem_ids
        }
        return {problem_id: indices for problem_id, indices in absent.items() if indices}

    def n_there(self) -> dict[str, int]:
        """Of each problem, how many samples there are from the first on without a gap."""
        there = self._there()
        return {
            problem_id: next(i for i in itertools.count() if (problem_id, i) not in there)
            for problem_id in self._problem_ids
        }

    def n_unjudged(
        self, checker_version: str, answer_formats: Sequence[AnswerFormat] = ("boxed",)
    ) -> int:
        """How many samples `unjudged` will give."""
        parts = self._parts(_KEY, version_columns(answer_formats))
        return sum(
            len(table) for _, table in parts if is_open(table, checker_version, answer_formats)
        )

    def unjudged(
        self, checker_version: str, answer_formats: Sequence[AnswerFormat] = ("boxed",)
    ) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
        """Parts with samples not yet judged by this checker in each of the answer formats.

        Yields:
            The part, and the (problem id, text) of all its samples in order.
        """
        for path, table in self._parts([*_KEY, "text"], version_columns(answer_formats)):
            if is_open(table, checker_version, answer_formats):
                ids, texts = table["problem_id"].to_pylist(), table["text"].to_pylist()
                yield path, list(zip(ids, texts, strict=True))

    def judge(self, part: Path, judged: Judged, checker_version: str) -> None:
        """Fill in the verdicts of one part, in the order of its rows.

        A part that is damaged where `unjudged` did not look is set aside.
        """
        import pyarrow as pa

        try:
            table = read_part(part, None)
        except DamagedError:
            self._set_aside(part)
            return
        for answer_format, checked in judged.items():
            columns = (
                [found.verdict.value for found in checked],
                [found.extracted for found in checked],
                [checker_version] * len(checked),
            )
            for name, values in zip(verdict_columns(answer_format), columns, strict=True):
                column = pa.array(values, pa.string())
                position = table.schema.get_field_index(name)
                if position < 0:
                    table = table.append_column(name, column)
                else:
                    table = table.set_column(position, name, column)
        self._write_table(part.name, table)

    def without_entropy(self, n: int) -> list[SampleText]:
        """Those of the samples 0..n-1 of every problem that have no entropy."""
        names = [field.name for field in dataclasses.fields(SampleText)]
        return [
            SampleText(**{name: row[name] for name in names})
            for _, table in self._parts([*names, "entropy_sum"])
            for row in table.to_pylist()
            if row["entropy_sum"] is None and row["sample_index"] < n
        ]

    def add_entropies(self, entropy_sums: Mapping[tuple[str, int], float]) -> None:
        """Fill in the entropies of samples, nats, by (problem id, sample index)."""
        import pyarrow as pa

        for path, table in self._parts(sample_schema().names):
            keys = zip(*(table[name].to_pylist() for name in _KEY), strict=True)
            old = table["entropy_sum"].to_pylist()
            new = [entropy_sums.get(key, before) for key, before in zip(keys, old, strict=True)]
            if new != old:
                whole = read_part(path, None)  # checked a moment ago
                position = whole.schema.get_field_index("entropy_sum")
                column = pa.array(new, pa.float64())
                self._write_table(path.name, whole.set_column(position, "entropy_sum", column))

    def judged(
        self,
        n: int | Mapping[str, int],
        answer_format: AnswerFormat = "boxed",
        lenient_format: AnswerFormat | None = None,
    ) -> list[ProblemSamples]:
        """Samples 0..n-1 of every problem with their verdicts, in the benchmark's order.

        Args:
            n: as in `missing`.
            answer_format: whose verdicts.
            lenient_format: whose verdicts are `lenient_verdicts`; None for none.

        Raises:
            SamplesError: if a sample is missing or has no verdict.
        """
        strict, lenient = (
            verdict_columns(answer_format),
            verdict_columns(lenient_format or answer_format),
        )
        names = [*_KEY, "n_tokens", "finish_reason", "entropy_sum"]
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for _, table in self._parts(names, list(dict.fromkeys([*strict[:2], lenient[0]]))):
            for row in table.to_pylist():
                row["verdict"], row["extracted"] = row[strict[0]], row[strict[1]]
                row["lenient"] = row[lenient[0]]
                rows.setdefault((row["problem_id"], row["sample_index"]), row)
        wanted = self._wanted(n)
        problems = [self._problem(p, wanted[p], rows) for p in self._problem_ids]
        if lenient_format is None:
            return [dataclasses.replace(problem, lenient_verdicts=None) for problem in problems]
        return problems

    def write_counts(
        self, counts: Sequence[ProblemCounts], answer_format: AnswerFormat = "boxed"
    ) -> Path:
        """Write the counts of one answer format; returns the path of their file."""
        import pyarrow as pa

        name = _counts_name(answer_format)
        self._write_table(name, pa.Table.from_pylist([dataclasses.asdict(row) for row in counts]))
        return self.path / name

    def _wanted(self, n: int | Mapping[str, int]) -> Mapping[str, int]:
        return dict.fromkeys(self._problem_ids, n) if isinstance(n, int) else n

    def _there(self) -> set[tuple[str, int]]:
        there: set[tuple[str, int]] = set()
        for _, table in self._parts(_KEY):
            there.update(zip(*(table[name].to_pylist() for name in _KEY), strict=True))
        return there

    def _problem(
        self, problem_id: str, n: int, rows: Mapping[tuple[str, int], dict[str, Any]]
    ) -> ProblemSamples:
        own = [rows.get((problem_id, index)) for index in range(n)]
        found = [row for row in own if row is not None and row["verdict"] and row["lenient"]]
        if len(found) < n:
            raise SamplesError(
                f"{n - len(found)} of {n} samples of problem {problem_id} are missing",
                why=f"they were removed from {self.path} while this ran",
                fix="Run the same command again: it draws what is missing",
            )
        return ProblemSamples(
            problem_id=problem_id,
            verdicts=[Verdict(row["verdict"]) for row in found],
            lenient_verdicts=[Verdict(row["lenient"]) for row in found],
            answers=[row["extracted"] for row in found],
            n_tokens=[row["n_tokens"] for row in found],
            is_truncated=[row["finish_reason"] == "length" for row in found],
            entropy_sums=[row["entropy_sum"] for row in found],
        )

    def _parts(
        self, columns: list[str], judged: Sequence[str] = ()
    ) -> Iterator[tuple[Path, pa.Table]]:
        """The parts that are whole, with these columns.

        Args:
            columns: that every part has.
            judged: columns of verdicts, empty where a part does not have them yet.
        """
        for path in sorted(self.path.glob("part-*.parquet")):
            try:
                self._check(path)
                table = read_part(path, columns, judged=judged)
            except DamagedError:
                self._set_aside(path)
                continue
            yield path, table

    def _set_aside(self, path: Path) -> None:
        self.set_aside.append(put_aside(path))

    def _check(self, path: Path) -> None:
        """Read a part whole, once: nobody else writes it while the folder is locked."""
        status = path.stat()
        key = (path.name, status.st_size, status.st_mtime_ns)
        if key not in self._checked:
            check_rows(read_part(path, None), set(self._problem_ids))
            self._checked.add(key)

    def _write_table(self, name: str, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = pa.BufferOutputStream()
        pq.write_table(
            table_with_digest(table), buffer, compression="zstd", write_page_checksum=True
        )
        self._replace(name, buffer.getvalue().to_pybytes())

    def _replace(self, name: str, content: bytes) -> None:
        temporary = self.path / f".tmp-{os.getpid()}-{name}"
        with _writing(self.path / name):
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path / name)
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise


def earlier_counts(
    path: Path, warn: Callable[[str], None], answer_format: AnswerFormat = "boxed"
) -> list[dict[str, tuple[int, int]]]:
    """Counts of other checkpoints for the same benchmark and protocol, found beside a folder.

    Args:
        path: `samples/<checkpoint>/<benchmark digest>-<protocol digest>` of the checkpoint that
            is left out.
        warn: told of a damaged file, which is passed over.
        answer_format: whose counts.

    Returns:
        (n, c) by problem id, one entry a checkpoint.
    """
    found = []
    for other in sorted(path.parent.parent.glob(f"*/{path.name}/{_counts_name(answer_format)}")):
        if other.parent == path:
            continue
        try:
            table = read_part(other, None, _COUNTED)
        except DamagedError as error:
            warn(
                f"{other} is damaged ({error}) and is not used; evaluating that checkpoint again "
                "writes it anew"
            )
            continue
        columns = [table[name].to_pylist() for name in _COUNTED]
        found.append({p: (int(n), int(c)) for p, n, c in zip(*columns, strict=True)})
    return found


def _counts_name(answer_format: AnswerFormat) -> str:
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
