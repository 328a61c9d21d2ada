"""An evaluation, from the weights of a checkpoint to stored proxies.

Each stage writes a file that people can open, and reuses the files of earlier calls:

    weights -> samples (part-*.parquet) -> verdicts (the same parts) -> counts.parquet
    weights -> losses (token-nll-*.npz, heldout-*.json)
    counts, samples, losses -> proxies -> store
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.heldout.examples import HeldoutSet
from rlready.evaluators.heldout.loss import context_tokens, heldout_proxies, summed
from rlready.evaluators.heldout.loss_files import Losses, losses_path, read_losses, write_losses
from rlready.evaluators.heldout.tokens import TokenizedSet, tokenize_set
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.metrics.proxies import macro_mean, mostly_unmeasured, sample_proxies
from rlready.evaluators.metrics.sample_metrics import ProblemSamples, token_entropy
from rlready.evaluators.sampling.entropy import SAMPLES_PER_PROBLEM, entropy_sums
from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.sampling.sample_requests import longest_request
from rlready.evaluators.sampling.sampler import Draw, Sampler
from rlready.evaluators.verification.accepted_answers import accepted_answers
from rlready.evaluators.verification.verifier import Verifier, checker_version
from rlready.registry.errors import StoreError
from rlready.registry.records import (
    Evaluation,
    Proxy,
    counts_by_verdict,
)
from rlready.registry.store import Store, StoredEvaluation
from rlready.workflow.evaluate.adaptive import AdaptiveRounds, even_part
from rlready.workflow.evaluate.against_base import BaseComparison, weight_proxies
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engines import LocalModel, Shared, loss_dtype, open_sampler
from rlready.workflow.evaluate.inputs import (
    EvaluationInputs,
    read_inputs,
    with_base_as_parent,
    with_readable_golds,
)
from rlready.workflow.evaluate.judging import LENIENT, Judging, answer_formats, judge_rest
from rlready.workflow.evaluate.report import Report
from rlready.workflow.progress import Clock


def evaluate_checkpoint(
    config: EvaluateConfig, store: Store, clock: Clock, shared: Shared | None = None
) -> Report:
    """Measure one checkpoint and store its proxies.

    Samples, verdicts and losses in `config.samples_dir` are reused; only missing ones are made.

    Args:
        config: what to measure, and how.
        store: the registry.
        clock: shows and times the stages.
        shared: keeps the model in memory for the next evaluation.

    Example:
        config = EvaluateConfig(checkpoint="runs/sft-3", held_out=("val.jsonl",))
        report = evaluate_checkpoint(config, MlflowStore("sqlite:///mlflow.db"), Clock())
        print(report.to_dict()["metrics"])

    Raises:
        RlreadyError: for any mistake of the user or the environment; finished work is kept.
    """
    evaluator = prepare(config, store, clock, shared or Shared())
    evaluator.draw(store)
    return evaluator.finish(store)


def prepare(config: EvaluateConfig, store: Store, clock: Clock, shared: Shared) -> Evaluator:
    """Return the evaluation of a checkpoint after all checks, with that of its base model."""
    inputs = read_inputs(config, store, clock)
    base = None if inputs.base is None else Evaluator(inputs.base, clock, shared)
    return Evaluator(inputs, clock, shared, base)


class Evaluator:
    """One evaluation, in two steps: `draw`, then `finish`.

    Args:
        inputs: the checkpoint, the problems and the protocol.
        clock: shows and times the stages.
        shared: the model in memory, and the engine if it is shared.
        base: the evaluation of the base model, with which the checkpoint is compared.
    """

    def __init__(
        self,
        inputs: EvaluationInputs,
        clock: Clock,
        shared: Shared,
        base: Evaluator | None = None,
    ) -> None:
        self._inputs, self._clock, self._base, self._shared = inputs, clock, base, shared
        config = inputs.config
        self._root = config.samples_dir / inputs.checkpoint.id
        self.local = LocalModel(
            inputs.weights,
            config.device,
            clock,
            loss_dtype(config),
            merge=config.merge,
            shared=shared,
        )
        """The checkpoint's weights on this machine."""
        self._open_sampler: Sampler | None = None
        self._engine: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._n_drawn = self._n_found = 0
        self._drawn: list[list[ProblemSamples]] = []
        self._is_finished = False
        self.counts: dict[str, list[ProblemCounts]] = {}
        """Counts of correct samples, by the name of the benchmark."""
        self._bounds: dict[str, dict[str, dict[str, float | int]]] = {}
        self._count_files: dict[str, Path] = {}
        self._references: dict[str, str] = {}
        self._adaptive: dict[str, AdaptiveRounds] = {}

    def draw(self, store: Store) -> None:
        """Draw and judge the samples, after those of the base model."""
        if self._base is not None:
            self._clock.say(f"The base model first: {self._base._inputs.checkpoint.name}")
            self._base.draw(store)
            # A shared engine holds the device until all checkpoints are drawn.
            if not self._shared.has_engine:
                self._finish_base(store)
        for text in self._inputs.weights.warnings():
            self._warn(text)
        try:
            with Verifier() as verifier:
                inputs = self._inputs = with_readable_golds(self._inputs, verifier, self._warn)
                self._drawn += [self.judged_samples(b, verifier) for b in inputs.benchmarks]
        finally:
            # The next stages may need the device that the engine holds.
            self.close()

    def close(self) -> None:
        """Close the engine, unless it is shared; a later draw starts it again."""
        if self._open_sampler is not None:
            self._shared.put_back(self._open_sampler)
            self._open_sampler = None

    def finish(self, store: Store) -> Report:
        """Compute the other proxies, and store all of them."""
        self._finish_base(store)
        inputs = self._inputs = with_base_as_parent(self._inputs, store)
        judged = self._drawn
        proxies: list[Proxy] = []
        for benchmark, problems in zip(inputs.benchmarks, judged, strict=True):
            proxies += self._proxies(benchmark, self._with_entropy(benchmark, problems))
        verdicts = {
            benchmark.name: counts_by_verdict([v for problem in problems for v in problem.verdicts])
            for benchmark, problems in zip(inputs.benchmarks, judged, strict=True)
        }
        if len(inputs.benchmarks) > 1:
            proxies += macro_mean(inputs.suite_name, proxies)
        for heldout_set in inputs.heldout_sets:
            proxies += self._heldout_proxies(heldout_set)
        proxies += self._base_proxies()
        losses = {"losses": self.local.precision.to_dict()} if inputs.heldout_sets else {}
        evaluation = Evaluation(
            checkpoint=inputs.checkpoint,
            proxies=tuple(proxies),
            config=inputs.resolved_config({**self._engine, **losses}),
            references=self._references,
        )
        with self._clock.stage("logging", "Logging to MLflow", 1, "evaluations") as advance:
            stored = self._put(store, evaluation)
            advance(1)
        self._is_finished = True
        return Report(
            evaluation=evaluation,
            stored=stored,
            verdicts=verdicts,
            n_drawn=self._n_drawn,
            n_found=self._n_found,
            stages={name: stage.to_dict() for name, stage in self._clock.stages.items()},
            bounds=self._bounds,
            warnings=self._warnings,
        )

    def _finish_base(self, store: Store) -> None:
        if self._base is not None and not self._base._is_finished:
            self._base.finish(store)

    def judged_samples(self, benchmark: Benchmark, verifier: Verifier) -> list[ProblemSamples]:
        """Return all samples of a benchmark with their verdicts; missing ones are drawn."""
        inputs = self._inputs
        folder = self.folder(benchmark)
        waiting = f"Another process works on {benchmark.name} of this checkpoint; waiting"
        with folder.lock(lambda: self._clock.say(waiting)):
            folder.describe(self._about(benchmark))
            if inputs.config.adaptive:
                problems = self._adaptive_samples(benchmark, folder, verifier)
            else:
                n_wanted = dict.fromkeys((p.id for p in benchmark.problems), inputs.config.samples)
                problems = self._complete(benchmark, folder, verifier, n_wanted)
            counts = [problem.counts for problem in problems]
            self.counts[benchmark.name] = counts
            answer_format = inputs.protocol_of(benchmark).answer_format
            self._count_files[benchmark.name] = folder.write_counts(counts, answer_format)
        self._references[f"samples/{benchmark.name}"] = folder.path.resolve().as_uri()
        return problems

    def folder(self, benchmark: Benchmark) -> SampleFolder:
        """Return the folder of the samples of a benchmark."""
        path = self._root / f"{benchmark.digest}-{self._inputs.protocol.draws_digest}"
        return SampleFolder(path, [problem.id for problem in benchmark.problems])

    def _with_entropy(
        self, benchmark: Benchmark, problems: list[ProblemSamples]
    ) -> list[ProblemSamples]:
        """Add the entropy of a few samples if the engine gave none.

        This is only done if the weights are loaded for a held-out loss anyway.
        """
        inputs = self._inputs
        if not inputs.heldout_sets or token_entropy(problems) is not None:
            return problems
        folder = self.folder(benchmark)
        with folder.lock():
            missing = folder.without_entropy(SAMPLES_PER_PROBLEM)
            label = f"Entropy on {benchmark.name}"
            with self._clock.stage("entropy", label, len(missing), "samples") as advance:
                sums = entropy_sums(
                    self.local.model,
                    self.local.tokenizer,
                    inputs.protocol.prompt_template,
                    {problem.id: problem.text for problem in benchmark.problems},
                    missing,
                    on_progress=advance.to,
                )
            folder.add_entropies(sums)
            return self._judged(
                benchmark, folder, {p.problem_id: len(p.verdicts) for p in problems}
            )

    def _judged(
        self, benchmark: Benchmark, folder: SampleFolder, n_wanted: Mapping[str, int]
    ) -> list[ProblemSamples]:
        """Return `n_wanted` samples of each problem with their strict and lenient verdicts."""
        return folder.judged(n_wanted, self._inputs.protocol_of(benchmark).answer_format, LENIENT)

    def _complete(
        self,
        benchmark: Benchmark,
        folder: SampleFolder,
        verifier: Verifier,
        n_wanted: Mapping[str, int],
    ) -> list[ProblemSamples]:
        """Return `n_wanted` judged samples of each problem; missing ones are drawn."""
        self._n_found += self._draw_missing(benchmark, folder, verifier, n_wanted)
        self._judge(benchmark, folder, verifier)
        # A damaged part may only be noticed when its texts are read.
        while self._warn_damaged(folder):
            self._draw_missing(benchmark, folder, verifier, n_wanted)
            self._judge(benchmark, folder, verifier)
        return self._judged(benchmark, folder, n_wanted)

    def _adaptive_samples(
        self, benchmark: Benchmark, folder: SampleFolder, verifier: Verifier
    ) -> list[ProblemSamples]:
        """Draw and judge samples in rounds, until pass@k is certain enough."""
        answer_format = self._inputs.protocol_of(benchmark).answer_format
        rounds = AdaptiveRounds(
            self._inputs.config, benchmark, folder.path, self._warn, answer_format
        )
        self._clock.say(f"{benchmark.name}: {rounds.history}")
        self._adaptive[benchmark.name] = rounds
        n_wanted = folder.n_stored()
        # Count only samples that existed before this call, not those of its own earlier rounds.
        n_found = self._n_found + sum(n_wanted.values())
        while True:
            problems = self._complete(benchmark, folder, verifier, n_wanted)
            n_extra = rounds.next_samples(problems)
            if not any(n_extra.values()):
                self._n_found = n_found
                return problems
            n_wanted = {problem: n + n_extra[problem] for problem, n in n_wanted.items()}

    def _draw_missing(
        self,
        benchmark: Benchmark,
        folder: SampleFolder,
        verifier: Verifier,
        n_wanted: Mapping[str, int],
    ) -> int:
        """Draw and judge missing samples; return how many of the wanted ones existed."""
        missing = folder.missing(n_wanted)
        self._warn_damaged(folder)
        n_missing = sum(map(len, missing.values()))
        n_existing = sum(n_wanted.values()) - n_missing
        if not missing:
            return n_existing
        draws = [
            Draw(problem=problem, sample_indices=missing[problem.id])
            for problem in benchmark.problems
            if problem.id in missing
        ]
        sampler = self._sampler()
        answers = {problem.id: accepted_answers(problem) for problem in benchmark.problems}
        note = f" ({n_existing:,} found)" if n_existing else ""
        label = f"Sampling {benchmark.name}{note}"
        formats = answer_formats(self._inputs.protocol_of(benchmark).answer_format)
        with Judging(folder, verifier, answers, formats) as judging:
            with self._clock.stage("sampling", label, n_missing, "samples") as advance:
                for samples in sampler.draw(draws, self._inputs.protocol, advance):
                    judging.add(folder.add(samples), samples)
                    self._n_drawn += len(samples)
            # Most verdicts were ready before the last sample; wait for the others.
            beside_s = max(0.0, judging.busy_s - judging.waited_s)
            self._clock.beside("verification", beside_s, judging.n_judged)
            self._clock.stages["verification"].seconds += judging.waited_s
            label = f"Verifying {benchmark.name}"
            with self._clock.stage("verification", label, judging.n_left, "answers") as advance:
                judging.finish(advance)
        return n_existing

    def _judge(self, benchmark: Benchmark, folder: SampleFolder, verifier: Verifier) -> None:
        """Judge the samples on disk that have no verdict of this checker."""
        formats = answer_formats(self._inputs.protocol_of(benchmark).answer_format)
        answers = {problem.id: accepted_answers(problem) for problem in benchmark.problems}
        total = folder.n_unjudged(checker_version(), formats)
        if not total:
            return
        label = f"Verifying {benchmark.name}"
        with self._clock.stage("verification", label, total, "answers") as advance:
            judge_rest(folder, verifier, answers, formats, advance)

    def _proxies(self, benchmark: Benchmark, problems: Sequence[ProblemSamples]) -> list[Proxy]:
        protocol_digest, ks = self._inputs.protocol_of(benchmark).digest, self._inputs.config.k
        rounds = self._adaptive.get(benchmark.name)
        estimates: list[Proxy] = []
        if rounds is not None:
            estimates = rounds.proxies(problems, protocol_digest)
            problems = even_part(problems)
            ks = tuple(k for k in ks if k <= len(problems[0].verdicts))
        result = sample_proxies(benchmark.name, benchmark.digest, protocol_digest, problems, ks)
        max_tokens = self._inputs.protocol.max_tokens
        for text in (*result.notes, *mostly_unmeasured(result.proxies, max_tokens)):
            self._warn(text)
        if result.bounds:
            self._bounds[benchmark.name] = result.bounds
        return [*result.proxies, *estimates]

    def _base_proxies(self) -> list[Proxy]:
        """Return the proxies that need the base model."""
        if self._inputs.base_record is None:
            return []
        proxies = weight_proxies(self._inputs, self._clock, self._warn)
        if self._base is None:
            return proxies  # the base model of an adapter is known, but it was not evaluated
        comparison = BaseComparison(self._inputs, self._base.counts, self._base.local, self._warn)
        proxies = comparison.coverage_proxies(self.counts) + proxies
        tokenized_sets = [self._tokens(heldout_set) for heldout_set in self._inputs.heldout_sets]
        losses = [
            self.local.scored_tokens(self._root, tokens, self._warn) for tokens in tokenized_sets
        ]
        precision = self.local.precision.digest
        for tokens, nlls in zip(tokenized_sets, losses, strict=True):
            proxies += comparison.off_policy_proxies(tokens, nlls, precision)
        return proxies

    def _heldout_proxies(self, heldout_set: HeldoutSet) -> list[Proxy]:
        """Return the proxies of one held-out set; its losses are computed only once."""
        template, precision = self._inputs.protocol.prompt_template, self.local.precision.digest
        path = losses_path(self._root, heldout_set.digest, template, precision)
        self._references[f"losses/{heldout_set.name}"] = path.resolve().as_uri()
        losses = read_losses(path, self._warn)
        if losses is None:
            tokens = self._tokens(heldout_set)
            nlls = self.local.scored_tokens(self._root, tokens, self._warn)
            losses = Losses(
                benchmark_digest=tokens.benchmark_digest,
                examples=tuple(summed(tokens.examples, nlls)),
                n_truncated=tokens.n_truncated,
                n_skipped=tokens.n_skipped,
                n_turn_bytes=tokens.n_turn_bytes,
                n_cut_bytes=tokens.n_cut_bytes,
            )
            write_losses(path, losses)
        for warning in losses.warnings(heldout_set.name):
            self._warn(warning)
        return heldout_proxies(
            losses.examples, heldout_set.name, losses.benchmark_digest, precision
        )

    def _tokens(self, heldout_set: HeldoutSet) -> TokenizedSet:
        limit = context_tokens(self.local.config)
        template = self._inputs.protocol.prompt_template
        return tokenize_set(heldout_set, self.local.tokenizer, template, limit)

    def _sampler(self) -> Sampler:
        if self._open_sampler is None:
            needs = self._inputs.config, self.local, self._longest_request, self._root / "vllm.log"
            self._open_sampler = self._shared.sampler(*needs) or open_sampler(*needs)
            self._engine = self._open_sampler.describe()
        return self._open_sampler

    def _longest_request(self) -> int:
        """Return the largest number of tokens of a prompt with its sample, of all benchmarks."""
        problems = [p for benchmark in self._inputs.benchmarks for p in benchmark.problems]
        return longest_request(problems, self._inputs.protocol, self.local.tokenizer)

    def _put(self, store: Store, evaluation: Evaluation) -> StoredEvaluation:
        artifacts = {f"counts/{name}.parquet": path for name, path in self._count_files.items()}
        try:
            return store.put_evaluation(evaluation, artifacts)
        except StoreError as error:
            raise StoreError(
                error.what,
                why=error.why,
                fix=f"Samples, verdicts and losses are kept in {self._root}. Repair the registry "
                "and repeat the command: it draws nothing twice and logs the existing results",
            ) from error

    def _about(self, benchmark: Benchmark) -> dict[str, Any]:
        checkpoint, protocol = self._inputs.checkpoint, self._inputs.protocol
        return {
            "checkpoint": {name: getattr(checkpoint, name) for name in ("id", "name", "uri")},
            "benchmark": {name: getattr(benchmark, name) for name in ("name", "digest", "source")},
            "protocol": dataclasses.replace(protocol, answer_format="boxed").to_dict(),
        }

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._clock.warn(text)

    def _warn_damaged(self, folder: SampleFolder) -> bool:
        """Warn of parts that were set aside since the last call; return whether there were any."""
        damaged = folder.set_aside.copy()
        folder.set_aside.clear()
        for path in damaged:
            self._warn(f"{path.name} is damaged and was set aside; its samples are drawn again")
        return bool(damaged)
