"""Parts of all engines: from problems to requests, and from tokens to samples.

An engine gets token ids, never a text: only `prompts.py` decides which special tokens a prompt
begins with. End tokens and the decoding of samples are here, so that equal tokens are equal samples
in every engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.benchmarks.prompts import encode, render
from rlready.evaluators.checkpoints.folder import load_config
from rlready.evaluators.sampling.sampler import Draw, OnProgress, sample_seed
from rlready.registry import records
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PART_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One sample to draw: `prompt` is the token ids that the model continues."""

    problem_id: str
    sample_index: int
    seed: int
    prompt: tuple[int, ...]


def sample_requests(
    draws: Sequence[Draw],
    protocol: records.Protocol,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
) -> list[SampleRequest]:
    """Return one request per sample, the longest prompts first.

    Prompts of similar length, which need less padding, and equal prompts, which share their prefix,
    are then neighbours. If memory runs out, it does so with the first requests.

    Args:
        draws: samples to draw.
        protocol: protocol with the template, the length and the base seed.
        tokenizer: tokenizer of the checkpoint.
        context: largest number of tokens of a prompt with its sample; None for no limit.

    Raises:
        EvaluationError: if a prompt with its samples is longer than the context.
    """
    requests = []
    for draw in draws:
        text = render(tokenizer, protocol.prompt_template, draw.problem.text)
        prompt = tuple(encode(tokenizer, text))
        n_prompt, n_new = len(prompt), protocol.max_tokens
        if context is not None and n_prompt + n_new > context:
            raise EvaluationError(
                f"the prompt of problem {draw.problem.id} has {n_prompt} tokens, and with {n_new} "
                f"more it exceeds the model's context of {context}",
                fix=f"Lower --max-tokens to {context - n_prompt} or less"
                if n_prompt < context
                else "Leave this problem out",
            )
        requests += [
            SampleRequest(
                problem_id=draw.problem.id,
                sample_index=index,
                seed=sample_seed(protocol.seed, draw.problem.id, index),
                prompt=prompt,
            )
            for index in draw.sample_indices
        ]
    return sorted(requests, key=lambda r: (-len(r.prompt), r.prompt, r.sample_index))


def longest_request(
    problems: Iterable[records.Problem],
    protocol: records.Protocol,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Return the largest number of tokens of a prompt with its sample."""
    texts = {render(tokenizer, protocol.prompt_template, problem.text) for problem in problems}
    return max(len(encode(tokenizer, text)) for text in texts) + protocol.max_tokens


def finished_sample(
    request: SampleRequest,
    token_ids: Sequence[int],
    stop_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    logprob_sum: float | None,
    entropy_sum: float | None,
) -> Sample:
    """Return the sample of a request.

    Args:
        request: request of the sample.
        token_ids: drawn tokens, including the end token.
        stop_ids: tokens that end a sample.
        tokenizer: tokenizer of the checkpoint.
        logprob_sum: see `Sample`.
        entropy_sum: see `Sample`.

    Raises:
        EvaluationError: if the log-probability is NaN, so that the tokens are meaningless.
    """
    if logprob_sum is not None and math.isnan(logprob_sum):
        raise EvaluationError(
            f"sample {request.sample_index} of problem {request.problem_id} was drawn from logits "
            "that are NaN",
            why="an intermediate value overflows the engine's number format",
            fix="Give --engine-option dtype=float32 or bfloat16 (with --engine ray: inner.dtype=)",
        )
    is_stopped = bool(token_ids) and token_ids[-1] in stop_ids
    return Sample(
        problem_id=request.problem_id,
        sample_index=request.sample_index,
        seed=request.seed,
        text=str(tokenizer.decode(list(token_ids), skip_special_tokens=True)),
        n_tokens=len(token_ids),
        finish_reason="stop" if is_stopped else "length",
        logprob_sum=logprob_sum,
        entropy_sum=entropy_sum,
    )


def in_parts(
    batches: Iterator[list[Sample]], n_samples: int, on_progress: OnProgress | None
) -> Iterator[list[Sample]]:
    """Join small batches of samples into parts of `n_samples` or a few more.

    A part is yielded when it is full or a minute old, which bounds the loss of a kill. The samples
    drawn before an error are yielded before it is raised.
    """
    part: list[Sample] = []
    since = time.monotonic()
    try:
        for samples in batches:
            if on_progress is not None:
                on_progress(len(samples), sum(sample.n_tokens for sample in samples))
            part += samples
            if len(part) >= n_samples or time.monotonic() - since >= _PART_SECONDS:
                yield part
                part, since = [], time.monotonic()
    except EvaluationError:
        if part:
            yield part
        raise
    if part:
        yield part


def stop_ids(configured: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the end tokens of a generation configuration (one, a list or None) and a tokenizer."""
    ids = list(configured) if isinstance(configured, list) else [configured]
    return tuple(sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None}))


def folder_stop_ids(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the end tokens of a checkpoint's folder: the same as those of its loaded model."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # no generation_config.json: transformers derives one from the model
        generation = GenerationConfig.from_model_config(load_config(path))
    return stop_ids(generation.eos_token_id, tokenizer)
