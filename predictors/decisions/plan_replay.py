"""The regret of a predictor's plans on recorded outcomes that it had not seen.

A plan's expected regret is a claim of the predictor. Recorded outcomes can check it. Parts of the
recorded rows are planned as if they had no outcome, from predictions by models that have not seen
the row. The regret in hindsight is then compared with the expected regret.

    realised regret = best recorded outcome of the part - best one among the N chosen

Both take a recorded outcome as the truth, so that they can be compared. Let R and E be the realised
and the expected regret of a policy, summed over N = 1, 2, ..., and P the number of parts. Then

    factor = (P R + E) / ((P + 1) E)

is the realised share of the expected regret; the expectation itself counts as one more part. `plan`
reports expected regrets multiplied by this factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import comb

from rlready.predictors.decisions.rl_plan import RANDOM, PlanRule, RlPlan, plan
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray

FEWEST_ROWS = 8
"""Smallest number of recorded outcomes for a replay."""

_MOST_PARTS = 4
_ROWS_OF_A_PART = 8
_REPEATS = 10
_MOST_ROWS = 240
"""Largest number of outcomes in a partition; of more outcomes, a random sample is taken."""
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class ReplayedRuns:
    """The average regret of N runs over the parts, in the target's unit.

    Args:
        n_runs: N.
        expected: regret that the predictor expected.
        realised: regret in hindsight.
        realised_se: standard error of `realised` over the parts of one partition.
    """

    n_runs: int
    expected: float
    realised: float
    realised_se: float


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The results of plans on recorded outcomes, by policy.

    Args:
        policies: results by name, for N = 1, 2, ... below the size of the smallest part.
        factors: realised share of the expected regret, by name.
        n_rows: number of recorded outcomes.
        n_parts: number of parts of a partition.
        n_repeats: number of random partitions.
    """

    policies: Mapping[str, tuple[ReplayedRuns, ...]]
    factors: Mapping[str, float]
    n_rows: int
    n_parts: int
    n_repeats: int

    def to_dict(self) -> dict[str, Any]:
        """Return the replay as JSON values."""
        return {
            **vars(self),
            "policies": {
                name: [vars(value) for value in values] for name, values in self.policies.items()
            },
            "factors": dict(self.factors),
        }

    def at(self, policy: str, n_runs: int) -> ReplayedRuns:
        """Return the result of N runs of a policy, or of the largest N that was replayed."""
        values = self.policies[policy]
        return values[min(n_runs, len(values)) - 1]

    def compared(self, policy: str, practice: str | None) -> list[str]:
        """Return the policies to compare: that of the plan, current practice and random choice."""
        names = [name for name in (policy, practice, RANDOM) if name is not None]
        return [name for name in names if name in self.policies]

    def corrected(self, made: RlPlan) -> RlPlan:
        """Return a plan with each regret multiplied by the factor of its policy."""
        policies = {
            name: tuple(
                replace(
                    value,
                    regret=factor * value.regret,
                    regret_se=factor * value.regret_se,
                    worth=None if value.worth is None else factor * value.worth,
                )
                for value in values
            )
            for name, values in made.policies.items()
            for factor in (self.factors.get(name, 1.0),)
        }
        return replace(made, policies=policies)


def replay(
    predictive: Predictive,
    outcomes: FloatArray,
    n_max: int,
    *,
    scores: Mapping[str, FloatArray] | None = None,
    rule: PlanRule | None = None,
) -> Replay | None:
    """Replay plans on recorded outcomes; None if there are too few of them.

    Args:
        predictive: distribution of n outcomes, each by models that have not seen it, with the
            noise of a run.
        outcomes: (n,) recorded outcomes, higher is better.
        n_max: largest number of runs for which regrets are given.
        scores: naive scores by name, (n,) each, higher is better; each gives one more policy.
        rule: rule with the seed.

    Example:
        >>> replayed = replay(predictive, table.y, 3)  # doctest: +SKIP
        >>> replayed.at("expected", 3).realised  # doctest: +SKIP
    """
    n = len(outcomes)
    if n < FEWEST_ROWS:
        return None
    scores = scores or {}
    rule = PlanRule(n_draws=_DRAWS, seed=0 if rule is None else rule.seed)
    n_parts = min(max(n // _ROWS_OF_A_PART, 2), _MOST_PARTS)
    n_max = min(n_max, min(n, _MOST_ROWS) // n_parts - 1)
    rng = np.random.default_rng(rule.seed)
    pairs: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
    for _ in range(_REPEATS):
        order = rng.permutation(n)[:_MOST_ROWS]
        for start in range(n_parts):
            rows = np.sort(order[start::n_parts])
            made = plan(
                predictive.rows(rows),
                [str(place) for place in range(len(rows))],
                1,
                rl_noise=0.0,
                n_max=n_max,
                scores={name: score[rows] for name, score in scores.items()},
                rule=rule,
            )
            for name, values in made.policies.items():
                expected = np.array([value.regret for value in values[:n_max]])
                chosen = None if name == RANDOM else [int(str(value.chosen)) for value in values]
                realised = _realised(outcomes[rows], chosen, n_max)
                pairs.setdefault(name, []).append((expected, realised))
    # Leave out a policy that some part lacks (a part with one group has no anchor policy).
    whole = {
        name: np.array(both) for name, both in pairs.items() if len(both) == n_parts * _REPEATS
    }
    return Replay(
        policies={name: _averages(both, n_parts) for name, both in whole.items()},
        factors={name: _factor(both, n_parts) for name, both in whole.items()},
        n_rows=n,
        n_parts=n_parts,
        n_repeats=_REPEATS,
    )


def _realised(outcomes: FloatArray, chosen: Sequence[int] | None, n_max: int) -> FloatArray:
    """Return the (n_max,) regrets in hindsight; for random choices (None) the expected ones."""
    if chosen is not None:
        best: FloatArray = np.maximum.accumulate(outcomes[list(chosen[:n_max])])
    else:
        n, rising = len(outcomes), np.sort(outcomes)
        # Count the choices of N random rows in which the i-th smallest outcome is the best.
        best = np.array(
            [comb(np.arange(n), runs - 1) @ rising / comb(n, runs) for runs in range(1, n_max + 1)]
        )
    regret: FloatArray = outcomes.max() - best
    return regret


def _averages(both: FloatArray, n_parts: int) -> tuple[ReplayedRuns, ...]:
    """Return the averages of (parts, 2, N) expected and realised regrets over the parts."""
    expected, realised = both.mean(axis=0)
    error = both[:, 1].std(axis=0, ddof=1) / np.sqrt(n_parts)
    return tuple(
        ReplayedRuns(n_runs=n, expected=float(e), realised=float(r), realised_se=float(s))
        for n, (e, r, s) in enumerate(zip(expected, realised, error, strict=True), start=1)
    )


def _factor(both: FloatArray, n_parts: int) -> float:
    expected, realised = both.mean(axis=0).sum(axis=1)
    if expected <= 0.0:
        return 1.0
    return float((n_parts * realised + expected) / ((n_parts + 1) * expected))
