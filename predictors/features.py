"""Turn the frame `TrainingTable.X` into features for a linear model or a tree.

Each proxy goes through four steps, all learned on the training rows only:

1. the link of its kind (`scales.py`); extreme values are then damped, without a change of order;
2. the centre c of its group: the mean of the group's rows, shrunk to the mean of all groups by
   k = t^2 / (t^2 + s^2 / n), with variance t^2 between and s^2 within groups;
3. regression calibration towards the centre, x* = c + r (x - c), r = s_true^2 / (s_true^2 + se^2):
   the expected value of the proxy without its error. For a linear model it removes the attenuation
   of the slopes (Carroll et al. 2006, Measurement Error in Nonlinear Models, ch. 4). A missing
   value has an infinite error: r = 0, x* = c;
4. two variants: `raw`, (x* - mean) / sd, includes the level of the group; `centred`,
   (x* - c) / sd within groups, does not.

A training group keeps the centre of its training rows, so a prediction does not depend on the other
rows of a request. The centre of a new group comes from its rows in the request, by step 2; for
ranking inside a group any common centre is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rlready.predictors.scales import damped, linked, middle_and_spread, n_trials, typical_spread
from rlready.predictors.training_table import (
    GROUP,
    ONE_GROUP,
    Column,
    FloatArray,
    Kind,
    TextArray,
    groups_of,
)
from rlready.registry.errors import ConfigError

PlainColumns = list[tuple[str, str, int, str | None]]
"""Name, kind, sign and error column of each proxy, as plain values that skops stores safely."""

_LEAST_RELIABILITY = 0.1
"""Smallest share of a proxy's spread inside groups that counts as real, whatever its errors."""


def plain_columns(columns: Sequence[Column]) -> PlainColumns:
    """Return the columns in the form of our estimators' parameter `columns`."""
    return [(c.name, c.kind.value, c.sign, c.error) for c in columns]


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Features of rows in two variants.

    Args:
        raw: (n, p) features with the level of the group.
        centred: (n, p) features without the level of the group.
        groups: (n,) name of the group of each row.
    """

    raw: FloatArray
    centred: FloatArray
    groups: TextArray

    @property
    def both(self) -> FloatArray:
        """The (n, 2 p) raw features, followed by the centred ones."""
        return np.hstack([self.raw, self.centred])


class Features(TransformerMixin, BaseEstimator):
    """Scale proxies robustly, and calibrate them for their errors.

    Args:
        columns: (name, kind, sign, column of the error) of each proxy, see `plain_columns`; other
            columns of the frame are ignored. None: every column except `GROUP` is read as a plain
            number without an error, as in an array.

    Attributes:
        names_: (p,) proxies.
        signs_: (p,) `Column.sign` of each.
        kinds_: (p,) kind of each.
        missing_: number of training rows without a number, for each proxy that has such rows. The
            missing number counts as the centre of the row's group.
        reliability_: (p,) share of the spread inside groups that is not measurement error.
        group_names_: (G,) groups of the training rows.
    """

    def __init__(self, columns: PlainColumns | None = None) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the transformer; `y` is ignored.

        Raises:
            ConfigError: if a column is missing, empty in every row or outside its kind's range.
        """
        values, errors, groups = self._read(X, reset=True)
        n_missing = (~np.isfinite(values)).sum(axis=0)
        self.missing_ = {n: int(k) for n, k in zip(self.names_, n_missing, strict=True) if k}
        empty = [name for name, count in self.missing_.items() if count == len(values)]
        if empty:
            raise ConfigError(
                f"column {', '.join(map(repr, empty))} has no number in any of {len(values)} rows",
                fix="Measure it, or leave it out of the features",
            )
        kinds = [Kind(kind) for kind in self.kinds_]
        self.trials_ = np.array(list(map(n_trials, values.T, errors.T, kinds)))
        self.spread_of_trial_ = np.array(list(map(typical_spread, values.T, kinds, self.trials_)))
        on_scale, _ = self._linked(values, errors)
        self.middle_, self.spread_ = np.array(list(map(middle_and_spread, on_scale.T))).T
        self._fit_groups(*self._damped(values, errors), groups)
        return self

    def views(self, X: Any) -> Views:
        """Return the rows of a frame or array, raw and centred.

        Raises:
            ConfigError: if a column is missing or outside its kind's range.
        """
        check_is_fitted(self)
        values, errors, groups = self._read(X, reset=False)
        z, se = self._damped(values, errors)
        centre = self._centres(z, groups)
        distance = np.where(np.isfinite(z), z - centre, 0.0) * self._calibration(z, se)
        centred = np.divide(
            distance, self.within_sd_, out=np.zeros_like(distance), where=self.within_sd_ > 0
        )
        raw = (centre + distance - self.mean_) / self.total_sd_
        return Views(raw=raw, centred=centred, groups=groups)

    def transform(self, X: Any) -> FloatArray:
        """Return (n, 2 p) raw and centred features without missing numbers."""
        return self.views(X).both

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _read(self, X: Any, *, reset: bool) -> tuple[FloatArray, FloatArray, TextArray]:
        """Return (n, p) values, (n, p) errors (NaN: unknown) and (n,) groups."""
        names = list(map(str, getattr(X, "columns", ())))
        has_group = GROUP in names
        if names and not has_group and not reset and len(self.group_names_) > 1:
            raise ConfigError(
                f"the rows have no column {GROUP!r}",
                why="the predictor was fitted on several groups",
                fix=f"Name each row's group; known groups: {', '.join(self.group_names_[:8])}",
            )
        if self.columns is None:
            values = validate_data(
                self,
                X.drop(columns=GROUP) if has_group else X,
                reset=reset,
                dtype=np.float64,
                ensure_all_finite="allow-nan",
            )
            errors = np.full(values.shape, np.nan)
            proxies = getattr(self, "feature_names_in_", [f"x{j}" for j in range(len(values.T))])
            columns: PlainColumns = [(str(name), Kind.PLAIN.value, 0, None) for name in proxies]
        else:
            columns = self.columns
            values, errors = _read_columns(X, columns, names)
            self.n_features_in_ = len(columns)
        if reset:
            self.names_ = [name for name, *_ in columns]
            self.kinds_ = [kind for _, kind, *_ in columns]
            self.signs_ = np.array([sign for _, _, sign, _ in columns])
        if has_group:
            return values, errors, groups_of(X)
        return values, errors, np.full(len(values), ONE_GROUP)

    def _linked(self, values: FloatArray, errors: FloatArray) -> tuple[FloatArray, FloatArray]:
        kinds = map(Kind, self.kinds_)
        by_column = (values.T, errors.T, kinds, self.trials_, self.names_, self.spread_of_trial_)
        on_scale, se = zip(*map(linked, *by_column), strict=True)
        return np.column_stack(on_scale), np.column_stack(se)

    def _damped(self, values: FloatArray, errors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (n, p) values and errors in robust standard deviations; unknown errors are 0."""
        on_scale, se = self._linked(values, errors)
        z, se = damped(on_scale, se, self.middle_, self.spread_)
        return z, np.where(np.isfinite(se), se, 0.0)

    def _fit_groups(self, z: FloatArray, se: FloatArray, groups: TextArray) -> None:
        names, group_of = np.unique(groups, return_inverse=True)
        self.group_names_ = list(map(str, names))
        counts, means = _group_means(z, group_of, len(names))
        self.mean_ = np.nanmean(means, axis=0)
        within, between = _spreads(z, group_of, counts, means)
        noise = np.nanmean(np.where(np.isfinite(z), se**2, np.nan), axis=0)
        true = np.maximum(within - noise, _LEAST_RELIABILITY * within)
        self.reliability_ = np.divide(true, within, out=np.ones_like(true), where=within > 0)
        self.within_var_, self.between_var_, self.true_var_ = within, between, true
        self.within_sd_ = np.sqrt(true)
        total = true + np.nanvar(means, axis=0)
        self.total_sd_ = np.where(total > 0, np.sqrt(total), 1.0)
        self.centres_ = self._shrunken(counts, means)

    def _shrunken(self, counts: FloatArray, means: FloatArray) -> FloatArray:
        """Return (G, p) centres of groups from (G, p) means over `counts` of their rows."""
        noise = self.within_var_ / np.maximum(counts, 1)
        total = self.between_var_ + noise
        weight = np.divide(self.between_var_, total, out=np.ones_like(total), where=total > 0)
        weight = np.where(counts > 0, weight, 0.0)
        return np.asarray(self.mean_ + weight * (np.where(counts > 0, means, 0.0) - self.mean_))

    def _centres(self, z: FloatArray, groups: TextArray) -> FloatArray:
        """Return (n, p) the centre of the group of each row."""
        names, group_of = np.unique(groups, return_inverse=True)
        centres = self._shrunken(*_group_means(z, group_of, len(names)))
        row_of = {name: i for i, name in enumerate(self.group_names_)}
        for i, name in enumerate(names):
            if str(name) in row_of:
                centres[i] = self.centres_[row_of[str(name)]]
        return np.asarray(centres[group_of])

    def _calibration(self, z: FloatArray, se: FloatArray) -> FloatArray:
        """Return (n, p) the expected real share of each row's distance from its centre."""
        total = self.true_var_ + se**2
        real = np.divide(self.true_var_, total, out=np.ones_like(total), where=total > 0)
        return np.where(np.isfinite(z), real, 0.0)


def _read_columns(
    X: Any, columns: PlainColumns, names: Sequence[str]
) -> tuple[FloatArray, FloatArray]:
    needed = [name for name, *_ in columns] + [se for *_, se in columns if se is not None]
    missing = [name for name in needed if name not in names]
    if missing:
        raise ConfigError(
            f"the rows have no column {', '.join(map(repr, missing))}",
            why="the predictor was fitted on it",
            fix=f"Add it, with empty cells if it was not measured. Columns: {', '.join(names)}",
        )
    if not len(X):
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    for name in needed:
        if np.isinf(np.asarray(X[name], dtype=np.float64)).any():
            raise ConfigError(f"column {name!r} holds an infinite number")
    unknown = np.full(len(X), np.nan)
    values = [np.asarray(X[name], dtype=np.float64) for name, *_ in columns]
    errors = [unknown if se is None else np.asarray(X[se], dtype=np.float64) for *_, se in columns]
    return np.column_stack(values), np.column_stack(errors)


def _group_means(z: FloatArray, group_of: Any, n_groups: int) -> tuple[FloatArray, FloatArray]:
    """Return the (G, p) counts of numbers of each group in each column, and their means."""
    is_finite = np.isfinite(z)
    counts, sums = np.zeros((n_groups, z.shape[1])), np.zeros((n_groups, z.shape[1]))
    np.add.at(counts, group_of, is_finite.astype(float))
    np.add.at(sums, group_of, np.where(is_finite, z, 0.0))
    return counts, np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _spreads(
    z: FloatArray, group_of: Any, counts: FloatArray, means: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return (p,) variance inside groups and between their means, by the method of moments.

    With few groups the variance between groups is poorly known. It is therefore averaged with the
    variance inside groups, which gets the weight of one group. If no group has two rows, each of
    both is half of the total variance.
    """
    squares = np.nansum((z - means[group_of]) ** 2, axis=0)
    n_known, n_seen = counts.sum(axis=0), (counts > 0).sum(axis=0)
    total = np.nanvar(z, axis=0)
    free = n_known - n_seen
    within = np.where(free > 0, squares / np.maximum(free, 1), total / 2)
    between_means = np.nanvar(means, axis=0) * n_seen / np.maximum(n_seen - 1, 1)
    harmonic = n_seen / np.maximum((1.0 / np.maximum(counts, 1) * (counts > 0)).sum(axis=0), 1e-12)
    moment = np.maximum(between_means - within / harmonic, 0.0)
    between = ((n_seen - 1) * moment + within) / n_seen
    return within, between
