"""The results of a validation: scores of each model in each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlready.predictors.training_table import FloatArray
from rlready.predictors.validation.bootstrap import Difference, Interval
from rlready.predictors.validation.scores import ALL, WITHIN, ClearRule, Score

PAIRS = "pairs"
"""Name of the report on pairs of rows from different groups."""

_DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """The scores of one model in a split, or in the comparison of pairs.

    Args:
        scores: the scores, by name.
        differences: differences to the baseline, by name of the score; empty for the baseline.
        predicted: (n,) predictions that were scored, higher is better (for pairs, the share of
            comparisons won); None for parity, or if there is a `problem`.
        sd: standard deviation over the repeats of parity, by name of the score.
        problem: why the model has no scores; empty if it has scores.
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


def without_scores(n: int, problem: str, names: Sequence[str] = ALL) -> ModelScores:
    """Return the scores of a model that could not be fitted to a table of n rows."""
    empty = Interval(score=Score(value=None, n=n, reason=problem))
    return ModelScores(scores=dict.fromkeys(names, empty), problem=problem)


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """The report on one split: the numbers of rows and groups, and each model's scores."""

    name: str
    n_rows: int
    n_groups: int
    models: Mapping[str, ModelScores]


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """The result of a validation.

    Args:
        splits: the reports on the splits, by name.
        pairs: the scores of comparisons between rows of different groups, each by one fit without
            both groups (`PAIR_SCORES`); None if no groups were left out.
        n_rows: number of rows with an outcome.
        n_groups: number of groups with an outcome.
        noise_ceiling_r2: R2 of a predictor that knows all true outcomes; None if their errors are
            unknown.
        default_model: name of the default model.
        baseline: name of the model to which `differences` are computed.
        baseline_column: the column of the model `baseline`, if the user named one.
        clear: rule for pairs that differ clearly.
        notes: notes for the reader.

    Example:
        >>> report = validate(table)  # doctest: +SKIP
        >>> report.splits["group"].models["multilevel"].scores["spearman"]  # doctest: +SKIP
    """

    splits: Mapping[str, SplitReport]
    pairs: SplitReport | None = None
    n_rows: int
    n_groups: int
    noise_ceiling_r2: float | None
    default_model: str
    baseline: str
    baseline_column: str | None
    clear: ClearRule
    notes: tuple[str, ...]

    @property
    def within(self) -> dict[str, dict[str, Interval]]:
        """Scores of the order inside groups, by model and score (`spearman`, ...).

        The predictions come from fits without the group. With only one group, they come from fits
        without single rows.
        """
        split = self.splits.get("group", self.splits.get("loo"))
        if split is None or (split.name == "loo" and self.n_groups > 1):
            return {}
        return {
            model: {name.removesuffix("_within"): scores.scores[name] for name in WITHIN}
            for model, scores in split.models.items()
        }

    @property
    def level(self) -> dict[str, dict[str, Interval]]:
        """Scores of the predicted outcomes of groups that were left out: `r2`, by model."""
        split = self.splits.get("group")
        models = {} if split is None else split.models
        return {model: {"r2": scores.scores["r2"]} for model, scores in models.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values. The default model also appears as `default`."""
        splits = {**self.splits, **({} if self.pairs is None else {PAIRS: self.pairs})}
        parts: dict[str, dict[str, Any]] = {
            name: {model: scores.to_dict() for model, scores in split.models.items()}
            for name, split in splits.items()
        }
        parts |= {
            name: {
                model: {score: interval.to_dict() for score, interval in scores.items()}
                for model, scores in models.items()
            }
            for name, models in (("within", self.within), ("level", self.level))
            if models
        }
        differences = {
            name: {
                model: {key: vars(d) for key, d in scores.differences.items()}
                for model, scores in split.models.items()
                if scores.differences
            }
            for name, split in splits.items()
        }
        return {
            **{name: self._with_default(models) for name, models in parts.items()},
            "noise_ceiling_r2": self.noise_ceiling_r2,
            "n_rows": self.n_rows,
            "n_groups": self.n_groups,
            "default_model": self.default_model,
            "baseline": self.baseline,
            "baseline_column": self.baseline_column,
            "clear_rule": str(self.clear),
            "differences": {name: self._with_default(of) for name, of in differences.items()},
            "notes": list(self.notes),
        }

    def _with_default(self, models: dict[str, Any]) -> dict[str, Any]:
        alias = {_DEFAULT: models[self.default_model]} if self.default_model in models else {}
        return {**models, **alias}
