"""The sub-command `testbed`: a small real world, from SFT recipes to true outcomes of GRPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlready.workflow.cli.options import (
    FILE,
    SEED,
    console,
    open_store,
    print_view,
    registry_options,
)
from rlready.workflow.terminal import echo

if TYPE_CHECKING:
    from rlready.testbed.study.summary import Summary
    from rlready.workflow.progress import Clock


@click.command()
@click.option(
    "--profile",
    default="small",
    show_default=True,
    help="smoke (3 checkpoints, seconds), small (12, minutes), full (48 x 2 RL seeds, an hour), "
    "or long (24, 240 GRPO steps).",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processes that share the work, one core and 0.7 GB each.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Of the choice of recipes.",
)
@click.option(
    "--out",
    type=FILE,
    default="",
    metavar="DIR",
    help="Where checkpoints, curves, table and pictures go.  [default: testbed-PROFILE]",
)
@registry_options
def testbed(
    profile: str,
    jobs: int,
    seed: int,
    out: Path | None,
    experiment: str,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Run the testbed: base, SFT recipes, GRPO, and what they say about the proxies.

    Everything happens for real on tiny models: each recipe is trained, measured and put through
    GRPO, and all of it goes into the registry with its lineage and outcomes. A killed or repeated
    call goes on where the last one stopped.
    """
    from rlready.workflow.cli.testbed_view import summary_view
    from rlready.workflow.progress import Clock

    clock = Clock(None if as_json else console())
    folder = out or Path(f"testbed-{profile}")
    summary, files = _run(profile, jobs, seed, folder, experiment, tracking_uri, clock)
    if as_json:
        echo(json.dumps({**summary.to_dict(), "files": [str(path) for path in files]}))
        return
    print_view(summary_view(summary))
    for path in files:
        echo(path)
    echo(open_store(tracking_uri, experiment).ui_hint())


def _run(
    profile: str,
    jobs: int,
    seed: int,
    out: Path,
    experiment: str,
    tracking_uri: str | None,
    clock: Clock,
) -> tuple[Summary, list[Path]]:
    from rlready.registry.table import checkpoint_table, write_table
    from rlready.testbed.study.design import make_design
    from rlready.testbed.study.figures import draw_figures
    from rlready.testbed.study.run import base_checkpoint, collect, make, register
    from rlready.testbed.study.summary import summarize

    design = make_design(profile, seed, jobs)
    store = open_store(tracking_uri, experiment)
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
