"""Outcomes in MLflow: a run for each RL run's number, metrics and a tag on the SFT model.

    run          input: the model that RL began from; output: the RL model, if it is registered;
                 `outcome.json`, and the metrics below
    LoggedModel  the model that RL began from gets the metrics `outcome/<statistic>/<budget><unit>`
                 and `..._se` with the benchmark as dataset and, as its digest, the id of how RL was
                 done (`Outcome.rl_digest`); the tag `rlready.outcome.<id>` holds the record itself

The order of a put, each step of which may be the last before a kill: run (RUNNING), artifact,
metrics, links, tag on the model (from here on readers see the outcome), finalize (the model's time
of update moves), run FINISHED. Putting the outcome again goes on from where the kill came.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.mlflow_store.descriptions import note_tag
from rlready.registry.mlflow_store.put_evaluation import AT, finalize, project_run, tag_run
from rlready.registry.mlflow_store.record_tags import (
    FORMAT,
    OUTCOME,
    DatasetMetrics,
    join_tags,
    printable,
    read_tag_json,
    safe_key,
    split_tags,
    tag_json,
)
from rlready.registry.outcomes import Outcome, how_rl_was_done
from rlready.registry.store import StoredCheckpoint, StoredOutcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_MAX_STEP = 2**53  # databases keep a step in 64 bits


@dataclass(frozen=True, kw_only=True)
class PublishedOutcome:
    """An outcome as a model's tag holds it.

    Args:
        outcome: the record.
        id: its id.
        at_ms: when it was put; grows from one outcome of a model to the next.
        run_id: MLflow's run.
    """

    outcome: Outcome
    id: str
    at_ms: int
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Before:
    """What the registry holds before an outcome is put.

    Args:
        stored: the checkpoint that RL began from.
        rl_model_id: MLflow's id of the RL checkpoint, if the outcome names one.
        published: outcomes of the checkpoint, by id.
        note: the description on the checkpoint's page.
    """

    stored: StoredCheckpoint
    rl_model_id: str | None
    published: Mapping[str, PublishedOutcome]
    note: str | None

    @property
    def next_ms(self) -> int:
        """First millisecond after the outcomes that are there."""
        return max((known.at_ms + 1 for known in self.published.values()), default=0)


def read_outcomes(tags: Mapping[str, str]) -> list[PublishedOutcome]:
    """The outcomes in a model's tags, in the order in which they were put.

    Raises:
        StoreError: if a later version of rlready wrote one, or something else did.
    """
    found = []
    for id_, text in join_tags(OUTCOME, tags):
        values = read_tag_json(text, f"{OUTCOME}.{id_}")
        at_ms, run_id = values.pop("at_ms"), values.pop("run")
        found.append(
            PublishedOutcome(outcome=Outcome(**values), id=id_, at_ms=at_ms, run_id=run_id)
        )
    return sorted(found, key=lambda published: (published.at_ms, published.id))


def outcome_tags(outcome: Outcome, at_ms: int, run_id: str) -> dict[str, str]:
    """The tags that publish an outcome on the model that RL began from."""
    record = {"format": FORMAT, "at_ms": at_ms, "run": run_id, **asdict(outcome)}
    text = tag_json(record, f"outcome {outcome.id}")
    return split_tags(f"{OUTCOME}.{outcome.id}", text)


def outcome_metrics(outcome: Outcome) -> DatasetMetrics:
    """The metrics of an outcome. A missing error has none."""
    key = safe_key(f"outcome/{outcome.statistic}/{outcome.budget_text}")
    values = {key: outcome.value}
    if outcome.se is not None:
        values[f"{key}_se"] = outcome.se
    name = printable(outcome.benchmark)
    return DatasetMetrics(name=name, digest=outcome.rl_digest, values=values)


def outcome_run(
    client: MlflowClient,
    experiment_id: str,
    outcome: Outcome,
    before: Before,
    left_over: str | None,
) -> Run:
    """The run to write into, RUNNING.

    Args:
        client: of the registry.
        experiment_id: MLflow's.
        outcome: what will be written.
        before: what is there.
        left_over: id of the run that a killed put of this outcome left.
    """
    if left_over is not None:
        return client.get_run(left_over)
    checkpoint = before.stored.checkpoint
    tags = {
        AT: str(max(time.time_ns() // 1_000_000, before.next_ms)),
        OUTCOME: outcome.id,
        "rlready.checkpoint_id": checkpoint.id,
        "rlready.rl": printable(how_rl_was_done(outcome)),
    }
    if outcome.seed is not None:
        tags["rlready.rl_seed"] = str(outcome.seed)
    project = project_run(client)
    if project is not None:
        tags["mlflow.parentRunId"] = project.info.run_id
    name = printable(f"{outcome.algorithm} {outcome.budget_text} of {checkpoint.name}")
    return client.create_run(experiment_id, tags=tags, run_name=name)


def store(client: MlflowClient, outcome: Outcome, before: Before, run: Run) -> StoredOutcome:
    """Where an outcome went that was not published before.

    Args:
        client: of the registry.
        outcome: what to write.
        before: what is there.
        run: from `outcome_run`.
    """
    run_id, at_ms = run.info.run_id, int(run.data.tags[AT])
    model_id = before.stored.model_id
    _log_artifact(client, run_id, outcome)
    _log_metrics(client, run, model_id, outcome, at_ms)
    _link(client, run, model_id, before.rl_model_id)
    # The time in the record only orders outcomes; a resumed run may be older than others.
    tags = outcome_tags(outcome, max(at_ms, before.next_ms), run_id)
    stored = before.stored
    note = note_tag(
        stored.checkpoint, stored.proxies, before.note, outcomes=(*stored.outcomes, outcome)
    )
    client.set_logged_model_tags(model_id, {**tags, **note})
    finalize(client, model_id)
    client.set_terminated(run_id)
    return StoredOutcome(outcome_id=outcome.id, model_id=model_id, run_id=run_id, is_new=True)


def repeat(client: MlflowClient, id_: str, before: Before) -> StoredOutcome:
    """Where a published outcome is; does what a killed put left to do after publishing."""
    model_id, run_id = before.stored.model_id, before.published[id_].run_id
    if client.get_run(run_id).info.status == "RUNNING":
        finalize(client, model_id)
        client.set_terminated(run_id)
    project = project_run(client)
    if project is not None:
        tag_run(client, project.info.run_id, {f"rlready.repeats_run.{id_[:12]}": run_id})
    return StoredOutcome(outcome_id=id_, model_id=model_id, run_id=run_id, is_new=False)


def _log_artifact(client: MlflowClient, run_id: str, outcome: Outcome) -> None:
    record = {"id": outcome.id, "key": outcome.key, **asdict(outcome)}
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(record, indent=2)
        Path(folder, "outcome.json").write_text(text + "\n", encoding="utf-8")
        client.log_artifacts(run_id, folder)


def _log_metrics(
    client: MlflowClient, run: Run, model_id: str, outcome: Outcome, at_ms: int
) -> None:
    from mlflow.entities import Metric

    run_id, dataset = run.info.run_id, outcome_metrics(outcome)
    step = int(min(outcome.budget, _MAX_STEP)) if outcome.budget_unit == "steps" else 0
    metrics: list[Metric] = [
        Metric(
            key,
            value,
            at_ms,
            step,
            model_id=model_id,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
        )
        for key, value in dataset.values.items()
    ]
    if run.data.metrics:  # a killed put wrote some, on the run or on the model too
        there = client.get_logged_model(model_id).metrics or []
        written = {metric.key for metric in there if metric.run_id == run_id}
        metrics = [metric for metric in metrics if metric.key not in written]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _link(client: MlflowClient, run: Run, model_id: str, rl_model_id: str | None) -> None:
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    outputs = {o.model_id for o in run.outputs.model_outputs} if run.outputs else set()
    if rl_model_id is not None and rl_model_id not in outputs:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(rl_model_id, step=0)])
    client.log_inputs(run.info.run_id, models=[LoggedModelInput(model_id)])
