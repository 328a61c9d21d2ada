"""Every `rlready` command that the pages show exists, with these flags, values and arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from places import ROOT

from rlready.workflow.cli.main import main

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# The log is dated and may name older flags; the benchmarks are output of scripts.
PAGES = [page for page in PAGES if page.name not in ("LOG.md", "benchmarks.md")]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(.*)$", re.MULTILINE)
# A command begins a line, or stands inside $(...), after a prompt or after the bin folder.
COMMAND = re.compile(r"(?:^|\$\(|^\$ |bin/)rlready +([a-z].*)$")
SPAN = re.compile(r"`rlready ([a-z][^`]*)`")
END_OF_COMMAND = {"|", ">", "<", "&&", ";", "2>", ")"}


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words after `rlready` of every command in a code block of the page."""
    text = page.read_text(encoding="utf-8")
    outside = BLOCK.sub("", text)
    blocks = [*BLOCK.findall(text), "\n".join(INDENTED.findall(outside))]
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            # Several commands may stand beside each other, two spaces apart at least.
            for part in re.split(r" {2,}(?=rlready )", line):
                match = COMMAND.search(part.strip())
                if match:
                    yield words_of(match[1])


def words_of(command: str) -> list[str]:
    """Return the words up to a pipe or the like, without comments and "..."."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|<>;&()")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in lexer:
        if word in END_OF_COMMAND or word.startswith("#"):
            break
        if word != "...":
            words.append(word)
    return words


def named(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the first words name, and the words after them."""
    command: click.Command = main
    while isinstance(command, click.Group):
        assert words, "a group of commands alone"
        assert words[0] in command.commands, f"rlready has no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_in_code_blocks_are_accepted(page: Path) -> None:
    for words in shown_commands(page):
        command, rest = named(words)
        try:
            # Reads the words as the command line would, and runs nothing.
            command.make_context(words[0], rest)
        except click.ClickException as error:
            raise AssertionError(f"rlready {shlex.join(words)}: {error.format_message()}") from None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_flags_in_the_text_exist(page: Path) -> None:
    outside = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for span in SPAN.findall(outside):
        if "<TAB>" in span:
            continue
        command, rest = named(words_of(span))
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        for word in rest:
            flag = word.partition("=")[0]
            assert not flag.startswith("--") or flag in known | {"--help"}, f"rlready {span}"


def test_the_pages_show_commands() -> None:
    """The two tests above would also pass if no command was found."""
    assert sum(1 for page in PAGES for _ in shown_commands(page)) > 40
