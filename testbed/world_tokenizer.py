"""The world's tokenizer and the encoding of its examples.

Bytes, phrases of the world as single tokens, and a chat template of one token a turn: an example
is `question NEWLINE response END`. With the usual ChatML turns of the demo's tokenizer
(`tokenizer.py`) seven of forty tokens would say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlready.testbed.tasks import RULES
from rlready.testbed.tokenizer import MAX_LENGTH, PAD, TURN_END, byte_alphabet
from rlready.testbed.train import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PHRASES = (
    *RULES.values(),
    "Left to right, make ",
    " of ",
    ", ",
    "Add digit by digit: ",
    "\\boxed{",
)

_TEXTS = 4096  # encoded at once

CHAT_TEMPLATE = r"""
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- message['content'] + '\n' }}
{%- endif %}
{%- endfor %}
""".strip()


def world_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same at every call."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE(vocab={token: i for i, token in enumerate(byte_alphabet())}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in PHRASES])
    core.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (TURN_END, PAD)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> Examples:
    """Questions with their responses as the chat template writes them, the responses marked.

    Ten times as fast as the template itself; a test holds the two equal.
    """
    prompts = _ids(tokenizer, [f"{question}\n" for question, _ in pairs])
    responses = _ids(tokenizer, [f"{response}{TURN_END}" for _, response in pairs])
    return padded(list(zip(prompts, responses, strict=True)), int(tokenizer.pad_token_id))


def padded(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Examples:
    """Prompts with their responses, as token ids, in one array padded on the right."""
    import torch

    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in rows])
    n_prompt = torch.tensor([len(prompt) for prompt, _ in rows])
    columns = torch.arange(int(lengths.max()))
    ids = torch.full((len(rows), len(columns)), pad_id)
    for i, (prompt, response) in enumerate(rows):
        ids[i, : int(lengths[i])] = torch.tensor([*prompt, *response])
    is_response = (columns >= n_prompt[:, None]) & (columns < lengths[:, None])
    return Examples(ids=ids, is_response=is_response, lengths=lengths)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # In parts: the tokenizer's own records of a text are fifty times as large as its ids.
    found: list[list[int]] = []
    for begin in range(0, len(texts), _TEXTS):
        some = texts[begin : begin + _TEXTS]
        encoded: Any = tokenizer(some, add_special_tokens=False, return_attention_mask=False)
        found += encoded["input_ids"]
    return found
