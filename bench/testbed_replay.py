"""Claim: searching by outcomes beats as many random recipes of the world "headroom".

The pool are the 48 recorded runs of `testbed/results/headroom.csv`, random recipes of the search
space. The start is 6 random runs; then 3 at a time are picked, by a picker that sees the outcomes
of the picked ones alone. Regret = best outcome of the pool - best outcome picked, after 12, 18 and
24 runs; outcome = mean pass@1 after 60 steps of GRPO over the six skills, of two RL seeds.

    random            blind
    space-filling     blind: the runs farthest from all picked ones
    pass@1 order      by the score before RL, which costs SFT and an evaluation of all 48
    greedy ridge      the best by a ridge regression on weights, root weights and axes
    ours              `proposer.propose_from`; beta 1 is the default
    Optuna TPE, GP    `_pool.py` says how they meet a list of runs

`interpolation` is the leave-one-out Spearman of the surrogate's predictions over all runs. No goal
was fixed before the first run: the figures enter the mean rank of the samplers (docs/LOG.md) as one
more column, under the criterion that was written down there.

    python bench/testbed_replay.py [--quick] [--json] [--seeds 40]
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from _pool import (
    OPTUNA,
    Pick,
    Pool,
    in_order,
    left_out,
    pick_far,
    pick_random,
    pick_ridge,
    proposer,
    regrets,
)
from scipy.stats import spearmanr

from rlready.predictors.search.proposer import ProposerConfig
from rlready.predictors.search.space_file import parse_space
from rlready.predictors.search.space_parts import Points
from rlready.testbed.study.recipes import HEADROOM_BUDGET, search_space
from rlready.testbed.study.shipped import shipped_recipes, shipped_rows
from rlready.testbed.world.worlds import HEADROOM

BEFORE, AFTER = "pass_at_1@world", "value_at_budget/60steps@world_after"
N_START, BATCH, BUDGETS = 6, 3, (12, 18, 24)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 seeds")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seeds", type=int)
    arguments = parser.parse_args()
    n_seeds = arguments.seeds or (5 if arguments.quick else 40)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.process_time()
    pool, before, outcome = recorded()
    rows = [
        {"picker": name, **measured(pool, outcome, pick, n_seeds)}
        for name, pick in pickers(before).items()
    ]
    result = {
        "bench": "testbed_replay",
        "n_runs": len(pool),
        "n_seeds": n_seeds,
        "best": round(float(outcome.max()), 4),
        "sd": round(float(outcome.std(ddof=1)), 4),
        "rows": rows,
        "interpolation": round(float(spearmanr(left_out(pool, outcome), outcome).statistic), 3),
        "cpu_s": round(time.process_time() - began, 1),
    }
    if not arguments.json:
        show(result)
    print(json.dumps(result))


def recorded() -> tuple[Pool, Any, Any]:
    """The runs of the table: their recipes, pass@1 before RL, and outcomes."""
    table, recipes = shipped_rows("headroom").values(), shipped_recipes("headroom")
    space = parse_space(tomllib.loads(search_space(HEADROOM_BUDGET, HEADROOM)))
    points = [space.points(recipes[row["name"]].record("testbed-base", "")) for row in table]
    before, outcome = (np.array([float(row[key]) for row in table]) for key in (BEFORE, AFTER))
    return Pool(space=space, points=Points.joined(points)), before, outcome


def pickers(before: Any) -> Mapping[str, Pick]:
    return {
        "random": pick_random,
        "space-filling": pick_far,
        "pass@1 order": in_order(before),
        "greedy ridge": pick_ridge,
        **{f"ours, beta {beta:g}": proposer(ProposerConfig(beta=beta)) for beta in (1.0, 0.0)},
        **OPTUNA,
    }


def measured(pool: Pool, outcome: Any, pick: Pick, n_seeds: int) -> dict[str, float]:
    """Mean regret after each budget, from random starts, with its standard error."""
    starts = [np.random.default_rng(seed).permutation(len(pool)) for seed in range(n_seeds)]
    found = np.array(
        [
            regrets(pool, outcome, pick, [int(i) for i in start[:N_START]], BATCH, BUDGETS, seed)
            for seed, start in enumerate(starts)
        ]
    )
    means = found.mean(axis=0)
    errors = found.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    row = {f"regret_{n}": round(float(v), 4) for n, v in zip(BUDGETS, means, strict=True)}
    return row | {f"se_{n}": round(float(v), 4) for n, v in zip(BUDGETS, errors, strict=True)}


def show(result: Mapping[str, Any]) -> None:
    print(
        f"{result['n_runs']} runs, best {result['best']:.3f}, sd {result['sd']:.3f}; {N_START} "
        f"random starts, {result['n_seeds']} seeds; regret after "
        f"{' / '.join(map(str, BUDGETS))} runs"
    )
    for row in result["rows"]:
        cells = " / ".join(f"{row[f'regret_{n}']:.4f}" for n in BUDGETS)
        print(f"{row['picker']:<15} {cells}   (se {row[f'se_{BUDGETS[0]}']:.4f})")
    print(f"leave-one-out Spearman {result['interpolation']} ({result['cpu_s']} CPU-s)")


if __name__ == "__main__":
    main()
