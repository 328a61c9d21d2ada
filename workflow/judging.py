"""Verdicts beside the drawing: a part is judged while the engine draws the next ones.

The work is done by the verifier's child processes; here one thread feeds them, so that the engine
waits for the checker only at its end, or when the checker falls far behind. A part lies on disk
before it is judged and once more after, so a kill between the two costs no sample.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from rlready.evaluators.sample_files import SampleFolder
from rlready.evaluators.verify import Verifier, checker_version
from rlready.registry.records import Sample

_MOST_WAITING = 64
"""Parts that may wait for their verdicts: their texts are in memory."""


class Judging:
    """Judges the parts of one benchmark in a thread.

    Args:
        folder: of the samples.
        verifier: used by nobody else meanwhile.
        answers: reference answers of each problem, by its id.
    """

    def __init__(
        self,
        folder: SampleFolder,
        verifier: Verifier,
        answers: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._folder, self._verifier, self._answers = folder, verifier, answers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judging")
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self.n_judged = 0
        """Samples that have their verdict."""
        self.busy_s = 0.0
        """Wall time in which the checker was at work."""
        self.waited_s = 0.0
        """Wall time in which `add` had to wait for it."""

    def __enter__(self) -> Judging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def n_left(self) -> int:
        """Samples that wait for their verdict."""
        return sum(n for _, n in self._waiting)

    def add(self, part: Path, samples: Sequence[Sample]) -> None:
        """Have a part judged that was just written.

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
        """Wait for all that is left.

        Args:
            advance: told how many more samples have their verdict.

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
        self._folder.judge(part, self._verifier.check(texts), checker_version())
        self.busy_s += time.perf_counter() - begin
