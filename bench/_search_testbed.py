"""One arm of a search on the testbed: its registry, its recipes, and GRPO from what it picks.

An arm has a registry of its own, which begins with runs of a shipped table, and a folder of its
own for the study. What is trained lies in the bed's folder and is found again by its recipe, also
by other arms and processes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlready.predictors.search.candidates import anywhere
from rlready.predictors.search.space_file import read_space
from rlready.predictors.search.study import SamplerName
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.locks import file_lock
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy
from rlready.testbed.study.design import BASE, PROFILES, Design
from rlready.testbed.study.recipes import AXES, HEADROOM_BUDGET, search_space
from rlready.testbed.study.run import WORLD_AFTER, base_checkpoint, curve_proxies, rl_recipe
from rlready.testbed.study.shipped import TARGET, shipped_recipes, shipped_rows
from rlready.testbed.study.summary import COLLAPSED_SHARE
from rlready.testbed.study.unit import MEAN, measure_unit, proxies_path, read_proxies
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.grpo import CurveRow
from rlready.testbed.training.sft import SftRecipe
from rlready.testbed.world.worlds import HEADROOM
from rlready.workflow.predict.fit import fit
from rlready.workflow.search.open import SearchConfig, open_search
from rlready.workflow.search.registry import RegistryValues
from rlready.workflow.search.run import ask
from rlready.workflow.testbed.trainer import Trained, design_of, train

N_START, BATCH, MOST_FAILED = 16, 3, 50
PREDICTOR = "grpo-predictor"
PRACTICE, BY_PREDICTOR, BY_PRIOR = "practice", "random by predictor", "random by prior"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A world's table of finished runs, and its spaces of recipes.

    Args:
        profile: of the table and of everything that is trained.
        budget: examples of a recipe; of the table only these runs are taken.
        spaces: TOML by name, the default first.
        folders: names of the bed's folder, of a whole run and of a quick one.
        is_random_tabled: whether the table's runs are random draws of the space.
    """

    profile: str
    budget: int
    spaces: Mapping[str, str]
    folders: tuple[str, str]
    is_random_tabled: bool


def _first_space(lowest_rate: float) -> str:
    low = f"low = {min(AXES['learning_rate'])}"
    return search_space(1600).replace(low, f"low = {lowest_rate}")


SETTINGS: Mapping[str, Setting] = {
    "first": Setting(
        profile="full",
        budget=1600,
        spaces={"tight": _first_space(2e-3), "wide": _first_space(min(AXES["learning_rate"]))},
        folders=("testbed", "quick"),
        is_random_tabled=False,
    ),
    "headroom": Setting(
        profile="headroom",
        budget=HEADROOM_BUDGET,
        spaces={"whole": search_space(HEADROOM_BUDGET, HEADROOM)},
        folders=("headroom", "headroom-quick"),
        is_random_tabled=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How recipes are proposed; no sampler: they are drawn. Without outcomes, the prior is asked.

    Each pick names a rule: of the arm's recipes, the one with the highest value of that field.
    """

    sampler: SamplerName | None
    picks: Mapping[str, str]
    has_outcomes: bool = True


ARMS: Mapping[str, Arm] = {
    "ours": Arm(sampler="surrogate", picks={"ours": "predicted"}),
    "tpe": Arm(sampler="tpe", picks={"Optuna TPE": "predicted"}),
    "gp": Arm(sampler="gp", picks={"Optuna GP": "predicted"}),
    "prior": Arm(sampler="surrogate", picks={"ours, prior only": "predicted"}, has_outcomes=False),
    "random": Arm(sampler=None, picks={BY_PREDICTOR: "predicted", PRACTICE: "pass_at_1"}),
    "random-prior": Arm(sampler=None, picks={BY_PRIOR: "predicted"}, has_outcomes=False),
}
SEARCHED = tuple(name for name, arm in ARMS.items() if arm.sampler)


@dataclass(frozen=True, kw_only=True)
class Bed:
    """Where things are trained, and how much is measured; `base` are the base's proxies."""

    folder: Path
    design: Design
    base: tuple[Proxy, ...]
    setting: Setting
    space: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe that was trained, and what is known of it before RL.

    `tabled` is the true score if the recipe is a run of the table, whose costs are not recorded.
    """

    recipe: SftRecipe
    checkpoint: Checkpoint
    pass_at_1: float
    predicted: float = math.nan
    predicted_sd: float | None = None
    cpu_s: float = 0.0
    tabled: float | None = None


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The arm's registry and what it says of a checkpoint; rows of the table that are not in it."""

    work: Path
    store: MlflowStore
    values: RegistryValues
    start_best: float
    others: tuple[Mapping[str, str], ...]
    fit_s: float


def made_bed(out: Path, setting: Setting, space: str, quick: bool) -> Bed:
    """The folder with its design and the measured base; several processes may share it."""
    folder = out / setting.folders[quick]
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / f"{folder.name}.lock"):
        design = design_of(folder, setting.profile)
        measure_unit(folder, shipped_base(), BASE, design.profile, lambda stage, s: None)
    found = read_proxies(proxies_path(folder, BASE))
    assert found is not None
    if quick:
        # Proxies have to be those of the table; only RL is shorter.
        grpo = dataclasses.replace(design.profile.grpo, n_steps=8, budgets=(0, 8))
        profile = dataclasses.replace(design.profile, grpo=grpo)
        design = dataclasses.replace(design, profile=profile)
    return Bed(
        folder=folder,
        design=design,
        base=tuple(found[0]),
        setting=setting,
        space=setting.spaces[space],
    )


def run_arm(
    bed: Bed, arm: Arm, work: Path, *, n: int, seed: int, rl_seeds: tuple[int, ...]
) -> dict[str, Any]:
    """An arm's N recipes, its picks with their true scores, and its costs, as JSON."""
    desk = opened_desk(bed, arm, work, seed)
    spent, n_failed = 0.0, 0
    if arm.sampler:
        candidates, spent, n_failed = searched(bed, desk, arm.sampler, n, seed)
    else:
        candidates = drawn(bed, desk, n, seed)
    # Values of the prior move with the registry, so all are asked for once it is complete.
    candidates = [judged(desk, each) for each in candidates]
    base = pass_at_1(bed.base)
    return {
        "seed": seed,
        "start_best": desk.start_best,
        "base_pass_at_1": base,
        "n_failed": n_failed,
        "trials": [shown(each) for each in candidates],
        "waste": statistics.fmean(each.pass_at_1 < COLLAPSED_SHARE * base for each in candidates),
        "cpu_s": {
            "training and measuring": sum(each.cpu_s for each in candidates),
            "fitting and proposing": desk.fit_s + spent,
        },
        "picks": {
            name: shown(best) | after_rl(bed, desk, best, rl_seeds)
            for name, field in arm.picks.items()
            for best in [max(candidates, key=lambda each: getattr(each, field))]
        },
    }


def shown(candidate: Candidate) -> dict[str, Any]:
    values = {k: v for k, v in vars(candidate).items() if k not in ("recipe", "checkpoint")}
    recipe = candidate.recipe
    return {"recipe": recipe.id, "shares": dict(recipe.shares), **values}


def searched(
    bed: Bed, desk: Desk, sampler: SamplerName, n: int, seed: int
) -> tuple[list[Candidate], float, int]:
    """N recipes of the search, the CPU seconds that asking and telling took, and failed trials.

    A recipe may ask for more different problems of a skill than there are. Its trial fails before
    it costs anything, as in `rlready search run`, and another is asked.
    """
    search = open_search(
        SearchConfig(
            space=desk.work / "space.toml",
            storage=f"sqlite:///{desk.work / 'search.db'}",
            sampler=sampler,
            folder=desk.work / "search",
            worker="bench",
            seed=seed,
        ),
        desk.values,
    )
    found: list[Candidate] = []
    spent, n_failed = 0.0, 0
    while len(found) < n:
        begin = time.process_time()
        batch = [ask(search) for _ in range(min(BATCH, n - len(found)))]
        spent += time.process_time() - begin
        for handed in batch:
            try:
                candidate = trained(bed, desk, SftRecipe.from_record(handed.recipe))
            except ConfigError as error:
                handed.fail(str(error))
                n_failed += 1
                if n_failed > MOST_FAILED:
                    raise
                continue
            begin = time.process_time()
            told = handed.tell(checkpoint=candidate.checkpoint.id)
            assert told.is_predicted, told
            spent += time.process_time() - begin
            found.append(candidate)
    search.engine.dispose()
    return found, spent, n_failed


def drawn(bed: Bed, desk: Desk, n: int, seed: int) -> list[Candidate]:
    """N random recipes: runs of the table if those are random, else new ones."""
    rng = np.random.default_rng([seed, 1])
    if bed.setting.is_random_tabled:
        chosen = sorted(rng.choice(len(desk.others), n, replace=False))
        return [tabled(bed, desk, desk.others[i]) for i in chosen]
    space = read_space(desk.work / "space.toml")
    points = anywhere(space, n, rng, (1.0,))
    recipes = [SftRecipe.from_record(space.recipe(points, row)) for row in range(n)]
    return [trained(bed, desk, recipe) for recipe in recipes]


def trained(bed: Bed, desk: Desk, recipe: SftRecipe) -> Candidate:
    """The recipe, really trained, measured and registered."""
    made = train(recipe, bed.folder, bed.design, desk.store)
    proxies = made.made.proxies
    check_alike(bed, proxies)
    return Candidate(
        recipe=recipe,
        checkpoint=made.made.checkpoint,
        pass_at_1=pass_at_1(proxies),
        cpu_s=sft_and_measuring_s(bed, made),
    )


def tabled(bed: Bed, desk: Desk, row: Mapping[str, str]) -> Candidate:
    """A run of the table, registered without its outcome."""
    evaluation = measured(bed, row)
    desk.store.put_evaluation(evaluation)
    return Candidate(
        recipe=shipped_recipes(bed.setting.profile)[row["name"]],
        checkpoint=evaluation.checkpoint,
        pass_at_1=pass_at_1(evaluation.proxies),
        tabled=float(row[TARGET]),
    )


def judged(desk: Desk, candidate: Candidate) -> Candidate:
    """The candidate with what predictor or prior say of it."""
    checkpoint = candidate.checkpoint
    assert checkpoint.recipe is not None
    value = desk.values.measured(checkpoint.id, checkpoint.recipe)
    assert value.is_predicted
    return dataclasses.replace(
        candidate,
        predicted=value.values[0],
        predicted_sd=value.errors[0] if value.errors else None,
    )


def pass_at_1(proxies: Sequence[Proxy]) -> float:
    (score,) = (p.value for p in proxies if (p.name, p.benchmark) == ("pass_at_1", MEAN))
    return score


def after_rl(bed: Bed, desk: Desk, chosen: Candidate, rl_seeds: tuple[int, ...]) -> dict[str, Any]:
    """True score of each RL seed, and their CPU seconds; of a run of the table, its score."""
    if chosen.tabled is not None:
        return {"after_rl": [chosen.tabled], "rl_cpu_s": 0.0}
    made = train(chosen.recipe, bed.folder, bed.design, desk.store, rl_seeds=rl_seeds).made
    n_steps = bed.design.profile.grpo.n_steps
    return {
        "after_rl": [run.mean_at(n_steps) for run in made.runs.values()],
        "rl_cpu_s": sum(sum(run.cpu_seconds.values()) for run in made.runs.values()),
    }


def sft_and_measuring_s(bed: Bed, made: Trained) -> float:
    """CPU seconds of the first time, whenever that was."""
    kept = json.loads((made.folder / "sft.json").read_text(encoding="utf-8"))
    found = read_proxies(proxies_path(bed.folder, made.made.recipe.id))
    assert found is not None
    return float(kept["cpu_seconds"]) + found[1]


# ---------------------------------------------------------------------- the registry to begin with


def opened_desk(bed: Bed, arm: Arm, work: Path, seed: int) -> Desk:
    """A new registry with the base and `N_START` runs of the table, and the fitted predictor."""
    shutil.rmtree(work, ignore_errors=True)  # study and registry; what was trained lies in `bed`
    work.mkdir(parents=True)
    (work / "space.toml").write_text(bed.space, encoding="utf-8")
    store = MlflowStore(f"sqlite:///{work / 'registry.db'}", "search-testbed")
    begin = time.process_time()
    store.put_evaluation(Evaluation(checkpoint=base_checkpoint(), proxies=bed.base))
    rows = table(bed.setting)
    rng = np.random.default_rng([seed, 0])
    chosen = sorted(rng.choice(len(rows), N_START, replace=False))
    for row in (rows[i] for i in chosen):
        store.put_evaluation(measured(bed, row))
        if arm.has_outcomes:
            store.put_outcome(outcome(bed, row))
    target = TARGET if arm.has_outcomes else None
    if target:
        fit(store, target=target, name=PREDICTOR, seed=seed)
    return Desk(
        work=work,
        store=store,
        values=RegistryValues(store=store, target=target, predictor=PREDICTOR),
        start_best=max(float(rows[i][TARGET]) for i in chosen),
        others=tuple(row for i, row in enumerate(rows) if i not in chosen),
        fit_s=time.process_time() - begin,
    )


def table(setting: Setting) -> list[dict[str, str]]:
    """The runs of the shipped table that have the setting's budget."""
    rows = shipped_rows(setting.profile).values()
    return [row for row in rows if row["recipe.budget"] == str(setting.budget)]


def measured(bed: Bed, row: Mapping[str, str]) -> Evaluation:
    """A run of the table, measured as the base was: same problems, protocol and versions."""
    profile = bed.setting.profile
    recipe, (base,) = shipped_recipes(profile)[row["name"]], row["parents"].split(",")
    proxies = [
        dataclasses.replace(
            proxy,
            value=float(row[f"{proxy.name}@{proxy.benchmark}"]),
            se=float(row[f"{proxy.name}_se@{proxy.benchmark}"]),
            se_within=None,
        )
        for proxy in bed.base
        if row.get(f"{proxy.name}@{proxy.benchmark}")
    ]
    for proxy in proxies:
        n = row.get(f"{proxy.name}_n@{proxy.benchmark}")
        assert not n or int(n) == proxy.n_problems, f"{row['name']}: {n} problems of {proxy}"
    checkpoint = Checkpoint(
        uri=f"file:///results/{profile}/{recipe.id}",
        fingerprint=row["checkpoint_id"],
        name=recipe.id,
        step=recipe.n_steps,
        recipe=recipe.record("testbed-base", base),
        parents=(base,),
    )
    return Evaluation(checkpoint=checkpoint, proxies=tuple(proxies))


def check_alike(bed: Bed, proxies: Sequence[Proxy]) -> None:
    """Check that a trained checkpoint was measured as the table's are, which are as the base is."""
    digests = {p.benchmark: (p.benchmark_digest, p.protocol_digest) for p in bed.base}
    for p in proxies:
        assert digests[p.benchmark] == (p.benchmark_digest, p.protocol_digest), p


def outcome(bed: Bed, row: Mapping[str, str]) -> Outcome:
    """The true score of a run of the table, the mean of its RL seeds."""
    settings, way = PROFILES[bed.setting.profile].grpo, measured_after(bed.design)
    statistic, _, benchmark = TARGET.partition("@")
    return Outcome(
        checkpoint_id=row["checkpoint_id"],
        algorithm="grpo",
        budget=settings.n_steps,
        budget_unit="steps",
        statistic="value_at_budget",
        benchmark=WORLD_AFTER,
        value=float(row[TARGET]),
        se=float(row[f"{statistic}_se@{benchmark}"]),
        rl_recipe=rl_recipe(settings),
        benchmark_digest=way.benchmark_digest,
        protocol_digest=way.protocol_digest,
        evaluator_version=way.evaluator_version,
    )


def measured_after(design: Design) -> Proxy:
    """How the mean of the half `after` is measured; its value means nothing."""
    row = partial(CurveRow, budget=0, value=0.0, se=0.0, n=design.profile.grpo.n_eval_problems)
    rows = [row(benchmark=skill) for skill in design.profile.world.skills]
    *_, mean = curve_proxies(design, rows, 0)
    return mean
