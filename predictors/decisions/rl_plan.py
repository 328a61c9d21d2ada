"""Choose the checkpoints for N RL runs, and estimate the value of each further run.

A plan is judged by its expected regret: the true score of the best of all candidates minus the true
score of the checkpoint that is kept at the end. Each chosen checkpoint is observed with the noise
of one RL run, and the one with the best posterior mean is kept. Both scores are averages over joint
draws from the prediction (`Predictive`), with errors that groups share and variances that are
themselves uncertain. The expected regret is therefore as reliable as the prediction.

A planner may ignore the outcome of a run. So N runs never have a larger expected regret than fewer.

Policies:

    predicted    the N best predictions
    expected     greedy: each choice adds most to the expected best true score of the chosen
                 (q-EI); it favours groups with an unknown level, and uncertain rows
    anchor       as predicted, but one of the N goes to the group with the least known level
    random       any N; keeps the best observed score
    <score>      the N best by a number such as post-SFT pass@1; keeps the best observed score

The last two do not use predictions. They are the current practice, which a plan should beat. Who
keeps the best observed score ignores nothing, so a further run can cost regret there: a lucky score
replaces a better checkpoint. The draws that choose are not the draws that judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.belief import posterior_means
from rlready.predictors.decisions.draw_blocks import block_sizes, expected_order
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

PREDICTED, EXPECTED, ANCHOR, RANDOM = "predicted", "expected", "anchor", "random"

Order = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class PlanRule:
    """The settings of a plan.

    Args:
        policy: predicted, expected or anchor.
        n_draws: number of joint draws that judge the plan; as many others choose the checkpoints.
        seed: seed of the draws.
    """

    policy: str = EXPECTED
    n_draws: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in (PREDICTED, EXPECTED, ANCHOR):
            raise ConfigError(
                f"there is no policy {self.policy!r}", fix=f"Give {PREDICTED}, {EXPECTED}, {ANCHOR}"
            )
        if self.n_draws < 100:
            raise ConfigError(f"{self.n_draws} draws are too few", fix="Give 100 or more")


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """The best checkpoint that already had its RL run. It can be kept without another run.

    Args:
        id: id of the checkpoint.
        value: its outcome, higher is better.
        sd: standard deviation of its true score around the outcome.
    """

    id: str
    value: float
    sd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunValue:
    """The value of N RL runs under a policy, in the target's unit.

    Args:
        n_runs: N.
        chosen: id of the checkpoint of the N-th run; None for random.
        regret: expected regret after N runs, with the correction of `plan_replay` if there is one.
        regret_se: Monte Carlo error of the regret.
        worth: regret that the N-th run saves, 0 or more for a policy that uses predictions; None
            for a first run without an incumbent.
        by_model: expected regret by the predictor alone, without correction.
    """

    n_runs: int
    chosen: str | None
    regret: float
    regret_se: float
    worth: float | None
    by_model: float


@dataclass(frozen=True, kw_only=True)
class RlPlan:
    """A plan: the checkpoints that get the RL runs.

    Args:
        chosen: N ids, in the order of the runs.
        policy: policy by which they were chosen.
        policies: regrets of every policy for 1 to the largest N runs, by name.
        p_best: probability of each candidate to have the best true score.
        rl_noise: standard deviation of one RL run's score.
        incumbent: the best checkpoint that already had its RL run; None if there is none.
        notes: notes for the reader.
    """

    chosen: tuple[str, ...]
    policy: str
    policies: Mapping[str, tuple[RunValue, ...]]
    p_best: Mapping[str, float]
    rl_noise: float
    incumbent: Incumbent | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; `policies` has the data of a figure of the regrets."""
        return {
            **vars(self),
            "chosen": list(self.chosen),
            "policies": {
                name: [vars(value) for value in values] for name, values in self.policies.items()
            },
            "p_best": dict(self.p_best),
            "incumbent": None if self.incumbent is None else vars(self.incumbent),
            "notes": list(self.notes),
        }

    def in_words(self) -> list[str]:
        """Return one sentence on the value of each run of the plan."""
        words = []
        for value in self.policies[self.policy][: len(self.chosen)]:
            if value.worth is None:
                words.append(f"1 RL run, from {value.chosen}: expected regret {value.regret:.2g}")
            else:
                words.append(
                    f"RL run {value.n_runs}, from {value.chosen}, is worth {value.worth:.2g}: "
                    f"expected regret {value.regret:.2g}"
                )
        return words


def true_scores(predictive: Predictive, rl_noise: float) -> Predictive:
    """Turn a distribution of scores of single RL runs into one of true scores.

    At least a hundredth of the row's variance stays, because the noise is an estimate too.
    """
    variance = np.maximum(predictive.row_sd**2 - rl_noise**2, 0.01 * predictive.row_sd**2)
    return replace(predictive, row_sd=np.sqrt(variance))


def plan(
    predictive: Predictive,
    ids: Sequence[str],
    n_runs: int,
    *,
    rl_noise: float,
    n_max: int | None = None,
    incumbent: Incumbent | None = None,
    scores: Mapping[str, FloatArray] | None = None,
    rule: PlanRule | None = None,
) -> RlPlan:
    """Return the candidates that get the next RL runs, and the regret of more or fewer runs.

    Args:
        predictive: distribution of the candidates' true scores (`true_scores`); none of them had
            RL yet.
        ids: (n,) ids of the candidates.
        n_runs: number of RL runs that can be paid.
        rl_noise: standard deviation of one RL run's score around the true one.
        n_max: largest number of runs for which regrets are given; by default `n_runs`, but at
            least 8.
        incumbent: the best checkpoint that already had its RL run.
        scores: naive scores by name, (n,) each, higher is better; each gives one more policy.
        rule: policy, draws and seed.

    Raises:
        ConfigError: if there are no candidates, or a number is invalid.

    Example:
        >>> plan(predictive, ids, 2, rl_noise=0.01).chosen
        ('step-500', 'step-1000')
    """
    rule = rule or PlanRule()
    scores = scores or {}
    _check(predictive, ids, n_runs, rl_noise, scores)
    n = len(ids)
    n_runs, notes = min(n_runs, n), () if n_runs <= n else (f"there are only {n} candidates",)
    n_max = min(max(n_runs, n_max if n_max is not None else 8), n)
    choosing, judging = np.random.default_rng(rule.seed).spawn(2)
    floor = -np.inf if incumbent is None else incumbent.value
    orders = {
        PREDICTED: np.argsort(-predictive.mean, kind="stable")[:n_max],
        EXPECTED: expected_order(predictive, n_max, floor, rule.n_draws, choosing),
    }
    if len(np.unique(predictive.groups)) > 1:
        orders[ANCHOR] = _with_anchor(predictive, orders[PREDICTED])
    naive = {name: np.argsort(-score, kind="stable")[:n_max] for name, score in scores.items()}
    regrets = {name: _Mean() for name in (*orders, *naive, RANDOM)}
    matched = predictive.matched()
    without, best = _Mean(), np.zeros(n)
    for n_draws in block_sizes(rule.n_draws, n):
        world = _World.drawn(predictive, matched, rl_noise, incumbent, n_draws, judging)
        for name, order in orders.items():
            regrets[name].add(world.best - _kept_by_posterior(world, order))
        for name, order in naive.items():
            regrets[name].add(world.best - _kept_by_score(world, order))
        mixed = _first_of(judging.random(world.truth.shape), n_max)
        regrets[RANDOM].add(world.best - _kept_by_score(world, mixed))
        best += np.bincount(world.truth.argmax(axis=1), minlength=n)
        if incumbent is not None:
            without.add((world.best - world.incumbent)[None])
    nothing = None if incumbent is None else without
    policies = {
        name: _values(regret, {**orders, **naive}.get(name), ids, nothing, name in orders)
        for name, regret in regrets.items()
    }
    policy = rule.policy
    if policy not in policies:
        policy, notes = PREDICTED, (*notes, "one group alone needs no anchor")
    best /= rule.n_draws
    return RlPlan(
        chosen=tuple(str(value.chosen) for value in policies[policy][:n_runs]),
        policy=policy,
        policies=policies,
        p_best={name: float(share) for name, share in zip(ids, best, strict=True)},
        rl_noise=rl_noise,
        incumbent=incumbent,
        notes=notes,
    )


@dataclass(frozen=True, eq=False)
class _World:
    """D joint draws of the scores of n candidates.

    Args:
        predictive: distribution of the draws.
        matched: the same after `Predictive.matched`.
        rl_noise: standard deviation of the noise of one run.
        truth: (D, n) true scores.
        observed: (D, n) scores of one RL run from each candidate.
        incumbent: (D,) true scores of the incumbent; -inf if there is none.
        expected: expected score of the incumbent; -inf if there is none.
    """

    predictive: Predictive
    matched: Predictive
    rl_noise: float
    truth: FloatArray
    observed: FloatArray
    incumbent: FloatArray
    expected: float

    @staticmethod
    def drawn(
        predictive: Predictive,
        matched: Predictive,
        rl_noise: float,
        incumbent: Incumbent | None,
        n_draws: int,
        rng: np.random.Generator,
    ) -> _World:
        """Draw from the predictive distribution."""
        truth = predictive.draw(n_draws, rng)
        observed = truth + rl_noise * rng.standard_normal(truth.shape)
        expected = -math.inf if incumbent is None else incumbent.value
        true_incumbent = np.full(n_draws, expected)
        if incumbent is not None:
            true_incumbent = true_incumbent + incumbent.sd * rng.standard_normal(n_draws)
        return _World(predictive, matched, rl_noise, truth, observed, true_incumbent, expected)

    @property
    def best(self) -> FloatArray:
        """The (D,) best true scores of all candidates and the incumbent."""
        best: FloatArray = np.maximum(self.truth.max(axis=1), self.incumbent)
        return best


def _with_anchor(predictive: Predictive, order: Order) -> Order:
    """Return the order with the best row of the least known group in the second place.

    It is the second place, not the last, so that every N from 2 on has its anchor.
    """
    least_known = np.flatnonzero(predictive.group_sd == predictive.group_sd.max())
    anchor = least_known[np.argmax(predictive.mean[least_known])]
    if len(order) < 2 or anchor == order[0]:
        return order
    rest = [int(row) for row in order if row != anchor]
    return np.array([rest[0], int(anchor), *rest[1:]], dtype=np.intp)[: len(order)]


def _kept_by_posterior(world: _World, order: Order) -> FloatArray:
    """Return the (N, D) true scores of the checkpoint kept after 1 ... N runs in this order."""
    scores = []
    for n in range(1, len(order) + 1):
        rows = order[:n]
        believed = posterior_means(
            world.predictive, world.matched, rows, world.observed[:, rows], world.rl_noise
        )
        scores.append(_kept(world, believed, world.truth[:, rows]))
    return np.array(scores)


def _kept_by_score(world: _World, order: Order) -> FloatArray:
    """Return the (N, D) true scores if the best observed score is kept; `order` (N,) or (D, N)."""
    rows = np.broadcast_to(order, (len(world.truth), order.shape[-1]))
    truth = np.take_along_axis(world.truth, rows, axis=1)
    observed = np.take_along_axis(world.observed, rows, axis=1)
    return np.array(
        [_kept(world, observed[:, :n], truth[:, :n]) for n in range(1, order.shape[-1] + 1)]
    )


def _kept(world: _World, believed: FloatArray, truth: FloatArray) -> FloatArray:
    """Return the (D,) true scores of the rows that are believed best, or of the incumbent."""
    at = believed.argmax(axis=1)[:, None]
    chosen = np.take_along_axis(truth, at, axis=1)[:, 0]
    is_better = np.take_along_axis(believed, at, axis=1)[:, 0] > world.expected
    scores: FloatArray = np.where(is_better, chosen, world.incumbent)
    return scores


class _Mean:
    """The means and Monte Carlo errors of N numbers over draws in blocks."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: FloatArray = np.zeros(0)
        self.squares: FloatArray = np.zeros(0)

    def add(self, values: FloatArray) -> None:
        """Add a block of (N, D) values."""
        n_new = values.shape[1]
        mean, squares = values.mean(axis=1), n_new * values.var(axis=1)
        if self.n:
            gap, total = mean - self.mean, self.n + n_new
            squares = self.squares + squares + gap**2 * self.n * n_new / total
            mean = self.mean + gap * n_new / total
        self.n, self.mean, self.squares = self.n + n_new, mean, squares

    @property
    def se(self) -> FloatArray:
        """The (N,) standard errors of the means."""
        error: FloatArray = np.sqrt(self.squares / self.n) / math.sqrt(self.n)
        return error


def _first_of(numbers: FloatArray, n_first: int) -> Order:
    """Return (D, n_first) positions of the smallest numbers of each row, the smallest first."""
    if n_first < numbers.shape[1]:
        some = np.argpartition(numbers, n_first - 1, axis=1)[:, :n_first]
    else:
        some = np.broadcast_to(np.arange(n_first), numbers.shape)
    inside = np.take_along_axis(numbers, some, axis=1).argsort(axis=1)
    first: Order = np.take_along_axis(some, inside, axis=1)
    return first


def _values(
    regrets: _Mean,
    order: Order | None,
    ids: Sequence[str],
    without: _Mean | None,
    may_ignore: bool,
) -> tuple[RunValue, ...]:
    """Return the value of 1 ... N runs; `without` is the regret of no run at all.

    With `may_ignore` a run whose outcome would cost regret is ignored, and the regret stays.
    """
    values: list[RunValue] = []
    before = None if without is None else (float(without.mean[0]), float(without.se[0]))
    for n, pair in enumerate(zip(regrets.mean.tolist(), regrets.se.tolist(), strict=True), start=1):
        now = min(pair, before) if may_ignore and before is not None else pair
        values.append(
            RunValue(
                n_runs=n,
                chosen=None if order is None else ids[int(order[n - 1])],
                regret=now[0],
                regret_se=now[1],
                worth=None if before is None else before[0] - now[0],
                by_model=now[0],
            )
        )
        before = now
    return tuple(values)


def _check(
    predictive: Predictive,
    ids: Sequence[str],
    n_runs: int,
    rl_noise: float,
    scores: Mapping[str, FloatArray],
) -> None:
    n = len(predictive.mean)
    if not n or len(ids) != n:
        raise ConfigError(
            f"a plan needs candidates: there are {len(ids)} ids for {n} predictions",
            fix="Evaluate checkpoints that had no RL run yet",
        )
    if n_runs < 1:
        raise ConfigError(f"a plan for {n_runs} RL runs is empty", fix="Give 1 or more")
    if not 0.0 <= rl_noise < math.inf:
        raise ConfigError(
            f"the noise of one RL run is {rl_noise}", fix="Give its standard deviation, 0 or more"
        )
    for name, score in scores.items():
        if len(score) != n or not np.isfinite(score).all():
            raise ConfigError(
                f"the score {name!r} is missing for some candidates",
                fix="Leave it out, or measure it",
            )
        if name in (PREDICTED, EXPECTED, ANCHOR, RANDOM):
            raise ConfigError(f"a score cannot be named {name!r}, which is a policy's name")
