"""One recipe of the testbed through all of its stages. Existing results are reused.

    OUT/sft/<recipe>/               the checkpoint
    OUT/proxies/<recipe>.json       its proxies, on the half `before`
    OUT/rl/<recipe>-seed<k>/        the checkpoint after GRPO, with curve.csv

A stage whose result exists is not run again. Each result appears by a rename, so a unit may be
killed at any moment and run again, here or in another process.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.heldout.examples import load_heldout
from rlready.evaluators.heldout.loss import context_tokens, example_losses, heldout_proxies
from rlready.evaluators.heldout.tokens import tokenize_set
from rlready.evaluators.metrics.proxies import macro_mean, sample_proxies
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.registry.digest import digest
from rlready.registry.foreign_files import parse_json
from rlready.registry.records import Proxy, Sample, Verdict
from rlready.registry.whole_file import replacing
from rlready.testbed.study.recipes import AXES, HEADROOM_BUDGET, search_space
from rlready.testbed.training.grpo import GrpoSettings, grpo
from rlready.testbed.training.sft import SftRecipe, sft
from rlready.testbed.training.train import one_thread
from rlready.testbed.world.benchmarks import benchmarks, write_benchmarks, write_heldout
from rlready.testbed.world.measure import Item, draw_samples, load, protocol
from rlready.testbed.world.puzzles import boxed, reward
from rlready.testbed.world.worlds import FIRST, World, world_of

MEASURE_VERSION = 1
"""Increases when the same checkpoint gives other proxies."""

MEAN = "world"
"""Name of the mean over the benchmarks of the half `before`."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The size of a run of the testbed.

    There are `n_problems` in each benchmark's half `before`, with `n_samples` of each, and
    `n_heldout` examples in each style. GRPO takes its seeds from `rl_seeds`, not from `grpo`.
    """

    n_recipes: int
    n_problems: int
    n_samples: int
    n_heldout: int
    rl_seeds: tuple[int, ...]
    grpo: GrpoSettings = field(default_factory=GrpoSettings)

    @property
    def world(self) -> World:
        """The world of RL, whose skills are taught and measured."""
        return world_of(self.grpo.mix)


OnStage = Callable[[str, float], None]
"""Called with a finished stage and the CPU seconds of this call, 0 if its result existed."""


def sft_folder(out: Path, recipe: SftRecipe) -> Path:
    """Return the folder of the recipe's checkpoint."""
    return out / "sft" / recipe.id


def rl_folder(out: Path, recipe: SftRecipe, seed: int) -> Path:
    """Return the folder of the checkpoint after GRPO."""
    return out / "rl" / f"{recipe.id}-seed{seed}"


def proxies_path(out: Path, name: str) -> Path:
    """Return the file of the proxies of a recipe's checkpoint, or of the base."""
    return out / "proxies" / f"{name}.json"


def run_unit(out: Path, base: Path, recipe: SftRecipe, profile: Profile, on_stage: OnStage) -> None:
    """Run all stages of one recipe whose results are missing."""
    with one_thread():
        begin = time.process_time()
        made = sft(base, recipe, sft_folder(out, recipe))
        on_stage("sft", time.process_time() - begin if made.is_new else 0.0)
        measure_unit(out, made.folder, recipe.id, profile, on_stage)
        for seed in profile.rl_seeds:
            begin = time.process_time()
            settings = dataclasses.replace(profile.grpo, seed=seed)
            result = grpo(made.folder, settings, rl_folder(out, recipe, seed))
            on_stage(f"grpo {seed}", time.process_time() - begin if result.is_new else 0.0)


def measure_unit(out: Path, folder: Path, name: str, profile: Profile, on_stage: OnStage) -> None:
    """Measure one checkpoint and write its proxies, unless they exist."""
    path = proxies_path(out, name)
    begin = time.process_time()
    key = digest([MEASURE_VERSION, profile.n_problems, profile.n_samples, profile.n_heldout])
    if read_proxies(path, key) is None:
        proxies = measure(folder, profile)
        cpu_seconds = time.process_time() - begin
        rows = [dataclasses.asdict(proxy) for proxy in proxies]
        report = {"key": key, "cpu_seconds": cpu_seconds, "proxies": rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
        on_stage("measure", cpu_seconds)
    else:
        on_stage("measure", 0.0)


def read_proxies(path: Path, key: str | None = None) -> tuple[list[Proxy], float] | None:
    """Return the proxies in a file and the CPU seconds that they cost; None if there is no file."""
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if key is not None and report["key"] != key:
        return None
    return [Proxy(**row) for row in report["proxies"]], report["cpu_seconds"]


def measure(folder: Path, profile: Profile) -> list[Proxy]:
    """Return a checkpoint's proxies: per benchmark (half `before`), their means, and losses."""
    model, tokenizer = load(folder)
    drawn_by = protocol()
    sets = benchmarks("before", profile.n_problems, profile.world.skills)
    samples = draw_samples(model, tokenizer, sets, n_samples=profile.n_samples, drawn_by=drawn_by)
    ks = [k for k in (1, 4, 16, 64, 256) if k <= profile.n_samples]
    proxies: list[Proxy] = []
    for name, items in sets.items():
        problems = [_judged(item, samples[item.id]) for item in items]
        computed = sample_proxies(name, content_digest(items), drawn_by.digest, problems, ks)
        assert not computed.notes  # the exact verifier never fails
        proxies += computed.proxies
    proxies += macro_mean(MEAN, proxies)
    return [*proxies, *_losses(model, tokenizer, profile)]


def content_digest(items: Sequence[Item]) -> str:
    """Return the id of a benchmark's problems, the same as that of its file from `write_inputs`."""
    problems = tuple(item.problem() for item in items)
    return Benchmark(name="world", problems=problems, source="testbed").digest


def write_inputs(out: Path, profile: Profile) -> None:
    """Write the inputs of `rlready evaluate` and `rlready search` to OUT/inputs.

    Benchmarks whose answers are numbers in both halves, held-out solutions in each style, the
    prompt template, and the recipes of the smaller budget as a space.
    """
    folder = out / "inputs"
    write_benchmarks(folder, profile.n_problems, profile.world)
    write_heldout(folder, profile.n_heldout, profile.world)
    (folder / "prompt.txt").write_text(protocol().prompt_template + "\n", encoding="utf-8")
    budget = min(AXES["budget"]) if profile.world == FIRST else HEADROOM_BUDGET
    space = search_space(budget, profile.world)
    (folder / "space.toml").write_text(space, encoding="utf-8")


def _losses(model: Any, tokenizer: Any, profile: Profile) -> list[Proxy]:
    with tempfile.TemporaryDirectory() as folder:
        heldout_sets = [
            load_heldout(p) for p in write_heldout(Path(folder), profile.n_heldout, profile.world)
        ]
    proxies: list[Proxy] = []
    for heldout_set in heldout_sets:
        tokens = tokenize_set(heldout_set, tokenizer, "{problem}", context_tokens(model.config))
        losses = example_losses(model, tokens.examples)
        proxies += heldout_proxies(losses, heldout_set.name, tokens.benchmark_digest)
    return proxies


def _judged(item: Item, samples: Sequence[Sample]) -> ProblemSamples:
    """Return samples with the verdicts of the puzzle's own exact verifier."""
    ordered = sorted(samples, key=lambda sample: sample.sample_index)
    return ProblemSamples(
        problem_id=item.id,
        verdicts=[_verdict(item, sample.text) for sample in ordered],
        answers=[boxed(sample.text) for sample in ordered],
        n_tokens=[sample.n_tokens for sample in ordered],
        is_truncated=[sample.finish_reason == "length" for sample in ordered],
        entropy_sums=[sample.entropy_sum for sample in ordered],
    )


def _verdict(item: Item, text: str) -> Verdict:
    if reward(item.puzzle, text):
        return Verdict.CORRECT
    return Verdict.UNPARSED if boxed(text) is None else Verdict.INCORRECT
