"""Whether a checkpoint deserves RL: the chance that it ends about as well as the best one known.

    chance_i = P(m_i >= b_g - delta)

m_i is the true score after RL of checkpoint i under its predictive distribution, b_g what is best
in its group g: the best recorded outcome (with its standard error), or, where RL was not run in
the group yet, the best prediction. Then the level of the group, which both share, drops out.

READY from a chance of one half: more likely than not RL from here ends within delta of the best.
NOT_READY below one tenth: a wrong NOT_READY loses a good checkpoint for good, a wrong READY costs
one RL run, so a checkpoint is only written off when nine in ten bets say so. Everything between is
UNDECIDED, and so is every checkpoint for which the chance cannot be trusted: out of the domain,
stopped by the pre-flight, or in a registry whose proxies carry no signal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.draw_blocks import block_sizes
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TextArray
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.readiness_tag import Readiness


@dataclass(frozen=True, kw_only=True)
class ReadyRule:
    """When a checkpoint is called ready. A tag records the rule's digest.

    Args:
        ready_from: smallest chance of a READY checkpoint.
        not_ready_below: a NOT_READY one has a smaller chance.
        delta: how far below the best known still counts as good, in the target's unit. None: the
            noise of one RL run if it is known, else `delta_share` of the spread inside the group.
        delta_share: see `delta`.
        signal_level: with a larger p of the permutation test nothing is ranked.
        n_draws: of the joint distribution.
        seed: of these draws.
    """

    ready_from: float = 0.5
    not_ready_below: float = 0.1
    delta: float | None = None
    delta_share: float = 0.5
    signal_level: float = 0.05
    n_draws: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.not_ready_below <= self.ready_from <= 1.0:
            raise ConfigError(
                f"the rule calls READY from {self.ready_from} and NOT_READY below "
                f"{self.not_ready_below}",
                fix="Give 0 <= not ready <= ready <= 1",
            )
        if self.delta is not None and not 0.0 <= self.delta < np.inf:
            raise ConfigError(f"delta is {self.delta}", fix="Give a finite number of 0 or more")

    @property
    def digest(self) -> str:
        """Its id: rules that decide alike have the same."""
        return digest(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The outcome of a checkpoint that had its RL run: higher is better.

    Args:
        id: of the checkpoint.
        group: its group.
        value: the outcome.
        se: its standard error, None if unknown.
    """

    id: str
    group: str
    value: float
    se: float | None = None


@dataclass(frozen=True, kw_only=True)
class BestKnown:
    """What checkpoints of a group are measured against.

    Args:
        id: of the checkpoint.
        value: its outcome, or its prediction.
        se: standard error of an outcome, 0 if unknown.
        is_recorded: whether it is an outcome.
    """

    id: str
    value: float
    se: float
    is_recorded: bool

    def __str__(self) -> str:
        return f"the best {'recorded outcome' if self.is_recorded else 'prediction'} ({self.id})"


def best_known(
    predictive: Predictive,
    ids: Sequence[str],
    recorded: Sequence[Recorded],
    trusted: NDArray[np.bool_],
) -> dict[str, BestKnown]:
    """The best of each group among the candidates' groups.

    Args:
        predictive: of the candidates.
        ids: (n,) of the candidates.
        recorded: outcomes there are.
        trusted: (n,) whose predictions others may be measured against; a group without any such
            row is measured against its best prediction all the same.
    """
    found = {}
    for group in map(str, np.unique(predictive.groups)):
        outcomes = [one for one in recorded if one.group == group]
        if outcomes:
            best = max(outcomes, key=lambda one: one.value)
            found[group] = BestKnown(
                id=best.id, value=best.value, se=best.se or 0.0, is_recorded=True
            )
            continue
        inside = predictive.groups == group
        rows = np.flatnonzero(inside & trusted if (inside & trusted).any() else inside)
        row = int(rows[np.argmax(predictive.mean[rows])])
        found[group] = BestKnown(
            id=ids[row], value=float(predictive.mean[row]), se=0.0, is_recorded=False
        )
    return found


def deltas(predictive: Predictive, rl_noise: float | None, rule: ReadyRule) -> FloatArray:
    """(n,) how far below the best known still counts as good."""
    n = len(predictive.mean)
    known = rule.delta if rule.delta is not None else rl_noise
    if known is not None:
        return np.full(n, known)
    found = np.empty(n)
    for group in np.unique(predictive.groups):
        rows = predictive.groups == group
        spread = np.var(predictive.mean[rows]) + np.mean(predictive.row_sd[rows] ** 2)
        found[rows] = rule.delta_share * np.sqrt(spread)
    return found


def chances(
    predictive: Predictive, best: Mapping[str, BestKnown], delta: FloatArray, rule: ReadyRule
) -> FloatArray:
    """(n,) P(m_i >= best known of its group - delta_i)."""
    rng = np.random.default_rng(rule.seed)
    names: TextArray = predictive.groups
    by_row = [best[str(name)] for name in names]
    # A prediction shares the level of its group with the others; a recorded outcome does not.
    recorded = np.array([one.is_recorded for one in by_row])
    relative = dataclasses.replace(
        predictive, group_sd=np.where(recorded, predictive.group_sd, 0.0)
    )
    level = np.array([one.value for one in by_row]) - delta
    errors = np.array([one.se for one in by_row])
    group_of = np.searchsorted(sorted(best), names.tolist())
    n_above = np.zeros(len(names))
    for n_draws in block_sizes(rule.n_draws, len(names)):
        of_group = [rng.standard_normal((n_draws, 1)) for _ in best]
        error = np.hstack(of_group)[:, group_of] * errors
        n_above += (relative.draw(n_draws, rng) >= level + error).sum(axis=0)
    return n_above / rule.n_draws


def decide(chance: float, doubts: Sequence[str], rule: ReadyRule) -> Readiness:
    """The advice for one checkpoint; any doubt withholds it."""
    if doubts:
        return Readiness.UNDECIDED
    if chance >= rule.ready_from:
        return Readiness.READY
    return Readiness.NOT_READY if chance < rule.not_ready_below else Readiness.UNDECIDED
