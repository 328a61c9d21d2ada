"""The child process that renders chat templates: any loop or text may stand in them.

A task is [template, special tokens, conversation, tools, add_generation_prompt, with_spans]. The
result is `{"text": ..., "spans": [[start, end], ...]}` with the places of the assistant's text, or
`{"refusal": ...}` if the template cannot render this conversation.

Run as `python -m rlready.evaluators.benchmarks._template_child TIMEOUT_SECONDS MEMORY_MB`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlready.evaluators.child_tasks import limit_memory, serve

# Longer than any context. Four times the conversation is added: a template may repeat parts of it.
_MAX_CHARS = 4 << 20


def main() -> None:
    """Serve until the parent closes standard input."""
    serve(_make_renderer, place="the template", timeout_s=float(sys.argv[1]))


def _make_renderer() -> Callable[..., Any]:
    # The function that `apply_chat_template` calls, without a tokenizer and without torch.
    from transformers.utils import chat_template_utils

    render_template: Any = chat_template_utils.render_jinja_template
    limit_memory(_address_space() + (int(sys.argv[2]) << 20))

    def render(
        template: str,
        special_tokens: dict[str, str],
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
                **special_tokens,
            )
        except MemoryError:
            raise
        except Exception as error:  # a template's own refusal, or whatever its code raises
            return {"refusal": _reason(error)}
        n_given = sum(len(str(message)) for message in conversation) + len(str(tools))
        if len(texts[0]) > _MAX_CHARS + 4 * n_given:
            return {"refusal": f"it makes {len(texts[0]):,} characters of {n_given:,}"}
        return {"text": texts[0], "spans": spans[0] if with_spans else []}

    return render


def _reason(error: Exception) -> str:
    import jinja2

    message = str(error)[:500]
    if "no loader" in message:
        return "it includes or extends another template, and a chat template stands alone"
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno} of it: {message}"
    is_plain = isinstance(error, jinja2.TemplateError)
    return message if is_plain and message else f"{type(error).__name__}: {message}"


def _address_space() -> int:
    """Bytes of address space that this process has by now; 1 GiB where that is not told."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * 4096 if pages.exists() else 1 << 30


if __name__ == "__main__":
    main()
