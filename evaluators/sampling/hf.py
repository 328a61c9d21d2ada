"""The `hf` engine: a short torch loop around a transformers model.

It is faster than `model.generate`: each prompt is read once for all of its samples, many prompts
share a batch, finished rows leave it, and the cache grows in place. Each sample follows its own
random stream (`sampler.py`), so neither the batch nor a restart changes the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.evaluators.checkpoints.logits_check import check_logits, check_prompts
from rlready.evaluators.heldout.loss import context_tokens
from rlready.evaluators.heldout.token_nll import n_token_ids
from rlready.evaluators.memory import give_back_memory, is_out_of_memory
from rlready.evaluators.sampling.engine_options import check_options
from rlready.evaluators.sampling.kv_cache import growing_cache
from rlready.evaluators.sampling.sample_requests import (
    SampleRequest,
    finished_sample,
    sample_requests,
    stop_ids,
)
from rlready.evaluators.sampling.sampler import Draw, OnProgress, UniformStreams
from rlready.registry import records
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Sample

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_ROWS = {"cpu": 512, "cuda": 1024}
"""Largest number of rows of a batch; larger batches were not faster."""

_CPU_CACHE_BYTES = 4 << 30
"""Most memory of the key-value cache on a CPU."""

_GPU_CACHE_SHARE = 0.7
"""Share of the free GPU memory for the cache; the rest is for activations and logits."""

_COMPACT_SHARE = 0.12
"""Finished rows leave the batch once they are this share of it: copying the cache costs time."""

_CHOICE_ELEMENTS = 1 << 24
"""Most logits that are processed at once; bounds the memory of a large vocabulary."""


@dataclass(frozen=True, kw_only=True)
class HfOptions:
    """Options of the `hf` engine.

    Args:
        dtype: number format of weights and activations, for samples and losses; auto is bfloat16
            on a GPU that supports it and float32 elsewhere.
    """

    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class TokenSample:
    """A sample with its token ids, for training.

    Args:
        sample: as `HfSampler.draw` returns it.
        prompt: token ids that the model continued.
        response: token ids that it drew, including the end token.
    """

    sample: Sample
    prompt: tuple[int, ...]
    response: tuple[int, ...]


class HfSampler:
    """Draws samples with a transformers model.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: tokenizer of the same checkpoint.
        batch_size: rows of a batch; None chooses it by memory. An out-of-memory error halves it.

    Example:
        >>> model = load_model(folder, "cpu", torch.float32)
        >>> sampler = HfSampler(model, load_tokenizer(folder))
        >>> parts = list(sampler.draw(draws, protocol))
    """

    name = "hf"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None = None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._batch_size = batch_size
        generation: Any = model.generation_config
        self._stop_ids = stop_ids(getattr(generation, "eos_token_id", None), tokenizer)

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        import torch
        import transformers

        device = self._model.device
        return {
            "engine": self.name,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }

    def close(self) -> None:
        """See `Sampler.close`. The model belongs to its loader."""

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`. Yields a batch at a time, the longest prompts first."""
        for batch in self.draw_tokens(draws, protocol, on_progress):
            yield [token_sample.sample for token_sample in batch]

    def draw_tokens(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[TokenSample]]:
        """Yield the samples of `draw` together with their tokens."""
        rows = sample_requests(draws, protocol, self._tokenizer, context_tokens(self._model.config))
        prompts = [(row.problem_id, row.prompt) for row in rows]
        check_prompts(prompts, n_token_ids(self._model), str(self._model.name_or_path))
        size = self._batch_size or self._fitting_batch(rows, protocol)
        start = 0
        while start < len(rows):
            some = rows[start : start + size]
            batch = self._draw_if_it_fits(some, protocol, on_progress or (lambda *_: None))
            if batch is None:
                size = len(some) // 2
                continue
            yield batch.samples(self._tokenizer, self._stop_ids)
            start += len(some)

    def _fitting_batch(self, rows: Sequence[SampleRequest], protocol: records.Protocol) -> int:
        """Return how many rows the memory for the key-value cache holds."""
        import torch

        device, config = self._model.device, self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None)
        head_dim = head_dim or config.hidden_size // config.num_attention_heads
        token_bytes = 2 * config.num_hidden_layers * heads * head_dim * self._model.dtype.itemsize
        length = max((len(row.prompt) for row in rows), default=0) + protocol.max_tokens
        memory = _CPU_CACHE_BYTES
        if device.type == "cuda":
            memory = int(torch.cuda.mem_get_info(device)[0] * _GPU_CACHE_SHARE)
        fitting = memory // int(length * token_bytes)
        return max(1, min(_MAX_ROWS.get(device.type, 512), fitting))

    def _draw_if_it_fits(
        self, rows: Sequence[SampleRequest], protocol: records.Protocol, on_progress: OnProgress
    ) -> _Batch | None:
        """Return the finished batch; None if memory ran out and a smaller one may fit."""
        reported: list[tuple[int, int]] = []
        try:
            return self._draw_batch(rows, protocol, on_progress, reported)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise EvaluationError(
                    f"a single sample of problem {rows[0].problem_id} does not fit into memory",
                    why=f"its prompt has {len(rows[0].prompt)} tokens, and {protocol.max_tokens} "
                    "may follow",
                    fix="Lower --max-tokens, or use a larger device",
                ) from error
        # These samples will be drawn again.
        on_progress(-sum(n for n, _ in reported), -sum(n for _, n in reported))
        give_back_memory()
        return None

    def _draw_batch(
        self,
        rows: Sequence[SampleRequest],
        protocol: records.Protocol,
        on_progress: OnProgress,
        reported: list[tuple[int, int]],
    ) -> _Batch:
        import torch

        pad = self._tokenizer.pad_token_id
        pad_id = int(pad) if pad is not None else min(self._stop_ids, default=0)
        with torch.inference_mode():
            batch = _Batch(self._model, rows, pad_id, protocol)
            while batch.is_live:
                reported.append(batch.step(self._stop_ids))
                on_progress(*reported[-1])
        batch.let_go()
        return batch


class _Batch:
    """Rows that are drawn together. Axes: B live rows, R all rows, V vocabulary."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[SampleRequest],
        pad_id: int,
        protocol: records.Protocol,
    ) -> None:
        import torch

        self._model, self._rows, self._protocol = model, rows, protocol
        self._uniforms = UniformStreams([row.seed for row in rows])
        n_rows, device = len(rows), model.device
        self._tokens_RT = torch.full((n_rows, protocol.max_tokens), pad_id, dtype=torch.int32)
        self._lengths_R = np.zeros(n_rows, dtype=np.int64)
        self._sums_R2 = torch.zeros((n_rows, 2), dtype=torch.float64, device=device)
        self._live_B = torch.arange(n_rows, device=device)
        self._is_done_B = torch.zeros(n_rows, dtype=torch.bool, device=device)
        self._n_done = self._n_steps = 0
        self._prefill(pad_id)

    @property
    def is_live(self) -> bool:
        """Whether a row is still being drawn."""
        return len(self._live_B) > self._n_done and self._n_steps < self._protocol.max_tokens

    def step(self, stop_ids: Sequence[int]) -> tuple[int, int]:
        """Draw one token for every live row; return (rows finished, tokens drawn)."""
        import torch

        uniforms_B = torch.from_numpy(self._uniforms.next().copy()).to(self._live_B.device)
        tokens_B, sums_B2 = choose(self._logits_BV, uniforms_B, self._protocol)
        going_B = ~self._is_done_B
        rows_G = self._live_B[going_B]
        self._sums_R2[rows_G] += sums_B2[going_B]
        on_host = rows_G.cpu()
        self._tokens_RT[on_host, self._n_steps] = tokens_B[going_B].to("cpu", torch.int32)
        self._lengths_R[on_host.numpy()] += 1
        self._n_steps += 1
        stops = torch.tensor(list(stop_ids), device=tokens_B.device, dtype=tokens_B.dtype)
        self._is_done_B |= torch.isin(tokens_B, stops)
        n_done = int(self._is_done_B.sum())
        n_finished, self._n_done = n_done - self._n_done, n_done
        if not self.is_live:
            return len(self._live_B) - n_done + n_finished, len(rows_G)
        self._advance(tokens_B)
        return n_finished, len(rows_G)

    def samples(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]
    ) -> list[TokenSample]:
        """Return the finished samples, in the order of the rows."""
        samples = []
        rows = zip(self._rows, self._lengths_R.tolist(), self._sums_R2.tolist(), strict=True)
        for i, (row, length, (logprob_sum, entropy_sum)) in enumerate(rows):
            ids = self._tokens_RT[i, :length].tolist()
            sample = finished_sample(
                row, ids, stop_ids, tokenizer, logprob_sum=logprob_sum, entropy_sum=entropy_sum
            )
            samples.append(TokenSample(sample=sample, prompt=row.prompt, response=tuple(ids)))
        return samples

    def let_go(self) -> None:
        """Free what only drawing needs: the batch still exists while the next one is drawn."""
        del self._cache, self._logits_BV, self._mask_BT, self._positions_B1

    def _prefill(self, pad_id: int) -> None:
        """Read each distinct prompt once, then repeat its cache for all of its samples."""
        import torch

        problems = {row.prompt: row.problem_id for row in self._rows}
        prompts = list(problems)
        where = {prompt: i for i, prompt in enumerate(prompts)}
        width, device = max(map(len, prompts)), self._model.device
        ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        ids_PL = torch.tensor(ids, device=device)
        lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns_L = torch.arange(width, device=device)
        mask_PL = (columns_L >= (width - lengths_P)[:, None]).long()
        positions_PL = (mask_PL.cumsum(-1) - 1).clamp(min=0)
        self._cache = growing_cache(self._model.config, width + self._protocol.max_tokens)
        logits_PV = self._model(
            input_ids=ids_PL,
            attention_mask=mask_PL,
            position_ids=positions_PL,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        check_logits(logits_PV, [(problems[prompt], prompt) for prompt in prompts], self._model)
        index_B = torch.tensor([where[row.prompt] for row in self._rows], device=device)
        self._cache.batch_select_indices(index_B)
        self._logits_BV = logits_PV[index_B]
        room = mask_PL.new_ones((len(index_B), self._protocol.max_tokens))
        self._mask_BT = torch.cat([mask_PL[index_B], room], dim=1)
        self._positions_B1 = lengths_P[index_B][:, None]
        self._width = width

    def _advance(self, tokens_B: torch.Tensor) -> None:
        """Feed the drawn tokens; finished rows leave when there are enough of them."""
        if self._n_done >= _COMPACT_SHARE * len(self._live_B):
            keep_B = (~self._is_done_B).nonzero()[:, 0]
            self._cache.batch_select_indices(keep_B)
            self._mask_BT, tokens_B = self._mask_BT[keep_B], tokens_B[keep_B]
            self._positions_B1, self._live_B = self._positions_B1[keep_B], self._live_B[keep_B]
            self._is_done_B = self._is_done_B[keep_B]
            self._uniforms.keep(keep_B.cpu().numpy())
            self._n_done = 0
        self._logits_BV = self._model(
            input_ids=tokens_B[:, None],
            attention_mask=self._mask_BT[:, : self._width + self._n_steps],
            position_ids=self._positions_B1,
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        self._positions_B1 = self._positions_B1 + 1


def choose(
    logits_BV: torch.Tensor, uniforms_B: torch.Tensor, protocol: records.Protocol
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next token of each row, with its log-probability and the entropy.

    Args:
        logits_BV: logits of the next token.
        uniforms_B: one number in [0, 1) per row, float64.
        protocol: temperature and top-p.

    Returns:
        Tokens (B,), and (B, 2): log-probability of the token and entropy, both in nats at
        temperature 1 without truncation.
    """
    import torch

    rows = max(1, _CHOICE_ELEMENTS // logits_BV.shape[1])
    parts = [
        _choose(logits, uniforms, protocol)
        for logits, uniforms in zip(logits_BV.split(rows), uniforms_B.split(rows), strict=True)
    ]
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([sums for _, sums in parts])


def _choose(
    logits_BV: torch.Tensor, uniforms_B: torch.Tensor, protocol: records.Protocol
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    log_probs_BV = logits_BV.float().log_softmax(-1)
    probs_BV = log_probs_BV.exp()
    # A logit of -inf marks an impossible token: 0 times -inf is NaN.
    entropy_B = -(probs_BV * log_probs_BV.clamp(min=-1e30)).sum(-1)
    if protocol.temperature == 0.0:
        tokens_B = log_probs_BV.argmax(-1)
    else:
        if protocol.temperature != 1.0:
            probs_BV = (log_probs_BV / protocol.temperature).softmax(-1)
        tokens_B = _invert(probs_BV, uniforms_B, protocol.top_p)
    log_prob_B = log_probs_BV.gather(1, tokens_B[:, None])[:, 0]
    return tokens_B, torch.stack([log_prob_B, entropy_B], dim=1).double()


def _invert(probs_BV: torch.Tensor, uniforms_B: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the token at which the cumulative distribution passes the uniform number."""
    import torch

    if top_p < 1.0:
        probs_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(before_BV >= top_p, 0.0)
    cumulative_BV = probs_BV.double().cumsum(-1)
    # Below the total, so that a token of probability 0 at the end is never reached.
    target_B1 = (uniforms_B * cumulative_BV[:, -1])[:, None]
    index_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
    index_B1 = index_B1.clamp(max=probs_BV.shape[1] - 1)
    return (order_BV.gather(1, index_B1) if top_p < 1.0 else index_B1)[:, 0]
