"""The command line as `mlflow run` starts it, seen from the folder of the person who typed that.

MLflow runs an entry point in the project's folder, or in a temporary clone of a Git URI. Neither
is meant by `-P checkpoint=runs/sft-3`, by MLFLOW_TRACKING_URI=sqlite:///mlflow.db or by the default
samples folder. The caller's folder does not reach us in the environment, because bash sets PWD
anew; it is the working directory of the process of `mlflow run`, whose id the entry points pass.

The entry points of MLproject give every positional argument and then every flag with a value.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import psutil

import rlready.testbed
from rlready.workflow.cli.main import main as command_line
from rlready.workflow.terminal import echo

_SHIPPED = Path(rlready.testbed.__path__[0])
_INPUTS = _SHIPPED / "demonstration"

DEMONSTRATION: Mapping[str, str] = {
    "--benchmark": f"chain_hard={_INPUTS / 'chain_hard.jsonl'},add3={_INPUTS / 'add3.jsonl'}",
    "--held-out": str(_INPUTS / "heldout_canonical.jsonl"),
    "--prompt-template": str(_INPUTS / "prompt.txt"),
    "--max-tokens": "48",
    "--kind": "base",
    "--name": "demonstration",
    "--experiment": "rlready-demonstration",
}
"""Flags of `evaluate` when nothing to measure is named; a flag that was given keeps its value.

The experiment is not the usual one, because the model is not a candidate for RL.
"""

_SUBJECTS = ("--list", "--suite", "--benchmark", "--held-out", "--base", "--recipe", "--parent")


def main(arguments: Sequence[str]) -> None:
    """Run a command of `rlready` in the folder where `mlflow run` was started.

    Args:
        arguments: id of the process of `mlflow run`, the command, its positional arguments, and
            its flags, each with a value: empty for one that is left out, true or false for one
            that takes no value on the command line.

    Raises:
        SystemExit: always, with the exit code of the command.
    """
    pid, *command = arguments
    _enter_folder_of(pid)
    try:
        command_line(command_words(command), prog_name="rlready")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code:
            echo(f"note: relative paths were looked up in {Path.cwd()}", err=True)
        raise


def command_words(command: Sequence[str]) -> list[str]:
    """Return the command line for the arguments of an entry point.

    Args:
        command: as for `main`, without the process.

    Raises:
        click.BadParameter: if a flag without a value is neither true nor false.
    """
    name, *rest = command
    options = command_line.commands[name].params
    n_positional = sum(isinstance(option, click.Argument) for option in options)
    positional, flags = rest[:n_positional], rest[n_positional:]
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    if name == "evaluate" and not any([*positional, *map(values.get, _SUBJECTS)]):
        positional = [str(_SHIPPED / "base_model")]
        values |= _demonstration(values, options)
    words = [word for option in values.items() for word in _flag(option, options)]
    return [name, *words, "--", *positional]


def _enter_folder_of(pid: str) -> None:
    """Make the working directory of a process ours."""
    try:
        folder = psutil.Process(int(pid)).cwd()
        os.chdir(folder)
    except (ValueError, OSError, psutil.Error) as error:
        # In a container, for example, `mlflow run` is a process of another machine.
        echo(
            f"note: relative paths are looked up in {Path.cwd()}, as the folder where `mlflow run` "
            f"was started cannot be read ({error})",
            err=True,
        )
        return
    os.environ["PWD"] = folder


def _demonstration(values: Mapping[str, str], options: Sequence[click.Parameter]) -> dict[str, str]:
    """Return the flags of the demonstration, and say on stderr that it is one."""
    defaults = {option.opts[0]: ("", str(option.default)) for option in options}
    echo(
        "This is the demonstration, as nothing to measure was named: the tiny model that comes "
        "with rlready, on 40 problems of arithmetic modulo ten. Give -P checkpoint=FOLDER to "
        "measure yours.",
        err=True,
    )
    return {
        flag: value
        for flag, value in DEMONSTRATION.items()
        if values.get(flag, "") in defaults[flag]
    }


def _flag(flag: tuple[str, str], options: Sequence[click.Parameter]) -> Iterator[str]:
    """Yield the words of a flag; a flag without a value is there or not."""
    name, value = flag
    option = next((option for option in options if name in option.opts), None)
    if not (isinstance(option, click.Option) and option.is_flag):
        yield from flag
    elif click.BOOL.convert(value, option, None):
        yield name
