"""The demonstration tells a story of shipped results, and the same one when it is called again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from places import ROOT

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Checkpoint, Evaluation
from rlready.testbed.study.shipped import (
    RESULTS,
    held_back,
    made_again,
    shipped_evaluation,
    shipped_outcome,
    shipped_recipes,
    shipped_rows,
)
from rlready.workflow.cli.main import main
from rlready.workflow.testbed.demo import tell
from rlready.workflow.testbed.story import Hidden, Story


def hidden(name: str, practice: float, predicted: float, reached: float) -> Hidden:
    return Hidden(
        name=name,
        practice=practice,
        predicted=predicted,
        low=predicted - 0.05,
        high=predicted + 0.05,
        reached=reached,
        se=0.01,
    )


A = hidden("a", 0.2, 0.70, 0.71)
B = hidden("b", 0.5, 0.60, 0.50)
C = hidden("c", 0.4, 0.50, 0.55)


def story(*rows: Hidden, plan: str, practice: str) -> Story:
    return Story(rows=rows, plan=tuple(plan), practice=tuple(practice), interval="90%")


def test_the_hidden_ones_are_a_fixed_draw_of_three_of_each_style() -> None:
    names = held_back()
    styles = [shipped_recipes()[name].style for name in names]
    assert len(set(names)) == 12
    assert all(styles.count(style) == 3 for style in styles)
    assert names[0] == "b6400-u800-canonical-n0-easy-r0.002-s0"
    again = made_again(names)
    assert len(again) == 2
    assert {shipped_recipes()[name].budget for name in again} == {1600}


def test_the_table_is_part_of_the_package() -> None:
    assert "results/*.csv" in (ROOT / "pyproject.toml").read_text()
    assert RESULTS.is_relative_to(ROOT / "testbed")
    assert shipped_rows().keys() == shipped_recipes().keys()


def test_the_shown_pair_is_the_contradiction_with_the_largest_predicted_difference() -> None:
    told = story(A, B, C, plan="a", practice="b")
    assert told.disagreement() == (A, C)
    assert "the prediction was right" in told.difference()[-1]
    wrong = story(dataclasses.replace(A, reached=0.4), B, plan="a", practice="b")
    assert "pass@1 was right" in wrong.difference()[-1]
    close = story(dataclasses.replace(A, reached=0.51), B, plan="a", practice="b")
    assert "no clear difference" in close.difference()[-1]
    same = story(B, C, plan="b", practice="b")
    assert same.disagreement() is None
    assert same.difference() == ["Prediction and pass@1 order all hidden checkpoints alike."]


def test_the_verdict_names_what_plan_practice_and_hindsight_reached() -> None:
    verdict = story(A, B, C, plan="a", practice="b").verdict()
    assert verdict == (
        "Verdict: after RL, the best of the plan's 1 reached 0.710 (a), the best of the 1 with the "
        "highest pass@1 reached 0.500 (b), and the best of all 3 reached 0.710 (a): the plan chose "
        "better by 0.210."
    )
    assert (
        story(A, B, C, plan="b", practice="a").verdict().endswith("practice chose better by 0.210.")
    )
    assert story(A, B, C, plan="ab", practice="ba").verdict().endswith(": both chose the same.")
    assert "both found the same best one" in story(A, B, C, plan="ab", practice="ac").verdict()
    close = dataclasses.replace(C, reached=0.70)
    assert "less than 2 standard errors" in story(A, B, close, plan="a", practice="c").verdict()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Story]:
    """The story of shipped proxies alone: nothing is trained or measured."""
    out, lines = tmp_path_factory.mktemp("told") / "demo", list[str]()
    return out, lines, tell(out, lines.append, is_measured=False)


def test_every_step_has_a_line_and_the_verdict_comes_last(
    told: tuple[Path, list[str], Story],
) -> None:
    out, lines, story = told
    steps = [line for line in lines if re.match(r"\[ *\d+ s\] \d/6 ", line)]
    assert [line.split("]")[1].split()[0] for line in steps] == [f"{n}/6" for n in range(1, 7)]
    assert all(len(line) <= 80 for line in lines if "://" not in line and "report.html" not in line)
    text = "\n".join(lines)
    assert " ".join(text[text.index("Verdict:") :].split()) == story.verdict()
    assert "mlflow.db" in text
    assert "/#/experiments/" in text
    assert f"before the reveal: {out}/report.html" in text
    assert (out / "report.html").stat().st_size < 3_000_000


def test_hidden_outcomes_are_never_recorded_and_every_number_is_the_shipped_one(
    told: tuple[Path, list[str], Story],
) -> None:
    out, _, story = told
    stored = MlflowStore(f"sqlite:///{out}/mlflow.db").checkpoints()
    assert len(stored) == 48
    assert {s.checkpoint.name for s in stored if not s.outcomes} == set(held_back())
    assert {row.name for row in story.rows} == set(held_back())
    assert all(row.reached == shipped_outcome(row.name).value for row in story.rows)
    assert len(set(story.plan)) == len(set(story.practice)) == 3
    by_practice = sorted(story.rows, key=lambda row: row.practice)[-3:]
    assert {row.name for row in by_practice} == set(story.practice)
    assert (out / "regret.png").is_file()


def test_a_repeated_call_tells_the_same_and_leaves_a_changed_registry_alone(
    told: tuple[Path, list[str], Story],
) -> None:
    out, _, story = told
    assert tell(out, lambda line: None, is_measured=False) == story
    assert not (out / "mlflow-2.db").exists()
    store = MlflowStore(f"sqlite:///{out}/mlflow.db")
    store.put_outcome(shipped_outcome(held_back()[0]))
    before = [one.checkpoint.id for one in store.checkpoints()]
    lines: list[str] = []
    assert tell(out, lines.append, is_measured=False) == story
    assert any("is left alone" in line for line in lines)
    assert (out / "mlflow-2.db").is_file()
    assert [one.checkpoint.id for one in store.checkpoints()] == before


def test_a_registry_of_other_checkpoints_is_refused(tmp_path: Path, sqlite_uri: str) -> None:
    mine = Checkpoint(uri="file:///mine", fingerprint="a" * 32, name="mine")
    MlflowStore(sqlite_uri).put_evaluation(Evaluation(checkpoint=mine, proxies=()))
    flags = ["testbed", "--profile", "demo", "--out", str(tmp_path), "--tracking-uri", sqlite_uri]
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 2
    assert "Leave --tracking-uri out" in result.output
    assert len(MlflowStore(sqlite_uri).checkpoints()) == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flags = ["testbed", "--profile", "demo", "--out", str(tmp_path / "file")]
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 2
    assert result.output.startswith("error: the folder")
    assert "Name another --out" in result.output


@pytest.mark.slow
def test_the_project_runs_the_whole_demonstration_and_measures_what_was_shipped(
    tmp_path: Path,
) -> None:
    """`mlflow run .` as a user types it; the two measured ones get the shipped numbers."""
    words = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager=local"]
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/other.db",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is measured") == 2
    assert "Verdict: after RL, the best of the plan's 3 reached" in done.stdout
    stored = MlflowStore(f"sqlite:///{tmp_path}/demo/mlflow.db").checkpoints()
    assert len(stored) == 48
    measured = {
        s.checkpoint.name: s for s in stored if s.checkpoint.name in made_again(held_back())
    }
    assert len(measured) == 2
    for name, one in measured.items():
        shipped = shipped_evaluation(name)
        assert one.checkpoint.recipe == shipped.checkpoint.recipe
        numbers = {(p.name, p.benchmark): p for p in one.proxies}
        for proxy in shipped.proxies:
            number = numbers[proxy.name, proxy.benchmark]
            way = (number.benchmark_digest, number.protocol_digest, number.evaluator_version)
            assert way == (proxy.benchmark_digest, proxy.protocol_digest, proxy.evaluator_version)
            if one.checkpoint.id == shipped.checkpoint.id:  # else the processor rounds otherwise
                # The general verifier judges one of 8,704 samples unlike the exact one.
                assert number.value == pytest.approx(proxy.value, abs=1e-3)
    flags = ["testbed", "--profile", "demo", "--out", str(tmp_path / "demo"), "--json"]
    again = CliRunner().invoke(main, flags)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["verdict"] in " ".join(done.stdout.split())
