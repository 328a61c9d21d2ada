r"""Text on its way to a terminal: names come from files, and may hold what a terminal obeys.

An escape sequence, a carriage return or a mark that turns the writing direction is shown as its
code, `\u001b`, and `[red]` is shown as it is written. The codes are those of JSON, so that JSON
says the same before and after.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN = re.compile(r"[\x20-\x7e\n\t]*")
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode: controls, format (direction, joiners), surrogates, breaks of lines."""


def escaped(text: str) -> str:
    """The text with a code for each character that a terminal would obey; ends of lines stay."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_code(c) if _is_obeyed(c) else c for c in text)


def echo(text: object, *, err: bool = False) -> None:
    """Print a line that may hold names from elsewhere.

    If nobody reads the messages any more, the work and its exit code are as before.
    """
    with contextlib.suppress(*[BrokenPipeError] * err):
        click.echo(escaped(str(text)), err=err)


def echo_for_programs(content: bytes) -> None:
    """Print what another program reads, as it is; on a terminal it is escaped."""
    click.echo(escaped(content.decode()) if sys.stdout.isatty() else content, nl=False)


def console(*, width: int | None = None, stderr: bool = False) -> Console:
    """Where tables, progress and warnings go: no markup is read, and nothing is obeyed."""
    return _console_class()(width=width, stderr=stderr, markup=False, emoji=False)


def prepare_streams() -> None:
    """Let a closed stream swallow what is printed, and an old encoding print codes, not fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # until the process ends
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _is_obeyed(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in _OBEYED


def _code(character: str) -> str:
    pair = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pair[i : i + 4]}" for i in range(0, len(pair), 4))


@functools.cache
def _console_class() -> type[Console]:
    # Made in a function, because rich is imported late.
    from rich.console import Console
    from rich.segment import Segment

    class Terminal(Console):
        """A console whose every text is escaped, in tables and bars too."""

        def render(self, renderable: Any, options: Any = None) -> Any:
            """See `Console.render`. Styles become escape sequences only after this."""
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(escaped(text), style)

        def on_broken_pipe(self) -> None:
            """See `Console.on_broken_pipe`. The command line decides, not rich."""
            raise  # called while a BrokenPipeError is handled

    return Terminal
