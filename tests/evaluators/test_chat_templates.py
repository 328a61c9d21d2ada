"""Chat templates in a child process: the same texts, and an end to templates that have none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.evaluators.benchmarks import chat_templates
from rlready.evaluators.benchmarks.chat_templates import (
    TemplateRefusalError,
    assistant_mask,
    render_chat,
)
from rlready.evaluators.benchmarks.prompts import render
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TAGGED = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content | trim }}{{ eos_token }}{% endgeneration %}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LONG_LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x }}"
)


def tokenizer(template: str | dict[str, str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, merges=[]
        )
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    made.name_or_path = "runs/sft-3"
    return made


conversations = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        },
        optional={"name": st.none()},
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60)
@given(conversations, st.booleans(), st.sampled_from([None, [{"name": "f", "x": 1.5}]]))
def test_the_child_gives_the_text_and_the_mask_of_transformers(
    turns: list[dict[str, Any]], add_generation_prompt: bool, tools: list[Any] | None
) -> None:
    by = tokenizer(TAGGED)
    options = {"tools": tools, "add_generation_prompt": add_generation_prompt}
    chat = render_chat(by, turns, **options, with_spans=True)
    assert chat.text == by.apply_chat_template(turns, tokenize=False, **options)
    assert chat.text == render_chat(by, turns, **options).text
    theirs: Any = by.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True, **options
    )
    encoded = by(chat.text, add_special_tokens=False)
    assert encoded["input_ids"] == theirs["input_ids"]
    assert assistant_mask(encoded, chat.spans) == theirs["assistant_masks"]


def test_a_template_is_chosen_as_transformers_chooses_it() -> None:
    turns = [{"role": "user", "content": "x"}]
    by = tokenizer({"default": "d", "tool_use": "t"})
    assert render_chat(by, turns).text == "d"
    assert render_chat(by, turns, tools=[{"name": "f"}]).text == "t"
    with pytest.raises(TemplateRefusalError, match="multiple chat templates"):
        render_chat(tokenizer({"other": "o"}), turns)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{ raise_exception('users only') }}", "users only"),
        ("{% include 'x' %}", "a chat template stands alone"),
        ("{% extends 'x' %}", "a chat template stands alone"),
        ("{% import 'x' as y %}", "a chat template stands alone"),
        ("a\n{% if %}", "line 2 of it: Expected an expression"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "RecursionError"),
        ("{{ 'a' * 9000000 }}", "it makes 9,000,000 characters of "),
    ],
)
def test_a_template_that_cannot_render_is_named_with_its_cause(template: str, cause: str) -> None:
    """`include` was a TypeError from inside Jinja."""
    message = "chat template of runs/sft-3 cannot render a user's message"
    with pytest.raises(CheckpointError, match=message) as caught:
        render(tokenizer(template), "{problem}", "1")
    assert cause in caught.value.why
    if "line 2" in cause:
        assert caught.value.fix == "Correct line 2 of the checkpoint's chat template"


@pytest.mark.parametrize("template", [DOUBLING, "{{ '%1000000000d' % 1 }}"])
def test_a_template_that_fills_the_memory_is_stopped(template: str) -> None:
    with pytest.raises(CheckpointError, match=r"runs/sft-3 was stopped.*Memory.*512 MB"):
        render(tokenizer(template), "{problem}", "1")
    assert render(tokenizer("{{ messages[0].content }}"), "{problem}", "after it") == "after it"


def test_a_template_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hung: the sandbox limits each `range`, not two of them inside each other."""
    monkeypatch.setattr(chat_templates, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(chat_templates, "_renderer", chat_templates._renderer.__wrapped__)
    with pytest.raises(CheckpointError, match=r"runs/sft-3 was stopped: not done within 0\.3 s"):
        render(tokenizer(LONG_LOOP), "{problem}", "1")


def test_the_child_needs_no_torch() -> None:
    code = (
        "import sys; from rlready.evaluators.benchmarks.template_renderer import make_renderer;"
        "make_renderer(512); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
