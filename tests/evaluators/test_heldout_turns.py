"""Tool calls, weights of rows, texts with a response marker, and named fields of held-out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators.heldout.examples import HeldoutForm, HeldoutSet, load_heldout
from rlready.evaluators.heldout.rows import Conversation, conversation
from rlready.evaluators.heldout.turns import Message, turns
from rlready.registry.errors import BenchmarkError, ConfigError

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "é"}}}


def read(row: dict[str, Any], marker: str = "") -> Conversation:
    return conversation(row, "held.jsonl, line 7", marker)


def with_call(call: object, **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": "2+3?"},
        {"role": "assistant", "content": None, "tool_calls": [call], **more},
        {"role": "tool", "content": "5", "name": "add", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It is 5."},
    ]
    return {"messages": turns}


def load(tmp_path: Path, *rows: dict[str, Any], form: HeldoutForm | None = None) -> HeldoutSet:
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_heldout(path, form=form)


def test_tool_calls_and_names_of_tools_go_to_the_template() -> None:
    messages = read(with_call(CALL)).messages
    assert messages[1].keys() == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert messages[1].is_scored
    assert not messages[1].is_empty
    assert messages[2].keys() == {
        "role": "tool",
        "content": "5",
        "name": "add",
        "tool_call_id": "c1",
    }


def test_arguments_as_json_text_are_the_same_call() -> None:
    """OpenAI writes them so, and data sets whose calls have arguments of different types."""
    as_text = {
        "type": "function",
        "function": {"name": "add", "arguments": json.dumps(CALL["function"]["arguments"])},  # type: ignore[index]
    }
    assert read(with_call(as_text)) == read(with_call(CALL))
    assert read(with_call({"function": CALL["function"]})) == read(with_call(CALL))


def test_a_call_without_arguments_is_a_call() -> None:
    for arguments in ({}, None, ""):
        call = {"function": {"name": "now", "arguments": arguments}}
        (made,) = read(with_call(call)).messages[1].tool_calls()
        assert made["function"] == {"name": "now", "arguments": {}}


def test_calls_change_the_digest_and_missing_ones_do_not(tmp_path: Path) -> None:
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    none = [plain[0], {**plain[1], "tool_calls": None}]
    some = [plain[0], {**plain[1], "tool_calls": [CALL]}]
    digests = [load(tmp_path, {"messages": turns}).digest for turns in (plain, none, some)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (with_call("add"), "message 1, call 0 is not a call of a function"),
        (with_call({"function": {"arguments": {}}}), "call 0 is not a call of a function"),
        (with_call({"function": {"name": "f", "arguments": "{"}}), "`arguments` are not JSON"),
        (with_call({"function": {"name": "f", "arguments": [1]}}), "`arguments` are not an object"),
        (with_call(CALL, tool_calls={"a": 1}), "message 1: `tool_calls` is not a list"),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
            "message 0 has 'tool_calls' beside its content",
        ),
        (with_call(CALL, reasoning_content={"a": 1}), "message 1: `reasoning_content` is not text"),
        (with_call(CALL, reasoning="so"), "message 1 has 'reasoning' beside its content"),
        (
            {"messages": [{"role": "user", "content": "a", "reasoning_content": "so"}]},
            "message 0 has 'reasoning_content' beside its content",
        ),
        (with_call({"function": {"name": "\ud800"}}), "message 1: `tool_calls` is not Unicode"),
        ({"prompt": "a"}, "fields prompt; its `prompt` has no `response` or `completion`"),
        ({"output": "a", "input": "b"}, "its `output` has no `instruction`"),
        ({"text": "a"}, "unknown where the response in `text` begins.*--response-marker"),
        (
            {"prompt": [{"role": "user", "content": "a"}], "extra_info": {"answer": "b"}},
            "fields extra_info.answer, prompt.*--held-out-field",
        ),
    ],
)
def test_what_is_missing_is_told_with_the_place(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=rf"^held\.jsonl, line 7.*{message}"):
        read(row)


def test_the_response_of_a_text_begins_after_the_last_marker() -> None:
    text = "### Response: is the marker\n### Response: 5"
    made = read({"text": text, "instruction": "a", "output": "b"}, "### Response:")
    assert made.form == "text"
    assert made.messages == (Message("user", text[:-2]), Message("assistant", " 5"))
    assert read({"instruction": "a", "output": "b"}, "### Response:").form == "prompt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no mark", r"`text` has no response marker 'A:'.*begins with 'no mark'"),
        ("Q: 2? A: \n", "has an empty response after 'A:' in `text`"),
        ("", "has an empty `text`"),
        (5, "`text` is not text"),
    ],
)
def test_a_text_without_marker_or_response_is_refused(text: Any, message: str) -> None:
    with pytest.raises(BenchmarkError, match=rf"^held\.jsonl, line 7.*{message}"):
        read({"text": text}, "A:")


def test_rows_of_weight_0_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": str(i), "weight": i % 2} for i in range(5)]
    made = load(tmp_path, *rows)
    assert [e.messages[1].content for e in made.examples] == ["1", "3"]
    assert made.n_weightless == 3
    with pytest.raises(BenchmarkError, match="all 1 of its rows have weight 0"):
        load(tmp_path, rows[0])
    with pytest.raises(BenchmarkError, match=r"line 1 has the `weight` 0\.5.*Give 0 or 1"):
        load(tmp_path, {**rows[0], "weight": 0.5})


def test_variables_of_the_template_are_read_and_part_of_the_digest(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b"}
    digests = {
        load(tmp_path, {**row, "chat_template_kwargs": value}).digest
        for value in (None, {}, {"enable_thinking": False}, {"enable_thinking": True})
    }
    assert len(digests) == 3
    for bad in ("x", [1], {"messages": []}):
        with pytest.raises(BenchmarkError, match="line 7: `chat_template_kwargs` cannot be used"):
            read({**row, "chat_template_kwargs": bad})


VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "2+3?"}],
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"answer": "2+3=5 #### 5", "index": 0, "split": "train"},
}


def test_named_fields_of_nested_rows_are_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    form = HeldoutForm.of_options(None, ("prompt=prompt", "response=extra_info.answer"))
    path = tmp_path / "verl.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([VERL]), path)
    for made in (load_heldout(path, form=form), load(tmp_path, VERL, form=form)):
        (only,) = made.examples
        assert only.form == "messages"
        assert [m.content for m in only.messages] == ["2+3?", "2+3=5 #### 5"]


def test_named_fields_come_before_the_usual_ones(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "messages": [1], "q": "c", "id": "x", "weight": 1}
    form = HeldoutForm.of_options(None, ("prompt=q", "response=completion"))
    (only,) = load(tmp_path, row, form=form).examples
    assert (only.id, [m.content for m in only.messages]) == ("x", ["c", "b"])
    with pytest.raises(BenchmarkError, match=r"line 1 has no field 'q'.*--held-out-field prompt=q"):
        load(tmp_path, {"prompt": "a", "completion": "b"}, form=form)


def test_options_give_the_form() -> None:
    form = HeldoutForm.of_options(r"\n### Response:\n", ())
    assert form.response_marker == "\n### Response:\n"
    for marker, fields, message in (
        ("  ", (), "--response-marker is empty"),
        (None, ("prompt",), "--held-out-field 'prompt' cannot be used.*NAME=FIELD"),
        (None, ("question=q",), "one of: id, messages"),
        (None, ("prompt=a", "prompt=b"), "prompt is given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            HeldoutForm.of_options(marker, fields)


def test_a_turn_of_which_only_parts_are_trained_is_refused() -> None:
    """Axolotl's `train_detail` was ignored without a message."""
    detail = [{"begin_offset": 0, "end_offset": 0, "train": False}]
    turn = {"role": "assistant", "content": "4", "train_detail": detail}
    with pytest.raises(BenchmarkError, match="scores only parts of its text"):
        turns([turn], "f.jsonl:1", "messages")
    assert turns([{**turn, "train_detail": []}], "f.jsonl:1", "messages")[0].is_scored
