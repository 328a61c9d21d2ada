"""The command `rlready`: one sub-command a step, text for people, `--json` for machines.

Only click is imported here at the top, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlready.registry.errors import RlreadyError

if TYPE_CHECKING:
    from rich.console import Console

    from rlready.workflow.config import EvaluateConfig
    from rlready.workflow.steps import Report

EXIT_USAGE = 2

_FILE_WIDTH = 160


class _Group(click.Group):
    """Turns what users can mend into a message and exit code 2, for every sub-command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RlreadyError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(EXIT_USAGE)


class _Optional(click.ParamType[Any]):
    """A value that may be given as an empty text, which `mlflow run` does for what is not set."""

    def __init__(self, kind: click.ParamType[Any] | type, empty: Sequence[str] = ("",)) -> None:
        self._kind = click.types.convert_type(kind)
        self._empty = tuple(empty)
        self.name = self._kind.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self._kind.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value in self._empty else self._kind.convert(value, param, ctx)


_TEXT = _Optional(str)
_FILE = _Optional(click.Path(path_type=Path))


def _several(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Repeated options; one text may hold several, parted by commas, as MLproject needs it."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _whole_numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of whole numbers like 1,4,16") from error


def _registry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say which registry is meant."""
    options = (
        click.option(
            "--experiment", default="rlready", show_default=True, help="MLflow experiment."
        ),
        click.option(
            "--tracking-uri",
            type=_TEXT,
            default="",
            help="MLflow tracking URI, for example sqlite:///mlflow.db or "
            "http://host:5000.  [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db]",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlready", prog_name="rlready")
def main() -> None:
    """Which SFT checkpoint deserves the RL budget.

    Measures a checkpoint before RL (held-out loss, unbiased pass@k and further proxies, each with
    a standard error) and keeps it in MLflow as a model.
    """


@main.command()
@click.argument("checkpoint")
@click.option(
    "--suite",
    type=_TEXT,
    default="",
    help="Built-in suite (math7) or a suite's TOML file.  [default: math7, if neither "
    "--benchmark nor --held-out is given]",
)
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    callback=_several,
    metavar="NAME=FILE",
    help="Problems in a JSONL, Parquet or CSV file; takes the place of the suite's "
    "benchmark NAME, or is added. Repeatable.",
)
@click.option(
    "--held-out",
    multiple=True,
    callback=_several,
    metavar="[NAME=]FILE",
    help="Held-out SFT examples, JSONL with prompt+response, problem+solution or "
    "messages. Repeatable.",
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
    callback=_whole_numbers,
    metavar="K,K,...",
    help="k of pass@k.  [default: those of 1,4,16,64,256,1024 up to --samples]",
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
    type=_FILE,
    default="",
    metavar="FILE",
    help="Text with {problem} in it, put to the model as the user's message.  [default: "
    "the problem, then 'Please reason step by step, and put your final answer within "
    "\\boxed{}.']",
)
@click.option(
    "--engine", default="auto", show_default=True, help="What draws the samples: auto or hf."
)
@click.option(
    "--batch-size",
    type=_Optional(int, ("", "auto")),
    default="auto",
    metavar="N|auto",
    help="Rows drawn together.  [default: auto, by memory]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--recipe",
    type=_FILE,
    default="",
    metavar="FILE",
    help="TOML file that says how the checkpoint was trained.",
)
@click.option(
    "--parent",
    "parents",
    multiple=True,
    callback=_several,
    metavar="ID",
    help="Registered checkpoint that this one was made from. Repeatable.",
)
@click.option(
    "--step", type=_Optional(int), default="", metavar="N", help="Optimizer step of the checkpoint."
)
@click.option(
    "--kind",
    type=_Optional(click.Choice(["base", "sft", "rl"])),
    default="",
    help="What the checkpoint is.  [default: what the registry knows, else sft]",
)
@click.option("--name", type=_TEXT, default="", help="For people.  [default: the folder's name]")
@click.option(
    "--limit",
    type=_Optional(int),
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
@_registry_options
def evaluate(as_json: bool, **flags: Any) -> None:
    """Measure CHECKPOINT and log its proxies to MLflow.

    CHECKPOINT is a folder written by save_pretrained (safetensors only), or a hub id
    org/name[@revision]. A killed or repeated call goes on where the last one stopped.

    \b
    rlready evaluate runs/sft-3 --held-out val.jsonl --samples 256
    rlready evaluate runs/sft-3 --benchmark gsm8k=gsm8k_test.jsonl.gz --samples 64 --k 1,16,64
    """  # noqa: D301 - click reads \b as "keep these lines"
    from rlready.workflow.config import EvaluateConfig

    config = EvaluateConfig(**flags)
    report = _evaluate(config, None if as_json else _console())
    if as_json:
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    from rlready.workflow.views import evaluation_view

    _print(evaluation_view(report, _width()))
    click.echo(_store(config.tracking_uri, config.experiment).ui_hint())


@main.command("list")
@_registry_options
def list_checkpoints(experiment: str, tracking_uri: str | None, as_json: bool) -> None:
    """List the checkpoints in the registry, the oldest first."""
    from rlready.workflow.views import checkpoint_dict, list_view

    stored = _store(tracking_uri, experiment).checkpoints()
    if as_json:
        click.echo(json.dumps([checkpoint_dict(s) for s in stored], ensure_ascii=False))
    else:
        _print(list_view(stored, experiment))


@main.command()
@click.argument("checkpoint")
@_registry_options
def show(checkpoint: str, experiment: str, tracking_uri: str | None, as_json: bool) -> None:
    """Show what the registry knows about CHECKPOINT.

    CHECKPOINT is an id, the beginning of one, a name, or an MLflow model id.
    """
    from rlready.workflow.views import checkpoint_dict, checkpoint_view

    found = _store(tracking_uri, experiment).find(checkpoint)
    if as_json:
        click.echo(json.dumps(checkpoint_dict(found), ensure_ascii=False))
    else:
        _print(checkpoint_view(found, _width()))


def _evaluate(config: EvaluateConfig, console: Console | None) -> Report:
    from rlready.workflow.progress import Clock
    from rlready.workflow.steps import evaluate

    return evaluate(config, _store(config.tracking_uri, config.experiment), Clock(console))


def _store(tracking_uri: str | None, experiment: str) -> Any:
    from rlready.registry.mlflow_store import MlflowStore

    return MlflowStore(tracking_uri, experiment)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _print(view: Any) -> None:
    from rich.console import Console

    Console(width=_width()).print(view)


def _width() -> int:
    """Of the terminal; wide where the text goes to a file, which need not be broken up."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _FILE_WIDTH
