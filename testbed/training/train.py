"""Supervised training of the testbed's models on tokenized examples.

The loss is the mean negative log-likelihood of the response tokens of a batch, the end token
included, in nats. Rows are padded on the right, which a causal model does not see, so no attention
mask is needed. On one machine the same seed gives the same losses bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3ForCausalLM

SCHEDULE = "cosine_to_5_percent"
_FINAL_SHARE = 0.05
_BETAS = (0.9, 0.98)
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Args:
        n_steps: optimizer steps.
        batch_size: examples a step; every epoch takes them in another order.
        learning_rate: peak of the schedule: linear warm-up, then a cosine down to 5 % of it.
        warmup_steps: until the peak.
        weight_decay: of AdamW.
        seed: of the order of the examples.
        n_bucketed: this many batches are filled together, with similar lengths in each batch,
            which saves padding. With 1 the order is random.
    """

    n_steps: int
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    seed: int = 0
    n_bucketed: int = 1

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "learning_rate", "n_bucketed"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="Give a positive number")

    def rate_share(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ... as a share of the peak."""
        progress = min(step / self.n_steps, 1.0)
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        warmup = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        return warmup * (_FINAL_SHARE + (1.0 - _FINAL_SHARE) * cosine)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tokenized questions and responses, padded on the right.

    Args:
        ids: (examples, tokens) int64.
        is_response: (examples, tokens) bool; the tokens that the loss is taken on.
        lengths: (examples,) int64, tokens without padding.
    """

    ids: torch.Tensor
    is_response: torch.Tensor
    lengths: torch.Tensor


def train(
    model: Qwen3ForCausalLM,
    examples: Examples,
    settings: TrainSettings,
    on_step: Callable[[int, float], None] | None = None,
    weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> list[float]:
    """Train the model in place; return the loss of every step in nats per response token.

    The model stays on its device, and is left in evaluation mode. `on_step` is called after each
    step with the number of steps done and the loss. `weigh` turns the losses of a batch's tokens
    and its rows into weights of mean 1; without it all tokens weigh the same.
    """
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=_BETAS,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate_share)
    rows = batches(examples.lengths, settings)
    losses: list[float] = []
    model.train()
    with one_thread():
        while len(losses) < settings.n_steps:
            loss = _batch_loss(model, examples, next(rows), weigh)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if on_step is not None:
                on_step(len(losses), losses[-1])
    model.eval()
    return losses


def _batch_loss(
    model: Qwen3ForCausalLM,
    examples: Examples,
    rows: torch.Tensor,
    weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    if weigh is None:
        return response_loss(model, examples, rows)
    losses_T = response_loss(model, examples, rows, "none")
    return (weigh(losses_T.detach(), rows) * losses_T).mean()


def response_loss(
    model: Qwen3ForCausalLM,
    examples: Examples,
    rows: torch.Tensor,
    reduction: Literal["mean", "none"] = "mean",
) -> torch.Tensor:
    """Return the negative log-likelihood of the response tokens of these rows, in nats.

    It is the mean over all tokens or, with `none`, one value for each token, row after row.
    """
    import torch

    width = int(examples.lengths[rows].max())
    ids = examples.ids[rows, :width].to(model.device)
    is_target = examples.is_response[rows, 1:width].to(model.device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][is_target])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_target], reduction=reduction)


def batches(lengths: torch.Tensor, settings: TrainSettings) -> Iterator[torch.Tensor]:
    """Yield the rows of each step's examples, without end; `lengths` has their tokens."""
    import torch

    # Batches continue over the end of an epoch: no example is left out, and all batches are full.

    generator = torch.Generator().manual_seed(settings.seed)
    queue = torch.empty(0, dtype=torch.int64)
    n_taken = settings.batch_size * settings.n_bucketed
    while True:
        while len(queue) < n_taken:
            queue = torch.cat([queue, torch.randperm(len(lengths), generator=generator)])
        taken, queue = queue[:n_taken], queue[n_taken:]
        if settings.n_bucketed == 1:
            yield taken
            continue
        taken = taken[lengths[taken].argsort(stable=True)]
        parts = taken.split(settings.batch_size)
        for i in torch.randperm(len(parts), generator=generator).tolist():
            yield parts[i]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work with one thread inside the block."""
    import torch

    # A second thread does not speed up such small matrices, and it changes how sums are split,
    # hence their rounding errors.

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
