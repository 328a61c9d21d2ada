"""What a ranking says about a checkpoint, as a record and as MLflow's tags and words.

A version of a registered model carries

    rl_ready       true, false or undecided: what automation looks at
    rlready.tag    the `ReadinessTag` as JSON, the one copy that is read back, written in one step
    rlready.predicted, .interval, .predictor, .checkpoint    for the eye, in the list of versions

and its description says the same in words. `mlflow_tags` puts them there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rlready.registry.errors import RecordError, StoreError
from rlready.registry.mlflow_store.record_tags import FORMAT, printable, read_tag_json, tag_json
from rlready.registry.mlflow_store.registered_models import fact_lines, page, wrapped
from rlready.registry.records import Checkpoint

ALIAS = "rl-ready"
"""On the checkpoint that is to get the RL budget."""

RL_READY = "rl_ready"
TAG = "rlready.tag"

_MAX_REASONS = 8
_NAME_CHARACTERS = 40


class Readiness(StrEnum):
    """Whether a checkpoint deserves the RL budget; the value is that of the tag `rl_ready`."""

    READY = "true"
    NOT_READY = "false"
    UNDECIDED = "undecided"
    """The proxies do not tell: too wide an interval, out of the domain, or no signal at all."""


@dataclass(frozen=True, kw_only=True)
class ReadinessTag:
    """What a ranking says about one checkpoint.

    Args:
        checkpoint_id: whom it is about.
        readiness: the decision.
        predicted: outcome after RL, in the unit of the target; None if nothing could be predicted,
            which leaves the checkpoint UNDECIDED.
        low: lower end of the interval; None if it has none.
        high: upper end; None if it has none.
        level: what share of outcomes the interval is to hold, such as 0.9.
        regime: what the interval promises, in words.
        domain: in, edge or out of what the predictor was fitted on.
        target: key of the outcome, for example `value_at_budget/60steps@gsm8k`.
        predictor: registered name of the predictor.
        predictor_version: its version.
        rule_digest: id of the rule that made a decision of the prediction.
        reasons: one line each; at least one.
        made_at: when the ranking was made, with a time zone.
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
        # One line each, as they are shown and stored.
        lines = (" ".join(reason.split()) for reason in self.reasons)
        object.__setattr__(self, "reasons", tuple(line for line in lines if line))
        whose = f"the readiness tag of checkpoint {self.checkpoint_id[:12]}"
        if not self.reasons:
            raise RecordError(f"{whose} has no reasons", why="nobody could judge the decision")
        if self.made_at.tzinfo is None:
            raise RecordError(f"{whose} was made at {self.made_at}, of no time zone")
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
        """The interval in words."""
        return f"{_number(self.low)} to {_number(self.high)} ({self.level * 100:g} %)"

    def to_dict(self) -> dict[str, Any]:
        """The tag as JSON for people's programs; the readiness by its name."""
        return {**asdict(self), "readiness": self.readiness.name, "made_at": _utc(self.made_at)}

    @property
    def ranking(self) -> tuple[str, str, str, str]:
        """What the tags of one ranking share: target, predictor, its version, rule."""
        return (self.target, self.predictor, self.predictor_version, self.rule_digest)


def version_tags(tag: ReadinessTag, checkpoint: Checkpoint) -> dict[str, str]:
    """A readiness tag as tags of a version, the short ones first, as MLflow lists them."""
    record = {**asdict(tag), "made_at": _utc(tag.made_at)}
    text = tag_json({"format": FORMAT, **record}, f"tag of {tag.checkpoint_id}")
    return {
        RL_READY: tag.readiness.value,
        "rlready.checkpoint": printable(checkpoint.name),
        "rlready.predicted": _number(tag.predicted),
        "rlready.interval": tag.interval,
        "rlready.predictor": f"{tag.predictor}/{tag.predictor_version}",
        TAG: text,
    }


def read_tag(tags: Mapping[str, str]) -> ReadinessTag | None:
    """The readiness tag of a version; None if it has none.

    Raises:
        StoreError: if a later version of rlready wrote it, or somebody edited it.
    """
    if TAG not in tags:
        return None
    values = read_tag_json(tags[TAG], TAG)
    try:
        made_at = datetime.fromisoformat(values.pop("made_at"))
        reasons = tuple(values.pop("reasons"))
        return ReadinessTag(**values, reasons=reasons, made_at=made_at)
    except (TypeError, ValueError, KeyError, RecordError) as error:
        raise StoreError(
            f"tag {TAG} holds {tags[TAG][:60]!r}",
            why=f"it was edited: {error}",
            fix="Tag the checkpoints again: rlready tag",
        ) from error


def says_the_same(one: ReadinessTag | None, other: ReadinessTag) -> bool:
    """Whether two tags differ in nothing but the time at which they were made."""
    if one is None:
        return False
    return {**asdict(one), "made_at": None} == {**asdict(other), "made_at": None}


def version_description(tag: ReadinessTag, checkpoint: Checkpoint) -> str:
    """Markdown for a version's page: decision, prediction, reasons, and where it comes from.

    The first line is what the list of versions shows of it.
    """
    facts = {
        "target": tag.target,
        "interval": tag.regime,
        "domain": tag.domain,
        "checkpoint": f"{checkpoint.name}  {checkpoint.id}",
        "weights": checkpoint.uri,
        "predictor": f"{tag.predictor} version {tag.predictor_version}",
        "rule": tag.rule_digest,
        "ranked": tag.made_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    reasons = [
        line
        for reason in tag.reasons[:_MAX_REASONS]
        for line in wrapped("- ", printable(reason), "  ")
    ]
    said = f"{tag.readiness.name}: {_number(tag.predicted)}, interval {tag.interval}"
    return page(said, "\n".join([*reasons, "", *fact_lines(facts)]))


def family_description(base: str, ranked: Sequence[tuple[int, str, ReadinessTag]]) -> str:
    """Markdown for a registered model's page: the last ranking, and what the versions are.

    Args:
        base: the base model.
        ranked: version, checkpoint's name and tag of each, the best first.
    """
    target = ranked[0][2].target
    rows = [("version", "checkpoint", "rl_ready", "predicted", "interval", "domain")]
    for version, name, tag in ranked:
        decided = (tag.readiness.name, _number(tag.predicted), tag.interval, tag.domain)
        rows.append((str(version), printable(name)[:_NAME_CHARACTERS], *decided))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    said = (
        f"Checkpoints of `{printable(base).replace('`', '')}`, ranked by predicted outcome after "
        "RL. A version is a checkpoint; its tag `rl_ready` and its page say what was decided and "
        f"why; the alias `{ALIAS}` is on the best one. Weights are referenced, not copied: "
        "`rlready resolve` prints their path."
    )
    return page(said, "\n".join([f"predicted {target}", "", *lines]))


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
