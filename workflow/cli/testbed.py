"""The sub-command `testbed`: a small real world, from SFT recipes to true outcomes of GRPO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from rlready.workflow.flags import CommonFlags, Flag, Seed, command
from rlready.workflow.progress import Clock
from rlready.workflow.terminal import console, echo, print_view

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlready.testbed.study.summary import Ranked, Summary

_SHOWN_FLIPS = 5


@command
def run_testbed(
    *,
    profile: str = "small",
    jobs: Annotated[int, click.IntRange(min=1)] = 2,
    seed: Seed = 0,
    out: Annotated[Path | None, Flag(metavar="DIR")] = None,
    common: CommonFlags,
) -> None:
    """Run the testbed: base model, SFT recipes, GRPO, and how well the proxies predict.

    Everything is real, on tiny models: each recipe is trained, measured and put through GRPO, and
    all of it goes into the registry with its lineage and outcomes. A killed or repeated call
    continues where the last one stopped.

    Args:
        profile: smoke (3 checkpoints, seconds), small (12, minutes), full (48 x 2 RL seeds, an
            hour), or long (24, 240 GRPO steps).
        jobs: Processes that share the work, one core and 0.7 GB each.
        seed: Seed of the choice of recipes.
        out: Folder for checkpoints, curves, table and figures.  [default: testbed-PROFILE]
        common: The registry and the form of the output.
    """
    clock = Clock(None if common.as_json else console(stderr=True))
    summary, files = _run(profile, jobs, seed, out or Path(f"testbed-{profile}"), common, clock)
    if common.as_json:
        echo(json.dumps({**summary.to_dict(), "files": [str(path) for path in files]}))
        return
    print_view(summary_view(summary))
    for path in files:
        echo(path)
    echo(common.open_store().ui_hint())


def _run(
    profile: str, n_jobs: int, seed: int, out: Path, common: CommonFlags, clock: Clock
) -> tuple[Summary, list[Path]]:
    # Their libraries are heavy.
    from rlready.registry.table import checkpoint_table, write_table
    from rlready.testbed.study.design import make_design
    from rlready.testbed.study.figures import draw_figures
    from rlready.testbed.study.run import base_checkpoint, collect, make, register
    from rlready.testbed.study.summary import summarize

    design = make_design(profile, seed, n_jobs)
    store = common.open_store()
    store.check(base_checkpoint())
    make(out, design, clock)
    made = collect(out, design)
    register(out, design, made, store, clock)
    ids = {entry.checkpoint.id for entry in made}
    table = checkpoint_table([s for s in store.checkpoints() if s.checkpoint.id in ids])
    write_table(table, out / "table.csv", "csv")
    for note in table.notes:
        clock.say(note)
    summary = summarize(out, design, made)
    text = json.dumps(summary.to_dict(), indent=1)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    figures = draw_figures(out, design, made, summary)
    return summary, [out / "table.csv", out / "summary.json", *figures]


def summary_view(summary: Summary) -> RenderableType:
    """Return facts of the run, the proxies against the outcome, and the pairs that flip."""
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

    from rlready.predictors.validation.report import PRACTICE

    title = f"Spearman with pass@1 after RL, {which}"
    table = Table(title=title, caption="a minus: lower is better; * practice to beat")
    for heading in ("proxy", "Spearman", "95 % interval", "minus pass@1's", "95 %", "pairs right"):
        table.add_column(heading, justify="left" if heading == "proxy" else "right", no_wrap=True)
    for row in ranked:
        table.add_row(
            f"{row.proxy} *" if row.proxy == PRACTICE else row.proxy,
            f"{row.spearman:.3f}",
            _interval(row.interval),
            f"{row.difference:+.3f}",
            _interval(row.difference_interval),
            f"{row.pairs_right:.3f}",
        )
    return table


def _interval(interval: tuple[float, float] | None) -> str:
    return "too few" if interval is None else f"{interval[0]:.2f} .. {interval[1]:.2f}"


def _facts(facts: Mapping[str, Any]) -> list[str]:
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
