"""Propose how to spend a number of RL steps on the registry's checkpoints.

An RL run that was started and not finished appears as outcomes at smaller budgets: the target
`value_at_budget/60steps@gsm8k` has the probes `value_at_budget/<less than 60>steps@gsm8k`. They are
recorded like any outcome (`rlready outcome --budget 20`, or a whole curve).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from rlready.predictors.decisions.rl_plan import EXPECTED, Incumbent, PlanRule
from rlready.predictors.decisions.step_plan import (
    Probe,
    Split,
    StepPlan,
    conditioned,
    is_rising,
    plan_steps,
)
from rlready.predictors.training_table import TrainingTable
from rlready.registry.errors import ConfigError
from rlready.registry.outcomes import BudgetUnit
from rlready.registry.table import beside
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.plan import (
    candidate_rows,
    doubt_about_replay,
    incumbent,
    replay_of,
)

_KEY = re.compile(
    rf"(?P<statistic>\w+)/(?P<budget>[^@]+?)(?P<unit>{'|'.join(get_args(BudgetUnit))})@(?P<on>.+)"
)
_N_DRAWS = 4000
_MOST_REPLAYED = 8


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """A plan of RL steps for the registry.

    Args:
        plan: the proposed split and the others.
        target: the outcome.
        total: number of steps to spend.
        budget: budget of a finished run.
        unit: unit of `total` and `budget`.
        probes: runs that were started, by name of the checkpoint.
        incumbent: the best checkpoint that had its RL run; None if none had.
        is_retrospective: whether every checkpoint has its outcome, and the plan was made as if
            none had.
        factor: realised share of the expected regret of plans on recorded outcomes; the regrets
            are multiplied by it. None if it is unknown; the regrets are then not corrected.
        applied: the predictor with the registry's rows.
    """

    plan: StepPlan
    target: str
    total: float
    budget: float
    unit: str
    probes: Mapping[str, Probe]
    incumbent: Incumbent | None
    is_retrospective: bool
    factor: float | None
    applied: AppliedPredictor

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as one JSON object: the contract of `rlready plan --rl-steps --json`."""
        return {
            **self.plan.to_dict(),
            "target": self.target,
            "predictor": self.applied.meta.uri,
            "total": self.total,
            "budget": self.budget,
            "unit": self.unit,
            "probes": {name: vars(probe) for name, probe in self.probes.items()},
            "still_rising": [name for name, probe in self.probes.items() if probe.is_rising],
            "incumbent": None if self.incumbent is None else vars(self.incumbent),
            "is_retrospective": self.is_retrospective,
            "factor": self.factor,
        }


def plan_applied_steps(
    applied: AppliedPredictor,
    total: float,
    *,
    rl_noise: float | None = None,
    rule: PlanRule | None = None,
) -> StepReport:
    """Propose how many checkpoints to probe, to which step, and how many to finish.

    Args:
        applied: the predictor with the registry's rows.
        total: number of RL steps to spend, in the unit of the target's budget.
        rl_noise: standard deviation of one RL run's score; by default from the outcomes' errors.
        rule: draws and seed.

    Raises:
        ConfigError: if a number is invalid, or no plan can be made.

    Example:
        >>> report = plan_applied_steps(applied, 600)  # doctest: +SKIP
        >>> str(report.plan.best)  # doctest: +SKIP
        'probe 8 to step 67, finish the best 1'
    """
    rows, is_retrospective = candidate_rows(applied)
    budget, unit = budget_of(applied.data.target)
    noise = applied.predictor.run_noise if rl_noise is None else rl_noise
    best_so_far = None if is_retrospective else incumbent(applied, noise)
    probes = {} if is_retrospective else probes_of(applied)
    spread = max(spread_in_groups(applied.data.table), noise, 1e-9)
    names, in_steps = [applied.names[row] for row in rows], unit == "steps"
    predictive = conditioned(
        applied.unseen.rows(rows),
        [probes.get(name) for name in names],
        budget=budget,
        spread=spread,
        in_steps=in_steps,
    )
    made = plan_steps(
        predictive,
        names,
        total,
        budget=budget,
        spread=spread,
        rl_noise=noise,
        incumbent=best_so_far,
        in_steps=in_steps,
        rule=rule or PlanRule(n_draws=_N_DRAWS),
    )
    doubt = doubt_about_replay(applied, rows)
    replayed = None if doubt else replay_of(applied, _MOST_REPLAYED)
    factor = None if replayed is None else replayed.factors[EXPECTED]
    notes = [*made.notes, *_notes_on(probes), *([doubt] if doubt else [])]
    made = replace(_scaled(made, factor or 1.0), notes=tuple(notes))
    return StepReport(
        plan=made,
        target=applied.data.target,
        total=total,
        budget=budget,
        unit=unit,
        probes=probes,
        incumbent=best_so_far,
        is_retrospective=is_retrospective,
        factor=factor,
        applied=applied,
    )


def budget_of(target: str) -> tuple[float, str]:
    """Return the budget of a finished run and its unit, from the name of the outcome.

    Raises:
        ConfigError: if the name has no budget.

    Example:
        >>> budget_of("value_at_budget/60steps@gsm8k")
        (60.0, 'steps')
    """
    match = _KEY.fullmatch(target)
    if match is None:
        raise ConfigError(
            f"the name of the outcome {target} has no budget of an RL run",
            fix="Record outcomes with `rlready outcome --budget`, and fit a predictor of them",
        )
    return float(match["budget"]), match["unit"]


def spread_in_groups(table: TrainingTable) -> float:
    """Return the standard deviation of outcomes inside groups, or of all outcomes if it is 0."""
    has_outcome = np.isfinite(table.y)
    y, groups = table.y[has_outcome], table.groups[has_outcome]
    names, group_of = np.unique(groups, return_inverse=True)
    if len(y) <= len(names):
        return float(y.std())
    means = np.bincount(group_of, y) / np.bincount(group_of)
    return float(np.sqrt(((y - means[group_of]) ** 2).sum() / (len(y) - len(names))))


def probes_of(applied: AppliedPredictor) -> dict[str, Probe]:
    """Return the probes of the rows without an outcome: their scores at smaller budgets.

    A score that is a proxy of the predictor is left out, because its prediction uses it already.
    """
    frame, target = applied.data.frame, _KEY.fullmatch(applied.data.target)
    if target is None:
        return {}
    proxies = {name for name, *_ in applied.predictor.columns_}
    columns = {}
    for name in set(map(str, frame.columns)) - proxies:
        key = _KEY.fullmatch(name)
        if key is None or (key["statistic"], key["on"]) != (target["statistic"], target["on"]):
            continue
        if key["unit"] == target["unit"] and float(key["budget"]) < float(target["budget"]):
            columns[float(key["budget"])] = name
    sign = -1.0 if applied.data.table.lower_is_better else 1.0
    probes = {}
    for row in np.flatnonzero(~applied.has_outcome):
        steps, values, errors = [], [], []
        for step in sorted(columns):
            value = float(frame[columns[step]].iloc[row])
            if math.isfinite(value):
                error = frame.get(beside(columns[step], "se"))
                steps.append(step)
                values.append(sign * value)
                errors.append(0.0 if error is None else float(np.nan_to_num(error.iloc[row])))
        if steps:
            probes[applied.names[row]] = Probe(
                step=steps[-1], value=values[-1], is_rising=is_rising(values, errors)
            )
    return probes


def _notes_on(probes: Mapping[str, Probe]) -> list[str]:
    if not probes:
        return []
    notes = [
        f"{len(probes)} runs were started: the differences of their scores inside a group are "
        "used. The plan counts each run in full, so it costs less to continue them"
    ]
    rising = [name for name, probe in probes.items() if probe.is_rising]
    if rising:
        notes.append(
            f"still rising, so the score so far is less reliable: {', '.join(rising[:5])}"
            + (f" and {len(rising) - 5} more" if len(rising) > 5 else "")
        )
    return notes


def _scaled(plan: StepPlan, factor: float) -> StepPlan:
    """Return a plan with all regrets multiplied by a factor."""

    def scaled(split: Split) -> Split:
        return replace(split, regret=factor * split.regret, regret_se=factor * split.regret_se)

    return replace(
        plan,
        best=scaled(plan.best),
        finish_now=scaled(plan.finish_now),
        splits=tuple(map(scaled, plan.splits)),
    )
