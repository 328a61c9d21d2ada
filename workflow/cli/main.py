"""The command `rlready`: one sub-command a step, text for people, `--json` for machines.

Only click is imported here at the top, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlready.registry.errors import ConfigError
from rlready.registry.failures import EXIT_FAULT, EXIT_USAGE
from rlready.workflow.cli.options import (
    FILE,
    TEXT,
    Group,
    Optional,
    console,
    open_store,
    print_view,
    registry_options,
    several,
    several_paths,
    whole_numbers,
    width,
)
from rlready.workflow.cli.outcome import outcome, table
from rlready.workflow.cli.predict import fit, plan, rank
from rlready.workflow.cli.search import search
from rlready.workflow.cli.tags import resolve, tag
from rlready.workflow.cli.testbed import testbed
from rlready.workflow.cli.validate import validate
from rlready.workflow.terminal import echo

if TYPE_CHECKING:
    from rich.console import Console

    from rlready.workflow.evaluate.config import EvaluateConfig
    from rlready.workflow.evaluate.report import Report


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlready", prog_name="rlready")
def main() -> None:
    """Which SFT checkpoint deserves the RL budget.

    Measures a checkpoint before RL (held-out loss, unbiased pass@k and further proxies, each with
    a standard error) and keeps it in MLflow as a model; records what RL made of it; predicts that
    for the others, with intervals; ranks them, plans the next RL runs, tags the chosen one; and
    searches the SFT recipe to train next.
    """


@main.command()
@click.argument("checkpoint", nargs=-1, callback=several_paths)
@click.option(
    "--list",
    "list_file",
    type=FILE,
    default="",
    metavar="FILE",
    help="TOML file with a table [[checkpoint]] for each further checkpoint: checkpoint, and if "
    "wanted name, recipe, step, kind, parents, held_out, base, prompt_template.",
)
@click.option(
    "--jobs",
    type=int,
    default=1,
    show_default=True,
    help="Checkpoints under way at the same time; they share the GPUs, or the Ray cluster, evenly.",
)
@click.option(
    "--suite",
    type=TEXT,
    default="",
    help="Built-in suite (math7) or a suite's TOML file.  [default: math7, if neither "
    "--benchmark nor --held-out is given]",
)
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    callback=several_paths,
    metavar="NAME[:FORMAT]=FILE",
    help="Problems in a JSONL, JSON, Parquet or CSV file; takes the place of the suite's "
    "benchmark NAME, or is added. FORMAT is its own --answer-format. Repeatable.",
)
@click.option(
    "--held-out",
    multiple=True,
    callback=several_paths,
    metavar="[NAME=]FILE",
    help="Held-out SFT examples in a JSONL, JSON or Parquet file, in the format of TRL, OpenAI, "
    "Alpaca or ShareGPT, or with problem+solution. Repeatable.",
)
@click.option(
    "--samples",
    type=int,
    default=64,
    show_default=True,
    help="Samples a problem. Those of earlier calls count; only the rest is drawn.",
)
@click.option(
    "--k",
    default="",
    callback=whole_numbers,
    metavar="K,K,...",
    help="k of pass@k.  [default: those of 1,4,16,64,256,1024 up to --samples]",
)
@click.option(
    "--adaptive",
    is_flag=True,
    help="Draw next where pass@K of the largest K is least sure, until --target-se or --samples a "
    "problem on average; log pass_at_K_est, from earlier checkpoints in --samples-dir too.",
)
@click.option(
    "--target-se",
    type=Optional(float),
    default="",
    metavar="X",
    help="Standard error (a probability) at which adaptive sampling ends; turns it on.  "
    "[default with --adaptive: 0.01]",
)
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="Of sampling; 0 is greedy."
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Share of the probability mass that is kept.",
)
@click.option(
    "--max-tokens",
    type=int,
    default=2048,
    show_default=True,
    help="A sample is cut after so many tokens.",
)
@click.option(
    "--prompt-template",
    type=FILE,
    default="",
    metavar="FILE",
    help="Text with {problem} in it, put to the model as the user's message.  [default: "
    "the problem, then 'Please reason step by step, and put your final answer within "
    "\\boxed{}.']",
)
@click.option(
    "--answer-format",
    default="boxed",
    show_default=True,
    help="Where the answer of a sample stands: boxed, hash (#### 72), phrase ('the answer is "
    "...'), last (the last number or formula), or auto (the first of these that is there). "
    "lenient_pass_at_1 is always that of auto. No other samples are drawn for another format.",
)
@click.option(
    "--skip-unreadable-golds",
    is_flag=True,
    help="Leave out reference answers that cannot be checked, instead of stopping at them; the "
    "rest is named BENCHMARK-readableN.",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="What draws the samples: hf (auto takes it), vllm, ray, or server (any OpenAI-compatible "
    "endpoint that serves CHECKPOINT: --engine-option url=http://host:8000, key in "
    "OPENAI_API_KEY).",
)
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    callback=several,
    metavar="KEY=VALUE",
    help="Option of the engine, for example dtype=float32; a wrong KEY lists them. Repeatable.",
)
@click.option(
    "--batch-size",
    type=Optional(int, ("", "auto")),
    default="auto",
    metavar="N|auto",
    help="Rows drawn together.  [default: auto, by memory]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--base",
    type=TEXT,
    default="",
    metavar="FOLDER",
    help="Base model that SFT began from (folder or hub id): it is evaluated first, then compared "
    "(update norms, rotation, coverage ratio, off-policyness), and noted as the parent.",
)
@click.option(
    "--recipe",
    type=FILE,
    default="",
    metavar="FILE",
    help="TOML file that says how the checkpoint was trained.",
)
@click.option(
    "--parent",
    "parents",
    multiple=True,
    callback=several,
    metavar="ID",
    help="Registered checkpoint that this one was made from. Repeatable.",
)
@click.option(
    "--step", type=Optional(int), default="", metavar="N", help="Optimizer step of the checkpoint."
)
@click.option(
    "--kind",
    type=Optional(click.Choice(["base", "sft", "rl"])),
    default="",
    help="What the checkpoint is.  [default: what the registry knows, else sft]",
)
@click.option("--name", type=TEXT, default="", help="For people.  [default: the folder's name]")
@click.option(
    "--limit",
    type=Optional(int),
    default="",
    metavar="N",
    help="Use the first N problems of each benchmark and held-out set, under the name "
    "BENCHMARK-firstN.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Base of the per-sample seeds."
)
@click.option(
    "--samples-dir",
    type=click.Path(path_type=Path),
    default=Path("samples"),
    show_default=True,
    help="Where samples, verdicts and losses are kept.",
)
@registry_options
def evaluate(
    as_json: bool, checkpoint: tuple[str, ...], list_file: Path | None, jobs: int, **flags: Any
) -> None:
    """Measure each CHECKPOINT and log its proxies to MLflow.

    CHECKPOINT is a folder written by save_pretrained (safetensors only), or a hub id
    org/name[@revision]. A killed or repeated call goes on where the last one stopped. Of several,
    all are checked before the first is measured, and one that fails does not stop the others.

    \b
    rlready evaluate runs/sft-3 --held-out val.jsonl --samples 256
    rlready evaluate runs/sft-3 --benchmark gsm8k=gsm8k_test.jsonl.gz --samples 64 --k 1,16,64
    rlready evaluate runs/sft-1 runs/sft-2 runs/sft-3 --engine ray
    """  # noqa: D301 - click reads \b as "keep these lines"
    from rlready.workflow.evaluate.config import EvaluateConfig

    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}", fix="Give 1 or more")
    if list_file is not None or len(checkpoint) > 1:
        _evaluate_many(as_json, checkpoint, list_file, jobs, flags)
        return
    if not checkpoint:
        raise ConfigError("no checkpoint is named", fix="Name a folder, a hub id, or --list FILE")
    config = EvaluateConfig(checkpoint=checkpoint[0], **flags)
    report = _evaluate(config, None if as_json else console())
    if as_json:
        echo(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    from rlready.workflow.cli.views import evaluation_view

    print_view(evaluation_view(report, width()))
    echo(open_store(config.tracking_uri, config.experiment).ui_hint())


def _evaluate_many(
    as_json: bool,
    checkpoints: tuple[str, ...],
    list_file: Path | None,
    n_jobs: int,
    flags: dict[str, Any],
) -> None:
    from rlready.workflow.cli.evaluate_many_view import evaluations_view
    from rlready.workflow.evaluate.checkpoint_list import read_list
    from rlready.workflow.evaluate.config import EvaluateConfig
    from rlready.workflow.evaluate.many import evaluate_many
    from rlready.workflow.progress import Clock

    if flags["name"] is not None:
        raise ConfigError(
            f"--name {flags['name']} is given for several checkpoints",
            fix="Give each its own in a list: name = ... (--list FILE)",
        )
    entries = [{"checkpoint": name} for name in checkpoints]
    entries += read_list(list_file) if list_file is not None else []
    configs = [EvaluateConfig(**{**flags, **entry}) for entry in entries]
    store = open_store(flags["tracking_uri"], flags["experiment"])
    results = evaluate_many(configs, store, Clock(None if as_json else console()), n_jobs)
    if as_json:
        echo(json.dumps(results.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print_view(evaluations_view(results))
        echo(store.ui_hint())
    for failure in results.failed:
        echo(f"error: {failure.checkpoint}: {failure.error}", err=True)
    if results.failed:
        is_ours = any(failure.is_fault for failure in results.failed)
        click.get_current_context().exit(EXIT_FAULT if is_ours else EXIT_USAGE)


@main.command("list")
@registry_options
def list_checkpoints(experiment: str, tracking_uri: str | None, as_json: bool) -> None:
    """List the checkpoints in the registry, the oldest first."""
    from rlready.workflow.cli.views import checkpoint_dict, list_view

    stored = open_store(tracking_uri, experiment).checkpoints()
    if as_json:
        echo(json.dumps([checkpoint_dict(s) for s in stored], ensure_ascii=False))
    else:
        print_view(list_view(stored, experiment))


@main.command()
@click.argument("checkpoint")
@registry_options
def show(checkpoint: str, experiment: str, tracking_uri: str | None, as_json: bool) -> None:
    """Show what the registry knows about CHECKPOINT.

    CHECKPOINT is an id, the beginning of one, a name, or an MLflow model id.
    """
    from rlready.workflow.cli.views import checkpoint_dict, checkpoint_view

    found = open_store(tracking_uri, experiment).find(checkpoint)
    if as_json:
        echo(json.dumps(checkpoint_dict(found), ensure_ascii=False))
    else:
        print_view(checkpoint_view(found, width()))


def _evaluate(config: EvaluateConfig, shown: Console | None) -> Report:
    from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
    from rlready.workflow.progress import Clock

    return evaluate_checkpoint(
        config, open_store(config.tracking_uri, config.experiment), Clock(shown)
    )


main.add_command(outcome)
main.add_command(table)
main.add_command(fit)
main.add_command(validate)
main.add_command(rank)
main.add_command(plan)
main.add_command(tag)
main.add_command(resolve)
main.add_command(search)
main.add_command(testbed)
