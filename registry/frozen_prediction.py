"""Predictions that were written down before the outcomes, so that they can be judged afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from rlready.registry.digest import digest
from rlready.registry.errors import RecordError
from rlready.registry.records import check_id

FORMATS = (1, 2, 3)
"""Versions of the JSON form: a record is written in the first one that has its fields.

The second has standings and chances of pairs, the third the printed chances of each row.
"""
_OPTIONAL = ("standing", "p_best", "p_top", "p_match")
_PRINTED = _OPTIONAL[1:]


@dataclass(frozen=True, kw_only=True)
class FrozenRow:
    """What was predicted for one checkpoint.

    Args:
        checkpoint_id: the checkpoint.
        name: its name at that time.
        group: its group.
        predicted: expected score after RL, in the unit of the target; None if only the order was
            predicted.
        low: lower end of the interval of the score of one RL run; None without `predicted`.
        high: upper end.
        practice: its score before RL, by which the practice chooses; None if there is none.
        had_outcome: whether its outcome was recorded already, so that nothing was predicted.
        standing: expected score minus the mean of its group, in standard deviations, higher is
            better; None if scores were predicted alone.
        p_best: chance that was printed, to be the best of the group; None if none was printed.
        p_top: chance to be among the best `FrozenPrediction.top_n` of the group.
        p_match: chance to end about as well as the best known of the group, or better.
    """

    checkpoint_id: str
    name: str
    group: str
    predicted: float | None
    low: float | None
    high: float | None
    practice: float | None
    had_outcome: bool
    standing: float | None = None
    p_best: float | None = None
    p_top: float | None = None
    p_match: float | None = None

    def __post_init__(self) -> None:
        check_id("checkpoint id", self.checkpoint_id)
        score = (self.predicted, self.low, self.high)
        numbers = [value for value in (*score, self.standing) if value is not None]
        if None in score and (self.standing is None or any(value is not None for value in score)):
            raise RecordError(f"the prediction of {self.name} is not complete")
        if not all(map(math.isfinite, numbers)):
            raise RecordError(f"the prediction of {self.name} is not a finite number")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise RecordError(f"the interval of {self.name} ends before it begins")
        if not all(0.0 <= chance <= 1.0 for chance in self.printed_chances):
            raise RecordError(f"a chance of {self.name} is not between 0 and 1")

    @property
    def merit(self) -> float:
        """The number that orders the rows of a group: `predicted`, or `standing` without it."""
        return self.predicted if self.predicted is not None else self.standing or 0.0

    @property
    def printed_chances(self) -> list[float]:
        """The chances that were printed for this row."""
        chances = [getattr(self, name) for name in _PRINTED]
        return [chance for chance in chances if chance is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        values = asdict(self)
        return {k: v for k, v in values.items() if v is not None or k not in _OPTIONAL}


@dataclass(frozen=True, kw_only=True)
class FrozenPrediction:
    """All that a ranking or a plan predicted at one time.

    Args:
        command: "rank" or "plan".
        at_ms: when, in milliseconds since 1970.
        predictor: its address, with the version.
        target: the outcome that is predicted.
        lower_is_better: whether a lower outcome is better.
        level: share of outcomes that the intervals should contain.
        table_digest: digest of the table that the predictions were made from.
        rows: one for each checkpoint.
        chosen: ids of the checkpoints that a plan or the top of a ranking proposed, best first.
        chances: (i, j, chance) that row i ends better than row j of its group, after one RL run
            each; neither had an outcome.
        top_n: the N of `FrozenRow.p_top`; None if no chances of rows were printed.

    Example:
        >>> frozen.id == replace(frozen, at_ms=0).id  # the same prediction, whenever it is made
        True
        >>> frozen.digest == replace(frozen, at_ms=0).digest
        False
    """

    command: str
    at_ms: int
    predictor: str
    target: str
    lower_is_better: bool
    level: float
    table_digest: str
    rows: tuple[FrozenRow, ...]
    chosen: tuple[str, ...]
    chances: tuple[tuple[int, int, float], ...] = ()
    top_n: int | None = None

    def __post_init__(self) -> None:
        ids = [row.checkpoint_id for row in self.rows]
        if not ids or len(set(ids)) < len(ids):
            raise RecordError("a frozen prediction has one row for each of its checkpoints")
        unknown = set(self.chosen) - set(ids)
        if unknown:
            raise RecordError(f"{min(unknown)[:12]} was chosen, but has no prediction")
        for i, j, chance in self.chances:
            is_valid = 0 <= i < len(ids) and 0 <= j < len(ids) and i != j and 0.0 <= chance <= 1.0
            if not is_valid or self.rows[i].had_outcome or self.rows[j].had_outcome:
                raise RecordError(f"the chance {chance} of rows {i} and {j} is invalid")

    @cached_property
    def id(self) -> str:
        """Digest of everything but the time: the same prediction made twice is one record."""
        values = self.to_dict()
        del values["at_ms"]
        return digest(values)

    @cached_property
    def digest(self) -> str:
        """Digest of everything, which shows any later change."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        values = {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "format": FORMATS[0],
            "rows": [row.to_dict() for row in self.rows],
            "chosen": list(self.chosen),
            "chances": [list(chance) for chance in self.chances],
        }
        # The digests of records of the earlier forms stay as they are.
        if not self.chances:
            del values["chances"]
        if self.chances or any(row.standing is not None for row in self.rows):
            values["format"] = FORMATS[1]
        if self.top_n is None:
            del values["top_n"]
        if self.top_n is not None or any(row.printed_chances for row in self.rows):
            values["format"] = FORMATS[2]
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> FrozenPrediction:
        """Read `to_dict` back.

        Raises:
            RecordError: if a field is missing, unknown or invalid, or the format is a later one.
        """
        try:
            values = dict(values)
            if values.pop("format") not in FORMATS:
                raise RecordError(
                    "the frozen prediction has a format that this version does not know",
                    fix="Read it with the version of rlready that wrote it, or a later one",
                )
            rows = tuple(FrozenRow(**row) for row in values.pop("rows"))
            chosen = tuple(values.pop("chosen"))
            chances = tuple(
                (int(i), int(j), float(chance)) for i, j, chance in values.pop("chances", ())
            )
            return FrozenPrediction(**values, rows=rows, chosen=chosen, chances=chances)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                "the frozen prediction cannot be read", why=f"{type(error).__name__}: {error}"
            ) from error
