"""Fitted predictors in MLflow, stored without pickle, with their training table and report.

A predictor is a scikit-learn estimator, or a pipeline of them. It becomes

    LoggedModel         type grpo-predictor: `model.skops`, MLmodel with signature and example,
                        requirements; `mlflow models serve` and `mlflow.pyfunc.load_model` take it
    run                 its metrics, and artifacts: report.json, columns.json, the training table
                        (Parquet and CSV), figures/; the model is its output
    registered model    a version per predictor; the last one that was put has the alias `champion`

The model's tags hold the `PredictorMeta` and the SHA-256 of each of its files.

A put has these steps, and may be killed after any of them. Putting the same predictor of the same
table again continues there and makes no second version.

    1 run         found by the predictor's id if an earlier put was killed, else created; RUNNING
    2 model       created; PENDING. A killed put's model is deleted, as its content is unknown
    3 files       `model.skops`, MLmodel with signature and example, requirements
    4 run's part  report.json, columns.json, the training table, figures, metrics
    5 record      the model's tags: the record, and the SHA-256 of each of its files
    6 finalize    the model becomes READY, the run FINISHED
    7 version     and its alias

Reading trusts no file. Each must have the SHA-256 of the model's tags. `model.skops` must be a
skops file, never a pickle, whatever MLmodel says. Every type in it must be harmless according to
skops, or named by the caller. The list of trusted types beside a model is not read.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.foreign_files import parse_json
from rlready.registry.mlflow_store import registered_models as versions
from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.pages.descriptions import (
    SIGNATURE,
    bullets,
    escaped,
    fact_lines,
    picture,
    version_page,
)
from rlready.registry.mlflow_store.predictors.fit_page import put_fit_page
from rlready.registry.mlflow_store.predictors.records import (
    FittedPredictor,
    LoadedPredictor,
    PredictorMeta,
    StoredPredictor,
)
from rlready.registry.mlflow_store.predictors.served_predictor import (
    GROUPS,
    LOADER,
    MODEL_FILE,
    served_signature,
)
from rlready.registry.mlflow_store.predictors.skops_file import (
    check_files,
    check_types,
    file_digests,
    load_estimator,
    unfamiliar_types,
)
from rlready.registry.mlflow_store.put_evaluation import checked_artifacts
from rlready.registry.mlflow_store.record_tags import (
    FORMAT,
    DatasetMetrics,
    join_tags,
    printable,
    read_tag_json,
    safe_key,
    split_tags,
    tag_json,
)
from rlready.registry.mlflow_store.registered_models import Version
from rlready.registry.mlflow_store.runs import create_run, finalize, log_metrics
from rlready.registry.mlflow_store.store import MlflowStore

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

DEFAULT_NAME = "grpo-predictor"
CHAMPION = "champion"

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
_LIBRARIES = ("mlflow", "numpy", "scikit-learn", "skops", "rlready")


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
            if a figure does not exist, or if the store fails while writing; the same call may be
            repeated.

    Example:
        >>> put_predictor(store, fitted, "my-predictor").is_new
        True
    """
    versions.checked_name(name)
    files = checked_artifacts({f"figures/{key}": path for key, path in fitted.figures.items()})
    with (
        store.opened(f"storing predictor {name}", write=True) as opened,
        tempfile.TemporaryDirectory() as folder,
    ):
        with opened.lock(f"predictor-{name}"):
            model, is_new = _model_of(opened, fitted, files, Path(folder), name)
        about = registered_description(fitted.target)
        versions.ensure_registered(opened.client, name, {"rlready.kind": MODEL_TYPE}, about)
        version, _ = versions.find_or_create(
            opened, name, model.model_id, _tags(fitted), _description(fitted)
        )
        opened.client.set_registered_model_alias(name, CHAMPION, str(version.number))
        return StoredPredictor(meta=_meta(version, model), is_new=is_new)


def get_predictor(
    store: MlflowStore, reference: str = DEFAULT_NAME, *, trusted_types: Collection[str] = ()
) -> LoadedPredictor:
    """Load a stored predictor, after checks that run none of its code.

    Args:
        store: the registry.
        reference: NAME for its champion, `models:/NAME@ALIAS` or `models:/NAME/3`.
        trusted_types: types that may be in it beyond those of scikit-learn, by full name.

    Raises:
        StoreError: if it does not exist, or if its file is missing, was changed since it was
            registered, is not a skops file, or holds types that are not trusted.

    Example:
        >>> get_predictor(MlflowStore("sqlite:///mlflow.db")).meta.version
        '1'
    """
    with store.opened(f"loading predictor {reference}") as opened:
        version = versions.locate(opened.client, reference, CHAMPION)
        model = _logged_model(opened, version)
        meta = _meta(version, model)
        with tempfile.TemporaryDirectory() as folder:
            # A copy that nobody else can change between the checks and the loading.
            copy = _download(opened, version, model, Path(folder))
            check_files(copy, _registered_digests(version, model), version.uri)
            estimator = load_estimator(copy / MODEL_FILE, trusted_types, version.uri)
        return LoadedPredictor(estimator=estimator, meta=meta)


def has_predictor(store: MlflowStore, reference: str = DEFAULT_NAME) -> bool:
    """Return whether a registered model has the name in a reference.

    Raises:
        StoreError: if the registry cannot be read.
    """
    name = re.split(r"[@/]", reference.removeprefix("models:/"))[0]
    with store.opened(f"looking for predictor {name}") as opened:
        return versions.registered(opened.client, name) is not None


def _model_of(
    opened: Opened, fitted: FittedPredictor, files: Mapping[str, Path], folder: Path, name: str
) -> tuple[LoggedModel, bool]:
    """Return a predictor's READY model and whether this call made it. The caller holds the lock."""
    from mlflow.entities import LoggedModelOutput

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
    left_over = opened.run_of(PREDICTOR, fitted.id)  # also of a killed put
    run = (
        create_run(client, experiment, _tags(fitted), f"fit {name}")
        if left_over is None
        else client.get_run(left_over)
    )
    model = client.create_logged_model(
        experiment,
        name=name.replace(".", "-"),  # MLflow refuses a point here, not in the registered name
        source_run_id=run.info.run_id,
        tags=_tags(fitted),
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
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    put_fit_page(opened, run.info.run_id, about=[*_summary(fitted), *_pictures(run, files)])
    finalize(client, model.model_id)
    client.set_terminated(run.info.run_id)
    return client.get_logged_model(model.model_id), True


def _tags(fitted: FittedPredictor) -> dict[str, str]:
    """Return the tags that run, model and version have in common."""
    return {
        PREDICTOR: fitted.id,
        "rlready.target": printable(fitted.target),
        "rlready.table": fitted.table_digest,
        "rlready.estimator": type(fitted.estimator).__name__,
    }


def _save(model: LoggedModel, run: Run, fitted: FittedPredictor, folder: Path) -> dict[str, str]:
    """Write MLflow's model folder; return the SHA-256 of each file in it."""
    import mlflow.sklearn
    from mlflow.models import Model

    can_assess = hasattr(fitted.estimator, "assess")
    answer = (fitted.estimator.assess if can_assess else fitted.estimator.predict)(fitted.X)
    about = Model(model_uuid=model.model_id, model_id=model.model_id, run_id=run.info.run_id)
    mlflow.sklearn.save_model(
        fitted.estimator,
        str(folder),
        mlflow_model=about,
        serialization_format="skops",
        skops_trusted_types=sorted(fitted.trusted_types) or None,
        signature=served_signature(
            fitted.X, answer, fitted.optional, fitted.table[list(fitted.groups)]
        ),
        input_example=fitted.X.head(_EXAMPLE_ROWS),
        # Without them MLflow loads the model in another process to infer them, which takes 10 s.
        pip_requirements=_requirements(fitted.trusted_types),
    )
    if can_assess:
        about.flavors["python_function"]["loader_module"] = LOADER
        about.metadata = {GROUPS: list(fitted.groups)}
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


def _logged_model(opened: Opened, version: Version) -> LoggedModel:
    model = versions.logged_model(opened.client, version)
    if model is None or SHA256 not in model.tags or not join_tags(RECORD, model.tags):
        raise StoreError(
            f"{version.uri} is not a predictor of rlready",
            why=f"it was made from {printable(version.source)}",
            fix="Name a predictor that `rlready fit` stored",
        )
    return model


def _meta(version: Version, model: LoggedModel) -> PredictorMeta:
    records = join_tags(RECORD, model.tags)
    values = read_tag_json(records[0][1], RECORD)
    try:
        return PredictorMeta(name=version.name, version=str(version.number), **values)
    except TypeError as error:
        raise StoreError(
            f"tag {RECORD} of {version.uri} was edited",
            why=str(error),
            fix="Fit again: rlready fit",
        ) from error


def _download(opened: Opened, version: Version, model: LoggedModel, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
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


def _registered_digests(version: Version, model: LoggedModel) -> dict[str, str]:
    try:
        return dict(parse_json(model.tags[SHA256]))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"tag {SHA256} of {version.uri} was edited",
            why=str(error),
            fix="Fit again: rlready fit",
        ) from error


def registered_description(target: str, report: str = "") -> str:
    """Return Markdown for the page of a registered predictor.

    Args:
        target: the outcome.
        report: link to the page that `rlready report` logged last; empty if there is none.
    """
    about = (
        f"Predictors of a checkpoint's outcome after RL, the first of {escaped(target)}. The "
        f"alias `{CHAMPION}` is on the one that was fitted last. Report, training table and "
        "figures are artifacts of a version's source run."
    )
    return "\n\n".join([about, *filter(None, [report]), SIGNATURE])


def _description(fitted: FittedPredictor) -> str:
    """Return Markdown for a version's page; the list of versions shows its first line."""
    about = {
        "target": fitted.target,
        "estimator": type(fitted.estimator).__name__,
        "table": fitted.table_digest,
        **{key: str(value) for key, value in fitted.params.items()},
        "proxies": ", ".join(fitted.column_versions),
    }
    headline, *lines = _summary(fitted)
    return version_page(headline, [*lines, "", *fact_lines(about)])


def _summary(fitted: FittedPredictor) -> list[str]:
    """Return lines of Markdown: the size of the fit, and its validation in a few sentences."""
    n = len(fitted.column_versions)
    headline = f"Fitted on {len(fitted.X)} checkpoints, {n} {'proxy' if n == 1 else 'proxies'}"
    return [headline, "", *bullets(fitted.summary)]


def _pictures(run: Run, files: Mapping[str, Path]) -> list[str]:
    names = [name for name in files if name.endswith(".png")]
    pictures = [picture(Path(name).stem, run.info.run_id, name) for name in names]
    return [line for each in pictures for line in ("", each)]
