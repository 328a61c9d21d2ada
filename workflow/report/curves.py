"""pass@k curves with bands, and regret against the number of RL runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlready.predictors.decisions.plan_replay import ReplayedRuns
from rlready.predictors.decisions.rl_plan import RANDOM, RunValue
from rlready.registry.records import k_of
from rlready.registry.table import beside
from rlready.workflow.report.evidence import Evidence
from rlready.workflow.report.parts import Cell, Column, Figure, Section, Table
from rlready.workflow.report.plot import Plot
from rlready.workflow.report.ranking import number

_Z = 1.96
_MOST_FAINT = 60
_MOST_TIMES = 3.0
"""Random choice may lose so many times more that the others would look like one line."""
_STYLES = ("first", "second", "third")


def curves_section(evidence: Evidence) -> Section:
    """Return the section with pass@k of every checkpoint on one benchmark."""
    title = "pass@k before RL"
    benchmark, ks = _curve(evidence)
    if len(ks) < 2:
        text = "Two values of k on one benchmark are needed to draw pass@k curves."
        return Section(id="curves", title=title, words=[text])
    words = (
        f"Unbiased pass@k on {benchmark}. A checkpoint that rises steeply solves problems that its "
        "single answers miss; RL can make use of this. Bands: 95 %, over problems."
    )
    return Section(
        id="curves",
        title=title,
        words=[words],
        figures=[_curve_figure(evidence, benchmark, ks)],
        tables=[_curve_table(evidence, benchmark, ks)],
    )


def _curve(evidence: Evidence) -> tuple[str, list[int]]:
    """Return the benchmark with the practice's score, or with most values of k, and these."""
    frame = evidence.data.frame
    by_benchmark: dict[str, list[int]] = {}
    for name in map(str, frame.columns):
        proxy, _, benchmark = name.partition("@")
        k = k_of(proxy)
        if k is not None and benchmark and frame[name].notna().any():
            by_benchmark.setdefault(benchmark, []).append(k)
    practice = (evidence.practice or "").partition("@")[2]
    best = max(by_benchmark, key=lambda b: (b == practice, len(by_benchmark[b])), default="")
    return best, sorted(by_benchmark.get(best, []))


def _curve_figure(evidence: Evidence, benchmark: str, ks: Sequence[int]) -> Figure:
    frame, names = evidence.data.frame, evidence.data.names
    columns = [f"pass_at_{k}@{benchmark}" for k in ks]
    values = frame[columns].to_numpy(dtype=float)
    errors = np.column_stack(
        [
            frame[beside(c, "se")].to_numpy(dtype=float)
            if beside(c, "se") in frame
            else np.full(len(frame), np.nan)
            for c in columns
        ]
    )
    plot = Plot(x=(float(ks[0]), float(ks[-1])), y=(0.0, 1.0), is_log=True)
    plot.axes("k (samples per problem)", "pass@k", [float(k) for k in ks])
    first = list(evidence.chosen) or [row.id for row in evidence.ranking.rows]
    highlighted = [names.index(name) for name in first[: len(_STYLES)]]
    others = [i for i in range(len(names)) if i not in highlighted]
    for i in others[:_MOST_FAINT]:
        points = _points(ks, values[i])
        if len(points) > 1:
            plot.path(points, "thin faint", names[i])
    for i, style in zip(highlighted, _STYLES, strict=False):
        low = _points(ks, np.clip(values[i] - _Z * np.nan_to_num(errors[i]), 0.0, 1.0))
        high = _points(ks, np.clip(values[i] + _Z * np.nan_to_num(errors[i]), 0.0, 1.0))
        if len(low) > 1:
            plot.band(low, high, style)
    for i, style in zip(highlighted, _STYLES, strict=False):
        points = _points(ks, values[i])
        if len(points) > 1:
            plot.path(points, style, names[i])
        for k, value in points:
            plot.dot((k, value), style, f"{names[i]}: pass@{k:g} {value:.3f}")
        plot.key(f"line {style}", names[i])
    if others:
        n = min(len(others), _MOST_FAINT)
        plot.key("line faint", f"{n} other checkpoints" if n > 1 else "the other checkpoint")
    text = f"pass@k against k on {benchmark}. " + " ".join(
        f"{names[i]} rises from {values[i, 0]:.2f} at k = {ks[0]} to {values[i, -1]:.2f} at k = "
        f"{ks[-1]}."
        for i in highlighted
    )
    return plot.figure("curves-figure", f"pass@k on {benchmark}", text)


def _points(ks: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(k), float(v)) for k, v in zip(ks, values, strict=True) if math.isfinite(v)]


def _curve_table(evidence: Evidence, benchmark: str, ks: Sequence[int]) -> Table:
    frame, names = evidence.data.frame, evidence.data.names
    columns = [Column(title="checkpoint", key="checkpoint", is_number=False)]
    numbers: list[list[Cell]] = []
    for k in ks:
        name = f"pass_at_{k}@{benchmark}"
        error = beside(name, "se")
        columns.append(Column(title=f"pass@{k}", key=f"pass_at_{k}"))
        numbers.append([number(v, ".3f") for v in frame[name].astype(float)])
        columns.append(Column(title="s.e.", key=f"pass_at_{k}_se"))
        errors = frame[error].astype(float) if error in frame else [math.nan] * len(frame)
        numbers.append([number(v, ".3f") for v in errors])
    order = [row.id for row in evidence.ranking.rows]
    places = [names.index(name) for name in order]
    return Table(
        id="curves-table",
        caption=f"pass@k on {benchmark}, in the order of the ranking.",
        columns=columns,
        rows=[[Cell(value=names[i]), *(column[i] for column in numbers)] for i in places],
    )


def regret_section(evidence: Evidence) -> Section:
    """Return the section on regret against the number of RL runs, expected and realised."""
    title, report = "What each RL run is worth", evidence.plan
    if report is None:
        return Section(id="regret", title=title, words=[f"No plan: {evidence.no_plan}."])
    plan, replay = report.plan, report.replay
    names = [plan.policy, *filter(None, [report.practice]), RANDOM]
    names = [name for name in dict.fromkeys(names) if name in plan.policies]
    expected = {name: plan.policies[name] for name in names}
    realised = (
        {} if replay is None else {n: replay.policies[n] for n in names if n in replay.policies}
    )
    words = [
        "Regret: how much lower the best checkpoint after these runs is than the best of all, "
        f"{evidence.in_unit}. It is the price of not running RL from every checkpoint."
    ]
    now = "Expected, as if none had an outcome" if report.is_retrospective else "Expected now"
    if report.is_retrospective:
        words.append("Every checkpoint has its outcome: the plan is made as if none had.")
    elif replay is not None:
        words.append("Expected regrets are corrected by what such plans lost on recorded outcomes.")
    figures = [_regret_figure(evidence, "expected", now, expected)]
    if realised:
        title_of_past = "On left-out outcomes: realised, and what was expected of them"
        figures.append(_regret_figure(evidence, "realised", title_of_past, realised))
    return Section(
        id="regret",
        title=title,
        words=words,
        figures=figures,
        tables=[_regret_table(evidence, expected, realised)],
        notes=plan.notes,
    )


Runs = Sequence[RunValue] | Sequence[ReplayedRuns]


def _policy(evidence: Evidence, name: str) -> tuple[str, str]:
    """Return the style and the words of a policy."""
    if name == RANDOM:
        return "random", "at random"
    if evidence.plan is not None and name == evidence.plan.practice:
        return "practice", f"by {evidence.practice_words}"
    return "plan", "this plan"


def _lost(run: RunValue | ReplayedRuns) -> tuple[float, float]:
    """Return regret and its standard error."""
    if isinstance(run, RunValue):
        return run.regret, run.regret_se
    return run.realised, run.realised_se


def _regret_figure(
    evidence: Evidence, what: str, title: str, policies: Mapping[str, Runs]
) -> Figure:
    factor = evidence.factor
    lost = {
        name: [(run.n_runs, *(factor * value for value in _lost(run))) for run in runs]
        for name, runs in policies.items()
    }
    foreseen = {
        name: [(r.n_runs, factor * r.expected) for r in runs if isinstance(r, ReplayedRuns)]
        for name, runs in policies.items()
    }
    n_most = max(run.n_runs for runs in policies.values() for run in runs)
    main = [name for name in lost if name != RANDOM] or list(lost)
    tops = [max(value for _, value, _ in lost[name]) for name in (*main, *lost)]
    if max(tops) <= _MOST_TIMES * max(tops[: len(main)]):
        main = list(lost)
    highest = 1.08 * max(
        *(value + error for name in main for _, value, error in lost[name]),
        *(value for name in main for _, value in foreseen[name]),
        *(0.0, 0.0),
    )
    plot = Plot(x=(0.7, n_most + 0.3), y=(0.0, highest or 1.0))
    plot.axes("RL runs", f"regret {evidence.in_unit}",
              [float(n) for n in range(1, n_most + 1)])  # fmt: skip
    for name, runs in lost.items():
        style, words = _policy(evidence, name)
        inside = [run for run in runs if run[1] <= plot.y[1]]
        if what == "realised":
            points = [(n, value) for n, value in foreseen[name] if value <= plot.y[1]]
            plot.path(points, f"thin {style}", f"{words}, expected")
            low = [(n, max(value - error, 0.0)) for n, value, error in inside]
            high = [(n, min(value + error, plot.y[1])) for n, value, error in inside]
            plot.band(low, high, style)
        plot.path([(n, value) for n, value, _ in inside], style, words)
        for n, value, _ in inside:
            plot.dot((n, value), style, f"{words}, {n} RL runs: {value:.3g}")
        n_above = len(runs) - len(inside)
        plot.key(f"line {style}", f"{words} ({n_above} above the figure)" if n_above else words)
    if what == "realised":
        plot.key("band plan", "± standard error over parts")
        plot.key("line thin plan", "thin: expected")
    text = f"{title}: regret after 1 to {n_most} RL runs. " + " ".join(
        f"{_policy(evidence, name)[1]}: {runs[0][1]:.3g} after 1, {runs[-1][1]:.3g} after "
        f"{runs[-1][0]}."
        for name, runs in lost.items()
    )
    return plot.figure(f"regret-{what}", title, text)


def _regret_table(
    evidence: Evidence, expected: Mapping[str, Runs], realised: Mapping[str, Runs]
) -> Table:
    rows = []
    for name, runs in expected.items():
        known = {run.n_runs: run for run in realised.get(name, ())}
        for run in runs:
            assert isinstance(run, RunValue)
            past = known.get(run.n_runs)
            both: list[float | None] = [None, None, None]
            if isinstance(past, ReplayedRuns):
                both = [past.expected, past.realised, past.realised_se]
            numbers: list[float | None] = [run.regret, run.by_model, *both]
            rows.append(
                [
                    Cell(value=_policy(evidence, name)[1]),
                    Cell(value=run.n_runs),
                    Cell(value=run.chosen or ""),
                    *(number(None if v is None else evidence.factor * v, ".3g") for v in numbers),
                ]
            )
    return Table(
        id="regret-table",
        caption=f"Regret {evidence.in_unit}. By the model alone: before the correction. "
        "On left-out outcomes: expected and realised.",
        columns=[
            Column(title="policy", key="policy", is_number=False),
            Column(title="RL runs", key="n_runs"),
            Column(title="the last one from", key="chosen", is_number=False),
            Column(title="expected now", key="expected"),
            Column(title="by the model alone", key="by_model"),
            Column(title="left out: expected", key="left_out_expected"),
            Column(title="realised", key="left_out_realised"),
            Column(title="s.e.", key="left_out_realised_se"),
        ],
        rows=rows,
    )
