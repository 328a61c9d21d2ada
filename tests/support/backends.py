"""Databases and servers that tests start, and MLflow's own client of them."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_child import a_checkpoint

from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.store import Store

START_S = 120

OpenStore = Callable[[], Store]
"""Opens the same store again, as another process would."""


@contextlib.contextmanager
def served(
    command: list[str], port: int, folder: Path, environment: dict[str, str]
) -> Iterator[str]:
    """Address on loopback of a server that answers /health, with its log in the folder."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_healthy(uri), server, folder / "log")
        yield uri
    finally:
        # Its workers too: they are in the session that it leads.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def fresh_postgres_database(uri: str) -> str:
    """A database of its own on the same server: what shares one would share `alembic_version`."""
    import sqlalchemy as sa

    url = sa.engine.make_url(MlflowStore(uri).tracking_uri)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    name = f"fresh_{uuid.uuid4().hex}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return str(url.set(database=name).render_as_string(hide_password=False))


def new_experiment(uri: str, folder: Path) -> str:
    """Name of an experiment that no other test uses, with its artifacts in the test's folder."""
    name = f"rlready-test-{uuid.uuid4().hex}"
    if uri.startswith("postgresql"):
        MlflowStore(uri, "template").check(a_checkpoint())  # makes the tables
        with quiet():
            client_of(MlflowStore(uri).tracking_uri).create_experiment(
                name, artifact_location=folder.as_uri()
            )
    return name


def client_of(uri: str) -> Any:
    """MLflow's own client, to look at what it holds. Call its methods inside `quiet`."""
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def copy_database(source: Path, target: Path) -> None:
    """Copy what is committed, the write-ahead log included."""
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_healthy(uri: str) -> bool:
    """Whether an MLflow server answers."""
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(
    is_ready: Callable[[], bool],
    server: subprocess.Popen[bytes],
    log: Path,
    start_s: float = START_S,
) -> None:
    """Return when a server is up; fail with its log if it ends or takes too long."""
    deadline = time.monotonic() + start_s
    while not is_ready():
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def unprivileged_user() -> str | None:
    """Whom PostgreSQL runs as: it refuses root. None is the present user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)
