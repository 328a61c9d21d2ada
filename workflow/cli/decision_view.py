"""A plan of RL runs and an audit of predictions as text and tables for a terminal."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from rlready.predictors.decisions.audit import ALL, AuditScore
from rlready.predictors.decisions.plan_replay import Replay
from rlready.workflow.predict.audit import AuditReport
from rlready.workflow.predict.plan import PlanReport
from rlready.workflow.predict.steps import StepReport
from rlready.workflow.terminal import table

_MOST_SPLITS = 8


def plan_view(report: PlanReport) -> list[Any]:
    """Return the chosen checkpoints, what plans lost before, and what each run is worth."""
    plan = report.plan
    n_most = max(map(len, plan.policies.values()))
    headings = ["policy", *(f"N = {n}" for n in range(1, n_most + 1))]
    rows = []
    for name, values in plan.policies.items():
        label = f"{name} *" if name == plan.policy else name
        blanks = [""] * (n_most - len(values))
        rows.append([label, *(f"{value.regret:.3g}" for value in values), *blanks])
    regret = table(
        "Expected, not known yet: regret after N RL runs, in the target's unit",
        headings,
        rows,
        caption=f"noise of one RL run: sd {plan.rl_noise:.3g}; *: the policy of this plan",
        words=("policy",),
        unbroken=headings,
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
    """Return what plans lost on recorded outcomes, beside what they had expected."""
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
    known = table(
        f"Known: regret of plans on {replay.n_rows} recorded outcomes left out (had expected)",
        headings,
        rows,
        caption=f"{replay.n_repeats} random partitions in {replay.n_parts} parts, each planned as "
        "if it had no outcome; factor: of what is expected, the share that is lost. The regrets "
        "above are times the factor",
        words=("policy",),
        unbroken=headings,
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
    return [known, words]


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
        caption=f"of {len(plan.splits)} ways, in the target's unit, with the Monte Carlo error; "
        "saved: beside finishing now; *: proposed"
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
        f"plans on recorded outcomes lost {factor:.2f} of what they had expected, so the regrets "
        "are times that"
    )


def audit_view(report: AuditReport) -> list[Any]:
    """Return a row for each frozen prediction, and what they come to together."""
    rows = [_audit_cells(score) for score in report.scores]
    if report.overall is not None:
        rows.append(_audit_cells(report.overall))
    headings = ("frozen", "by", "judged", "coverage", "bias", "Spearman", "pairs", "regret")
    return [
        table(
            f"Predictions of {report.target} made before the outcome",
            (*headings, "practice"),
            rows,
            caption="bias: outcome - prediction; pairs: share in the right order, inside groups; "
            "regret: best outcome among the judged less the best of the choice (how many of it "
            "are judged), practice: of as many by the score before RL; all: the last prediction "
            "of each checkpoint",
            words=headings[:2],
            unbroken=(*headings, "practice"),
        ),
        report.in_words(),
    ]


def _audit_cells(score: AuditScore) -> list[str]:
    time = datetime.fromtimestamp(score.at_ms / 1000, UTC)
    is_all = score.command == ALL
    bias = "" if score.bias is None else f"{score.bias:+.3g}"
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
        "" if score.pairs_right is None else f"{score.pairs_right:.0%}",
        *regrets,
    ]
