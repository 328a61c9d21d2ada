"""Bad input at the command line: exit code 2, a message that helps, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from transformers.trainer_callback import TrainerState

from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main
from rlready.workflow.evaluate.config import EvaluateConfig

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sft")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    return lambda *flags: CliRunner().invoke(main, [str(flag) for flag in flags])


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def problems(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


GOOD = {"id": "1", "problem": "1+1", "answer": "2"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k", "1,128"], "pass@128 from 64 samples"),
        (["--k", "0,1"], "--k contains 0"),
        (["--k", "one"], "not a valid integer"),
        (["--samples", "0"], "--samples is 0"),
        (["--temperature", "0"], "greedy decoding gives the same sample"),
        (["--engine", "warp"], "Known engines: auto, hf"),
        (["--suite", "math8"], "math7"),
        (["--limit", "0"], "--limit is 0"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--batch-size", "many"], "not a valid integer"),
        (["--kind", "best"], "is not one of"),
        (["--top-p", "2"], "top-p is 2"),
        (["--device", "tpu:x"], "is not a device"),
        (["--prompt-template", "none.txt"], "cannot read none.txt"),
        (["--recipe", "none.toml"], "cannot read none.toml"),
        (["--parent", "0123abcd"], "no checkpoint '0123abcd' in the registry"),
        (["--held-out", "none.jsonl"], "none.jsonl"),
        (["--benchmark", "toy=none.jsonl"], "none.jsonl"),
        (["--samples-dir", "/proc/none"], "cannot write"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_told(
    run: Run, checkpoint: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    toy = problems(tmp_path / "toy.jsonl", GOOD)
    assert message in refused(run("evaluate", checkpoint, "--benchmark", f"a={toy}", *flags))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"id": "1", "problem": "1+1"}'], "answer"),
        ([GOOD, GOOD], "'1'"),
        ([""], "no problems"),
        ([GOOD, "{broken"], "line 2"),
        ([{**GOOD, "answer": "\\frac{"}], "problem 1 has '\\\\frac{'"),
    ],
)
def test_a_bad_benchmark_is_told_with_its_place(
    run: Run, checkpoint: Path, tmp_path: Path, rows: list[object], message: str
) -> None:
    toy = problems(tmp_path / "toy.jsonl", *rows)
    flags = ("--samples", 1, "--max-tokens", 4)
    text = refused(run("evaluate", checkpoint, "--benchmark", f"toy={toy}", *flags))
    assert message in text
    assert "toy" in text


def test_a_heldout_example_without_response_is_told(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    held = problems(tmp_path / "held.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "a"})
    text = refused(run("evaluate", checkpoint, "--held-out", held))
    assert "line 2" in text
    assert "response" in text


def test_two_things_of_one_name_are_told(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    toy = problems(tmp_path / "toy.jsonl", GOOD)
    held = problems(tmp_path / "held.jsonl", {"prompt": "a", "response": "b"})
    text = refused(
        run("evaluate", checkpoint, "--benchmark", f"x={toy}", "--held-out", f"x={held}")
    )
    assert "x is the name of more than one" in text


def test_a_folder_that_is_no_checkpoint_is_told(run: Run, tmp_path: Path) -> None:
    assert "holds no config.json" in refused(run("evaluate", tmp_path))


def test_an_unknown_checkpoint_is_told(run: Run) -> None:
    assert "`rlready list` shows them" in refused(run("show", "nothing"))


def test_an_empty_registry_says_how_to_fill_it(run: Run) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "`rlready evaluate FOLDER` adds one" in " ".join(result.output.split())
    assert json.loads(run("list", "--json").output)["checkpoints"] == []


@pytest.mark.slow
def test_a_measured_checkpoint_is_listed_and_shown(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    toy = problems(tmp_path / "toy.jsonl", GOOD)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("epochs = 2\nnoise = 0.1\n[sources]\neasy = 1.0\n")
    done = run(
        *("evaluate", checkpoint, "--benchmark", f"toy={toy}", "--samples", 4, "--k", "1,4"),
        *("--max-tokens", 4, "--recipe", recipe, "--step", 7, "--name", "first [red]one"),
    )
    assert done.exit_code == 0, done.output
    assert "mlflow ui" in done.output
    listed = json.loads(run("list", "--json").output)["checkpoints"]
    assert [entry["name"] for entry in listed] == ["first [red]one"]
    shown = json.loads(run("show", listed[0]["checkpoint_id"][:8], "--json").output)
    assert shown["step"] == 7
    assert shown["recipe"] == {"epochs": 2, "noise": 0.1, "sources": {"easy": 1.0}}
    assert {proxy["name"] for proxy in shown["proxies"]} >= {"pass_at_1", "pass_at_4"}
    assert "first [red]one" in run("show", "first [red]one").output
    text = refused(run("evaluate", checkpoint, "--benchmark", f"toy={toy}", "--step", 8))
    assert "step 7" in text
    child = run("evaluate", checkpoint, "--held-out", "x", "--parent", listed[0]["checkpoint_id"])
    assert child.exit_code == 2
    # The state that a Trainer left does not contradict what was said before.
    trained = tmp_path / "checkpoint-500"
    shutil.copytree(checkpoint, trained)
    TrainerState(global_step=500).save_to_json(str(trained / "trainer_state.json"))
    again = ("evaluate", trained, "--benchmark", f"toy={toy}", "--samples", 4, "--k", "1,4",
             "--max-tokens", 4)  # fmt: skip
    assert run(*again).exit_code == 0
    assert json.loads(run("show", "first [red]one", "--json").output)["step"] == 7


@pytest.mark.slow
def test_a_folder_of_a_trainer_has_its_step_and_an_unknown_base_model_is_named(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "checkpoint-500"
    shutil.copytree(checkpoint, trained)
    TrainerState(global_step=500, max_steps=1000).save_to_json(str(trained / "trainer_state.json"))
    toy = problems(tmp_path / "toy.jsonl", GOOD)
    flags = ("--benchmark", f"toy={toy}", "--samples", 1, "--k", 1, "--max-tokens", 4)
    done = run("evaluate", trained, *flags)
    assert done.exit_code == 0, done.output
    assert 'Name it: base_model = "org/name"' in " ".join(done.stderr.split())
    (listed,) = json.loads(run("list", "--json").output)["checkpoints"]
    assert listed["step"] == 500


def test_the_default_ladder_of_k_ends_at_the_samples() -> None:
    assert EvaluateConfig(checkpoint="x", samples=64).k == (1, 4, 16, 64)
    assert EvaluateConfig(checkpoint="x", samples=100).k == (1, 4, 16, 64)
    assert EvaluateConfig(checkpoint="x", samples=8).k == (1, 4)


def test_without_any_data_the_suite_is_math7() -> None:
    assert EvaluateConfig(checkpoint="x").suite == "math7"
    assert EvaluateConfig(checkpoint="x", held_out=("a",)).suite is None
