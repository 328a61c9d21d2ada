"""The sub-commands about what RL made of the checkpoints: `outcome` and `table`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import click

from rlready.registry.outcomes import BudgetUnit, Statistic
from rlready.workflow.cli.options import (
    FILE,
    TEXT,
    Optional,
    open_store,
    pairs,
    print_view,
    registry_options,
    several,
    width,
)
from rlready.workflow.terminal import echo, echo_for_programs

FORMATS = ("csv", "parquet", "json")


@click.command()
@click.argument("checkpoint")
@click.option("--value", type=Optional(float), default="", help="The number itself.")
@click.option(
    "--curve",
    type=FILE,
    default="",
    metavar="FILE.csv",
    help="Evaluations along the RL run: CSV with a column of the budget and one for each "
    "benchmark (or `value`), with <benchmark>_se beside it; or an export of wandb or TensorBoard, "
    "or trainer_state.json.",
)
@click.option(
    "--map",
    "columns",
    multiple=True,
    callback=pairs,
    metavar="NAME=COLUMN",
    help="COLUMN of the curve holds the scores of benchmark NAME, or the budget if NAME is "
    "its unit. Repeatable.",
)
@click.option(
    "--percent",
    is_flag=True,
    help="Scores and standard errors are percentages, 0 to 100, not shares, 0 to 1.",
)
@click.option(
    "--rl-checkpoint",
    type=TEXT,
    default="",
    metavar="PATH",
    help="Folder or id of the checkpoint after RL, evaluated with --kind rl --parent CHECKPOINT "
    "and the flags of its parent: its pass@1 is the outcome.",
)
@click.option(
    "--benchmark",
    type=TEXT,
    default="",
    metavar="NAME",
    help="What was measured.  [default: every benchmark that CHECKPOINT was measured on, if the "
    "curve has a column of it or the RL checkpoint was measured on it too]",
)
@click.option("--algorithm", required=True, help="Of the RL run, for example grpo.")
@click.option("--budget", type=float, required=True, help="Spent on RL, in --budget-unit.")
@click.option(
    "--budget-unit",
    type=click.Choice(get_args(BudgetUnit)),
    required=True,
    help="Unit of --budget.",
)
@click.option(
    "--statistic",
    "statistics",
    multiple=True,
    callback=several,
    metavar="NAME",
    help=f"Which number of the RL run: {', '.join(get_args(Statistic))}. Repeatable with "
    "--curve.  [default: value_at_budget]",
)
@click.option(
    "--se", type=Optional(float), default="", help="Standard error of --value over problems."
)
@click.option("--seed", type=Optional(int), default="", metavar="N", help="Of the RL run.")
@click.option(
    "--rl-recipe",
    type=FILE,
    default="",
    metavar="FILE.toml",
    help="Everything else about the RL run: data, group size, temperature, ...",
)
@click.option(
    "--replaces",
    type=TEXT,
    default="",
    metavar="ID",
    help="Outcome that this one corrects, as `rlready show` lists it.",
)
@registry_options
def outcome(as_json: bool, statistics: tuple[str, ...], **flags: Any) -> None:
    """Record what RL made of CHECKPOINT.

    CHECKPOINT is an id, the beginning of one, a name, or an MLflow model id. Evaluate on held-out
    problems: the training reward is no outcome.

    \b
    rlready outcome sft-3 --value 0.61 --benchmark gsm8k --algorithm grpo --budget 200 --budget-unit steps
    rlready outcome sft-3 --curve eval.csv --statistic peak --algorithm grpo --budget 8 --budget-unit gpu_hours
    rlready outcome sft-3 --rl-checkpoint runs/rl-3 --algorithm grpo --budget 200 --budget-unit steps
    """  # noqa: D301, E501 - click reads \b as "keep these lines", which are commands
    from rlready.workflow.cli.views import outcome_view
    from rlready.workflow.predict.outcome import OutcomeConfig, record

    chosen: dict[str, Any] = {"statistics": statistics} if statistics else {}
    config = OutcomeConfig(**flags, **chosen)
    report = record(config, open_store(config.tracking_uri, config.experiment))
    if as_json:
        echo(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print_view(outcome_view(report, width()))


@click.command()
@click.option(
    "--target",
    type=TEXT,
    default="",
    metavar="KEY",
    help="Outcome column, for example value_at_budget/60steps@gsm8k, to give as `target`; "
    "checkpoints without it are left out.",
)
@click.option(
    "--format",
    "kind",
    type=Optional(click.Choice(FORMATS)),
    default="",
    help="csv, parquet or json.  [default: by the name of --out, else csv]",
)
@click.option(
    "--out", type=FILE, default="", metavar="FILE", help="Where to write.  [default: stdout]"
)
@registry_options
def table(
    target: str | None,
    kind: str | None,
    out: Path | None,
    experiment: str,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Give the registry as a table: a row a checkpoint.

    Columns: what the checkpoint is, recipe.<field>, <proxy>@<benchmark> with
    <proxy>_se@<benchmark> and <proxy>_n@<benchmark> (problems), and every outcome as
    <statistic>/<budget><unit>@<benchmark>, the mean over RL seeds, with _se and _n (seeds).
    What cannot be mixed stands in columns of its own, marked #<6 digits>; notes on stderr say
    what they are.
    """
    from rlready.registry.table import checkpoint_table, table_bytes, write_table

    kind = kind or ("json" if as_json else None) or _kind_of(out)
    found = checkpoint_table(open_store(tracking_uri, experiment).checkpoints(), target)
    for note in found.notes:
        echo(f"note: {note}", err=True)
    if out is not None:
        write_table(found, out, kind)
        echo(f"{len(found.frame)} checkpoints, {found.frame.shape[1]} columns: {out}", err=True)
        return
    if kind == "parquet" and sys.stdout.isatty():
        raise click.UsageError("parquet is no text: give --out FILE")
    echo_for_programs(table_bytes(found, kind))


def _kind_of(out: Path | None) -> str:
    suffix = "" if out is None else out.suffix.removeprefix(".")
    return suffix if suffix in FORMATS else "csv"
