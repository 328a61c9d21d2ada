"""Formats of held-out rows: Alpaca, TRL, ShareGPT; turns of weight 0; tools; what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlready.evaluators.heldout.rows import Conversation, conversation
from rlready.evaluators.heldout.turns import Message
from rlready.registry.errors import BenchmarkError

USER, ASSISTANT = Message("user", "2+3?"), Message("assistant", "5")
TOOLS = [{"type": "function", "function": {"name": "add", "description": "né"}}]


def read(row: dict[str, Any]) -> Conversation:
    return conversation(row, "held.jsonl, line 7")


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


def shared(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": a, "value": b} for a, b in turns], **more}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+3?", "response": "5"},
        {"prompt": "2+3?", "completion": "5"},
        {"prompt": [{"type": "text", "text": "2+3?"}], "completion": "5"},
    ],
)
def test_pairs_of_texts_are_prompt_and_response(row: dict[str, Any]) -> None:
    assert read(row) == Conversation("prompt", (USER, ASSISTANT))


def test_alpaca_rows_have_a_user_message_and_the_documented_prompt() -> None:
    """The prompts of Stanford Alpaca's train.py, for models without a chat template."""
    row = {"instruction": "Add", "input": "2+3", "output": "5"}
    assert read(row).messages == (Message("user", "Add\n2+3"), ASSISTANT)
    assert read(row).plain_prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd\n\n### Input:\n2+3\n\n### Response:"
    )
    for more in ({}, {"input": " ", "system": "", "history": []}):
        plain = read({"instruction": "2+3? {x}", "output": "5", **more})
        assert plain.messages == (Message("user", "2+3? {x}"), ASSISTANT)
        assert plain.plain_prompt == (
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\n2+3? {x}\n\n### Response:"
        )
    with_system = read({**row, "system": "Be kind."})
    assert with_system.form == "messages"
    assert with_system.messages[0] == Message("system", "Be kind.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [turn("user", "2+3?")], "completion": [turn("assistant", "5")]},
        {"prompt": [turn("user", "2+3?")], "response": "5"},
        {"prompt": "2+3?", "completion": [turn("assistant", "5")]},
        shared(("human", "2+3?"), ("gpt", "5")),
        shared(("user", "2+3?"), ("Assistant", "5")),
        {"conversations": [turn("user", "2+3?"), turn("assistant", "5")]},
        {"conversations": [{"from": "human", "value": "2+3?", "weight": None}, turn("gpt", "5")]},
    ],
)
def test_lists_of_turns_are_conversations(row: dict[str, Any]) -> None:
    assert read(row) == Conversation("messages", (USER, ASSISTANT))


def test_sharegpt_has_system_turns_and_tools() -> None:
    row = shared(("system", "x"), ("human", "a"), ("observation", "b"), ("gpt", "c"))
    assert [m.role for m in read(row).messages] == ["system", "user", "tool", "assistant"]
    row = shared(("human", "a"), ("gpt", "c"), system="Be kind.", tools=json.dumps(TOOLS))
    assert read(row).messages[0] == Message("system", "Be kind.")
    assert json.loads(read(row).tools) == TOOLS


def test_turns_of_a_prompt_are_context() -> None:
    shots = [turn("user", "1+1?"), turn("assistant", "2"), turn("user", "2+3?")]
    messages = read({"prompt": shots, "completion": [turn("assistant", "5")]}).messages
    assert [m.is_scored for m in messages] == [True, False, True, True]


def test_what_was_complete_before_goes_first() -> None:
    """A row that has several formats is read as it always was."""
    old = {"problem": "p", "solution": "s"}
    new = {**shared(("human", "a"), ("gpt", "b")), "instruction": "i", "output": "o"}
    assert read({**new, **old}).form == "problem"
    assert read({**old, "prompt": "a", "completion": "b"}).form == "prompt"
    assert read({"prompt": "a", "completion": "b", "response": "c"}).messages[1].content == "c"


@pytest.mark.parametrize(
    "unscored",
    [{"weight": 0}, {"weight": 0.0}, {"weight": False}, {"train": False}, {"loss": False}],
)
def test_a_turn_of_weight_0_is_context(unscored: dict[str, Any]) -> None:
    row = chat(
        turn("user", "a", weight=0),
        turn("assistant", "b", **unscored),
        turn("user", "c"),
        turn("assistant", "d", weight=1, train=True, loss=None),
    )
    assert [m.is_scored for m in read(row).messages] == [True, False, True, True]


@pytest.mark.parametrize("tools", [None, "", " ", [], "[]", "null"])
def test_no_tools_are_no_tools(tools: Any) -> None:
    assert read(chat(turn("user", "a"), turn("assistant", "b"), tools=tools)).tools == ""


def test_tools_keep_their_order_as_list_and_as_text() -> None:
    tools = [{"b": 1, "a": None}]
    for given in (tools, json.dumps(tools)):
        assert (
            read({"prompt": "a", "response": "b", "tools": given}).tools == '[{"b": 1, "a": null}]'
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (chat(turn("assistant", "b", weight=0)), "no assistant turn to score.*weight 0"),
        (chat(turn("assistant", "b", weight=0.5)), "message 0 has the `weight` 0.5.*Give 0 or 1"),
        (chat(turn("assistant", "b", weight="high")), "`weight` 'high'"),
        (chat(turn("assistant", "b"), tools="{"), "`tools` is not JSON"),
        (chat(turn("assistant", "b"), tools=["add"]), "`tools` is not a list of tools"),
        (chat(turn("assistant", "b"), tools='{"name": "add"}'), "`tools` is not a list of tools"),
        (shared(("human", "a"), ("function_call", "b")), "message 1 has the role 'function_call'"),
        (shared(("human", "a")), "no assistant turn"),
        ({"conversations": "a"}, "`conversations` is not a list of turns"),
        ({"conversations": [{"value": "a"}]}, 'message 0 has no `role`.*"from"'),
        ({"prompt": [turn("user", "a")], "completion": [turn("user", "b")]}, "no assistant turn"),
        (
            {
                "prompt": [turn("user", "a"), turn("assistant", "b")],
                "completion": [turn("user", "c")],
            },
            "no assistant turn to score.*only context",
        ),
        ({"prompt": [turn("user", "a")], "completion": " "}, "empty `completion`"),
        ({"instruction": "a", "output": ""}, "empty `output`"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "`history`"),
        ({"instruction": "a", "output": 5}, "`output` is not text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "not a held-out example.*`completion`"),
        ({"prompt": "a", "response": "\frac{1}{2}"}, "`response` holds a form feed"),
        ({"prompt": "\beta", "response": "a"}, "`prompt` holds a backspace.*two backslashes"),
        (
            chat(turn("user", "a \times b"), turn("assistant", "c")),
            "message 0: `content` holds a tab",
        ),
        (shared(("human", "a"), ("gpt", "x \neq 5")), "message 1: `value` holds a line break"),
    ],
)
def test_what_cannot_be_meant_is_told_with_line_and_field(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchmarkError, match=rf"^held\.jsonl, line 7.*{message}"):
        read(row)
