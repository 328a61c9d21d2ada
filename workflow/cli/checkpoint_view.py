"""Checkpoints, proxies and outcomes as text and tables for a terminal."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rlready.registry.outcomes import conflicts, current, how_rl_was_done
from rlready.workflow.predict.outcome import outcome_dict

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from rlready.registry.outcomes import Outcome
    from rlready.registry.records import Proxy
    from rlready.registry.store import StoredCheckpoint
    from rlready.workflow.predict.outcome import OutcomeReport


def list_view(stored: Sequence[StoredCheckpoint], experiment: str) -> RenderableType:
    """Return a table with a row per checkpoint and its leading proxies."""
    from rich.table import Table

    if not stored:
        return plain(
            f"experiment {experiment} holds no checkpoints; `rlready evaluate FOLDER` adds one"
        )
    table = Table(title=f"{len(stored)} checkpoints in experiment {experiment}")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    for entry in stored:
        table.add_row(*(plain(cell) for cell in _list_row(entry)))
    return table


def checkpoint_view(stored: StoredCheckpoint, width: int) -> RenderableType:
    """Return everything that the registry knows about one checkpoint."""
    from rich.console import Group

    checkpoint = stored.checkpoint
    facts = [
        f"checkpoint {checkpoint.id}",
        f"kind {checkpoint.kind}"
        + ("" if checkpoint.step is None else f", step {checkpoint.step}"),
        f"weights {checkpoint.uri}",
        f"MLflow model {stored.model_id}, changed {_when(stored.updated_ms)}",
        *(f"parent {parent}" for parent in checkpoint.parents),
    ]
    if checkpoint.recipe is not None:
        facts += [f"recipe {key} = {value}" for key, value in checkpoint.recipe.to_dict().items()]
    return Group(
        *map(plain, facts),
        *proxy_tables(stored.proxies, checkpoint.name, width),
        *outcome_blocks(stored.outcomes, checkpoint.name),
    )


def outcome_view(report: OutcomeReport, width: int) -> RenderableType:
    """Return what was recorded after RL, with notes on contradictions."""
    from rich.console import Group

    checkpoint = report.checkpoint.checkpoint
    lines = [
        f"outcome {outcome.id[:12]} of checkpoint {checkpoint.id[:12]} ({checkpoint.name}): "
        f"{'logged' if put.is_new else 'was there already, nothing new'}; run {put.run_id}"
        for outcome, put in report.outcomes
    ]
    notes = [f"note: {warning}" for warning in report.warnings]
    blocks = outcome_blocks(report.checkpoint.outcomes, checkpoint.name)
    return Group(*blocks, *map(plain, (*lines, *notes)))


def outcome_blocks(outcomes: Sequence[Outcome], title: str) -> list[RenderableType]:
    """Return the current outcomes as a table, and a line for each contradiction."""
    from rich.table import Table
    from rich.text import Text

    if not outcomes:
        return []
    table = Table(title=Text(f"{title} after RL"), caption="value ± standard error over problems")
    table.add_column("id", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for heading in ("value", "RL seed"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("RL")
    disputed = conflicts(outcomes)
    marked = {outcome.id for conflict in disputed for outcome in conflict.outcomes}
    for outcome in current(outcomes):
        row = [
            outcome.id[:12],
            outcome.key,
            with_error(outcome) + (" !" if outcome.id in marked else ""),
            "" if outcome.seed is None else str(outcome.seed),
            how_rl_was_done(outcome),
        ]
        table.add_row(*map(plain, row))
    lines = [
        f"CONFLICT: {conflict}. Both are kept, and `rlready table` averages neither. Give each RL "
        "run its --seed, or correct one with --replaces ID"
        for conflict in disputed
    ]
    return [table, *map(plain, lines)]


def checkpoint_dict(stored: StoredCheckpoint) -> dict[str, Any]:
    """Return a checkpoint as JSON values."""
    checkpoint = stored.checkpoint
    return {
        "checkpoint_id": checkpoint.id,
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "step": checkpoint.step,
        "uri": checkpoint.uri,
        "parents": list(checkpoint.parents),
        "recipe": None if checkpoint.recipe is None else checkpoint.recipe.to_dict(),
        "model_id": stored.model_id,
        "updated_ms": stored.updated_ms,
        "proxies": [dataclasses.asdict(proxy) for proxy in stored.proxies],
        "outcomes": [outcome_dict(outcome) for outcome in stored.outcomes],
        "conflicts": [[o.id for o in each.outcomes] for each in conflicts(stored.outcomes)],
    }


def proxy_tables(proxies: Sequence[Proxy], title: str, width: int) -> list[Table]:
    """Return proxies as tables: a row per proxy, a column per benchmark.

    Sampled benchmarks and held-out sets have different proxies, so they get tables of their own.
    A table is wider than `width` characters only if a single column is.
    """
    # Two measurements of the same proxy on another version of a benchmark, under another protocol
    # or in another precision share a cell: the newest is shown.
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    benchmarks = list(dict.fromkeys(proxy.benchmark for proxy in proxies))
    heldout = [b for b in benchmarks if (b, "heldout_nll") in cells]
    sampled = [b for b in benchmarks if b not in heldout]
    return [
        _proxy_table(cells, columns, title, what)
        for family, what in ((sampled, "problems"), (heldout, "examples"))
        for columns in _fitting(family, width - _FIXED_WIDTH)
    ]


def _proxy_table(
    cells: Mapping[tuple[str, str], Proxy], benchmarks: Sequence[str], title: str, what: str
) -> Table:
    """Return one table; `what` names the units of the standard errors: problems or examples."""
    from rich.table import Table
    from rich.text import Text

    has_errors = any(p.se is not None for (b, _), p in cells.items() if b in benchmarks)
    caption = f"value ± standard error over {what}" if has_errors else "value"
    table = Table(title=Text(title), caption=caption)
    table.add_column("proxy", no_wrap=True)
    for benchmark in benchmarks:
        table.add_column(Text(benchmark), justify="right")
    table.add_column("unit", no_wrap=True)
    for name in dict.fromkeys(name for benchmark, name in cells if benchmark in benchmarks):
        row = [cells.get((benchmark, name)) for benchmark in benchmarks]
        unit = next(proxy.unit for proxy in row if proxy is not None)
        table.add_row(name, *("" if proxy is None else with_error(proxy) for proxy in row), unit)
    return table


def _fitting(benchmarks: Sequence[str], width: int) -> Iterator[list[str]]:
    """Yield the benchmarks in groups whose columns fit side by side."""
    run: list[str] = []
    left = width
    for benchmark in benchmarks:
        needed = max(len(benchmark), _VALUE_WIDTH) + _COLUMN_MARGIN
        if run and needed > left:
            yield run
            run, left = [], width
        run.append(benchmark)
        left -= needed
    if run:
        yield run


_FIXED_WIDTH = len("heldout_nll_per_sequence") + len("nats/sequence") + 7
"""Columns `proxy` and `unit` with their borders."""
_VALUE_WIDTH = len("0.1234 ± 0.1234")
_COLUMN_MARGIN = 3

_COLUMNS = ("id", "name", "kind", "step", "measured on", "pass@1", "pass@k", "loss", "when")
_NUMBERS = ("step", "pass@1", "pass@k", "loss")


def _list_row(stored: StoredCheckpoint) -> list[str]:
    checkpoint = stored.checkpoint
    sampled = [p for p in stored.proxies if re.fullmatch(r"pass_at_\d+", p.name)]
    # The suite's mean stands after its benchmarks; a lone benchmark is its own summary.
    benchmark = sampled[-1].benchmark if sampled else ""
    own = {p.name: p for p in sampled if p.benchmark == benchmark}
    largest = max((int(name.removeprefix("pass_at_")) for name in own), default=1)
    losses = [p for p in stored.proxies if p.name == "heldout_nll"]
    return [
        checkpoint.id[:12],
        checkpoint.name,
        checkpoint.kind,
        "" if checkpoint.step is None else str(checkpoint.step),
        benchmark,
        f"{own['pass_at_1'].value:.3f}" if "pass_at_1" in own else "",
        f"@{largest} {own[f'pass_at_{largest}'].value:.3f}" if largest > 1 else "",
        f"{losses[-1].value:.4f}" if losses else "",
        _when(stored.updated_ms),
    ]


def with_error(number: Proxy | Outcome) -> str:
    """Return a value with its standard error, if it has one."""
    digits = 1 if abs(number.value) >= 100 else 4
    if number.se is None:
        return f"{number.value:.{digits}f}"
    return f"{number.value:.{digits}f} ± {number.se:.{digits}f}"


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")


def plain(text: str) -> RenderableType:
    """Return text without markup: names come from files, and rich would read `[red]` in them."""
    from rich.text import Text

    return Text(text)
