"""One row of a held-out file as a conversation, in the formats that SFT data sets have.

    messages                          turns with `role` and `content` (OpenAI, TRL, verl)
    conversations                     turns with `from` and `value` (ShareGPT), or as above
    prompt + response                 texts, or lists of turns of which the second is scored
    prompt + completion               the same (TRL)
    problem + solution                texts; the problem goes through the prompt template
    instruction (+ input) + output    texts (Alpaca)
    text                              a whole text with a marker before the response

A row that has several formats is read as the first of `messages`, `prompt`, `problem`,
`conversations`, `instruction` that is complete. If a marker is given, `text` comes before them: the
response begins after the marker's last occurrence, as in TRL's collator for completions.

The user's message of an Alpaca row is the instruction, and the input on the next line. A model
without a chat template gets the prompt of Stanford Alpaca instead.

Further keys:

- `id` names the example in messages.
- `tools` goes to the chat template: a list of JSON schemas, or the same as JSON text.
- `chat_template_kwargs` has further variables of the chat template (TRL), as `enable_thinking`.
- `system` is a system turn before `conversations` and `instruction`.
- `weight` 0 leaves the row out. `turns.py` describes the weights of turns.

Other keys are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlready.evaluators.heldout.turns import (
    SHAREGPT_ROLES,
    Message,
    checked_turns,
    filled_text,
    has_turns,
    json_text,
    plain_text,
    turns,
)
from rlready.registry.errors import BenchmarkError
from rlready.registry.foreign_files import parse_json

Form = Literal["prompt", "problem", "messages", "text"]

FORMATS = (
    "`messages`, `conversations`, `prompt` + `response` or `completion`, `problem` + `solution`, "
    "`instruction` + `output`, or `text` with --response-marker"
)
KEYS = (
    *("id", "messages", "conversations", "prompt", "response", "completion", "problem"),
    *("solution", "instruction", "input", "output", "text", "tools", "system", "history"),
    *("weight", "chat_template_kwargs"),
)
"""All keys that are read. Other columns of a table are not loaded."""

_PAIRS: tuple[tuple[Form, str, str], ...] = (
    ("prompt", "prompt", "response"),
    ("prompt", "prompt", "completion"),
    ("problem", "problem", "solution"),
)
_PARTNERS = {
    **{"prompt": "response` or `completion", "problem": "solution", "instruction": "output"},
    **{"response": "prompt", "completion": "prompt", "solution": "problem"},
    "output": "instruction",
}
_OF_THE_RENDERER = {
    *("messages", "conversations", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "return_assistant_tokens_mask"),
}
# https://github.com/tatsu-lab/stanford_alpaca, train.py: PROMPT_DICT
_ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:"
)
_ALPACA_PAIRED = ", paired with an input that provides further context"


@dataclass(frozen=True)
class Conversation:
    """The content of a row.

    Args:
        form: a `problem` goes through the prompt template, `messages` through the chat template;
            a `text` contains its template and goes through neither.
        messages: the turns.
        tools: JSON list for the chat template, empty if there are none.
        plain_prompt: prompt for a tokenizer without a chat template, if it differs from the text
            of the user's turn.
        variables: JSON object of variables for the chat template, empty if there are none.
    """

    form: Form
    messages: tuple[Message, ...]
    tools: str = ""
    plain_prompt: str = ""
    variables: str = ""


def conversation(row: Mapping[str, Any], where: str, response_marker: str = "") -> Conversation:
    """Return the conversation of a row; a null value is the same as an absent key.

    Args:
        row: the values by their keys.
        where: file and line, for messages.
        response_marker: the text before the response in `text`; empty if there is none.

    Raises:
        BenchmarkError: naming `where` and the field, for a row in none of the formats, with an
            unknown role, without a turn to score, or with an invalid text.
    """
    made = _conversation(row, where, response_marker)
    variables = _variables(row.get("chat_template_kwargs"), where)
    return dataclasses.replace(made, variables=variables) if variables else made


def _conversation(row: Mapping[str, Any], where: str, response_marker: str) -> Conversation:
    tools = _tools(row.get("tools"), where)
    if response_marker and row.get("text") is not None:
        text = filled_text(row["text"], where, "`text`")
        return Conversation("text", _marked(text, where, response_marker), tools)
    if row.get("messages") is not None:
        messages = checked_turns(turns(row["messages"], where, "messages"), where)
        return Conversation("messages", messages, tools)
    for form, prompt_key, response_key in _PAIRS:
        if row.get(prompt_key) is not None and row.get(response_key) is not None:
            return _pair(row, where, form, prompt_key, response_key, tools)
    if row.get("conversations") is not None:
        shared = turns(row["conversations"], where, "conversations", SHAREGPT_ROLES)
        messages = checked_turns((*_system(row, where), *shared), where)
        return Conversation("messages", messages, tools)
    if row.get("instruction") is not None and row.get("output") is not None:
        return _instruction(row, where, tools)
    raise BenchmarkError(
        f"{where} is not a held-out example",
        why="; ".join([f"it has the fields {', '.join(_names(row)) or '(none)'}", *_gaps(row)]),
        fix=f"Give {FORMATS}; or name nested fields, such as --held-out-field "
        "response=extra_info.answer",
    )


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the fields, and of fields inside a field with their dotted names."""
    for name in sorted(values):
        inner = values[name]
        nested = [key for key in inner if isinstance(key, str)] if isinstance(inner, dict) else []
        yield from (f"{name}.{key}" for key in nested) if nested else [name]


def _gaps(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the formats lack of which the row has a part."""
    for key, partner in _PARTNERS.items():
        if row.get(key) is not None:
            yield f"its `{key}` has no `{partner}`"
    if row.get("text") is not None:
        yield "it is unknown where the response in `text` begins"


def _marked(text: str, where: str, marker: str) -> tuple[Message, ...]:
    before, found, response = text.rpartition(marker)
    if not found:
        raise BenchmarkError(
            f"{where}: `text` has no response marker {marker!r}",
            why=f"it begins with {text[:60]!r}",
            fix="Give the text that stands before every response: --response-marker",
        )
    response = filled_text(response, where, f"response after {marker!r} in `text`")
    return Message("user", before + found), Message("assistant", response)


def _pair(
    row: Mapping[str, Any], where: str, form: Form, prompt_key: str, response_key: str, tools: str
) -> Conversation:
    if not has_turns(row[prompt_key]) and not has_turns(row[response_key]):
        user, assistant = (
            filled_text(row[key], where, f"`{key}`") for key in (prompt_key, response_key)
        )
        return Conversation(form, (Message("user", user), Message("assistant", assistant)), tools)
    # The turns of the first field are only context.
    parts: list[tuple[Message, ...]] = []
    for role, key in (("user", prompt_key), ("assistant", response_key)):
        if has_turns(row[key]):
            parts.append(turns(row[key], where, key))
        else:
            parts.append((Message(role, filled_text(row[key], where, f"`{key}`")),))
    context = (Message(m.role, m.content, m.role != "assistant", m.extra) for m in parts[0])
    return Conversation("messages", checked_turns((*context, *parts[1]), where), tools)


def _instruction(row: Mapping[str, Any], where: str, tools: str) -> Conversation:
    if row.get("history"):
        raise BenchmarkError(
            f"{where} has `history` beside `instruction`",
            why="without it the loss would be that of another conversation",
            fix="Give the whole conversation as `messages`",
        )
    instruction = filled_text(row["instruction"], where, "`instruction`")
    more = plain_text(row["input"], where, "`input`") if row.get("input") is not None else ""
    user = Message("user", f"{instruction}\n{more}" if more.strip() else instruction)
    assistant = Message("assistant", filled_text(row["output"], where, "`output`"))
    if system := _system(row, where):
        return Conversation("messages", (*system, user, assistant), tools)
    plain = _ALPACA.format(
        paired=_ALPACA_PAIRED if more.strip() else "",
        instruction=instruction,
        input=f"### Input:\n{more}\n\n" if more.strip() else "",
    )
    return Conversation("prompt", (user, assistant), tools, plain)


def _system(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    text = plain_text(row.get("system") or "", where, "`system`")
    return (Message("system", text),) if text.strip() else ()


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
    return json_text(value, where, "`tools`")


def _variables(value: object, where: str) -> str:
    if value is None or value == {}:
        return ""
    if not isinstance(value, dict) or value.keys() & _OF_THE_RENDERER:
        raise BenchmarkError(
            f"{where}: `chat_template_kwargs` cannot be used",
            why="it is an object with variables of the chat template, which has other ways for "
            f"{', '.join(sorted(_OF_THE_RENDERER))}",
            fix='Give for example {"enable_thinking": false}, or leave it out',
        )
    return json_text(value, where, "`chat_template_kwargs`")
