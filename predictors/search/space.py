"""The space of SFT recipes that a search may propose, and the other three forms of a recipe.

    Recipe (registry record)  <->  Points (rows of arrays)  <->  parameters of an Optuna trial
                                        |
                                        v
                                   features (input of the surrogate)

Weights are shares of the examples. With mean lengths l_i (tokens per example) and the mean length
l(w) = sum w_i l_i of a mixture, a recipe trains on n_unique x epochs x l(w) tokens. If the space
has a token budget, `epochs` follows from the other two and is not a free axis. A source with weight
w_i is repeated w_i l_i n_unique epochs / available_tokens_i times. A limit is a number that is
<= 0 if the recipe keeps it, as in Optuna's `trial.set_constraint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from rlready.predictors.search.recipe_budget import check_budget, nearest_allowed
from rlready.predictors.search.space_parts import (
    Axis,
    BoolArray,
    Parametrisation,
    Points,
    Simplex,
    Source,
    fill,
)
from rlready.predictors.training_table import FloatArray
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

# A whole number of examples does not meet a budget exactly, and registries round epochs.
_BUDGET_SLACK = 0.02
_LIMIT_SLACK = 1e-6
_MENDING_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class RecipeSpace:
    """The recipes that a search may propose; `read_space` and `parse_space` make it from TOML.

    Args:
        sources: data sources, at least one.
        axes: settings that are searched; with a budget, `epochs` is not among them.
        token_budget: tokens that every recipe trains on; None: no budget.
        epochs_range: smallest and largest number of epochs that a budget may lead to.
        simplex_kind: law of the mixture's coordinates; None: the default of the sampler.
        fixed: fields that are the same in all recipes.

    Raises:
        ConfigError: if no recipe can meet floors, caps, budget and repetition limits.

    Example:
        >>> space = RecipeSpace(sources=(Source(name="a"), Source(name="b", floor=0.2)))
        >>> space.recipe(space.stratified()).sources
        {'a': 0.5, 'b': 0.5}
    """

    sources: tuple[Source, ...]
    axes: tuple[Axis, ...] = ()
    token_budget: float | None = None
    epochs_range: tuple[float, float] = (0.0, float("inf"))
    simplex_kind: Parametrisation | None = None
    fixed: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        simplex = self.simplex  # checks the floors and caps
        if self.token_budget is not None:
            check_budget(
                self.sources, simplex, self.token_budget, self.n_unique_range(), self.epochs_range
            )

    @cached_property
    def simplex(self) -> Simplex:
        """The mixtures that floors and caps allow."""
        return Simplex(
            sources=tuple(source.name for source in self.sources),
            floors=np.array([source.floor for source in self.sources], dtype=np.float64),
            caps=np.array([source.cap for source in self.sources], dtype=np.float64),
            parametrisation=self.simplex_kind or "stick",
        )

    @cached_property
    def digest(self) -> str:
        """Id of the space, including its coordinates."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["sources"] = [dataclasses.asdict(source) for source in self.sources]
        values["axes"] = [dataclasses.asdict(axis) for axis in self.axes]
        values["fixed"] = self.fixed.to_dict()
        values["epochs_range"] = [str(edge) for edge in self.epochs_range]
        return digest(values)

    @cached_property
    def mean_tokens(self) -> FloatArray:
        """(sources,) mean number of tokens of an example."""
        return np.array([source.mean_tokens for source in self.sources])

    # Points <-> features

    def features(self, points: Points) -> FloatArray:
        """Return (n, p) features: weights, positions on ranges, and a column for each choice.

        Choices are scaled so that two of them are 1 apart, like the ends of a range.
        """
        blocks = [points.weights]
        for k, axis in enumerate(self.axes):
            if axis.kind == "categorical":
                blocks.append(np.eye(len(axis.choices))[points.axes[:, k].astype(int)] / np.sqrt(2))
            else:
                blocks.append(points.axes[:, k : k + 1])
        return np.hstack(blocks)

    @cached_property
    def feature_groups(self) -> tuple[int, ...]:
        """(p,) group of features that share a length scale: 0 is the mixture, then each axis."""
        groups = [0] * len(self.sources)
        for k, axis in enumerate(self.axes):
            groups += [k + 1] * max(1, len(axis.choices))
        return tuple(groups)

    # Points <-> recipes

    def recipe(self, points: Points, row: int = 0) -> Recipe:
        """Return one of the points as a recipe."""
        weights = points.weights[row] / points.weights[row].sum()
        values: dict[str, Any] = dict(self.fixed.to_dict())
        values["sources"] = {
            source.name: float(min(max(weight, 0.0), 1.0))
            for source, weight in zip(self.sources, weights, strict=True)
        }
        for k, axis in enumerate(self.axes):
            values[axis.name] = axis.from_unit(float(points.axes[row, k]))
        if self.token_budget is not None:
            epochs = self.epochs(points.rows(slice(row, row + 1)))
            if epochs is not None:
                values["epochs"] = float(epochs[0])
        return Recipe.from_dict(values)

    def points(self, recipe: Recipe) -> Points:
        """Return a recipe as a point.

        Raises:
            ConfigError: if the recipe is not in the space.
        """
        others = sorted(recipe.sources.keys() - {source.name for source in self.sources})
        if any(recipe.sources[name] > 0 for name in others):
            raise ConfigError(f"source {', '.join(others)} is not in the space")
        weights = np.array([recipe.sources.get(source.name, 0.0) for source in self.sources])
        if not recipe.sources and len(self.sources) == 1:
            weights = np.ones(1)
        if weights.sum() <= 0.0:
            raise ConfigError("it names no sources")
        weights = weights / weights.sum()
        if not self.simplex.allows(weights):
            raise ConfigError(f"its mixture {dict(recipe.sources)} breaks a floor or a cap")
        values = recipe.to_dict()
        for name, fixed in self.fixed.to_dict().items():
            if values.get(name, fixed) != fixed:
                raise ConfigError(f"its {name} is {values[name]!r}, the space's {fixed!r}")
        for axis in self.axes:
            if axis.name not in values:
                raise ConfigError(f"it has no {axis.name}")
        axes = np.array([axis.to_unit(values[axis.name]) for axis in self.axes])
        points = Points(weights=weights[None, :], axes=axes.reshape(1, len(self.axes)))
        self._check_budget(points, values)
        return points

    def _check_budget(self, points: Points, values: Mapping[str, Any]) -> None:
        tied = self.epochs(points) if self.token_budget is not None else None
        if tied is not None and "epochs" in values:
            ratio = values["epochs"] / tied[0]
            if abs(ratio - 1.0) > _BUDGET_SLACK:
                raise ConfigError(
                    f"it trains on {ratio * (self.token_budget or 0.0):.4g} tokens, "
                    f"the space's budget is {self.token_budget:.4g}"
                )

    # Budget and limits

    def n_unique(self, points: Points) -> FloatArray | None:
        """Return the (n,) numbers of different examples; None if the space has none."""
        return self._axis_values("n_unique", points, self.fixed.n_unique)

    def epochs(self, points: Points) -> FloatArray | None:
        """Return the (n,) numbers of epochs, from the budget if there is one; None if unknown."""
        if self.token_budget is None:
            return self._axis_values("epochs", points, self.fixed.epochs)
        n_unique = self.n_unique(points)
        if n_unique is None:
            return None
        return np.asarray(self.token_budget / (n_unique * (points.weights @ self.mean_tokens)))

    def tokens(self, points: Points) -> FloatArray | None:
        """Return the (n,) numbers of tokens to train on; None if the space does not fix them."""
        if self.token_budget is not None:
            return np.full(len(points), self.token_budget)
        n_unique, epochs = self.n_unique(points), self.epochs(points)
        if n_unique is None or epochs is None:
            return None
        return np.asarray(n_unique * epochs * (points.weights @ self.mean_tokens))

    def limits(self, points: Points) -> dict[str, FloatArray]:
        """Return (n,) numbers for each limit, by its name; <= 0 if a recipe keeps it."""
        limits: dict[str, FloatArray] = {}
        tokens = self.tokens(points)
        if tokens is not None:
            share = points.weights * self.mean_tokens
            share = share / share.sum(axis=1, keepdims=True)
            for i, source in enumerate(self.sources):
                if np.isfinite(source.most_tokens):
                    used = share[:, i] * tokens / source.most_tokens
                    limits[f"repetitions:{source.name}"] = _limit(used - 1.0)
        epochs = self.epochs(points) if self.token_budget is not None else None
        if epochs is not None:
            low, high = self.epochs_range
            too_few = 1.0 - epochs / max(low, 1e-9)
            limits["epochs"] = _limit(np.maximum(epochs / high - 1.0, too_few))
        return limits

    def keeps_limits(self, points: Points) -> BoolArray:
        """Return (n,) whether each recipe keeps all limits."""
        is_allowed = np.ones(len(points), dtype=bool)
        for values in self.limits(points).values():
            is_allowed &= values <= 0.0
        return is_allowed

    def mended(self, points: Points) -> Points:
        """Return the points, moved to meet the limits: first repetitions, then epochs.

        Exact if the examples of all sources have the same length, else approximate: check the
        result with `keeps_limits`.
        """
        axes, weights = points.axes.copy(), points.weights
        most = np.array([source.most_tokens for source in self.sources])
        for _ in range(_MENDING_ROUNDS):
            moved = Points(weights=weights, axes=axes)
            tokens = self.tokens(moved)
            if tokens is None or not np.isfinite(most).any():
                break
            length = weights @ self.mean_tokens
            caps = most[None, :] / tokens[:, None] * length[:, None] / self.mean_tokens
            caps = np.clip(caps * (1.0 - 1e-9), self.simplex.floors, self.simplex.caps)
            weights = fill(weights - self.simplex.floors, self.simplex.floors, caps)
            weights = weights / weights.sum(axis=1, keepdims=True)
        self._mend_epochs(weights, axes)
        return Points(weights=weights, axes=axes)

    def start(self, weights: FloatArray) -> Points:
        """Return mixtures (n, sources) with each axis at its middle or first choice, mended."""
        middle = np.array([0.0 if axis.kind == "categorical" else 0.5 for axis in self.axes])
        return self.mended(Points(weights=weights, axes=np.tile(middle, (len(weights), 1))))

    def stratified(self) -> Points:
        """Return equal weights of all sources, or the nearest allowed mixture."""
        even = np.full(len(self.sources), 1.0 / len(self.sources))
        start = self.start(self.simplex.project(even[None, :]))
        if self.token_budget is None or bool(self.keeps_limits(start)[0]):
            return start
        return self.start(
            nearest_allowed(self.sources, self.simplex, self.token_budget, even)[None, :]
        )

    def _mend_epochs(self, weights: FloatArray, axes: FloatArray) -> None:
        """Change n_unique, in place, so that the epochs of the budget are in their range."""
        at = next((k for k, axis in enumerate(self.axes) if axis.name == "n_unique"), None)
        if at is None or self.token_budget is None:
            return
        axis, each = self.axes[at], self.token_budget / (weights @ self.mean_tokens)
        least = np.ceil(each / self.epochs_range[1])
        most = np.floor(each / max(self.epochs_range[0], 1e-9))
        wanted = np.clip(np.clip(axis.values(axes[:, at]), least, most), axis.low, axis.high)
        axes[:, at] = [axis.to_unit(float(value)) for value in wanted]

    def n_unique_range(self) -> tuple[float, float] | None:
        """Return the smallest and largest number of different examples; None if unknown."""
        axis = next((axis for axis in self.axes if axis.name == "n_unique"), None)
        fixed = self.fixed.n_unique
        if axis is None:
            return None if fixed is None else (float(fixed), float(fixed))
        if axis.kind == "categorical":
            counts = [float(choice) for choice in axis.choices]
            return min(counts), max(counts)
        return axis.low, axis.high

    def _axis_values(self, name: str, points: Points, fixed: float | None) -> FloatArray | None:
        for k, axis in enumerate(self.axes):
            if axis.name == name:
                if axis.kind == "categorical":
                    chosen = [axis.choices[int(index)] for index in points.axes[:, k]]
                    return np.asarray(chosen, dtype=np.float64)
                return axis.values(points.axes[:, k])
        return None if fixed is None else np.full(len(points), float(fixed))

    # Points <-> trials

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions of all parameters."""
        low, high = self.simplex.bounds
        return {
            **{name: FloatDistribution(low, high) for name in self.simplex.names},
            **{axis.name: axis.distribution() for axis in self.axes},
        }

    def covers(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether a trial has all parameters of the space."""
        return self._parameter_names <= parameters.keys()

    @cached_property
    def _parameter_names(self) -> frozenset[str]:
        return frozenset((*self.simplex.names, *(axis.name for axis in self.axes)))

    def parameters(self, points: Points, row: int = 0) -> dict[str, Any]:
        """Return one of the points as parameters of a trial."""
        coordinates = self.simplex.coordinates(points.weights[row : row + 1])[0]
        values: dict[str, Any] = {
            name: float(at) for name, at in zip(self.simplex.names, coordinates, strict=True)
        }
        for k, axis in enumerate(self.axes):
            values[axis.name] = axis.from_unit(float(points.axes[row, k]))
        return values

    def from_parameters(self, parameters: Sequence[Mapping[str, Any]]) -> Points:
        """Return the parameters of n trials as points."""
        names = self.simplex.names
        at = np.array([[trial[name] for name in names] for trial in parameters], dtype=np.float64)
        axes = [[axis.to_unit(trial[axis.name]) for axis in self.axes] for trial in parameters]
        return Points(
            weights=self.simplex.weights(at.reshape(len(parameters), len(names))),
            axes=np.array(axes, dtype=np.float64).reshape(len(parameters), len(self.axes)),
        )


def limit_in_words(name: str, limit: float) -> str:
    """Return in words how far a recipe passes a limit, such as `rows:gsm8k` by 0.5."""
    kind, _, source = name.partition(":")
    if kind == "rows":
        return f"needs {1.0 + limit:.3g} times the rows that source {source} has for it"
    if kind == "repetitions":
        return f"needs {1.0 + limit:.3g} times the tokens of source {source} with repetitions"
    return f"passes {name} by {limit:.0%}"


def _limit(values: FloatArray) -> FloatArray:
    # A mixture that was moved onto the limit must not fail it by a rounding error.
    return np.asarray(np.where(np.abs(values) < _LIMIT_SLACK, 0.0, values))
