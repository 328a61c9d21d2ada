"""JSON and TOML that others wrote: no traceback and no quiet change of a value."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.benchmarks.problems import load_suite
from rlready.evaluators.checkpoints.folder import check_folder, load_tokenizer
from rlready.evaluators.heldout.examples import load_heldout
from rlready.predictors.search.space_file import read_space
from rlready.registry.digest import fingerprint
from rlready.registry.errors import CheckpointError, ConfigError, RlreadyError
from rlready.registry.foreign_files import (
    MAX_DEPTH,
    MAX_TOML_BYTES,
    parse_json,
    parse_toml,
    read_json_object,
    read_toml,
)
from rlready.workflow.evaluate.config import load_recipe

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # No halves of surrogate pairs.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)

BAD_JSON = {
    "[" * 100_000: "nested more than 100 levels",
    '{"a":' * 500 + "1" + "}" * 500: "nested more than 100 levels",
    "1e999": "the number 1e999 is too large",
    "9" * 10_000: "has 10000 digits",
    '{"a": 1, "a": 2}': "has the key 'a' more than once",
    '[{"b": {"\\ud800": 1, "\\ud800": 1}}]': "more than once",
    "NaN": "NaN is not a JSON number",
    "[-Infinity]": "-Infinity is not a JSON number",
    '"\0"': "Invalid control character",
    "": "Expecting value",
    "{": "Expecting property name",
}
BAD_TOML = {
    "a = " + "[" * 100_000: "nested more than 100 levels",
    "a = " + "{a=" * 5000: "nested more than 100 levels",
    ".".join("a" * 20_000) + " = 1": "nested more than 100 levels",
    "a = " + "9" * 10_000: "more than the 64 bits",
    "a = 9223372036854775808": "more than the 64 bits",
    "a = '\0'": "invalid character",
    "a = 1\na = 2": "Cannot overwrite a value",
    "[[": "Invalid initial character",
}


@given(json_values)
def test_ordinary_json_is_read_as_python_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


def test_depth_is_counted_up_to_its_limit() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)
    assert len(parse_json(json.dumps([[[0]]] * 1000))) == 1000


def test_exact_numbers_keep_their_digits() -> None:
    assert parse_json("[0.1, 1e999, 7]", exact=True) == [Decimal("0.1"), Decimal("1e999"), 7]
    with pytest.raises(ValueError, match="too large"):
        parse_json("1e9999999999999999999999", exact=True)


@pytest.mark.parametrize(("text", "reason"), BAD_JSON.items(), ids=range(len(BAD_JSON)))
def test_bad_json_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("text", "reason"), BAD_TOML.items(), ids=range(len(BAD_TOML)))
def test_bad_toml_has_a_reason_soon(text: str, reason: str) -> None:
    """A key of 20,000 parts took 7 s, and a million of them would take five hours."""
    begin = time.process_time()
    with pytest.raises(ValueError, match=reason):
        parse_toml(text)
    assert time.process_time() - begin < 2.0


def test_long_words_and_texts_of_toml_cost_no_more_than_their_length() -> None:
    begin = time.process_time()
    text = "x" * 200_000
    assert parse_toml(f"{text} = '{'a b.' * 50_000}'\ny = {'9.5'}")[text].startswith("a b.")
    assert time.process_time() - begin < 2.0


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("\ufeffa = 1", encoding="utf-8")
    assert read_toml(path) == {"a": 1}
    path.write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json_object(path, CheckpointError) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds a list, not a JSON object"),
        (b'{"a": "\\ud800"}', "holds half of a surrogate pair"),
        (b"\xff", "is not UTF-8"),
        (b"{", "cannot be read as JSON"),
        (b" " * (65 << 20), "is larger than 67108864 bytes"),
    ],
)
def test_a_file_without_a_json_object_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config\.json {message}.*Save it again"):
        read_json_object(path, CheckpointError, fix="Save it again")
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"):
        read_json_object(tmp_path / "other.json", CheckpointError)


def test_a_large_toml_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b" " * (MAX_TOML_BYTES + 1))
    with pytest.raises(ConfigError, match="is larger than"):
        read_toml(path)


@pytest.mark.parametrize("text", BAD_TOML, ids=range(len(BAD_TOML)))
def test_every_reader_of_toml_refuses_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    for read in (load_recipe, read_space, lambda path: load_suite(str(path))):
        with pytest.raises(RlreadyError, match=r"x\.toml"):
            read(path)


@pytest.mark.parametrize(
    "text", ["day = 2026-01-01", "x = nan", "x = [inf]", '[sources]\na = "much"']
)
def test_a_recipe_holds_only_what_json_can_say(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RlreadyError, match=r"JSON does not support|sources\.a is 'much'"):
        load_recipe(path)


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (folder / name).write_text('{"limit": [0.0, Infinity]}')
    (folder / "tokenizer.json").write_text("{}")
    # One tensor: the length of the header, the header, and its bytes.
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(4)
    )
    return folder


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ],
)
def test_a_hostile_file_of_a_checkpoint_is_named(tmp_path: Path, name: str, text: str) -> None:
    """A depth bomb ended in a RecursionError."""
    folder = checkpoint(tmp_path / "sft")
    check_folder(folder)
    assert fingerprint(folder)
    if "Infinity" in text or "NaN" in text:
        text = "[]"  # configurations may hold these
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=name):
        check_folder(folder)
    if name in ("config.json", "generation_config.json"):
        with pytest.raises(CheckpointError, match=name):
            fingerprint(folder)


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_a_hostile_row_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text('{"prompt": "2?", "response": "4"}\n' + (text or "{") + "\n")
    with pytest.raises(RlreadyError, match=r"held\.jsonl, line 2"):
        load_heldout(path)


def test_a_hostile_tokenizer_is_told_in_our_words(tmp_path: Path) -> None:
    """Which of them are read, and how, is left to transformers until it fails."""
    folder = checkpoint(tmp_path / "sft")
    (folder / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read.*nested more than"):
        load_tokenizer(folder)
