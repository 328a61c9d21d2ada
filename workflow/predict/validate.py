"""Validate models on a table or on the registry, and write a prediction for each checkpoint."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.calibration.held_out import MAX_ROW_FOLDS, assess_held_out
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.kinds import PRACTICE, Kind, k_of_pass
from rlready.predictors.public.facts import refuse_simulated
from rlready.predictors.table_cells import is_numeric
from rlready.predictors.training_table import TrainingTable, lacking, training_table
from rlready.predictors.validation.fold_runs import Progress
from rlready.predictors.validation.folds import leave_group_out, leave_one_out
from rlready.predictors.validation.report import ValidationReport
from rlready.predictors.validation.validate import SPLITS
from rlready.predictors.validation.validate import validate as validate_models
from rlready.registry.compressed_files import DAMAGE, check_expansion
from rlready.registry.errors import ConfigError
from rlready.workflow.predict.registry_table import (
    RegistryRows,
    comparable_features,
    default_features,
    default_groups,
    known_errors,
    registry_rows,
    with_levels,
)
from rlready.workflow.predict.validate_config import ValidateConfig

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.store import Store, StoredCheckpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Validated:
    """A validation, its table and the name of the requested model."""

    report: ValidationReport
    table: TrainingTable
    model: str


def validate(
    config: ValidateConfig, store: Store | None = None, progress: Progress | None = None
) -> Validated:
    """Run the validation of the flags, and write the predictions if a file is named.

    Raises:
        ConfigError: if a file, column, model or split is missing or invalid.
    """
    config, frame, notes, versions = _completed(config, store)
    table = with_levels(_table(config, frame), config.levels, versions)
    table = replace(table, notes=(*notes, *table.notes, *lacking(table)))
    if "group" in config.splits and len(set(table.with_outcome().groups)) == 1:
        raise ConfigError(
            "--splits group needs two groups, and all rows with an outcome are one",
            fix="Name the column of their groups with --group, or leave --splits out. "
            f"Columns: {', '.join(map(str, frame.columns))}",
        )
    holdout = None
    if config.holdout is not None:
        try:
            holdout = _table(config, read_table(config.holdout))
            _check_same_units(table, holdout)
            holdout = replace(holdout, columns=table.columns)
        except ConfigError as error:
            raise ConfigError(
                f"{config.holdout}: {error.what}", why=error.why, fix=error.fix
            ) from error
    report = validate_models(
        table,
        config.models or ("default",),
        config.splits or SPLITS,
        holdout,
        config.baseline,
        seed=config.seed,
        progress=progress,
    )
    model = config.models[0] if config.models else "default"
    model = report.default_model if model in ("default", "all") else model
    if config.predictions is not None:
        _write(predictions(table, report, model, config.seed), config.predictions)
    return Validated(report=report, table=table, model=model)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table from a CSV or Parquet file.

    Raises:
        ConfigError: if the file cannot be read, has no rows, or has two columns of one name.
    """
    import pandas as pd

    try:
        check_expansion(path, ConfigError)
        if path.suffix == ".parquet":
            return _checked(path, pd.read_parquet(path))
        # Keep words for missing numbers as text, because `read_cells` counts them.
        return _checked(path, pd.read_csv(path, keep_default_na=False, na_values=[""]))
    # Both readers raise a ValueError for an invalid file (pyarrow's errors are subclasses), and
    # pandas an ImportError for a compression that it cannot read.
    except (*DAMAGE, OSError, ValueError, ImportError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot read {path} as a table",
            why=why,
            fix=""
            if isinstance(error, OSError)
            else "Give a CSV file (UTF-8, separated by commas) or a Parquet file",
        ) from error


def _checked(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Refuse a table without rows, with other separators, or with two columns of one name."""
    import pandas as pd

    columns = list(map(str, frame.columns))
    if len(columns) == 1 and (separators := set(columns[0]) & {";", "\t", "|"}):
        raise ConfigError(
            f"{path} has one column, {columns[0]!r}",
            why=f"its columns seem to be separated by {sorted(separators)[0]!r}",
            fix="Separate them by commas",
        )
    if path.suffix != ".parquet" and any(re.search(r"\.\d+$", name) for name in columns):
        # pandas gives the second `a` the name `a.1`, which a user's column may also have.
        columns = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].tolist()
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{path} has {columns.count(twice[0])} columns {twice[0]!r}",
            why="it is not clear which of them is meant",
            fix="Rename or remove all but one",
        )
    if frame.empty:
        raise ConfigError(f"{path} has no rows", fix="Write one row per checkpoint")
    return frame


def _completed(
    config: ValidateConfig, store: Store | None
) -> tuple[ValidateConfig, pd.DataFrame, list[str], dict[str, str]]:
    """Return the settings with all defaults, the frame, notes, and the versions of its columns."""
    notes: list[str] = []
    versions: dict[str, str] = {}
    stored: Sequence[StoredCheckpoint] = ()
    rows: RegistryRows | None = None
    if config.table is not None:
        frame = read_table(config.table)
        refuse_simulated(frame)
        if config.target is None:
            raise ConfigError(
                "no target is named",
                why="it is the column of the scores after RL, with which predictions are compared",
                fix=f"Name one with --target. Columns: {', '.join(map(str, frame.columns))}",
            )
        _check_columns(config, frame)
    else:
        if store is None:
            raise ValueError("a registry is needed where no table is named")
        stored = store.checkpoints()
        rows = registry_rows(stored, config.target)
        frame, notes, versions = rows.frame, list(rows.notes), rows.versions
        config = replace(
            config,
            target=rows.target,
            target_se=config.target_se or rows.target_error,
            groups=config.groups or default_groups(frame),
            names=config.names or ("name" if frame["name"].is_unique else "checkpoint_id"),
        )
    features = _matching(config, frame)
    if not features:
        features = list(
            _default_features(config, frame) if rows is None else comparable_features(stored, rows)
        )
        notes.append(f"proxies, by default: {', '.join(features)}")
    baseline = config.baseline
    if baseline is None and config.table is None:
        baseline = next((f for f in features if f.startswith(f"{PRACTICE}@")), None)
    elif baseline is None and PRACTICE not in {name.partition("@")[0].lower() for name in features}:
        baseline = _practice(config, frame)
        notes.append(
            f"current practice: {baseline}, by its name (--baseline COL names another column)"
            if baseline
            else "no column has the name of pass@1, by which people choose: models are compared "
            "with one number for all rows; --baseline COL names the column"
        )
    completed = replace(config, features=tuple(features), baseline=baseline)
    return completed, frame, notes, versions


def _check_columns(config: ValidateConfig, frame: pd.DataFrame) -> None:
    """Refuse a user's table in which the column of the target or of the groups is missing."""
    columns = f"Its columns: {', '.join(map(str, frame.columns))}"
    if config.target not in frame:
        raise ConfigError(
            f"the table has no column {config.target!r}, which --target names",
            why="it is the column of the scores after RL, with which predictions are compared",
            fix=columns,
        )
    for group in config.groups:
        if group not in frame:
            raise ConfigError(
                f"the table has no column {group!r}, which --group names",
                why="it would tell which rows belong together",
                fix=f"Without --group, all rows are one group. {columns}",
            )
        if frame[group].isna().all():
            raise ConfigError(
                f"column {group!r}, which --group names, is empty",
                why="it would tell which rows belong together",
                fix="Fill it in, or leave --group out: then all rows are one group",
            )


def _default_features(config: ValidateConfig, frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the proxies of a user's table that have the registry's names."""
    try:
        return default_features(frame, config.target or "")
    except ConfigError as error:
        others = _other_columns(config)
        numbers = [str(c) for c in frame.columns if c not in others and is_numeric(frame[c])]
        raise ConfigError(
            "no proxies are named",
            why="of a table, only columns with the registry's names, such as pass_at_1@gsm8k, are "
            "taken by default",
            fix=f"Name them with --features. Columns of numbers: {', '.join(numbers)}"
            if numbers
            else "Add a column of numbers, such as the score before RL",
        ) from error


_AFTER_RL = re.compile(r"after|post_?rl|final", re.IGNORECASE)
"""Words in the name of a score after RL."""


def _practice(config: ValidateConfig, frame: pd.DataFrame) -> str | None:
    """Return the first column of a user's table that is pass@1 by its name, features first."""
    if config.target not in frame:
        return None
    rows = frame[frame[config.target].notna()]
    others = _other_columns(config)
    names = [*config.features, *(str(c) for c in frame.columns if c not in config.features)]
    return next(
        (
            name
            for name in names
            if name in frame
            and name not in others
            and k_of_pass(name) == 1
            and not _AFTER_RL.search(name)
            and is_numeric(rows[name])
        ),
        None,
    )


def _matching(config: ValidateConfig, frame: pd.DataFrame) -> list[str]:
    """Return the named features; a pattern is replaced by the numeric columns that match it."""
    other_columns = _other_columns(config)
    columns = {str(c): c not in other_columns and is_numeric(frame[c]) for c in frame.columns}
    features: list[str] = []
    for name in config.features:
        if "*" not in name or name in frame:
            features.append(name)
            continue
        matches = [c for c, is_usable in columns.items() if is_usable and fnmatchcase(c, name)]
        if not matches:
            raise ConfigError(
                f"no column of numbers matches {name!r}", fix=f"Columns: {', '.join(columns)}"
            )
        features += [column for column in matches if column not in features]
    return features


def _other_columns(config: ValidateConfig) -> set[str | None]:
    """Return the named columns that are not proxies."""
    named = {config.target, config.target_se, config.names, *config.groups}
    return named | set(_errors(config).values())


def _errors(config: ValidateConfig) -> dict[str, str]:
    errors = {}
    for text in config.se:
        name, _, error = text.partition("=")
        if not (name and error):
            raise ConfigError(
                f"{text!r} does not say which column has which standard error",
                fix="Write COLUMN=COLUMN_WITH_ITS_STANDARD_ERROR",
            )
        errors[name] = error
    return errors


def _check_same_units(table: TrainingTable, holdout: TrainingTable) -> None:
    """Refuse a holdout table with percentages in a column of shares, or the other way round."""
    kinds = {column.name: column.kind for column in table.columns}
    for column in holdout.columns:
        if {column.kind, kinds.get(column.name)} == {Kind.PROBABILITY, Kind.PERCENT}:
            unit = {Kind.PROBABILITY: "shares from 0 to 1", Kind.PERCENT: "percentages"}
            raise ConfigError(
                f"column {column.name!r} holds {unit[column.kind]}, in the table "
                f"{unit[kinds[column.name]]}",
                fix=f"Write both in one unit; if both are right, add --kind {column.name}=percent",
            )


def _table(config: ValidateConfig, frame: pd.DataFrame) -> TrainingTable:
    """Return the training table. It has the baseline's column even if that is not a proxy."""
    features = list(config.features)
    extra = [config.baseline] if config.baseline and config.baseline not in features else []
    errors = _errors(config)
    if not errors and config.table is None:
        errors = known_errors(frame, features)
    table = training_table(
        frame,
        target=config.target or "",
        features=[*features, *extra],
        errors=errors,
        target_error=config.target_se,
        groups=config.groups,
        lower_is_better=config.lower_is_better,
        names=config.names,
        kinds=config.kinds,
    )
    for name in extra:
        if not np.isfinite(table.with_outcome().X[name]).any():
            raise ConfigError(f"the baseline {name!r} has no number in any row with an outcome")
    return replace(table, columns=tuple(c for c in table.columns if c.name in features))


def predictions(
    table: TrainingTable, report: ValidationReport, model: str, seed: int = 0
) -> pd.DataFrame:
    """Return one row per checkpoint with its prediction, interval and domain.

    For a row with an outcome, all three come from a fit that has not seen it (`basis` says which
    rows were left out). For other rows they come from the fit to all outcomes.
    """
    has_outcome = np.isfinite(table.y)
    frame = CalibratedPredictor(model, seed=seed).fit(table).assess(table.X)
    frame["basis"] = "fit to all outcomes"
    split = next((name for name in ("loo", "group") if name in report.splits), None)
    scored = None if split is None else report.splits[split].models[model].predicted
    if scored is not None:
        scored_rows = table.with_outcome()
        folds = (
            leave_one_out(scored_rows, MAX_ROW_FOLDS, seed)
            if split == "loo"
            else leave_group_out(scored_rows)
        )
        unseen = assess_held_out(scored_rows, folds, scored, model, seed)
        frame.loc[has_outcome, unseen.columns] = unseen.to_numpy()
        frame.loc[has_outcome, "basis"] = f"out of fold ({split})"
    frame.insert(0, "name", table.ids)
    frame.insert(1, "group", table.groups)
    frame.insert(2, "outcome", table.shown(table.y))
    return frame


def _write(frame: pd.DataFrame, path: Path) -> None:
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_csv(path, index=False)
    except OSError as error:
        raise ConfigError(f"cannot write {path}", why=error.strerror or str(error)) from error
