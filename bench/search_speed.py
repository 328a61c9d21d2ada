"""Claim: proposing takes seconds at most, whatever the size of the registry.

To reach: 8 recipes from a registry of 300 rows within 5 s; the next recipe of a study with 10,000
trials within 1 s by the sampler, of one with 1,000 trials within 5 s by the whole command; the
whole command on an empty study, with rows, and with a registry within 2.5 s.

Space: 8 sources with available tokens, a token budget, n_unique, learning rate, loss weighting.
The registry enters as finished trials; the study lives in memory, so that the sampler is timed and
not the database. The large study is asked as by a new worker, then once more. CPU seconds on one
core; wall seconds beside them (a busy machine stretches those). TPE of Optuna stands beside it.
The whole command is `rlready search ask --cold` in a process of its own, on a SQLite file that
holds 1,000 of these trials; beside it the same on a study without any, and the time that Optuna
takes to read the trials. The same command with two of the sources as local files of 100,000 rows
each and a benchmark of 1,000 problems: the first call, which reads the files, and a later one. And
without `--cold`: a registry of 48 checkpoints with outcomes, which enters the study in the first
call; a later one is timed. Beside it `import mlflow` alone: no command with a registry avoids it.

    python bench/search_speed.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from rlready.predictors.search.candidates import anywhere
from rlready.predictors.search.space_file import parse_space
from rlready.predictors.search.study import (
    ask,
    make_sampler,
    open_study,
    propose_recipes,
)
from rlready.predictors.search.trials import KnownRun, add_known_runs
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy

N_ROWS = 100_000
"""Rows of each local source."""
N_STORED = 1_000
"""Trials in the database that the command reads."""
N_CHECKPOINTS = 48
"""Checkpoints with outcomes in the registry that the command reads."""

GOALS = {
    "propose_8_of_300": 5.0,
    "ask_of_many": 1.0,
    "command_of_none": 2.5,
    "command_of_many": 5.0,
    "command_with_rows": 2.5,
    "command_with_registry": 2.5,
}

SPACE = """
token_budget = 2e8
max_repetitions = 6
n_unique = {low = 20_000, high = 600_000}
epochs = {low = 0.5, high = 20}
learning_rate = {low = 1e-6, high = 1e-4}
loss_weighting = {choices = ["none", "iw", "pear_token"]}
[sources]
""" + "".join(
    f'"source {i}" = {{available_tokens = {1e7 * (i + 1)}, mean_tokens = {200 + 50 * i}}}\n'
    for i in range(8)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 trials instead of 10,000")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    n_trials = 2_000 if arguments.quick else 10_000

    study, space = a_study(300)
    proposing = timed(lambda: propose_recipes(study, space, 8))
    study, space = a_study(n_trials)
    ask(study, space)  # the stratified mixture, which is enqueued
    study.sampler = make_sampler("surrogate", space)
    first, later = timed(lambda: ask(study, space)), timed(lambda: ask(study, space))
    study.sampler = make_sampler("tpe", space)
    tpe = timed(lambda: ask(study, space))
    seconds = {"propose_8_of_300": proposing, "ask_of_many": first, "ask_again": later, "tpe": tpe}
    with tempfile.TemporaryDirectory() as folder:
        seconds |= of_command(Path(folder), study)
        seconds |= of_command_with_rows(Path(folder), 10_000 if arguments.quick else N_ROWS)
        seconds |= of_command_with_registry(Path(folder))
    result = {
        "bench": "search_speed",
        "n_trials": n_trials,
        "cpu_s": {name: round(cpu, 3) for name, (cpu, _) in seconds.items()},
        "wall_s": {name: round(wall, 3) for name, (_, wall) in seconds.items()},
        "goals": GOALS,
        "reached": {name: seconds[name][0] <= goal for name, goal in GOALS.items()},
    }
    if not arguments.json:
        for name, (cpu, wall) in seconds.items():
            goal = f" (to reach: {GOALS[name]:g})" if name in GOALS else ""
            print(f"{name:<21} {cpu:.2f} CPU-s, {wall:.2f} s by the clock{goal}")
    print(json.dumps(result))


def of_command(folder: Path, study: Any) -> dict[str, tuple[float, float]]:
    """Seconds of the command on a study of many trials, and of none; and of reading the many."""
    space, empty, many = folder / "space.toml", folder / "empty.db", folder / "many.db"
    space.write_text(SPACE)
    for path in (empty, many):
        by_command(space, path)  # makes the study
    storage = optuna.storages.RDBStorage(f"sqlite:///{many}")
    (name,) = optuna.get_all_study_names(storage)
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    optuna.load_study(study_name=name, storage=storage).add_trials(finished[:N_STORED])
    found = {
        "optuna_reads_many": timed(
            lambda: optuna.load_study(study_name=name, storage=storage).trials
        )
    }
    return {
        "command_of_none": by_command(space, empty),
        "command_of_many": by_command(space, many),
        **found,
    }


def of_command_with_rows(folder: Path, n_rows: int) -> dict[str, tuple[float, float]]:
    """Seconds of the command that reads two local sources first, and of the next one."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(20_000)]
    for name in ("0", "1"):
        with (folder / f"{name}.jsonl").open("w") as file:
            for _ in range(n_rows):
                drawn = [words[i] for i in rng.integers(len(words), size=230)]
                row = {"problem": " ".join(drawn[:50]), "solution": " ".join(drawn[50:])}
                file.write(json.dumps(row) + "\n")
    with (folder / "bench.jsonl").open("w") as file:
        for i in range(1_000):
            drawn = [words[k] for k in rng.integers(len(words), size=60)]
            file.write(json.dumps({"problem": " ".join(drawn), "answer": str(i)}) + "\n")
    space = folder / "rows.toml"
    text = SPACE.replace("token_budget = 2e8", f"token_budget = {2e3 * n_rows}")
    text = text.replace("high = 600_000", f"high = {n_rows}").replace("low = 20_000", "low = 2_000")
    for name in ("0", "1"):
        text = text.replace(f'"source {name}" = {{', f'"source {name}" = {{path = "{name}.jsonl", ')
    space.write_text(text + '[decontaminate]\nbenchmarks = ["bench.jsonl"]\n')
    return {
        "command_reads_rows": by_command(space, folder / "rows.db"),
        "command_with_rows": by_command(space, folder / "rows.db"),
    }


def of_command_with_registry(folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds of the command whose study has the checkpoints of a registry."""
    space, database = folder / "registry.toml", folder / "warm.db"
    space.write_text(SPACE)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    fill(MlflowStore(uri, "speed"))
    flags = ("--tracking-uri", uri, "--experiment", "speed")
    by_command(space, database, *flags)  # enters the checkpoints
    return {
        "command_with_registry": by_command(space, database, *flags),
        "import_mlflow": by_process("-c", "import mlflow"),
    }


def fill(store: MlflowStore) -> None:
    """Register checkpoints with a proxy and an outcome each, whose recipes are of the space."""
    space = parse_space(tomllib.loads(SPACE))
    points = anywhere(space, N_CHECKPOINTS, np.random.default_rng(0))
    for i in range(N_CHECKPOINTS):
        recipe = space.recipe(points, i)
        name, score = f"sft-{i}", 0.2 + 0.5 * recipe.sources["source 0"]
        checkpoint = Checkpoint(
            uri=f"file:///runs/{name}", fingerprint=f"{i:032x}", name=name, recipe=recipe
        )
        proxy = Proxy(
            name="pass_at_1",
            value=score,
            se=0.01,
            unit="probability",
            benchmark="gsm8k",
            benchmark_digest="0" * 32,
            n_problems=500,
            n_samples=4,
            evaluator_version="1",
        )
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=(proxy,)))
        store.put_outcome(
            Outcome(
                checkpoint_id=checkpoint.id,
                algorithm="grpo",
                budget=60,
                budget_unit="steps",
                statistic="value_at_budget",
                benchmark="gsm8k",
                value=score + 0.1,
                se=0.01,
            )
        )


def by_command(space: Path, path: Path, *flags: str) -> tuple[float, float]:
    words = ["-c", "from rlready.workflow.cli.main import main; main()", "search", "ask"]
    words += ["--space", str(space), "--storage", f"sqlite:///{path}", "--out", str(path) + ".out"]
    return by_process(*words, *(flags or ("--cold",)))


def by_process(*words: str) -> tuple[float, float]:
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *words],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, time.perf_counter() - wall


def a_study(n_runs: int) -> Any:
    space = parse_space(tomllib.loads(SPACE))
    study, space = open_study(space, name=f"of {n_runs}")
    rng = np.random.default_rng(0)
    points = anywhere(space, 2 * n_runs, rng)
    outcomes = points.weights @ rng.standard_normal(8) - (points.axes[:, 1] - 0.6) ** 2
    rows = [
        KnownRun(name=f"run {i}", recipe=space.recipe(points, i), values=(float(outcomes[i]),))
        for i in range(n_runs)
    ]
    added = add_known_runs(study, space, rows)
    if added.left_out:
        raise SystemExit(f"rows were left out: {added.left_out[0]}")
    return study, space


def timed(do: Callable[[], Any]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    do()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
