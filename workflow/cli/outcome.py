"""The sub-commands about scores after RL: `outcome` and `table`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import click

from rlready.workflow.flags import CommonFlags, Flag, command
from rlready.workflow.predict.outcome import OutcomeConfig
from rlready.workflow.terminal import echo, echo_for_programs, echo_json

Format = Literal["csv", "parquet", "json"]


@command
def outcome(config: OutcomeConfig, common: CommonFlags) -> None:
    """Record the score of CHECKPOINT after RL.

    CHECKPOINT is an id, the beginning of one, a name, or an MLflow model id. Measure the score on
    held-out problems: the training reward is not an outcome.

    \b
    rlready outcome sft-3 --value 0.61 --benchmark gsm8k --algorithm grpo --budget 200 --budget-unit steps
    rlready outcome sft-3 --curve eval.csv --statistic peak --algorithm grpo --budget 8 --budget-unit gpu_hours
    rlready outcome sft-3 --rl-checkpoint runs/rl-3 --algorithm grpo --budget 200 --budget-unit steps
    """  # noqa: D301, E501 - click reads \b as "keep these lines", which are commands
    from rlready.workflow.cli.views.checkpoint import outcome_view
    from rlready.workflow.predict.outcome import record

    report = record(config, common.open_store())
    common.show(report.to_dict(), lambda: outcome_view(report))


@command
def table(
    *,
    target: Annotated[str | None, Flag(metavar="KEY")] = None,
    kind: Annotated[Format | None, Flag("--format")] = None,
    out: Annotated[Path | None, Flag(metavar="FILE")] = None,
    common: CommonFlags,
) -> None:
    """Print the registry as a table with one row per checkpoint.

    Columns: facts about the checkpoint, recipe.<field>, <proxy>@<benchmark> with
    <proxy>_se@<benchmark> and <proxy>_n@<benchmark> (problems), and every outcome as
    <statistic>/<budget><unit>@<benchmark>, the mean over RL seeds, with _se and _n (seeds).
    Values that cannot be compared have separate columns, marked #<6 digits>; notes on stderr
    describe them.

    Args:
        target: Outcome column, for example value_at_budget/60steps@gsm8k, to add as `target`;
            checkpoints without it are left out.
        kind: csv, parquet or json (an array of rows).  [default: by the name of --out, else csv]
        out: File to write.  [default: stdout]
        common: The registry and the form of the output.
    """
    from rlready.registry.table import checkpoint_table, table_bytes, write_table

    suffix = "" if out is None else out.suffix.removeprefix(".")
    by_default = "json" if common.as_json else "csv"
    form = kind or (suffix if suffix in get_args(Format) else by_default)
    whole = checkpoint_table(common.open_store().checkpoints(), target)
    for note in whole.notes:
        echo(f"note: {note}", err=True)
    if out is not None:
        write_table(whole, out, form)
        echo(f"{len(whole.frame)} checkpoints, {whole.frame.shape[1]} columns: {out}", err=True)
        if common.as_json:
            echo_json({"out": str(out), "n_checkpoints": len(whole.frame), "notes": whole.notes})
        return
    if common.as_json and kind is None:
        rows = json.loads(table_bytes(whole, "json"))
        echo_json({"rows": rows, "notes": whole.notes})
        return
    if form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("parquet is not text: give --out FILE")
    echo_for_programs(table_bytes(whole, form))
