"""Chat templates of checkpoints, rendered by a child process within limits of time and memory.

A chat template is a program: two nested loops may run for days, and a text times 10 ** 9 takes
gigabytes. The sandbox of transformers only protects the disk and Python's internals. The child
calls the same function as `tokenizer.apply_chat_template`, so that the texts are the same.

    text = render_chat(tokenizer, [{"role": "user", "content": "2 + 2?"}])
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlready.evaluators.child_tasks import child_arguments
from rlready.evaluators.process_pool import Pool, TaskFailure
from rlready.registry.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

TIMEOUT_S = 10.0
"""Time limit for one conversation. Even a long one takes milliseconds."""
MEMORY_MB = 512
"""Memory limit of a template, in addition to the interpreter's memory."""

_GRACE_S = 5.0
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class TemplateRefusalError(Exception):
    """The template cannot render this conversation; the message is usually the template's own.

    `fix` says what to change in the template; it is empty if the conversation may be the reason.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text, with the span of characters of each text in `{% generation %}`."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = False,
    with_spans: bool = False,
) -> RenderedChat:
    """Return a conversation as the tokenizer's chat template writes it.

    Args:
        tokenizer: a tokenizer with a chat template.
        conversation: turns with role and content, JSON values. Entries that are None are left out.
        tools: JSON schemas, for templates that know tools.
        variables: further variables of the template, JSON values, such as `enable_thinking`.
        add_generation_prompt: whether the text ends with the beginning of the model's turn.
        with_spans: whether to return the spans of the assistant's texts, too.

    Raises:
        TemplateRefusalError: if the template cannot render this conversation.
        CheckpointError: if the template was stopped at a limit.
    """
    try:
        template = tokenizer.get_chat_template(tools=list(tools) if tools is not None else None)
    except ValueError as error:  # several templates, and none of them is the default
        raise TemplateRefusalError(str(error)) from error
    turns = [{k: v for k, v in turn.items() if v is not None} for turn in conversation]
    names = {**(variables or {}), **tokenizer.special_tokens_map}
    task = (template, names, turns, tools, add_generation_prompt, with_spans)
    pool, lock = _renderer(os.getpid())
    with lock:
        ((_, result),) = pool.run([task])
    if isinstance(result, TaskFailure | str):
        reason = result.reason if isinstance(result, TaskFailure) else result
        raise CheckpointError(
            f"the chat template of {checkpoint_name(tokenizer)} was stopped",
            why=f"{reason}; a conversation may take {TIMEOUT_S:g} s and {MEMORY_MB} MB of memory",
            fix="Correct the checkpoint's chat template: look for long loops and repeated texts",
        )
    if "refusal" in result:
        raise TemplateRefusalError(result["refusal"], result.get("fix", ""))
    return RenderedChat(result["text"], tuple((first, last) for first, last in result["spans"]))


def assistant_mask(encoded: BatchEncoding, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return 1 for each token of the assistant's texts and 0 for the others.

    This is the mask of `apply_chat_template`, computed from the encoding of one text and the spans
    of `RenderedChat`. It needs a fast tokenizer, and raises ValueError for a slow one.
    """
    token_at: Callable[[int, int], int | None] = encoded.char_to_token
    n_tokens = len(encoded["input_ids"])
    mask = [0] * n_tokens
    for first, last in spans:
        start, end = token_at(0, first), token_at(0, last - 1)
        if start is None:
            break
        stop = end + 1 if end else n_tokens
        mask[start:stop] = [1] * (stop - start)
    return mask


def checkpoint_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the checkpoint's name, for messages."""
    return tokenizer.name_or_path or "this checkpoint"


@functools.cache
def _renderer(process_id: int) -> tuple[Pool, threading.Lock]:
    """Return the child process, which takes a second to start, and a lock for its use."""
    pool = Pool(
        child_arguments(
            "rlready.evaluators.benchmarks.template_renderer:make_renderer", TIMEOUT_S, MEMORY_MB
        ),
        environment=_ENVIRONMENT,
        n_workers=1,
        timeout_s=TIMEOUT_S + _GRACE_S,
        name="rendering chat templates",
    )
    atexit.register(pool.close)
    return pool, threading.Lock()
