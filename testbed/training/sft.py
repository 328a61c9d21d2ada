"""Supervised fine-tuning of the base on a recipe's data.

On one machine the same base, recipe and seed give the same losses bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rlready.registry.digest import digest, fingerprint
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.testbed.folders import find_or_make
from rlready.testbed.training.loss_weights import WEIGHTINGS, token_weights
from rlready.testbed.training.model import save_checkpoint
from rlready.testbed.training.tokenizer import encode_pairs
from rlready.testbed.training.train import SCHEDULE, TrainSettings, train
from rlready.testbed.world.measure import load
from rlready.testbed.world.puzzles import AnyPuzzle
from rlready.testbed.world.skills import draw_different, draw_mixture
from rlready.testbed.world.solutions import STYLES, Style, solution
from rlready.testbed.world.worlds import ALL_MIXES, ALL_SKILLS

SFT_VERSION = 1
"""Increases when the same recipe gives another checkpoint."""

KNOBS = ("length", "n_responses", "base_share")
"""Settings that a record names only where they differ from their default."""

BATCH_SIZE = 64
_WARMUP_STEPS = 10
MARK = "sft.json"

_SAME_SHARE = 1e-9
# n_unique x epochs is a whole number of examples, so it matches a budget only approximately.
_BUDGET_SLACK = 0.02
_WHOLE = ("budget", "n_responses")
_EXTRA_KEYS = ("budget", "style", "noise", "mix", "warmup_steps", *KNOBS)
Length = Literal["mixed", "short", "long"]


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """The settings that vary between SFT runs.

    Args:
        budget: examples seen, repetitions included.
        n_unique: examples of one epoch, with different problems unless `n_responses` is above 1;
            budget / n_unique is the number of epochs.
        style: how the solutions are written.
        noise: share of the examples with a wrong step; the same examples in every epoch.
        mix: a key of `ALL_MIXES`, or the shares of the skills.
        learning_rate: peak of the schedule.
        seed: of the examples and of their order.
        loss_weighting: of the tokens, one of `loss_weights.WEIGHTINGS`.
        length: of every two problems that are drawn, the one with the shorter or longer solution
            is taken; "mixed" takes all.
        n_responses: examples of each problem. They differ in the order of operands in the style
            "shuffled", and in their wrong steps; others are equal.
        base_share: share of the base's weights in the checkpoint, the rest is the trained model's
            (WiSE-FT, arXiv 2504.10478).

    Example:
        >>> SftRecipe(budget=1600, n_unique=200, style="terse").n_steps
        25
    """

    budget: int = 6400
    n_unique: int = 6400
    style: Style = "canonical"
    noise: float = 0.0
    mix: str | Mapping[str, float] = "mixed"
    learning_rate: float = 1e-3
    seed: int = 0
    loss_weighting: str = "none"
    length: Length = "mixed"
    n_responses: int = 1
    base_share: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.mix, str):
            object.__setattr__(self, "mix", _shares(self.mix))
        if not 1 <= self.n_unique <= self.budget:
            raise ConfigError(
                f"n_unique is {self.n_unique} with a budget of {self.budget} examples",
                fix="Give at least 1 and at most the budget",
            )
        if not 0.0 <= self.noise <= 1.0 or not self.learning_rate > 0.0:
            raise ConfigError(
                f"noise is {self.noise} and the learning rate {self.learning_rate}",
                fix="Give a noise in [0, 1] and a positive rate",
            )
        if (
            self.loss_weighting not in WEIGHTINGS
            or self.length not in get_args(Length)
            or not 1 <= self.n_responses <= self.n_unique
            or not 0.0 <= self.base_share <= 1.0
        ):
            raise ConfigError(
                f"loss weighting {self.loss_weighting!r}, length {self.length!r}, "
                f"{self.n_responses} responses a problem, {self.base_share} of the base",
                fix=f"Known weightings: {', '.join(WEIGHTINGS)}; lengths: "
                f"{', '.join(get_args(Length))}; give 1 or more responses, and a share in [0, 1]",
            )
        if self.style not in STYLES or (isinstance(self.mix, str) and self.mix not in ALL_MIXES):
            raise ConfigError(
                f"style is {self.style!r} and mix {self.mix!r}",
                fix=f"Known styles: {', '.join(STYLES)}; mixes: {', '.join(ALL_MIXES)}",
            )

    @property
    def id(self) -> str:
        """All settings in one readable word for folders and runs; shares as their digest."""
        mix = self.mix if isinstance(self.mix, str) else f"m{digest(self.mix)[:10]}"
        return (
            f"b{self.budget}-u{self.n_unique}-{self.style}-n{self.noise:g}-{mix}"
            f"-r{self.learning_rate:g}-s{self.seed}"
            + "".join(f"-{name}-{value}" for name, value in self.knobs.items())
        )

    @property
    def knobs(self) -> dict[str, Any]:
        """Settings that the first recipes did not have, where they differ from the default."""
        names = ("loss_weighting", *KNOBS)
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != fields[name]}

    @property
    def key(self) -> dict[str, Any]:
        """All settings that determine the checkpoint; recipes of the first kind keep their key."""
        names = ("loss_weighting", *KNOBS)
        settings = dataclasses.asdict(self)
        return {k: v for k, v in settings.items() if k not in names} | self.knobs

    @property
    def shares(self) -> Mapping[str, float]:
        """Shares of the skills among the examples."""
        return ALL_MIXES[self.mix] if isinstance(self.mix, str) else self.mix

    @property
    def n_steps(self) -> int:
        """Optimizer steps."""
        return max(1, round(self.budget / BATCH_SIZE))

    def record(self, base_model: str, base_revision: str | None = None) -> Recipe:
        """Return the recipe as a record of the registry."""
        return Recipe(
            base_model=base_model,
            base_revision=base_revision,
            sources=self.shares,
            n_unique=self.n_unique,
            epochs=self.budget / self.n_unique,
            learning_rate=self.learning_rate,
            schedule=SCHEDULE,
            batch_size=BATCH_SIZE,
            loss_weighting=self.loss_weighting,
            seed=self.seed,
            extra={
                "budget": self.budget,
                "style": self.style,
                "noise": self.noise,
                **({"mix": self.mix} if isinstance(self.mix, str) else {}),
                "warmup_steps": _WARMUP_STEPS,
                **{name: value for name, value in self.knobs.items() if name in KNOBS},
            },
        )

    @classmethod
    def from_record(cls, record: Recipe) -> SftRecipe:
        """Return the recipe that a record describes; shares that have a name in `ALL_MIXES` get it.

        Missing fields have the defaults of the class; the budget is n_unique x epochs. A record
        that the testbed does not support, or without sources or n_unique, raises a ConfigError.
        """
        _check_record(record)
        assert record.n_unique is not None
        names = ("style", "noise", *KNOBS)
        fields = {name: record.extra[name] for name in names if name in record.extra}
        if record.loss_weighting is not None:
            fields["loss_weighting"] = record.loss_weighting
        if record.learning_rate is not None:
            fields["learning_rate"] = record.learning_rate
        # The id has six digits of a number: recipes with the same id must be equal.
        numbers = ("noise", "learning_rate", "base_share")
        fields |= {k: float(f"{fields[k]:.6g}") for k in numbers if k in fields}
        fields |= {k: int(fields[k]) for k in _WHOLE if k in fields}
        epochs = 1.0 if record.epochs is None else record.epochs
        budget = int(record.extra.get("budget", round(record.n_unique * epochs)))
        if abs(budget / (record.n_unique * epochs) - 1.0) > _BUDGET_SLACK:
            raise ConfigError(
                f"the recipe has a budget of {budget} examples",
                why=f"{epochs:g} epochs of {record.n_unique} examples give another number",
            )
        shares = _shares(record.sources)
        return cls(
            budget=budget,
            n_unique=record.n_unique,
            mix=next((name for name in ALL_MIXES if _is_same(ALL_MIXES[name], shares)), shares),
            seed=record.seed or 0,
            **fields,
        )


@dataclass(frozen=True, kw_only=True)
class SftResult:
    """An SFT checkpoint.

    Args:
        folder: the checkpoint, with `sft.json` in it.
        losses: of every step, nats per response token.
        cpu_seconds: cost of the call that made it.
        is_new: whether this call made it.

    Example:
        >>> sft(shipped_base(), SftRecipe(budget=64, n_unique=64), Path("sft")).is_new
        True
    """

    folder: Path
    losses: tuple[float, ...]
    cpu_seconds: float
    is_new: bool


def examples_of(recipe: SftRecipe) -> list[tuple[str, str]]:
    """Return the recipe's different examples: questions with the responses to learn."""
    rng = random.Random(f"sft/{recipe.seed}")
    puzzles = _puzzles_of(recipe)
    n_wrong = round(recipe.noise * recipe.n_unique)
    wrong = set(rng.sample(range(recipe.n_unique), n_wrong))
    return [
        (puzzle.text, solution(puzzle, recipe.style, rng, is_wrong=i in wrong))
        for i, puzzle in enumerate(puzzles)
    ]


def _puzzles_of(recipe: SftRecipe) -> list[AnyPuzzle]:
    """Return the problem of each different example."""
    n_problems = -(-recipe.n_unique // recipe.n_responses)
    mixture = draw_mixture(recipe.shares, "train", n_problems, recipe.seed)
    if recipe.length == "mixed":
        drawn = [puzzle for _, puzzle in mixture]
    else:
        choose = min if recipe.length == "short" else max
        drawn = [
            choose(pair, key=lambda p: len(solution(p, "canonical", random.Random(0))))
            for skill, n in Counter(skill for skill, _ in mixture).items()
            for puzzles in [draw_different(skill, "train", 2 * n, recipe.seed)]
            for pair in zip(puzzles[:n], puzzles[n:], strict=True)
        ]
        random.Random(f"length/{recipe.seed}").shuffle(drawn)
    return (drawn * recipe.n_responses)[: recipe.n_unique]


def sft(base: Path, recipe: SftRecipe, folder: Path) -> SftResult:
    """Train a recipe from a base, unless the folder has the result already; return the result.

    A folder that holds anything else is not changed, and raises a ConfigError.
    """
    key = digest([SFT_VERSION, fingerprint(base), recipe.key])
    report, is_new = find_or_make(folder, MARK, key, lambda draft: _train(base, recipe, draft))
    return SftResult(
        folder=folder,
        losses=tuple(report["losses"]),
        cpu_seconds=report["cpu_seconds"],
        is_new=is_new,
    )


def _train(base: Path, recipe: SftRecipe, folder: Path) -> dict[str, Any]:
    begin = time.process_time()
    model, tokenizer = load(base)
    settings = TrainSettings(
        n_steps=recipe.n_steps,
        batch_size=BATCH_SIZE,
        learning_rate=recipe.learning_rate,
        warmup_steps=_WARMUP_STEPS,
        seed=recipe.seed,
        n_bucketed=4,
    )
    examples = encode_pairs(tokenizer, examples_of(recipe))
    weigh = token_weights(recipe.loss_weighting, model, examples)
    losses = train(model, examples, settings, weigh=weigh)
    if recipe.base_share:
        _interpolate(model, load(base)[0], recipe.base_share)
    save_checkpoint(model, tokenizer, folder)
    return {
        "recipe": recipe.key,
        "cpu_seconds": round(time.process_time() - begin, 2),
        "losses": losses,
    }


def _interpolate(model: Any, base: Any, share: float) -> None:
    """Replace the weights by the mean of the base's, with this share, and their own."""
    import torch

    with torch.no_grad():
        for own, other in zip(model.parameters(), base.parameters(), strict=True):
            own.lerp_(other, share)


def _shares(mix: Mapping[str, float]) -> dict[str, float]:
    """Return shares in the order of the skills, without those that are 0."""
    unknown = sorted(set(mix) - set(ALL_SKILLS))
    if unknown:
        raise ConfigError(
            f"the mixture names {', '.join(unknown)}", fix=f"Known skills: {', '.join(ALL_SKILLS)}"
        )
    if not math.isclose(sum(mix.values()), 1.0, abs_tol=1e-6) or min(mix.values()) < 0.0:
        raise ConfigError(f"the shares {dict(mix)} are not a mixture", fix="Let them sum to 1")
    return {skill: float(mix[skill]) for skill in ALL_SKILLS if mix.get(skill, 0.0) > 0.0}


def _is_same(mix: Mapping[str, float], shares: Mapping[str, float]) -> bool:
    return all(abs(mix.get(s, 0.0) - shares.get(s, 0.0)) <= _SAME_SHARE for s in ALL_SKILLS)


def _check_record(record: Recipe) -> None:
    if not record.sources or record.n_unique is None:
        raise ConfigError("the recipe has no sources, or no n_unique")
    fixed = {"schedule": SCHEDULE, "batch_size": BATCH_SIZE}
    for name, only in fixed.items():
        value = getattr(record, name)
        if value not in (None, only):
            raise ConfigError(f"the recipe's {name} is {value!r}", fix=f"The testbed has {only!r}")
    for name in ("noise", "budget", "n_responses", "base_share"):
        value = record.extra.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"the recipe's {name} is {value!r}", fix="Give a number")
        if name in _WHOLE and not float(value).is_integer():
            raise ConfigError(
                f"the recipe's {name} is {value:g}",
                fix="Give a whole number; a searched range needs `int = true`",
            )
    unknown = sorted(set(record.extra) - set(_EXTRA_KEYS))
    if unknown:
        raise ConfigError(
            f"the testbed has no {', '.join(unknown)}",
            fix=f"Besides the usual fields, a recipe may have {', '.join(_EXTRA_KEYS)}",
        )
