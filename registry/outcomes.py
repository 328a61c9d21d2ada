"""Scores after RL: the record, which of them are valid, and which contradict each other.

Outcomes are never edited and never dropped. If two outcomes contradict each other, both are kept. A
person decides which one is right by recording an outcome that `replaces` the wrong one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from rlready.registry.digest import canonical_json, digest
from rlready.registry.errors import RecordError
from rlready.registry.records import check_id

BudgetUnit = Literal["steps", "gpu_hours", "exaflop", "samples"]
Statistic = Literal["value_at_budget", "peak", "smoothed_peak_5", "last_5_mean"]

_TRAINING_REWARD = re.compile(r"(train(ing)?[/_. -]?)?(mean[/_. -]?)?rewards?([/_. -]?mean)?", re.I)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The score after RL from a checkpoint: the target of the predictors.

    It is measured on a benchmark. The training reward is refused, because it also rises when the
    run learns to exploit the reward.

    Args:
        checkpoint_id: the checkpoint that RL began from.
        algorithm: of the RL run, for example "grpo".
        rl_recipe: all other settings of RL (data, group size, temperature, ...), JSON values.
        budget: spent on RL, above 0; statistics over a curve end there.
        budget_unit: steps, gpu_hours, exaflop or samples.
        statistic: of the RL curve (`predictors/rl_curve.py`).
        benchmark: name of the benchmark that it was measured on.
        value: finite.
        se: standard error over problems; None if it is not known.
        seed: of the RL run; None if it is not known.
        n_evaluations: evaluations of the RL run that the value was computed from.
        benchmark_digest: of the benchmark's content, if it is known.
        protocol_digest: of the protocol that drew the samples, if it is known.
        evaluator_version: of the measurement, if it is known.
        rl_checkpoint_id: the checkpoint after RL, if it is registered.
        replaces: id of an outcome that this one corrects.

    Example:
        >>> outcome = Outcome(checkpoint_id=checkpoint.id, algorithm="grpo", budget=60,
        ...     budget_unit="steps", statistic="value_at_budget", benchmark="gsm8k", value=0.61)
        >>> outcome.key
        'value_at_budget/60steps@gsm8k'
    """

    checkpoint_id: str
    algorithm: str
    budget: float
    budget_unit: BudgetUnit
    statistic: Statistic
    benchmark: str
    value: float
    se: float | None = None
    seed: int | None = None
    n_evaluations: int = 1
    rl_recipe: Mapping[str, Any] = field(default_factory=dict)
    benchmark_digest: str | None = None
    protocol_digest: str | None = None
    evaluator_version: str | None = None
    rl_checkpoint_id: str | None = None
    replaces: str | None = None

    def __post_init__(self) -> None:
        # Adding 0.0 turns -0.0 into 0.0: equal values have one text, hence one id.
        for key in ("budget", "value", "se"):
            number = getattr(self, key)
            object.__setattr__(self, key, None if number is None else float(number) + 0.0)
        object.__setattr__(self, "rl_recipe", self._plain_recipe())
        self._check_names()
        self._check_numbers()

    @cached_property
    def id(self) -> str:
        """Digest of every field: the same number put twice is one outcome."""
        return digest(dataclasses.asdict(self))

    @property
    def key(self) -> str:
        """Its column in the table, for example `value_at_budget/60steps@gsm8k`."""
        return f"{self.statistic}/{self.budget_text}@{self.benchmark}"

    @property
    def budget_text(self) -> str:
        """The budget with its unit, exact: `60steps`, `1.5gpu_hours`."""
        return f"{self.budget!r}".removesuffix(".0") + self.budget_unit

    @cached_property
    def rl_digest(self) -> str:
        """Id of how RL was done: algorithm and recipe, without budget and seed."""
        return digest({"algorithm": self.algorithm, "recipe": self.rl_recipe})

    def _plain_recipe(self) -> dict[str, Any]:
        """Return the recipe as JSON gives it back: lists for tuples, texts for keys."""
        try:
            return dict(json.loads(canonical_json(dict(self.rl_recipe))))
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"the RL recipe of checkpoint {self.checkpoint_id[:12]} is not JSON",
                why=str(error),
                fix="Use texts, finite numbers, lists and tables; write dates as texts",
            ) from error

    def _check_names(self) -> None:
        for what, name in (("algorithm", self.algorithm), ("benchmark", self.benchmark)):
            if not name.strip():
                raise RecordError(f"an outcome has no {what}")
        if _TRAINING_REWARD.fullmatch(self.benchmark):
            raise RecordError(
                f"{self.benchmark!r} is given as the benchmark of an outcome",
                why="the training reward is not an outcome: it also rises when RL exploits it",
                fix="Evaluate on held-out problems, and give that benchmark's name",
            )
        for literal, value in ((BudgetUnit, self.budget_unit), (Statistic, self.statistic)):
            if value not in get_args(literal):
                what = "budget unit" if literal is BudgetUnit else "statistic"
                raise RecordError(
                    f"unknown {what} {value!r}", fix=f"Known: {', '.join(get_args(literal))}"
                )
        ids = ("checkpoint_id", "rl_checkpoint_id", "benchmark_digest", "replaces")
        for key in ids:
            if getattr(self, key) is not None:
                check_id(key.replace("_", " "), getattr(self, key))
        if self.rl_checkpoint_id == self.checkpoint_id:
            raise RecordError(f"checkpoint {self.checkpoint_id[:12]} is named as its own outcome")

    def _check_numbers(self) -> None:
        if not math.isfinite(self.value):
            raise RecordError(
                f"outcome {self.key} is {self.value}",
                why="an outcome that is undefined is left out, never recorded as a number",
            )
        if not 0.0 < self.budget < math.inf:
            raise RecordError(
                f"the budget of an outcome is {self.budget} {self.budget_unit}",
                why="without RL a number is a proxy",
                fix="Give more than 0",
            )
        if self.se is not None and not 0.0 <= self.se < math.inf:
            raise RecordError(f"the standard error of outcome {self.key} is {self.se}")
        if self.n_evaluations < 1:
            raise RecordError(f"outcome {self.key} rests on {self.n_evaluations} evaluations")


def slot(outcome: Outcome) -> tuple[object, ...]:
    """Return the key under which only one value can be right."""
    return (outcome.checkpoint_id, outcome.seed, outcome.key, *variant(outcome))


def variant(outcome: Outcome) -> tuple[str, str | None, str | None, str | None]:
    """Return how RL was done and measured: what outcomes of one column must share."""
    return (
        outcome.rl_digest,
        outcome.benchmark_digest,
        outcome.protocol_digest,
        outcome.evaluator_version,
    )


def current(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that no other one replaces, in their order."""
    all_outcomes = list(outcomes)
    replaced = {outcome.replaces for outcome in all_outcomes} - {None}
    if not replaced:
        return all_outcomes  # without computing ids, which takes long in a large registry
    return [outcome for outcome in all_outcomes if outcome.id not in replaced]


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Two or more outcomes that differ although only one value can be right, in their order."""

    outcomes: tuple[Outcome, ...]

    def __str__(self) -> str:
        first = self.outcomes[0]
        values = ", ".join(f"{o.value:g} ({o.id[:12]})" for o in self.outcomes)
        seed = "no RL seed" if first.seed is None else f"RL seed {first.seed}"
        return (
            f"{first.key} of checkpoint {first.checkpoint_id[:12]}, {seed}, has the values {values}"
        )


def conflicts(outcomes: Iterable[Outcome]) -> list[Conflict]:
    """Return the conflicts among the outcomes that are not replaced."""
    by_slot: dict[tuple[object, ...], list[Outcome]] = {}
    for outcome in current(outcomes):
        by_slot.setdefault(slot(outcome), []).append(outcome)
    return [
        Conflict(outcomes=tuple(rivals))
        for rivals in by_slot.values()
        if len({outcome.value for outcome in rivals}) > 1
    ]


def how_rl_was_done(outcome: Outcome) -> str:
    """Return algorithm and recipe in one line, for people."""
    recipe = outcome.rl_recipe
    return outcome.algorithm + (f" {json.dumps(recipe, ensure_ascii=False)}" if recipe else "")
