"""Fitted predictors in MLflow: stored without pickle, with everything that they rest on.

A predictor is a scikit-learn estimator, or a pipeline of them. It becomes

    LoggedModel         type grpo-predictor: `model.skops`, MLmodel with signature and example,
                        requirements; `mlflow models serve` and `mlflow.pyfunc.load_model` take it
    run                 its metrics, and artifacts: report.json, columns.json, the training table
                        (Parquet and CSV), figures/; the model is its output
    registered model    a version a predictor, the alias `champion` on the last one that was put;
                        tags: the predictor's record, and the SHA-256 of each file of the model

A put is done in this order, and may be killed anywhere: only a complete model becomes READY, only a
READY one a version. The same predictor of the same table is one version, however often it is put.

Reading trusts no file: each must have the SHA-256 that the version's tags name, `model.skops` must
be skops (never a pickle, whatever MLmodel says), and every type in it must be one that skops knows
to be harmless or that the caller names. The list of trusted types that lies beside a model, and
that MLflow believes, is not read.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.registry import mlflow_codec as codec
from rlready.registry import mlflow_versions as versions
from rlready.registry.digest import digest
from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store import MlflowStore, Opened
from rlready.registry.mlflow_versions import SIGNATURE, Version
from rlready.registry.mlflow_write import checked_artifacts, finalize, project_run
from rlready.registry.served_predictor import LOADER, MODEL_FILE
from rlready.registry.skops_file import (
    check_files,
    check_types,
    file_digests,
    load_estimator,
    unfamiliar_types,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel, Metric, Run

DEFAULT_NAME = "grpo-predictor"
CHAMPION = "champion"
MODEL_TYPE = "grpo-predictor"

PREDICTOR = "rlready.predictor"
"""On run, model and version: the predictor's id."""
RECORD = "rlready.predictor_record"
SHA256 = "rlready.sha256"
"""On model and version: the SHA-256 of each file of the model, as JSON."""

_EXAMPLE_ROWS = 5
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PARAM_CHARACTERS = 500
_TEXT_CHARACTERS = 4500  # MySQL keeps 5,000 of a version's description
_DATASET_DIGEST = 36
_METRICS_A_BATCH = 1000
_LIBRARIES = ("mlflow", "numpy", "scikit-learn", "skops", "rlready")
_DIGITS = 9
"""Of the predictions that tell two predictors apart; the last ones differ between machines."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPredictor:
    """A predictor with what it rests on.

    Args:
        estimator: fitted; its `predict` takes rows like those of `X`.
        X: the rows it was fitted on, a column a proxy (and whatever else it takes).
        table: the whole training table as it was read, for whoever wants to fit it again.
        table_digest: id of the table's content.
        target: key of the outcome that it foresees.
        column_versions: how the numbers of each proxy's column were measured (see
            `table.CheckpointTable.versions`).
        trusted_types: types in the estimator beyond those of scikit-learn, by full name.
        params: what it was asked to be (model, groups, seed, ...), shown on its page.
        metrics: figures of its validation, by name; what is not finite is left out.
        report: the validation report, JSON values.
        figures: PNG files by name.
        summary: what the report says, in a few lines, for the page.
    """

    estimator: Any
    X: pd.DataFrame
    table: pd.DataFrame
    table_digest: str
    target: str
    column_versions: Mapping[str, str]
    trusted_types: Sequence[str] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    summary: Sequence[str] = ()

    @cached_property
    def id(self) -> str:
        """Digest of table, target, parameters, and what it predicts for its own rows.

        The bytes of the file are no help: skops writes other ones each time.
        """
        predicted = np.asarray(self.estimator.predict(self.X), dtype=float).ravel()
        return digest(
            {
                "table": self.table_digest,
                "target": self.target,
                "columns": dict(self.column_versions),
                "params": {key: str(value) for key, value in self.params.items()},
                "estimator": _settings(self.estimator),
                "predicted": [f"{value:.{_DIGITS}g}" for value in predicted],
            }
        )


@dataclass(frozen=True, kw_only=True)
class PredictorMeta:
    """What is known of a stored predictor.

    Args:
        name: of the registered model.
        version: its number.
        id: `FittedPredictor.id`.
        target: key of the outcome.
        table_digest: id of the training table's content.
        n_rows: of that table.
        column_versions: how the numbers of each column were measured.
        params: what it was asked to be.
        libraries: versions that wrote it.
        model_id: MLflow's.
        run_id: MLflow's; holds the report, the table and the figures.
    """

    name: str
    version: str
    id: str
    target: str
    table_digest: str
    n_rows: int
    column_versions: Mapping[str, str]
    params: Mapping[str, str]
    libraries: Mapping[str, str]
    model_id: str
    run_id: str

    @property
    def uri(self) -> str:
        """What MLflow takes."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class StoredPredictor:
    """Where a predictor went.

    Args:
        meta: what is known of it.
        is_new: whether this call stored it.
    """

    meta: PredictorMeta
    is_new: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedPredictor:
    """A predictor that passed the checks.

    Args:
        estimator: fitted.
        meta: what is known of it.
    """

    estimator: Any
    meta: PredictorMeta


def put_predictor(
    store: MlflowStore, fitted: FittedPredictor, name: str = DEFAULT_NAME
) -> StoredPredictor:
    """Store a predictor as a version of a registered model, and make it the champion.

    Args:
        store: the registry.
        fitted: the predictor.
        name: of the registered model.

    Raises:
        StoreError: if the estimator holds types that are not trusted or that skops cannot write,
            if a figure is not there, or if the store fails while writing; the same call may be
            repeated.
    """
    versions.checked_name(name)
    files = checked_artifacts({f"figures/{key}": path for key, path in fitted.figures.items()})
    with (
        store.opened(f"storing predictor {name}", write=True) as opened,
        tempfile.TemporaryDirectory() as folder,
    ):
        with opened.lock(f"predictor-{name}"):
            model, is_new = _model(opened, fitted, files, Path(folder))
        about = _registered_description(fitted.target)
        versions.ensure_registered(opened.client, name, {"rlready.kind": MODEL_TYPE}, about)
        tags = {k: v for k, v in model.tags.items() if k.startswith((PREDICTOR, SHA256))}
        text = _description(fitted)
        version, _ = versions.find_or_create(opened, name, model.model_id, tags, text)
        opened.client.set_registered_model_alias(name, CHAMPION, str(version.number))
        return StoredPredictor(meta=_meta(version), is_new=is_new)


def get_predictor(
    store: MlflowStore, reference: str = DEFAULT_NAME, *, trusted_types: Collection[str] = ()
) -> LoadedPredictor:
    """A stored predictor, checked before anything of it is run.

    Args:
        store: the registry.
        reference: NAME for its champion, `models:/NAME@ALIAS` or `models:/NAME/3`.
        trusted_types: types that may be in it beyond those of scikit-learn, by full name.

    Raises:
        StoreError: if there is none, if its file is missing, was changed since it was registered,
            is no skops file, or holds types that are not trusted.
    """
    with store.opened(f"loading predictor {reference}") as opened:
        version = versions.locate(opened.client, reference, CHAMPION)
        meta = _meta(version)
        with tempfile.TemporaryDirectory() as folder:
            # A copy that nobody else can change between the checks and the loading.
            copy = _download(opened, version, meta, Path(folder))
            check_files(copy, _registered_digests(version), version.uri)
            estimator = load_estimator(copy / MODEL_FILE, trusted_types, version.uri)
        return LoadedPredictor(estimator=estimator, meta=meta)


def check_columns(meta: PredictorMeta, table_versions: Mapping[str, str]) -> None:
    """Return if a table's columns mean what the predictor was fitted on.

    Args:
        meta: of the predictor.
        table_versions: how the numbers of each column of the table were measured.

    Raises:
        StoreError: naming the columns that are missing or were measured otherwise.
    """
    wanted = meta.column_versions
    missing = [name for name in wanted if name not in table_versions]
    other = [
        f"{name} (fitted: {wanted[name]}; table: {table_versions[name]})"
        for name in wanted
        if name in table_versions and table_versions[name] != wanted[name]
    ]
    if not missing and not other:
        return
    parts = [f"not in the table: {', '.join(missing)}"] if missing else []
    parts += [f"measured otherwise: {'; '.join(other)}"] if other else []
    raise StoreError(
        f"predictor {meta.uri} does not fit this table",
        why=". ".join(parts),
        fix="Measure the checkpoints as then, or fit a new predictor: rlready fit",
    )


def _model(
    opened: Opened, fitted: FittedPredictor, files: Mapping[str, Path], folder: Path
) -> tuple[LoggedModel, bool]:
    """The READY model of a predictor, and whether this call made it. The caller holds the lock."""
    client, experiment = opened.client, str(opened.experiment_id)
    found = list(
        client.search_logged_models(
            [experiment], filter_string=f"tags.`{PREDICTOR}` = '{fitted.id}'"
        )
    )
    ready = [model for model in found if str(model.status) == "READY"]
    if ready:
        return ready[0], False
    check_types(unfamiliar_types(fitted.estimator), fitted.trusted_types, "the predictor")
    for left_over in found:  # by a killed put; what it holds is written again
        client.delete_logged_model(left_over.model_id)
    run = _run(opened, fitted)
    model = client.create_logged_model(
        experiment,
        name=type(fitted.estimator).__name__,
        source_run_id=run.info.run_id,
        tags={PREDICTOR: fitted.id, "rlready.target": codec.shown(fitted.target)},
        params={
            key: codec.shown(value)[:_PARAM_CHARACTERS] for key, value in fitted.params.items()
        },
        model_type=MODEL_TYPE,
    )
    digests = _save(model, run, fitted, folder / "model")
    client.log_model_artifacts(model.model_id, str(folder / "model"))
    _log_artifacts(opened, run, fitted, files, folder / "run")
    _log_metrics(opened, run, model, fitted)
    tags = {SHA256: json.dumps(digests, sort_keys=True), **_record(fitted, model, run)}
    client.set_logged_model_tags(model.model_id, tags)
    _link(opened, run, model)
    finalize(client, model.model_id)
    client.set_terminated(run.info.run_id)
    return client.get_logged_model(model.model_id), True


def _run(opened: Opened, fitted: FittedPredictor) -> Run:
    """The run to write into: the one that a killed put left, or a new one."""
    left_over = opened.run_of(PREDICTOR, fitted.id)
    if left_over is not None:
        return opened.client.get_run(left_over)
    tags = {PREDICTOR: fitted.id, "rlready.target": codec.shown(fitted.target)}
    project = project_run(opened.client)
    if project is not None:
        tags["mlflow.parentRunId"] = project.info.run_id
    name = f"fit {codec.shown(fitted.target)}"
    return opened.client.create_run(str(opened.experiment_id), tags=tags, run_name=name)


def _save(model: LoggedModel, run: Run, fitted: FittedPredictor, folder: Path) -> dict[str, str]:
    """Write MLflow's model folder; returns the SHA-256 of each file in it."""
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
        # Given, because MLflow finds them out by loading the model in a process of its own: 10 s.
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
    """The tags from which `PredictorMeta` is read back."""
    record = {
        "format": codec.FORMAT,
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
    return codec.cut(f"{RECORD}.{fitted.id}", codec.to_json(record, "the predictor"))


def _meta(version: Version) -> PredictorMeta:
    records = codec.joined(RECORD, version.tags)
    if not records or SHA256 not in version.tags:
        raise StoreError(
            f"{version.uri} is no predictor of rlready",
            why=f"it has no tags {RECORD} and {SHA256}",
            fix="Name a predictor that `rlready fit` stored",
        )
    values = codec.from_json(records[0][1], RECORD)
    try:
        return PredictorMeta(name=version.name, version=str(version.number), **values)
    except TypeError as error:
        raise StoreError(
            f"tag {RECORD} of {version.uri} was edited",
            why=str(error),
            fix="Fit again: rlready fit",
        ) from error


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


def _log_metrics(opened: Opened, run: Run, model: LoggedModel, fitted: FittedPredictor) -> None:
    from mlflow.entities import Metric

    metrics: list[Metric] = [
        Metric(
            codec.safe_key(name),
            float(value),
            run.info.start_time,
            0,
            model_id=model.model_id,
            dataset_name="training table",
            dataset_digest=fitted.table_digest[:_DATASET_DIGEST],
        )
        for name, value in fitted.metrics.items()
        if math.isfinite(value)  # MLflow would read NaN back as 0
    ]
    for start in range(0, len(metrics), _METRICS_A_BATCH):
        opened.client.log_batch(run.info.run_id, metrics=metrics[start : start + _METRICS_A_BATCH])


def _link(opened: Opened, run: Run, model: LoggedModel) -> None:
    from mlflow.entities import LoggedModelOutput

    opened.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])


def _download(opened: Opened, version: Version, meta: PredictorMeta, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        model = opened.client.get_logged_model(version.model_id or meta.model_id)
        return Path(
            download_artifacts(
                artifact_uri=model.artifact_location,
                dst_path=str(folder),
                tracking_uri=opened.client.tracking_uri,
            )
        )
    except (MlflowException, OSError) as error:
        raise StoreError(
            f"the files of {version.uri} cannot be read",
            why=str(error).partition("\n")[0],
            fix="Put them back, or fit again: rlready fit",
        ) from error


def _registered_digests(version: Version) -> dict[str, str]:
    try:
        return dict(json.loads(version.tags[SHA256]))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"tag {SHA256} of {version.uri} was edited",
            why=str(error),
            fix="Fit again: rlready fit",
        ) from error


def _settings(estimator: Any) -> dict[str, str]:
    """What an estimator was asked to be, as texts without the addresses of objects."""
    settings = {key: repr(value) for key, value in estimator.get_params(deep=True).items()}
    kind = f"{type(estimator).__module__}.{type(estimator).__qualname__}"
    return {"": kind, **{key: _ADDRESS.sub("", text) for key, text in settings.items()}}


def _registered_description(target: str) -> str:
    return (
        f"{SIGNATURE}\n\nPredictors of a checkpoint's outcome after RL, first {target}. The alias "
        f"`{CHAMPION}` is on the one that was fitted last. Report, training table and figures are "
        "artifacts of a version's source run."
    )


def _description(fitted: FittedPredictor) -> str:
    """Markdown for a version's page."""
    facts = {
        "target": fitted.target,
        "fitted on": f"{len(fitted.X)} checkpoints, {len(fitted.column_versions)} proxies",
        "table": fitted.table_digest,
        **{key: str(value) for key, value in fitted.params.items()},
    }
    width = max(map(len, facts)) + 2
    lines = [f"{key:{width}}{codec.shown(value)}" for key, value in facts.items()]
    block = "\n".join([*fitted.summary, "", *lines]).replace("`", "'")[:_TEXT_CHARACTERS]
    return f"{SIGNATURE}\n\n```text\n{block}\n```"
