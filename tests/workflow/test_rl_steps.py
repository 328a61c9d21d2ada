"""RL steps of a registry: what counts as a probe, and the whole command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backends import copy_database
from click.testing import CliRunner
from simulation import simulate
from store_child import a_checkpoint, a_proxy, an_outcome

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Evaluation
from rlready.workflow.cli.main import main
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.registry_table import RegistryTable
from rlready.workflow.predict.steps import (
    budget_of,
    plan_applied_steps,
    probes_of,
    spread_in_groups,
)

TARGET = "value_at_budget/120steps@sim"
N_KNOWN = 24


@pytest.fixture(scope="module")
def applied() -> AppliedPredictor:
    """Two groups; 24 outcomes, and of the other rows some with scores at 20, 40 and 60 steps."""
    table = simulate(2, 18, np.random.default_rng(3)).table
    n = len(table)
    has_outcome = np.random.default_rng(0).permutation(n) < N_KNOWN
    predictor = CalibratedPredictor(n_folds=4).fit(table.rows(has_outcome))
    frame = table.X.assign(checkpoint_id=table.ids, name=[f"sft-{i}" for i in range(n)])
    started = np.flatnonzero(~has_outcome)[:6]
    for step in (20, 40, 60):
        values = np.full(n, np.nan)
        values[started] = table.y[started] - (60 - step) * 0.2
        frame[f"value_at_budget/{step}steps@sim"] = values
        frame[f"value_at_budget/{step}steps_se@sim"] = 0.01
    frame["value_at_budget/240steps@sim"] = 1.0
    frame["value_at_budget/20steps@other"] = 1.0
    frame["peak/20steps@sim"] = 1.0
    data = RegistryTable(
        table=replace(table, y=np.where(has_outcome, table.y, np.nan)),
        frame=frame,
        target=TARGET,
        groups=(),
        versions={},
        notes=(),
    )
    return AppliedPredictor(predictor=predictor, meta=None, data=data)


def test_a_probe_is_the_last_score_at_a_smaller_budget(applied: AppliedPredictor) -> None:
    probes = probes_of(applied)
    assert len(probes) == 6
    assert {probe.step for probe in probes.values()} == {60.0}
    assert all(probe.is_rising for probe in probes.values())
    row = applied.names.index(next(iter(probes)))
    value = applied.data.frame["value_at_budget/60steps@sim"].iloc[row]
    assert next(iter(probes.values())).value == value


def test_a_score_that_is_a_proxy_does_not_count_twice(applied: AppliedPredictor) -> None:
    predictor = CalibratedPredictor()
    names = [f"value_at_budget/{step}steps@sim" for step in (40, 60)]
    predictor.columns_ = [(name, "share", 1, None) for name in names]
    probes = probes_of(replace(applied, predictor=predictor))
    assert {probe.step for probe in probes.values()} == {20.0}


def test_started_runs_are_said_and_rising_ones_are_flagged(applied: AppliedPredictor) -> None:
    plan = plan_applied_steps(applied, 480).plan
    notes = " ".join(plan.notes)
    assert "6 runs were started" in notes
    assert "still rising" in notes
    assert plan.best.steps <= 480
    assert all(split.step >= 40 for split in plan.splits)
    assert str(plan.finish_now) == "finish 4 now"


def test_probes_move_what_is_proposed(applied: AppliedPredictor) -> None:
    """A started run that is far above the others of its group is started first."""
    frame = applied.data.frame.copy()
    names = list(probes_of(applied))
    row = applied.names.index(names[0])
    for step in (20, 40, 60):
        frame.loc[frame.index[row], f"value_at_budget/{step}steps@sim"] = 1e3
    moved = replace(applied, data=replace(applied.data, frame=frame))
    assert plan_applied_steps(moved, 480).plan.chosen[0] == names[0]


def test_the_spread_is_that_inside_groups(applied: AppliedPredictor) -> None:
    table = applied.data.table
    known = np.isfinite(table.y)
    variances = [
        (table.y[known & (table.groups == g)].var(ddof=0), (known & (table.groups == g)).sum())
        for g in np.unique(table.groups)
    ]
    pooled = sum(v * n for v, n in variances) / (N_KNOWN - len(variances))
    assert spread_in_groups(table) == pytest.approx(np.sqrt(pooled))


@pytest.mark.parametrize(
    ("target", "budget"),
    [
        ("value_at_budget/60steps@gsm8k", (60.0, "steps")),
        ("peak/1.5gpu_hours@a@b", (1.5, "gpu_hours")),
        ("value_at_budget/60steps@gsm8k#a1b2c3", (60.0, "steps")),
    ],
)
def test_the_budget_is_that_of_the_target(target: str, budget: tuple[float, str]) -> None:
    assert budget_of(target) == budget


def test_a_target_without_a_budget_is_told() -> None:
    with pytest.raises(ConfigError, match="has no budget of an RL run"):
        budget_of("score")


@pytest.mark.slow
def test_the_command_proposes_a_split_beside_finishing_now(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_database(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = MlflowStore(uri)
    for number in range(1, 17):
        value = number / 20
        proxies = (a_proxy(value=value, se=0.01), a_proxy(name="pass_at_1", value=value / 2))
        store.put_evaluation(Evaluation(checkpoint=a_checkpoint(number), proxies=proxies))
        if number % 2:
            score = 0.2 + 0.5 * value + 0.02 * (number % 3)
            store.put_outcome(an_outcome(number, value=score, se=0.01))

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(main, [*map(str, words), "--tracking-uri", uri])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.stdout if code == 0 else " ".join(done.stderr.split())

    run("fit")
    figure = tmp_path / "steps.png"
    found = json.loads(run("plan", "--rl-steps", 240, "--figure", figure, "--json"))
    assert figure.stat().st_size > 10_000
    assert found["total"] == 240
    assert (found["budget"], found["unit"]) == (60.0, "steps")
    assert found["finish_now"]["n_finished"] == 4
    assert len(found["chosen"]) == found["best"]["n_probed"]
    assert found["best"]["steps"] <= 240
    assert found["frozen"]["is_new"]
    shown = " ".join(run("plan", "--rl-steps", 240, "--no-freeze").split())
    assert "finish 4 now" in shown
    assert "no run is dropped before step 40" in shown
    assert "Give 60 or more" in run("plan", "--rl-steps", 30, code=2)
    assert "Give --rl-runs N, or --rl-steps TOTAL" in run("plan", code=2)
    assert "Give --rl-runs N" in run("plan", "--rl-runs", 1, "--rl-steps", 60, code=2)
    assert "--policy anchor" in run("plan", "--rl-steps", 60, "--policy", "anchor", code=2)
