"""GRPO with verifiable rewards, on the project's own sampler.

Each step draws groups of responses to prompts of a finite pool, and compares the reward of each
response with its group: A = (r - mean) / sd. Groups of equal rewards have no advantage and are left
out. The loss is the mean of -min(ratio A, clip(ratio) A) over all remaining response tokens, with
ratio = pi / pi_old. There is no KL term. Source: Shao et al. 2024 (arXiv 2402.03300), with the
token mean of DAPO (arXiv 2503.14476).

The benchmarks' half `after` is measured at several budgets, which gives an RL curve.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rlready.evaluators.metrics.pass_at_k import mean_pass_at_k
from rlready.evaluators.sampling.hf import HfSampler, TokenSample
from rlready.evaluators.sampling.sampler import Draw
from rlready.registry.digest import digest, fingerprint
from rlready.registry.errors import ConfigError
from rlready.testbed.folders import find_or_make
from rlready.testbed.training.model import save_checkpoint
from rlready.testbed.training.tokenizer import padded
from rlready.testbed.training.train import one_thread, response_loss
from rlready.testbed.world.benchmarks import benchmarks
from rlready.testbed.world.measure import Item, count, load, protocol
from rlready.testbed.world.puzzles import reward
from rlready.testbed.world.skills import draw_mixture
from rlready.testbed.world.worlds import world_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

GRPO_VERSION = 1
"""Increases when the same settings give another result."""

MARK = "grpo.json"
_BETAS = (0.9, 0.99)
_MAX_GRADIENT_NORM = 1.0
_FINAL_SHARE = 0.1
_ROWS = 64  # of a forward pass: more rows need more memory and are not faster
_POOL_SEED = 77


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """Settings of RL and of the measurements during it.

    Args:
        n_steps: optimizer steps.
        n_prompts: prompts per step.
        group_size: responses to each prompt.
        learning_rate: of Adam; constant in the first half, then falling linearly to a tenth.
        pool_size: different prompts. When all were used, they are used again in another order.
        mix: mixture of the pool's skills; its world has the skills that are measured.
        clip: how far the ratio may be from 1 to either side.
        n_updates: optimizer updates on each batch of responses. With one the ratio is always 1.
        budgets: steps after which the benchmarks are measured; 0 is before the first.
        n_eval_problems: of each benchmark's half `after`.
        n_eval_samples: of each of them.
        seed: of the order of the prompts and of all samples in training. The pool and the samples
            of the measurements are the same for every seed.

    Example:
        >>> GrpoSettings(n_steps=30, budgets=(0, 30)).rate_share(0)
        1.0
    """

    n_steps: int = 60
    n_prompts: int = 32
    group_size: int = 8
    learning_rate: float = 5e-4
    pool_size: int = 512
    mix: str = "mixed"
    clip: float = 0.2
    n_updates: int = 1
    budgets: tuple[int, ...] = (0, 30, 60)
    n_eval_problems: int = 100
    n_eval_samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_steps", "n_prompts", "learning_rate", "n_updates", "n_eval_samples"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} of GRPO is {getattr(self, name)}", fix="Give 1 or more")
        if self.group_size < 2 or self.pool_size < self.n_prompts:
            raise ConfigError(
                f"GRPO with groups of {self.group_size} and {self.n_prompts} prompts a step from a "
                f"pool of {self.pool_size}",
                fix="Give groups of 2 or more, and a pool of at least one step's prompts",
            )
        if list(self.budgets) != sorted(set(self.budgets)) or not all(
            0 <= budget <= self.n_steps for budget in self.budgets
        ):
            raise ConfigError(
                f"budgets of GRPO are {self.budgets}",
                why=f"there are {self.n_steps} steps",
                fix="Give different numbers of steps, in ascending order",
            )
        world_of(self.mix)  # it is known

    def rate_share(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ... as a share of the first."""
        progress = step / self.n_steps
        return 1.0 if progress < 0.5 else 1.0 - (1.0 - _FINAL_SHARE) * (progress - 0.5) / 0.5


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """pass@1 of a benchmark, with its standard error over n problems, after `budget` steps."""

    budget: int
    benchmark: str
    value: float
    se: float
    n: int


@dataclass(frozen=True, kw_only=True)
class GrpoResult:
    """An RL checkpoint and its training.

    Args:
        folder: the checkpoint, with `grpo.json` and `curve.csv` in it.
        curve: of the half `after`, ordered by budget.
        rewards: mean reward of each step's responses, on the training pool.
        signal_shares: share of each step's groups whose rewards were not all equal.
        cpu_seconds: cost of sampling, training and measuring in the call that made it.
        is_new: whether this call made it.

    Example:
        >>> settings = GrpoSettings(n_steps=1, budgets=(0, 1), n_eval_problems=3)
        >>> result = grpo(sft_folder, settings, Path("rl"))
        >>> gain = result.mean_at(1) - result.mean_at(0)
    """

    folder: Path
    curve: tuple[CurveRow, ...]
    rewards: tuple[float, ...]
    signal_shares: tuple[float, ...]
    cpu_seconds: dict[str, float]
    is_new: bool

    def mean_at(self, budget: int) -> float:
        """Return the mean over the benchmarks at a budget that was measured."""
        return statistics.fmean(row.value for row in self.curve if row.budget == budget)


def grpo(sft_folder: Path, settings: GrpoSettings, folder: Path) -> GrpoResult:
    """Run RL from a checkpoint, unless the folder has the result already; return the result.

    A folder that holds anything else is not changed, and raises a ConfigError.
    """
    key = digest([GRPO_VERSION, fingerprint(sft_folder), dataclasses.asdict(settings)])
    report, is_new = find_or_make(
        folder, MARK, key, lambda draft: _run(sft_folder, settings, draft)
    )
    return GrpoResult(
        folder=folder,
        curve=tuple(CurveRow(**row) for row in report["curve"]),
        rewards=tuple(report["rewards"]),
        signal_shares=tuple(report["signal_shares"]),
        cpu_seconds=report["cpu_seconds"],
        is_new=is_new,
    )


def advantages(rewards_PG: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rewards minus the mean of their group, divided by its standard deviation.

    All zero in a group of equal rewards. Shape (prompts, group), as the rewards.
    """
    centred_PG: npt.NDArray[np.float64] = rewards_PG - rewards_PG.mean(axis=1, keepdims=True)
    spread_P1 = rewards_PG.std(axis=1, keepdims=True)
    advantages_PG = np.zeros(centred_PG.shape)
    np.divide(centred_PG, spread_P1, out=advantages_PG, where=spread_P1 > 0)
    return advantages_PG


def _run(sft_folder: Path, settings: GrpoSettings, folder: Path) -> dict[str, Any]:
    model, tokenizer = load(sft_folder)
    run = _Run(model, tokenizer, settings)
    with one_thread():
        for step in range(settings.n_steps):
            run.measure_if_due(step)
            run.step(step)
        run.measure_if_due(settings.n_steps)
    save_checkpoint(model, tokenizer, folder)
    with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(CurveRow)])
        writer.writeheader()
        writer.writerows(map(dataclasses.asdict, run.curve))
    return {
        "settings": dataclasses.asdict(settings),
        "cpu_seconds": {name: round(seconds, 2) for name, seconds in run.cpu_seconds.items()},
        "curve": [dataclasses.asdict(row) for row in run.curve],
        "rewards": run.rewards,
        "signal_shares": run.signal_shares,
    }


class _Run:
    """A model in training. Dimensions: P prompts, G responses of a group, N both, T tokens."""

    def __init__(
        self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, settings: GrpoSettings
    ) -> None:
        import torch

        self.curve: list[CurveRow] = []
        self.rewards: list[float] = []
        self.signal_shares: list[float] = []
        self.cpu_seconds = dict.fromkeys(("sampling", "training", "measuring"), 0.0)
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._sampler = HfSampler(model, tokenizer)
        self._prompts = prompts_of_steps(settings)
        skills = world_of(settings.mix).skills
        self._measured = benchmarks("after", settings.n_eval_problems, skills)
        self._optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, betas=_BETAS, fused=True
        )

    def measure_if_due(self, budget: int) -> None:
        """Measure the benchmarks if this is one of the budgets."""
        settings = self._settings
        if budget not in settings.budgets:
            return
        with self._timed("measuring"):
            counts = count(
                self._model,
                self._tokenizer,
                self._measured,
                n_samples=settings.n_eval_samples,
                drawn_by=protocol(),
            )
        for name, problems in counts.items():
            estimate = mean_pass_at_k(problems, 1, name)
            self.curve.append(
                CurveRow(
                    budget=budget,
                    benchmark=name,
                    value=estimate.value,
                    se=estimate.se or 0.0,
                    n=len(problems),
                )
            )

    def step(self, step: int) -> None:
        """Draw, reward, and update the model."""
        with self._timed("sampling"):
            samples, rewards_PG = self._draw(step)
        self.rewards.append(float(rewards_PG.mean()))
        advantages_N = advantages(rewards_PG).ravel()
        unequal = np.flatnonzero(advantages_N)
        # Rewards have two values, so in a group of unequal rewards each differs from the mean.
        self.signal_shares.append(len(unequal) / len(advantages_N))
        if len(unequal):
            with self._timed("training"):
                self._update(step, [samples[i] for i in unequal], advantages_N[unequal])

    def _draw(self, step: int) -> tuple[list[TokenSample], npt.NDArray[np.float64]]:
        settings = self._settings
        items = {item.id: item for item in next(self._prompts)}
        indices = tuple(range(settings.group_size))
        draws = [Draw(problem=item.problem(), sample_indices=indices) for item in items.values()]
        # The seeds are far from those of measurements, and different in every step of every run.
        drawn_by = protocol(seed=1_000_000 * (settings.seed + 1) + step)
        samples = [sample for part in self._sampler.draw_tokens(draws, drawn_by) for sample in part]
        order = {key: i for i, key in enumerate(items)}
        samples.sort(key=lambda s: (order[s.sample.problem_id], s.sample.sample_index))
        rewards = [reward(items[s.sample.problem_id].puzzle, s.sample.text) for s in samples]
        return samples, np.array(rewards, dtype=np.float64).reshape(len(items), -1)

    def _update(
        self, step: int, samples: Sequence[TokenSample], advantages_N: npt.NDArray[np.float64]
    ) -> None:
        import torch

        examples = padded(
            [(s.prompt, s.response) for s in samples], int(self._tokenizer.pad_token_id)
        )
        by_length = examples.lengths.argsort(stable=True).split(_ROWS)
        signs = torch.tensor(advantages_N, dtype=torch.float32)
        n_tokens = int(examples.is_response.sum())
        old: list[torch.Tensor] = []
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * self._settings.rate_share(step)
        for _ in range(self._settings.n_updates):
            self._optimizer.zero_grad()
            for i, rows in enumerate(by_length):
                log_probs = -response_loss(self._model, examples, rows, "none")
                if len(old) == i:
                    old.append(log_probs.detach())
                n_each = examples.is_response[rows].sum(1)
                signs_T = signs[rows].repeat_interleave(n_each)
                ratios_T = (log_probs - old[i]).exp()
                clipped_T = ratios_T.clamp(1.0 - self._settings.clip, 1.0 + self._settings.clip)
                gain_T = (ratios_T * signs_T).minimum(clipped_T * signs_T)
                (-gain_T.sum() / n_tokens).backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
            self._optimizer.step()

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.cpu_seconds[name] += time.process_time() - begin


def pool(settings: GrpoSettings) -> list[Item]:
    """Return the prompts of training: problems of the training split, the same for every seed."""
    drawn = draw_mixture(
        world_of(settings.mix).mixes[settings.mix], "train", settings.pool_size, seed=_POOL_SEED
    )
    return [Item(id=f"pool-{i:05d}", puzzle=puzzle) for i, (_, puzzle) in enumerate(drawn)]


def prompts_of_steps(settings: GrpoSettings) -> Iterator[list[Item]]:
    """Yield the prompts of each step; the whole pool is used before a prompt is repeated."""
    items, rng = pool(settings), random.Random(f"grpo/{settings.seed}")
    queue: list[Item] = []
    while True:
        if len(queue) < settings.n_prompts:
            # The rest is dropped: with it, a step could get the same prompt twice.
            queue = rng.sample(items, len(items))
        yield queue[: settings.n_prompts]
        queue = queue[settings.n_prompts :]
