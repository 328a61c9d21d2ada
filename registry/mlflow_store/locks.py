"""Locks: one writer per checkpoint at a time, with what each backend offers.

MLflow enforces no uniqueness: eight processes that log one key leave five models. A lock around
find-or-create leaves one. No lock outlives a killed holder for long: the kernel drops a file lock,
PostgreSQL drops an advisory lock with its connection, and others break a claim on a server when its
holder has ended or its lease has expired.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.foreign_files import parse_json
from rlready.registry.mlflow_store.mlflow_calls import EXISTS, MISSING, or_none

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Engine

LEASE_S = 60.0
"""How long a claim may stay unchanged before others take it; a put holds it for about a second."""

_OWNER = "rlready.owner"
_POLL_S = (0.05, 0.5)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created and never removed."""
    import fcntl  # absent on Windows, where this module can still be imported

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases it


@contextlib.contextmanager
def advisory_lock(engine: Engine, key: str) -> Iterator[None]:
    """Hold PostgreSQL's advisory lock of this text, on a separate connection.

    The lock belongs to a transaction, not to a session, so that it also works through a pooler.
    """
    import hashlib

    import sqlalchemy as sa

    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:n)"), {"n": number})
        yield


@contextlib.contextmanager
def claim(client: MlflowClient, key: str, *, lease_s: float = LEASE_S) -> Iterator[None]:
    """Hold a registered model's name, the only thing that an MLflow server creates once.

    A claim that has not changed for `lease_s` seconds is broken; the waiter's clock measures this,
    so the clocks of hosts may differ. Very rarely, two waiters both win between breaking a stale
    claim and creating a new one. They leave two models of one key, which readers treat as one.
    """
    from mlflow.exceptions import MlflowException

    name = f"rlready-claim-{key}"
    owner = json.dumps({"token": uuid.uuid4().hex, **_process(os.getpid())})
    _acquire(client, name, owner, lease_s)
    try:
        yield
    finally:
        # The put has succeeded, and the claim expires by itself.
        with contextlib.suppress(MlflowException):
            _release(client, name, owner)


def _acquire(client: MlflowClient, name: str, owner: str, lease_s: float) -> None:
    begun = since = time.monotonic()
    seen = ""
    while not _create(client, name, owner):
        holder = _holder(client, name)
        if holder is None:
            continue
        if holder != seen:
            seen, since = holder, time.monotonic()
        if _is_gone(holder) or time.monotonic() - since > lease_s:
            _release(client, name, holder)
            continue
        if time.monotonic() - begun > 10 * lease_s:
            raise StoreError(
                f"the claim {name} was not free for {10 * lease_s:.0f} s",
                why=f"others hold it in turn, the last one {holder}",
                fix="Try again; if no process works on it, delete this registered model",
            )
        time.sleep(random.uniform(*_POLL_S))


def _create(client: MlflowClient, name: str, owner: str) -> bool:
    about = "rlready holds this name while it registers a checkpoint, and deletes it afterwards."
    create, tags = client.create_registered_model, {_OWNER: owner}
    return or_none(EXISTS, create, name, tags=tags, description=about) is not None


def _holder(client: MlflowClient, name: str) -> str | None:
    model = or_none(MISSING, client.get_registered_model, name)
    return None if model is None else str(model.tags.get(_OWNER, "unknown"))


def _release(client: MlflowClient, name: str, owner: str) -> None:
    if _holder(client, name) == owner:
        or_none(MISSING, client.delete_registered_model, name)


def _process(pid: int) -> dict[str, object]:
    """Return what identifies a process, and the scope in which others can look it up."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        # Field 22, the start time; the second field is a name in brackets that may hold spaces.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return {"pid": pid}
    return {"pid": pid, "started": started, "scope": f"{boot} {namespace}"}


def _is_gone(holder: str) -> bool:
    """Return True if the holder ran on this machine and has ended; False if unknown."""
    try:
        facts = parse_json(holder)
        pid, scope = int(facts["pid"]), facts["scope"]
    except (ValueError, KeyError, TypeError):
        return False
    ours = _process(os.getpid())
    if scope != ours.get("scope"):
        return False
    return bool(_process(pid).get("started") != facts.get("started"))
