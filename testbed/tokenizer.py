r"""The testbed's tokenizer: every byte a token, every digit its own, a few task phrases merged.

It is an ordinary fast tokenizer with a ChatML-like template. Any text can be encoded and comes
back unchanged, so a testbed checkpoint can be run on any benchmark. The tokens of a phrase like
`\boxed{` exist because they make an example about half as long; no phrase holds a digit, so the
numbers of every text are read digit by digit.

Ids: 0-255 are the bytes, then come the phrases with their beginnings, then the special tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
"""Ends a message; the end-of-sequence token."""
PAD = "<|pad|>"

MAX_LENGTH = 4096
"""Longest sequence in tokens that the tokenizer and the models announce."""

PHRASES = ("assistant\n", "user\n", "system\n", "Modulo ten, left to right: ", "\\boxed{")

# The generation block marks the response for `return_assistant_tokens_mask`: the content and the
# end token, which the model has to learn, without the newline behind it, which it never draws.
CHAT_TEMPLATE = r"""
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
""".strip()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same at every call."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = byte_alphabet()
    merges = _merges(alphabet)
    tokens = [*alphabet, *(left + right for left, right in merges)]
    core = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (TURN_START, TURN_END, PAD)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=PAD,
        extra_special_tokens=[TURN_START],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for the bytes 0, 1, ..., 255 in byte-level vocabularies.

    Printable Latin-1 characters stand for themselves, the others for U+0100 and up, in order:
    GPT-2's mapping, which the byte-level pre-tokenizer and decoder assume.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _merges(alphabet: list[str]) -> list[tuple[str, str]]:
    # A phrase grows from its first byte, one byte a merge; phrases may share their beginnings.
    merges: dict[tuple[str, str], None] = {}
    for phrase in PHRASES:
        letters = [alphabet[byte] for byte in phrase.encode()]
        for i in range(1, len(letters)):
            merges["".join(letters[:i]), letters[i]] = None
    return list(merges)
