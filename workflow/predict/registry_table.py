"""From the registry's table to what a predictor is fitted on: target, proxies, groups, rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlready.predictors.calibration.predictor import VERSIONS
from rlready.predictors.training_table import TrainingTable, training_table
from rlready.predictors.validation.report import PRACTICE
from rlready.registry.errors import ConfigError
from rlready.registry.table import CheckpointTable, beside, checkpoint_table

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.store import Store, StoredCheckpoint

_BASE_MODEL = "recipe.base_model"
_PASS = re.compile(r"^pass_at_\d+$")
_OTHERS = ("signal_share_8", "token_entropy")
_LOSS = "heldout_nll"
_COVERED = 0.5
"""A proxy that fewer of the checkpoints have is left out of the default ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegistryRows:
    """SFT checkpoints, and base models that have the outcome.

    A base model teaches where RL was run from it; it is no candidate for the choice among SFT
    checkpoints. What came out of RL is neither.

    Args:
        frame: a row each, as in the registry's table.
        target: the outcome's column.
        target_error: column of its standard error, None if no outcome has one.
        versions: how the numbers of each column were measured.
        notes: what a reader has to know.
    """

    frame: pd.DataFrame
    target: str
    target_error: str | None
    versions: dict[str, str]
    notes: tuple[str, ...]


def registry_rows(stored: Sequence[StoredCheckpoint], target: str | None) -> RegistryRows:
    """The registry's rows for a target, which may be left out if there is one only.

    Args:
        stored: what the registry holds.
        target: column of the outcome.

    Raises:
        ConfigError: if there is no such outcome, or it has to be named.
    """
    found = checkpoint_table([one for one in stored if one.checkpoint.kind != "rl"])
    target = _chosen(found, target)
    frame = found.frame[(found.frame["kind"] == "sft") | found.frame[target].notna()]
    error = beside(target, "se")
    has_error = error in frame and bool(frame[error].notna().any())
    return RegistryRows(
        frame=frame.reset_index(drop=True),
        target=target,
        target_error=error if has_error else None,
        versions=dict(found.versions),
        notes=tuple(note for note in found.notes if _concerns(note, target)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RegistryTable:
    """The registry as a predictor sees it.

    Args:
        table: the rows, with and without the outcome, by checkpoint id.
        frame: the registry's table, its rows in the same order.
        target: the outcome's column.
        groups: columns that name the group.
        versions: how the numbers of each proxy were measured.
        notes: what a reader has to know.
    """

    table: TrainingTable
    frame: pd.DataFrame
    target: str
    groups: tuple[str, ...]
    versions: dict[str, str]
    notes: tuple[str, ...]


def registry_table(
    store: Store,
    *,
    target: str | None = None,
    features: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> RegistryTable:
    """The rows with proxies, groups and outcome.

    Args:
        store: the registry.
        target: column of the outcome; may be left out if there is one only.
        features: columns of the proxies; default: see `default_features`.
        groups: columns that name the group; default: see `default_groups`.

    Raises:
        ConfigError: if a column is unknown, no target was named and there are several, or no
            checkpoint has the outcome.
    """
    found = registry_rows(store.checkpoints(), target)
    frame = found.frame
    features = tuple(features) or default_features(frame, found.target)
    groups = tuple(groups) or default_groups(frame)
    errors = {name: beside(name, "se") for name in features}
    table = training_table(
        frame,
        target=found.target,
        features=features,
        errors={name: se for name, se in errors.items() if se in frame and frame[se].notna().any()},
        target_error=found.target_error,
        groups=groups,
        names="checkpoint_id",
    )
    versions = {name: found.versions[name] for name in features if name in found.versions}
    table.X.attrs[VERSIONS] = versions
    return RegistryTable(
        table=table,
        frame=frame,
        target=found.target,
        groups=groups,
        versions=versions,
        notes=(*found.notes, *table.notes),
    )


def default_features(frame: pd.DataFrame, target: str = "") -> tuple[str, ...]:
    """A small set of proxies: pass@k, signal and entropy on one benchmark, and every held-out loss.

    The benchmark is the one with most kinds of proxies (the problems that the outcome is measured
    on may have nothing but the score before RL); of several the target's own, or else the one with
    most problems, which is the mean of a suite where there is one. Few proxies that mean different
    things serve small tables better than hundreds that mean the same.

    Raises:
        ConfigError: if none is found by its name.
    """
    found: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        proxy, at, benchmark = name.partition("@")
        is_plain = at and "/" not in proxy and "#" not in name
        if is_plain and frame[name].notna().mean() >= _COVERED:
            found.setdefault(benchmark, []).append(proxy)
    sampled = {b: kept for b, proxies in found.items() if (kept := _compact(proxies))}
    own = target.partition("@")[2]

    def merit(benchmark: str) -> tuple[int, bool, float]:
        counts = frame.get(f"{sampled[benchmark][0]}_n@{benchmark}")
        n_problems = 0.0 if counts is None or counts.isna().all() else float(counts.max())
        return len(sampled[benchmark]), benchmark == own, n_problems

    best = max(sampled, key=merit, default="")
    chosen = [f"{proxy}@{best}" for proxy in sampled.get(best, ())]
    chosen += [f"{_LOSS}@{b}" for b, proxies in found.items() if _LOSS in proxies]
    if not chosen:
        raise ConfigError(
            "no proxies are found by their names",
            why=f"a default one is known for at least {_COVERED:.0%} of the checkpoints",
            fix=f"Name them with --features. Columns: {', '.join(map(str, frame.columns))}",
        )
    return tuple(chosen)


def practice_column(table: TrainingTable) -> str | None:
    """Return the proxy that people choose by, post-SFT pass@1, if it is among the columns."""
    return next((c.name for c in table.columns if c.name.partition("@")[0] == PRACTICE), None)


def default_groups(frame: pd.DataFrame) -> tuple[str, ...]:
    """The base model, if there are several."""
    several = _BASE_MODEL in frame and frame[_BASE_MODEL].nunique(dropna=False) > 1
    return (_BASE_MODEL,) if several else ()


def _compact(proxies: Sequence[str]) -> list[str]:
    passes = [name for name in proxies if _PASS.match(name)]
    passes.sort(key=lambda name: int(name.removeprefix("pass_at_")))
    return passes + [name for name in _OTHERS if name in proxies]


def _chosen(found: CheckpointTable, asked: str | None) -> str:
    """The outcome's column."""
    keys = found.outcome_keys
    if not keys:
        raise ConfigError(
            "the registry holds no outcome",
            why="a predictor learns from what RL made of some checkpoints",
            fix="Record some: rlready outcome CHECKPOINT --value V --benchmark B ...",
        )
    listed = ", ".join(keys)
    if asked is None:
        if len(keys) == 1:
            return keys[0]
        raise ConfigError(
            f"no target is named, and the registry holds {len(keys)} outcomes",
            why="budgets, statistics and benchmarks are never mixed in one target",
            fix=f"Name one with --target. The registry holds {listed}",
        )
    if asked not in keys:
        raise ConfigError(
            f"there is no outcome {asked!r} in the registry", fix=f"The registry holds {listed}"
        )
    return asked


def _concerns(note: str, target: str) -> bool:
    """Whether a note of the registry's table is about the target, or about proxies."""
    return not note.startswith("outcome columns") or target.partition("@")[2] in note
