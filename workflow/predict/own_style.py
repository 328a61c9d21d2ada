"""Find the held-out loss on text of each checkpoint's own style.

This loss is the second important proxy of the public outcomes, beside pass@1. A set has the own
style of a checkpoint if the user says so (`--own-style`), or if it has the name of the `style` of
the checkpoint's recipe, or of the source with the largest weight in the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.training_table import describe_column
from rlready.registry.errors import ConfigError
from rlready.registry.table import beside
from rlready.workflow.predict.registry_table import RegistryTable

if TYPE_CHECKING:
    import pandas as pd

OWN_LOSS = "heldout_nll@own_style"
"""Column with the loss of each checkpoint on the set of its own style."""

_LOSS = "heldout_nll@"
_STYLE, _SOURCE = "recipe.style", "recipe.sources."
_PREFIXES = ("heldout_", "held_out_", "heldout-", "held-out-")


@dataclass(frozen=True, kw_only=True, eq=False)
class StyledTable:
    """A registry's table with the losses of the checkpoints' own style.

    Args:
        data: the table.
        columns: the losses of the own style; empty if none is known.
        note: how these losses were found, in words.
    """

    data: RegistryTable
    columns: tuple[str, ...]
    note: str


def with_own_style(data: RegistryTable, sets: Sequence[str] = ()) -> StyledTable:
    """Return the table with the losses of the checkpoints' own style.

    Args:
        data: the registry's table.
        sets: names of held-out sets of the own style of all checkpoints; by default the sets
            follow from the recipes.

    Raises:
        ConfigError: if there is no such set.
    """
    loss_of = {
        str(name).removeprefix(_LOSS): str(name)
        for name in data.frame.columns
        if str(name).startswith(_LOSS) and data.frame[name].notna().any()
    }
    unknown = sorted(set(sets) - set(loss_of))
    if unknown:
        raise ConfigError(
            f"no checkpoint has a loss on the held-out set {', '.join(unknown)}",
            fix=f"Sets: {', '.join(loss_of) or 'none; rlready evaluate --heldout FILE'}",
        )
    if sets:
        columns = tuple(loss_of[name] for name in sets)
        return StyledTable(
            data=_with_columns(data, data.frame, columns),
            columns=columns,
            note=f"held-out sets of the checkpoints' own style: {', '.join(sets)} (as told)",
        )
    set_of = _sets_by_recipe(data.frame, {name: _bare(name) for name in loss_of})
    if set_of is None:
        return StyledTable(data=data, columns=(), note="")
    frame = data.frame.copy()
    numbers, error = beside(OWN_LOSS, "n"), beside(OWN_LOSS, "se")
    for target, source in ((OWN_LOSS, None), (error, "se"), (numbers, "n")):
        columns_of = [
            loss_of[name] if source is None else beside(loss_of[name], source) for name in set_of
        ]
        frame[target] = [
            frame[name].iloc[i] if name in frame else np.nan for i, name in enumerate(columns_of)
        ]  # fmt: skip
    used = ", ".join(sorted(set(set_of)))
    return StyledTable(
        data=_with_columns(data, frame, (OWN_LOSS,)),
        columns=(OWN_LOSS,),
        note=f"held-out sets of the checkpoints' own style, by their recipes: {used}",
    )


def _sets_by_recipe(frame: pd.DataFrame, bare: dict[str, str]) -> list[str] | None:
    """Return the (n,) sets of the checkpoints' own style; None if one has no loss on its set."""
    sources = [str(name) for name in frame.columns if str(name).startswith(_SOURCE)]
    set_of = []
    for _, row in frame.iterrows():
        weights = {name: row[name] for name in sources if row[name] > 0}
        main = max(weights, key=lambda name: weights[name], default="").removeprefix(_SOURCE)
        styles = [str(row.get(_STYLE) or "").lower(), main.lower()]
        fitting = [
            name
            for style in styles
            for name, text in bare.items()
            if style and text == style and row[_LOSS + name] > 0
        ]
        if not fitting:
            return None
        set_of.append(fitting[0])
    return set_of


def _bare(name: str) -> str:
    name = name.lower()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _with_columns(data: RegistryTable, frame: pd.DataFrame, names: Sequence[str]) -> RegistryTable:
    """Return the table with further losses among its proxies."""
    table = data.table
    X, columns = table.X.copy(), list(table.columns)
    for name in names:
        error = beside(name, "se")
        for column in (name, error):
            X[column] = frame[column].to_numpy(dtype=float) if column in frame else np.nan
        if name not in [column.name for column in columns]:
            columns.append(describe_column(name, X[name].to_numpy(dtype=float), error))
    return replace(data, table=replace(table, X=X, columns=tuple(columns)), frame=frame)
