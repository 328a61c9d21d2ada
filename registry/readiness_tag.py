"""The readiness tag: the decision of a ranking about one checkpoint.

`mlflow_store/readiness.py` writes it to MLflow's model registry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rlready.registry.errors import RecordError

ALIAS = "rl-ready"
"""Alias of the checkpoint that should get the RL budget."""

_NAMED = 3
"""Most checkpoints that a note lists by name."""


class Readiness(StrEnum):
    """Whether a checkpoint deserves the RL budget; the value is that of the tag `rl_ready`.

    Example:
        >>> Readiness("undecided").name
        'UNDECIDED'
    """

    READY = "true"
    NOT_READY = "false"
    UNDECIDED = "undecided"
    """The proxies cannot decide: the interval is too wide, the checkpoint is outside the domain of
    the predictor, or the proxies carry no signal."""


@dataclass(frozen=True, kw_only=True)
class ReadinessTag:
    """The decision of a ranking about one checkpoint.

    Args:
        checkpoint_id: id of the checkpoint.
        readiness: the decision.
        predicted: outcome after RL, in the unit of the target. None if there is no prediction; the
            checkpoint is UNDECIDED then.
        low: lower end of the interval, None if there is none.
        high: upper end of the interval, None if there is none.
        level: share of outcomes that the interval should contain, such as 0.9.
        regime: what the interval guarantees, in words.
        domain: in, edge or out, compared with the rows that the predictor was fitted on.
        target: key of the outcome, for example `value_at_budget/60steps@gsm8k`.
        predictor: registered name of the predictor.
        predictor_version: its version.
        rule_digest: id of the rule that turned the prediction into a decision.
        reasons: one line each, at least one.
        made_at: time of the ranking, with a time zone.
        place: place in the ranking, in words such as `rank 2 of 48`; empty if unknown.

    Example:
        >>> tag.readiness.name, tag.interval
        ('READY', '0.55 to 0.67 (90 %)')
    """

    checkpoint_id: str
    readiness: Readiness
    predicted: float | None
    low: float | None
    high: float | None
    level: float
    regime: str
    domain: str
    target: str
    predictor: str
    predictor_version: str
    rule_digest: str
    reasons: tuple[str, ...]
    made_at: datetime
    place: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "readiness", Readiness(self.readiness))
        # Reasons are shown and stored as one line each.
        lines = (" ".join(reason.split()) for reason in self.reasons)
        object.__setattr__(self, "reasons", tuple(line for line in lines if line))
        whose = f"the readiness tag of checkpoint {self.checkpoint_id[:12]}"
        if not self.reasons:
            raise RecordError(f"{whose} has no reasons", why="without one nobody can check it")
        if self.made_at.tzinfo is None:
            raise RecordError(f"{whose} was made at {self.made_at}, which has no time zone")
        self._check_numbers(whose)

    def _check_numbers(self, whose: str) -> None:
        for key in ("predicted", "low", "high"):
            value = getattr(self, key)
            if value is not None and not math.isfinite(value):
                raise RecordError(f"{whose} has {key} {value}", fix="Give None for what is unknown")
            # Adding 0.0 makes 0.0 of -0.0, and a float of a NumPy number.
            object.__setattr__(self, key, None if value is None else float(value) + 0.0)
        if not 0.0 < self.level < 1.0:
            raise RecordError(f"{whose} has an interval of level {self.level}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise RecordError(f"{whose} has the interval {self.low} to {self.high}")
        if self.predicted is None and self.readiness is not Readiness.UNDECIDED:
            raise RecordError(f"{whose} is {self.readiness.name} without a prediction")

    @property
    def interval(self) -> str:
        """Return the interval in words."""
        return f"{number_text(self.low)} to {number_text(self.high)} ({self.level * 100:g} %)"

    def to_dict(self) -> dict[str, Any]:
        """Return the tag as JSON values, with the readiness by its name."""
        return {**asdict(self), "readiness": self.readiness.name, "made_at": utc_text(self.made_at)}

    @property
    def ranking(self) -> tuple[str, str, str, str]:
        """Return what all tags of one ranking share: target, predictor, its version, rule."""
        return (self.target, self.predictor, self.predictor_version, self.rule_digest)


def says_the_same(one: ReadinessTag | None, other: ReadinessTag) -> bool:
    """Return whether two tags are equal except for their times."""
    return one is not None and replace(one, made_at=other.made_at) == other


def utc_text(time: datetime) -> str:
    """Return a time in UTC, to the second."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def number_text(value: float | None) -> str:
    """Return a number with four digits, or `unknown`."""
    return "unknown" if value is None else f"{value:.4g}"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A ranked checkpoint that may get the alias.

    Args:
        id: of the checkpoint.
        name: its name.
        readiness: what the ranking says about it.
        is_trained: whether it had its RL run.
    """

    id: str
    name: str
    readiness: Readiness
    is_trained: bool


def choose_alias(
    contenders: Sequence[Contender],
    before: str | None,
    readiness_before: Readiness,
    *,
    allow_trained: bool = False,
) -> tuple[str | None, str]:
    """Return the id of the checkpoint that should have the alias, and what changes, in words.

    The alias marks the checkpoint for the next RL run, so one that had its run does not get it.

    Args:
        contenders: of one ranking, the best first.
        before: id of the checkpoint that has the alias now; None if none has it.
        readiness_before: what the last ranking said about that one.
        allow_trained: let a trained checkpoint have it, if no other is READY.

    Example:
        >>> one = Contender(id="1", name="sft-1", readiness=Readiness.READY, is_trained=False)
        >>> choose_alias([one], None, Readiness.UNDECIDED)
        ('1', 'rl-ready is put on sft-1')
    """
    ranked = {one.id: one for one in contenders}
    old = ranked[before].name if before in ranked else f"{before}"
    ready = [one for one in contenders if one.readiness is Readiness.READY]
    eligible = [one for one in ready if not one.is_trained] or (ready if allow_trained else [])
    if eligible:
        best = eligible[0]
        name = f"{best.name}, which had its RL run" if best.is_trained else best.name
        if before is None:
            return best.id, f"{ALIAS} is put on {name}"
        if before == best.id:
            return best.id, f"{ALIAS} stays on {name}"
        return best.id, f"{ALIAS} moves from {old} to {name}"
    why = "no checkpoint is READY"
    if ready:
        names = ", ".join(one.name for one in ready[:_NAMED])
        names += f" and {len(ready) - _NAMED} more" if len(ready) > _NAMED else ""
        why = f"each READY checkpoint had its RL run already ({names}; see --allow-trained)"
    if before is None:
        return None, f"{why}: {ALIAS} is on none"
    if before in ranked:
        now = f"is {ranked[before].readiness.name} now"
        state = "had its RL run" if ranked[before].is_trained else now
        return None, f"{why}: {ALIAS} is taken from {old}, which {state}"
    if readiness_before is Readiness.READY:
        return before, f"{why}: {ALIAS} is left on {old}, which is not part of this ranking"
    return None, f"{why}: {ALIAS} is taken from {old}, which is {readiness_before.name}"
