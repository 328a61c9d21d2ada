"""The registry as one wide table: a row per checkpoint, a column per number.

    checkpoint_id, name, kind, step, parents, recipe.<field>, recipe.sources.<name>
    <proxy>@<benchmark>, <proxy>_se@<benchmark>, <proxy>_n@<benchmark>
    <statistic>/<budget><unit>@<benchmark>, ..._se@<benchmark>, ..._n@<benchmark>

`_n` counts problems for a proxy, and RL seeds for an outcome. An outcome is the mean over its RL
seeds. Its `_se` is the larger of two values: the standard deviation between seeds divided by the
root of their number (two seeds or more), and the mean of the seeds' standard errors over problems,
which all seeds share.

Numbers that must not be compared never share a column. Where a benchmark was measured with several
contents, protocols or evaluator versions, or an outcome came from several ways of doing RL, the
most common way keeps the plain name. The name of each other column ends in `#` and 6 digits of its
digest, and a note explains it. A cell whose outcomes contradict each other is empty; the column
`conflicts` lists it.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.outcomes import Outcome, conflicts, current, how_rl_was_done, variant
from rlready.registry.records import Recipe
from rlready.registry.store import StoredCheckpoint
from rlready.registry.whole_file import replacing

if TYPE_CHECKING:
    import pandas as pd

_MARK_DIGITS = 6
_CONFLICTS_SHOWN = 5

Way = tuple[str | None, ...]
"""How a number was measured: digests and versions that one column's numbers share."""


@dataclass(frozen=True, kw_only=True)
class CheckpointTable:
    """The registry as a table.

    Args:
        frame: a row per checkpoint, the oldest first.
        outcome_keys: the outcome columns; with a target, its column is called `target`.
        notes: remarks that readers need, in words.
        versions: how the numbers of each proxy's and outcome's column were measured. The texts are
            equal only if the numbers can be compared.

    Example:
        >>> table = checkpoint_table(store.checkpoints())
        >>> table.frame["pass_at_1@gsm8k"].tolist()
        [0.51, 0.51]
    """

    frame: pd.DataFrame
    outcome_keys: tuple[str, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]


def checkpoint_table(
    stored: Sequence[StoredCheckpoint], target: str | None = None
) -> CheckpointTable:
    """Return the table of these checkpoints.

    Args:
        stored: from `Store.checkpoints`.
        target: outcome column to rename to `target`, with `target_se` and `target_n`; rows
            without it are left out.

    Raises:
        ConfigError: if the registry has no such outcome.

    Example:
        >>> table = checkpoint_table(store.checkpoints(), "value_at_budget/60steps@gsm8k")
        >>> table.frame["target"].tolist()
        [0.61]
    """
    import pandas as pd

    notes: list[str] = []
    columns: dict[str, list[Any]] = {}
    _add_facts(columns, stored)
    measured = _add_proxies(columns, stored, notes)
    after_rl = _add_outcomes(columns, stored, notes)
    keys = sorted(after_rl, key=_natural)
    frame = pd.DataFrame(columns)
    if "step" in frame:
        frame["step"] = frame["step"].astype("Int64")
    if target is not None:
        frame = _with_target(frame, target, keys, notes)
    return CheckpointTable(
        frame=frame,
        outcome_keys=tuple(keys),
        notes=tuple(notes),
        versions={name: _way_text(way) for name, way in (measured | after_rl).items()},
    )


def table_bytes(table: CheckpointTable, kind: str) -> bytes:
    """Return the table as a CSV, Parquet or JSON file (array of objects, null for empty cells)."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if kind == "json":
        cells = table.frame.astype(object)
        rows = cells.where(cells.notna(), None).to_dict("records")
        return (json.dumps(rows, ensure_ascii=False, allow_nan=False) + "\n").encode()
    arrow = pa.Table.from_pandas(table.frame, preserve_index=False)
    sink = io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(arrow, sink)
    else:
        pyarrow.csv.write_csv(arrow, sink)
    return sink.getvalue()


def write_table(table: CheckpointTable, path: Path, kind: str) -> None:
    """Write the table to a file, completely or not at all; raise ConfigError if that fails."""
    content = table_bytes(table, kind)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}", why=error.strerror or str(error)) from error


def beside(key: str, what: str) -> str:
    """Return the column beside a value's: `pass_at_1@gsm8k`, `se` give `pass_at_1_se@gsm8k`."""
    name, at, benchmark = key.partition("@")
    return f"{name}_{what}{at}{benchmark}"


def _add_facts(columns: dict[str, list[Any]], stored: Sequence[StoredCheckpoint]) -> None:
    checkpoints = [entry.checkpoint for entry in stored]
    columns["checkpoint_id"] = [c.id for c in checkpoints]
    columns["name"] = [c.name for c in checkpoints]
    columns["kind"] = [c.kind for c in checkpoints]
    columns["step"] = [c.step for c in checkpoints]
    columns["parents"] = [",".join(c.parents) for c in checkpoints]
    recipes = [{} if c.recipe is None else _flat(c.recipe) for c in checkpoints]
    for key in sorted({key for recipe in recipes for key in recipe}):
        columns[key] = _one_type([recipe.get(key) for recipe in recipes])


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's fields by column; lists as JSON."""
    columns: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        else:
            columns[name] = json.dumps(value) if isinstance(value, list | tuple) else value

    add("recipe", recipe.to_dict())
    return columns


def _one_type(values: list[Any]) -> list[Any]:
    """Return the values, as texts unless all are numbers, all booleans or all texts."""
    kinds = {float if type(value) is int else type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    return [None if value is None else str(value) for value in values]


def _add_proxies(
    columns: dict[str, list[Any]], stored: Sequence[StoredCheckpoint], notes: list[str]
) -> dict[str, Way]:
    """Add three columns per proxy, benchmark and way of measuring; return the way of each value.

    Columns of a benchmark are adjacent.
    """
    # One pass over all proxies, which may be millions. Everything after it works on the columns,
    # which are few.
    cells: dict[tuple[str, str, Way], list[tuple[int, float, float | None, int]]] = {}
    for row, entry in enumerate(stored):
        for p in entry.proxies:
            way = (p.benchmark_digest, p.protocol_digest, p.evaluator_version)
            cells.setdefault((p.benchmark, p.name, way), []).append(
                (row, p.value, p.se, p.n_problems)
            )
    names = _proxy_columns({key: len(rows) for key, rows in cells.items()}, notes)
    taken = set(names.values())
    for key in sorted(cells, key=lambda key: (key[0], _natural(key[1]), names[key])):
        value, se, n = ([math.nan] * len(stored) for _ in range(3))
        for row, number, error, count in cells[key]:
            value[row], n[row] = number, float(count)
            if error is not None:
                se[row] = error
        _put(columns, names[key], value, se, n, taken)
    return {name: key[2] for key, name in names.items()}


def _put(
    columns: dict[str, list[Any]],
    name: str,
    value: list[float],
    se: list[float],
    n: list[float],
    taken: Set[str],
) -> None:
    """Add a value's three columns, except `_se` and `_n` that are the name of another value."""
    columns[name] = value
    for what, numbers in (("se", se), ("n", n)):
        if beside(name, what) not in taken:
            columns[beside(name, what)] = numbers


def _proxy_columns(
    counts: Mapping[tuple[str, str, Way], int], notes: list[str]
) -> dict[tuple[str, str, Way], str]:
    """Return the column's name of each (benchmark, proxy, way of measuring).

    Content and protocol are chosen once for all proxies of a benchmark that have a protocol, and
    once for those without, so that plain columns side by side come from the same samples.
    """
    data: dict[tuple[str, bool], Counter[Way]] = {}
    for (benchmark, _, way), n in counts.items():
        # As many checkpoints have it as have its most frequent proxy.
        contents = data.setdefault((benchmark, way[1] is None), Counter())
        contents[way[:2]] = max(contents[way[:2]], n)
    main_data = {family: _most_common(ways) for family, ways in data.items()}
    versions: dict[tuple[str, str, Way], Counter[Way]] = {}
    for (benchmark, name, way), n in counts.items():
        versions.setdefault((benchmark, name, way[:2]), Counter())[way[2:]] += n
    names: dict[tuple[str, str, Way], str] = {}
    marked: dict[str, list[tuple[str, str, Way]]] = {}
    for key in counts:
        benchmark, name, way = key
        main = main_data[benchmark, way[1] is None]
        # The version that the plain column has; another content's column has it too if it can.
        plain = versions.get((benchmark, name, main)) or versions[benchmark, name, way[:2]]
        of_version = way[2:] == _most_common(plain)
        names[key] = f"{name}@{benchmark}"
        if way[:2] != main or not of_version:
            mark = "#" + digest(list(way[:2] if of_version else way))[:_MARK_DIGITS]
            names[key] += mark
            marked.setdefault(f"@{benchmark}{mark}", []).append(key)
    notes += [_proxy_note(ending, keys, counts) for ending, keys in marked.items()]
    return names


def _proxy_note(
    ending: str,
    keys: Sequence[tuple[str, str, Way]],
    counts: Mapping[tuple[str, str, Way], int],
) -> str:
    content, protocol, version = keys[0][2]
    measured = f"benchmark content {str(content)[:12]}"
    measured += "" if protocol is None else f", protocol {protocol[:12]}"
    return (
        f"columns ending {ending} were measured in another way than the plain ones: {measured}, "
        f"evaluator version {version} "
        f"({len(keys)} proxies, {_count(max(counts[key] for key in keys))})"
    )


def _way_text(way: Way) -> str:
    """Return how a number was measured, in words."""
    labels = ("RL", "benchmark", "protocol")[4 - len(way) :]
    parts = [f"{name} {id_[:16]}" for name, id_ in zip(labels, way[:-1], strict=True) if id_]
    return ", ".join(parts + ([f"evaluator {way[-1]}"] if way[-1] else []))


def _count(n: int) -> str:
    return "1 checkpoint" if n == 1 else f"{n} checkpoints"


def _add_outcomes(
    columns: dict[str, list[Any]], stored: Sequence[StoredCheckpoint], notes: list[str]
) -> dict[str, Way]:
    """Add three columns per outcome and way of doing RL; return the way of each value."""
    cells: dict[tuple[str, Way], dict[int, list[Outcome]]] = {}
    disputed: dict[int, set[tuple[str, Way]]] = {}
    disputes: list[str] = []
    for row, entry in enumerate(stored):
        for outcome in current(entry.outcomes):
            key = (outcome.key, variant(outcome))
            cells.setdefault(key, {}).setdefault(row, []).append(outcome)
        for conflict in conflicts(entry.outcomes):
            first = conflict.outcomes[0]
            disputed.setdefault(row, set()).add((first.key, variant(first)))
            disputes.append(f"left empty, conflict: {conflict}")
    notes += disputes[:_CONFLICTS_SHOWN]
    if len(disputes) > _CONFLICTS_SHOWN:
        n_more = len(disputes) - _CONFLICTS_SHOWN
        notes.append(f"{n_more} more conflicts: see the column `conflicts`")
    names = _outcome_columns(cells, notes)
    taken = set(names.values())
    for cell in sorted(cells, key=lambda cell: _natural(names[cell])):
        value, se, n = ([math.nan] * len(stored) for _ in range(3))
        for row, outcomes in cells[cell].items():
            if cell not in disputed.get(row, ()):
                value[row], se[row], n[row] = _over_seeds(outcomes)
        _put(columns, names[cell], value, se, n, taken)
    if disputed:
        columns["conflicts"] = [
            ",".join(sorted(names[cell] for cell in disputed.get(row, ())))
            for row in range(len(stored))
        ]
    return {name: cell[1] for cell, name in names.items()}


def _outcome_columns(
    cells: Mapping[tuple[str, Way], Mapping[int, Sequence[Outcome]]], notes: list[str]
) -> dict[tuple[str, Way], str]:
    """Return the column's name of each (outcome key, way of doing RL and measuring)."""
    # How RL was done is chosen once for a benchmark, so that plain columns of several budgets come
    # from the same RL; how it was measured is chosen for each column.
    rl: dict[str, Counter[Way]] = {}
    for (key, way), rows in cells.items():
        rl.setdefault(_benchmark(key), Counter())[way[:1]] += len(rows)
    main_rl = {benchmark: _most_common(rl_ways) for benchmark, rl_ways in rl.items()}
    ways: dict[str, Counter[Way]] = {}
    for (key, way), rows in cells.items():
        if way[:1] == main_rl[_benchmark(key)]:
            ways.setdefault(key, Counter())[way] += len(rows)
    names = {}
    marked: dict[str, list[tuple[str, Way]]] = {}
    for cell in cells:
        key, way = cell
        names[cell] = key
        if key not in ways or way != _most_common(ways[key]):
            mark = f"#{digest(list(way))[:_MARK_DIGITS]}"
            names[cell] += mark
            marked.setdefault(f"@{_benchmark(key)}{mark}", []).append(cell)
    notes += [_outcome_note(ending, group, cells) for ending, group in marked.items()]
    return names


def _benchmark(key: str) -> str:
    return key.partition("@")[2]


def _outcome_note(
    ending: str,
    group: Sequence[tuple[str, Way]],
    cells: Mapping[tuple[str, Way], Mapping[int, Sequence[Outcome]]],
) -> str:
    outcome = next(iter(cells[group[0]].values()))[0]
    facts = (
        ("benchmark content", outcome.benchmark_digest),
        ("protocol", outcome.protocol_digest),
        ("evaluator version", outcome.evaluator_version),
    )
    measured = ", ".join(f"{what} {value[:12] if value else 'unknown'}" for what, value in facts)
    return (
        f"outcome columns ending {ending} come from another RL or measurement than the plain ones: "
        f"{how_rl_was_done(outcome)}; {measured} ({_count(max(len(cells[c]) for c in group))})"
    )


def _over_seeds(outcomes: Sequence[Outcome]) -> tuple[float, float, float]:
    """Return mean, standard error (NaN if unknown) and number of RL seeds.

    Several outcomes of one seed are equal, else the cell would be in conflict; the last one counts.
    """
    by_seed = {outcome.seed: outcome for outcome in outcomes}
    values = [outcome.value for outcome in by_seed.values()]
    n = len(values)
    mean = math.fsum(values) / n
    errors = [outcome.se for outcome in by_seed.values() if outcome.se is not None]
    # All seeds were measured on the same problems, so more seeds do not lower this part.
    candidates = [math.fsum(errors) / n] if len(errors) == n else []
    if n > 1:
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        candidates.append(spread / math.sqrt(n))
    return mean, max(candidates, default=math.nan), float(n)


def _with_target(
    frame: pd.DataFrame, target: str, keys: Sequence[str], notes: list[str]
) -> pd.DataFrame:
    if target not in keys:
        existing = ", ".join(keys) or "none yet; `rlready outcome` records one"
        raise ConfigError(f"no outcome {target!r} in the registry", fix=f"It holds {existing}")
    new = {target: "target", beside(target, "se"): "target_se", beside(target, "n"): "target_n"}
    rows = frame.rename(columns=new).dropna(subset="target")
    if len(rows) < len(frame):
        n = _count(len(frame) - len(rows))
        notes.append(f"left out, as they have no {target}: {n}")
    return rows.reset_index(drop=True)


def _most_common(ways: Counter[Way]) -> Way:
    """Return the most frequent way; ties are broken by the way itself, whatever the order."""
    return max(ways, key=lambda way: (ways[way], [part or "" for part in way]))


def _natural(name: str) -> list[tuple[int, float, str]]:
    """Return a sort key by which pass_at_4 comes before pass_at_16."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]
