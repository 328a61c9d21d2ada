"""The response surface of a recipe search, as a section of the report and as a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rlready.workflow.report.parts import Cell, Column, Figure, Interval, Report, Section, Table
from rlready.workflow.report.plot import Plot, widened
from rlready.workflow.report.ranking import number

if TYPE_CHECKING:
    from rlready.workflow.search.report import RankedRecipe, SearchReport, SurfacePoint

_MOST_SOURCES = 12
_LEAST_WEIGHT = 0.005


def study_page(report: SearchReport, made_at: datetime) -> Report:
    """Return the page of `rlready search report`.

    Example:
        >>> study_page(search_report(study, space), datetime.now(UTC)).verdict  # doctest: +SKIP
        'Best recipe so far: trial 7, predicted 0.61 (90 % 0.58 to 0.64). Next to try: ...'
    """
    states = ", ".join(f"{n} {name}" for name, n in report.states.items())
    return Report(
        title=f"Which recipe should be trained next? Study {report.study}",
        subtitle=f"Trials: {states}; {made_at:%Y-%m-%d %H:%M} UTC",
        verdict=_verdict(report),
        chosen={},
        remarks=[f"One run varies by {report.noise_sd:.2g} (sd) around its recipe."],
        missing=[],
        sections=[study_section(report)],
        facts={},
    )


def study_section(report: SearchReport, *, with_verdict: bool = False) -> Section:
    """Return the section with the response surface and the recipes of a study."""
    sources = list(dict.fromkeys(point.source for point in report.surface))
    words = [
        f"Study {report.study}: predicted outcome of a recipe, from {len(report.rows)} finished "
        "trials. Each figure begins at the best recipe and moves the weight of one source; the "
        "others keep their proportions as far as floors and caps allow. Bands: 90 %.",
    ]
    if with_verdict:
        words.insert(0, _verdict(report))
    notes = [f"Next: {row.domain} of the domain, {row.reason}" for row in report.untried
             if row.reason]  # fmt: skip
    notes += report.notes
    if len(sources) > _MOST_SOURCES:
        notes.append(f"{len(sources) - _MOST_SOURCES} more sources: see the CSV of the surface.")
    return Section(
        id="study",
        title="Response surface of the recipe search",
        words=words,
        figures=[_figure(report, source, k) for k, source in enumerate(sources[:_MOST_SOURCES])],
        tables=[_recipes(report), _surface(report.surface)],
        notes=list(dict.fromkeys(notes)),
    )


def _verdict(report: SearchReport) -> str:
    best = report.rows[0]
    told = "" if best.value is None or best.is_predicted else f", measured {best.value:.4g}"
    text = (
        f"Best recipe so far: trial {best.trial} ({_mixture(best)}), predicted "
        f"{best.predicted:.4g} (90 % {best.low:.3g} to {best.high:.3g}){told}."
    )
    if report.untried:
        after = report.untried[0]
        text += f" Next to try: {_mixture(after)}, predicted {after.predicted:.4g} "
        text += f"({after.low:.3g} to {after.high:.3g})."
    if report.outlook is not None:
        text += f" {report.outlook.text[0].upper()}{report.outlook.text[1:]}."
    return text


def _figure(report: SearchReport, source: str, place: int) -> Figure:
    points = [point for point in report.surface if point.source == source]
    rows = [row for row in report.rows if row.value is not None]
    ends = [end for point in report.surface for end in (point.low, point.high)]
    low, high = widened(ends)
    weights = [point.weight for point in points]
    plot = Plot(x=(min(weights), max(weights)), y=(low, high), height=300.0)
    plot.axes(f"weight of {source}", "outcome")
    plot.band([(p.weight, p.low) for p in points], [(p.weight, p.high) for p in points], "plan")
    plot.path([(p.weight, p.predicted) for p in points], "plan", f"predicted, by {source}")
    n_out = 0
    for row in rows:
        weight, value = row.recipe.sources.get(source, 0.0), row.value or 0.0
        if not (low <= value <= high and weights[0] <= weight <= weights[-1]):
            n_out += 1
            continue
        style = "faint" if row.is_predicted else "practice"
        plot.dot((weight, value), style, f"trial {row.trial}: {value:.4g} at {weight:.2f}", 3.0)
    plot.key("line plan", "predicted")
    plot.key("band plan", "90 %")
    plot.key("dot practice", "finished trial")
    if any(row.is_predicted for row in rows):
        plot.key("dot faint", "its value is a prediction")
    best = max(points, key=lambda point: point.predicted)
    text = (
        f"Predicted outcome against the weight of {source}: {points[0].predicted:.3g} at "
        f"{points[0].weight:.2f}, {points[-1].predicted:.3g} at {points[-1].weight:.2f}, best "
        f"{best.predicted:.3g} at {best.weight:.2f}."
    )
    if n_out:
        text += f" {n_out} trials lie outside the figure."
    if any(point.domain == "out" for point in points):
        text += " Some weights are outside the domain of the finished trials."
    return plot.figure(f"surface-{place}", f"Weight of {source}", text)


def _recipes(report: SearchReport) -> Table:
    def cells(row: RankedRecipe) -> list[Cell]:
        bar = Interval(low=row.low, high=row.high, value=row.predicted, recorded=row.value)
        text = f"{row.predicted:.4g}, {row.low:.3g} to {row.high:.3g}"
        name = "next" if row.trial is None else f"trial {row.trial}"
        details = [f"{key}: {value}" for key, value in row.recipe.to_dict().items()
                   if key != "sources"]  # fmt: skip
        return [
            Cell(value=name, details=[*details, *filter(None, [row.reason])]),
            Cell(value=row.origin or "surrogate"),
            Cell(value=row.predicted, text=text, interval=bar),
            number(row.low),
            number(row.high),
            number(row.value),
            number(row.cost if row.cost is not None else row.predicted_cost),
            number(row.gpu_hours, ".3g"),
            Cell(value=row.domain),
            Cell(value=_mixture(row)),
        ]

    has_cost = report.cost is not None
    has_hours = report.gpu_hours is not None and report.cost != "gpu_hours"
    return Table(
        id="recipes-table",
        caption="Recipes by their predicted outcome, without the noise of a run; last, those to "
        "try next. Bar: interval, dot: prediction, upright stroke: value that the study was told.",
        columns=[
            Column(title="recipe", key="recipe", is_number=False),
            Column(title="from", key="origin", is_number=False),
            Column(title="predicted, 90 % interval", key="predicted"),
            Column(title="", key="low", is_shown=False),
            Column(title="", key="high", is_shown=False),
            Column(title="told", key="value"),
            Column(title=report.cost or "cost", key="cost", is_shown=has_cost),
            Column(title="GPU-h", key="gpu_hours", is_shown=has_hours),
            Column(title="domain", key="domain", is_number=False),
            Column(title="mixture", key="mixture", is_number=False),
        ],
        rows=[cells(row) for row in (*report.rows, *report.untried)],
    )


def _surface(points: Sequence[SurfacePoint]) -> Table:
    return Table(
        id="surface-table",
        caption="The lines of the figures: predicted outcome by source and weight.",
        columns=[
            Column(title="source", key="source", is_number=False),
            Column(title="weight", key="weight"),
            Column(title="predicted", key="predicted"),
            Column(title="from", key="low"),
            Column(title="to", key="high"),
            Column(title="domain", key="domain", is_number=False),
        ],
        rows=[
            [
                Cell(value=point.source),
                number(point.weight, ".3f"),
                *map(number, (point.predicted, point.low, point.high)),
                Cell(value=point.domain),
            ]
            for point in points
        ],
    )


def _mixture(row: RankedRecipe) -> str:
    weights = sorted(row.recipe.sources.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {w:.2f}" for name, w in weights if w >= _LEAST_WEIGHT)
