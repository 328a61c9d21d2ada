"""Examples of held-out sets with the tokens that are scored, to look at before an evaluation.

The texts are decoded from the tokens that the model reads, so that special tokens, cut thoughts and
the template's own text are visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlready.evaluators.benchmarks.prompts import DEFAULT_TEMPLATE, load_template
from rlready.evaluators.checkpoints.folder import load_config, load_tokenizer, open_weights
from rlready.evaluators.heldout.loss import context_tokens
from rlready.evaluators.heldout.tokens import TokenizedExample, TokenizedSet, tokenize_set
from rlready.registry.errors import ConfigError
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.inputs import read_heldout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class ShownExample:
    """One example as the model reads it.

    Args:
        heldout_set: name of the set.
        id: of the example.
        parts: texts in their order, each with whether its tokens are scored.
        n_tokens: tokens of the example up to the last scored one.
        n_scored: scored tokens.
        n_cut_bytes: bytes of its responses that are not scored, because the chat template cuts or
            rewrites them.
    """

    heldout_set: str
    id: str
    parts: tuple[tuple[str, bool], ...]
    n_tokens: int
    n_scored: int
    n_cut_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the example as JSON values."""
        parts = [{"text": text, "is_scored": is_scored} for text, is_scored in self.parts]
        return {**vars(self), "parts": parts}


def shown_examples(config: EvaluateConfig, n: int) -> list[ShownExample]:
    """Return the first n examples of each held-out set, as the checkpoint's tokenizer reads them.

    Example:
        config = EvaluateConfig(checkpoint="runs/sft-3", held_out=("val.jsonl",))
        [text for text, is_scored in shown_examples(config, 1)[0].parts if is_scored]

    Raises:
        ConfigError: if there is no held-out set.
        RlreadyError: if the checkpoint's tokenizer or a set cannot be read.
    """
    if n < 1 or not config.held_out:
        raise ConfigError(
            f"--show-held-out {n}" + ("" if config.held_out else " without --held-out"),
            fix="Give 1 or more" if n < 1 else "Name a file: --held-out FILE",
        )
    sets = [read_heldout(config, option).limit(n) for option in config.held_out]
    path = open_weights(config.checkpoint).path
    tokenizer, limit = load_tokenizer(path), context_tokens(load_config(path))
    template = load_template(config.prompt_template) if config.prompt_template else DEFAULT_TEMPLATE
    tokenized = [tokenize_set(heldout, tokenizer, template, limit) for heldout in sets]
    return [_shown(tokens, each, tokenizer) for tokens in tokenized for each in tokens.examples]


def _shown(
    tokens: TokenizedSet, example: TokenizedExample, tokenizer: PreTrainedTokenizerBase
) -> ShownExample:
    return ShownExample(
        heldout_set=tokens.name,
        id=example.id,
        parts=tuple(_parts(example, tokenizer)),
        n_tokens=len(example.token_ids),
        n_scored=int(example.is_response.sum()),
        n_cut_bytes=example.n_cut_bytes,
    )


def _parts(
    example: TokenizedExample, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, bool]]:
    ids, is_scored = example.token_ids.tolist(), example.is_response.tolist()
    ends = [i for i in range(1, len(ids)) if is_scored[i] != is_scored[i - 1]]
    n_before = 0
    for end in (*ends, len(ids)):
        # Whole beginnings are decoded: alone, a part would lose the space before it.
        text = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        yield text[n_before:], is_scored[end - 1]
        n_before = len(text)
