"""Prompts: templates, chat templates, and special tokens that stand there once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.benchmarks.prompts import (
    DEFAULT_TEMPLATE,
    encode,
    fill,
    load_template,
    render,
)
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.registry.records import Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

pytest.importorskip("transformers")

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(
    chat_template: str | None = None, *, adds_eos: bool = False, adds_bos: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with BOS 0 and EOS 1, which adds BOS to what it encodes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<|user|>", "<|end|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    pattern = f"{'<s> ' if adds_bos else ''}$A{' </s>' if adds_eos else ''}"
    core.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_template
    return tokenizer


def test_the_default_template_is_a_protocols_template() -> None:
    Protocol(prompt_template=DEFAULT_TEMPLATE)
    assert fill(DEFAULT_TEMPLATE, "1 + 1?") == (
        "1 + 1?\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


@given(st.text())
def test_braces_in_problems_and_templates_stand_for_themselves(problem: str) -> None:
    assert fill("a {x} {problem} \\boxed{}", problem) == "a {x} " + problem + " \\boxed{}"
    assert fill("{problem}{problem}", "{problem}") == "{problem}{problem}"


def test_a_template_file_loses_one_line_end(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfQ: {problem}\r\nA:\r\n")
    assert load_template(path) == "Q: {problem}\nA:"
    path.write_text("Q: {problem}\n\n")
    assert load_template(str(path)) == "Q: {problem}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{question}", r"has no \{problem\}"),
        (b"{problem} \xff", "is not UTF-8"),
        (b"{problem}" + b" " * 2_000_000, "is larger than"),
    ],
)
def test_an_invalid_template_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"t\.txt {message}"):
        load_template(path)
    with pytest.raises(ConfigError, match=r"cannot read .*other"):
        load_template(tmp_path / "other.txt")


def test_without_a_chat_template_the_plain_text_gets_the_tokenizers_bos() -> None:
    tokenizer = tiny_tokenizer()
    text = render(tokenizer, "{problem} =", "1 + 1")
    assert text == "1 + 1 ="
    ids = encode(tokenizer, text)
    assert ids[0] == 0
    assert tokenizer.decode(ids[1:]) == text


def test_a_bos_that_the_template_writes_is_not_doubled() -> None:
    ids = encode(tiny_tokenizer(), render(tiny_tokenizer(), "<s>{problem}", "1"))
    assert ids.count(0) == 1


def test_a_chat_template_ends_where_the_models_turn_begins() -> None:
    tokenizer = tiny_tokenizer(CHAT)
    text = render(tokenizer, "{problem} \\boxed{}", "1 + 1")
    assert text == "<s><|user|>1 + 1 \\boxed{}<|end|><|assistant|>"
    ids = encode(tokenizer, text)
    assert ids.count(0) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
    together = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1 \\boxed{}"}], add_generation_prompt=True
    )
    assert ids == list(together["input_ids"])


def test_a_chat_template_without_bos_gets_none() -> None:
    """As transformers and vLLM encode chats: the template alone decides."""
    tokenizer = tiny_tokenizer(CHAT.removeprefix("{{ bos_token }}"))
    assert 0 not in encode(tokenizer, render(tokenizer, "{problem}", "1"))


def test_an_eos_that_the_tokenizer_adds_does_not_close_the_prompt() -> None:
    assert encode(tiny_tokenizer(adds_eos=True), "1") == encode(tiny_tokenizer(), "1")
    assert encode(tiny_tokenizer(), "1</s>")[-1] == 1


@pytest.mark.parametrize("template", ["{{ raise_exception('system only') }}", "{% if %}"])
def test_a_chat_template_that_fails_is_named(template: str) -> None:
    tokenizer = tiny_tokenizer(template)
    tokenizer.name_or_path = "runs/sft-3"
    with pytest.raises(CheckpointError, match=r"chat template of runs/sft-3 cannot render"):
        render(tokenizer, "{problem}", "1")


def test_a_prompt_without_tokens_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="makes no token of the prompt"):
        encode(tiny_tokenizer(adds_bos=False), "")
