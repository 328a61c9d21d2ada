"""Show what an import found and stored as text and tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlready.workflow.cli.views.checkpoint import with_error
from rlready.workflow.importers.benchmarks import measures
from rlready.workflow.terminal import table

if TYPE_CHECKING:
    from rlready.workflow.importers.benchmarks import Imported, StepCounts
    from rlready.workflow.importers.curves import LoggedCurve
    from rlready.workflow.importers.storing import ImportReport

_CURVES_SHOWN = 12
_POINTS_SHOWN = 4


def import_view(report: ImportReport) -> list[Any]:
    """Return the samples and curves of the files, and what was stored."""
    reading = report.reading
    n_files = len(reading.files)
    parts: list[Any] = [
        f"{n_files} file{'s' * (n_files != 1)} of {reading.tool}"
        + (f", {len(reading.left_out)} left out" if reading.left_out else "")
    ]
    if report.benchmarks:
        parts.append(_samples_table(report))
    if reading.curves:
        parts.append(_curves_table(reading.curves))
    parts += [f"note: {text}" for text in report.warnings]
    return [*parts, *_stored_lines(report)]


def _samples_table(report: ImportReport) -> Any:
    rows = [_row(item, step) for item in report.benchmarks for step in item.steps]
    headings = ["in the files", "benchmark", "step", "problems", "samples", "pass@1", "pass@k"]
    return table(
        "samples",
        [*headings, "rlready's pass@1", "differ"],
        rows,
        words=("in the files", "benchmark", "pass@k"),
    )


def _row(item: Imported, step: StepCounts) -> list[str]:
    counts = step.tool or step.checked
    numbers = measures(counts, item.series)
    ks = [name for name in numbers if name.startswith("pass_at_") and name != "pass_at_1"]
    first = numbers.get("pass_at_1")
    checked = measures(step.checked, item.series).get("pass_at_1") if step.checked else None
    return [
        item.series,
        item.benchmark or "not known",
        "" if step.step is None else str(step.step),
        str(len(counts)),
        str(sum(problem.n + problem.n_unscored for problem in counts)),
        "" if first is None else with_error(first[0].value, first[0].se),
        ", ".join(f"@{name.removeprefix('pass_at_')} {numbers[name][0].value:.4f}" for name in ks),
        "not checked" if checked is None else f"{checked[0].value:.4f}",
        "" if checked is None else str(step.n_differ),
    ]


def _curves_table(curves: Any) -> Any:
    shown: list[LoggedCurve] = list(curves)[:_CURVES_SHOWN]
    rows = [
        [
            f"{curve.run} - {curve.metric}" if curve.run else curve.metric,
            curve.meaning + (" (training prompts)" if curve.is_training else ""),
            str(len(curve.points)),
            _points(curve),
        ]
        for curve in shown
    ]
    more = len(curves) - len(shown)
    return table(
        "logged numbers",
        ["name", "what it is", "steps", "values"],
        rows,
        caption=f"{more} more are in --json" if more > 0 else None,
        words=("name", "what it is", "values"),
    )


def _points(curve: LoggedCurve) -> str:
    values = curve.values()
    some = values if len(values) <= _POINTS_SHOWN else [*values[:2], *values[-2:]]
    texts = [f"{step:g}: {value:.4f}" for step, value in some]
    if len(values) > _POINTS_SHOWN:
        texts.insert(2, "...")
    return ", ".join(texts)


def _stored_lines(report: ImportReport) -> Iterator[str]:
    if report.checkpoint is None:
        yield "nothing was stored: name the checkpoint with --checkpoint ID"
        return
    checkpoint = report.checkpoint.checkpoint
    name = f"checkpoint {checkpoint.id[:12]} ({checkpoint.name})"
    if report.evaluation is not None:
        evaluation, stored = report.evaluation
        state = "logged" if stored.is_new else "already stored, nothing new"
        yield f"{name}: {len(evaluation.proxies)} proxies {state}; run {stored.run_id}"
    for outcome, place in report.outcomes:
        state = "logged" if place.is_new else "already stored, nothing new"
        yield (
            f"{name}: outcome {outcome.key} = {with_error(outcome.value, outcome.se)} "
            f"({outcome.algorithm}) {state}; run {place.run_id}"
        )
