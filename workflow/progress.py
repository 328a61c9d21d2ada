"""Show progress bars on stderr, and record the times of the stages.

A bar that cannot move, in a pipe or a file, is printed again as a line from time to time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING

from rlready.registry.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

_WIDE = 110
"""Width of a terminal from which a bar shows everything."""
_NARROWEST = 72
"""Width below which it shows only the time that is left."""
_LINE_EVERY_S = 30.0
"""Time between two lines of a stage if the output is not a terminal, in seconds."""


@dataclass
class Stage:
    """The times and amounts of one stage, over all benchmarks.

    Args:
        seconds: wall time in which the evaluation waited for the stage.
        beside_s: wall time in which the stage ran at the same time as another stage.
        n_done: number of processed items, in the unit of the stage.
        n_tokens: number of tokens drawn or scored.
    """

    seconds: float = 0.0
    beside_s: float = 0.0
    n_done: int = 0
    n_tokens: int = 0

    def to_dict(self) -> dict[str, float | int]:
        """Return seconds, amounts and rates as JSON values."""
        rates, at_work_s = {}, self.seconds + self.beside_s
        if at_work_s > 0 and self.n_done:
            rates["per_s"] = round(self.n_done / at_work_s, 3)
        if at_work_s > 0 and self.n_tokens:
            rates["tokens_per_s"] = round(self.n_tokens / at_work_s, 1)
        amounts: dict[str, float | int] = {"seconds": round(self.seconds, 3), "n": self.n_done}
        if self.beside_s:
            amounts["beside_seconds"] = round(self.beside_s, 3)
        if self.n_tokens:
            amounts["n_tokens"] = self.n_tokens
        return {**amounts, **rates}


@dataclass
class Clock:
    """A clock that shows and times the stages of one evaluation.

    Example:
        clock = Clock()
        with clock.stage("sampling", "Sampling gsm8k", 64, "samples") as advance:
            advance(64)

    Args:
        console: shows bars and messages; None shows nothing.
        stages: times by the name of the stage.
    """

    console: Console | None = None
    stages: dict[str, Stage] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Time a stage and show its bar; call the yielded object with each new number of items."""
        stage = self.stages.setdefault(name, Stage())
        begin = time.perf_counter()
        bar = None if self.console is None else _bar(self.console, label, total, unit)
        try:
            with bar or contextlib.nullcontext(), _lines(bar):
                yield Advance(stage, bar, stage.n_done)
        finally:
            stage.seconds += time.perf_counter() - begin

    def beside(self, name: str, seconds: float, n: int) -> None:
        """Record `n` items that a stage processed while another stage ran."""
        stage = self.stages.setdefault(name, Stage())
        stage.beside_s += seconds
        stage.n_done += n

    def say(self, text: str) -> None:
        """Show one line."""
        if self.console is not None:
            self.console.print(redacted(text), highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Show one line as a warning."""
        if self.console is not None:
            line = f"warning: {redacted(text)}"
            self.console.print(line, style="yellow", highlight=False, markup=False)


@dataclass(frozen=True)
class Advance:
    """A function that records the progress of a stage and moves its bar.

    Args:
        stage: the stage, which may have processed items before.
        bar: the bar; None shows nothing.
        begun: number of items that the stage had processed when the bar started.
    """

    stage: Stage
    bar: Progress | None
    begun: int = 0

    def __call__(self, n: int, n_tokens: int = 0) -> None:
        """Record `n` more processed items and their tokens."""
        self.stage.n_done += n
        self.stage.n_tokens += n_tokens
        if self.bar is not None:
            task = self.bar.tasks[0]
            self.bar.update(task.id, advance=n, tokens=task.fields["tokens"] + n_tokens)

    def to(self, n: int) -> None:
        """Record that `n` items were processed since the bar started."""
        self(self.begun + n - self.stage.n_done)


@contextlib.contextmanager
def _lines(bar: Progress | None) -> Iterator[None]:
    """Print the bar as a line every `_LINE_EVERY_S`, unless it moves on a terminal."""
    if bar is None or (bar.console.is_terminal and not bar.console.is_dumb_terminal):
        yield
        return
    end = Event()

    def show() -> None:
        with contextlib.suppress(OSError):  # if stderr is closed, the work continues
            while not end.wait(_LINE_EVERY_S):
                bar.console.print(bar.get_renderable())

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _bar(console: Console, label: str, total: int, unit: str) -> Progress:
    """Return a bar on one line: in a narrow terminal the label is cut and tokens are left out."""
    from rich import progress
    from rich.table import Column
    from rich.text import Text

    is_narrow = console.width < _WIDE

    class Label(progress.ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class Rate(progress.ProgressColumn):
        def render(self, task: Task) -> Text:
            rate, elapsed = unit, task.elapsed or 0.0
            if elapsed > 0.0:
                rate += f" {task.completed / elapsed:,.1f}/s"
                if task.fields["tokens"] and not is_narrow:
                    rate += f" ({task.fields['tokens'] / elapsed:,.0f} tokens/s)"
            return Text(rate, style="progress.data.speed")

    def whole() -> Column:  # only the label may shrink
        return Column(no_wrap=True)

    times: list[progress.ProgressColumn] = [
        progress.TimeElapsedColumn(table_column=whole()),
        progress.TextColumn("left", table_column=whole()),
        progress.TimeRemainingColumn(table_column=whole()),
    ]
    if console.width < _NARROWEST:
        times = times[2:]
    bar = progress.Progress(
        Label(),
        progress.BarColumn(bar_width=10 if is_narrow else 24, table_column=whole()),
        progress.MofNCompleteColumn(table_column=whole()),
        Rate(table_column=whole()),
        *times,
        console=console,
    )
    bar.add_task(label, total=total, tokens=0)
    return bar
