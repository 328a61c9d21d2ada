r"""Prompts: from a problem to the token ids that the model continues.

A template is a text that contains `{problem}`. Nothing else in it is special: the braces of
`\boxed{}` are ordinary text, and so is `{problem}` in the text of a problem.

A model with a chat template gets the text as a user's message, and any other model gets it as plain
text. Special tokens are added as transformers and vLLM do it for chats: a rendered chat template
contains its own, so none are added; a plain text gets those of the tokenizer. Give engines the
token ids: an engine that gets texts adds the special tokens again, and two BOS tokens lower the
accuracy of a model without any error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlready.evaluators.benchmarks.chat_templates import (
    TemplateRefusalError,
    checkpoint_name,
    render_chat,
)
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.registry.foreign_files import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{problem}"

DEFAULT_TEMPLATE = (
    "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
)
"""The instruction of Qwen2.5-Math and of most reports on these benchmarks."""

MAX_TEMPLATE_BYTES = 1 << 20


def load_template(path: str | Path) -> str:
    """Return the template in a file, without the line end at its end.

    Raises:
        ConfigError: if the file is missing, not UTF-8, empty, too large, or lacks `{problem}`.
    """
    text = read_text(Path(path), ConfigError, "", MAX_TEMPLATE_BYTES)
    if not text.strip():
        raise ConfigError(f"template {path} is empty", fix=f"Write a text with {PLACEHOLDER}")
    if PLACEHOLDER not in text:
        raise ConfigError(
            f"template {path} has no {PLACEHOLDER}",
            why="without it every prompt would be the same",
            fix=f"Put {PLACEHOLDER} where the question belongs",
        )
    return text.replace("\r\n", "\n").removesuffix("\n")


def fill(template: str, problem_text: str) -> str:
    """Return the template with the problem in place of each `{problem}`."""
    return template.replace(PLACEHOLDER, problem_text)


def render(tokenizer: PreTrainedTokenizerBase, template: str, problem_text: str) -> str:
    """Return the text of the prompt, up to the beginning of the model's turn.

    Raises:
        CheckpointError: if the tokenizer's chat template cannot render a user's message, or was
            stopped at a limit of time or memory.
    """
    text = fill(template, problem_text)
    if not tokenizer.chat_template:
        return text
    try:
        turn = {"role": "user", "content": text}
        return render_chat(tokenizer, [turn], add_generation_prompt=True).text
    except TemplateRefusalError as error:
        raise CheckpointError(
            f"the chat template of {checkpoint_name(tokenizer)} cannot render a user's message",
            why=str(error),
            fix=error.fix
            or "Correct the checkpoint's chat template, or remove it to prompt with plain text",
        ) from error


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a rendered prompt, with at most one BOS and no EOS at the end."""
    bos = str(tokenizer.bos_token or "")
    has_own = bool(tokenizer.chat_template) or (bool(bos) and text.startswith(bos))
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=not has_own)]
    eos = tokenizer.eos_token_id
    # Some tokenizers add EOS to every text; a model does not continue a text after EOS.
    if not has_own and ids and ids[-1] == eos and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    if not ids:
        raise CheckpointError(
            f"the tokenizer of {checkpoint_name(tokenizer)} makes no token of the prompt "
            f"{text[:80]!r}",
            fix="Check the checkpoint's tokenizer files",
        )
    return ids
