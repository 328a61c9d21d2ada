"""What a validation found: scores of each model in each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlready.predictors.training_table import FloatArray
from rlready.predictors.validation.bootstrap import Difference, Interval
from rlready.predictors.validation.scores import ALL, ClearRule, Score

PRACTICE = "pass_at_1"
"""What people choose checkpoints by without a predictor: the score before RL."""


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """The scores of one model in a split.

    Args:
        scores: by name.
        differences: to the baseline, by name of the score; empty for the baseline itself.
        predicted: (n,) what was scored, higher is better; None for parity, or if `problem`.
        sd: over the repeats of parity, by name.
        problem: why the model has no scores.
    """

    scores: Mapping[str, Interval]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    predicted: FloatArray | None = None
    sd: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return {
            name: interval.to_dict() | ({"sd": self.sd[name]} if name in self.sd else {})
            for name, interval in self.scores.items()
        }


def without_scores(n: int, problem: str) -> ModelScores:
    """Return the scores of a model that could not be fitted to a table of n rows."""
    empty = Interval(score=Score(value=None, n=n, reason=problem))
    return ModelScores(scores=dict.fromkeys(ALL, empty), problem=problem)


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: how many rows and groups are scored, and each model's scores."""

    name: str
    n_rows: int
    n_groups: int
    models: Mapping[str, ModelScores]


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """The result of a validation.

    Args:
        splits: by name.
        n_rows, n_groups: with an outcome.
        noise_ceiling_r2: R2 of a predictor that knows all true outcomes; None if their errors are
            unknown.
        default_model: name of the default model.
        baseline: the model that differences are to.
        baseline_column: the column of the model `baseline`, if one was named.
        clear: which pairs count as clearly different.
        notes: what a reader has to know.

    Example:
        >>> report = validate(table)  # doctest: +SKIP
        >>> report.splits["group"].models["multilevel"].scores["spearman"]  # doctest: +SKIP
    """

    splits: Mapping[str, SplitReport]
    n_rows: int
    n_groups: int
    noise_ceiling_r2: float | None
    default_model: str
    baseline: str
    baseline_column: str | None
    clear: ClearRule
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **{
                name: {model: scores.to_dict() for model, scores in split.models.items()}
                for name, split in self.splits.items()
            },
            "noise_ceiling_r2": self.noise_ceiling_r2,
            "n_rows": self.n_rows,
            "n_groups": self.n_groups,
            "default_model": self.default_model,
            "baseline": self.baseline,
            "baseline_column": self.baseline_column,
            "clear_rule": str(self.clear),
            "differences": {
                name: {
                    model: {key: vars(d) for key, d in scores.differences.items()}
                    for model, scores in split.models.items()
                    if scores.differences
                }
                for name, split in self.splits.items()
            },
            "notes": list(self.notes),
        }
