r"""Print to a terminal with control characters escaped, because names come from files.

An escape sequence, a carriage return or a mark that changes the writing direction is shown as its
code, such as `\u001b`, and `[red]` is shown unchanged. The codes are those of JSON, so escaped JSON
keeps its meaning.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PLAIN = re.compile(r"[\x20-\x7e\n\t]*")
_CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories to escape: controls, format characters, surrogates and line breaks."""

_DESKTOPS = ("DISPLAY", "WAYLAND_DISPLAY")
"""Environment variables of a desktop on Linux."""

_FILE_WIDTH = 160
_SPLIT_AT = 28


def escaped(text: str) -> str:
    """Return the text with a code for each control character except line ends and tabs."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_code(c) if _is_control(c) else c for c in text)


def echo(text: object, *, err: bool = False) -> None:
    """Print an escaped line.

    If stderr is closed, the work continues, and the exit code does not change.
    """
    with contextlib.suppress(*[BrokenPipeError] * err):
        click.echo(escaped(str(text)), err=err)


def echo_json(values: Any) -> None:
    """Print values as one line of JSON."""
    echo(json.dumps(values, ensure_ascii=False))


def echo_for_programs(content: bytes) -> None:
    """Print bytes unchanged for another program, or escaped on a terminal."""
    click.echo(escaped(content.decode()) if sys.stdout.isatty() else content, nl=False)


def console(*, width: int | None = None, stderr: bool = False) -> Console:
    """Return a console for tables, progress and warnings that shows every text literally."""
    return _console_class()(width=width, stderr=stderr, markup=False, emoji=False, highlight=False)


def open_page(page: Path) -> bool:
    """Open a page in the browser of the person at this terminal; return whether that was tried.

    Nothing is opened where output is piped, on a machine without a desktop, or in CI.
    """
    has_desktop = sys.platform == "darwin" or any(map(os.environ.get, _DESKTOPS))
    if not (page.is_file() and sys.stdout.isatty() and has_desktop) or os.environ.get("CI"):
        return False
    import webbrowser

    return webbrowser.open(page.resolve().as_uri())


def print_view(view: Iterable[Any]) -> None:
    """Print tables and lines on stdout, with the width of `text_width`."""
    out = console(width=text_width())
    for part in view:
        out.print(part)


def table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str | None = None,
    words: Collection[str] = (),
    unbroken: Collection[str] = (),
    optional: Sequence[str] = (),
) -> Table:
    """Return a table of texts.

    Args:
        title: text above the table.
        headings: headings of the columns.
        rows: the cells of each row.
        caption: text below the table.
        words: headings of the columns that are aligned to the left; the others hold numbers.
        unbroken: headings of the columns whose cells are never split over lines.
        optional: headings of the columns that a narrow terminal leaves out, the first one first.
    """
    from rich.table import Table

    rows = [list(row) for row in rows]
    left_out = _too_wide(headings, rows, unbroken, optional)
    if left_out:
        shown = [i for i, heading in enumerate(headings) if heading not in left_out]
        headings, rows = [headings[i] for i in shown], [[row[i] for i in shown] for row in rows]
        names = ", ".join(left_out)
        caption = "; ".join(filter(None, [caption, f"too wide for this terminal: {names}"]))
    result = Table(title=title, caption=caption)
    for heading in headings:
        justify: Literal["left", "right"] = "left" if heading in words else "right"
        # Fold long names, because a name or id that is cut could not be copied.
        result.add_column(heading, justify=justify, no_wrap=heading in unbroken, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def _too_wide(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    unbroken: Collection[str],
    optional: Sequence[str],
) -> list[str]:
    """Return the optional columns that do not fit into the terminal beside the others."""
    from rich.cells import cell_len

    widths = {
        heading: max(map(cell_len, [heading, *(row[i] for row in rows)]))
        for i, heading in enumerate(headings)
    }
    # Of a cell that may be split, this much has to be on one line.
    widths = {
        heading: width if heading in unbroken else min(width, _SPLIT_AT)
        for heading, width in widths.items()
    }
    left_out: list[str] = []
    for heading in optional:
        if sum(width + 3 for width in widths.values()) < text_width():
            break
        left_out.append(heading)
        del widths[heading]
    return left_out


def text_width() -> int:
    """Return the width of the terminal, or a fixed large width if stdout is a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _FILE_WIDTH


def prepare_streams() -> None:
    """Let printing succeed on a closed stream, and for characters that the encoding lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # until the process ends
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _is_control(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in _CONTROLS


def _code(character: str) -> str:
    pair = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pair[i : i + 4]}" for i in range(0, len(pair), 4))


@functools.cache
def _console_class() -> type[Console]:
    # The class is defined in a function, because `--help` must not load rich.
    from rich.console import Console
    from rich.segment import Segment

    class Terminal(Console):
        """A console that escapes every text, in tables and bars too."""

        def render(self, renderable: Any, options: Any = None) -> Any:
            """Do the same as `Console.render`, escaped; rich adds its styles only afterwards."""
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(escaped(text), style)

        def on_broken_pipe(self) -> None:
            """Raise the error again, because the command line handles it, not rich."""
            raise  # called while a BrokenPipeError is handled

    return Terminal
