"""From the registry's table to what a predictor is fitted on: target, proxies, groups, rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlready.predictors.dataset import TrainingTable, training_table
from rlready.predictors.predictor import VERSIONS
from rlready.registry.errors import ConfigError
from rlready.registry.table import CheckpointTable, beside, checkpoint_table

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.store import Store

_PASS = re.compile(r"^pass_at_\d+$")
_LOSS = "heldout_nll"
_OTHERS = ("signal_share_8", "token_entropy")
_COVERED = 0.5
"""A proxy that fewer of the checkpoints have is left out of the default ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegistryTable:
    """The registry as a predictor sees it.

    Args:
        table: SFT checkpoints with and without the outcome, and base models that have it.
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
    """The checkpoints of the registry with proxies, groups and outcome.

    Args:
        store: the registry.
        target: column of the outcome; may be left out if there is one only.
        features: columns of the proxies; default: see `default_features`.
        groups: columns that name the group; default: the base model, if there are several.

    Raises:
        ConfigError: if a column is unknown, no target was named and there are several, or no
            checkpoint has the outcome.
    """
    found = checkpoint_table(
        [one for one in store.checkpoints() if one.checkpoint.kind in ("sft", "base")]
    )
    target = choose_target(found, target)
    # A base model teaches where RL was run from it; it is no candidate for the choice among SFT
    # checkpoints.
    frame = found.frame[(found.frame["kind"] == "sft") | found.frame[target].notna()]
    frame = frame.reset_index(drop=True)
    features = tuple(features) or default_features(frame, found.versions, target)
    groups = tuple(groups) or _default_groups(frame)
    columns = set(map(str, frame.columns))
    errors = {name: beside(name, "se") for name in features if beside(name, "se") in columns}
    target_error = beside(target, "se")
    has_error = target_error in columns and bool(frame[target_error].notna().any())
    table = training_table(
        frame,
        target=target,
        features=features,
        errors=errors,
        target_error=target_error if has_error else None,
        groups=groups,
        names="checkpoint_id",
    )
    measured = [name for name in found.versions if name in features]
    versions = {name: found.versions[name] for name in measured}
    table.X.attrs[VERSIONS] = versions
    return RegistryTable(
        table=table,
        frame=frame,
        target=target,
        groups=groups,
        versions=versions,
        notes=(*found.notes, *table.notes),
    )


def choose_target(found: CheckpointTable, asked: str | None) -> str:
    """The outcome's column.

    Raises:
        ConfigError: if it is unknown, or has to be named.
    """
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
            f"the registry holds {len(keys)} outcomes: {listed}",
            why="budgets, statistics and benchmarks are never mixed in one target",
            fix=f"Name one: --target {keys[-1]}",
        )
    if asked not in keys:
        raise ConfigError(f"the registry holds no outcome {asked!r}", fix=f"Known: {listed}")
    return asked


def default_features(
    frame: pd.DataFrame, versions: Mapping[str, str], target: str
) -> tuple[str, ...]:
    """A small set of proxies: pass@k, signal and entropy on one benchmark, and every held-out loss.

    The benchmark is the one with most kinds of proxies; of several the target's own, or else the
    one with most problems, which is the mean of a suite where there is one. Few proxies that mean
    different things serve small tables better than hundreds that mean the same.

    Raises:
        ConfigError: if there are none of them.
    """
    named = [name for name in versions if "#" not in name and "@" in name]
    covered = [name for name in named if frame[name].notna().mean() >= _COVERED]
    benchmark = _benchmark(frame, covered, target.partition("@")[2])
    chosen = [
        name
        for name in covered
        if name.partition("@")[2] == benchmark
        and (_PASS.match(name.partition("@")[0]) or name.partition("@")[0] in _OTHERS)
    ]
    chosen += [name for name in covered if name.partition("@")[0] == _LOSS]
    if not chosen:
        raise ConfigError(
            "no proxy was measured on at least half of the checkpoints",
            fix="Evaluate them (`rlready evaluate`), or name proxies: --features A,B",
        )
    return tuple(chosen)


def _benchmark(frame: pd.DataFrame, covered: Sequence[str], of_target: str) -> str | None:
    """Where most kinds of proxies were measured; then the target's own; then most problems."""
    sampled = [name.partition("@")[2] for name in covered if name.startswith("pass_at_1@")]

    def merit(benchmark: str) -> tuple[int, bool, float]:
        n_kinds = sum(name.partition("@")[2] == benchmark for name in covered)
        n_problems = float(frame[beside(f"pass_at_1@{benchmark}", "n")].max())
        return n_kinds, benchmark == of_target, n_problems

    return max(sampled, key=merit, default=None)


def _default_groups(frame: pd.DataFrame) -> tuple[str, ...]:
    name = "recipe.base_model"
    return (name,) if name in frame and frame[name].nunique() > 1 else ()
