"""A ranking and a plan from public outcomes, as text and tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlready.predictors.decisions.prior_ranking import (
    PAPER_RULE,
    PriorRanking,
    PriorRow,
    match_in_words,
)
from rlready.workflow.cli.predict_view import plan_view
from rlready.workflow.predict.first_day import PriorPlan
from rlready.workflow.terminal import table

_MOST_REASONS = 3


def prior_ranking_view(ranking: PriorRanking, notes: Sequence[str]) -> list[Any]:
    """Return the checkpoints in order, what the order rests on, and the reasons of the first."""
    groups = list(dict.fromkeys(row.group for row in ranking.rows))
    has_unit = any(row.predicted is not None for row in ranking.rows)
    has_marks = any(row.mark for row in ranking.rows)
    words = ["checkpoint", *["group"] * (len(groups) > 1)]
    top = f"P(top {ranking.top_n})"
    headings = ["", *words, "standing", *["recorded", "expected", "interval"] * has_unit]
    headings += ["P(best)", top, "P(match)", "paper's rule", *["note"] * has_marks]
    ranked = table(
        f"{ranking.target}: order {ranking.source}",
        headings,
        [_cells(row, len(groups) > 1, has_unit, has_marks) for row in ranking.rows],
        caption="standing: expected score beside the group's mean, in sd of the scores there; "
        + (f"{ranking.level:.0%} interval of one RL run; " if has_unit else "")
        + f"P(match): chance to end {match_in_words()} or better",
        words=[*words, "note"],
        unbroken=headings,
    )
    return [
        ranked,
        *_basis(ranking),
        *(f"note: {note}" for note in notes),
        *(f"{row.id}: {'; '.join(row.reasons)}" for row in ranking.rows[:_MOST_REASONS]),
        "readiness: undecided for all; READY and the alias rl-ready take a predictor of your own "
        "outcomes (5 or more: `rlready fit`)",
    ]


def prior_plan_view(plan: PriorPlan) -> list[Any]:
    """Return the chosen checkpoints, the expected regrets, and what they rest on."""
    regrets, *others = plan_view(plan.report)
    regrets.title = f"Expected regret after N RL runs, in {plan.unit}: {plan.ranking.source}"
    return [regrets, *others, *_basis(plan.ranking)]


def _basis(ranking: PriorRanking) -> list[str]:
    caps = sorted({f"{cap:.2f}" for cap in ranking.most_certain.values()})
    return [
        f"Basis: {ranking.source}. How often such advice was right: {ranking.track_record}.",
        f"No chance above {' or '.join(caps)} is claimed; the cap opens as your outcomes arrive.",
        f"Beside it, {PAPER_RULE}.",
        *(f"warning: {warning}" for warning in ranking.warnings),
    ]


def _cells(row: PriorRow, has_group: bool, has_unit: bool, has_marks: bool) -> list[str]:
    outcome = [_text(row.recorded, ".4g"), _text(row.predicted, ".4g"), ""]
    if row.recorded is None and row.low is not None and row.high is not None:
        outcome[2] = f"{row.low:.3g} .. {row.high:.3g}"
    return [
        _text(row.rank_in_group, "d"),
        row.id,
        *[row.group] * has_group,
        f"{row.standing:+.2f}",
        *outcome * has_unit,
        _chance(row.p_best),
        _chance(row.p_top),
        _chance(row.p_match),
        _text(row.rank_by_paper, "d") or "left out",
        *[row.mark] * has_marks,
    ]


def _chance(value: float | None) -> str:
    """Return a chance; a small one is never shown as impossible."""
    return "<0.01" if value is not None and value < 0.005 else _text(value, ".2f")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
