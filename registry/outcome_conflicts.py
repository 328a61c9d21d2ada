"""Which outcomes hold, and which contradict each other.

Outcomes are never edited, and nothing is dropped: two values under one key are both kept. Which of
them is right is for a person to say, by an outcome that `replaces` the wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from rlready.registry.records import Outcome

Slot = tuple[object, ...]


def slot(outcome: Outcome) -> Slot:
    """What can have one value only: checkpoint, RL run (recipe, seed), statistic, measurement."""
    return (outcome.checkpoint_id, outcome.seed, outcome.key, *variant(outcome))


def variant(outcome: Outcome) -> tuple[str, str | None, str | None, str | None]:
    """How RL was done and how it was measured: what outcomes of one column must share."""
    return (
        outcome.rl_digest,
        outcome.benchmark_digest,
        outcome.protocol_digest,
        outcome.evaluator_version,
    )


def current(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that no other one replaces, in the order given."""
    given = list(outcomes)
    replaced = {outcome.replaces for outcome in given} - {None}
    if not replaced:
        return given  # spares the digests, of which a large registry has many
    return [outcome for outcome in given if outcome.id not in replaced]


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Outcomes with different values where there can be one value only.

    Args:
        outcomes: two or more, in the order in which they were put.
    """

    outcomes: tuple[Outcome, ...]

    def __str__(self) -> str:
        first = self.outcomes[0]
        values = ", ".join(f"{o.value:g} ({o.id[:12]})" for o in self.outcomes)
        seed = "no RL seed" if first.seed is None else f"RL seed {first.seed}"
        return (
            f"{first.key} of checkpoint {first.checkpoint_id[:12]}, {seed}, has the values {values}"
        )


def conflicts(outcomes: Iterable[Outcome]) -> list[Conflict]:
    """The contradictions among the outcomes that hold."""
    by_slot: dict[Slot, list[Outcome]] = {}
    for outcome in current(outcomes):
        by_slot.setdefault(slot(outcome), []).append(outcome)
    return [
        Conflict(outcomes=tuple(found))
        for found in by_slot.values()
        if len({outcome.value for outcome in found}) > 1
    ]


def how_rl_was_done(outcome: Outcome) -> str:
    """Algorithm and recipe in one line, for people."""
    recipe = outcome.rl_recipe
    return outcome.algorithm + (f" {json.dumps(recipe, ensure_ascii=False)}" if recipe else "")
