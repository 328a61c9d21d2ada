"""Fixtures for stores: real MLflow backends, made once a session and ended by their own pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from backends import (
    OpenStore,
    client_of,
    copy_database,
    free_port,
    new_experiment,
    served,
    unprivileged_user,
    wait_until,
)
from browser import Browser, Tab, chromium, running
from hypothesis import HealthCheck, settings
from store_child import a_checkpoint

from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.store import MemoryStore

# Of the tests, not of the product, which leaves a user's own choice alone.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
    os.environ.pop(variable, None)
# As `make test` has it: with other threads sums are rounded in another way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is not a failure: no example is held to a time.
settings.register_profile("rlready", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rlready")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out scikit-learn's checks of arrays of other libraries: we claim nothing of them."""
    items[:] = [item for item in items if "check_array_api_input" not in item.nodeid]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the tests of pages; without it they are skipped."""
    path = chromium()
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with running(path) as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Tab:
    """An empty page of the browser."""
    return browser.tab()


@pytest.fixture(scope="session")
def empty_database(request: pytest.FixtureRequest) -> Path:
    """A SQLite file with MLflow's tables. Making them takes seconds, so it stays in the cache."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir(f"mlflow-{version('mlflow')}")
    path = folder / "empty.db"
    if not path.is_file():
        made = folder / f"{os.getpid()}.db"
        MlflowStore(f"sqlite:///{made}", experiment="template").check(a_checkpoint())
        copy_database(made, folder / f"{os.getpid()}.copy")
        (folder / f"{os.getpid()}.copy").replace(path)
    return path


@pytest.fixture
def sqlite_uri(empty_database: Path, tmp_path: Path) -> str:
    """Tracking URI of a fresh SQLite database."""
    copy_database(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Gives the next test the environment that this one found, and MLflow's own tracking URI.

    `mlflow.set_tracking_uri` writes to the environment, which the processes of later tests inherit.
    """
    before = dict(os.environ)
    yield
    if (mlflow := sys.modules.get("mlflow")) is not None:
        mlflow.set_tracking_uri(None)
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def closed_databases() -> Iterator[None]:
    """Closes MLflow's connections, of which it keeps some open for every database it ever met.

    The whole suite would have more than a thousand files open, which is the limit of many machines.
    """
    yield
    if "mlflow.store.tracking.sqlalchemy_store" not in sys.modules:
        return
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Registry, Tracking):
        for engine in store._engine_map.values():
            engine.dispose()


@pytest.fixture(scope="session")
def server_uri(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an `mlflow server` of this session, on loopback."""
    folder = tmp_path_factory.mktemp("server")
    copy_database(empty_database, folder / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with served(command, port, folder, environment) as uri:
        yield uri


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """Tracking URI of a PostgreSQL server of this session, on loopback."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not binaries:
        pytest.skip("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb")
    user = unprivileged_user()
    # Not below pytest's folder, which that user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="rlready-postgres-"))
    data, port = folder / "data", free_port()
    try:
        if user is not None:
            shutil.chown(folder, user)
        initdb = [
            binaries[-1],
            "-D",
            data,
            "-U",
            "rlready",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run(initdb, user=user, check=True, capture_output=True, cwd=folder)
        command = [binaries[-1].with_name("postgres"), "-D", data, "-h", "127.0.0.1"]
        command += ["-p", str(port), "-k", folder, "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, user=user, stdout=log, stderr=log, cwd=folder)
        try:
            ready = [binaries[-1].with_name("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            wait_until(
                lambda: subprocess.run(ready, capture_output=True).returncode == 0,
                server,
                folder / "log",
            )
            yield f"postgresql://rlready@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": connections are closed, nothing is lost
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mlflow_uri(request: pytest.FixtureRequest) -> str:
    """Tracking URI of the backend that a test's parameter names."""
    uri: str = request.getfixturevalue(f"{request.param}_uri")
    return uri


@pytest.fixture
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens the store that a test's parameter names; it is empty at first."""
    if request.param == "memory":
        memory = MemoryStore()
        return lambda: memory
    uri: str = request.getfixturevalue(f"{request.param}_uri")
    experiment = new_experiment(uri, tmp_path)
    return lambda: MlflowStore(uri, experiment)


@pytest.fixture
def client(store: MlflowStore) -> Iterator[Any]:
    """MLflow's own client of the test's store."""
    made = client_of(store.tracking_uri)
    with quiet():
        yield made
