"""Claim: proposing takes seconds at most, whatever the size of the registry.

To reach: 8 recipes from a registry of 300 rows within 5 s; the next recipe of a study with 10,000
trials within 1 s.

Space: 8 sources with available tokens, a token budget, n_unique, learning rate, loss weighting.
The registry enters as finished trials; the study lives in memory, so that the sampler is timed and
not the database. The large study is asked as by a new worker, then once more. CPU seconds on one
core; wall seconds beside them (a busy machine stretches those). TPE of Optuna stands beside it.

    python bench/search_speed.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

from rlready.predictors.proposer import anywhere
from rlready.predictors.recipe_file import parse_space
from rlready.predictors.search import (
    KnownRun,
    add_known_runs,
    ask,
    make_sampler,
    open_study,
    propose_recipes,
)

GOALS = {"propose_8_of_300": 5.0, "ask_of_many": 1.0}


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
            print(f"{name:<18} {cpu:.2f} CPU-s, {wall:.2f} s by the clock{goal}")
    print(json.dumps(result))


def a_study(n_runs: int) -> Any:
    space = parse_space(
        {
            "token_budget": 2e8,
            "max_repetitions": 6,
            "sources": {
                f"source {i}": {"available_tokens": 1e7 * (i + 1), "mean_tokens": 200 + 50 * i}
                for i in range(8)
            },
            "n_unique": {"low": 20_000, "high": 600_000},
            "epochs": {"low": 0.5, "high": 20},
            "learning_rate": {"low": 1e-6, "high": 1e-4},
            "loss_weighting": {"choices": ["none", "iw", "pear_token"]},
        }
    )
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
