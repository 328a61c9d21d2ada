"""The same conversation in every form of SFT files: the same tokens, and the same loss to the bit.

The chat templates are those of real models, as TRL ships them.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlready.evaluators.heldout.examples import HeldoutForm, load_heldout
from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.tokens import TokenizedExample, tokenize_set
from rlready.registry.errors import BenchmarkError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

trl = pytest.importorskip("trl", reason="its chat templates are needed: pip install trl")

SPECIAL = {
    "qwen2_5": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
MARKERS = {
    "qwen2_5": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}
MODELS = tuple(SPECIAL)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen 2.5 split a text. GPT-2 splits line breaks by what follows them."""

Row = dict[str, Any]


def chat_template(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens and the chat template of a real model."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = [*SPECIAL.get(name, SPECIAL["qwen2_5"]), "<|endoftext|>"]
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        ["user assistant system\n\n What is 2 + 2? The answer is 4."] * 4,
        trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bos = "<|begin_of_text|>" if "<|begin_of_text|>" in special else None
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    made.chat_template = chat_template(name)
    return made


@cache
def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval()


TEXTS = (
    st.text(
        st.sampled_from("abcXYZ 0123456789.,;?!+=(){}[]'\"é€好\U0001f600"), min_size=1, max_size=30
    )
    .map(str.strip)
    .filter(bool)
)


def turn(role: str, content: str, **more: object) -> Row:
    return {"role": role, "content": content, **more}


def shared(*turns: tuple[str, str]) -> Row:
    return {"conversations": [{"from": a, "value": b} for a, b in turns]}


def rendered(name: str, *turns: Row) -> str:
    return str(tokenizer(name).apply_chat_template(list(turns), tokenize=False))


def forms_of_a_pair(name: str, user: str, response: str) -> list[Row]:
    asked, answered = turn("user", user), turn("assistant", response)
    return [
        {"messages": [asked, answered]},
        shared(("human", user), ("gpt", response)),
        {"prompt": user, "response": response},
        {"prompt": user, "completion": response},
        {"prompt": [asked], "completion": [answered]},
        {"prompt": [asked], "completion": response},
        {"problem": user, "solution": response},
        {"instruction": user, "output": response, "text": None},
        {"instruction": user, "input": "", "output": response, "weight": 1},
        {"text": rendered(name, asked, answered)},
    ]


def forms_of_a_conversation(name: str, texts: tuple[str, str, str, str, str]) -> list[Row]:
    """Of which the last turn is scored."""
    system, *rest = texts
    roles = ("user", "assistant", "user", "assistant")
    turns = [turn(role, text) for role, text in zip(roles, rest, strict=True)]
    whole = [turn("system", system), *turns]
    return [
        *(
            {"messages": [*whole[:2], {**whole[2], **unscored}, *whole[3:]]}
            for unscored in ({"weight": 0}, {"train": False}, {"loss": False})
        ),
        {"prompt": whole[:-1], "completion": whole[-1:]},
        {"prompt": whole[:-1], "response": rest[-1]},
        {"text": rendered(name, *whole)},
        {
            "system": system,
            "conversations": [
                {"from": "human", "value": rest[0]},
                {"from": "gpt", "value": rest[1], "weight": 0},
                {"from": "human", "value": rest[2]},
                {"from": "gpt", "value": rest[3]},
            ],
        },
    ]


def write(path: Path, rows: list[Row]) -> Path:
    """Write rows in the form that the name of the file says."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path
    text = json.dumps(rows, indent=1)
    if ".jsonl" in path.name:
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(name: str, path: Path, form: HeldoutForm | None = None) -> list[TokenizedExample]:
    form = form or HeldoutForm(response_marker=MARKERS[name])
    return list(tokenize_set(load_heldout(path, form=form), tokenizer(name), "{problem}").examples)


def assert_same(examples: list[TokenizedExample]) -> None:
    """All have the tokens, the scored tokens, the bytes and the losses of the first."""
    first, *others = examples
    expected = token_losses(model(), [first])[0]
    assert len(expected) == first.is_response.sum() > 1
    for other in others:
        assert other.token_ids.tolist() == first.token_ids.tolist()
        assert other.is_response.tolist() == first.is_response.tolist()
        assert other.n_response_bytes == first.n_response_bytes
        assert token_losses(model(), [other])[0].tobytes() == expected.tobytes()


def property_test(n: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=n,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.mark.parametrize("name", MODELS)
@property_test(6)
@given(user=TEXTS, response=TEXTS)
def test_a_question_and_its_answer_in_every_form(
    tmp_path: Path, name: str, user: str, response: str
) -> None:
    path = write(tmp_path / "held.jsonl", forms_of_a_pair(name, user, response))
    examples = read(name, path)
    assert_same(examples)
    scored = tokenizer(name).decode(examples[0].token_ids[examples[0].is_response])
    assert scored == response + SPECIAL[name][-1]
    assert examples[0].n_response_bytes == len(response.encode())


@pytest.mark.parametrize("name", MODELS)
@property_test(5)
@given(texts=st.tuples(*[TEXTS] * 5))
def test_a_conversation_whose_last_turn_is_scored_in_every_form(
    tmp_path: Path, name: str, texts: tuple[str, str, str, str, str]
) -> None:
    assert_same(read(name, write(tmp_path / "held.jsonl", forms_of_a_conversation(name, texts))))


@property_test(5)
@given(user=TEXTS, response=TEXTS)
def test_every_file_format_gives_the_same(tmp_path: Path, user: str, response: str) -> None:
    name = "qwen2_5"
    chat = {"messages": [turn("user", user), turn("assistant", response)]}
    pair = {"prompt": user, "completion": response}
    nested = {"prompt": [turn("user", user)], "extra_info": {"answer": response, "index": 0}}
    files = ("h.jsonl", "h.jsonl.gz", "h.json", "h.json.gz", "h.parquet")
    examples = [read(name, write(tmp_path / file, [chat]))[0] for file in files]
    examples += [read(name, write(tmp_path / file, [pair]))[0] for file in (*files, "h.csv")]
    form = HeldoutForm(fields={"prompt": "prompt", "response": "extra_info.answer"})
    examples += [read(name, write(tmp_path / file, [nested]), form)[0] for file in files]
    assert_same(examples)


@property_test(5)
@given(user=TEXTS, response=TEXTS, value=st.integers() | TEXTS)
def test_tool_calls_as_objects_as_text_and_in_parquet(
    tmp_path: Path, user: str, response: str, value: int | str
) -> None:
    def row(arguments: object) -> Row:
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        turns = [
            turn("user", user),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            turn("tool", "5"),
            turn("assistant", response),
        ]
        return {"messages": turns, "tools": [{"type": "function", "function": {"name": "add"}}]}

    rows = [row({"x": value}), row(json.dumps({"x": value}))]
    examples = read("qwen2_5", write(tmp_path / "held.jsonl", rows))
    huge = isinstance(value, int) and abs(value) >= 1 << 63  # Parquet has no such integers
    as_table = rows[1:] if huge else rows
    tables = [write(tmp_path / f"{i}.parquet", [each]) for i, each in enumerate(as_table)]
    assert_same(examples + [read("qwen2_5", table)[0] for table in tables])


def tokens_of_a_call(name: str, path: Path) -> TokenizedExample:
    call = {"type": "function", "function": {"name": "add_up", "arguments": {"first": 2}}}
    turns = [turn("user", "2+3?"), {**turn("assistant", ""), "tool_calls": [call]}]
    heldout = load_heldout(write(path / "held.jsonl", [{"messages": turns}]))
    return tokenize_set(heldout, tokenizer(name), "{problem}").examples[0]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "llama3_2"])
def test_real_templates_write_tool_calls(tmp_path: Path, name: str) -> None:
    made = tokens_of_a_call(name, tmp_path)
    scored = str(tokenizer(name).decode(made.token_ids[made.is_response]))
    assert scored.count("add_up") == 1
    assert "first" in scored
    assert "2+3?" not in scored


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phi3", "has tool calls, which the chat template"),
        # Its generation prompt begins a thought, which is not in the rendered conversation.
        ("deepseekv3", "no assistant turn can be found"),
    ],
)
def test_real_templates_without_calls_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=f"example line-1.*{message}"):
        tokens_of_a_call(name, tmp_path)


WHOLE: dict[str, Row] = {
    "prompt": {"prompt": "a", "completion": "b"},
    "chat": {"prompt": [turn("user", "a")], "completion": [turn("assistant", "b")]},
    "problem": {"problem": "a", "solution": "b"},
    "instruction": {"instruction": "a", "output": "b"},
    "messages": {"messages": [turn("user", "a"), turn("assistant", "b")]},
    "conversations": shared(("human", "a"), ("gpt", "b")),
    "text": {"text": "a A: b"},
}
BROKEN = st.sampled_from([5, 0.5, True, "", " ", {}, [], [5], [{}], [{"role": 5}], {"a": 1}])


@property_test(150)
@given(st.sampled_from(list(WHOLE)), st.data())
def test_a_mangled_row_is_named_with_its_line_and_field(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    row = dict(WHOLE[kind])
    key = data.draw(st.sampled_from(sorted(row)))
    keep = data.draw(st.booleans())
    row = {**row, key: data.draw(BROKEN)} if keep else {k: v for k, v in row.items() if k != key}
    path = write(tmp_path / "held.jsonl", [WHOLE["prompt"], row])
    with pytest.raises(BenchmarkError) as caught:
        load_heldout(path, form=HeldoutForm(response_marker="A:"))
    message = str(caught.value)
    assert "held.jsonl, line 2" in message
    assert f"`{key}`" in message or "message 0" in message


@property_test(60)
@given(st.sampled_from(list(WHOLE)), st.data())
def test_a_cut_line_is_named(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    line = json.dumps(WHOLE[kind])
    cut = line[: data.draw(st.integers(1, len(line) - 1))]
    path = tmp_path / "held.jsonl"
    path.write_text(json.dumps(WHOLE["prompt"]) + "\n" + cut)
    with pytest.raises(BenchmarkError, match=r"held\.jsonl, line 2 is not JSON"):
        load_heldout(path)


def test_the_losses_differ_between_responses(tmp_path: Path) -> None:
    """The comparison to the bit is not empty."""
    rows = [{"prompt": "2+3?", "response": text} for text in ("5", "6")]
    losses = token_losses(model(), read("qwen2_5", write(tmp_path / "held.jsonl", rows)))
    assert not np.array_equal(losses[0], losses[1])
