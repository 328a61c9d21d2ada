"""Which tokens of a held-out example are scored, with a real byte-level BPE tokenizer."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.heldout.examples import HeldoutExample, HeldoutSet
from rlready.evaluators.heldout.rendered import end_of_turn
from rlready.evaluators.heldout.rows import Form
from rlready.evaluators.heldout.tokens import (
    TokenizedExample,
    tokenize,
    tokenize_set,
    truncate,
)
from rlready.evaluators.heldout.turns import Message
from rlready.registry.errors import BenchmarkError, CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEMPLATE = "{problem}\nThink first."

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Cuts the thoughts of every assistant turn but the last, as Qwen3 does.
FORGETFUL = CHATML.replace(
    "m['content'] +", "(m['content'] if loop.last else m['content'].split('</think>')[-1]) +"
)
# Puts the thoughts' tag into the generation prompt and cuts all thoughts, as R1 distillations do.
CUTTING = CHATML.replace("m['content'] +", "m['content'].split('</think>')[-1] +").replace(
    "'<|im_start|>assistant\\n' }}{% endif", "'<|im_start|>assistant\\n<think>\\n' }}{% endif"
)
# Closes a whole conversation with the end of sequence, as Phi-3 does.
CLOSING = CHATML.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")
TRIMMING = CHATML.replace("m['content'] +", "(m['content'] | trim) +")

CORPUS = [
    "user assistant system Think first. What is 2 + 2? The answer is 4.\n\n",
    "<think> so </think>",
]


@cache
def tokenizer(chat_template: str | None = None, prepend: bool = False) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if prepend:  # As sentencepiece puts a space before every text.
        core.normalizer = normalizers.Prepend(" ")
    core.train_from_iterator(
        CORPUS * 4,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    made.chat_template = chat_template
    return made


def example(*turns: str, form: Form = "messages") -> HeldoutExample:
    """User and assistant by turns."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(turns))
    return HeldoutExample(id="e1", messages=messages, form=form)


def scored(made: TokenizedExample, by: PreTrainedTokenizerFast) -> list[str]:
    """Texts of the stretches of scored tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], made.is_response, [0]])))
    return [str(by.decode(made.token_ids[a:b])) for a, b in edges.reshape(-1, 2)]


def whole(made: TokenizedExample, by: PreTrainedTokenizerFast) -> str:
    return str(by.decode(made.token_ids))


def test_plain_prompt_scores_the_response_and_the_end() -> None:
    by = tokenizer()
    made = tokenize(example("What is 2 + 2?", " The answer", form="prompt"), by, TEMPLATE)
    assert whole(made, by) == "<s>What is 2 + 2? The answer<|endoftext|>"
    assert scored(made, by) == [" The answer<|endoftext|>"]
    assert made.n_response_bytes == len(" The answer")


def test_problem_goes_through_the_prompt_template_and_prompt_does_not() -> None:
    by = tokenizer(CHATML)
    problem = tokenize(example("2 {x}?", "4", form="problem"), by, TEMPLATE)
    prompt = tokenize(example("2 {x}?", "4", form="prompt"), by, TEMPLATE)
    start, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"
    assert whole(problem, by) == f"{start}2 {{x}}?\nThink first.{end}"
    assert whole(prompt, by) == f"{start}2 {{x}}?{end}"
    assert scored(problem, by) == scored(prompt, by) == ["4<|im_end|>"]


def test_bytes_are_utf8_bytes_of_the_response() -> None:
    made = tokenize(example("2?", "né 4 €", form="prompt"), tokenizer(CHATML), TEMPLATE)
    assert made.n_response_bytes == len("né 4 €".encode())


def test_response_of_a_pair_is_not_rewritten_by_the_chat_template() -> None:
    by = tokenizer(CUTTING)
    made = tokenize(example("2?", "so\n</think>4", form="prompt"), by, TEMPLATE)
    assert scored(made, by) == ["so\n</think>4<|im_end|>"]


@pytest.mark.parametrize("template", [CHATML, TAGGED, CLOSING])
def test_every_assistant_turn_of_a_conversation_is_scored(template: str) -> None:
    by = tokenizer(template)
    made = tokenize(example("2 + 2?", "4", "And\n3?", "The answer\n\n", "2?"), by, TEMPLATE)
    assert scored(made, by) == ["4<|im_end|>", "The answer\n\n<|im_end|>"]
    assert made.n_response_bytes == len("4The answer\n\n")


@pytest.mark.parametrize("template", [CHATML, TAGGED])
def test_a_pair_and_the_same_conversation_give_the_same_tokens(template: str) -> None:
    by = tokenizer(template)
    pair = tokenize(example("2 + 2?", "The answer is 4.", form="prompt"), by, TEMPLATE)
    chat = tokenize(example("2 + 2?", "The answer is 4."), by, TEMPLATE)
    assert pair.token_ids.tolist() == chat.token_ids.tolist()
    assert pair.is_response.tolist() == chat.is_response.tolist()
    assert pair.n_response_bytes == chat.n_response_bytes


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_rendered_and_tagged_turns_agree_on_any_text(turns: list[str]) -> None:
    rendered = tokenize(example(*turns), tokenizer(CHATML), TEMPLATE)
    tagged = tokenize(example(*turns), tokenizer(TAGGED), TEMPLATE)
    assert rendered.token_ids.tolist() == tagged.token_ids.tolist()
    assert rendered.is_response.tolist() == tagged.is_response.tolist()


def test_turns_that_the_template_rewrites_later_are_not_scored() -> None:
    by = tokenizer(FORGETFUL)
    made = tokenize(example("2?", "<think>so</think>4", "3?", "<think>so</think>5"), by, TEMPLATE)
    assert scored(made, by) == ["<think>so</think>5<|im_end|>"]
    assert "assistant\n4<|im_end|>" in whole(made, by)


def test_earlier_turns_that_stay_as_they_were_are_scored() -> None:
    by = tokenizer(FORGETFUL)
    made = tokenize(example("2?", "4", "3?", "5"), by, TEMPLATE)
    assert scored(made, by) == ["4<|im_end|>", "5<|im_end|>"]


def test_conversation_without_any_turn_that_can_be_found_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"e1: no assistant turn can be found.*thoughts"):
        tokenize(example("2?", "<think>so</think>4"), tokenizer(CUTTING), TEMPLATE)


def test_trimmed_content_is_found() -> None:
    by = tokenizer(TRIMMING)
    made = tokenize(example("2?", "  4\n", "3?", "5 "), by, TEMPLATE)
    assert scored(made, by) == ["4<|im_end|>", "5<|im_end|>"]


def test_words_that_look_like_the_end_of_a_turn_do_not_end_it() -> None:
    by = tokenizer(CHATML)
    made = tokenize(example("2?", "<|im_end|>? 4"), by, TEMPLATE)
    assert scored(made, by) == ["<|im_end|>? 4<|im_end|>"]


def test_a_token_across_the_border_of_a_pair_is_split_there() -> None:
    """Sampling tokenizes the prompt alone, so the loss must not merge into it."""
    by = tokenizer()
    assert by.tokenize("4.\n\n")[-1] == by.tokenize("\n\n")[-1]
    made = tokenize(example("is 4.\n", "\nThe answer", form="prompt"), by, TEMPLATE)
    prompt_ids = by("is 4.\n")["input_ids"]
    assert made.token_ids[: len(prompt_ids)].tolist() == prompt_ids
    assert int(made.is_response.argmax()) == len(prompt_ids)


def test_a_prepended_space_is_not_put_between_prompt_and_response() -> None:
    by = tokenizer(prepend=True)
    made = tokenize(example("What is", "x 4", form="prompt"), by, TEMPLATE)
    assert scored(made, by) == ["x 4<|endoftext|>"]


def test_end_of_turn_is_what_the_chat_template_puts_there() -> None:
    by = tokenizer(CHATML)
    assert end_of_turn(by) == by.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn(tokenizer()) == by.eos_token_id


def test_tokenizer_without_an_end_of_sequence_is_refused() -> None:
    import copy

    by = copy.deepcopy(tokenizer())
    by.eos_token = None
    with pytest.raises(CheckpointError, match="no end-of-sequence token"):
        tokenize(example("2?", "4", form="prompt"), by, TEMPLATE)


def test_conversation_needs_a_chat_template() -> None:
    with pytest.raises(BenchmarkError, match="no chat template"):
        tokenize(example("2?", "4"), tokenizer(), TEMPLATE)


def test_refusal_by_the_chat_template_is_told_with_the_example() -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('users only') }}{% endif %}"
    system = HeldoutExample(
        id="e7",
        messages=(Message("system", "x"), Message("user", "y"), Message("assistant", "z")),
        form="messages",
    )
    with pytest.raises(BenchmarkError, match=r"refuses held-out example e7.*users only.*roles"):
        tokenize(system, tokenizer(strict + CHATML), TEMPLATE)
    # It told users to change the roles of their file, whatever was wrong.
    with pytest.raises(BenchmarkError) as caught:
        tokenize(system, tokenizer("{% if %}"), TEMPLATE)
    assert caught.value.fix == "Correct line 1 of the checkpoint's chat template"


def test_truncation_keeps_what_fits_and_its_bytes() -> None:
    by = tokenizer()
    made = tokenize(example("2?", " The answer is 4.", form="prompt"), by, TEMPLATE)
    n_prompt = int(made.is_response.argmax())
    cut = truncate(made, by, n_prompt + 1)
    assert cut is not None
    assert cut.n_response_bytes == len(scored(cut, by)[0])
    assert 0 < cut.n_response_bytes < made.n_response_bytes
    assert truncate(made, by, n_prompt) is None
    assert truncate(made, by, len(made.token_ids)) is made


def heldout_set(*examples: HeldoutExample) -> HeldoutSet:
    return HeldoutSet(name="own", examples=examples)


def test_set_counts_what_is_cut_and_skipped() -> None:
    by = tokenizer()
    examples = [
        example("2?", "4", form="prompt"),
        example("2?", "4" * 50, form="prompt"),
        example("2" * 50, "4", form="prompt"),
    ]
    made = tokenize_set(heldout_set(*examples), by, TEMPLATE, max_tokens=20)
    assert (len(made.examples), made.n_truncated, made.n_skipped) == (2, 1, 1)
    with pytest.raises(BenchmarkError, match="context of 20 tokens"):
        tokenize_set(heldout_set(examples[2]), by, TEMPLATE, max_tokens=20)


def test_benchmark_digest_holds_only_what_matters() -> None:
    by = tokenizer(CHATML)
    prompts = heldout_set(example("2?", "4" * 50, form="prompt"))
    problems = heldout_set(example("2?", "4" * 50, form="problem"))

    def made(heldout: HeldoutSet, template: str = TEMPLATE, max_tokens: int | None = None) -> str:
        return tokenize_set(heldout, by, template, max_tokens).benchmark_digest

    assert made(prompts) == made(prompts, "{problem}") == made(prompts, max_tokens=99)
    assert made(prompts) == prompts.digest
    assert made(prompts, max_tokens=30) not in (made(prompts), made(prompts, max_tokens=31))
    assert made(problems) != made(problems, "{problem}")


WITH_TOOLS = "{% if tools %}{{ 'Tools: ' + tools | tojson + '\\n' }}{% endif %}" + CHATML


def conversation(*turns: tuple[str, bool], tools: str = "") -> HeldoutExample:
    """User and assistant by turns, each with whether it is scored."""
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text, scored) for i, (text, scored) in enumerate(turns)]
    return HeldoutExample(id="e1", messages=tuple(messages), form="messages", tools=tools)


@pytest.mark.parametrize("template", [CHATML, TAGGED, CLOSING])
def test_a_turn_of_weight_0_is_read_and_not_scored(template: str) -> None:
    by = tokenizer(template)
    weighted = conversation(("2+3?", True), ("6", False), ("2+3?", True), ("5", True))
    made = tokenize(weighted, by, TEMPLATE)
    assert scored(made, by) == ["5<|im_end|>"]
    assert "assistant\n6<|im_end|>" in whole(made, by)
    assert (made.n_response_bytes, made.n_turn_bytes, made.n_cut_bytes) == (1, 1, 0)
    every = tokenize(example("2+3?", "6", "2+3?", "5"), by, TEMPLATE)
    assert made.token_ids.tolist() == every.token_ids.tolist()


def test_the_weights_are_part_of_the_digest_and_full_weights_are_not() -> None:
    plain = HeldoutSet(name="a", examples=(example("2?", "4", "3?", "5"),))
    full = conversation(("2?", True), ("4", True), ("3?", True), ("5", True))
    part = conversation(("2?", True), ("4", False), ("3?", True), ("5", True))
    assert HeldoutSet(name="b", examples=(full,)).digest == plain.digest
    assert HeldoutSet(name="b", examples=(part,)).digest != plain.digest


def test_a_marking_template_that_merges_turns_cannot_tell_weights_apart() -> None:
    turns = (Message("user", "a"), Message("assistant", "b", False), Message("assistant", "c"))
    both = HeldoutExample(id="e1", messages=turns, form="messages")
    template = (
        "{{ messages[0]['content'] }}{% generation %}{% for m in messages[1:] %}"
        "{{ m['content'] + '<|im_end|>' }}{% endfor %}{% endgeneration %}"
    )
    with pytest.raises(BenchmarkError, match=r"e1 has turns of weight 0.*marks 1 stretches"):
        tokenize(both, tokenizer(template), TEMPLATE)


@pytest.mark.parametrize("form", ["messages", "prompt"])
def test_tools_go_to_the_chat_template(form: Form) -> None:
    by = tokenizer(WITH_TOOLS)
    plain = example("2?", "4", form=form)
    tools = '[{"type": "function", "function": {"name": "add"}}]'
    with_tools = HeldoutExample(id="e1", messages=plain.messages, form=form, tools=tools)
    made = tokenize(with_tools, by, TEMPLATE)
    assert whole(made, by).startswith('Tools: [{"type": "function"')
    assert scored(made, by) == scored(tokenize(plain, by, TEMPLATE), by) == ["4<|im_end|>"]
    assert heldout_set(with_tools).digest != heldout_set(plain).digest


def test_tools_without_a_chat_template_are_refused() -> None:
    pair = example("2?", "4", form="prompt")
    with_tools = HeldoutExample(id="e9", messages=pair.messages, form="prompt", tools='[{"a": 1}]')
    with pytest.raises(BenchmarkError, match=r"e9 has tools.*no chat template.*without `tools`"):
        tokenize(with_tools, tokenizer(), TEMPLATE)


@pytest.mark.parametrize(
    ("template", "cut"),
    [
        (CHATML, ""),
        (TRIMMING, ""),
        (FORGETFUL, "<think>so</think>4"),
        (CUTTING.replace("<think>\\n", ""), "<think>so</think><think>né</think>"),
        (
            TAGGED.replace(
                "m['content'] + '<|im_end|>' }}{% endgen",
                "m['content'].split('</think>')[-1] + '<|im_end|>' }}{% endgen",
            ),
            "<think>so</think><think>né</think>",
        ),
    ],
)
def test_text_that_the_template_cuts_is_counted(template: str, cut: str) -> None:
    by = tokenizer(template)
    turns = ("2?", "<think>so</think>4", "3?", "<think>né</think>5")
    made = tokenize(example(*turns), by, TEMPLATE)
    assert made.n_cut_bytes == len(cut.encode())
    assert made.n_turn_bytes == len("".join(turns[1::2]).encode())
    both = tokenize_set(heldout_set(example(*turns), example(*turns)), by, TEMPLATE)
    assert (both.n_cut_bytes, both.n_turn_bytes) == (2 * made.n_cut_bytes, 2 * made.n_turn_bytes)


def test_a_response_of_a_pair_loses_nothing() -> None:
    made = tokenize(example("2?", "so</think>4", form="prompt"), tokenizer(CUTTING), TEMPLATE)
    assert (made.n_cut_bytes, made.n_turn_bytes) == (0, len("so</think>4"))


# Writes calls as Hermes and Qwen do.
CALLING = WITH_TOOLS.replace(
    "m['content'] + '<|im_end|>\\n' }}",
    "m['content'] }}{% for c in m['tool_calls'] or [] %}{{ '<tool_call>' + c['function']['name'] "
    "+ (c['function']['arguments'] | tojson) + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}",
)
# Wants the arguments as JSON text, as DeepSeek's do.
CALLING_BY_TEXT = CALLING.replace(
    "(c['function']['arguments'] | tojson)", "c['function']['arguments']"
)
_CALLS = CALLING[CALLING.index("{% for c in") : CALLING.index("{{ '<|im_end|>")]
TAGGED_CALLING = TAGGED.replace(
    "{% generation %}{{ m['content'] + '<|im_end|>' }}",
    "{% generation %}{{ m['content'] }}" + _CALLS + "{{ '<|im_end|>' }}",
)


def with_call(content: str = "", **arguments: str) -> HeldoutExample:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    turns = (
        Message("user", "2+3?"),
        Message("assistant", content, extra=json.dumps({"tool_calls": [call]})),
        Message("user", "so?"),
        Message("assistant", "5"),
    )
    return HeldoutExample(id="e1", messages=turns, form="messages")


@pytest.mark.parametrize("template", [CALLING, CALLING_BY_TEXT, TAGGED_CALLING])
def test_tool_calls_are_scored_as_the_template_writes_them(template: str) -> None:
    by = tokenizer(template)
    made = tokenize(with_call("I add.", a="2"), by, TEMPLATE)
    assert scored(made, by) == [
        'I add.<tool_call>add{"a": "2"}</tool_call><|im_end|>',
        "5<|im_end|>",
    ]


def test_the_end_of_turn_inside_an_argument_does_not_end_the_turn() -> None:
    by = tokenizer(CALLING)
    made = tokenize(with_call(text="a <|im_end|> b"), by, TEMPLATE)
    assert scored(made, by)[0].endswith(' b"}</tool_call><|im_end|>')


def test_a_template_that_ignores_tool_calls_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"e1 has tool calls, which the chat template"):
        tokenize(with_call("I add.", a="2"), tokenizer(CHATML), TEMPLATE)
    only_names = CALLING.replace("+ (c['function']['arguments'] | tojson)", "")
    with pytest.raises(BenchmarkError, match="does not write"):
        tokenize(with_call("I add.", a="2"), tokenizer(only_names), TEMPLATE)


def test_a_text_is_tokenized_as_it_is_and_scored_behind_its_prompt() -> None:
    """Neither template is applied; TRL adds the end of sequence."""
    by = tokenizer(CHATML)
    made = tokenize(example("2? The answer is", " 4", form="text"), by, TEMPLATE)
    assert whole(made, by) == "<s>2? The answer is 4<|endoftext|>"
    assert scored(made, by) == [" 4<|endoftext|>"]
    assert (made.n_response_bytes, made.n_cut_bytes) == (2, 0)


@pytest.mark.parametrize(
    ("response", "end"),
    [
        ("4<|im_end|>", "<|im_end|>"),
        ("4<|im_end|>\n", "<|im_end|>"),
        ("4<|endoftext|>", "<|endoftext|>"),
        ("4<|im_end|>\n<|endoftext|>", "<|im_end|>"),
        ("4\n", "\n<|endoftext|>"),
    ],
)
def test_a_text_ends_with_the_token_that_it_has(response: str, end: str) -> None:
    by = tokenizer(CHATML)
    made = tokenize(example("<s>2?", response, form="text"), by, TEMPLATE)
    assert scored(made, by) == ["4" + end]
    assert whole(made, by).count("<s>") == 1


def test_alpaca_rows_without_a_chat_template_get_the_documented_prompt() -> None:
    pair = example("Add\n2+3", "5", form="prompt")
    row = HeldoutExample(
        id="e1", messages=pair.messages, form="prompt", plain_prompt="### Instruction:"
    )
    plain, chat = tokenizer(), tokenizer(CHATML)
    assert whole(tokenize(row, plain, TEMPLATE), plain) == "<s>### Instruction:5<|endoftext|>"
    assert whole(tokenize(row, chat, TEMPLATE), chat) == whole(tokenize(pair, chat, TEMPLATE), chat)
    assert heldout_set(row).digest != heldout_set(pair).digest


@pytest.mark.parametrize("form", ["messages", "prompt"])
def test_variables_of_a_row_go_to_the_chat_template(form: Form) -> None:
    by = tokenizer("{% if thinks is defined %}{{ thinks }} {% endif %}" + CHATML)
    plain = example("2?", "4", form=form)
    row = HeldoutExample(
        id="e1", messages=plain.messages, form=form, variables='{"thinks": "no", "eos_token": "x"}'
    )
    made = tokenize(row, by, TEMPLATE)
    assert whole(made, by).startswith("no <|im_start|>user")
    assert scored(made, by) == scored(tokenize(plain, by, TEMPLATE), by)
