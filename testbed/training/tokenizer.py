"""The world's tokenizer and the encoding of its examples.

Every byte is a token, and phrases of the world are single tokens, which makes examples about half
as long. It is an ordinary fast tokenizer: any text can be encoded and decoded unchanged, so a
testbed checkpoint can be run on any benchmark.

The chat template has one token per turn: an example is `question NEWLINE response END`. With the
usual ChatML turns, seven of forty tokens would carry no information.

Ids: 0-255 are the bytes, then come the phrases, then the special tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlready.testbed.training.train import Examples
from rlready.testbed.world.chains import RULES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TURN_END = "<|im_end|>"
"""Ends a message; the end-of-sequence token."""
PAD = "<|pad|>"

MAX_LENGTH = 4096
"""Longest sequence in tokens that the tokenizer and the models announce."""

PHRASES = (
    *RULES.values(),
    "Left to right, make ",
    " of ",
    ", ",
    "Add digit by digit: ",
    "\\boxed{",
)

_TEXTS = 4096  # encoded at once

# The generation block marks the response for `return_assistant_tokens_mask`: the content and the
# end token.
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
    """Return the tokenizer, the same at every call.

    Example:
        >>> tokenizer = world_tokenizer()
        >>> tokenizer.decode(tokenizer("3+4").input_ids)
        '3+4'
    """
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


def byte_alphabet() -> list[str]:
    """Return the 256 characters that represent the bytes 0 to 255 in byte-level vocabularies.

    Printable Latin-1 characters represent themselves, the others are U+0100 and up, in order. This
    is GPT-2's mapping, which the byte-level pre-tokenizer and decoder assume.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> Examples:
    """Encode questions and responses as the chat template does, with the responses marked.

    Ten times as fast as the template itself; a test checks that the results are equal.
    """
    prompts = _ids(tokenizer, [f"{question}\n" for question, _ in pairs])
    responses = _ids(tokenizer, [f"{response}{TURN_END}" for _, response in pairs])
    return padded(list(zip(prompts, responses, strict=True)), int(tokenizer.pad_token_id))


def padded(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Examples:
    """Return prompts with their responses, as token ids, in one array padded on the right."""
    import torch

    texts = [torch.tensor([*prompt, *response]) for prompt, response in rows]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(text) for text in texts])
    n_prompt = torch.tensor([len(prompt) for prompt, _ in rows])
    columns = torch.arange(ids.shape[1])
    is_response = (columns >= n_prompt[:, None]) & (columns < lengths[:, None])
    return Examples(ids=ids, is_response=is_response, lengths=lengths)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # Part by part, because the tokenizer's records of a text are fifty times as large as its ids.
    ids: list[list[int]] = []
    for begin in range(0, len(texts), _TEXTS):
        part = texts[begin : begin + _TEXTS]
        encoded: Any = tokenizer(part, add_special_tokens=False, return_attention_mask=False)
        ids += encoded["input_ids"]
    return ids
