"""The bench of searches on the testbed: its flow with a trainer that trains nothing."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import _search_testbed as bench
import pytest
import search_testbed

from rlready.predictors.search.trials import KnownRun
from rlready.registry.digest import digest
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe
from rlready.registry.store import Store
from rlready.testbed.study.design import Design, make_design
from rlready.testbed.study.run import Made
from rlready.testbed.study.shipped import TARGET
from rlready.testbed.training.grpo import GrpoResult
from rlready.testbed.training.sft import SftRecipe
from rlready.workflow.search.registry import RegistryValues
from rlready.workflow.testbed.trainer import Trained

SETTING = bench.SETTINGS["first"]


def base_proxies(n_problems: int = 34) -> tuple[Proxy, ...]:
    """Return pass@1 and pass@64 of each benchmark before RL, which the shipped table has too."""
    skills = ("chain_easy", "chain_hard", "add2", "add3", "count3", "count4")
    return tuple(
        Proxy(
            name=name,
            value=0.4,
            se=0.01,
            unit="probability",
            benchmark=benchmark,
            benchmark_digest=digest(benchmark),
            protocol_digest=digest("protocol"),
            n_problems=n_problems * n_skills,
            n_samples=64 * n_problems * n_skills,
            evaluator_version="1",
        )
        for benchmark, n_skills in (*((skill, 1) for skill in skills), ("world", len(skills)))
        for name in ("pass_at_1", "pass_at_64")
    )


def bed(folder: Path, base: tuple[Proxy, ...]) -> bench.Bed:
    design = make_design("full", 0, 1)
    return bench.Bed(
        folder=folder, design=design, base=base, setting=SETTING, space=SETTING.spaces["tight"]
    )


def trained_nothing(
    recipe: SftRecipe,
    testbed: Path,
    design: Design,
    store: Store,
    *,
    rl_seeds: tuple[int, ...] = (),
) -> Trained:
    """Register a checkpoint with a random score, without training."""
    score = random.Random(recipe.id).uniform(0.2, 0.6)
    proxies = tuple(dataclasses.replace(proxy, value=score) for proxy in base_proxies())
    checkpoint = Checkpoint(
        uri=f"file:///{recipe.id}",
        fingerprint=digest(recipe.id),
        name=recipe.id,
        recipe=recipe.record("testbed-base"),
    )
    store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
    runs: dict[int, GrpoResult] = {}
    made = Made(recipe=recipe, checkpoint=checkpoint, proxies=proxies, runs=runs)
    return Trained(made=made, folder=testbed, cpu_seconds={})


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_an_arm_picks_the_best_of_its_recipes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(values: RegistryValues, reference: str, recipe: Recipe) -> KnownRun:
        value = 0.5 - (recipe.learning_rate or 0.0)
        return KnownRun(name=reference, recipe=recipe, values=(value,), is_predicted=True)

    monkeypatch.setattr(bench, "N_START", 3)
    monkeypatch.setattr(bench, "fit", lambda *arguments, **settings: None)
    monkeypatch.setattr(RegistryValues, "measured", measured)
    monkeypatch.setattr(bench, "train", trained_nothing)
    monkeypatch.setattr(bench, "sft_and_measuring_s", lambda bed, made: 1.0)
    monkeypatch.setattr(
        bench, "after_rl", lambda *arguments: {"after_rl": [0.5, 0.7], "rl_cpu_s": 2.0}
    )
    found = bench.run_arm(
        bed(tmp_path, base_proxies()),
        bench.ARMS[name],
        tmp_path / "work",
        n=4,
        seed=0,
        rl_seeds=(0, 1),
    )
    assert len({trial["recipe"] for trial in found["trials"]}) == 4
    for pick, rule in bench.ARMS[name].picks.items():
        assert found["picks"][pick][rule] == max(trial[rule] for trial in found["trials"])
    assert found["cpu_s"]["training and measuring"] == 4.0


def test_the_tables_runs_are_measured_as_the_base_is(tmp_path: Path) -> None:
    here = bed(tmp_path, base_proxies())
    row = bench.table(SETTING)[0]
    proxies = bench.measured(here, row).proxies
    assert len(proxies) > 6
    bench.check_alike(here, proxies)
    assert bench.pass_at_1(proxies) == float(row["pass_at_1@world"])
    assert bench.outcome(here, row).key == TARGET


def test_a_table_of_other_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="34 problems"):
        bench.measured(bed(tmp_path, base_proxies(n_problems=24)), bench.table(SETTING)[0])


def test_ours_against_practice_is_compared_first() -> None:
    pairs = search_testbed.compared(["ours", "tpe", "prior", "random", "random-prior"])
    assert pairs[0] == ("ours", "practice")
    assert ("ours", "Optuna TPE") in pairs
    assert ("ours, prior only", "random by prior") in pairs
    assert ("Optuna TPE", "random by predictor") in pairs
    assert len(set(pairs)) == len(pairs)
