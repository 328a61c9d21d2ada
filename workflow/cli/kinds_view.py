"""The kinds of the proxies, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rlready.predictors.kinds import Kind, kind_word
from rlready.predictors.training_table import Column

_DIRECTIONS = {1: "higher is better", -1: "lower is better", 0: "no direction"}
_MOST_NAMES = 8


def kinds_view(columns: Sequence[Column]) -> list[str]:
    """Return one line with all kinds, and one for the columns whose names do not tell theirs."""
    names: dict[tuple[Kind, int], list[str]] = {}
    for column in columns:
        names.setdefault((column.kind, column.sign), []).append(column.name)
    lines = [
        "kinds: "
        + "; ".join(
            f"{kind_word(kind, sign)}, {_DIRECTIONS[sign]}: {_listed(group)}"
            for (kind, sign), group in names.items()
        )
    ]
    unknown = [column.name for column in columns if column.basis == "unknown"]
    if unknown:
        lines.append(
            f"note: no known word in {_listed(unknown)}: plain, without a direction; "
            f"--kind {unknown[0]}=KIND states another kind"
        )
    lines += [
        f"note: the numbers of {column.name} contradict its name: {kind_word(column.kind, 0)}"
        for column in columns
        if column.basis == "contradicted"
    ]
    return lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
