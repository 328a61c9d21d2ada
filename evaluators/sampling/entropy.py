"""The entropy of samples whose engine gave none: a forward pass over their texts.

vLLM and servers return a few of the most likely tokens, never the whole distribution. Where the
checkpoint's weights are loaded for the held-out loss anyway, they give the entropy of a few samples
per problem: along the text's own tokens, at temperature 1 without truncation, as in the `hf`
engine.

A text may be split into other tokens than those drawn, so the result is the mean over its tokens
times the number of drawn tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlready.evaluators.benchmarks.prompts import encode, render
from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.token_nll import Scorer
from rlready.evaluators.heldout.tokens import TokenizedExample
from rlready.evaluators.sampling.sample_files import SampleText

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLES_PER_PROBLEM = 4
"""Few suffice: the entropy varies far more between problems than between samples."""


def entropy_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    questions: Mapping[str, str],
    samples: Sequence[SampleText],
    on_progress: Callable[[int], None] | None = None,
) -> dict[tuple[str, int], float]:
    """Return the entropy of each sample in nats, over its drawn tokens; empty ones are left out.

    Args:
        model: model that drew the samples.
        tokenizer: tokenizer of the same checkpoint.
        template: prompt template.
        questions: text of each problem, by its id.
        samples: samples without an entropy.
        on_progress: called with the number of samples done so far.
    """
    examples: dict[tuple[str, int], TokenizedExample] = {}
    n_drawn = {}
    for sample in samples:
        prompt = encode(tokenizer, render(tokenizer, template, questions[sample.problem_id]))
        response = tokenizer.encode(sample.text, add_special_tokens=False)
        if sample.finish_reason == "stop" and tokenizer.eos_token_id is not None:
            response = [*response, int(tokenizer.eos_token_id)]
        if response:
            key = (sample.problem_id, sample.sample_index)
            n_drawn[key] = sample.n_tokens
            examples[key] = TokenizedExample(
                id=f"{sample.problem_id}, sample {sample.sample_index}",
                token_ids=np.array([*prompt, *response], dtype=np.int64),
                is_response=np.arange(len(prompt) + len(response)) >= len(prompt),
                n_response_bytes=0,
            )
    entropies = token_losses(
        model, list(examples.values()), on_progress=on_progress, measure=Scorer.token_entropies
    )
    return {
        key: float(sample_entropies.mean(dtype=np.float64)) * n
        for (key, n), sample_entropies in zip(n_drawn.items(), entropies, strict=True)
    }
