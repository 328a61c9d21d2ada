"""Leases of trials: one claim each, offered again when time is up, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import fresh_postgres_database

from rlready.predictors.search.trials import Lease
from rlready.registry.errors import ConfigError, StoreError
from rlready.workflow.search.open import (
    Search,
    SearchConfig,
    open_database,
    open_search,
    study_lock,
)
from rlready.workflow.search.run import ask, sync
from rlready.workflow.search.trial import Trial

PERIOD_S = 100.0
SPACE = "[sources.gsm8k]\n[sources.numina]\n[learning_rate]\nlow = 1e-6\nhigh = 1e-4\n"

# Each worker asks until all trials of the dead worker are gone, and tells what it was given.
# Imports are made once, and each worker is a fork, made before any connection is open.
WORKERS = """
import json, os, sys, time, traceback
from pathlib import Path
from rlready.workflow.search.run import ask
from rlready.workflow.search.open import SearchConfig, open_search
import optuna

optuna.storages.RDBStorage  # imported late by Optuna: here once, not in every child
later = time.time() + 150.0
url, folder, n_workers, n_trials = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
children = []
for worker in range(n_workers):
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        try:
            config = SearchConfig(space=folder / "mix.toml", storage=url, folder=folder / "out",
                                  sampler="random", worker=f"w{worker}", lease_s=100.0)
            search = open_search(config, clock=lambda: later)
            claimed = []
            while (handed := ask(search)).asked.number < n_trials:
                handed.tell(value=float(handed.asked.number))
                claimed.append(handed.asked.number)
            os.write(write, json.dumps(claimed).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
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
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


Open = Callable[..., Search]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the same search, as worker of a name."""
    (tmp_path / "mix.toml").write_text(SPACE)
    made: list[Search] = []

    def open_as(worker: str, **changes: str) -> Search:
        config = SearchConfig(
            space=tmp_path / "mix.toml",
            storage=changes.pop("storage", f"sqlite:///{tmp_path / 'search.db'}"),
            sampler="random",
            folder=tmp_path / "out",
            worker=worker,
            lease_s=PERIOD_S,
            max_retries=1,
            **changes,  # type: ignore[arg-type]
        )
        made.append(open_search(config, clock=clock))
        return made[-1]

    yield open_as
    for search in made:
        search.engine.dispose()


def test_a_trial_has_one_holder_with_a_deadline(opened: Open, clock: Clock) -> None:
    lease = Lease(worker="a", deadline=clock.now + PERIOD_S)
    assert ask(opened("a")).lease == lease
    assert Trial(opened("b"), 0).lease == lease
    assert ask(opened("b")).asked.number == 1


def test_a_lease_that_has_run_out_goes_to_the_next_worker_once(opened: Open, clock: Clock) -> None:
    first = ask(opened("a"))
    clock.now += 2 * PERIOD_S
    again = ask(opened("b"))
    assert (again.asked, again.lease.worker, again.lease.retries) == (first.asked, "b", 1)
    assert ask(opened("c")).asked.number == 1
    first.renew()
    first.release()
    assert first.lease == again.lease


def test_a_renewed_lease_is_offered_later(opened: Open, clock: Clock) -> None:
    handed = ask(opened("a"))
    clock.now += 90.0
    handed.renew()
    clock.now += 90.0
    assert ask(opened("b")).asked.number == 1


def test_a_lease_is_renewed_after_another_worker_saw_a_sign_of_life(
    opened: Open, clock: Clock
) -> None:
    """`sync` of one worker had ended the lease of another that was alive: it renewed no more."""
    handed = ask(opened("a"))
    os.utime(handed.folder / "status.json", (clock.now + 5.0, clock.now + 5.0))
    sync(opened("b"))
    clock.now += 90.0
    handed.renew()
    clock.now += 90.0
    assert ask(opened("b")).asked.number == 1


def test_a_sign_of_life_extends_and_never_shortens(opened: Open, clock: Clock) -> None:
    handed = ask(opened("a"))
    for seen, deadline in ((-50.0, 100.0), (50.0, 150.0)):
        os.utime(handed.folder / "status.json", (clock.now + seen, clock.now + seen))
        sync(opened("b"))
        lease = handed.lease
        assert lease is not None
        assert lease.deadline == pytest.approx(clock.now + deadline)


def test_a_trial_is_given_up_after_its_retries(opened: Open, clock: Clock) -> None:
    for worker in "ab":
        ask(opened(worker))
        clock.now += 2 * PERIOD_S
    assert ask(opened("c")).asked.number == 1
    assert Trial(opened("c"), 0).frozen.state.name == "FAIL"
    assert Trial(opened("c"), 0).lease is None


def test_a_trial_without_lease_is_offered_within_two_periods(opened: Open, clock: Clock) -> None:
    """Its worker was killed between Optuna's ask and ours."""
    from rlready.predictors.search.study import ask as ask_study

    search = opened("a")
    ask_study(search.study, search.space)
    clock.now += 0.9 * PERIOD_S
    assert ask(opened("b")).asked.number == 1
    clock.now += PERIOD_S
    assert ask(opened("b")).asked.number == 0


def test_a_released_trial_is_offered_at_once(opened: Open) -> None:
    handed = ask(opened("a"))
    handed.release()
    assert ask(opened("b")).asked.number == 0


def test_two_studies_of_one_database_do_not_meet(opened: Open) -> None:
    ask(opened("a"))
    assert ask(opened("a", study="other")).asked.number == 0
    assert [trial.number for trial in Trial.all(opened("a"))] == [0]


def test_a_storage_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a database"):
        open_database("journal.log")
    for in_memory in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        with pytest.raises(ConfigError, match="names no file: a database in memory ends with"):
            open_database(in_memory)
    with pytest.raises(StoreError, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}")


def test_the_lock_of_a_study_is_free_again_afterwards(opened: Open) -> None:
    for _ in range(2):
        with study_lock(opened("a").engine, "mix"):
            pass


def race(opened: Open, folder: Path, url: str, n_workers: int, n_trials: int) -> None:
    search = opened("dead", storage=url)
    for _ in range(n_trials):
        ask(search)
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, url, str(folder), str(n_workers), str(n_trials)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    claimed = json.loads(done.stdout)
    assert None not in claimed, done.stderr
    assert sorted(trial for own in claimed for trial in own) == list(range(n_trials))
    trials = search.study.get_trials()
    assert [trial.value for trial in trials[:n_trials]] == [float(n) for n in range(n_trials)]
    assert len(trials) == n_trials + n_workers


def test_many_workers_of_one_sqlite_file_claim_each_trial_once(
    opened: Open, tmp_path: Path
) -> None:
    race(opened, tmp_path, f"sqlite:///{tmp_path / 'race.db'}", n_workers=4, n_trials=12)


@pytest.mark.slow
def test_32_workers_on_postgresql_claim_each_trial_once_and_lose_nothing(
    opened: Open, tmp_path: Path, postgres_uri: str
) -> None:
    race(opened, tmp_path, fresh_postgres_database(postgres_uri), n_workers=32, n_trials=64)


def test_a_study_is_kept_out_of_the_database_of_mlflow(sqlite_uri: str) -> None:
    """The second one found the other's schema version, and stopped for good."""
    with pytest.raises(ConfigError, match="is MLflow's database"):
        open_database(sqlite_uri)
