"""A search on a ladder: rungs are kept, trials are stopped and taken up, whoever is killed."""

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
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.registry.errors import ConfigError
from rlready.registry.records import Evaluation, Recipe
from rlready.registry.store import MemoryStore
from rlready.workflow.cli.main import main
from rlready.workflow.search.ask import (
    Search,
    SearchConfig,
    ask,
    open_search,
    settle,
    sync,
    tell,
)
from rlready.workflow.search.folder import read_status, write_status
from rlready.workflow.search.ladder import taken_up
from rlready.workflow.search.registry import RegistryValues
from rlready.workflow.search.run import command_words, run
from rlready.workflow.search.rungs import climbs_of, total_hours

SPACE = """
[sources.gsm8k]
[sources.numina]
[learning_rate]
low = 1e-6
high = 1e-4

[ladder]
top = 1
promote_at = 0.15
min_keep = 0
min_complete = 4
[[ladder.rungs]]
name = "quarter"
gpu_hours = 0.5
kind = "loss"
better = "less"
[[ladder.rungs]]
name = "pass_at_16"
gpu_hours = 20
[[ladder.rungs]]
name = "rl"
gpu_hours = 20
"""

# Goes on in its folder: every rung needs what the one before left there.
TRAINER = """
import json, pathlib, sys, tomllib
recipe, out, rung = sys.argv[1:]
out = pathlib.Path(out)
names = ["quarter", "pass_at_16", "rl"]
done = out / "done.txt"
before = done.read_text().split() if done.exists() else []
assert before == names[:names.index(rung)], (before, rung)
weight = tomllib.loads(pathlib.Path(recipe).read_text())["sources"]["gsm8k"]
good = 1 - (weight - 0.6) ** 2
path = out / "status.json"
values = json.loads(path.read_text())
assert values["rung"] == rung, (values["rung"], rung)
rungs = values.get("rungs", {})
if rung == "quarter":
    rungs[rung] = 1.5 - good
elif rung == "pass_at_16":
    rungs[rung] = {"value": 0.9 * good, "se": 0.001, "gpu_hours": 2.0}
else:
    values["value"] = good
done.write_text(" ".join([*before, rung]))
print("climbed", rung)
temporary = out / ".mine.tmp"
temporary.write_text(json.dumps({**values, "rungs": rungs}))
temporary.replace(path)
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

    def open_as(
        worker: str = "a", registry: RegistryValues | None = None, **changes: Any
    ) -> Search:
        given: dict[str, Any] = {
            "space": tmp_path / "mix.toml",
            "storage": f"sqlite:///{tmp_path / 'search.db'}",
            "sampler": "random",
            "folder": tmp_path / "out",
            "worker": worker,
            "lease_s": 100.0,
        }
        config = SearchConfig(**{**given, **changes})
        made.append(open_search(config, registry, clock=clock))
        return made[-1]

    yield open_as
    for search in made:
        search.engine.dispose()


def trained(tmp_path: Path) -> str:
    return f"{sys.executable} {tmp_path / 'train.py'} {{recipe}} {{out}} {{rung}}"


def climbed(search: Search, loss: float, share: float | None, value: float | None) -> int:
    """A trial with these rungs, taken in one by one as a scheduler's would be; its number."""
    handed = ask(search)
    write_status(handed.folder, rungs={"quarter": loss})
    sync(search)
    if share is not None:
        write_status(handed.folder, rungs={"quarter": loss, "pass_at_16": share})
        sync(search)
    if value is not None:
        write_status(handed.folder, value=value)
        sync(search)
    return handed.asked.number


def history(search: Search, n: int = 8) -> None:
    """Trials at their ends, whose rungs told exactly where they would end."""
    from optuna.trial import create_trial

    ask(search)
    for i in range(n):
        search.study.add_trial(
            create_trial(
                value=0.4 + 0.02 * i,
                params=search.study.get_trials()[0].params,
                distributions=search.space.distributions(),
                intermediate_values={0: 0.9 - 0.05 * i, 1: 0.2 + 0.05 * i},
                user_attrs={"rlready:gpu_hours": 21.5},
            )
        )


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.study.get_trials()]


def test_a_rung_is_asked_for_and_kept_as_intermediate_value(opened: Open) -> None:
    search = opened()
    handed = ask(search)
    assert handed.rung == read_status(handed.folder).rung == "quarter"
    assert handed.to_dict()["rung"] == "quarter"
    write_status(handed.folder, rungs={"quarter": {"value": 0.8, "se": 0.02}})
    assert sync(search).waiting == (0,)
    (trial,) = search.study.get_trials()
    assert trial.intermediate_values == {0: 0.8}
    assert trial.user_attrs["rlready:rung_errors"] == {"quarter": 0.02}
    assert trial.user_attrs["rlready:gpu_hours"] == 0.5
    assert "0 of 4 trials" in trial.user_attrs["rlready:ladder"]["quarter"]["reason"]
    status = read_status(handed.folder)
    assert (status.rung, status.state) == ("pass_at_16", "asked")


def test_a_promising_trial_goes_on_and_a_poor_one_is_stopped_with_its_chance(opened: Open) -> None:
    search = opened()
    history(search)
    good = climbed(search, 0.4, None, None)
    poor = climbed(search, 0.95, None, None)
    trials = search.study.get_trials()
    assert trials[good].state.name == "RUNNING"
    assert trials[poor].state.name == "PRUNED"
    assert trials[poor].value is None
    assert "P(top 1) 0." in trials[poor].user_attrs["rlready:stopped"]
    decision = trials[poor].user_attrs["rlready:ladder"]["quarter"]
    assert decision["p_top"] < 0.15
    assert decision["gain_per_hour"] >= 0
    status = read_status(search.root / f"trial-{poor:04d}")
    assert (status.state, status.error) == ("stopped", trials[poor].user_attrs["rlready:stopped"])
    assert search.leases.get(poor) is None
    assert total_hours(trials) == pytest.approx(8 * 21.5 + 2 * 0.5)


def test_a_stopped_trial_goes_on_in_its_folder_once_its_chances_rise(
    opened: Open, tmp_path: Path
) -> None:
    search = opened()
    history(search)
    poor = climbed(search, 0.85, None, None)
    assert states(search)[poor] == "PRUNED"
    (tmp_path / "mix.toml").write_text(SPACE.replace("promote_at = 0.15", "promote_at = 0.0"))
    search = opened("b")
    assert taken_up(search) is None  # no outcome is new
    tell(search, 0, value=0.45)
    again = ask(search)
    trials = search.study.get_trials()
    assert trials[again.asked.number].user_attrs["rlready:continues"] == poor
    assert again.folder.resolve() == (search.root / f"trial-{poor:04d}").resolve()
    assert (again.rung, read_status(again.folder).rung) == ("pass_at_16", "pass_at_16")
    assert trials[again.asked.number].intermediate_values == {0: 0.85}
    assert taken_up(search) is None
    write_status(again.folder, value=0.6)
    sync(search)
    assert search.study.best_trial.number == again.asked.number
    assert search.study.best_trial.user_attrs["rlready:gpu_hours"] == pytest.approx(20.5)
    assert total_hours(search.study.get_trials()) == pytest.approx(8 * 21.5 + 20.0 + 20.5)


def test_a_trial_that_failed_on_its_way_is_told_once(opened: Open) -> None:
    search = opened()
    handed = ask(search)
    write_status(handed.folder, rungs={"quarter": 0.8})
    sync(search)
    write_status(handed.folder, rungs={"quarter": 0.8, "pass_at_16": 0.5}, state="failed")
    assert [(told.trial, told.state) for told in sync(search).done] == [(0, "failed")]
    assert sync(search).done == ()
    assert search.study.get_trials()[0].user_attrs["rlready:gpu_hours"] == 0.5


def test_a_stopped_trial_that_was_finished_all_the_same_still_counts(opened: Open) -> None:
    search = opened()
    history(search)
    poor = climbed(search, 0.95, None, None)
    assert tell(search, poor, value=0.7).is_new
    late = search.study.best_trial
    assert (late.value, late.intermediate_values) == (0.7, {0: 0.95})


@pytest.mark.parametrize(
    ("rungs", "said"),
    [
        ({"half": 1.0}, "no rung 'half'.*Its rungs: quarter, pass_at_16, rl"),
        ({"quarter": -1.0}, "it is a loss column"),
        ({"quarter": "abc"}, "names no proxy"),
        ({"quarter": {"values": 1}}, "unknown key 'values'.*Known: value, se"),
        ({"quarter": {"se": 1}}, "neither value nor checkpoint"),
        ({"quarter": {"value": 1, "se": -1}}, "Give 0 or more"),
        ([1.0], "rungs is"),
    ],
)
def test_a_rung_that_cannot_be_meant_is_a_problem_and_stops_nothing(
    opened: Open, rungs: Any, said: str
) -> None:
    search = opened()
    first, second = ask(search), ask(search)
    write_status(first.folder, rungs=rungs)
    write_status(second.folder, rungs={"quarter": 0.8})
    found = sync(search)
    ((number, reason),) = found.problems
    assert number == 0
    assert re.search(said, reason, re.DOTALL), reason
    assert search.study.get_trials()[1].intermediate_values == {0: 0.8}


def test_the_registrys_checkpoints_have_the_rungs_that_are_proxies(
    opened: Open, tmp_path: Path
) -> None:
    """They teach before any trial is at its end, and give the value of a rung by their id."""
    of_the_last_rungs = SPACE.replace(
        'name = "pass_at_16"\n', 'name = "samples"\nproxy = "pass_at_64@gsm8k"\n'
    )
    (tmp_path / "mix.toml").write_text(of_the_last_rungs)
    store: Any = MemoryStore()
    for i in range(1, 7):
        recipe = Recipe(sources={"gsm8k": i / 10, "numina": 1 - i / 10}, learning_rate=1e-5)
        checkpoint = a_checkpoint(i, recipe=recipe)
        proxies = (a_proxy(value=0.3 + 0.1 * i, se=0.01),)
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
        store.put_outcome(an_outcome(i, value=0.2 + 0.1 * i))
    registry = RegistryValues(store=store, target=None, predictor="none")
    search = opened(registry=registry)
    assert search.ladder is not None
    climbs, _ = climbs_of(search.study, search.ladder)
    assert climbs.values[:, 1] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert climbs.errors[:, 1] == pytest.approx([0.01] * 6)
    assert np.isnan(climbs.values[:, 0]).all()
    handed = ask(search)
    made = a_checkpoint(9, recipe=handed.asked.recipe)
    store.put_evaluation(Evaluation(checkpoint=made, proxies=(a_proxy(value=0.35),)))
    other = a_checkpoint(8)
    store.put_evaluation(Evaluation(checkpoint=other, proxies=(a_proxy(),)))
    write_status(handed.folder, rungs={"quarter": 0.9, "samples": other.id})
    ((_, reason),) = sync(search).problems
    assert "was not made by the asked recipe" in reason
    write_status(handed.folder, rungs={"quarter": 0.9, "samples": made.id})
    (told,) = sync(search).done
    trial = search.study.get_trials()[handed.asked.number]
    assert trial.intermediate_values == {0: 0.9, 1: 0.35}
    assert (told.state, trial.state.name) == ("stopped", "PRUNED")
    assert "P(top 1) 0.0" in told.reason


def test_a_ladder_and_a_cost_are_refused(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text('cost = "gpu_hours"\n' + SPACE)
    with pytest.raises(ConfigError, match="a ladder and a cost"):
        opened()


def test_the_surrogate_knows_what_was_foreseen_of_a_stopped_trial(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had seen finished trials only, and proposed the neighbours of a stopped one for ever."""
    from rlready.predictors.search import sampler as surrogate_sampler

    search = opened(sampler="surrogate")
    history(search)
    poor = climbed(search, 0.95, None, None)
    foreseen, sd = search.study.get_trials()[poor].user_attrs["rlready:foreseen"]
    seen: list[Any] = []
    propose = surrogate_sampler.propose

    def watched(space: Any, runs: Any, *given: Any, **named: Any) -> Any:
        seen.append(runs)
        return propose(space, runs, *given, **named)

    monkeypatch.setattr(surrogate_sampler, "propose", watched)
    ask(search)
    (runs,) = seen
    assert len(runs) == 9
    assert (runs.outcomes[-1, 0], runs.errors[-1, 0]) == (foreseen, sd)


def test_a_study_keeps_its_ladder(opened: Open, tmp_path: Path) -> None:
    opened()
    dearer = SPACE.replace("gpu_hours = 20", "gpu_hours = 30")
    (tmp_path / "mix.toml").write_text(dearer)
    ladder = opened().ladder
    assert ladder is not None
    assert ladder.rungs[2].gpu_hours == 30.0
    (tmp_path / "mix.toml").write_text(SPACE.replace('"quarter"', '"half"'))
    with pytest.raises(ConfigError, match="ladder of quarter, pass_at_16, rl, not of half"):
        opened()


def test_a_training_command_takes_the_rung_where_there_is_a_ladder() -> None:
    assert command_words("train {recipe} {rung}", has_ladder=True)[-1] == "{rung}"
    with pytest.raises(ConfigError, match="does not take the rung"):
        command_words("train {recipe}", has_ladder=True)
    with pytest.raises(ConfigError, match=r"no table \[ladder\]"):
        command_words("train {recipe} {rung}")


@pytest.mark.slow
def test_a_run_climbs_each_trial_rung_by_rung(opened: Open, tmp_path: Path) -> None:
    search = opened()
    told = run(search, trained(tmp_path), 8)
    assert [one.state for one in told[:4]] == ["told"] * 4
    assert "stopped" in [one.state for one in told]
    log = (search.root / "trial-0000" / "train.log").read_text()
    assert log.splitlines() == ["climbed quarter", "climbed pass_at_16", "climbed rl"]
    trials = search.study.get_trials()
    # As the trainer says, 2 hours for a rung of 1.
    assert trials[0].user_attrs["rlready:gpu_hours"] == pytest.approx(22.5)
    told_best = max(one.value for one in told if one.value is not None)
    assert search.study.best_value == told_best


def test_a_command_that_leaves_no_value_of_its_rung_is_no_success(opened: Open) -> None:
    (told,) = run(opened(), f"{sys.executable} -c pass {{out}} {{rung}}", 1)
    assert "no value of the rung 'quarter'" in told.reason


KILLED = """
import os, signal, sys
from pathlib import Path
from rlready.workflow.search import ladder as search_ladder
from rlready.workflow.search import ask as search_loop
from rlready.workflow.search import run as search_run

where, config = sys.argv[1], dict(space=Path(sys.argv[2]), storage=sys.argv[3], sampler="random",
                                  folder=Path(sys.argv[4]), worker="dead", lease_s=100.0)
search = search_loop.open_search(search_loop.SearchConfig(**config))
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
if where == "after the command":
    search_run.climb = die
if where == "before the decision":
    search_ladder.standings = die
if where == "after the decision":
    search_ladder.write_status = die
search_run.run(search, sys.argv[5], 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["after the command", "before the decision", "after the decision"]
)
def test_a_worker_killed_between_rungs_loses_no_rung(
    opened: Open, clock: Clock, tmp_path: Path, where: str
) -> None:
    """The next worker goes on where it stopped: the trainer refuses to climb a rung twice."""
    paths = tmp_path / "mix.toml", f"sqlite:///{tmp_path / 'search.db'}", tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, *paths, trained(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    search = opened("b")
    clock.now = time.time()
    settle(search)
    (trial,) = search.study.get_trials()
    assert list(trial.intermediate_values) == [0]
    assert read_status(search.root / "trial-0000").rung == "pass_at_16"
    clock.now += 2 * 100.0
    (told,) = run(search, trained(tmp_path), 1)
    assert (told.trial, told.state) == (0, "told")
    log = (search.root / "trial-0000" / "train.log").read_text()
    assert log.splitlines() == ["climbed quarter", "climbed pass_at_16", "climbed rl"]


@pytest.mark.slow
def test_the_command_line_climbs_and_reports(tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(SPACE)
    (tmp_path / "train.py").write_text(TRAINER)
    common = ["--space", str(tmp_path / "mix.toml"), "--out", str(tmp_path / "out"), "--cold"]
    common += ["--storage", f"sqlite:///{tmp_path / 'search.db'}", "--sampler", "random"]
    words = ["run", "--train-command", trained(tmp_path), "--trials", "8", *common]
    done = CliRunner().invoke(main, ["search", *words])
    assert done.exit_code == 0, done.output
    assert "rung pass_at_16" in done.output
    assert "stopped: P(top 1)" in done.output
    report = CliRunner().invoke(main, ["search", "report", "--json", *common])
    assert report.exit_code == 0, report.output
    found = json.loads(report.stdout)
    assert found["gpu_hours"] == pytest.approx(
        sum(row["gpu_hours"] for row in found["ranking"])
        + sum(row["gpu_hours"] for row in found["stopped"])
    )
    assert found["stopped"][0]["rungs"]["quarter"] > 0
    shown = CliRunner().invoke(main, ["search", "report", *common])
    assert "GPU-h" in shown.output
