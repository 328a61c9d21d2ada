"""Judge predictions that were frozen before the outcomes.

A row is judged if it had no outcome when it was predicted and has one now.

    coverage    share of judged outcomes inside their intervals
    bias        mean of outcome - prediction, with its standard error
    order       Spearman correlation, and share of pairs in the right order, inside groups
    regret      best judged outcome - best judged outcome among the chosen; beside it the same
                for as many checkpoints chosen by the score before RL (the practice)

Only checkpoints with an RL run can be judged. If RL was only run for the chosen ones, there is
nothing to compare them with, and the regrets are None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
        level: share of outcomes that the intervals should contain.
        coverage: share of outcomes that they contain; None if nothing is judged.
        bias: mean of outcome - prediction; None if nothing is judged.
        bias_se: standard error of the bias; None with fewer than two judged checkpoints.
        spearman: correlation of prediction and outcome inside groups; None if undefined.
        pairs_right: share of pairs inside groups in the right order; None without pairs.
        regret: regret of the proposed choice; None if only checkpoints of the choice are judged,
            or none of them.
        practice_regret: regret of the choice by the score before RL; None as above.
        n_chosen_judged: number of checkpoints of the choice that have an outcome now.
        n_practice_judged: the same number for the choice by the score before RL.
    """

    command: str
    at_ms: int
    predictor: str
    target: str
    n_predicted: int
    n_judged: int
    level: float
    coverage: float | None
    bias: float | None
    bias_se: float | None
    spearman: float | None
    pairs_right: float | None
    regret: float | None
    practice_regret: float | None
    n_chosen_judged: int
    n_practice_judged: int

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
    errors = np.array([values[row.checkpoint_id] - row.predicted for row in judged])
    inside = [row.low <= values[row.checkpoint_id] <= row.high for row in judged]
    ranks = _order(judged, values, frozen.lower_is_better)
    sign = -1.0 if frozen.lower_is_better else 1.0
    by_practice = _by_practice(predicted, len(frozen.chosen))
    # If RL was only run for the choice, its regret would always be 0 and say nothing.
    is_comparable = bool(set(values) - set(frozen.chosen))
    regrets = [
        _regret(ids, values, sign) if is_comparable else None
        for ids in (frozen.chosen, by_practice)
    ]
    n = len(judged)
    return AuditScore(
        command=frozen.command,
        at_ms=frozen.at_ms,
        predictor=frozen.predictor,
        target=frozen.target,
        n_predicted=len(predicted),
        n_judged=n,
        level=frozen.level,
        coverage=float(np.mean(inside)) if n else None,
        bias=float(errors.mean()) if n else None,
        bias_se=float(errors.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        spearman=ranks[0],
        pairs_right=ranks[1],
        regret=regrets[0],
        practice_regret=regrets[1],
        n_chosen_judged=sum(name in values for name in frozen.chosen),
        n_practice_judged=sum(name in values for name in by_practice),
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
    for frozen in predictions:
        for row in frozen.rows:
            if not row.had_outcome and row.checkpoint_id in outcomes:
                rows[row.checkpoint_id] = row
    if not rows:
        return None
    last = predictions[-1]
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
    )


def _order(
    judged: Sequence[FrozenRow], values: Mapping[str, float], lower_is_better: bool
) -> tuple[float | None, float | None]:
    if len(judged) < MIN_ORDERED:
        return None, None
    sign = -1.0 if lower_is_better else 1.0
    y = np.array([sign * values[row.checkpoint_id] for row in judged])
    predicted = np.array([sign * row.predicted for row in judged])
    groups = np.array([row.group for row in judged], dtype=np.str_)
    scores = PredictionScorer(y, predicted, groups).scores(
        ("spearman_within", "decision_accuracy_within")
    )
    return scores["spearman_within"].value, scores["decision_accuracy_within"].value


def _by_practice(rows: Sequence[FrozenRow], n: int) -> list[str]:
    """Return the ids of the n rows with the highest score before RL."""
    scored = [row for row in rows if row.practice is not None and math.isfinite(row.practice)]
    ordered = sorted(scored, key=lambda row: -(row.practice or 0.0))
    return [row.checkpoint_id for row in ordered[:n]]


def _regret(chosen: Sequence[str], values: Mapping[str, float], sign: float) -> float | None:
    tried = [sign * values[name] for name in chosen if name in values]
    if not tried:
        return None
    return max(sign * value for value in values.values()) - max(tried)
