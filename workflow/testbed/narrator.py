"""Progress of a demonstration, a line per step, also where the output is not a terminal."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WIDTH = 80
"""Columns of a line; a name or an address is never broken."""


@dataclass
class Narrator:
    """Prints lines with the time since the start, so that a log shows what takes how long.

    Args:
        say: prints a line.
        n_all: steps.
        begin: of the clock.
    """

    say: Callable[[str], None]
    n_all: int
    begin: float = field(default_factory=time.monotonic)
    n_steps: int = 0

    def step(self, text: str) -> None:
        """Announce the next step."""
        self.n_steps += 1
        self.line(f"{self.n_steps}/{self.n_all} {text}")

    def line(self, text: str) -> None:
        """Print a line of the present step."""
        clock = f"[{time.monotonic() - self.begin:3.0f} s] "
        indent = " " * (len(clock) + 4)
        for line in textwrap.wrap(
            f"{clock}{text}",
            WIDTH,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ):
            self.say(line)

    def detail(self, text: str) -> None:
        """Print an indented line of the present step."""
        self.line(f"    {text}")
