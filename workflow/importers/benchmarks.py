"""The benchmark of each series of samples and of each curve, and the numbers of its steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlready.evaluators.metrics import pass_at_k, sample_metrics
from rlready.evaluators.metrics.estimates import Estimate
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, mean_pass_at_k, with_scored
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.records import Proxy
from rlready.workflow.importers.reading import Reading
from rlready.workflow.importers.tally import ProblemTally, Series

_AGREE = 1e-6
"""Largest difference between a mean that a trainer logged and pass@1 of the same samples."""
_GROUPS = (4, *sample_metrics.GROUP_SIZES)
RECHECKED = "rechecked_"
"""Prefix of the proxies that rlready's own verdicts give beside those of the tool."""


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """The counts of one benchmark at one step.

    Args:
        step: of the trainer; None for an evaluation without one.
        tool: counts by the tool's verdicts; empty if it gave none.
        checked: counts by rlready's verdicts; empty if there was nothing to check.
        n_differ: samples on which they differ.
        n_truncated: samples that were cut; None if it is not known.
    """

    step: int | None
    tool: Sequence[ProblemCounts]
    checked: Sequence[ProblemCounts]
    n_differ: int
    n_truncated: int | None = None

    def primary(self, verdicts: str) -> Sequence[ProblemCounts]:
        """Return the counts that pass@k is computed from."""
        first, second = (
            (self.checked, self.tool) if verdicts == "rlready" else (self.tool, self.checked)
        )
        return first or second

    def secondary(self, verdicts: str) -> Sequence[ProblemCounts]:
        """Return rlready's counts where they stand beside the tool's; else nothing."""
        return self.checked if verdicts == "tool" and self.tool else ()


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A benchmark that the files hold samples of.

    Args:
        series: its name in the files.
        benchmark: its name in the registry; None if it is not known.
        is_training: whether its prompts are those that RL trained on.
        digest: of its problems and their reference answers.
        same_problems: whether every step has the same problems.
        steps: its counts by step.
        settings: how samples were drawn, as far as the tool says it.
    """

    series: str
    benchmark: str | None
    is_training: bool
    digest: str
    same_problems: bool
    steps: Sequence[StepCounts]
    settings: Mapping[str, Any] = field(default_factory=dict)


def imported(reading: Reading, names: Mapping[str, str]) -> list[Imported]:
    """Return the benchmarks with samples.

    Args:
        reading: what the files hold.
        names: benchmarks that the user names, by the name in the files.

    Raises:
        ConfigError: if the user names one that the files do not hold.
    """
    in_files = {s.name for s in reading.series} | {c.series for c in reading.curves}
    for name in names:
        if name not in in_files:
            raise ConfigError(
                f"--map names {name!r}, which the files do not hold",
                fix=f"They hold {', '.join(sorted(in_files))}",
            )
    return [_imported(reading, series, names) for series in reading.series]


def registry_name(name: str) -> str:
    """Return a name that the registry accepts, from one in a file: `toy/math` is `toy_math`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-")[:100] or "imported"


def measures(counts: Sequence[ProblemCounts], name: str) -> dict[str, tuple[Estimate, int, int]]:
    """Return pass@k for k = 1, 2, 4, ... and the signal shares, with their problems and samples.

    A number averages over the problems that have enough scored samples.
    """
    most = max((problem.n for problem in counts), default=0)
    found: dict[str, tuple[Estimate, int, int]] = {}
    for k in [1 << i for i in range(most.bit_length())]:
        enough = with_scored(counts, k)
        if enough:
            value = mean_pass_at_k(enough, k, name)
            found[f"pass_at_{k}"] = (value, len(enough), _n_samples(enough))
    for group in _GROUPS:
        enough = with_scored(counts, group)
        share = sample_metrics.signal_share(enough, group) if enough else None
        if share is not None:
            found[f"signal_share_{group}"] = (share, len(enough), _n_samples(enough))
    return found


def proxies(item: Imported, step: StepCounts, protocol: str, verdicts: str) -> list[Proxy]:
    """Return the proxies of a benchmark at the start of RL, or of an evaluation."""
    assert item.benchmark is not None
    parts = [("", step.primary(verdicts)), (RECHECKED, step.secondary(verdicts))]
    return [
        Proxy(
            name=prefix + name,
            value=estimate.value,
            se=estimate.se,
            se_within=estimate.se_within,
            unit="probability",
            benchmark=item.benchmark,
            benchmark_digest=item.digest,
            protocol_digest=protocol,
            n_problems=n_problems,
            n_samples=n_samples,
            evaluator_version=_version(name),
        )
        for prefix, counts in parts
        for name, (estimate, n_problems, n_samples) in measures(counts, item.benchmark).items()
        if name != "signal_share_4" and (not prefix or name.startswith("pass_at_"))
    ]


def _version(name: str) -> str:
    is_pass = name.startswith("pass_at_")
    return pass_at_k.EVALUATOR_VERSION if is_pass else sample_metrics.EVALUATOR_VERSION


def _imported(reading: Reading, series: Series, names: Mapping[str, str]) -> Imported:
    steps = [
        _step(step, problems, reading.correct_above)
        for step, problems in sorted(series.steps.items(), key=lambda item: item[0] or 0)
    ]
    first = next(iter(series.steps.values()))
    return Imported(
        series=series.name,
        benchmark=_benchmark(reading, series, steps, names),
        is_training=series.is_training,
        digest=_digest(first),
        same_problems=len({_digest(problems) for problems in series.steps.values()}) == 1,
        steps=steps,
        settings=reading.settings.get(series.name, {}),
    )


def _step(step: int | None, problems: Mapping[str, ProblemTally], limit: float) -> StepCounts:
    tool = [c for key, problem in problems.items() if (c := problem.counts(key, limit))]
    checked = [c for key, problem in problems.items() if (c := problem.checked_counts(key))]
    truncated = [problem.n_truncated for problem in problems.values()]
    known = [n for n in truncated if n is not None]
    return StepCounts(
        step=step,
        tool=tool if len(tool) == len(problems) else (),
        checked=checked if len(checked) == len(problems) else (),
        n_differ=sum(problem.n_differ(limit) for problem in problems.values()),
        n_truncated=sum(known) if len(known) == len(truncated) else None,
    )


def _benchmark(
    reading: Reading, series: Series, steps: Sequence[StepCounts], names: Mapping[str, str]
) -> str | None:
    if series.name in names:
        return names[series.name]
    if series.is_named:
        return registry_name(series.name)
    # verl's older files do not name the data. If the trainer's log names one benchmark, and its
    # means are pass@1 of these samples, they are of that benchmark.
    curves = [c for c in reading.curves if c.meaning == "mean" and c.is_named and not c.is_training]
    if len({curve.series for curve in curves}) != 1:
        return None
    logged = dict(curves[0].values())
    pairs = [
        (logged[float(step.step)], mean_pass_at_k(step.tool, 1, series.name).value)
        for step in steps
        if step.step is not None and float(step.step) in logged and with_scored(step.tool, 1)
    ]
    if pairs and all(math.isclose(a, b, abs_tol=_AGREE) for a, b in pairs):
        return names.get(curves[0].series, registry_name(curves[0].series))
    return None


def _digest(problems: Mapping[str, ProblemTally]) -> str:
    # The keys of a trainer may change from step to step; the texts do not.
    return digest(sorted([p.question or key, *p.golds] for key, p in problems.items()))


def _n_samples(counts: Sequence[ProblemCounts]) -> int:
    return sum(problem.n + problem.n_unscored for problem in counts)
