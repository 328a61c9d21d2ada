"""Claim: the world "headroom" has spread where SFT and RL leave it, and little of it is RL noise.

The world is chosen by these criteria alone, written down before its first run, and never by which
proxy or which search does well in it:

1. pass@64 of the base is under 0.5 on at least two skills.
2. Among the checkpoints that are healthy before RL (pass@1 at least a quarter of the base's), the
   standard deviation of the score after 60 steps is at least 5 times that of an RL seed; and at
   least 3 times after 240 steps.
3. The best of 6 random recipes misses the best tenth at least half of the time. Against the best
   of all recipes it loses at least two RL-seed standard deviations, in the median.
4. A checkpoint costs at most 90 CPU-s: SFT, measuring, 60 steps of GRPO with one seed.

What may be changed to meet them: the skills, the budget of examples, the range of the axes, the RL
pool, before the 48 recipes are run. Each try is counted in docs/LOG.md.

Criterion 3 was changed before the third try. Before, a score within two RL-seed standard deviations
of the best tenth counted as in it. No smooth distribution meets that: without any ties the share of
misses is 0.53 at most, and normal scores reach 0.5 only with a spread of 40 RL seeds. The share by
the old rule is still printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlready.testbed.study.design import BASE, PROFILES, Design, read_design
from rlready.testbed.study.summary import COLLAPSED_SHARE
from rlready.testbed.study.unit import proxies_path, read_proxies, rl_folder, sft_folder
from rlready.testbed.training.grpo import grpo
from rlready.testbed.training.sft import SftRecipe

LONG = dataclasses.replace(PROFILES["headroom"].grpo, n_steps=240, budgets=(0, 30, 60, 120, 240))
N_RECIPES, BEST = 6, 0.1
DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the runs of 240 steps")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--testbed", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--long", type=int, default=8, help="checkpoints that run 240 steps")
    arguments = parser.parse_args()
    out: Path = arguments.testbed
    design = read_design(out)
    rows = finished(out, design)
    result = {"bench": "headroom", "n": len(rows), **criteria(out, rows)}
    if not arguments.quick:
        result |= after_240(out, design, rows, arguments.long)
    if not arguments.json:
        for name, value in result.items():
            print(f"{name:<36} {value}")
    print(json.dumps(result))


def finished(out: Path, design: Design) -> list[dict[str, Any]]:
    """Recipes whose RL runs are all there: pass@1 before RL, scores after it, CPU seconds."""
    rows = []
    for recipe in design.recipes:
        folders = [rl_folder(out, recipe, seed) for seed in design.profile.rl_seeds]
        measured = read_proxies(proxies_path(out, recipe.id))
        if measured is None or not all((folder / "grpo.json").is_file() for folder in folders):
            continue
        runs = [json.loads((folder / "grpo.json").read_text()) for folder in folders]
        made = json.loads((sft_folder(out, recipe) / "sft.json").read_text())
        first_run = sum(runs[0]["cpu_seconds"].values())
        rows.append(
            {
                "recipe": recipe,
                "before": value_of(measured[0], "pass_at_1", "world"),
                "after": [score(run, run["settings"]["n_steps"]) for run in runs],
                "cpu_s": made["cpu_seconds"] + measured[1] + first_run,
            }
        )
    return rows


def criteria(out: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The criteria of the module docstring, but that of 240 steps."""
    base = read_proxies(proxies_path(out, BASE))
    assert base is not None
    coverage = {
        proxy.benchmark: round(proxy.value, 3)
        for proxy in base[0]
        if proxy.name == "pass_at_64" and proxy.benchmark != "world"
    }
    least = COLLAPSED_SHARE * value_of(base[0], "pass_at_1", "world")
    healthy = [row for row in rows if row["before"] >= least]
    scores = np.array([statistics.fmean(row["after"]) for row in rows])
    seed_sd = sd_of_seeds([row["after"] for row in healthy])
    spread = statistics.stdev(statistics.fmean(row["after"]) for row in healthy)
    rng = np.random.default_rng(0)
    bound = np.quantile(scores, 1.0 - BEST) - 2.0 * seed_sd
    drawn = rng.choice(scores, (DRAWS, N_RECIPES)).max(axis=1)
    missed = float((drawn < np.quantile(scores, 1.0 - BEST)).mean())
    lost = float(np.median(scores.max() - drawn)) / seed_sd
    costs = [row["cpu_s"] for row in rows]
    return {
        "base_pass_at_64": coverage,
        "n_healthy": len(healthy),
        "sd_healthy": round(spread, 4),
        "sd_rl_seed": round(seed_sd, 4),
        "sd_ratio": round(spread / seed_sd, 1),
        "after_lowest_median_highest": [
            round(float(q), 3) for q in np.quantile(scores, (0.0, 0.5, 1.0))
        ],
        "best_of_6_misses_best_tenth": round(missed, 3),
        "best_of_6_misses_with_tolerance": round(float((drawn < bound).mean()), 3),
        "best_of_6_loses_rl_seed_sds": round(lost, 1),
        "cpu_s_mean_highest": [round(statistics.fmean(costs), 1), round(max(costs), 1)],
        "reached": {
            "two_skills_under_half": sum(value < 0.5 for value in coverage.values()) >= 2,
            "sd_ratio_at_60": spread / seed_sd >= 5.0,
            "best_of_6_misses": missed >= 0.5 and lost >= 2.0,
            "cost": max(costs) <= 90.0,
        },
    }


def after_240(
    out: Path, design: Design, rows: Sequence[Mapping[str, Any]], n: int
) -> dict[str, Any]:
    """GRPO of 240 steps with two seeds from the first n healthy checkpoints of the design."""
    base = read_proxies(proxies_path(out, BASE))
    assert base is not None
    least = COLLAPSED_SHARE * value_of(base[0], "pass_at_1", "world")
    recipes = [row["recipe"] for row in rows if row["before"] >= least][:n]
    after = [[long_score(out, recipe, seed) for seed in (0, 1)] for recipe in recipes]
    spread = statistics.stdev(map(statistics.fmean, after))
    ratio = spread / sd_of_seeds(after)
    return {
        "after_240": [[round(value, 3) for value in pair] for pair in after],
        "sd_ratio_at_240": round(ratio, 1),
        "reached_at_240": ratio >= 3.0,
    }


def long_score(out: Path, recipe: SftRecipe, seed: int) -> float:
    folder = out / "long" / f"{recipe.id}-seed{seed}"
    run = grpo(sft_folder(out, recipe), dataclasses.replace(LONG, seed=seed), folder)
    return run.mean_at(LONG.n_steps)


def sd_of_seeds(pairs: Sequence[Sequence[float]]) -> float:
    """Standard deviation between RL seeds, pooled over checkpoints."""
    return float(np.sqrt(np.mean([statistics.variance(pair) for pair in pairs])))


def score(run: Mapping[str, Any], budget: int) -> float:
    return statistics.fmean(row["value"] for row in run["curve"] if row["budget"] == budget)


def value_of(proxies: Sequence[Any], name: str, benchmark: str) -> float:
    (value,) = (p.value for p in proxies if (p.name, p.benchmark) == (name, benchmark))
    return float(value)


if __name__ == "__main__":
    main()
