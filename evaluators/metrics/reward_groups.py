"""What groups of rewards say about GRPO on these prompts, before any RL step.

GRPO draws G samples of a prompt and compares their rewards with the mean of the group. A group
whose rewards are all equal has no gradient. From n >= G scored samples of a prompt, of which n_v
have the reward v, the chance that a group drawn without replacement is of one reward is

    sum over v of C(n_v, G) / C(n, G),

unbiased for fresh samples, as pass@k is (hypergeometric counts). Rewards that differ by less than
1e-9 are equal: their difference is rounding.

- Unit: probability, or that of the reward. Average: over prompts, each with the same weight.
- Masked: UNSCORED samples are not counted. A prompt with fewer than G scored samples is left out
  of the shares of groups and counted in `n_short`.
- The same number: for rewards 0 and 1, 1 - `signal_share_<G>` of `sample_metrics`. TRL logs the
  share of its own groups as `frac_reward_zero_std`.
- Standard errors are over prompts (`estimates.mean`). If all prompts agree the standard error is 0,
  although other prompts may differ: `most_useful` and `least_useful` then bound the share at 95 %
  by the first group of each prompt, an exact binomial (Clopper and Pearson 1934).

Version 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlready.evaluators.metrics.estimates import Estimate, mean, with_sampling_error
from rlready.registry.errors import EvaluationError

EVALUATOR_VERSION = "1"

_DIGITS = 9
_MISS = 0.05
"""Chance that a bound does not hold."""


@dataclass(frozen=True, kw_only=True)
class PromptRewards:
    """The rewards of one prompt's samples.

    Args:
        prompt_id: id of the prompt.
        rewards: rewards of its scored samples, finite.
        n_unscored: samples without a reward.

    Example:
        >>> PromptRewards(prompt_id="7", rewards=(0.0, 1.0, 0.0, 0.0)).equal_groups(2)
        0.5
    """

    prompt_id: str
    rewards: tuple[float, ...]
    n_unscored: int = 0

    @property
    def n(self) -> int:
        """Scored samples."""
        return len(self.rewards)

    @property
    def is_constant(self) -> bool:
        """Whether it has samples, and all have one reward."""
        return len(self._counts()) == 1

    def n_solved(self, solved_at: float) -> int:
        """Return the number of samples whose reward is `solved_at` or more."""
        return sum(_rounded(reward) >= _rounded(solved_at) for reward in self.rewards)

    def equal_groups(self, group_size: int) -> float:
        """Return the share of its groups of this size without variance.

        Raises:
            EvaluationError: if it has fewer scored samples.
        """
        return math.fsum(self.equal_groups_by_reward(group_size).values())

    def equal_groups_by_reward(self, group_size: int) -> dict[float, float]:
        """Return the share of its groups in which all samples have a reward, by reward.

        Raises:
            EvaluationError: if it has fewer scored samples.
        """
        if not 2 <= group_size <= self.n:
            raise EvaluationError(
                f"groups of {group_size} are undefined for {self.n} scored samples of prompt "
                f"{self.prompt_id}",
                fix="Take a group of 2 or more, and at least as many samples",
            )
        groups = math.comb(self.n, group_size)
        return {
            reward: math.comb(count, group_size) / groups
            for reward, count in self._counts().items()
        }

    def _counts(self) -> Counter[float]:
        return Counter(map(_rounded, self.rewards))


@dataclass(frozen=True, kw_only=True)
class RewardGroups:
    """What the rewards of all prompts say.

    Args:
        group_size: samples of a group.
        mean_reward: over prompts with a scored sample.
        equal: share of groups without variance.
        equal_unsolved: share of groups without variance below the reward of a solved sample.
        equal_solved: share of groups without variance at or above it.
        n_prompts: prompts that the shares average over.
        n_short: prompts with too few scored samples for a group.
    """

    group_size: int
    mean_reward: Estimate
    equal: Estimate
    equal_unsolved: Estimate
    equal_solved: Estimate
    n_prompts: int
    n_short: int

    @property
    def useful(self) -> float:
        """Share of groups with variance, which alone have a gradient."""
        return max(0.0, 1.0 - self.equal.value)

    @property
    def least_useful(self) -> float:
        """Return a lower bound of `useful`: two standard errors, or exact at 95 %."""
        if self.equal.value <= 0.0:
            return float(_MISS ** (1.0 / self.n_prompts))
        return max(0.0, self.useful - 2.0 * (self.equal.se or 0.0))

    @property
    def most_useful(self) -> float:
        """Return an upper bound of `useful`: two standard errors, or exact at 95 %."""
        if self.equal.value >= 1.0:
            return 1.0 - float(_MISS ** (1.0 / self.n_prompts))
        return min(1.0, self.useful + 2.0 * (self.equal.se or 0.0))

    def useful_in_batch(self, n_groups: int) -> tuple[float, float]:
        """Return mean and standard deviation of the useful groups in a batch of fresh prompts."""
        return n_groups * self.useful, math.sqrt(n_groups * self.useful * (1.0 - self.useful))

    def none_useful(self, n_groups: int) -> float:
        """Return the chance that no group of a batch of fresh prompts is useful."""
        return float((1.0 - self.useful) ** n_groups)


def reward_groups(
    prompts: Sequence[PromptRewards], group_size: int, solved_at: float = 1.0
) -> RewardGroups:
    """Return the statistics of groups of this size.

    Args:
        prompts: rewards of each prompt.
        group_size: samples of a GRPO group, 2 or more.
        solved_at: smallest reward of a solved sample.

    Raises:
        EvaluationError: if no prompt has enough scored samples.

    Example:
        >>> prompts = [PromptRewards(prompt_id="a", rewards=(0.0, 0.0, 1.0, 1.0))]
        >>> round(reward_groups(prompts, 2).equal.value, 4)
        0.3333
    """
    enough = [prompt for prompt in prompts if prompt.n >= group_size]
    if not enough:
        n_unscored = sum(prompt.n_unscored for prompt in prompts)
        raise EvaluationError(
            f"no prompt has {group_size} scored samples, the size of a group "
            f"({n_unscored} samples are UNSCORED)",
            fix="Draw more samples, or repair the reward",
        )
    scored = [prompt for prompt in prompts if prompt.n]
    rewards = [np.array(prompt.rewards) for prompt in scored]
    # The variance of a mean is undefined for one sample.
    within = [math.inf if len(r) < 2 else float(r.var(ddof=1)) / len(r) for r in rewards]
    mean_reward = mean(float(r.mean()) for r in rewards)
    shares = [prompt.equal_groups_by_reward(group_size) for prompt in enough]
    solved = _rounded(solved_at)
    return RewardGroups(
        group_size=group_size,
        mean_reward=with_sampling_error(mean_reward, math.sqrt(math.fsum(within)) / len(scored)),
        equal=mean(math.fsum(by_reward.values()) for by_reward in shares),
        equal_unsolved=mean(
            math.fsum(share for reward, share in by_reward.items() if reward < solved)
            for by_reward in shares
        ),
        equal_solved=mean(
            math.fsum(share for reward, share in by_reward.items() if reward >= solved)
            for by_reward in shares
        ),
        n_prompts=len(enough),
        n_short=len(prompts) - len(enough),
    )


def most_solved(n: int) -> float:
    """Return the largest chance of a solved sample that n failures leave open, at 95 %.

    Example:
        >>> round(most_solved(8), 2)
        0.31
    """
    return 1.0 - float(_MISS ** (1.0 / n))


def _rounded(reward: float) -> float:
    return round(reward, _DIGITS) + 0.0  # adding 0.0 turns -0.0 into 0.0
