"""A Ray cluster to draw on: join or start it, ask for its resources, leave or end it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from dataclasses import dataclass
from typing import Any

from rlready.evaluators.sampling.engine_options import check_options
from rlready.registry.errors import ConfigError

_OBJECT_STORE_BYTES = 256 << 20
"""Size for a cluster started here: parts of samples of a few MB pass through it."""

_CONNECT_S = 5.0

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_QUIET = {
    # Raylets report dead workers on the driver's stdout, which is for our JSON; we report them.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # A user who asks for samples has not asked for a service that reports its use.
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Options of the `ray` engine; `inner.KEY=VALUE` are options of the engine inside.

    Args:
        address: a running cluster, `HOST:PORT` or `auto` on one of its nodes; None is RAY_ADDRESS,
            or else a cluster on this machine alone, which starts and ends with the run.
        engine: engine of each worker, `hf` or `vllm`.
        workers: number of workers; None is as many as there is room for.
        gpus_per_worker: None is 1 where the cluster has GPUs, else 0.
        cpus_per_worker: CPUs that each reserves. A worker's threads follow OMP_NUM_THREADS.
        task_samples: largest number of samples of one task.
        max_retries: how often samples whose worker died are given to another worker, and how often
            in a row a worker is started again.
        start_timeout_s: seconds to wait for the cluster to place the first worker.
    """

    address: str | None = None
    engine: str = "hf"
    workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: float = 1.0
    task_samples: int = 8192
    max_retries: int = 3
    start_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        check_options(
            self,
            workers=1,
            gpus_per_worker=0,
            cpus_per_worker=0,
            task_samples=1,
            max_retries=0,
            start_timeout_s=0.1,
        )
        if not self.gpus_per_worker and not self.cpus_per_worker and self.workers is None:
            raise ConfigError(
                "the ray engine's workers take no CPU and no GPU",
                why="then there is room for any number of them",
                fix="Give workers too",
            )


@dataclass(frozen=True, kw_only=True)
class WorkerNeeds:
    """Number of workers, and the CPUs and GPUs that each of them reserves."""

    workers: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return _amounts({"CPU": self.cpus, "GPU": self.gpus})


class Cluster:
    """The cluster of this process, which has one at a time.

    A cluster that this process has joined before is used, and stays.

    Args:
        address: see `RayOptions`.

    Raises:
        ConfigError: if Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        self.ray = import_ray()
        self.is_joined = not self.ray.is_initialized()
        self.is_started_here = False
        if self.is_joined:
            address = address or os.environ.get("RAY_ADDRESS") or "local"
            self.is_started_here = address == "local"
            self._connect(address)

    @property
    def address(self) -> str:
        """Where another process on this machine can join the cluster."""
        return str(self.ray.get_runtime_context().gcs_address)

    def needs(self, options: RayOptions) -> WorkerNeeds:
        """Return the number of workers, which the cluster has room for, and the needs of each.

        Raises:
            ConfigError: naming the needs and the resources, if there is no room.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU") for node in nodes)
        gpus, cpus = options.gpus_per_worker, options.cpus_per_worker
        one = WorkerNeeds(workers=1, cpus=cpus, gpus=float(has_gpus) if gpus is None else gpus)
        n_fit = sum(_room(node, one) for node in nodes)
        # The options require a number of workers where they reserve nothing.
        n_workers = options.workers or max(1, n_fit)
        if n_workers > n_fit:
            sizes = "; ".join(_amounts(node) for node in nodes)
            raise ConfigError(
                f"{n_workers} Ray workers with {one} each were wanted, and the cluster has room "
                f"for {n_fit}",
                why=f"its {len(nodes)} nodes have: {sizes}",
                fix="Give fewer workers, gpus_per_worker or cpus_per_worker, or join a larger "
                "cluster by --engine-option address=HOST:PORT",
            )
        return dataclasses.replace(one, workers=n_workers)

    def free(self) -> str:
        """Return the resources that are not reserved, for messages."""
        return _amounts(self.ray.available_resources())

    def worker_environment(self) -> dict[str, Any]:
        """Return Ray's runtime environment of the workers: as many threads as here."""
        if self.is_started_here:
            return {}  # its processes are children of this one
        threads = {name: os.environ[name] for name in _THREADS if name in os.environ}
        return {"env_vars": threads} if threads else {}

    def end(self, worker: Any) -> None:
        """End a worker's process at once."""
        with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
            self.ray.kill(worker)

    def close(self) -> None:
        """Leave the cluster, if it was joined here; it ends if it was started here."""
        if self.is_joined:
            self.ray.shutdown()
            self.is_joined = False

    def _connect(self, address: str) -> None:
        settings = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        _check_address(address)
        try:
            self.ray.init(
                address,
                log_to_driver=False,
                logging_level="error",
                **(settings if self.is_started_here else {}),
            )
        except (OSError, RuntimeError, ValueError, self.ray.exceptions.RayError) as error:
            lines = str(error).strip().splitlines()
            raise ConfigError(
                f"the Ray cluster {address} cannot be "
                + ("started" if self.is_started_here else "joined"),
                why=lines[0] if lines else type(error).__name__,
                fix="Run `ray status` on one of its nodes; every node and this process need the "
                "same Ray, Python and token (docs/scale.md)",
            ) from error


def import_ray() -> Any:
    """Return the module `ray`, set to print nothing.

    Raises:
        ConfigError: if it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the ray engine needs Ray, which is not installed", fix="pip install 'rlready[ray]'"
        ) from error
    return ray


def _check_address(address: str) -> None:
    """Check for a listener: Ray itself would give up after two minutes, by SIGTERM.

    Raises:
        ConfigError: if not, or if it is an address for Ray's client.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"the ray engine cannot work through Ray's client ({address})",
            why="the client does not pass on streamed results",
            fix="Run rlready on a node of the cluster, for example by `ray job submit`, with "
            "address=auto or the HOST:PORT of `ray start --head`",
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {address}",
            why=str(error),
            fix="Give the address that `ray start --head` printed; its port is 6379 if not set",
        ) from error


def _room(node: dict[str, float], needs: WorkerNeeds) -> int:
    """Return the number of workers that a node has room for."""
    amounts = [(node.get("CPU", 0.0), needs.cpus), (node.get("GPU", 0.0), needs.gpus)]
    return min((int(amount / each) for amount, each in amounts if each), default=1_000_000)


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
