"""Claim: the frozen default ranks a new group nearly as well as one who knows the law.

Registries of `predictors/simulation.py`: fitted on 6 groups x 12 rows with outcomes, asked about a
new group of 12 without any. Regret is against the true scores m. Goals: Spearman >= 0.88, regret@1
<= 0.45, regret@3 <= 0.25 points; decision accuracy at least 0.10 above the line through pass@1. The
oracle knows every validity and noise, and weighs the proxies by them: no model can be above it but
by chance.

Slopes: with a proxy of reliability 0.5 whose standard errors are given, the slope over an exactly
measured proxy is off by at most 10 % (naive, without its errors: 50 %).

Levels: the default told that levels of proxies are comparable between groups, and not told, where
they are and where they are not; each group left out, against the truth.

`--worlds` holds models against each other in other registries, groups left out (how the
default was chosen): proxies whose levels tell of the outcomes' or not, few groups or small ones,
one witness heard seven times, proxies that mislead, one checkpoint far out.

    python bench/simulated.py [--quick] [--worlds] [--json] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from simulation import PROXIES, Simulated, SimulatedProxy, World, simulate

from rlready.predictors.models.catalogue import DEFAULT_MODEL, make_model
from rlready.predictors.training_table import (
    COMPARABLE,
    UNKNOWN,
    FloatArray,
    Kind,
    training_table,
)
from rlready.predictors.validation.folds import fit_folds, fit_model, leave_group_out, out_of_fold

GOALS = {"spearman": 0.88, "regret_at_1": 0.45, "regret_at_3": 0.25}
GAIN_GOAL, BIAS_GOAL = 0.10, 0.10
SHOWN = ("spearman", "decision_accuracy", "regret_at_1", "regret_at_3")
ORACLE = "oracle"

_SEVEN = tuple(
    SimulatedProxy(name=f"pass_at_1@b{i}", kind=Kind.PERCENT, validity=0.5, noise=0.2)
    for i in range(7)
)
_LOSS = SimulatedProxy(name="heldout_nll@sim", kind=Kind.LOSS, validity=-0.6, noise=0.15)
_MISLEADING = tuple(
    replace(proxy, validity=-0.3 if proxy.name.startswith("pass_at_1@") else 0.1)
    if proxy.kind is Kind.PROBABILITY
    else proxy
    for proxy in PROXIES
)
SMALL_STEPS = World(level=0.9, group_sd=1.5, within_sd=1.0, rl_noise=0.4)
WORLDS: Mapping[str, tuple[World, int, int]] = {
    "levels tell nothing, 7 x 12": (World(), 7, 12),
    "levels tell, 7 x 12": (World(level=0.9), 7, 12),
    "levels tell nothing, 3 x 12": (World(), 3, 12),
    "levels tell, 3 x 6": (World(level=0.9, group_sd=2.0), 3, 6),
    "levels half tell, 5 x 3": (World(level=0.5, group_sd=3.0), 5, 3),
    "levels half tell, 4 x 48": (World(level=0.5, group_sd=3.0), 4, 48),
    "seven scores and a loss, 5 x 6": (replace(SMALL_STEPS, proxies=(*_SEVEN, _LOSS)), 5, 6),
    "scores mislead, 5 x 8": (World(level=0.5, group_sd=3.0, proxies=_MISLEADING), 5, 8),
    "one row far out, 5 x 8": (World(level=0.9, group_sd=2.0), 5, 8),
}
LEVEL_WORLDS: Mapping[str, tuple[World, int, int]] = {
    "comparable": (World(level=0.9), 5, 8),
    "half comparable": (World(level=0.5), 5, 8),
    "not comparable": (World(), 5, 8),
}
FAR_OUT = "one row far out, 5 x 8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 registries instead of 300")
    parser.add_argument("--worlds", action="store_true", help="all models in other registries")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    n = 30 if arguments.quick else 300
    result: dict[str, Any] = {"bench": "simulated", "n_registries": n}
    result["new_group"] = new_group(n, arguments.seed)
    result["slope_bias"] = slope_bias(n // 3, arguments.seed)
    result["levels"] = {
        name: by_levels(world, n // 2, arguments.seed) for name, world in LEVEL_WORLDS.items()
    }
    if arguments.worlds:
        names = [DEFAULT_MODEL, "rank_average", "ridge", "pls", "bayesian_ridge"]
        names += [] if arguments.quick else ["mean_of_three"]
        result["worlds"] = {
            name: in_world(name, names, 2 if arguments.quick else 8, arguments.seed)
            for name in WORLDS
        }
    result["reached"] = _reached(result)
    if not arguments.json:
        _show(result)
    print(json.dumps(result))


def new_group(n: int, seed: int) -> dict[str, dict[str, float]]:
    """Mean scores, and the standard error of Spearman's, over n new groups."""
    rng = np.random.default_rng(seed)
    names = (DEFAULT_MODEL, "ridge", "pls", "rank_average", "pass_at_1")
    found: dict[str, list[FloatArray]] = {name: [] for name in (*names, ORACLE)}
    for _ in range(n):
        registry = simulate(7, 12, rng)
        table, new = registry.table, registry.table.groups == "g06"
        truth = registry.truth[new]
        for name in names:
            model = fit_model(partial(make_model, name, table.columns), table.rows(~new))
            found[name].append(_ranked(model.predict(table.X[new]), truth))
        found[ORACLE].append(_ranked(_oracle(registry, World())[new], truth))
    return {name: _means(np.array(rows)) for name, rows in found.items()}


def _means(rows: FloatArray) -> dict[str, float]:
    means = dict(zip(SHOWN, np.round(rows.mean(axis=0), 4).tolist(), strict=True))
    error = float(rows[:, 0].std(ddof=1) / np.sqrt(len(rows)))
    return {**means, "spearman_se": round(error, 4)}


def _ranked(predicted: FloatArray, truth: FloatArray) -> FloatArray:
    order = np.argsort(-predicted)
    i, j = np.triu_indices(len(truth), 1)
    right = np.sign(predicted[i] - predicted[j]) == np.sign(truth[i] - truth[j])
    best = float(truth.max())
    regrets = [best - float(truth[order[:k]].max()) for k in (1, 3)]
    return np.array([spearmanr(predicted, truth)[0], right.mean(), *regrets])


def _oracle(registry: Simulated, world: World) -> FloatArray:
    """(n,) each row's standing, proxies weighed by validity over what else moves them."""
    standing = np.zeros(len(registry.table))
    for proxy in world.proxies:
        values = registry.table.X[proxy.name].to_numpy()
        z = {
            Kind.PROBABILITY: lambda v: np.log(v / (1 - v)) / 0.6,
            Kind.LOSS: lambda v: np.log(v / 0.6) / 0.15,
            Kind.COUNT: lambda v: np.log(v / 800.0) / 0.3,
            Kind.PLAIN: lambda v: v,
        }[proxy.kind](values)
        standing += proxy.validity / (1 - proxy.validity**2 + proxy.noise**2) * z
    return standing


def slope_bias(n: int, seed: int) -> dict[str, float]:
    """Relative bias of the slope over one proxy of reliability 0.5, with and without its errors."""
    rng = np.random.default_rng(seed)
    slopes: dict[str, list[float]] = {"with_errors": [], "naive": []}
    for _ in range(n):
        group = np.repeat(np.arange(8), 25)
        true = rng.standard_normal(len(group))
        frame = pd.DataFrame({"x": true + rng.standard_normal(len(group)), "group": group})
        frame["x_se"], frame["y"] = 1.0, 2.0 * true + rng.standard_normal(len(group))
        frame["y"] += 3.0 * rng.standard_normal(8)[group]
        for name, errors in (("with_errors", {"x": "x_se"}), ("naive", None)):
            frame_named = frame.rename(columns={"group": "source"})
            table = training_table(
                frame_named, target="y", features=["x"], errors=errors, groups=["source"]
            )
            model = fit_model(partial(make_model, DEFAULT_MODEL, table.columns), table)
            exact = pd.DataFrame({"x": [-1.0, 1.0], "x_se": [0.0, 0.0], "group": ["0", "0"]})
            low, high = model.predict(exact)
            slopes[name].append(float(high - low) / 2.0)
    return {name: round(float(np.mean(found)) / 2.0 - 1.0, 4) for name, found in slopes.items()}


def by_levels(world: tuple[World, int, int], n: int, seed: int) -> dict[str, dict[str, float]]:
    """Mean scores of the default against the truth, groups left out, by what it is told."""
    law, n_groups, n_rows = world
    rng = np.random.default_rng(seed)
    scores: dict[str, list[list[float]]] = {COMPARABLE: [], UNKNOWN: []}
    for _ in range(n):
        registry = simulate(n_groups, n_rows, rng, law)
        for levels, rows in scores.items():
            rows.append(_left_out(registry, DEFAULT_MODEL, levels))
    return {levels: _pooled(rows) for levels, rows in scores.items()}


def in_world(name: str, models: Sequence[str], n: int, seed: int) -> dict[str, dict[str, float]]:
    """Mean scores against the truth with each group left out, over n registries."""
    world, n_groups, n_rows = WORLDS[name]
    rng = np.random.default_rng(seed)
    found: dict[str, list[list[float]]] = {model: [] for model in models}
    for _ in range(n):
        registry = simulate(n_groups, n_rows, rng, world)
        if name == FAR_OUT:
            registry = _with_far_row(registry)
        for model in models:
            found[model].append(_left_out(registry, model))
    return {model: _pooled(rows) for model, rows in found.items()}


def _pooled(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    keys = ("spearman_in_group", "spearman_pooled", "r2_pooled")
    return dict(zip(keys, np.round(np.mean(rows, axis=0), 3).tolist(), strict=True))


def _with_far_row(registry: Simulated) -> Simulated:
    """The first checkpoint overfitted: twice its loss, an outcome two deviations down."""
    table = registry.table
    X, y, truth = table.X.copy(), table.y.copy(), registry.truth.copy()
    X.iloc[0, X.columns.get_loc("heldout_nll@sim")] *= 2.0
    y[0], truth[0] = y[0] - 6.0, truth[0] - 6.0
    return Simulated(table=replace(table, X=X, y=y), truth=truth)


def _left_out(registry: Simulated, name: str, levels: str = UNKNOWN) -> list[float]:
    table, truth = registry.table, registry.truth
    make = partial(make_model, name, table.columns, levels=levels)
    predicted = out_of_fold(fit_folds(make, table, leave_group_out(table)), table)
    inside = [
        float(spearmanr(predicted[table.groups == g], truth[table.groups == g])[0])
        for g in np.unique(table.groups)
    ]
    r2 = 1.0 - float(np.mean((predicted - truth) ** 2) / truth.var())
    return [float(np.mean(inside)), float(spearmanr(predicted, truth)[0]), r2]


def _reached(result: Mapping[str, Any]) -> dict[str, bool]:
    found, practice = (result["new_group"][name] for name in (DEFAULT_MODEL, "pass_at_1"))
    gain = found["decision_accuracy"] - practice["decision_accuracy"]
    return {
        "spearman": found["spearman"] >= GOALS["spearman"],
        "regret_at_1": found["regret_at_1"] <= GOALS["regret_at_1"],
        "regret_at_3": found["regret_at_3"] <= GOALS["regret_at_3"],
        "gain_over_pass_at_1": gain >= GAIN_GOAL,
        "slope_bias": abs(result["slope_bias"]["with_errors"]) <= BIAS_GOAL,
    }


def _show(result: Mapping[str, Any]) -> None:
    print(f"a new group of 12 after 6 groups x 12 rows; {result['n_registries']} registries")
    print(f"{'':16s}" + "".join(f"{name:>19s}" for name in SHOWN))
    for name, row in result["new_group"].items():
        mark = "*" if name == DEFAULT_MODEL else " "
        print(f"{mark}{name:15s}" + "".join(f"{row[key]:19.3f}" for key in SHOWN))
    print(
        f"(* the frozen default; Spearman +- {result['new_group'][DEFAULT_MODEL]['spearman_se']})"
    )
    exact, naive = result["slope_bias"]["with_errors"], result["slope_bias"]["naive"]
    print(f"bias of a slope at reliability 0.5: {exact:+.1%}, naive {naive:+.1%}")
    for world, rows in result["levels"].items():
        print(f"\nlevels {world}, 5 groups x 8: Spearman inside new groups, pooled; R2 pooled")
        for levels, row in rows.items():
            print(f"  told {levels:12s}" + "".join(f"{value:9.3f}" for value in row.values()))
    for world, rows in result.get("worlds", {}).items():
        print(f"\n{world}: Spearman inside new groups, pooled; R2 pooled")
        for name, row in rows.items():
            print(f"  {name:15s}" + "".join(f"{value:9.3f}" for value in row.values()))
    print(f"goals: {GOALS}, decisions {GAIN_GOAL} above pass@1, slope bias {BIAS_GOAL}")
    print(f"reached: {result['reached']}")


if __name__ == "__main__":
    main()
