"""Show checkpoints, proxies and outcomes as text and tables in a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rlready.registry.outcomes import conflicts, current, how_rl_was_done
from rlready.registry.records import k_of
from rlready.workflow.evaluate.report import metrics_by_benchmark
from rlready.workflow.predict.outcome import outcome_dict
from rlready.workflow.terminal import table

if TYPE_CHECKING:
    from rich.table import Table

    from rlready.registry.outcomes import Outcome
    from rlready.registry.records import Proxy
    from rlready.registry.store import StoredCheckpoint
    from rlready.workflow.evaluate.report import Metrics
    from rlready.workflow.predict.outcome import OutcomeReport

SUMMARY = ("measured on", "pass@1", "pass@k", "loss")
"""Headings of the cells of `summary`."""

_FIXED_WIDTH = len("heldout_nll_per_sequence") + len("nats/sequence") + 7
"""Width of the columns `proxy` and `unit` with their borders."""
_VALUE_WIDTH = len("0.1234 ± 0.1234")
_COLUMN_MARGIN = 3
_LIST_WIDTH = 110
"""Smallest width of a terminal in which `list` shows all columns."""


def list_view(stored: Sequence[StoredCheckpoint], experiment: str, width: int) -> list[Any]:
    """Return a table with a row per checkpoint and its leading proxies.

    In a narrow terminal the columns "measured on" and "when" are left out, so that ids stay whole.
    """
    if not stored:
        return [f"experiment {experiment} holds no checkpoints; `rlready evaluate FOLDER` adds one"]
    rows = [
        [
            each.checkpoint.id[:12],
            each.checkpoint.name,
            each.checkpoint.kind,
            "" if each.checkpoint.step is None else str(each.checkpoint.step),
            *summary(metrics_by_benchmark(each.proxies), has_errors=False),
            _when(each.updated_ms),
        ]
        for each in stored
    ]
    title = f"{len(stored)} checkpoints in experiment {experiment}"
    headings = ["id", "name", "kind", "step", *SUMMARY, "when"]
    if width < _LIST_WIDTH:
        shown = [i for i, name in enumerate(headings) if name not in ("measured on", "when")]
        headings, rows = (
            [headings[i] for i in shown],
            [[row[i] for i in shown] for row in rows],
        )
    words = ("id", "name", "kind", "measured on", "when")
    return [table(title, headings, rows, words=words, unbroken=[*headings[:1], *headings[2:]])]


def checkpoint_view(stored: StoredCheckpoint, width: int) -> list[Any]:
    """Return everything that the registry knows about one checkpoint."""
    checkpoint = stored.checkpoint
    recipe = {} if checkpoint.recipe is None else checkpoint.recipe.to_dict()
    return [
        f"checkpoint {checkpoint.id}",
        f"kind {checkpoint.kind}"
        + ("" if checkpoint.step is None else f", step {checkpoint.step}"),
        f"weights {checkpoint.uri}",
        f"MLflow model {stored.model_id}, changed {_when(stored.updated_ms)}",
        *(f"parent {parent}" for parent in checkpoint.parents),
        *(f"recipe {key} = {value}" for key, value in recipe.items()),
        *proxy_tables(stored.proxies, checkpoint.name, width),
        *_outcome_parts(stored.outcomes, checkpoint.name),
    ]


def outcome_view(report: OutcomeReport) -> list[Any]:
    """Return the recorded outcomes, with notes on contradictions."""
    checkpoint = report.checkpoint.checkpoint
    return [
        *_outcome_parts(report.checkpoint.outcomes, checkpoint.name),
        *(
            f"outcome {outcome.id[:12]} of checkpoint {checkpoint.id[:12]} ({checkpoint.name}): "
            f"{'logged' if stored.is_new else 'already stored, nothing new'}; run {stored.run_id}"
            for outcome, stored in report.outcomes
        ),
        *(f"note: {warning}" for warning in report.warnings),
    ]


def _outcome_parts(outcomes: Sequence[Outcome], title: str) -> list[Any]:
    """Return the current outcomes as a table, and a line for each contradiction."""
    if not outcomes:
        return []
    contradictions = conflicts(outcomes)
    marked = {outcome.id for conflict in contradictions for outcome in conflict.outcomes}
    rows = [
        [
            outcome.id[:12],
            outcome.key,
            with_error(outcome.value, outcome.se) + (" !" if outcome.id in marked else ""),
            "" if outcome.seed is None else str(outcome.seed),
            how_rl_was_done(outcome),
        ]
        for outcome in current(outcomes)
    ]
    headings = ("id", "outcome", "value", "RL seed", "RL")
    return [
        table(
            f"{title} after RL",
            headings,
            rows,
            caption="value ± standard error over problems",
            words=("id", "outcome", "RL"),
            unbroken=headings[:-1],
        ),
        *(
            f"CONFLICT: {conflict}. Both are kept, and `rlready table` averages neither. Give each "
            "RL run its --seed, or correct one with --replaces ID"
            for conflict in contradictions
        ),
    ]


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

    Sampled benchmarks and held-out sets have different proxies, so they get separate tables. A
    table is wider than `width` characters only if a single column is too wide.
    """
    # Measurements of a proxy with another benchmark version, protocol or precision share a cell,
    # which shows the newest of them.
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
    rows = []
    for name in dict.fromkeys(name for benchmark, name in cells if benchmark in benchmarks):
        proxies = [cells.get((benchmark, name)) for benchmark in benchmarks]
        unit = next(proxy.unit for proxy in proxies if proxy is not None)
        rows.append(
            [name, *("" if p is None else with_error(p.value, p.se) for p in proxies), unit]
        )
    has_errors = any(p.se is not None for (b, _), p in cells.items() if b in benchmarks)
    return table(
        title,
        ["proxy", *benchmarks, "unit"],
        rows,
        caption=f"value ± standard error over {what}" if has_errors else "value",
        words=("proxy", "unit"),
        unbroken=("proxy", "unit"),
    )


def _fitting(benchmarks: Sequence[str], width: int) -> Iterator[list[str]]:
    """Yield the benchmarks in groups whose columns fit side by side."""
    group: list[str] = []
    space = width
    for benchmark in benchmarks:
        needed = max(len(benchmark), _VALUE_WIDTH) + _COLUMN_MARGIN
        if group and needed > space:
            yield group
            group, space = [], width
        group.append(benchmark)
        space -= needed
    if group:
        yield group


def summary(metrics: Metrics, *, has_errors: bool = True) -> list[str]:
    """Return benchmark, pass@1, pass@k of the largest k, and loss of a checkpoint, as cells."""
    # The suite's mean comes after its benchmarks. A single benchmark is its own summary.
    benchmark = next((name for name in reversed(list(metrics)) if any(map(_k, metrics[name]))), "")
    proxies = metrics.get(benchmark, {})
    largest = max(filter(_k, proxies), key=_k, default="")
    losses = [each["heldout_nll"] for each in metrics.values() if "heldout_nll" in each]

    def cell(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
        if entry is None:
            return ""
        if has_errors:
            return with_error(entry["value"], entry["se"])
        return f"{entry['value']:.{digits}f}"

    return [
        benchmark,
        cell(proxies.get("pass_at_1") or proxies.get("pass_at_1_est")),
        f"@{_k(largest)} {cell(proxies[largest])}" if _k(largest) > 1 else "",
        cell(losses[-1] if losses else None, digits=4),
    ]


def _k(name: str) -> int:
    """Return the k of a pass@k, measured or estimated; 0 for any other proxy."""
    return k_of(name.removesuffix("_est")) or 0


def with_error(value: float, se: float | None) -> str:
    """Return a value with its standard error, if it has one."""
    digits = 1 if abs(value) >= 100 else 4
    return f"{value:.{digits}f}" + ("" if se is None else f" ± {se:.{digits}f}")


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")
