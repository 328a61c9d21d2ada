"""Plan a number of RL steps: finish a few checkpoints, or probe more of them first.

A split probes m checkpoints to step s, keeps the k most promising, and finishes these:

    steps = m s + k (B - s)                       B: steps of a finished run

The score at step s is an observation of the final score. Let r be the correlation of both inside a
group (`early_reliability`), and t the standard deviation of final scores inside a group. Then

    score at s = true final score + common shift + e,    e ~ N(0, t^2 (1 - r^2) / r^2)

The posterior mean under this model decides which k are finished, and which one is kept. The
expected regret of a split is an average over joint draws, which are the same for all splits. m = k
is "finish k now", the plan without probes. A split with probes is proposed only if it saves more
than twice the Monte Carlo error of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlready.predictors.decisions.draw_blocks import block_sizes, expected_order
from rlready.predictors.decisions.rl_plan import Incumbent, PlanRule
from rlready.predictors.predictive import Predictive
from rlready.predictors.public.early_rl import EarlyReliability, earliest_drop, early_reliability
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

_STEPS_TRIED = 4
_MOST_PROBED = 64
_FREE_SHIFT = 100.0
"""Variance of the common shift between early and final scores, in variances of final scores."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An RL run that was started and not finished.

    Args:
        step: number of RL steps done.
        value: score at this step, in the unit of the outcome, higher is better.
        is_rising: whether the curve still rises, so that the probe underestimates the final score.
    """

    step: float
    value: float
    is_rising: bool = False


@dataclass(frozen=True, kw_only=True)
class Split:
    """One way to spend the steps, with its expected regret.

    Args:
        n_probed: number of runs that are started.
        step: step at which all but `n_finished` runs are dropped; the budget if none is dropped.
        n_finished: number of runs that reach the budget.
        steps: total number of RL steps.
        regret: expected regret, in the unit of the outcome.
        regret_se: Monte Carlo error of the regret.
    """

    n_probed: int
    step: float
    n_finished: int
    steps: float
    regret: float
    regret_se: float

    def __str__(self) -> str:
        if self.n_probed == self.n_finished:
            return f"finish {self.n_finished} now"
        return f"probe {self.n_probed} to step {self.step:g}, finish the best {self.n_finished}"


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """A plan for the steps.

    Args:
        chosen: ids of the checkpoints to start, in this order.
        best: the proposed split.
        finish_now: the split without probes.
        splits: all compared splits, the best first.
        notes: notes for the reader.
    """

    chosen: tuple[str, ...]
    best: Split
    finish_now: Split
    splits: tuple[Split, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "chosen": list(self.chosen),
            "best": vars(self.best),
            "finish_now": vars(self.finish_now),
            "splits": [vars(split) for split in self.splits],
            "notes": list(self.notes),
        }


def plan_steps(
    predictive: Predictive,
    ids: Sequence[str],
    total: float,
    *,
    budget: float,
    spread: float,
    rl_noise: float,
    incumbent: Incumbent | None = None,
    reliability: EarlyReliability | None = None,
    in_steps: bool = True,
    rule: PlanRule | None = None,
) -> StepPlan:
    """Compare ways to spend a number of RL steps.

    Args:
        predictive: distribution of the true final scores of n candidates.
        ids: (n,) ids of the candidates.
        total: number of RL steps to spend.
        budget: number of RL steps of a finished run.
        spread: standard deviation of final scores inside a group.
        rl_noise: standard deviation of one RL run's score around the true one.
        incumbent: the best checkpoint that already had its RL run.
        reliability: reliability of early scores; by default that of public RL curves.
        in_steps: whether the budget is in RL steps, not in another unit.
        rule: draws and seed.

    Raises:
        ConfigError: if there are no candidates, a number is invalid, or `total` is less than one
            probe costs.

    Example:
        >>> plan = plan_steps(predictive, ids, 600, budget=200, spread=0.05, rl_noise=0.01)
        >>> str(plan.best)
        'probe 6 to step 67, finish the best 1'
    """
    rule = rule or PlanRule(n_draws=4000)
    reliability = reliability or early_reliability()
    earliest = earliest_drop(budget, in_steps=in_steps) if budget > 0 else 0.0
    _check(predictive, ids, total, budget, spread, rl_noise, earliest)
    if total < budget:
        least = budget + earliest if len(ids) > 1 and earliest < budget else budget
        raise ConfigError(
            f"{total:g} RL steps finish no run of {budget:g} steps",
            why="a probe alone gives no finished checkpoint",
            fix=f"Give {budget:g} or more; a choice between two probes needs {least:g}",
        )
    n_max = min(len(ids), int(total // earliest), _MOST_PROBED)
    choosing, judging = np.random.default_rng(rule.seed).spawn(2)
    floor = -np.inf if incumbent is None else incumbent.value
    order = expected_order(predictive, n_max, floor, rule.n_draws, choosing)
    world = _World.drawn(predictive, order, spread, rl_noise, incumbent, rule.n_draws, judging)
    n_now = min(int(total // budget), n_max)
    options = [(n_now, budget, n_now)]
    options += _options(total, budget, earliest, n_max, in_steps)
    outcomes = [
        (option, world.regret(option, reliability.at(option[1], budget, in_steps=in_steps)))
        for option in options
    ]
    splits = [_split(option, budget, regret) for option, regret in outcomes]
    at = int(np.argmin([split.regret for split in splits]))
    if at:
        saved = outcomes[0][1] - outcomes[at][1]
        if saved.mean() < 2.0 * saved.std() / math.sqrt(len(saved)):
            at = 0
    best = splits[at]
    return StepPlan(
        chosen=tuple(ids[int(row)] for row in order[: best.n_probed]),
        best=best,
        finish_now=splits[0],
        splits=tuple(sorted(splits, key=lambda split: split.regret)),
        notes=(
            f"the reliability of early scores is that of {reliability.n_runs} public RL runs "
            f"({reliability.source}); no run is dropped before step {earliest:g}",
        ),
    )


def conditioned(
    predictive: Predictive,
    probes: Sequence[Probe | None],
    *,
    budget: float,
    spread: float,
    reliability: EarlyReliability | None = None,
    in_steps: bool = True,
) -> Predictive:
    """Return the distribution of final scores after some runs were probed.

    Only differences between probes of one group are used, because it is unknown how far all runs of
    a group will still rise. For a curve that still rises, half of the correlation is used.

    Args:
        predictive: distribution of n true final scores before the probes.
        probes: (n,) probes of the candidates; None for a candidate without a probe.
        budget: number of RL steps of a finished run.
        spread: standard deviation of final scores inside a group.
        reliability: reliability of early scores; by default that of public RL curves.
        in_steps: whether budgets are in RL steps, not in another unit.
    """
    reliability = reliability or early_reliability()
    mean, row_sd = predictive.mean.copy(), predictive.row_sd.copy()
    for group in np.unique(predictive.groups):
        members = np.flatnonzero(predictive.groups == group).tolist()
        pairs = [(row, probe) for row in members if (probe := probes[row]) is not None]
        rows = np.array([row for row, _ in pairs], dtype=np.intp)
        probed = [probe for _, probe in pairs]
        if len(probed) < 2:
            continue
        trusted = [
            reliability.at(probe.step, budget, in_steps=in_steps) / (2.0 if probe.is_rising else 1)
            for probe in probed
        ]
        noise = [_observation_variance(correlation, spread) for correlation in trusted]
        shift = np.full((len(rows), len(rows)), _FREE_SHIFT * spread**2)
        prior = np.diag(row_sd[rows] ** 2)
        gain = np.linalg.solve(prior + shift + np.diag(noise), prior).T
        values = np.array([probe.value for probe in probed])
        # The mean difference estimates the shift; its large variance absorbs the rest.
        gap = values - mean[rows]
        mean[rows] = mean[rows] + gain @ (gap - gap.mean())
        remaining = np.diag(prior - gain @ prior)
        row_sd[rows] = np.sqrt(np.maximum(remaining, 1e-4 * row_sd[rows] ** 2))
    return replace(predictive, mean=mean, row_sd=row_sd)


def is_rising(values: Sequence[float], errors: Sequence[float] | None = None) -> bool:
    """Return whether the last third of a curve rises by more than twice its error.

    Args:
        values: the evaluations, in the order of the steps.
        errors: their standard errors; by default the scatter around the line.
    """
    last = np.asarray(values, dtype=np.float64)[-max(len(values) // 3, 3) :]
    if len(last) < 3:
        return False
    x = np.arange(len(last)) - (len(last) - 1) / 2.0
    slope = float(x @ last / (x @ x))
    scatter = float(np.std(last - last.mean() - slope * x, ddof=0))
    if errors is not None:
        scatter = max(scatter, float(np.mean(np.asarray(errors)[-len(last) :])))
    return slope > 2.0 * scatter / math.sqrt(float(x @ x))


@dataclass(frozen=True, eq=False)
class _World:
    """D joint draws of the scores of the n candidates that could be started.

    Args:
        prior: (n, n) covariance of their true scores.
        mean: (n,) expected scores.
        truth: (D, n) true scores.
        probe_noise: (D, n) standard normal numbers.
        final: (D, n) scores of finished runs.
        best: (D,) best true scores of all candidates and the incumbent.
        incumbent: (D,) true scores of the incumbent; -inf without one.
        expected: expected score of the incumbent; -inf without one.
        spread: standard deviation of final scores inside a group.
        rl_noise: standard deviation of the noise of one run.
    """

    prior: FloatArray
    mean: FloatArray
    truth: FloatArray
    probe_noise: FloatArray
    final: FloatArray
    best: FloatArray
    incumbent: FloatArray
    expected: float
    spread: float
    rl_noise: float

    @staticmethod
    def drawn(
        predictive: Predictive,
        order: np.ndarray[Any, np.dtype[np.intp]],
        spread: float,
        rl_noise: float,
        incumbent: Incumbent | None,
        n_draws: int,
        rng: np.random.Generator,
    ) -> _World:
        started, best = np.empty((n_draws, len(order))), np.empty(n_draws)
        start = 0
        for size in block_sizes(n_draws, len(predictive.mean)):
            truth, block = predictive.draw(size, rng), slice(start, start + size)
            started[block], best[block] = truth[:, order], truth.max(axis=1)
            start += size
        expected = -math.inf if incumbent is None else incumbent.value
        true_incumbent = np.full(n_draws, expected)
        if incumbent is not None:
            true_incumbent = true_incumbent + incumbent.sd * rng.standard_normal(n_draws)
        rows = predictive.rows(order).matched()
        same = rows.groups[:, None] == rows.groups[None, :]
        prior = np.where(same, np.outer(rows.group_sd, rows.group_sd), 0.0)
        return _World(
            prior=prior + np.diag(rows.row_sd**2),
            mean=rows.mean,
            truth=started,
            probe_noise=rng.standard_normal(started.shape),
            final=started + rl_noise * rng.standard_normal(started.shape),
            best=np.maximum(best, true_incumbent),
            incumbent=true_incumbent,
            expected=expected,
            spread=spread,
            rl_noise=rl_noise,
        )

    def regret(self, option: tuple[int, float, int], correlation: float) -> FloatArray:
        """Return the (D,) regrets of a split, given the correlation of probes and final scores."""
        m, _, k = option
        prior, mean, truth = self.prior[:m, :m], self.mean[:m], self.truth[:, :m]
        believed = np.broadcast_to(mean, truth.shape)
        covariance = prior
        if k < m:
            noise = _observation_variance(correlation, self.spread)
            early = truth + math.sqrt(noise) * self.probe_noise[:, :m]
            # The common shift is unknown, so only differences between probes count.
            shift = np.full((m, m), _FREE_SHIFT * self.spread**2)
            gain = np.linalg.solve(prior + shift + noise * np.eye(m), prior)
            believed = (
                mean + (early - early.mean(axis=1, keepdims=True) - mean + mean.mean()) @ gain
            )
            covariance = prior - prior @ gain
        finished = np.argsort(-believed, axis=1)[:, :k]
        variance = np.maximum(np.diag(covariance), 1e-12)
        weight = variance / (variance + self.rl_noise**2)
        final_means = believed + weight * (self.final[:, :m] - believed)
        values = np.take_along_axis(final_means, finished, axis=1)
        at = values.argmax(axis=1)[:, None]
        row = np.take_along_axis(finished, at, axis=1)
        score = np.take_along_axis(truth, row, axis=1)[:, 0]
        is_better = np.take_along_axis(values, at, axis=1)[:, 0] > self.expected
        regret: FloatArray = self.best - np.where(is_better, score, self.incumbent)
        return regret


def _options(
    total: float, budget: float, earliest: float, n_max: int, in_steps: bool
) -> list[tuple[int, float, int]]:
    """Return the splits (probed, step, finished) that cost at most `total` steps."""
    steps = np.geomspace(earliest, budget, _STEPS_TRIED + 1)[:-1]
    if in_steps:
        steps = np.unique(np.ceil(steps))
    return [
        (m, float(step), k)
        for step in steps
        if step < budget
        for m in range(2, n_max + 1)
        if 1 <= (k := int((total - m * step) // (budget - step))) < m
    ]


def _split(option: tuple[int, float, int], budget: float, regret: FloatArray) -> Split:
    m, step, k = option
    return Split(
        n_probed=m,
        step=step,
        n_finished=k,
        steps=m * step + k * (budget - step),
        regret=float(regret.mean()),
        regret_se=float(regret.std() / math.sqrt(len(regret))),
    )


def _observation_variance(correlation: float, spread: float) -> float:
    """Return the error variance of an early score as an observation of the final one."""
    square = min(max(correlation, 0.01), 0.999) ** 2
    return spread**2 * (1.0 - square) / square


def _check(
    predictive: Predictive,
    ids: Sequence[str],
    total: float,
    budget: float,
    spread: float,
    rl_noise: float,
    earliest: float,
) -> None:
    if not len(predictive.mean) or len(ids) != len(predictive.mean):
        raise ConfigError(
            f"a plan needs candidates: there are {len(ids)} ids for {len(predictive.mean)} rows",
            fix="Evaluate checkpoints that had no RL run yet",
        )
    numbers: Mapping[str, float] = {"the RL steps of a finished run": budget, "the spread": spread}
    for name, number in numbers.items():
        if not 0.0 < number < math.inf:
            raise ConfigError(f"{name} is {number:g}", fix="Give a number above 0")
    if not 0.0 <= rl_noise < math.inf:
        raise ConfigError(
            f"the noise of one RL run is {rl_noise}", fix="Give its standard deviation, 0 or more"
        )
    if not math.isfinite(total):
        raise ConfigError(
            f"{total:g} is not a number of RL steps",
            fix=f"Give {budget:g} or more, which finishes one run",
        )
    if total < earliest:
        raise ConfigError(
            f"{total:g} RL steps are less than one probe costs",
            why=f"no run is judged before step {earliest:g} of {budget:g}",
            fix=f"Give {budget:g} or more, which finishes one run",
        )
