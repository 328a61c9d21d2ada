"""Turns of a conversation: roles, texts, weights and tool calls.

    {"role": "assistant", "content": "4"}                       OpenAI, TRL
    {"from": "gpt", "value": "4"}                               ShareGPT, in `conversations`
    {"role": "assistant", "content": null, "tool_calls": [...]}

- `weight` 0, or `train` or `loss` false, in a turn of the assistant: it is context, not scored.
  These are the keys of OpenAI, Axolotl and ms-swift.
- `tool_calls` of the assistant, and `name` and `tool_call_id` of a tool's turn, go to the chat
  template. Arguments may be an object or, as OpenAI writes them, its JSON text.
- `reasoning_content` of the assistant goes to the chat template too, which has to write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlready.evaluators.benchmarks.lost_escapes import lost_escape
from rlready.evaluators.benchmarks.row_fields import joined_text
from rlready.registry.errors import BenchmarkError
from rlready.registry.foreign_files import parse_json

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    **{role: role for role in ("system", "developer")},
}
# Chat templates render these keys of a turn too. If they were ignored, the loss would be that of
# another conversation.
_UNSUPPORTED_PARTS = ("function_call", "reasoning", "thinking")
REASONING = "reasoning_content"
_TURN = '{"role": ..., "content": ...}'
_CALL = '{"type": "function", "function": {"name": ..., "arguments": {...}}}'


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: one of `ROLES`.
        content: the text.
        is_scored: False for an assistant's turn that is context.
        extra: JSON object of further keys for the chat template, empty if there are none:
            `tool_calls` and `reasoning_content` of the assistant, `name` and `tool_call_id` of a
            tool.
    """

    role: str
    content: str
    is_scored: bool = True
    extra: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the turn has neither text nor thoughts nor tool calls."""
        return not self.text.strip() and not self.tool_calls()

    @property
    def reasoning(self) -> str:
        """The thoughts of the assistant that stand beside its content; empty if there are none."""
        return str(self.keys().get(REASONING, ""))

    @property
    def text(self) -> str:
        """Thoughts and content, in the order in which chat templates write them."""
        return self.reasoning + self.content

    def keys(self) -> dict[str, Any]:
        """Return the turn as the chat template gets it."""
        extra = json.loads(self.extra) if self.extra else {}
        return {"role": self.role, "content": self.content, **extra}

    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the tool calls of the turn; arguments are objects."""
        calls: list[dict[str, Any]] = self.keys().get("tool_calls", [])
        return calls

    def content_values(self) -> list[object]:
        """Return everything that a loss depends on, as JSON values for a digest."""
        unscored = [] if self.is_scored else ["not scored"]
        return [self.role, self.content, *unscored, *([self.extra] if self.extra else [])]


def turns(
    value: object, where: str, key: str, roles: Mapping[str, str] | None = None
) -> tuple[Message, ...]:
    """Return the messages of a field.

    Args:
        value: the field's value.
        where: file and line, for messages.
        key: name of the field.
        roles: our names of the foreign roles that are allowed there; then `from` and `value` may
            replace `role` and `content`.

    Raises:
        BenchmarkError: naming `where` and the turn.
    """
    if not isinstance(value, list) or not value:
        raise BenchmarkError(f"{where}: `{key}` is not a list of turns", fix=f"Give [{_TURN}]")
    return tuple(_message(turn, f"{where}, message {i}", roles) for i, turn in enumerate(value))


def has_turns(value: object) -> bool:
    """Return whether a value is a list with turns."""
    return isinstance(value, list) and any(isinstance(t, dict) and "role" in t for t in value)


def checked_turns(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Return the messages; raise BenchmarkError if none of them is an assistant's to score."""
    assistant = [message for message in messages if message.role == "assistant"]
    if not assistant:
        raise BenchmarkError(f"{where} has no assistant turn", fix="Remove the row")
    if all(message.is_empty for message in assistant):
        raise BenchmarkError(f"{where} has only empty assistant turns", fix="Remove the row")
    if not any(message.is_scored and not message.is_empty for message in assistant):
        raise BenchmarkError(
            f"{where} has no assistant turn to score",
            why="each of them has weight 0, is only context, or is empty",
            fix="Remove the row",
        )
    return messages


def filled_text(value: object, where: str, what: str) -> str:
    """Return a text that is not empty; raise BenchmarkError as `plain_text` does."""
    text = plain_text(value, where, what)
    if not text.strip():
        raise BenchmarkError(f"{where} has an empty {what}", fix="Remove the row")
    return text


def plain_text(value: object, where: str, what: str) -> str:
    """Return the text of a value, a string or text parts; raise BenchmarkError for others."""
    text = joined_text(value)
    if text is None:
        raise BenchmarkError(f"{where}: {what} is not text", fix="Give a string, or text parts")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BenchmarkError(f"{where}: {what} is not Unicode text", why=str(error)) from error
    if lost := lost_escape(text, "example"):
        raise BenchmarkError(f"{where}: {what} {lost.what}", why=lost.why, fix=lost.fix)
    return text


def json_text(value: object, where: str, what: str) -> str:
    """Return a value of a row as JSON text; raise BenchmarkError if it is not Unicode text."""
    # Parquet has dates and decimal numbers.
    return plain_text(json.dumps(value, ensure_ascii=False, default=str), where, what)


def is_weighted(values: Mapping[str, Any], where: str) -> bool:
    """Return whether the `weight` of a turn or row is 1 or missing; raise for other weights."""
    weight = values.get("weight")
    if weight is not None and weight not in (0, 1):
        raise BenchmarkError(
            f"{where} has the `weight` {weight!r}",
            why="it is scored as a whole or not at all",
            fix="Give 0 or 1",
        )
    return weight != 0


def _message(turn: object, where: str, roles: Mapping[str, str] | None) -> Message:
    role_key, text_key = "role", "content"
    if roles is not None and isinstance(turn, dict) and turn.get("from") is not None:
        role_key, text_key = "from", "value"
    if not isinstance(turn, dict) or turn.get(role_key) is None:
        either = "" if roles is None else ' or {"from": ..., "value": ...}'
        raise BenchmarkError(f"{where} has no `role`", fix=f"Give {_TURN}{either}")
    foreign_role = turn[role_key]
    role = foreign_role if roles is None else roles.get(str(foreign_role).casefold())
    if role not in ROLES:
        raise BenchmarkError(
            f"{where} has the role {foreign_role!r}", fix=f"Known: {', '.join(roles or ROLES)}"
        )
    unsupported = [key for key in _UNSUPPORTED_PARTS if turn.get(key)]
    if role != "assistant":
        unsupported += [key for key in ("tool_calls", REASONING) if turn.get(key)]
    if unsupported:
        raise BenchmarkError(
            f"{where} has {unsupported[0]!r} beside its content",
            why=f"text, and tool calls and `{REASONING}` of the assistant are scored; without "
            f"`{unsupported[0]}` the loss would be another one",
            fix="Write it into `content`, in the form that the SFT run used",
        )
    extra = _extra(turn, role, where)
    # A turn with tool calls or thoughts often has no text.
    text = turn.get(text_key) if not extra or turn.get(text_key) is not None else ""
    is_scored = role != "assistant" or _is_scored(turn, where)
    return Message(role, plain_text(text, where, f"`{text_key}`"), is_scored, extra)


def _is_scored(turn: Mapping[str, Any], where: str) -> bool:
    if turn.get("train_detail"):
        raise BenchmarkError(
            f"{where} has `train_detail`, which scores only parts of its text",
            why="a turn is scored as a whole, so the loss would be another one",
            fix="Remove `train_detail`, or set `train` to false to leave the turn out",
        )
    if turn.get("train") is False or turn.get("loss") is False:
        return False
    return is_weighted(turn, where)


def _extra(turn: Mapping[str, Any], role: str, where: str) -> str:
    """Return the keys that only some turns have as a JSON object, in one order."""
    extra: dict[str, Any] = {}
    if role == "assistant" and turn.get("tool_calls"):
        calls = turn["tool_calls"]
        if not isinstance(calls, list):
            raise BenchmarkError(f"{where}: `tool_calls` is not a list", fix=f"Give [{_CALL}]")
        extra["tool_calls"] = [_tool_call(c, f"{where}, call {i}") for i, c in enumerate(calls)]
    if role == "assistant" and turn.get(REASONING):
        reasoning = plain_text(turn[REASONING], where, f"`{REASONING}`")
        extra |= {REASONING: reasoning} if reasoning.strip() else {}
    if role == "tool":
        names = ("name", "tool_call_id")
        extra = {name: turn[name] for name in names if isinstance(turn.get(name), str)}
    return json_text(extra, where, "`tool_calls`") if extra else ""


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BenchmarkError(f"{where} is not a call of a function", fix=f"Give {_CALL}")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = parse_json(arguments)
        except ValueError as error:
            raise BenchmarkError(
                f"{where}: its `arguments` are not JSON", why=str(error), fix=f"Give {_CALL}"
            ) from error
    if arguments in (None, ""):
        arguments = {}
    if not isinstance(arguments, dict):
        raise BenchmarkError(f"{where}: its `arguments` are not an object", fix=f"Give {_CALL}")
    made: dict[str, Any] = {"type": "function", "function": {**function, "arguments": arguments}}
    return made if not isinstance(call, dict) or not call.get("id") else {"id": call["id"], **made}
