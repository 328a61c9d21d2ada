"""Verdicts during sampling: a part is judged while the engine draws the next parts.

The verifier's child processes do the work, and one thread here sends them the answers. The engine
only waits for them when all samples are drawn, or when too many parts are waiting. A part is
written to disk before it is judged, and again with its verdicts, so that a kill loses no sample.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rlready.evaluators.sampling.sample_files import Judged, SampleFolder
from rlready.evaluators.verification.verifier import Verifier, checker_version
from rlready.registry.records import AnswerFormat, Sample

LENIENT: AnswerFormat = "auto"
"""The answer format of `lenient_pass_at_1`."""

_VERIFY_CHUNK = 8192
"""Samples that are verified before their verdicts are written. A kill loses at most these."""

_MOST_WAITING = 64
"""Parts that may wait for their verdicts. Their texts are in memory."""


class Judging:
    """Judges the parts of one benchmark in a thread.

    Args:
        folder: folder of the samples.
        verifier: checks the answers; no other thread may use it meanwhile.
        answers: reference answers of each problem, by its id.
        answer_formats: answer formats; each sample gets one verdict per format.
    """

    def __init__(
        self,
        folder: SampleFolder,
        verifier: Verifier,
        answers: Mapping[str, tuple[str, ...]],
        answer_formats: Sequence[AnswerFormat] = ("boxed",),
    ) -> None:
        self._folder, self._verifier, self._answers = folder, verifier, answers
        self._answer_formats = answer_formats
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judging")
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self.n_judged = 0
        """Samples with a verdict."""
        self.busy_s = 0.0
        """Wall time in which the checker worked."""
        self.waited_s = 0.0
        """Wall time in which `add` had to wait for it."""

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def n_left(self) -> int:
        """Samples without a verdict yet."""
        return sum(n for _, n in self._waiting)

    def add(self, part: Path, samples: Sequence[Sample]) -> None:
        """Queue a part that was just written.

        Raises:
            RlreadyError: if an earlier part could not be judged.
        """
        texts = [(self._answers[sample.problem_id], sample.text) for sample in samples]
        self._waiting.append((self._thread.submit(self._judge, part, texts), len(texts)))
        begin = time.perf_counter()
        while self._waiting and (self._waiting[0][0].done() or len(self._waiting) > _MOST_WAITING):
            self._take_first()
        self.waited_s += time.perf_counter() - begin

    def finish(self, advance: Callable[[int], None]) -> None:
        """Wait for all verdicts.

        Args:
            advance: called with the number of further samples that have a verdict.

        Raises:
            RlreadyError: if a part could not be judged.
        """
        while self._waiting:
            advance(self._take_first())

    def _take_first(self) -> int:
        future, n = self._waiting.popleft()
        future.result()
        self.n_judged += n
        return n

    def _judge(self, part: Path, texts: Sequence[tuple[tuple[str, ...], str]]) -> None:
        begin = time.perf_counter()
        judged = _judged(self._verifier, texts, self._answer_formats)
        self._folder.judge(part, judged, checker_version())
        self.busy_s += time.perf_counter() - begin


def answer_formats(asked: AnswerFormat) -> tuple[AnswerFormat, ...]:
    """Return the requested answer format and the lenient one."""
    return (asked,) if asked == LENIENT else (asked, LENIENT)


def judge_rest(
    folder: SampleFolder,
    verifier: Verifier,
    answers: Mapping[str, tuple[str, ...]],
    answer_formats: Sequence[AnswerFormat],
    advance: Callable[[int], None],
) -> None:
    """Judge the parts on disk that have no verdict of this checker.

    Args:
        folder: folder of the samples.
        verifier: checks the answers; no other thread may use it meanwhile.
        answers: reference answers of each problem, by its id.
        answer_formats: as in `Judging`.
        advance: called with the number of further samples that are judged.
    """
    version = checker_version()
    for group in _groups(folder.unjudged(version, answer_formats)):
        texts = [(answers[problem], text) for _, rows in group for problem, text in rows]
        judged = _judged(verifier, texts, answer_formats, advance)
        begin = 0
        for path, rows in group:
            end = begin + len(rows)
            verdicts = {name: checked[begin:end] for name, checked in judged.items()}
            folder.judge(path, verdicts, version)
            begin = end


def _judged(
    verifier: Verifier,
    texts: Sequence[tuple[tuple[str, ...], str]],
    answer_formats: Sequence[AnswerFormat],
    advance: Callable[[int], None] | None = None,
) -> Judged:
    # The verifier caches verdicts, so that a second format only checks the samples in which it
    # finds another answer.
    first, *others = answer_formats
    judged = {first: verifier.check(texts, advance, first)}
    return judged | {other: verifier.check(texts, answer_format=other) for other in others}


def _groups(
    parts: Iterable[tuple[Path, list[tuple[str, str]]]],
) -> Iterator[list[tuple[Path, list[tuple[str, str]]]]]:
    """Yield the parts in groups of about `_VERIFY_CHUNK` samples."""
    group: list[tuple[Path, list[tuple[str, str]]]] = []
    for part in parts:
        group.append(part)
        if sum(len(rows) for _, rows in group) >= _VERIFY_CHUNK:
            yield group
            group = []
    if group:
        yield group
