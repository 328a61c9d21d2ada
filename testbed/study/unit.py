"""One recipe of the testbed through all of its stages, each a result that is found again.

    OUT/sft/<recipe>/               the checkpoint
    OUT/proxies/<recipe>.json       its proxies, on the half `before`
    OUT/rl/<recipe>-seed<k>/        the checkpoint after GRPO, with curve.csv

A stage that is there is not made again, and each appears by a rename, so a unit may be killed at
any moment and run again, here or in another process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.heldout.examples import load_heldout
from rlready.evaluators.metrics.proxies import macro_mean, sample_proxies
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw
from rlready.registry.digest import digest
from rlready.registry.foreign_files import parse_json
from rlready.registry.records import Proxy, Sample, Verdict
from rlready.testbed.study.recipes import AXES, search_space
from rlready.testbed.training.grpo import GrpoSettings, grpo
from rlready.testbed.training.sft import SftRecipe, sft
from rlready.testbed.training.train import one_thread
from rlready.testbed.world.benchmarks import benchmarks, write_benchmarks, write_heldout
from rlready.testbed.world.measure import Item, load, protocol
from rlready.testbed.world.puzzles import boxed, reward

MEASURE_VERSION = 1
"""Rises when the same checkpoint gives other proxies."""

MEAN = "world"
"""Name of the mean over the benchmarks of the half `before`."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How large a run of the testbed is.

    Args:
        n_recipes: of the design.
        n_problems: of each benchmark's half `before`.
        n_samples: of each of them.
        n_heldout: held-out examples in each style; the same for every recipe.
        rl_seeds: of GRPO.
        grpo: settings of GRPO, without the seed.
    """

    n_recipes: int
    n_problems: int
    n_samples: int
    n_heldout: int
    rl_seeds: tuple[int, ...]
    grpo: GrpoSettings = field(default_factory=GrpoSettings)

    def to_dict(self) -> dict[str, Any]:
        """The profile as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """What `to_dict` gave."""
        settings = dict(values["grpo"])
        settings["budgets"] = tuple(settings["budgets"])
        return cls(
            **{
                **values,
                "rl_seeds": tuple(values["rl_seeds"]),
                "grpo": GrpoSettings(**settings),
            }
        )


OnStage = Callable[[str, float], None]
"""Called with a finished stage and the CPU seconds that it took now, 0 if it was there."""


def sft_folder(out: Path, recipe: SftRecipe) -> Path:
    """Where the recipe's checkpoint is."""
    return out / "sft" / recipe.id


def rl_folder(out: Path, recipe: SftRecipe, seed: int) -> Path:
    """Where the checkpoint after GRPO is."""
    return out / "rl" / f"{recipe.id}-seed{seed}"


def proxies_path(out: Path, name: str) -> Path:
    """Where the proxies of a recipe's checkpoint, or of the base, are."""
    return out / "proxies" / f"{name}.json"


def run_unit(out: Path, base: Path, recipe: SftRecipe, profile: Profile, on_stage: OnStage) -> None:
    """Everything of one recipe that is not there yet."""
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
    """The proxies of one checkpoint, written if they are not there."""
    path = proxies_path(out, name)
    begin = time.process_time()
    key = digest([MEASURE_VERSION, profile.n_problems, profile.n_samples, profile.n_heldout])
    if read_proxies(path, key) is None:
        proxies = measure(folder, profile)
        cpu_seconds = time.process_time() - begin
        rows = [dataclasses.asdict(proxy) for proxy in proxies]
        report = {"key": key, "cpu_seconds": cpu_seconds, "proxies": rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
        temporary.replace(path)
        on_stage("measure", cpu_seconds)
    else:
        on_stage("measure", 0.0)


def read_proxies(path: Path, key: str | None = None) -> tuple[list[Proxy], float] | None:
    """Proxies in a file and the CPU seconds that they cost; None if they are not there."""
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if key is not None and report["key"] != key:
        return None
    return [Proxy(**row) for row in report["proxies"]], report["cpu_seconds"]


def measure(folder: Path, profile: Profile) -> list[Proxy]:
    """The proxies of a checkpoint: on each benchmark's half `before`, their mean, and losses."""
    model, tokenizer = load(folder)
    drawn_by = protocol()
    sets = benchmarks("before", profile.n_problems)
    items = {item.id: item for own in sets.values() for item in own}
    indices = tuple(range(profile.n_samples))
    draws = [Draw(problem=item.problem(), sample_indices=indices) for item in items.values()]
    samples: dict[str, list[Sample]] = {key: [] for key in items}
    for part in HfSampler(model, tokenizer).draw(draws, drawn_by):
        for sample in part:
            samples[sample.problem_id].append(sample)
    ks = [k for k in (1, 4, 16, 64, 256) if k <= profile.n_samples]
    proxies: list[Proxy] = []
    for name, own in sets.items():
        problems = [_judged(item, samples[item.id]) for item in own]
        found = sample_proxies(name, content_digest(own), drawn_by.digest, problems, ks)
        assert not found.notes  # the exact verifier never fails
        proxies += found.proxies
    proxies += macro_mean(MEAN, proxies)
    return [*proxies, *_losses(model, tokenizer, profile)]


def content_digest(items: Sequence[Item]) -> str:
    """Id of a benchmark's problems; that of its file, where `write_inputs` makes one."""
    problems = tuple(item.problem() for item in items)
    return Benchmark(name="world", problems=problems, source="testbed").digest


def write_inputs(out: Path, profile: Profile) -> None:
    """Write what `rlready evaluate` and `rlready search` take: OUT/inputs.

    Benchmarks whose answers are numbers in both halves, held-out solutions in each style, the
    prompt template, and the recipes of the smaller budget as a space.
    """
    folder = out / "inputs"
    write_benchmarks(folder, profile.n_problems)
    write_heldout(folder, profile.n_heldout)
    (folder / "prompt.txt").write_text(protocol().prompt_template + "\n", encoding="utf-8")
    space = search_space(min(AXES["budget"]))
    (folder / "space.toml").write_text(space, encoding="utf-8")


def _losses(model: Any, tokenizer: Any, profile: Profile) -> list[Proxy]:
    from rlready.evaluators.heldout.loss import context_tokens, example_losses, heldout_proxies
    from rlready.evaluators.heldout.tokens import tokenize_set

    with tempfile.TemporaryDirectory() as folder:
        paths = write_heldout(Path(folder), profile.n_heldout)
        heldout_sets = [load_heldout(path) for path in paths]
    proxies: list[Proxy] = []
    for heldout_set in heldout_sets:
        tokens = tokenize_set(heldout_set, tokenizer, "{problem}", context_tokens(model.config))
        losses = example_losses(model, tokens.examples)
        proxies += heldout_proxies(losses, heldout_set.name, tokens.benchmark_digest)
    return proxies


def _judged(item: Item, samples: Sequence[Sample]) -> ProblemSamples:
    """Samples with the verdicts of the puzzle's own exact verifier."""
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
