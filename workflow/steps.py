"""The stages of an evaluation, joined: the one place that reads, computes and writes to the store.

Each stage leaves a file that a person can open, and finds what an earlier call left:

    weights -> samples (part-*.parquet) -> verdicts (the same parts) -> counts.parquet
    weights -> losses (heldout-*.json)
    counts, samples, losses -> proxies -> store
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.evaluators import problems as benchmarks
from rlready.evaluators.checkpoints import LARGE_BYTES, Weights, open_weights, pick_device
from rlready.evaluators.distribution import ProblemSamples
from rlready.evaluators.heldout import HeldoutSet, load_heldout, parse_heldout_option
from rlready.evaluators.heldout_loss import EVALUATOR_VERSION as LOSS_VERSION
from rlready.evaluators.heldout_loss import heldout_proxies
from rlready.evaluators.loss_files import Losses, read_losses, write_losses
from rlready.evaluators.problems import Benchmark
from rlready.evaluators.prompts import DEFAULT_TEMPLATE, load_template
from rlready.evaluators.proxies import macro_mean, sample_proxies
from rlready.evaluators.sample_files import SampleFolder
from rlready.evaluators.sampling import Draw, Sampler
from rlready.evaluators.verify import Verifier, checker_version
from rlready.registry.digest import default_cache_dir, digest, fingerprint
from rlready.registry.errors import BenchmarkError, ConfigError, StoreError
from rlready.registry.records import (
    Checkpoint,
    CheckpointKind,
    Evaluation,
    Protocol,
    Proxy,
    counts_by_verdict,
)
from rlready.registry.store import Store, StoredEvaluation
from rlready.workflow.config import EvaluateConfig, load_recipe
from rlready.workflow.progress import Clock

_VERIFY_CHUNK = 8192
"""Samples verified before their verdicts are written: what a kill costs at most."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that an evaluation needs to know before it draws anything."""

    config: EvaluateConfig
    weights: Weights
    checkpoint: Checkpoint
    protocol: Protocol
    benchmarks: tuple[Benchmark, ...]
    suite_name: str
    heldout_sets: tuple[HeldoutSet, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found, and where it went."""

    evaluation: Evaluation
    stored: StoredEvaluation
    verdicts: Mapping[str, Mapping[str, int]]
    n_drawn: int
    n_found: int
    stages: Mapping[str, Mapping[str, float | int]]
    warnings: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object: the contract of `rlready evaluate --json`."""
        metrics: dict[str, dict[str, Any]] = {}
        for proxy in self.evaluation.proxies:
            metrics.setdefault(proxy.benchmark, {})[proxy.name] = {
                "value": proxy.value,
                "se": proxy.se,
                **({} if proxy.se_within is None else {"se_within": proxy.se_within}),
            }
        return {
            "checkpoint_id": self.evaluation.checkpoint.id,
            "name": self.evaluation.checkpoint.name,
            "model_id": self.stored.model_id,
            "run_id": self.stored.run_id,
            "evaluation_id": self.stored.evaluation_id,
            "is_new": self.stored.is_new,
            "metrics": metrics,
            "verdicts": {name: dict(counts) for name, counts in self.verdicts.items()},
            "samples": {"drawn": self.n_drawn, "found": self.n_found},
            "stages": {name: dict(stage) for name, stage in self.stages.items()},
            "warnings": list(self.warnings),
        }


def evaluate(config: EvaluateConfig, store: Store, clock: Clock) -> Report:
    """The proxies of one checkpoint, measured and stored.

    Samples, verdicts and losses found in `config.samples_dir` are used; what is missing is made.

    Raises:
        RlreadyError: for any mistake of the user or the environment; what was made so far stays.
    """
    plan = make_plan(config, store, clock)
    return Evaluator(plan, clock).run(store)


def make_plan(config: EvaluateConfig, store: Store, clock: Clock) -> Plan:
    """Everything read and checked, before any expensive work.

    Raises:
        RlreadyError: as `evaluate`.
    """
    weights = open_weights(config.checkpoint)
    _check_device(config.device)
    template = load_template(config.prompt_template) if config.prompt_template else DEFAULT_TEMPLATE
    protocol = Protocol(
        prompt_template=template,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    suite_name, loaded = _load_benchmarks(config)
    heldout_sets = tuple(_load_heldout(option, config.limit) for option in config.held_out)
    _check_names([b.name for b in loaded], [h.name for h in heldout_sets], suite_name)
    checkpoint = _checkpoint(config, weights, store, clock)
    store.check(checkpoint)
    return Plan(
        config=config,
        weights=weights,
        checkpoint=checkpoint,
        protocol=protocol,
        benchmarks=loaded,
        suite_name=suite_name,
        heldout_sets=heldout_sets,
    )


class Evaluator:
    """One evaluation under way.

    Args:
        plan: what to do.
        clock: shows and times it.
    """

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self._plan, self._clock = plan, clock
        self._root = plan.config.samples_dir / plan.checkpoint.id
        self._model: Any = None
        self._tokenizer: Any = None
        self._engine: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._n_drawn = self._n_found = 0
        self._counts: dict[str, Path] = {}
        self._references: dict[str, str] = {}

    def run(self, store: Store) -> Report:
        """Every stage, then the store."""
        plan = self._plan
        proxies: list[Proxy] = []
        verdicts: dict[str, dict[str, int]] = {}
        with Verifier() as verifier:
            self._check_golds(verifier)
            for benchmark in plan.benchmarks:
                problems = self._judged_samples(benchmark, verifier)
                verdicts[benchmark.name] = _count_verdicts(problems)
                proxies += self._proxies(benchmark, problems)
        if len(plan.benchmarks) > 1:
            proxies += macro_mean(plan.suite_name, proxies)
        for heldout_set in plan.heldout_sets:
            proxies += self._heldout_proxies(heldout_set)
        evaluation = Evaluation(
            checkpoint=plan.checkpoint,
            proxies=tuple(proxies),
            config={
                **plan.config.to_dict(),
                "protocol": dataclasses.asdict(plan.protocol),
                "checker": checker_version(),
                "engine_used": self._engine,
            },
            references=self._references,
        )
        with self._clock.stage("logging", "Logging to MLflow", 1, "evaluations") as advance:
            stored = self._put(store, evaluation)
            advance(1)
        return Report(
            evaluation=evaluation,
            stored=stored,
            verdicts=verdicts,
            n_drawn=self._n_drawn,
            n_found=self._n_found,
            stages={name: stage.to_dict() for name, stage in self._clock.stages.items()},
            warnings=self._warnings,
        )

    def _check_golds(self, verifier: Verifier) -> None:
        for benchmark in self._plan.benchmarks:
            try:
                verifier.check_golds(benchmark.problems)
            except BenchmarkError as error:
                what = f"benchmark {benchmark.name}: {error.what}"
                raise BenchmarkError(what, why=error.why, fix=error.fix) from error

    def _judged_samples(self, benchmark: Benchmark, verifier: Verifier) -> list[ProblemSamples]:
        plan, n = self._plan, self._plan.config.samples
        path = self._root / f"{benchmark.digest}-{plan.protocol.digest}"
        folder = SampleFolder(path, [problem.id for problem in benchmark.problems])
        with folder.lock():
            folder.describe(self._about(benchmark))
            self._n_found += self._draw_missing(benchmark, folder)
            self._judge(benchmark, folder, verifier)
            # A part that could be listed may turn out damaged when its texts are read.
            while self._warn_damaged(folder):
                self._draw_missing(benchmark, folder)
                self._judge(benchmark, folder, verifier)
            problems = folder.judged(n)
            self._counts[benchmark.name] = folder.write_counts([p.counts for p in problems])
        self._references[f"samples/{benchmark.name}"] = path.resolve().as_uri()
        return problems

    def _draw_missing(self, benchmark: Benchmark, folder: SampleFolder) -> int:
        """Draw what is not there; returns how many of the samples were there."""
        missing = folder.missing(self._plan.config.samples)
        self._warn_damaged(folder)
        n_missing = sum(map(len, missing.values()))
        n_there = self._plan.config.samples * len(benchmark.problems) - n_missing
        if not missing:
            return n_there
        draws = [
            Draw(problem=problem, sample_indices=missing[problem.id])
            for problem in benchmark.problems
            if problem.id in missing
        ]
        sampler = self._sampler()
        note = f" ({n_there:,} found)" if n_there else ""
        label = f"Sampling {benchmark.name}{note}"
        with self._clock.stage("sampling", label, n_missing, "samples") as advance:
            for samples in sampler.draw(draws, self._plan.protocol, advance):
                folder.add(samples)
                self._n_drawn += len(samples)
        return n_there

    def _judge(self, benchmark: Benchmark, folder: SampleFolder, verifier: Verifier) -> None:
        version = checker_version()
        answers = {problem.id: problem.answers for problem in benchmark.problems}
        total = folder.n_unjudged(version)
        if not total:
            return
        label = f"Verifying {benchmark.name}"
        with self._clock.stage("verification", label, total, "answers") as advance:
            for group in _groups(folder.unjudged(version)):
                items = [(answers[problem], text) for _, rows in group for problem, text in rows]
                checked = iter(verifier.check(items, advance))
                for path, rows in group:
                    own = list(itertools.islice(checked, len(rows)))
                    folder.judge(path, own, version)

    def _proxies(self, benchmark: Benchmark, problems: Sequence[ProblemSamples]) -> list[Proxy]:
        found, undefined = sample_proxies(
            benchmark.name,
            benchmark.digest,
            self._plan.protocol.digest,
            problems,
            self._plan.config.k,
        )
        for error in undefined:
            self._warn(f"left out: {error}")
        return found

    def _heldout_proxies(self, heldout_set: HeldoutSet) -> list[Proxy]:
        losses = self._losses(heldout_set)
        return heldout_proxies(losses.examples, heldout_set.name, losses.benchmark_digest)

    def _losses(self, heldout_set: HeldoutSet) -> Losses:
        """The losses of one held-out set, from disk if an earlier call left them."""
        key = [heldout_set.digest, self._plan.protocol.prompt_template, LOSS_VERSION]
        path = self._root / f"heldout-{digest(key)}.json"
        self._references[f"losses/{heldout_set.name}"] = path.resolve().as_uri()
        losses = read_losses(path)
        if losses is None:
            losses = self._score(heldout_set)
            write_losses(path, losses)
        if losses.n_truncated or losses.n_skipped:
            self._warn(
                f"{heldout_set.name}: {losses.n_truncated} examples were cut at the model's "
                f"context and {losses.n_skipped} left out, because their prompt alone fills it"
            )
        return losses

    def _score(self, heldout_set: HeldoutSet) -> Losses:
        from rlready.evaluators.heldout_loss import context_tokens, example_losses
        from rlready.evaluators.heldout_tokens import tokenize_set

        self._load()
        template = self._plan.protocol.prompt_template
        tokens = tokenize_set(heldout_set, self._tokenizer, template, context_tokens(self._model))
        n_tokens = sum(int(example.is_response.sum()) for example in tokens.examples)
        label = f"Loss on {heldout_set.name}"
        with self._clock.stage("loss", label, len(tokens.examples), "examples") as advance:
            losses = example_losses(
                self._model,
                tokens.examples,
                on_progress=lambda n_so_far: advance(n_so_far - advance.stage.n_done),
            )
            advance(0, n_tokens)
        return Losses(
            benchmark_digest=tokens.benchmark_digest,
            examples=tuple(losses),
            n_truncated=tokens.n_truncated,
            n_skipped=tokens.n_skipped,
        )

    def _sampler(self) -> Sampler:
        from rlready.evaluators.hf_engine import HfSampler

        self._load()
        sampler = HfSampler(self._model, self._tokenizer, self._plan.config.batch_size)
        self._engine = sampler.describe()
        return sampler

    def _load(self) -> None:
        if self._model is not None:
            return
        from rlready.evaluators.checkpoints import load_model, load_tokenizer, pick_dtype

        device = pick_device(self._plan.config.device)
        self._clock.say(f"Loading {self._plan.weights.path} on {device}")
        self._tokenizer = load_tokenizer(self._plan.weights.path)
        self._model = load_model(self._plan.weights.path, device, pick_dtype(device))

    def _put(self, store: Store, evaluation: Evaluation) -> StoredEvaluation:
        artifacts = {f"counts/{name}.parquet": path for name, path in self._counts.items()}
        try:
            return store.put_evaluation(evaluation, artifacts)
        except StoreError as error:
            raise StoreError(
                error.what,
                why=error.why,
                fix=f"Samples, verdicts and losses stay in {self._root}. Mend the registry and "
                "run the same command again: it draws nothing twice and logs what is there",
            ) from error

    def _about(self, benchmark: Benchmark) -> dict[str, Any]:
        plan = self._plan
        return {
            "checkpoint": {
                "id": plan.checkpoint.id,
                "name": plan.checkpoint.name,
                "uri": plan.checkpoint.uri,
            },
            "benchmark": {
                "name": benchmark.name,
                "digest": benchmark.digest,
                "source": benchmark.source,
            },
            "protocol": dataclasses.asdict(plan.protocol),
        }

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._clock.warn(text)

    def _warn_damaged(self, folder: SampleFolder) -> bool:
        """Tell of parts that were set aside since the last call; whether there were any."""
        damaged = folder.set_aside.copy()
        folder.set_aside.clear()
        for path in damaged:
            self._warn(f"{path.name} is damaged and was set aside; its samples are drawn again")
        return bool(damaged)


def _check_device(device: str) -> None:
    """Return if torch is installed and has this device.

    Raises:
        ConfigError: if the packages for running a model are not installed.
        CheckpointError: if the device is not there.
    """
    try:
        pick_device(device)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"running a checkpoint needs {error.name}, which is not installed",
            fix="pip install 'rlready[local]'",
        ) from error


def _load_benchmarks(config: EvaluateConfig) -> tuple[str, tuple[Benchmark, ...]]:
    """The suite's name and its benchmarks, with those named alone added or put in place."""
    sources = [benchmarks.parse_benchmark_option(option) for option in config.benchmarks]
    if config.suite is not None:
        suite = benchmarks.override(benchmarks.load_suite(config.suite), sources)
        name, sources = suite.name, list(suite.sources)
    else:
        name = "mean"
    loaded = [benchmarks.load_benchmark(source) for source in sources]
    if config.limit is not None:
        loaded = [_first(benchmark, config.limit) for benchmark in loaded]
    return name, tuple(loaded)


def _first(benchmark: Benchmark, n: int) -> Benchmark:
    # Under a name of its own: a value on 100 problems must not be read as one on the benchmark.
    if n >= len(benchmark.problems):
        return benchmark
    return dataclasses.replace(benchmark.limit(n), name=f"{benchmark.name}-first{n}")


def _load_heldout(option: str, limit: int | None) -> HeldoutSet:
    name, path = parse_heldout_option(option)
    heldout_set = load_heldout(path, name)
    if limit is None or limit >= len(heldout_set.examples):
        return heldout_set
    return dataclasses.replace(heldout_set.limit(limit), name=f"{name}-first{limit}")


def _check_names(names: Sequence[str], heldout: Sequence[str], suite_name: str) -> None:
    every = [*names, *heldout, *([suite_name] if len(names) > 1 else [])]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{', '.join(twice)} is the name of more than one benchmark, held-out set or suite",
            why="their values would be mixed up",
            fix="Give each its own: --benchmark NAME=FILE, --held-out NAME=FILE",
        )


def _checkpoint(config: EvaluateConfig, weights: Weights, store: Store, clock: Clock) -> Checkpoint:
    size = sum(path.stat().st_size for path in weights.path.glob("*.safetensors"))
    if size > LARGE_BYTES:
        clock.say(f"Reading {size / 1e9:.1f} GB of weights for their fingerprint (once)")
    content = fingerprint(weights.path, default_cache_dir())
    return Checkpoint(
        uri=weights.uri,
        fingerprint=content,
        name=config.name or weights.name,
        kind=config.kind or _known_kind(store, content),
        step=config.step,
        recipe=load_recipe(config.recipe) if config.recipe else None,
        parents=tuple(store.find(parent).checkpoint.id for parent in config.parents),
    )


def _known_kind(store: Store, checkpoint_id: str) -> CheckpointKind:
    """What the registry says of these weights, else sft."""
    known = [s for s in store.checkpoints() if s.checkpoint.id == checkpoint_id]
    return known[0].checkpoint.kind if known else "sft"


def _groups(
    parts: Iterable[tuple[Path, list[tuple[str, str]]]],
) -> Iterator[list[tuple[Path, list[tuple[str, str]]]]]:
    """The parts in groups of about `_VERIFY_CHUNK` samples."""
    group: list[tuple[Path, list[tuple[str, str]]]] = []
    for part in parts:
        group.append(part)
        if sum(len(rows) for _, rows in group) >= _VERIFY_CHUNK:
            yield group
            group = []
    if group:
        yield group


def _count_verdicts(problems: Sequence[ProblemSamples]) -> dict[str, int]:
    return counts_by_verdict([v for problem in problems for v in problem.verdicts])
