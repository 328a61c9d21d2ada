"""The clock of a stage that begins more than once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

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
