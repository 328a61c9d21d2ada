"""Numbers that trainers log at a step: which of them is a score, and of what benchmark.

A mean over samples and problems is pass@1 and can become an outcome. Everything else is only
shown. verl draws its `best@N` with replacement: with one correct sample of four, `best@4` is 0.68
where pass@4 is 1. It is therefore never stored as pass@k.

Sources: the logging code of each trainer, at the commits that `tests/data/importers/README.md`
lists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlready.workflow.importers.drawn import Logged, Meaning
from rlready.workflow.importers.source_files import SourceFile
from rlready.workflow.importers.source_rows import SourceRow

STEPS = (
    *("eval/step", "eval/global_step", "training_step", "training/global_step"),
    *("trainer/global_step", "train/global_step", "global_step", "step", "Step", "_step"),
)
"""Names of the step, the best first: wandb's `_step` counts calls of `wandb.log`."""

_OF_RUN = re.compile(r"(?P<run>.+) - (?P<name>[^ ]+)")
_EXTREMES = ("__MIN", "__MAX")


@dataclass(frozen=True)
class Rule:
    """Names of a trainer's numbers, as a pattern with the groups `series`, `k` and `n`.

    Args:
        pattern: of the whole name.
        meaning: what such a number is.
        is_named: whether `series` names a benchmark and not a reward function.
        series: the series, where the name has none.
        is_training: whether it is about the prompts of training.
    """

    pattern: str
    meaning: Meaning
    is_named: bool = True
    series: str = ""
    is_training: bool = False


RULES: Mapping[str, tuple[Rule, ...]] = {
    "verl": (
        Rule(r"val-core/(?P<series>.+)/(acc|score|reward)/mean@(?P<n>\d+)", "mean"),
        Rule(r"val-aux/(?P<series>.+)/acc/mean@(?P<n>\d+)", "mean"),
        Rule(r"val-(core|aux)/(?P<series>.+)/\w+/(best|worst|maj)@(?P<n>\d+)/\w+",
             "with replacement"),
        Rule(r"val/test_score/(?P<series>.+)", "mean"),
    ),
    "trl": (
        Rule(r"eval_(?:\w+_)?rewards/(?P<series>[^/]+)/mean", "mean", is_named=False),
        Rule(r"rewards/(?P<series>[^/]+)/mean", "mean", is_named=False, is_training=True),
        Rule(r"(?:eval_(?:\w+_)?)?rewards/.+/std", "other"),
        Rule(r"eval_(?:\w+_)?rewards/(?P<series>[^/]+)", "mean", is_named=False),  # before 0.16
        Rule(r"rewards/(?P<series>[^/]+)", "mean", is_named=False, is_training=True),
    ),
    "ms-swift": (
        Rule(r"eval_rewards/(?P<series>.+)/mean", "mean", is_named=False),
        Rule(r"rewards/(?P<series>.+)/mean", "mean", is_named=False, is_training=True),
    ),
    "prime-rl": (
        # Rollouts that failed are in `all` only; they are UNSCORED here.
        Rule(r"eval/(?P<series>.+)/effective/[^/]+/avg@(?P<n>\d+)", "mean"),
        Rule(r"eval/(?P<series>.+)/effective/[^/]+/pass@(?P<k>\d+)", "pass@k"),
        Rule(r"eval/.+/(all|effective)/.+", "other"),
        Rule(r"eval/(?P<series>.+)/avg@(?P<n>\d+)", "mean"),
        Rule(r"eval/(?P<series>.+)/pass@(?P<k>\d+)", "pass@k"),
    ),
    "nemo-rl": (
        Rule(r"validation/accuracy/(?P<series>.+)", "mean"),
        Rule(r"validation/accuracy", "mean", is_named=False, series="validation"),
    ),
    "skyrl": (
        Rule(r"eval/(?P<series>all)/avg_score", "mean", is_named=False),
        Rule(r"eval/(?P<series>.+)/avg_score", "mean"),
        Rule(r"eval/(?P<series>.+)/pass_at_(?P<k>\d+)", "any of n"),
    ),
    "areal": (
        Rule(r"(?P<series>eval-rollout)/(?:.*/)?reward(?:/avg)?", "mean", is_named=False),
    ),
    "open-instruct": (
        Rule(r"eval/(?:(?P<series>.+)/)?pass_at_(?P<k>\d+)_unbiased", "pass@k", is_named=False,
             series="eval"),
        Rule(r"eval/(?:(?P<series>.+)/)?pass_at_1", "mean", is_named=False, series="eval"),
        Rule(r"eval/(?:(?P<series>.+)/)?pass_at_(?P<k>\d+)", "any of n", is_named=False,
             series="eval"),
    ),
    "openrlhf": (
        Rule(r"(?:eval/)?eval_(?P<series>.+)_pass1", "mean"),
        Rule(r"(?:eval/)?eval_(?P<series>.+)_pass(?P<k>\d+)", "any of n"),
    ),
    "slime": (
        Rule(r"eval/(?P<series>[^/]+)-pass@(?P<k>\d+)", "pass@k"),
        Rule(r"eval/[^/]+[-/](truncated_ratio|response_len.*|.*length.*|repetition.*)", "other"),
        Rule(r"eval/(?P<series>(?!step$)[^/]+)", "mean"),
    ),
    "tinker": (
        Rule(r"test/env/(?P<series>all)/(correct|reward/total)", "mean", is_named=False),
        Rule(r"test/env/(?P<series>.+)/(correct|reward/total)", "mean"),
        Rule(r"test/env/.+/by_group/frac_(mixed|all_good|all_bad)", "other"),
    ),
}  # fmt: skip
"""The names that each trainer gives to its scores; the first rule that fits decides."""


def patterns_of(tool: str) -> tuple[str, ...]:
    """Return the patterns of a trainer's names, with and without the run that wandb adds."""
    return tuple(rf"(?:.+ - )?{rule.pattern}" for rule in RULES[tool])


def logged(tool: str, row: SourceRow, step: float, run: str = "") -> Iterator[Logged]:
    """Yield the scores in a row of numbers.

    Raises:
        SamplesError: if a score is not a finite number.
    """
    for name, value in row.values.items():
        run_name, plain = split_run(name)
        rule = next((rule for rule in RULES[tool] if re.fullmatch(rule.pattern, plain)), None)
        if rule is None or rule.meaning == "other" or value is None or plain.endswith(_EXTREMES):
            continue
        groups: dict[str, Any] = dict(_matched(rule, plain))
        yield Logged(
            series=groups.get("series") or rule.series,
            metric=plain,
            meaning=rule.meaning,
            k=int(groups["k"]) if groups.get("k") else None,
            n=int(groups["n"]) if groups.get("n") else None,
            step=step,
            value=row.number(name),
            where=row.where,
            run=run_name or run,
            is_named=rule.is_named,
            is_training=rule.is_training,
        )


def _matched(rule: Rule, name: str) -> dict[str, str | None]:
    match = re.fullmatch(rule.pattern, name)
    assert match is not None
    return match.groupdict()


def split_run(name: str) -> tuple[str, str]:
    """Return the run and the name of a column that wandb exported as `RUN - NAME`."""
    match = _OF_RUN.fullmatch(name)
    return (match["run"], match["name"]) if match else ("", name)


def step_of(row: SourceRow, tool: str) -> float | None:
    """Return the step of a row, or None if it has none."""
    if row.has("global_step/max_steps"):  # ms-swift writes `20/100`
        text = row.text("global_step/max_steps").partition("/")[0]
        if not text.isdigit():
            row.refuse("global_step/max_steps", f"is {text!r}, not STEP/LAST")
        return float(text)
    for name in STEPS:
        plain = next((key for key in row.values if split_run(key)[1] == name), None)
        if plain is not None and row.has(plain):
            step = row.number(plain)
            if not 0 <= step < math.inf:
                row.refuse(plain, f"is {step:g}", fix="A step is 0 or more")
            return step
    return None


def read_log(tool: str, file: SourceFile) -> Iterator[Logged]:
    """Yield the scores in a log with one row of numbers a step; rows without scores are skipped."""
    for row in file.rows():
        inner = row.inner("data") if tool == "verl" and "data" in row.values else row
        step = step_of(row, tool)
        found = list(logged(tool, inner, math.nan if step is None else step))
        if found and step is None:
            raise_no_step(row)
        yield from found


def raise_no_step(row: SourceRow) -> None:
    """Raise the error that a row of scores has no step."""
    row.refuse("step", "is missing", why=f"a score needs one of the fields {', '.join(STEPS)}")
