"""The sub-command `validate`: how good a predictor is on checkpoints that it has not seen."""

from __future__ import annotations

import json
from typing import Any

import click

from rlready.workflow.cli.options import (
    FILE,
    SEED,
    TEXT,
    console,
    open_store,
    print_view,
    registry_options,
    several,
    width,
)
from rlready.workflow.terminal import echo


@click.command()
@click.option(
    "--table",
    type=FILE,
    default="",
    metavar="FILE",
    help="A row a checkpoint, CSV or Parquet.  [default: the registry]",
)
@click.option(
    "--target",
    type=TEXT,
    default="",
    metavar="COL",
    help="Column of the score after RL, or an outcome of the registry, for example "
    "value_at_budget/60steps@gsm8k. Higher is better unless --lower-is-better.",
)
@click.option(
    "--features",
    multiple=True,
    callback=several,
    metavar="COL,COL,...",
    help="Proxies; pre_* stands for all columns of numbers that begin so.  [default: a compact set "
    "of the registry's proxies]",
)
@click.option(
    "--se",
    multiple=True,
    callback=several,
    metavar="COL=COL_SE,...",
    help="Standard errors of proxies, in their unit.  [default: those of the registry]",
)
@click.option(
    "--target-se", type=TEXT, default="", metavar="COL", help="Standard error of the target."
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    callback=several,
    metavar="COL",
    help="Column that names the group: SFT source, base model, ... Repeatable; each combination is "
    "a group.  [default: the registry's base models, if there are several]",
)
@click.option(
    "--holdout",
    type=FILE,
    default="",
    metavar="FILE",
    help="Another table with the same columns, to be predicted from all rows of this one.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    callback=several,
    metavar="NAME",
    help="A model, default, or all. Repeatable. The baselines are always there.  "
    "[default: default]",
)
@click.option(
    "--splits",
    multiple=True,
    callback=several,
    metavar="loo,group,parity",
    help="Ways to hold rows out.  [default: all three]",
)
@click.option(
    "--baseline",
    type=TEXT,
    default="",
    metavar="COL",
    help="Column that the practice goes by; the line through it is what others have to beat.  "
    "[default: pass@1, if it is there]",
)
@click.option(
    "--predictions",
    type=FILE,
    default="",
    metavar="FILE",
    help="Write a row a checkpoint to this CSV: prediction (of a fit that has not seen the row, "
    "where its outcome is known), interval, domain.",
)
@click.option("--lower-is-better", is_flag=True, help="The target is a loss.")
@click.option(
    "--names", type=TEXT, default="", metavar="COL", help="Column that names the checkpoints."
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Of bootstrap and folds.",
)
@registry_options
def validate(experiment: str, tracking_uri: str | None, as_json: bool, **flags: Any) -> None:
    """Say how well post-RL scores are predicted, and whether that beats the practice.

    Rows are held out one by one (loo), by whole groups (group), by halves as in the seed paper
    (parity), or stand in a table of their own (--holdout). Every score has a 95 % interval that
    draws whole groups.

    \b
    rlready validate --target value_at_budget/60steps@gsm8k
    rlready validate --table runs.csv --target post_rl --features val_loss,pass_at_64 --group sft_data
    """  # noqa: D301, E501 - click reads \b as "keep these lines", which are commands
    from rlready.workflow.predict.validate import ValidateConfig
    from rlready.workflow.predict.validate import validate as run

    config = ValidateConfig(**flags)
    store = None if config.table is not None else open_store(tracking_uri, experiment)
    if as_json:
        found = run(config, store)
        echo(json.dumps(found.report.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    from rlready.workflow.cli.validate_view import validation_view

    with console().status("fitting models without some rows") as status:
        found = run(config, store, lambda n, of: status.update(f"{n} of {of} fits"))
    print_view(validation_view(found, width()))
