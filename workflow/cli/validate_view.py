"""A validation as text and tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlready.predictors.validation.bootstrap import Comparison
from rlready.workflow.terminal import table

if TYPE_CHECKING:
    from rich.table import Table

    from rlready.predictors.validation.report import ModelScores, SplitReport, ValidationReport

_HEADINGS = {
    "r2": "R2",
    "spearman": "Spearman",
    "decision_accuracy": "decisions right",
    "decision_accuracy_clear": "clear ones",
    "regret_at_1": "regret@1",
    "regret_at_3": "regret@3",
}
_QUESTIONS = {
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
_HEADLINE = "decision_accuracy"
_WIDE = 118


def validation_view(report: ValidationReport, model: str, width: int) -> list[Any]:
    """Return a table per split, notes, and whether the model beats the current practice."""
    ceiling = report.noise_ceiling_r2
    if ceiling is None:
        noise = "unknown, because the outcomes have no standard errors"
    else:
        noise = f"an R2 of {ceiling:.3f} is possible with outcomes as noisy as these"
        noise += "" if ceiling > 0 else ": they differ by no more than their noise"
    return [
        *(_split_table(report, split, width) for split in report.splits.values()),
        f"{report.n_rows} rows with an outcome, {_groups(report.n_groups)}; "
        f"clear decisions: {report.clear}",
        f"noise ceiling: {noise}",
        *(f"note: {note}" for note in report.notes),
        _verdict(report, model),
    ]


def _verdict(report: ValidationReport, model: str) -> str:
    """Return whether selecting by the model beats the practice, or that it is unknown."""
    names = [name for name in ("holdout", "group", "loo") if name in report.splits]
    if not names:
        return "No split holds rows out for a comparison of choices. Add --splits loo or group."
    split, practice = report.splits[names[0]], _label(report, report.baseline)
    scores = [split.models[name] for name in (model, report.baseline)]
    difference = scores[0].differences.get(_HEADLINE)
    if scores[0].problem:
        return f"{model} {scores[0].problem}."
    if difference is None or None in (difference.value, difference.lo, difference.hi):
        return f"{model} cannot be compared with {practice} on {split.n_rows} rows."
    verdict = _VERDICTS[difference.verdict].format(model, practice)
    right = [_number(each.scores[_HEADLINE].score.value) for each in scores]
    lost = [_regret(each.scores["regret_at_1"].score.value) for each in scores]
    return (
        f"{verdict}: in {split.name} it puts {right[0]} of pairs in the right order against "
        f"{right[1]} (difference {difference.value:+.2f}, 95 % interval {difference.lo:+.2f} to "
        f"{difference.hi:+.2f}), and its first choice loses {lost[0]} against {lost[1]}."
    )


def _split_table(report: ValidationReport, split: SplitReport, width: int) -> Table:
    has_baseline = split.name != "parity"
    gap = " " if width >= _WIDE else "\n"  # a narrow terminal gets the interval below the value
    rows = []
    for name, scores in split.models.items():
        row = [_label(report, name), *(_cell(scores, score, gap) for score in _HEADINGS)]
        if has_baseline:
            difference = scores.differences.get(_HEADLINE)
            is_compared = difference is not None and difference.value is not None
            verdict = str(difference.verdict) if difference and is_compared else "-"
            row.append("baseline" if name == report.baseline else verdict)
        rows.append(row)
    return table(
        f"{split.name}: {_QUESTIONS[split.name]}; {split.n_rows} rows, {_groups(split.n_groups)}",
        ["model", *_HEADINGS.values(), *(["vs"] if has_baseline else [])],
        rows,
        caption="value [95 % interval]; vs: decisions against the baseline's"
        if has_baseline
        else None,
        words=("model", "vs"),
        unbroken=("model", "vs"),
    )


def _label(report: ValidationReport, model: str) -> str:
    if model == "baseline" and report.baseline_column:
        return f"baseline ({report.baseline_column})"
    return f"{model} *" if model == report.default_model else model


def _cell(scores: ModelScores, score: str, gap: str) -> str:
    interval = scores.scores.get(score)
    if interval is None or interval.score.value is None:
        return "-"
    shown = _regret if score.startswith("regret") else _number
    value = shown(interval.score.value)
    if score in scores.sd:
        return f"{value} ± {shown(scores.sd[score])}"
    if interval.lo is None:
        return value
    return f"{value}{gap}[{shown(interval.lo)}, {shown(interval.hi)}]"


def _groups(n: int) -> str:
    return f"{n} group{'s' if n > 1 else ''}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _regret(value: float | None) -> str:
    """Return a regret, with three digits if it is small (hundredths where scores are shares)."""
    return f"{value:.3f}" if value is not None and 0 < abs(value) < 0.1 else _number(value)
