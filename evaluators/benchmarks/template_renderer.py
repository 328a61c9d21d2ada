"""The work of the child process for chat templates, which may contain any loop and any text.

A task is [template, variables, conversation, tools, add_generation_prompt, with_spans]. The result
is `{"text": ..., "spans": [[start, end], ...]}` with the places of the assistant's text, or
`{"refusal": ...}` if the template cannot render this conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlready.evaluators.child_tasks import limit_memory

# More than any context. Four times the conversation is added, because a template may repeat it.
_MAX_CHARS = 4 << 20


def make_renderer(memory_mb: int) -> Callable[..., Any]:
    """Return the function that renders one conversation, within this much additional memory."""
    # `apply_chat_template` calls this function too; it needs neither a tokenizer nor torch.
    from transformers.utils import chat_template_utils

    render_template: Any = chat_template_utils.render_jinja_template
    limit_memory(_address_space() + (memory_mb << 20))

    def render(
        template: str,
        variables: dict[str, Any],
        conversation: list[dict[str, Any]],
        tools: list[Any] | None,
        add_generation_prompt: bool,
        with_spans: bool,
    ) -> dict[str, Any]:
        try:
            texts, spans = render_template(
                conversations=[conversation],
                tools=tools,
                chat_template=template,
                return_assistant_tokens_mask=with_spans,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except MemoryError:
            raise
        except Exception as error:  # a refusal by the template, or any error of its code
            return _refusal(error)
        n_input = sum(len(str(message)) for message in conversation) + len(str(tools))
        if len(texts[0]) > _MAX_CHARS + 4 * n_input:
            return {"refusal": f"it makes {len(texts[0]):,} characters of {n_input:,}"}
        return {"text": texts[0], "spans": spans[0] if with_spans else []}

    return render


def _refusal(error: Exception) -> dict[str, str]:
    import jinja2

    message = str(error)[:500]
    if "no loader" in message:
        return {
            "refusal": "it includes or extends another template, and a chat template stands alone",
            "fix": "Copy the other template into the checkpoint's chat template",
        }
    if isinstance(error, jinja2.TemplateSyntaxError):
        return {
            "refusal": f"line {error.lineno} of it: {message}",
            "fix": f"Correct line {error.lineno} of the checkpoint's chat template",
        }
    is_plain = isinstance(error, jinja2.TemplateError)
    return {"refusal": message if is_plain and message else f"{type(error).__name__}: {message}"}


def _address_space() -> int:
    """Return the address space of this process in bytes; 1 GiB if the system does not report it."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * 4096 if pages.exists() else 1 << 30
