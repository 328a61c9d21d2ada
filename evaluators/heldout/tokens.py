"""Held-out examples as token ids, with a mask of the tokens that are scored.

Scored tokens:

- `prompt`, `problem`: the tokens of the response as it is in the file, and the token that ends a
  turn. A `problem` goes through the prompt template, as it does for sampling; a `prompt` does not.
  Either becomes the user's message if the tokenizer has a chat template, else plain text. The
  response does not go through the chat template, because templates of reasoning models cut it.
- `text`: the same for the text after the response marker. The whole text is tokenized as it is; it
  begins with the tokenizer's BOS token if it has one. If it ends with the token that ends a turn or
  a sequence, this is the last scored token. If not, the end of sequence is added, as TRL does.
- `messages`: every turn of the assistant with its thoughts (`reasoning_content`) and tool calls, as
  the chat template renders it, and the token that ends it. A template with `{% generation %}` marks
  these tokens itself. With any other template, a turn is the text that it adds to the rendered
  conversation before it and its generation prompt. Qwen3's template removes the thoughts of a turn
  once others follow. A turn that is rewritten like this cannot be found and is not scored, but it
  stays in the context. Text that a template cuts out of a turn is not scored either. The bytes of
  both are counted (`n_cut_bytes`).
- Never scored: prompts, other roles, turns of weight 0, the template's text after the end of a
  turn, and the first token.
- The token that ends a turn is the added token that the chat template puts after an assistant's
  text (`<|im_end|>`, `<|eot_id|>`), else the tokenizer's end of sequence.

Examples longer than the model's context are cut there, as SFT trainers do. An example whose prompt
fills the context is left out. Both are counted (`n_truncated`, `n_skipped`), and the limit then
becomes part of the benchmark's digest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.evaluators.benchmarks.chat_templates import assistant_mask
from rlready.evaluators.heldout.cut_text import n_cut_bytes
from rlready.evaluators.heldout.examples import HeldoutExample, HeldoutSet
from rlready.evaluators.heldout.rendered import (
    apply_template,
    check_reasoning,
    check_tool_calls,
    end_of_turn,
    render,
    tools_of,
)
from rlready.evaluators.heldout.turns import Message
from rlready.registry.digest import digest
from rlready.registry.errors import BenchmarkError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, eq=False)
class TokenizedExample:
    """The tokens that the model reads, and which of them are scored.

    Args:
        id: of the example.
        token_ids: int64, (n_tokens,).
        is_response: bool, (n_tokens,); True for scored tokens. Never for the first one.
        n_response_bytes: UTF-8 bytes of the scored text, without the tokens that end turns.
        n_turn_bytes: UTF-8 bytes of the turns to score, as in the file.
        n_cut_bytes: the part of these bytes that is not in the scored text.
    """

    id: str
    token_ids: NDArray[np.int64]
    is_response: NDArray[np.bool_]
    n_response_bytes: int
    n_turn_bytes: int = 0
    n_cut_bytes: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenizedSet:
    """A held-out set as one tokenizer reads it; the counts are those of `loss_files.Losses`.

    Args:
        name: of the set.
        benchmark_digest: the set's digest. It also depends on the prompt template if a row is a
            `problem`, and on the limit of tokens if an example was cut or left out. Losses under
            different benchmark digests are not comparable.
        examples: the scored ones.
    """

    name: str
    benchmark_digest: str
    examples: tuple[TokenizedExample, ...]
    n_truncated: int = 0
    n_skipped: int = 0
    n_turn_bytes: int = 0
    n_cut_bytes: int = 0


def tokenize_set(
    heldout: HeldoutSet,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_tokens: int | None = None,
) -> TokenizedSet:
    """Return a whole set as one tokenizer reads it, cut to the model's context of `max_tokens`.

    Raises:
        BenchmarkError: as `tokenize`, and if every prompt alone reaches `max_tokens`.
    """
    examples = [tokenize(example, tokenizer, template) for example in heldout.examples]
    cut_examples = [truncate(example, tokenizer, max_tokens) for example in examples]
    scored = tuple(example for example in cut_examples if example is not None)
    if not scored:
        raise BenchmarkError(
            f"no example of held-out set {heldout.name} has a response token within the model's "
            f"context of {max_tokens} tokens",
            fix="Use shorter examples for this model",
        )
    n_skipped = len(cut_examples) - len(scored)
    n_truncated = sum(a is not b for a, b in zip(examples, cut_examples, strict=True)) - n_skipped
    conditions: dict[str, Any] = {}
    if any(example.form == "problem" for example in heldout.examples):
        conditions["template"] = template
    if n_truncated or n_skipped:
        conditions["max_tokens"] = max_tokens
    return TokenizedSet(
        name=heldout.name,
        benchmark_digest=digest([heldout.digest, conditions]) if conditions else heldout.digest,
        examples=scored,
        n_truncated=n_truncated,
        n_skipped=n_skipped,
        n_turn_bytes=sum(example.n_turn_bytes for example in examples),
        n_cut_bytes=sum(example.n_cut_bytes for example in examples),
    )


def tokenize(
    example: HeldoutExample, tokenizer: PreTrainedTokenizerBase, template: str
) -> TokenizedExample:
    """Return token ids and scored tokens of one example, by the rules of the module docstring.

    Raises:
        BenchmarkError: if the chat template refuses the conversation or none of its assistant
            turns can be found in the rendered text, if there is no chat template for its tools, or
            if no token would be scored.
        CheckpointError: if the tokenizer has no token to end a response with.
    """
    if not tokenizer.chat_template and (example.tools or example.form == "messages"):
        raise BenchmarkError(
            f"held-out example {example.id} "
            + ("has tools" if example.tools else "is a conversation")
            + ", and the tokenizer has no chat template",
            fix="Add the chat template of the SFT run to the checkpoint, or give the file as "
            "`prompt` + `response`" + (" without `tools`" if example.tools else ""),
        )
    if example.form != "messages":
        ids, is_response, n_bytes = _tokenize_pair(example, tokenizer, template)
        cut = {"n_turn_bytes": n_bytes}
    else:
        check_tool_calls(example, tokenizer)
        check_reasoning(example, tokenizer)
        # A tokenizer may have a template of its own for conversations with tools.
        if _GENERATION_TAG.search(str(tokenizer.get_chat_template(tools=tools_of(example)))):
            ids, is_response, texts = _tokenize_tagged(example, tokenizer)
        else:
            ids, is_response, texts = _tokenize_rendered(example, tokenizer)
        n_bytes, cut = _n_bytes(tokenizer, ids[is_response]), _cut_bytes(example, texts)
    is_response[:1] = False
    if not is_response.any():
        raise BenchmarkError(
            f"held-out example {example.id} has no response token that can be scored",
            why="its response renders to an empty text, or there is no token before it",
            fix="Remove the example",
        )
    n_read = int(np.flatnonzero(is_response)[-1]) + 1  # later tokens change no loss
    return TokenizedExample(example.id, ids[:n_read], is_response[:n_read], n_bytes, **cut)


def truncate(
    example: TokenizedExample, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None
) -> TokenizedExample | None:
    """Return the example's first `max_tokens` tokens; None if none of them is scored."""
    if max_tokens is None or len(example.token_ids) <= max_tokens:
        return example
    ids, is_response = example.token_ids[:max_tokens], example.is_response[:max_tokens]
    if not is_response.any():
        return None
    n_bytes = _n_bytes(tokenizer, ids[is_response])
    return dataclasses.replace(
        example, token_ids=ids, is_response=is_response, n_response_bytes=n_bytes
    )


def _tokenize_pair(
    example: HeldoutExample, tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
    user, response = (message.content for message in example.messages)
    if example.form == "problem":
        user = template.replace("{problem}", user)
    end = end_of_turn(tokenizer)
    has_chat = bool(tokenizer.chat_template) and example.form != "text"
    adds_special = not has_chat
    if has_chat:
        prompt = render(example, tokenizer, [Message("user", user)], add_generation_prompt=True)
    else:
        prompt = example.plain_prompt or user
    if example.form == "text":
        response, end = _without_end(response, tokenizer, end)
        bos = str(tokenizer.bos_token or "")
        adds_special = not (bos and prompt.startswith(bos))
    prompt_ids = _encode(tokenizer, prompt, add_special_tokens=adds_special)
    if prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id and adds_special:
        prompt_ids = prompt_ids[:-1]  # Some tokenizers end every text, a prompt too.
    whole_ids = _encode(tokenizer, prompt + response, add_special_tokens=adds_special)
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        response_ids = whole_ids[len(prompt_ids) :]
        if response_ids and response_ids[-1] == tokenizer.eos_token_id and adds_special:
            response_ids = response_ids[:-1]
    else:
        # A token spans the end of the prompt. When sampling, the prompt is tokenized alone.
        response_ids = _encode(tokenizer, response, add_special_tokens=False)
    ids = np.array([*prompt_ids, *response_ids, end], dtype=np.int64)
    return ids, np.arange(len(ids)) >= len(prompt_ids), len(response.encode())


def _without_end(response: str, tokenizer: PreTrainedTokenizerBase, end: int) -> tuple[str, int]:
    """Return the response without the tokens that end it in the file, and the first of them."""
    eos = tokenizer.eos_token_id
    last = eos if isinstance(eos, int) else end
    ends = {str(tokenizer.convert_ids_to_tokens(token)): token for token in (end, last)}
    while found := next((text for text in ends if response.rstrip().endswith(text)), None):
        response, last = response.rstrip().removesuffix(found), ends[found]
    return response, last


def _tokenize_tagged(
    example: HeldoutExample, tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.bool_], dict[int, str]]:
    """Return token ids, mask, and the scored text of each turn by its index."""
    chat = apply_template(example, tokenizer, example.messages, with_spans=True)
    _check_fast(example, tokenizer)
    encoded = tokenizer(chat.text, add_special_tokens=False)
    spans = chat.spans
    turns = _marked_turns(example, len(spans))
    if turns is not None:
        marked = dict(zip(turns, spans, strict=True))
        scored = {i: span for i, span in marked.items() if example.messages[i].is_scored}
        spans = tuple(scored.values())
        texts = {i: chat.text[start:end] for i, (start, end) in scored.items()}
    elif all(message.is_scored for message in example.messages):
        text = "".join(chat.text[start:end] for start, end in spans)
        texts = dict.fromkeys(range(len(example.messages)), text)
    else:
        raise BenchmarkError(
            f"held-out example {example.id} has turns of weight 0, and the chat template marks "
            f"{len(spans)} stretches as the assistant's",
            why="it is unclear which of them belong to the turns of weight 0",
            fix="Give one row for each turn that is scored, as `prompt` + `completion`",
        )
    is_response = np.array(assistant_mask(encoded, spans), dtype=np.bool_)
    return np.array(encoded["input_ids"], dtype=np.int64), is_response, texts


def _marked_turns(example: HeldoutExample, n_stretches: int) -> list[int] | None:
    """Return indices of the turns that a template marked; None if their number does not fit."""
    turns = [i for i, message in enumerate(example.messages) if message.role == "assistant"]
    filled = [i for i in turns if not example.messages[i].is_empty]
    return next((choice for choice in (turns, filled) if len(choice) == n_stretches), None)


def _tokenize_rendered(
    example: HeldoutExample, tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.bool_], dict[int, str]]:
    """Return token ids, mask, and the scored text of each turn by its index."""
    text = render(example, tokenizer, example.messages)
    spans = dict(_scored_spans(example, tokenizer, text))
    if not spans:
        raise BenchmarkError(
            f"held-out example {example.id}: no assistant turn can be found in the rendered "
            "conversation",
            why="the chat template rewrites every one of them (does it cut thoughts out?)",
            fix="Give the example as `prompt` + `response`, or mark the turns in the template with "
            "{% generation %}",
        )
    _check_fast(example, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first, last = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    # A token that only overlaps a turn holds some of the assistant's text, so it counts.
    is_response = np.zeros(len(first), dtype=np.bool_)
    for start, end in spans.values():
        is_response |= (last > start) & (first < end)
    texts = {i: text[start:end] for i, (start, end) in spans.items()}
    return np.array(encoded["input_ids"], dtype=np.int64), is_response, texts


def _check_fast(example: HeldoutExample, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise BenchmarkError(
            f"held-out example {example.id} needs the positions of tokens in the text, which "
            f"{type(tokenizer).__name__} does not provide",
            fix="Save the checkpoint with a fast tokenizer, or give the file as `prompt` + "
            "`response`",
        )


def _scored_spans(
    example: HeldoutExample, tokenizer: PreTrainedTokenizerBase, text: str
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield index, start and end in `text` of every turn to score that can be found in it."""
    end_token = str(tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)))
    for i, message in _turns_to_score(example):
        if i == 0:
            continue
        earlier, so_far = example.messages[:i], example.messages[: i + 1]
        before = render(example, tokenizer, earlier, add_generation_prompt=True)
        until = render(example, tokenizer, so_far)
        if not until.startswith(before):
            continue
        end = len(before) + _turn_length(until[len(before) :], message, end_token)
        # The text after the turn is not compared: some templates end a conversation with a token.
        if text.startswith(until[:end]):
            yield i, (len(before), end)


def _turns_to_score(example: HeldoutExample) -> Iterator[tuple[int, Message]]:
    for i, message in enumerate(example.messages):
        if message.role == "assistant" and message.is_scored and not message.is_empty:
            yield i, message


def _cut_bytes(example: HeldoutExample, texts: Mapping[int, str]) -> dict[str, int]:
    """Return the two counts of a `TokenizedExample`; `texts` has each turn's scored text."""
    turns = list(_turns_to_score(example))
    return {
        "n_turn_bytes": sum(len(message.text.encode()) for _, message in turns),
        "n_cut_bytes": sum(n_cut_bytes(message.text, texts.get(i, "")) for i, message in turns),
    }


def _turn_length(turn: str, message: Message, end_token: str) -> int:
    """Return the number of characters of a rendered turn, including its end token."""
    # The search begins after the text, which may itself hold the token's text.
    content = message.content.strip() or message.reasoning.strip()
    content_end = turn.rfind(content) + len(content) if content and content in turn else 0
    # A call's arguments, too, may hold the token's text.
    find = turn.rfind if message.tool_calls() else turn.find
    end_start = find(end_token, content_end)
    return end_start + len(end_token) if end_start >= 0 else len(turn.rstrip())


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool
) -> list[int]:
    return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


def _n_bytes(tokenizer: PreTrainedTokenizerBase, token_ids: NDArray[np.int64]) -> int:
    """Return the UTF-8 bytes of the tokens' text, without special tokens and ends of turns."""
    left_out = {*tokenizer.all_special_ids, end_of_turn(tokenizer)}
    text = tokenizer.decode([token for token in token_ids.tolist() if token not in left_out])
    return len(str(text).encode())
