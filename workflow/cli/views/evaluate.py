"""Show results of `evaluate` as text and tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlready.workflow.cli.views.checkpoint import SUMMARY, proxy_tables, summary, with_error
from rlready.workflow.terminal import table

if TYPE_CHECKING:
    from rlready.registry.records import Proxy
    from rlready.workflow.evaluate.many import Results
    from rlready.workflow.evaluate.report import Report


def evaluation_view(report: Report, width: int) -> list[Any]:
    """Return the proxies, verdicts and times of one evaluation, and where it is stored."""
    checkpoint = report.evaluation.checkpoint
    state = "logged" if report.stored.is_new else "already stored, nothing new"
    return [
        *proxy_tables(report.evaluation.proxies, checkpoint.name, width),
        f"samples: {report.n_drawn:,} drawn now, {report.n_found:,} reused",
        *(
            f"{benchmark}: " + ", ".join(f"{n:,} {verdict}" for verdict, n in counts.items() if n)
            for benchmark, counts in report.verdicts.items()
        ),
        *_gap_lines(report.evaluation.proxies),
        *(
            [f"adapter: {report.adapter['use']}, on the base model {report.adapter['base']}"]
            if report.adapter
            else []
        ),
        *_bounds_lines(report.bounds),
        *(_stage_line(name, stage) for name, stage in report.stages.items()),
        f"checkpoint {checkpoint.id[:12]} ({checkpoint.name}): {state}; "
        f"model {report.stored.model_id}, run {report.stored.run_id}",
    ]


def _gap_lines(proxies: Sequence[Proxy]) -> Iterator[str]:
    """Yield a line per benchmark on which strict and lenient pass@1 differ."""
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    for (benchmark, name), gap in cells.items():
        strict = cells.get((benchmark, "pass_at_1"))
        lenient = cells.get((benchmark, "lenient_pass_at_1"))
        if name == "format_gap" and gap.value and strict and lenient:
            shown = [with_error(proxy.value, proxy.se) for proxy in (strict, lenient, gap)]
            yield (
                f"{benchmark}: pass@1 is {shown[0]} in the requested answer format and {shown[1]} "
                f"with the answer anywhere; format gap {shown[2]}"
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


def _stage_line(name: str, stage: Mapping[str, float | int]) -> str:
    rate = f", {stage['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in stage else ""
    per_s = f", {stage['per_s']:,.1f}/s" if "per_s" in stage and name != "logging" else ""
    beside = f" and {stage['beside_seconds']:.1f} s beside" if "beside_seconds" in stage else ""
    return f"{name}: {stage['seconds']:.1f} s{beside}{per_s}{rate}"


def evaluations_view(results: Results) -> list[Any]:
    """Return a table with a row per measured checkpoint, and their warnings."""
    n_all = len(results.evaluations) + len(results.failed)
    rows = [
        [
            report["checkpoint_id"][:12],
            report["name"],
            *summary(report["metrics"]),
            f"{report['samples']['drawn']:,}",
            f"{report['samples']['found']:,}",
            "logged" if report["is_new"] else "already stored",
        ]
        for report in results.evaluations
    ]
    evaluations = table(
        f"{len(rows)} of {n_all} checkpoints measured",
        ("id", "name", *SUMMARY, "drawn", "reused", "state"),
        rows,
        caption="value ± standard error over problems (of the loss: over examples)",
        words=("id", "name", "measured on", "state"),
    )
    notes = [
        f"note: {report['name']}: {warning}"
        for report in results.evaluations
        for warning in report["warnings"]
    ]
    return [*([evaluations] if rows else []), *notes]
