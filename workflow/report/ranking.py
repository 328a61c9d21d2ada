"""The ranking: every checkpoint with its interval, its chances and its reasons."""

from __future__ import annotations

import math

from rlready.predictors.decisions.prior_ranking import (
    PAPER_RULE,
    PriorRanking,
    PriorRow,
    match_in_words,
)
from rlready.predictors.decisions.ranking import RankedRow, Ranking
from rlready.workflow.report.evidence import Evidence
from rlready.workflow.report.parts import Cell, Column, Interval, Section, Table


def ranking_section(evidence: Evidence) -> Section:
    """Return the section of the ranking, from a predictor or from public outcomes."""
    ranking = evidence.ranking
    has_groups = len({row.group for row in ranking.rows}) > 1
    if isinstance(ranking, Ranking):
        words, table = _fitted_words(ranking), _fitted_table(ranking, evidence, has_groups)
        notes = [] if evidence.applied is None else list(filter(None, [evidence.applied.remark]))
    else:
        words, table = _prior_words(ranking), _prior_table(ranking, evidence, has_groups)
        notes = [*ranking.warnings, *(() if evidence.day is None else evidence.day.notes)]
    return Section(id="ranking", title="Ranking", words=words, tables=[table], notes=notes)


def number(value: float | None, form: str = ".4g") -> Cell:
    """Return the cell of a number; an undefined one is empty."""
    if value is None or not math.isfinite(value):
        return Cell(value=None)
    return Cell(value=float(value), text=format(value, form))


def chance(value: float | None) -> Cell:
    """Return the cell of a chance; a small one is never shown as impossible."""
    if value is not None and 0 <= value < 0.005:
        return Cell(value=float(value), text="<0.01")
    return number(value, ".2f")


def _fitted_words(ranking: Ranking) -> list[str]:
    best = ", ".join(dict.fromkeys(str(one) for one in ranking.best.values()))
    words = [
        "Predicted: the score after RL without the checkpoint's own outcome, with the "
        f"{ranking.interval} interval of one RL run. Expected: the true score, from the prediction "
        f"and the recorded outcome; the order is by it. P(match): chance to end about as well as "
        f"{best}."
    ]
    if not ranking.is_claimed:
        words.insert(0, "No order is claimed: the proxies show no signal on recorded outcomes.")
    return words


def _fitted_table(ranking: Ranking, evidence: Evidence, has_groups: bool) -> Table:
    chosen = {name: place for place, name in enumerate(evidence.chosen, 1)}
    columns = [
        Column(title="#", key="rank"),
        Column(title="checkpoint", key="checkpoint", is_number=False),
        *[Column(title="group", key="group", is_number=False)] * has_groups,
        Column(title=f"predicted, {ranking.interval} interval", key="predicted"),
        Column(title="", key="interval_low", is_shown=False),
        Column(title="", key="interval_high", is_shown=False),
        Column(title="recorded", key="recorded"),
        Column(title="expected", key="expected"),
        Column(title="P(best)", key="p_best"),
        Column(title=f"P(top {ranking.top_n})", key=f"p_top_{ranking.top_n}"),
        Column(title="P(match)", key="p_match"),
        Column(title="ready for RL", key="ready", is_number=False),
        Column(title="domain", key="domain", is_number=False),
    ]

    def cells(row: RankedRow) -> list[Cell]:
        bar = Interval(low=row.low, high=row.high, value=row.predicted, recorded=row.recorded)
        text = f"{row.predicted:.4g}, {row.low:.3g} to {row.high:.3g}"
        return [
            Cell(value=row.rank, text="" if row.rank is None else str(row.rank)),
            Cell(value=row.id, details=row.reasons),
            *[Cell(value=row.group)] * has_groups,
            Cell(value=row.predicted, text=text, interval=bar),
            number(row.low),
            number(row.high),
            number(row.recorded),
            number(row.expected),
            chance(row.p_best),
            chance(row.p_top),
            chance(row.p_match),
            Cell(value=row.readiness.name.lower().replace("_", " ")),
            Cell(value=row.mark or row.domain),
        ]

    return Table(
        id="ranking-table",
        caption=f"Checkpoints by their expected {ranking.target}. Bar: interval, dot: prediction, "
        "upright stroke: recorded outcome.",
        columns=columns,
        rows=[cells(row) for row in ranking.rows],
        marked={
            i: f"RL run {chosen[row.id]}" for i, row in enumerate(ranking.rows) if row.id in chosen
        },
    )


def _prior_words(ranking: PriorRanking) -> list[str]:
    caps = sorted({f"{cap:.2f}" for cap in ranking.most_certain.values()})
    return [
        f"The order comes {ranking.source}. No chance above {' or '.join(caps)} is claimed; the "
        "limit rises as your outcomes arrive. Standing: the expected score beside the mean of the "
        "group, in standard deviations of the scores there. P(match): chance to end "
        f"{match_in_words()}, or better.",
        f"Beside it stands {PAPER_RULE}.",
    ]


def _prior_table(ranking: PriorRanking, evidence: Evidence, has_groups: bool) -> Table:
    chosen = {name: place for place, name in enumerate(evidence.chosen, 1)}
    has_unit = any(row.predicted is not None for row in ranking.rows)
    columns = [
        Column(title="#", key="rank_in_group"),
        Column(title="checkpoint", key="checkpoint", is_number=False),
        *[Column(title="group", key="group", is_number=False)] * has_groups,
        Column(title="standing", key="standing"),
        *[
            Column(title="interval", key="interval_low"),
            Column(title="", key="interval_high", is_shown=False),
            Column(title="recorded", key="recorded"),
            Column(title="expected", key="expected"),
        ]
        * has_unit,
        Column(title="P(best)", key="p_best"),
        Column(title=f"P(top {ranking.top_n})", key=f"p_top_{ranking.top_n}"),
        Column(title="P(match)", key="p_match"),
        Column(title="paper's rule", key="rank_by_paper"),
        Column(title="note", key="note", is_number=False),
    ]

    def cells(row: PriorRow) -> list[Cell]:
        place, paper = row.rank_in_group, row.rank_by_paper
        return [
            Cell(value=place, text="" if place is None else str(place)),
            Cell(value=row.id, details=row.reasons),
            *[Cell(value=row.group)] * has_groups,
            number(row.standing, "+.2f"),
            *(_prior_outcome(row) if has_unit else ()),
            chance(row.p_best),
            chance(row.p_top),
            chance(row.p_match),
            Cell(value=paper, text="left out" if paper is None else str(paper)),
            Cell(value=row.mark),
        ]

    return Table(
        id="ranking-table",
        caption="Checkpoints in the order of public outcomes, each group by itself.",
        columns=columns,
        rows=[cells(row) for row in ranking.rows],
        marked={
            i: f"RL run {chosen[row.id]}" for i, row in enumerate(ranking.rows) if row.id in chosen
        },
    )


def _prior_outcome(row: PriorRow) -> list[Cell]:
    interval = Cell(value=row.low)
    if row.low is not None and row.high is not None and row.predicted is not None:
        bar = Interval(low=row.low, high=row.high, value=row.predicted, recorded=row.recorded)
        interval = Cell(value=row.low, text=f"{row.low:.3g} to {row.high:.3g}", interval=bar)
    return [interval, number(row.high), number(row.recorded), number(row.predicted)]
