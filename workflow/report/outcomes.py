"""What recorded outcomes show: order flips, what each proxy was worth, and frozen predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.audit import ALL, AuditScore
from rlready.predictors.validation.bootstrap import Bootstrapped, Interval, resampling
from rlready.predictors.validation.scores import MIN_ROWS, PredictionScorer, clear_rule
from rlready.registry.table import beside
from rlready.workflow.report.evidence import Evidence, shown_proxy
from rlready.workflow.report.parts import Cell, Column, Figure, Section, Table
from rlready.workflow.report.plot import Plot, shortened, widened
from rlready.workflow.report.ranking import number

_MOST_ARROWS = 5
_PLACES = 12
_DRAWS = 400
_Z = 1.96
_SCORES = ("decision_accuracy_within", "spearman_within", "regret_at_1_within",
           "regret_at_3_within")  # fmt: skip
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Checkpoints with a score before and after RL, and pairs whose order flipped.

    Args:
        rows: positions in the table.
        before, after: (n,) scores; higher is better.
        error: (n,) standard errors of `after`, NaN if unknown.
        flips: (first before RL, first after RL, is clear) of each flipped pair, by position in
            `rows`; the largest change first.
        n_pairs: pairs inside groups whose scores differ.
    """

    rows: NDArray[np.intp]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    error: NDArray[np.float64]
    flips: Sequence[tuple[int, int, bool]]
    n_pairs: int


def before_after_section(evidence: Evidence) -> Section:
    """Return the section that compares the order before RL with the order after it."""
    title = "Before RL against after RL"
    pairs = _pairs(evidence)
    if pairs is None:
        text = "Two recorded outcomes and pass@1 are needed to compare the order before and after."
        return Section(id="flips", title=title, words=[text])
    n_clear = sum(is_clear for *_, is_clear in pairs.flips)
    share = f" ({len(pairs.flips) / pairs.n_pairs:.0%})" if pairs.n_pairs else ""
    rule = clear_rule(pairs.after, pairs.error)
    words = (
        f"{evidence.practice_words} orders {len(pairs.flips)} of {pairs.n_pairs} pairs of "
        f"checkpoints{share} the other way round than RL did; {n_clear} of these clearly "
        f"({rule})."
    )
    return Section(
        id="flips",
        title=title,
        words=[words],
        figures=[_flip_figure(evidence, pairs, words), _place_figure(evidence, pairs)],
        tables=[_flip_table(evidence, pairs)],
    )


def _pairs(evidence: Evidence) -> _Pairs | None:
    table, practice = evidence.data.table, evidence.practice
    if practice is None:
        return None
    before = table.X[practice].to_numpy(dtype=float)
    rows = np.flatnonzero(np.isfinite(before) & np.isfinite(table.y))
    if len(rows) < 2:
        return None
    before, after, error = before[rows], table.y[rows], table.y_error[rows]
    same = table.groups[rows][:, None] == table.groups[rows][None, :]
    gap_before, gap_after = before[:, None] - before, after[:, None] - after
    clear = clear_rule(after, error).pairs(after, error) > 0
    flipped = same & (gap_before > 0) & (gap_after < 0)
    first, second = np.nonzero(flipped)
    order = np.argsort(gap_after[first, second], kind="stable")
    return _Pairs(
        rows=rows,
        before=before,
        after=after,
        error=error,
        flips=[(int(first[k]), int(second[k]), bool(clear[first[k], second[k]])) for k in order],
        n_pairs=int((same & (gap_before > 0) & (gap_after != 0)).sum()),
    )


def _flip_figure(evidence: Evidence, pairs: _Pairs, words: str) -> Figure:
    table, names = evidence.data.table, evidence.data.names
    after = table.shown(pairs.after)
    bars = _bars(evidence, pairs)
    ends = [v + sign * e for v, e in zip((pairs.before, after), bars, strict=True)
            for sign in (-1, 1)]  # fmt: skip
    plot = Plot(x=widened(np.hstack(ends[:2]).tolist()), y=widened(np.hstack(ends[2:]).tolist()))
    plot.axes(f"{evidence.practice_words}, before RL", f"{evidence.data.target.partition('@')[0]}")
    arrows = [(i, j) for i, j, is_clear in pairs.flips if is_clear][:_MOST_ARROWS]
    for i, j in arrows:
        text = f"{names[pairs.rows[i]]} was ahead before RL, {names[pairs.rows[j]]} after it"
        start, end = (pairs.before[i], after[i]), (pairs.before[j], after[j])
        plot.arrow(start, end, "flip", text)
    for k in range(len(pairs.rows)):
        (x, y), (dx, dy) = (pairs.before[k], after[k]), (bars[0][k], bars[1][k])
        if dx:
            plot.line((x - dx, y), (x + dx, y), "error")
        if dy:
            plot.line((x, y - dy), (x, y + dy), "error")
    in_arrows = {i for pair in arrows for i in pair}
    for k, row in enumerate(pairs.rows):
        style = "plan" if k in in_arrows else "faint"
        text = f"{names[row]}: {pairs.before[k]:.3g} before, {after[k]:.3g} after RL"
        plot.dot((pairs.before[k], after[k]), style, text)
    plot.key("dot faint", "a checkpoint with a recorded outcome")
    if any(map(np.any, bars)):
        plot.key("line error", "95 %, where standard errors are known")
    if arrows:
        plot.key("dot plan", "at an end of an arrow")
        plot.key("line flip", "from the one ahead before RL to the one ahead after it "
                 f"(the {len(arrows)} largest clear flips)")  # fmt: skip
    text = f"Score before RL against score after RL of {len(pairs.rows)} checkpoints. {words}"
    if arrows:
        i, j = arrows[0]
        text += f" Largest flip: {names[pairs.rows[j]]} passed {names[pairs.rows[i]]}."
    return plot.figure("flips-figure", "Order flips", text)


def _bars(evidence: Evidence, pairs: _Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the (n,) half lengths of 95 % intervals before and after RL; 0 if unknown."""
    column, frame = beside(evidence.practice or "", "se"), evidence.data.frame
    before = np.zeros(len(pairs.rows))
    if column in frame:
        before = frame[column].to_numpy(dtype=float)[pairs.rows]
    return _Z * np.nan_to_num(before), _Z * np.nan_to_num(pairs.error)


def _place_figure(evidence: Evidence, pairs: _Pairs) -> Figure:
    """Draw an arrow from each checkpoint's place before RL to its place after RL."""
    names = [evidence.data.names[row] for row in pairs.rows]
    before, after = _places(pairs)
    shown = np.flatnonzero((before <= _PLACES) | (after <= _PLACES))
    n = len(shown)
    # Places among those that are shown, so that no line is empty.
    at = [dict(zip(shown[np.argsort(p[shown])], range(n), strict=True)) for p in (before, after)]
    n_passed = [np.zeros(len(names), dtype=int) for _ in range(2)]
    for i, j, is_clear in pairs.flips:
        n_passed[0][j] += is_clear
        n_passed[1][i] += is_clear
    plot = Plot(x=(0.0, 1.0), y=(float(n) - 0.3, -0.7), height=70.0 + 18.0 * n, left=20.0)
    for k in map(int, shown):
        style = "faint"
        if n_passed[0][k] != n_passed[1][k]:
            style = "plan" if n_passed[0][k] > n_passed[1][k] else "flip"
        y_before, y_after = float(at[0][k]), float(at[1][k])
        words = f"{names[k]}: place {before[k]} before RL, {after[k]} after it"
        plot.label((0.05, y_before), str(before[k]), "tick end")
        plot.arrow((0.06, y_before), (0.29, y_after), style, words)
        plot.label((0.3, y_after), f"{after[k]}  {shortened(names[k], 30)}", "small")
    plot.label((0.05, float(n) + 0.1), "before RL", "tick middle")
    plot.label((0.3, float(n) + 0.1), "after RL", "tick")
    plot.key("line plan", "clearly passed others")
    plot.key("line flip", "was clearly passed")
    plot.key("line faint", "neither, or both alike")
    risen = max(map(int, shown), key=lambda k: int(before[k] - after[k]))
    text = (
        f"Places of {n} checkpoints, those among the first {_PLACES} before or after RL. "
        f"{names[risen]} rose most, from place {before[risen]} to {after[risen]}."
    )
    return plot.figure("places-figure", "Places before and after RL", text)


def _places(pairs: _Pairs) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (n,) place of each row before RL, and after it; 1 is best."""
    first, second = (
        1 + np.argsort(np.argsort(-v, kind="stable")) for v in (pairs.before, pairs.after)
    )
    return first, second


def _moved(n: int) -> str:
    return f"{n:+d}" if n else "0"


def _flip_table(evidence: Evidence, pairs: _Pairs) -> Table:
    table, names = evidence.data.table, evidence.data.names
    after = table.shown(pairs.after)
    places = _places(pairs)
    n_over = np.zeros(len(pairs.rows), dtype=int)
    for _, j, is_clear in pairs.flips:
        n_over[j] += is_clear
    rows = [
        [
            Cell(value=names[row]),
            number(pairs.before[k]),
            Cell(value=int(places[0][k])),
            number(after[k]),
            number(pairs.error[k], ".2g"),
            Cell(value=int(places[1][k])),
            Cell(
                value=int(places[0][k] - places[1][k]),
                text=_moved(int(places[0][k] - places[1][k])),
            ),
            Cell(value=int(n_over[k])),
        ]
        for k, row in sorted(enumerate(pairs.rows), key=lambda pair: int(places[1][pair[0]]))
    ]
    return Table(
        id="flips-table",
        caption="Places before and after RL. Clearly passed: checkpoints that were ahead before RL "
        "and ended clearly lower.",
        columns=[
            Column(title="checkpoint", key="checkpoint", is_number=False),
            Column(title="before RL", key="before"),
            Column(title="place", key="place_before"),
            Column(title="after RL", key="after"),
            Column(title="s.e.", key="after_se"),
            Column(title="place", key="place_after"),
            Column(title="moved up by", key="moved_up"),
            Column(title="clearly passed", key="clearly_passed"),
        ],
        rows=rows,
    )


def proxies_section(evidence: Evidence) -> Section:
    """Return the section on what each proxy, and the predictor, was worth on left-out rows."""
    title, n = "What each proxy was worth", evidence.n_outcomes
    scored = _proxy_scores(evidence) if n >= MIN_ROWS else []
    if not scored:
        text = f"{MIN_ROWS} outcomes are needed to judge the proxies, and {n} are recorded."
        return Section(id="proxies", title=title, words=[text])
    words = [
        "Pairs right: share of pairs of checkpoints of one group that are put in the right order "
        "of their outcomes; 0.5 is chance. Regret@1: what the first choice loses against the best "
        f"({evidence.in_unit}). A proxy orders by its known direction, without a fit, so that "
        "every outcome is left out. The predictor orders each row by a fit without this row."
    ]
    unsigned = [shown_proxy(c.name) for c in evidence.data.table.columns if not c.sign]
    notes = [f"Without a known direction, not judged: {', '.join(unsigned)}."] if unsigned else []
    return Section(
        id="proxies",
        title=title,
        words=words,
        figures=[_proxy_figure(scored)],
        tables=[_proxy_table(evidence, scored)],
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class _ProxyScore:
    """Scores of one proxy, or of the predictor."""

    name: str
    n: int
    scores: dict[str, Interval]
    is_predictor: bool = False


def _proxy_scores(evidence: Evidence) -> list[_ProxyScore]:
    """Return the scores of the predictor and of each proxy, the best order first."""
    table = evidence.data.table
    ways = {
        shown_proxy(column.name): column.sign * table.X[column.name].to_numpy(dtype=float)
        for column in table.columns
        if column.sign
    }
    predictor = "predictor" if evidence.applied is not None else ""
    if predictor:
        ways[predictor] = evidence.held_out
    scored = []
    for name, values in ways.items():
        rows = np.flatnonzero(np.isfinite(values) & np.isfinite(table.y))
        if len(rows) < MIN_ROWS:
            continue
        groups, y = table.groups[rows], table.y[rows]
        scorer = PredictionScorer(y, values[rows], groups)
        found = Bootstrapped(scorer, resampling(groups, _DRAWS), names=_SCORES)
        scores = {score: found.interval(score) for score in _SCORES}
        if scores[_SCORES[0]].score.value is not None:
            is_predictor = name == predictor
            scored.append(
                _ProxyScore(name=name, n=len(rows), scores=scores, is_predictor=is_predictor)
            )
    return sorted(scored, key=lambda each: -(each.scores[_SCORES[0]].score.value or 0.0))


def _proxy_figure(scored: Sequence[_ProxyScore]) -> Figure:
    shown = scored[:12]
    plot = Plot(x=(0.0, 1.0), y=(0.0, len(shown)), height=64.0 + 26.0 * len(shown), left=196.0)
    for tick in _TICKS:
        plot.line((tick, 0.0), (tick, len(shown)), "chance" if tick == 0.5 else "grid")
        plot.label((tick, 0.0), f"{tick:g}", "tick middle offset")
    for k, each in enumerate(shown):
        interval, y = each.scores[_SCORES[0]], len(shown) - k - 0.5
        style = "plan" if each.is_predictor else "other"
        plot.label((0.0, y), shortened(each.name, 25), "label end", dx=-8.0)
        value = interval.score.value or 0.0
        if interval.lo is not None and interval.hi is not None:
            plot.line((interval.lo, y), (interval.hi, y), f"wide {style}")
        plot.dot((value, y), style, f"{each.name}: {value:.2f} of pairs in the right order", 5.0)
    plot.x_title("pairs in the right order (0.5: chance)")
    plot.key("dot plan", "the predictor, on rows that it has not seen")
    plot.key("dot other", "one proxy alone; line: 95 % interval")
    best = ", ".join(f"{each.name} {each.scores[_SCORES[0]].score.value:.2f}" for each in shown[:4])
    text = f"Share of pairs in the right order, by proxy, the best first: {best}."
    return plot.figure("proxies-figure", "Pairs in the right order", text)


def _proxy_table(evidence: Evidence, scored: Sequence[_ProxyScore]) -> Table:
    def cells(each: _ProxyScore) -> list[Cell]:
        right, rho, *regrets = (each.scores[name] for name in _SCORES)
        lost = [r.score.value for r in regrets]
        return [
            Cell(value=each.name),
            number(right.score.value, ".2f"),
            number(right.lo, ".2f"),
            number(right.hi, ".2f"),
            number(rho.score.value, ".2f"),
            *(number(None if v is None else evidence.factor * v, ".2f") for v in lost),
            Cell(value=each.n),
        ]

    return Table(
        id="proxies-table",
        caption="Order of recorded outcomes inside groups, the best first; 95 % intervals.",
        columns=[
            Column(title="proxy", key="proxy", is_number=False),
            Column(title="pairs right", key="pairs_right"),
            Column(title="from", key="pairs_right_low"),
            Column(title="to", key="pairs_right_high"),
            Column(title="Spearman", key="spearman"),
            Column(title="regret@1", key="regret_at_1"),
            Column(title="regret@3", key="regret_at_3"),
            Column(title="outcomes", key="n"),
        ],
        rows=[cells(each) for each in scored],
        marked={i: "" for i, each in enumerate(scored) if each.is_predictor},
    )


def audit_section(evidence: Evidence) -> Section:
    """Return the section on frozen predictions and how they fared."""
    title, report = "Predictions that were frozen before the outcomes", evidence.audit
    if report is None:
        text = "No prediction was frozen yet. `rlready rank` and `rlready plan` write them down."
        return Section(id="audit", title=title, words=[text])
    scores = [*report.scores, *([] if report.overall is None else [report.overall])]
    table = Table(
        id="audit-table",
        caption="Regret: best outcome among the judged less the best of the choice; practice: of "
        "as many chosen by the score before RL. All: the last prediction of each checkpoint.",
        columns=[
            Column(title="frozen", key="frozen", is_number=False),
            Column(title="by", key="by", is_number=False),
            Column(title="predicted", key="n_predicted"),
            Column(title="judged", key="n_judged"),
            Column(title="in the interval", key="coverage"),
            Column(title="outcome - prediction", key="bias"),
            Column(title="Spearman", key="spearman"),
            Column(title="pairs right", key="pairs_right"),
            Column(title="pairs claimed", key="chances_claimed"),
            Column(title="regret", key="regret"),
            Column(title="practice", key="practice_regret"),
        ],
        rows=[_audit_cells(score) for score in scores],
    )
    return Section(id="audit", title=title, words=[report.in_words()], tables=[table])


def _audit_cells(score: AuditScore) -> list[Cell]:
    time = datetime.fromtimestamp(score.at_ms / 1000, UTC)
    is_all = score.command == ALL
    coverage = number(score.coverage, ".2f")
    return [
        Cell(value="all" if is_all else f"{time:%Y-%m-%d %H:%M} UTC"),
        Cell(value="" if is_all else f"{score.command}, {score.predictor}"),
        Cell(value=score.n_predicted),
        Cell(value=score.n_judged),
        coverage,
        number(score.bias, "+.3g"),
        number(score.spearman, ".2f"),
        number(score.pairs_right, ".2f"),
        number(score.chances_claimed, ".2f"),
        number(score.regret, ".3g"),
        number(score.practice_regret, ".3g"),
    ]
