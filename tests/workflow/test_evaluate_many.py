"""Several checkpoints in one call: real weights, a real MLflow database, and what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main
from rlready.workflow.evaluate.checkpoint_list import read_list
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.jobs import FailedEvaluation, in_children, shared_engine

Run = Callable[..., Result]

N_PROBLEMS, N_SAMPLES = 3, 4


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints a, b and c, and with what is no checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate("abc"):
        untrained_checkpoint(folder / name, seed=seed)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Run:
    """Runs `rlready evaluate` on a small benchmark and one held-out set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    rows = [{"id": str(i), "problem": f"{i}+2", "answer": str(i + 2)} for i in range(N_PROBLEMS)]
    toy = write(tmp_path / "toy.jsonl", *map(json.dumps, rows))
    shared = ["--benchmark", f"toy={toy}", "--samples", N_SAMPLES, "--max-tokens", 6]
    shared += ["--device", "cpu", "--batch-size", 4]
    return lambda *flags: CliRunner().invoke(main, ["evaluate", *map(str, [*flags, *shared])])


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def measured(result: Result, exit_code: int = 0) -> dict[str, Any]:
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def metrics(report: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry["metrics"] for entry in report["evaluations"]}


@pytest.mark.slow
def test_one_that_cannot_be_measured_does_not_stop_the_others(run: Run, checkpoints: Path) -> None:
    a, empty, b = (checkpoints / name for name in ("a", "empty", "b"))
    result = run(a, empty, b, "--json")
    report = measured(result, exit_code=2)
    assert [entry["name"] for entry in report["evaluations"]] == ["a", "b"]
    assert all(
        entry["samples"]["drawn"] == N_PROBLEMS * N_SAMPLES for entry in report["evaluations"]
    )
    (failure,) = report["failed"]
    assert failure["checkpoint"] == str(empty)
    assert "holds no config.json" in failure["error"]
    assert f"error: {empty}: " in result.stderr
    assert "Traceback" not in result.stderr
    assert {stored.checkpoint.name for stored in MlflowStore().checkpoints()} == {"a", "b"}
    alone = json.loads(run(a, "--json").stdout)
    assert alone["metrics"] == metrics(report)["a"]
    assert alone["samples"]["drawn"] == 0


@pytest.mark.slow
def test_every_checkpoint_is_checked_before_the_first_is_measured(
    run: Run, checkpoints: Path
) -> None:
    result = run(f"{checkpoints / 'a'},{checkpoints / 'empty'}", checkpoints / "a")
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "holds no config.json" in told
    assert "holds the same weights as" in told
    assert told.index("same weights") < told.index("Loading")
    assert "1 of 3 checkpoints measured" in result.stdout


@pytest.mark.slow
def test_a_list_says_what_is_known_of_each(run: Run, checkpoints: Path) -> None:
    write(checkpoints / "held.jsonl", json.dumps({"prompt": "1+1", "response": "2"}))
    write(checkpoints / "recipe.toml", "epochs = 2")
    listed = write(
        checkpoints / "list.toml",
        '[[checkpoint]]\ncheckpoint = "a"\nname = "first"\nstep = 7\nkind = "base"',
        '[[checkpoint]]\ncheckpoint = "b"\nrecipe = "recipe.toml"\nheld_out = ["h=held.jsonl"]',
    )
    report = measured(run("--list", listed, "--json"))
    assert {name: list(found) for name, found in metrics(report).items()} == {
        "first": ["toy"],
        "b": ["toy", "h"],
    }
    stored = {entry.checkpoint.name: entry.checkpoint for entry in MlflowStore().checkpoints()}
    assert (stored["first"].step, stored["first"].kind) == (7, "base")
    assert stored["b"].recipe is not None
    assert stored["b"].recipe.epochs == 2
    write(listed, '[[checkpoint]]\ncheckpoint = "a"\nstep = 8')
    result = run("--list", listed, checkpoints / "c", "--json")
    report = measured(result, exit_code=2)
    assert list(metrics(report)) == ["c"]
    assert "step 7" in report["failed"][0]["error"]


@pytest.mark.slow
def test_several_at_a_time_find_what_one_after_the_other_find(
    run: Run, checkpoints: Path, tmp_path: Path
) -> None:
    a, b = checkpoints / "a", checkpoints / "b"
    at_once = measured(run(a, b, "--jobs", 2, "--json"))
    assert all(entry["is_new"] for entry in at_once["evaluations"])
    in_turn = measured(run(a, b, "--samples-dir", tmp_path / "again", "--json"))
    assert metrics(in_turn) == metrics(at_once)
    assert [e["evaluation_id"] for e in in_turn["evaluations"]] == [
        e["evaluation_id"] for e in at_once["evaluations"]
    ]
    assert len(MlflowStore().checkpoints()) == 2


CHILD = """#!{python}
import json, os, signal, sys
config = json.load(sys.stdin)
name = config["checkpoint"]
if name == "dies":
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
print("talk of some library")
print(json.dumps({{"error": "bad"}} if name == "refused" else {{"in": os.environ["PLACE"]}}))
"""


def test_a_child_that_dies_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = write(tmp_path / "child", CHILD.format(python=sys.executable))
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    names = ["dies", "a", "refused", "b", "c"]
    configs = {i: EvaluateConfig(checkpoint=name) for i, name in enumerate(names)}
    found = dict(in_children(configs, [{"PLACE": "0"}, {"PLACE": "1"}]))
    assert set(found) == set(configs)
    died = found[0]
    assert isinstance(died, FailedEvaluation)
    assert died.error == "its process ended with code -9: last words"
    assert found[2] == FailedEvaluation(checkpoint="refused", error="bad")
    places = [found[i]["in"] for i in (1, 3, 4) if isinstance(found[i], dict)]
    assert set(places) <= {"0", "1"}
    assert len(places) == 3


def test_a_configuration_survives_the_way_to_a_child(tmp_path: Path) -> None:
    config = EvaluateConfig(
        checkpoint="a",
        benchmarks=("x=y,z.jsonl",),
        target_se=0.02,
        recipe=tmp_path / "recipe.toml",
        kind="base",
    )
    assert EvaluateConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_evaluations_at_a_time_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = EvaluateConfig(checkpoint="a")
    with shared_engine(config, 2) as (environments, _):
        assert environments == [
            {"CUDA_VISIBLE_DEVICES": "0,1"},
            {"CUDA_VISIBLE_DEVICES": "2,3"},
        ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    with shared_engine(config, 3) as (environments, _):
        shown = [environment["CUDA_VISIBLE_DEVICES"] for environment in environments]
        assert shown == ["2", "3", "5"]
    with pytest.raises(ConfigError, match="torch sees 4 GPUs"), shared_engine(config, 5):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "checkpoint is missing"),
        ("checkpoint = 3", "It should be a valid list"),
        ("checkpoint = [3]", r"It should be a table: write \[checkpoint\[0\]\]"),
        ("seed = 1\n[[checkpoint]]\ncheckpoint = 'a'", "unknown key 'seed'"),
        ("[[checkpoint]]\nname = 'a'", r"checkpoint\[0\].checkpoint is missing"),
        (
            "[[checkpoint]]\ncheckpoint = 'a'\n[[checkpoint]]\ncheckpoint = 3",
            r"checkpoint\[1\].checkpoint is 3",
        ),
        (
            "[[checkpoint]]\ncheckpoint = 'a'\nseed = 1",
            "unknown key 'seed'.*Known keys: checkpoint, name",
        ),
        (
            "[[checkpoint]]\ncheckpoint = 'a'\nstep = '1'",
            "step is '1'. It should be a valid integer",
        ),
        ("[[checkpoint]]\ncheckpoint = 'a'\nstep = true", "step is True"),
        (
            "[[checkpoint]]\ncheckpoint = 'a'\nparents = [1]",
            r"parents\[0\] is 1. It should be a valid string",
        ),
        ("[[checkpoint]]\ncheckpoint = 'a'\nkind = 'best'", "It should be 'base', 'sft' or 'rl'"),
        ("[[checkpoint]]\ncheckpoint = 'a'\nheld_out = ['x y=h']", "held-out set has the name"),
        ("[[checkpoint]", "is not a TOML file"),
    ],
)
def test_an_invalid_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_list(write(tmp_path / "list.toml", text))


def test_a_folder_beside_the_list_comes_before_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "org" / "here").mkdir(parents=True)
    lines = [f'[[checkpoint]]\ncheckpoint = "{name}"' for name in ("org/here", "org/there")]
    entries = read_list(write(tmp_path / "list.toml", *lines))
    assert [entry["checkpoint"] for entry in entries] == [str(tmp_path / "org/here"), "org/there"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no checkpoint is named"),
        (["a", "b", "--name", "x"], "--name x is given for several"),
        (["a", "--jobs", "0"], "--jobs is 0"),
        (["--list", "none.toml"], "cannot read none.toml"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_told(run: Run, flags: list[str], message: str) -> None:
    result = run(*flags)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
