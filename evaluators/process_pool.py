"""Child processes for small tasks of one kind. A child that hangs or dies is replaced.

`Pool.run` gives every task a result: the child's answer, or a `TaskFailure` if the child hung or
died during this task. Children are new interpreters (no fork, no import of the caller's
`__main__`). They exchange JSON lines over pipes, without pickle, and end when their pipe is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlready.registry.errors import EvaluationError

# A start takes about a second, but far longer on a machine that swaps.
START_TIMEOUT_S = 120.0
# A request must fit into a pipe (64 KiB). Small requests let all children finish at a similar time.
TASKS_PER_REQUEST = 16
# With so many tasks, another child is worth its start: a second and about a hundred slow answers.
TASKS_PER_WORKER = 150
MAX_FAILED_STARTS = 3


@dataclass(frozen=True)
class TaskFailure:
    """The reason why a task has no result."""

    reason: str


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    errors: Any  # a file with what it wrote to standard error
    deadline: float
    is_ready: bool = False
    pending: deque[int] = field(default_factory=deque)
    buffer: bytes = b""

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


class Pool:
    """Child processes that are replaced when they fail. Only one thread at a time may use a pool.

    Args:
        arguments: command-line arguments of a child, after the name of the interpreter.
        environment: environment variables of a child, in addition to the parent's.
        n_workers: largest number of children at a time.
        timeout_s: time limit of one task; beyond it the task fails and its child is killed.
        name: name of the work, for messages.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        n_workers: int,
        timeout_s: float,
        name: str = "the answer check",
    ) -> None:
        self._name = name
        self._command = [sys.executable, *arguments]
        self._environment = dict(environment)
        self._n_workers, self._timeout_s = n_workers, timeout_s
        self._children: list[_Child] = []
        self._n_failed_starts = 0
        self._died_once: set[int] = set()

    def run(self, tasks: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Yield index and result (or `TaskFailure`) of each task when it is finished.

        Raises:
            EvaluationError: if no child can be started.
        """
        waiting = deque(range(len(tasks)))
        self._died_once = set()
        n_left = len(tasks)
        wanted = min(self._n_workers, 1 + len(tasks) // TASKS_PER_WORKER)
        try:
            while n_left:
                self._feed(tasks, waiting, wanted)
                for index, result in self._collect(waiting):
                    n_left -= 1
                    yield index, result
        finally:
            if n_left:  # the caller stopped: the next run must not read replies to these tasks
                self.close()

    def close(self) -> None:
        """End all children at once."""
        for child in list(self._children):
            self._remove(child)

    # --- one round ----------------------------------------------------------------------------

    def _feed(self, tasks: Sequence[Sequence[Any]], waiting: deque[int], wanted: int) -> None:
        while waiting and len(self._children) < wanted:
            self._children.append(self._start())
        for child in list(self._children):
            if not (child.is_ready and not child.pending and waiting):
                continue
            share = max(1, min(TASKS_PER_REQUEST, len(waiting) // len(self._children)))
            batch = [waiting.popleft() for _ in range(share)]
            child.pending.extend(batch)
            child.deadline = time.monotonic() + self._timeout_s
            try:
                _send(child, [[index, *tasks[index]] for index in batch])
            except BrokenPipeError:
                self._requeue(child, waiting)

    def _collect(self, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """Yield the results of the next event: replies, the end of a child, or a deadline."""
        with selectors.DefaultSelector() as selector:
            for child in self._children:
                selector.register(child.output, selectors.EVENT_READ, child)
            next_deadline = min((child.deadline for child in self._busy()), default=0.0)
            ready = selector.select(max(0.0, next_deadline - time.monotonic()))
        for key, _ in ready:
            yield from self._read(key.data, waiting)
        for child in self._busy():
            if time.monotonic() > child.deadline:
                yield from self._give_up(child, waiting, "it hung and was killed")

    def _busy(self) -> list[_Child]:
        return [child for child in self._children if child.pending or not child.is_ready]

    def _read(self, child: _Child, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        data = os.read(child.output, 1 << 16)
        if not data:
            # The first death may have another reason: a child that was killed while it was idle, or
            # a machine out of memory. A second death, in a new child, is caused by the task.
            task = child.pending[0] if child.is_ready and child.pending else None
            if task is not None and task not in self._died_once:
                self._died_once.add(task)
                self._requeue(child, waiting)
            else:
                yield from self._give_up(child, waiting, "its process died, twice")
            return
        *lines, child.buffer = (child.buffer + data).split(b"\n")
        for line in lines:
            child.deadline = time.monotonic() + self._timeout_s
            if not child.is_ready:
                child.is_ready, self._n_failed_starts = True, 0
                continue
            index, result, wants_restart = json.loads(line)
            assert index == child.pending.popleft()
            yield index, result
            if wants_restart:
                self._requeue(child, waiting)
                return

    def _give_up(
        self, child: _Child, waiting: deque[int], reason: str
    ) -> Iterator[tuple[int, TaskFailure]]:
        if not child.is_ready:
            self._note_failed_start(child)
        failed_task = child.pending.popleft() if child.pending else None
        self._requeue(child, waiting)
        if failed_task is not None:
            yield failed_task, TaskFailure(reason)

    def _requeue(self, child: _Child, waiting: deque[int]) -> None:
        waiting.extendleft(reversed(child.pending))
        child.pending.clear()
        self._remove(child)

    # --- processes ----------------------------------------------------------------------------

    def _start(self) -> _Child:
        # The file stays open as long as the child runs.
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **self._environment},
        )
        return _Child(process, errors, deadline=time.monotonic() + START_TIMEOUT_S)

    def _note_failed_start(self, child: _Child) -> None:
        self._n_failed_starts += 1
        if self._n_failed_starts < MAX_FAILED_STARTS:
            return
        child.errors.seek(0)
        message = child.errors.read()[-2000:].decode(errors="replace").strip()
        raise EvaluationError(
            f"{self._name} cannot start a process ({' '.join(self._command[1:])})",
            why=message.splitlines()[-1] if message else "it ended or did not react",
            fix="Raise its memory limit, or run the command by hand to see the whole message",
        )

    def _remove(self, child: _Child) -> None:
        if child in self._children:
            self._children.remove(child)
        child.process.kill()
        child.process.wait()
        for stream in (child.process.stdin, child.process.stdout, child.errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _send(child: _Child, request: list[list[Any]]) -> None:
    stdin = child.process.stdin
    assert stdin is not None
    stdin.write(json.dumps(request).encode() + b"\n")
    stdin.flush()
