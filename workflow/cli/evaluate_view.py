"""Results of `evaluate` as text and tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlready.workflow.cli.checkpoint_view import plain, proxy_tables, with_error

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlready.registry.records import Proxy
    from rlready.workflow.evaluate.many import Results
    from rlready.workflow.evaluate.report import Report

_COLUMNS = ("id", "name", "measured on", "pass@1", "pass@k", "loss", "drawn", "found", "state")
_NUMBERS = ("pass@1", "pass@k", "loss", "drawn", "found")


def evaluation_view(report: Report, width: int) -> RenderableType:
    """Return the proxies of one evaluation, its verdicts, its times, and where it was stored."""
    from rich.console import Group

    checkpoint = report.evaluation.checkpoint
    verdicts = [
        f"{benchmark}: " + ", ".join(f"{n:,} {verdict}" for verdict, n in counts.items() if n)
        for benchmark, counts in report.verdicts.items()
    ]
    state = "logged" if report.stored.is_new else "was there already, nothing new"
    lines = [
        f"samples: {report.n_drawn:,} drawn now, {report.n_found:,} found",
        *verdicts,
        *_gap_lines(report.evaluation.proxies),
        *_bounds_lines(report.bounds),
        *(_stage_line(name, stage) for name, stage in report.stages.items()),
        f"checkpoint {checkpoint.id[:12]} ({checkpoint.name}): {state}; "
        f"model {report.stored.model_id}, run {report.stored.run_id}",
    ]
    tables = proxy_tables(report.evaluation.proxies, checkpoint.name, width)
    return Group(*tables, *map(plain, lines))


def _gap_lines(proxies: Sequence[Proxy]) -> Iterator[str]:
    """Yield strict and lenient pass@1 and the format gap of each benchmark where they differ."""
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    for (benchmark, name), gap in cells.items():
        strict = cells.get((benchmark, "pass_at_1"))
        lenient = cells.get((benchmark, "lenient_pass_at_1"))
        if name == "format_gap" and gap.value and strict and lenient:
            yield (
                f"{benchmark}: pass@1 is {with_error(strict)} in the answer format asked for and "
                f"{with_error(lenient)} with the answer anywhere; format gap {with_error(gap)}"
            )


def _bounds_lines(
    bounds: Mapping[str, Mapping[str, Mapping[str, float | int]]],
) -> Iterator[str]:
    """Yield the bounds of each pass@k over all possible verdicts of the UNSCORED samples."""
    for benchmark, bounds_by_name in bounds.items():
        for name, ends in bounds_by_name.items():
            n = int(ends["n_left_out"])
            left_out = f"; leaves {n} problem{'s' if n > 1 else ''} out" if n else ""
            yield (
                f"{benchmark}: {name} of all problems is {ends['lower']:.4f} if every unscored "
                f"sample is wrong, {ends['upper']:.4f} if every one is right{left_out}"
            )


def _stage_line(name: str, stage: Any) -> str:
    rate = f", {stage['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in stage else ""
    per_s = f", {stage['per_s']:,.1f}/s" if "per_s" in stage and name != "logging" else ""
    beside = f" and {stage['beside_seconds']:.1f} s beside" if "beside_seconds" in stage else ""
    return f"{name}: {stage['seconds']:.1f} s{beside}{per_s}{rate}"


def evaluations_view(results: Results) -> RenderableType:
    """Return a table with a row per measured checkpoint, and their warnings."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    n_all = len(results.evaluations) + len(results.failed)
    table = Table(
        title=f"{len(results.evaluations)} of {n_all} checkpoints measured",
        caption="value ± standard error over problems (of the loss: over examples)",
    )
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    for report in results.evaluations:
        table.add_row(*map(Text, _row(report)))
    warnings = [
        Text(f"note: {report['name']}: {warning}")
        for report in results.evaluations
        for warning in report["warnings"]
    ]
    return Group(*([table] if results.evaluations else []), *warnings)


def _row(report: Mapping[str, Any]) -> list[str]:
    metrics = report["metrics"]
    # The suite's mean stands after its benchmarks; a single benchmark is its own summary.
    sampled = [name for name, proxies in metrics.items() if any(map(_k, proxies))]
    summary = metrics[sampled[-1]] if sampled else {}
    largest = max(filter(_k, summary), key=_k, default="")
    losses = [each["heldout_nll"] for each in metrics.values() if "heldout_nll" in each]
    return [
        report["checkpoint_id"][:12],
        report["name"],
        sampled[-1] if sampled else "",
        _value(summary.get("pass_at_1") or summary.get("pass_at_1_est")),
        f"@{_k(largest)} {_value(summary[largest])}" if largest and _k(largest) > 1 else "",
        _value(losses[0] if losses else None),
        f"{report['samples']['drawn']:,}",
        f"{report['samples']['found']:,}",
        "logged" if report["is_new"] else "was there",
    ]


def _k(name: str) -> int:
    """Return the k of a pass@k, measured or estimated; 0 for any other proxy."""
    match = re.fullmatch(r"pass_at_(\d+)(_est)?", name)
    return int(match[1]) if match else 0


def _value(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    se = "" if entry["se"] is None else f" ± {entry['se']:.4f}"
    return f"{entry['value']:.4f}{se}"
