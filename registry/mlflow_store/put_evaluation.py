"""How an evaluation is put into MLflow, in steps. The process may be killed after any of them.

    1 run        found by the evaluation's id if an earlier put was killed, else created; RUNNING
    2 model      found by its key, else created; PENDING
    3 artifacts  evaluation.json, config.json and the caller's files; MLmodel for a new model
    4 metrics    on run and model, in batches of 1,000
    5 links      outputs and inputs of the run
    6 publish    a READY model gets the tag that holds the evaluation; a new model, which nobody
                 reads yet, has it since step 2
    7 finalize   a new model becomes READY; a known one gets a new time of update
    8 end        the run becomes FINISHED

Each step can be repeated: the run's tag keeps the time of the first try, and by this time the
metrics that were already written are recognised. All steps hold the lock of the checkpoint.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.pages.descriptions import note_tag
from rlready.registry.mlflow_store.record_tags import (
    EVALUATION,
    MODEL_TYPES,
    ModelRow,
    Published,
    checkpoint_tags,
    evaluation_tags,
    metrics_by_dataset,
    model_name,
    printable,
    read_checkpoint,
    read_evaluations,
    safe_key,
    stored_checkpoints,
)
from rlready.registry.mlflow_store.runs import (
    AT,
    create_run,
    finalize,
    log_files,
    log_metrics,
    project_run,
    tag_run,
)
from rlready.registry.records import Checkpoint, Evaluation
from rlready.registry.redaction import redacted, redacted_values
from rlready.registry.store import (
    StoredCheckpoint,
    StoredEvaluation,
    merge,
    newest,
    unknown_parent,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_OWN_ARTIFACTS = ("evaluation.json", "config.json")
_TAG_CHARACTERS = 5000  # what every backend keeps of a run's tag


@dataclass(frozen=True, kw_only=True)
class Before:
    """The state of a checkpoint in the registry before a put.

    `stored` is the checkpoint if it is READY, `pending` a model that a killed put left, `published`
    its evaluations by id, `parents` their model ids, and `page` the tags of its model, of which the
    page is made.
    """

    stored: StoredCheckpoint | None
    pending: ModelRow | None
    published: Mapping[str, Published]
    parents: tuple[str, ...]
    page: Mapping[str, str]

    @property
    def next_ms(self) -> int:
        """First millisecond that no published evaluation of the checkpoint used."""
        return max((e.at_ms + e.n_datasets for e in self.published.values()), default=0)


def read_before(opened: Opened, checkpoint: Checkpoint) -> Before:
    """Return what the registry holds; raise StoreError if it contradicts this checkpoint."""
    by_id: dict[str, list[ModelRow]] = {}
    for row in opened.rows([checkpoint.id, *checkpoint.parents], whole=True):
        by_id.setdefault(read_checkpoint(row.tags).id, []).append(row)
    ready = {id_: [row for row in rows if row.is_ready] for id_, rows in by_id.items()}
    for parent in checkpoint.parents:
        if not ready.get(parent):
            raise unknown_parent(checkpoint, parent)
    models = ready.get(checkpoint.id, [])
    stored = stored_checkpoints(models)[0] if models else None
    if stored is not None:
        merge(stored.checkpoint, checkpoint)
    pending = [row for row in by_id.get(checkpoint.id, []) if not row.is_ready]
    return Before(
        stored=stored,
        pending=pending[0] if pending else None,
        published={e.id: e for row in models for e in read_evaluations(row.tags)},
        parents=tuple(ready[parent][0].model_id for parent in checkpoint.parents),
        page=models[0].tags if models else {},
    )


def put(opened: Opened, evaluation: Evaluation, files: Mapping[str, Path]) -> StoredEvaluation:
    """Put an evaluation, or finish what a killed put of it left; files: `checked_artifacts`."""
    client, checkpoint = opened.client, evaluation.checkpoint
    with opened.lock(checkpoint.id):
        before = read_before(opened, checkpoint)
        if evaluation.id in before.published:
            return _repeat(client, evaluation, before)
        run = _evaluation_run(opened, evaluation, before)
        run_id, at_ms = run.info.run_id, int(run.data.tags[AT])
        # The time in the record only orders evaluations; a resumed run may be older than others.
        published = evaluation_tags(evaluation, max(at_ms, before.next_ms), run_id)
        model_id = _model(opened, evaluation, before, run_id, published)
        # Before the metrics: MLflow loads run and model with all metrics to learn where files go.
        records = {
            "evaluation.json": {
                "id": evaluation.id,
                "checkpoint": asdict(checkpoint),
                "proxies": [vars(proxy) for proxy in evaluation.proxies],
                "references": redacted_values(evaluation.references),
            },
            "config.json": redacted_values(evaluation.config),
        }
        log_files(client, run_id, records, files)
        if before.stored is None:
            _log_reference(client, run_id, model_id, checkpoint)
        datasets, step = metrics_by_dataset(evaluation), checkpoint.step or 0
        log_metrics(client, run, model_id, datasets, at_ms, step)
        _link(client, run, model_id, checkpoint, before)
        if before.stored is not None:
            facts = _new_facts(before.stored.checkpoint, checkpoint)
            tags = {**facts, **published, **_note(evaluation, before)}
            client.set_logged_model_tags(model_id, tags)
        finalize(client, model_id)
        if not _is_project_run(run_id):
            client.set_terminated(run_id)
        return StoredEvaluation(
            evaluation_id=evaluation.id, model_id=model_id, run_id=run_id, is_new=True
        )


def checked_artifacts(artifacts: Mapping[str, Path]) -> dict[str, Path]:
    """Return the artifacts; raise StoreError for a missing file or a name that cannot be used."""
    for name, path in artifacts.items():
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
            raise StoreError(
                f"artifact name {name!r} leads out of the run", fix="Give a plain name"
            )
        if name in _OWN_ARTIFACTS:
            raise StoreError(f"artifact name {name!r} is taken", fix="Give another name")
        if not path.is_file():
            raise StoreError(f"artifact {name} is not stored", why=f"there is no file {path}")
    return dict(artifacts)


def _repeat(client: MlflowClient, evaluation: Evaluation, before: Before) -> StoredEvaluation:
    """Return where a published evaluation is; finish what a killed put left after publishing."""
    assert before.stored is not None  # only READY models have published evaluations
    model_id, run_id = before.stored.model_id, before.published[evaluation.id].run_id
    facts = _new_facts(before.stored.checkpoint, evaluation.checkpoint)
    if facts:
        client.set_logged_model_tags(model_id, facts)
        finalize(client, model_id)
    project = project_run(client)
    if project is not None and project.info.run_id != run_id:
        pointers = {"rlready.repeats_run": run_id, "rlready.model_id": model_id}
        tag_run(client, project.info.run_id, pointers)
    if not _is_project_run(run_id) and client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id)
    return StoredEvaluation(
        evaluation_id=evaluation.id, model_id=model_id, run_id=run_id, is_new=False
    )


def _evaluation_run(opened: Opened, evaluation: Evaluation, before: Before) -> Run:
    """Return the run to write into: the project's, one that a killed put left, or a new one."""
    client, project = opened.client, project_run(opened.client)
    samples = {
        f"rlready.samples.{safe_key(name)}": redacted(uri)[:_TAG_CHARACTERS]
        for name, uri in evaluation.references.items()
    }
    tags = {
        **samples,
        AT: str(max(time.time_ns() // 1_000_000, before.next_ms)),
        EVALUATION: evaluation.id,
        "rlready.checkpoint_id": evaluation.checkpoint.id,
    }
    left_over = opened.run_of(EVALUATION, evaluation.id)
    # A project may evaluate several checkpoints: each later one gets a run below the project's.
    if project is not None and project.data.tags.get(EVALUATION, evaluation.id) == evaluation.id:
        if AT not in project.data.tags:
            tag_run(client, project.info.run_id, tags)
            project = client.get_run(project.info.run_id)
        return project
    if left_over is not None:
        return client.get_run(left_over)
    name = f"evaluate {printable(evaluation.checkpoint.name)}"
    return create_run(client, opened.experiment_id, tags, name)


def _is_project_run(run_id: str) -> bool:
    """Return True for the run of a surrounding `mlflow run`, which sets the final status itself."""
    return os.environ.get("MLFLOW_RUN_ID") == run_id


def _model(
    opened: Opened,
    evaluation: Evaluation,
    before: Before,
    run_id: str,
    published: Mapping[str, str],
) -> str:
    """Return the id of the model to write to, which exists afterwards."""
    if before.stored is not None:
        return before.stored.model_id
    client, checkpoint, pending = opened.client, evaluation.checkpoint, before.pending
    kind = MODEL_TYPES[checkpoint.kind]
    facts = {**checkpoint_tags(checkpoint), "mlflow.model.isExternal": "true"}
    tags = {**facts, **published, **_note(evaluation, before)}
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
        opened.experiment_id,
        name=model_name(checkpoint),
        source_run_id=run_id,
        tags=tags,
        model_type=kind,
    )
    return str(model.model_id)


def _note(evaluation: Evaluation, before: Before) -> Mapping[str, str]:
    if before.stored is None:
        return note_tag(evaluation.checkpoint, evaluation.proxies, before.page)
    checkpoint = merge(before.stored.checkpoint, evaluation.checkpoint)
    proxies = newest(before.stored.proxies, evaluation.proxies)
    return note_tag(checkpoint, proxies, before.page, outcomes=before.stored.outcomes)


def _new_facts(stored: Checkpoint, checkpoint: Checkpoint) -> dict[str, str]:
    """Return the checkpoint's tags, if this put adds to them."""
    merged = merge(stored, checkpoint)
    return {} if merged == stored else checkpoint_tags(merged)


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
    client: MlflowClient, run: Run, model_id: str, checkpoint: Checkpoint, before: Before
) -> None:
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    outputs = run.outputs.model_outputs if run.outputs else []
    inputs: Iterable[str] = before.parents
    if before.stored is not None:
        has_new_parents = before.stored.checkpoint.parents == ()
        inputs = (model_id, *(before.parents if has_new_parents else ()))
    elif model_id not in {output.model_id for output in outputs}:
        step = checkpoint.step or 0
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=step)])
    models = [LoggedModelInput(id_) for id_ in inputs]
    if models:
        client.log_inputs(run.info.run_id, models=models)
