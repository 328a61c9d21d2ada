"""Parts of a recipe space: its sources, the settings that are searched, and recipes as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Choice = str | int | float | bool
BoolArray = NDArray[np.bool_]

LOSS_WEIGHTINGS = ("none", "pear_sequence", "pear_block", "pear_token", "iw", "tail_filter")
RECIPE_FIELDS = (
    "n_unique",
    "epochs",
    "learning_rate",
    "schedule",
    "batch_size",
    "loss_weighting",
)
"""Axes that are fields of `Recipe`; every other axis goes to its `extra`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of training examples.

    Args:
        name: as in `Recipe.sources`.
        available_tokens: tokens of all its examples; None: no limit.
        mean_tokens: mean length of an example.
        floor: least weight.
        cap: largest weight.
        max_repetitions: how often its tokens may be repeated; None: no limit.

    Example:
        >>> Source(name="gsm8k", available_tokens=1e7, max_repetitions=4).most_tokens
        40000000.0
    """

    name: str
    available_tokens: float | None = None
    mean_tokens: float = 1.0
    floor: float = 0.0
    cap: float = 1.0
    max_repetitions: float | None = None

    @property
    def most_tokens(self) -> float:
        """Most tokens that it can give to a run, repetitions included."""
        if self.available_tokens is None or self.max_repetitions is None:
            return float("inf")
        return self.available_tokens * self.max_repetitions


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting of the recipe that is searched: a range of numbers, or a list of choices.

    Args:
        name: one of `RECIPE_FIELDS`, or any other name.
        kind: how its values are taken.
        low: least value of a range.
        high: largest value of a range.
        log: whether equal ratios count as equal steps.
        choices: values of a categorical axis.
    """

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Choice, ...] = ()

    def to_unit(self, value: Any) -> float:
        """Position in [0, 1]; of a choice its index.

        Raises:
            ConfigError: if the axis does not contain the value.
        """
        if self.kind == "categorical":
            for index, choice in enumerate(self.choices):
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return float(index)
            raise ConfigError(f"{self.name} {value!r} is not one of {list(self.choices)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.name} {value!r} is not a number")
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not self.low - slack <= value <= self.high + slack:
            raise ConfigError(f"{self.name} {value:g} is outside {self.low:g}..{self.high:g}")
        if self.high == self.low:
            return 0.0
        low, high, at = self._scaled(self.low), self._scaled(self.high), self._scaled(value)
        return float(np.clip((at - low) / (high - low), 0.0, 1.0))

    def from_unit(self, position: float) -> Choice:
        """The value at a position in [0, 1], or the choice of that index."""
        if self.kind == "categorical":
            return self.choices[round(position)]
        value = float(self.values(np.array([position]))[0])
        return int(value) if self.kind == "int" else value

    def values(self, positions: FloatArray) -> FloatArray:
        """Numbers at positions in [0, 1]."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        values = low + (high - low) * positions
        values = np.clip(np.exp(values) if self.log else values, self.low, self.high)
        return np.asarray(np.round(values) if self.kind == "int" else values)

    def distribution(self) -> BaseDistribution:
        """The axis as Optuna has it."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.kind == "categorical":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def _scaled(self, value: float) -> float:
        return float(np.log(value)) if self.log else float(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """n recipes as arrays.

    Args:
        weights: (n, sources) mixtures.
        axes: (n, axes) positions in [0, 1]; of a categorical axis the index of its choice.
    """

    weights: FloatArray
    axes: FloatArray

    def __len__(self) -> int:
        return len(self.weights)

    def rows(self, chosen: NDArray[np.intp] | BoolArray | slice) -> Points:
        """Some of them, by position or mask."""
        return Points(weights=self.weights[chosen], axes=self.axes[chosen])

    @staticmethod
    def joined(parts: Sequence[Points]) -> Points:
        """All rows of the parts, in their order."""
        return Points(
            weights=np.vstack([part.weights for part in parts]),
            axes=np.vstack([part.axes for part in parts]),
        )
