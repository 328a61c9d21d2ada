"""Leases of trials: one claim each, offered again when time is up, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import fresh_postgres_database

from rlready.registry.errors import ConfigError, StoreError
from rlready.workflow.search.leases import Leases, asking, open_storage

PERIOD_S = 100.0

# Each worker claims until nothing is left, and tells what it claimed. Imports are made once, and
# each worker is a fork, made before any connection is open.
WORKERS = """
import json, os, sys
from rlready.workflow.search.leases import Leases, open_storage
import optuna

optuna.storages.RDBStorage  # imported late by Optuna: here once, not in every child
url, n_workers = sys.argv[1], int(sys.argv[2])
children = []
for worker in range(n_workers):
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        try:
            storage = open_storage(url)
            study = optuna.load_study(study_name="s", storage=storage)
            leases = Leases(storage.engine, "s", period_s=100.0, clock=lambda: 1e6)
            claimed = []
            while (lease := leases.take_expired(f"w{worker}")) is not None:
                study.tell(lease.trial, float(lease.trial))
                leases.close(lease.trial)
                claimed.append(lease.trial)
            os.write(write, json.dumps(claimed).encode())
        finally:
            os._exit(0)
    os.close(write)
    children.append(read)
answers = []
for read in children:
    with os.fdopen(read, "rb") as file:
        answers.append(json.loads(file.read() or b"null"))
print(json.dumps(answers))
"""


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> Iterator[Leases]:
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    yield Leases(storage.engine, "s", period_s=PERIOD_S, max_retries=1, clock=clock)
    storage.remove_session()
    storage.engine.dispose()


def test_a_trial_is_taken_once(leases: Leases) -> None:
    lease = leases.take(0, "a")
    assert (lease.worker, lease.deadline, lease.retries) == ("a", 1100.0, 0)
    with pytest.raises(StoreError, match="trial 0 is held"):
        leases.take(0, "b")


def test_a_lease_that_has_run_out_goes_to_the_next_worker_once(
    leases: Leases, clock: Clock
) -> None:
    first = leases.take(0, "a")
    assert leases.take_expired("b") is None
    clock.now += PERIOD_S
    again = leases.take_expired("b")
    assert again is not None
    assert (again.trial, again.worker, again.retries) == (0, "b", 1)
    assert leases.take_expired("c") is None
    assert leases.renew(first) is None
    assert leases.get(0) == again


def test_a_renewed_lease_is_offered_later(leases: Leases, clock: Clock) -> None:
    lease = leases.take(0, "a")
    clock.now += 90.0
    renewed = leases.renew(lease)
    assert renewed is not None
    assert renewed.deadline == clock.now + PERIOD_S
    clock.now += 90.0
    assert leases.take_expired("b") is None


def test_a_lease_is_renewed_after_another_worker_saw_a_sign_of_life(
    leases: Leases, clock: Clock
) -> None:
    """`sync` of one worker had ended the lease of another that was alive: it renewed no more."""
    lease = leases.take(0, "a")
    leases.extend(0, clock.now + 1.0)
    clock.now += 90.0
    assert leases.renew(lease) is not None
    clock.now += 90.0
    assert leases.take_expired("b") is None


def test_a_trial_is_given_up_after_its_retries(leases: Leases, clock: Clock) -> None:
    leases.take(0, "a")
    clock.now += PERIOD_S
    leases.take_expired("b")
    clock.now += PERIOD_S
    assert leases.take_expired("c") is None
    assert [lease.trial for lease in leases.spent()] == [0]
    assert leases.close(0)
    assert not leases.close(0)
    assert leases.spent() == []


def test_a_trial_without_lease_is_offered_within_two_periods(leases: Leases, clock: Clock) -> None:
    """Its worker was killed between Optuna's ask and ours."""
    clock.now += 0.9 * PERIOD_S
    leases.adopt([3])
    clock.now += PERIOD_S
    leases.adopt([3])
    lease = leases.take_expired("b")
    assert lease is not None
    assert lease.trial == 3


def test_an_asker_keeps_the_trial_that_another_adopted_meanwhile(leases: Leases) -> None:
    leases.adopt([3])
    assert leases.take(3, "a").worker == "a"


def test_a_released_trial_is_offered_at_once(leases: Leases) -> None:
    leases.release(leases.take(0, "a"))
    again = leases.take_expired("b")
    assert again is not None
    assert again.trial == 0


def test_a_sign_of_life_extends_and_never_shortens(leases: Leases, clock: Clock) -> None:
    lease = leases.take(0, "a")
    leases.extend(0, clock.now - 50.0)
    assert leases.get(0) == lease
    leases.extend(0, clock.now + 50.0)
    extended = leases.get(0)
    assert extended is not None
    assert extended.deadline == lease.deadline + 50.0


def test_two_studies_of_one_database_do_not_meet(leases: Leases) -> None:
    other = Leases(leases._engine, "other", period_s=PERIOD_S)
    leases.take(0, "a")
    assert other.take(0, "a").trial == 0
    assert len(leases.all()) == 1


def test_a_storage_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database"):
        open_storage("journal.log")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_storage(f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}")


def test_the_lock_of_asking_is_free_again_afterwards(leases: Leases) -> None:
    for _ in range(2):
        with asking(leases._engine, "s"):
            pass


def race(url: str, n_workers: int, n_trials: int) -> None:
    import optuna

    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    leases = Leases(storage.engine, "s", period_s=PERIOD_S, clock=lambda: 1000.0)
    for _ in range(n_trials):
        leases.take(study.ask().number, "dead")
    storage.remove_session()
    storage.engine.dispose()
    found = subprocess.run(
        [sys.executable, "-c", WORKERS, url, str(n_workers)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    claimed = json.loads(found.stdout)
    assert None not in claimed, found.stderr
    assert sorted(trial for own in claimed for trial in own) == list(range(n_trials))
    trials = study.get_trials()
    assert [trial.value for trial in trials] == [float(n) for n in range(n_trials)]
    assert leases.all() == []
    storage.remove_session()
    storage.engine.dispose()


def test_many_workers_of_one_sqlite_file_claim_each_trial_once(tmp_path: Path) -> None:
    race(f"sqlite:///{tmp_path / 'study.db'}", n_workers=4, n_trials=12)


@pytest.mark.slow
def test_32_workers_on_postgresql_claim_each_trial_once_and_lose_nothing(
    postgres_uri: str,
) -> None:
    race(fresh_postgres_database(postgres_uri), n_workers=32, n_trials=64)


def test_a_study_is_kept_out_of_the_database_of_mlflow(sqlite_uri: str) -> None:
    """Whoever came second found the other's schema version, and stopped for good."""
    with pytest.raises(ConfigError, match="is MLflow's database"):
        open_storage(sqlite_uri)
