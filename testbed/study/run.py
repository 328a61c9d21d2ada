"""A testbed run: several processes make the checkpoints, then one puts them into the registry.

    OUT/design.json                 the design, written before anything runs
    OUT/inputs                      benchmarks and held-out examples for `rlready evaluate`
    OUT/sft, OUT/proxies, OUT/rl    results of the workers (`unit.py`)
    OUT/costs.jsonl                 CPU seconds of every stage that ran

Any process may be killed at any time; the same command then completes the same registry.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rlready.evaluators.metrics.pass_at_k import EVALUATOR_VERSION
from rlready.registry.digest import digest, fingerprint
from rlready.registry.errors import EvaluationError
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy
from rlready.registry.store import Store
from rlready.testbed.study.design import BASE, Design, write_design
from rlready.testbed.study.unit import (
    content_digest,
    proxies_path,
    read_proxies,
    rl_folder,
    sft_folder,
    write_inputs,
)
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.grpo import CurveRow, GrpoResult, GrpoSettings, grpo
from rlready.testbed.training.sft import SftRecipe
from rlready.testbed.world.benchmarks import benchmarks
from rlready.testbed.world.measure import protocol

AFTER = "after"
"""Suffix of a benchmark's name on the half that is measured after RL."""

WORLD_AFTER = f"world_{AFTER}"
"""Name of the mean over the benchmarks of the half `after`."""

_ATTEMPTS = 3


class Progress(Protocol):
    """Shows the progress of a run; the command line passes its own implementation."""

    def stage(
        self, name: str, label: str, total: int, unit: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Enter a stage of so many units; call the yielded function with each number finished."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """One recipe's results: its SFT checkpoint, the proxies before RL, and RL runs by seed."""

    recipe: SftRecipe
    checkpoint: Checkpoint
    proxies: tuple[Proxy, ...]
    runs: dict[int, GrpoResult]


def make(out: Path, design: Design, progress: Progress) -> None:
    """Run every unit without a result, in `design.n_workers` processes.

    If units are still missing after several attempts, an EvaluationError says so.
    """
    write_design(out, design)
    write_inputs(out, design.profile)
    for _ in range(_ATTEMPTS):
        n_stages = len(missing(out, design))
        if not n_stages:
            return
        label = f"Testbed {design.profile_name}, {design.n_workers} workers"
        with (
            progress.stage("testbed", label, n_stages, "stages") as advance,
            (out / "costs.jsonl").open("a", encoding="utf-8", buffering=1) as costs,
        ):
            for line in _worker_lines(out, design.n_workers):
                if json.loads(line)["cpu_seconds"] > 0:
                    costs.write(line)
                    advance(1)
    unfinished = missing(out, design)
    if unfinished:
        raise EvaluationError(
            f"{len(unfinished)} stages of the testbed are not finished ({unfinished[0]}, ...)",
            why="their workers were killed or failed; their messages are above",
            fix="Run the same command again: finished stages are kept",
        )


def missing(out: Path, design: Design) -> list[str]:
    """Return the paths, below OUT, of the results that do not exist yet."""
    stages = [proxies_path(out, BASE)]
    for recipe in design.recipes:
        stages += [sft_folder(out, recipe), proxies_path(out, recipe.id)]
        stages += [rl_folder(out, recipe, seed) for seed in design.profile.rl_seeds]
    return [str(path.relative_to(out)) for path in stages if not path.exists()]


def base_checkpoint() -> Checkpoint:
    """Return the base model that every recipe starts from."""
    base = shipped_base()
    return Checkpoint(
        uri=base.resolve().as_uri(),
        fingerprint=fingerprint(base),
        name="testbed-base",
        kind="base",
    )


def collect(out: Path, design: Design) -> list[Made]:
    """Return the results of a finished run, in the order of the design."""
    base = shipped_base()
    made = []
    for recipe in design.recipes:
        measured = read_proxies(proxies_path(out, recipe.id))
        assert measured is not None  # `make` returns when all exist
        folder = sft_folder(out, recipe)
        runs = {
            seed: grpo(
                folder,
                dataclasses.replace(design.profile.grpo, seed=seed),
                rl_folder(out, recipe, seed),
            )
            for seed in design.profile.rl_seeds
        }
        checkpoint = Checkpoint(
            uri=folder.resolve().as_uri(),
            fingerprint=fingerprint(folder),
            name=recipe.id,
            step=recipe.n_steps,
            recipe=recipe.record("testbed-base", fingerprint(base)),
            parents=(fingerprint(base),),
        )
        made.append(
            Made(recipe=recipe, checkpoint=checkpoint, proxies=tuple(measured[0]), runs=runs)
        )
    return made


def register(
    out: Path, design: Design, made: Sequence[Made], store: Store, progress: Progress
) -> None:
    """Put base, SFT and RL checkpoints with their proxies, and the outcomes, into the registry."""
    measured = read_proxies(proxies_path(out, BASE))
    assert measured is not None
    config = {"testbed": design.profile_name, "seed": design.seed, **dict(design.versions)}
    store.put_evaluation(
        Evaluation(checkpoint=base_checkpoint(), proxies=tuple(measured[0]), config=config)
    )
    with progress.stage("registering", "Registering", len(made), "checkpoints") as advance:
        for entry in made:
            first = next(iter(entry.runs.values()), None)
            after = () if first is None else curve_proxies(design, first.curve, 0)
            proxies = (*entry.proxies, *after)
            store.put_evaluation(
                Evaluation(checkpoint=entry.checkpoint, proxies=proxies, config=config)
            )
            for seed, run in entry.runs.items():
                _register_run(design, entry, seed, run, store)
            advance(1)


def _register_run(design: Design, entry: Made, seed: int, run: GrpoResult, store: Store) -> None:
    settings = design.profile.grpo
    checkpoint = Checkpoint(
        uri=run.folder.resolve().as_uri(),
        fingerprint=fingerprint(run.folder),
        name=run.folder.name,
        kind="rl",
        step=settings.n_steps,
        parents=(entry.checkpoint.id,),
    )
    # If an RL run never got a reward, its weights are those of its parent.
    is_changed = checkpoint.id != entry.checkpoint.id
    if is_changed:
        proxies = tuple(curve_proxies(design, run.curve, settings.n_steps))
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
    recipe = rl_recipe(settings)
    for budget in settings.budgets:
        if budget == 0:
            continue
        is_end = budget == settings.n_steps
        for proxy in curve_proxies(design, run.curve, budget):
            store.put_outcome(
                Outcome(
                    checkpoint_id=entry.checkpoint.id,
                    algorithm="grpo",
                    budget=budget,
                    budget_unit="steps",
                    statistic="value_at_budget",
                    benchmark=proxy.benchmark,
                    value=proxy.value,
                    se=proxy.se,
                    seed=seed,
                    rl_recipe=recipe,
                    benchmark_digest=proxy.benchmark_digest,
                    protocol_digest=proxy.protocol_digest,
                    evaluator_version=proxy.evaluator_version,
                    rl_checkpoint_id=checkpoint.id if is_end and is_changed else None,
                )
            )


def rl_recipe(settings: GrpoSettings) -> dict[str, Any]:
    """Return how RL was done, as outcomes record it: without budget, seed and measurement."""
    recipe = dataclasses.asdict(settings)
    for key in ("seed", "n_steps", "budgets", "n_eval_problems", "n_eval_samples"):
        del recipe[key]
    return recipe


def curve_proxies(design: Design, curve: Sequence[CurveRow], budget: int) -> Iterator[Proxy]:
    """Yield pass@1 on every benchmark's half `after` at a budget, then their mean."""
    contents = _contents_after(design.profile.grpo.n_eval_problems, design.profile.world.skills)
    rows = [row for row in curve if row.budget == budget]
    measured = [
        (f"{row.benchmark}_{AFTER}", row.value, row.se, contents[row.benchmark], row.n)
        for row in rows
    ]
    mean = statistics.fmean(row.value for row in rows)
    error = math.sqrt(math.fsum(row.se**2 for row in rows)) / len(rows)
    content_of_all = digest(sorted(content for *_, content, _ in measured))
    measured.append((WORLD_AFTER, mean, error, content_of_all, sum(row.n for row in rows)))
    for name, value, se, content, n_problems in measured:
        yield Proxy(
            name="pass_at_1",
            value=value,
            se=se,
            unit="probability",
            benchmark=name,
            benchmark_digest=content,
            protocol_digest=protocol().digest,
            n_problems=n_problems,
            n_samples=n_problems * design.profile.grpo.n_eval_samples,
            evaluator_version=EVALUATOR_VERSION,
        )


@cache
def _contents_after(n_problems: int, skills: tuple[str, ...]) -> dict[str, str]:
    """Return the digest of each benchmark's half `after`; drawing the problems takes a while."""
    sets = benchmarks("after", n_problems, skills)
    return {name: content_digest(items) for name, items in sets.items()}


def _worker_lines(out: Path, n_workers: int) -> Iterator[str]:
    """Yield the lines that the workers print to one pipe, until the last worker has ended."""
    reading, writing = os.pipe()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "rlready.testbed.study.worker", str(out), str(index)],
            stdout=writing,
            env=environment,
        )
        for index in range(n_workers)
    ]
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as lines:
            yield from lines
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
            worker.wait()
