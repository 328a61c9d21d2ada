"""What a plan, the usual practice and hindsight come to on checkpoints with hidden outcomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A checkpoint whose outcome was hidden until the plan was made.

    Args:
        name: of the checkpoint.
        practice: pass@1 after SFT, by which most people choose.
        predicted: score after RL, as predicted.
        low: lower end of the prediction's interval.
        high: upper end.
        reached: the true score after RL.
        se: its standard error.
    """

    name: str
    practice: float
    predicted: float
    low: float
    high: float
    reached: float
    se: float


@dataclass(frozen=True, kw_only=True)
class Story:
    """The reveal of the hidden outcomes.

    Args:
        rows: the hidden checkpoints, the best prediction first.
        plan: names that the plan chose.
        practice: as many names, by pass@1 after SFT.
        interval: of the predictions, for example "90%".
    """

    rows: tuple[Hidden, ...]
    plan: tuple[str, ...]
    practice: tuple[str, ...]
    interval: str

    def to_dict(self) -> dict[str, Any]:
        """Return the story as JSON values."""
        pair = self.disagreement()
        return {
            "hidden": [vars(row) for row in self.rows],
            "plan": list(self.plan),
            "practice": list(self.practice),
            "best": self.best().name,
            "disagreement": None if pair is None else [row.name for row in pair],
            "verdict": self.verdict(),
        }

    def best(self, names: Sequence[str] | None = None) -> Hidden:
        """Return the checkpoint that reached most, of all or of the named ones."""
        rows = [row for row in self.rows if names is None or row.name in names]
        return max(rows, key=lambda row: row.reached)

    def disagreement(self) -> tuple[Hidden, Hidden] | None:
        """Return the pair that prediction and pass@1 order differently, the predicted one first.

        Of several pairs it is the one with the largest predicted difference. None if there is none.
        """
        pairs = [
            (a, b)
            for a, b in itertools.permutations(self.rows, 2)
            if a.predicted > b.predicted and a.practice < b.practice
        ]
        return max(pairs, key=lambda pair: pair[0].predicted - pair[1].predicted, default=None)

    def table(self) -> list[str]:
        """Return a line for each checkpoint, in 80 columns."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'choice':<6}  {'checkpoint':<{width}}  pass@1   pred.  reached"]
        lines += [
            f"{self._chooser(row.name):<6}  {row.name:<{width}}  {row.practice:6.3f}  "
            f"{row.predicted:6.3f}  {row.reached:7.3f}"
            for row in self.rows
        ]
        return [line.rstrip() for line in lines]

    def accuracy(self) -> list[str]:
        """Return how many intervals and pairs were right, in words."""
        pairs = [(a, b) for a, b in itertools.permutations(self.rows, 2) if a.reached > b.reached]
        by_prediction = sum(a.predicted > b.predicted for a, b in pairs)
        by_practice = sum(a.practice > b.practice for a, b in pairs)
        n_inside = sum(row.low <= row.reached <= row.high for row in self.rows)
        return [
            f"Of {len(pairs)} pairs, the predictions order {by_prediction} as RL did, pass@1 "
            f"{by_practice}.",
            f"{n_inside} of {len(self.rows)} scores lie in the {self.interval} intervals of their "
            "predictions.",
        ]

    def difference(self) -> list[str]:
        """Return where prediction and practice differ most, and which was right, in words."""
        pair = self.disagreement()
        if pair is None:
            return ["Prediction and pass@1 order all hidden checkpoints alike."]
        a, b = pair
        if _is_close(a, b):
            end = "no clear difference."
        elif a.reached > b.reached:
            end = "the prediction was right."
        else:
            end = "pass@1 was right."
        return [
            "The pair on which prediction and pass@1 contradict each other, with the largest",
            "predicted difference (a rule that was written down before looking):",
            f"  {a.name}: pass@1 {a.practice:.3f}, predicted {a.predicted:.3f}",
            f"  {b.name}: pass@1 {b.practice:.3f}, predicted {b.predicted:.3f}",
            f"  After RL they reached {a.reached:.3f} and {b.reached:.3f}: {end}",
        ]

    def verdict(self) -> str:
        """Return what plan, practice and hindsight came to, one sentence."""
        n, best = len(self.plan), self.best()
        plan, practice = self.best(self.plan), self.best(self.practice)
        gap = abs(plan.reached - practice.reached)
        if set(self.plan) == set(self.practice):
            end = "both chose the same"
        elif plan == practice:
            end = "both found the same best one"
        elif _is_close(plan, practice):
            end = f"plan and practice differ by {gap:.3f}, less than 2 standard errors"
        else:
            winner = "plan" if plan.reached > practice.reached else "practice"
            end = f"the {winner} chose better by {gap:.3f}"
        return (
            f"Verdict: after RL, the best of the plan's {n} reached {plan.reached:.3f} "
            f"({plan.name}), the best of the {n} with the highest pass@1 reached "
            f"{practice.reached:.3f} ({practice.name}), and the best of all {len(self.rows)} "
            f"reached {best.reached:.3f} ({best.name}): {end}."
        )

    def _chooser(self, name: str) -> str:
        by = [label for label, names in self._choices() if name in names]
        return "both" if len(by) == 2 else "".join(by)

    def _choices(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("plan", self.plan), ("pass@1", self.practice)


def _is_close(a: Hidden, b: Hidden) -> bool:
    return abs(a.reached - b.reached) <= 2.0 * math.hypot(a.se, b.se)
