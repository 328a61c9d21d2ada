"""Runs of MLflow and their metrics, as puts of evaluations, outcomes and predictors need them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.mlflow_store.mlflow_calls import MISSING, or_none
from rlready.registry.mlflow_store.record_tags import DatasetMetrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

AT = "rlready.at_ms"
"""On a run: the time of the first try of its put, in milliseconds. Its metrics have this time."""

_METRICS_A_BATCH = 1000  # MLflow writes so many in one transaction
_TAGS_A_BATCH = 100


def project_run(client: MlflowClient) -> Run | None:
    """Return the run that `mlflow run` made for this process, if this registry holds it."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    run = or_none(MISSING, client.get_run, run_id) if run_id else None
    return run if run is not None and run.info.status == "RUNNING" else None


def create_run(
    client: MlflowClient,
    experiment_id: str,
    tags: Mapping[str, str],
    name: str,
    parent: str | None = None,
) -> Run:
    """Create a run below the project's run, or else below the run `parent` if one is given."""
    project = project_run(client)
    above = parent if project is None else project.info.run_id
    below = {} if above is None else {"mlflow.parentRunId": above}
    return client.create_run(experiment_id, tags={**tags, **below}, run_name=name)


def tag_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    items = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(items), _TAGS_A_BATCH):
        client.log_batch(run_id, tags=items[start : start + _TAGS_A_BATCH])


def log_metrics(
    client: MlflowClient,
    run: Run,
    model_id: str,
    datasets: Sequence[DatasetMetrics],
    at_ms: int,
    step: int = 0,
) -> None:
    """Write metrics on a run and a model, except those that a killed put has written."""
    from mlflow.entities import Metric

    metrics: list[Metric] = [
        Metric(
            key,
            value,
            # A model's metric has no dataset in its key: two in one millisecond would collide.
            at_ms + offset,
            step,
            model_id=model_id,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
        )
        for offset, dataset in enumerate(datasets)
        for key, value in dataset.values.items()
    ]
    if run.data.metrics:
        # MLflow accepts a row twice, but fails (3.17) if more than 100 keys of a model come again.
        present = client.get_logged_model(model_id).metrics or []
        written = {(m.key, m.timestamp) for m in present if m.run_id == run.info.run_id}
        metrics = [m for m in metrics if (m.key, m.timestamp) not in written]
    for start in range(0, len(metrics), _METRICS_A_BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + _METRICS_A_BATCH])


def finalize(client: MlflowClient, model_id: str) -> None:
    """Make a model READY. A READY model only gets a new time of update."""
    from mlflow.entities import LoggedModelStatus

    client.finalize_logged_model(model_id, LoggedModelStatus.READY)


def log_files(
    client: MlflowClient,
    run_id: str,
    records: Mapping[str, object],
    files: Mapping[str, Path] | None = None,
) -> None:
    """Store records as JSON files, and copies of files, by their names, as a run's artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        for name, record in records.items():
            # An evaluation's configuration may hold paths and times: they become text.
            text = json.dumps(record, indent=2, default=str)
            Path(folder, name).write_text(text + "\n", encoding="utf-8")
        for name, path in (files or {}).items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        client.log_artifacts(run_id, folder)
