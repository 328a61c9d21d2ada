"""`rlready preflight` on a small real model: its numbers, its page, its files and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.testbed import shipped_base
from rlready.workflow.cli.main import main
from rlready.workflow.rl_prompts.prompts import check_new_file, load_rl_prompts, write_filtered

EASY = [
    {"id": f"easy-{i}", "problem": f"Modulo ten, left to right: {i}+2-1+3", "answer": str(i + 4)}
    for i in range(4)
]
HARD = [
    {"id": "<script>alert(1)</script>", "problem": "Add digit by digit: 93847562+7", "answer": "9"},
    {"id": "hard-1", "problem": "Add digit by digit: 93847562+8", "answer": "9"},
]
REWARD = """
def length(prompt, completion, row):
    if row["n"] == 0:
        raise RuntimeError("no <b>reward</b>")
    return float(len(completion) > row["n"])
"""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def preflight(folder: Path, prompts: Path, *flags: str) -> Result:
    arguments = [
        *("preflight", str(shipped_base()), "--rl-prompts", str(prompts), "--group-size", "4"),
        *("--rl-max-tokens", "40", "--samples-dir", str(folder / "samples"), "--device", "cpu"),
        *("--out", str(folder / "page.html"), *flags),
    ]
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished preflight, and what it printed."""
    folder = tmp_path_factory.mktemp("preflight")
    prompts = write_rows(folder / "rl.jsonl", [*EASY, *HARD, EASY[0]])
    sft = [{"prompt": EASY[1]["problem"].upper(), "response": "5"}]
    result = preflight(
        folder,
        prompts,
        *("--samples", "6", "--groups", "10", "--json"),
        *("--sft-data", str(write_rows(folder / "sft.jsonl", sft))),
        *("--write-filtered", str(folder / "kept.jsonl")),
    )
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_the_numbers_are_those_of_the_stored_samples(
    done: tuple[Path, dict[str, Any]],
) -> None:
    folder, values = done
    solved: dict[str, int] = {}
    for part in folder.glob("samples/*/*/part-*.parquet"):
        for row in pq.read_table(part).to_pylist():
            solved[row["problem_id"]] = solved.get(row["problem_id"], 0) + (
                row["verdict"] == "correct"
            )
    assert len(solved) == values["n_prompts"] == 6
    assert values["n_rows"] == 7
    assert values["n_repeated"] == 1
    assert values["mean_reward"]["value"] == pytest.approx(sum(solved.values()) / 36)
    assert set(values["never_solved"]) == {id_ for id_, n in solved.items() if n == 0}
    assert set(values["all_solved"]) == {id_ for id_, n in solved.items() if n == 6}
    assert {HARD[0]["id"], HARD[1]["id"]} <= set(values["never_solved"])
    useful = values["useful_share"]
    assert useful == pytest.approx(1 - values["groups_without_variance"]["value"])
    assert values["batch"]["useful"] == pytest.approx(10 * useful)
    assert values["overlap"][0]["exact"] == ["easy-1"]


def test_the_filtered_file_has_the_rows_whose_rewards_vary(
    done: tuple[Path, dict[str, Any]],
) -> None:
    folder, values = done
    rows = [json.loads(line) for line in (folder / "kept.jsonl").read_text().splitlines()]
    dropped = set(values["without_gradient"])
    assert rows == [row for row in [*EASY, *HARD, EASY[0]] if row["id"] not in dropped]
    assert values["filtered"]["n_rows"] == len(rows)


def test_the_page_is_escaped_and_needs_nothing_else(
    done: tuple[Path, dict[str, Any]],
) -> None:
    text = (done[0] / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "http" not in text.replace("http-equiv", "")
    assert done[1]["verdict"]["text"].split(":")[0] in text


def test_a_repeated_call_draws_nothing(
    done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, values = done

    def refuse(*_: object) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr("rlready.workflow.evaluate.evaluator.open_sampler", refuse)
    again = preflight(folder, folder / "rl.jsonl", "--samples", "6", "--json")
    assert json.loads(again.stdout)["mean_reward"] == values["mean_reward"]
    shown = preflight(folder, folder / "rl.jsonl", "--samples", "6")
    assert shown.exit_code == 0
    assert "useful groups in a batch" in shown.stdout


def test_a_start_whose_groups_are_all_wrong_is_stopped(tmp_path: Path) -> None:
    rows = [
        {"problem": f"Add digit by digit: {i}{10**8 + 7 * i}+{i}{987654321 - i}", "answer": "1"}
        for i in range(1, 17)
    ]
    prompts = write_rows(tmp_path / "rl.jsonl", rows)
    new = tmp_path / "kept.jsonl"
    result = preflight(tmp_path, prompts, "--json", "--write-filtered", str(new))
    values = json.loads(result.stdout)
    assert values["verdict"]["level"] == "stop"
    assert values["verdict"]["text"].startswith("Do not start GRPO")
    assert values["batch"]["chance_of_none"] == 1.0
    assert {finding["topic"] for finding in values["advice"]} >= {"difficulty", "filter"}
    assert not new.exists()
    assert values["filtered"] is None


def test_a_reward_function_takes_the_place_of_reference_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARD)
    rows = [
        {"prompt": [{"role": "user", "content": f"Left to right, make {n} of 1, 2"}], "n": n}
        for n in (0, 1, 10_000)
    ]
    prompts = write_rows(tmp_path / "rl.jsonl", rows)
    result = preflight(tmp_path, prompts, "--reward", "mine:length", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["n_unscored"] == 4
    assert values["unscored_reasons"] == {"it raised RuntimeError: no <b>reward</b>": 4}
    assert values["n_prompts_too_few_scored"] == 1
    assert len(values["never_solved"]) == 1
    assert values["format_gap"] is None
    assert "no &lt;b&gt;reward&lt;/b&gt;" in (tmp_path / "page.html").read_text()
    assert values["advice"][0]["topic"] == "unscored"
    useless = write_rows(tmp_path / "useless.jsonl", [{"prompt": "2+2", "n": 0}])
    failed = preflight(tmp_path, useless, "--reward", "mine:length")
    assert failed.exit_code == 2
    assert "no prompt has 4 samples with a reward" in failed.output
    assert "it raised RuntimeError: no <b>reward</b> (4)" in failed.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--samples", "3"), "--samples 3 with --group-size 4"),
        (("--temperature", "0"), "greedy samples are all equal"),
        (("--reward", "nothing"), "does not name a function"),
        (("--reward", "no_such_module:f"), "cannot be loaded"),
        (("--write-filtered", "rl.jsonl"), "an existing file is never overwritten"),
        (("--write-filtered", "kept.csv"), "Give a name that ends in .jsonl"),
        (("--sft-data", "none.jsonl"), "none.jsonl"),
        (("--out", "nowhere/page.html"), "there is no folder nowhere"),
        ((), "has no reference answer"),
    ],
)
def test_a_mistake_is_reported_before_any_sample_is_drawn(
    flags: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"problem": "2+2", "answer": "4"} if flags else {"problem": "2+2"}
    result = preflight(tmp_path, write_rows(tmp_path / "rl.jsonl", [row]), *flags)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "samples").exists()


def test_prompts_without_answers_say_how_to_give_a_reward(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rl.jsonl", [{"problem": "2+2", "answer": "4"}, {"problem": "3"}])
    with pytest.raises(BenchmarkError, match=r"line 2.*--reward module:function"):
        load_rl_prompts(path, has_answers=True)
    assert len(load_rl_prompts(path, has_answers=False).problems) == 2
    with pytest.raises(BenchmarkError, match="holds no prompts"):
        load_rl_prompts(write_rows(tmp_path / "empty.jsonl", []), has_answers=False)


def test_rows_of_several_sources_that_share_ids_stay_apart(tmp_path: Path) -> None:
    rows = [
        {"id": 0, "problem": "2+2", "answer": "4"},
        {"id": 0, "problem": "3+3", "answer": "6"},
        {"id": 0, "problem": "2+2", "answer": "4"},
    ]
    prompts = load_rl_prompts(write_rows(tmp_path / "rl.jsonl", rows), has_answers=True)
    assert prompts.ids == ("0", "0#2", "0")
    assert prompts.n_repeated == 1
    assert prompts.first_rows()["0#2"]["problem"] == "3+3"


def test_a_random_part_of_the_prompts_is_the_same_for_a_seed(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+2", "answer": "4"} for i in range(20)]
    prompts = load_rl_prompts(write_rows(tmp_path / "rl.jsonl", rows), has_answers=True)
    assert prompts.drawn(5, 1).problems == prompts.drawn(5, 1).problems
    assert prompts.drawn(5, 1).problems != prompts.drawn(5, 2).problems
    assert prompts.drawn(99, 1) == prompts.drawn(None, 1) == prompts


def test_filtered_parquet_keeps_its_columns_and_unmeasured_rows(tmp_path: Path) -> None:
    path, new = tmp_path / "rl.parquet", tmp_path / "kept.parquet"
    table = pa.table(
        {
            "prompt": [[{"role": "user", "content": text}] for text in ("2+2", "3+3", "4+4")],
            "reward_model": [{"ground_truth": text, "style": "rule"} for text in "468"],
            "extra": pa.array([1, 2, 3], pa.int8()),
        }
    )
    pq.write_table(table, path)
    prompts = load_rl_prompts(path, has_answers=True)
    assert prompts.rows[0]["extra"] == 1
    check_new_file(new, path)
    assert write_filtered(prompts.drawn(2, 0), [prompts.ids[1]], new) == 2
    assert pq.read_table(new).equals(table.take([0, 2]))
    with pytest.raises(ConfigError, match="cannot write"):
        write_filtered(prompts, [], new)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".tmp")] == []
