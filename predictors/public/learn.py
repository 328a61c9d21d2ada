"""Slopes inside a group, learned from public outcomes by a random-effects model.

In each group, the slope of a proxy is the mean over benchmarks of the correlation between its
standings and the outcomes. Its variance is (1 - m^2)^2 / (n - 1), where m is the mean slope and n
the number of starts in the group, because the benchmarks of a group share their starts. The
variance between groups is that of Paule and Mandel (1982), averaged with `_FEW_GROUPS_SD`^2, which
has the weight of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from rlready.predictors.public.facts import FEWEST_STARTS, PROXIES, Cell, Source, cells
from rlready.predictors.public.prior import Prior, Slope, TrackRecord
from rlready.predictors.public.standing import standardised, standing
from rlready.predictors.training_table import FloatArray

if TYPE_CHECKING:
    import pandas as pd

KIND_OF_PROXY = {"pre_pass1": "pass_at_k", "probe": "rl_probe"}
"""Public proxies from which the slope of a kind is learned."""

FEWEST_GROUPS, FEWEST_SOURCES = 5, 4
"""Smallest number for a learned slope; otherwise the slope measured once on more rows is kept."""

_WHERE = "measured once on 478 public rows, of which 321 are shipped"
STATED = (
    Slope(
        kind="loss_own_style",
        slope=0.65,
        between_sd=0.35,
        residual_sd=0.76,
        n_groups=4,
        sources=("3 sources, two of them small worlds of this project",),
        basis=_WHERE,
    ),
    Slope(
        kind="loss_other_style",
        slope=0.39,
        between_sd=0.48,
        residual_sd=0.92,
        n_groups=0,
        sources=(),
        basis=_WHERE,
    ),
    Slope(
        kind="pass_at_k",
        slope=0.58,
        between_sd=0.26,
        residual_sd=0.85,
        n_groups=13,
        sources=("8 sources",),
        basis=_WHERE,
    ),
    Slope(
        kind="rl_probe",
        slope=0.67,
        between_sd=0.18,
        residual_sd=0.74,
        n_groups=0,
        sources=(),
        basis=_WHERE,
    ),
)
"""Slopes of kinds that the shipped rows do not support; 0 groups means an unknown number."""

_FEW_GROUPS_SD = 0.3


@dataclass(frozen=True, kw_only=True)
class _GroupSlope:
    source: str
    slope: float
    square: float
    n: int


def learn(rows: pd.DataFrame, sources: dict[str, Source]) -> Prior:
    """Learn the prior from public rows.

    Args:
        rows: rows as from `public_rows`; whole sources may be left out.
        sources: sources as from `public_sources`; excluded ones are not used.
    """
    usable = list(cells(rows, sources=sources))
    measured = {name: slope_of(usable, name) for name in PROXIES}
    learned = {}
    for name, kind in KIND_OF_PROXY.items():
        slope = measured[name]
        if slope and slope.n_groups >= FEWEST_GROUPS and len(slope.sources) >= FEWEST_SOURCES:
            learned[kind] = replace(slope, kind=kind)
    slopes = [learned.get(stated.kind, stated) for stated in STATED]
    spreads = np.log([float(np.std(cell.outcome, ddof=1)) for cell in usable])
    return Prior(
        slopes=tuple(slopes),
        measured=tuple(slope for slope in measured.values() if slope is not None),
        outcome_sd=float(np.exp(np.median(spreads))) if len(spreads) else 0.1,
        outcome_sd_log_sd=float(np.std(spreads, ddof=1)) if len(spreads) > 1 else 1.0,
        track_record=track_record(usable, "pre_pass1"),
    )


def slope_of(usable: Sequence[Cell], name: str) -> Slope | None:
    """Return the slope of a public proxy over groups; None if no group has the proxy."""
    groups = _group_slopes(usable, name)
    if not groups:
        return None
    slopes = np.array([group.slope for group in groups])
    sizes = np.array([group.n for group in groups], dtype=np.float64)
    mean, between = float(np.average(slopes, weights=sizes)), 0.0
    for _ in range(2):
        variance = (1.0 - min(mean**2, 0.95)) ** 2 / (sizes - 1.0)
        between = _between_variance(slopes, variance)
        weight = 1.0 / (variance + between)
        mean = float(np.average(slopes, weights=weight))
    squares = sum((g.n - 1) * (1.0 - g.square) for g in groups)
    free = sum(g.n - 2 for g in groups)
    return Slope(
        kind=name,
        slope=mean,
        between_sd=float(np.sqrt(between + 1.0 / weight.sum())),
        residual_sd=float(np.sqrt(max(squares / free, 0.05))),
        n_groups=len(groups),
        sources=tuple(sorted({group.source for group in groups})),
        basis="learned",
    )


def _group_slopes(usable: Sequence[Cell], name: str) -> list[_GroupSlope]:
    by_group: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for cell in usable:
        x, y = pair_of(cell, name)
        if len(x) >= FEWEST_STARTS and x.any() and y.any():
            correlation = float(x @ y) / (len(x) - 1)
            by_group.setdefault((cell.source, cell.group), []).append((correlation, len(x)))
    return [
        _GroupSlope(
            source=source,
            slope=float(np.mean([slope for slope, _ in parts])),
            square=float(np.mean([slope**2 for slope, _ in parts])),
            n=max(n for _, n in parts),
        )
        for (source, _), parts in by_group.items()
    ]


def pair_of(cell: Cell, name: str) -> tuple[FloatArray, FloatArray]:
    """Return (m,) standings of a proxy and (m,) standardised outcomes, for starts with both."""
    values = cell.proxy(name)
    there: NDArray[np.bool_] = np.isfinite(values)
    x = standing(values[there], PROXIES[name].kind, name)
    return x, standardised(cell.outcome[there])


def _between_variance(slopes: FloatArray, variance: FloatArray) -> float:
    """Return Paule and Mandel's variance between groups, with a prior of one group's weight."""

    def excess(between: float) -> float:
        weight = 1.0 / (variance + between)
        mean = np.average(slopes, weights=weight)
        return float(weight @ (slopes - mean) ** 2) - (len(slopes) - 1)

    # A single group has no spread, but rounding may make its excess positive.
    alone = len(slopes) < 2
    moment = 0.0 if alone or excess(0.0) <= 0.0 else float(brentq(excess, 0.0, 4.0))
    return (len(slopes) * moment + _FEW_GROUPS_SD**2) / (len(slopes) + 1)


def track_record(usable: Sequence[Cell], name: str) -> TrackRecord:
    """Return how often the order by one proxy was right, over groups.

    A positive slope of any size gives the order of the proxy, so the prior that judges a group does
    not depend on the group itself.
    """
    shares: dict[tuple[str, str], list[float]] = {}
    for cell in usable:
        x, y = pair_of(cell, name)
        i, j = np.triu_indices(len(x), 1)
        differ = y[i] != y[j]
        if len(x) >= FEWEST_STARTS and differ.any():
            right = 0.5 + 0.5 * np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
            share = float(right[differ].mean())
            shares.setdefault((cell.source, cell.group), []).append(share)
    means = [float(np.mean(parts)) for parts in shares.values()]
    return TrackRecord(
        right=float(np.mean(means)) if means else 0.5,
        n_groups=len(means),
        n_better_than_chance=sum(mean > 0.5 for mean in means),
        n_sources=len({source for source, _ in shares}),
    )
