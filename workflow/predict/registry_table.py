"""Choose the data of a predictor from the registry: target, proxies, groups and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.kinds import PRACTICE
from rlready.predictors.public.facts import refuse_simulated
from rlready.predictors.table_cells import VERSIONS
from rlready.predictors.training_table import (
    COMPARABLE,
    GROUP,
    ONE_GROUP,
    UNKNOWN,
    TrainingTable,
    lacking,
    training_table,
)
from rlready.registry.errors import ConfigError
from rlready.registry.records import k_of
from rlready.registry.table import CheckpointTable, beside, checkpoint_table
from rlready.workflow.predict.contents import check_comparable

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.store import Store, StoredCheckpoint

AUTO = "auto"
"""Value of `levels`: they are comparable if the registry shows it."""

_BASE_MODEL = "recipe.base_model"
_OTHERS = ("signal_share_8", "token_entropy")
_LOSS = "heldout_nll"
NO_OUTCOME = "score after RL"
"""Name of the target in a registry without outcomes."""

_COVERED = 0.5
"""Share of the checkpoints that must have a proxy before it is used by default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegistryRows:
    """The SFT checkpoints, and the base models that have the outcome.

    A base model is a training row if RL was run from it, but it is not a candidate like the SFT
    checkpoints. RL checkpoints are left out.

    Args:
        frame: one row per checkpoint, as in the registry's table.
        target: column of the outcome; `NO_OUTCOME` if there is none.
        target_error: column of its standard error; None if no outcome has one.
        versions: how the numbers were measured, by column.
        notes: notes for the reader.
    """

    frame: pd.DataFrame
    target: str
    target_error: str | None
    versions: dict[str, str]
    notes: tuple[str, ...]


def registry_rows(
    stored: Sequence[StoredCheckpoint], target: str | None, *, needs_outcome: bool = True
) -> RegistryRows:
    """Return the registry's rows for a target.

    Args:
        stored: the checkpoints of the registry.
        target: column of the outcome; may be None if there is only one.
        needs_outcome: whether to refuse a registry without any outcome. If False, its outcomes are
            missing numbers in a column of the target's name, or `NO_OUTCOME`.

    Raises:
        ConfigError: if there is no such outcome, if it must be named, or if it was simulated.
    """
    stored = [one for one in stored if one.checkpoint.kind != "rl"]
    everything = checkpoint_table(stored)
    frame = everything.frame
    if not needs_outcome and not (frame["kind"] == "sft").any():
        raise ConfigError(
            "the registry holds no SFT checkpoint", fix="Measure some: rlready evaluate CHECKPOINT"
        )
    if not needs_outcome and not everything.outcome_keys:
        target = target or NO_OUTCOME
        frame = frame.assign(**{target: float("nan")})
    else:
        target = _outcome_column(everything, target)
    is_simulated = [any(each.rl_recipe.get("simulated") for each in s.outcomes) for s in stored]
    refuse_simulated(frame.assign(simulated=is_simulated)[frame[target].notna()])
    frame = frame[(frame["kind"] == "sft") | frame[target].notna()].reset_index(drop=True)
    return RegistryRows(
        frame=frame,
        target=target,
        target_error=known_errors(frame, [target]).get(target),
        versions=dict(everything.versions),
        notes=tuple(note for note in everything.notes if _concerns(note, target)),
    )


def known_errors(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Return the columns of standard errors that hold numbers, by the column of the values."""
    errors = {name: beside(name, "se") for name in names}
    return {name: se for name, se in errors.items() if se in frame and frame[se].notna().any()}


@dataclass(frozen=True, kw_only=True, eq=False)
class RegistryTable:
    """The registry in the form that predictors use.

    Args:
        table: the rows, with and without the outcome, by checkpoint id.
        frame: the registry's table, with its rows in the same order.
        target: column of the outcome.
        groups: columns that name the group.
        versions: how the numbers were measured, by proxy.
        notes: notes for the reader.
    """

    table: TrainingTable
    frame: pd.DataFrame
    target: str
    groups: tuple[str, ...]
    versions: dict[str, str]
    notes: tuple[str, ...]

    @cached_property
    def names(self) -> list[str]:
        """The (n,) names of the checkpoints, with the id if several share a name."""
        names = self.frame["name"].astype(str)
        ids = self.frame["checkpoint_id"].str.slice(stop=8)
        return names.where(~names.duplicated(keep=False), names + "-" + ids).tolist()


def registry_table(
    store: Store,
    *,
    target: str | None = None,
    features: Sequence[str] = (),
    groups: Sequence[str] = (),
    needs_outcome: bool = True,
    levels: str = AUTO,
    kinds: Sequence[str] = (),
) -> RegistryTable:
    """Return the registry's rows with proxies, groups and outcome.

    Args:
        store: the registry.
        target: column of the outcome; may be left out if there is only one.
        features: columns of the proxies; default: see `default_features`.
        groups: columns that name the group; default: see `default_groups`.
        needs_outcome: whether to refuse a registry without any outcome.
        levels: see `with_levels`.
        kinds: `COL=KIND[:SIGN]`, see `training_table`.

    Raises:
        ConfigError: if a column or kind is unknown, if no target was named and there are several,
            or if no checkpoint has the outcome.
    """
    stored, notes = store.checkpoints(), list[str]()
    rows = registry_rows(stored, target, needs_outcome=needs_outcome)
    features = tuple(features) or comparable_features(
        stored, rows, None if needs_outcome else notes
    )
    groups = tuple(groups) or default_groups(rows.frame)
    table = training_table(
        rows.frame,
        target=rows.target,
        features=features,
        errors=known_errors(rows.frame, features),
        target_error=rows.target_error,
        groups=groups,
        names="checkpoint_id",
        needs_outcome=needs_outcome,
        kinds=kinds,
    )
    versions = {name: rows.versions[name] for name in features if name in rows.versions}
    table.X.attrs[VERSIONS] = versions
    table = with_levels(table, levels, versions)
    return RegistryTable(
        table=table,
        frame=rows.frame,
        target=rows.target,
        groups=groups,
        versions=versions,
        notes=(*rows.notes, *notes, *table.notes, *lacking(table, rows.frame["name"].tolist())),
    )


def with_levels(table: TrainingTable, levels: str, versions: Mapping[str, str]) -> TrainingTable:
    """Return the table with the comparability of its proxies' levels.

    Args:
        table: rows of the registry, or of a file.
        levels: `COMPARABLE`, `UNKNOWN` or `AUTO`. With `AUTO`, levels are comparable if the
            registry shows that each column has one content, protocol and version, and if there are
            several groups with outcomes, which all have the proxies. (Numbers that were measured in
            another way have separate columns.)
        versions: how the numbers were measured, by proxy; empty for a file.
    """
    if levels != AUTO:
        return replace(table, levels=levels)
    names = [column.name for column in table.columns]
    counts = table.with_outcome().X.groupby(GROUP)[names].count()
    if len(counts) < 2 or set(names) - set(versions) or not (counts > 0).all(axis=None):
        return replace(table, levels=UNKNOWN)
    note = (
        "all groups measured the proxies in the same way, so their levels are compared between "
        "groups (--levels unknown: only inside them)"
    )
    return replace(table, levels=COMPARABLE, notes=(*table.notes, note))


def comparable_features(
    stored: Sequence[StoredCheckpoint], rows: RegistryRows, notes: list[str] | None = None
) -> tuple[str, ...]:
    """Return the default features, which were measured on the same content in all rows.

    Args:
        stored: the checkpoints of the registry.
        rows: the rows that are used.
        notes: list that gets a note on features that were measured on different contents; without
            a list they are refused.

    Raises:
        ConfigError: if there are no such features.
    """
    used = set(rows.frame["checkpoint_id"])
    stored = [one for one in stored if one.checkpoint.id in used]
    try:
        features = default_features(rows.frame, rows.target)
    except ConfigError:
        check_comparable(stored)  # may give a more specific reason
        raise
    check_comparable(stored, features, notes)
    return features


def default_features(frame: pd.DataFrame, target: str = "") -> tuple[str, ...]:
    """Return a small set of proxies: pass@k, signal and entropy on one benchmark, and all losses.

    The benchmark is the one with most kinds of proxies, because the benchmark of the outcome may
    only have the score before RL. Among several it is the target's own, or otherwise the one with
    most problems, which is the mean of a suite if there is one. In small tables a few proxies that
    measure different things are better than hundreds that measure the same.

    Raises:
        ConfigError: if no proxy has one of the usual names.
    """
    by_benchmark: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        proxy, at, benchmark = name.partition("@")
        is_plain = at and "/" not in proxy and "#" not in name
        if is_plain and frame[name].notna().mean() >= _COVERED:
            by_benchmark.setdefault(benchmark, []).append(proxy)
    sampled = {b: usual for b, proxies in by_benchmark.items() if (usual := _usual(proxies))}
    target_benchmark = target.partition("@")[2]

    def merit(benchmark: str) -> tuple[int, bool, float]:
        counts = frame.get(f"{sampled[benchmark][0]}_n@{benchmark}")
        n_problems = 0.0 if counts is None or counts.isna().all() else float(counts.max())
        return len(sampled[benchmark]), benchmark == target_benchmark, n_problems

    best = max(sampled, key=merit, default="")
    features = [f"{proxy}@{best}" for proxy in sampled.get(best, ())]
    features += [f"{_LOSS}@{b}" for b, proxies in by_benchmark.items() if _LOSS in proxies]
    if not features:
        raise ConfigError(
            "no default proxies were found",
            why=f"a default proxy has a usual name, and at least {_COVERED:.0%} of the checkpoints "
            "have it, measured on the same content in the same way (columns with a # were not)",
            fix="Measure them with `rlready evaluate`, or name other proxies with --features of "
            f"`rlready fit` or `validate`. Columns: {', '.join(map(str, frame.columns))}",
        )
    return tuple(features)


def practice_column(table: TrainingTable) -> str | None:
    """Return post-SFT pass@1, the proxy by which people choose, if it is among the columns."""
    return next((c.name for c in table.columns if c.name.partition("@")[0] == PRACTICE), None)


def checked_groups(table: TrainingTable, groups: Sequence[str]) -> NDArray[np.bool_]:
    """Return (n,) whether each row is in one of these groups; without groups, all rows are.

    Raises:
        ConfigError: if there is no such group, or it has only one checkpoint.
    """
    unknown = sorted(set(groups) - set(table.groups.tolist()))
    if unknown:
        known = np.unique(table.groups).tolist()
        raise ConfigError(
            f"there is no group {', '.join(unknown)}",
            fix="All checkpoints are one group: leave --group out"
            if known == [ONE_GROUP]
            else f"Groups: {', '.join(known)}",
        )
    is_chosen = np.isin(table.groups, list(groups)) if groups else np.ones(len(table), dtype=bool)
    if groups and is_chosen.sum() == 1:
        raise ConfigError(
            f"group {groups[0]} has one checkpoint",
            why="there is no other checkpoint with which to compare it",
            fix="Name another group too, or leave --group out",
        )
    return is_chosen


def default_groups(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the column of the base model, if there are several."""
    several = _BASE_MODEL in frame and frame[_BASE_MODEL].nunique(dropna=False) > 1
    return (_BASE_MODEL,) if several else ()


def _usual(proxies: Sequence[str]) -> list[str]:
    passes = {name: k for name in proxies if (k := k_of(name)) is not None}
    return sorted(passes, key=passes.__getitem__) + [name for name in _OTHERS if name in proxies]


def _outcome_column(table: CheckpointTable, target: str | None) -> str:
    """Return the column of the outcome, by default the only one."""
    keys = table.outcome_keys
    if not keys:
        raise ConfigError(
            "the registry holds no outcome",
            why="a predictor learns from the RL outcomes of some checkpoints",
            fix="Run RL from the first checkpoints of `rlready rank`, which needs no outcome, and "
            "record them: rlready outcome CHECKPOINT --value V --benchmark B ...",
        )
    fix = f"The registry holds {', '.join(keys)}"
    if target is None and len(keys) > 1:
        raise ConfigError(
            f"no target is named, and the registry holds {len(keys)} outcomes",
            why="budgets, statistics and benchmarks are never mixed in one target",
            fix=f"Name one with --target. {fix}",
        )
    if target is not None and target not in keys:
        raise ConfigError(f"there is no outcome {target!r} in the registry", fix=fix)
    return target or keys[0]


def _concerns(note: str, target: str) -> bool:
    """Return whether a note of the registry's table is about the target, or about proxies."""
    return not note.startswith("outcome columns") or target.partition("@")[2] in note
