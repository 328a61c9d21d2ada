"""The clock of a stage that begins more than once."""

from __future__ import annotations

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
