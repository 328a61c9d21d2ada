"""The description on a checkpoint's page in MLflow: proxies and outcomes with their errors.

MLflow's own list of metrics has a row for each number, so a value, its error and the same proxy on
another benchmark stand far apart. The description is plain Markdown in a tag that MLflow shows; it
is written anew with every evaluation and outcome unless a person has put another text in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlready.registry.outcomes import Outcome, conflicts, current, how_rl_was_done
from rlready.registry.records import Checkpoint, Proxy

NOTE = "mlflow.note.content"
"""MLflow's tag for a description."""

_SIGNATURE = "Written by rlready at each evaluation; edit this line away to keep your own text."
_MAX_CHARACTERS = 8000
_MAX_COLUMNS = 4
"""Benchmarks side by side; more do not fit the page."""


def description(
    checkpoint: Checkpoint, proxies: Sequence[Proxy], outcomes: Sequence[Outcome] = ()
) -> str:
    """Markdown that shows a checkpoint's proxies and outcomes, value ± standard error."""
    # The newest of two measurements under different protocols is the last.
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    by_names: dict[tuple[str, ...], list[str]] = {}
    for benchmark in dict.fromkeys(proxy.benchmark for proxy in proxies):
        names = tuple(name for other, name in cells if other == benchmark)
        by_names.setdefault(names, []).append(benchmark)
    blocks = [
        _table(names, benchmarks[start : start + _MAX_COLUMNS], cells)
        for names, benchmarks in by_names.items()
        for start in range(0, len(benchmarks), _MAX_COLUMNS)
    ]
    if outcomes:
        blocks.insert(0, _after_rl(outcomes))
    if checkpoint.recipe is not None:
        recipe = checkpoint.recipe.to_dict()
        blocks.append("\n".join(["recipe", *(f"  {key} = {recipe[key]}" for key in recipe)]))
    text = f"{_SIGNATURE} Value ± standard error over problems."
    for block in blocks:
        # Nothing inside can end the block early: names may come from files of others.
        addition = "\n\n```text\n" + block.replace("`", "'") + "\n```"
        if len(text) + len(addition) > _MAX_CHARACTERS:
            return text + "\n\nMore in `rlready show`."
        text += addition
    return text


def note_tag(
    checkpoint: Checkpoint,
    proxies: Sequence[Proxy],
    present: str | None,
    outcomes: Sequence[Outcome] = (),
) -> Mapping[str, str]:
    """The tag that sets the description; nothing if a person wrote the present one."""
    if present and not present.startswith(_SIGNATURE):
        return {}
    return {NOTE: description(checkpoint, proxies, outcomes)}


def _after_rl(outcomes: Sequence[Outcome]) -> str:
    """The outcomes, a line each, and what contradicts what."""
    rows = [["after RL", "value", "seed", "RL"]]
    rows += [
        [o.key, _value(o), "" if o.seed is None else str(o.seed), how_rl_was_done(o)[:60]]
        for o in current(outcomes)
    ]
    contradictions = [f"CONFLICT: {conflict}" for conflict in conflicts(outcomes)]
    return "\n".join([_aligned(rows), *contradictions])


def _table(
    names: Sequence[str], benchmarks: Sequence[str], cells: Mapping[tuple[str, str], Proxy]
) -> str:
    rows = [["", *benchmarks, "unit"]]
    for name in names:
        found = [cells[benchmark, name] for benchmark in benchmarks]
        rows.append([name, *map(_value, found), found[0].unit])
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, those between the first and the last set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < i < len(row) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _value(number: Proxy | Outcome) -> str:
    digits = 1 if abs(number.value) >= 100 else 4
    error = "" if number.se is None else f" ± {number.se:.{digits}f}"
    return f"{number.value:.{digits}f}{error}"
