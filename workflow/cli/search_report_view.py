"""The report of a search for people: a table, CSV files, and pictures of surface and front."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.records import Recipe
from rlready.workflow.search.folder import write_text
from rlready.workflow.search.report import RankedRecipe, SearchReport

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN, _SHOWN_STOPPED = 15, 5
_BLUE, _DOT, _GREY = "#1b6ca8", "#d98c1f", "#999999"


def write_report(report: SearchReport, folder: Path) -> list[Path]:
    """The files of a report: ranking and surface as CSV, surface and front as pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    ranking, surface = folder / "ranking.csv", folder / "surface.csv"
    write_text(ranking, _ranking_csv(report))
    write_text(surface, _csv([asdict(point) for point in report.surface]))
    files = [ranking, surface, draw_surface(folder / "surface.png", report)]
    if report.cost is not None:
        files.append(draw_front(folder / "front.png", report))
    return files


def draw_surface(path: Path, report: SearchReport) -> Path:
    """Draw predicted outcome against the weight of each source, with bands; returns the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sources = list(dict.fromkeys(point.source for point in report.surface))
    columns = min(3, len(sources))
    n_rows = -(-len(sources) // columns)
    figure, panels = plt.subplots(
        n_rows,
        columns,
        figsize=(3.6 * columns + 0.6, 3.0 * n_rows + 0.5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
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
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def draw_front(path: Path, report: SearchReport) -> Path:
    """Draw predicted outcome against predicted cost, with the front; returns the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for row in report.rows:
        if row.predicted_cost is not None:
            color = _BLUE if row.on_front else _GREY
            axes.errorbar(
                row.predicted_cost,
                row.predicted,
                xerr=row.cost_sd,
                yerr=row.sd,
                fmt="o",
                ms=4,
                color=color,
                elinewidth=0.7,
            )
    front = sorted(
        (row.predicted_cost, row.predicted)
        for row in report.rows
        if row.on_front and row.predicted_cost is not None
    )
    axes.plot([cost for cost, _ in front], [y for _, y in front], color=_BLUE, linewidth=1.2)
    axes.set_xlabel(str(report.cost))
    axes.set_ylabel("outcome")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{report.study}: predicted outcome and cost (bars: 1 sd; line: front)")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def report_view(report: SearchReport) -> RenderableType:
    """The ranking as a table for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    states = ", ".join(f"{n} {name}" for name, n in report.states.items())
    shown = (*report.rows[:_SHOWN], *report.untried)
    columns = _columns(report)
    table = Table(title=Text(f"study {report.study}: {states}"))
    for heading in columns:
        is_number = heading in ("trial", "value", "GPU-h", report.cost)
        table.add_column(heading, justify="right" if is_number else "left")
    for row in shown:
        table.add_row(*(Text(cell(row)) for cell in columns.values()))
    return Group(table, *(Text(note) for note in dict.fromkeys(_notes(report))))


def _columns(report: SearchReport) -> dict[str, Callable[[RankedRecipe], str]]:
    columns: dict[str, Callable[[RankedRecipe], str]] = {
        "trial": lambda row: "next" if row.trial is None else str(row.trial),
        "from": lambda row: row.origin,
        "value": lambda row: _number(row.value) + ("*" if row.is_predicted else ""),
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
    columns["mixture"] = lambda row: _mixture(row.recipe)
    columns["settings"] = lambda row: _settings(row.recipe)
    return columns


def _notes(report: SearchReport) -> list[str]:
    notes = [f"one run scatters by {report.noise_sd:.2g} around its recipe's outcome"]
    if report.gpu_hours is not None:
        notes.append(f"{report.gpu_hours:.4g} GPU-hours in all trials")
    for one in report.stopped[:_SHOWN_STOPPED]:
        foreseen = "" if one["foreseen"] is None else f"; foreseen {one['foreseen']:.4g}"
        notes.append(f"stopped: trial {one['trial']}, {one['reason']}{foreseen}")
    if len(report.stopped) > _SHOWN_STOPPED:
        notes.append(f"{len(report.stopped) - _SHOWN_STOPPED} more stopped trials: --json")
    if any(row.is_predicted for row in report.rows):
        notes.append("* a prediction: RL was not run from it")
    if len(report.rows) > _SHOWN:
        notes.append(f"{len(report.rows) - _SHOWN} more finished recipes: --json, ranking.csv")
    return notes + [f"next: {row.domain}, {row.reason}" for row in report.untried if row.reason]


def _shown_range(report: SearchReport) -> tuple[float, float]:
    """The band and the runs near it: one failed run must not flatten every line."""
    low = min(point.low for point in report.surface)
    high = max(point.high for point in report.surface)
    values = [row.value for row in report.rows if row.value is not None]
    near = 0.3 * (high - low) or 1.0
    edge = 0.04 * (high - low)
    return (
        max(min(low, *values), low - near) - edge,
        min(max(high, *values), high + near) + edge,
    )


def _by_place(
    dots: Sequence[tuple[float, float]], low: float, high: float
) -> dict[str, list[tuple[float, float]]]:
    """(x, y) by the marker that says whether they lie in the picture, below or above it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for x, y in dots:
        marker = "v" if y < low else "^" if y > high else "o"
        found.setdefault(marker, []).append((x, min(max(y, low), high)))
    return found


def _draw_source(axes: Any, source: str, report: SearchReport) -> None:
    own = [point for point in report.surface if point.source == source]
    weights = [point.weight for point in own]
    axes.fill_between(
        weights, [p.low for p in own], [p.high for p in own], color=_BLUE, alpha=0.18, linewidth=0
    )
    axes.plot(weights, [p.predicted for p in own], color=_BLUE, linewidth=1.6)
    out = [p for p in own if p.domain == "out"]
    axes.plot([p.weight for p in out], [p.predicted for p in out], "x", color="#b03a5b", ms=4)
    low, high = _shown_range(report)
    for is_predicted in (False, True):
        dots = [
            (row.recipe.sources[source], row.value)
            for row in report.rows
            if row.is_predicted == is_predicted and row.value is not None
        ]
        for marker, there in _by_place(dots, low, high).items():
            axes.scatter(
                *zip(*there, strict=True),
                s=12,
                marker=marker,
                edgecolors=_DOT,
                facecolors="none" if is_predicted else _DOT,
                zorder=3,
                clip_on=False,
            )
    axes.set_ylim(low, high)
    axes.axvline(report.rows[0].recipe.sources[source], color=_GREY, lw=0.8, ls="--")
    axes.set_xlabel(f"weight of {source}" + (" (x: out of domain)" if out else ""))
    axes.spines[["top", "right"]].set_visible(False)


def _ranking_csv(report: SearchReport) -> str:
    rows = []
    for row in (*report.rows, *report.untried):
        values = row.recipe.to_dict()
        sources = values.pop("sources", {})
        facts = {k: v for k, v in asdict(row).items() if k != "recipe"}
        weights = {f"sources.{name}": weight for name, weight in sources.items()}
        rows.append({**facts, **weights, **values})
    return _csv(rows)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _mixture(recipe: Recipe) -> str:
    weights = sorted(recipe.sources.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight:.2f}" for name, weight in weights if weight >= 0.005)


def _settings(recipe: Recipe) -> str:
    others = {k: v for k, v in recipe.to_dict().items() if k not in ("sources", "base_model")}
    said = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in others.items()]
    return ", ".join(said)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
