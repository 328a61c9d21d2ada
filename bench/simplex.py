"""Claim: on a continuous simplex of 17 sources the proposer ends nearer the optimum than TPE or GP.

The law to search is a smooth surrogate fitted to the 512 RegMix runs at 1M parameters:

    pile_cc    a Gaussian process (scikit-learn, RBF on root weights) of the Pile-CC loss: the
               optimum is near a vertex
    permuted   the same with the sources in another order (matters to stick-breaking)
    interior   the same of the mean of 13 losses: the optimum uses many sources
    network    a small neural network of the Pile-CC loss: no process like the proposer's own model

Normalised regret = (optimum of the law - best found) / (best - worst of the 512 runs under the
law); the optimum is found by a long search that no sampler could afford. That is stricter than
measuring from the best run of the pool, which the optimum beats ("pool gap" below). To reach by the
default sampler: 0.015 after 48 trials and 0.003 after 72. Trials are asked one at a time.

Beside it, in the same run: random, TPE and GP with the usual -log(u) trick (`dirichlet`), and TPE
with softmax and GP with stick-breaking, the coordinates that rlready gives them.

    python bench/simplex.py [--quick] [--json] [--seeds 5] [--gp-seeds 2]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from search_replay import runs
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.neural_network import MLPRegressor

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Source
from rlready.predictors.search.study import ask, open_study

BUDGETS = (24, 48, 72)
GOALS = {48: 0.015, 72: 0.003}
CHEAP = (("surrogate", None), ("random", "dirichlet"), ("tpe", "dirichlet"), ("tpe", "softmax"))
GP = (("gp", "dirichlet"), ("gp", "stick"))


@dataclass(frozen=True, kw_only=True)
class Law:
    """A surrogate, its optimum, and the scale of regret."""

    of: Callable[[Any], Any]
    optimum: float
    scale: float
    pool_gap: float
    order: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="pile_cc, ours and TPE, one seed")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--gp-seeds", type=int, help="a trial of GP costs about a second")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", message=".*greenlet.*")
    n_seeds = arguments.seeds or (1 if arguments.quick else 5)
    n_gp = arguments.gp_seeds if arguments.gp_seeds is not None else (0 if arguments.quick else 2)

    began = time.process_time()
    laws = make_laws(arguments.quick)
    rows = []
    for name, law in laws.items():
        for sampler, kind in (*CHEAP, *GP):
            if sampler == "gp" and name not in ("pile_cc", "interior"):
                continue
            n = n_gp if sampler == "gp" else n_seeds
            if n:
                rows.append({"law": name, **measure(law, sampler, kind, n)})
                if not arguments.json:
                    show(rows[-1])
    ours = [row for row in rows if row["sampler"] == "surrogate"]
    result = {
        "bench": "simplex",
        "rows": rows,
        "pool_gap": {name: round(law.pool_gap, 4) for name, law in laws.items()},
        "goals": {str(n): goal for n, goal in GOALS.items()},
        "reached": {
            row["law"]: all(row[f"regret_{n}"] <= goal for n, goal in GOALS.items()) for row in ours
        },
        "cpu_s": round(time.process_time() - began, 1),
    }
    if not arguments.json:
        print(f"optimum over the best of the 512 runs: {result['pool_gap']}")
        print(f"to reach: 0.015 / 0.003 after 48 / 72: {result['reached']}")
    print(json.dumps(result))


def make_laws(quick: bool) -> dict[str, Law]:
    weights, outcomes = runs()
    d = weights.shape[1]
    near_vertex = fitted_law(weights, process(np.sqrt(weights), outcomes["pile_cc"]))
    laws = {"pile_cc": near_vertex}
    if quick:
        return laws
    order = np.random.default_rng(0).permutation(d)
    laws["permuted"] = Law(**{**vars(near_vertex), "order": order})
    laws["interior"] = fitted_law(weights, process(np.sqrt(weights), outcomes["mean of 13"]))
    laws["network"] = fitted_law(weights, network(np.sqrt(weights), outcomes["pile_cc"]))
    return laws


def process(roots: Any, outcome: Any) -> Any:
    kernel = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.01, (1e-4, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True).fit(roots, outcome)


def network(roots: Any, outcome: Any) -> Any:
    level, scale = outcome.mean(), outcome.std()
    model = MLPRegressor(
        hidden_layer_sizes=(32, 32), activation="tanh", alpha=1e-2, solver="lbfgs", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(roots, (outcome - level) / scale)
    return model


def fitted_law(weights: Any, model: Any) -> Law:
    def law(mixtures: Any) -> Any:
        return model.predict(np.sqrt(mixtures))

    pool = law(weights)
    best = long_search(law, weights)
    scale = float(np.ptp(pool))
    return Law(
        of=law,
        optimum=best,
        scale=scale,
        pool_gap=(best - float(pool.max())) / scale,
        order=np.arange(weights.shape[1]),
    )


def long_search(law: Callable[[Any], Any], weights: Any) -> float:
    """Largest value found: 40 rounds of 4,000 mixtures around the best hundred."""
    rng = np.random.default_rng(0)
    d = weights.shape[1]
    found = np.vstack([weights, *[rng.dirichlet(np.full(d, a), 4000) for a in (0.05, 0.3, 1.0)]])
    values = law(found)
    for turn in range(40):
        top = np.argsort(-values)[:100]
        start = np.sqrt(found[top][rng.integers(0, 100, 4000)])
        mask = rng.random(start.shape) < rng.choice([0.15, 1.0], (4000, 1))
        moved = start + 0.3 * 0.85**turn * rng.standard_normal(start.shape) * mask
        mixtures = np.maximum(moved, 0.0) ** 2 + 1e-15
        mixtures /= mixtures.sum(axis=1, keepdims=True)
        found = np.vstack([found[top], mixtures])
        values = np.r_[values[top], law(mixtures)]
    return float(values.max())


def measure(law: Law, sampler: str, kind: Any, n_seeds: int) -> dict[str, Any]:
    began = time.process_time()
    regrets = np.array([search(law, sampler, kind, seed) for seed in range(n_seeds)])
    found = {f"regret_{n}": round(float(regrets[:, n - 1].mean()), 5) for n in BUDGETS}
    return {
        "sampler": sampler,
        "simplex": kind or "default",
        "n_seeds": n_seeds,
        **found,
        "worst_72": round(float(regrets[:, -1].max()), 5),
        "s_per_trial": round((time.process_time() - began) / n_seeds / max(BUDGETS), 3),
    }


def search(law: Law, sampler: Any, kind: Any, seed: int) -> Any:
    """(72,) normalised regret of the best trial so far."""
    names = [f"source {i}" for i in range(len(law.order))]
    space = RecipeSpace(sources=tuple(Source(name=name) for name in names), simplex_kind=kind)
    study, space = open_study(space, name=f"{sampler}-{seed}", sampler=sampler, seed=seed)
    values = []
    for _ in range(max(BUDGETS)):
        asked = ask(study, space)
        mixture = np.array([asked.recipe.sources[name] for name in names])
        values.append(float(law.of(mixture[np.argsort(law.order)][None, :])[0]))
        study.tell(asked.number, values[-1])
    return (law.optimum - np.maximum.accumulate(values)) / law.scale


def show(row: dict[str, Any]) -> None:
    regrets = " / ".join(f"{row[f'regret_{n}']:.4f}" for n in BUDGETS)
    print(
        f"{row['law']:<9} {row['sampler']:<10} {row['simplex']:<10} {row['n_seeds']} seeds: "
        f"regret after 24 / 48 / 72 trials {regrets} (worst {row['worst_72']:.4f}), "
        f"{row['s_per_trial']:.2f} CPU-s a trial",
        flush=True,
    )


if __name__ == "__main__":
    main()
