"""One row of a held-out file as a conversation, in the formats that SFT data sets have.

    messages                          turns with `role` and `content` (OpenAI, TRL)
    conversations                     turns with `from` and `value` (ShareGPT), or as above
    prompt + response                 texts, or lists of turns of which the second is scored
    prompt + completion               the same (TRL)
    problem + solution                texts; the problem goes through the prompt template
    instruction (+ input) + output    texts (Alpaca); the input goes on the next line

A row that has several formats is read as the first of `messages`, `prompt`, `problem`,
`conversations`, `instruction` that is complete. Further keys:

- `id` names the example in messages.
- `tools` goes to the chat template: a list of JSON schemas, or the same as JSON text.
- `system` is a system turn before `conversations` and `instruction`.
- `weight` 0, or `train` or `loss` false, in a turn of the assistant: it is context, not scored.

Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlready.evaluators.benchmarks.lost_escapes import lost_escape
from rlready.evaluators.benchmarks.row_fields import joined_text
from rlready.registry.errors import BenchmarkError
from rlready.registry.foreign_files import parse_json

Form = Literal["prompt", "problem", "messages"]

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMATS = (
    "`messages`, `conversations`, `prompt` + `response` or `completion`, `problem` + `solution`, "
    "or `instruction` + `output`"
)
KEYS = (
    *("id", "messages", "conversations", "prompt", "response", "completion", "problem"),
    *("solution", "instruction", "input", "output", "tools", "system", "history"),
)
"""All keys that are read. Other columns of a table are not loaded."""

_PAIRS: tuple[tuple[Form, str, str], ...] = (
    ("prompt", "prompt", "response"),
    ("prompt", "prompt", "completion"),
    ("problem", "problem", "solution"),
)
_SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    **{role: role for role in ("system", "developer")},
}
# Chat templates render these keys of a turn too. If they were ignored, the loss would be that of
# another conversation.
_UNSUPPORTED_PARTS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_TURN = '{"role": ..., "content": ...}'


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `is_scored` is False for an assistant's turn that is context."""

    role: str
    content: str
    is_scored: bool = True


@dataclass(frozen=True)
class Conversation:
    """The content of a row.

    A `problem` goes through the prompt template, `messages` go through the chat template. `tools`
    is the JSON list for the chat template, empty if there are none.
    """

    form: Form
    messages: tuple[Message, ...]
    tools: str = ""


def conversation(row: Mapping[str, Any], where: str) -> Conversation:
    """Return the conversation of a row; a null value is the same as an absent key.

    Raises:
        BenchmarkError: naming `where` (file and line) and the field, for a row in none of the
            formats, with an unknown role, without a turn to score, or with an invalid text.
    """
    form, messages = _form_and_messages(row, where)
    return Conversation(form, messages, _tools(row.get("tools"), where))


def _form_and_messages(row: Mapping[str, Any], where: str) -> tuple[Form, tuple[Message, ...]]:
    if row.get("messages") is not None:
        return "messages", _checked(_turns(row["messages"], where, "messages"), where)
    for form, prompt_key, response_key in _PAIRS:
        if row.get(prompt_key) is not None and row.get(response_key) is not None:
            if _has_turns(row[prompt_key]) or _has_turns(row[response_key]):
                return "messages", _prompt_and_completion(row, where, prompt_key, response_key)
            user, assistant = (
                _filled(row[key], where, f"`{key}`") for key in (prompt_key, response_key)
            )
            return form, (Message("user", user), Message("assistant", assistant))
    if row.get("conversations") is not None:
        turns = _turns(row["conversations"], where, "conversations", _SHAREGPT_ROLES)
        return "messages", _checked((*_system(row, where), *turns), where)
    if row.get("instruction") is not None and row.get("output") is not None:
        return _instruction(row, where)
    raise BenchmarkError(
        f"{where} is not a held-out example",
        why=f"it has the fields {', '.join(sorted(row)) or '(none)'}",
        fix=f"Give {FORMATS}",
    )


def _instruction(row: Mapping[str, Any], where: str) -> tuple[Form, tuple[Message, ...]]:
    if row.get("history"):
        raise BenchmarkError(
            f"{where} has `history` beside `instruction`",
            why="without it the loss would be that of another conversation",
            fix="Give the whole conversation as `messages`",
        )
    user = _filled(row["instruction"], where, "`instruction`")
    if row.get("input") is not None and (text := _text(row["input"], where, "`input`")).strip():
        user = f"{user}\n{text}"
    assistant = Message("assistant", _filled(row["output"], where, "`output`"))
    if system := _system(row, where):
        return "messages", (*system, Message("user", user), assistant)
    return "prompt", (Message("user", user), assistant)


def _system(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    text = _text(row.get("system") or "", where, "`system`")
    return (Message("system", text),) if text.strip() else ()


def _has_turns(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(t, dict) and "role" in t for t in value)


def _prompt_and_completion(
    row: Mapping[str, Any], where: str, prompt_key: str, response_key: str
) -> tuple[Message, ...]:
    """Return the turns of both fields; those of the first are only context."""
    parts: list[tuple[Message, ...]] = []
    for role, key in (("user", prompt_key), ("assistant", response_key)):
        if _has_turns(row[key]):
            parts.append(_turns(row[key], where, key))
        else:
            parts.append((Message(role, _filled(row[key], where, f"`{key}`")),))
    context = (Message(m.role, m.content, m.role != "assistant") for m in parts[0])
    return _checked((*context, *parts[1]), where)


def _checked(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    assistant = [message for message in messages if message.role == "assistant"]
    if not assistant:
        raise BenchmarkError(f"{where} has no assistant turn", fix="Remove the row")
    if not any(message.content.strip() for message in assistant):
        raise BenchmarkError(f"{where} has only empty assistant turns", fix="Remove the row")
    if not any(message.is_scored and message.content.strip() for message in assistant):
        raise BenchmarkError(
            f"{where} has no assistant turn to score",
            why="each of them has weight 0, is only context, or is empty",
            fix="Remove the row",
        )
    return messages


def _turns(
    value: object, where: str, key: str, roles: Mapping[str, str] | None = None
) -> tuple[Message, ...]:
    """Return the messages of a field; `roles` has our names of the foreign roles allowed there."""
    if not isinstance(value, list) or not value:
        raise BenchmarkError(f"{where}: `{key}` is not a list of turns", fix=f"Give [{_TURN}]")
    return tuple(_message(turn, f"{where}, message {i}", roles) for i, turn in enumerate(value))


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
    extra = [key for key in _UNSUPPORTED_PARTS if turn.get(key)]
    if extra:
        raise BenchmarkError(
            f"{where} has {extra[0]!r} beside its content",
            why="only plain text is scored, and without it the loss would be another one",
            fix="Write it into `content`, in the form that the SFT run used",
        )
    text = _text(turn.get(text_key), where, f"`{text_key}`")
    return Message(role, text, role != "assistant" or _is_scored(turn, where))


def _is_scored(turn: Mapping[str, Any], where: str) -> bool:
    """Return whether a trainer learns from this turn: OpenAI's, Axolotl's and ms-swift's keys."""
    if turn.get("train") is False or turn.get("loss") is False:
        return False
    weight = turn.get("weight")
    if weight is not None and weight not in (0, 1):
        raise BenchmarkError(
            f"{where} has the `weight` {weight!r}",
            why="a turn is scored as a whole or not at all",
            fix="Give 0 or 1",
        )
    return weight != 0


def _tools(value: object, where: str) -> str:
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError as error:
            raise BenchmarkError(
                f"{where}: `tools` is not JSON", why=str(error), fix="Give a list of JSON schemas"
            ) from error
    if value is None or value in ("", []) or (isinstance(value, str) and not value.strip()):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) and tool for tool in value):
        raise BenchmarkError(
            f"{where}: `tools` is not a list of tools",
            fix='Give [{"type": "function", "function": {"name": ..., ...}}], or leave it out',
        )
    return json.dumps(value, ensure_ascii=False)


def _filled(value: object, where: str, what: str) -> str:
    text = _text(value, where, what)
    if not text.strip():
        raise BenchmarkError(f"{where} has an empty {what}", fix="Remove the row")
    return text


def _text(value: object, where: str, what: str) -> str:
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
