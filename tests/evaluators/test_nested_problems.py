"""Problems in nested rows: verl's messages and `reward_model.ground_truth`, dots in field names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators.benchmarks.fields import Fields
from rlready.evaluators.benchmarks.problems import (
    Benchmark,
    BenchmarkSource,
    load_benchmark,
    load_suite,
)
from rlready.evaluators.benchmarks.row_fields import field_values
from rlready.registry.errors import BenchmarkError


def verl(prompt: Any = None, truth: Any = "5", **more: Any) -> dict[str, Any]:
    return {
        "data_source": "x",
        "prompt": prompt or [{"role": "user", "content": "2+3?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": 0, "question": "not this one"},
        **more,
    }


def load(path: Path, *rows: dict[str, Any], **settings: Any) -> Benchmark:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)  # As pandas does: a mapping becomes its `repr`.
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_benchmark(BenchmarkSource(name="x", location=path, **settings))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_rows_of_verl_are_read_from_every_form(tmp_path: Path, suffix: str) -> None:
    rows = [verl(), verl([{"role": "user", "content": r"4+3 $\times$ 'x'?"}], "7")]
    first, second = load(tmp_path / f"x{suffix}", *rows).problems
    assert (first.text, first.answers) == ("2+3?", ("5",))
    assert (second.text, second.answers) == (r"4+3 $\times$ 'x'?", ("7",))


@pytest.mark.parametrize(
    ("truth", "answers"),
    [
        (7, ("7",)),
        (0.5, ("0.5",)),
        (["7", "7.0"], ("7", "7.0")),
        ('["7", "7.0"]', ("7", "7.0")),
        ('"7"', ("7",)),
        ("['7']", ("7",)),
        ("[7]", ("7",)),
        ("We get 7.\n#### 7", ("7",)),
        (r"We get $\boxed{\frac{1}{2}}$.", (r"\frac{1}{2}",)),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_truth_may_be_a_number_a_list_or_a_solution(
    tmp_path: Path, truth: Any, answers: tuple[str, ...], suffix: str
) -> None:
    assert load(tmp_path / f"x{suffix}", verl(truth=truth)).problems[0].answers == answers


def test_a_system_turn_stands_before_the_question(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3?"}]
    assert load(tmp_path / "x.jsonl", verl(turns)).problems[0].text == "Be brief.\n\n2+3?"
    turns[0]["role"] = "developer"
    for parts in (
        turns,
        [turns[0], {"role": "user", "content": [{"type": "text", "text": "2+3?"}]}],
    ):
        text = load(tmp_path / "z.jsonl", verl(parts)).problems[0].text
        assert text == "Be brief.\n\n2+3?"
    as_text = verl(f"array({turns!r}, dtype=object)")
    assert load(tmp_path / "w.jsonl", as_text).problems[0].text == "Be brief.\n\n2+3?"
    as_text = verl(json.dumps(turns))
    assert load(tmp_path / "y.jsonl", as_text).problems[0].text == "Be brief.\n\n2+3?"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            verl([{"role": r, "content": "x"} for r in ("user", "assistant", "user")]),
            r"line 1 has messages of the roles user, assistant, user \(field 'prompt'\)",
        ),
        (verl([{"role": "user", "content": None}]), "roles user"),
        (verl([{"role": "user", "content": " "}]), r"line 1 is empty \(field 'prompt'\)"),
        (verl("[{'role': 'user'} {'role': 'user'}]"), "looks like a list of messages and cannot"),
        (verl(truth={"a": 1}), r"line 1 is dict.* \(field 'reward_model.ground_truth'\)"),
        (verl(truth='{"answer": "5"}'), r"mapping .*Name the field within it"),
        (verl(truth=None), r"no answer.*'reward_model.ground_truth'"),
        (verl(truth="\frac{1}{2}"), r"form feed.*field 'reward_model.ground_truth'"),
        (verl([{"role": "user", "content": "a \times b"}]), r"holds a tab .*field 'prompt'"),
    ],
)
def test_what_is_no_problem_is_told_with_line_and_field(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        load(tmp_path / "x.jsonl", row)


def test_a_dotted_name_leads_into_mappings(tmp_path: Path) -> None:
    row = {"q": {"Text": "2+3?"}, "a": {"b": {"value": "5"}}, "meta": {"uid": 7}}
    fields = Fields(
        id=("meta.uid",), problem=("q.text",), answer=("a.b.value",), is_id_required=True
    )
    for suffix in (".jsonl", ".parquet"):
        (problem,) = load(tmp_path / f"x{suffix}", row, fields=fields).problems
        assert (problem.id, problem.text, problem.answers) == ("7", "2+3?", ("5",))
    suite = tmp_path / "s.toml"
    suite.write_text(
        '[[benchmark]]\nname = "x"\npath = "x.jsonl"\nproblem = "q.text"\nanswer = "a.b.value"\n'
    )
    assert load_benchmark(load_suite(str(suite)).sources[0]).problems[0].answers == ("5",)


def test_a_field_with_the_whole_name_goes_before_the_mapping() -> None:
    row = {"a": {"b": 1}, "a.b": 2}
    assert field_values(row, ("a.b",)) == [("a.b", 2)]
    assert field_values({"a": {"b": None}}, ("a.b",)) == []
    assert field_values({"a": "{'b': 1}"}, ("a.b",)) == [("a.b", 1)]
    assert field_values({"a": "{" * 10_000}, ("a.b",)) == []


def test_several_answers_are_one_answer_where_the_row_says_so(tmp_path: Path) -> None:
    row = {"question": "q", "final_answer": ["$1$", "$2$"], "is_multiple_answer": True}
    for suffix in (".jsonl", ".parquet", ".csv"):
        assert load(tmp_path / f"x{suffix}", row).problems[0].answers == ("$1$, $2$",)
    row["is_multiple_answer"] = False
    assert load(tmp_path / "y.jsonl", row).problems[0].answers == ("$1$", "$2$")


def test_a_solution_column_is_read_when_nothing_better_is_there(tmp_path: Path) -> None:
    math = {"problem": "2+3?", "level": "Level 1", "solution": r"We get $\boxed{5}$."}
    for suffix in (".jsonl", ".parquet", ".csv"):
        assert load(tmp_path / f"x{suffix}", math).problems[0].answers == ("5",)
    both = {**math, "answer": "6"}
    assert load(tmp_path / "y.jsonl", both).problems[0].answers == ("6",)
    with pytest.raises(
        BenchmarkError, match=r"line 1 cannot be used: 'We get 5 by.*without a mark"
    ):
        load(tmp_path / "z.jsonl", {**math, "solution": "We get 5 by adding."})
