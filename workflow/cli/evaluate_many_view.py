"""How evaluations of several checkpoints read in a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlready.workflow.evaluate.many import Results

_COLUMNS = ("id", "name", "measured on", "pass@1", "pass@k", "loss", "drawn", "found", "state")
_NUMBERS = ("pass@1", "pass@k", "loss", "drawn", "found")


def evaluations_view(results: Results) -> RenderableType:
    """A row a checkpoint, in the order asked for, and what became of the others."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    n_all = len(results.evaluations) + len(results.failed)
    table = Table(
        title=f"{len(results.evaluations)} of {n_all} checkpoints measured",
        caption="value ± standard error over problems (of the loss: over examples)",
    )
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    for report in results.evaluations:
        table.add_row(*map(Text, _row(report)))
    warnings = [
        Text(f"note: {report['name']}: {warning}")
        for report in results.evaluations
        for warning in report["warnings"]
    ]
    return Group(*([table] if results.evaluations else []), *warnings)


def _row(report: Mapping[str, Any]) -> list[str]:
    metrics = report["metrics"]
    # The suite's mean stands after its benchmarks; a lone benchmark is its own summary.
    sampled = [name for name, own in metrics.items() if any(map(_k, own))]
    own = metrics[sampled[-1]] if sampled else {}
    largest = max(filter(_k, own), key=_k, default="")
    losses = [own["heldout_nll"] for own in metrics.values() if "heldout_nll" in own]
    return [
        report["checkpoint_id"][:12],
        report["name"],
        sampled[-1] if sampled else "",
        _value(own.get("pass_at_1") or own.get("pass_at_1_est")),
        f"@{_k(largest)} {_value(own[largest])}" if largest and _k(largest) > 1 else "",
        _value(losses[0] if losses else None),
        f"{report['samples']['drawn']:,}",
        f"{report['samples']['found']:,}",
        "logged" if report["is_new"] else "was there",
    ]


def _k(name: str) -> int:
    """The k of a pass@k, measured or estimated; 0 for any other proxy."""
    found = re.fullmatch(r"pass_at_(\d+)(_est)?", name)
    return int(found[1]) if found else 0


def _value(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    se = "" if entry["se"] is None else f" ± {entry['se']:.4f}"
    return f"{entry['value']:.4f}{se}"
