"""Judge predictions that were frozen before the outcomes.

A row is judged if it had no outcome when it was predicted and has one now.

    coverage    share of judged outcomes inside their intervals
    bias        mean of outcome - prediction, with its standard error
    order       Spearman correlation, and share of pairs in the right order, inside groups
    chances     of pairs: mean chance that was claimed, share that was right, and Brier score
    regret      best judged outcome - best judged outcome among the chosen; beside it the same
                for as many checkpoints chosen by the score before RL (the practice)

Only checkpoints with an RL run can be judged. If RL was only run for the chosen ones, there is
nothing to compare them with, and the regrets are None. Without a prediction of the score itself
(before the first outcome of a group), the order and the chances are judged alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlready.predictors.training_table import FloatArray
from rlready.predictors.validation.scores import PredictionScorer
from rlready.registry.frozen_prediction import FrozenPrediction, FrozenRow

MIN_ORDERED = 3
ALL = "all"
"""Value of `command` for the record with the last predictions of all rankings and plans."""


@dataclass(frozen=True, kw_only=True)
class AuditScore:
    """The scores of the predictions of one ranking or plan, in the unit of the target.

    Args:
        command: rank or plan.
        at_ms: time at which the prediction was frozen, in milliseconds since 1970.
        predictor: the predictor that made it.
        target: the outcome.
        n_predicted: number of checkpoints without an outcome at that time.
        n_judged: number of these checkpoints that have an outcome now.
        n_with_score: number of judged checkpoints whose score was predicted, not only their order.
        level: share of outcomes that the intervals should contain.
        coverage: share of outcomes that they contain; None if no score is judged.
        bias: mean of outcome - prediction; None if no score is judged.
        bias_se: standard error of the bias; None with fewer than two judged checkpoints.
        spearman: correlation of prediction and outcome inside groups; None if undefined.
        pairs_right: share of pairs inside groups in the right order; None without pairs.
        n_chances: number of judged chances that one checkpoint ends better than another.
        chances_claimed: mean chance of the more probable order; None without chances.
        chances_right: share of them in which the more probable order was right.
        brier: mean squared difference of a chance and what happened (0 or 1; a tie is 0.5).
        regret: regret of the proposed choice; None if only checkpoints of the choice are judged,
            or none of them.
        practice_regret: regret of the choice by the score before RL; None as above.
        n_chosen_judged: number of checkpoints of the choice that have an outcome now.
        n_practice_judged: the same number for the choice by the score before RL.
        no_regret: why the regret is None, in words; empty if it is not.
    """

    command: str
    at_ms: int
    predictor: str
    target: str
    n_predicted: int
    n_judged: int
    n_with_score: int
    level: float
    coverage: float | None
    bias: float | None
    bias_se: float | None
    spearman: float | None
    pairs_right: float | None
    n_chances: int
    chances_claimed: float | None
    chances_right: float | None
    brier: float | None
    regret: float | None
    practice_regret: float | None
    n_chosen_judged: int
    n_practice_judged: int
    no_regret: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return dict(vars(self))


def audit(frozen: FrozenPrediction, outcomes: Mapping[str, float]) -> AuditScore:
    """Judge one frozen prediction by the outcomes that arrived after it.

    Args:
        frozen: the prediction.
        outcomes: outcomes recorded now, by checkpoint id, in the unit of the target.

    Example:
        >>> audit(frozen, {row.checkpoint_id: row.predicted for row in frozen.rows}).bias
        0.0
    """
    predicted = [row for row in frozen.rows if not row.had_outcome]
    judged = [row for row in predicted if row.checkpoint_id in outcomes]
    values = {row.checkpoint_id: outcomes[row.checkpoint_id] for row in judged}
    errors, inside = _of_scores(judged, values)
    ranks = _order(judged, values, frozen.lower_is_better)
    sign = -1.0 if frozen.lower_is_better else 1.0
    by_practice = _by_practice(predicted, len(frozen.chosen))
    # If RL was only run for the choice, its regret would always be 0 and say nothing.
    is_comparable = bool(set(values) - set(frozen.chosen))
    regrets = [
        _regret(ids, values, sign) if is_comparable else None
        for ids in (frozen.chosen, by_practice)
    ]
    n = len(errors)
    chances = _of_chances(frozen, values, sign)
    return AuditScore(
        command=frozen.command,
        at_ms=frozen.at_ms,
        predictor=frozen.predictor,
        target=frozen.target,
        n_predicted=len(predicted),
        n_judged=len(judged),
        n_with_score=n,
        level=frozen.level,
        coverage=float(np.mean(inside)) if n else None,
        bias=float(errors.mean()) if n else None,
        bias_se=float(errors.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        spearman=ranks[0],
        pairs_right=ranks[1],
        n_chances=len(chances),
        chances_claimed=float(np.maximum(chances[:, 0], 1.0 - chances[:, 0]).mean())
        if len(chances)
        else None,
        chances_right=float(_right(chances).mean()) if len(chances) else None,
        brier=float(np.square(chances[:, 0] - chances[:, 1]).mean()) if len(chances) else None,
        regret=regrets[0],
        practice_regret=regrets[1],
        n_chosen_judged=sum(name in values for name in frozen.chosen),
        n_practice_judged=sum(name in values for name in by_practice),
        no_regret="" if regrets[0] is not None else _why_no_regret(frozen, values),
    )


def newest_before(
    predictions: Sequence[FrozenPrediction], outcomes: Mapping[str, float]
) -> FrozenPrediction | None:
    """Return one record with each checkpoint's last prediction before its outcome.

    Args:
        predictions: frozen predictions of one target, the oldest first.
        outcomes: outcomes recorded now, by checkpoint id.
    """
    rows: dict[str, FrozenRow] = {}
    chances: dict[tuple[str, str], float] = {}
    for frozen in predictions:
        for row in frozen.rows:
            if not row.had_outcome and row.checkpoint_id in outcomes:
                rows[row.checkpoint_id] = row
        for i, j, chance in frozen.chances:
            first, second = frozen.rows[i].checkpoint_id, frozen.rows[j].checkpoint_id
            if first in outcomes and second in outcomes:
                # The other order of an earlier prediction is the same pair.
                chances.pop((second, first), None)
                chances[first, second] = chance
    if not rows:
        return None
    last = predictions[-1]
    at = {name: i for i, name in enumerate(rows)}
    return FrozenPrediction(
        command=ALL,
        at_ms=last.at_ms,
        predictor="each row's own",
        target=last.target,
        lower_is_better=last.lower_is_better,
        level=last.level,
        table_digest=last.table_digest,
        rows=tuple(rows.values()),
        chosen=(),
        chances=tuple((at[i], at[j], chance) for (i, j), chance in chances.items()),
    )


def _of_scores(
    judged: Sequence[FrozenRow], values: Mapping[str, float]
) -> tuple[FloatArray, list[bool]]:
    """Return the errors of predicted scores, and whether the outcomes are in their intervals."""
    errors, inside = [], []
    for row in judged:
        if row.predicted is not None and row.low is not None and row.high is not None:
            value = values[row.checkpoint_id]
            errors.append(value - row.predicted)
            inside.append(row.low <= value <= row.high)
    return np.array(errors), inside


def _of_chances(frozen: FrozenPrediction, values: Mapping[str, float], sign: float) -> FloatArray:
    """Return (n, 2): each judged chance that a row ends better than another, and what happened."""
    rows = []
    for i, j, chance in frozen.chances:
        first, second = frozen.rows[i].checkpoint_id, frozen.rows[j].checkpoint_id
        if first in values and second in values:
            gap = sign * (values[first] - values[second])
            rows.append((chance, 0.5 + 0.5 * float(np.sign(gap))))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _right(chances: FloatArray) -> FloatArray:
    """Return (n,) 1 where the more probable order was right, 0.5 for ties and even chances."""
    return np.asarray(0.5 + np.sign(chances[:, 0] - 0.5) * (chances[:, 1] - 0.5))


def _order(
    judged: Sequence[FrozenRow], values: Mapping[str, float], lower_is_better: bool
) -> tuple[float | None, float | None]:
    if len(judged) < MIN_ORDERED:
        return None, None
    sign = -1.0 if lower_is_better else 1.0
    y = np.array([sign * values[row.checkpoint_id] for row in judged])
    predicted = np.array([row.merit * (1.0 if row.predicted is None else sign) for row in judged])
    # A predicted score and a standing have no common unit.
    groups = np.array([f"{row.predicted is None} {row.group}" for row in judged], dtype=np.str_)
    scores = PredictionScorer(y, predicted, groups).scores(
        ("spearman_within", "decision_accuracy_within")
    )
    return scores["spearman_within"].value, scores["decision_accuracy_within"].value


def _by_practice(rows: Sequence[FrozenRow], n: int) -> list[str]:
    """Return the ids of the n rows with the highest score before RL."""
    scored = [row for row in rows if row.practice is not None and math.isfinite(row.practice)]
    ordered = sorted(scored, key=lambda row: -(row.practice or 0.0))
    return [row.checkpoint_id for row in ordered[:n]]


def _why_no_regret(frozen: FrozenPrediction, values: Mapping[str, float]) -> str:
    """Return why a choice has no regret; `values` are the outcomes since then."""
    if frozen.command == ALL:
        return "the last predictions of several rankings and plans have no common choice"
    if not frozen.chosen:
        n_groups = len({row.group for row in frozen.rows})
        if n_groups > 1 and any(row.standing is not None for row in frozen.rows):
            return (
                f"it orders the checkpoints only inside each of {n_groups} groups, so it proposed "
                "no choice among all of them"
            )
        return "it proposed no checkpoint"
    if not set(values) & set(frozen.chosen):
        return "no checkpoint of its choice has an outcome yet"
    return "only checkpoints of its choice have an outcome, so there is nothing to compare it with"


def _regret(chosen: Sequence[str], values: Mapping[str, float], sign: float) -> float | None:
    tried = [sign * values[name] for name in chosen if name in values]
    if not tried:
        return None
    return max(sign * value for value in values.values()) - max(tried)
