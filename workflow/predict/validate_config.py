"""The configuration of `rlready validate`, in a small module so that `--help` loads quickly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rlready.workflow.flags import KIND, Flag, Levels, Seed, split_kinds


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Settings of `rlready validate`, one field per flag; `Args:` holds their help.

    Args:
        table: CSV or Parquet file with one row per checkpoint.  [default: the registry]
        target: Column of the score after RL, or an outcome of the registry, for example
            value_at_budget/60steps@gsm8k. Higher is better unless --lower-is-better.
        features: Proxies; pre_* selects all numeric columns that begin with pre_.  [default: a
            small set of the registry's proxies]
        se: Standard errors of proxies, in their unit.  [default: those of the registry]
        target_se: Standard error of the target.
        groups: Column that names the group: SFT source, base model, ... Repeatable; each
            combination is a group.  [default: the registry's base models, if there are several]
        levels: Whether the level of a proxy means the same in all groups: comparable, unknown, or
            auto (comparable if the registry measured all groups in the same way; unknown for a
            table).
        kinds: Kind of a proxy whose name does not tell it: loss, accuracy (0 to 1), percent, count
            or plain; then + if larger is better, - if smaller, 0 if unknown. For the target, its
            unit. Repeatable.
        holdout: Another table with the same columns, to be predicted from all rows of this one.
        models: A model, default, or all. Repeatable. The baselines are always included.
            [default: default]
        splits: Ways to hold rows out.  [default: all three]
        baseline: Column by which current practice ranks; other models have to beat the line
            through it.  [default: pass@1, if there is such a column]
        predictions: Write one row per checkpoint to this CSV file: prediction (from a fit that has
            not seen the row, if its outcome is known), interval and domain.
        lower_is_better: The target is a loss.
        names: Column that names the checkpoints.
        seed: Seed of bootstrap and folds.
    """

    table: Annotated[Path | None, Flag(metavar="FILE")] = None
    target: Annotated[str | None, Flag(metavar="COL")] = None
    features: Annotated[tuple[str, ...], Flag(metavar="COL,COL,...")] = ()
    se: Annotated[tuple[str, ...], Flag(metavar="COL=COL_SE,...")] = ()
    target_se: Annotated[str | None, Flag(metavar="COL")] = None
    groups: Annotated[tuple[str, ...], Flag("--group", metavar="COL")] = ()
    levels: Levels = "auto"
    kinds: Annotated[tuple[str, ...], Flag("--kind", metavar=KIND, split=split_kinds)] = ()
    holdout: Annotated[Path | None, Flag(metavar="FILE")] = None
    models: Annotated[tuple[str, ...], Flag("--model", metavar="NAME")] = ()
    splits: Annotated[tuple[str, ...], Flag(metavar="loo,group,parity")] = ()
    baseline: Annotated[str | None, Flag(metavar="COL")] = None
    predictions: Annotated[Path | None, Flag(metavar="FILE")] = None
    lower_is_better: bool = False
    names: Annotated[str | None, Flag(metavar="COL")] = None
    seed: Seed = 0
