"""Intervals of scores that are valid for new groups, and tests of one prediction against another.

Checkpoints of a group share their level, so a score over 6 groups x 12 rows rests on 6 independent
units, not on 72. A bootstrap therefore draws whole groups first, and then rows inside each group.
With few groups its plain percentiles are too narrow (0.83-0.93 at nominal 95 %; a bootstrap of rows
reaches 0.5-0.6). It also keeps the predictions fixed, while other registries would give other
models. The intervals are therefore computed in three steps:

1. Scale. Each score is put on a scale where its errors are about normal: atanh for correlations,
   logit for shares, log(1 - R2) (the log of errors over spread) for R2.
2. Standard error. The mean of two errors: that of the bootstrap, and that of a jackknife over
   groups. For predictions of leave-one-group-out fits, the jackknife repeats the whole validation
   without one group (a model for each pair of groups). The bootstrap alone ignores other training
   sets and is too small; the jackknife varies much with few groups and is rather too large.
3. Quantile. Student's t with (groups - 1) degrees of freedom.

For `holdout`, the interval is for the score of the fixed predictor over many new groups. For
out-of-fold predictions, it is for the expected score of models fitted to registries of this design.
`bench/score_intervals.py` measures the coverage. Regret is the loss of one choice, and no scale
makes its errors normal. Its interval is the middle of the bootstrap's draws, without a guarantee.

Sources of the two-stage bootstrap and the t correction with few clusters: Davison & Hinkley 1997,
section 3.8; Cameron, Gelbach & Miller 2008 (Review of Economics and Statistics 90).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rlready.predictors.training_table import FloatArray, TextArray
from rlready.predictors.validation.scores import (
    ALL,
    MIN_ROWS,
    ORDER,
    PredictionScorer,
    Score,
    lower_is_better,
)

FEW_GROUPS = 10
"""With fewer groups than this an interval mostly reflects how few they are."""

LEVEL = 0.95

MAX_BLOCKS = 12
"""The jackknife leaves out at most this many blocks of groups."""


class Comparison(StrEnum):
    """The result of a paired comparison of two predictions."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score with its 95 % interval.

    Args:
        score: the value, and the rows behind it.
        lo, hi: the ends of the interval; None if they are unknown.
        jackknife: lowest and highest value with one group (block of groups, row) left out.
    """

    score: Score
    lo: float | None = None
    hi: float | None = None
    jackknife: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the interval as JSON values."""
        values = {"value": self.score.value, "lo": self.lo, "hi": self.hi, "n": self.score.n}
        return (
            values
            | ({"reason": self.score.reason} if self.score.reason else {})
            | ({"one_left_out": list(self.jackknife)} if self.jackknife is not None else {})
        )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Score of one prediction minus that of another on the same rows, with its 95 % interval.

    Args:
        value: the difference; None where one of the scores is undefined.
        verdict: better or worse if the interval does not contain 0, otherwise undecided.
    """

    value: float | None
    lo: float | None = None
    hi: float | None = None
    verdict: Comparison = Comparison.UNDECIDED


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampling:
    """Bootstrap draws that all predictions of a table share, so that they can be compared.

    Args:
        draws: (n_draws, n) how often each row is in each draw.
        left_out: (n_units, n) 0 where a row belongs to the unit that is left out, otherwise 1.
        blocks: (n,) unit of each row: its group or a block of groups. If there is only one group,
            each row is a unit.
        n_groups: number of groups.
    """

    draws: FloatArray
    left_out: FloatArray
    blocks: NDArray[np.intp]
    n_groups: int

    @property
    def n_units(self) -> int:
        """Number of independent units behind the scores."""
        return self.n_groups if self.n_groups > 1 else len(self.blocks)


def resampling(groups: TextArray, n_draws: int = 2000, seed: int = 0) -> Resampling:
    """Draw whole groups, and rows inside them; with a single group, draw only rows."""
    rng = np.random.default_rng(seed)
    names, group_of = np.unique(groups, return_inverse=True)
    n, n_groups = len(groups), len(names)
    if n_groups < 2:
        blocks = np.arange(n)
        draws = rng.multinomial(n, np.full(n, 1.0 / max(n, 1)), size=n_draws)
    else:
        blocks = group_of
        if n_groups > MAX_BLOCKS:
            blocks = (rng.permutation(n_groups) % MAX_BLOCKS)[group_of]
        copies = rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=n_draws)
        draws = np.zeros((n_draws, n), dtype=np.int64)
        for group in range(n_groups):
            rows = np.flatnonzero(group_of == group)
            share = np.full(len(rows), 1.0 / len(rows))
            draws[:, rows] = rng.multinomial(copies[:, group] * len(rows), share)
    left_out = (blocks != np.unique(blocks)[:, None]).astype(np.float64)
    return Resampling(
        draws=draws.astype(np.float64), left_out=left_out, blocks=blocks, n_groups=n_groups
    )


class Bootstrapped:
    """Scores of one prediction and of its resamples.

    Args:
        scorer: the prediction.
        shared: the draws.
        refitted: (n_units, n) predictions by models that were fitted without each unit, NaN for
            the rows of the unit; None if the predictor is fixed.
        no_order: why the order of the predictions has no meaning; empty if it has a meaning.
        names: the scores to compute.
    """

    def __init__(
        self,
        scorer: PredictionScorer,
        shared: Resampling,
        refitted: FloatArray | None = None,
        no_order: str = "",
        names: Sequence[str] = ALL,
    ) -> None:
        self.scorer, self.n = scorer, len(scorer.y)
        self.shared = shared
        self.scores = scorer.scores(names)
        self._draws = scorer.at(shared.draws, names)
        self._left_out = _left_out(scorer, shared, refitted, names)
        if no_order:
            for name in set(ORDER) & set(names):
                self.scores[name] = Score(value=None, n=self.scores[name].n, reason=no_order)

    def interval(self, name: str) -> Interval:
        """Return the score with its 95 % interval."""
        score = self.scores[name]
        if score.value is None:
            return Interval(score=score)
        left_out = self._left_out[name][np.isfinite(self._left_out[name])]
        spread = (float(left_out.min()), float(left_out.max())) if len(left_out) else None
        lo, hi = self._limits(name, score.value) or (None, None)
        return Interval(score=score, lo=lo, hi=hi, jackknife=spread)

    def minus(self, other: Bootstrapped, name: str) -> Difference:
        """Return the score minus that of another prediction."""
        score, other_score = self.scores[name].value, other.scores[name].value
        if score is None or other_score is None:
            return Difference(value=None)
        value = score - other_score
        draws = self._draws[name] - other._draws[name]
        if lower_is_better(name):
            limits = _percentiles(draws)
        else:
            error = _standard_error(draws, self._left_out[name] - other._left_out[name])
            reach = self._quantile() * error
            limits = (value - reach, value + reach) if np.isfinite(reach) else None
        if limits is None:
            return Difference(value=value)
        verdict = Comparison.UNDECIDED
        if limits[0] > 0 or limits[1] < 0:
            is_better = (limits[0] > 0) != lower_is_better(name)
            verdict = Comparison.BETTER if is_better else Comparison.WORSE
        return Difference(value=value, lo=limits[0], hi=limits[1], verdict=verdict)

    def _limits(self, name: str, value: float) -> tuple[float, float] | None:
        if lower_is_better(name):
            limits = _percentiles(self._draws[name])
            # A draw has fewer different rows, and the best of fewer rows is nearer to the choice.
            return limits and (min(limits[0], value), max(limits[1], value))
        scale = _scale(name, self.n)
        error = _standard_error(
            scale.forward(self._draws[name]), scale.forward(self._left_out[name])
        )
        reach = self._quantile() * error
        if not np.isfinite(reach):
            return None
        centre = float(scale.forward(np.array([value]))[0])
        ends = scale.back(np.array([centre - reach, centre + reach]))
        # A score of 1 lies beyond the end of the scale, but its interval must contain it.
        return min(float(ends.min()), value), max(float(ends.max()), value)

    def _quantile(self) -> float:
        return float(stats.t.ppf(0.5 + LEVEL / 2, max(self.shared.n_units - 1, 1)))


def _left_out(
    scorer: PredictionScorer, shared: Resampling, refitted: FloatArray | None, names: Sequence[str]
) -> dict[str, FloatArray]:
    """Return, by score, the (n_units,) values with one unit left out."""
    if refitted is None:
        return scorer.at(shared.left_out, names)
    if refitted.shape != shared.left_out.shape:
        raise ValueError(f"refits are {refitted.shape}, the units {shared.left_out.shape}")
    parts = []
    for unit, predicted in enumerate(refitted):
        rows = shared.left_out[unit] > 0
        parts.append(scorer.of(rows, predicted).at(np.ones((1, int(rows.sum()))), names))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class _Scale:
    """A scale on which a score's errors are about normal, with its inverse.

    `end` keeps scores of exactly 0 or 1 finite on the scale: n rows that all agree cannot
    distinguish 1 from 1 - 1 / (n + 1).
    """

    kind: str
    end: float

    def forward(self, value: FloatArray) -> FloatArray:
        if self.kind == "r2":
            return np.log(np.maximum(1.0 - value, 1e-12))
        if self.kind == "share":
            value = 2.0 * value - 1.0
        return np.arctanh(np.clip(value, -self.end, self.end))

    def back(self, z: FloatArray) -> FloatArray:
        if self.kind == "r2":
            return 1.0 - np.exp(z)
        return 0.5 + 0.5 * np.tanh(z) if self.kind == "share" else np.tanh(z)


def _scale(name: str, n: int) -> _Scale:
    end = 1.0 - 1.0 / (n + 1)
    if name == "r2":
        return _Scale("r2", end)
    return _Scale("share" if name.startswith("decision") else "correlation", end)


def _standard_error(draws: FloatArray, left_out: FloatArray) -> float:
    """Return the mean of both standard errors; NaN if the score is undefined in most draws."""
    defined = _defined(draws)
    if defined is None:
        return np.nan
    errors = [float(defined.std(ddof=1))]
    rest = left_out[np.isfinite(left_out)]
    if len(rest) > 1:
        gaps = rest - rest.mean()
        errors.append(float(np.sqrt((len(rest) - 1) / len(rest) * (gaps @ gaps))))
    return float(np.mean(errors))


def _percentiles(draws: FloatArray) -> tuple[float, float] | None:
    defined = _defined(draws)
    if defined is None:
        return None
    lo, hi = np.quantile(defined, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(lo), float(hi)


def _defined(draws: FloatArray) -> FloatArray | None:
    """Return the draws in which the score is defined; None if these are too few."""
    defined = draws[np.isfinite(draws)]
    return None if len(defined) < max(len(draws) / 2, MIN_ROWS) else defined


def units_note(shared: Resampling) -> str:
    """Return a note on what limits the intervals; empty if nothing does."""
    if shared.n_groups == 1:
        return (
            f"all {len(shared.blocks)} rows are one group: intervals hold for new rows of it, and "
            "nothing is known of another group"
        )
    if shared.n_groups < FEW_GROUPS:
        return (
            f"{shared.n_groups} groups: intervals are wide because there are few groups; the "
            "range with one group left out is shown beside them"
        )
    return ""
