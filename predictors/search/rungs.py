"""Rungs of a trial: after how many steps it is measured, and whether it goes on.

    [rungs]
    steps = [20, 60, 200]             # of the training, or of RL; the last ones give the outcome
    pruner = "halving"                # or "hyperband"
    reduction_factor = 3              # about one in three goes on

A value after so many steps must be comparable with those of other trials after as many, and more
must be better, as for the outcome. Optuna's pruners decide: `SuccessiveHalvingPruner` looks at a
trial after 20, 60, 180, ... steps, at the first measurement from there on.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """When trials are measured, and which pruner stops them.

    Args:
        steps: rising; after the last ones a trial has its outcome.
        pruner: "halving" or "hyperband".
        reduction_factor: one in so many goes on, at least 2.
    """

    steps: tuple[int, ...]
    pruner: str = "halving"
    reduction_factor: int = 3

    def __post_init__(self) -> None:
        is_whole = all(type(step) is int and step > 0 for step in self.steps)
        if len(self.steps) < 2 or not is_whole or list(self.steps) != sorted(set(self.steps)):
            raise ConfigError(
                f"rungs.steps is {list(self.steps)}",
                fix="Give at least two rising whole numbers, for example steps = [20, 60, 200]",
            )
        if self.pruner not in ("halving", "hyperband"):
            raise ConfigError(f"rungs.pruner is {self.pruner!r}", fix="Known: halving, hyperband")
        if type(self.reduction_factor) is not int or self.reduction_factor < 2:
            raise ConfigError(
                f"rungs.reduction_factor is {self.reduction_factor!r}",
                fix="Give a whole number of at least 2",
            )

    def make_pruner(self) -> BasePruner:
        """The pruner of Optuna that decides."""
        from optuna.pruners import HyperbandPruner, SuccessiveHalvingPruner

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
        """The first rung that is not measured yet, or the last one."""
        last = max(measured, default=0)
        return next((step for step in self.steps if step > last), self.steps[-1])


def foreseen(value: float, step: int, finished: Sequence[FrozenTrial]) -> list[float] | None:
    """How a trial with a value after so many steps would have ended: mean, standard deviation.

    It would have gained what finished trials gained from this step on. Fewer than three of them
    tell nothing.
    """
    gains = [
        trial.values[0] - trial.intermediate_values[step]
        for trial in finished
        if step in trial.intermediate_values
    ]
    if len(gains) < 3:
        return None
    return [value + statistics.fmean(gains), statistics.stdev(gains)]


def parse_rungs(values: Any) -> Rungs:
    """Read the table [rungs] of a space file.

    Raises:
        ConfigError: at an unknown key, or a value of another kind.
    """
    keys = tuple(Rungs.__dataclass_fields__)
    unknown = sorted(set(values) - set(keys)) if isinstance(values, Mapping) else [values]
    if unknown:
        raise ConfigError(
            f"[rungs] has the unknown key {unknown[0]!r}", fix=f"Known: {', '.join(keys)}"
        )
    steps = values.get("steps")
    if not isinstance(steps, list):
        raise ConfigError(f"rungs.steps is {steps!r}", fix="For example steps = [20, 60, 200]")
    return Rungs(**{**values, "steps": tuple(steps)})
