"""Decide whether a checkpoint is ready for RL: does it end about as well as the best known one?

    chance_i = P(m_i >= b_g - delta)

m_i is the true score after RL of checkpoint i, under its predictive distribution. b_g is the best
recorded outcome in its group g, with its standard error. If RL was not run in the group yet, b_g is
the best prediction; the level of the group, which both share, then cancels.

- READY: the chance is one half or more, so RL probably ends within delta of the best.
- NOT_READY: the chance is below one tenth. The limit is low because a wrong NOT_READY loses a good
  checkpoint for ever, while a wrong READY only costs one RL run.
- UNDECIDED: the chance is between the two, or it cannot be trusted, because the checkpoint is out
  of the domain, `check_start` stops it, or the registry's proxies have no signal.
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
    """The rule for readiness. A tag records the rule's digest.

    Args:
        ready_from: smallest chance of a READY checkpoint.
        not_ready_below: chance below which a checkpoint is NOT_READY.
        delta: largest distance below the best known that still counts as good, in the target's
            unit. None: the noise of one RL run if it is known, otherwise `delta_share` times the
            spread inside the group.
        delta_share: see `delta`.
        signal_level: largest p-value of the permutation test with which checkpoints are ranked.
        n_draws: number of draws of the joint distribution.
        seed: seed of these draws.
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
        """Return the id of the rule; rules with the same settings have the same id."""
        return digest(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The outcome of a checkpoint that had its RL run: higher is better.

    Args:
        id: id of the checkpoint.
        group: group of the checkpoint.
        value: the outcome.
        se: standard error of the outcome; None if unknown.
    """

    id: str
    group: str
    value: float
    se: float | None = None


@dataclass(frozen=True, kw_only=True)
class BestKnown:
    """The best known checkpoint of a group, with which the others are compared.

    Args:
        id: id of the checkpoint.
        value: its outcome or its prediction.
        se: standard error of an outcome; 0 if unknown.
        is_recorded: whether the value is a recorded outcome.
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
    """Return the best known checkpoint of each group of the candidates.

    Args:
        predictive: distribution of the candidates.
        ids: (n,) ids of the candidates.
        recorded: the recorded outcomes.
        trusted: (n,) whether a prediction may be the best of its group. In a group without a
            trusted row, the best prediction is used.
    """
    reference_of = {}
    for group in map(str, np.unique(predictive.groups)):
        outcomes = [one for one in recorded if one.group == group]
        if outcomes:
            best = max(outcomes, key=lambda one: one.value)
            reference_of[group] = BestKnown(
                id=best.id, value=best.value, se=best.se or 0.0, is_recorded=True
            )
            continue
        inside = predictive.groups == group
        rows = np.flatnonzero(inside & trusted if (inside & trusted).any() else inside)
        row = int(rows[np.argmax(predictive.mean[rows])])
        reference_of[group] = BestKnown(
            id=ids[row], value=float(predictive.mean[row]), se=0.0, is_recorded=False
        )
    return reference_of


def deltas(predictive: Predictive, rl_noise: float | None, rule: ReadyRule) -> FloatArray:
    """Return the (n,) distances below the best known that still count as good."""
    n = len(predictive.mean)
    common = rule.delta if rule.delta is not None else rl_noise
    if common is not None:
        return np.full(n, common)
    values = np.empty(n)
    for group in np.unique(predictive.groups):
        rows = predictive.groups == group
        spread = np.var(predictive.mean[rows]) + np.mean(predictive.row_sd[rows] ** 2)
        values[rows] = rule.delta_share * np.sqrt(spread)
    return values


def chances(
    predictive: Predictive, best: Mapping[str, BestKnown], delta: FloatArray, rule: ReadyRule
) -> FloatArray:
    """Return the (n,) chances P(m_i >= best known of its group - delta_i)."""
    rng = np.random.default_rng(rule.seed)
    names: TextArray = predictive.groups
    by_row = [best[str(name)] for name in names]
    # A prediction shares the error of its group's level; a recorded outcome does not.
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
    """Return the advice for one checkpoint; with any doubt it is UNDECIDED."""
    if doubts:
        return Readiness.UNDECIDED
    if chance >= rule.ready_from:
        return Readiness.READY
    return Readiness.NOT_READY if chance < rule.not_ready_below else Readiness.UNDECIDED
