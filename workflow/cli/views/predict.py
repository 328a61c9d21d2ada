"""Show fits, rankings, plans and audits as text and tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rlready.predictors.decisions.audit import ALL, AuditScore
from rlready.predictors.decisions.plan_replay import Replay
from rlready.predictors.decisions.prior_ranking import (
    PAPER_RULE,
    PriorRanking,
    PriorRow,
    match_in_words,
)
from rlready.predictors.decisions.ranking import RankedRow, Ranking
from rlready.workflow.cli.views.validate import kinds_view, validation_view
from rlready.workflow.predict.audit import AuditReport
from rlready.workflow.predict.first_day import PriorPlan
from rlready.workflow.predict.fit import FitReport
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.plan import TARGET_UNIT, PlanReport
from rlready.workflow.predict.steps import StepReport
from rlready.workflow.terminal import table

_MOST_REASONS = 3
_MOST_SPLITS = 8


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
        unbroken=("", *numbers, "ready", "domain"),
        optional=("domain", "recorded", "P(match)", "P(best)", "predicted", "interval", top),
    )
    reasons = [
        f"{row.id}: " + "; ".join(row.reasons[:_MOST_REASONS])
        for row in ranking.rows[:_MOST_REASONS]
    ]
    notes = []
    if applied.early is not None:
        notes.append(f"note: {applied.remark}; {applied.early.track_record}")
    return [ranked, *notes, *reasons]


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


def prior_ranking_view(ranking: PriorRanking, notes: Sequence[str]) -> list[Any]:
    """Return the checkpoints in order, the basis of the order, and the reasons of the first."""
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
        caption="standing: expected score minus the group's mean, in sd of the group's scores; "
        + (f"{ranking.level:.0%} interval of one RL run; " if has_unit else "")
        + f"P(match): chance to end {match_in_words()} or better",
        words=[*words, "note"],
        unbroken=[heading for heading in headings if heading not in (*words, "note")],
        optional=[
            heading
            for heading in ("paper's rule", "recorded", "P(match)", "P(best)", "interval", top)
            if heading in headings
        ],
    )
    return [
        ranked,
        *_basis(ranking),
        *(f"note: {note}" for note in notes),
        *(f"{row.id}: {'; '.join(row.reasons)}" for row in ranking.rows[:_MOST_REASONS]),
        "readiness: undecided for all; READY and the alias rl-ready require a predictor of your "
        "own outcomes (5 or more: `rlready fit`)",
    ]


def prior_plan_view(plan: PriorPlan) -> list[Any]:
    """Return the chosen checkpoints, the expected regrets, and their basis."""
    regrets, *others = plan_view(plan.report)
    regrets.title = f"Expected regret after N RL runs, in {plan.unit}: {plan.ranking.source}"
    return [regrets, *others, *_basis(plan.ranking)]


def _basis(ranking: PriorRanking) -> list[str]:
    caps = sorted({f"{cap:.2f}" for cap in ranking.most_certain.values()})
    return [
        f"Basis: {ranking.source}. How often such advice was right: {ranking.track_record}.",
        f"No chance above {' or '.join(caps)} is claimed; the limit rises with your outcomes.",
        f"For comparison, {PAPER_RULE}.",
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
    """Return a chance as text; a small chance is never shown as 0."""
    return "<0.01" if value is not None and value < 0.005 else _text(value, ".2f")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plan_view(report: PlanReport) -> list[Any]:
    """Return the chosen checkpoints, the regrets of earlier plans, and the value of each run."""
    plan = report.plan
    n_most = max(map(len, plan.policies.values()))
    headings = ["policy", *(f"N = {n}" for n in range(1, n_most + 1))]
    rows = []
    for name, values in plan.policies.items():
        label = f"{name} *" if name == plan.policy else name
        blanks = [""] * (n_most - len(values))
        rows.append([label, *(f"{value.regret:.3g}" for value in values), *blanks])
    regret = table(
        f"Expected, not known yet: regret after N RL runs, in {TARGET_UNIT}",
        headings,
        rows,
        caption=f"noise of one RL run: sd {plan.rl_noise:.3g}; *: the policy of this plan",
        words=("policy",),
        unbroken=headings[1:],
        optional=[f"N = {n}" for n in range(n_most, 1, -1) if n != len(plan.chosen)],
    )
    parts: list[Any] = [regret]
    if report.replay is None:
        parts.append(
            "note: too few recorded outcomes to check the expected regret against what plans lost"
        )
    else:
        parts += replay_view(report.replay, plan.policy, report.practice, len(plan.chosen))
    parts += [
        f"{len(plan.chosen)} RL runs for {report.target}, chosen by {plan.policy}: "
        + ", ".join(plan.chosen),
        *plan.in_words(),
        *(f"note: {note}" for note in plan.notes),
    ]
    if plan.incumbent is not None:
        parts.append(f"best so far: {plan.incumbent.id} with {plan.incumbent.value:.4g}")
    if report.is_retrospective:
        practice = (
            ""
            if report.practice_regret is None
            else f", that of as many by {report.practice} {report.practice_regret:.3g}"
        )
        parts.append(
            "every checkpoint already has its outcome: this plan is made as if none had, from "
            "predictions by models that had not seen the row; its best outcome is known to be "
            f"{report.realised_regret:.3g} below the best of all{practice}"
        )
    return parts


def replay_view(replay: Replay, policy: str, practice: str | None, n_runs: int) -> list[Any]:
    """Return the realised regrets of plans on recorded outcomes, beside the expected ones."""
    names = replay.compared(policy, practice)
    n_most = len(replay.policies[names[0]])
    headings = ["policy", *(f"N = {n}" for n in range(1, n_most + 1)), "factor"]
    largest = max(run.expected for name in names for run in replay.policies[name])
    n_digits = max(2 - math.floor(math.log10(largest)), 0) if largest > 0.0 else 0
    rows = [
        [
            f"{name} *" if name == policy else name,
            *(f"{v.realised:.{n_digits}f} ({v.expected:.{n_digits}f})" for v in runs),
            f"{replay.factors[name]:.2f}",
        ]
        for name in names
        for runs in (replay.policies[name],)
    ]
    replay_table = table(
        f"Known: regret of plans on {replay.n_rows} recorded outcomes left out (had expected)",
        headings,
        rows,
        caption=f"{replay.n_repeats} random partitions in {replay.n_parts} parts, each planned as "
        "if it had no outcome; factor: realised share of the expected regret. The regrets above "
        "are multiplied by the factor",
        words=("policy",),
        unbroken=headings[1:],
        optional=[f"N = {n}" for n in range(n_most, 1, -1) if n != n_runs],
    )

    def lost(name: str) -> str:
        runs = replay.at(name, n_runs)
        return (
            f"{runs.realised:.{n_digits}f} ± {runs.realised_se:.{n_digits}f} "
            f"(expected {runs.expected:.{n_digits}f})"
        )

    n_runs = min(n_runs, n_most)
    words = (
        f"known: on {replay.n_rows} recorded outcomes left out, {n_runs} RL runs of such a plan "
        f"lost {lost(policy)}"
    )
    if practice is not None and practice in names:
        words += f", and as many by {practice} {lost(practice)}"
    return [replay_table, words]


def steps_view(report: StepReport) -> list[Any]:
    """Return the ways to spend the RL steps, and the proposed one in words."""
    plan, unit = report.plan, report.unit
    shown = [split for split in plan.splits if split != plan.finish_now][:_MOST_SPLITS]
    if plan.best not in (plan.finish_now, *shown):
        shown = [plan.best, *shown[:-1]]
    rows = [
        [
            f"{split} *" if split == plan.best else str(split),
            f"{split.steps:g}",
            f"{split.regret:.3g} ± {split.regret_se:.1g}",
            f"{plan.finish_now.regret - split.regret:+.2g}",
        ]
        for split in (plan.finish_now, *shown)
    ]
    compared = table(
        f"Expected, not known yet: regret of ways to spend {report.total:g} RL {unit}",
        ("way", unit, "expected regret", "saved"),
        rows,
        caption=f"of {len(plan.splits)} ways, in {TARGET_UNIT}, with the Monte Carlo error; "
        "saved: compared with finishing now; *: proposed"
        + ("" if report.factor is None else f"; {_factor_words(report.factor)}"),
        words=("way",),
        unbroken=(unit, "expected regret", "saved"),
    )
    parts = [
        compared,
        f"{report.target}, {report.total:g} RL {unit}: {plan.best}: {', '.join(plan.chosen)}",
        *(f"note: {note}" for note in plan.notes),
    ]
    if report.incumbent is not None:
        parts.append(f"best so far: {report.incumbent.id} with {report.incumbent.value:.4g}")
    if report.is_retrospective:
        parts.append(
            "every checkpoint already has its outcome: this plan is made as if none had, from "
            "predictions by models that had not seen the row"
        )
    return parts


def _factor_words(factor: float) -> str:
    return (
        f"plans on recorded outcomes lost {factor:.2f} of the expected regret, so the regrets are "
        "multiplied by this factor"
    )


def audit_view(report: AuditReport) -> list[Any]:
    """Return one row per frozen prediction, and the scores of all together."""
    rows = [_audit_cells(score) for score in report.scores]
    if report.overall is not None:
        rows.append(_audit_cells(report.overall))
    headings = ("frozen", "by", "judged", "coverage", "bias", "Spearman", "pairs", "regret")
    return [
        table(
            f"Predictions of {report.target} made before the outcome",
            (*headings, "practice"),
            rows,
            caption="bias: outcome - prediction; pairs: share in the right order, inside groups "
            "(mean chance that was claimed for the more probable order, where it was frozen); "
            "regret: best outcome among the judged minus the best of the choice (number of judged "
            "ones), practice: the same for as many by the score before RL; all: the last "
            "prediction of each checkpoint",
            words=headings[:2],
            unbroken=(*headings, "practice"),
            optional=("coverage", "bias", "Spearman", "pairs"),
        ),
        report.in_words(),
    ]


def _audit_cells(score: AuditScore) -> list[str]:
    time = datetime.fromtimestamp(score.at_ms / 1000, UTC)
    is_all = score.command == ALL
    bias = "" if score.bias is None else f"{score.bias:+.3g}"
    pairs = "" if score.pairs_right is None else f"{score.pairs_right:.0%}"
    claimed = "" if score.chances_claimed is None else f" ({score.chances_claimed:.0%})"
    error = "" if score.bias_se is None else f" ± {score.bias_se:.2g}"
    regrets = [
        "" if value is None else f"{value:.3g} ({n})"
        for value, n in (
            (score.regret, score.n_chosen_judged),
            (score.practice_regret, score.n_practice_judged),
        )
    ]
    return [
        "all" if is_all else f"{time:%Y-%m-%d %H:%M}",
        "" if is_all else f"{score.command}, {score.predictor.removeprefix('models:/')}",
        str(score.n_judged) if is_all else f"{score.n_judged} of {score.n_predicted}",
        "" if score.coverage is None else f"{score.coverage:.0%} of {score.level:.0%}",
        bias + error,
        "" if score.spearman is None else f"{score.spearman:.2f}",
        pairs + claimed,
        *regrets,
    ]
