"""Draw the rows that a recipe trains on from the files of its sources.

    manifest.json   {"format": 1, "recipe": ..., "seed": 7, "n_unique": 400, "filters": {...},
                     "sources": [{"source": "gsm8k", "path": ..., "sha256": ..., "rows": [3, 8],
                                  "left_out": {"repeated": 4}, ...}], "without_file": {"web": 20}}

- `n_unique` is divided among all sources by their weights, with largest remainders.
- A row is left out if an earlier row has the same text, in this source or in one that the space
  file names before it; if it overlaps with a benchmark; if its weight is 0; or by a filter.
- Rows are drawn without replacement. If there are too few and `max_repetitions` allows it, each
  row is drawn equally often, and some of them once more.
- The same files, recipe and seed give the same bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import numeric_range
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.search.manifest_rows import FORMAT, shuffled
from rlready.workflow.search.sources import BoolArray, FloatArray, LocalSource, ScannedFile, Scanner

FILTERED_BY = {"length_filter": "length", "difficulty_filter": "difficulty"}
"""What each filter axis compares."""

_SLACK = 1e-9
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The rows of a source, and which of them may be drawn.

    Args:
        source: the source.
        file: its rows.
        is_repeated: (n,) whether an earlier row has the same text.
    """

    source: LocalSource
    file: ScannedFile
    is_repeated: BoolArray

    @cached_property
    def left_out(self) -> dict[str, int]:
        """Number of rows that no recipe draws, by the reason; each row counts once."""
        is_left = np.zeros(len(self.file), dtype=bool)
        counts = {}
        for reason, is_bad in self._reasons.items():
            counts[reason] = int((is_bad & ~is_left).sum())
            is_left |= is_bad
        return {reason: n for reason, n in counts.items() if n}

    @property
    def _reasons(self) -> dict[str, BoolArray]:
        return {
            "weight 0": ~self.file.weighted,
            "repeated": self.is_repeated,
            "in a benchmark": self.file.overlaps,
        }

    def rows(self, filters: Mapping[str, str]) -> NDArray[np.intp]:
        """Return the rows that pass filters, such as {"length_filter": "0-2048"}."""
        is_drawn = ~np.logical_or.reduce(list(self._reasons.values()))
        for name, choice in filters.items():
            low, high = numeric_range(choice)
            values = self._values(name)
            is_drawn &= (values >= low) & (values <= high) if choice != "all" else True
        return np.flatnonzero(is_drawn)

    def _values(self, name: str) -> FloatArray:
        return self.file.lengths if name == "length_filter" else self.file.difficulty

    def summary(self) -> str:
        """Return one line about the rows."""
        details = ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.items())
        return f"source {self.source.name}: {len(self.rows({})):,} of {len(self.file):,} rows" + (
            f" ({details} left out)" if details else ""
        )

    def check(self, filters: Mapping[str, str]) -> None:
        """Check that some row passes filters.

        Raises:
            ConfigError: if none does, or the numbers that a filter compares are not known.
        """
        drawn = self.rows({})
        if not len(drawn):
            raise ConfigError(f"no row is left of {self.summary()}", fix="Give it another file")
        active = {name: choice for name, choice in filters.items() if choice != "all"}
        for name in active:
            if np.isnan(self._values(name)[drawn]).all():
                raise ConfigError(
                    f"{name} cannot be applied to source {self.source.name}",
                    why=f"no row of {self.source.path} has a {FILTERED_BY[name]}",
                    fix="Add a column n_tokens"
                    if name == "length_filter"
                    else f"Add a column difficulty, or give sources.{self.source.name}.pass_rate "
                    "or .counts in the space file",
                )
        if not len(self.rows(active)):
            ranges = []
            for name in active:
                values = self._values(name)[drawn]
                unit = f" {self.file.length_unit}" if name == "length_filter" else ""
                low, high = np.nanmin(values), np.nanmax(values)
                ranges.append(f"its {FILTERED_BY[name]} is {low:g} to {high:g}{unit}")
            chosen = ", ".join(f"{name} {choice}" for name, choice in active.items())
            raise ConfigError(
                f"{chosen} leaves none of the {len(drawn):,} rows of source {self.source.name}",
                why="; ".join(ranges),
                fix="Change the choices of the filter, or remove them",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pools:
    """The sources of a space that are files here.

    Args:
        pools: by the name of the source, in the order of the space.
    """

    pools: Mapping[str, Pool]

    def limits(self, recipe: Recipe) -> dict[str, float]:
        """Return a number for each source that is <= 0 if it has enough rows for a recipe.

        These are limits of `predictors/search/space.py`, of the rows in place of tokens.
        """
        limits = {}
        for name, (needed, supply) in self._demands(recipe).items():
            limits[f"rows:{name}"] = needed / max(supply, _SLACK) - 1.0 - _SLACK
        return limits

    def manifest(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        """Return the rows of each source that a recipe trains on, as the module describes.

        Args:
            recipe: a recipe with `n_unique` and weights.
            seed: seed of the draw.

        Raises:
            ConfigError: if no row passes the filters of the recipe, or a source has too few.
        """
        filters, counts = recipe_filters(recipe), _counts(recipe)
        sources = []
        for index, (name, pool) in enumerate(self.pools.items()):
            if not counts.get(name):
                continue
            pool.check(filters)
            rows = pool.rows(filters)
            self._check_enough(recipe, name)
            repeats, rest = divmod(counts[name], len(rows))
            drawn = [*np.tile(rows, repeats), *rows[shuffled(len(rows), [seed, index])[:rest]]]
            sources.append(
                {
                    "source": name,
                    "path": str(pool.source.path.resolve()),
                    "sha256": pool.file.sha256,
                    "fields": dict(pool.source.fields),
                    "weight": recipe.sources[name],
                    "n_rows": len(pool.file),
                    "left_out": {
                        **pool.left_out,
                        **({"filtered": len(pool.rows({})) - len(rows)} if filters else {}),
                    },
                    "length_unit": pool.file.length_unit,
                    "repetitions": (recipe.epochs or 1.0) * len(drawn) / len(set(drawn)),
                    "rows": sorted(int(row) for row in drawn),
                }
            )
        return {
            "format": FORMAT,
            "recipe": recipe.digest,
            "seed": seed,
            "n_unique": recipe.n_unique,
            "filters": filters,
            "without_file": {n: c for n, c in counts.items() if c and n not in self.pools},
            "sources": sources,
        }

    def _demands(self, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """Return how many rows a recipe needs of each source, and how many there are.

        With a limit of repetitions, both count the repetitions of all epochs.
        """
        filters, counts = recipe_filters(recipe), _counts(recipe)
        demands = {}
        for name, pool in self.pools.items():
            needed, supply = float(counts.get(name, 0)), float(len(pool.rows(filters)))
            if pool.source.max_repetitions is not None:
                needed *= recipe.epochs or 1.0
                supply *= pool.source.max_repetitions
            demands[name] = needed, supply
        return demands

    def _check_enough(self, recipe: Recipe, name: str) -> None:
        needed, supply = self._demands(recipe)[name]
        if needed <= supply * (1.0 + _SLACK):
            return
        pool, count = self.pools[name], _counts(recipe)[name]
        most = pool.source.max_repetitions
        epochs = f" in {recipe.epochs:.3g} epochs" if recipe.epochs and most is not None else ""
        raise ConfigError(
            f"source {name} has {len(pool.rows(recipe_filters(recipe))):,} rows to draw from, and "
            f"the recipe needs {count:,}{epochs}",
            why=f"its share is {recipe.sources[name]:.3g} of {recipe.n_unique:,} examples, and "
            + ("rows are not repeated" if most is None else f"a row is repeated {most:g} times")
            + f" ({pool.summary()})",
            fix="Lower n_unique, the cap of the source or the epochs, or raise max_repetitions",
        )


def open_pools(
    sources: Sequence[LocalSource], space: RecipeSpace, scanner: Scanner, max_overlap: float
) -> Pools:
    """Scan the files of sources, and check that recipes of a space can be drawn from them.

    Args:
        sources: the sources with a file, in the order of the space.
        space: the recipes.
        scanner: reads the files.
        max_overlap: largest share of a file's rows that may overlap with a benchmark.

    Raises:
        ConfigError: if a file is missing or empty, overlaps too much, has too few rows for the
            smallest recipe, or has none left after a filter of the space.
    """
    pools: dict[str, Pool] = {}
    seen = np.empty(0, dtype=np.uint64)
    for source in sources:
        file = scanner.scan(source)
        is_repeated = np.isin(file.keys, seen)
        first = np.zeros(len(file), dtype=bool)
        counted = np.flatnonzero(file.weighted)
        first[counted[np.unique(file.keys[counted], return_index=True)[1]]] = True
        pools[source.name] = Pool(source=source, file=file, is_repeated=is_repeated | ~first)
        seen = np.concatenate([seen, file.keys[counted]])
        _check_overlap(source, file, max_overlap)
    made = Pools(pools=pools)
    _check_space(made, space)
    return made


def recipe_filters(recipe: Recipe) -> dict[str, str]:
    """Return the filters of a recipe that leave rows out."""
    values = {name: str(recipe.extra.get(name, "all")) for name in FILTERED_BY}
    return {name: value for name, value in values.items() if value != "all"}


def _check_overlap(source: LocalSource, file: ScannedFile, max_share: float) -> None:
    n = int(file.overlaps.sum())
    if n <= max_share * len(file):
        return
    shown = "; ".join(f"row {row}: {name}, {text[:60]!r}" for row, name, text in file.examples)
    raise ConfigError(
        f"{n:,} of {len(file):,} rows of source {source.name} overlap with a benchmark, more than "
        f"the share of {max_share:g} that is allowed",
        why=f"for example {shown}",
        fix="Check that it is not the benchmark itself; or raise max_share in [decontaminate] of "
        "the space file: overlapping rows are left out in any case",
    )


def _check_space(pools: Pools, space: RecipeSpace) -> None:
    """Check each choice of the filters, and the smallest recipe of the space."""
    fewest = space.n_unique_range()
    if fewest is None:
        raise ConfigError(
            "rows cannot be drawn without a number of examples",
            fix="Give the space file [n_unique], or the sources no path",
        )
    choices = {
        axis.name: [str(choice) for choice in axis.choices]
        for axis in space.axes
        if axis.name in FILTERED_BY
    }
    fixed = {name: [choice] for name, choice in recipe_filters(space.fixed).items()}
    choices = {**fixed, **choices}
    filters = [
        dict(zip(choices, each, strict=True)) for each in itertools.product(*choices.values())
    ]
    for source in space.sources:
        pool = pools.pools.get(source.name)
        if pool is None or source.cap <= 0.0:
            continue
        for each in filters:
            pool.check(each)
        # What the caps of the others leave is a floor too: all of it for a single source.
        share = max(source.floor, 1.0 - sum(s.cap for s in space.sources if s is not source))
        least = math.floor(share * fewest[0])
        most = max(len(pool.rows(each)) for each in filters)
        if least > most * (source.max_repetitions or 1.0):
            raise ConfigError(
                f"source {source.name} has {most:,} rows to draw from, and every recipe needs "
                f"{least:,} or more",
                why=f"its share is {share:g} or more of at least {fewest[0]:,.0f} examples "
                f"({pool.summary()})",
                fix="Lower its floor or n_unique, raise max_repetitions or the caps of the other "
                "sources, or add rows",
            )


def _counts(recipe: Recipe) -> dict[str, int]:
    """Divide n_unique among the sources in proportion to their weights, by largest remainders."""
    n = recipe.n_unique or 0
    counts = {name: math.floor(n * weight) for name, weight in recipe.sources.items()}
    by_rest = sorted(counts, key=lambda name: counts[name] - n * recipe.sources[name])
    for name in by_rest[: max(0, n - sum(counts.values()))]:
        counts[name] += 1
    return counts
