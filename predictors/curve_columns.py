r"""Which columns of a file of evaluations are the budget and the scores of a benchmark.

A column belongs to the benchmark NAME if it is called

    NAME
    eval/NAME   val/NAME   test/NAME                   (`_` for `/`, as TRL writes it, too)
    eval/NAME/accuracy  .../acc  .../pass@1            (likewise)
    eval/NAME/mean@8    .../acc/mean@8  .../avg@8      the mean of 8 samples a problem is pass@1
    val-core/SOURCE/NAME/reward/mean@1                 (verl; `acc` for `reward`, and val-aux)
    val/test_score/SOURCE/NAME                         (verl before 0.3)

in any case of its letters, and behind `RUN - `, which wandb puts first. A column of exactly that
name goes before the others. Everything else (losses, rewards, lengths) is left out unless it is
named: `best@8` or `maj@8` are not pass@1, and `eval/NAME/reward` may hold a bonus for the format.
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
"""Columns that are listed in a note: a log may have hundreds."""

_ERRORS = ("_se", "_stderr")
_EXTREMES = ("__MIN", "__MAX")
_STEPS = ("train/global_step", "training/global_step", "trainer/global_step", "global_step")
_STEP_NAMES = (*_STEPS, "step", "_step")
"""Names of the optimizer's steps. wandb's own `_step` counts calls of `wandb.log`: the last."""

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
"""Numbers that trainers log beside the scores. A reward under `eval/` may be a score, if named."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table are read.

    Args:
        budget: the column of the budget.
        values: the column of each benchmark's scores.
        ignored: columns that are none of these and no standard errors.
    """

    budget: str
    values: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def notes(self, path: Path) -> list[str]:
        """What a person should know about the choice."""
        notes = [
            f"column {column!r} of {path.name} was read as {name}"
            for name, column in self.values.items()
            if column != name and column.lower() != VALUE
        ]
        if self.ignored:
            listed = ", ".join(self.ignored[:_LISTED])
            more = len(self.ignored) - _LISTED
            notes.append(
                f"left out {len(self.ignored)} column{'s' * (len(self.ignored) > 1)} of "
                f"{path.name}: {listed}"
                + (f" and {more} more" if more > 0 else "")
                + "; --benchmark or --map takes another benchmark's"
            )
        return notes


def choose(
    table: CurveTable,
    unit: BudgetUnit,
    benchmark: str | None,
    measured: Sequence[str] | None,
    given: Mapping[str, str],
) -> Columns:
    """The columns of a table that become curves.

    Args:
        table: of evaluations.
        unit: of the budget.
        benchmark: take this one alone; a column `value` is taken for it if no other is.
        measured: benchmarks to look for; None takes every column of values as it is called.
        given: columns by benchmark, or by the unit of the budget, that the user names.

    Raises:
        CurveError: if a column is missing, or two would do.
    """
    _check_given(table, given)
    budget = given.get(unit) or _budget(table, unit)
    found = [name for name in table.columns if _is_value(table, name, budget)]
    if not found:
        raise CurveError(
            f"{table.path} has no column of values",
            why=f"its columns are {table.listed()}",
            fix="Add `value`, or a column for each benchmark",
        )
    named = {name: column for name, column in given.items() if name != unit}
    if benchmark is not None:
        values = {benchmark: named.get(benchmark) or _one(table, found, benchmark)}
    elif any(name.lower() == VALUE for name in found) and not named:
        own = next(name for name in found if name.lower() == VALUE)
        raise CurveError(
            f"{table.path} does not say of which benchmark its column `{own}` is",
            fix="Give --benchmark NAME",
        )
    elif measured is None:
        values = named or {name: name for name in found}
    elif not measured and not named:
        raise CurveError(
            f"no column of {table.path} is known to be a benchmark",
            why="the checkpoint has no pass@k on any; the columns of values are "
            f"{', '.join(found)}",
            fix="Say what was measured: --benchmark NAME, or --map NAME=COLUMN",
        )
    else:
        values = _measured(table, found, measured, named)
    used = {*values.values(), *given.values()}
    return Columns(
        budget=budget, values=values, ignored=tuple(name for name in found if name not in used)
    )


def error_column(table: CurveTable, column: str) -> str | None:
    """The column of standard errors that belongs to a column of values, if there is one."""
    names = [column + suffix for suffix in _ERRORS]
    if column.lower() == VALUE:
        names += ["se", "stderr"]
    return next((name for name in names if name in table.columns), None)


def _check_given(table: CurveTable, given: Mapping[str, str]) -> None:
    for name, column in given.items():
        if column not in table.columns:
            raise CurveError(
                f"{table.path} has no column {column!r}, which --map gives as {name}",
                why=f"its columns are {table.listed()}",
            )
        if name not in get_args(BudgetUnit):
            check_score(column, f"column {column!r} of {table.path}")


def check_score(name: str, what: str) -> None:
    """Return if a name may be that of a score, and not of a number that a trainer logs.

    Args:
        name: of a column or benchmark.
        what: what it is called, for messages.

    Raises:
        CurveError: if it is a loss, a learning rate, the training reward or the like.
    """
    if _TRAINING.fullmatch(_without_run(name)):
        raise CurveError(
            f"{what} is a number of the training and no outcome",
            why="an outcome is a score on held-out problems; the training reward is no outcome: it "
            "also rises with what RL exploits",
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
                fix=f"Say which: --map {unit}=COLUMN",
            )
        if same:
            return same[0]
    other = [name for name in get_args(BudgetUnit) if name in table.columns]
    raise CurveError(
        f"{table.path} has no budget column in {unit}",
        why=f"its columns are {table.listed()}",
        fix=f"Give --budget-unit {other[0]}"
        if other
        else f"Name the column `budget` or one of {', '.join(get_args(BudgetUnit))}, or say which "
        f"it is: --map {unit}=COLUMN",
    )


def _is_value(table: CurveTable, name: str, budget: str) -> bool:
    """Whether a column may hold scores: not a budget, and not beside another column."""
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


def _one(table: CurveTable, found: Sequence[str], benchmark: str) -> str:
    """The one column of a benchmark that is asked for by name."""
    column = _match(table, found, benchmark)
    if column is None:
        column = next((name for name in found if name.lower() == VALUE), None)
    if column is None and len(found) == 1:
        check_score(found[0], f"column {found[0]!r} of {table.path}")
    if column is None:
        raise CurveError(
            f"{table.path} has no column {benchmark!r}, and none named `value`",
            why=f"its columns of values are {', '.join(found)}",
            fix=f"Say which of these is it: --map '{benchmark}=COLUMN'",
        )
    check_score(column, f"column {column!r} of {table.path}")
    return column


def _measured(
    table: CurveTable, found: Sequence[str], measured: Sequence[str], named: Mapping[str, str]
) -> dict[str, str]:
    """Columns of the benchmarks that were measured, and those that the user names."""
    matched = {name: _match(table, found, name) for name in measured if name not in named}
    values = {name: column for name, column in matched.items() if column is not None}
    values |= named
    if not values:
        if len(found) == 1:
            check_score(found[0], f"column {found[0]!r} of {table.path}")
        raise CurveError(
            f"{table.path} has no column of a benchmark that the checkpoint was measured on",
            why=f"it was measured on {', '.join(measured)}; the columns of values are "
            f"{', '.join(found)}",
            fix=f"If one is such a score under another name, say so: --map '{measured[0]}=COLUMN'",
        )
    return values


def _match(table: CurveTable, found: Sequence[str], benchmark: str) -> str | None:
    if benchmark in found:
        return benchmark
    pattern = re.compile(f"{_BEFORE}?{re.escape(benchmark)}{_AFTER}?", re.IGNORECASE)
    same = [name for name in found if pattern.fullmatch(_without_run(name))]
    if len(same) > 1:
        raise CurveError(
            f"{table.path} has {len(same)} columns of {benchmark}: {', '.join(same)}",
            why="each is called like this benchmark's pass@1, and an outcome is of one RL run",
            fix=f"Say which: --map '{benchmark}=COLUMN'",
        )
    return same[0] if same else None


def _without_run(column: str) -> str:
    """The name of a metric without the run that wandb puts before it."""
    return column.rpartition(" - ")[2]
