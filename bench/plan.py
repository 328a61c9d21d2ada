"""Claim: the regret that a plan expects is the regret that one gets, within 20 %.

1,000 registries of `predictors/simulation.py` with 6 groups x 12 checkpoints: five groups have
outcomes, the sixth is new. A predictor is fitted on the five, a plan is made for the twelve
checkpoints of the sixth, its runs are simulated (true score + noise of one run), and the
checkpoint with the best posterior is kept. Expected and realised regret are compared for N = 1..6
runs, for our policies and, beside them, for post-SFT pass@1 and for random choice. A second world
with weaker proxies and one with few rows (4 groups x 8) show where it ends.

    python bench/plan.py [--quick] [--json] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from rlready.predictors.dataset import FloatArray, TrainingTable
from rlready.predictors.plan import EXPECTED, PREDICTED, RANDOM, PlanRule, plan, true_scores
from rlready.predictors.predictive import Predictive
from rlready.predictors.simulation import Simulated, World, simulate

PASS_AT_1 = "pass_at_1@sim"
N_MAX = 6
GOAL = 0.20
WEAK = World(proxies=tuple(p for p in World().proxies if abs(p.validity) < 0.6))
WORLDS = {
    "6 x 12": (World(), 6, 12),
    "6 x 12, weak proxies": (WEAK, 6, 12),
    "4 x 8": (World(), 4, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 registries instead of 1,000")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    n_registries = 100 if arguments.quick else 1000
    result: dict[str, Any] = {"bench": "plan", "n_registries": n_registries, "goal": GOAL}
    for name, (world, n_groups, n_rows) in WORLDS.items():
        rng = np.random.default_rng(arguments.seed)
        runs = [_one(world, n_groups, n_rows, rng) for _ in range(n_registries)]
        result[name] = _summary(runs)
        if not arguments.json:
            _print(name, result[name])
    main_world = result["6 x 12"]
    result["worst_error"] = max(
        abs(row["expected"] / row["realised"] - 1.0) for row in main_world[EXPECTED]
    )
    result["reached"] = result["worst_error"] <= GOAL
    print(json.dumps(result))


def _one(
    world: World, n_groups: int, n_rows: int, rng: np.random.Generator
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """(N_MAX,) expected and realised regret by policy, in one registry."""
    registry = simulate(n_groups, n_rows, rng, world)
    groups = registry.table.groups
    new = groups == groups[-1]
    predictive = true_scores(_predictive(registry, ~new, new), world.rl_noise)
    candidates, truth = registry.table.rows(new), registry.truth[new]
    made = plan(
        predictive,
        candidates.ids,
        n_runs=1,
        rl_noise=world.rl_noise,
        n_max=N_MAX,
        scores={PASS_AT_1: candidates.X[PASS_AT_1].to_numpy()},
        rule=PlanRule(n_draws=2_000, seed=int(rng.integers(1 << 31))),
    )
    seen = truth + world.rl_noise * rng.standard_normal(len(truth))
    found = {}
    for name, values in made.policies.items():
        expected = np.array([value.regret for value in values])
        rows = [candidates.ids.index(str(value.chosen)) for value in values if value.chosen]
        if name == RANDOM:
            rows = [int(row) for row in rng.permutation(len(truth))[: len(values)]]
        believed = _posterior(predictive, seen, world.rl_noise) if name in OURS else None
        found[name] = (expected, _realised(truth, seen, rows, believed))
    return found


OURS = (PREDICTED, EXPECTED)


def _posterior(predictive: Predictive, seen: FloatArray, noise: float) -> Any:
    """Posterior means of the rows that had a run, as a function of these rows."""

    def believed(rows: list[int]) -> FloatArray:
        level, n = predictive.group_sd[rows], len(rows)
        prior = np.outer(level, level) + np.diag(predictive.row_sd[rows] ** 2)
        surprise = np.linalg.solve(prior + noise**2 * np.eye(n), seen[rows] - predictive.mean[rows])
        return np.asarray(predictive.mean[rows] + prior @ surprise)

    return believed


def _realised(truth: FloatArray, seen: FloatArray, rows: list[int], believed: Any) -> FloatArray:
    regret = []
    for n in range(1, len(rows) + 1):
        score = seen[rows[:n]] if believed is None else believed(rows[:n])
        regret.append(truth.max() - truth[rows[int(np.argmax(score))]])
    return np.array(regret)


def _predictive(registry: Simulated, known: Any, new: Any) -> Predictive:
    """A Bayesian ridge on proxies and outcomes centred inside groups, with its uncertainty."""
    from sklearn.linear_model import BayesianRidge

    table = registry.table
    x = _centred(table, table.X[[column.name for column in table.columns]].to_numpy(dtype=float))
    scale = x[known].std(axis=0)
    x = x / np.where(scale > 0, scale, 1.0)
    trained = table.rows(known)
    y = _centred(trained, trained.y[:, None])[:, 0]
    model = BayesianRidge(fit_intercept=False).fit(x[known], y)
    slopes_used = len(model.coef_) - model.lambda_ * np.trace(model.sigma_)
    df = len(y) - len(np.unique(trained.groups)) - float(slopes_used)
    noise2 = float(np.sum((y - model.predict(x[known])) ** 2)) / df
    slopes = np.einsum("ni,ij,nj->n", x[new], model.sigma_, x[new])
    levels = [trained.y[trained.groups == g].mean() for g in np.unique(trained.groups)]
    return Predictive(
        mean=np.mean(levels) + model.predict(x[new]),
        row_sd=np.sqrt(noise2 + slopes),
        group_sd=np.full(int(new.sum()), float(np.std(levels, ddof=1))),
        groups=table.groups[new],
        df=df,
    )


def _centred(table: TrainingTable, values: FloatArray) -> FloatArray:
    centred = values.copy()
    for group in np.unique(table.groups):
        rows = table.groups == group
        centred[rows] -= values[rows].mean(axis=0)
    return centred


def _summary(
    runs: list[dict[str, tuple[FloatArray, FloatArray]]],
) -> dict[str, list[dict[str, float]]]:
    summary = {}
    for name in runs[0]:
        expected = np.array([run[name][0] for run in runs])
        realised = np.array([run[name][1] for run in runs])
        error = realised.std(axis=0, ddof=1) / np.sqrt(len(runs))
        summary[name] = [
            {
                "n_runs": n + 1,
                "expected": round(float(expected[:, n].mean()), 4),
                "realised": round(float(realised[:, n].mean()), 4),
                "realised_se": round(float(error[n]), 4),
            }
            for n in range(expected.shape[1])
        ]
    return summary


def _print(world: str, summary: dict[str, list[dict[str, float]]]) -> None:
    print(f"{world}: regret in points, expected / realised (standard error)")
    print(f"{'policy':>16}" + "".join(f"{f'N = {n}':>22}" for n in range(1, N_MAX + 1)))
    for name, rows in summary.items():
        cells = (
            f"{r['expected']:.3f} / {r['realised']:.3f} ({r['realised_se']:.3f})" for r in rows
        )
        print(f"{name:>16}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
