"""How the summary of a testbed run reads in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlready.testbed.study.summary import POST_SFT_PASS_AT_1, Ranked, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_FLIPS = 5


def summary_view(summary: Summary) -> RenderableType:
    """Facts of the run, the proxies against the outcome, and the pairs that flip."""
    from rich.console import Group
    from rich.text import Text

    tables = [_ranking(summary.ranked, "all checkpoints")] if summary.ranked else []
    if summary.facts["n_collapsed"] and summary.ranked_without_collapsed:
        tables.append(_ranking(summary.ranked_without_collapsed, "without the collapsed ones"))
    flips = [
        f"  {first}  is ahead after SFT, behind  {second}  after RL"
        for first, second in summary.flips[:_SHOWN_FLIPS]
    ]
    lines = [*_facts(summary.facts), *flips]
    return Group(*tables, *(Text(line) for line in lines))


def _ranking(ranked: Sequence[Ranked], which: str) -> Any:
    from rich.table import Table

    title = f"Spearman with pass@1 after RL, {which}"
    table = Table(title=title, caption="a minus: lower is better; * practice to beat")
    for heading in ("proxy", "Spearman", "95 % interval", "minus pass@1's", "95 %", "pairs right"):
        table.add_column(heading, justify="left" if heading == "proxy" else "right", no_wrap=True)
    for row in ranked:
        table.add_row(
            f"{row.proxy} *" if row.proxy == POST_SFT_PASS_AT_1 else row.proxy,
            f"{row.spearman:.3f}",
            _interval(row.interval),
            f"{row.difference:+.3f}",
            _interval(row.difference_interval),
            f"{row.pairs_right:.3f}",
        )
    return table


def _interval(interval: tuple[float, float] | None) -> str:
    return "too few" if interval is None else f"{interval[0]:.2f} .. {interval[1]:.2f}"


def _facts(facts: dict[str, Any] | Any) -> list[str]:
    low, high = facts["post_rl_range"]
    lines = [
        f"{facts['n_checkpoints']} checkpoints, {facts['rl_steps']} GRPO steps, "
        f"{facts['n_rl_seeds']} RL seeds; base pass@1 {facts['base_pass_at_1']:.3f}",
        f"after RL: {low:.3f} to {high:.3f}, sd between checkpoints "
        f"{facts['sd_between_checkpoints']:.4f}; {facts['n_collapsed']} had collapsed before it",
    ]
    if facts["share_raised_by_rl"] is not None:
        lines.append(f"GRPO raised {facts['share_raised_by_rl']:.0%} of the others")
    if facts["rl_seed_sd"] is not None:
        lines.append(
            f"ceiling from RL seeds: sd {facts['rl_seed_sd']:.4f}, Spearman between seeds "
            f"{facts['rl_seed_spearman']:.3f}"
        )
    lines.append(
        f"pairs that flip between SFT and RL by more than 2 standard errors: "
        f"{facts['n_flips']} of {facts['n_pairs']}"
    )
    return lines
