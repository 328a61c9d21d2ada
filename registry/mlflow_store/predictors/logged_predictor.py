"""How a predictor is put into MLflow, in steps. A kill may come after any of them.

    1 run         found by the predictor's id if an earlier put was killed, else created; RUNNING
    2 model       created; PENDING. A killed put's model is deleted, as its content is unknown
    3 files       `model.skops`, MLmodel with signature and example, requirements
    4 run's part  report.json, columns.json, the training table, figures, metrics
    5 record      the model's tags: the record, and the SHA-256 of each of its files
    6 finalize    the model becomes READY, the run FINISHED

The version and its alias come after that (`store`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.mlflow_store.opened import Opened
from rlready.registry.mlflow_store.predictors.records import FittedPredictor
from rlready.registry.mlflow_store.predictors.served_predictor import LOADER
from rlready.registry.mlflow_store.predictors.skops_file import (
    check_types,
    file_digests,
    unfamiliar_types,
)
from rlready.registry.mlflow_store.record_tags import (
    FORMAT,
    DatasetMetrics,
    printable,
    safe_key,
    split_tags,
    tag_json,
)
from rlready.registry.mlflow_store.runs import create_run, finalize, log_metrics

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

MODEL_TYPE = "grpo-predictor"

PREDICTOR = "rlready.predictor"
"""On run, model and version: the predictor's id."""
RECORD = "rlready.predictor_record"
"""On the model: the `PredictorMeta` as JSON."""
SHA256 = "rlready.sha256"
"""On the model: the SHA-256 of each of its files, as JSON."""

_EXAMPLE_ROWS = 5
_PARAM_CHARACTERS = 500
_DATASET_DIGEST = 36
_METRICS_A_BATCH = 1000
_LIBRARIES = ("mlflow", "numpy", "scikit-learn", "skops", "rlready")


def model_of(
    opened: Opened, fitted: FittedPredictor, files: Mapping[str, Path], folder: Path, name: str
) -> tuple[LoggedModel, bool]:
    """Return a predictor's READY model and whether this call made it. The caller holds the lock.

    Args:
        opened: the registry.
        fitted: what to write.
        files: figures by their path below the run's artifacts.
        folder: empty, for files before they are logged.
        name: of the registered model that it will be a version of.

    Raises:
        StoreError: if skops cannot write the estimator, or it holds types that are not trusted.
    """
    client, experiment = opened.client, opened.experiment_id
    models = list(
        client.search_logged_models(
            [experiment], filter_string=f"tags.`{PREDICTOR}` = '{fitted.id}'"
        )
    )
    ready = [model for model in models if str(model.status) == "READY"]
    if ready:
        return ready[0], False
    check_types(unfamiliar_types(fitted.estimator), fitted.trusted_types, "the predictor")
    for unfinished in models:  # of a killed put; its content is written again
        client.delete_logged_model(unfinished.model_id)
    run = _run(opened, fitted, name)
    model = client.create_logged_model(
        experiment,
        name=name.replace(".", "-"),  # MLflow refuses a point here, not in the registered name
        source_run_id=run.info.run_id,
        tags={PREDICTOR: fitted.id, **facts(fitted)},
        params={key: printable(value)[:_PARAM_CHARACTERS] for key, value in fitted.params.items()},
        model_type=MODEL_TYPE,
    )
    digests = _save(model, run, fitted, folder / "model")
    client.log_model_artifacts(model.model_id, str(folder / "model"))
    _log_artifacts(opened, run, fitted, files, folder / "run")
    # MLflow would read NaN back as 0.
    metrics = {safe_key(k): float(v) for k, v in fitted.metrics.items() if math.isfinite(v)}
    digest = fitted.table_digest[:_DATASET_DIGEST]
    dataset = DatasetMetrics(name="training table", digest=digest, values=metrics)
    log_metrics(client, run, model.model_id, [dataset], run.info.start_time)
    tags = {SHA256: json.dumps(digests, sort_keys=True), **_record(fitted, model, run)}
    client.set_logged_model_tags(model.model_id, tags)
    _link(opened, run, model)
    finalize(client, model.model_id)
    client.set_terminated(run.info.run_id)
    return client.get_logged_model(model.model_id), True


def _run(opened: Opened, fitted: FittedPredictor, name: str) -> Run:
    """Return the run to write into: one that a killed put left, or a new one."""
    left_over = opened.run_of(PREDICTOR, fitted.id)
    if left_over is not None:
        return opened.client.get_run(left_over)
    tags = {PREDICTOR: fitted.id, **facts(fitted)}
    return create_run(opened.client, opened.experiment_id, tags, f"fit {name}")


def facts(fitted: FittedPredictor) -> dict[str, str]:
    """Return tags for people, on run, model and version."""
    return {
        "rlready.target": printable(fitted.target),
        "rlready.table": fitted.table_digest,
        "rlready.estimator": type(fitted.estimator).__name__,
    }


def _save(model: LoggedModel, run: Run, fitted: FittedPredictor, folder: Path) -> dict[str, str]:
    """Write MLflow's model folder; return the SHA-256 of each file in it."""
    import mlflow.sklearn
    from mlflow.models import Model, infer_signature

    can_assess = hasattr(fitted.estimator, "assess")
    answer = (fitted.estimator.assess if can_assess else fitted.estimator.predict)(fitted.X)
    about = Model(model_uuid=model.model_id, model_id=model.model_id, run_id=run.info.run_id)
    mlflow.sklearn.save_model(
        fitted.estimator,
        str(folder),
        mlflow_model=about,
        serialization_format="skops",
        skops_trusted_types=sorted(fitted.trusted_types) or None,
        signature=infer_signature(fitted.X, answer),
        input_example=fitted.X.head(_EXAMPLE_ROWS),
        # Without them MLflow loads the model in another process to infer them, which takes 10 s.
        pip_requirements=_requirements(fitted.trusted_types),
    )
    if can_assess:
        about.flavors["python_function"]["loader_module"] = LOADER
        about.save(str(folder / "MLmodel"))
    return file_digests(folder)


def _requirements(trusted_types: Sequence[str]) -> list[str]:
    names = ["mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops"]
    if any(name.startswith("rlready.") for name in trusted_types):
        names.append("rlready")
    return [f"{name}=={installed(name)}" for name in names]


def _record(fitted: FittedPredictor, model: LoggedModel, run: Run) -> dict[str, str]:
    """Return the tags from which `PredictorMeta` is read back."""
    record = {
        "format": FORMAT,
        "id": fitted.id,
        "target": fitted.target,
        "table_digest": fitted.table_digest,
        "n_rows": len(fitted.X),
        "column_versions": dict(fitted.column_versions),
        "params": {key: str(value) for key, value in fitted.params.items()},
        "libraries": {name: installed(name) for name in _LIBRARIES},
        "model_id": model.model_id,
        "run_id": run.info.run_id,
    }
    return split_tags(f"{RECORD}.{fitted.id}", tag_json(record, "the predictor"))


def _log_artifacts(
    opened: Opened, run: Run, fitted: FittedPredictor, files: Mapping[str, Path], folder: Path
) -> None:
    folder.mkdir()
    records = {"report.json": dict(fitted.report), "columns.json": dict(fitted.column_versions)}
    for name, record in records.items():
        text = json.dumps(record, indent=2, allow_nan=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    fitted.table.to_parquet(folder / "table.parquet", index=False)
    fitted.table.to_csv(folder / "table.csv", index=False)
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    opened.client.log_artifacts(run.info.run_id, str(folder))


def _link(opened: Opened, run: Run, model: LoggedModel) -> None:
    from mlflow.entities import LoggedModelOutput

    opened.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
