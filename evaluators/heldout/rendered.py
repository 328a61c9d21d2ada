"""Held-out conversations as the chat template renders them, and the token that ends a turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlready.evaluators.benchmarks.chat_templates import (
    RenderedChat,
    TemplateRefusalError,
    checkpoint_name,
    render_chat,
)
from rlready.evaluators.heldout.examples import HeldoutExample
from rlready.evaluators.heldout.turns import REASONING, Message
from rlready.registry.errors import BenchmarkError, CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "rlready probe"


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that ends a response; raise CheckpointError if there is none."""
    token_id = _template_end(tokenizer) if tokenizer.chat_template else None
    token_id = tokenizer.eos_token_id if token_id is None else token_id
    if not isinstance(token_id, int):
        raise CheckpointError(
            "the tokenizer has no end-of-sequence token",
            why="the model must produce one after a response",
            fix="Set `eos_token` in tokenizer_config.json",
        )
    return token_id


def _template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the added token that the chat template puts after an assistant's text."""
    turns = (Message("user", _PROBE), Message("assistant", _PROBE))
    probe = HeldoutExample(id="(probe)", messages=turns, form="messages")
    try:
        text = render(probe, tokenizer, turns)
    except BenchmarkError:
        return None
    after = text.rpartition(_PROBE)[2].lstrip()
    added: dict[str, int] = tokenizer.get_added_vocab()
    ends = [token for token in added if token and after.startswith(token)]
    return added[max(ends, key=len)] if ends else None


def render(
    example: HeldoutExample,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Return the text of some messages of an example."""
    options = {"add_generation_prompt": add_generation_prompt}
    return apply_template(example, tokenizer, messages, **options).text


def apply_template(
    example: HeldoutExample,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    **options: Any,
) -> RenderedChat:
    """Return messages of an example, and its tools, as the chat template renders them.

    Raises:
        BenchmarkError: if the template refuses them.
    """
    turns = [message.keys() for message in messages]
    options |= {"tools": tools_of(example), "variables": json.loads(example.variables or "{}")}
    try:
        try:
            return render_chat(tokenizer, turns, **options)
        except TemplateRefusalError:
            # Most templates want the arguments of a call as an object, DeepSeek's as JSON text.
            as_text = [_with_arguments_as_text(turn) for turn in turns]
            if as_text == turns:
                raise
            return render_chat(tokenizer, as_text, **options)
    except TemplateRefusalError as error:
        raise BenchmarkError(
            f"the chat template of {checkpoint_name(tokenizer)} refuses held-out "
            f"example {example.id} (roles {', '.join(message.role for message in messages)})",
            why=str(error),
            fix=error.fix
            or "Change the roles in the file to those that the model was trained on, or correct "
            "the checkpoint's chat template",
        ) from error


def check_tool_calls(example: HeldoutExample, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template writes names and arguments of tool calls.

    Many templates ignore the calls; the loss would then be that of another conversation.

    Raises:
        BenchmarkError: if it does not.
    """
    if not any(message.tool_calls() for message in example.messages):
        return
    name, key, value = (f"rlready_probe_{part}" for part in ("name", "key", "value"))
    call = {"type": "function", "function": {"name": name, "arguments": {key: value}}}
    messages = [
        Message(m.role, m.content, extra=json.dumps({"tool_calls": [call]}))
        if m.tool_calls()
        else m
        for m in example.messages
    ]
    text = render(example, tokenizer, messages)
    if not all(part in text for part in (name, key, value)):
        raise BenchmarkError(
            f"held-out example {example.id} has tool calls, which the chat template of "
            f"{checkpoint_name(tokenizer)} does not write",
            why="without them the loss would be that of another conversation",
            fix="Use the chat template of the SFT run, or write the calls into `content`",
        )


def check_reasoning(example: HeldoutExample, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template writes the thoughts of a turn, at least while it is the last.

    Many templates ignore `reasoning_content`; the loss would then be that of another conversation.

    Raises:
        BenchmarkError: if it does not.
    """
    for i, message in enumerate(example.messages):
        if not message.reasoning:
            continue
        extra = json.dumps({**json.loads(message.extra), REASONING: _PROBE})
        last = Message(message.role, message.content, extra=extra)
        if _PROBE not in render(example, tokenizer, [*example.messages[:i], last]):
            raise BenchmarkError(
                f"held-out example {example.id}, message {i} has `{REASONING}`, which the chat "
                f"template of {checkpoint_name(tokenizer)} does not write",
                why="without it the loss would be that of another conversation",
                fix="Use the chat template of the SFT run, or write the thoughts into `content`, "
                "in the form that the SFT run used",
            )


def tools_of(example: HeldoutExample) -> list[Any] | None:
    """Return the tools of an example as JSON values; None if there are none."""
    return json.loads(example.tools) if example.tools else None


def _with_arguments_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in turn:
        return turn
    calls = []
    for call in turn["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**turn, "tool_calls": calls}
