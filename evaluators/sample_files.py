"""Samples on disk: what one checkpoint drew for one benchmark under one protocol.

    samples/<checkpoint>/<benchmark digest>-<protocol digest>/
        about.json            which checkpoint, benchmark and protocol this is, for people
        part-<id>.parquet     one row a sample
        counts.parquet        problem_id, n, c, n_unparsed, n_unscored, n_truncated

A part appears by an atomic rename, so a kill loses at most the part being drawn. Verdicts are
filled in by rewriting a part the same way. Unique on (problem_id, sample_index); equal texts are
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
from typing import TYPE_CHECKING, Any, get_args

from rlready.evaluators.checked_files import (
    DamagedError,
    check_table,
    put_aside,
    table_with_digest,
)
from rlready.evaluators.distribution import ProblemSamples
from rlready.evaluators.pass_at_k import ProblemCounts
from rlready.evaluators.verify import Checked
from rlready.registry.errors import SamplesError
from rlready.registry.records import FinishReason, Sample, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = ["problem_id", "sample_index"]
_COUNTED = ["problem_id", "n", "c"]
_JUDGED = ["verdict", "extracted", "checker_version"]


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

        schema = _sample_schema()
        rows = [{name: getattr(sample, name) for name in schema.names} for sample in samples]
        table = pa.Table.from_pylist(rows, schema=schema)
        empty = [pa.nulls(len(rows), pa.string())] * len(_JUDGED)
        for name, column in zip(_JUDGED, empty, strict=True):
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

    def n_unjudged(self, checker_version: str) -> int:
        """How many samples `unjudged` will give."""
        columns = (table["checker_version"] for _, table in self._parts([*_KEY, "checker_version"]))
        counts = [len(c) for c in columns if set(c.to_pylist()) != {checker_version}]
        return sum(counts)

    def unjudged(self, checker_version: str) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
        """Parts with samples not yet judged by this checker.

        Yields:
            The part, and the (problem id, text) of all its samples in order.
        """
        for path, table in self._parts([*_KEY, "text", "checker_version"]):
            versions = set(table["checker_version"].to_pylist())
            if versions != {checker_version}:
                ids, texts = table["problem_id"].to_pylist(), table["text"].to_pylist()
                yield path, list(zip(ids, texts, strict=True))

    def judge(self, part: Path, checked: Sequence[Checked], checker_version: str) -> None:
        """Fill in the verdicts of one part, in the order of its rows.

        A part that is damaged where `unjudged` did not look is set aside.
        """
        import pyarrow as pa

        try:
            table = _read(part, None)
        except DamagedError:
            self._set_aside(part)
            return
        columns = (
            [found.verdict.value for found in checked],
            [found.extracted for found in checked],
            [checker_version] * len(checked),
        )
        for name, column in zip(_JUDGED, columns, strict=True):
            position = table.schema.get_field_index(name)
            table = table.set_column(position, name, pa.array(column, pa.string()))
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

        for path, table in self._parts(_sample_schema().names):
            keys = zip(*(table[name].to_pylist() for name in _KEY), strict=True)
            old = table["entropy_sum"].to_pylist()
            new = [entropy_sums.get(key, before) for key, before in zip(keys, old, strict=True)]
            if new != old:
                whole = _read(path, None)  # checked a moment ago
                position = whole.schema.get_field_index("entropy_sum")
                column = pa.array(new, pa.float64())
                self._write_table(path.name, whole.set_column(position, "entropy_sum", column))

    def judged(self, n: int | Mapping[str, int]) -> list[ProblemSamples]:
        """Samples 0..n-1 of every problem with their verdicts, in the benchmark's order.

        Args:
            n: as in `missing`.

        Raises:
            SamplesError: if a sample is missing or has no verdict.
        """
        names = [*_KEY, "verdict", "extracted", "n_tokens", "finish_reason", "entropy_sum"]
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for _, table in self._parts(names):
            for row in table.to_pylist():
                rows.setdefault((row["problem_id"], row["sample_index"]), row)
        wanted = self._wanted(n)
        return [
            self._problem(problem_id, wanted[problem_id], rows) for problem_id in self._problem_ids
        ]

    def write_counts(self, counts: Sequence[ProblemCounts]) -> Path:
        """Write `counts.parquet`; returns its path."""
        import pyarrow as pa

        self._write_table(
            "counts.parquet", pa.Table.from_pylist([dataclasses.asdict(row) for row in counts])
        )
        return self.path / "counts.parquet"

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
        found = [row for row in own if row is not None and row["verdict"] is not None]
        if len(found) < n:
            raise SamplesError(
                f"{n - len(found)} of {n} samples of problem {problem_id} are missing",
                why=f"they were removed from {self.path} while this ran",
                fix="Run the same command again: it draws what is missing",
            )
        return ProblemSamples(
            problem_id=problem_id,
            verdicts=[Verdict(row["verdict"]) for row in found],
            answers=[row["extracted"] for row in found],
            n_tokens=[row["n_tokens"] for row in found],
            is_truncated=[row["finish_reason"] == "length" for row in found],
            entropy_sums=[row["entropy_sum"] for row in found],
        )

    def _parts(self, columns: list[str]) -> Iterator[tuple[Path, pa.Table]]:
        for path in sorted(self.path.glob("part-*.parquet")):
            try:
                self._check(path)
                table = _read(path, columns)
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
            _check_rows(_read(path, None), set(self._problem_ids))
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


def earlier_counts(path: Path, warn: Callable[[str], None]) -> list[dict[str, tuple[int, int]]]:
    """Counts of other checkpoints for the same benchmark and protocol, found beside a folder.

    Args:
        path: `samples/<checkpoint>/<benchmark digest>-<protocol digest>` of the checkpoint that
            is left out.
        warn: told of a damaged file, which is passed over.

    Returns:
        (n, c) by problem id, one entry a checkpoint.
    """
    found = []
    for other in sorted(path.parent.parent.glob(f"*/{path.name}/counts.parquet")):
        if other.parent == path:
            continue
        try:
            table = _read(other, None, _COUNTED)
        except DamagedError as error:
            warn(
                f"{other} is damaged ({error}) and is not used; evaluating that checkpoint again "
                "writes it anew"
            )
            continue
        columns = [table[name].to_pylist() for name in _COUNTED]
        found.append({p: (int(n), int(c)) for p, n, c in zip(*columns, strict=True)})
    return found


def _check_rows(table: pa.Table, problem_ids: set[str]) -> None:
    """What can be checked of a part that has no digest, as older versions wrote them."""
    strange = set(table["problem_id"].to_pylist()) - problem_ids
    if strange:
        raise DamagedError(f"problem {strange.pop()!r} is not in the benchmark")
    if set(table["finish_reason"].to_pylist()) - set(get_args(FinishReason)):
        raise DamagedError("a sample has an unknown finish_reason")
    if set(table["verdict"].to_pylist()) - {None, *(verdict.value for verdict in Verdict)}:
        raise DamagedError("a sample has an unknown verdict")
    numbers = [*table["n_tokens"].to_pylist(), *table["sample_index"].to_pylist()]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise DamagedError("a sample has no index, or no number of tokens")


def _read(path: Path, columns: list[str] | None, needed: Sequence[str] | None = None) -> pa.Table:
    """Columns of a part, or all of them after a look at their digest.

    Raises:
        DamagedError: if it is not a Parquet file, is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        if columns is None:
            check_table(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(str(error).partition("\n")[0]) from error
    if set(needed or columns or [*_sample_schema().names, *_JUDGED]) - set(table.column_names):
        raise DamagedError("a column is missing")
    return table


def _sample_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("problem_id", pa.string()),
            ("sample_index", pa.int32()),
            ("seed", pa.int64()),
            ("text", pa.string()),
            ("n_tokens", pa.int32()),
            ("finish_reason", pa.string()),
            ("logprob_sum", pa.float64()),
            ("entropy_sum", pa.float64()),
        ]
    )


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
