"""A Ray cluster to draw on: joined or started, asked what it has, left or ended."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

from rlready.registry.errors import ConfigError

_OBJECT_STORE_BYTES = 256 << 20
"""Of a cluster started here: parts of samples pass through it, a few MB each."""

_CONNECT_S = 5.0

_LEAST = {
    "workers": 1,
    "gpus_per_worker": 0,
    "cpus_per_worker": 0,
    "task_samples": 1,
    "max_retries": 0,
    "start_timeout_s": 0.1,
}

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_QUIET = {
    # Raylets report dead workers on the driver's stdout, which carries our JSON; we tell of them.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # A user who asks for samples has not asked for a service that reports its use.
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Options of the `ray` engine; `inner.KEY=VALUE` are options of the engine inside.

    Args:
        address: of a running cluster, `HOST:PORT` or `auto` on one of its nodes; None is
            RAY_ADDRESS, else a cluster on this machine alone, started and ended with the run.
        engine: what draws in each worker, `hf` or `vllm`.
        workers: processes that draw; None is as many as there is room for.
        gpus_per_worker: GPUs of each; None is 1 where the cluster has GPUs, else 0.
        cpus_per_worker: CPUs that each reserves. A worker's threads follow OMP_NUM_THREADS.
        task_samples: most samples handed to a worker at once.
        max_retries: how often samples whose worker died are given to another, and how often in a
            row a worker is started again.
        start_timeout_s: seconds to wait for the cluster to place a worker while there is none.
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
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                what = f"the ray engine's {name} is {value}"
                raise ConfigError(what, fix=f"Give {least} or more")
        if not self.gpus_per_worker and not self.cpus_per_worker and self.workers is None:
            raise ConfigError(
                "the ray engine's workers take no CPU and no GPU",
                why="then there is room for any number of them",
                fix="Give workers too",
            )


@dataclass(frozen=True, kw_only=True)
class WorkerNeeds:
    """How many workers, and what each of them takes of a node."""

    workers: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return _amounts({"CPU": self.cpus, "GPU": self.gpus})


class Cluster:
    """The cluster of this process, which has one at a time.

    Where this process is on a cluster already, that one is used and stays.

    Args:
        address: see `RayOptions`.

    Raises:
        ConfigError: if Ray is not installed, or no cluster is there.
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
        """What to ask of the cluster, which has room for it.

        Raises:
            ConfigError: saying what was wanted and what there is.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU") for node in nodes)
        gpus, cpus = options.gpus_per_worker, options.cpus_per_worker
        one = WorkerNeeds(workers=1, cpus=cpus, gpus=float(has_gpus) if gpus is None else gpus)
        n_fit = sum(_room(node, one) for node in nodes)
        if options.workers is None and n_fit and (one.cpus or one.gpus):
            return WorkerNeeds(workers=n_fit, cpus=one.cpus, gpus=one.gpus)
        if not n_fit or (options.workers or 1) > n_fit:
            sizes = "; ".join(_amounts(node) for node in nodes)
            raise ConfigError(
                f"{options.workers or 1} Ray workers with {one} each were wanted, and the cluster "
                f"has room for {n_fit}",
                why=f"its {len(nodes)} nodes have: {sizes}",
                fix="Give fewer workers, gpus_per_worker or cpus_per_worker, or join a larger "
                "cluster by --engine-option address=HOST:PORT",
            )
        return WorkerNeeds(workers=options.workers or 1, cpus=one.cpus, gpus=one.gpus)

    def free(self) -> str:
        """What no worker has taken, for messages."""
        return _amounts(self.ray.available_resources())

    def worker_environment(self) -> dict[str, Any]:
        """Ray's runtime environment of the workers: as many threads as here."""
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
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        _check_address(address)
        try:
            self.ray.init(
                address,
                log_to_driver=False,
                logging_level="error",
                **(own if self.is_started_here else {}),
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
    """The module `ray`, which keeps its talk to itself.

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
    """Return if somebody listens there: Ray itself gives up after two minutes, by SIGTERM.

    Raises:
        ConfigError: if not, or if it is an address for Ray's client.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"the ray engine cannot work through Ray's client ({address})",
            why="the client passes on no results that come bit by bit",
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
    """Workers that a node has room for."""
    amounts = [(node.get("CPU", 0.0), needs.cpus), (node.get("GPU", 0.0), needs.gpus)]
    return min((int(there / each) for there, each in amounts if each), default=1_000_000)


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
