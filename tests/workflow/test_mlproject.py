"""`mlflow run` from the folder of the caller: its paths, its code, its values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml
from places import ROOT

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.testbed.training.model import untrained_checkpoint
from rlready.testbed.world.benchmarks import write_benchmarks, write_heldout
from rlready.testbed.world.measure import protocol
from rlready.workflow.cli import mlproject
from rlready.workflow.cli.mlproject import DEMONSTRATION, command_words

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
MANAGERS = os.environ.get("RLREADY_TEST_MLFLOW_ENVS", "").split()

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def entry_point(name: str, **given: str) -> list[str]:
    """What MLflow's command passes to `mlproject.main`, after the process."""
    parameters = {flag: p.get("default") for flag, p in ENTRY_POINTS[name]["parameters"].items()}
    parameters |= {flag.replace("_", "-"): value for flag, value in given.items()}
    words = ENTRY_POINTS[name]["command"].split()[3:]
    return [str(parameters[w[1:-1]]) if w.startswith("{") else w for w in words]


def flags(words: list[str]) -> dict[str, str]:
    return dict(zip(words[1::2], words[2::2], strict=False))


def test_an_entry_point_told_nothing_demonstrates(capsys: pytest.CaptureFixture[str]) -> None:
    words = command_words(entry_point("evaluate"))
    assert words[-2:] == ["--", str(ROOT / "testbed/base_model")]
    assert flags(words).items() >= DEMONSTRATION.items()
    assert "This is the demonstration" in capsys.readouterr().err


def test_the_demonstration_keeps_what_was_given() -> None:
    given = {"samples": "3", "max_tokens": "9", "experiment": "mine"}
    words = flags(command_words(entry_point("evaluate", **given)))
    assert (words["--samples"], words["--max-tokens"], words["--experiment"]) == ("3", "9", "mine")


@pytest.mark.parametrize("subject", ["checkpoint", "list", "benchmark", "base", "held_out"])
def test_whatever_names_something_to_measure_is_no_demonstration(
    subject: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command_words(entry_point("evaluate", **{subject: "x"}))
    assert flags(words)["--experiment"] == "rlready"
    assert words[-1] == ("x" if subject == "checkpoint" else "")
    assert capsys.readouterr().err == ""


def test_the_demonstrations_files_are_the_testbeds(tmp_path: Path) -> None:
    write_benchmarks(tmp_path / "inputs", 20)
    write_heldout(tmp_path / "inputs", 40)
    shipped = ROOT / "testbed/demonstration"
    for name in ("before/chain_hard.jsonl", "before/add3.jsonl", "heldout_canonical.jsonl"):
        assert (shipped / Path(name).name).read_text() == (tmp_path / "inputs" / name).read_text()
    assert (shipped / "prompt.txt").read_text() == protocol().prompt_template + "\n"


def test_true_and_false_stand_for_a_flag_without_a_value() -> None:
    assert "--dry-run" not in command_words(entry_point("tag"))
    words = command_words(entry_point("tag", dry_run="true"))
    assert words[words.index("--dry-run") + 1].startswith("--")
    with pytest.raises(click.BadParameter):
        command_words(entry_point("tag", dry_run="perhaps"))


def test_a_positional_value_is_never_read_as_a_flag() -> None:
    assert command_words(entry_point("show", checkpoint="--help"))[-2:] == ["--", "--help"]


def test_an_environment_without_dependencies_is_told() -> None:
    words = [sys.executable, "-S", str(ROOT / "workflow/launch/run.py"), "1", "list"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"-m pip install '{ROOT}[local]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_caller_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container, for example, `mlflow run` is no process that we see."""
    monkeypatch.chdir(tmp_path)
    given = {"table": "none.csv", "target": "y", "features": "x"}
    with pytest.raises(SystemExit) as end:
        mlproject.main(["0x", *entry_point("validate", **given)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"note: relative paths are looked up in {tmp_path}, because the folder" in said
    assert "none.csv" in said


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sft")


@pytest.fixture
def caller(tmp_path: Path, checkpoint: Path, empty_database: Path) -> Path:
    """A folder with inputs whose names are awkward; it holds MLflow's database too."""
    folder = tmp_path / "caller's folder"
    (folder / "runs").mkdir(parents=True)
    shutil.copytree(checkpoint, folder / "runs/sft 3, second")
    shutil.copy(empty_database, folder / "mlflow.db")
    problem = {"id": "1", "problem": "1+1", "answer": "2"}
    for name in ("toy, easy.jsonl", "two.jsonl"):
        (folder / name).write_text(json.dumps({**problem, "problem": name}))
    (folder / "it's held.jsonl").write_text(json.dumps({"prompt": "1+1", "response": "2"}))
    return folder


@pytest.fixture
def run(caller: Path) -> Run:
    """Types `mlflow run PROJECT -e ENTRY_POINT ...` in the caller's folder."""

    def typed(
        project: str | Path, entry: str, manager: str | None = "local", /, **given: str
    ) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "mlflow", "run", str(project), "-e", entry]
        # Not the experiment 0, whose artifacts go to where the template of the database was made.
        words += ["--experiment-name", "rlready"]
        words += [f"--env-manager={manager}"] if manager else []
        words += [w for k, v in given.items() for w in ("-P", f"{k.replace('_', '-')}={v}")]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # PWD is that of another folder, as for any child that is started with `cwd`.
        env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PWD": "/"}
        env.pop("PYTHONPATH", None)
        return subprocess.run(words, cwd=caller, env=env, capture_output=True, text=True)

    return typed


@pytest.mark.slow
def test_relative_paths_mean_the_callers_folder(run: Run, caller: Path) -> None:
    before = set(os.listdir(ROOT))
    given = {
        "checkpoint": "runs/sft 3, second",
        "benchmark": "toy=toy, easy.jsonl,two=two.jsonl",
        "held_out": "it's held.jsonl",
        "samples": "2",
        "max_tokens": "4",
        "name": "a \"name\", with $HOME and 'quotes'",
    }
    done = run(ROOT, "evaluate", **given)
    assert done.returncode == 0, done.stderr
    assert set(os.listdir(ROOT)) == before
    (stored,) = MlflowStore(f"sqlite:///{caller}/mlflow.db").checkpoints()
    assert stored.checkpoint.name == given["name"]
    assert stored.checkpoint.uri == (caller / "runs/sft 3, second").as_uri()
    assert {p.benchmark for p in stored.proxies if p.name == "pass_at_1"} >= {"toy", "two"}
    assert list(caller.glob("samples/*/*/part-*.parquet"))

    key = "value_at_budget/200steps@toy"
    outcome = {"algorithm": "grpo", "budget": "200", "budget_unit": "steps", "value": "0.5"}
    done = run(ROOT, "outcome", checkpoint=stored.checkpoint.id, benchmark="toy", **outcome)
    assert done.returncode == 0, done.stderr
    done = run(ROOT, "evaluate", list="runs/missing.toml")
    assert done.returncode == 1  # MLflow's, whatever ours is
    assert "cannot read runs/missing.toml" in done.stderr
    assert f"note: relative paths were looked up in {caller}" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(ROOT, "table", target=key, out="table 1.csv")
    assert done.returncode == 0, done.stderr
    assert (caller / "table 1.csv").read_text().count("\n") == 2


def a_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a Git repository with the files of this project, one of which says whose it is.

    MLflow takes a `file://` URI for a folder and does not clone it, so Git is told to read from a
    folder what is said to be on a server.
    """
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    with (folder / "tree/registry/errors.py").open("a") as module:
        module.write("\nimport sys\n\nsys.stderr.write('the code of the clone\\n')\n")
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for words in (
        ["init", "--quiet", "--initial-branch=main", "."],
        ["add", "--all"],
        [*who, "commit", "--quiet", "--message=As it is"],
        ["clone", "--quiet", "--bare", ".", str(folder / "project.git")],
    ):
        subprocess.run(["git", *words], cwd=folder / "tree", check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{folder}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.invalid/")
    return "https://git.invalid/project.git"


@pytest.mark.slow
def test_a_git_uri_runs_its_own_code_and_leaves_nothing_in_the_clone(
    run: Run, caller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow clones into the temporary folder; the installed rlready is that of this checkout."""
    clones = tmp_path / "clones"
    clones.mkdir()
    monkeypatch.setenv("TMPDIR", str(clones))
    uri = a_repository(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    given = {"checkpoint": "runs/sft 3, second", "held_out": "it's held.jsonl"}
    done = run(uri, "evaluate", **given)
    assert done.returncode == 0, done.stderr
    assert "the code of the clone" in done.stderr
    (clone,) = (path.parent for path in clones.glob("*/MLproject"))
    tracked = {path.name for path in (tmp_path / "tree").iterdir()}
    assert {path.name for path in clone.iterdir()} == tracked
    assert list(caller.glob("samples/*/heldout-*.json"))
    assert len(MlflowStore(f"sqlite:///{caller}/mlflow.db").checkpoints()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("manager", MANAGERS or ["virtualenv"])
@pytest.mark.skipif(
    not MANAGERS, reason="minutes and 2 GB: RLREADY_TEST_MLFLOW_ENVS='virtualenv uv'"
)
def test_the_plain_command_makes_its_environment_and_demonstrates(
    manager: str, run: Run, caller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new user types it: `mlflow run . -e evaluate`, with pyenv or with uv."""
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(tmp_path / "environments"))
    uri = a_repository(tmp_path, monkeypatch)
    done = run(uri, "evaluate", None if manager == "virtualenv" else manager)
    assert done.returncode == 0, done.stderr
    (stored,) = MlflowStore(f"sqlite:///{caller}/mlflow.db", "rlready-demonstration").checkpoints()
    assert stored.checkpoint.name == "demonstration"
    assert "the code of the clone" in done.stderr
    assert list(caller.glob("samples/*/*/part-*.parquet"))
    shutil.rmtree(tmp_path / "environments")
