"""How a validation reads in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlready.predictors.validation.bootstrap import Comparison, Difference, Interval

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from rlready.predictors.validation.report import ModelScores, SplitReport, ValidationReport
    from rlready.workflow.predict.validate import Validated

_SHOWN = {
    "r2": "R2",
    "spearman": "Spearman",
    "decision_accuracy": "decisions right",
    "decision_accuracy_clear": "clear ones",
    "regret_at_1": "regret@1",
    "regret_at_3": "regret@3",
}
_QUESTION = {
    "loo": "another checkpoint of a known group (rows left out)",
    "group": "a checkpoint of a new group (groups left out)",
    "parity": "one half of the rows from the other (mean ± sd over random halves)",
    "holdout": "another table, from all rows of this one",
}
_HEADLINE = "decision_accuracy"
_WIDE = 118


def validation_view(found: Validated, width: int) -> RenderableType:
    """A table a split, what to know, and whether the model beats the practice."""
    from rich.console import Group
    from rich.text import Text

    report = found.report
    tables = [_split_table(report, split, width) for split in report.splits.values()]
    lines = [
        f"{report.n_rows} rows with an outcome, {report.n_groups} "
        f"group{'s' if report.n_groups > 1 else ''}; clear decisions: {report.clear}",
        *_ceiling(report),
        *(f"note: {note}" for note in report.notes),
        verdict_sentence(report, found.model),
    ]
    return Group(*tables, *map(Text, lines))


def verdict_sentence(report: ValidationReport, model: str) -> str:
    """Whether selecting by the model beats the practice, or the table cannot tell."""
    split = next(
        (report.splits[n] for n in ("holdout", "group", "loo") if n in report.splits), None
    )
    practice = _name(report, report.baseline)
    if split is None:
        return "No split holds rows out for a comparison of choices: ask for loo or group."
    own, theirs = split.models[model], split.models[report.baseline]
    difference = own.differences.get(_HEADLINE)
    if own.problem:
        return f"{model} {own.problem}."
    if difference is None or difference.value is None or difference.lo is None:
        return f"{model} cannot be compared with {practice} on {split.n_rows} rows."
    said = {
        Comparison.BETTER: "Selecting by {} beats {}",
        Comparison.WORSE: "Selecting by {} is worse than {}",
        Comparison.UNDECIDED: "This table cannot tell whether selecting by {} beats {}",
    }[difference.verdict].format(model, practice)
    decided = [_number(found.scores[_HEADLINE].score.value) for found in (own, theirs)]
    lost = [_cost(found.scores["regret_at_1"].score.value) for found in (own, theirs)]
    return (
        f"{said}: in {split.name} it puts {decided[0]} of pairs in the right order against "
        f"{decided[1]} (difference {_signed(difference)}), and its first choice loses {lost[0]} "
        f"against {lost[1]}."
    )


def _split_table(report: ValidationReport, split: SplitReport, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    n_groups = f"{split.n_groups} group{'s' if split.n_groups > 1 else ''}"
    table = Table(
        title=Text(f"{split.name}: {_QUESTION[split.name]}; {split.n_rows} rows, {n_groups}"),
        caption=None
        if split.name == "parity"
        else "value [95 % interval]; vs: decisions against the baseline's",
    )
    table.add_column("model", no_wrap=True)
    # A narrow terminal gets the interval below the value.
    gap = " " if width >= _WIDE else "\n"
    for heading in _SHOWN.values():
        table.add_column(heading, justify="right")
    if split.name != "parity":
        table.add_column("vs", no_wrap=True)
    for name, found in split.models.items():
        row = [Text(_name(report, name))]
        row += [Text(_cell(found, score, gap)) for score in _SHOWN]
        if split.name != "parity":
            row.append(Text(_versus(report, name, found)))
        table.add_row(*row)
    return table


def _name(report: ValidationReport, model: str) -> str:
    if model == "baseline" and report.baseline_column:
        return f"baseline ({report.baseline_column})"
    return f"{model} *" if model == report.default_model else model


def _cell(found: ModelScores, score: str, gap: str) -> str:
    interval: Interval | None = found.scores.get(score)
    if interval is None or interval.score.value is None:
        return "-"
    said = _cost if score.startswith("regret") else _number
    value = said(interval.score.value)
    if score in found.sd:
        return f"{value} ± {said(found.sd[score])}"
    if interval.lo is None:
        return value
    return f"{value}{gap}[{said(interval.lo)}, {said(interval.hi)}]"


def _versus(report: ValidationReport, name: str, found: ModelScores) -> str:
    if name == report.baseline:
        return "is it"
    difference = found.differences.get(_HEADLINE)
    return "-" if difference is None or difference.value is None else str(difference.verdict)


def _ceiling(report: ValidationReport) -> list[str]:
    ceiling = report.noise_ceiling_r2
    if ceiling is None:
        return ["noise ceiling: not known, the outcomes have no standard errors"]
    said = f"noise ceiling: an R2 of {ceiling:.3f} is possible with outcomes as noisy as these"
    return [said if ceiling > 0 else f"{said}: they differ by no more than their noise"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cost(value: float | None) -> str:
    """A regret: a few hundredths where scores are shares."""
    return f"{value:.3f}" if value is not None and 0 < abs(value) < 0.1 else _number(value)


def _signed(difference: Difference) -> str:
    if difference.value is None or difference.lo is None or difference.hi is None:
        return "-"
    return f"{difference.value:+.2f}, 95 % interval {difference.lo:+.2f} to {difference.hi:+.2f}"
