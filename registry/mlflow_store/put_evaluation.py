"""One put into MLflow, step by step, each of which may be the last before a kill.

    1 run        found by the evaluation's id if an earlier put was killed, else made; RUNNING
    2 model      found by its key, else made; PENDING
    3 artifacts  evaluation.json, config.json and what the caller gave; MLmodel for a new model
    4 metrics    on run and model, in batches of 1,000
    5 links      outputs and inputs of the run
    6 publish    a READY model gets the tag that holds the evaluation; a new one, which nobody
                 reads yet, has it since step 2
    7 finalize   a new model becomes READY; for an old one its time of update moves
    8 end        the run becomes FINISHED

Each step can be done twice: the run's tag keeps the time of the first try, by which metrics that
are there already are known. The caller holds the lock of the checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.descriptions import note_tag
from rlready.registry.mlflow_store.record_tags import (
    EVALUATION,
    Published,
    checkpoint_tags,
    evaluation_tags,
    metrics_by_dataset,
    model_name,
    model_type,
    printable,
    safe_key,
)
from rlready.registry.mlflow_store.sql import ModelRow
from rlready.registry.records import Checkpoint, Evaluation
from rlready.registry.redaction import redacted, redacted_values
from rlready.registry.store import StoredCheckpoint, StoredEvaluation, merge, newest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

AT = "rlready.at_ms"
OWN_ARTIFACTS = ("evaluation.json", "config.json")

_METRICS_A_BATCH = 1000  # MLflow writes so many in one transaction
_TAGS_A_BATCH = 100
_TAG_CHARACTERS = 5000  # what every backend keeps of a run's tag


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the registry holds of a checkpoint and its parents before a put.

    Args:
        stored: the checkpoint, if it is READY.
        pending: the model that a killed put left.
        published: evaluations of READY models by id.
        parents: model ids of the parents.
        note: the description on the checkpoint's page.
    """

    stored: StoredCheckpoint | None
    pending: ModelRow | None
    published: Mapping[str, Published]
    parents: tuple[str, ...]
    note: str | None = None

    @property
    def next_ms(self) -> int:
        """First millisecond that no published evaluation of the checkpoint used."""
        return max((e.at_ms + e.n_datasets for e in self.published.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class Put:
    """What is to be stored.

    Args:
        evaluation: the record.
        id: its id, which takes a millisecond to compute.
        files: artifacts, from `checked_artifacts`.
    """

    evaluation: Evaluation
    id: str
    files: Mapping[str, Path]

    @property
    def checkpoint(self) -> Checkpoint:
        """What was evaluated."""
        return self.evaluation.checkpoint


def store(
    client: MlflowClient, experiment_id: str, put: Put, known: Known, run: Run
) -> StoredEvaluation:
    """Where an evaluation went that was not published before.

    Args:
        client: of the registry.
        experiment_id: MLflow's.
        put: what to write.
        known: what is there.
        run: of the evaluation, from `evaluation_run`.
    """
    run_id, at_ms = run.info.run_id, int(run.data.tags[AT])
    # The time in the record only orders evaluations; a resumed run may be older than others.
    published = evaluation_tags(put.evaluation, put.id, max(at_ms, known.next_ms), run_id)
    model_id = _model(client, experiment_id, put, known, run_id, published)
    # Before the metrics: MLflow loads run and model, with all metrics, to learn where files go.
    _log_artifacts(client, run_id, put)
    if known.stored is None:
        _log_reference(client, run_id, model_id, put.checkpoint)
    _log_metrics(client, run, model_id, put.evaluation)
    _link(client, run, model_id, put.checkpoint, known)
    if known.stored is not None:
        facts = _news(known.stored.checkpoint, put.checkpoint)
        client.set_logged_model_tags(model_id, {**facts, **published, **_note(put, known)})
    finalize(client, model_id)
    if not is_project_run(run_id):
        client.set_terminated(run_id)
    return StoredEvaluation(evaluation_id=put.id, model_id=model_id, run_id=run_id, is_new=True)


def repeat(client: MlflowClient, put: Put, known: Known) -> StoredEvaluation:
    """Where a published evaluation is; does what a killed put left to do after publishing."""
    assert known.stored is not None  # nothing else is published
    model_id, run_id = known.stored.model_id, known.published[put.id].run_id
    facts = _news(known.stored.checkpoint, put.checkpoint)
    if facts:
        client.set_logged_model_tags(model_id, facts)
        finalize(client, model_id)
    project = project_run(client)
    if project is not None and project.info.run_id != run_id:
        pointers = {"rlready.repeats_run": run_id, "rlready.model_id": model_id}
        tag_run(client, project.info.run_id, pointers)
    if not is_project_run(run_id) and client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id)
    return StoredEvaluation(evaluation_id=put.id, model_id=model_id, run_id=run_id, is_new=False)


def evaluation_run(
    client: MlflowClient,
    experiment_id: str,
    put: Put,
    known: Known,
    left_over: str | None,
) -> Run:
    """The run to write into, RUNNING, tagged with the evaluation.

    Args:
        client: of the registry.
        experiment_id: MLflow's.
        put: what will be written.
        known: what is there.
        left_over: id of the run that a killed put of this evaluation left.
    """
    project = project_run(client)
    tags = _run_tags(put, known)
    if project is not None:
        if project.data.tags.get(EVALUATION, put.id) == put.id:
            if AT not in project.data.tags:
                tag_run(client, project.info.run_id, tags)
                project = client.get_run(project.info.run_id)
            return project
        # The project evaluates several checkpoints: each later one gets a run below the project's.
        tags["mlflow.parentRunId"] = project.info.run_id
    if left_over is not None:
        return client.get_run(left_over)
    name = f"evaluate {printable(put.checkpoint.name)}"
    return client.create_run(experiment_id, tags=tags, run_name=name)


def is_project_run(run_id: str) -> bool:
    """True for the run of a surrounding `mlflow run`, which sets the final status itself."""
    return os.environ.get("MLFLOW_RUN_ID") == run_id


def checked_artifacts(artifacts: Mapping[str, Path]) -> dict[str, Path]:
    """The artifacts by the path that they get below the run's artifacts.

    Raises:
        StoreError: if a file is not there, or its name leads elsewhere or is taken.
    """
    for name, path in artifacts.items():
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
            raise StoreError(
                f"artifact name {name!r} leads out of the run", fix="Give a plain name"
            )
        if name in OWN_ARTIFACTS:
            raise StoreError(f"artifact name {name!r} is taken", fix="Give another name")
        if not path.is_file():
            raise StoreError(f"artifact {name} is not stored", why=f"there is no file {path}")
    return dict(artifacts)


def project_run(client: MlflowClient) -> Run | None:
    """The run that `mlflow run` made for this process, if this registry holds it."""
    from mlflow.exceptions import MlflowException

    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.status == "RUNNING" else None


def _run_tags(put: Put, known: Known) -> dict[str, str]:
    at_ms = max(time.time_ns() // 1_000_000, known.next_ms)
    samples = {
        f"rlready.samples.{safe_key(name)}": redacted(uri)[:_TAG_CHARACTERS]
        for name, uri in put.evaluation.references.items()
    }
    return {
        **samples,
        AT: str(at_ms),
        EVALUATION: put.id,
        "rlready.checkpoint_id": put.checkpoint.id,
    }


def tag_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    items = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(items), _TAGS_A_BATCH):
        client.log_batch(run_id, tags=items[start : start + _TAGS_A_BATCH])


def _model(
    client: MlflowClient,
    experiment_id: str,
    put: Put,
    known: Known,
    run_id: str,
    published: Mapping[str, str],
) -> str:
    if known.stored is not None:
        return known.stored.model_id
    checkpoint = put.checkpoint
    kind = model_type(checkpoint)
    facts = {**checkpoint_tags(checkpoint), "mlflow.model.isExternal": "true"}
    tags = {**facts, **published, **_note(put, known)}
    pending = known.pending
    if pending is not None and pending.model_type == kind:
        # The killed put may have been of other numbers, some of which were never written.
        for key in pending.tags:
            if key.startswith(EVALUATION + ".") and key not in published:
                client.delete_logged_model_tag(pending.model_id, key)
        client.set_logged_model_tags(pending.model_id, tags)
        return pending.model_id
    if pending is not None:
        client.delete_logged_model(pending.model_id)  # a model's type cannot be changed
    model = client.create_logged_model(
        experiment_id,
        name=model_name(checkpoint),
        source_run_id=run_id,
        tags=tags,
        model_type=kind,
    )
    return str(model.model_id)


def _note(put: Put, known: Known) -> Mapping[str, str]:
    if known.stored is None:
        return note_tag(put.checkpoint, put.evaluation.proxies, known.note)
    checkpoint = merge(known.stored.checkpoint, put.checkpoint)
    proxies = newest(known.stored.proxies, put.evaluation.proxies)
    return note_tag(checkpoint, proxies, known.note, outcomes=known.stored.outcomes)


def _news(known: Checkpoint, given: Checkpoint) -> dict[str, str]:
    """The checkpoint's tags, if this put adds to what they say."""
    after = merge(known, given)
    return {} if after == known else checkpoint_tags(after)


def _log_metrics(client: MlflowClient, run: Run, model_id: str, evaluation: Evaluation) -> None:
    run_id, at_ms = run.info.run_id, int(run.data.tags[AT])
    metrics = _metrics(evaluation, model_id, at_ms)
    if run.data.metrics:
        # A killed put wrote some. MLflow takes a row a second time, but fails (3.17) if more than
        # 100 keys of a model come again at once.
        there = client.get_logged_model(model_id).metrics or []
        written = {(m.key, m.timestamp) for m in there if m.run_id == run_id}
        metrics = [m for m in metrics if (m.key, m.timestamp) not in written]
    for start in range(0, len(metrics), _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_BATCH])


def _metrics(evaluation: Evaluation, model_id: str, at_ms: int) -> list[Metric]:
    from mlflow.entities import Metric

    step = evaluation.checkpoint.step or 0
    return [
        # A model's metric has no dataset in its key: two in one millisecond would clash.
        Metric(
            key,
            value,
            at_ms + offset,
            step,
            model_id=model_id,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
        )
        for offset, dataset in enumerate(metrics_by_dataset(evaluation))
        for key, value in dataset.values.items()
    ]


def _log_artifacts(client: MlflowClient, run_id: str, put: Put) -> None:
    evaluation = put.evaluation
    records: dict[str, Any] = {
        "evaluation.json": {
            "id": put.id,
            "checkpoint": asdict(put.checkpoint),
            "proxies": [vars(proxy) for proxy in evaluation.proxies],
            "references": redacted_values(evaluation.references),
        },
        "config.json": redacted_values(evaluation.config),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, record in records.items():
            text = json.dumps(record, indent=2, default=str)
            Path(folder, name).write_text(text + "\n", encoding="utf-8")
        for name, path in put.files.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        client.log_artifacts(run_id, folder)


def _log_reference(
    client: MlflowClient, run_id: str, model_id: str, checkpoint: Checkpoint
) -> None:
    """Give the model its MLmodel file, without which MLflow's model page shows an error."""
    from mlflow.models import Model

    about = {"mlflow.model.isExternal": True, "weights_uri": checkpoint.uri}
    with tempfile.TemporaryDirectory() as folder:
        Model(model_uuid=model_id, model_id=model_id, run_id=run_id, metadata=about).save(
            str(Path(folder) / "MLmodel")
        )
        client.log_model_artifacts(model_id, folder)


def _link(
    client: MlflowClient, run: Run, model_id: str, checkpoint: Checkpoint, known: Known
) -> None:
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    outputs = run.outputs.model_outputs if run.outputs else []
    inputs: Iterable[str] = known.parents
    if known.stored is not None:
        news = known.stored.checkpoint.parents == ()
        inputs = (model_id, *(known.parents if news else ()))
    elif model_id not in {output.model_id for output in outputs}:
        step = checkpoint.step or 0
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=step)])
    models = [LoggedModelInput(id_) for id_ in inputs]
    if models:
        client.log_inputs(run.info.run_id, models=models)


def finalize(client: MlflowClient, model_id: str) -> None:
    """Make a model READY; of one that is, move the time of update."""
    from mlflow.entities import LoggedModelStatus

    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
