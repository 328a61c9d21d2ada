"""Held-out rows out of JSON lines, JSON lists and Parquet."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators.benchmarks import rows as file_rows
from rlready.evaluators.heldout.examples import load_heldout
from rlready.registry.errors import BenchmarkError

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"id": "x", "prompt": "a", "completion": "c"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "d"}]},
    {"instruction": "a", "input": "b", "output": "e"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write the rows in the form that the name says."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    is_list = ".json" in path.suffixes
    text = json.dumps(rows, indent=1) if is_list else "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["h.json", "h.json.gz", "h.parquet", "h.jsonl.gz", "h.txt"])
def test_every_form_of_the_same_rows_is_the_same_set(tmp_path: Path, name: str) -> None:
    plain = load_heldout(write(tmp_path / "plain.jsonl", ROWS))
    rows = [{key: row.get(key) for key in {k: 0 for r in ROWS for k in r}} for row in ROWS]
    other = load_heldout(write(tmp_path / name, rows if name == "h.parquet" else ROWS))
    assert other.digest == plain.digest
    assert other.name == ("h" if name != "h.txt" else "h.txt")
    assert [e.id for e in other.examples][1] == "x"


def test_a_json_file_of_lines_is_still_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert [e.id for e in load_heldout(path).examples] == ["line-1", "x", "line-3", "line-4"]


def test_places_name_items_and_rows(tmp_path: Path) -> None:
    bad = [ROWS[1], {"prompt": "a", "completion": " "}]
    with pytest.raises(BenchmarkError, match=r"h\.json, item 2 has an empty `completion`"):
        load_heldout(write(tmp_path / "h.json", bad))
    with pytest.raises(BenchmarkError, match=r"h\.parquet, row 2 has an empty `completion`"):
        load_heldout(write(tmp_path / "h.parquet", bad))
    unknown = write(tmp_path / "u.parquet", [{"text": "a"}])
    with pytest.raises(BenchmarkError, match=r"row 1 is not a held-out example.*fields text"):
        load_heldout(unknown)


def test_weights_and_tools_survive_parquet(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a", "weight": None},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "assistant", "content": "c", "weight": 1},
    ]
    rows = [{"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]}]
    paths = [write(tmp_path / name, rows) for name in ("h.jsonl", "h.parquet")]
    (lines,), (table,) = (load_heldout(path).examples for path in paths)
    assert lines.content() == table.content()
    assert [m.is_scored for m in table.messages] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("h.json", b"[1]", "item 1 is not a JSON object but a int"),
        ("h.json", b'[{"prompt": ', "h.json is not JSON.*one object a line"),
        ("h.json", b"[" * 100_000, "h.json is not JSON"),
        ("h.json", b"[]", "holds no held-out example"),
        ("h.json.gz", gzip.compress(b"[" + b" " * 9000, mtime=0)[:-12], "is damaged"),
        ("h.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BenchmarkError, match=message):
        load_heldout(path)


def test_a_large_list_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "MAX_LIST_BYTES", 100)
    with pytest.raises(BenchmarkError, match=r"more than 100 bytes.*as JSON lines"):
        load_heldout(write(tmp_path / "h.json", ROWS))
