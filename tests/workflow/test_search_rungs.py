"""A search with rungs: trials are measured on their way, and stopped or taken further."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rlready.predictors.search.rungs import Rungs
from rlready.predictors.search.space_file import parse_space
from rlready.registry.errors import ConfigError
from rlready.workflow.cli.main import main
from rlready.workflow.search.folder import read_status, write_status
from rlready.workflow.search.open import Search, SearchConfig, open_search
from rlready.workflow.search.run import ask, command_words, run, sync
from rlready.workflow.search.trial import Trial

SPACE = """
[sources.gsm8k]
[sources.numina]
[learning_rate]
low = 1e-6
high = 1e-4
[rungs]
steps = [20, 60, 200]
"""

# Goes on in its folder: every rung needs what the one before left there.
TRAINER = """
import json, pathlib, sys, tomllib
recipe, out, rung = sys.argv[1:]
out, steps = pathlib.Path(out), ["20", "60", "200"]
done = out / "done.txt"
before = done.read_text().split() if done.exists() else []
assert before == steps[:steps.index(rung)], (before, rung)
weight = tomllib.loads(pathlib.Path(recipe).read_text())["sources"]["gsm8k"]
path = out / "status.json"
values = json.loads(path.read_text())
assert str(values["rung"]) == rung, (values["rung"], rung)
good = (1 - (weight - 0.6) ** 2) * (1 - 2 / int(rung))
rungs = {**values.get("rungs", {}), rung: good}
done.write_text(" ".join([*before, rung]))
print("climbed", rung)
temporary = out / ".mine.tmp"
temporary.write_text(json.dumps({**values, "rungs": rungs, "gpu_hours": int(rung) / 100}))
temporary.replace(path)
"""

Open = Callable[..., Search]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the same search."""
    (tmp_path / "mix.toml").write_text(SPACE)
    (tmp_path / "train.py").write_text(TRAINER)
    made: list[Search] = []

    def open_as(worker: str = "a", later_s: float = 0.0, **changes: Any) -> Search:
        given: dict[str, Any] = {
            "space": tmp_path / "mix.toml",
            "storage": f"sqlite:///{tmp_path / 'search.db'}",
            "sampler": "random",
            "folder": tmp_path / "out",
            "worker": worker,
            "lease_s": 100.0,
        }
        config = SearchConfig(**{**given, **changes})
        made.append(open_search(config, clock=lambda: time.time() + later_s))
        return made[-1]

    yield open_as
    for search in made:
        search.engine.dispose()


def command(tmp_path: Path) -> str:
    return f"{sys.executable} {tmp_path / 'train.py'} {{recipe}} {{out}} {{rung}}"


def climbed(search: Search, *values: float) -> Trial:
    """A trial with these values at its rungs, taken in one by one as a scheduler's would be."""
    trial, rungs = ask(search), {}
    for step, value in zip(("20", "60", "200"), values, strict=False):
        rungs[step] = value
        write_status(trial.folder, rungs=rungs)
        sync(search)
    return trial


def state(trial: Trial) -> str:
    return trial.frozen.state.name


def test_a_rung_is_asked_for_and_kept_as_intermediate_value(opened: Open) -> None:
    search = opened()
    handed = ask(search)
    assert handed.step == handed.to_dict()["rung"] == 20
    assert json.loads((handed.folder / "status.json").read_text())["rung"] == 20
    write_status(handed.folder, rungs={"20": 0.3})
    assert sync(search).waiting == (0,)
    assert handed.frozen.intermediate_values == {20: 0.3}
    assert handed.step == 60
    assert json.loads((handed.folder / "status.json").read_text())["rung"] == 60


def test_the_value_of_the_last_step_is_the_outcome(opened: Open) -> None:
    trial = climbed(opened(), 0.3, 0.4, 0.5)
    assert (state(trial), trial.frozen.values) == ("COMPLETE", [0.5])
    assert trial.frozen.intermediate_values == {20: 0.3, 60: 0.4}


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_a_poor_trial_is_stopped_and_a_good_one_goes_on(
    opened: Open, tmp_path: Path, pruner: str
) -> None:
    (tmp_path / "mix.toml").write_text(SPACE + f'pruner = "{pruner}"\n')
    search = opened()
    for k in range(4):
        climbed(search, 0.3 + 0.01 * k, 0.4 + 0.01 * k, 0.5 + 0.01 * k)
    poor = [climbed(search, 0.1 - 0.01 * k) for k in range(4)]
    good = climbed(search, 0.9)
    assert state(good) == "RUNNING"
    stopped = [trial for trial in poor if state(trial) == "PRUNED"]
    assert len(stopped) == 4 if pruner == "halving" else stopped
    assert read_status(stopped[0].folder).state == "stopped"
    assert stopped[0].lease is None
    assert sync(search).done == ()


def test_a_stopped_trial_that_was_finished_all_the_same_still_counts(opened: Open) -> None:
    search = opened()
    climbed(search, 0.5, 0.6, 0.7)
    poor = climbed(search, 0.1)
    assert state(poor) == "PRUNED"
    assert poor.tell(value=0.8).is_new
    assert not poor.tell(value=0.8).is_new
    best = search.study.best_trial
    assert (best.value, best.intermediate_values) == (0.8, {20: 0.1})


@pytest.mark.parametrize(
    ("rungs", "said"),
    [
        ({"30": 1.0}, "has values after 30 steps"),
        ({"half": 1.0}, "rungs is"),
        ({"20": "abc"}, "not a finite number"),
        ([1.0], "rungs is"),
    ],
)
def test_an_invalid_rung_is_a_problem_and_stops_nothing(
    opened: Open, rungs: Any, said: str
) -> None:
    search = opened()
    first, second = ask(search), ask(search)
    write_status(first.folder, rungs=rungs)
    write_status(second.folder, rungs={"20": 0.8})
    ((number, reason),) = sync(search).problems
    assert number == 0
    assert re.search(said, reason), reason
    assert second.frozen.intermediate_values == {20: 0.8}


def test_rungs_and_a_cost_are_refused(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text('cost = "gpu_hours"\n' + SPACE)
    with pytest.raises(ConfigError, match="rungs and a cost"):
        opened()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": [20]}, "at least two rising"),
        ({"steps": [60, 20]}, "at least two rising"),
        ({"steps": [0, 20]}, "at least two rising"),
        ({"steps": [20, 60.5]}, r"rungs.steps\[1\] is 60.5. It should be a valid integer"),
        ({"steps": [20, True]}, r"rungs.steps\[1\] is True. It should be a valid integer"),
        ({"steps": 20}, "rungs.steps is 20. It should be a valid tuple"),
        ({}, "rungs.steps is missing"),
        (
            {"steps": [20, 60], "pruner": "median"},
            "'median'. It should be 'halving' or 'hyperband'",
        ),
        ({"steps": [20, 60], "reduction_factor": 1}, "greater than or equal to 2"),
        ({"step": [20, 60]}, r"\[rungs\] has the unknown key 'step'.*steps, pruner"),
        ([20, 60], r"rungs is \[20, 60\]. It should be a table"),
    ],
)
def test_invalid_rungs_are_refused(values: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_space({"sources": {"gsm8k": {}}, "rungs": values})


def test_the_next_step_is_the_first_that_is_not_measured() -> None:
    rungs = Rungs(steps=(20, 60, 200))
    assert [rungs.next_step(steps) for steps in ((), {20}, {20, 60}, {200})] == [20, 60, 200, 200]


def test_the_surrogate_knows_what_was_foreseen_of_a_stopped_trial(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had seen finished trials only, and proposed the neighbours of a stopped one for ever."""
    from rlready.predictors.search import study

    search = opened(sampler="surrogate")
    for k in range(3):
        climbed(search, 0.3 + 0.1 * k, 0.4 + 0.1 * k, 0.6 + 0.1 * k)
    poor = climbed(search, 0.1)
    foreseen, sd = poor.frozen.user_attrs["rlready:foreseen"]
    assert (foreseen, sd) == (pytest.approx(0.4), pytest.approx(0.0, abs=1e-9))
    seen: list[Any] = []
    propose = study.propose

    def watched(space: Any, runs: Any, *given: Any, **named: Any) -> Any:
        seen.append(runs)
        return propose(space, runs, *given, **named)

    monkeypatch.setattr(study, "propose", watched)
    ask(search)
    (runs,) = seen
    np.testing.assert_allclose(runs.outcomes[:, 0], [0.6, 0.7, 0.8, 0.4])


def test_a_training_command_takes_the_rung_where_there_are_rungs() -> None:
    assert command_words("train {recipe} {rung}", has_rungs=True)[-1] == "{rung}"
    with pytest.raises(ConfigError, match="does not take the rung"):
        command_words("train {recipe}", has_rungs=True)
    with pytest.raises(ConfigError, match=r"no table \[rungs\]"):
        command_words("train {recipe} {rung}")


def test_a_command_that_leaves_no_value_of_its_rung_is_no_success(opened: Open) -> None:
    (told,) = run(opened(), f"{sys.executable} -c pass {{out}} {{rung}}", 1)
    assert "no value of step 20" in told.reason


KILLED = """
import os, signal, sys
from pathlib import Path
from rlready.workflow.search.open import SearchConfig, open_search
from rlready.workflow.search.run import run
from rlready.workflow.search.trial import Trial
from optuna.trial import Trial as Handle

where, config = sys.argv[1], dict(space=Path(sys.argv[2]), storage=sys.argv[3], sampler="random",
                                  folder=Path(sys.argv[4]), worker="dead", lease_s=100.0)
search = open_search(SearchConfig(**config))
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
if where == "after the command":
    Trial.take_in = die
if where == "before the decision":
    Handle.should_prune = die
run(search, sys.argv[5], 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["after the command", "before the decision"])
def test_a_worker_killed_between_rungs_loses_no_rung(
    opened: Open, tmp_path: Path, where: str
) -> None:
    """The next worker goes on where it stopped: the trainer refuses to climb a rung twice."""
    paths = tmp_path / "mix.toml", f"sqlite:///{tmp_path / 'search.db'}", tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, *paths, command(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    sync(opened("b"))
    search = opened("b", later_s=250.0)
    (told,) = run(search, command(tmp_path), 1)
    assert (told.trial, told.state) == (0, "told")
    log = (search.root / "trial-0000" / "train.log").read_text()
    assert log.splitlines() == ["climbed 20", "climbed 60", "climbed 200"]


@pytest.mark.slow
def test_the_command_line_climbs_and_reports(tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(SPACE)
    (tmp_path / "train.py").write_text(TRAINER)
    common = ["--space", str(tmp_path / "mix.toml"), "--out", str(tmp_path / "out"), "--cold"]
    common += ["--storage", f"sqlite:///{tmp_path / 'search.db'}", "--sampler", "random"]
    words = ["run", "--train-command", command(tmp_path), "--trials", "10", *common]
    done = CliRunner().invoke(main, ["search", *words])
    assert done.exit_code == 0, done.output
    assert "up to step 60" in done.output
    assert " stopped: " in done.output
    report = CliRunner().invoke(main, ["search", "report", "--json", *common])
    assert report.exit_code == 0, report.output
    found = json.loads(report.stdout)
    assert found["gpu_hours"] == pytest.approx(
        sum(row["gpu_hours"] for row in found["ranking"] + found["stopped"])
    )
    assert found["stopped"][0]["rungs"]["20"] > 0
    shown = CliRunner().invoke(main, ["search", "report", *common])
    assert "stopped: trial" in shown.output
