"""How checkpoints, proxies and outcomes read in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rlready.registry.outcomes import conflicts, current, how_rl_was_done

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from rlready.registry.outcomes import Outcome
    from rlready.registry.records import Proxy
    from rlready.registry.store import StoredCheckpoint
    from rlready.workflow.evaluate.report import Report
    from rlready.workflow.predict.outcome import OutcomeReport


def evaluation_view(report: Report, width: int) -> RenderableType:
    """Proxies of one evaluation, what the samples came to, and where it went."""
    from rich.console import Group

    checkpoint = report.evaluation.checkpoint
    verdicts = [
        f"{benchmark}: " + ", ".join(f"{n:,} {verdict}" for verdict, n in counts.items() if n)
        for benchmark, counts in report.verdicts.items()
    ]
    state = "logged" if report.stored.is_new else "was there already, nothing new"
    lines = [
        f"samples: {report.n_drawn:,} drawn now, {report.n_found:,} found",
        *verdicts,
        *_gap_lines(report.evaluation.proxies),
        *_bounds_lines(report.bounds),
        *(_stage_line(name, stage) for name, stage in report.stages.items()),
        f"checkpoint {checkpoint.id[:12]} ({checkpoint.name}): {state}; "
        f"model {report.stored.model_id}, run {report.stored.run_id}",
    ]
    tables = proxy_tables(report.evaluation.proxies, checkpoint.name, width)
    return Group(*tables, *map(_plain, lines))


def _gap_lines(proxies: Sequence[Proxy]) -> Iterator[str]:
    """Strict and lenient pass@1 and the format gap of each benchmark, where they differ."""
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    for (benchmark, name), gap in cells.items():
        strict = cells.get((benchmark, "pass_at_1"))
        lenient = cells.get((benchmark, "lenient_pass_at_1"))
        if name == "format_gap" and gap.value and strict and lenient:
            yield (
                f"{benchmark}: pass@1 is {_value(strict)} in the answer format asked for and "
                f"{_value(lenient)} with the answer wherever it stands; format gap {_value(gap)}"
            )


def _bounds_lines(
    bounds: Mapping[str, Mapping[str, Mapping[str, float | int]]],
) -> Iterator[str]:
    """Between what a pass@k lies, whatever the UNSCORED samples are."""
    for benchmark, own in bounds.items():
        for name, ends in own.items():
            n = int(ends["n_left_out"])
            left_out = f"; leaves {n} problem{'s' if n > 1 else ''} out" if n else ""
            yield (
                f"{benchmark}: {name} of all problems is {ends['lower']:.4f} if every unscored "
                f"sample is wrong, {ends['upper']:.4f} if every one is right{left_out}"
            )


def list_view(stored: Sequence[StoredCheckpoint], experiment: str) -> RenderableType:
    """One line a checkpoint, with its leading proxies."""
    from rich.table import Table

    if not stored:
        return _plain(
            f"experiment {experiment} holds no checkpoints; `rlready evaluate FOLDER` adds one"
        )
    table = Table(title=f"{len(stored)} checkpoints in experiment {experiment}")
    for heading in (
        "id",
        "name",
        "kind",
        "step",
        "measured on",
        "pass@1",
        "pass@k",
        "loss",
        "when",
    ):
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    for entry in stored:
        table.add_row(*(_plain(cell) for cell in _list_row(entry)))
    return table


def checkpoint_view(stored: StoredCheckpoint, width: int) -> RenderableType:
    """Everything known about one checkpoint."""
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
        *map(_plain, facts),
        *proxy_tables(stored.proxies, checkpoint.name, width),
        *outcome_blocks(stored.outcomes, checkpoint.name),
    )


def outcome_view(report: OutcomeReport, width: int) -> RenderableType:
    """What was recorded after RL, and what it contradicts."""
    from rich.console import Group

    checkpoint = report.checkpoint.checkpoint
    lines = [
        f"outcome {outcome.id[:12]} of checkpoint {checkpoint.id[:12]} ({checkpoint.name}): "
        f"{'logged' if put.is_new else 'was there already, nothing new'}; run {put.run_id}"
        for outcome, put in report.outcomes
    ]
    notes = [f"note: {warning}" for warning in report.warnings]
    blocks = outcome_blocks(report.checkpoint.outcomes, checkpoint.name)
    return Group(*blocks, *map(_plain, (*lines, *notes)))


def outcome_blocks(outcomes: Sequence[Outcome], title: str) -> list[RenderableType]:
    """The outcomes that hold as a table, and a line for each contradiction."""
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
            _value(outcome) + (" !" if outcome.id in marked else ""),
            "" if outcome.seed is None else str(outcome.seed),
            how_rl_was_done(outcome),
        ]
        table.add_row(*map(_plain, row))
    lines = [
        f"CONFLICT: {conflict}. Both are kept, and `rlready table` averages neither. Give each RL "
        "run its --seed, or correct one with --replaces ID"
        for conflict in disputed
    ]
    return [table, *map(_plain, lines)]


def checkpoint_dict(stored: StoredCheckpoint) -> dict[str, Any]:
    """The checkpoint as JSON values."""
    import dataclasses

    from rlready.workflow.predict.outcome import outcome_dict

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
        "conflicts": [[o.id for o in found.outcomes] for found in conflicts(stored.outcomes)],
    }


def proxy_tables(proxies: Sequence[Proxy], title: str, width: int) -> list[Table]:
    """Proxies as tables: a row a proxy, a column a benchmark, value and standard error.

    Benchmarks that were sampled and held-out sets share no rows, so they share no table; and no
    table is wider than `width` characters unless one column is.
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
    """One table; `what` is what the standard errors are over: problems or examples."""
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
        table.add_row(name, *("" if proxy is None else _value(proxy) for proxy in row), unit)
    return table


def _fitting(benchmarks: Sequence[str], width: int) -> Iterator[list[str]]:
    """The benchmarks in runs whose columns fit side by side."""
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


def _value(number: Proxy | Outcome) -> str:
    digits = 1 if abs(number.value) >= 100 else 4
    if number.se is None:
        return f"{number.value:.{digits}f}"
    return f"{number.value:.{digits}f} ± {number.se:.{digits}f}"


def _stage_line(name: str, stage: Any) -> str:
    rate = f", {stage['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in stage else ""
    per_s = f", {stage['per_s']:,.1f}/s" if "per_s" in stage and name != "logging" else ""
    beside = f" and {stage['beside_seconds']:.1f} s beside" if "beside_seconds" in stage else ""
    return f"{name}: {stage['seconds']:.1f} s{beside}{per_s}{rate}"


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")


def _plain(text: str) -> RenderableType:
    # Names come from files: rich would read `[red]` in them as markup.
    from rich.text import Text

    return Text(text)
