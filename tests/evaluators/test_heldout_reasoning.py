"""Thoughts beside the content (`reasoning_content`) are scored where the chat template writes them.

The templates do what those of Qwen3 do: thoughts are written in the turns after the last question.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rlready.evaluators.heldout.examples import HeldoutSet, load_heldout
from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.tokens import TokenizedSet, tokenize_set
from rlready.registry.errors import BenchmarkError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QWEN3 = (
    "{%- set ns = namespace(last=-1) -%}{%- for m in messages if m.role == 'user' -%}"
    "{%- set ns.last = ns.last + 1 -%}{%- endfor -%}{%- set seen = namespace(n=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set seen.n = seen.n + 1 -%}"
    "{%- endif -%}{{- '<|im_start|>' + m.role + '\\n' -}}"
    "{%- if m.role == 'assistant' and seen.n == ns.last -%}"
    "{{- '<think>\\n' + (m.reasoning_content or '').strip('\\n') + '\\n</think>\\n\\n' -}}"
    "{%- endif -%}{{- m.content.lstrip('\\n') -}}"
    "{%- for c in m.tool_calls or [] -%}{{- c.function | tojson -}}{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
# Its later versions begin the thoughts in the generation prompt.
BEGINNING = QWEN3.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")
IGNORING = QWEN3.replace("(m.reasoning_content or '')", "''")
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}"
    "{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

ASKED = {"role": "user", "content": "2 + 2?"}
THOUGHT = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2 é"}


@cache
def tokenizer(chat_template: str) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["user assistant <think> </think>"] * 4, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    made.chat_template = chat_template
    return made


def heldout(folder: Path, *turns: dict[str, Any]) -> HeldoutSet:
    path = folder / "held.jsonl"
    path.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    return load_heldout(path)


def read(folder: Path, template: str, *turns: dict[str, Any]) -> tuple[TokenizedSet, list[str]]:
    """The tokens of one conversation, and the texts of its stretches of scored tokens."""
    by = tokenizer(template)
    made = tokenize_set(heldout(folder, *turns), by, "{problem}")
    (only,) = made.examples
    edges = np.flatnonzero(np.diff(np.concatenate([[0], only.is_response, [0]])))
    return made, [str(by.decode(only.token_ids[a:b])) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize(
    ("template", "begin"), [(QWEN3, "<think>\n"), (BEGINNING, ""), (TAGGED, "<think>\n")]
)
def test_thoughts_are_scored_as_part_of_the_response(
    tmp_path: Path, template: str, begin: str
) -> None:
    made, scored = read(tmp_path, template, ASKED, THOUGHT)
    assert scored == [f"{begin}2 and 2 é\n</think>\n\n4<|im_end|>"]
    assert made.examples[0].n_response_bytes == len(f"{begin}2 and 2 é\n</think>\n\n4".encode())
    assert (made.n_turn_bytes, made.n_cut_bytes) == (len("2 and 2 é4".encode()), 0)


def test_the_loss_is_that_of_the_thoughts_in_the_content(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 16}
    config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config).eval()
    plain = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}" + (
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    inside = {"role": "assistant", "content": "<think>\n2 and 2 é\n</think>\n\n4"}
    beside, _ = read(tmp_path, QWEN3, ASKED, THOUGHT)
    within, _ = read(tmp_path, plain, ASKED, inside)
    losses = [token_losses(model, made.examples) for made in (beside, within)]
    assert str(losses[0]) == str(losses[1])
    without, _ = read(tmp_path, QWEN3, ASKED, {**THOUGHT, "reasoning_content": ""})
    assert without.examples[0].n_response_bytes < beside.examples[0].n_response_bytes
    assert without.benchmark_digest != beside.benchmark_digest


def test_a_template_that_would_not_write_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"line-1, message 1 has `reasoning_content`") as told:
        read(tmp_path, IGNORING, ASKED, THOUGHT)
    assert told.match("does not write")
    assert told.match("write the thoughts into `content`")
    # Without thoughts there is nothing to miss.
    _, scored = read(tmp_path, IGNORING, ASKED, {**THOUGHT, "reasoning_content": " "})
    assert scored == ["<think>\n\n</think>\n\n4<|im_end|>"]


def test_thoughts_of_earlier_turns_that_the_template_drops_are_counted(tmp_path: Path) -> None:
    """A turn that is rewritten once others follow is not scored, as with thoughts in `content`."""
    made, scored = read(tmp_path, QWEN3, ASKED, THOUGHT, ASKED, THOUGHT)
    assert scored == ["<think>\n2 and 2 é\n</think>\n\n4<|im_end|>"]
    n = len("2 and 2 é4".encode())
    assert (made.n_turn_bytes, made.n_cut_bytes) == (2 * n, n)


def test_a_turn_may_have_thoughts_and_a_call_without_content(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    turn = {"role": "assistant", "content": None, "reasoning_content": "<|im_end|>? add"}
    _, scored = read(tmp_path, QWEN3, ASKED, turn)
    assert scored == ["<think>\n<|im_end|>? add\n</think>\n\n<|im_end|>"]
    _, scored = read(tmp_path, QWEN3, ASKED, {**turn, "tool_calls": [call]})
    expected = '{"name": "add", "arguments": {"a": 2}}'
    assert scored == [f"<think>\n<|im_end|>? add\n</think>\n\n{expected}<|im_end|>"]
