r"""Flags of the command line, declared once: as a function's parameters or a dataclass's fields.

    @command
    def plan(
        *,
        rl_runs: Annotated[int, click.IntRange(min=1), Flag(metavar="N")],
        figure: Annotated[Path | None, Flag(metavar="FILE.png")] = None,
        common: CommonFlags,
    ) -> None:
        '''Choose the checkpoints that get the next N RL runs.

Args:
            rl_runs: RL runs that can be paid for.
            figure: Draw regret against runs.
            common: The registry and the form of the output.
        '''

A flag has the name, type and default of its parameter, and the entry under `Args:` is its help. A
positional parameter is an argument of the command line. A parameter whose type is a dataclass gives
one flag for each field of that class. MLproject is generated from these commands
(`cli/mlproject.py`).
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click

from rlready.workflow.progress import Clock
from rlready.workflow.terminal import console, echo_json, print_view

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore

KIND = "COL=KIND[:+|-|0]"
"""Placeholder for the value of `--kind` in the help."""

_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def split_at_commas(texts: Sequence[str]) -> Iterator[str]:
    """Yield the values of a repeatable flag; a text may hold several values, as in MLproject."""
    return (part for text in texts for part in text.split(","))


def split_pairs(texts: Sequence[str]) -> Iterator[str]:
    """Yield values NAME=VALUE; a comma inside a value does not end it."""
    return (part for text in texts for part in re.split(r",(?=[^,=]+=)", text))


def split_kinds(texts: Sequence[str]) -> Iterator[str]:
    """Yield values COLUMN=KIND; a comma before the `=` is part of the column's name."""
    for text in texts:
        pieces = re.split(r"(=[^,=]*),", text)
        yield from ("".join(pieces[i : i + 2]) for i in range(0, len(pieces), 2))


def split_paths(texts: Sequence[str]) -> Iterator[str]:
    """Yield values `FILE` or `NAME=FILE`; an existing path is never split at its commas."""
    for text in texts:
        pieces, start = text.split(","), 0
        while start < len(pieces):
            ends = range(len(pieces), start, -1)
            joined = {end: ",".join(pieces[start:end]).strip() for end in ends}
            start = next((end for end in ends if _is_path(joined[end])), start + 1)
            yield joined[start]


def _is_path(text: str) -> bool:
    """Return True if the text is an existing path, or `NAME=` and an existing path."""
    name, _, path = text.partition("=")
    paths = [text] if "," in name else [text, path]
    return any(path and os.path.exists(os.path.expanduser(path)) for path in paths)


@dataclass(frozen=True)
class Flag:
    """The properties of a flag that the type of its parameter does not give.

    Args:
        name: the flag, if it is not the name of the parameter.
        metavar: placeholder for the value in the help.
        split: function that splits the texts of a repeatable flag into its values.
        none: default text that means None; an empty text always means None.
    """

    name: str | None = None
    metavar: str | None = None
    split: Callable[[Sequence[str]], Iterable[str]] = split_at_commas
    none: str = ""


Levels = Literal["auto", "comparable", "unknown"]
Seed = Annotated[int, click.IntRange(0, 2**32 - 1)]


class OrNone(click.ParamType[Any]):
    """A value or None, for which `mlflow run` passes an empty text.

    Args:
        kind: type of the value.
        none: another text that means None.
    """

    def __init__(self, kind: click.ParamType[Any] | type, none: str = "") -> None:
        self.kind = click.types.convert_type(kind)
        self.none = none
        self.name = self.kind.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Do the same as `click.ParamType.get_metavar`."""
        return self.kind.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Do the same as `click.ParamType.convert`, but accept the texts that mean None."""
        return None if value in ("", self.none) else self.kind.convert(value, param, ctx)


@dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """Flags of every command: the registry and the form of the output.

    Args:
        experiment: MLflow experiment.
        tracking_uri: MLflow tracking URI, for example sqlite:///mlflow.db or http://host:5000.
            [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db]
        as_json: Print one JSON object on stdout, nothing else.
    """

    experiment: str = "rlready"
    tracking_uri: str | None = None
    as_json: Annotated[bool, Flag("--json")] = False

    def open_store(self) -> MlflowStore:
        """Return the registry that the flags name."""
        # Imported here, because the import of MLflow takes seconds.
        from rlready.registry.mlflow_store.store import MlflowStore

        return MlflowStore(self.tracking_uri, self.experiment)

    def clock(self) -> Clock:
        """Return a clock that shows progress on stderr, or nothing with `--json`."""
        return Clock(None if self.as_json else console(stderr=True))

    def show(self, values: Any, view: Callable[[], Iterable[Any]]) -> None:
        """Print a result: as JSON values, or the tables and lines that `view` returns."""
        if self.as_json:
            echo_json(values)
        else:
            print_view(view())


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(1000 * time.time())


def command(function: Callable[..., None]) -> click.Command:
    """Return the command that calls a function with the values of its flags.

    Args:
        function: its docstring is the help, as the module's docstring describes. A parameter of
            type `partial[C]` gets the values of the fields of C that the function does not name,
            before C checks them.
    """
    hints = get_type_hints(function, include_extras=True)
    text, entries = _documented(function)
    declared = inspect.signature(function).parameters
    params: dict[str, click.Parameter] = {}
    for name, parameter in declared.items():
        target = _class_of(hints[name])
        if target is None:
            params[name] = _param(parameter, hints[name], entries)
        else:
            params |= {k: p for k, p in _params(target).items() if k not in {*declared, *params}}

    def call(**values: Any) -> None:
        # If a repeatable flag is left out, it keeps the default of its parameter.
        values = {name: value for name, value in values.items() if value != ()}
        arguments = {name: value for name, value in values.items() if name in declared}
        for name in declared:
            target = _class_of(hints[name])
            if target is not None:
                fields = inspect.signature(target).parameters.keys() - declared.keys()
                made = partial(target, **{k: v for k, v in values.items() if k in fields})
                arguments[name] = made if get_origin(hints[name]) is partial else made()
        function(**arguments)

    return click.Command(
        function.__name__, params=list(params.values()), callback=call, help=text.strip()
    )


def _class_of(hint: Any) -> type | None:
    """Return the dataclass C of a hint `C` or `partial[C]`; None for another hint."""
    target = get_args(hint)[0] if get_origin(hint) is partial else hint
    return target if dataclasses.is_dataclass(target) and isinstance(target, type) else None


def _documented(target: Any) -> tuple[str, dict[str, str]]:
    """Return a docstring without its section `Args:`, and the entries of that section."""
    text, _, section = (inspect.getdoc(target) or "").partition("\nArgs:\n")
    return text, {name: re.sub(r"\n +", " ", entry) for name, entry in _ENTRY.findall(section)}


def _params(target: type) -> dict[str, click.Parameter]:
    hints, (_, entries) = get_type_hints(target, include_extras=True), _documented(target)
    parameters = inspect.signature(target).parameters
    return {name: _param(p, hints[name], entries) for name, p in parameters.items()}


def _param(parameter: inspect.Parameter, hint: Any, entries: Mapping[str, str]) -> click.Parameter:
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    flag = next((extra for extra in extras if isinstance(extra, Flag)), Flag())
    options = [each for each in get_args(kind) if each is not NoneType]
    is_repeatable = get_origin(kind) is tuple
    settings: dict[str, Any]
    if is_repeatable:
        element = click.INT if options[0] is int else click.STRING
        settings = {"callback": _splitter(flag.split, element)}
    elif NoneType in get_args(kind):
        settings = {
            "type": OrNone(_click_type(options[0], extras), flag.none),
            "default": flag.none,
        }
    elif kind is bool:
        settings = {"is_flag": True}
    elif parameter.default is parameter.empty:
        settings = {"type": _click_type(kind, extras), "required": True}
    else:
        default = parameter.default
        settings = {"type": _click_type(kind, extras), "default": default, "show_default": True}
    settings["metavar"] = flag.metavar
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return click.Argument([parameter.name], nargs=-1 if is_repeatable else 1, **settings)
    names = [flag.name or f"--{parameter.name.replace('_', '-')}", parameter.name]
    return click.Option(names, help=entries[parameter.name], multiple=is_repeatable, **settings)


def _click_type(kind: Any, extras: Sequence[Any]) -> click.ParamType[Any] | type:
    if get_origin(kind) is Literal:
        kind = click.Choice(get_args(kind))
    elif kind is Path:
        kind = click.Path(path_type=Path)
    return next((extra for extra in extras if isinstance(extra, click.ParamType)), kind)


def _splitter(
    split: Callable[[Sequence[str]], Iterable[str]], kind: click.ParamType[Any]
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[Any, ...]]:
    """Return the callback that turns the texts of a repeatable flag into its values."""

    def values(
        ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
    ) -> tuple[Any, ...]:
        parts = (part.strip() for part in split(texts))
        return tuple(kind.convert(part, param, ctx) for part in parts if part)

    return values
