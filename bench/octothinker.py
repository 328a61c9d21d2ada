"""Claim: searching recipes by their RL outcome finds the best of the recorded OctoThinker runs.

A pool of runs that really happened: a base model, a mid-training mixture, the same GRPO. The start
is 3 random runs; then one run at a time is picked, by a picker that sees the outcomes of the picked
ones alone. Regret in points = best outcome of the pool - best outcome picked, after 6, 9 and 12
runs; outcome = mean score after RL over the four benchmarks, in points (0 to 100).

The shared part of the data has 24 of 35 runs; the figures of issue 16 are of all 35. The recipe is
read from the name of a run (`recipe_of`): sources with their shares, the base model, the logarithm
of the tokens, and the prompt template of RL. Names such as "decay_long" give no share: their kind
gets 0.3 (0.15 each in the mix), which is an assumption, and the rest is web text.

    random            blind
    space-filling     blind: the run farthest from all picked ones
    step-0 order      by the score before RL, after the same start
    probe order       by the mean score over the evaluations up to step 20
    greedy ridge      the best by a ridge regression on weights, root weights and axes
    ours              `proposer.propose_from`
    Optuna TPE, GP    `_pool.py` says how they meet a list of runs

"without FAMILY": no run of that family is in the start, the sampler cannot know it. The table shows
regret there too, as a mean over the families. `interpolation` is the leave-one-out Spearman of the
surrogate's predictions over all runs, `new source` the Spearman inside a family that was left out.

    python bench/octothinker.py [--quick] [--json] [--seeds 20] [--pool all|llama3b]
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
    predicted_from,
    proposer,
    regrets,
)
from scipy.stats import spearmanr

from rlready.predictors.search.proposer import ProposerConfig
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Axis, Points, Source
from rlready.registry.records import Recipe

DATA = Path(__file__).parents[2] / "shared" / "data" / "outcomes"
N_START, BUDGETS, PROBE_STEPS = 3, (6, 9, 12), 20
N_RECORDED = 35
FAMILIES = ("fm4p", "long", "short", "openr1", "synqa", "omi")
KIND_SHARE = 0.3
"""Share of "long" or "short" in a decay whose name gives none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recorded run."""

    name: str
    recipe: Recipe
    before: float
    probe: float
    after: float

    def uses(self, family: str) -> bool:
        """Whether the recipe has a source of this family."""
        return self.recipe.sources.get(family, 0.0) > 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 seeds")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--pool", choices=("all", "llama3b"), default="all")
    arguments = parser.parse_args()
    if not (DATA / "starts.csv").is_file():
        print(f"{DATA} is not here: nothing is replayed")
        print(json.dumps({"bench": "octothinker", "skipped": "no shared folder"}))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.process_time()
    runs = recorded_runs()
    if arguments.pool == "llama3b":
        runs = [r for r in runs if r.recipe.base_model == "llama-3b"]
    n_seeds = arguments.seeds or (5 if arguments.quick else 20)
    rows = [
        {"picker": name, **measured(runs, pick, n_seeds, arguments.quick)}
        for name, pick in pickers(runs).items()
    ]
    result = {
        "bench": "octothinker",
        "pool": arguments.pool,
        "n_runs": len(runs),
        "n_recorded": N_RECORDED,
        "n_seeds": n_seeds,
        "best": round(max(run.after for run in runs), 2),
        "sd": round(statistics.stdev(run.after for run in runs), 2),
        "rows": rows,
        **pricing(runs),
        "cpu_s": round(time.process_time() - began, 1),
    }
    if not arguments.json:
        show(result)
    print(json.dumps(result))


def recorded_runs() -> list[Run]:
    """The OctoThinker runs, in the order of their names."""
    before: dict[str, list[float]] = defaultdict(list)
    after: dict[str, list[float]] = defaultdict(list)
    with (DATA / "starts.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if "OctoThinker" in row["source"]:
                before[row["checkpoint"]].append(float(row["pre_pass1"]))
                after[row["checkpoint"]].append(float(row["post"]))
    probes: dict[str, list[float]] = defaultdict(list)
    with (DATA / "octothinker_curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if 0 < int(row["step"]) <= PROBE_STEPS:
                probes[row["checkpoint"]].append(float(row["value"]))
    return [
        Run(
            name=name,
            recipe=recipe_of(name),
            before=100.0 * statistics.fmean(before[name]),
            probe=100.0 * statistics.fmean(probes[name]),
            after=100.0 * statistics.fmean(after[name]),
        )
        for name in sorted(after)
    ]


def recipe_of(name: str) -> Recipe:
    """The recipe that the name of a run gives.

    >>> dict(recipe_of("rl.grpo_llama.3b_stable.130b_decay.omi.010.10B_math.8k_0413_0050").sources)
    {'omi': 0.1, 'web': 0.9}
    """
    model = re.search(r"grpo_(llama|qwen)\.(\d)b", name)
    assert model is not None, name
    shares: dict[str, float] = {}
    if share := re.search(r"omi\.(\d{3})", name):
        shares["omi"] = int(share[1]) / 100.0
    elif "long.short.mix" in name:
        shares["long"] = shares["short"] = KIND_SHARE / 2.0
    elif kind := re.search(r"decay_(long|short)", name):
        shares[kind[1]] = KIND_SHARE
    elif question := re.search(r"mmwebpro\.(openr1|synqa)(\.ins)?\.(91|89101)", name):
        # "91" is 9 parts to 1; "89101" is 89 parts, 10 and 1 of instructions.
        shares[question[1]] = 0.1
        if question[2]:
            shares["instructions"] = 0.01
    web = "fm4p" if "fm4p" in name else "web_plus" if "web.pro.plus" in name else "web"
    has_training = bool(shares) or "analysis" in name
    shares[web if has_training else "nothing"] = 1.0 - sum(shares.values())
    tokens = re.search(r"\.(\d+)B_", name)
    total = float(tokens[1]) if tokens else 20.0 if has_training else 1.0
    # Before a decay of 20B the stable stage had 200B; that of 10B says 130b itself.
    total += 130.0 if "stable.130b" in name else 200.0 if "_decay_" in name else 0.0
    return Recipe(
        base_model=f"{model[1]}-{model[2]}b",
        sources={key: round(value, 4) for key, value in sorted(shares.items())},
        extra={
            "tokens": max(total, 1.0),
            "rl": "2.4k" if "rl2.4k" in name else "orz" if "orztemplate" in name else "plain",
        },
    )


def pool_of(runs: list[Run]) -> Pool:
    """The runs as points of one space."""
    sources = sorted({name for run in runs for name in run.recipe.sources})
    axes = [Axis(name="tokens", kind="float", low=1.0, high=300.0, log=True)]
    for name in ("rl", "base_model"):
        choices = sorted({str(run.recipe.to_dict()[name]) for run in runs})
        if len(choices) > 1:
            axes.append(Axis(name=name, kind="categorical", choices=tuple(choices)))
    space = RecipeSpace(sources=tuple(Source(name=name) for name in sources), axes=tuple(axes))
    return Pool(space=space, points=Points.joined([space.points(run.recipe) for run in runs]))


def pickers(runs: list[Run]) -> Mapping[str, Pick]:
    return {
        "random": pick_random,
        "space-filling": pick_far,
        "step-0 order": in_order(np.array([run.before for run in runs])),
        "probe order": in_order(np.array([run.probe for run in runs])),
        "greedy ridge": pick_ridge,
        **{f"ours, beta {beta:g}": proposer(ProposerConfig(beta=beta)) for beta in (1.0, 0.0)},
        **OPTUNA,
    }


def measured(runs: list[Run], pick: Pick, n_seeds: int, quick: bool) -> dict[str, Any]:
    """Mean regrets of a picker, from any start and from starts without a family."""
    seeds = range(n_seeds)
    found = {"all": [replay(runs, pick, seed, None) for seed in seeds]}
    for family in FAMILIES:
        if any(run.uses(family) for run in runs):
            few = range(1 if quick else max(1, n_seeds // 4))
            found[family] = [replay(runs, pick, seed, family) for seed in few]
    without = [found[family] for family in found if family != "all"]
    row = {"seeds": len(seeds), **_means("regret", found["all"])}
    if without:
        row |= _means("without_family", [one for family in without for one in family])
    return row


def replay(runs: list[Run], pick: Pick, seed: int, family: str | None) -> list[float]:
    """Regret after each budget."""
    pool, outcome = pool_of(runs), np.array([run.after for run in runs])
    order = np.random.default_rng(seed).permutation(len(runs))
    start = [int(i) for i in order if family is None or not runs[i].uses(family)]
    return regrets(pool, outcome, pick, start[:N_START], 1, BUDGETS, seed)


def pricing(runs: list[Run]) -> dict[str, Any]:
    """How well the surrogate predicts a run from the others, and a family from the rest."""
    pool, outcome = pool_of(runs), np.array([run.after for run in runs])
    found = {}
    for family in FAMILIES:
        held = np.array([run.uses(family) for run in runs])
        if held.sum() >= 3:
            found[family] = _spearman(predicted_from(pool, outcome, ~held, held), outcome[held])
    return {"interpolation": _spearman(left_out(pool, outcome), outcome), "new_source": found}


def _spearman(predicted: Any, outcome: Any) -> float | None:
    value = float(spearmanr(predicted, outcome).statistic) if np.ptp(predicted) > 0 else np.nan
    return round(value, 3) if np.isfinite(value) else None


def _means(name: str, found: list[list[float]]) -> dict[str, float]:
    means = np.mean(found, axis=0)
    return {f"{name}_{n}": round(float(v), 3) for n, v in zip(BUDGETS, means, strict=True)}


def show(result: Mapping[str, Any]) -> None:
    print(
        f"{result['n_runs']} runs (of {result['n_recorded']} recorded), best {result['best']} "
        f"points, sd {result['sd']}; 3 random starts, regret in points after 6 / 9 / 12"
    )
    print(f"{'picker':<15} {'seeds':<5} {'any start':<20} start without a family")
    for row in result["rows"]:
        parts = [
            " / ".join(f"{row[f'{kind}_{n}']:.2f}" for n in BUDGETS)
            for kind in ("regret", "without_family")
            if f"{kind}_6" in row
        ]
        print(f"{row['picker']:<15} {row['seeds']:<5} {parts[0]:<20} {'; '.join(parts[1:])}")
    print(
        f"leave-one-out Spearman {result['interpolation']}; inside a family that was left out "
        f"{result['new_source']} ({result['cpu_s']} CPU-s)"
    )


if __name__ == "__main__":
    main()
