"""A file that was changed by chance gives the right counts, or an error with its file and line."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA

from rlready.registry.errors import RlreadyError
from rlready.workflow.importers.benchmarks import imported
from rlready.workflow.importers.reading import HowToRead, read

TRAINERS = DATA / "importers" / "trainers"
Rows = list[dict[str, Any]]


def total(score: Any) -> float:
    return sum(score) if isinstance(score, list) else score


ORACLES: dict[str, tuple[str, Path, Callable[[dict[str, Any]], tuple[Any, float]]]] = {
    "verl": (
        "verl",
        TRAINERS / "verl" / "val_generations" / "20.jsonl",
        lambda row: ((row["step"], row["input"], row["gts"]), row["acc"]),
    ),
    "verl_v1": (
        "verl",
        TRAINERS / "verl_v1" / "val_generations" / "20.jsonl",
        lambda row: ((row["step"], row["uid"].split("_")[0]), row["acc"]),
    ),
    "skyrl": (
        "skyrl",
        TRAINERS / "skyrl" / "dumped_evals" / "global_step_20_evals" / "toy_math.jsonl",
        lambda row: (
            (
                row["data_source"],
                row["input_prompt"],
                row["env_extras"]["reward_spec"]["ground_truth"],
            ),
            total(row["score"]),
        ),
    ),
    "nemo-rl": (
        "nemo-rl",
        TRAINERS / "nemo_rl" / "val_data_step20.jsonl",
        lambda row: (row["content"][0][0]["content"], row["rewards"][0]),
    ),
    "prime-rl": (
        "prime-rl",
        TRAINERS / "prime_rl" / "rollouts" / "step_20" / "eval" / "effective" / "traces.jsonl",
        lambda row: ((row["env"], row["example_id"]), row["traces"][0]["reward"]),
    ),
}
"""A second, simple reader of each file: the problem of a row, and its score."""

WRONG = st.sampled_from([math.nan, math.inf, None, "x", -1, 0.5, 10**400, [], {}, [1, 2], True])


@st.composite
def mangled(draw: st.DrawFn, text: str) -> str:
    """A file with a line cut, lost, doubled or moved, or a field lost or replaced."""
    rows: Rows = [json.loads(line) for line in text.splitlines()]
    at = draw(st.integers(0, len(rows) - 1))
    kind = draw(st.sampled_from(["cut", "lose", "double", "move", "drop", "replace", "nothing"]))
    if kind == "cut":
        return text[: draw(st.integers(1, len(text) - 1))]
    if kind == "lose":
        del rows[at]
    elif kind == "double":
        rows.insert(draw(st.integers(0, len(rows))), rows[at])
    elif kind == "move":
        rows.insert(draw(st.integers(0, len(rows) - 1)), rows.pop(at))
    elif kind in ("drop", "replace"):
        name = draw(st.sampled_from(sorted(rows[at])))
        if kind == "drop":
            del rows[at][name]
        else:
            rows[at][name] = draw(WRONG)
    return "".join(json.dumps(row) + "\n" for row in rows)


@settings(max_examples=250, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(ORACLES)))
def test_a_mangled_file_gives_the_right_counts_or_names_its_place(
    data: st.DataObject, name: str
) -> None:
    tool, source, of_row = ORACLES[name]
    text = data.draw(mangled(source.read_text()))
    with tempfile.TemporaryDirectory() as folder:
        # verl and SkyRL keep the step in the name of the file or its folder.
        path = Path(folder, source.parent.name, source.name)
        path.parent.mkdir()
        path.write_text(text)
        message, reading = "", None
        try:
            reading = read(tool, path, HowToRead(check=False))
        except RlreadyError as error:
            message = str(error)
    if reading is None:
        assert path.name in message
        assert "line" in message or "no file of" in message
        return
    found = {
        (each.n, each.c)
        for item in imported(reading, {})
        for step in item.steps
        for each in step.tool
    }
    n, c = Counter[Any](), Counter[Any]()
    for line in text.splitlines():
        key, score = of_row(json.loads(line))
        problem = json.dumps(key)  # an `env` may be an object
        n[problem] += 1
        c[problem] += score == 1
    assert found == {(n[problem], c[problem]) for problem in n}
    n_read = sum(
        each.n for item in imported(reading, {}) for step in item.steps for each in step.tool
    )
    assert n_read == sum(n.values())


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12),
    seed=st.randoms(use_true_random=False),
)
def test_rows_in_any_order_give_the_same_counts(counts: list[tuple[int, int]], seed: Any) -> None:
    """Problems may have different numbers of samples."""
    wanted = [(n, min(c, n)) for n, c in counts]
    rows = [
        {"problem": f"p{i}", "correct": int(j < c)}
        for i, (n, c) in enumerate(wanted)
        for j in range(n)
    ]
    seed.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mine.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (item,) = imported(read("table", path), {})
    found = {each.problem_id: (each.n, each.c) for each in item.steps[0].tool}
    assert found == {f"p{i}": pair for i, pair in enumerate(wanted)}


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.floats(0, 1), st.booleans()), min_size=1, max_size=15
)


@settings(max_examples=80, deadline=None)
@given(rows=STEPS)
def test_the_last_row_of_a_step_counts(rows: list[tuple[int, float, bool]]) -> None:
    """A resumed run logs steps again; rows of training alone stand between."""
    last = {step: value for step, value, _ in rows}
    text = ""
    for step, value, has_training in rows:
        if has_training:
            text += json.dumps({"_step": 1, "global_step": step, "reward": 3.0}) + "\n"
        text += json.dumps({"eval/global_step": step, "eval/eval_toy_pass1": value}) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "history.jsonl")
        path.write_text(text)
        reading = read("openrlhf", path)
    (curve,) = reading.curves
    assert curve.values() == sorted(last.items())
    steps = [step for step, _, _ in rows]
    if steps != sorted(steps):
        assert any("the last row of a step counts" in note for note in reading.notes)
