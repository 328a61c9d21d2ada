"""A search with a trainer in it: nothing finished is lost, whoever is killed."""

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

import pytest
from backends import fresh_postgres_database
from places import ROOT
from store_child import a_checkpoint, an_outcome

from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.registry.store import StoredCheckpoint
from rlready.workflow.evaluate.config import load_recipe
from rlready.workflow.search.folder import read_status, recipe_toml, write_status
from rlready.workflow.search.open import Search, SearchConfig, open_search
from rlready.workflow.search.registry import check_match, runs_at_smaller_budgets
from rlready.workflow.search.run import ask, command_words, run, sync
from rlready.workflow.search.trial import Trial

SPACE = """
[recipe]
base_model = "org/base"
[sources.gsm8k]
[sources.numina]
floor = 0.1
[n_unique]
low = 10
high = 1000
[learning_rate]
low = 1e-6
high = 1e-4
"""

# Scores the mixture, and fails where it is told to.
TRAINER = """
import json, pathlib, sys, tomllib
recipe, out, fails = sys.argv[1:]
weight = tomllib.loads(pathlib.Path(recipe).read_text())["sources"]["gsm8k"]
print("step 1")
if fails == "yes":
    print("out of memory")
    sys.exit(3)
path = pathlib.Path(out, "status.json")
values = json.loads(path.read_text())
path.write_text(json.dumps({**values, "value": 1 - (weight - 0.6) ** 2, "se": 0.01}))
"""


class Clock:
    """A clock that starts now and goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


Open = Callable[..., Search]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the same search, as worker of a name."""
    (tmp_path / "mix.toml").write_text(SPACE)
    (tmp_path / "train.py").write_text(TRAINER)
    made: list[Search] = []

    def open_as(worker: str = "a", **changes: Any) -> Search:
        given: dict[str, Any] = {
            "space": tmp_path / "mix.toml",
            "storage": f"sqlite:///{tmp_path / 'search.db'}",
            "sampler": "random",
            "folder": tmp_path / "out",
            "worker": worker,
            "lease_s": 100.0,
            "max_retries": 1,
        }
        made.append(open_search(SearchConfig(**{**given, **changes}), clock=clock))
        return made[-1]

    yield open_as
    for search in made:
        search.engine.dispose()


def trained(tmp_path: Path, fails: str = "no") -> str:
    return f"{sys.executable} {tmp_path / 'train.py'} {{recipe}} {{out}} {fails}"


def values(search: Search) -> dict[int, float | None]:
    return {trial.number: trial.value for trial in search.study.get_trials()}


def test_a_trial_is_a_folder_with_the_recipe(opened: Open) -> None:
    search = opened()
    handed = ask(search)
    assert handed.folder.name == "trial-0000"
    assert handed.folder.parent.name == "mix"
    assert load_recipe(handed.folder / "recipe.toml") == handed.asked.recipe
    assert handed.asked.origin == "stratified"
    assert read_status(handed.folder).state == "asked"
    assert json.loads((handed.folder / "status.json").read_text())["worker"] == "a"


def test_a_told_trial_is_finished_and_telling_it_again_changes_nothing(opened: Open) -> None:
    search = opened()
    handed = ask(search)
    assert Trial(search, 0).tell(value=0.5, se=0.1).is_new
    assert not Trial(search, 0).tell(value=0.5).is_new
    with pytest.raises(ConfigError, match=r"told 0\.5 before, now 0\.7"):
        Trial(search, 0).tell(value=0.7)
    assert Trial(search, 0).lease is None
    assert read_status(handed.folder).state == "told"
    assert search.study.trials[0].user_attrs["rlready:errors"] == [0.1]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(opened: Open, value: float | None) -> None:
    search = opened()
    ask(search)
    with pytest.raises(ConfigError, match="trial 0 is told the value"):
        Trial(search, 0).tell(value=value)
    with pytest.raises(ConfigError, match="no trial 7"):
        Trial(search, 7).tell(value=1.0)


def test_a_finished_folder_is_taken_in(opened: Open) -> None:
    search = opened()
    first, second, third = (ask(search) for _ in range(3))
    write_status(first.folder, value=0.4, se=0.02)
    write_status(second.folder, state="failed", error="no space left")
    found = sync(search)
    assert [(told.trial, told.state) for told in found.done] == [(0, "told"), (1, "failed")]
    assert found.waiting == (third.asked.number,)
    assert values(search) == {0: 0.4, 1: None, 2: None}
    assert sync(search).done == ()


def test_a_folder_that_cannot_be_read_is_a_problem_and_stops_nothing(opened: Open) -> None:
    search = opened()
    first, second = ask(search), ask(search)
    (first.folder / "status.json").write_text('{"value": ')
    write_status(second.folder, value=0.3)
    found = sync(search)
    assert [number for number, _ in found.problems] == [0]
    assert "cannot be read as JSON" in found.problems[0][1]
    assert [told.trial for told in found.done] == [1]


def test_the_trial_of_a_silent_worker_goes_to_the_next_one_with_its_recipe(
    opened: Open, clock: Clock
) -> None:
    first = ask(opened("a"))
    clock.now += 150.0
    again = ask(opened("b"))
    assert again.asked.number == first.asked.number
    assert again.asked.recipe == first.asked.recipe
    assert (again.lease.worker, again.lease.retries) == ("b", 1)


def test_a_trial_that_nobody_finishes_fails_after_its_retries(opened: Open, clock: Clock) -> None:
    search = opened()
    ask(search)
    clock.now += 150.0
    ask(search)
    clock.now += 150.0
    assert ask(search).asked.number == 1
    assert search.study.trials[0].state.name == "FAIL"
    assert "2 held it" in search.study.trials[0].user_attrs["rlready:failed"]


def test_the_value_of_a_trial_that_was_given_up_still_counts(opened: Open, clock: Clock) -> None:
    search = opened(max_retries=0)
    ask(search)
    clock.now += 150.0
    sync(search)
    assert search.study.trials[0].state.name == "FAIL"
    assert Trial(search, 0).tell(value=0.9).is_new
    assert not Trial(search, 0).tell(value=0.9).is_new
    assert [t.value for t in search.study.trials if t.state.name == "COMPLETE"] == [0.9]


KILLED = """
import os, signal, sys
from pathlib import Path
from rlready.workflow.search.run import ask
from rlready.workflow.search.folder import write_status
from rlready.workflow.search.open import SearchConfig, open_search
from rlready.workflow.search.trial import Trial

where, config = sys.argv[1], dict(space=Path(sys.argv[2]), storage=sys.argv[3], sampler="random",
                                  folder=Path(sys.argv[4]), worker="dead", lease_s=100.0)
search = open_search(SearchConfig(**config))
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
ask(search).tell(value=0.25)
if where == "before the lease":
    Trial.hold = die
    ask(search)
handed = ask(search)
if where == "after the result":
    write_status(handed.folder, value=0.75)
    die()
if where == "inside tell":
    Trial._note = die
    handed.tell(value=0.75)
die()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["before the lease", "before the result", "after the result", "inside tell"]
)
def test_a_worker_killed_anywhere_loses_no_finished_trial(
    opened: Open, clock: Clock, tmp_path: Path, where: str
) -> None:
    """`kill -9` between any two writes: its open trial is offered within two lease periods."""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, tmp_path / "mix.toml", storage, tmp_path / "out"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    search = opened("b")
    clock.now = time.time()
    sync(search)
    is_done = where in ("after the result", "inside tell")
    assert values(search) == {0: 0.25, 1: 0.75 if is_done else None}
    assert (Trial(search, 1).lease is None) == is_done
    if is_done:
        assert read_status(search.root / "trial-0001").state == "told"
    clock.now += 2 * 100.0
    assert ask(search).asked.number == (2 if is_done else 1)


def test_a_run_trains_and_tells(opened: Open, tmp_path: Path) -> None:
    search = opened()
    told = run(search, trained(tmp_path), 3)
    assert [one.state for one in told] == ["told"] * 3
    assert all(value is not None for value in values(search).values())
    assert (search.root / "trial-0002" / "train.log").read_text() == "step 1\n"


@pytest.mark.slow
def test_workers_share_a_search_on_postgresql(
    opened: Open, tmp_path: Path, clock: Clock, postgres_uri: str
) -> None:
    storage = fresh_postgres_database(postgres_uri)
    first, second = (opened(worker, storage=storage, study="shared") for worker in "ab")
    held = ask(first)
    assert [one.state for one in run(second, trained(tmp_path), 2)] == ["told"] * 2
    clock.now += 200.0
    assert ask(second).asked == held.asked
    assert Trial(first, held.asked.number).tell(value=0.5).is_new
    assert len(values(second)) == 3
    assert None not in values(second).values()


def test_a_command_that_fails_is_told_with_its_last_lines_and_the_search_goes_on(
    opened: Open, tmp_path: Path
) -> None:
    search = opened()
    (failed,) = run(search, trained(tmp_path, fails="yes"), 1)
    assert failed.state == "failed"
    assert "ended with 3" in failed.reason
    assert "out of memory" in failed.reason
    assert read_status(search.root / "trial-0000").error == failed.reason
    assert [one.state for one in run(search, trained(tmp_path), 1)] == ["told"]


def test_a_command_without_result_is_no_success(opened: Open) -> None:
    (told,) = run(opened(), f"{sys.executable} -c pass {{out}}", 1)
    assert "neither value nor checkpoint" in told.reason


def test_a_command_that_removes_its_status_is_told_what_the_folder_holds(
    opened: Open, tmp_path: Path
) -> None:
    script = tmp_path / "remove.py"
    script.write_text(
        "import pathlib, sys\nfolder = pathlib.Path(sys.argv[1])\n"
        "(folder / 'status.json').unlink()\n(folder / 'weights').mkdir()\n"
    )
    (result,) = run(opened(), f"{sys.executable} {script} {{out}}", 1)
    assert result.state == "failed"
    assert "removed status.json" in result.reason
    assert "holds recipe.toml, train.log, weights/" in result.reason


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("status.write_text('{')", "cannot be read as JSON.*holds recipe.toml, status.json, train"),
        ("status.write_text('[]')", "holds a list, not a JSON object"),
        ("status.write_bytes(b'\\xff')", "is not UTF-8"),
        ("status.unlink(); status.mkdir()", "removed status.json.*status.json/"),
        ('status.write_text(\'{"value": 1, "gpu_hours": "all"}\')', "gpu_hours is 'all'"),
        ("import shutil; shutil.rmtree(status.parent)", "holds nothing: it was removed"),
    ],
)
def test_a_status_that_cannot_be_used_fails_its_trial_only(
    opened: Open, tmp_path: Path, code: str, said: str
) -> None:
    """It ended the whole run with the trial still open. What the trainer wrote is kept."""
    script = tmp_path / "spoil.py"
    script.write_text(
        f"import pathlib, sys\nstatus = pathlib.Path(sys.argv[1], 'status.json')\n{code}\n"
    )
    search = opened()
    first, second = run(search, f"{sys.executable} {script} {{out}}", 2)
    assert (first.state, second.state) == ("failed", "failed")
    assert re.search(said, first.reason)
    folder = Trial(search, 0).folder
    if "gpu_hours" not in code:
        assert (folder / "status.damaged.json").exists() == folder.exists()
        assert Trial(search, 0).tell(value=0.5).state == "told"


def test_a_status_that_was_cut_off_does_not_stop_later_asks(opened: Open, tmp_path: Path) -> None:
    """Every ask offered the trial again, and failed at the file that its trainer had left."""
    search = opened()
    trial = ask(search)
    (trial.folder / "status.json").write_text('{"value": 0.')
    trial.release()
    assert [number for number, _ in sync(search).problems] == [0]
    again = ask(search)
    assert again.number == 0
    assert read_status(again.folder).state == "asked"
    assert (again.folder / "status.damaged.json").read_text() == '{"value": 0.'


def test_a_command_reaches_no_shell(opened: Open, tmp_path: Path) -> None:
    command = f"{sys.executable} -c pass '{{recipe}}; touch {tmp_path / 'owned'}'"
    run(opened(), command, 1)
    assert not (tmp_path / "owned").exists()


def test_a_command_that_cannot_be_started_ends_the_search_and_frees_its_trial(
    opened: Open,
) -> None:
    search = opened()
    with pytest.raises(ConfigError, match="'no-such-trainer' cannot be started"):
        run(search, "no-such-trainer {recipe}", 2)
    lease = Trial(search, 0).lease
    assert lease is not None
    assert lease.deadline <= search.clock()


@pytest.mark.parametrize("command", ["python train.py", "train '{recipe}"])
def test_a_command_that_takes_no_recipe_is_refused(command: str) -> None:
    with pytest.raises(ConfigError, match="training command"):
        command_words(command)


def test_a_checkpoint_of_another_recipe_is_refused() -> None:
    asked = Recipe(sources={"a": 0.5, "b": 0.5}, learning_rate=1e-5)
    check_match(asked, Recipe(sources={"a": 0.5, "b": 0.5}, learning_rate=1e-5, seed=3), "x")
    with pytest.raises(ConfigError, match="learning_rate: 1e-05 was asked, 3e-05 made"):
        check_match(asked, Recipe(sources={"a": 0.5, "b": 0.5}, learning_rate=3e-5), "x")
    with pytest.raises(ConfigError, match="sources"):
        check_match(asked, Recipe(sources={"a": 0.6, "b": 0.4}, learning_rate=1e-5), "x")
    with pytest.raises(ConfigError, match="does not know the recipe"):
        check_match(asked, None, "x")


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = Recipe(
        base_model='a "b" \\ \n ü\x7f',
        sources={"gsm8k": 0.25, "open math": 0.75},
        learning_rate=1e-5,
        n_unique=7,
        extra={"packed": True, "betas": [0.9, 0.95], "filter": {"low": 1.0}, "note": "x"},
    )
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_the_search_uses_no_private_attribute_of_optuna() -> None:
    """A release of Optuna may change them without notice."""
    for folder in ("predictors/search", "workflow/search"):
        for path in (ROOT / folder).glob("*.py"):
            private = re.findall(r"\._(storage|study_id|trial_id)\b|optuna\S*\._", path.read_text())
            assert not private, path


def test_rl_at_smaller_budgets_counts_with_the_gain_that_others_had_from_there() -> None:
    stored = []
    for number in range(1, 6):
        values = {20: 0.3 + 0.02 * number, 60: 0.5 + 0.03 * number}
        outcomes = tuple(
            an_outcome(number, budget=budget, value=value)
            for budget, value in values.items()
            if budget == 20 or number < 5
        )
        checkpoint = a_checkpoint(number)
        facts: dict[str, Any] = {"model_id": "m", "proxies": (), "updated_ms": 0}
        stored.append(StoredCheckpoint(checkpoint=checkpoint, outcomes=outcomes, **facts))
    target, last = "value_at_budget/60steps@gsm8k", stored[4].checkpoint.id
    (run,) = runs_at_smaller_budgets(stored, target, {last: Recipe(sources={"a": 1.0})})
    assert (run.name, run.is_predicted) == (last, True)
    assert run.values[0] == pytest.approx(0.4 + 0.2 + 0.025)
    assert run.errors is not None
    assert run.errors[0] == pytest.approx(0.0129, abs=1e-3)
    # Two gains are too few.
    assert not runs_at_smaller_budgets(stored[2:], target, {last: Recipe(sources={"a": 1.0})})
