"""Show a validation and the kinds of proxies as text and tables in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from rlready.predictors.kinds import Kind, kind_word
from rlready.predictors.training_table import Column
from rlready.predictors.validation.bootstrap import Comparison
from rlready.predictors.validation.report import PAIRS
from rlready.workflow.terminal import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from rlready.predictors.validation.bootstrap import Interval
    from rlready.predictors.validation.report import ModelScores, SplitReport, ValidationReport

_DIRECTIONS = {1: "higher is better", -1: "lower is better", 0: "no direction"}
_MOST_NAMES = 8
_HEADINGS = {
    "r2": "R2",
    "spearman": "Spearman",
    "decision_accuracy": "decisions right",
    "decision_accuracy_clear": "clear ones",
    "regret_at_1": "regret@1",
    "regret_at_3": "regret@3",
}
_PAIR_HEADINGS = {
    "decision_accuracy": "decisions right",
    "decision_accuracy_clear": "clear ones",
    "spearman": "Borda Spearman",
    "regret_at_1": "regret@1",
    "regret_at_3": "regret@3",
}
_QUESTIONS = {
    "pairs": "which of two checkpoints of different groups is better (by one fit without both)",
    "loo": "another checkpoint of a known group (rows left out)",
    "group": "a checkpoint of a new group (groups left out)",
    "parity": "one half of the rows from the other (mean ± sd over random halves)",
    "holdout": "another table, from all rows of this one",
}
_VERDICTS = {
    Comparison.BETTER: "Selecting by {} beats {}",
    Comparison.WORSE: "Selecting by {} is worse than {}",
    Comparison.UNDECIDED: "This table cannot show whether selecting by {} beats {}",
}
_CAPTION = "value [95 % interval]; vs: decisions against the baseline's"
_CAPTIONS = {
    "parity": None,
    "group": f"{_CAPTION}\nPredictions of different fits are pooled, which biases their order: see "
    "pairs, and inside groups.",
}
_HEADLINE = "decision_accuracy"
_WIDE = 118


def validation_view(report: ValidationReport, model: str, width: int) -> list[Any]:
    """Return a table per split, notes, and a verdict on the model against current practice."""
    ceiling = report.noise_ceiling_r2
    if ceiling is None:
        noise = "unknown, because the outcomes have no standard errors"
    else:
        noise = f"with the noise of these outcomes, an R2 of {ceiling:.3f} is possible"
        noise += "" if ceiling > 0 else ": they differ by no more than their noise"
    pairs = report.pairs
    return [
        *([_pairs_table(report, pairs, width)] if _has_scores(pairs) else []),
        *(_split_table(report, split, width) for split in report.splits.values()),
        f"{report.n_rows} rows with an outcome, {_groups(report.n_groups)}; "
        f"clear decisions: {report.clear}",
        f"noise ceiling: {noise}",
        *(f"note: {note}" for note in report.notes),
        _verdict(report, model),
    ]


def _has_scores(split: SplitReport | None) -> TypeGuard[SplitReport]:
    return split is not None and any(not scores.problem for scores in split.models.values())


def _verdict(report: ValidationReport, model: str) -> str:
    """Return a sentence: does selecting by the model beat current practice, or is it unknown?"""
    split = _headline(report)
    if split is None:
        return "These splits cannot compare choices. Add --splits loo or group."
    practice = _label(report, report.baseline)
    scores = [split.models[name] for name in (model, report.baseline)]
    difference = scores[0].differences.get(_HEADLINE)
    if scores[0].problem:
        return f"{model} {scores[0].problem}."
    if difference is None or None in (difference.value, difference.lo, difference.hi):
        return f"{model} cannot be compared with {practice} on {split.n_rows} rows."
    verdict = _VERDICTS[difference.verdict].format(model, practice)
    right = [_number(each.scores[_HEADLINE].score.value) for each in scores]
    lost = [_regret(each.scores["regret_at_1"].score.value) for each in scores]
    where, inside = f"in {split.name}", ""
    if split.name == PAIRS:
        order = [_number(report.within[m][_HEADLINE].score.value) for m in (model, report.baseline)]
        where, inside = "across groups", f" Inside groups these are {order[0]} and {order[1]}."
    return (
        f"{verdict}: {where} it puts {right[0]} of pairs in the right order against "
        f"{right[1]} (difference {difference.value:+.2f}, 95 % interval {difference.lo:+.2f} to "
        f"{difference.hi:+.2f}), and its first choice loses {lost[0]} against {lost[1]}.{inside}"
    )


def _headline(report: ValidationReport) -> SplitReport | None:
    """Return the split that compares choices: another table, pairs of groups, or single rows."""
    if "holdout" in report.splits:
        return report.splits["holdout"]
    if _has_scores(report.pairs):
        return report.pairs
    # With one or two groups, an order that is pooled over left-out groups would be misleading.
    return report.splits.get("loo", report.splits.get("group"))


def _pairs_table(report: ValidationReport, pairs: SplitReport, width: int) -> Table:
    gap = " " if width >= _WIDE else "\n"
    rows = []
    for name, scores in pairs.models.items():
        rows.append(
            [
                _label(report, name),
                *(_interval(scores.scores[score], score, gap) for score in _PAIR_HEADINGS),
                _interval(report.within[name][_HEADLINE], _HEADLINE, gap),
                _interval(report.level[name]["r2"], "r2", gap),
                _against(report, name, scores),
            ]
        )
    return table(
        f"pairs: {_QUESTIONS[PAIRS]}; {pairs.n_rows} rows, {_groups(pairs.n_groups)}",
        ["model", *_PAIR_HEADINGS.values(), "inside groups", "level R2", "vs"],
        rows,
        caption="value [95 % interval]; inside groups: decisions between rows of one group; "
        "vs: decisions against the baseline's",
        words=("model", "vs"),
        unbroken=("model", "vs"),
    )


def _split_table(report: ValidationReport, split: SplitReport, width: int) -> Table:
    has_baseline = split.name != "parity"
    gap = " " if width >= _WIDE else "\n"  # a narrow terminal gets the interval below the value
    rows = []
    for name, scores in split.models.items():
        row = [_label(report, name), *(_cell(scores, score, gap) for score in _HEADINGS)]
        if has_baseline:
            row.append(_against(report, name, scores))
        rows.append(row)
    return table(
        f"{split.name}: {_QUESTIONS[split.name]}; {split.n_rows} rows, {_groups(split.n_groups)}",
        ["model", *_HEADINGS.values(), *(["vs"] if has_baseline else [])],
        rows,
        caption=_CAPTIONS.get(split.name, _CAPTION),
        words=("model", "vs"),
        unbroken=("model", "vs"),
    )


def _against(report: ValidationReport, model: str, scores: ModelScores) -> str:
    if model == report.baseline:
        return "baseline"
    difference = scores.differences.get(_HEADLINE)
    return "-" if difference is None or difference.value is None else str(difference.verdict)


def _label(report: ValidationReport, model: str) -> str:
    if model == "baseline" and report.baseline_column:
        return f"baseline ({report.baseline_column})"
    return f"{model} *" if model == report.default_model else model


def _cell(scores: ModelScores, score: str, gap: str) -> str:
    interval = scores.scores.get(score)
    if interval is None or interval.score.value is None:
        return "-"
    if score in scores.sd:
        shown = _shown(score)
        return f"{shown(interval.score.value)} ± {shown(scores.sd[score])}"
    return _interval(interval, score, gap)


def _interval(interval: Interval, score: str, gap: str) -> str:
    shown = _shown(score)
    if interval.score.value is None or interval.lo is None:
        return shown(interval.score.value)
    return f"{shown(interval.score.value)}{gap}[{shown(interval.lo)}, {shown(interval.hi)}]"


def _shown(score: str) -> Callable[[float | None], str]:
    return _regret if score.startswith("regret") else _number


def _groups(n: int) -> str:
    return f"{n} group{'s' if n > 1 else ''}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _regret(value: float | None) -> str:
    """Return a regret as text, with three digits if it is small, as regrets of shares are."""
    return f"{value:.3f}" if value is not None and 0 < abs(value) < 0.1 else _number(value)


def kinds_view(columns: Sequence[Column]) -> list[str]:
    """Return a line with all kinds, and a line for columns whose names do not tell their kind."""
    names: dict[tuple[Kind, int], list[str]] = {}
    for column in columns:
        names.setdefault((column.kind, column.sign), []).append(column.name)
    lines = [
        "kinds: "
        + "; ".join(
            f"{kind_word(kind, sign)}, {_DIRECTIONS[sign]}: {_listed(group)}"
            for (kind, sign), group in names.items()
        )
    ]
    unknown = [column.name for column in columns if column.basis == "unknown"]
    if unknown:
        lines.append(
            f"note: no known word in {_listed(unknown)}: plain, without a direction; "
            f"--kind {unknown[0]}=KIND states another kind"
        )
    lines += [
        f"note: the numbers of {column.name} contradict its name: {kind_word(column.kind, 0)}"
        for column in columns
        if column.basis == "contradicted"
    ]
    return lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
