"""Benchmarks: forms of files, fields, answers, damaged files, digests, suites, the hub."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, SHARED, data_path

from rlready.evaluators.benchmarks import problems
from rlready.evaluators.benchmarks import rows as problem_rows
from rlready.evaluators.benchmarks.fields import AnswerForm, Fields, decimal_text
from rlready.evaluators.benchmarks.problems import (
    Benchmark,
    BenchmarkSource,
    Suite,
    known_suites,
    load_benchmark,
    load_suite,
    override,
    parse_benchmark_option,
)
from rlready.evaluators.benchmarks.rows import HubDataset
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.registry.records import Problem

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the folder of benchmark files (shared/data) is not here"
)

ROWS: list[dict[str, Any]] = [
    {"id": "a", "problem": "1 + 1?", "answer": "2"},
    {"id": "b", "problem": "Half, «quoted», comma\nand a line break?", "answer": r"\frac{1}{2}"},
    {"id": "c", "problem": "x" * 300, "answer": "[1, 2)"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes the rows in the form that the suffix names."""
    name = path.name
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if ".csv" in name:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    elif ".jsonl" in name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def load(path: Path, **settings: Any) -> Benchmark:
    return load_benchmark(BenchmarkSource(name="x", location=path, **settings))


def load_rows(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> Benchmark:
    return load(write(tmp_path / "x.jsonl", list(rows)), **settings)


def error_of(tmp_path: Path, data: bytes | str, name: str = "x.jsonl", **settings: Any) -> str:
    """The message for a file with this content."""
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(BenchmarkError) as caught:
        load(path, **settings)
    return str(caught.value)


# --- forms of files


@pytest.mark.parametrize("suffix", problem_rows.SUFFIXES)
def test_every_form_of_the_same_content_is_the_same_benchmark(tmp_path: Path, suffix: str) -> None:
    benchmark = load(write(tmp_path / f"x{suffix}", ROWS))
    reference = tuple(Problem(id=r["id"], text=r["problem"], answers=(r["answer"],)) for r in ROWS)
    assert benchmark.problems == reference
    assert benchmark.digest == Benchmark(name="y", problems=reference, source="").digest


def test_a_json_list_is_read_like_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text("\ufeff \n" + json.dumps(ROWS, indent=1))
    assert load(path).problems == load(write(tmp_path / "x.jsonl", ROWS)).problems
    assert "x.json, item 2 has no answer" in error_of(
        tmp_path, json.dumps([ROWS[0], {"problem": "p"}]), "x.json"
    )
    assert "x.json, item 1 is not a JSON object but a int" in error_of(tmp_path, "[1]", "x.json")
    assert "x.json is not JSON" in error_of(tmp_path, "[" * 100_000, "x.json")
    assert "x.json, line 1 is not UTF-8" in error_of(tmp_path, b"[\xff]", "x.json")
    assert "has no problems" in error_of(tmp_path, "[]", "x.json")
    monkeypatch.setattr(problem_rows, "MAX_LIST_BYTES", 10)
    assert "has more than 10 bytes" in error_of(tmp_path, json.dumps(ROWS), "x.json")


def test_absent_null_and_an_empty_csv_cell_are_the_same(tmp_path: Path) -> None:
    ragged = [{"id": "a", "problem": "p", "answer": "1"}, {"problem": "q", "answer": "2"}]
    nulls = [ragged[0], {"id": None, **ragged[1]}]
    empty = [ragged[0], {"id": "", **ragged[1]}]
    digests = {
        load(write(tmp_path / "x.jsonl", ragged)).digest,
        load(write(tmp_path / "y.jsonl", nulls)).digest,
        load(write(tmp_path / "x.parquet", nulls)).digest,
        load(write(tmp_path / "x.csv", empty)).digest,
    }
    assert len(digests) == 1


def test_lists_of_answers_and_numbers_agree_between_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = [{"id": 7, "problem": "p", "answers": ["1/2", "0.5"]}]
    numbers = [{"id": 7, "problem": "p", "answer": 27.0}]
    for content in (rows, numbers):
        jsonl, parquet = (write(tmp_path / f"x{s}", content) for s in (".jsonl", ".parquet"))
        assert load(jsonl).problems == load(parquet).problems


def test_a_byte_order_mark_and_blank_lines_are_no_problems(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"problem": "p", "answer": "1"}\r\n\r\n\n')
    assert [problem.text for problem in load(path).problems] == ["p"]
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfproblem,answer\r\np,1\r\n\r\n")
    assert [problem.text for problem in load(path).problems] == ["p"]


# --- fields


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a", "problem": "p", "answer": "1"},
        {"unique_id": "a", "question": "p", "final_answer": "1"},
        {"ID": "a", "Question": "p", "Answer": "1", "Year": 1983},
        {"idx": "a", "prompt": "p", "expected_answer": "1"},
        {"idx": "9", "id": "a", "prompt": "no", "problem": "p", "answers": ["1"], "answer": "no"},
    ],
)
def test_usual_field_names_are_recognised(tmp_path: Path, row: dict[str, Any]) -> None:
    assert load_rows(tmp_path, row).problems == (Problem(id="a", text="p", answers=("1",)),)


def test_a_list_of_accepted_answers_is_preferred_to_the_raw_one(tmp_path: Path) -> None:
    row = {"problem": "p", "answer": "8.7e8", "answers_latex": [r"8.7 \times 10^{8}", "870000000"]}
    assert load_rows(tmp_path, row).problems[0].answers == tuple(row["answers_latex"])


def test_a_given_mapping_wins_over_usual_names(tmp_path: Path) -> None:
    fields = Fields(id=("k",), problem=("q",), answer=("gold",), is_id_required=True)
    row = {"id": "no", "problem": "no", "answer": "no", "k": 3, "q": "p", "gold": "1"}
    assert load_rows(tmp_path, row, fields=fields).problems == (
        Problem(id="3", text="p", answers=("1",)),
    )


def test_a_missing_field_is_told_with_the_fields_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"x\.jsonl, line 2 has no problem.*'query', 'answer'"):
        load_rows(tmp_path, ROWS[0], {"query": "p", "answer": "1"})
    with pytest.raises(BenchmarkError, match="line 1 has no answer"):
        load_rows(tmp_path, {"problem": "p", "answer": None})
    for suffix in (".csv", ".parquet"):
        path = write(tmp_path / f"x{suffix}", [{"id": "1", "problem": "p", "proof": "s"}])
        with pytest.raises(BenchmarkError, match=r"has no answer.*'id', 'problem', 'proof'"):
            load(path)


def test_a_named_id_field_must_be_there(tmp_path: Path) -> None:
    fields = Fields(id=("uid",), is_id_required=True)
    with pytest.raises(BenchmarkError, match=r"line 1 has no id.*'uid'"):
        load_rows(tmp_path, ROWS[0], fields=fields)
    with pytest.raises(BenchmarkError, match=r"has no id.*'uid'"):
        load(write(tmp_path / "x.csv", ROWS), fields=fields)


def test_made_up_ids_do_not_depend_on_the_order_of_rows_or_on_the_answer(tmp_path: Path) -> None:
    rows = [{"problem": f"p{i}", "answer": "1"} for i in range(5)]
    ids = {p.text: p.id for p in load_rows(tmp_path, *rows).problems}
    corrected = [{**row, "answer": "2"} for row in reversed(rows)]
    assert {p.text: p.id for p in load_rows(tmp_path, *corrected).problems} == ids
    assert all(id.startswith("text-") for id in ids.values())


def test_repeated_ids_are_told_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"line 3 has the id 'a' of .*line 1"):
        load_rows(tmp_path, ROWS[0], ROWS[1], {**ROWS[2], "id": "a"})
    with pytest.raises(BenchmarkError, match=r"line 2 .*of .*line 1: the same problem occurs"):
        load_rows(tmp_path, {"problem": "p", "answer": "1"}, {"problem": "p", "answer": "1"})


# --- answers


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("27", "27"),
        ("27.0", "27"),
        ("-0.50", "-0.5"),
        ("0.1", "0.1"),
        ("1e3", "1000"),
        ("1E-3", "0.001"),
        ("-0.0", "0"),
        ("123456789012345678901234567890.25", "123456789012345678901234567890.25"),
    ],
)
def test_numbers_become_their_exact_decimal_text(tmp_path: Path, number: str, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"problem": "p", "answer": {number}}}')
    assert load(path).problems[0].answers == (text,)


@given(st.one_of(st.integers(), st.floats(-1e300, 1e300), st.decimals(-(10**40), 10**40)))
def test_decimal_text_keeps_the_value(number: int | float | Decimal) -> None:
    text = decimal_text(number)
    assert "e" not in text.lower()
    assert (float(text) if isinstance(number, float) else Decimal(text)) == number


def test_a_text_that_looks_like_a_number_stays_as_written(tmp_path: Path) -> None:
    row = {"problem": " p ", "answer": " 27.0 "}
    assert load_rows(tmp_path, row).problems[0].answers == ("27.0",)
    assert load_rows(tmp_path, row).problems[0].text == " p "


def test_the_answer_after_a_mark_loses_thousands_commas(tmp_path: Path) -> None:
    form = AnswerForm(after="####")
    row = {"problem": "p", "answer": "12,345 eggs #### no\n#### 1,234,567"}
    assert load_rows(tmp_path, row, answers=form).problems[0].answers == ("1234567",)
    assert load_rows(tmp_path, row).problems[0].answers == ("1234567",)
    pair = {"problem": "p", "answer": "#### (1,23, 4,5678)"}
    assert load_rows(tmp_path, pair, answers=form).problems[0].answers == ("(1,23, 4,5678)",)


@pytest.mark.parametrize("answer", ["18", "so ####", "so #### "])
def test_a_required_mark_that_is_missing_is_an_error(tmp_path: Path, answer: str) -> None:
    with pytest.raises(BenchmarkError, match="line 1 has nothing after '####'"):
        load_rows(tmp_path, {"problem": "p", "answer": answer}, answers=AnswerForm(after="####"))


def test_an_optional_mark_is_in_all_answers_or_in_none(tmp_path: Path) -> None:
    form = AnswerForm(after="####", is_marker_required=False)
    bare = {"problem": "p", "answer": "1,000"}
    marked = {"problem": "q", "answer": "so #### 1,000"}
    assert load_rows(tmp_path, bare, answers=form).problems[0].answers == ("1,000",)
    assert load_rows(tmp_path, marked, answers=form).problems[0].answers == ("1000",)
    with pytest.raises(BenchmarkError, match="line 1 has nothing after"):
        load_rows(tmp_path, bare, marked, answers=form)


def test_a_list_is_any_of_its_elements_unless_all_are_needed(tmp_path: Path) -> None:
    row = {"problem": "p", "final_answer": ["$1$", 3, "$1$"]}
    assert load_rows(tmp_path, row).problems[0].answers == ("$1$", "3")
    row = {"problem": "p", "final_answer": ["$1$", "$3$"]}
    every = AnswerForm(list_means="all")
    assert load_rows(tmp_path, row, answers=every).problems[0].answers == ("$1$, $3$",)


def test_a_csv_cell_may_hold_several_answers_as_json(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [{"problem": "p", "answers": '["1/2", 0.5]'}])
    assert load(path, answers=AnswerForm(is_json=True)).problems[0].answers == ("1/2", "0.5")
    assert load(path).problems[0].answers == ("1/2", "0.5")
    path = write(tmp_path / "x.csv", [{"problem": "p", "answers": "1/2"}])
    with pytest.raises(BenchmarkError, match="line 2 is not JSON: '1/2'"):
        load(path, answers=AnswerForm(is_json=True))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"problem": "  ", "answer": "1"}', "the problem of .*line 1 is empty"),
        ('{"problem": ["p"], "answer": "1"}', "the problem of .*line 1 is a list, not a text"),
        ('{"problem": "p", "answer": " "}', "the answer of .*line 1 is empty"),
        ('{"problem": "p", "answers": []}', "line 1 has an empty list of answers"),
        ('{"problem": "p", "answers": ["1", null]}', "answer of .*line 1 is null"),
        ('{"problem": "p", "answer": true}', "answer of .*line 1 is bool"),
        ('{"problem": "p", "answer": {"a": 1}}', "answer of .*line 1 is dict"),
        ('{"problem": "p", "answer": 1e999999999}', "answer of .*line 1 cannot be written out"),
        ('{"problem": "p", "answer": NaN}', "line 1 is not JSON. NaN"),
        ('{"problem": "p", "answer": "1", "id": ""}', "the id of .*line 1 is empty"),
        ('{"problem": "p \\ud800", "answer": "1"}', "not valid Unicode"),
        ('{"problem": "p", "answer": ' + "9" * 5000 + "}", "line 1 is not JSON"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, row: str, message: str) -> None:
    assert re.search(message, error_of(tmp_path, row))


# --- damaged and hostile files


def test_a_broken_line_is_named_by_its_number(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0]) + "\n"
    assert "line 3 is not JSON" in error_of(tmp_path, good + "\n" + '{"problem": "p", ')
    assert "line 2 is not a JSON object but a list" in error_of(tmp_path, good + "[1]")
    assert "line 2 is not JSON" in error_of(tmp_path, good + "[" * 100_000)


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    for name, head in (("x.jsonl", json.dumps(ROWS[0])), ("x.csv", "problem,answer")):
        message = error_of(tmp_path, head.encode() + b"\nna\xefve,1\n", name)
        assert f"{name}, line 2 is not UTF-8: byte 2 of the line is 0xef" in message


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    assert "has no problems" in error_of(tmp_path, "", name)
    assert "has no problems" in error_of(tmp_path, gzip.compress(b"\n"), "x.jsonl.gz")
    assert "has no problems" in error_of(tmp_path, "problem,answer\n", "x.csv")


def test_a_csv_needs_a_header_and_full_rows(tmp_path: Path) -> None:
    assert "its first line must be the header" in error_of(tmp_path, "1,What?,2\n", "x.csv")
    head = 'problem,answer\n"two\nlines",1\n'
    assert "line 4 has 3 cells, the header 2" in error_of(tmp_path, head + "p,1,2\n", "x.csv")
    assert "x.csv is not CSV after line 4" in error_of(tmp_path, head + '"p"q,1\n', "x.csv")
    assert "['answer'] more than once" in error_of(tmp_path, "problem,answer,answer\n", "x.csv")
    assert "x.csv, line 4 has no problem" in error_of(tmp_path, head + ",1\n", "x.csv")


def test_a_damaged_archive_or_parquet_file_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(ROWS[0]).encode() * 9)
    assert "x.jsonl.gz is damaged" in error_of(tmp_path, packed[:-20], "x.jsonl.gz")
    assert "x.jsonl.gz is damaged" in error_of(tmp_path, b"no gzip", "x.jsonl.gz")
    assert "x.parquet cannot be read as Parquet" in error_of(tmp_path, b"PAR1", "x.parquet")


def test_a_missing_file_and_an_unknown_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"there is no file .*x\.jsonl"):
        load(tmp_path / "x.jsonl")
    with pytest.raises(BenchmarkError, match=r"one of \.jsonl, \.jsonl\.gz, \.csv, .*\.parquet"):
        load(tmp_path / "x.xlsx")


def test_a_folder_is_not_reported_as_a_missing_file(tmp_path: Path) -> None:
    """It was "there is no file", or an unknown form, although the path exists."""
    for folder in (tmp_path, tmp_path / "x.jsonl"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(BenchmarkError, match="is a folder, not a file"):
            parse_benchmark_option(f"toy={folder}")


@pytest.mark.parametrize(
    ("answer", "choices", "is_index"),
    [
        (1, ["4", "5"], True),
        ("1", '["4", "5"]', True),
        ("1", ["1", "2"], False),
        (2, ["4", "5"], False),
        ("B", ["4", "5"], False),
        ("4", None, False),
    ],
)
def test_the_index_of_a_choice_is_not_an_answer(
    tmp_path: Path, answer: object, choices: object, is_index: bool
) -> None:
    """Rows of MMLU hold the index of the right choice; it was taken for the answer."""
    row = json.dumps({"question": "2 + 3?", "choices": choices, "answer": answer})
    if is_index:
        assert "is 1, probably the index of one of its 2 choices" in error_of(tmp_path, row)
    else:
        path = tmp_path / "x.jsonl"
        path.write_text(row)
        assert load(path).problems[0].answers == (str(answer),)


def test_a_mapping_and_a_truth_value_as_answers_are_refused_with_a_fix(tmp_path: Path) -> None:
    mapping = error_of(tmp_path, '{"problem": "p", "answer": {"value": 5}}')
    assert 'Name the field within it: answer = "answer.NAME"' in mapping
    truth = error_of(tmp_path, '{"problem": "p", "answer": true}')
    assert 'Write it as a text, such as "True", or as a number' in truth


def test_limits_hold_before_the_memory_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem_rows, "MAX_ROWS", 20)
    small = dataclasses.replace(problem_rows.PROBLEMS, max_line_bytes=1000, max_file_bytes=5000)

    def error(data: bytes, name: str = "x.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BenchmarkError) as caught:
            list(problem_rows.file_rows(path, lambda _, names: list(names), small))
        return str(caught.value)

    line = json.dumps({"problem": "p" * 500, "answer": "1"}).encode() + b"\n"
    bomb = gzip.compress(b" " * 10_000_000)
    assert "line 1 is longer than 1000 bytes" in error(bomb, "x.jsonl.gz")
    assert "has more than 5000 bytes" in error(line * 19)
    assert "has more than 20 rows" in error(b"\n" * 21)
    rows = [{"problem": "p", "answer": str(i)} for i in range(21)]
    data = write(tmp_path / "y.parquet", rows).read_bytes()
    assert "more than 20 rows" in error(data, "x.parquet")


# --- the digest


problem_sets = st.lists(
    st.builds(
        Problem,
        id=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=5),
        text=st.sampled_from(["p", "q", "1 + 1?"]),
        answers=st.lists(st.sampled_from(["1", "2", "x"]), min_size=1, max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda problem: problem.id,
).map(tuple)


def digest_of(*problems: Problem) -> str:
    return Benchmark(name="x", problems=problems, source="").digest


@given(problem_sets, st.randoms(use_true_random=False))
def test_the_digest_ignores_order(problems: tuple[Problem, ...], rng: random.Random) -> None:
    mixed = [
        Problem(id=p.id, text=p.text, answers=tuple(rng.sample(p.answers, len(p.answers))))
        for p in rng.sample(problems, len(problems))
    ]
    assert digest_of(*mixed) == digest_of(*problems)


@given(problem_sets)
def test_the_digest_changes_with_every_part_of_a_problem(problems: tuple[Problem, ...]) -> None:
    first, *rest = problems
    changed = [
        Problem(id=first.id + "0123456", text=first.text, answers=first.answers),
        Problem(id=first.id, text=first.text + "!", answers=first.answers),
        Problem(id=first.id, text=first.text, answers=(*first.answers, "y")),
    ]
    digests = {digest_of(*problems), *(digest_of(problem, *rest) for problem in changed)}
    assert len(digests) == 4


def test_a_limited_benchmark_has_its_own_digest(tmp_path: Path) -> None:
    benchmark = load_rows(tmp_path, *ROWS)
    assert benchmark.limit(2).problems == benchmark.problems[:2]
    assert benchmark.limit(2).digest != benchmark.digest
    assert benchmark.limit(99) == benchmark
    with pytest.raises(ConfigError, match="limit of problems is 0"):
        benchmark.limit(0)


def test_a_benchmark_made_by_hand_is_checked() -> None:
    problem = Problem(id="a", text="p", answers=("1",))
    with pytest.raises(BenchmarkError, match="id 'a' more than once"):
        Benchmark(name="x", problems=(problem, problem), source="here")
    with pytest.raises(BenchmarkError, match="has no problems"):
        Benchmark(name="x", problems=(), source="here")
    with pytest.raises(ConfigError, match="'a b' cannot be used"):
        Benchmark(name="a b", problems=(problem,), source="here")


# --- shared files


def read_shared(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@pytest.mark.parametrize(
    ("name", "n_problems"),
    [
        ("gsm8k_test", 1319),
        ("aime24", 30),
        ("amc23", 40),
        ("svamp", 1000),
        pytest.param("minerva_math", 272, marks=needs_shared),
        pytest.param("olympiadbench_maths_en", 675, marks=needs_shared),
        pytest.param("college_math_ccby", 1260, marks=needs_shared),
    ],
)
def test_shared_files_load_with_their_counts(name: str, n_problems: int) -> None:
    benchmark = load_benchmark(parse_benchmark_option(str(data_path(f"{name}.jsonl.gz"))))
    assert (benchmark.name, len(benchmark.problems)) == (name, n_problems)


@needs_shared
def test_minerva_is_read_with_its_latex_answers() -> None:
    path = SHARED / "minerva_math.jsonl.gz"
    rows = read_shared(path)
    loaded = {p.id: p.answers for p in load(path).problems}
    assert loaded == {row["id"]: tuple(dict.fromkeys(row["answers_latex"])) for row in rows}
    assert sum(len(answers) > 1 for answers in loaded.values()) == 40


def test_math7_runs_from_local_files_and_from_copies_of_the_original_data(tmp_path: Path) -> None:
    """GSM8K's solution with its mark and the cleaned file give the same answers."""
    cleaned = data_path("gsm8k_test.jsonl.gz")
    rows = read_shared(cleaned)
    original = write(
        tmp_path / "gsm8k.parquet",
        [{"question": row["problem"], "answer": row["solution"]} for row in rows],
    )
    answers = []
    for file in (cleaned, original):
        suite = override(load_suite("math7"), [parse_benchmark_option(f"gsm8k={file}")])
        source = next(s for s in suite.sources if s.name == "gsm8k")
        answers.append([p.answers for p in load_benchmark(source).problems])
    assert answers[0] == answers[1]
    for name in ("gsm8k", "amc23"):
        file = data_path(f"{name.replace('gsm8k', 'gsm8k_test')}.jsonl.gz")
        option = parse_benchmark_option(f"{name}={file}")
        source = next(s for s in override(load_suite("math7"), [option]).sources if s.name == name)
        assert load_benchmark(source) == load_benchmark(option)


# --- suites


def test_math7_names_the_seven_benchmarks() -> None:
    suite = load_suite("math7")
    assert known_suites() == ["math7"]
    assert [source.name for source in suite.sources] == [
        "math500",
        "aime_1983_2024",
        "aime25",
        "gsm8k",
        "amc23",
        "olympiadbench",
        "minerva_math",
    ]
    assert all(isinstance(source.location, HubDataset) for source in suite.sources)
    gsm8k = suite.sources[3]
    assert gsm8k.location == HubDataset(id="openai/gsm8k", configs=("main",), split="test")
    assert gsm8k.answers.after == "####"
    assert suite.sources[5].answers.list_means == "all"


def test_the_wheel_ships_the_suite() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "*.toml" in settings["tool"]["setuptools"]["package-data"]["*"]
    assert (Path(problems.__file__).parent / "suite_math7.toml").is_file()


def write_suite(tmp_path: Path, text: str) -> str:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return str(path)


def test_a_suite_file_names_local_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"n": 1, "q": "p", "gold": '["1,000", "1e3"]'}]
    write(tmp_path / "data" / "mine.csv", rows)
    suite = load_suite(
        write_suite(
            tmp_path,
            '[[benchmark]]\nname = "mine"\npath = "data/mine.csv"\n'
            'id = "n"\nproblem = "q"\nanswer = "gold"\nanswer_json = true\n',
        )
    )
    assert load_benchmark(suite.sources[0]).problems == (
        Problem(id="1", text="p", answers=("1,000", "1e3")),
    )


HUB = '[[benchmark]]\nname = "a"\nhub = "o/d"\nsplit = "test"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmarks = 1", "unknown key 'benchmarks'. Known keys: description, benchmark"),
        (HUB + 'field = "x"', "unknown key 'field'. Known keys: name, path, hub, config"),
        (HUB + HUB, "has the benchmarks a more than once"),
        (HUB + "id = 3", r"benchmark\[0\].id is 3. It should be a valid string"),
        (HUB + "answer_json = 1", "answer_json is 1. It should be a valid boolean"),
        (HUB + 'answer_format = "box"', "'box'.*'boxed', 'hash', 'phrase', 'last' or 'auto'"),
        (HUB + 'path = "x.csv"', "either path or hub"),
        (HUB + "config = [1]", r"benchmark\[0\].config\[0\] is 1"),
        (HUB + 'answer_list = "some"', "answer_list is 'some'"),
        (HUB + 'answer_after = ""', "answer_after is empty"),
        (HUB.replace("o/d", "../d"), "hub of benchmark 'a'"),
        (HUB.replace('name = "a"', ""), r"benchmark\[0\].name is missing"),
        (HUB.replace('"a"', '"a/b"'), "'a/b' cannot be used"),
        (HUB.replace('split = "test"', ""), "has no split"),
        ('[[benchmark]]\nname = "a"\n', "either path or hub"),
        ('[[benchmark]]\nname = "a"\npath = "x.csv"\nsplit = "test"', "has a path and split"),
        ('[[benchmark]]\nname = "a"\npath = "/x.csv"', "must stay in its folder"),
        ('[[benchmark]]\nname = "a"\npath = "b/../../x.csv"', "must stay in its folder"),
        ("[benchmark]\n", "benchmark is .*It should be a valid list"),
        ("", "has no benchmark"),
        ("a = ", "is not a TOML file"),
    ],
)
def test_mistakes_in_a_suite_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_suite(write_suite(tmp_path, text))


def test_an_unknown_suite_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    for name in ("math8", "math8.toml", str(tmp_path), "../math7"):
        with pytest.raises(ConfigError, match=r"no suite .*the built-in suites are math7"):
            load_suite(name)
    (tmp_path / "x.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_suite(str(tmp_path / "x.toml"))


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("gsm8k=data/x.csv", "gsm8k", "data/x.csv"),
        ("data/aime24.jsonl.gz", "aime24", "data/aime24.jsonl.gz"),
        ("runs/lr=0.1/x.parquet", "x", "runs/lr=0.1/x.parquet"),
        ("a=runs/lr=0.1/x.parquet", "a", "runs/lr=0.1/x.parquet"),
    ],
)
def test_the_option_names_a_benchmark_and_a_file(text: str, name: str, path: str) -> None:
    assert parse_benchmark_option(text) == BenchmarkSource(name=name, location=Path(path))


def test_the_option_may_name_an_answer_format() -> None:
    expected = BenchmarkSource(name="a", location=Path("lr=1/x.csv"), answer_format="hash")
    assert parse_benchmark_option("a:hash=lr=1/x.csv") == expected
    with pytest.raises(ConfigError, match=r"'html'.*boxed, hash, phrase, last, auto"):
        parse_benchmark_option("a:html=x.csv")
    # What is not a name and a format before the first = is a file's.
    plain = BenchmarkSource(name="x", location=Path("a:b/c=1/x.csv"))
    assert parse_benchmark_option("a:b/c=1/x.csv") == plain


def test_an_answer_format_goes_from_the_source_to_the_benchmark_and_not_into_its_digest(
    tmp_path: Path,
) -> None:
    rows = {"id": 1, "problem": "p", "answer": "5"}
    file = write(tmp_path / "f.jsonl", [rows])
    suite = load_suite(
        write_suite(
            tmp_path, '[[benchmark]]\nname = "a"\npath = "f.jsonl"\nanswer_format = "hash"\n'
        )
    )
    benchmark = load_benchmark(suite.sources[0])
    assert benchmark.answer_format == "hash"
    assert benchmark.digest == load_benchmark(parse_benchmark_option(f"a={file}")).digest
    for option, expected in ((f"a={file}", "hash"), (f"a:last={file}", "last")):
        (source,) = override(suite, [parse_benchmark_option(option)]).sources
        assert source.answer_format == expected


def test_a_benchmark_without_some_golds_says_so_in_its_name() -> None:
    problems = (
        Problem(id="1", text="p", answers=("5", "bad")),
        Problem(id="2", text="q", answers=("bad",)),
        Problem(id="3", text="r", answers=("6",)),
    )
    whole = Benchmark(name="toy", problems=problems, source="here")
    left = whole.without_golds({("1", "bad"), ("2", "bad")})
    assert left.name == "toy-readable2"
    assert [(p.id, p.answers) for p in left.problems] == [("1", ("5",)), ("3", ("6",))]
    assert left.digest != whole.digest
    with pytest.raises(BenchmarkError, match="no problem whose reference answer"):
        left.without_golds({("1", "5"), ("3", "6")})


@pytest.mark.parametrize("text", ["", "a=", "my set.csv", ".csv", "a b=x y.csv"])
def test_an_option_without_a_usable_name_or_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"NAME="):
        parse_benchmark_option(text)


def test_override_replaces_namesakes_and_adds_the_rest() -> None:
    def source(name: str, file: str) -> BenchmarkSource:
        return BenchmarkSource(name=name, location=Path(file))

    suite = Suite(name="s", sources=(source("a", "a.csv"), source("b", "b.csv")))
    changed = override(suite, [source("c", "c.csv"), source("a", "z.csv")])
    assert changed.sources[0].location == Path("z.csv")
    assert changed.sources[1:] == (suite.sources[1], source("c", "c.csv"))
    assert override(suite, []) == suite
    with pytest.raises(ConfigError, match="a more than once"):
        override(suite, [source("a", "x.csv"), source("a", "y.csv")])


def test_a_file_that_stands_in_may_have_the_suites_names_or_the_usual_ones(tmp_path: Path) -> None:
    original = BenchmarkSource(
        name="a",
        location=HubDataset(id="o/d"),
        fields=Fields(problem=("q",), answer=("gold",), id=("n",), is_id_required=True),
    )
    expected = Problem(id="1", text="p", answers=("5",))
    for row in ({"n": 1, "q": "p", "gold": 5}, {"id": 1, "problem": "p", "answer": 5}):
        option = parse_benchmark_option(f"a={write(tmp_path / 'f.jsonl', [row])}")
        suite = override(Suite(name="s", sources=(original,)), [option])
        assert load_benchmark(suite.sources[0]).problems == (expected,)


# --- the hub


def test_configs_of_a_data_set_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `datasets` on a folder laid out like opencompass/AIME2025."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "AIME2025"
    folder.mkdir()
    card = ["---", "configs:"]
    for config, text in (("AIME2025-I", "one"), ("AIME2025-II", "two")):
        write(folder / f"{config}.jsonl", [{"question": text, "answer": "70", "picture": None}])
        card += [f"- config_name: {config}", "  data_files:"]
        card += ["  - split: test", f"    path: {config}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    hub = HubDataset(id=str(folder), configs=("AIME2025-I", "AIME2025-II"))
    benchmark = load_benchmark(BenchmarkSource(name="aime25", location=hub))
    assert [problem.text for problem in benchmark.problems] == ["one", "two"]
    assert benchmark.source == f"{folder} [AIME2025-I, AIME2025-II] test"
    local = load_rows(tmp_path, *({"problem": t, "answer": "70"} for t in ("one", "two")))
    assert benchmark.digest == local.digest
    fields = Fields(answer=("gold",))
    with pytest.raises(BenchmarkError, match=r"\[AIME2025-I\] has no answer.*'question', 'answer'"):
        load_benchmark(BenchmarkSource(name="aime25", location=hub, fields=fields))
    wrong = HubDataset(id=str(folder), configs=("AIME2025-I",), split="train")
    with pytest.raises(BenchmarkError, match=r"cannot be loaded.*--benchmark aime25=FILE"):
        load_benchmark(BenchmarkSource(name="aime25", location=wrong))


def test_a_hub_that_cannot_be_reached_is_answered_with_the_way_around(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    script = (
        "from rlready.evaluators.benchmarks.problems import load_benchmark, load_suite\n"
        "from rlready.registry.errors import BenchmarkError\n"
        "try:\n    load_benchmark(load_suite('math7').sources[3])\n"
        "except BenchmarkError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "gsm8k cannot be loaded from the hub (openai/gsm8k [main] test)" in done.stdout
    assert "--benchmark gsm8k=FILE" in done.stdout
