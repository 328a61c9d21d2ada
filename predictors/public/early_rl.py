"""How well an early evaluation of RL runs orders their final scores, from public RL curves.

    reliability(s) = correlation, over RL runs from one base model, of the score at step s with the
                     score at the end

A high score before RL says little of the order after RL; after tens of RL steps it says much. The
table comes from the 24 published RL curves of OctoThinker (arXiv 2506.20512, four benchmarks each):
`bench/rl_steps.py --learn` computes it and `early_rl.toml` carries it. Runs that start from long
chains of thought rise late, so at each step the table has the lowest correlation among horizons
of 80 to 300 steps.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

HEADER = """\
# Written by `python bench/rl_steps.py --learn`. Do not edit.
#
# correlation: of the score at `step` with the mean of the last five evaluations, over RL runs from
# one base model; mean over benchmarks, the lowest among the horizons, made to rise with the step.
"""

EARLIEST_STEP = 40
"""No run is dropped before: at 20 steps the order of late risers was still nearly random."""

EARLIEST_SHARE = 1.0 / 3.0
"""Nor before this share of the budget."""


@dataclass(frozen=True, kw_only=True)
class EarlyReliability:
    """Correlation of an early score with the final one, by RL step.

    Args:
        steps: rising, at least one.
        correlations: one for each step, rising, within 0..1.
        n_runs: RL runs that it was measured on.
        source: where they are from.

    Example:
        >>> reliability = early_reliability()
        >>> reliability.at(40, 300) > reliability.at(20, 300)
        True
    """

    steps: tuple[float, ...]
    correlations: tuple[float, ...]
    n_runs: int
    source: str

    def at(self, step: float, budget: float, *, in_steps: bool = True) -> float:
        """Return the correlation of the score at a step with the score at the budget.

        It is linear in log(1 + step) between the measured steps. Half of a short run says no less
        than half of the longest measured run, so a step counts as at least its share of that run.

        Args:
            step: where the early score was measured, in the unit of the budget.
            budget: of a finished run.
            in_steps: whether both are in RL steps; in another unit only the share counts.
        """
        if step >= budget:
            return 1.0
        share = min(step / budget, 1.0) * self.steps[-1]
        equivalent = max(step, share) if in_steps else share
        known = np.interp(np.log1p(equivalent), np.log1p(self.steps), self.correlations)
        return float(known)


def early_reliability() -> EarlyReliability:
    """Return the table that comes with the package."""
    path = files("rlready.predictors.public") / "early_rl.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return EarlyReliability(
        steps=tuple(float(row["step"]) for row in table["knots"]),
        correlations=tuple(float(row["correlation"]) for row in table["knots"]),
        n_runs=int(table["n_runs"]),
        source=str(table["source"]),
    )


def earliest_drop(budget: float, *, in_steps: bool = True) -> float:
    """Return the first point at which a run may be dropped.

    It is a third of the budget, and not before step 40 if the budget is in steps.

    Args:
        budget: of a finished run.
        in_steps: whether it is in RL steps and not in another unit.

    Example:
        >>> earliest_drop(90), earliest_drop(300)
        (40.0, 100.0)
    """
    share = EARLIEST_SHARE * budget
    return float(min(budget, max(EARLIEST_STEP, np.ceil(share)) if in_steps else share))
