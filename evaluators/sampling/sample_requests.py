"""What all engines share: requests made of problems, and samples made of tokens.

An engine gets token ids, never a text: which special tokens stand before a prompt is decided in
`prompts.py` alone. It gets the end tokens that count here, and its samples are decoded here, so
that the same tokens are the same sample for every engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
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
    """One sample to draw.

    Args:
        problem_id: of its problem.
        sample_index: which of the problem's samples.
        seed: of this sample alone.
        prompt: token ids that the model continues.
    """

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
    """One request a sample, those of like length together, the longest prompts first.

    Like lengths together cost less padding, equal prompts share their prefix, and memory runs
    out early or never.

    Args:
        draws: what to draw.
        protocol: its template, length and base seed count here.
        tokenizer: of the checkpoint.
        context: tokens that the engine can hold of one sample with its prompt; None for no limit.

    Raises:
        EvaluationError: if a prompt with its samples is longer than the context.
    """
    requests = []
    for draw in draws:
        text = render(tokenizer, protocol.prompt_template, draw.problem.text)
        prompt = tuple(encode(tokenizer, text))
        check_length(draw.problem.id, len(prompt), protocol.max_tokens, context)
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


def check_length(problem_id: str, n_prompt: int, max_tokens: int, context: int | None) -> None:
    """Return if a prompt leaves room for a sample.

    Raises:
        EvaluationError: if prompt and sample may pass the context.
    """
    if context is not None and n_prompt + max_tokens > context:
        raise EvaluationError(
            f"the prompt of problem {problem_id} has {n_prompt} tokens, and with "
            f"{max_tokens} more it passes the model's context of {context}",
            fix=f"Lower --max-tokens to {context - n_prompt} or less"
            if n_prompt < context
            else "Leave this problem out",
        )


def finished_sample(
    request: SampleRequest,
    token_ids: Sequence[int],
    stop_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    logprob_sum: float | None,
    entropy_sum: float | None,
) -> Sample:
    """The sample that a request came to.

    Args:
        request: what was asked for.
        token_ids: what was drawn, the end token included.
        stop_ids: tokens that end a sample.
        tokenizer: of the checkpoint.
        logprob_sum: see `Sample`.
        entropy_sum: see `Sample`.

    Raises:
        EvaluationError: if the log-probability is NaN: it was drawn from no distribution.
    """
    if logprob_sum is not None and math.isnan(logprob_sum):
        raise EvaluationError(
            f"sample {request.sample_index} of problem {request.problem_id} was drawn from logits "
            "that are NaN",
            why="a value on the way to them overflows the engine's number format",
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
    found: Iterator[list[Sample]], n_samples: int, on_progress: OnProgress | None
) -> Iterator[list[Sample]]:
    """Samples as they finish, put together in parts that are worth keeping.

    A part is handed out when it is full or a minute old: what a kill costs at most. What was drawn
    before an error comes before it.

    Args:
        found: what finished, bit by bit.
        n_samples: of a full part; it may hold some more.
        on_progress: told of every bit.
    """
    part: list[Sample] = []
    since = time.monotonic()
    try:
        for samples in found:
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
    """End tokens of the generation configuration and of the tokenizer.

    Args:
        configured: `eos_token_id` of the generation configuration: one, several or None.
        tokenizer: of the checkpoint.
    """
    ids = list(configured) if isinstance(configured, list) else [configured]
    return tuple(sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None}))


def folder_stop_ids(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """End tokens of a checkpoint's folder: the same that its loaded model has."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # no generation_config.json: transformers then makes one of the model's own
        generation = GenerationConfig.from_model_config(load_config(path))
    return stop_ids(generation.eos_token_id, tokenizer)
