"""Reading held-out files: three forms of rows, and what is told about rows of no form."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from places import SHARED

from rlready.evaluators.heldout.examples import load_heldout, parse_heldout_option
from rlready.evaluators.heldout.turns import Message
from rlready.registry.errors import BenchmarkError, ConfigError

PAIR = {"prompt": "2 + 2 =", "response": " 4"}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}],
        },
        {"role": "assistant", "content": "4"},
    ]
}


def write(folder: Path, *rows: Any, name: str = "held.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def test_rows_of_all_three_forms_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR, {"problem": "2 + 2?", "solution": "4", "answer": "4"}, CHAT)
    prompt, problem, chat = load_heldout(path).examples
    assert prompt.messages == (Message("user", "2 + 2 ="), Message("assistant", " 4"))
    assert (prompt.form, problem.form, chat.form) == ("prompt", "problem", "messages")
    assert problem.messages[1] == Message("assistant", "4")
    assert chat.messages[1] == Message("user", "2 + 2?")


def test_messages_win_over_pairs_and_null_counts_as_missing(tmp_path: Path) -> None:
    path = write(tmp_path, {**CHAT, **PAIR}, {"messages": None, **PAIR})
    first, second = load_heldout(path).examples
    assert (first.form, second.form) == ("messages", "prompt")


def test_gzip_byte_order_mark_and_blank_lines_make_no_difference(tmp_path: Path) -> None:
    plain = load_heldout(write(tmp_path, PAIR, CHAT))
    odd = write(
        tmp_path,
        b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\r",
        b"",
        CHAT,
        name="odd.jsonl.gz",
    )
    assert load_heldout(odd).digest == plain.digest
    assert load_heldout(odd).name == "odd"


def test_digest_is_of_content_not_of_order_ids_or_other_keys(tmp_path: Path) -> None:
    one = load_heldout(write(tmp_path, PAIR, CHAT))
    other = load_heldout(write(tmp_path, {"id": "x", **CHAT}, {**PAIR, "source": "web"}), "other")
    changed = load_heldout(write(tmp_path, {**PAIR, "response": "4"}, CHAT))
    assert one.digest == other.digest
    assert one.digest != changed.digest
    assert len(one.digest) == 32


def test_digest_changes_with_the_form(tmp_path: Path) -> None:
    prompt = load_heldout(write(tmp_path, PAIR))
    problem = load_heldout(write(tmp_path, {"problem": "2 + 2 =", "solution": " 4"}))
    assert prompt.digest != problem.digest


def test_ids_come_from_the_row_or_the_line_and_are_unique(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a", **PAIR}, {"id": "a", **PAIR}, {"id": 7, **PAIR}, PAIR)
    assert [e.id for e in load_heldout(path).examples] == ["a", "a#2", "7", "line-4"]


def test_limit_keeps_the_first_examples(tmp_path: Path) -> None:
    heldout = load_heldout(write(tmp_path, PAIR, CHAT))
    assert heldout.limit(1).examples == heldout.examples[:1]
    assert heldout.limit(9) == heldout
    with pytest.raises(ConfigError, match="limit of held-out examples is 0"):
        heldout.limit(0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "?", "prompt": "2"}, "fields prompt, question.*`messages`"),
        ({"prompt": "2", "response": "  "}, "empty `response`"),
        ({"prompt": "", "response": "4"}, "empty `prompt`"),
        ({"prompt": "2", "response": 4}, "`response` is not text"),
        ({"prompt": "2", "response": "\ud800"}, "not Unicode text"),
        ({"messages": []}, "not a list of turns"),
        ({"messages": ["hello"]}, "message 0 has no `role`"),
        ({"messages": [{"role": "gpt", "content": "4"}]}, "role 'gpt'.*assistant"),
        ({"messages": [{"role": "user", "content": "4"}]}, "no assistant turn"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "only empty assistant turns"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "`content` is not text"),
        ({"messages": [{"role": "assistant", "content": None}]}, "`content` is not text"),
        (
            {"messages": [{"role": "assistant", "content": "4", "thinking": "2 and 2"}]},
            "message 0 has 'thinking' beside its content",
        ),
        ([1], "not a JSON object but a list"),
        (b'{"prompt": ', "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path, PAIR, row)
    with pytest.raises(BenchmarkError, match=rf"held\.jsonl, line 2.*{said}"):
        load_heldout(path)


def test_files_without_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="holds no held-out example"):
        load_heldout(write(tmp_path))
    with pytest.raises(BenchmarkError, match=r"there is no file .*missing"):
        load_heldout(tmp_path / "missing.jsonl")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b"x" * 1000)[:-12])
    with pytest.raises(BenchmarkError, match="is damaged"):
        load_heldout(broken)


@pytest.mark.parametrize(
    ("text", "name", "file"),
    [
        ("own=data/held.jsonl", "own", "data/held.jsonl"),
        ("data/held.v2.jsonl.gz", "held.v2", "data/held.v2.jsonl.gz"),
        ("runs/lr=1e-5/held.jsonl", "held", "runs/lr=1e-5/held.jsonl"),
        ("own=runs/lr=1e-5/held.jsonl", "own", "runs/lr=1e-5/held.jsonl"),
        ("my file.jsonl", "my_file", "my file.jsonl"),
    ],
)
def test_option_gives_name_and_file(text: str, name: str, file: str) -> None:
    assert parse_heldout_option(text) == (name, Path(file))


@pytest.mark.parametrize("text", ["", "own=", "a b=held.jsonl", "=held.jsonl"])
def test_option_without_name_or_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_heldout_option(text)


def test_real_solutions_are_read() -> None:
    path = SHARED / "gsm8k_train.jsonl.gz"
    if not path.is_file():
        pytest.skip("the shared data sets are not beside this checkout")
    heldout = load_heldout(path)
    assert len(heldout.examples) == 7473
    assert heldout.examples[0].id == "gsm8k-train-00000"
