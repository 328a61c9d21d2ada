"""Many workers that ask at the same moment: each gets a recipe of its own, and none is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import fresh_postgres_database

from rlready.workflow.search.open import Search, SearchConfig, open_search
from rlready.workflow.search.run import ask
from rlready.workflow.search.trial import Trial

SPACE = """
[sources.gsm8k]
[sources.numina]
[learning_rate]
low = 1e-6
high = 1e-4
"""
LEASE_S = 1000.0
N_WORKERS, N_SILENT = 32, 8

# Imports are made once, and each worker is a fork, made before any connection is open.
WORKERS = """
import json, os, sys, time, traceback
from pathlib import Path
from rlready.workflow.search.run import ask
from rlready.workflow.search.open import SearchConfig, open_search
import optuna, scipy.optimize, sqlalchemy.dialects.postgresql, rlready.predictors.search.study

optuna.storages.RDBStorage  # imported late by Optuna: here once, not in every child
url, folder = sys.argv[1], Path(sys.argv[2])
n_workers, lease_s = int(sys.argv[3]), float(sys.argv[4])
later = time.time() + 1.5 * lease_s
children = []
for worker in range(n_workers):
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        try:
            config = SearchConfig(space=folder / "mix.toml", storage=url, folder=folder / "out",
                                  worker=f"w{worker}", lease_s=lease_s)
            handed = ask(open_search(config, clock=lambda: later))
            os.write(write, json.dumps(handed.to_dict()).encode())
        except BaseException:
            traceback.print_exc()
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


def opened(url: str, folder: Path) -> Search:
    config = SearchConfig(
        space=folder / "mix.toml",
        storage=url,
        folder=folder / "out",
        worker="silent",
        lease_s=LEASE_S,
    )
    return open_search(config)


@pytest.mark.slow
def test_32_workers_that_ask_at_once_on_postgresql_get_a_recipe_each(
    postgres_uri: str, tmp_path: Path
) -> None:
    """Eight of the trials are those of workers that fell silent: each is offered once."""
    (tmp_path / "mix.toml").write_text(SPACE)
    url = fresh_postgres_database(postgres_uri)
    search = opened(url, tmp_path)
    silent = [ask(search).asked for _ in range(N_SILENT)]
    search.engine.dispose()
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, url, str(tmp_path), str(N_WORKERS), str(LEASE_S)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    handed = json.loads(done.stdout)
    assert None not in handed, done.stderr
    assert sorted(one["trial"] for one in handed) == list(range(N_WORKERS))
    assert len({json.dumps(one["recipe"]) for one in handed}) == N_WORKERS
    again = {one["trial"]: one["recipe"] for one in handed if one["retries"] == 1}
    assert again == {asked.number: asked.recipe.to_dict() for asked in silent}
    search = opened(url, tmp_path)
    leases = {trial.number: trial.lease for trial in Trial.all(search)}
    held = {number: lease.worker for number, lease in leases.items() if lease}
    assert held == {one["trial"]: one["worker"] for one in handed}
    assert len(search.study.trials) == N_WORKERS
    search.engine.dispose()
