r"""Choose the columns of a file of evaluations: the budget, and the scores of each benchmark.

A column belongs to the benchmark NAME if it is called

    NAME
    eval/NAME   val/NAME   test/NAME                   (also with `_` for `/`, as in TRL)
    eval/NAME/accuracy  .../acc  .../pass@1            (also with `_` for `/`)
    eval/NAME/mean@8    .../acc/mean@8  .../avg@8      the mean of 8 samples a problem is pass@1
    val-core/SOURCE/NAME/reward/mean@1                 (verl; `acc` for `reward`, and val-aux)
    val/test_score/SOURCE/NAME                         (verl before 0.3)

in upper or lower case, with or without the prefix `RUN - ` of wandb. A column with exactly the
benchmark's name is preferred. Other columns (losses, rewards, lengths) are ignored unless the user
names them: `best@8` and `maj@8` are not pass@1, and `eval/NAME/reward` may include a bonus for the
format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rlready.predictors.curve_file import VALUE, CurveTable
from rlready.registry.errors import CurveError
from rlready.registry.outcomes import BudgetUnit

_LISTED = 10
"""Largest number of columns that a note lists; a log may have hundreds."""

_ERRORS = ("_se", "_stderr")
_EXTREMES = ("__MIN", "__MAX")
_STEPS = ("train/global_step", "training/global_step", "trainer/global_step", "global_step")
_STEP_NAMES = (*_STEPS, "step", "_step")
"""Names of the optimizer's steps. wandb's own `_step` counts calls of `wandb.log`: it is last."""

_BEFORE = (
    r"(?:(?:eval|val|valid|validation|test)[/_]"
    r"|(?:val-core|val-aux|val/test_score)/(?:[^/]+/)?)"
)
_AFTER = r"(?:[/_](?:acc|accuracy|pass@1|pass_at_1)|/(?:acc/|reward/)?(?:mean|avg)@\d+)"
_TRAINING = re.compile(
    r"(train(ing)?[/_. -]?)?(mean[/_. -]?)?rewards?([/_. -]?(mean|std))?"
    r"|((train(ing)?|eval|val|actor|critic|policy|optim)[/_. -])?((policy|value|pg|kl)[/_. -]?)?"
    r"(loss|kl|entropy|grad(ient)?[/_. -]?norm|lr|learning[/_. -]?rate|epoch|num_tokens"
    r"|(clip_ratio|(response|completions?)[/_.]).*)([/_. -]?(mean|std|min|max))?",
    re.IGNORECASE,
)
"""Numbers that trainers log beside scores. A reward under `eval/` counts if the user names it."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table that are read.

    Args:
        budget: the column of the budget.
        values: the column of each benchmark's scores.
        ignored: all other columns except standard errors.
    """

    budget: str
    values: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def notes(self, path: Path) -> list[str]:
        """Return notes for the user about the choice."""
        notes = [
            f"column {column!r} of {path.name} was read as {name}"
            for name, column in self.values.items()
            if column != name and column.lower() != VALUE
        ]
        if self.ignored:
            listed = ", ".join(self.ignored[:_LISTED])
            more = len(self.ignored) - _LISTED
            notes.append(
                f"ignored {len(self.ignored)} column{'s' * (len(self.ignored) > 1)} of "
                f"{path.name}: {listed}"
                + (f" and {more} more" if more > 0 else "")
                + "; --benchmark or --map selects another benchmark"
            )
        return notes


def choose(
    table: CurveTable,
    unit: BudgetUnit,
    benchmark: str | None,
    measured: Sequence[str] | None,
    mapping: Mapping[str, str],
) -> Columns:
    """Choose the columns of a table that become curves.

    Args:
        table: of evaluations.
        unit: of the budget.
        benchmark: the only benchmark to read; by default its column is `value`.
        measured: benchmarks to look for; None takes every column of values under its own name.
        mapping: columns that the user names, by benchmark or by the unit of the budget.

    Raises:
        CurveError: if a column is missing or ambiguous.
    """
    _check_mapping(table, mapping)
    budget = mapping.get(unit) or _budget(table, unit)
    value_columns = [name for name in table.columns if _is_value(table, name, budget)]
    if not value_columns:
        raise CurveError(
            f"{table.path} has no column of values",
            why=f"its columns are {table.listed()}",
            fix="Add `value`, or a column for each benchmark",
        )
    named = {name: column for name, column in mapping.items() if name != unit}
    if benchmark is not None:
        values = {benchmark: named.get(benchmark) or _one(table, value_columns, benchmark)}
    elif any(name.lower() == VALUE for name in value_columns) and not named:
        column = next(name for name in value_columns if name.lower() == VALUE)
        raise CurveError(
            f"{table.path} does not name the benchmark of its column `{column}`",
            fix="Give --benchmark NAME",
        )
    elif measured is None:
        values = named or {name: name for name in value_columns}
    elif not measured and not named:
        raise CurveError(
            f"no column of {table.path} is a known benchmark",
            why="the checkpoint has no pass@k on any benchmark; the columns of values are "
            f"{', '.join(value_columns)}",
            fix="Name the benchmark: --benchmark NAME, or --map NAME=COLUMN",
        )
    else:
        values = _measured(table, value_columns, measured, named)
    used = {*values.values(), *mapping.values()}
    return Columns(
        budget=budget,
        values=values,
        ignored=tuple(name for name in value_columns if name not in used),
    )


def error_column(table: CurveTable, column: str) -> str | None:
    """Return the column of standard errors that belongs to a column of values, if any."""
    names = [column + suffix for suffix in _ERRORS]
    if column.lower() == VALUE:
        names += ["se", "stderr"]
    return next((name for name in names if name in table.columns), None)


def _check_mapping(table: CurveTable, mapping: Mapping[str, str]) -> None:
    for name, column in mapping.items():
        if column not in table.columns:
            raise CurveError(
                f"{table.path} has no column {column!r}, which --map names as {name}",
                why=f"its columns are {table.listed()}",
            )
        if name not in get_args(BudgetUnit):
            check_score(column, f"column {column!r} of {table.path}")


def check_score(name: str, what: str) -> None:
    """Refuse names of training metrics: a loss, a learning rate, the training reward.

    Args:
        name: of a column or benchmark.
        what: its description, for messages.

    Raises:
        CurveError: if it is such a name.
    """
    if _TRAINING.fullmatch(_without_run(name)):
        raise CurveError(
            f"{what} is a training metric, not an outcome",
            why="an outcome is a score on held-out problems; the training reward also rises when "
            "RL exploits it",
            fix="Evaluate the RL run on a benchmark, and give that score",
        )


def _budget(table: CurveTable, unit: BudgetUnit) -> str:
    wanted = (unit, "budget", *(_STEP_NAMES if unit == "steps" else ()))
    for name in wanted:
        same = [c for c in table.columns if _without_run(c).lower() == name]
        same = [c for c in same if not c.endswith(_EXTREMES)]
        if len(same) > 1:
            raise CurveError(
                f"{table.path} has {len(same)} columns of {unit}: {', '.join(same)}",
                fix=f"Choose one: --map {unit}=COLUMN",
            )
        if same:
            return same[0]
    other = [name for name in get_args(BudgetUnit) if name in table.columns]
    raise CurveError(
        f"{table.path} has no budget column in {unit}",
        why=f"its columns are {table.listed()}",
        fix=f"Give --budget-unit {other[0]}"
        if other
        else f"Name the column `budget` or one of {', '.join(get_args(BudgetUnit))}, or name it: "
        f"--map {unit}=COLUMN",
    )


def _is_value(table: CurveTable, name: str, budget: str) -> bool:
    """Return whether a column may hold scores, not budgets, errors or extremes of another one."""
    beside = (*_EXTREMES, *_ERRORS)
    if any(name.endswith(s) and name.removesuffix(s) in table.columns for s in beside):
        return False
    if name.lower() in ("se", "stderr") and VALUE in map(str.lower, table.columns):
        return False
    plain = _without_run(name).lower()
    return name != budget and plain not in (
        "budget",
        "wall time",
        *_STEP_NAMES,
        *get_args(BudgetUnit),
    )


def _one(table: CurveTable, value_columns: Sequence[str], benchmark: str) -> str:
    """Return the column of a benchmark that the user names."""
    column = _match(table, value_columns, benchmark)
    if column is None:
        column = next((name for name in value_columns if name.lower() == VALUE), None)
    if column is None and len(value_columns) == 1:
        check_score(value_columns[0], f"column {value_columns[0]!r} of {table.path}")
    if column is None:
        raise CurveError(
            f"{table.path} has no column {benchmark!r}, and none named `value`",
            why=f"its columns of values are {', '.join(value_columns)}",
            fix=f"Choose one of these: --map '{benchmark}=COLUMN'",
        )
    check_score(column, f"column {column!r} of {table.path}")
    return column


def _measured(
    table: CurveTable,
    value_columns: Sequence[str],
    measured: Sequence[str],
    named: Mapping[str, str],
) -> dict[str, str]:
    """Return the columns of the measured benchmarks and the columns that the user names."""
    matched = {name: _match(table, value_columns, name) for name in measured if name not in named}
    values = {name: column for name, column in matched.items() if column is not None}
    values |= named
    if not values:
        if len(value_columns) == 1:
            check_score(value_columns[0], f"column {value_columns[0]!r} of {table.path}")
        raise CurveError(
            f"{table.path} has no column of a benchmark that the checkpoint was measured on",
            why=f"it was measured on {', '.join(measured)}; the columns of values are "
            f"{', '.join(value_columns)}",
            fix=f"If one is such a score under another name: --map '{measured[0]}=COLUMN'",
        )
    return values


def _match(table: CurveTable, value_columns: Sequence[str], benchmark: str) -> str | None:
    if benchmark in value_columns:
        return benchmark
    pattern = re.compile(f"{_BEFORE}?{re.escape(benchmark)}{_AFTER}?", re.IGNORECASE)
    same = [name for name in value_columns if pattern.fullmatch(_without_run(name))]
    if len(same) > 1:
        raise CurveError(
            f"{table.path} has {len(same)} columns of {benchmark}: {', '.join(same)}",
            why="each name fits this benchmark's pass@1, and an outcome belongs to one RL run",
            fix=f"Choose one: --map '{benchmark}=COLUMN'",
        )
    return same[0] if same else None


def _without_run(column: str) -> str:
    """Return the name of a metric without the run that wandb puts before it."""
    return column.rpartition(" - ")[2]
