"""Show the report of a search: a table, CSV files, and pictures of surface and front."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.workflow.search.folder import write_text
from rlready.workflow.search.report import RankedRecipe, SearchReport
from rlready.workflow.terminal import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN, _SHOWN_STOPPED = 15, 5
_LEAST_WEIGHT = 0.005
_BLUE, _DOT, _GREY = "#1b6ca8", "#d98c1f", "#999999"


def write_report(report: SearchReport, folder: Path) -> list[Path]:
    """Write ranking and surface as CSV, surface and front as pictures. Return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    ranking, surface = folder / "ranking.csv", folder / "surface.csv"
    write_text(ranking, _csv([_ranking_row(row) for row in (*report.rows, *report.untried)]))
    write_text(surface, _csv([asdict(point) for point in report.surface]))
    pictures = {"surface.png": _surface(report)}
    if report.cost is not None:
        pictures["front.png"] = _front(report)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=130)
    return [ranking, surface, *(folder / name for name in pictures)]


def _surface(report: SearchReport) -> Figure:
    """Draw the predicted outcome against the weight of each source, with a 90 % band."""
    from matplotlib.figure import Figure

    sources = list(dict.fromkeys(point.source for point in report.surface))
    n_columns = min(3, len(sources))
    n_rows = -(-len(sources) // n_columns)
    size = (3.6 * n_columns + 0.6, 3.0 * n_rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for axes, source in zip(panels.flat, sources, strict=False):
        _draw_source(axes, source, report)
    for axes in panels.flat[len(sources) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("outcome")
    figure.suptitle(
        f"{report.study}: predicted outcome against weight, from the best recipe "
        "(band 90 %, dots: finished runs, hollow: predicted, triangles: beyond the axis)",
        fontsize=10,
    )
    return figure


def _front(report: SearchReport) -> Figure:
    """Draw the predicted outcome against the predicted cost, with the front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in report.rows if row.predicted_cost is not None]
    for row in rows:
        axes.errorbar(
            row.predicted_cost or 0.0,
            row.predicted,
            xerr=row.cost_sd,
            yerr=row.sd,
            fmt="o",
            ms=4,
            color=_BLUE if row.on_front else _GREY,
            elinewidth=0.7,
        )
    front = sorted((row.predicted_cost or 0.0, row.predicted) for row in rows if row.on_front)
    axes.plot([cost for cost, _ in front], [y for _, y in front], color=_BLUE, linewidth=1.2)
    axes.set_xlabel(str(report.cost))
    axes.set_ylabel("outcome")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{report.study}: predicted outcome and cost (bars: 1 sd; line: front)")
    return figure


def report_view(report: SearchReport) -> list[Any]:
    """Return the ranking as a table, and notes."""
    states = ", ".join(f"{n} {name}" for name, n in report.states.items())
    columns = _columns(report)
    rows = [
        [cell(row) for cell in columns.values()] for row in (*report.rows[:_SHOWN], *report.untried)
    ]
    words = columns.keys() - {"trial", "value", "GPU-h", report.cost}
    ranking = table(f"study {report.study}: {states}", list(columns), rows, words=words)
    return [ranking, *dict.fromkeys(_notes(report))]


def _columns(report: SearchReport) -> dict[str, Callable[[RankedRecipe], str]]:
    columns: dict[str, Callable[[RankedRecipe], str]] = {
        "trial": lambda row: "next" if row.trial is None else str(row.trial),
        "from": lambda row: row.origin,
        "value": lambda row: _number(row.value),
        "basis": lambda row: row.basis.partition(",")[0],
        "predicted": lambda row: f"{row.predicted:.4g}",
        "90 %": lambda row: f"{row.low:.3g} to {row.high:.3g}",
        "domain": lambda row: row.domain,
    }
    if report.cost is not None:
        columns[report.cost] = lambda row: _number(row.cost)
        columns["predicted cost"] = lambda row: (
            f"{row.predicted_cost:.3g} +- {row.cost_sd:.2g}{' front' if row.on_front else ''}"
        )
    if report.gpu_hours is not None and report.cost != "gpu_hours":
        columns["GPU-h"] = lambda row: _number(row.gpu_hours)
    columns["mixture"] = lambda row: ", ".join(
        f"{name} {weight:.2f}"
        for name, weight in sorted(row.recipe.sources.items(), key=lambda item: -item[1])
        if weight >= _LEAST_WEIGHT
    )
    columns["settings"] = lambda row: ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.recipe.to_dict().items()
        if key not in ("sources", "base_model")
    )
    return columns


def _notes(report: SearchReport) -> list[str]:
    notes = list(report.notes) + ([] if report.outlook is None else [report.outlook.text])
    notes += [f"one run varies by {report.noise_sd:.2g} (sd) around its recipe's outcome"]
    if report.gpu_hours is not None:
        notes.append(f"{report.gpu_hours:.4g} GPU-hours in all trials")
    for one in report.stopped[:_SHOWN_STOPPED]:
        foreseen = "" if one["foreseen"] is None else f"; foreseen {one['foreseen']:.4g}"
        notes.append(f"stopped: trial {one['trial']}, {one['reason']}{foreseen}")
    if len(report.stopped) > _SHOWN_STOPPED:
        notes.append(f"{len(report.stopped) - _SHOWN_STOPPED} more stopped trials: --json")
    if len(report.rows) > _SHOWN:
        notes.append(f"{len(report.rows) - _SHOWN} more finished recipes: --json, ranking.csv")
    return notes + [f"next: {row.domain}, {row.reason}" for row in report.untried if row.reason]


def _shown_range(report: SearchReport) -> tuple[float, float]:
    """Return the range of the band and of runs near it, so a failed run does not flatten it."""
    low = min(point.low for point in report.surface)
    high = max(point.high for point in report.surface)
    values = [row.value for row in report.rows if row.value is not None]
    near = 0.3 * (high - low) or 1.0
    edge = 0.04 * (high - low)
    return (
        max(min(low, *values), low - near) - edge,
        min(max(high, *values), high + near) + edge,
    )


def _draw_source(axes: Any, source: str, report: SearchReport) -> None:
    points = [point for point in report.surface if point.source == source]
    weights = [p.weight for p in points]
    lows, highs = [p.low for p in points], [p.high for p in points]
    axes.fill_between(weights, lows, highs, color=_BLUE, alpha=0.18, linewidth=0)
    axes.plot(weights, [p.predicted for p in points], color=_BLUE, linewidth=1.6)
    out = [p for p in points if p.domain == "out"]
    axes.plot([p.weight for p in out], [p.predicted for p in out], "x", color="#b03a5b", ms=4)
    low, high = _shown_range(report)
    for row in report.rows:
        if row.value is not None:
            axes.scatter(
                row.recipe.sources[source],
                min(max(row.value, low), high),
                s=12,
                marker="v" if row.value < low else "^" if row.value > high else "o",
                edgecolors=_DOT,
                facecolors="none" if row.is_predicted else _DOT,
                zorder=3,
                clip_on=False,
            )
    axes.set_ylim(low, high)
    axes.axvline(report.rows[0].recipe.sources[source], color=_GREY, lw=0.8, ls="--")
    axes.set_xlabel(f"weight of {source}" + (" (x: out of domain)" if out else ""))
    axes.spines[["top", "right"]].set_visible(False)


def _ranking_row(row: RankedRecipe) -> dict[str, Any]:
    values = row.recipe.to_dict()
    sources = values.pop("sources", {})
    facts = {key: value for key, value in asdict(row).items() if key != "recipe"}
    return {**facts, **{f"sources.{name}": weight for name, weight in sources.items()}, **values}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
