"""Claim: a searched recipe is better after GRPO than the best of as many random ones. True scores.

Everything is trained for real on the testbed. Each seed starts from a registry of 16 finished runs
with outcomes, drawn from the 24 of `testbed/results/full.csv` that have the budget of the space
(1,600 examples), and the default predictor fitted on them. Then

- search: N recipes asked in batches of 3 from the surrogate, which begins with the 16 runs; each is
  trained and measured, and its trial is told what the predictor says of it (never an outcome);
- random: N recipes drawn uniformly from the same space, trained and measured alike.

GRPO (60 steps, seeds 0 and 1) runs from three of them: the searched one of the best prediction, the
random one of the best prediction, and the random one of the best pass@1 after SFT, which is the
practice. So "searched - practice" is what the tool gives in all, "searched - random by predictor"
what proposing gives, "random by predictor - practice" what picking gives. The score is the true
one: mean pass@1 after RL over the six skills (`world_after`), mean of the two RL seeds. Paired
differences with t-intervals over the seeds.

Goal (issue 5): none is fixed; the differences are reported with their intervals, whichever way.

Written before the first run. GRPO closes gaps in this world: 15 of the 24 runs end between 0.66 and
0.705, and two RL seeds leave a noise of about 0.01. Where every second recipe ends there, the best
of a few random ones does so too, and no search can be much better. So there are two spaces:

- tight (the default, the comparison that can tell something): peak rates from 2e-3, where SFT can
  do damage that 60 steps do not mend. Of the 16 runs with such rates 4 end above 0.69, the others
  anywhere from 0.07; style, noise, repetitions, mixture and rate all matter.
- wide: the whole range of the testbed's design, `inputs/space.toml` of a testbed run. Expected: no
  difference beyond noise.

N = 6, seeds 0 to 5. What is trained is found again (`--out`), so a killed run goes on; CPU seconds
are those of the first time. About 6 CPU-min a seed; `--quick` takes 2.

    python bench/search_testbed.py [--quick] [--json] [--seeds 6] [--trials 6] [--space tight|wide]
                                   [--out DIR]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rlready.predictors.search.candidates import anywhere
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import read_space
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy
from rlready.testbed.study.design import BASE, PROFILES, Design
from rlready.testbed.study.recipes import AXES, choose_recipes, search_space
from rlready.testbed.study.run import (
    WORLD_AFTER,
    base_checkpoint,
    curve_proxies,
    rl_recipe,
)
from rlready.testbed.study.unit import proxies_path, read_proxies
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.grpo import CurveRow
from rlready.testbed.training.sft import SftRecipe
from rlready.workflow.predict.fit import fit
from rlready.workflow.search.open import SearchConfig, open_search
from rlready.workflow.search.registry import RegistryValues
from rlready.workflow.search.run import ask
from rlready.workflow.testbed.trainer import Trained, design_of, train

TABLE = Path(__file__).parents[1] / "testbed" / "results" / "full.csv"
BUDGET, N_START, BATCH, RL_SEEDS = 1600, 16, 3, (0, 1)
LOWEST_RATE = {"tight": 2e-3, "wide": min(AXES["learning_rate"])}
PREDICTOR = "grpo-predictor"
COMPARED = (
    ("searched", "practice"),
    ("searched", "random by predictor"),
    ("random by predictor", "practice"),
)


@dataclass(frozen=True)
class Bed:
    """Where things are trained, and how much is measured."""

    folder: Path
    design: Design


@dataclass(frozen=True)
class Candidate:
    """A recipe that was trained, and what is known of it before RL."""

    recipe: SftRecipe
    checkpoint: str
    pass_at_1: float
    predicted: float
    predicted_sd: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="1 seed, 2 trials, 8 RL steps, < 2 min"
    )
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--space", choices=tuple(LOWEST_RATE), default="tight")
    parser.add_argument("--out", type=Path, help="where what is trained stays")
    arguments = parser.parse_args()
    n_seeds = arguments.seeds or (1 if arguments.quick else 6)
    n_trials = arguments.trials or (2 if arguments.quick else 6)

    with tempfile.TemporaryDirectory() as scratch:
        out: Path = arguments.out or Path(scratch)
        bed = made_bed(out / ("quick" if arguments.quick else "testbed"), arguments.quick)
        rows = []
        for seed in range(n_seeds):
            path = out / f"{bed.folder.name}-{arguments.space}-{n_trials}-seed{seed}.json"
            if not path.is_file():
                found = one_seed(bed, out / "work" / path.stem, arguments.space, n_trials, seed)
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            rows.append(json.loads(path.read_text(encoding="utf-8")))
            if not arguments.json:
                show_seed(rows[-1])
    result = {
        "bench": "search_testbed",
        "space": arguments.space,
        "n_seeds": n_seeds,
        "n_trials": n_trials,
        **summary(rows),
        "seeds": rows,
    }
    if not arguments.json:
        show(result)
    print(json.dumps(result))


def made_bed(folder: Path, quick: bool) -> Bed:
    design_ = design_of(folder, "full")
    if quick:
        # Proxies have to be those of the table; only RL is shorter.
        grpo = dataclasses.replace(PROFILES["full"].grpo, n_steps=8, budgets=(0, 8))
        design_ = dataclasses.replace(
            design_, profile=dataclasses.replace(design_.profile, grpo=grpo)
        )
    return Bed(folder, design_)


def one_seed(bed: Bed, work: Path, space_name: str, n: int, seed: int) -> dict[str, Any]:
    """Both arms of one seed, and GRPO from what each rule picks."""
    shutil.rmtree(work, ignore_errors=True)  # studies and registry; what was trained lies in `bed`
    work.mkdir(parents=True)
    low = f"low = {min(AXES['learning_rate'])}"
    space = search_space(BUDGET).replace(low, f"low = {LOWEST_RATE[space_name]}")
    (work / "space.toml").write_text(space, encoding="utf-8")
    store = MlflowStore(f"sqlite:///{work / 'registry.db'}", "search-testbed")
    begin = time.process_time()
    start = registered_start(bed, store, seed)
    target = f"value_at_budget/60steps@{WORLD_AFTER}"
    fit(store, target=target, name=PREDICTOR, seed=seed)
    fit_s = time.process_time() - begin
    values = RegistryValues(store=store, target=target, predictor=PREDICTOR)
    searched, asking_s = search_arm(bed, store, values, work, n, seed)
    drawn = random_arm(bed, store, values, read_space(work / "space.toml"), n, seed)
    arms = {
        "searched": max(searched, key=lambda c: c.predicted),
        "random by predictor": max(drawn, key=lambda c: c.predicted),
        "practice": max(drawn, key=lambda c: c.pass_at_1),
    }
    runs = {name: after_rl(bed, store, chosen) for name, chosen in arms.items()}
    proposing_s = {"searched": fit_s + asking_s, "random by predictor": fit_s, "practice": 0.0}
    return {
        "seed": seed,
        "start_best": max(outcome for _, outcome in start),
        "arms": {
            name: {
                "recipe": chosen.recipe.id,
                "shares": dict(chosen.recipe.shares),
                "pass_at_1": chosen.pass_at_1,
                "predicted": chosen.predicted,
                "predicted_sd": chosen.predicted_sd,
                "after_rl": [run[0] for run in runs[name]],
                "cpu_s": {
                    "training and measuring": sum(
                        c.cpu_s for c in (searched if name == "searched" else drawn)
                    ),
                    "RL": sum(run[1] for run in runs[name]),
                    "fitting and proposing": proposing_s[name],
                },
            }
            for name, chosen in arms.items()
        },
        "trials": {
            name: [
                {"recipe": c.recipe.id, "pass_at_1": c.pass_at_1, "predicted": c.predicted}
                for c in candidates
            ]
            for name, candidates in (("searched", searched), ("random", drawn))
        },
    }


def search_arm(
    bed: Bed, store: MlflowStore, values: RegistryValues, work: Path, n: int, seed: int
) -> tuple[list[Candidate], float]:
    """N recipes of the search, and the CPU seconds that asking and telling took."""
    search = open_search(
        SearchConfig(
            space=work / "space.toml",
            storage=f"sqlite:///{work / 'search.db'}",
            folder=work / "search",
            worker="bench",
            seed=seed,
        ),
        values,
    )
    found: list[Candidate] = []
    spent = 0.0
    while len(found) < n:
        begin = time.process_time()
        batch = [ask(search) for _ in range(min(BATCH, n - len(found)))]
        spent += time.process_time() - begin
        for handed in batch:
            candidate = trained(bed, store, values, SftRecipe.from_record(handed.asked.recipe))
            begin = time.process_time()
            told = handed.tell(checkpoint=candidate.checkpoint)
            assert told.value == candidate.predicted
            spent += time.process_time() - begin
            found.append(candidate)
    search.engine.dispose()
    return found, spent


def random_arm(
    bed: Bed, store: MlflowStore, values: RegistryValues, space: RecipeSpace, n: int, seed: int
) -> list[Candidate]:
    points = anywhere(space, n, np.random.default_rng([seed, 1]), (1.0,))
    recipes = [SftRecipe.from_record(space.recipe(points, row)) for row in range(n)]
    return [trained(bed, store, values, recipe) for recipe in recipes]


def trained(bed: Bed, store: MlflowStore, values: RegistryValues, recipe: SftRecipe) -> Candidate:
    """The recipe, really trained and measured, and what the predictor says of it."""
    made = train(recipe, bed.folder, bed.design, store)
    record = made.made.checkpoint.recipe
    assert record is not None
    measured = values.measured(made.made.checkpoint.id, record)
    assert measured.is_predicted
    (score,) = (
        p.value for p in made.made.proxies if (p.name, p.benchmark) == ("pass_at_1", "world")
    )
    return Candidate(
        recipe=recipe,
        checkpoint=made.made.checkpoint.id,
        pass_at_1=score,
        predicted=measured.value,
        predicted_sd=measured.se or math.nan,
        cpu_s=sft_and_measuring_s(bed, made),
    )


def after_rl(bed: Bed, store: MlflowStore, chosen: Candidate) -> list[tuple[float, float]]:
    """True score of each RL seed, and its CPU seconds."""
    made = train(chosen.recipe, bed.folder, bed.design, store, rl_seeds=RL_SEEDS).made
    n_steps = bed.design.profile.grpo.n_steps
    return [(run.mean_at(n_steps), sum(run.cpu_seconds.values())) for run in made.runs.values()]


def sft_and_measuring_s(bed: Bed, made: Trained) -> float:
    """CPU seconds of the first time, whenever that was."""
    kept = json.loads((made.folder / "sft.json").read_text(encoding="utf-8"))
    found = read_proxies(proxies_path(bed.folder, made.made.recipe.id))
    assert found is not None
    return float(kept["cpu_seconds"]) + found[1]


# ---------------------------------------------------------------------- the registry to begin with


def registered_start(bed: Bed, store: MlflowStore, seed: int) -> list[tuple[str, float]]:
    """Register base and `N_START` finished runs of the table; their names and outcomes."""
    found = read_proxies(proxies_path(bed.folder, BASE)) or measured_base(bed)
    store.put_evaluation(Evaluation(checkpoint=base_checkpoint(), proxies=tuple(found[0])))
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["recipe.budget"] == str(BUDGET)]
    rng = np.random.default_rng([seed, 0])
    chosen = [rows[i] for i in sorted(rng.choice(len(rows), N_START, replace=False))]
    return [(row["name"], register_row(row, found[0], store)) for row in chosen]


def measured_base(bed: Bed) -> tuple[list[Proxy], float]:
    from rlready.testbed.study.unit import measure_unit

    measure_unit(bed.folder, shipped_base(), BASE, bed.design.profile, lambda stage, s: None)
    found = read_proxies(proxies_path(bed.folder, BASE))
    assert found is not None
    return found


def register_row(row: Mapping[str, str], like: Sequence[Proxy], store: MlflowStore) -> float:
    """A run of the table, measured as `like` was: same problems, protocol and versions."""
    recipe = {recipe.id: recipe for recipe in choose_recipes(48)}[row["name"]]
    (base,) = row["parents"].split(",")
    checkpoint = Checkpoint(
        uri=f"file:///results/full/{recipe.id}",
        fingerprint=row["checkpoint_id"],
        name=recipe.id,
        step=recipe.n_steps,
        recipe=recipe.record("testbed-base", base),
        parents=(base,),
    )
    proxies = [
        dataclasses.replace(
            proxy,
            value=float(row[f"{proxy.name}@{proxy.benchmark}"]),
            se=float(row[f"{proxy.name}_se@{proxy.benchmark}"]),
            se_within=None,
        )
        for proxy in like
        if row.get(f"{proxy.name}@{proxy.benchmark}")
    ]
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=tuple(proxies)))
    settings, key = PROFILES["full"].grpo, f"value_at_budget/60steps{{}}@{WORLD_AFTER}"
    way = measured_after()
    outcome = Outcome(
        checkpoint_id=checkpoint.id,
        algorithm="grpo",
        budget=settings.n_steps,
        budget_unit="steps",
        statistic="value_at_budget",
        benchmark=WORLD_AFTER,
        value=float(row[key.format("")]),
        se=float(row[key.format("_se")]),
        rl_recipe=rl_recipe(settings),
        benchmark_digest=way.benchmark_digest,
        protocol_digest=way.protocol_digest,
        evaluator_version=way.evaluator_version,
    )
    store.put_outcome(outcome)
    return outcome.value


def measured_after() -> Proxy:
    """How the mean of the half `after` is measured; its value means nothing."""
    from rlready.testbed.study.design import make_design
    from rlready.testbed.world.skills import SKILLS

    rows = [CurveRow(budget=0, benchmark=skill, value=0.0, se=0.0, n=100) for skill in SKILLS]
    *_, mean = curve_proxies(make_design("full", 0, 1), rows, 0)
    return mean


# ---------------------------------------------------------------------- what came of it


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean score of each arm, paired differences with t-intervals, and costs."""
    scores = {
        name: [statistics.fmean(row["arms"][name]["after_rl"]) for row in rows]
        for name in rows[0]["arms"]
    }
    scores["best of the start, as recorded"] = [row["start_best"] for row in rows]
    pairs = [*COMPARED, ("searched", "best of the start, as recorded")]
    return {
        "mean_after_rl": {name: statistics.fmean(values) for name, values in scores.items()},
        "differences": {f"{a} - {b}": interval(scores[a], scores[b]) for a, b in pairs},
        "mean_predicted": {
            name: statistics.fmean(t["predicted"] for row in rows for t in row["trials"][name])
            for name in ("searched", "random")
        },
        "prediction_error": {
            name: statistics.fmean(
                row["arms"][name]["predicted"] - score
                for row, score in zip(rows, scores[name], strict=True)
            )
            for name in rows[0]["arms"]
        },
        "cpu_s": {
            name: {
                stage: statistics.fmean(row["arms"][name]["cpu_s"][stage] for row in rows)
                for stage in rows[0]["arms"][name]["cpu_s"]
            }
            for name in rows[0]["arms"]
        },
    }


def interval(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    gaps = np.subtract(a, b)
    found: dict[str, Any] = {"mean": float(gaps.mean()), "n": len(gaps)}
    found["wins"], found["ties"] = int((gaps > 0).sum()), int((gaps == 0).sum())
    if len(gaps) > 1:
        error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
        for level in (90, 95):
            reach = float(stats.t.ppf(0.5 + level / 200, len(gaps) - 1)) * error
            found[f"interval_{level}"] = [found["mean"] - reach, found["mean"] + reach]
    return found


def show_seed(row: Mapping[str, Any]) -> None:
    print(f"seed {row['seed']}: best of the start {row['start_best']:.4f}")
    for name, arm in row["arms"].items():
        scores = ", ".join(f"{score:.4f}" for score in arm["after_rl"])
        print(
            f"  {name:<20} {statistics.fmean(arm['after_rl']):.4f} ({scores})  pass@1 before "
            f"{arm['pass_at_1']:.3f}, predicted {arm['predicted']:.3f} +- "
            f"{arm['predicted_sd']:.3f}  {arm['recipe']}"
        )
    sys.stdout.flush()


def show(result: Mapping[str, Any]) -> None:
    print(f"\nspace {result['space']}, {result['n_trials']} trials, {result['n_seeds']} seeds")
    for name, value in result["mean_after_rl"].items():
        print(f"  {name:<32} true score after RL {value:.4f}")
    for name, found in result["differences"].items():
        words = [f"{found['mean']:+.4f}"]
        for level in (90, 95):
            if f"interval_{level}" in found:
                low, high = found[f"interval_{level}"]
                words.append(f"{level} % {low:+.4f} .. {high:+.4f}")
        words.append(f"{found['wins']} of {found['n']} won, {found['ties']} tied")
        print(f"  {name:<48} {'; '.join(words)}")
    predicted = result["mean_predicted"]
    print(
        f"  mean prediction of all trials: searched {predicted['searched']:.3f}, random "
        f"{predicted['random']:.3f}"
    )
    for name, stages in result["cpu_s"].items():
        parts = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in stages.items())
        print(f"  CPU-s a seed, {name}: {parts}")


if __name__ == "__main__":
    main()
