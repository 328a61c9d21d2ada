"""The clock of a stage that begins more than once."""

from __future__ import annotations

import io
import queue
from threading import Thread

import pytest
from rich.console import Console

from rlready.workflow import progress
from rlready.workflow.progress import Clock


def test_a_running_count_is_of_its_own_bar_and_adds_to_the_stage() -> None:
    clock = Clock()
    with clock.stage("weights", "first", 3, "tensors") as advance:
        for n in (1, 2, 3):
            advance.to(n)
    with clock.stage("weights", "second", 2, "tensors") as advance:
        advance.to(1)
        assert clock.stages["weights"].n_done == 4
        advance.to(2)
    assert clock.stages["weights"].n_done == 5


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_stays_on_one_line(width: int) -> None:
    """Of 80 columns it took four lines: the rate and its unit were folded."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width)
    label = "Sampling a_benchmark_with_a_long_name"
    with Clock(console).stage("sampling", label, 8704, "samples") as advance:
        advance(416, 50_000)
    assert "416/8704" in out.getvalue()
    assert "\x1b[1A" not in out.getvalue()  # a bar of several lines is drawn again from its first
    assert "Sampling a_" in out.getvalue()


class Ticks:
    """An event whose waiting time ends when the test says so."""

    def __init__(self) -> None:
        self.waits: queue.Queue[float] = queue.Queue()
        self.ends: queue.Queue[bool] = queue.Queue()

    def wait(self, timeout: float) -> bool:
        self.waits.put(timeout)
        return self.ends.get(timeout=60)

    def tick(self) -> float:
        """Let the waiting time pass; return after what follows it is done."""
        seconds = self.waits.get(timeout=60)
        self.ends.put(False)
        self.waits.put(self.waits.get(timeout=60))
        return seconds

    def set(self) -> None:
        self.ends.put(True)


def test_a_pipe_gets_a_line_every_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the testbed trained, `make loop | tee` was silent for minutes."""
    ticks, out = Ticks(), io.StringIO()
    monkeypatch.setattr(progress, "Event", lambda: ticks)
    clock = Clock(Console(file=out, width=80))
    with clock.stage("testbed", "Testbed small", 4, "stages") as advance:
        assert ticks.tick() == 30.0
        advance(1)
        ticks.tick()
        advance(2)
        ticks.tick()
    shown = [line.split("stages")[0].split()[-1] for line in out.getvalue().splitlines()]
    assert shown == ["0/4", "1/4", "3/4", "3/4"]  # the last one is the end of the stage


def test_a_closed_pipe_does_not_stop_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.StringIO):
        is_closed = True

        def write(self, text: str) -> int:
            if self.is_closed:
                raise BrokenPipeError
            return super().write(text)

    ticks, pipe, threads = Ticks(), Pipe(), list[Thread]()

    class Noted(Thread):
        def start(self) -> None:
            threads.append(self)
            super().start()

    monkeypatch.setattr(progress, "Event", lambda: ticks)
    monkeypatch.setattr(progress, "Thread", Noted)
    monkeypatch.setattr(Console, "on_broken_pipe", raise_again)
    clock = Clock(Console(file=pipe, width=80))
    with clock.stage("testbed", "Testbed small", 4, "stages") as advance:
        ticks.ends.put(False)
        threads[0].join(60)
        pipe.is_closed = False  # the last line of rich
        advance(4)
    assert clock.stages["testbed"].n_done == 4


def raise_again(_: Console) -> None:
    raise  # as the command line's console does
