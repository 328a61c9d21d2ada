"""The stages of an evaluation, joined: the one place that reads, computes and writes to the store.

Each stage leaves a file that a person can open, and finds what an earlier call left:

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
from rlready.evaluators.heldout.loss import heldout_proxies
from rlready.evaluators.heldout.loss_files import Losses, losses_path, read_losses, write_losses
from rlready.evaluators.heldout.tokens import TokenizedSet
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.metrics.proxies import macro_mean, mostly_unmeasured, sample_proxies
from rlready.evaluators.metrics.sample_metrics import ProblemSamples, token_entropy
from rlready.evaluators.sampling.sample_files import SampleFolder
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
from rlready.workflow.evaluate.against_base import BaseRelative, Counts, Measured
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engines import LocalModel, loss_dtype, open_sampler
from rlready.workflow.evaluate.golds import with_readable_golds
from rlready.workflow.evaluate.inputs import Plan, make_plan, with_base_as_parent
from rlready.workflow.evaluate.judging import LENIENT, Judging, answer_formats, judge_rest
from rlready.workflow.evaluate.report import Report
from rlready.workflow.evaluate.token_losses import scored_tokens
from rlready.workflow.progress import Clock


def evaluate_checkpoint(config: EvaluateConfig, store: Store, clock: Clock) -> Report:
    """The proxies of one checkpoint, measured and stored.

    Samples, verdicts and losses found in `config.samples_dir` are used; what is missing is made.

    Raises:
        RlreadyError: for any mistake of the user or the environment; what was made so far stays.
    """
    plan = make_plan(config, store, clock)
    base_plan, base = plan.base, None
    if base_plan is not None:
        clock.say(f"The base model first: {base_plan.checkpoint.name}")
        evaluator = Evaluator(base_plan, clock)
        evaluator.run(store)
        plan = with_base_as_parent(plan, store)
        base = _against(plan, base_plan, evaluator.counts, clock)
    return Evaluator(plan, clock, base).run(store)


def _against(plan: Plan, base: Plan, base_counts: Counts, clock: Clock) -> BaseRelative:
    return BaseRelative(
        checkpoint=plan.checkpoint,
        own=plan.weights,
        base=base.checkpoint,
        base_weights=base.weights,
        base_counts=base_counts,
        samples_dir=plan.config.samples_dir,
        device=plan.config.device,
        dtype=loss_dtype(plan.config),
        clock=clock,
    )


class Evaluator:
    """One evaluation under way.

    Args:
        plan: what to do.
        clock: shows and times it.
        base: what compares the checkpoint with its base model.
    """

    def __init__(self, plan: Plan, clock: Clock, base: BaseRelative | None = None) -> None:
        self._plan, self._clock, self._base = plan, clock, base
        self._root = plan.config.samples_dir / plan.checkpoint.id
        dtype = loss_dtype(plan.config)
        self._local = LocalModel(plan.weights.path, plan.config.device, clock, dtype)
        self._open_sampler: Sampler | None = None
        self._engine: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._n_drawn = self._n_found = 0
        self.counts: dict[str, list[ProblemCounts]] = {}
        """What the samples gave so far, by the benchmark's name."""
        self._bounds: dict[str, dict[str, dict[str, float | int]]] = {}
        self._count_files: dict[str, Path] = {}
        self._references: dict[str, str] = {}
        self._adaptive: dict[str, AdaptiveRounds] = {}

    def run(self, store: Store) -> Report:
        """Every stage, then the store."""
        plan = self._plan
        for text in plan.weights.warnings():
            self._warn(text)
        judged: list[list[ProblemSamples]] = []
        try:
            with Verifier() as verifier:
                plan = self._plan = with_readable_golds(plan, verifier, self._warn)
                judged += [self._judged_samples(b, verifier) for b in plan.benchmarks]
        finally:
            # What comes next may need the device that the engine holds.
            self._close_sampler()
        proxies: list[Proxy] = []
        for benchmark, problems in zip(plan.benchmarks, judged, strict=True):
            proxies += self._proxies(benchmark, self._with_entropy(benchmark, problems))
        verdicts = {
            benchmark.name: _count_verdicts(problems)
            for benchmark, problems in zip(plan.benchmarks, judged, strict=True)
        }
        if len(plan.benchmarks) > 1:
            proxies += macro_mean(plan.suite_name, proxies)
        for heldout_set in plan.heldout_sets:
            proxies += self._heldout_proxies(heldout_set)
        proxies += self._base_proxies()
        evaluation = Evaluation(
            checkpoint=plan.checkpoint,
            proxies=tuple(proxies),
            config={
                **plan.config.to_dict(),
                "protocol": plan.protocol.to_dict(),
                **self._answer_formats(),
                "checker": checker_version(),
                "engine_used": {**self._engine, **self._loss_engine()},
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
            bounds=self._bounds,
            warnings=self._warnings,
        )

    def _answer_formats(self) -> dict[str, Any]:
        """The answer formats of the benchmarks that have one of their own, for the record."""
        own = {b.name: b.answer_format for b in self._plan.benchmarks if b.answer_format}
        return {"answer_formats": own} if own else {}

    def _judged_samples(self, benchmark: Benchmark, verifier: Verifier) -> list[ProblemSamples]:
        plan = self._plan
        folder = self._folder(benchmark)
        waiting = f"Another process is at work on {benchmark.name} of this checkpoint; waiting"
        with folder.lock(lambda: self._clock.say(waiting)):
            folder.describe(self._about(benchmark))
            if plan.config.adaptive:
                problems = self._adaptive_samples(benchmark, folder, verifier)
            else:
                wanted = dict.fromkeys((p.id for p in benchmark.problems), plan.config.samples)
                problems = self._complete(benchmark, folder, verifier, wanted)
            counts = [problem.counts for problem in problems]
            self.counts[benchmark.name] = counts
            asked = self._plan.protocol_of(benchmark).answer_format
            self._count_files[benchmark.name] = folder.write_counts(counts, asked)
        self._references[f"samples/{benchmark.name}"] = folder.path.resolve().as_uri()
        return problems

    def _folder(self, benchmark: Benchmark) -> SampleFolder:
        path = self._root / f"{benchmark.digest}-{self._plan.protocol.draws_digest}"
        return SampleFolder(path, [problem.id for problem in benchmark.problems])

    def _with_entropy(
        self, benchmark: Benchmark, problems: list[ProblemSamples]
    ) -> list[ProblemSamples]:
        """The same with the entropy of a few samples, if the engine gave none.

        Only where the weights are loaded for a held-out loss anyway.
        """
        plan = self._plan
        if not plan.heldout_sets or token_entropy(problems) is not None:
            return problems
        from rlready.evaluators.sampling.entropy import SAMPLES_PER_PROBLEM, entropy_sums

        folder = self._folder(benchmark)
        with folder.lock():
            missing = folder.without_entropy(SAMPLES_PER_PROBLEM)
            model, tokenizer = self._local.model, self._local.tokenizer
            label = f"Entropy on {benchmark.name}"
            with self._clock.stage("entropy", label, len(missing), "samples") as advance:
                found = entropy_sums(
                    model,
                    tokenizer,
                    plan.protocol.prompt_template,
                    {problem.id: problem.text for problem in benchmark.problems},
                    missing,
                    on_progress=advance.to,
                )
            folder.add_entropies(found)
            return self._judged(
                benchmark, folder, {p.problem_id: len(p.verdicts) for p in problems}
            )

    def _judged(
        self, benchmark: Benchmark, folder: SampleFolder, wanted: Mapping[str, int]
    ) -> list[ProblemSamples]:
        """So many samples of each problem with their strict and lenient verdicts."""
        return folder.judged(wanted, self._plan.protocol_of(benchmark).answer_format, LENIENT)

    def _complete(
        self,
        benchmark: Benchmark,
        folder: SampleFolder,
        verifier: Verifier,
        wanted: Mapping[str, int],
    ) -> list[ProblemSamples]:
        """So many judged samples of each problem; what is not there is drawn."""
        self._n_found += self._draw_missing(benchmark, folder, verifier, wanted)
        self._judge(benchmark, folder, verifier)
        # A part that could be listed may turn out damaged when its texts are read.
        while self._warn_damaged(folder):
            self._draw_missing(benchmark, folder, verifier, wanted)
            self._judge(benchmark, folder, verifier)
        return self._judged(benchmark, folder, wanted)

    def _adaptive_samples(
        self, benchmark: Benchmark, folder: SampleFolder, verifier: Verifier
    ) -> list[ProblemSamples]:
        """Judged samples, as many of each problem as pass@k needs."""
        asked = self._plan.protocol_of(benchmark).answer_format
        rounds = AdaptiveRounds(self._plan.config, benchmark, folder.path, self._warn, asked)
        self._clock.say(f"{benchmark.name}: {rounds.history}")
        self._adaptive[benchmark.name] = rounds
        wanted = folder.n_there()
        n_found = sum(wanted.values())
        while True:
            found_before = self._n_found
            problems = self._complete(benchmark, folder, verifier, wanted)
            self._n_found = found_before
            extra = rounds.next_samples(problems)
            if not any(extra.values()):
                self._n_found += n_found
                return problems
            wanted = {problem_id: n + extra[problem_id] for problem_id, n in wanted.items()}

    def _draw_missing(
        self,
        benchmark: Benchmark,
        folder: SampleFolder,
        verifier: Verifier,
        wanted: Mapping[str, int],
    ) -> int:
        """Draw and judge what is not there; returns how many of the samples were there."""
        missing = folder.missing(wanted)
        self._warn_damaged(folder)
        n_missing = sum(map(len, missing.values()))
        n_there = sum(wanted.values()) - n_missing
        if not missing:
            return n_there
        draws = [
            Draw(problem=problem, sample_indices=missing[problem.id])
            for problem in benchmark.problems
            if problem.id in missing
        ]
        sampler = self._sampler()
        answers = {problem.id: accepted_answers(problem) for problem in benchmark.problems}
        note = f" ({n_there:,} found)" if n_there else ""
        label = f"Sampling {benchmark.name}{note}"
        asked = self._plan.protocol_of(benchmark).answer_format
        with Judging(folder, verifier, answers, answer_formats(asked)) as judging:
            with self._clock.stage("sampling", label, n_missing, "samples") as advance:
                for samples in sampler.draw(draws, self._plan.protocol, advance):
                    judging.add(folder.add(samples), samples)
                    self._n_drawn += len(samples)
            self._wait_for(judging, benchmark)
        return n_there

    def _wait_for(self, judging: Judging, benchmark: Benchmark) -> None:
        """Let the checker finish what it could not do beside the drawing."""
        beside_s = max(0.0, judging.busy_s - judging.waited_s)
        self._clock.beside("verification", beside_s, judging.n_judged)
        self._clock.stages["verification"].seconds += judging.waited_s
        label = f"Verifying {benchmark.name}"
        with self._clock.stage("verification", label, judging.n_left, "answers") as advance:
            judging.finish(advance)

    def _judge(self, benchmark: Benchmark, folder: SampleFolder, verifier: Verifier) -> None:
        formats = answer_formats(self._plan.protocol_of(benchmark).answer_format)
        answers = {problem.id: accepted_answers(problem) for problem in benchmark.problems}
        total = folder.n_unjudged(checker_version(), formats)
        if not total:
            return
        label = f"Verifying {benchmark.name}"
        with self._clock.stage("verification", label, total, "answers") as advance:
            judge_rest(folder, verifier, answers, formats, advance)

    def _proxies(self, benchmark: Benchmark, problems: Sequence[ProblemSamples]) -> list[Proxy]:
        protocol_digest, ks = self._plan.protocol_of(benchmark).digest, self._plan.config.k
        rounds = self._adaptive.get(benchmark.name)
        estimates: list[Proxy] = []
        if rounds is not None:
            estimates = rounds.proxies(problems, protocol_digest)
            problems = even_part(problems)
            ks = tuple(k for k in ks if k <= len(problems[0].verdicts))
        found = sample_proxies(benchmark.name, benchmark.digest, protocol_digest, problems, ks)
        for note in found.notes:
            self._warn(note)
        for text in mostly_unmeasured(found.proxies, self._plan.protocol.max_tokens):
            self._warn(text)
        if found.bounds:
            self._bounds[benchmark.name] = found.bounds
        return [*found.proxies, *estimates]

    def _base_proxies(self) -> list[Proxy]:
        """What needs the base model."""
        if self._base is None:
            return []
        plan = self._plan
        measured = [
            Measured(
                name=benchmark.name,
                digest=benchmark.digest,
                protocol_digest=plan.protocol_of(benchmark).digest,
                counts=self.counts[benchmark.name],
            )
            for benchmark in plan.benchmarks
        ]
        found = self._base.coverage_proxies(measured, plan.suite_name, self._warn)
        found += self._base.weight_proxies(self._warn)
        read = [self._tokens(heldout_set) for heldout_set in plan.heldout_sets]
        own = [
            scored_tokens(self._root, tokens, self._local, self._clock, self._warn)
            for tokens in read
        ]
        # Two models at once may be more than the device holds.
        self._local.release()
        for tokens, nlls in zip(read, own, strict=True):
            found += self._base.off_policy_proxies(tokens, nlls, self._warn)
        return found

    def _heldout_proxies(self, heldout_set: HeldoutSet) -> list[Proxy]:
        losses = self._losses(heldout_set)
        return heldout_proxies(
            losses.examples,
            heldout_set.name,
            losses.benchmark_digest,
            self._local.precision.digest,
        )

    def _loss_engine(self) -> dict[str, Any]:
        """What the losses were computed in, for the record."""
        if not self._plan.heldout_sets:
            return {}
        return {"losses": dataclasses.asdict(self._local.precision)}

    def _losses(self, heldout_set: HeldoutSet) -> Losses:
        """The losses of one held-out set, from disk if an earlier call left them."""
        template, precision = self._plan.protocol.prompt_template, self._local.precision
        path = losses_path(self._root, heldout_set.digest, template, precision.digest)
        self._references[f"losses/{heldout_set.name}"] = path.resolve().as_uri()
        losses = read_losses(path, self._warn)
        if losses is None:
            losses = self._score(heldout_set)
            write_losses(path, losses)
        for warning in losses.warnings(heldout_set.name):
            self._warn(warning)
        return losses

    def _score(self, heldout_set: HeldoutSet) -> Losses:
        from rlready.evaluators.heldout.loss import summed

        tokens = self._tokens(heldout_set)
        nlls = scored_tokens(self._root, tokens, self._local, self._clock, self._warn)
        return Losses(
            benchmark_digest=tokens.benchmark_digest,
            examples=tuple(summed(tokens.examples, nlls)),
            n_truncated=tokens.n_truncated,
            n_skipped=tokens.n_skipped,
            n_turn_bytes=tokens.n_turn_bytes,
            n_cut_bytes=tokens.n_cut_bytes,
        )

    def _tokens(self, heldout_set: HeldoutSet) -> TokenizedSet:
        from rlready.evaluators.heldout.loss import context_tokens
        from rlready.evaluators.heldout.tokens import tokenize_set

        limit = context_tokens(self._local.config)
        template = self._plan.protocol.prompt_template
        return tokenize_set(heldout_set, self._local.tokenizer, template, limit)

    def _sampler(self) -> Sampler:
        if self._open_sampler is None:
            self._open_sampler = open_sampler(self._plan.config, self._local)
            self._engine = self._open_sampler.describe()
        return self._open_sampler

    def _close_sampler(self) -> None:
        if self._open_sampler is not None:
            self._open_sampler.close()
            self._open_sampler = None

    def _put(self, store: Store, evaluation: Evaluation) -> StoredEvaluation:
        artifacts = {f"counts/{name}.parquet": path for name, path in self._count_files.items()}
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
            "protocol": dataclasses.replace(plan.protocol, answer_format="boxed").to_dict(),
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


def _count_verdicts(problems: Sequence[ProblemSamples]) -> dict[str, int]:
    return counts_by_verdict([v for problem in problems for v in problem.verdicts])
