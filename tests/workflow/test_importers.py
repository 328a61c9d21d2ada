"""Files of trainers and evaluation tools give their exact counts, and mistakes are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import DATA

from rlready.evaluators.metrics.pass_at_k import mean_pass_at_k
from rlready.registry.errors import RlreadyError, SamplesError
from rlready.workflow.importers.benchmarks import Imported, StepCounts, imported
from rlready.workflow.importers.reading import HowToRead, Reading, read
from rlready.workflow.importers.tools.known import FORMS, TOOLS

FILES = DATA / "importers"
TRAINERS = FILES / "trainers"
EXPECTED = json.loads((TRAINERS / "expected.json").read_text())
WITHOUT_CHECK = HowToRead(check=False)

SAMPLES = {
    "verl": ("verl", "verl"),
    "verl_v1": ("verl", "verl_v1"),
    "trl": ("trl", "trl"),
    "prime_rl": ("prime-rl", "prime_rl"),
    "nemo_rl": ("nemo-rl", "nemo_rl"),
    "skyrl": ("skyrl", "skyrl"),
    "areal": ("areal", "areal"),
    "open_instruct": ("open-instruct", "open_instruct"),
    "ms_swift": ("ms-swift", "ms_swift"),
}
"""Tool and folder of the trainers that write samples."""

HARNESSES = {
    "lm-eval": FILES / "lm_eval",
    "lighteval": FILES / "lighteval",
    "inspect archive": FILES / "inspect" / "toy_math_zstd.eval",
    "inspect json": FILES / "inspect" / "toy_math.json",
    "prime-rl verifiers": FILES / "verifiers",
}
PASS_AT = {1: 0.425, 2: 0.557142857142857, 4: 0.685714285714286, 8: 0.8}


def only(reading: Reading, name: str | None = None) -> Imported:
    """The one benchmark of a reading, or the one with a name in the files."""
    found = [each for each in imported(reading, {}) if name in (None, each.series)]
    assert len(found) == 1
    return found[0]


def sorted_counts(step: StepCounts) -> list[tuple[int, int]]:
    return sorted((each.c, each.n) for each in step.tool)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_a_trainer_give_the_expected_counts(name: str) -> None:
    tool, folder = SAMPLES[name]
    reading = read(tool, TRAINERS / folder, WITHOUT_CHECK)
    stepped = [
        each for each in imported(reading, {}) if {step.step for step in each.steps} >= {0, 20}
    ]
    assert len(stepped) == 1
    for step in stepped[0].steps:
        counts = EXPECTED["counts"][str(step.step)]
        assert sorted_counts(step) == [(c, EXPECTED["n"]) for c in counts]
        for k in (1, 2, 4):
            expected = EXPECTED[f"step{step.step}_pass@{k}"]
            assert mean_pass_at_k(step.tool, k, name).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", HARNESSES)
def test_samples_of_an_evaluation_give_the_expected_pass_at_k(name: str) -> None:
    """The texts are there, so rlready's verdicts stand beside those of the tool."""
    item = only(read("auto", HARNESSES[name]))
    (step,) = item.steps
    for counts in (step.tool, step.checked):
        for k, expected in PASS_AT.items():
            assert mean_pass_at_k(counts, k, name).value == pytest.approx(expected, abs=1e-12)
    assert step.n_differ == 0
    truth = json.loads((FILES / "truth.json").read_text())
    by_problem = {each.problem_id: each.c for each in step.tool}
    assert by_problem == {str(i): sum(each["correct"]) for i, each in enumerate(truth)}


@pytest.mark.parametrize("name", ["verl", "verl_v1", "skyrl"])
def test_rlready_checks_the_texts_of_trainers_with_reference_answers(name: str) -> None:
    item = only(read(SAMPLES[name][0], TRAINERS / SAMPLES[name][1]))
    for step in item.steps:
        assert [each.c for each in step.checked] == [each.c for each in step.tool]
        assert step.n_differ == 0


@pytest.mark.parametrize(
    ("tool", "folder", "metric", "values"),
    [
        ("openrlhf", "openrlhf", "eval/eval_toy_math_pass1", [(0, 0.5), (20, 0.6875)]),
        ("slime", "slime", "eval/toy_math", [(0, 0.5), (20, 0.6875)]),
        ("tinker", "tinker", "test/env/all/reward/total", [(0, 0.5), (20, 0.6875)]),
        ("trl", "trl", "eval_rewards/accuracy_reward/mean", [(0, 0.5), (20, 0.6875)]),
        ("prime-rl", "prime_rl", "eval/toy-math/effective/main/avg@4", [(0, 0.5), (20, 0.6875)]),
        ("open-instruct", "open_instruct", "eval/pass_at_1", [(0, 0.5), (20, 0.6875)]),
        ("verl", "verl", "val-core/toy/math/acc/mean@4", [(0, 0.5), (20, 0.6875)]),
        # The run was resumed at step 10; the first segment ends with another value at step 20.
        ("skyrl", "skyrl_csv/metrics.csv", "eval/all/avg_score",
         [(0, 0.5), (10, 0.62), (20, 0.6875)]),
    ],
)  # fmt: skip
def test_logged_means_give_a_curve(tool: str, folder: str, metric: str, values: Any) -> None:
    reading = read(tool, TRAINERS / folder, WITHOUT_CHECK)
    (curve,) = [each for each in reading.curves if each.metric == metric]
    assert curve.meaning == "mean"
    assert curve.values() == values
    if tool == "skyrl":
        assert any("steps go back" in note for note in reading.notes)


@pytest.mark.parametrize("name", ["slime", "prime_rl", "open_instruct"])
def test_logged_unbiased_pass_at_k_is_that_of_the_counts(name: str) -> None:
    curves = read("auto", TRAINERS / name, WITHOUT_CHECK).curves
    by_k = {each.k: dict(each.values()) for each in curves if each.meaning == "pass@k"}
    for k in (1, 2, 4):
        for step in (0, 20):
            assert by_k[k][step] == pytest.approx(EXPECTED[f"step{step}_pass@{k}"], abs=1e-9)


def test_best_at_n_of_verl_is_never_taken_for_pass_at_k() -> None:
    """It is drawn with replacement: 0.67 at step 0, where pass@4 of the samples is 0.75."""
    best = [c for c in read("verl", TRAINERS / "verl").curves if "best@" in c.metric]
    assert best
    assert all(curve.meaning == "with replacement" and curve.k is None for curve in best)


def test_an_export_of_two_runs_gives_a_curve_for_each() -> None:
    path = TRAINERS / "skyrl_csv" / "wandb_export.csv"
    curves = {each.run: each.values() for each in read("verl", path).curves}
    assert curves == {
        "runA": [(0, 0.5), (10, 0.6), (20, 0.6875)],
        "runB": [(0, 0.25), (20, 0.5)],
    }
    assert [c.run for c in read("verl", path, HowToRead(run="runB")).curves] == ["runB"]
    with pytest.raises(SamplesError, match=r"no run 'runC'.*runA, runB"):
        read("verl", path, HowToRead(run="runC"))


def test_samples_without_a_name_get_that_of_the_log_if_its_means_agree() -> None:
    """Older dumps of verl do not name the data; its log does."""
    assert only(read("verl", TRAINERS / "verl", WITHOUT_CHECK)).benchmark == "toy_math"
    assert only(read("verl", TRAINERS / "verl_v1", WITHOUT_CHECK)).benchmark is None


def test_auto_finds_the_tool_of_every_fixture() -> None:
    folders = {folder: tool for tool, folder in SAMPLES.values()}
    folders |= {"openrlhf": "openrlhf", "slime": "slime", "tinker": "tinker"}
    for folder, tool in folders.items():
        assert read("auto", TRAINERS / folder, WITHOUT_CHECK).tool == tool
    for name, path in HARNESSES.items():
        assert read("auto", path, WITHOUT_CHECK).tool == name.split(" ")[0]


def test_files_of_several_tools_are_not_mixed(tmp_path: Path) -> None:
    shutil.copytree(TRAINERS / "skyrl", tmp_path / "a")
    shutil.copytree(TRAINERS / "areal", tmp_path / "b")
    with pytest.raises(SamplesError, match=r"files of 2 tools.*skyrl.*areal"):
        read("auto", tmp_path)
    assert read("areal", tmp_path, WITHOUT_CHECK).tool == "areal"
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "mine.csv").write_text("problem,n,c\na,4,2\n")
    reading = read("auto", tmp_path, WITHOUT_CHECK)
    assert reading.tool == "skyrl"
    assert any(path.name == "mine.csv" for path, _ in reading.left_out)


def test_a_file_of_another_tool_is_named_with_what_was_found() -> None:
    with pytest.raises(SamplesError) as caught:
        read("verl", TRAINERS / "areal")
    message = str(caught.value)
    assert "task_id, sample_idx" in message
    assert "These are files of areal: rlready import areal PATH" in message


def test_an_unknown_file_is_named_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"colour": "red"}\n')
    with pytest.raises(SamplesError, match=r"it has colour.*Expected: .*input, output, score"):
        read("verl", tmp_path)
    with pytest.raises(SamplesError, match=r"no file of a known tool.*colour.*Known tools: verl"):
        read("auto", tmp_path / "log.jsonl")
    with pytest.raises(SamplesError, match="unknown suffix"):
        read("auto", DATA / "README.md")
    with pytest.raises(SamplesError, match="there is no file or folder"):
        read("auto", tmp_path / "none")


def test_pickles_are_refused_and_never_read(tmp_path: Path) -> None:
    """The rollouts of slime are torch pickles; reading this one would run a command."""
    (tmp_path / "rollout_0.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(SamplesError, match="may hold a pickle"):
        read("slime", tmp_path)
    shutil.copy(TRAINERS / "slime" / "wandb_history.jsonl", tmp_path)
    (left_out,) = read("slime", tmp_path).left_out
    assert left_out[0].name == "rollout_0.pt"


def test_every_tool_of_the_command_has_a_form() -> None:
    from typing import get_args

    from rlready.workflow.importers.config import Source

    assert {*TOOLS, "auto", "registry"} == set(get_args(Source))
    assert {form.tool for form in FORMS} == set(TOOLS)


def line_of(path: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change one line of a file of JSON lines."""
    lines = path.read_text().splitlines()
    row = json.loads(lines[number - 1])
    change(row)
    lines[number - 1] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


def copied(tmp_path: Path, source: Path) -> Path:
    return Path(shutil.copy(source, tmp_path / source.name))


VERL = TRAINERS / "verl_v1" / "val_generations" / "0.jsonl"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("acc", float("nan"), r"line 3: the field acc is NaN"),
        ("acc", "yes", r"line 3: the field acc is 'yes', not a number"),
        ("acc", 0.3, r"line 3: the field acc is 0\.3, not 0 or 1.*--correct-above"),
        ("acc", 100.0, r"line 3: the field acc is 100, not 0 or 1.*--percent"),
        ("step", -1, r"line 3: the field step is -1, not a whole number of 0 or more"),
        ("input", None, r"line 3: the field input is null"),
        ("output", 7 * [1], r"line 3: the field output is 1, not a text"),
        ("gts", "8", r"line 3: problem p0 has the reference answer '8', and '7' in .*line 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_line(
    tmp_path: Path, field: str, value: object, expected: str
) -> None:
    path = copied(tmp_path, VERL)
    line_of(path, 3, lambda row: row.update({field: value}))
    with pytest.raises(SamplesError, match=rf"0\.jsonl, {expected}"):
        read("verl", path, WITHOUT_CHECK)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = copied(tmp_path, VERL)
    line_of(path, 3, lambda row: row.pop("output"))
    with pytest.raises(SamplesError, match=r"line 3: the field output is missing: the row has"):
        read("verl", path, WITHOUT_CHECK)


def test_a_line_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = copied(tmp_path, VERL)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(SamplesError, match=r"line 16 is not JSON.*The file ends here"):
        read("verl", path, WITHOUT_CHECK)


def test_scores_that_are_no_verdicts_need_a_limit(tmp_path: Path) -> None:
    """DAPO rewards are -1 and 1; a limit says which of them is correct."""
    path = copied(tmp_path, VERL)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{**row, "acc": None, "score": 2 * row["score"] - 1} for row in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SamplesError, match=r"score is -1, not 0 or 1"):
        read("verl", path, WITHOUT_CHECK)
    item = only(read("verl", path, HowToRead(check=False, correct_above=0.0)))
    assert sorted_counts(item.steps[0]) == [(0, 4), (1, 4), (3, 4), (4, 4)]


def test_problems_with_different_numbers_of_samples_are_noted(tmp_path: Path) -> None:
    """pass@k then averages over the problems that have k samples."""
    path = copied(tmp_path, VERL)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    reading = read("verl", path, WITHOUT_CHECK)
    assert any("1 of 4 problems do not have 4 samples" in note for note in reading.notes)
    assert sorted_counts(only(reading).steps[0]) == [(0, 4), (1, 4), (3, 3), (3, 4)]


def test_a_problem_that_occurs_twice_is_noted(tmp_path: Path) -> None:
    path = copied(tmp_path, TRAINERS / "verl" / "val_generations" / "0.jsonl")
    lines = path.read_text().splitlines()
    twice = [line for line in lines if json.loads(line)["gts"] == "60"]
    path.write_text("\n".join([*lines, *twice]) + "\n")
    reading = read("verl", path, WITHOUT_CHECK)
    assert any("probably occurs more than once" in note for note in reading.notes)
    assert (2, 8) in sorted_counts(only(reading).steps[0])


def test_a_document_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """lm-eval appends to its files, and two runs in one file would double the samples."""
    source = next((FILES / "lm_eval").glob("samples_toy_math_*"))
    path = copied(tmp_path, source)
    path.write_text(path.read_text() * 2)
    with pytest.raises(SamplesError, match=r"line 11: the field doc_id is 0, as in line 1"):
        read("lm-eval", path, WITHOUT_CHECK)


def test_a_mean_of_other_scores_than_0_and_1_is_refused(tmp_path: Path) -> None:
    path = copied(tmp_path, next((FILES / "lm_eval").glob("samples_toy_math_*")))
    line_of(path, 3, lambda row: row.update({"exact_match": 0.43}))
    with pytest.raises(
        SamplesError, match=r"line 3: the field exact_match is 0\.43, which is 3\.44"
    ):
        read("lm-eval", path, WITHOUT_CHECK)


def test_older_files_of_lm_eval_are_read(tmp_path: Path) -> None:
    """Before 0.4.3 a .jsonl file held a JSON list, without filters and names of metrics."""
    source = next((FILES / "lm_eval").glob("samples_toy_math_*"))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows = [row for row in rows if row["filter"] == "all8"]
    for row in rows:
        del row["filter"], row["metrics"]
        row["arguments"] = [[row["arguments"]["gen_args_0"]["arg_0"], {"until": []}]]
    path = tmp_path / "samples_toy_math.jsonl"
    path.write_text(json.dumps(rows, indent=1))
    item = only(read("auto", path))
    assert mean_pass_at_k(item.steps[0].tool, 8, "").value == pytest.approx(0.8)
    assert item.steps[0].n_differ == 0


def test_verdicts_of_texts_without_a_verdict_are_those_of_rlready(tmp_path: Path) -> None:
    """With the filter `first` alone, lm-eval judged one sample of eight; the texts are there."""
    source = next((FILES / "lm_eval").glob("samples_toy_math_*"))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    path = tmp_path / "samples_toy_math.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows if r["filter"] == "first"))
    (step,) = only(read("lm-eval", path)).steps
    assert not step.tool
    assert mean_pass_at_k(step.primary("tool"), 2, "").value == pytest.approx(PASS_AT[2])


def test_samples_on_which_the_verdicts_differ_are_counted(tmp_path: Path) -> None:
    path = copied(tmp_path, VERL)
    line_of(path, 1, lambda row: row.update({"acc": 1.0}))
    (step,) = only(read("verl", path)).steps
    assert step.n_differ == 1
    assert sum(each.c for each in step.tool) == sum(each.c for each in step.checked) + 1


def test_a_step_that_is_written_again_replaces_the_first(tmp_path: Path) -> None:
    """A resumed run of ms-swift appends to its file; AReaL appends to the file of a prompt."""
    path = copied(tmp_path, TRAINERS / "ms_swift" / "completions.jsonl")
    first = json.loads(path.read_text().splitlines()[0])
    wrong = {**first, "MathAccuracy": [0.0] * 16}
    path.write_text(json.dumps(wrong) + "\n" + path.read_text())
    reading = read("ms-swift", path, WITHOUT_CHECK)
    assert sorted_counts(only(reading).steps[0]) == [(0, 4), (1, 4), (3, 4), (4, 4)]
    assert any("16 samples were replaced by later rows" in note for note in reading.notes)


def test_columns_of_unequal_length_are_refused(tmp_path: Path) -> None:
    path = copied(tmp_path, TRAINERS / "ms_swift" / "completions.jsonl")
    line_of(path, 2, lambda row: row["completion"].pop())
    with pytest.raises(SamplesError, match=r"line 2: the field completion holds 15 values"):
        read("ms-swift", path, WITHOUT_CHECK)


def test_a_sample_without_a_score_is_unscored(tmp_path: Path) -> None:
    """TRL writes NaN where a reward function returned None."""
    import pyarrow as pa
    import pyarrow.parquet

    source = TRAINERS / "trl" / "completions" / "completions_00000.parquet"
    rows = pyarrow.parquet.read_table(source).to_pylist()
    rows[0]["accuracy_reward"] = float("nan")
    path = tmp_path / source.name
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    (step,) = only(read("trl", path, WITHOUT_CHECK)).steps
    assert sorted((e.n, e.n_unscored) for e in step.tool) == [(3, 1), (4, 0), (4, 0), (4, 0)]


def test_several_reward_functions_need_a_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    source = TRAINERS / "trl" / "completions" / "completions_00000.parquet"
    rows = pyarrow.parquet.read_table(source).to_pylist()
    rows = [{**row, "accuracy_strict": row["accuracy_reward"]} for row in rows]
    path = tmp_path / source.name
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(SamplesError, match=r"one of 2: accuracy_reward, accuracy_strict.*--score"):
        read("trl", path, WITHOUT_CHECK)
    item = only(read("trl", path, HowToRead(check=False, score="accuracy_strict")))
    assert sorted_counts(item.steps[0]) == [(0, 4), (1, 4), (3, 4), (4, 4)]


def test_records_of_verifiers_are_read(tmp_path: Path) -> None:
    """The form of `Episode` in verifiers 0.4; a rollout that failed is UNSCORED."""
    node = {"message": {"role": "assistant", "content": r"\boxed{7}"}, "sampled": True}
    agent = {"name": "agent", "config": {}}
    good = {"agent": agent, "ok": True, "nodes": [node],
            "rewards": {"correct": {"score": 1.0, "weight": 1.0}}}  # fmt: skip
    failed = {"agent": agent, "ok": False, "nodes": [], "rewards": {}, "errors": [{"type": "E"}]}
    task = {"type": "Task", "key": "k1", "data": {"idx": 3, "prompt": "3+4?", "answer": "7"}}
    run = {"type": "train", "id": "r", "work": {"type": "eval", "step": 20}}
    rows = [
        {"id": "e", "env": {"id": "x", "name": "gsm8k"}, "task": task, "run": run, "traces": [t]}
        for t in (good, good, failed)
    ]
    # An episode that failed before it had a trace is a sample, too; one that did not fail is wrong.
    rows.append({**rows[0], "ok": False, "traces": []})
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    item = only(read("auto", path))
    (step,) = item.steps
    assert (item.benchmark, step.step, item.is_training) == ("gsm8k", 20, False)
    assert [(e.problem_id, e.n, e.c, e.n_unscored) for e in step.tool] == [("k1", 2, 2, 2)]
    path.write_text("".join(json.dumps({**row, "traces": []}) + "\n" for row in rows[:1]))
    with pytest.raises(SamplesError, match=r"line 1.*traces is empty"):
        read("prime-rl", path)


def test_a_prompt_that_is_empty_is_refused(tmp_path: Path) -> None:
    source = TRAINERS / "skyrl" / "dumped_evals" / "global_step_20_evals" / "toy_math.jsonl"
    path = tmp_path / source.parent.name / source.name
    path.parent.mkdir()
    first, *others = source.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "input_prompt": []}), *others]))
    with pytest.raises(SamplesError, match=r"line 1.*input_prompt is empty"):
        read("skyrl", path)


def test_older_rollouts_of_verifiers_are_read(tmp_path: Path) -> None:
    message = [{"role": "assistant", "content": r"\boxed{7}"}]
    row = {"example_id": 1, "prompt": [{"role": "user", "content": "3+4?"}], "answer": "7",
           "completion": message, "reward": 1.0, "task": "gsm8k"}  # fmt: skip
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "reward": 0.0}) + "\n")
    (step,) = only(read("auto", path)).steps
    assert [(each.n, each.c) for each in step.tool] == [(2, 1)]
    assert [(each.n, each.c) for each in step.checked] == [(2, 2)]
    assert step.n_differ == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_plain_table_of_counts_is_read(tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    frame = pd.DataFrame({"problem_id": ["a", "b"], "n": [8, 8], "c": [2, 8]})
    path = tmp_path / f"mine{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    item = only(read("auto", path))
    assert item.benchmark == "mine"
    assert sorted_counts(item.steps[0]) == [(2, 8), (8, 8)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,4,5\n", r"line 2: the field c is 5, and n is 4"),
        ("a,4,2\na,4,2\n", r"line 3: the field n is given twice"),
        ("a,4,x\n", r"line 2: the field c is 'x', not a whole number"),
        ("a,4\n", r"line 2: 2 cells for 3 columns"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("problem,n,c\n" + rows)
    with pytest.raises(SamplesError, match=message):
        read("table", path)


def test_logged_scores_out_of_range_are_refused(tmp_path: Path) -> None:
    path = copied(tmp_path, TRAINERS / "openrlhf" / "wandb_history.jsonl")
    path.write_text(path.read_text().replace("0.6875", "68.75"))
    with pytest.raises(SamplesError, match=r"line 2: eval/eval_toy_math_pass1 is 68.75.*--percent"):
        read("openrlhf", path)
    path.write_text(
        path.read_text().replace("0.5", "50.0").replace("0.75", "75").replace("1.0,", "100,")
    )
    (mean,) = [c for c in read("openrlhf", path, HowToRead(percent=True)).curves if c.k is None]
    assert mean.values() == [(0, 0.5), (20, 0.6875)]


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    whole = HARNESSES["inspect archive"].read_bytes()
    path = tmp_path / "log.eval"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RlreadyError, match=r"log\.eval is damaged"):
        read("inspect", path)
    middle = whole.index(b"samples/2_epoch_3") + 60
    path.write_bytes(whole[:middle] + b"\0" * 9 + whole[middle + 9 :])
    with pytest.raises(RlreadyError, match=r"log\.eval"):
        read("inspect", path)


def test_samples_of_two_runs_are_not_added_up(tmp_path: Path) -> None:
    """A folder of results often holds several runs or models of the same task."""
    source = next((FILES / "lm_eval").glob("samples_toy_math_*"))
    shutil.copy(source, tmp_path / "samples_toy_math_2026-11-20T10-27-22.501286.jsonl")
    shutil.copy(source, tmp_path / "samples_toy_math_2026-11-21T10-27-22.501286.jsonl")
    with pytest.raises(SamplesError, match=r"samples of toy_math are in two files: .*Name one"):
        read("lm-eval", tmp_path, WITHOUT_CHECK)


def test_a_filter_of_lm_eval_can_be_named() -> None:
    path = next((FILES / "lm_eval").glob("samples_toy_math_*"))
    (step,) = only(read("lm-eval", path, HowToRead(score="exact_match,first"))).steps
    assert not step.tool  # the metric of this filter is that of one sample of eight
    with pytest.raises(SamplesError, match="has no filter 'last'"):
        read("lm-eval", path, HowToRead(check=False, score="exact_match,last"))


def test_a_message_without_content_is_an_empty_answer(tmp_path: Path) -> None:
    """Beside tool calls the content of a message is null."""
    path = copied(tmp_path, TRAINERS / "nemo_rl" / "val_data_step0.jsonl")
    line_of(path, 1, lambda row: row["content"][0][1].update({"content": None}))
    (item,) = imported(read("nemo-rl", path, WITHOUT_CHECK), {})
    assert sorted_counts(item.steps[0]) == [(0, 4), (1, 4), (3, 4), (4, 4)]


def test_rewards_of_older_versions_of_trl_are_read(tmp_path: Path) -> None:
    """Before 0.16 the mean of a reward function had no suffix."""
    history = [
        {"step": 0, "eval_rewards/accuracy_reward": 0.5, "eval_reward": 0.9},
        {"step": 5, "rewards/accuracy_reward": 0.6, "reward": 1.4, "loss": 0.1},
        {"step": 20, "eval_rewards/accuracy_reward": 0.6875, "eval_reward": 1.1},
    ]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history, "global_step": 20}))
    curves = {c.metric: c for c in read("auto", path).curves}
    assert curves["eval_rewards/accuracy_reward"].values() == [(0, 0.5), (20, 0.6875)]
    assert curves["rewards/accuracy_reward"].is_training
