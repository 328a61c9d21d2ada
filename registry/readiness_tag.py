"""The readiness tag: the decision of a ranking about one checkpoint.

`mlflow_store/readiness.py` writes it to MLflow's model registry.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rlready.registry.errors import RecordError

ALIAS = "rl-ready"
"""Alias of the checkpoint that should get the RL budget."""


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
