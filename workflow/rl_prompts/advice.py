"""What to do about the numbers of a preflight, in plain sentences.

The thresholds are those of `predictors/decisions/start_check.py`. A number counts as beyond one
only if it is beyond it by two standard errors.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlready.evaluators.metrics.estimates import Estimate
from rlready.evaluators.metrics.reward_groups import most_solved
from rlready.predictors.decisions.start_check import Finding, Level, StartRule
from rlready.workflow.rl_prompts.preflight import Overlap, Preflight

_RULE = StartRule()
_MOSTLY = 0.5
_OVERLAP = 0.01
"""Share of prompts in the SFT data from which it is worth a warning."""


def verdict(result: Preflight) -> Finding:
    """Return whether GRPO would have a signal, in one sentence."""
    groups, n = result.groups, result.config.groups
    expected, spread = groups.useful_in_batch(n)
    batch = f"a batch of {n} groups of {groups.group_size} has {expected:.1f} useful groups"
    if 0.0 < groups.useful < 1.0:
        batch += f" (give or take {spread:.1f})"
    batch += ", whose rewards differ"
    if groups.useful == 0.0 and groups.most_useful < _RULE.warn_signal:
        text = (
            f"Do not start GRPO from {result.name} on these prompts: in no group of "
            f"{groups.group_size} do the rewards differ, so every gradient is zero (of groups of "
            f"other prompts of this kind, at most {groups.most_useful:.1%} are useful, at 95%)."
        )
        return Finding(level=Level.STOP, topic="signal", text=text)
    if groups.most_useful < _RULE.stop_signal:
        text = f"Do not start GRPO from {result.name} on these prompts: {batch}."
        return Finding(level=Level.STOP, topic="signal", text=text)
    if groups.useful < _RULE.warn_signal:
        text = f"GRPO from {result.name} would start with little signal: {batch}."
        return Finding(level=Level.WARN, topic="signal", text=text)
    text = f"GRPO from {result.name} has a signal on these prompts: {batch}."
    return Finding(level=Level.OK, topic="signal", text=text)


def advice(result: Preflight) -> tuple[Finding, ...]:
    """Return what to do, the most severe first; the verdict is not repeated.

    Example:
        >>> [finding.text for finding in advice(result)]  # doctest: +SKIP
        ['37 of 256 prompts were solved by none of their 8 samples ...']
    """
    findings = [
        *_unscored(result),
        *_truncated(result),
        *_format(result),
        *_cause(result),
        *_filter(result),
        *(finding for overlap in result.overlaps for finding in _overlap(result, overlap)),
        *_repeated(result),
    ]
    order = list(Level)
    return tuple(sorted(findings, key=lambda finding: -order.index(finding.level)))


def _beyond(estimate: Estimate | None, limit: float) -> bool:
    return (
        estimate is not None
        and estimate.value - _RULE.n_errors * (estimate.se or estimate.se_within or 0.0) > limit
    )


def _is_cut(result: Preflight) -> bool:
    """Return whether most samples end at the limit of tokens."""
    return _beyond(result.truncated, _MOSTLY)


def _is_unreadable(result: Preflight) -> bool:
    """Return whether most samples have no answer although they end."""
    return _beyond(result.unparsed, _MOSTLY) and not _is_cut(result)


def _unscored(result: Preflight) -> Iterator[Finding]:
    if not result.n_unscored:
        return
    n = result.n_samples * len(result.rewards)
    reasons = "; ".join(f"{text} ({count})" for text, count in result.unscored_reasons.items())
    is_many = result.n_unscored > _RULE.warn_unscored * n
    text = (
        f"{result.n_unscored} of {n} samples have no reward and are left out: {reasons}. "
        + ("Repair the reward first: in training" if is_many else "In training")
        + " such a sample would stop the run or get a wrong reward."
    )
    if result.groups.n_short:
        text += (
            f" {result.groups.n_short} prompts have fewer scored samples than a group and are left "
            "out of the shares of groups."
        )
    yield Finding(level=Level.WARN if is_many else Level.OK, topic="unscored", text=text)


def _truncated(result: Preflight) -> Iterator[Finding]:
    share, limit = result.truncated.value, result.config.rl_max_tokens
    if _beyond(result.truncated, _RULE.warn_truncated):
        text = (
            f"{share:.0%} of the samples are cut at {limit} tokens, before their answer. Raise the "
            "length of the RL run, or train the checkpoint to shorter solutions; read some samples "
            "for endless repetition."
        )
        yield Finding(level=Level.WARN, topic="truncated", text=text)


def _format(result: Preflight) -> Iterator[Finding]:
    gap = result.format_gap
    if gap is not None and _beyond(gap, _RULE.warn_format_gap):
        text = (
            f"{gap.value:.0%} of the samples are right but not in the format "
            f"{result.config.answer_format!r}: the checkpoint fails by format, not by skill. Ask "
            "for the format in the prompt, show it in a few SFT examples, or read the answers "
            "where they stand (--answer-format)."
        )
        yield Finding(level=Level.WARN, topic="format", text=text)
    elif _is_unreadable(result) and result.unparsed is not None:
        text = (
            f"{result.unparsed.value:.0%} of the samples have no answer in the format "
            f"{result.config.answer_format!r}. Check the prompt and the chat template: RL prompts "
            "are sent as they stand, without a request for a box."
        )
        yield Finding(level=Level.WARN, topic="format", text=text)


def _cause(result: Preflight) -> Iterator[Finding]:
    """Say why most groups have no variance."""
    groups = result.groups
    if groups.useful >= _RULE.warn_signal:
        return
    unsolved = f"{groups.equal_unsolved.value:.0%} of the groups are all wrong"
    if _is_cut(result) or _is_unreadable(result) or _beyond(result.format_gap, _MOSTLY):
        fault = "samples are cut" if _is_cut(result) else "answers are not in the right format"
        text = (
            f"{unsolved}, most of them because {fault}: mend this first and measure again, because "
            "the skill cannot be seen behind it."
        )
    elif groups.equal_unsolved.value >= groups.equal_solved.value:
        text = (
            f"{unsolved}. Take easier prompts, "
            "train the checkpoint further on problems of this kind, or give a reward with partial "
            "credit; larger groups help only for prompts that are solved sometimes."
        )
    else:
        text = (
            f"{groups.equal_solved.value:.0%} of the groups are all right: the prompts are too "
            "easy for this checkpoint. Take harder prompts."
        )
    yield Finding(level=Level.WARN, topic="difficulty", text=text)


def _filter(result: Preflight) -> Iterator[Finding]:
    constant, n, groups = result.constant, result.n_samples, result.groups
    kept = len(result.rewards) - len(constant)
    if not constant:
        return
    text = (
        f"{len(constant)} of {len(result.rewards)} prompts give no gradient, because all their "
        f"samples have one reward: {len(result.all_solved)} prompts are always solved, "
        f"{len(result.never_solved)} never. "
    )
    if kept:
        useful = min(1.0, groups.useful * groups.n_prompts / kept)
        text += (
            f"Without them up to {useful * result.config.groups:.0f} of {result.config.groups} "
            "groups would be useful"
        )
        text += (
            "; --write-filtered FILE writes the others. "
            if result.filtered_rows is None
            else f"; {result.filtered_rows} of {result.n_rows} rows are in "
            f"{result.config.write_filtered}. "
        )
    elif result.config.write_filtered is not None and result.filtered_rows is None:
        text += "No row would be left, so that no filtered file was written. "
    text += (
        f"A prompt that failed {n} times may still be solved in up to {most_solved(n):.0%} of the "
        f"samples: draw more (--samples {4 * n}) before many are dropped for good."
    )
    yield Finding(level=Level.OK, topic="filter", text=text)


def _overlap(result: Preflight, overlap: Overlap) -> Iterator[Finding]:
    n, exact, partial = len(result.rewards), len(overlap.found.exact), len(overlap.found.partial)
    if not exact + partial:
        text = f"None of the prompts was found in {overlap.path}."
        yield Finding(level=Level.OK, topic="overlap", text=text)
        return
    text = (
        f"{exact} of {n} prompts stand word for word in {overlap.path}, and {partial} more share "
        "13 words in a row with it. "
    )
    if overlap.reward_of_found is not None and overlap.reward_of_others is not None:
        text += (
            f"Their mean reward is {overlap.reward_of_found:.2f}, that of the others "
            f"{overlap.reward_of_others:.2f}. "
        )
    text += (
        "The checkpoint has seen them, so that its reward on them may be memory: leave them out."
    )
    level = Level.WARN if exact + partial > _OVERLAP * n else Level.OK
    yield Finding(level=level, topic="overlap", text=text)


def _repeated(result: Preflight) -> Iterator[Finding]:
    if result.n_repeated:
        text = (
            f"{result.n_repeated} of {result.n_rows} rows repeat an earlier prompt. They were "
            "measured once; RL would train on them more often."
        )
        yield Finding(level=Level.OK, topic="repeated", text=text)
