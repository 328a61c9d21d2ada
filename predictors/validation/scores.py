"""Scores of predictions: levels, order, decisions between two rows, and the cost of a choice.

All scores pool the given rows. With out-of-fold predictions, they answer the question of a user who
has to choose among all checkpoints at once. Scores whose name ends in `_within` only compare rows
of the same group.

    r2                      1 - sum (y - p)^2 / sum (y - mean y)^2; below 0: worse than one number
    spearman, kendall       rank correlations, ties at their mean rank (kendall: tau-b)
    decision_accuracy       share of pairs with different outcomes that the prediction puts in the
                            right order; a tie of predictions counts half (a coin)
    decision_accuracy_clear the same over pairs whose outcomes differ clearly: `ClearRule`
    regret_at_k             best outcome minus the best among the k highest predicted; if
                            predictions tie, the expected value over a random choice among them

A higher outcome is better. A row may have a weight: how often a bootstrap drew it. Copies of a row
are not a pair, and together take one place among the k highest. An undefined score is None with a
reason in a `Score`, and NaN in the arrays of a bootstrap.

Decision accuracy is DataDecide's (arXiv 2504.11393), with ties at a half; with all weights 1,
spearman and kendall equal scipy's `spearmanr` and `kendalltau`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Concatenate, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlready.predictors.training_table import FloatArray, TextArray
from rlready.registry.errors import ConfigError

SCORES = (
    "r2",
    "spearman",
    "kendall",
    "decision_accuracy",
    "decision_accuracy_clear",
    "regret_at_1",
    "regret_at_2",
    "regret_at_3",
)
"""Scores that pool all rows."""

WITHIN = (
    "spearman_within",
    "decision_accuracy_within",
    "decision_accuracy_clear_within",
    "regret_at_1_within",
    "regret_at_3_within",
)
"""Scores inside groups: pairs are pooled; rank correlation and regret are means over groups."""

ALL = (*SCORES, *WITHIN)

ORDER = tuple(name for name in ALL if name != "r2")
"""Scores that depend only on the order of the predictions."""

MIN_ROWS = 3
"""Smallest number of rows for which a score is defined."""

_MAX_ROWS = 5_000
_TIE = 1e-12

Matrix = NDArray[np.float32]
P = ParamSpec("P")


def lower_is_better(name: str) -> bool:
    """Return whether a smaller value of this score is better."""
    return name.startswith("regret")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score and the number of rows that it rests on.

    Args:
        value: None if it is undefined.
        n: number of rows; of pairs for decisions; of groups for a mean over groups.
        reason: why the score is undefined; empty if it is defined.
    """

    value: float | None
    n: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ClearRule:
    """The rule for pairs of outcomes that differ clearly.

    Args:
        unit: smallest clear difference, which a pair has to exceed.
        by_error: use 2 standard errors of the difference instead.
    """

    unit: float = 1.0
    by_error: bool = False

    def __str__(self) -> str:
        if self.by_error:
            return "outcomes more than 2 standard errors of their difference apart"
        return f"outcomes more than {self.unit:g} apart"

    def pairs(self, y: FloatArray, y_error: FloatArray | None) -> Matrix:
        """Return an (n, n) matrix with 1 where two rows differ clearly, otherwise 0."""
        gap = np.abs(y[:, None] - y)
        if not self.by_error:
            # Allow for rounding: a difference of 1.0000000001 points is one point.
            return (gap > self.unit * (1 + 1e-9)).astype(np.float32)
        if y_error is None:
            raise ValueError("the rule needs the outcomes' standard errors")
        return (gap > 2.0 * np.hypot(y_error[:, None], y_error)).astype(np.float32)


def clear_rule(y: FloatArray, y_error: FloatArray | None = None) -> ClearRule:
    """Return the rule for these outcomes: by standard errors if all are known, else by one point.

    A point is 1 unit of the target, or 0.01 where all outcomes are shares (between 0 and 1).
    """
    has_outcome = np.isfinite(y)
    if y_error is not None and has_outcome.any() and np.isfinite(y_error[has_outcome]).all():
        return ClearRule(by_error=True)
    is_share = bool(has_outcome.any() and (np.abs(y[has_outcome]) <= 1.0).all())
    return ClearRule(unit=0.01 if is_share else 1.0)


def noise_ceiling_r2(y: FloatArray, y_error: FloatArray) -> float | None:
    """Return the R2 of a predictor that knows every true outcome: 1 - mean(se^2) / var(y).

    It is None if an error is unknown, if the outcomes do not differ, or with fewer than 3 of them.
    """
    if len(y) < MIN_ROWS or not np.isfinite(y_error).all() or np.ptp(y) == 0:
        return None
    return float(1.0 - np.mean(y_error**2) / np.var(y))


def score_of(
    name: str,
    y: ArrayLike,
    predicted: ArrayLike,
    groups: TextArray | None = None,
    y_error: ArrayLike | None = None,
) -> float | None:
    """Return one score of `ALL`, with each row counted once; None where it is undefined."""
    return PredictionScorer(y, predicted, groups, y_error).scores([name])[name].value


class PredictionScorer:
    """Compute the scores of one prediction, for any weights of its rows.

    Args:
        y: (n,) outcomes.
        predicted: (n,) predictions of the outcomes.
        groups: (n,) group of each row; by default all rows are one group.
        y_error: (n,) standard errors of the outcomes.
        rule: rule for clear pairs; by default `clear_rule`.

    Raises:
        ConfigError: if there are so many rows that their pairs do not fit in memory.
    """

    def __init__(
        self,
        y: ArrayLike,
        predicted: ArrayLike,
        groups: TextArray | None = None,
        y_error: ArrayLike | None = None,
        rule: ClearRule | None = None,
    ) -> None:
        self.y: FloatArray = np.asarray(y, dtype=np.float64)
        self.predicted: FloatArray = np.asarray(predicted, dtype=np.float64)
        if not (np.isfinite(self.y).all() and np.isfinite(self.predicted).all()):
            raise ValueError("scores need finite outcomes and predictions")
        if len(self.y) > _MAX_ROWS:
            raise ConfigError(
                f"{len(self.y):,} rows are too many to compare all pairs of them",
                fix=f"Give at most {_MAX_ROWS:,} rows",
            )
        self._error = None if y_error is None else np.asarray(y_error, dtype=np.float64)
        self.rule = rule or clear_rule(self.y, self._error)
        labels = np.zeros(len(self.y)) if groups is None else groups
        self._group_of: NDArray[np.intp] = np.unique(labels, return_inverse=True)[1]

    def scores(self, names: Sequence[str] = ALL) -> dict[str, Score]:
        """Return the scores, with each row counted once."""
        values = self.at(np.ones((1, len(self.y))), names)
        return {name: self._score(name, float(value[0])) for name, value in values.items()}

    def of(self, rows: NDArray[np.bool_], predicted: FloatArray) -> PredictionScorer:
        """Return a scorer of some rows with another prediction (NaN is allowed in other rows)."""
        error = None if self._error is None else self._error[rows]
        labels = self._group_of[rows].astype(np.str_)
        return PredictionScorer(self.y[rows], predicted[rows], labels, error, rule=self.rule)

    def at(self, weights: FloatArray, names: Sequence[str] = ALL) -> dict[str, FloatArray]:
        """Return (n_draws,) values per score for (n_draws, n) weights; NaN where undefined."""
        if len(self.y) < MIN_ROWS:
            return {name: np.full(len(weights), np.nan) for name in names}
        return {name: self._at(weights, name) for name in names}

    def _at(self, weights: FloatArray, name: str) -> FloatArray:
        if name.startswith("decision"):
            return self._decisions(weights, self._pairs[name])
        if name.startswith("regret"):
            k = int(name.removesuffix("_within")[-1])
            if name.endswith("_within"):
                # Groups need more than k rows; with fewer, all rows would be chosen.
                return self._over_groups(weights, k + 1, PredictionScorer._regret, k)
            return self._regret(weights, k)
        if name == "spearman_within":
            return self._over_groups(weights, 2, PredictionScorer._spearman)
        return {"r2": self._r2, "spearman": self._spearman, "kendall": self._kendall}[name](weights)

    def _r2(self, weights: FloatArray) -> FloatArray:
        # Use differences to the mean, so that large outcomes lose no digits.
        gap = self.y - self.y.mean()
        mean = weights @ gap / weights.sum(axis=1)
        spread = weights @ gap**2 - weights.sum(axis=1) * mean**2
        spread[spread <= _TIE * (weights @ gap**2)] = 0.0
        return 1.0 - _ratio(weights @ (self.y - self.predicted) ** 2, spread)

    def _spearman(self, weights: FloatArray) -> FloatArray:
        ranks = [_weighted_ranks(signs, weights) for signs in (self._y_signs, self._p_signs)]
        return _correlation(ranks[0], ranks[1], weights)

    def _kendall(self, weights: FloatArray) -> FloatArray:
        untied = [_pair_sum(np.abs(s), weights) for s in (self._y_signs, self._p_signs)]
        return _ratio(_pair_sum(self._agreement, weights), np.sqrt(untied[0] * untied[1]))

    def _decisions(self, weights: FloatArray, pairs: Matrix) -> FloatArray:
        surplus = _pair_sum(self._agreement * pairs, weights)
        return 0.5 + 0.5 * _ratio(surplus, _pair_sum(pairs, weights))

    def _regret(self, weights: FloatArray, k: int) -> FloatArray:
        """Return the best outcome drawn minus the expected best of the k highest predicted."""
        by_outcome = np.argsort(-self.y, kind="stable")
        y, step = self.y[by_outcome], self._steps[by_outcome]
        is_there = weights[:, by_outcome] > 0
        # The step of tied predictions at which the k places run out: only some of its rows get one.
        of_step = (step[:, None] == np.arange(step.max() + 1)).astype(np.float32)
        size = (is_there.astype(np.float32) @ of_step).astype(np.intp)
        filled = np.cumsum(size, axis=1)
        last = np.argmax(filled >= np.minimum(k, filled[:, -1:]), axis=1)
        draws = np.arange(len(weights))
        tied = size[draws, last][:, None]
        places = np.minimum(k, filled[:, -1]) - (filled[draws, last] - tied[:, 0])
        is_in = is_there & (step < last[:, None])
        is_tied = is_there & (step == last[:, None])
        floor = np.max(np.where(is_in, y, -np.inf), axis=1, keepdims=True)
        chance = _chance_to_be_best(is_tied, tied, places[:, None])
        expected = (chance * np.where(is_tied, np.maximum(y, floor), 0.0)).sum(axis=1)
        best = np.max(np.where(is_there, y, -np.inf), axis=1)
        # Exactly 0 if the best row is certainly chosen; a sum would leave a rounding error.
        lost: FloatArray = np.maximum(best - np.maximum(expected, floor[:, 0]), 0.0)
        return lost

    def _over_groups(
        self,
        weights: FloatArray,
        at_least: int,
        score: Callable[Concatenate[PredictionScorer, FloatArray, P], FloatArray],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FloatArray:
        """Return the mean of a score over large enough groups, weighted by their draws."""
        total, count = np.zeros(len(weights)), np.zeros(len(weights))
        for rows, part in self._parts:
            if len(rows) < at_least:
                continue
            part_weights = weights[:, rows]
            is_drawn = part_weights.sum(axis=1) > 0
            values = np.full(len(weights), np.nan)
            values[is_drawn] = score(part, part_weights[is_drawn], *args, **kwargs)
            share = np.where(np.isfinite(values), part_weights.mean(axis=1), 0.0)
            total += share * np.nan_to_num(values)
            count += share
        return _ratio(total, count)

    @cached_property
    def _parts(self) -> list[tuple[NDArray[np.intp], PredictionScorer]]:
        """The rows of each group, each with a scorer of these rows."""
        parts = []
        for group in range(self._group_of.max(initial=-1) + 1):
            rows = np.flatnonzero(self._group_of == group)
            part = PredictionScorer(self.y[rows], self.predicted[rows], rule=self.rule)
            parts.append((rows, part))
        return parts

    @cached_property
    def _y_signs(self) -> Matrix:
        return _signs(self.y)

    @cached_property
    def _p_signs(self) -> Matrix:
        return _signs(self.predicted)

    @cached_property
    def _agreement(self) -> Matrix:
        """The (n, n) agreement of predictions and outcomes: 1 if equal, -1 if not, 0 at ties."""
        return self._y_signs * self._p_signs

    @cached_property
    def _steps(self) -> NDArray[np.intp]:
        """The (n,) ranks of the distinct predictions, 0 for the highest."""
        return np.unique(-_without_last_bits(self.predicted), return_inverse=True)[1]

    @cached_property
    def _pairs(self) -> dict[str, Matrix]:
        """The pairs that each kind of decision compares."""
        differ = np.abs(self._y_signs)
        clear = self.rule.pairs(self.y, self._error)
        same = (self._group_of[:, None] == self._group_of).astype(np.float32)
        return {
            "decision_accuracy": differ,
            "decision_accuracy_clear": clear,
            "decision_accuracy_within": differ * same,
            "decision_accuracy_clear_within": clear * same,
        }

    def _score(self, name: str, value: float) -> Score:
        n = self._n(name)
        if np.isfinite(value):
            return Score(value=value, n=n)
        return Score(value=None, n=n, reason=self._why_undefined(name))

    def _n(self, name: str) -> int:
        if len(self.y) < MIN_ROWS:
            return len(self.y)
        if name in self._pairs:
            return int(self._pairs[name].sum(dtype=np.float64) / 2)
        if name.endswith("_within"):
            at_least = 4 if name.startswith("regret_at_3") else 2
            return sum(len(rows) >= at_least for rows, _ in self._parts)
        return len(self.y)

    def _why_undefined(self, name: str) -> str:
        if len(self.y) < MIN_ROWS:
            return f"{len(self.y)} rows, and a score needs {MIN_ROWS}"
        if not self._y_signs.any():
            return "all outcomes are the same"
        if name in ("spearman", "kendall"):
            return "all predictions are the same"
        if name in ("decision_accuracy_clear", "decision_accuracy_clear_within"):
            return f"no pair has {self.rule}"
        return "no group has rows to compare"


def _without_last_bits(values: FloatArray) -> FloatArray:
    """Round to 12 digits of the largest value: the last bits of a sum are rounding errors."""
    unit = _TIE * float(np.max(np.abs(values), initial=0.0))
    return values if unit == 0.0 else np.round(values / unit)


def _signs(values: FloatArray) -> Matrix:
    """Return the (n, n) signs of values[i] - values[j]."""
    rounded = _without_last_bits(values)
    return np.sign(rounded[:, None] - rounded).astype(np.float32)


# float32 holds whole numbers exactly up to 2^24, more than any count of pairs here. It halves the
# time of the matrix products, which take nearly all of the time.


def _pair_sum(of_pairs: Matrix, weights: FloatArray) -> FloatArray:
    """Return (n_draws,) sums over i < j of w_i w_j of_pairs[i, j]; copies are not a pair."""
    w = weights.astype(np.float32)
    total: FloatArray = 0.5 * np.einsum("dn,dn->d", w @ of_pairs, w, dtype=np.float64)
    return total


def _weighted_ranks(signs: Matrix, weights: FloatArray) -> FloatArray:
    """Return (n_draws, n) numbers of rows below minus rows above: twice the centred mean rank."""
    return (weights.astype(np.float32) @ signs.T).astype(np.float64)


def _correlation(a: FloatArray, b: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the (n_draws,) weighted Pearson correlations of ranks whose weighted mean is 0."""
    products = [np.einsum("dn,dn,dn->d", weights, x, y) for x, y in ((a, b), (a, a), (b, b))]
    return np.clip(_ratio(products[0], np.sqrt(products[1] * products[2])), -1.0, 1.0)


def _chance_to_be_best(
    is_tied: NDArray[np.bool_], tied: ArrayLike, places: ArrayLike
) -> FloatArray:
    """Return the (n_draws, n) chances that a tied row is the best of those that get a place.

    Rows are sorted by outcome, the best first. If r of t rows are drawn at random, the j-th best is
    the best of them with chance C(t-1-j, r-1) / C(t, r) = (r / t) prod_{i=1}^{r-1} (t-j-i) / (t-i).
    """
    t, r = np.asarray(tied, dtype=np.float64), np.asarray(places, dtype=np.float64)
    rank = np.cumsum(is_tied, axis=1) - 1.0
    chance = np.where(is_tied, r / t, 0.0)
    for i in range(1, int(r.max())):
        factor = np.maximum(t - rank - i, 0.0) / np.maximum(t - i, 1.0)
        chance = np.where(i < r, chance * factor, chance)
    return chance


def _ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return a / b; NaN where b is not above 0."""
    quotient: FloatArray = np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)
    return quotient
