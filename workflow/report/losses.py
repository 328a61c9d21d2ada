"""Held-out loss over SFT steps, with the regime of each checkpoint in its SFT run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlready.predictors.decisions.start_check import StartRule
from rlready.workflow.report.evidence import Evidence, shown_proxy
from rlready.workflow.report.parts import Cell, Column, Figure, Section, Table
from rlready.workflow.report.plot import Plot, widened
from rlready.workflow.report.ranking import number

_LOSS = "heldout_nll@"
_RULE = StartRule()
_MOST_RUNS = 30
_STYLES = {"before its minimum": "faint", "minimum": "plan", "stable": "plan",
           "mild overfitting": "third", "severe overfitting": "practice"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A checkpoint of an SFT run: its step, loss and regime."""

    name: str
    step: int
    loss: float
    ratio: float
    regime: str


def losses_section(evidence: Evidence) -> Section | None:
    """Return the section on losses over SFT steps; None if no SFT run has two checkpoints."""
    columns = [str(name) for name in evidence.data.frame if str(name).startswith(_LOSS)]
    runs = {name: _runs(evidence, name) for name in columns}
    best = max(columns, key=lambda name: sum(map(len, runs[name])), default="")
    if not runs.get(best):
        return None
    words = (
        f"{_capital(shown_proxy(best))}, nats per token, of {len(runs[best])} SFT runs with two "
        "checkpoints or more. A run is the checkpoints of one recipe. The regime is the ratio to "
        f"the lowest loss of the run: stable up to {_RULE.stable_ratio:g}, severe overfitting from "
        f"{_RULE.severe_ratio:g} (arXiv 2512.11470)."
    )
    return Section(
        id="losses",
        title="Loss over SFT steps",
        words=[words],
        figures=[_figure(best, runs[best])],
        tables=[_table(best, runs[best])],
    )


def _runs(evidence: Evidence, column: str) -> list[list[_Point]]:
    """Return the points of each recipe with losses at two steps or more, by step."""
    frame, names = evidence.data.frame, evidence.data.names
    if "step" not in frame:
        return []
    recipe = [str(name) for name in frame if str(name).startswith("recipe.")]
    rows = np.flatnonzero(frame["step"].notna() & frame[column].notna())
    # Without a recipe nothing tells which checkpoints are of one run.
    rows = rows[frame[recipe].notna().any(axis=1).to_numpy()[rows]] if recipe else rows[:0]
    keys = map(tuple, frame[recipe].iloc[rows].astype(str).to_numpy().tolist())
    steps, losses = frame["step"].to_numpy(), frame[column].to_numpy()
    by_recipe: dict[tuple[str, ...], list[tuple[int, float, str]]] = {}
    for i, key in zip(rows, keys, strict=True):
        by_recipe.setdefault(key, []).append((int(steps[i]), float(losses[i]), names[i]))
    # The same step twice means that two runs had one recipe.
    return [
        _points(sorted(points))
        for points in by_recipe.values()
        if len({step for step, *_ in points}) == len(points) > 1
    ]


def _points(points: Sequence[tuple[int, float, str]]) -> list[_Point]:
    lowest = min(loss for _, loss, _ in points)
    at = next(step for step, loss, _ in points if loss == lowest)
    found = []
    for step, loss, name in points:
        ratio = loss / lowest if lowest > 0 else 1.0
        if step == at:
            regime = "minimum"
        elif step < at:
            regime = "before its minimum"
        elif ratio <= _RULE.stable_ratio:
            regime = "stable"
        else:
            severe = ratio >= _RULE.severe_ratio
            regime = "severe overfitting" if severe else "mild overfitting"
        found.append(_Point(name=name, step=step, loss=loss, ratio=ratio, regime=regime))
    return found


def _figure(column: str, runs: Sequence[Sequence[_Point]]) -> Figure:
    shown = runs[:_MOST_RUNS]
    every = [point for run in shown for point in run]
    steps = [float(point.step) for point in every]
    plot = Plot(x=widened(steps), y=widened([point.loss for point in every]))
    plot.axes("SFT step", "held-out loss")
    for run in shown:
        plot.path([(float(point.step), point.loss) for point in run], "thin faint")
    for point in every:
        words = f"{point.name}: {point.loss:.4g} at step {point.step}, {point.regime}"
        plot.dot((float(point.step), point.loss), _STYLES[point.regime], words)
    plot.key("dot faint", "before its minimum")
    plot.key("dot plan", "minimum, or stable after it")
    plot.key("dot third", "mild overfitting")
    plot.key("dot practice", "severe overfitting")
    counts = [sum(point.regime == regime for point in every) for regime in _STYLES]
    text = (
        f"{_capital(shown_proxy(column))} against the SFT step of {len(shown)} runs. Checkpoints: "
        + (", ".join(f"{n} {regime}" for n, regime in zip(counts, _STYLES, strict=True) if n) + ".")
    )
    return plot.figure("losses-figure", _capital(shown_proxy(column)), text)


def _table(column: str, runs: Sequence[Sequence[_Point]]) -> Table:
    return Table(
        id="losses-table",
        caption=f"{_capital(shown_proxy(column))} by SFT run and step. Ratio: to the lowest loss "
        "of the run.",
        columns=[
            Column(title="checkpoint", key="checkpoint", is_number=False),
            Column(title="run", key="run"),
            Column(title="step", key="step"),
            Column(title="loss", key="loss"),
            Column(title="ratio", key="ratio"),
            Column(title="regime", key="regime", is_number=False),
        ],
        rows=[
            [
                Cell(value=point.name),
                Cell(value=k),
                Cell(value=point.step),
                number(point.loss),
                number(point.ratio, ".3f"),
                Cell(value=point.regime),
            ]
            for k, run in enumerate(runs, 1)
            for point in run
        ],
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
