"""Measure a checkpoint on the prompts of its RL run, before any RL step.

Samples are drawn and judged as `rlready evaluate` does it, and kept in the same files: a repeated
call draws only what is missing. The registry is not changed.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlready.evaluators.heldout.examples import load_heldout
from rlready.evaluators.metrics.estimates import Estimate, mean
from rlready.evaluators.metrics.reward_groups import PromptRewards, RewardGroups, reward_groups
from rlready.evaluators.metrics.sample_metrics import ProblemSamples, format_gap, verdict_share
from rlready.evaluators.metrics.text_overlap import TextOverlap, text_overlap
from rlready.evaluators.sampling.sample_files import SampleFolder, SampleText
from rlready.evaluators.verification.custom_reward import RewardFunction
from rlready.evaluators.verification.verifier import Verifier
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Checkpoint, Verdict
from rlready.registry.store import MemoryStore
from rlready.workflow.evaluate.engines import Shared
from rlready.workflow.evaluate.evaluator import Evaluator
from rlready.workflow.evaluate.inputs import read_inputs, with_readable_golds
from rlready.workflow.progress import Clock
from rlready.workflow.rl_prompts.config import PreflightConfig
from rlready.workflow.rl_prompts.prompts import (
    RlPrompts,
    check_new_file,
    load_rl_prompts,
    write_filtered,
)

_MAX_REASONS = 5
_MAX_EXAMPLES = 3
_MAX_WORKERS = 8
_REWARDED_AT_ONCE = 4096
AS_IT_STANDS = "{problem}"
"""The template of an RL run, whose prompts are complete."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt with one of its samples, to read."""

    prompt_id: str
    prompt: str
    answers: tuple[str, ...]
    completion: str
    extracted: str | None
    reward: float | None
    is_truncated: bool


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The prompts that occur in one file of SFT data, and the mean rewards with and without them.

    A mean reward is None if no such prompt has a scored sample.
    """

    path: str
    found: TextOverlap
    reward_of_found: float | None
    reward_of_others: float | None


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What the samples of a checkpoint say about RL on these prompts.

    Args:
        name: the checkpoint, for people.
        checkpoint_id: its id.
        config: the settings.
        groups: statistics of rewards and groups.
        rewards: the rewards of each prompt.
        n_rows: rows of the file.
        n_repeated: rows that repeat a prompt.
        n_samples: samples of each prompt.
        n_unscored: samples without a reward.
        unscored_reasons: why, with the number of samples.
        truncated: share of samples that were cut.
        unparsed: share of samples without an answer; None with a reward function.
        format_gap: what the format of the answers costs; None with a reward function.
        length_90: tokens that nine in ten samples do not exceed.
        overlaps: one entry for each file of SFT data.
        examples: some samples of prompts that were never solved.
        filtered_rows: rows that were written to `config.write_filtered`; None if there is no such
            file.
        warnings: notes for people.
    """

    name: str
    checkpoint_id: str
    config: PreflightConfig
    groups: RewardGroups
    rewards: tuple[PromptRewards, ...]
    n_rows: int
    n_repeated: int
    n_samples: int
    n_unscored: int
    unscored_reasons: Mapping[str, int]
    truncated: Estimate
    unparsed: Estimate | None
    format_gap: Estimate | None
    length_90: int
    overlaps: tuple[Overlap, ...]
    examples: tuple[Example, ...]
    filtered_rows: int | None
    warnings: tuple[str, ...]

    @property
    def constant(self) -> list[str]:
        """Prompts whose samples, two or more, all have one reward."""
        return [p.prompt_id for p in self.rewards if p.n > 1 and p.is_constant]

    @property
    def never_solved(self) -> list[str]:
        """Prompts with scored samples, none of which is solved."""
        at = self.config.solved_reward
        return [p.prompt_id for p in self.rewards if p.n and not p.n_solved(at)]

    @property
    def all_solved(self) -> list[str]:
        """Prompts with scored samples that are all solved."""
        at = self.config.solved_reward
        return [p.prompt_id for p in self.rewards if p.n and p.n_solved(at) == p.n]


def preflight(config: PreflightConfig, clock: Clock, *, folder: str | None = None) -> Preflight:
    """Draw and score samples of the RL prompts, and return what they say.

    Args:
        config: the settings.
        clock: shows progress and warnings.
        folder: folder or hub id of the checkpoint, if `config.checkpoint` names it otherwise.

    Raises:
        RlreadyError: for any mistake of the user or the environment; finished samples are kept.

    Example:
        config = PreflightConfig("runs/sft-3", rl_prompts=Path("rl.jsonl"), group_size=16)
        print(f"{preflight(config, Clock()).groups.useful:.0%} of the groups have a gradient")
    """
    if config.write_filtered is not None:
        check_new_file(config.write_filtered, config.rl_prompts)
    prompts = load_rl_prompts(config.rl_prompts, has_answers=config.reward is None)
    overlapping = [(path, load_heldout(Path(path))) for path in config.sft_data]
    measured = prompts.drawn(config.n_prompts, config.seed)
    if config.reward is not None:
        with RewardFunction(config.reward, timeout_s=config.reward_timeout) as function:
            function.check()
    warnings: list[str] = []
    checkpoint, stored, samples = _sampled(
        config, folder or config.checkpoint, measured, clock, warnings
    )
    if config.reward is None:
        rewards, reasons = _rewards_of_verdicts(samples), _check_failures(samples)
    else:
        texts = stored.texts(config.n_samples)
        rewards, reasons = _custom_rewards(config, measured, samples, texts, clock)
    scored = tuple(
        PromptRewards(
            prompt_id=each.problem_id,
            rewards=tuple(reward for reward in some if reward is not None),
            n_unscored=sum(reward is None for reward in some),
        )
        for each, some in zip(samples, rewards, strict=True)
    )
    _require_rewards(config, scored, reasons)
    overlaps = [
        _overlap(path, measured, scored, (m.content for e in data.examples for m in e.messages))
        for path, data in overlapping
    ]
    has_verdicts = config.reward is None
    result = Preflight(
        name=checkpoint.name,
        checkpoint_id=checkpoint.id,
        config=config,
        groups=reward_groups(scored, config.group_size, config.solved_reward),
        rewards=scored,
        n_rows=len(prompts.ids),
        n_repeated=prompts.n_repeated,
        n_samples=config.n_samples,
        n_unscored=sum(prompt.n_unscored for prompt in scored),
        unscored_reasons=dict(reasons.most_common(_MAX_REASONS)),
        truncated=mean(float(np.mean(each.is_truncated)) for each in samples),
        unparsed=verdict_share(samples, "unparsed") if has_verdicts else None,
        format_gap=format_gap(samples) if has_verdicts else None,
        length_90=int(np.ceil(np.quantile([n for each in samples for n in each.n_tokens], 0.9))),
        overlaps=tuple(overlaps),
        examples=tuple(_examples(config, measured, samples, rewards, stored)),
        filtered_rows=None,
        warnings=tuple(warnings),
    )
    if config.write_filtered is None or set(prompts.ids) <= set(result.constant):
        return result
    n_kept = write_filtered(prompts, result.constant, config.write_filtered)
    return dataclasses.replace(result, filtered_rows=n_kept)


def _require_rewards(
    config: PreflightConfig, prompts: Sequence[PromptRewards], reasons: Counter[str]
) -> None:
    """Check that a prompt has a whole group of rewards.

    Raises:
        EvaluationError: if not, with the reasons of the UNSCORED samples.
    """
    if reasons and all(prompt.n < config.group_size for prompt in prompts):
        listed = "; ".join(f"{text} ({n})" for text, n in reasons.most_common(_MAX_REASONS))
        raise EvaluationError(
            f"no prompt has {config.group_size} samples with a reward",
            why=f"{sum(reasons.values())} samples are UNSCORED: {listed}",
            fix="Repair the reward and repeat the call: the samples are kept"
            if config.reward
            else "Look at the reference answers",
        )


def _sampled(
    config: PreflightConfig,
    reference: str,
    prompts: RlPrompts,
    clock: Clock,
    warnings: list[str],
) -> tuple[Checkpoint, SampleFolder, list[ProblemSamples]]:
    """Return the checkpoint, and its judged samples with their folder."""

    def warn(text: str) -> None:
        warnings.append(text)
        clock.warn(text)

    settings = config.to_evaluate(reference)
    inputs = read_inputs(settings, MemoryStore(), clock, prompts=prompts.benchmark())
    if config.prompt_template is None:
        protocol = dataclasses.replace(inputs.protocol, prompt_template=AS_IT_STANDS)
        inputs = dataclasses.replace(inputs, protocol=protocol)
    for text in inputs.weights.warnings():
        warn(text)
    with Verifier() as verifier:
        if config.reward is None:
            inputs = with_readable_golds(inputs, verifier, warn)
        evaluator = Evaluator(inputs, clock, Shared())
        try:
            samples = evaluator.judged_samples(inputs.benchmarks[0], verifier)
        finally:
            evaluator.close()
    return inputs.checkpoint, evaluator.folder(inputs.benchmarks[0]), samples


def _rewards_of_verdicts(samples: Sequence[ProblemSamples]) -> list[list[float | None]]:
    return [
        [None if v is Verdict.UNSCORED else float(v is Verdict.CORRECT) for v in each.verdicts]
        for each in samples
    ]


def _check_failures(samples: Sequence[ProblemSamples]) -> Counter[str]:
    n = sum(v is Verdict.UNSCORED for each in samples for v in each.verdicts)
    return Counter({"the answer check ran out of time or memory": n} if n else {})


def _custom_rewards(
    config: PreflightConfig,
    prompts: RlPrompts,
    samples: Sequence[ProblemSamples],
    texts: Iterator[SampleText],
    clock: Clock,
) -> tuple[list[list[float | None]], Counter[str]]:
    """Return the rewards of all samples by the user's function, and why some have none."""
    problems = {problem.id: problem.text for problem in prompts.problems}
    rows = prompts.first_rows()
    rewards: dict[tuple[str, int], float | None] = {}
    reasons: Counter[str] = Counter()
    n_workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    n_samples = sum(len(each.verdicts) for each in samples)
    assert config.reward is not None
    with (
        RewardFunction(
            config.reward, n_workers=n_workers, timeout_s=config.reward_timeout
        ) as function,
        clock.stage("reward", f"Rewards by {config.reward}", n_samples, "samples") as advance,
    ):
        # Not all at once: the texts of a large run do not fit into memory.
        while some := list(itertools.islice(texts, _REWARDED_AT_ONCE)):
            tasks = [(problems[t.problem_id], t.text, rows[t.problem_id]) for t in some]
            values, failures = function.rewards(tasks, advance)
            keys = ((text.problem_id, text.sample_index) for text in some)
            rewards.update(zip(keys, values, strict=True))
            reasons += failures
    return [
        [rewards[each.problem_id, i] for i in range(len(each.verdicts))] for each in samples
    ], reasons


def _overlap(
    path: str, prompts: RlPrompts, rewards: Sequence[PromptRewards], texts: Iterator[str]
) -> Overlap:
    found = text_overlap({problem.id: problem.text for problem in prompts.problems}, texts)
    hits = {*found.exact, *found.partial}

    def reward_of(is_wanted: Callable[[str], bool]) -> float | None:
        means = [float(np.mean(p.rewards)) for p in rewards if p.n and is_wanted(p.prompt_id)]
        return float(np.mean(means)) if means else None

    return Overlap(
        path=path,
        found=found,
        reward_of_found=reward_of(hits.__contains__),
        reward_of_others=reward_of(lambda id_: id_ not in hits),
    )


def _examples(
    config: PreflightConfig,
    prompts: RlPrompts,
    samples: Sequence[ProblemSamples],
    rewards: Sequence[Sequence[float | None]],
    folder: SampleFolder,
) -> Iterator[Example]:
    """Yield the first sample of some prompts that were never solved."""
    problems = {problem.id: problem for problem in prompts.problems}
    never = [
        (each, some[0])
        for each, some in zip(samples, rewards, strict=True)
        if (scored := [reward for reward in some if reward is not None])
        and max(scored) < config.solved_reward
    ][:_MAX_EXAMPLES]
    wanted = {each.problem_id for each, _ in never}
    texts = {t.problem_id: t.text for t in folder.texts(1) if t.problem_id in wanted}
    for each, reward in never:
        yield Example(
            prompt_id=each.problem_id,
            prompt=problems[each.problem_id].text,
            answers=problems[each.problem_id].answers,
            completion=texts[each.problem_id],
            extracted=each.answers[0],
            reward=reward,
            is_truncated=each.is_truncated[0],
        )
