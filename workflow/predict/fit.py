"""Fit a predictor on the registry, validate it, and store it there.

It is stored as an MLflow model with its training table, validation report and figures, so that
`rank`, `plan` and `tag` give the same answers on every machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.calibration.intervals import MIN_ROWS
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.calibration.trusted_types import trusted_types
from rlready.predictors.training_table import GROUP, kinds_dict
from rlready.predictors.validation.report import PAIRS, SplitReport, ValidationReport
from rlready.predictors.validation.validate import validate
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.predictors.records import FittedPredictor, StoredPredictor
from rlready.registry.mlflow_store.predictors.store import put_predictor
from rlready.workflow.predict.figures import draw_predictions
from rlready.workflow.predict.registry_table import (
    AUTO,
    RegistryTable,
    practice_column,
    registry_table,
)

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore

_FIGURE = "predicted_and_true.png"
_SPLITS = {"loo": "rows left out", "group": "groups left out"}
_TITLES = {**_SPLITS, PAIRS: "pairs of rows from different groups"}
_SUMMARY_SCORES = ("r2", "spearman", "decision_accuracy", "regret_at_1")


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The result of a fit.

    Args:
        stored: the stored predictor.
        data: the data of the fit.
        validation: scores on rows that the model has not seen.
        signal: result of the permutation test, in words.
        practice: column of post-SFT pass@1; None if there is none.
        model: name of the model.
    """

    stored: StoredPredictor
    data: RegistryTable
    validation: ValidationReport
    signal: str
    practice: str | None
    model: str

    def to_dict(self) -> dict[str, Any]:
        """Return the report as one JSON object: the contract of `rlready fit --json`."""
        meta, table = self.stored.meta, self.data.table
        n_rows = len(table.with_outcome())
        return {
            "predictor": meta.name,
            "version": meta.version,
            "uri": meta.uri,
            "model_id": meta.model_id,
            "run_id": meta.run_id,
            "is_new": self.stored.is_new,
            "model": self.model,
            "target": self.data.target,
            "features": [column.name for column in table.columns],
            "kinds": kinds_dict(table.columns),
            "groups": list(self.data.groups),
            "levels": table.levels,
            "n_rows": n_rows,
            "n_without_outcome": len(table) - n_rows,
            "signal": self.signal,
            "practice": self.practice,
            "validation": self.validation.to_dict(),
            "notes": list(self.data.notes),
        }


def fit(
    store: MlflowStore,
    *,
    target: str | None = None,
    model: str = "default",
    features: Sequence[str] = (),
    groups: Sequence[str] = (),
    levels: str = AUTO,
    kinds: Sequence[str] = (),
    name: str,
    level: float = 0.9,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> FitReport:
    """Fit a predictor on the registry, validate it, and store it.

    Args:
        store: the registry.
        target: column of the outcome; may be left out if there is only one.
        model: name of a model; `predictors.model_names` lists them.
        features: columns of the proxies; by default a small set, see `default_features`.
        groups: columns that name the group; by default the base model, if there are several.
        levels: whether levels of proxies mean the same in all groups, see `with_levels`.
        kinds: `COL=KIND[:SIGN]` for columns whose names do not tell their kind, see
            `training_table`.
        name: registered model of which the predictor becomes a version.
        level: share of outcomes that intervals should contain, 0.5..0.99.
        seed: of folds and permutations.
        say: function that is called with a sentence before each step.
        progress: function that is called with the numbers of finished fits and of all fits.

    Raises:
        RlreadyError: for any mistake of the user or the environment.

    Example:
        >>> report = fit(MlflowStore(), name="grpo-predictor")  # doctest: +SKIP
        >>> report.validation.splits["loo"].models["bounded"]  # doctest: +SKIP
    """
    data = registry_table(
        store, target=target, features=features, groups=groups, levels=levels, kinds=kinds
    )
    table = data.table.with_outcome()
    _check_enough(data)
    say(f"Fitting {model} on {len(table)} checkpoints with {data.target}")
    predictor = CalibratedPredictor(model, level=level, versions=data.versions, seed=seed)
    predictor.fit(table)
    practice = practice_column(table)
    say("Validating on rows and groups that the model has not seen")
    report = validate(
        table, (model,), tuple(_SPLITS), baseline=practice, seed=seed, progress=progress
    )
    model = report.default_model if model == "default" else model
    signal = predictor.signal_.in_words()
    with tempfile.TemporaryDirectory() as folder:
        fitted = FittedPredictor(
            estimator=predictor,
            X=table.X,
            table=data.frame[np.isfinite(data.table.y)].reset_index(drop=True),
            table_digest=_digest(data),
            target=data.target,
            column_versions=data.versions,
            optional=[*(c.error for c in table.columns if c.error), GROUP],
            groups=data.groups,
            trusted_types=trusted_types(),
            params=_params(data, model, level, seed, kinds),
            metrics=_metrics(report, model),
            report=report.to_dict(),
            figures={_FIGURE: draw_predictions(Path(folder, _FIGURE), predictor, table)},
            summary=(signal, *_summary(report, model), *predictor.notes_),
        )
        stored = put_predictor(store, fitted, name)
    return FitReport(
        stored=stored,
        data=data,
        validation=report,
        signal=signal,
        practice=practice,
        model=model,
    )


def _params(
    data: RegistryTable, model: str, level: float, seed: int, kinds: Sequence[str]
) -> dict[str, Any]:
    return {
        "model": model,
        "groups": ",".join(data.groups) or "none",
        "level": level,
        "levels": data.table.levels,
        "seed": seed,
        "n_features": len(data.table.columns),
        **({"kinds": json.dumps(sorted(kinds))} if kinds else {}),
    }


def _check_enough(data: RegistryTable) -> None:
    n = len(data.table.with_outcome())
    if n < MIN_ROWS:
        raise ConfigError(
            f"{n} checkpoints have {data.target}: too few to fit a predictor",
            why=f"errors are measured on outcomes that a fit leaves out; this needs {MIN_ROWS}",
            fix="Use `rlready rank` and `rlready plan`, which already work with public outcomes "
            f"and these; record {MIN_ROWS - n} more to fit",
        )


def _digest(data: RegistryTable) -> str:
    """Return the digest of the data. Missing numbers become None, because NaN has no digest."""
    table = data.table.with_outcome()

    def numbers(values: list[Any]) -> list[Any]:
        return [None if value != value else value for value in values]

    return digest(
        {
            "ids": table.ids,
            "target": data.target,
            "X": {str(name): numbers(table.X[name].tolist()) for name in table.X},
            "y": table.y.tolist(),
            "y_error": numbers(table.y_error.tolist()),
        }
    )


def _summary(report: ValidationReport, model: str) -> list[str]:
    """Return one line per split: the model's scores, and the regret of current practice."""
    lines = []
    for split in _scored(report, model):
        scores = split.models[model].scores
        line = f"{_TITLES[split.name]}: " + ", ".join(
            f"{score} {scores[score].score.value:.3g}"
            for score in _SUMMARY_SCORES
            if score in scores and scores[score].score.value is not None
        )
        practice = split.models.get(report.baseline)
        if practice is not None and practice.scores["regret_at_1"].score.value is not None:
            line += f" (by pass@1 alone {practice.scores['regret_at_1'].score.value:.3g})"
        lines.append(f"{line}, n = {split.n_rows}")
    return lines


def _metrics(report: ValidationReport, model: str) -> dict[str, float]:
    """Return the defined scores of the model for MLflow, by split."""
    return {
        f"{split.name}/{score}": float(interval.score.value)
        for split in _scored(report, model)
        for score, interval in split.models[model].scores.items()
        if interval.score.value is not None
    }


def _scored(report: ValidationReport, model: str) -> list[SplitReport]:
    """Return the report on pairs of rows from different groups, if any, and then the splits."""
    first = [] if report.pairs is None or report.pairs.models[model].problem else [report.pairs]
    return [*first, *report.splits.values()]
