"""The order of checkpoints inside their groups, from a public prior and 0 to many outcomes.

    y_i = level_g + s (sum_k b_gk z_ik + sum_j d_j x_ij + e_i),   g the group of i

where z is the standing of a kind of proxy in its group, and x that of single columns (see
`standing.py`). Slopes b are normal around those of the prior; half of their variance is common to
all groups of the user, the other half is different in each group. Slopes d of single columns are
normal around 0. The level is free. Given the unit s and the standard deviation of e, everything is
normal and in closed form (Henderson's equations). Both are on a grid, weighted by their prior and
the marginal likelihood. The same model serves any number of outcomes; without outcomes it is the
prior.

K kinds share their weight: each marginal slope is divided by 1 + (K - 1) x `KINDS_CORRELATE`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from rlready.predictors.kinds import k_of_pass
from rlready.predictors.public.posterior import Component, OrderPosterior, Rows
from rlready.predictors.public.prior import Prior, shipped_prior
from rlready.predictors.public.standing import standardised, standing
from rlready.predictors.scales import n_trials
from rlready.predictors.training_table import GROUP, ONE_GROUP, Column, FloatArray, Kind
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

PASS, OWN_LOSS, OTHER_LOSS, PROBE = "pass_at_k", "loss_own_style", "loss_other_style", "rl_probe"
KINDS_CORRELATE = 0.5
"""Assumed correlation of two kinds of proxies inside a group."""

FORMAT_FLOOR = 0.02
"""With a lower median pass@1 of a group, scores say more about the format than about skill."""

_OWN_VARIANCE = 0.05
"""Share of the variance that all slopes of single columns may explain together."""

_FLAT = 1e6
_RESIDUALS = np.exp(np.linspace(-0.7, 0.35, 7))
"""Residual standard deviations of the grid, relative to the prior's."""

_RESIDUAL_WIDTH, _LEAST_UNIT_WIDTH, _UNKNOWN_UNIT_WIDTH = 0.35, 0.6, 2.0
_UNITS = np.linspace(-3.5, 3.5, 57)
_LEAST_WEIGHT = 1e-5
_PROBE_NAME = re.compile(r"(^|_)probe_.*level$|^rl_probe|^probe\d*$")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Design:
    """The design of the model, in standard deviations of the outcome: slopes, then levels."""

    slopes: FloatArray  # (n, q)
    levels: FloatArray  # (n, G)
    expected: FloatArray  # (q,)
    variance: FloatArray  # (q,)
    residual: FloatArray  # (n,) standard deviation
    standings: FloatArray  # (n, K) by kind


def order_checkpoints(
    X: pd.DataFrame,
    columns: Sequence[Column],
    outcome: FloatArray | None = None,
    *,
    own_style: Sequence[str] = (),
    prior: Prior | None = None,
    outcome_sd: float | None = None,
) -> OrderPosterior:
    """Order the checkpoints of each group by the prior and the recorded outcomes.

    Args:
        X: one row per checkpoint, as `TrainingTable.X`; without `GROUP` all rows are one group.
        columns: the proxies among the columns of `X`.
        outcome: (n,) recorded outcomes, higher is better; NaN if RL was not run.
        own_style: losses whose held-out set has the style of the checkpoints' own data.
        prior: prior of the slopes; by default the one in the package.
        outcome_sd: standard deviation of outcomes inside a group, if it is known. By default it is
            learned from the outcomes, with a prior for shares or percentages.

    Raises:
        ConfigError: if a column is missing, no checkpoint is given, or 3 or more outcomes are all
            equal.
    """
    prior = prior or shipped_prior()
    y = np.full(len(X), np.nan) if outcome is None else np.asarray(outcome, dtype=np.float64)
    _check(X, columns, y, own_style)
    labels = X[GROUP] if GROUP in X else [ONE_GROUP] * len(X)
    groups = np.array([str(label) for label in labels], dtype=np.str_)
    standings = _standings(X, columns, groups)
    kinds = _kinds(columns, own_style)
    design = _design(standings, columns, kinds, groups, prior)
    recorded = np.isfinite(y)
    centre = float(y[recorded].mean()) if recorded.any() else 0.0
    unit_prior = _unit_prior(y[recorded], prior, outcome_sd)
    components = _components(design, y[recorded] - centre, recorded, unit_prior)
    rows = Rows(
        ids=tuple(map(str, X.index)),
        groups=groups,
        design=np.hstack([design.slopes, design.levels]),
        n_slopes=design.slopes.shape[1],
        residual=design.residual,
        outcome=y,
        centre=centre,
        kinds=tuple(sorted(set(kinds.values()))),
        standings=design.standings,
        has_own_loss=_has_own_loss(standings, kinds, groups),
    )
    return OrderPosterior(
        rows=rows,
        components=components,
        warnings=tuple(_warnings(X, columns, kinds, standings, groups)),
        track_record=prior.track_record.in_words(with_loss=OWN_LOSS in kinds.values()),
    )


def _check(
    X: pd.DataFrame, columns: Sequence[Column], y: FloatArray, own_style: Sequence[str]
) -> None:
    if not len(X):
        raise ConfigError("there is no checkpoint to order")
    names = [column.name for column in columns]
    missing = [name for name in names if name not in X]
    missing += [name for name in own_style if name not in names]
    if missing:
        raise ConfigError(
            f"there is no column {', '.join(map(repr, missing))}", fix=f"Columns: {list(X.columns)}"
        )
    if len(y) != len(X):
        raise ConfigError(f"{len(y)} outcomes are given for {len(X)} checkpoints")
    recorded = y[np.isfinite(y)]
    if len(recorded) > 2 and np.ptp(recorded) == 0:
        raise ConfigError(
            f"all {len(recorded)} outcomes are {recorded[0]:g}",
            why="equal outcomes tell no order",
            fix="Check the target column",
        )


def _kinds(columns: Sequence[Column], own_style: Sequence[str]) -> dict[str, str]:
    """Return the kind of the prior of each column that has one.

    Of several pass@k only the smallest k is used, because larger ones were not better in public
    outcomes. A loss of another style is used only if there is no loss of the own style.
    """
    scores = {}
    kinds = {}
    for column in columns:
        bare = column.name.partition("@")[0].lower()
        if _PROBE_NAME.search(bare):
            kinds[column.name] = PROBE
        elif column.kind is Kind.LOSS:
            kinds[column.name] = OWN_LOSS if column.name in own_style else OTHER_LOSS
        elif column.sign > 0 and not bare.startswith("signal_"):
            scores[column.name] = k_of_pass(column.name) or 1
    smallest = min(scores.values(), default=1)
    kinds |= {name: PASS for name, k in scores.items() if k == smallest}
    if OWN_LOSS in kinds.values():
        kinds = {name: kind for name, kind in kinds.items() if kind != OTHER_LOSS}
    return kinds


def _standings(
    X: pd.DataFrame, columns: Sequence[Column], groups: NDArray[np.str_]
) -> dict[str, FloatArray]:
    """Return the (n,) standings in the group by column; NaN if unmeasured, low losses are high."""
    standings = {}
    for column in columns:
        values = np.asarray(X[column.name], dtype=np.float64)
        error = np.asarray(X[column.error], dtype=np.float64) if column.error in X else values * 0
        trials = n_trials(values, error, column.kind)
        result = np.full(len(X), np.nan)
        for group in np.unique(groups):
            rows = groups == group
            result[rows] = standing(values[rows], column.kind, column.name, trials)
        standings[column.name] = -result if column.sign < 0 else result
    return standings


def _design(
    standings: dict[str, FloatArray],
    columns: Sequence[Column],
    kinds: dict[str, str],
    groups: NDArray[np.str_],
    prior: Prior,
) -> _Design:
    names = sorted(set(kinds.values()))
    group_names, group_of = np.unique(groups, return_inverse=True)
    levels = np.eye(len(group_names))[group_of]
    z = np.zeros((len(groups), len(names)))
    measured = np.zeros((len(groups), len(names)), dtype=bool)
    for k, kind in enumerate(names):
        members = np.array([standings[name] for name, single in kinds.items() if single == kind])
        measured[:, k] = np.isfinite(members).any(axis=0)
        counts = np.maximum(np.isfinite(members).sum(axis=0), 1)
        mean = np.where(measured[:, k], np.nansum(members, axis=0) / counts, np.nan)
        for g in range(len(group_names)):
            z[group_of == g, k] = np.nan_to_num(standardised(mean[group_of == g]))
    # A kind that a whole group lacks does not reduce the weight of the others in this group.
    in_group = np.array([measured[group_of == g].any(axis=0) for g in range(len(group_names))])
    in_group = in_group.reshape(len(group_names), len(names))
    n_kinds = np.maximum(in_group.sum(axis=1), 1)
    share = 1.0 / (1.0 + (n_kinds - 1) * KINDS_CORRELATE)
    weighted = z * share[group_of][:, None]
    own_names = _own_columns(columns, kinds)
    single = np.nan_to_num(
        np.array([standings[name] for name in own_names]).reshape(-1, len(groups))
    )
    slopes = [prior.slope(kind) for kind in names]
    b = np.array([slope.slope for slope in slopes])
    half = np.array([slope.between_sd**2 / 2.0 for slope in slopes])
    by_group = (weighted[:, :, None] * levels[:, None, :]).reshape(len(groups), -1)
    own_variance = np.full(len(own_names), _OWN_VARIANCE / max(len(own_names), 1))
    # If a kind is not measured in a row, its unknown standing is additional noise of the row.
    lost = (~measured & in_group[group_of]) @ b**2 * share[group_of] ** 2
    residual = np.array([_residual(prior, names, in_group[g]) for g in range(len(group_names))])
    return _Design(
        slopes=np.hstack([weighted, by_group, single.T]),
        levels=levels,
        expected=np.concatenate([b, np.zeros(by_group.shape[1] + len(own_names))]),
        variance=np.concatenate([half, np.repeat(half, len(group_names)), own_variance]),
        residual=np.sqrt(residual[group_of] ** 2 + lost),
        standings=z,
    )


def _has_own_loss(
    standings: dict[str, FloatArray], kinds: dict[str, str], groups: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return (n,) whether a loss of the own style differs between checkpoints of the group."""
    has_loss = np.zeros(len(groups), dtype=bool)
    for name, kind in kinds.items():
        for group in np.unique(groups[np.nan_to_num(standings[name]) != 0]):
            has_loss |= (groups == group) & (kind == OWN_LOSS)
    return has_loss


def _own_columns(columns: Sequence[Column], kinds: dict[str, str]) -> list[str]:
    """Return the columns with their own slope: all columns that share their kind or have none."""
    members = list(kinds.values())
    return [
        column.name
        for column in columns
        if column.name not in kinds or members.count(kinds[column.name]) > 1
    ]


def _residual(prior: Prior, names: Sequence[str], present: NDArray[np.bool_]) -> float:
    """Return the residual standard deviation that the kinds of a group leave together."""
    slopes = [prior.slope(kind) for kind, there in zip(names, present, strict=True) if there]
    if not slopes:
        return 1.0
    best = min(slopes, key=lambda slope: slope.residual_sd)
    joint = np.array([slope.slope for slope in slopes]) / (1 + (len(slopes) - 1) * KINDS_CORRELATE)
    square = float(joint @ joint)
    explained = (1 - KINDS_CORRELATE) * square + KINDS_CORRELATE * float(joint.sum()) ** 2
    ratio = (1.0 - min(explained, 0.9)) / (1.0 - min(best.slope**2, 0.9))
    return best.residual_sd * float(np.sqrt(min(ratio, 1.0)))


def _unit_prior(
    y: FloatArray, prior: Prior, outcome_sd: float | None
) -> tuple[FloatArray, FloatArray]:
    """Return the grid of the unit s, and the logarithms of its prior weights."""
    if outcome_sd is not None:
        return np.array([outcome_sd]), np.zeros(1)
    middle, width = np.log(prior.outcome_sd), max(prior.outcome_sd_log_sd, _LEAST_UNIT_WIDTH)
    if len(y) and (y.min() < 0 or y.max() > 100):
        spread = float(np.std(y)) or 0.1 * float(np.abs(y).max())
        middle, width = np.log(spread), _UNKNOWN_UNIT_WIDTH
    elif len(y) and y.max() > 1:
        middle += np.log(100.0)
    return np.exp(middle + width * _UNITS), -0.5 * _UNITS**2


def _components(
    design: _Design,
    y: FloatArray,
    recorded: NDArray[np.bool_],
    unit_prior: tuple[FloatArray, FloatArray],
) -> tuple[Component, ...]:
    """Return the posteriors on the grid, without the negligible ones."""
    units, unit_log_weights = unit_prior
    rows = np.hstack([design.slopes, design.levels])[recorded]
    n_levels = design.levels.shape[1]
    n_seen = int(design.levels[recorded].any(axis=0).sum())
    expected = np.concatenate([design.expected, np.zeros(n_levels)])
    precision = 1.0 / np.concatenate([design.variance, np.full(n_levels, _FLAT)])
    components, logs = [], []
    for factor in _RESIDUALS:
        weight = 1.0 / (factor * design.residual[recorded]) ** 2
        moment = rows.T * weight
        root = cho_factor(moment @ rows + np.diag(precision), lower=True)
        covariance = cho_solve(root, np.eye(len(expected)))
        determinant = 2 * np.log(np.diag(root[0])).sum() - np.log(precision).sum()
        determinant -= np.log(weight).sum()
        for unit, log_weight in zip(units, unit_log_weights, strict=True):
            off = y / unit - rows @ expected
            shift = covariance @ (moment @ off)
            square = float(off @ (weight * off) - (moment @ off) @ shift)
            # A free level fits one outcome of its group in any unit, which says nothing about s.
            log = log_weight - 0.5 * (square + determinant) - (len(y) - n_seen) * np.log(unit)
            logs.append(log - 0.5 * (np.log(factor) / _RESIDUAL_WIDTH) ** 2)
            components.append((float(unit), float(factor), expected + shift, covariance))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    heavy = weights > _LEAST_WEIGHT
    weights = np.where(heavy, weights, 0.0) / weights[heavy].sum()
    return tuple(
        Component(weight=float(w), unit=unit, residual=factor, mean=mean, covariance=covariance)
        for w, (unit, factor, mean, covariance) in zip(weights, components, strict=True)
        if w > 0
    )


def _warnings(
    X: pd.DataFrame,
    columns: Sequence[Column],
    kinds: dict[str, str],
    standings: dict[str, FloatArray],
    groups: NDArray[np.str_],
) -> list[str]:
    warnings = []
    if OWN_LOSS not in kinds.values():
        warnings.append("no held-out loss on text of the checkpoints' own style is given")
    scores = [c for c in columns if kinds.get(c.name) == PASS]
    for group in np.unique(groups):
        rows = groups == group
        if rows.sum() == 1:
            warnings.append(f"group {group} has one checkpoint, so it has no order")
            continue
        if not any(np.nan_to_num(standings[name])[rows].any() for name in kinds):
            warnings.append(f"group {group}: no proxy with a prior differs, the order is random")
        for column in scores:
            unit = 100.0 if column.kind is Kind.PERCENT else 1.0
            values = np.asarray(X[column.name], dtype=np.float64)[rows] / unit
            if np.isfinite(values).any() and np.nanmedian(values) < FORMAT_FLOOR:
                warnings.append(
                    f"group {group}: {column.name} is near 0 for most checkpoints; they may miss "
                    "the answer format, not the skill"
                )
    return warnings
