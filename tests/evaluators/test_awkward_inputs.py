"""Each benchmark and held-out file of `shared/data/awkward_inputs`: read rightly, or refused.

Its README says which of them have to change; the others hold what they gave before that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import data_path

from rlready.evaluators.benchmarks.fields import AnswerForm, Fields, to_problem
from rlready.evaluators.benchmarks.problems import load_benchmark, parse_benchmark_option
from rlready.evaluators.benchmarks.rows import Row
from rlready.evaluators.heldout.examples import load_heldout
from rlready.evaluators.heldout.rows import KEYS, conversation
from rlready.evaluators.heldout.tokens import TokenizedSet, tokenize_set
from rlready.registry.errors import BenchmarkError

FOLDER = data_path("awkward_inputs")

READ_PROBLEMS: dict[str, list[tuple[str, ...]]] = {
    "b_blank_lines": [("5",), ("7",)],
    "b_bom": [("5",), ("7",)],
    "b_boxed_gold": [(r"\boxed{5}",)],
    "b_crlf": [("5",), ("7",)],
    "b_dollar_gold": [("$5$",)],
    "b_gsm": [("5",)],
    "b_int": [("5",), ("1000",), ("0",)],
    "b_list_all": [("2", "3")],
    "b_list_str": [("70",)],
    "b_math_solution": [("5",)],
    "b_null": [("5",)],
    "b_olymp": [(r"$\frac{7}{8}$, $2$",)],
    "b_verl": [("5",)],
}
"""Accepted answers of each problem."""

REFUSED_PROBLEMS = {
    "b_array": "line 1 is not a JSON object but a list",
    "b_bare_backslash": r"the problem of .*line 1 holds a form feed.*\(field 'problem'\)",
    "b_bool": "line 1 is bool, neither text nor number: True",
    "b_cr": "line 1 is not JSON",
    "b_dup_noid": "line 2 has the id .*the same problem occurs twice",
    "b_dup_other": "line 2 has the id 'a' of .*line 1",
    "b_dup_same": "line 2 has the id 'a' of .*line 1",
    "b_empty": "has no problems",
    "b_emptyanswer": "the answer of .*line 1 is empty",
    "b_list_nested": "line 1 is list, neither text nor number",
    "b_nan": "line 1 is not JSON. NaN is not a JSON number",
    "b_nested": "line 1 is a dict, not a text",
    "b_pretty": "line 1 is not JSON",
    "b_surrogate": "line 1 is not valid Unicode",
    "b_two_objects": "line 1 is not JSON",
    "b_utf16": "line 1 is not UTF-8",
}

END = "<|im_end|>"
SCORED_TURNS = {
    "h_alpaca": ["5"],
    "h_bom_crlf": ["5"],
    "h_completion": ["5"],
    "h_dupid": ["5", "5"],
    "h_empty_then_ok": ["5"],
    "h_human_gpt": ["5"],
    "h_last_user": ["5"],
    "h_ok": ["5"],
    "h_parts": ["5"],
    "h_prompt_msgs": ["5"],
    "h_special": ["5<eos>"],
    "h_system": ["5"],
    "h_think": ["<think>\nadd\n</think>\n\n5", "<think>\nagain\n</think>\n\n5"],
    "h_toolcalls_emptylist": ["5"],
    "h_toolcalls_null": ["5"],
    "h_tools_key": ["5"],
    "h_weight": ["5"],
    "h_ws": ["  5\n\n"],
}
"""Scored turns under a chat template that renders turns as they are."""

DIGESTS = {
    "h_bom_crlf": "f69e194cc62709fb555b63787ce4b018",
    "h_dupid": "9fac898df82bea574e2078a31b0db046",
    "h_empty_then_ok": "eb6132f0fe7e3f9220c592c6fd0ac299",
    "h_last_user": "1553fd7339b6832cab1cf1bf675e2a78",
    "h_ok": "f69e194cc62709fb555b63787ce4b018",
    "h_parts": "f69e194cc62709fb555b63787ce4b018",
    "h_special": "7692ab7b4d1cf2b7e9fd3a9f3d31bbaf",
    "h_system": "691d8dd2f724e0934b0210bc81211a6c",
    "h_think": "0e4546761b1d367a043dc2e8b32c51af",
    "h_toolcalls_emptylist": "f69e194cc62709fb555b63787ce4b018",
    "h_toolcalls_null": "f69e194cc62709fb555b63787ce4b018",
    "h_ws": "1be253f7baa0771a18c50fcaaf870be7",
}
"""Of files that could be read before weights, tools and other formats were: they have to stay."""

REFUSED_EXAMPLES = {
    "h_empty_assistant": "line 1 has only empty assistant turns",
    "h_image": "line 1, message 0: `content` is not text",
    "h_msgs_str": "line 1: `messages` is not a list of turns",
    "h_nan": "line 1",
    "h_null": "line 1, message 1: `content` is not text",
    "h_role_human": "line 1, message 0 has the role 'human'",
    "h_system_only": "line 1 has no assistant turn",
    # Read, and refused by a chat template that would not write thoughts or calls.
    "h_reasoning": "message 1 has `reasoning_content`, which .* this checkpoint does not write",
    "h_tools": "line-1 has tool calls, which the chat template of this checkpoint does not write",
    # Read, and refused where it is tokenized: nothing stands before its only response.
    "h_msgs_first_assistant": "no assistant turn can be found",
}

CHATML = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CUTTING = CHATML.replace("m['content'] +", "m['content'].split('</think>')[-1] +")


@cache
def tokenized(name: str, chat_template: str = CHATML) -> tuple[TokenizedSet, list[str]]:
    """A held-out file's tokens, and the texts of its stretches of scored tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    core = Tokenizer(BPE(letters, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|im_start|>", END])
    by = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)
    by.chat_template = chat_template
    made = tokenize_set(load_heldout(FOLDER / f"{name}.jsonl"), by, "{problem}")
    texts = [
        str(by.decode([id for id, is_scored in zip(*turns, strict=True) if is_scored]))
        for turns in ((e.token_ids, e.is_response) for e in made.examples)
    ]
    return made, "".join(texts).split(END)[:-1]


def test_every_file_is_held() -> None:
    held = READ_PROBLEMS | REFUSED_PROBLEMS | SCORED_TURNS | REFUSED_EXAMPLES
    assert {path.stem for path in FOLDER.glob("[bh]_*")} == set(held)


@pytest.mark.parametrize("name", READ_PROBLEMS)
def test_benchmarks_give_the_answers_that_people_read(name: str) -> None:
    benchmark = load_benchmark(parse_benchmark_option(str(FOLDER / f"{name}.jsonl")))
    assert [problem.answers for problem in benchmark.problems] == READ_PROBLEMS[name]


@pytest.mark.parametrize("name", REFUSED_PROBLEMS)
def test_other_benchmarks_are_refused_with_file_and_line(name: str) -> None:
    with pytest.raises(BenchmarkError, match=rf"{name}\b.*") as caught:
        load_benchmark(parse_benchmark_option(str(FOLDER / f"{name}.jsonl")))
    assert caught.match(REFUSED_PROBLEMS[name])


@pytest.mark.parametrize("name", SCORED_TURNS)
def test_the_turns_of_heldout_files_are_scored(name: str) -> None:
    made, turns = tokenized(name)
    assert turns == SCORED_TURNS[name]
    assert made.n_cut_bytes == 0
    if name in DIGESTS:
        assert made.benchmark_digest == DIGESTS[name]


@pytest.mark.parametrize("name", REFUSED_EXAMPLES)
def test_other_heldout_files_are_refused_with_file_and_line(name: str) -> None:
    with pytest.raises(BenchmarkError, match=REFUSED_EXAMPLES[name]):
        tokenized(name)


def test_thoughts_that_the_template_cuts_are_counted() -> None:
    made, turns = tokenized("h_think", CUTTING)
    assert turns == ["\n\n5", "\n\n5"]
    assert (made.n_cut_bytes, made.n_turn_bytes) == (42, 48)


def test_row_level_tools_are_part_of_what_the_model_reads() -> None:
    with_tools, without = tokenized("h_tools_key")[0], tokenized("h_ok")[0]
    n_tokens = [len(made.examples[0].token_ids) for made in (with_tools, without)]
    assert n_tokens[0] > n_tokens[1] + 50
    assert with_tools.benchmark_digest != without.benchmark_digest


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 10**6)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", " ", "5", "user", "assistant", "gpt", "['70']", "[1", "{'a': 1}", "[]"])
    | st.sampled_from([r"so \boxed{", "####", r"\boxed{\boxed{5}} ok", '[{"role": "user"}]', "\f"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "weight"])
            | st.sampled_from(["ground_truth", "index", "", "."]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PROBLEM_KEYS = ("id", "problem", "prompt", "answer", "answers", "solution", "reward_model")
PROBLEM_KEYS += ("final_answer", "is_multiple_answer", "ground_truth")


@given(st.dictionaries(st.sampled_from(PROBLEM_KEYS), VALUES))
def test_any_row_is_a_problem_or_is_refused(row: dict[str, Any]) -> None:
    try:
        problem = to_problem(Row("here", row), Fields(), AnswerForm())
    except BenchmarkError as error:
        assert "here" in str(error)  # noqa: PT017
    else:
        assert problem.text.strip()
        assert all(answer.strip() for answer in problem.answers)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_row_is_a_conversation_or_is_refused(row: dict[str, Any]) -> None:
    try:
        read = conversation(row, "here")
    except BenchmarkError as error:
        assert str(error).startswith("here")  # noqa: PT017
    else:
        assert any(m.role == "assistant" and m.is_scored and m.content for m in read.messages)
