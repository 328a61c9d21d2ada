"""A fit, a ranking and a plan as text and tables for a terminal, also from public outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlready.predictors.decisions.prior_ranking import (
    PAPER_RULE,
    PriorRanking,
    PriorRow,
    match_in_words,
)
from rlready.predictors.decisions.ranking import RankedRow, Ranking
from rlready.workflow.cli.validate_view import kinds_view, validation_view
from rlready.workflow.predict.first_day import PriorPlan
from rlready.workflow.predict.fit import FitReport
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.plan import PlanReport
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
        *kinds_view(training.columns),
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
    headings = ("", "checkpoint", "recorded", "expected", "interval", "P(best)", top, "P(match)")
    ranked = table(
        f"{ranking.target} after RL, by {applied.meta.uri}",
        (*headings, "ready", "domain"),
        [_cells(row, applied.outcomes) for row in ranking.rows],
        caption=f"expected: true score, from the prediction and the recorded outcome; "
        f"{ranking.interval} interval of it, or of one RL run where none is recorded; "
        f"P(match): chance to end within delta of {match}",
        words=words,
        unbroken=(*headings, *words),
    )
    reasons = [
        f"{row.id}: " + "; ".join(row.reasons[:_MOST_REASONS])
        for row in ranking.rows[:_MOST_REASONS]
    ]
    notes = []
    if applied.early is not None:
        notes.append(f"note: {applied.remark}; {applied.early.track_record}")
    return [ranked, *notes, *reasons]


def _cells(row: RankedRow, outcomes: Mapping[str, float]) -> list[str]:
    return [
        "" if row.rank is None else str(row.rank),
        row.id,
        f"{outcomes[row.id]:.4g}" if row.id in outcomes else "",
        f"{row.predicted:.4g}",
        f"{row.low:.3g} .. {row.high:.3g}",
        "" if row.p_best is None else f"{row.p_best:.2f}",
        "" if row.p_top is None else f"{row.p_top:.2f}",
        f"{row.p_match:.2f}",
        row.readiness.name.lower().replace("_", " "),
        row.mark or row.domain,
    ]


def plan_view(report: PlanReport) -> list[Any]:
    """Return the chosen checkpoints, and the expected regret of each policy by number of runs."""
    plan = report.plan
    n_most = max(map(len, plan.policies.values()))
    headings = ["policy", *(f"N = {n}" for n in range(1, n_most + 1))]
    rows = []
    for name, values in plan.policies.items():
        label = f"{name} *" if name == plan.policy else name
        blanks = [""] * (n_most - len(values))
        rows.append([label, *(f"{value.regret:.3g}" for value in values), *blanks])
    regret = table(
        "Expected regret after N RL runs, in the target's unit",
        headings,
        rows,
        caption=f"noise of one RL run: sd {plan.rl_noise:.3g}",
        words=("policy",),
        unbroken=headings,
    )
    parts = [
        regret,
        f"{len(plan.chosen)} RL runs for {report.target}, chosen by {plan.policy}: "
        + ", ".join(plan.chosen),
        *plan.in_words(),
        *(f"note: {note}" for note in plan.notes),
    ]
    if plan.incumbent is not None:
        parts.append(f"best so far: {plan.incumbent.id} with {plan.incumbent.value:.4g}")
    if report.is_retrospective:
        parts.append(
            "every checkpoint already has its outcome: this plan is made as if none had, from "
            "predictions by models that had not seen the row; its best outcome is "
            f"{report.realised_regret:.3g} below the best of all"
        )
    return parts


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
        [_prior_cells(row, len(groups) > 1, has_unit, has_marks) for row in ranking.rows],
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


def _prior_cells(row: PriorRow, has_group: bool, has_unit: bool, has_marks: bool) -> list[str]:
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
