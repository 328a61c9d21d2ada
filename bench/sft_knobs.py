"""Question: what does each setting of SFT do to the proxies and to the score after RL?

Everything is trained for real on the testbed's world "headroom". One plain recipe, and each knob of
SFT changed alone. Each setting is trained with the same SFT seeds, measured like any checkpoint of
the testbed (profile `headroom`), and put through 60 steps of GRPO with RL seed 0.

Written before the first run; nothing is chosen by a result:

- Plain: 7,680 examples, 1,500 of them different (5 epochs), canonical style, noise 0.15, even
  mixture of the six skills, learning rate 3e-3, all tokens weighted alike.
- Knobs: the five loss weightings; short and long problems; 4 responses to each problem;
  interpolation with 0.3 of the base (WiSE-FT); 150 different examples (51 epochs) and 4,500 (1.7).
- A difference is paired: the knob minus the plain recipe of the same SFT seed. The seed draws both
  the examples and their order. With two seeds both differences stand beside their mean, with more
  the standard error of the mean.
- Noise: the standard deviation between the SFT seeds of the plain recipe is a rough figure, so the
  residual of settings + seeds (two-way, without interaction) stands beside it. It assumes that all
  settings are equally noisy. A mean difference is bold if it is beyond that residual at 5 % for all
  knobs of a column together (t, Bonferroni). Columns are not corrected for each other.
- Goal: none is fixed. One RL seed is a part of the noise, and the effects belong to this world.

Two limits that follow from the world and were known before the run; the last table shows both. The
solutions of one skill have similar lengths, so short and long differ from plain by 3 % of the
characters. In the canonical style the responses to one problem differ only in their wrong steps, so
4 responses mean 375 problems with about 600 different examples.

Each SFT seed is a testbed run in a folder of its own, OUT/seed-<k>. Finished stages are reused, so
it may be stopped, continued, and given more seeds later. About 85 CPU-s a setting and seed;
`--quick` takes under 2 minutes with two knobs, one seed, and smaller sizes that mean nothing.

    python bench/sft_knobs.py [--quick] [--json] [--seeds 2] [--jobs 2] [--out DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from rlready.testbed.study.design import PROFILES, Design, make_design
from rlready.testbed.study.recipes import HEADROOM_BUDGET
from rlready.testbed.study.run import Made, collect, make
from rlready.testbed.study.unit import MEAN, Profile
from rlready.testbed.training.loss_weights import WEIGHTINGS
from rlready.testbed.training.sft import SftRecipe, examples_of
from rlready.workflow.progress import Clock

PLAIN = SftRecipe(
    budget=HEADROOM_BUDGET, n_unique=1500, noise=0.15, mix="headroom", learning_rate=3e-3
)
KNOBS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"loss_weighting": name} for name in WEIGHTINGS if name != "none"},
    "length short": {"length": "short"},
    "length long": {"length": "long"},
    "4 responses a problem": {"n_responses": 4},
    "0.3 of the base": {"base_share": 0.3},
    "150 different": {"n_unique": 150},
    "4500 different": {"n_unique": 4500},
}
QUICK_KNOBS, QUICK_PLAIN = ("pear_token", "0.3 of the base"), {"budget": 640, "n_unique": 320}
FULL = PROFILES["headroom"]
QUICK = dataclasses.replace(
    FULL,
    n_problems=3,
    n_heldout=12,
    grpo=dataclasses.replace(
        FULL.grpo, n_steps=4, n_prompts=8, budgets=(0, 4), n_eval_problems=3, pool_size=32
    ),
)

AFTER = "after RL"
PROXIES: Mapping[str, tuple[str, str]] = {
    "pass@1": ("pass_at_1", MEAN),
    "pass@4": ("pass_at_4", MEAN),
    "pass@64": ("pass_at_64", MEAN),
    "loss": ("heldout_nll", "heldout_canonical"),
    "signal share": ("signal_share_16", MEAN),
    "entropy": ("token_entropy", MEAN),
}
TABLES = (("pass@1", "pass@64", "loss", AFTER), ("pass@4", "signal share", "entropy"))
LEVEL = 0.05


@dataclass(frozen=True)
class Measure:
    """One measured column.

    Args:
        values_KS: settings x SFT seeds; the first setting is the plain recipe.
    """

    values_KS: Any

    @property
    def differences_KS(self) -> Any:
        """Knobs x seeds: each minus the plain recipe of the same seed."""
        return self.values_KS[1:] - self.values_KS[0]

    @property
    def sd_plain(self) -> float:
        """Standard deviation between the SFT seeds of the plain recipe; nan with one seed."""
        n_seeds = self.values_KS.shape[1]
        return float(self.values_KS[0].std(ddof=1)) if n_seeds > 1 else math.nan

    @property
    def sd_residual(self) -> float:
        """Standard deviation of a value beside its setting's and its seed's mean."""
        values = self.values_KS
        rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
        df = (values.shape[0] - 1) * (values.shape[1] - 1)
        return math.sqrt(float((rest**2).sum()) / df) if df else math.nan

    @property
    def beyond(self) -> float:
        """Size from which the mean difference of a knob is beyond noise; nan with one seed."""
        n_knobs, n_seeds = self.differences_KS.shape
        if n_seeds == 1:
            return math.nan
        quantile = stats.t.ppf(1.0 - LEVEL / (2 * n_knobs), n_knobs * (n_seeds - 1))
        return float(quantile * self.sd_residual * math.sqrt(2.0 / n_seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 knobs, 1 seed, 4 RL steps")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seeds", type=int, help="SFT seeds of each setting (2)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that train")
    parser.add_argument("--out", type=Path, help="where what is trained stays")
    arguments = parser.parse_args()
    n_seeds = arguments.seeds or (1 if arguments.quick else 2)
    recipes = settings(arguments.quick)
    profile = dataclasses.replace(QUICK if arguments.quick else FULL, rl_seeds=(0,))
    clock = Clock(None if arguments.json else Console(stderr=True))
    with tempfile.TemporaryDirectory() as scratch:
        out: Path = arguments.out or Path(scratch)
        by_seed = []
        for seed in range(n_seeds):
            folder = out / (f"quick-{seed}" if arguments.quick else f"seed-{seed}")
            design = designed(recipes, profile, seed, arguments.jobs)
            make(folder, design, clock)
            by_seed.append(collect(folder, design))
        cpu_s = [cost(path) for path in sorted(out.glob("*/costs.jsonl"))]
    measures = measured(by_seed, profile)
    if not arguments.json:
        show(recipes, measures)
    print(json.dumps(result(recipes, measures, n_seeds, sum(cpu_s))))


def settings(is_quick: bool) -> dict[str, SftRecipe]:
    """Every setting with its recipe of SFT seed 0; the plain one is the first."""
    if is_quick:
        plain = dataclasses.replace(PLAIN, **QUICK_PLAIN)
        knobs = {name: KNOBS[name] for name in QUICK_KNOBS}
    else:
        plain, knobs = PLAIN, dict(KNOBS)
    changed = {name: dataclasses.replace(plain, **knob) for name, knob in knobs.items()}
    return {"plain": plain, **changed}


def designed(
    recipes: Mapping[str, SftRecipe], profile: Profile, seed: int, n_workers: int
) -> Design:
    """The testbed run of all settings with one SFT seed."""
    seeded = tuple(dataclasses.replace(recipe, seed=seed) for recipe in recipes.values())
    design = make_design("headroom", seed, n_workers)
    return dataclasses.replace(design, recipes=seeded, profile=profile)


def measured(by_seed: list[list[Made]], profile: Profile) -> dict[str, Measure]:
    """Every column over settings and seeds."""
    columns: dict[str, list[list[float]]] = {name: [] for name in (*PROXIES, AFTER)}
    for made in by_seed:
        values = [{(p.name, p.benchmark): p.value for p in one.proxies} for one in made]
        for name, key in PROXIES.items():
            columns[name].append([value[key] for value in values])
        columns[AFTER].append([one.runs[0].mean_at(profile.grpo.n_steps) for one in made])
    return {name: Measure(np.array(rows).T) for name, rows in columns.items()}


def cost(path: Path) -> float:
    """CPU seconds of the stages of one testbed run, over all calls."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return math.fsum(json.loads(line)["cpu_seconds"] for line in lines)


def show(recipes: Mapping[str, SftRecipe], measures: Mapping[str, Measure]) -> None:
    """Print tables in markdown: what the recipe and each knob give, and what the data are."""
    for columns in TABLES:
        chosen = [measures[column] for column in columns]
        line("knob", *(column if column == AFTER else f"{column} before" for column in columns))
        line(*["---"] * (1 + len(columns)))
        for row, name in enumerate(recipes):
            cells = [level(m) if row == 0 else difference(m, row - 1) for m in chosen]
            line(f"**{name}**, value" if row == 0 else name, *cells)
        line("sd between SFT seeds of plain", *(plain_number(m.sd_plain) for m in chosen))
        line("residual sd of a value", *(plain_number(m.sd_residual) for m in chosen))
        line("bold from", *(plain_number(m.beyond) for m in chosen))
        print()
    line("data of SFT seed 0", "problems", "different examples", "characters of a response")
    line(*["---"] * 4)
    for name, recipe in recipes.items():
        pairs = examples_of(recipe)
        n_problems = len({question for question, _ in pairs})
        mean_length = statistics.fmean(len(response) for _, response in pairs)
        line(name, f"{n_problems}", f"{len(set(pairs))}", f"{mean_length:.1f}")
    print()


def line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def plain_number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def level(measure: Measure) -> str:
    """Mean of the plain recipe, with its value of each seed."""
    values = measure.values_KS[0]
    each = f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
    return f"{values.mean():.3f}{each}"


def difference(measure: Measure, knob: int) -> str:
    """Mean difference of a knob; with two seeds both, with more its standard error."""
    values = measure.differences_KS[knob]
    mean = f"{values.mean():+.3f}"
    if abs(values.mean()) > measure.beyond:
        mean = f"**{mean}**"
    if len(values) == 2:
        return f"{mean} ({values[0]:+.3f}, {values[1]:+.3f})"
    return mean if len(values) == 1 else f"{mean} ± {standard_error(values):.3f}"


def standard_error(values: Any) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def result(
    recipes: Mapping[str, SftRecipe],
    measures: Mapping[str, Measure],
    n_seeds: int,
    cpu_s: float,
) -> dict[str, Any]:
    """The last line: values of the plain recipe, paired differences, and noise."""
    _, *knobs = recipes
    return {
        "bench": "sft_knobs",
        "n_seeds": n_seeds,
        "cpu_s": round(cpu_s, 1),
        "plain": {name: rounded(m.values_KS[0]) for name, m in measures.items()},
        "differences": {
            knob: {name: rounded(m.differences_KS[i]) for name, m in measures.items()}
            for i, knob in enumerate(knobs)
        },
        "beyond_noise": {
            name: [
                knob for i, knob in enumerate(knobs) if abs(m.differences_KS[i].mean()) > m.beyond
            ]
            for name, m in measures.items()
        },
        "noise": {
            name: {
                "sd_plain": json_number(m.sd_plain),
                "sd_residual": json_number(m.sd_residual),
                "bold_from": json_number(m.beyond),
            }
            for name, m in measures.items()
        },
    }


def rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


def json_number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


if __name__ == "__main__":
    main()
