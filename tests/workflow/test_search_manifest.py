"""The rows of a trial: drawn exactly, without repeated rows and benchmarks, the same every time."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.evaluators.benchmarks.problems import BenchmarkSource
from rlready.evaluators.metrics.text_overlap import N_WORDS, words_of
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import parse_space
from rlready.registry.errors import ConfigError, RlreadyError
from rlready.registry.records import Recipe
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow import read_manifest
from rlready.workflow.cli.main import main
from rlready.workflow.search.manifest import Pools, open_pools
from rlready.workflow.search.sources import LocalSource, Scanner

WORDS = [f"w{i}" for i in range(300)]
LONG = " ".join(f"benchmark{i}" for i in range(20))

Rows = list[dict[str, Any]]
Call = Callable[..., Result]


def example(i: int, **more: Any) -> dict[str, Any]:
    words = random.Random(i).choices(WORDS, k=8 + i % 5)
    return {"prompt": f"Question {i}: {' '.join(words)}", "response": f"answer {i}", **more}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def space_of(names: Iterable[str], **values: Any) -> RecipeSpace:
    sources: dict[str, Any] = {name: {} for name in names}
    return parse_space({"sources": sources, "n_unique": {"low": 1, "high": 50}, **values})


def pools_of(
    folder: Path, benchmark: Rows | None = None, max_overlap: float = 1.0, **rows: Rows
) -> Pools:
    benchmarks = ()
    if benchmark is not None:
        path = write(folder / "bench.jsonl", benchmark)
        benchmarks = (BenchmarkSource(name="bench", location=path),)
    sources = [
        LocalSource(name=name, path=write(folder / f"{name}.jsonl", some))
        for name, some in rows.items()
    ]
    scanner = Scanner(folder=folder / "scans", benchmarks=benchmarks)
    return open_pools(sources, space_of(rows), scanner, max_overlap)


@settings(max_examples=25, deadline=None)
@given(
    a=st.lists(st.integers(0, 25), min_size=1, max_size=40),
    b=st.lists(st.integers(15, 40), min_size=1, max_size=40),
    share=st.floats(0.0, 1.0),
    n=st.integers(1, 60),
    seed=st.integers(0, 5),
    in_bench=st.sets(st.integers(0, 40), min_size=1, max_size=4),
)
def test_a_manifest_is_exact_distinct_and_reproducible(
    tmp_path_factory: pytest.TempPathFactory,
    a: list[int],
    b: list[int],
    share: float,
    n: int,
    seed: int,
    in_bench: set[int],
) -> None:
    """Counts by largest remainder, no row or text twice, nothing shared with a benchmark."""
    folder = tmp_path_factory.mktemp("data")
    problems = [f"{example(i)['prompt']} {LONG}" for i in in_bench]
    benchmark = [{"problem": text, "answer": "1"} for text in problems]

    def rows_of(numbers: list[int]) -> Rows:
        # Every third row has the problem of the benchmark in other letters and signs.
        made = [example(i) for i in numbers]
        return [
            {**row, "response": f"By the way, {LONG.upper()}!"} if i % 3 == 0 else row
            for i, row in zip(numbers, made, strict=True)
        ]

    recipe = Recipe(sources={"a": share, "b": 1.0 - share}, n_unique=n)
    try:
        pools = pools_of(folder, benchmark, a=rows_of(a), b=rows_of(b))
    except ConfigError as error:
        assert "no row is left" in str(error) or "to draw from" in str(error)  # noqa: PT017
        return
    limits = pools.limits(recipe)
    if any(limit > 0.0 for limit in limits.values()):
        with pytest.raises(ConfigError, match="rows to draw from"):
            pools.manifest(recipe, seed)
        return
    made = pools.manifest(recipe, seed)
    again = pools_of(folder, benchmark, a=rows_of(a), b=rows_of(b)).manifest(recipe, seed)
    assert json.dumps(made) == json.dumps(again)
    drawn = {source["source"]: source["rows"] for source in made["sources"]}
    assert sum(map(len, drawn.values())) == n
    for name, rows in drawn.items():
        assert abs(len(rows) - n * recipe.sources[name]) < 1.0
        assert len(set(rows)) == len(rows)
    path = folder / "manifest.json"
    path.write_text(json.dumps(made))
    texts = [(row.values["prompt"], row.values["response"]) for row in read_manifest(path)]
    assert len(set(texts)) == len(texts) == n
    runs = {run for text in problems for run in runs_of(text)}
    assert not any(runs_of(text) & runs for pair in texts for text in pair)


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + N_WORDS]) for i in range(len(words) - N_WORDS + 1)}


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    low=st.integers(0, 20),
    width=st.integers(1, 20),
)
def test_filters_are_kept(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], low: int, width: int
) -> None:
    rows = [example(i, n_tokens=n, difficulty=n / 30) for i, n in enumerate(lengths)]
    pools = pools_of(tmp_path_factory.mktemp("data"), a=rows)
    pool = pools.pools["a"]
    wanted = [i for i, n in enumerate(lengths) if low <= n <= low + width]
    assert pool.rows({"length_filter": f"{low}-{low + width}"}).tolist() == wanted
    hard = pool.rows({"length_filter": f"{low}-{low + width}", "difficulty_filter": "0.5-"})
    assert hard.tolist() == [i for i in wanted if lengths[i] / 30 >= 0.5]


def test_equal_rows_stay_once_within_and_across_sources(tmp_path: Path) -> None:
    """Case, white space, compatible letters and the format of a row do not matter."""
    turns = [
        {"role": "user", "content": "question  ①\n"},
        {"role": "assistant", "content": "FOUR"},
    ]
    rows = [
        {"prompt": "Question 1", "response": "four", "weight": 0},
        {"prompt": "Question 1", "response": "four", "id": 1},
        {"prompt": "Question 1 ", "response": "Four", "id": 2},
    ]
    pools = pools_of(tmp_path, a=rows, b=[{"messages": turns}, example(1)])
    assert pools.pools["a"].rows({}).tolist() == [1]
    assert pools.pools["a"].left_out == {"weight 0": 1, "repeated": 1}
    assert pools.pools["b"].rows({}).tolist() == [1]


def test_rows_are_repeated_only_as_often_as_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", (example(i) for i in range(5)))
    space = space_of("a")
    recipe = Recipe(sources={"a": 1.0}, n_unique=12, epochs=2.0)
    once, often = (
        open_pools(
            [LocalSource(name="a", path=path, max_repetitions=most)],
            space,
            Scanner(folder=tmp_path / "scans"),
            0.1,
        )
        for most in (None, 5.0)
    )
    with pytest.raises(ConfigError, match=r"a has 5 rows to draw from, and the recipe needs 12"):
        once.manifest(recipe, 0)
    (source,) = often.manifest(recipe, 0)["sources"]
    assert sorted(np.bincount(source["rows"])) == [2, 2, 2, 3, 3]
    assert source["repetitions"] == pytest.approx(2.0 * 12 / 5)
    with pytest.raises(ConfigError, match=r"needs 12 in 3 epochs.*repeated 5 times"):
        often.manifest(Recipe(sources={"a": 1.0}, n_unique=12, epochs=3.0), 0)


def test_all_forms_of_files_give_the_same_rows(tmp_path: Path) -> None:
    rows = [example(i) for i in range(9)]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pa_csv = "prompt,response\n" + "".join(f'"{r["prompt"]}","{r["response"]}"\n' for r in rows)
    (tmp_path / "a.csv").write_text(pa_csv)
    keys = []
    for suffix in ("jsonl", "json", "parquet", "csv"):
        source = LocalSource(name="a", path=tmp_path / f"a.{suffix}")
        keys.append(Scanner(folder=tmp_path / "scans").scan(source).keys.tolist())
    assert keys[0] == keys[1] == keys[2] == keys[3]


def test_difficulty_comes_from_counts_or_a_pass_rate(tmp_path: Path) -> None:
    """Rows are found by their id, or by the id that the text of a problem gives."""
    from rlready.evaluators.benchmarks.fields import text_id

    rows = [example(0, id="x"), example(1), example(2, id="not measured")]
    counts = [
        {"problem_id": "x", "n": 4, "c": 1, "n_unscored": 0},
        {"problem_id": text_id(rows[1]["prompt"]), "n": 4, "c": 4, "n_unscored": 0},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    (tmp_path / "samples").mkdir()
    pq.write_table(pa.Table.from_pylist(counts), tmp_path / "samples/counts.parquet")
    scanner = Scanner(folder=tmp_path / "scans")
    for place in (tmp_path / "samples", tmp_path / "samples/counts.parquet"):
        found = scanner.scan(LocalSource(name="a", path=path, counts=place)).difficulty
        assert found.tolist()[:2] == [0.75, 0.0]
        assert math.isnan(found[2])
    write(path, (example(i, rate=i / 4) for i in range(3)))
    rated = scanner.scan(LocalSource(name="a", path=path, pass_rate="rate"))
    assert rated.difficulty.tolist() == [1.0, 0.75, 0.5]
    write(path, [example(0, rate=3)])
    with pytest.raises(ConfigError, match=r"line 1: rate is 3\. Give a number, 0 to 1"):
        scanner.scan(LocalSource(name="a", path=path, pass_rate="rate"))


def test_lengths_are_tokens_if_there_is_a_tokenizer(tmp_path: Path) -> None:
    model = untrained_checkpoint(tmp_path / "model")
    path = write(tmp_path / "a.jsonl", [{"prompt": "1+2", "response": "3"}])
    words = Scanner(folder=tmp_path / "scans").scan(LocalSource(name="a", path=path))
    tokens = Scanner(folder=tmp_path / "scans", tokenizer=model).scan(
        LocalSource(name="a", path=path)
    )
    assert (words.lengths.tolist(), words.length_unit) == ([2.0], "words")
    assert tokens.length_unit == f"tokens of {model}"
    assert tokens.lengths[0] >= 4


def test_a_damaged_scan_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [example(0)])
    scanner = Scanner(folder=tmp_path / "scans")
    first = scanner.scan(LocalSource(name="a", path=path))
    (file,) = (tmp_path / "scans").glob("*.npz")
    file.write_bytes(b"no zip file")
    assert scanner.scan(LocalSource(name="a", path=path)).keys.tolist() == first.keys.tolist()


SPACE = """
{top}
[sources.a]
path = "a.jsonl"
{source}
[sources.web]
[n_unique]
low = {low}
high = 40
{rest}
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls `rlready search` in a folder with a space file and the rows of source a."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", (example(i, n_tokens=20 + i) for i in range(100)))
    space(tmp_path)

    def run(*words: Any) -> Result:
        words = ("search", *words, "--space", "mix.toml", "--cold", "--sampler", "random")
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


def space(folder: Path, **parts: Any) -> None:
    parts = {"top": "", "source": "", "rest": "", "low": 10, **parts}
    (folder / "mix.toml").write_text(SPACE.format(**parts))


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_ask_writes_the_rows_that_a_trainer_reads_in_three_lines(
    call: Call, tmp_path: Path
) -> None:
    result = call("ask", "--json")
    assert result.exit_code == 0, result.output
    (trial,) = json.loads(result.stdout)["trials"]
    rows = list(read_manifest(tmp_path / trial["folder"]))
    assert len(rows) == 10  # half of the 20 in the middle of n_unique
    first = rows[0]
    assert first.messages() == [
        {"role": "user", "content": example(first.row)["prompt"]},
        {"role": "assistant", "content": example(first.row)["response"]},
    ]
    assert [row.row for row in rows] != sorted(row.row for row in rows)
    # A second call reads nothing again, and a copy of the file elsewhere is as good.
    again = call("ask")
    assert "reading source" not in again.stderr
    moved = (tmp_path / "a.jsonl").rename(tmp_path / "moved.jsonl")
    other = next(read_manifest(tmp_path / trial["folder"], {"a": moved}))
    assert (other.row, other.values) == (first.row, first.values)
    with pytest.raises(ConfigError, match="file of source a is missing"):
        next(read_manifest(tmp_path / trial["folder"]))


def test_another_order_of_the_rows_is_an_error_and_not_another_sample(
    call: Call, tmp_path: Path
) -> None:
    assert call("ask").exit_code == 0
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(reversed(lines)))
    assert "the file of source a has changed" in refused(call("ask"))
    with pytest.raises(ConfigError, match="another content or order gives other rows"):
        next(read_manifest("search/mix/trial-0000"))
    (tmp_path / "a.jsonl").write_text("".join(lines))
    assert call("ask").exit_code == 0


@pytest.mark.parametrize(
    ("parts", "rows", "said"),
    [
        ({}, None, "source a has no file a.jsonl"),
        ({}, [], "a is empty: a.jsonl has 0 rows"),
        ({"source": "floor = 0.5", "low": 30}, 7, "has 7 rows to draw from, and every recipe"),
        (
            {"rest": '[length_filter]\nchoices = ["all", "0-5"]'},
            50,
            "length_filter 0-5 leaves none of the 50 rows of source a: its length is 20 to 69",
        ),
        (
            {"rest": '[difficulty_filter]\nchoices = ["0-0.5"]'},
            50,
            "no row of a.jsonl has a difficulty",
        ),
        ({"source": 'counts = "c.parquet"'}, 5, "has no file c.parquet"),
        ({"source": 'counts = "c"\npass_rate = "x"'}, 5, "pass_rate and counts"),
        ({"source": 'fields = {question = "q"}'}, 5, "fields names 'question'"),
        ({"source": 'fields = {prompt = "q", response = "r"}'}, 5, "has no field 'q'"),
        ({"rest": "[decontaminate]\nlimit = 3"}, 5, "unknown key 'limit'"),
    ],
)
def test_rows_that_cannot_be_used_are_told(
    call: Call, tmp_path: Path, parts: dict[str, Any], rows: Any, said: str
) -> None:
    """Nothing is asked then: the study has no trial that somebody would have to finish."""
    path = tmp_path / "a.jsonl"
    if rows is None:
        path.unlink()
    else:
        numbers = range(rows if rows else 0)
        write(path, (example(i, n_tokens=20 + i) for i in numbers))
    space(tmp_path, **parts)
    told = refused(call("ask")).replace(f"{tmp_path}/", "")
    assert said in told
    assert not list(tmp_path.glob("search/mix/trial-*"))


def test_an_overlap_above_the_limit_is_told_with_examples(call: Call, tmp_path: Path) -> None:
    """Below the limit the rows are left out, and counted."""
    text = f"{LONG} {LONG}"
    rows = [example(i, n_tokens=1) for i in range(95)]
    write(tmp_path / "a.jsonl", [*rows, *({**example(i), "prompt": text} for i in range(5))])
    write(tmp_path / "b.jsonl", [{"id": "p1", "problem": text, "answer": "1"}])
    rest = '[decontaminate]\nbenchmarks = ["b.jsonl"]\nmax_share = {}'
    space(tmp_path, rest=rest.format(0.04))
    told = refused(call("ask"))
    assert "5 of 100 rows of source a overlap with a benchmark" in told
    assert "row 95: b/p1, 'benchmark0" in told
    space(tmp_path, rest=rest.format(0.05))
    assert "5 in a benchmark left out" in call("ask").stderr


def test_recipes_that_need_more_rows_than_there_are_are_not_proposed(
    call: Call, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", (example(i) for i in range(4)))
    result = call("ask", "--trials", 5, "--json")
    for trial in json.loads(result.stdout)["trials"]:
        assert len(list(read_manifest(tmp_path / trial["folder"]))) <= 4
    space(tmp_path, source="floor = 0.9", low=11)
    write(tmp_path / "a.jsonl", (example(i) for i in range(9)))
    told = refused(call("ask", "--study", "other"))
    assert "no recipe was found that keeps the limits" in told
    assert re.search(r"needs [\d.]+ times the rows that source a has for it", told)


def test_a_source_without_alternative_needs_rows_for_the_smallest_recipe(
    call: Call, tmp_path: Path
) -> None:
    """The caps of the other sources count too: what they leave is the least share of a source."""
    write(tmp_path / "a.jsonl", (example(i) for i in range(7)))
    lines = ["[sources.a]", 'path = "a.jsonl"', "[n_unique]", "low = 20", "high = 40"]
    for other, least in (([], 20), (["[sources.web]", "cap = 0.5"], 10)):
        (tmp_path / "mix.toml").write_text("\n".join([*lines, *other]))
        told = refused(call("ask", "--study", f"s{least}"))
        assert f"a has 7 rows to draw from, and every recipe needs {least} or more" in told


def test_workers_with_different_space_files_are_told_which_was_first(
    call: Call, tmp_path: Path
) -> None:
    assert call("ask", "--study", "one").exit_code == 0
    space(tmp_path, low=11)
    told = refused(call("ask", "--study", "one"))
    assert "study 'one' was made for another recipe space" in told
    assert "opened last with" in told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "JSON object"),
        ("{}", "is not a manifest"),
        ('{"format": 9}', "has the format 9"),
        ('{"format": 1, "seed": 0, "sources": [{"source": "a"}]}', "is not a manifest"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RlreadyError, match=said):
        next(read_manifest(tmp_path))
