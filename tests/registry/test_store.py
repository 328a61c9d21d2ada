"""The contract of `Store`, over every implementation and every kind of MLflow backend."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from backends import OpenStore, client_of, new_experiment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import SUPPORT
from store_child import (
    a_checkpoint,
    a_large_evaluation,
    a_proxy,
    an_evaluation,
    an_outcome,
    first_of,
    outcome_of,
    victim,
)

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe
from rlready.registry.store import MemoryStore, Store

SERVERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("server", "postgres")]
CHILD = SUPPORT / "store_child.py"

NEW_MODEL = (
    "create_run",
    "create_logged_model",
    "log_artifacts",
    "log_model_artifacts",
    "log_batch",
    "log_outputs",
    "finalize_logged_model",
    "set_terminated",
)
KNOWN_MODEL = ("create_run", "log_inputs", "set_logged_model_tags", "finalize_logged_model")
STEPS = (
    *(f"{when} {method} 1" for method in NEW_MODEL for when in ("before", "after")),
    "before _log_model_metrics 1",
    "before log_batch 2",
    "second before log_batch 2",
    *(f"second {when} {method} 1" for method in KNOWN_MODEL for when in ("before", "after")),
)

OUTCOME_METHODS = (
    "create_run",
    "log_artifacts",
    "log_batch",
    "log_inputs",
    "set_logged_model_tags",
    "finalize_logged_model",
    "set_terminated",
)
OUTCOME_STEPS = (
    *(f"outcome {when} {method} 1" for method in OUTCOME_METHODS for when in ("before", "after")),
    "outcome before _log_model_metrics 1",
)

WORDS = st.text(min_size=1, max_size=8)
IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ERRORS = st.none() | st.floats(0, allow_infinity=False)
COUNTS = st.integers(0, 10**9)
RECIPES = st.builds(
    Recipe,
    base_model=st.none() | WORDS,
    sources=st.sampled_from([{}, {"a": 1.0}, {"a": 0.25, "é/b": 0.75}]),
    epochs=st.none() | st.integers(1, 9) | st.floats(0.1, 9),
    learning_rate=st.none() | st.floats(1e-7, 1),
    extra=st.dictionaries(WORDS, FINITE | WORDS | st.lists(COUNTS, max_size=3), max_size=2),
)
CHECKPOINTS = st.builds(
    Checkpoint,
    uri=WORDS,
    fingerprint=IDS,
    name=WORDS,
    kind=st.sampled_from(["base", "sft", "rl"]),
    step=st.none() | COUNTS,
    recipe=st.none() | RECIPES,
)
PROXIES = st.builds(
    Proxy,
    name=WORDS | st.sampled_from(["loss", "loss_se", "loss_n", "a@b", "a=b", "update_norm/q"]),
    value=FINITE,
    se=ERRORS,
    se_within=ERRORS,
    unit=WORDS,
    benchmark=WORDS,
    benchmark_digest=IDS,
    protocol_digest=st.none() | IDS,
    n_problems=COUNTS,
    n_samples=COUNTS,
    evaluator_version=WORDS,
)
OUTCOMES = st.builds(
    Outcome,
    checkpoint_id=st.just(a_checkpoint().id),
    algorithm=st.sampled_from(["grpo", "dapo"]),
    rl_recipe=st.dictionaries(WORDS, FINITE | WORDS | st.lists(COUNTS, max_size=3), max_size=2),
    budget=st.floats(0, exclude_min=True, allow_infinity=False),
    budget_unit=st.sampled_from(["steps", "gpu_hours", "exaflop", "samples"]),
    statistic=st.sampled_from(["value_at_budget", "peak", "smoothed_peak_5", "last_5_mean"]),
    benchmark=st.sampled_from(["gsm8k", "aime/24 ü", "a@b"]),
    value=FINITE,
    se=ERRORS,
    seed=st.none() | COUNTS,
    n_evaluations=st.integers(1, 10**6),
    benchmark_digest=st.none() | IDS,
    protocol_digest=st.none() | WORDS,
    evaluator_version=st.none() | WORDS,
)
EVALUATIONS = st.builds(
    Evaluation,
    checkpoint=CHECKPOINTS,
    proxies=st.lists(PROXIES, max_size=8, unique_by=lambda p: (p.name, p.benchmark)).map(tuple),
)


@pytest.mark.parametrize("open_store", ["memory", "sqlite", *SERVERS], indirect=True)
class TestContract:
    """What every store does."""

    def test_an_empty_store_lists_nothing(self, open_store: OpenStore) -> None:
        assert open_store().checkpoints() == []

    def test_what_is_put_is_read_back(self, open_store: OpenStore) -> None:
        evaluation = an_evaluation()
        stored = open_store().put_evaluation(evaluation)
        assert stored.is_new
        assert stored.evaluation_id == evaluation.id
        (read,) = open_store().checkpoints()
        assert read.checkpoint == evaluation.checkpoint
        assert read.proxies == evaluation.proxies
        assert read.model_id == stored.model_id

    def test_a_checkpoint_without_recipe_step_or_proxies_is_read_back(
        self, open_store: OpenStore
    ) -> None:
        bare = a_checkpoint(recipe=None, step=None, kind="base")
        open_store().put_evaluation(Evaluation(checkpoint=bare, proxies=()))
        (read,) = open_store().checkpoints()
        assert (read.checkpoint, read.proxies) == (bare, ())

    def test_every_evaluation_is_listed_in_its_order_with_the_newest_facts(
        self, open_store: OpenStore
    ) -> None:
        store = open_store()
        first = an_evaluation(1, checkpoint=a_checkpoint(1, step=None), value=0.9)
        second, other = an_evaluation(1, value=0.1), an_evaluation(2)
        assert store.evaluations() == []
        for evaluation in (first, other, second, first):
            store.put_evaluation(evaluation)
        listed = open_store().evaluations()
        by_checkpoint = [each for each in listed if each.checkpoint.id == a_checkpoint(1).id]
        assert [each.id for each in by_checkpoint] == [first.id, second.id]
        assert all(each.checkpoint == a_checkpoint(1) for each in by_checkpoint)
        assert {each.id for each in listed} == {first.id, second.id, other.id}
        assert [each.proxies for each in by_checkpoint] == [first.proxies, second.proxies]
        assert all(each.config == first.config for each in by_checkpoint)
        assert all(each.references == first.references for each in by_checkpoint)

    def test_an_evaluation_of_a_thousand_metrics_is_read_back_whole(
        self, open_store: OpenStore
    ) -> None:
        evaluation = a_large_evaluation(3)
        open_store().put_evaluation(evaluation)
        assert open_store().checkpoints()[0].proxies == evaluation.proxies

    def test_checkpoints_are_listed_oldest_first(self, open_store: OpenStore) -> None:
        store = open_store()
        for number in (5, 2, 9):
            store.put_evaluation(an_evaluation(number))
        store.put_evaluation(an_evaluation(5, value=0.9))
        assert [s.checkpoint.step for s in open_store().checkpoints()] == [5, 2, 9]

    def test_the_same_evaluation_is_stored_once(self, open_store: OpenStore) -> None:
        first = open_store().put_evaluation(an_evaluation())
        second = open_store().put_evaluation(an_evaluation())
        assert (first.is_new, second.is_new) == (True, False)
        assert first.model_id == second.model_id
        assert first.run_id == second.run_id
        assert len(open_store().checkpoints()) == 1

    def test_the_newest_value_wins(self, open_store: OpenStore) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation(value=0.2))
        before = store.checkpoints()[0]
        store.put_evaluation(an_evaluation(value=0.4))
        (after,) = open_store().checkpoints()
        assert after.proxies == an_evaluation(value=0.4).proxies
        assert after.updated_ms >= before.updated_ms

    def test_an_evaluation_put_again_does_not_displace_a_newer_one(
        self, open_store: OpenStore
    ) -> None:
        store = open_store()
        for value in (0.2, 0.4, 0.2):
            store.put_evaluation(an_evaluation(value=value))
        assert store.checkpoints()[0].proxies == an_evaluation(value=0.4).proxies

    def test_a_second_protocol_on_a_benchmark_is_kept_apart(self, open_store: OpenStore) -> None:
        store = open_store()
        sampled = a_proxy(value=0.5)
        greedy = a_proxy(value=0.3, protocol_digest="d4" * 16)
        for proxy in (sampled, greedy):
            store.put_evaluation(an_evaluation(proxies=(proxy,)))
        assert store.checkpoints()[0].proxies == (sampled, greedy)

    def test_a_later_evaluation_leaves_other_proxies_alone(self, open_store: OpenStore) -> None:
        store = open_store()
        first, second = an_evaluation(), an_evaluation(proxies=(a_proxy(name="token_entropy"),))
        for evaluation in (first, second):
            store.put_evaluation(evaluation)
        assert store.checkpoints()[0].proxies == (*first.proxies, *second.proxies)

    def test_a_missing_standard_error_stays_missing(self, open_store: OpenStore) -> None:
        proxy = a_proxy(se=None, se_within=None)
        open_store().put_evaluation(an_evaluation(proxies=(proxy,)))
        assert open_store().checkpoints()[0].proxies == (proxy,)

    def test_facts_may_be_added_later(self, open_store: OpenStore) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation(1, checkpoint=a_checkpoint(1, kind="base")))
        bare = a_checkpoint(2, recipe=None, step=None)
        full = a_checkpoint(2, uri="file:///moved", parents=(a_checkpoint(1).id,))
        store.put_evaluation(an_evaluation(checkpoint=bare))
        assert not store.put_evaluation(an_evaluation(checkpoint=full)).is_new
        assert store.find(full.id).checkpoint == full
        store.put_evaluation(an_evaluation(checkpoint=bare, proxies=(a_proxy(value=0.1),)))
        known = dataclasses.replace(full, uri=bare.uri)
        assert open_store().find(full.id).checkpoint == known

    @pytest.mark.parametrize(
        "changes", [{"step": 4}, {"kind": "rl"}, {"recipe": Recipe(base_model="another")}]
    )
    def test_a_contradiction_is_refused_and_changes_nothing(
        self, open_store: OpenStore, changes: dict[str, object]
    ) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation())
        before = store.checkpoints()
        other = dataclasses.replace(a_checkpoint(), **changes)  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=next(iter(changes))):
            store.check(other)
        with pytest.raises(StoreError, match="one history"):
            store.put_evaluation(an_evaluation(checkpoint=other, value=0.9))
        assert open_store().checkpoints() == before

    def test_an_unknown_parent_is_refused(self, open_store: OpenStore) -> None:
        store, orphan = open_store(), a_checkpoint(2, parents=(a_checkpoint(1).id,))
        for attempt in (store.check, lambda c: store.put_evaluation(an_evaluation(checkpoint=c))):
            with pytest.raises(StoreError, match="parent"):
                attempt(orphan)
        assert store.checkpoints() == []

    def test_check_accepts_what_can_be_put(self, open_store: OpenStore) -> None:
        store = open_store()
        store.check(a_checkpoint())
        store.put_evaluation(an_evaluation())
        store.check(a_checkpoint())
        store.check(a_checkpoint(2, parents=(a_checkpoint().id,), kind="rl"))
        assert len(store.checkpoints()) == 1

    def test_find_takes_an_id_a_prefix_a_name_or_a_model_id(self, open_store: OpenStore) -> None:
        store = open_store()
        for number in (1, 2):
            store.put_evaluation(an_evaluation(number))
        wanted = store.checkpoints()[1]
        checkpoint = wanted.checkpoint
        for reference in (checkpoint.id, checkpoint.id[:6], checkpoint.name, wanted.model_id):
            assert open_store().find(reference) == wanted

    def test_find_tells_none_from_several(self, open_store: OpenStore) -> None:
        store = open_store()
        for number in (1, 2):
            store.put_evaluation(an_evaluation(checkpoint=a_checkpoint(number, name="twin")))
        with pytest.raises(StoreError, match="names 2 checkpoints"):
            store.find("twin")
        with pytest.raises(StoreError, match="no checkpoint 'other'"):
            store.find("other")

    def test_an_outcome_is_read_back_with_its_checkpoint(self, open_store: OpenStore) -> None:
        open_store().put_evaluation(an_evaluation())
        before = open_store().checkpoints()[0]
        stored = open_store().put_outcome(an_outcome())
        assert (stored.is_new, stored.outcome_id) == (True, an_outcome().id)
        assert stored.model_id == before.model_id
        (after,) = open_store().checkpoints()
        assert after.outcomes == (an_outcome(),)
        assert (after.checkpoint, after.proxies) == (before.checkpoint, before.proxies)
        assert after.updated_ms >= before.updated_ms
        assert open_store().find(a_checkpoint().name) == after

    def test_a_bare_outcome_is_read_back(self, open_store: OpenStore) -> None:
        open_store().put_evaluation(an_evaluation())
        bare = an_outcome(se=None, seed=None, rl_recipe={}, budget=1.5, budget_unit="gpu_hours")
        open_store().put_outcome(bare)
        assert open_store().checkpoints()[0].outcomes == (bare,)

    def test_the_same_outcome_is_stored_once(self, open_store: OpenStore) -> None:
        open_store().put_evaluation(an_evaluation())
        first, second = (open_store().put_outcome(an_outcome()) for _ in range(2))
        assert (first.is_new, second.is_new) == (True, False)
        assert first.run_id == second.run_id
        assert open_store().checkpoints()[0].outcomes == (an_outcome(),)

    def test_contradicting_outcomes_are_both_kept_in_order(self, open_store: OpenStore) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation())
        put = tuple(an_outcome(value=value) for value in (0.6, 0.3, 0.9))
        for outcome in put:
            store.put_outcome(outcome)
        assert open_store().checkpoints()[0].outcomes == put

    def test_evaluations_and_outcomes_leave_each_other_alone(self, open_store: OpenStore) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation(value=0.1))
        store.put_outcome(an_outcome())
        store.put_evaluation(an_evaluation(value=0.2))
        (read,) = open_store().checkpoints()
        assert read.outcomes == (an_outcome(),)
        assert read.proxies == an_evaluation(value=0.2).proxies

    def test_an_outcome_of_an_unknown_checkpoint_is_refused(self, open_store: OpenStore) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation(1))
        with pytest.raises(StoreError, match="not in the registry"):
            store.put_outcome(an_outcome(2))
        assert [s.outcomes for s in store.checkpoints()] == [()]

    def test_an_outcome_may_name_the_checkpoint_after_rl(self, open_store: OpenStore) -> None:
        store, parent = open_store(), a_checkpoint(1).id
        store.put_evaluation(an_evaluation(1))
        after = a_checkpoint(2, kind="rl", parents=(parent,))
        outcome = an_outcome(rl_checkpoint_id=after.id)
        with pytest.raises(StoreError, match=r"RL checkpoint .* not in the registry"):
            store.put_outcome(outcome)
        store.put_evaluation(an_evaluation(checkpoint=after))
        store.put_outcome(outcome)
        assert [s.outcomes for s in open_store().checkpoints()] == [(outcome,), ()]

    @pytest.mark.parametrize(
        "changes", [{"kind": "sft", "parents": (a_checkpoint(1).id,)}, {"kind": "rl"}]
    )
    def test_a_checkpoint_that_rl_did_not_make_of_this_one_is_refused(
        self, open_store: OpenStore, changes: dict[str, object]
    ) -> None:
        store = open_store()
        store.put_evaluation(an_evaluation(1))
        store.put_evaluation(an_evaluation(checkpoint=a_checkpoint(2, **changes)))
        with pytest.raises(StoreError, match="is not an RL checkpoint of"):
            store.put_outcome(an_outcome(rl_checkpoint_id=a_checkpoint(2).id))
        assert [s.outcomes for s in store.checkpoints()] == [(), ()]

    def test_a_correction_names_an_outcome_that_is_there(self, open_store: OpenStore) -> None:
        store, wrong = open_store(), an_outcome(value=0.9)
        store.put_evaluation(an_evaluation())
        right = an_outcome(value=0.6, replaces=wrong.id)
        with pytest.raises(StoreError, match="is not one of checkpoint"):
            store.put_outcome(right)
        for outcome in (wrong, right):
            store.put_outcome(outcome)
        assert open_store().checkpoints()[0].outcomes == (wrong, right)


@given(outcomes=st.lists(OUTCOMES, max_size=4, unique_by=lambda o: o.id))
def test_memory_returns_the_outcomes_that_were_put(outcomes: list[Outcome]) -> None:
    store = MemoryStore()
    store.put_evaluation(an_evaluation())
    for outcome in outcomes:
        store.put_outcome(outcome)
    assert list(store.checkpoints()[0].outcomes) == outcomes


@pytest.mark.slow
@given(outcomes=st.lists(OUTCOMES, min_size=1, max_size=2, unique_by=lambda o: o.id))
@settings(
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_sqlite_returns_the_outcomes_that_were_put(
    sqlite_uri: str, tmp_path: Path, outcomes: list[Outcome]
) -> None:
    store = MlflowStore(sqlite_uri, new_experiment(sqlite_uri, tmp_path))
    store.put_evaluation(an_evaluation())
    for outcome in outcomes:
        store.put_outcome(outcome)
    read = store.checkpoints()[0].outcomes
    assert list(read) == outcomes
    assert [outcome.id for outcome in read] == [outcome.id for outcome in outcomes]


@given(evaluation=EVALUATIONS)
def test_memory_returns_what_was_put(evaluation: Evaluation) -> None:
    store = MemoryStore()
    store.put_evaluation(evaluation)
    assert_read(store, evaluation)


@pytest.mark.slow
@given(evaluation=EVALUATIONS)
@settings(
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_sqlite_returns_what_was_put(
    sqlite_uri: str, tmp_path: Path, evaluation: Evaluation
) -> None:
    # Two examples may contradict each other about one checkpoint.
    store = MlflowStore(sqlite_uri, new_experiment(sqlite_uri, tmp_path))
    store.put_evaluation(evaluation)
    assert_read(store, evaluation)


@pytest.mark.slow
@pytest.mark.parametrize("mlflow_uri", ["sqlite", "server", "postgres"], indirect=True)
class TestProcesses:
    """What holds between processes."""

    def test_eight_writers_of_one_checkpoint_leave_one(
        self, mlflow_uri: str, tmp_path: Path
    ) -> None:
        experiment = new_experiment(mlflow_uri, tmp_path)
        run_children(mlflow_uri, experiment, "race", "8")
        store = MlflowStore(mlflow_uri, experiment)
        (read,) = store.checkpoints()
        assert read.proxies == an_evaluation(7).proxies
        assert_one_of_each(store, an_evaluation(7))

    def test_a_killed_writer_leaves_nothing_half_and_a_second_put_completes_it(
        self, mlflow_uri: str, tmp_path: Path
    ) -> None:
        experiment = new_experiment(mlflow_uri, tmp_path)
        steps = STEPS if mlflow_uri.startswith("sqlite") else STEPS[1::3]
        if mlflow_uri.startswith("http"):
            steps = tuple(step for step in steps if "_log_model_metrics" not in step)
        run_children(mlflow_uri, experiment, "kill", *steps)
        store = MlflowStore(mlflow_uri, experiment)
        seen = {s.checkpoint.id: s.proxies for s in store.checkpoints()}
        for step in steps:
            evaluation = victim(step)
            before = first_of(step).proxies if step.startswith("second") else ()
            whole = MemoryStore()
            for put in (first_of(step), evaluation) if before else (evaluation,):
                whole.put_evaluation(put)
            complete = whole.checkpoints()[0].proxies
            assert seen.get(evaluation.checkpoint.id, ()) in (before, complete), step
            store.put_evaluation(evaluation)
            assert store.find(evaluation.checkpoint.id).proxies == complete, step
            assert_one_of_each(store, evaluation)

    def test_eight_writers_of_one_outcome_leave_one(self, mlflow_uri: str, tmp_path: Path) -> None:
        experiment = new_experiment(mlflow_uri, tmp_path)
        store = MlflowStore(mlflow_uri, experiment)
        store.put_evaluation(an_evaluation(7))
        run_children(mlflow_uri, experiment, "race_outcome", "8")
        assert store.checkpoints()[0].outcomes == (an_outcome(7),)
        assert_one_run(store, "rlready.outcome", an_outcome(7).id)

    def test_a_killed_writer_of_an_outcome_leaves_it_out_or_whole(
        self, mlflow_uri: str, tmp_path: Path
    ) -> None:
        experiment = new_experiment(mlflow_uri, tmp_path)
        steps = OUTCOME_STEPS if mlflow_uri.startswith("sqlite") else OUTCOME_STEPS[1::3]
        if mlflow_uri.startswith("http"):
            steps = tuple(step for step in steps if "_log_model_metrics" not in step)
        run_children(mlflow_uri, experiment, "kill", *steps)
        store = MlflowStore(mlflow_uri, experiment)
        seen = {s.checkpoint.id: s.outcomes for s in store.checkpoints()}
        for step in steps:
            outcome = outcome_of(step)
            assert seen[outcome.checkpoint_id] in ((), (outcome,)), step
            store.put_outcome(outcome)
            read = store.find(outcome.checkpoint_id)
            assert read.outcomes == (outcome,), step
            assert read.proxies == first_of(step).proxies, step
            run = assert_one_run(store, "rlready.outcome", outcome.id)
            assert run.data.metrics == {
                "outcome/value_at_budget/60steps": 0.6,
                "outcome/value_at_budget/60steps_se": 0.02,
            }, step
            assert_metrics_once(store, read.model_id, run.info.run_id)


def assert_one_run(store: MlflowStore, tag: str, id_: str) -> Any:
    """The one run of a record, FINISHED."""
    client = client_of(store.tracking_uri)
    with quiet():
        experiment_id = client.get_experiment_by_name(store.experiment).experiment_id
        (run,) = client.search_runs([experiment_id], f"tags.`{tag}` = '{id_}'")
    assert run.info.status == "FINISHED"
    return run


def assert_metrics_once(store: MlflowStore, model_id: str, run_id: str) -> None:
    """The model has the two metrics of an outcome's run, once each."""
    with quiet():
        metrics = client_of(store.tracking_uri).get_logged_model(model_id).metrics
    assert sorted(m.value for m in metrics if m.run_id == run_id) == [0.02, 0.6]


def assert_read(store: Store, evaluation: Evaluation) -> None:
    """The store holds this evaluation and nothing else."""
    (read,) = store.checkpoints()
    assert read.checkpoint == evaluation.checkpoint
    assert read.proxies == evaluation.proxies
    assert store.find(evaluation.checkpoint.id) == read


def assert_one_of_each(store: MlflowStore, evaluation: Evaluation) -> None:
    """One model of the key, READY; one run of the evaluation, FINISHED; no claim left."""
    client = client_of(store.tracking_uri)
    with quiet():
        experiment_id = client.get_experiment_by_name(store.experiment).experiment_id
        key = f"tags.`rlready.key` = '{evaluation.checkpoint.id}'"
        models = client.search_logged_models([experiment_id], filter_string=key)
        tag = f"tags.`rlready.evaluation` = '{evaluation.id}'"
        runs = client.search_runs([experiment_id], tag)
        outputs = client.get_run(runs[0].info.run_id).outputs.model_outputs
        claim = f"name = 'rlready-claim-{evaluation.checkpoint.id}'"
        claims = client.search_registered_models(claim)
    assert [str(model.status) for model in models] == ["READY"]
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert max(Counter(o.model_id for o in outputs).values(), default=1) == 1
    assert not claims


def run_children(uri: str, experiment: str, *words: str) -> None:
    """Run `store_child.py`, and fail with what it says if it fails."""
    command = [sys.executable, str(CHILD), uri, experiment, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
