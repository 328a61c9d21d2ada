"""Rungs of a trial: after how many steps it is measured, and whether it continues.

    [rungs]
    steps = [20, 60, 200]             # of the training, or of RL; the last step gives the outcome
    pruner = "halving"                # or "hyperband"
    reduction_factor = 3              # about one in three continues

Values of different trials after the same number of steps must be comparable, and higher must be
better, as for the outcome. Optuna's pruners decide: `SuccessiveHalvingPruner` checks a trial after
20, 60, 180, ... steps, at the first measurement from then on.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from pydantic import Field, Strict, field_validator

from rlready.predictors.training_table import FloatArray
from rlready.registry.toml_file import TomlTable

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


_MOST_FAILED = 100


class Rungs(TomlTable):
    """The table [rungs] of a space file.

    Args:
        steps: at least two rising numbers; the value after the last one is the outcome.
        pruner: which pruner of Optuna stops trials.
        reduction_factor: one in so many trials continues.
    """

    steps: Annotated[tuple[int, ...], Strict(False)]
    pruner: Literal["halving", "hyperband"] = "halving"
    reduction_factor: int = Field(default=3, ge=2)

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if len(steps) < 2 or steps[0] < 1 or list(steps) != sorted(set(steps)):
            raise ValueError("It should have at least two rising numbers, for example [20, 60]")
        return steps

    def make_pruner(self) -> BasePruner:
        """Return the pruner of Optuna."""
        if self.pruner == "hyperband":
            return HyperbandPruner(
                min_resource=self.steps[0],
                max_resource=self.steps[-1],
                reduction_factor=self.reduction_factor,
            )
        return SuccessiveHalvingPruner(
            min_resource=self.steps[0], reduction_factor=self.reduction_factor
        )

    def next_step(self, measured: Collection[int]) -> int:
        """Return the first rung after the measured steps, or the last one."""
        last = max(measured, default=0)
        return next((step for step in self.steps if step > last), self.steps[-1])


def foreseen_of(trial: FrozenTrial, finished: Sequence[FrozenTrial]) -> list[float] | None:
    """Predict the outcome of a trial from its last rung; None if that is not possible yet."""
    if not trial.intermediate_values:
        return None
    step = max(trial.intermediate_values)
    return foreseen(trial.intermediate_values[step], step, finished)


def foreseen(value: float, step: int, finished: Sequence[FrozenTrial]) -> list[float] | None:
    """Predict the outcome of a trial from one rung: its mean and standard deviation.

    The prediction is its value plus the gain of the finished trials from this step on. None if
    fewer than three of them were measured after it.
    """
    gains = [
        trial.values[0] - trial.intermediate_values[step]
        for trial in finished
        if step in trial.intermediate_values
    ]
    return foreseen_from(value, gains)


def foreseen_from(value: float, gains: Sequence[float]) -> list[float] | None:
    """Return the mean and standard deviation of a value plus one of the gains; None under three."""
    if len(gains) < 3:
        return None
    return [value + statistics.fmean(gains), statistics.stdev(gains)]


def ends_of_failed(
    trials: Sequence[FrozenTrial], finished: Sequence[FrozenTrial], directions: FloatArray
) -> list[tuple[FrozenTrial, list[float]]]:
    """Return the failed ones of some trials, with the values and deviations that they count with.

    Some recipes fail each time: they need more examples than there are, or they diverge. Without
    an outcome they would be proposed again and again, so each value is the worst of the finished
    trials. But a machine may have failed and not the recipe, so half the standard deviation of the
    finished trials makes one failure weaker evidence than an outcome (docs/LOG.md, 2026-11-30).

    Args:
        trials: trials in the order of their numbers; of many failed ones, the last count.
        finished: finished trials, at least one.
        directions: 1 for each objective where higher is better, -1 where lower is.
    """
    columns = list(zip(*(trial.values for trial in finished), strict=True))
    end = [min(c, key=lambda v: d * v) for c, d in zip(columns, directions, strict=True)]
    end += [0.5 * statistics.pstdev(column) for column in columns]
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    return [(trial, end) for trial in failed[-_MOST_FAILED:]]
