"""The command that makes the demo's checkpoint: `python -m rlready.testbed.demo --out DIR`.

`demo_folder.py` says what is written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from rlready.registry.errors import RlreadyError
from rlready.testbed.demo_folder import Demo, DemoSettings, find_demo, make_demo

EXIT_USAGE = 2
QUICK = {"n_steps": 60, "n_unique": 1_000, "n_problems": 20, "n_heldout": 40}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to make. It must not exist, be empty, or hold this very demo.",
)
@click.option("--seed", default=0, show_default=True, help="Of weights, examples and batches.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help=f"Optimizer steps.  [default: {DemoSettings.n_steps}; quick: {QUICK['n_steps']}]",
)
@click.option("--quick", is_flag=True, help="In a few seconds: everything there, nothing learnt.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def main(*, out: Path, seed: int, steps: int | None, quick: bool, as_json: bool) -> None:
    """Train the demo's checkpoint and write its benchmarks, about a minute on one core."""
    given = {"seed": seed, **(QUICK if quick else {}), **({"n_steps": steps} if steps else {})}
    try:
        demo = _made(out, DemoSettings(**given))
    except RlreadyError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(EXIT_USAGE) from None
    click.echo(json.dumps(demo.to_dict(), indent=2) if as_json else _told(demo))


def _made(out: Path, settings: DemoSettings) -> Demo:
    # Looked for before torch is imported, so that a rerun answers at once.
    found = find_demo(out, settings)
    if found is not None:
        return found
    from transformers.utils import logging

    logging.disable_progress_bar()
    with _progress(settings.n_steps) as on_step:
        return make_demo(out, settings, on_step)


@contextlib.contextmanager
def _progress(n_steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar on stderr; yields what to call after each step."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=n_steps, rate="", loss="-")

        def on_step(n_done: int, loss: float) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} steps/s, " if speed else ""
            bar.update(task, completed=n_done, rate=rate, loss=f"{loss:.3f}")

        yield on_step


def _told(demo: Demo) -> str:
    report = demo.report
    if not demo.is_new:
        return f"{demo.folder} is complete for these settings; nothing to do"
    return (
        f"{demo.folder}: a checkpoint of {report['n_parameters']:,} parameters, loss "
        f"{report['first_loss']:.3f} -> {report['final_loss']:.3f} nats/token in "
        f"{report['cpu_seconds']} CPU-s; benchmarks, held-out set, prompt and recipe beside it"
    )


if __name__ == "__main__":
    main()
