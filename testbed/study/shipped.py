"""The shipped results of the testbed, `testbed/results/PROFILE.csv`; "full" as records.

Each has 48 SFT checkpoints with their proxies before RL and their true scores after GRPO. The
results hold no weights; `sft` makes those of a recipe again in seconds. Only the benchmarks whose
answers are numbers are read, so that `rlready evaluate` measures a further checkpoint on the same
problems, by the same protocol, into the same columns.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from rlready.evaluators.checkpoints.folder import load_tokenizer
from rlready.evaluators.heldout.examples import load_heldout
from rlready.evaluators.heldout.loss import EVALUATOR_VERSION as LOSS_VERSION
from rlready.evaluators.heldout.tokens import tokenize_set
from rlready.evaluators.metrics.pass_at_k import EVALUATOR_VERSION as PASS_VERSION
from rlready.evaluators.metrics.proxies import macro_mean
from rlready.evaluators.metrics.sample_metrics import EVALUATOR_VERSION as SAMPLE_VERSION
from rlready.registry.digest import fingerprint
from rlready.registry.errors import ConfigError
from rlready.registry.outcomes import Outcome, Statistic
from rlready.registry.records import Checkpoint, Evaluation, Proxy
from rlready.testbed.study.design import PROFILES, make_design
from rlready.testbed.study.run import WORLD_AFTER, rl_recipe
from rlready.testbed.study.unit import content_digest
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.sft import SftRecipe
from rlready.testbed.world.benchmarks import benchmarks, write_heldout
from rlready.testbed.world.measure import protocol
from rlready.testbed.world.solutions import STYLES

RESULTS = Path(__file__).parents[1] / "results"
"""Folder of the tables."""

PROFILE = PROFILES["full"]
_STATISTIC: Statistic = "value_at_budget"
TARGET = f"{_STATISTIC}/{PROFILE.grpo.n_steps}steps@{WORLD_AFTER}"
BENCHMARKS = ("chain_easy", "chain_hard", "add2", "add3")
"""Benchmarks whose answers are numbers."""

MEAN = "mean"
"""Name that `rlready evaluate` gives to the mean over several benchmarks."""

_SAMPLED = {
    **{f"pass_at_{k}": ("probability", PASS_VERSION) for k in (1, 4, 16, 64)},
    "signal_share_8": ("probability", SAMPLE_VERSION),
    "token_entropy": ("nats/token", SAMPLE_VERSION),
}
"""Unit and version of the proxies that are read of each benchmark."""

_LOSS = "heldout_nll"


@cache
def shipped_rows(profile: str = "full") -> dict[str, dict[str, str]]:
    """Return the rows of a profile's table by the name of the checkpoint, which is its recipe's.

    Raises:
        ConfigError: if there are no results of that profile.
    """
    path = RESULTS / f"{profile}.csv"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in RESULTS.glob("*.csv")))
        raise ConfigError(
            f"there are no results of the profile {profile!r}", fix=f"There are those of: {known}"
        )
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@cache
def shipped_recipes(profile: str = "full") -> dict[str, SftRecipe]:
    """Return the recipes of the shipped checkpoints by name."""
    return {recipe.id: recipe for recipe in make_design(profile, seed=0, n_workers=1).recipes}


def held_back(n_of_style: int = 3) -> tuple[str, ...]:
    """Return the names of the checkpoints whose outcomes a demonstration hides.

    They are drawn with a fixed seed, as many of each style of the SFT solutions, so that neither
    proxies nor outcomes decide. The order is that of the draw.
    """
    recipes = shipped_recipes()
    names: list[str] = []
    for style in STYLES:
        of_style = sorted(name for name, recipe in recipes.items() if recipe.style == style)
        names += random.Random(f"held back/{style}").sample(of_style, n_of_style)
    return tuple(names)


def made_again(names: Sequence[str], n: int = 2) -> tuple[str, ...]:
    """Return the first `n` names of different styles among the recipes with the smaller budget.

    They are cheap to train, in seconds; nothing else decides.
    """
    recipes = shipped_recipes()
    smallest = min(recipe.budget for recipe in recipes.values())
    first: dict[str, str] = {}
    for name in names:
        if recipes[name].budget == smallest:
            first.setdefault(recipes[name].style, name)
    return tuple(first.values())[:n]


def shipped_evaluation(name: str) -> Evaluation:
    """Return a shipped checkpoint with its proxies, as `rlready evaluate` would measure them."""
    row, recipe = shipped_rows()[name], shipped_recipes()[name]
    checkpoint = Checkpoint(
        uri=f"file:///weights-are-not-shipped/{name}",
        fingerprint=row["checkpoint_id"],
        name=name,
        step=recipe.n_steps,
        recipe=recipe.record("testbed-base", fingerprint(shipped_base())),
    )
    sampled = [
        _proxy(row, proxy, benchmark, unit, version, content, PROFILE.n_samples)
        for benchmark, content in _contents().items()
        for proxy, (unit, version) in _SAMPLED.items()
    ]
    losses = [
        _proxy(row, _LOSS, name, "nats/token", LOSS_VERSION, content, n_tokens)
        for name, (content, n_tokens) in _heldout_contents().items()
    ]
    return Evaluation(
        checkpoint=checkpoint, proxies=(*sampled, *macro_mean(MEAN, sampled), *losses)
    )


def shipped_outcome(name: str, checkpoint_id: str | None = None) -> Outcome:
    """Return the true score after GRPO, the mean of two RL seeds.

    Args:
        name: of the checkpoint.
        checkpoint_id: by default that of the shipped table.
    """
    row = shipped_rows()[name]
    statistic, _, benchmark = TARGET.partition("@")
    return Outcome(
        checkpoint_id=checkpoint_id or row["checkpoint_id"],
        algorithm="grpo",
        budget=PROFILE.grpo.n_steps,
        budget_unit="steps",
        statistic=_STATISTIC,
        benchmark=benchmark,
        value=float(row[TARGET]),
        se=float(row[f"{statistic}_se@{benchmark}"]),
        rl_recipe=rl_recipe(PROFILE.grpo),
    )


def _proxy(
    row: Mapping[str, str],
    name: str,
    benchmark: str,
    unit: str,
    version: str,
    content: str,
    n_samples: int,
) -> Proxy:
    """Return one number of a row; `n_samples` are tokens of a held-out set, else a problem's."""
    n_problems = int(row[f"{name}_n@{benchmark}"])
    is_loss = name == _LOSS
    return Proxy(
        name=name,
        value=float(row[f"{name}@{benchmark}"]),
        se=float(row[f"{name}_se@{benchmark}"]),
        unit=unit,
        benchmark=benchmark,
        benchmark_digest=content,
        protocol_digest=None if is_loss else protocol().digest,
        n_problems=n_problems,
        n_samples=n_samples if is_loss else n_samples * n_problems,
        evaluator_version=version,
    )


@cache
def _contents() -> dict[str, str]:
    """Return the digest of each benchmark's half `before`."""
    items = benchmarks("before", PROFILE.n_problems, BENCHMARKS)
    return {name: content_digest(each) for name, each in items.items()}


@cache
def _heldout_contents() -> dict[str, tuple[str, int]]:
    """Return the digest of each held-out set, and how many of its tokens are scored."""
    tokenizer, contents = load_tokenizer(shipped_base()), {}
    with tempfile.TemporaryDirectory() as folder:
        for path in write_heldout(Path(folder), PROFILE.n_heldout):
            tokens = tokenize_set(load_heldout(path), tokenizer, "{problem}")
            n_tokens = sum(int(example.is_response.sum()) for example in tokens.examples)
            contents[tokens.name] = (tokens.benchmark_digest, n_tokens)
    return contents
