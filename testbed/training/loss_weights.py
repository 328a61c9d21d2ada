"""Weights of the tokens in the SFT loss: PEAR, importance weights, and a filter of the tail.

    pear      d_t = clip(ln pi(t) - ln pi_data(t), -0.08, 0.3)     (arXiv 2602.01058)
              sequence: exp(sum of d); token: 0.999^(T-t) exp(sum of d_j, j > t); block: as token,
              with the sum over the tokens behind the block of 8. Logarithms are cut at -10 and 5.
    iw        exp(mean over the response of ln pi(t) - ln pi_base(t)), at most 16
              (arXiv 2507.12856, the authors' default temperature of 1)
    tail_filter   0 for the tenth of a batch's tokens that the model finds least likely, else 1

pi is the model in training; no gradient flows through a weight. pi_data is the policy that wrote
the data: here a program that writes a canonical, right solution with probability 1, so ln pi_data
is taken as 0. (Random orders and wrong steps have less; their d is too low, but clipped at -0.08.)
The weights of a batch are divided by their mean, so that a learning rate means the same with each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import ConfigError
from rlready.testbed.training.train import Examples, response_loss

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3ForCausalLM

WEIGHTINGS = ("none", "pear_sequence", "pear_block", "pear_token", "iw", "tail_filter")

_LEAST, _MOST = -0.08, 0.3
_DISCOUNT = 0.999
_LOG_LEAST, _LOG_MOST = -10.0, 5.0
_BLOCK = 8
_LARGEST_RATIO = 16.0
_TAIL = 0.1
_ROWS = 256  # of a forward pass through the base

Weigh = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""From the losses of a batch's response tokens and its rows to the weights of the tokens."""


def token_weights(weighting: str, base: Qwen3ForCausalLM, examples: Examples) -> Weigh | None:
    """Return how tokens are weighted during training; None if all have the same weight.

    Args:
        weighting: one of `WEIGHTINGS`; another one raises a ConfigError.
        base: the model before training, in evaluation mode.
        examples: what it is trained on.
    """
    if weighting not in WEIGHTINGS:
        raise ConfigError(f"loss weighting is {weighting!r}", fix=f"Known: {', '.join(WEIGHTINGS)}")
    if weighting == "none":
        return None
    if weighting == "tail_filter":
        return _without_tail
    n_each = examples.is_response.sum(1)
    if weighting == "iw":
        before = _mean_losses(base, examples)
        return lambda nll_T, rows: _even(_importance(nll_T, before[rows], n_each[rows]))
    kind = weighting.removeprefix("pear_")
    return lambda nll_T, rows: _even(_pear(nll_T, n_each[rows], kind))


def _pear(nll_T: torch.Tensor, n_each: torch.Tensor, kind: str) -> torch.Tensor:
    import torch

    weights = []
    for losses in nll_T.split(n_each.tolist()):
        steps = (-losses).clamp(_LEAST, _MOST)
        n = len(steps)
        position = torch.arange(n)
        behind = steps.flip(0).cumsum(0).flip(0) - steps  # sum over the tokens behind each one
        if kind == "sequence":
            logs = steps.sum().expand(n)
        else:
            last = position if kind == "token" else (position // _BLOCK + 1) * _BLOCK - 1
            last = last.clamp(max=n - 1)
            logs = behind[last] + (n - 1 - last) * torch.tensor(_DISCOUNT).log()
        weights.append(logs.clamp(_LOG_LEAST, _LOG_MOST).exp())
    return torch.cat(weights)


def _importance(nll_T: torch.Tensor, before: torch.Tensor, n_each: torch.Tensor) -> torch.Tensor:
    import torch

    now = torch.stack([losses.mean() for losses in nll_T.split(n_each.tolist())])
    return (before - now).exp().clamp(max=_LARGEST_RATIO).repeat_interleave(n_each)


def _without_tail(nll_T: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return _even((nll_T <= nll_T.quantile(1.0 - _TAIL)).to(nll_T.dtype))


def _even(weights_T: torch.Tensor) -> torch.Tensor:
    return weights_T / weights_T.mean()


def _mean_losses(model: Any, examples: Examples) -> torch.Tensor:
    """Return the mean loss of each example's response under the base, shape (examples,)."""
    import torch

    means = []
    n_each = examples.is_response.sum(1)
    with torch.no_grad():
        for rows in torch.arange(len(n_each)).split(_ROWS):
            losses = response_loss(model, examples, rows, "none").split(n_each[rows].tolist())
            means += [each.mean() for each in losses]
    return torch.stack(means)
