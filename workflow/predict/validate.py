"""Validate models on a table or on the registry, and say what each checkpoint is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.training_table import TrainingTable, training_table
from rlready.predictors.validation.fold_runs import Progress
from rlready.registry.errors import ConfigError
from rlready.registry.expansion import DAMAGE, check_expansion
from rlready.workflow.predict.registry_table import (
    PRACTICE,
    default_features,
    default_groups,
    registry_rows,
)
from rlready.workflow.predict.validate_config import ValidateConfig

if TYPE_CHECKING:
    import pandas as pd

    from rlready.predictors.validation.validate import ValidationReport
    from rlready.registry.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class Validated:
    """A validation with what it was made on."""

    report: ValidationReport
    table: TrainingTable
    model: str


def validate(
    config: ValidateConfig, store: Store | None = None, progress: Progress | None = None
) -> Validated:
    """The validation that a user asks for; writes the predictions if asked to.

    Raises:
        ConfigError: if a file, column, model or split is not what it has to be.
    """
    from rlready.predictors.validation import validate as validation

    asked, frame, notes = _asked(config, store)
    table = _table(asked, frame)
    table = replace(table, notes=(*notes, *table.notes))
    holdout = None
    if config.holdout is not None:
        try:
            holdout = replace(
                _table(asked, read_table(config.holdout)),
                columns=table.columns,
            )
        except ConfigError as error:
            raise ConfigError(
                f"{config.holdout}: {error.what}", why=error.why, fix=error.fix
            ) from error
    report = validation.validate(
        table,
        config.models or ("default",),
        config.splits or validation.SPLITS,
        holdout,
        asked.baseline,
        seed=config.seed,
        progress=progress,
    )
    model = config.models[0] if config.models else "default"
    model = report.default_model if model in ("default", "all") else model
    if config.predictions is not None:
        _write(predictions(table, report, model, config.seed), config.predictions)
    return Validated(report=report, table=table, model=model)


def read_table(path: Path) -> pd.DataFrame:
    """The table in a CSV or Parquet file.

    Raises:
        ConfigError: if there is none.
    """
    import pandas as pd

    try:
        check_expansion(path, ConfigError)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path)
    # Both readers tell by a ValueError what is wrong inside a file (pyarrow's errors are some too),
    # and pandas by an ImportError that a file is packed in a way that it cannot read.
    except (*DAMAGE, OSError, ValueError, ImportError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"cannot read {path} as a table", why=why) from error


def _asked(
    config: ValidateConfig, store: Store | None
) -> tuple[ValidateConfig, pd.DataFrame, list[str]]:
    """The settings with what was left open filled in, the frame, and what to tell about it."""
    notes: list[str] = []
    if config.table is not None:
        frame = read_table(config.table)
        if config.target is None:
            raise ConfigError(
                "no target is named",
                fix=f"Name one with --target. Columns: {', '.join(map(str, frame.columns))}",
            )
    else:
        config, frame, notes = _from_registry(config, store)
    features = _matching(config, frame)
    if not features:
        features = list(default_features(frame, config.target or ""))
        notes.append(f"proxies, by default: {', '.join(features)}")
    if config.table is None and config.baseline is None:
        practice = next((f for f in features if f.startswith(f"{PRACTICE}@")), None)
        config = replace(config, baseline=practice)
    return replace(config, features=tuple(features)), frame, notes


def _from_registry(
    config: ValidateConfig, store: Store | None
) -> tuple[ValidateConfig, pd.DataFrame, list[str]]:
    if store is None:
        raise ValueError("a registry is needed where no table is named")
    found = registry_rows(store.checkpoints(), config.target)
    return (
        replace(
            config,
            target=found.target,
            target_se=config.target_se or found.target_error,
            groups=config.groups or default_groups(found.frame),
            names=config.names or ("name" if found.frame["name"].is_unique else "checkpoint_id"),
        ),
        found.frame,
        list(found.notes),
    )


def _matching(config: ValidateConfig, frame: pd.DataFrame) -> list[str]:
    """The features asked for; a pattern stands for the columns of numbers that it fits."""
    from fnmatch import fnmatchcase

    taken = {config.target, config.target_se, config.names, *config.groups}
    taken |= set(_errors(config).values())
    found: list[str] = []
    for name in config.features:
        if "*" not in name or name in frame:
            found.append(name)
            continue
        fitting = [
            str(column)
            for column in frame.columns
            if fnmatchcase(str(column), name)
            and column not in taken
            and frame[column].dtype.kind in "fiu"
        ]
        if not fitting:
            raise ConfigError(
                f"no column of numbers fits {name!r}",
                fix=f"Columns: {', '.join(map(str, frame.columns))}",
            )
        found += [column for column in fitting if column not in found]
    return found


def _errors(config: ValidateConfig) -> dict[str, str]:
    found = {}
    for text in config.se:
        name, equals, error = text.partition("=")
        if not (name and equals and error):
            raise ConfigError(
                f"{text!r} does not say which column has which standard error",
                fix="Write COLUMN=COLUMN_WITH_ITS_STANDARD_ERROR",
            )
        found[name] = error
    return found


def _table(config: ValidateConfig, frame: pd.DataFrame) -> TrainingTable:
    """The training table; the baseline's column is in it, and is a proxy only if it was named."""
    features = list(config.features)
    extra = [config.baseline] if config.baseline and config.baseline not in features else []
    table = training_table(
        frame,
        target=config.target or "",
        features=[*features, *extra],
        errors=_errors(config) or _beside(config, frame),
        target_error=config.target_se,
        groups=config.groups,
        lower_is_better=config.lower_is_better,
        names=config.names,
    )
    columns = tuple(column for column in table.columns if column.name in features)
    if extra and not _has_numbers(table, extra[0]):
        raise ConfigError(f"the baseline {extra[0]!r} has no number in any row with an outcome")
    return replace(table, columns=columns)


def _has_numbers(table: TrainingTable, column: str) -> bool:
    return bool(np.isfinite(table.with_outcome().X[column]).any())


def _beside(config: ValidateConfig, frame: pd.DataFrame) -> Mapping[str, str]:
    """Standard errors as the registry's table names them; a user's own table has to name them."""
    from rlready.registry.table import beside

    if config.table is not None:
        return {}
    pairs = {name: beside(name, "se") for name in config.features}
    return {name: se for name, se in pairs.items() if se in frame and frame[se].notna().any()}


def predictions(
    table: TrainingTable, report: ValidationReport, model: str, seed: int = 0
) -> pd.DataFrame:
    """A row a checkpoint: what is predicted of it, how sure that is, and whether it is in domain.

    Where the outcome is known, the prediction is that of a fit that has not seen it (`basis` says
    which), and the interval is moved with it; elsewhere it is that of the fit to all outcomes.
    """
    from rlready.predictors.calibration.predictor import CalibratedPredictor

    fitted = CalibratedPredictor(model, seed=seed).fit(table)
    found = fitted.assess(table.X)
    found["basis"] = "fit to all outcomes"
    split = next((name for name in ("loo", "group") if name in report.splits), None)
    scored = report.splits[split].models[model].predicted if split else None
    is_known = np.isfinite(table.y)
    if scored is not None:
        unseen = table.shown(scored)
        shift = unseen - found.loc[is_known, "prediction"].to_numpy()
        for column in ("prediction", "low", "high"):
            found.loc[is_known, column] = found.loc[is_known, column].to_numpy() + shift
        found.loc[is_known, "basis"] = f"out of fold ({split})"
    found.insert(0, "name", table.ids)
    found.insert(1, "group", table.groups)
    found.insert(2, "outcome", table.shown(table.y))
    return found


def _write(found: pd.DataFrame, path: Path) -> None:
    try:
        if path.suffix == ".parquet":
            found.to_parquet(path, index=False)
        else:
            found.to_csv(path, index=False)
    except OSError as error:
        raise ConfigError(f"cannot write {path}", why=error.strerror or str(error)) from error
