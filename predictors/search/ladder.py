"""A fidelity ladder: who goes on to the next, dearer measurement, by the chance to end on top.

A trial climbs the rungs in order: a part of its training, a held-out loss, pass@16, pass@64, the
first steps of RL, RL itself, the last of which gives its outcome. From what all trials have so far
comes a joint law of their ends (`ladder_model`), and from draws of it

    P(top N)   the chance of a trial to be among the N best outcomes of all trials; they sum to N
    gain       E[max(y, c)] - max(E[y], c), with c the N-th best expected outcome of the others:
               what knowing the trial's outcome y adds to the true value of the chosen N; per
               GPU-hour that is left to climb it says which trial is worth its rungs most

A trial goes on while P(top N) is at least `promote_at` x (GPU-hours of the next rung / those of the
dearest one): what costs a tenth needs a tenth of the chance, so that no trial is stopped by a poor
rung before a cheap and better one was asked, and RL goes to those with a chance of `promote_at`.
The place among its fellows is nothing to it: no fixed share is kept, as in successive halving.
While fewer than `min_complete` trials have both the rung at hand and an outcome, all go on, as
nothing is known of what the rung tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.search.ladder_model import OutcomeScale, fit_law, standard
from rlready.predictors.training_table import Column, FloatArray, Kind, describe_column
from rlready.registry.errors import ConfigError

_N_DRAWS = 2048
_MOST_ENDED = 200
"""Trials with an outcome that the law is fitted on; of more an even part."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One measurement of a trial.

    Args:
        name: what the trainer is told.
        gpu_hours: that it costs, beyond the rungs before it.
        proxy: column of the registry's table that it is, if it is measured on the checkpoint at the
            end of its training; checkpoints of the registry then have this rung too.
        kind: unit of its value; None: by the proxy's or its own name.
        sign: +1 if more promises more, -1 if less does, 0 if unknown; None: by the name.
    """

    name: str
    gpu_hours: float
    proxy: str | None = None
    kind: Kind | None = None
    sign: int | None = None

    def column(self, values: FloatArray) -> Column:
        """What its values are, as far as it was not said."""
        found = describe_column(self.proxy or self.name, values)
        kind = found.kind if self.kind is None else self.kind
        sign = found.sign if self.sign is None else self.sign
        return Column(name=self.name, kind=kind, sign=sign)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The rungs, and who goes on.

    Args:
        rungs: from the cheapest on; the last one's value is the trial's outcome.
        top: N, how many recipes are wanted in the end.
        promote_at: least P(top N) that goes on to the dearest rung; to a cheaper one in proportion.
        min_keep: so many go beyond each rung, however small their chances.
        min_complete: trials with the rung and an outcome before any is stopped at it.
    """

    rungs: tuple[Rung, ...]
    top: int = 3
    promote_at: float = 0.1
    min_keep: int = 3
    min_complete: int = 6

    @property
    def names(self) -> tuple[str, ...]:
        """Of the rungs."""
        return tuple(rung.name for rung in self.rungs)

    def index(self, name: str) -> int:
        """Which rung has this name.

        Raises:
            ConfigError: if none has.
        """
        if name not in self.names:
            raise ConfigError(
                f"the ladder has no rung {name!r}", fix=f"Its rungs: {', '.join(self.names)}"
            )
        return self.names.index(name)

    def least_chance(self, rung: int) -> float:
        """P(top N) with which a trial goes on from this rung."""
        dearest = max(one.gpu_hours for one in self.rungs[1:])
        return self.promote_at * self.rungs[rung + 1].gpu_hours / dearest

    def hours_from(self, rung: int) -> float:
        """GPU-hours of this rung and those after it."""
        return float(sum(one.gpu_hours for one in self.rungs[rung:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Climbs:
    """What n trials have so far.

    Args:
        values: (n, rungs) value at each rung, as measured; NaN where there is none. The last is the
            outcome, higher is better.
        errors: (n, rungs) standard errors; NaN: unknown, taken as exact.
        is_open: (n,) whether it may climb on; others without an outcome teach, and end nowhere.
    """

    values: FloatArray
    errors: FloatArray
    is_open: NDArray[np.bool_]

    @property
    def last(self) -> NDArray[np.intp]:
        """(n,) index of the last rung with a value; -1 for none."""
        known = np.isfinite(self.values)
        n_rungs = known.shape[1]
        at = n_rungs - 1 - known[:, ::-1].argmax(axis=1)
        return np.where(known.any(axis=1), at, -1).astype(np.intp)

    def rows(self, chosen: NDArray[np.intp]) -> Climbs:
        """Some of them, by position."""
        return Climbs(
            values=self.values[chosen], errors=self.errors[chosen], is_open=self.is_open[chosen]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Standings:
    """Where n trials may end.

    Args:
        p_top: (n,) chance to be in the top N; 0 for trials that end nowhere.
        predicted: (n,) median outcome; the outcome itself where it is known.
        sd: (n,) half the width of the middle 68 % of what may be.
        gain: (n,) what knowing its outcome would add to the true value of the chosen N.
        gain_per_hour: (n,) the same per GPU-hour that is left to climb; NaN where nothing is left.
        n_complete: (rungs,) trials with this rung and an outcome.
    """

    p_top: FloatArray
    predicted: FloatArray
    sd: FloatArray
    gain: FloatArray
    gain_per_hour: FloatArray
    n_complete: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a trial goes on from the rung that it has.

    Args:
        goes_on: whether it does.
        reason: why, a sentence.
        p_top: its chance to be in the top N; None while nothing is known.
        predicted: (median outcome, sd); None while nothing is known.
        gain_per_hour: see `Standings`; None while nothing is known.
    """

    goes_on: bool
    reason: str
    p_top: float | None = None
    predicted: tuple[float, float] | None = None
    gain_per_hour: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The decision as one JSON object."""
        return dict(vars(self))


def standings(
    ladder: Ladder, climbs: Climbs, *, seed: int = 0, n_draws: int = _N_DRAWS
) -> Standings:
    """Where the trials may end, given what all of them have.

    It does not depend on their order.

    Raises:
        ConfigError: if a value cannot be of its rung's kind.
    """
    # Draws go to rows in a fixed order of the rows' values, so that the trials' order is nothing.
    keys = np.nan_to_num(np.hstack([climbs.values, climbs.errors]), nan=np.inf)
    order = np.lexsort((climbs.is_open, *keys.T)).astype(np.intp)
    found = _ordered(ladder, climbs.rows(order), seed, n_draws)
    back = np.argsort(order)
    per_trial = ("p_top", "predicted", "sd", "gain", "gain_per_hour")
    return Standings(
        **{name: getattr(found, name)[back] for name in per_trial}, n_complete=found.n_complete
    )


def decide(ladder: Ladder, climbs: Climbs, found: Standings, row: int) -> Decision:
    """Whether a trial goes on from its last rung."""
    rung = int(climbs.last[row])
    name = ladder.rungs[rung].name
    if rung == len(ladder.rungs) - 1:
        return Decision(goes_on=False, reason=f"{name} is the last rung")
    n_complete = int(found.n_complete[rung])
    if n_complete < ladder.min_complete:
        return Decision(
            goes_on=True,
            reason=f"{n_complete} of {ladder.min_complete} trials have {name} and an outcome: "
            "before that all go on",
        )
    p_top = float(found.p_top[row])
    told = f"P(top {ladder.top}) {p_top:.3f}"
    goes_on, reason = True, f"{told} at {name}"
    if p_top < ladder.least_chance(rung):
        beyond = int((climbs.last > rung).sum())
        here = (climbs.last == rung) & climbs.is_open
        before = int((here & (found.p_top > p_top)).sum())
        goes_on = beyond + before < ladder.min_keep
        reason = f"{told} < {ladder.least_chance(rung):.3g} at {name}"
        if goes_on:
            reason += f", but {ladder.min_keep} go beyond each rung"
    return Decision(
        goes_on=goes_on,
        reason=reason,
        p_top=p_top,
        predicted=(float(found.predicted[row]), float(found.sd[row])),
        gain_per_hour=float(found.gain_per_hour[row]),
    )


def _ordered(ladder: Ladder, climbs: Climbs, seed: int, n_draws: int) -> Standings:
    outcome = climbs.values[:, -1]
    has_ended = np.isfinite(outcome)
    n, n_rungs = climbs.values.shape
    rng = np.random.default_rng(seed)
    kept = _taught_by(outcome)
    taught = climbs.rows(kept)
    scale = OutcomeScale.of(taught.values[:, -1])
    z, errors, has_sense = _standard(ladder, taught, scale)
    law = fit_law(z, errors, has_sense, n_draws, rng)
    drawn = law.ends(taught.last, rng)
    ends = np.full((len(drawn), n), -np.inf)
    ends[:, has_ended] = outcome[has_ended]
    ends[:, kept] = scale.outcome(drawn)
    takes_part = has_ended | climbs.is_open
    ends[:, ~takes_part] = -np.inf
    best = np.argsort(-ends, axis=1, kind="stable")[:, : ladder.top]
    p_top = np.bincount(best.ravel(), minlength=n) / len(ends)
    p_top[~takes_part] = 0.0
    low, middle, high = np.percentile(ends[:, takes_part], [16.0, 50.0, 84.0], axis=0)
    predicted, sd = np.full(n, np.nan), np.full(n, np.nan)
    predicted[takes_part], sd[takes_part] = middle, (high - low) / 2.0
    gain = _gains(ends, takes_part, ladder.top)
    hours = np.array([ladder.hours_from(int(last) + 1) for last in climbs.last])
    known = np.isfinite(climbs.values)
    return Standings(
        p_top=p_top,
        predicted=predicted,
        sd=sd,
        gain=gain,
        gain_per_hour=np.where(hours > 0.0, gain / np.where(hours > 0.0, hours, 1.0), np.nan),
        n_complete=np.array(
            [int((known[:, j] & has_ended).sum()) for j in range(n_rungs)], dtype=np.intp
        ),
    )


def _taught_by(outcome: FloatArray) -> NDArray[np.intp]:
    """Rows that the law is fitted on: those on the ladder, and not too many that have ended."""
    ended = np.flatnonzero(np.isfinite(outcome))
    if len(ended) > _MOST_ENDED:
        # Evenly by outcome: a law fitted on more of the good ends would find them everywhere.
        order = ended[np.argsort(-outcome[ended], kind="stable")]
        ended = order[np.linspace(0, len(order) - 1, _MOST_ENDED).astype(int)]
    return np.sort(np.r_[ended, np.flatnonzero(~np.isfinite(outcome))]).astype(np.intp)


def _standard(
    ladder: Ladder, climbs: Climbs, scale: OutcomeScale
) -> tuple[FloatArray, FloatArray, Sequence[bool]]:
    """Values and errors on standard scales, and which rungs have a sense."""
    z, errors = np.empty_like(climbs.values), np.empty_like(climbs.errors)
    has_sense = []
    for j, rung in enumerate(ladder.rungs[:-1]):
        column = rung.column(climbs.values[:, j])
        has_sense.append(column.sign != 0)
        z[:, j], errors[:, j] = standard(climbs.values[:, j], climbs.errors[:, j], column)
    z[:, -1] = scale.score(climbs.values[:, -1])
    errors[:, -1] = scale.errors(climbs.values[:, -1], climbs.errors[:, -1])
    return z, errors, [*has_sense, True]


def _gains(ends: FloatArray, takes_part: NDArray[np.bool_], top: int) -> FloatArray:
    """(n,) E[max(y, c)] - max(E[y], c), c the N-th best expected outcome among the others."""
    gains = np.zeros(ends.shape[1])
    some = np.flatnonzero(takes_part)
    if len(some) <= top:
        return gains
    mean = ends[:, some].mean(axis=0)
    order = np.argsort(-mean, kind="stable")
    is_chosen = np.isin(np.arange(len(some)), order[:top])
    rival = np.where(is_chosen, mean[order[top]], mean[order[top - 1]])
    expected = np.maximum(ends[:, some], rival).mean(axis=0)
    gains[some] = np.maximum(expected - np.maximum(mean, rival), 0.0)
    return gains
