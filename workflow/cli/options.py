"""What the sub-commands of `rlready` share: options, the registry, how results are printed.

Only click is imported here at the top, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlready.registry.failures import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_USAGE,
    fault,
    foreseen,
)
from rlready.registry.redaction import has_secret
from rlready.workflow.terminal import console as terminal
from rlready.workflow.terminal import echo, prepare_streams

if TYPE_CHECKING:
    from rich.console import Console

    from rlready.registry.mlflow_store.store import MlflowStore

_FILE_WIDTH = 160
_LINE_CHARACTERS = 2_000
_KEPT = {
    "evaluate": "samples, verdicts and losses made so far are kept in --samples-dir, and the same "
    "call goes on from there",
    "search": "what was told is in the study; a trial under way is offered again when its lease "
    "has run out",
    "testbed": "what was trained and measured so far is kept in --out, and the same call goes on "
    "from there",
    "outcome": "an outcome that was logged is kept; the same call adds only what is missing",
    "tag": "a tag that was set is kept; the same call adds only what is missing",
}

_STORED_BY_MLFLOW = (
    "a URI with a password is a parameter of `mlflow run`, which has stored it in the run and "
    "printed it before rlready began. Give it as the environment variable MLFLOW_TRACKING_URI, or "
    "the password in MLFLOW_TRACKING_PASSWORD or ~/.pgpass; and change this password"
)


class Group(click.Group):
    """Turns whatever goes wrong in a sub-command into one line and an exit code.

    | exit code | what happened |
    | --- | --- |
    | 1 | a fault of rlready; the line names a file with the details |
    | 2 | something that the user can mend, or the machine lacks |
    | 130, 141 | Ctrl-C; the reader of a pipe went away |
    """

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Group.invoke`."""
        prepare_streams()
        words = [*sys.argv, *ctx.args]  # before they are used up
        if "MLFLOW_RUN_ID" in os.environ and any(map(has_secret, _uris(words))):
            echo(f"warning: {_STORED_BY_MLFLOW}", err=True)
        try:
            # Before any work: such a name could be stored nowhere.
            "".join(words).encode()
            result = super().invoke(ctx)
            # What is still in the buffer would fail when Python ends, with a traceback.
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            _drop_output()
            ctx.exit(EXIT_PIPE_CLOSED)
        except KeyboardInterrupt:
            echo(f"interrupted: {_kept(ctx)}", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:
            line = foreseen(error)
            if line is not None:
                echo(f"error: {_cut(line)}", err=True)
                ctx.exit(EXIT_USAGE)
            echo(f"error: {fault(error, _uris(words))}", err=True)
            ctx.exit(EXIT_FAULT)


def _cut(text: str) -> str:
    """The text without its middle if it quotes a whole file, say."""
    if len(text) <= _LINE_CHARACTERS:
        return text
    half = _LINE_CHARACTERS // 2
    return f"{text[:half]} [...] {text[-half:]}"


def _kept(ctx: click.Context) -> str:
    """What a command that was interrupted leaves."""
    return _KEPT.get(ctx.invoked_subcommand or "", "nothing is half done; repeat the call")


def _uris(words: Sequence[str]) -> list[str]:
    """Words of a command line that may hold a password."""
    values = (word.partition("=")[2] if word.startswith("--") else word for word in words)
    return [value for value in values if "://" in value]


def _drop_output() -> None:
    """Let Python end without a word though nobody reads its output."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


class Optional(click.ParamType[Any]):
    """A value that may be given as an empty text, which `mlflow run` does for what is not set."""

    def __init__(self, kind: click.ParamType[Any] | type, empty: Sequence[str] = ("",)) -> None:
        self._kind = click.types.convert_type(kind)
        self._empty = tuple(empty)
        self.name = self._kind.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """See `click.ParamType.get_metavar`."""
        return self._kind.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        return None if value in self._empty else self._kind.convert(value, param, ctx)


TEXT = Optional(str)
SEED = click.IntRange(0, 2**32 - 1)
FILE = Optional(click.Path(path_type=Path))


def several(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Repeated options; one text may hold several, parted by commas, as MLproject needs it."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """What `several` gives for NAME=VALUE: a comma inside a value does not end it."""
    parts = [part for value in values for part in re.split(r",(?=[^,=]+=)", value)]
    return tuple(part.strip() for part in parts if part.strip())


def several_paths(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Return repeated `FILE` or `NAME=FILE` values, split at commas; a path that exists is not."""
    return tuple(part for value in values for part in _split_paths(value.split(",")))


def _split_paths(pieces: Sequence[str]) -> Iterator[str]:
    """Yield the pieces; those that together name an existing path are joined by commas again."""
    start = 0
    while start < len(pieces):
        ends = range(len(pieces), start, -1)
        joined = {end: ",".join(pieces[start:end]).strip() for end in ends}
        start = next((end for end in ends if _is_path(joined[end])), start + 1)
        if joined[start]:
            yield joined[start]


def _is_path(text: str) -> bool:
    """True if the text is an existing path, or `NAME=` and one."""
    name, _, path = text.partition("=")
    paths = [text] if "," in name else [text, path]
    return any(path and os.path.exists(os.path.expanduser(path)) for path in paths)


def whole_numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers in one text, parted by commas."""
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of whole numbers like 1,4,16") from error


def registry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say which registry is meant."""
    options = (
        click.option(
            "--experiment", default="rlready", show_default=True, help="MLflow experiment."
        ),
        click.option(
            "--tracking-uri",
            type=TEXT,
            default="",
            show_default=False,
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


def open_store(tracking_uri: str | None, experiment: str) -> MlflowStore:
    """The registry that the flags name."""
    from rlready.registry.mlflow_store.store import MlflowStore

    return MlflowStore(tracking_uri, experiment)


def console() -> Console:
    """Where progress and warnings go."""
    return terminal(stderr=True)


def print_view(view: Any) -> None:
    """Print a table or text on stdout, as wide as it can be read."""
    terminal(width=width()).print(view)


def width() -> int:
    """Of the terminal; wide where the text goes to a file, which need not be broken up."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _FILE_WIDTH
