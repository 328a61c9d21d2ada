"""Generalization loss: negative log-likelihood of held-out responses under a checkpoint.

Formula, with y over the scored tokens of an example (`tokens.py` says which are scored) and x its
bytes of response text:

    heldout_nll              = sum of -ln p(y | all before) / number of scored tokens   [nats/token]
    heldout_nll_per_sequence = mean over examples of the example's sum               [nats/sequence]
    heldout_bits_per_byte    = sum of -ln p / ln 2 / sum of x                            [bits/byte]

The first two are both recorded, because the source (Kang et al. 2025, arXiv 2510.01624) can be read
in either way. Averages are over the whole set, never over batch means. Standard errors are over
examples: sd / sqrt(n) for the mean, the linearised ratio estimator for the two ratios.

Losses in float32 and bfloat16, or on a CPU and a GPU, are different numbers (`Precision`).

Masked: everything but responses. `transformers` gives the same number: `model(ids, labels=ids)`,
with labels of -100 where nothing is scored, is an example's sum divided by its scored tokens. In
any batching, the result equals float32 cross-entropy over full logits to 1e-4 relative.

Computation (`token_nll.py`): examples share one row if a check at the start shows that the model
keeps them apart. The model's head runs on scored positions only, some rows at a time.

Version 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.evaluators.heldout.token_nll import (
    Piece,
    Scorer,
    choose_scorer,
    n_token_ids,
    plan_packs,
)
from rlready.evaluators.heldout.tokens import TokenizedExample
from rlready.evaluators.memory import give_back_memory, is_out_of_memory
from rlready.evaluators.metrics.estimates import mean, ratio
from rlready.registry.errors import CheckpointError, EvaluationError
from rlready.registry.records import Proxy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel

EVALUATOR_VERSION = "1"

# Attention over a packed row is dense: on a CPU a token costs 1.3 times as much in rows of 4,096 as
# in rows of 1,024. A GPU needs longer rows to be busy.
_TOKENS_PER_PACK = {"cpu": 1024, "other": 4096}
# Rows of logits at a time: 128 x 152,000 float32 are 78 MB.
_ROWS_PER_CHUNK = {"cpu": 128, "other": 2048}


Measure = Callable[[Scorer, Sequence[Piece], int], "list[NDArray[np.float32]]"]
"""Returns a number for each scored token of each piece, with so many rows of logits at once."""


@dataclass(frozen=True)
class ExampleLoss:
    """Negative log-likelihood of one example's scored tokens.

    Args:
        id: of the example.
        nll_sum: nats, summed over scored tokens.
        n_tokens: scored tokens.
        n_bytes: UTF-8 bytes of their text.

    Example:
        >>> ExampleLoss("line-1", nll_sum=2.5, n_tokens=5, n_bytes=11).nll_sum
        2.5
    """

    id: str
    nll_sum: float
    n_tokens: int
    n_bytes: int


def token_losses(
    model: PreTrainedModel,
    examples: Sequence[TokenizedExample],
    *,
    max_tokens_per_pack: int | None = None,
    rows_per_chunk: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    measure: Measure = Scorer.token_nlls,
) -> list[NDArray[np.float32]]:
    """Return -ln p of each example's scored tokens, in nats.

    A token's loss does not depend on the other examples or on the sizes below. The model runs in
    evaluation mode, on its device. Do not call this in two threads with one model.

    Args:
        model: a causal language model of transformers.
        examples: what to score.
        max_tokens_per_pack: tokens that share one forward pass; a longer example gets its own.
            By default 1,024 on a CPU, 4,096 elsewhere. Halved when memory runs out.
        rows_per_chunk: positions whose logits exist at once; by default 128 on a CPU, 2,048
            elsewhere. Halved when memory runs out.
        on_progress: called with the number of examples done so far.
        measure: number to compute for each token; by default its loss.

    Raises:
        EvaluationError: if an example's loss is not finite, the example is longer than the model's
            context, or does not fit into memory alone.
        CheckpointError: if the model does not have one of the token ids.

    Example:
        >>> [nlls] = token_losses(model, [example])
        >>> nlls.shape == (example.is_response.sum(),)
        True
    """
    import torch

    if not examples:
        return []
    _check_examples(model, examples)
    device = "cpu" if model.device.type == "cpu" else "other"
    max_tokens = _short_context(model, max_tokens_per_pack or _TOKENS_PER_PACK[device])
    rows = rows_per_chunk or _ROWS_PER_CHUNK[device]
    losses: dict[int, NDArray[np.float32]] = {}
    with torch.inference_mode(), _evaluation_mode(model):
        shortest = sorted(examples, key=lambda example: len(example.token_ids))
        scorer = choose_scorer(model, [example.token_ids for example in shortest])
        for indices, token_nlls in _scored_packs(scorer, examples, max_tokens, rows, measure):
            for i, nlls in zip(indices, token_nlls, strict=True):
                _check_finite(nlls, examples[i].id)
                losses[i] = nlls
            if on_progress is not None:
                on_progress(len(losses))
    return [losses[i] for i in range(len(examples))]


def example_losses(
    model: PreTrainedModel, examples: Sequence[TokenizedExample], **limits: Any
) -> list[ExampleLoss]:
    """Return the losses of whole examples; arguments and errors are those of `token_losses`."""
    return summed(examples, token_losses(model, examples, **limits))


def summed(
    examples: Sequence[TokenizedExample], token_nlls: Sequence[NDArray[np.float32]]
) -> list[ExampleLoss]:
    """Return the sum of each example's token losses, in double precision."""
    return [
        ExampleLoss(
            e.id, float(nlls.sum(dtype=np.float64)), int(e.is_response.sum()), e.n_response_bytes
        )
        for e, nlls in zip(examples, token_nlls, strict=True)
    ]


def heldout_proxies(
    losses: Sequence[ExampleLoss],
    benchmark: str,
    benchmark_digest: str,
    precision_digest: str | None = None,
) -> list[Proxy]:
    """Return the three numbers of the module docstring; `n_samples` counts scored tokens.

    Args:
        losses: of one held-out set.
        benchmark: the set's name.
        benchmark_digest: `TokenizedSet.benchmark_digest`.
        precision_digest: `Precision.digest` of the computation.

    Raises:
        EvaluationError: if there is no loss.

    Example:
        >>> losses = [ExampleLoss("a", 2.0, 4, 9), ExampleLoss("b", 4.0, 8, 20)]
        >>> heldout_proxies(losses, "math", heldout.digest)[0].value
        0.5
    """
    if not losses:
        raise EvaluationError(f"held-out set {benchmark} has no loss to average")
    nll = np.array([loss.nll_sum for loss in losses], dtype=np.float64)
    n_tokens = np.array([loss.n_tokens for loss in losses], dtype=np.float64)
    n_bytes = np.array([loss.n_bytes for loss in losses], dtype=np.float64)
    numbers = [
        ("heldout_nll", "nats/token", ratio(nll, n_tokens)),
        ("heldout_nll_per_sequence", "nats/sequence", mean(nll)),
    ]
    if n_bytes.sum() > 0:
        bits = ratio(nll / math.log(2), n_bytes)
        numbers.append(("heldout_bits_per_byte", "bits/byte", bits))
    return [
        Proxy(
            name=name,
            value=estimate.value,
            se=estimate.se,
            unit=unit,
            benchmark=benchmark,
            benchmark_digest=benchmark_digest,
            protocol_digest=precision_digest,
            n_problems=len(losses),
            n_samples=int(n_tokens.sum()),
            evaluator_version=EVALUATOR_VERSION,
        )
        for name, unit, estimate in numbers
    ]


def context_tokens(config: PretrainedConfig) -> int | None:
    """Return the longest context of a model, in tokens; None if its configuration has no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _check_finite(nlls: NDArray[np.float32], example_id: str) -> None:
    total = float(nlls.sum(dtype=np.float64))
    if not math.isfinite(total):
        raise EvaluationError(
            f"the loss of held-out example {example_id} is {total}",
            why="the model's weights or activations are not finite, or overflow its number type",
            fix="Give --engine hf --engine-option dtype=float32. If that does not help, the "
            "checkpoint is broken",
        )


def _check_examples(model: PreTrainedModel, examples: Sequence[TokenizedExample]) -> None:
    n_ids, context = n_token_ids(model), context_tokens(model.config)
    for example in examples:
        if not example.is_response.any() or example.is_response[0]:
            raise EvaluationError(
                f"held-out example {example.id} scores "
                + ("its first token" if example.is_response.any() else "no token")
            )
        highest = int(example.token_ids.max())
        if highest >= n_ids:
            raise CheckpointError(
                f"held-out example {example.id} has token {highest}",
                why=f"the model knows {n_ids} tokens",
                fix="The tokenizer belongs to another model: put the right one beside the weights",
            )
        if context is not None and len(example.token_ids) > context:
            raise EvaluationError(
                f"held-out example {example.id} has {len(example.token_ids)} tokens",
                why=f"the model's context is {context}",
                fix=f"Tokenize the set with max_tokens={context}",
            )


def _short_context(model: PreTrainedModel, max_tokens: int) -> int:
    """Return the pack size, limited to rows in which position embeddings stay the same."""
    # In Phi-3's long RoPE, one position above this limit changes the frequencies of the whole row.
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    return min(max_tokens, original) if isinstance(original, int) else max_tokens


@contextmanager
def _evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def _scored_packs(
    scorer: Scorer,
    examples: Sequence[TokenizedExample],
    max_tokens: int,
    rows: int,
    measure: Measure,
) -> Iterator[tuple[list[int], list[NDArray[np.float32]]]]:
    """Yield indices and token losses, pack by pack; in smaller packs once memory has run out."""
    lengths = {i: len(example.token_ids) for i, example in enumerate(examples)}
    packs = plan_packs(lengths, scorer.layout, max_tokens)
    while packs:
        pieces = [Piece(examples[i].token_ids, examples[i].is_response) for i in packs[0]]
        nlls = _measured_if_memory(scorer, pieces, rows, measure)
        if nlls is not None:
            yield packs.pop(0), nlls
            continue
        if len(pieces) == 1 and rows == 1:
            raise EvaluationError(
                f"held-out example {examples[packs[0][0]].id} does not fit into memory alone",
                why=f"it has {len(pieces[0].token_ids)} tokens",
                fix="Tokenize the set with a smaller max_tokens, or use a larger device",
            )
        max_tokens = max(1, max_tokens // 2) if len(pieces) > 1 else max_tokens
        rows = max(1, rows // 2)
        remaining = {i: lengths[i] for pack in packs for i in pack}
        packs = plan_packs(remaining, scorer.layout, max_tokens)


def _measured_if_memory(
    scorer: Scorer, pieces: Sequence[Piece], rows: int, measure: Measure
) -> list[NDArray[np.float32]] | None:
    """Return a number for each token, or None if memory ran out."""
    try:
        return measure(scorer, pieces, rows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, whose traceback would keep the tensors alive.
    give_back_memory()
    return None
