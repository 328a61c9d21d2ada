"""Find checkpoints that cannot be compared: other benchmark contents, or no common proxy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from rlready.registry.records import Proxy
    from rlready.registry.store import StoredCheckpoint

_DIGITS = 12
_MOST_NAMES = 5


def check_comparable(
    stored: Sequence[StoredCheckpoint],
    features: Sequence[str] = (),
    notes: list[str] | None = None,
) -> None:
    """Check that the checkpoints were measured on one content of each benchmark.

    Args:
        stored: the checkpoints.
        features: columns `<proxy>@<benchmark>` to check; default: all that the checkpoints have.
        notes: list that gets a note on different contents; without a list they are refused.

    Raises:
        ConfigError: if the checkpoints that were measured on a benchmark share no content of it,
            or if no two checkpoints have a proxy in common.
    """
    if len(stored) < 2:
        return
    columns = {name.partition("#")[0] for name in features}
    by_column: dict[str, dict[str, dict[str, None]]] = {}
    for each in stored:
        for proxy in each.proxies:
            column = _column(proxy)
            if not columns or column in columns:
                names = by_column.setdefault(column, {}).setdefault(proxy.benchmark_digest, {})
                names[each.checkpoint.name] = None
    texts = dict.fromkeys(
        _contents(column.partition("@")[2], names_of)
        for column, names_of in by_column.items()
        if len(names_of) > 1 and not _is_shared(names_of.values())
    )
    what = f"the checkpoints were measured on different contents of {'; of '.join(texts)}"
    if texts and notes is not None:
        notes.append(f"{what}: those of the most common one are compared")
    elif texts:
        raise ConfigError(
            what,
            why="scores on different problems are never pooled",
            fix="Evaluate the checkpoints on the same file; or name the proxies with --features of "
            "`rlready fit` or `validate`: checkpoints that were measured on another content then "
            "count as not measured",
        )
    if not any(len(names) > 1 for names_of in by_column.values() for names in names_of.values()):
        raise ConfigError(
            "no two checkpoints have a proxy in common",
            why="; ".join(_measured(each) for each in stored[:_MOST_NAMES]) + _more(len(stored)),
            fix="Measure all checkpoints on the same benchmarks with the same settings",
        )


def _is_shared(checkpoints: Iterable[Mapping[str, None]]) -> bool:
    """Return whether one content was used for all checkpoints that have the proxy."""
    names = [set(each) for each in checkpoints]
    return set.union(*names) in names


def _contents(benchmark: str, names_of: Mapping[str, Mapping[str, None]]) -> str:
    """Return the contents of a benchmark, the most common first, with their checkpoints."""
    ordered = sorted(names_of.items(), key=lambda item: -len(item[1]))
    parts = [
        f"{digest[:_DIGITS]} ({', '.join(list(names)[:_MOST_NAMES])}{_more(len(names))})"
        for digest, names in ordered[:_MOST_NAMES]
    ]
    return f"{benchmark}: {', '.join(parts)}{_more(len(ordered))}"


def _measured(stored: StoredCheckpoint) -> str:
    columns = list(dict.fromkeys(_column(proxy) for proxy in stored.proxies))
    shown = ", ".join(columns[:_MOST_NAMES]) + _more(len(columns))
    return f"{stored.checkpoint.name} has {shown or 'none'}"


def _column(proxy: Proxy) -> str:
    return f"{proxy.name}@{proxy.benchmark}"


def _more(n: int) -> str:
    return f" and {n - _MOST_NAMES} more" if n > _MOST_NAMES else ""
