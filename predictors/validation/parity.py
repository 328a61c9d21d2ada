"""The split of the seed paper: fit to one half of the rows, score on the other half, repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlready.predictors.training_table import TrainingTable
from rlready.predictors.validation.bootstrap import Interval
from rlready.predictors.validation.fold_runs import FoldRun
from rlready.predictors.validation.folds import Rows
from rlready.predictors.validation.report import ModelScores
from rlready.predictors.validation.scores import SCORES, ClearRule, PredictionScorer, Score

REPEATS = 20


def random_halves(n: int, seed: int) -> list[Rows]:
    """Return `REPEATS` random halves of the rows."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.permutation(n)[: n // 2]).astype(np.intp) for _ in range(REPEATS)]


def line_through(table: TrainingTable, column: str, left_out: Rows) -> FoldRun:
    """Predict by a line through one proxy, fitted to the other rows.

    A row without the proxy gets its mean, as in `OneProxy`.
    """
    x = table.X[column].to_numpy(dtype=np.float64)
    is_fitted = np.isfinite(x)
    is_fitted[left_out] = False
    middle = x[is_fitted].mean() if is_fitted.any() else 0.0
    gap = np.where(np.isfinite(x), x - middle, 0.0)
    y = table.y[is_fitted] if is_fitted.any() else np.delete(table.y, left_out)
    spread = float(gap[is_fitted] @ gap[is_fitted])
    is_flat = spread <= 1e-18 * (1.0 + middle**2) * len(y)
    slope = 0.0 if is_flat else float(gap[is_fitted] @ y) / spread
    return FoldRun(predicted=y.mean() + slope * gap)


def over_halves(
    table: TrainingTable, halves: Sequence[Rows], runs: Sequence[FoldRun], rule: ClearRule
) -> ModelScores:
    """Return each score's mean, middle 95 % and standard deviation over the halves."""
    y, error = table.y, table.y_error
    scores = [
        PredictionScorer(y[rows], run.predicted[rows], y_error=error[rows], rule=rule).scores(
            SCORES
        )
        for rows, run in zip(halves, runs, strict=True)
    ]
    intervals, sds = {}, {}
    for name in SCORES:
        values = np.array([s[name].value for s in scores if s[name].value is not None])
        if not len(values):
            intervals[name] = Interval(score=scores[0][name])
            continue
        lo, hi = np.quantile(values, [0.025, 0.975])
        intervals[name] = Interval(
            score=Score(value=float(values.mean()), n=len(values)), lo=float(lo), hi=float(hi)
        )
        sds[name] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return ModelScores(scores=intervals, sd=sds)
