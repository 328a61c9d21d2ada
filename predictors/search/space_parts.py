"""Parts of a recipe space: sources, mixtures of them, searched settings, and recipes as arrays.

A mixture of d sources is a point of the simplex {w >= 0, sum w = 1}, limited by a floor and a cap
for each source. Samplers need a box, so a `Simplex` maps coordinates to weights by one of 4 laws:

    stick      w_i = share of what is left, 1 - u^(1 / (d - 1 - i)); uniform u gives Dirichlet(1).
               d - 1 coordinates in [0, 1]; depends on the order of the sources.
    softmax    w ~ exp(logit), logits in [-6, 2]; a weight is never under e^-8 of the largest.
    sparse     w ~ (-log u)^3: most weights nearly 0, a few large.
    dirichlet  w ~ -log u, the usual trick of Optuna's manual; uniform over the simplex.

Floors and caps hold exactly. The stick law limits each piece so that the pieces after it can meet
their floors and caps. The other laws use w = floor + min(cap - floor, t r), where r are the raw
weights and t makes the sum 1. Allowed weights do not change when they are converted to coordinates
and back (softmax first raises weights to at least e^-8 of the largest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

Choice = str | int | float | bool
Parametrisation = Literal["stick", "softmax", "sparse", "dirichlet"]
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

_LOGITS = (-6.0, 2.0)
_POWER = {"sparse": 3.0, "dirichlet": 1.0}
# A smaller u makes -log(u) larger than the scale of a mixture of 20 sources.
_SMALLEST_U = 1e-12
_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of training examples.

    Args:
        name: name of the source, as in `Recipe.sources`.
        available_tokens: number of tokens of all its examples; None: no limit.
        mean_tokens: mean number of tokens of an example.
        floor: smallest weight in a mixture, 0 to 1.
        cap: largest weight in a mixture, 0 to 1.
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
        """Largest number of tokens that a run can take from it, including repetitions."""
        if self.available_tokens is None or self.max_repetitions is None:
            return float("inf")
        return self.available_tokens * self.max_repetitions


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting of the recipe that is searched: a range of numbers, or a list of choices.

    Args:
        name: one of `RECIPE_FIELDS`, or any other name.
        kind: type of its values.
        low: smallest value of a range.
        high: largest value of a range.
        log: whether the range has a logarithmic scale.
        choices: values of a categorical axis.
    """

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Choice, ...] = ()

    def to_unit(self, value: Any) -> float:
        """Return the position of a value in [0, 1], or the index of a choice.

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
        """Return the value at a position in [0, 1], or the choice of that index."""
        if self.kind == "categorical":
            return self.choices[round(position)]
        value = float(self.values(np.array([position]))[0])
        return int(value) if self.kind == "int" else value

    def values(self, positions: FloatArray) -> FloatArray:
        """Return the numbers at positions in [0, 1]."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        values = low + (high - low) * positions
        values = np.clip(np.exp(values) if self.log else values, self.low, self.high)
        return np.asarray(np.round(values) if self.kind == "int" else values)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of the axis."""
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
        axes: (n, axes) positions in [0, 1]; for a categorical axis, the index of the choice.
    """

    weights: FloatArray
    axes: FloatArray

    def __len__(self) -> int:
        return len(self.weights)

    def rows(self, chosen: NDArray[np.intp] | BoolArray | slice) -> Points:
        """Return some of the recipes, by position or mask."""
        return Points(weights=self.weights[chosen], axes=self.axes[chosen])

    @staticmethod
    def joined(parts: Sequence[Points]) -> Points:
        """Return the recipes of all parts, in their order."""
        return Points(
            weights=np.vstack([part.weights for part in parts]),
            axes=np.vstack([part.axes for part in parts]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Simplex:
    """Mixtures of named sources within floors and caps.

    Args:
        sources: names, at least one.
        floors: (d,) smallest weight of each source.
        caps: (d,) largest weight of each source.
        parametrisation: law that maps coordinates to weights.

    Raises:
        ConfigError: if no mixture can meet the floors and caps.
    """

    sources: tuple[str, ...]
    floors: FloatArray
    caps: FloatArray
    parametrisation: Parametrisation = "stick"

    def __post_init__(self) -> None:
        if self.parametrisation not in get_args(Parametrisation):
            raise ConfigError(
                f"simplex parametrisation is {self.parametrisation!r}",
                fix=f"Known: {', '.join(get_args(Parametrisation))}",
            )
        _check_bounds(self.sources, self.floors, self.caps)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates; empty for a single source."""
        if len(self.sources) == 1:
            return ()
        named = self.sources[:-1] if self.parametrisation == "stick" else self.sources
        return tuple(f"{self.parametrisation}:{source}" for source in named)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of each coordinate."""
        if self.parametrisation == "softmax":
            return _LOGITS
        return (0.0, 1.0) if self.parametrisation == "stick" else (_SMALLEST_U, 1.0)

    def weights(self, coordinates: FloatArray) -> FloatArray:
        """Return the (n, d) mixtures of (n, len(names)) coordinates."""
        if len(self.sources) == 1:
            return np.ones((len(coordinates), 1))
        if self.parametrisation == "stick":
            return self._break_stick(coordinates)
        if self.parametrisation == "softmax":
            return self.fill(np.exp(coordinates - coordinates.max(axis=1, keepdims=True)))
        return self.fill((-np.log(coordinates)) ** _POWER[self.parametrisation])

    def coordinates(self, weights: FloatArray) -> FloatArray:
        """Return (n, len(names)) coordinates of (n, d) mixtures that meet floors and caps."""
        if len(self.sources) == 1:
            return np.ones((len(weights), 0))
        if self.parametrisation == "stick":
            return self._mend_stick(weights)
        raw = np.maximum(weights - self.floors, 0.0)
        raw = raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-300)
        if self.parametrisation == "softmax":
            low, high = _LOGITS
            ratio = raw / np.maximum(raw.max(axis=1, keepdims=True), 1e-300)
            return np.asarray(np.maximum(high + np.log(np.maximum(ratio, 1e-300)), low))
        power = _POWER[self.parametrisation]
        # Any scale gives the same mixture. This is close to the sum of d draws, within the bounds.
        scale = min(float(len(self.sources)), 20.0) * (6.0 if power > 1.0 else 1.0)
        return np.asarray(np.exp(-((scale * raw) ** (1.0 / power))))

    def fill(self, raw: FloatArray) -> FloatArray:
        """Return (n, d) allowed mixtures of non-negative raw weights (n, d); see `fill`."""
        return fill(raw, self.floors, self.caps)

    def project(self, mixtures: FloatArray) -> FloatArray:
        """Return (n, d) allowed mixtures near the given ones; allowed mixtures do not change."""
        return fill(mixtures - self.floors, self.floors, self.caps)

    def allows(self, weights: FloatArray) -> bool:
        """Return whether a mixture meets the floors and caps."""
        return bool(
            (weights >= self.floors - _SLACK).all()
            and (weights <= self.caps + _SLACK).all()
            and abs(float(weights.sum()) - 1.0) < 1e-6
        )

    def _break_stick(self, coordinates: FloatArray) -> FloatArray:
        weights = np.empty((len(coordinates), len(self.sources)))
        left = np.ones(len(coordinates))
        for i in range(len(self.sources) - 1):
            low, high = self._piece(i, left)
            share = 1.0 - coordinates[:, i] ** (1.0 / (len(self.sources) - 1 - i))
            weights[:, i] = low + (high - low) * share
            left = left - weights[:, i]
        weights[:, -1] = np.maximum(left, 0.0)
        return weights

    def _mend_stick(self, weights: FloatArray) -> FloatArray:
        # u is 1 minus the level of the Beta quantile. Near a vertex the level is 1 - 1e-20, which
        # would be rounded to 1; u keeps its digits.
        coordinates = np.empty((len(weights), len(self.sources) - 1))
        left = np.ones(len(weights))
        for i in range(len(self.sources) - 1):
            low, high = self._piece(i, left)
            width = high - low
            rest = (high - weights[:, i]) / np.where(width > 1e-15, width, 1.0)
            rest = np.where(width > 1e-15, np.clip(rest, 0.0, 1.0), 0.5)
            coordinates[:, i] = rest ** (len(self.sources) - 1 - i)
            left = left - weights[:, i]
        return coordinates

    def _piece(self, i: int, left: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the bounds of piece i for which the pieces after it can meet their own."""
        low = np.maximum(self.floors[i], left - self.caps[i + 1 :].sum())
        high = np.minimum(self.caps[i], left - self.floors[i + 1 :].sum())
        return low, np.maximum(high, low)


def fill(raw: FloatArray, floors: FloatArray, caps: FloatArray) -> FloatArray:
    """Return (n, d) mixtures between floors and caps that keep the proportions of raw weights.

    The weight that a cap cuts off goes to the other sources, in proportion to their raw weights
    or, if these are all 0, to the room up to their caps. If the caps, (d,) or (n, d), sum to less
    than 1, so does the mixture.
    """
    share = np.maximum(np.asarray(raw, dtype=np.float64), 0.0)
    room = np.broadcast_to(caps - floors, share.shape)
    free = 1.0 - float(floors.sum())
    filled = np.zeros_like(share)
    for _ in range(share.shape[1] + 1):
        left = free - filled.sum(axis=1, keepdims=True)
        if float(left.max(initial=0.0)) < 1e-13:
            break
        is_open = filled < room - 1e-15
        weight = np.where(is_open, share, 0.0)
        is_empty = weight.sum(axis=1, keepdims=True) <= 0.0
        weight = np.where(is_empty, np.where(is_open, room - filled, 0.0), weight)
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        filled = np.minimum(filled + left * weight / total, room)
    return np.asarray(floors + filled)


def _check_bounds(sources: tuple[str, ...], floors: FloatArray, caps: FloatArray) -> None:
    if not sources:
        raise ConfigError("a mixture needs at least one source")
    if len(set(sources)) < len(sources):
        twice = sorted({name for name in sources if sources.count(name) > 1})
        raise ConfigError(f"source {', '.join(twice)} is named twice")
    for name, low, high in zip(sources, floors, caps, strict=True):
        if not 0.0 <= low <= high <= 1.0:
            raise ConfigError(
                f"source {name!r} has floor {low:g} and cap {high:g}",
                fix="Give 0 <= floor <= cap <= 1",
            )
    if floors.sum() > 1.0 + _SLACK:
        raise ConfigError(
            f"the floors of the sources sum to {floors.sum():.4g}",
            why="mixture weights sum to 1, so not all floors can be met",
            fix="Lower some floors",
        )
    if caps.sum() < 1.0 - _SLACK:
        raise ConfigError(
            f"the caps of the sources sum to {caps.sum():.4g}",
            why="mixture weights sum to 1, so some cap has to be passed",
            fix="Raise some caps, or add a source",
        )
