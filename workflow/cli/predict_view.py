"""How a fit, a ranking and a plan read in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlready.predictors.decisions.ranking import RankedRow, Ranking
from rlready.workflow.predict.fit import FitReport
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.plan import PlanReport
from rlready.workflow.predict.validate import Validated

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_REASONS_SHOWN = 3


def fit_view(report: FitReport, width: int) -> RenderableType:
    """Where the predictor went, what it rests on, and how well it does on unseen rows."""
    from rich.console import Group
    from rich.text import Text

    from rlready.workflow.cli.validate_view import validation_view

    meta, table = report.stored.meta, report.data.table
    n = len(table.with_outcome())
    state = "stored" if report.stored.is_new else "was there already, nothing new"
    lines = [
        f"{report.model} on {n} checkpoints with {report.data.target}"
        + (f", {len(table) - n} without it" if n < len(table) else ""),
        f"proxies: {', '.join(column.name for column in table.columns)}",
        f"groups: {', '.join(report.data.groups) or 'one'}",
        report.signal,
        *(f"note: {note}" for note in report.data.notes),
    ]
    last = f"predictor {meta.uri}: {state}; `rlready rank` and `rlready plan` use it"
    return Group(
        *(Text(line) for line in lines), validation_view(_validated(report), width), Text(last)
    )


def _validated(report: FitReport) -> Validated:
    table = report.data.table.with_outcome()
    return Validated(report=report.validation, table=table, model=report.model)


def ranking_view(ranking: Ranking, applied: AppliedPredictor) -> RenderableType:
    """The checkpoints in order, and why."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{ranking.target} after RL, by {applied.meta.uri}"
    table = Table(title=Text(title), caption=_caption(ranking))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("checkpoint", no_wrap=True)
    for heading in (
        "recorded",
        "expected",
        "interval",
        "P(best)",
        f"P(top {ranking.top_n})",
        "P(match)",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("ready", no_wrap=True)
    table.add_column("domain", no_wrap=True)
    for row in ranking.rows:
        table.add_row(*(Text(cell) for cell in _cells(row, applied.outcomes)))
    reasons = [
        Text(f"{row.id}: " + "; ".join(row.reasons[:_REASONS_SHOWN]))
        for row in ranking.rows[:_REASONS_SHOWN]
    ]
    return Group(table, *reasons)


def _caption(ranking: Ranking) -> str:
    known = [str(one) for one in ranking.best.values()]
    match = known[0] if len(known) == 1 else "the best known of its group"
    return (
        f"expected: true score, from the prediction and the recorded outcome; {ranking.interval} "
        f"interval of it, or of one RL run where none is recorded; P(match): chance to end within "
        f"delta of {match}"
    )


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


def plan_view(report: PlanReport) -> RenderableType:
    """Whom the runs go to, and the expected regret of each policy against their number."""
    from rich.console import Group
    from rich.text import Text

    plan = report.plan
    lines = [
        f"{len(plan.chosen)} RL runs for {report.target}, chosen by {plan.policy}: "
        + ", ".join(plan.chosen),
        *plan.in_words(),
        *(f"note: {note}" for note in plan.notes),
    ]
    if plan.incumbent is not None:
        lines.append(f"best so far: {plan.incumbent.id} with {plan.incumbent.value:.4g}")
    if report.is_retrospective:
        lines.append(
            "every checkpoint has its outcome already: this is the plan as if none had, from "
            "predictions that had not seen the row; it would have ended "
            f"{report.realised_regret:.3g} below the best"
        )
    return Group(_regret_table(report), *(Text(line) for line in lines))


def _regret_table(report: PlanReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    policies = report.plan.policies
    table = Table(
        title="Expected regret after N RL runs, in the target's unit",
        caption=f"noise of one RL run: sd {report.plan.rl_noise:.3g}",
    )
    table.add_column("policy", no_wrap=True)
    n_max = max(len(values) for values in policies.values())
    for n in range(1, n_max + 1):
        table.add_column(f"N = {n}", justify="right", no_wrap=True)
    for name, values in policies.items():
        shown = [f"{value.regret:.3g}" for value in values]
        marked = f"{name} *" if name == report.plan.policy else name
        table.add_row(Text(marked), *shown, *[""] * (n_max - len(shown)))
    return table
