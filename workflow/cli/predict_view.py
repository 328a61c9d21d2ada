"""A fit, a ranking and a plan as text and tables for a terminal."""

from __future__ import annotations

from typing import Any

from rlready.predictors.decisions.ranking import RankedRow, Ranking
from rlready.workflow.cli.validate_view import validation_view
from rlready.workflow.predict.fit import FitReport
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.terminal import table

_MOST_REASONS = 3


def fit_view(report: FitReport, width: int) -> list[Any]:
    """Return the data and the scores of a fitted predictor, and its address in the registry."""
    training = report.data.table
    n = len(training.with_outcome())
    state = "stored" if report.stored.is_new else "already stored, nothing new"
    return [
        f"{report.model} on {n} checkpoints with {report.data.target}"
        + (f", {len(training) - n} without it" if n < len(training) else ""),
        f"proxies: {', '.join(column.name for column in training.columns)}",
        f"groups: {', '.join(report.data.groups) or 'one'}",
        report.signal,
        *(f"note: {note}" for note in report.data.notes),
        *validation_view(report.validation, report.model, width),
        f"predictor {report.stored.meta.uri}: {state}; `rlready rank` and `rlready plan` use it",
    ]


def ranking_view(ranking: Ranking, applied: AppliedPredictor) -> list[Any]:
    """Return the checkpoints in order, and the reasons of the first ones."""
    best = [str(one) for one in ranking.best.values()]
    match = best[0] if len(best) == 1 else "the best known of its group"
    words = ("checkpoint", "ready", "domain")
    top = f"P(top {ranking.top_n})"
    numbers = ("predicted", "interval", "recorded", "expected", "P(best)", top, "P(match)")
    headings = ("", "checkpoint", *numbers)
    ranked = table(
        f"{ranking.target} after RL, by {applied.meta.uri}",
        (*headings, "ready", "domain"),
        [_cells(row) for row in ranking.rows],
        caption=f"predicted: without the checkpoint's own outcome, with the {ranking.interval} "
        "interval of one RL run; expected: true score, from the prediction and the recorded "
        f"outcome; P(match): chance to end within delta of {match}",
        words=words,
        unbroken=(*headings, *words),
    )
    reasons = [
        f"{row.id}: " + "; ".join(row.reasons[:_MOST_REASONS])
        for row in ranking.rows[:_MOST_REASONS]
    ]
    return [ranked, *reasons]


def _cells(row: RankedRow) -> list[str]:
    return [
        "" if row.rank is None else str(row.rank),
        row.id,
        f"{row.predicted:.4g}",
        f"{row.low:.3g} .. {row.high:.3g}",
        "" if row.recorded is None else f"{row.recorded:.4g}",
        f"{row.expected:.4g}",
        "" if row.p_best is None else f"{row.p_best:.2f}",
        "" if row.p_top is None else f"{row.p_top:.2f}",
        f"{row.p_match:.2f}",
        row.readiness.name.lower().replace("_", " "),
        row.mark or row.domain,
    ]
