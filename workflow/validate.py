"""Validate models on a table or on the registry, and say what each checkpoint is predicted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.dataset import TrainingTable, training_table
from rlready.predictors.fold_runs import Progress
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from rlready.predictors.validation import ValidationReport
    from rlready.registry.store import Store

BASE_MODEL = "recipe.base_model"
PRACTICE = "pass_at_1"
_COMPACT = (PRACTICE, "signal_share_8", "token_entropy")


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """What to validate; the flags of `rlready validate`.

    Args:
        table: a CSV or Parquet file; None: the registry.
        target: column of the outcome, or key of the outcome in the registry.
        features: proxies, `*` standing for any text; none: `default_features`.
        se: `COLUMN=COLUMN_WITH_ITS_STANDARD_ERROR`.
        target_se: column of the outcome's standard error.
        groups: columns that name the group.
        holdout: a file with the same columns.
        models: names, `default` or `all`.
        splits: of `validation.SPLITS`.
        baseline: column that the practice goes by.
        predictions: file to write a row a checkpoint to.
        lower_is_better: whether the target is a loss.
        names: column that names the checkpoints.
        seed: of the bootstrap and of random parts.
    """

    table: Path | None = None
    target: str | None = None
    features: tuple[str, ...] = ()
    se: tuple[str, ...] = ()
    target_se: str | None = None
    groups: tuple[str, ...] = ()
    holdout: Path | None = None
    models: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    baseline: str | None = None
    predictions: Path | None = None
    lower_is_better: bool = False
    names: str | None = None
    seed: int = 0


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
    from rlready.predictors import validation

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
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path)
    # Both readers tell by a ValueError what is wrong inside a file (pyarrow's errors are some too).
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"cannot read {path} as a table", why=why) from error


def default_features(frame: pd.DataFrame, target: str = "") -> list[str]:
    """A compact set of proxies of a registry's table, few enough for few outcomes.

    Pass@1, the largest pass@k, the share of GRPO groups with a signal and the token entropy, all on
    one benchmark: the target's own if it has more than pass@1, else that with the most problems,
    which is the suite's mean where there is one. And the held-out loss on every held-out set.
    """
    found: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        proxy, at, benchmark = name.partition("@")
        if at and "/" not in proxy and frame[name].notna().any():
            found.setdefault(benchmark, []).append(proxy)
    sampled = {b: kept for b, proxies in found.items() if (kept := _compact(proxies))}
    own = target.partition("@")[2]
    # The problems that the outcome is measured on may have nothing but the score before RL.
    benchmark = own if set(sampled.get(own, ())) - {PRACTICE} else ""
    if not benchmark:
        benchmark = max(sampled, key=lambda b: _breadth(frame, b, sampled[b]), default="")
    chosen = [f"{proxy}@{benchmark}" for proxy in sampled.get(benchmark, ())]
    chosen += [f"heldout_nll@{b}" for b, proxies in found.items() if "heldout_nll" in proxies]
    if not chosen:
        raise ConfigError(
            "no proxies are found by their names",
            fix=f"Name them with --features. Columns: {', '.join(map(str, frame.columns))}",
        )
    return chosen


def _compact(proxies: Sequence[str]) -> list[str]:
    largest = max((int(p[8:]) for p in proxies if re.fullmatch(r"pass_at_\d+", p)), default=1)
    wanted = [_COMPACT[0], f"pass_at_{largest}", *_COMPACT[1:]]
    return [name for name in dict.fromkeys(wanted) if name in proxies]


def _breadth(frame: pd.DataFrame, benchmark: str, proxies: Sequence[str]) -> tuple[float, ...]:
    """How many rows have the benchmark, how many proxies it has, over how many problems."""
    rows = frame[f"{proxies[0]}@{benchmark}"].notna().sum()
    counts = frame.get(f"{proxies[0]}_n@{benchmark}")
    n_problems = 0.0 if counts is None or counts.isna().all() else float(counts.max())
    return (float(rows), float(len(proxies)), n_problems)


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
        features = default_features(frame, config.target or "")
        notes.append(f"proxies, by default: {', '.join(features)}")
    if config.table is None and config.baseline is None:
        practice = next((f for f in features if f.startswith(f"{PRACTICE}@")), None)
        config = replace(config, baseline=practice)
    return replace(config, features=tuple(features)), frame, notes


def _from_registry(
    config: ValidateConfig, store: Store | None
) -> tuple[ValidateConfig, pd.DataFrame, list[str]]:
    from rlready.registry.table import beside, checkpoint_table

    if store is None:
        raise ValueError("a registry is needed where no table is named")
    found = checkpoint_table(store.checkpoints())
    target = config.target
    if target is None and len(found.outcome_keys) == 1:
        target = found.outcome_keys[0]
    if target not in found.outcome_keys:
        known = ", ".join(found.outcome_keys) or "none yet; `rlready outcome` records one"
        what = "no target is named" if target is None else f"no outcome {target!r} in the registry"
        raise ConfigError(what, fix=f"The registry holds {known}")
    # What came out of RL is no candidate for it.
    frame = found.frame[found.frame["kind"] != "rl"].reset_index(drop=True)
    notes = [note for note in found.notes if _concerns(note, target)]
    groups = config.groups
    if not groups and BASE_MODEL in frame and frame[BASE_MODEL].nunique(dropna=False) > 1:
        groups = (BASE_MODEL,)
    error = beside(target, "se")
    has_error = error in frame and frame[error].notna().any()
    return (
        replace(
            config,
            target=target,
            target_se=config.target_se or (error if has_error else None),
            groups=groups,
            names=config.names or ("name" if frame["name"].is_unique else "checkpoint_id"),
        ),
        frame,
        notes,
    )


def _concerns(note: str, target: str) -> bool:
    """Whether a note of the registry's table is about the target, or about proxies."""
    return not note.startswith("outcome columns") or target.partition("@")[2] in note


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
    from rlready.predictors.predictor import CalibratedPredictor

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
