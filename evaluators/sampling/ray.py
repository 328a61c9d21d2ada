"""The `ray` engine: another engine in worker processes, on the GPUs and nodes of a Ray cluster.

Each worker is an actor that opens its own engine on its own GPUs. A task is a chunk of samples with
prompts of similar length. A worker streams each finished batch back to the driver, which yields it
as a part. When a worker dies, only what it had not delivered goes to another one, and the worker is
started again. Ray Data would hide which worker died, what it had delivered, and which errors are
the user's, so that no retry helps.

A sample's seed is its own (`sampler.py`), so neither the worker nor the number of attempts changes
more than the batch that a sample shares.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.sampling.ray_cluster import Cluster, RayOptions
from rlready.evaluators.sampling.sampler import Draw, OnProgress, Sampler
from rlready.registry import records
from rlready.registry.errors import CheckpointError, EvaluationError, RlreadyError
from rlready.registry.records import Sample

_MIN_TASK = 64
"""Fewest samples that make a task worth its round trip."""

_CLOSE_S = 20.0
"""Time in which the workers' engines can end their own processes."""

_FIX = (
    "The samples drawn so far are kept. Remove the cause (often memory: lower --batch-size, raise "
    "gpus_per_worker), and run the same command again. Ray's logs are in "
    "/tmp/ray/session_latest/logs on each node"
)

OpenEngine = Callable[[], Sampler]
"""Opens an engine in the process that calls it. It is sent to the workers, so it must pickle."""


class RaySampler:
    """Draws samples with another engine in several processes at once.

    Args:
        path: folder of the checkpoint; every node must see it at this path.
        open_engine: opens the engine that the workers draw with.
        options: options of the cluster and its workers.
        say: called with a message when a worker dies.

    Raises:
        ConfigError: if there is no such cluster, or it lacks what the workers need.
        CheckpointError: if a worker cannot read or run the checkpoint.
        EvaluationError: if no worker starts.

    Example:
        >>> open_engine = functools.partial(open_hf, folder)
        >>> sampler = RaySampler(folder, open_engine, RayOptions(workers=2))
    """

    name = "ray"

    def __init__(
        self,
        path: Path,
        open_engine: OpenEngine,
        options: RayOptions,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path, self._open_engine, self._options, self._say = path, open_engine, options, say
        self._cluster = Cluster(options.address)
        self._places: list[_Place] = []
        self._first_opened: dict[str, Any] = {}
        try:
            self._needs = self._cluster.needs(options)
            self._actor = self._cluster.ray.remote(_Worker).options(
                num_cpus=self._needs.cpus,
                num_gpus=self._needs.gpus,
                max_restarts=0,
                runtime_env=self._cluster.worker_environment(),
            )
            for _ in range(self._needs.workers):
                self._places.append(_Place())
                self._start(self._places[-1])
            while not self._first_opened:
                _, error = self._next(deque())
                if error is not None:
                    raise error
        except BaseException:
            self.close()
            raise

    @property
    def n_workers(self) -> int:
        """Number of workers that run or are being started."""
        return sum(place.worker is not None for place in self._places)

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`. `inner` is the description by the first worker that is ready."""
        return {
            "engine": self.name,
            "ray": self._cluster.ray.__version__,
            "workers": self.n_workers,
            "gpus_per_worker": self._needs.gpus,
            "inner": self._first_opened,
        }

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`. Yields the parts of the workers' engines as they arrive.

        Raises:
            EvaluationError: also if the same samples end several workers, or no worker is left.
                The parts of the other workers are yielded first.
        """
        tasks = deque(split(draws, self.n_workers, self._options.task_samples))
        for place in self._places:
            place.drop_task()
        failure: EvaluationError | None = None
        while tasks or any(place.task for place in self._places):
            self._hand_out(tasks, protocol)
            part, error = self._next(tasks)
            if part:
                if on_progress is not None:
                    on_progress(len(part), sum(sample.n_tokens for sample in part))
                yield part
            failure = failure or error
            if failure is not None:
                tasks.clear()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """See `Sampler.close`. Ends the workers, and the cluster if it was started here."""
        ray = self._cluster.ray
        if ray.is_initialized():
            closing = [place.worker.close.remote() for place in self._places if place.is_idle]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
            for place in self._places:
                self._end_worker(place)
        self._places.clear()
        self._cluster.close()

    def _hand_out(self, tasks: deque[_Task], protocol: records.Protocol) -> None:
        for place in self._places:
            if tasks and place.is_idle:
                place.task = tasks.popleft()
                streaming = place.worker.draw.options(num_returns="streaming")
                place.awaited = streaming.remote(place.task.draws, protocol)

    def _next(self, tasks: deque[_Task]) -> tuple[list[Sample], EvaluationError | None]:
        """Wait for one event; return the samples that came, and the error that ends the drawing."""
        awaited = {place.awaited: place for place in self._places if place.awaited is not None}
        if not awaited:
            return [], EvaluationError(
                f"none of {len(self._places)} Ray workers is left: each failed "
                f"{self._options.max_retries + 1} times in a row",
                why=self._places[0].last_reason,
                fix=_FIX,
            )
        timeout_s = self._options.start_timeout_s
        ready, _ = self._cluster.ray.wait(list(awaited), num_returns=1, timeout=timeout_s)
        if not ready:
            # A worker that runs may read weights for as long as it needs.
            started = [place.started for place in self._places if place.worker is not None]
            is_any_up = self._cluster.ray.wait(started, num_returns=1, timeout=0)[0]
            return [], None if is_any_up else self._not_placed()
        place = awaited[ready[0]]
        try:
            return self._receive(place), None
        except self._cluster.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            is_late_opening = place.task is None and self._first_opened
            if isinstance(cause, RlreadyError) and not is_late_opening:
                raise cause from None  # a user's mistake stays one on another worker
            return [], self._replace(place, tasks, _brief(error))

    def _receive(self, place: _Place) -> list[Sample]:
        """Return the samples that a worker sent: none when it is ready or its task is done."""
        if place.task is None:
            opened: dict[str, Any] = self._cluster.ray.get(place.awaited)
            self._first_opened = self._first_opened or opened
            place.awaited = None
            return []
        try:
            part: list[Sample] = self._cluster.ray.get(next(place.awaited))
        except StopIteration:
            place.drop_task()
            return []
        place.task, place.n_deaths = place.task.without(part), 0
        return part

    def _replace(self, place: _Place, tasks: deque[_Task], reason: str) -> EvaluationError | None:
        """Give a dead worker's task back, and start another worker in its place.

        Returns an error if the task is given up.
        """
        task, retries = place.task, self._options.max_retries
        place.last_reason = reason
        place.n_deaths += 1
        self._end_worker(place)
        if place.n_deaths <= retries:
            self._start(place)
        n_back = 0 if task is None else task.n_samples
        back = f"; {n_back} samples go to the next free one" if n_back else ""
        self._say(f"A Ray worker failed ({reason}){back}")
        if task is None or not n_back:
            return None
        if task.n_deaths == retries:
            first = task.draws[0]
            return EvaluationError(
                f"{task.n_deaths + 1} Ray workers failed one after the other while they drew the "
                f"same {task.n_samples} samples (problem {first.problem.id}, sample "
                f"{first.sample_indices[0]}, ...)",
                why=reason,
                fix=_FIX,
            )
        tasks.appendleft(_Task(draws=task.draws, n_deaths=task.n_deaths + 1))
        return None

    def _start(self, place: _Place) -> None:
        """Start a worker, whose place then waits for its engine to open."""
        place.worker = self._actor.remote()
        place.started = place.worker.host.remote()
        place.awaited = place.worker.open.remote(self._path, self._open_engine)

    def _end_worker(self, place: _Place) -> None:
        if place.worker is not None:
            self._cluster.end(place.worker)
        place.worker = place.started = place.awaited = place.task = None

    def _not_placed(self) -> EvaluationError:
        # Other work may hold the GPUs for days, and a lost node may never come back.
        return EvaluationError(
            f"no worker was started within {self._options.start_timeout_s:g} s",
            why=f"each needs {self._needs}, and the cluster has {self._cluster.free()} free",
            fix="Wait for other work on the cluster to end and run the same command again, or give "
            "--engine-option start_timeout_s=SECONDS",
        )


class _EngineFailedError(Exception):
    """An engine failed for a reason outside the user's input: memory, a device, a process."""


class _Worker:
    """The actor that runs in a process of the cluster."""

    def __init__(self) -> None:
        self._sampler: Sampler | None = None

    def host(self) -> str:
        """Return the name of the machine, once the process runs."""
        return socket.gethostname()

    def open(self, path: Path, open_engine: OpenEngine) -> dict[str, Any]:
        """Open the engine, and return its description."""
        if not path.is_dir():
            raise CheckpointError(
                f"there is no folder {path} on the node {socket.gethostname()}",
                why="the workers read the weights themselves",
                fix="Keep the checkpoint on storage that every node mounts at the same path",
            )
        self._sampler = open_engine()
        return self._sampler.describe()

    def draw(self, draws: Sequence[Draw], protocol: records.Protocol) -> Iterator[list[Sample]]:
        """Yield the engine's parts; `_EngineFailedError` if another worker's engine may succeed."""
        assert self._sampler is not None
        try:
            yield from self._sampler.draw(draws, protocol)
        except RlreadyError as error:
            if error.__cause__ is None:
                raise
            raise _EngineFailedError(str(error)) from error

    def close(self) -> None:
        """Close the engine, which may have processes of its own."""
        if self._sampler is not None:
            self._sampler.close()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Samples to draw at one worker.

    Args:
        draws: samples that are not delivered yet.
        n_deaths: number of workers that died while they drew these.
    """

    draws: tuple[Draw, ...]
    n_deaths: int = 0

    @property
    def n_samples(self) -> int:
        """Number of samples that are not delivered yet."""
        return sum(len(draw.sample_indices) for draw in self.draws)

    def without(self, part: Sequence[Sample]) -> _Task:
        """Return the task without the samples that were delivered."""
        delivered = {(sample.problem_id, sample.sample_index) for sample in part}
        missing = []
        for draw in self.draws:
            indices = tuple(i for i in draw.sample_indices if (draw.problem.id, i) not in delivered)
            if indices:
                missing.append(Draw(problem=draw.problem, sample_indices=indices))
        # A worker that delivers does not die of these samples, so the deaths start from 0.
        return _Task(draws=tuple(missing))


@dataclass
class _Place:
    """Where one worker runs, and its successor after its death.

    Args:
        worker: Ray's handle; None if the place was given up.
        started: ready when the worker's process runs.
        awaited: ready when its engine is open, or with the next part of its task; None if it is
            idle.
        task: the task that it draws.
        n_deaths: workers in a row that died without delivering anything.
        last_reason: why the last one died.
    """

    worker: Any = None
    started: Any = None
    awaited: Any = None
    task: _Task | None = None
    n_deaths: int = 0
    last_reason: str = ""

    @property
    def is_idle(self) -> bool:
        """Whether it can begin a task now."""
        return self.worker is not None and self.awaited is None

    def drop_task(self) -> None:
        """Forget the task, if there is one; its further parts are ignored."""
        if self.task is not None:
            self.task = self.awaited = None


def split(draws: Sequence[Draw], n_workers: int, task_samples: int) -> list[_Task]:
    """Split the draws into tasks of at most `task_samples`, the longest prompts first.

    Tasks shrink towards the end, so that no worker has much left when the others have finished.
    """
    ordered = sorted(draws, key=lambda draw: -len(draw.problem.text))
    n_left = sum(len(draw.sample_indices) for draw in ordered)
    tasks: list[list[Draw]] = []
    room = 0
    for draw in ordered:
        indices = draw.sample_indices
        while indices:
            if not room:
                share = math.ceil(n_left / (2 * max(1, n_workers)))
                room = min(task_samples, max(_MIN_TASK, share))
                tasks.append([])
            taken, indices = indices[:room], indices[room:]
            tasks[-1].append(Draw(problem=draw.problem, sample_indices=taken))
            room, n_left = room - len(taken), n_left - len(taken)
    return [_Task(draws=tuple(chunk)) for chunk in tasks]


def _brief(error: BaseException) -> str:
    """Return the cause in one line of Ray's many, or how the process ended."""
    cause = getattr(error, "cause", None)
    lines = str(cause or error).strip().splitlines() or [""]
    last = lines[-1].rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0][:300]
    return (
        last
        if isinstance(cause, _EngineFailedError)
        else f"{type(cause or error).__name__}: {last}"
    )
