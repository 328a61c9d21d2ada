"""The reliability of early evaluations of RL runs, measured on public RL curves.

    reliability(s) = correlation, over RL runs from one base model, of the score at step s with the
                     score at the end

A score before RL says little about the order after RL; after tens of RL steps it says much. The
table comes from the 24 published RL curves of OctoThinker (arXiv 2506.20512, four benchmarks each).
`bench/rl_steps.py --learn` computes it and writes it to `early_rl.toml`. Runs that start from long
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
"""Earliest step at which a run is dropped: at 20, the order of late risers was nearly random."""

EARLIEST_SHARE = 1.0 / 3.0
"""Smallest share of the budget at which a run is dropped."""


@dataclass(frozen=True, kw_only=True)
class EarlyReliability:
    """Correlation of an early score with the final one, by RL step.

    Args:
        steps: rising RL steps, at least one.
        correlations: rising correlations, one for each step, within 0..1.
        n_runs: number of RL runs on which they were measured.
        source: source of these runs.

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

        It is linear in log(1 + step) between the measured steps. Half of a short run says at least
        as much as half of the longest measured run, so a step counts as at least its share of it.

        Args:
            step: point of the early score, in the unit of the budget.
            budget: budget of a finished run.
            in_steps: whether both are in RL steps; in another unit, only the share is used.
        """
        if step >= budget:
            return 1.0
        share = min(step / budget, 1.0) * self.steps[-1]
        equivalent = max(step, share) if in_steps else share
        correlation = np.interp(np.log1p(equivalent), np.log1p(self.steps), self.correlations)
        return float(correlation)


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
        budget: budget of a finished run.
        in_steps: whether it is in RL steps, not in another unit.

    Example:
        >>> earliest_drop(90), earliest_drop(300)
        (40.0, 100.0)
    """
    share = EARLIEST_SHARE * budget
    return float(min(budget, max(EARLIEST_STEP, np.ceil(share)) if in_steps else share))
