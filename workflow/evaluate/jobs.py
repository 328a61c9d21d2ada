"""Evaluations that run at the same time: one child process each, and a share of the devices.

They share a Ray cluster, or split the GPUs of this machine evenly. They exchange samples and
results through the files on disk and the registry.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from rlready.evaluators.sampling.ray_cluster import Cluster
from rlready.registry.errors import ConfigError
from rlready.registry.failures import fault, foreseen
from rlready.registry.redaction import redacted
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engine_options import ray_options

_MAX_ERROR_CHARS = 2_000


@dataclass(frozen=True, kw_only=True)
class FailedEvaluation:
    """A checkpoint that was not measured, and why.

    Args:
        checkpoint: as the user named it.
        error: the reason, in one line for people.
        is_fault: whether the reason is a fault of rlready, which the user cannot correct.
    """

    checkpoint: str
    error: str
    is_fault: bool = False

    @classmethod
    def of(cls, checkpoint: str, error: Exception) -> FailedEvaluation:
        """Describe an error; the traceback of an unexpected error is written to a file."""
        line = foreseen(error)
        return cls(checkpoint=checkpoint, error=line or fault(error), is_fault=line is None)


@contextlib.contextmanager
def shared_engine(
    config: EvaluateConfig, n_jobs: int
) -> Iterator[tuple[Sequence[Mapping[str, str]], tuple[str, ...]]]:
    """Divide the devices among `n_jobs` evaluations; a Ray cluster runs until the end.

    Yields:
        Environment variables of each evaluation, and engine options that all of them get in
        addition to the user's.

    Raises:
        ConfigError: if there are too few devices.
    """
    if config.engine != "ray":
        yield _gpu_shares(config.device, n_jobs), ()
        return
    options, _ = ray_options(config.engine_options)
    cluster = Cluster(options.address)
    try:
        environment = {} if options.address else {"RAY_ADDRESS": cluster.address}
        added: tuple[str, ...] = ()
        if n_jobs > 1 and options.workers is None:
            n_room = cluster.needs(options).workers
            if n_room < n_jobs:
                raise _too_many(n_jobs, f"the Ray cluster has room for {n_room} workers", n_room)
            added = (f"workers={n_room // n_jobs}",)
        elif options.workers is not None:
            cluster.needs(dataclasses.replace(options, workers=options.workers * n_jobs))
        yield [environment] * n_jobs, added
    finally:
        cluster.close()


def in_children(
    configs: Mapping[int, EvaluateConfig], environments: Sequence[Mapping[str, str]]
) -> Iterator[tuple[int, dict[str, Any] | FailedEvaluation]]:
    """Yield each result with its index; one child process at a time runs in each environment."""
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for environment in environments:
        free.put(environment)
    running: set[subprocess.Popen[bytes]] = set()

    def run(config: EvaluateConfig) -> dict[str, Any] | FailedEvaluation:
        environment = free.get()
        try:
            return _in_child(config, environment, running)
        finally:
            free.put(environment)

    with ThreadPoolExecutor(len(environments)) as pool:
        futures = {pool.submit(run, config): i for i, config in configs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(running):
                child.terminate()


def _in_child(
    config: EvaluateConfig, environment: Mapping[str, str], running: set[subprocess.Popen[bytes]]
) -> dict[str, Any] | FailedEvaluation:
    # The MLflow run of a project can hold the metrics of one evaluation only.
    inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "rlready.workflow.evaluate.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**inherited, **environment},
        )
        running.add(child)
        try:
            output, _ = child.communicate(json.dumps(config.to_dict()).encode())
        finally:
            running.discard(child)
        lines = output.decode(errors="replace").strip().splitlines()
        if child.returncode == 0 and lines:
            answer: dict[str, Any] = json.loads(lines[-1])
            if "error" not in answer:
                return answer
            return FailedEvaluation(checkpoint=config.checkpoint, **answer)
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()
    last_line = redacted(text.rpartition("\n")[2][-_MAX_ERROR_CHARS:], config.tracking_uri)
    error = f"its process ended with code {child.returncode}"
    return FailedEvaluation(
        checkpoint=config.checkpoint, error=f"{error}: {last_line}" if last_line else error
    )


def _gpu_shares(device: str, n_jobs: int) -> list[dict[str, str]]:
    """Return environment variables that give each process its share of the GPUs, if any."""
    if n_jobs == 1 or device != "auto":
        return [{}] * n_jobs
    import torch

    n_gpus = torch.cuda.device_count()
    if not n_gpus:
        return [{}] * n_jobs
    if n_gpus < n_jobs:
        raise _too_many(n_jobs, f"torch sees {n_gpus} GPUs", n_gpus)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if visible != [""] else [str(i) for i in range(n_gpus)]
    share = n_gpus // n_jobs
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(names[job * share : (job + 1) * share])}
        for job in range(n_jobs)
    ]


def _too_many(n_jobs: int, why: str, n_most: int) -> ConfigError:
    return ConfigError(
        f"{n_jobs} checkpoints cannot be measured at the same time",
        why=why,
        fix=f"Give --jobs {max(1, n_most)} or fewer",
    )
