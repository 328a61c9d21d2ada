"""Evaluations that are under way at the same time: child processes, and what they share.

They share a Ray cluster, or the GPUs of this machine evenly. What one of them draws another finds
on disk and in the registry, so nothing else has to be shared.
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
from pathlib import Path
from typing import Any

from rlready.registry.errors import ConfigError
from rlready.registry.redaction import redacted
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engine_options import ray_options
from rlready.workflow.failures import fault, foreseen

_PATHS = ("samples_dir", "recipe", "prompt_template")
_LAST_WORDS = 2_000


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A checkpoint that was not measured."""

    checkpoint: str
    error: str
    is_fault: bool = False
    """Whether it is a fault of rlready, and not something that the user can mend."""


def failure_of(checkpoint: str, error: Exception) -> Failure:
    """The failure of a checkpoint's evaluation; what nobody has foreseen goes to a file."""
    line = foreseen(error)
    return Failure(checkpoint=checkpoint, error=line or fault(error), is_fault=line is None)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """How evaluations that are under way at the same time share what there is.

    Args:
        environments: variables of each of them.
        engine_options: for all of them, in addition to the user's.
    """

    environments: Sequence[Mapping[str, str]]
    engine_options: tuple[str, ...] = ()

    def configure(self, config: EvaluateConfig) -> EvaluateConfig:
        """The configuration with what all of them are given."""
        options = (*config.engine_options, *self.engine_options)
        return dataclasses.replace(config, engine_options=options)


@contextlib.contextmanager
def shared_engine(config: EvaluateConfig, n_jobs: int) -> Iterator[Shared]:
    """What evaluations share while they run.

    Raises:
        ConfigError: if there is not enough for so many.
    """
    if config.engine != "ray":
        yield Shared(environments=_gpu_shares(config.device, n_jobs))
        return
    from rlready.evaluators.sampling.ray_cluster import Cluster

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
        yield Shared(environments=[environment] * n_jobs, engine_options=added)
    finally:
        cluster.close()


def in_children(
    configs: Mapping[int, EvaluateConfig], environments: Sequence[Mapping[str, str]]
) -> Iterator[tuple[int, dict[str, Any] | Failure]]:
    """As many child processes at a time as there are environments, each in one of them."""
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for environment in environments:
        free.put(environment)
    running: set[subprocess.Popen[bytes]] = set()

    def run(config: EvaluateConfig) -> dict[str, Any] | Failure:
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
) -> dict[str, Any] | Failure:
    # MLflow's run of a project takes the metrics of one evaluation, and they come all at once.
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
            is_fault = answer.get("is_fault", False)
            return Failure(checkpoint=config.checkpoint, error=answer["error"], is_fault=is_fault)
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()
    words = redacted(text.rpartition("\n")[2][-_LAST_WORDS:], config.tracking_uri)
    what = f"its process ended with code {child.returncode}" + (f": {words}" if words else "")
    return Failure(checkpoint=config.checkpoint, error=what)


def config_from(values: Mapping[str, Any]) -> EvaluateConfig:
    """The configuration that `EvaluateConfig.to_dict` gave, after a journey as JSON."""
    read: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    for key in _PATHS:
        if read.get(key) is not None:
            read[key] = Path(read[key])
    return EvaluateConfig(**read)


def _gpu_shares(device: str, n_jobs: int) -> list[dict[str, str]]:
    """Variables that show each of several processes its own GPUs, if there are any."""
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
        f"{n_jobs} checkpoints cannot be measured at a time",
        why=why,
        fix=f"Give --jobs {max(1, n_most)} or less",
    )
