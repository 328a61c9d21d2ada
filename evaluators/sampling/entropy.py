"""The entropy of samples whose engine gave none: a forward pass over their texts.

vLLM and servers hand out a few of the most likely tokens, never the whole distribution. Where the
checkpoint's weights are loaded for the held-out loss anyway, the entropy of a few samples a problem
is measured with them: along the text's own tokens, at temperature 1 without truncation, as the `hf`
engine does it while it draws.

A text may be tokenized in other places than it was drawn in; the mean over its tokens is taken and
multiplied by the number of tokens drawn.
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
"""Of each problem; the entropy of a checkpoint varies far more between problems than samples."""


def entropy_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    questions: Mapping[str, str],
    samples: Sequence[SampleText],
    on_progress: Callable[[int], None] | None = None,
) -> dict[tuple[str, int], float]:
    """Entropy of each sample in nats, over its drawn tokens; those without a token left out.

    Args:
        model: that drew the samples.
        tokenizer: of the same checkpoint.
        template: prompt template.
        questions: text of each problem, by its id.
        samples: whose entropy is missing.
        on_progress: called with the number of samples done so far.
    """
    examples: dict[tuple[str, int], TokenizedExample] = {}
    n_drawn = {}
    for sample in samples:
        key = (sample.problem_id, sample.sample_index)
        prompt = encode(tokenizer, render(tokenizer, template, questions[sample.problem_id]))
        response = tokenizer.encode(sample.text, add_special_tokens=False)
        if sample.finish_reason == "stop" and tokenizer.eos_token_id is not None:
            response = [*response, int(tokenizer.eos_token_id)]
        if response:
            examples[key] = _example(key, prompt, response)
            n_drawn[key] = sample.n_tokens
    found = token_losses(
        model,
        list(examples.values()),
        on_progress=on_progress,
        measure=Scorer.token_entropies,
    )
    means = (float(own.mean(dtype=np.float64)) for own in found)
    return {key: mean * n_drawn[key] for key, mean in zip(examples, means, strict=True)}


def _example(
    key: tuple[str, int], prompt: Sequence[int], response: Sequence[int]
) -> TokenizedExample:
    is_response = np.arange(len(prompt) + len(response)) >= len(prompt)
    return TokenizedExample(
        id=f"{key[0]}, sample {key[1]}",
        token_ids=np.array([*prompt, *response], dtype=np.int64),
        is_response=is_response,
        n_response_bytes=0,
    )
