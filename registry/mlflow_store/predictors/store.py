"""Fitted predictors in MLflow, stored without pickle, with their training table and report.

A predictor is a scikit-learn estimator, or a pipeline of them. It becomes

    LoggedModel         type grpo-predictor: `model.skops`, MLmodel with signature and example,
                        requirements; `mlflow models serve` and `mlflow.pyfunc.load_model` take it
    run                 its metrics, and artifacts: report.json, columns.json, the training table
                        (Parquet and CSV), figures/; the model is its output
    registered model    a version per predictor; the last one that was put has the alias `champion`

The model's tags hold the `PredictorMeta` and the SHA-256 of each of its files.

A put follows this order and may be killed anywhere: only a complete model becomes READY, and only a
READY model a version. The same predictor of the same table is one version, however often it is put.

Reading trusts no file. Each must have the SHA-256 of the model's tags. `model.skops` must be a
skops file, never a pickle, whatever MLmodel says. Every type in it must be harmless according to
skops, or named by the caller. The list of trusted types beside a model is not read.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import StoreError
from rlready.registry.foreign_files import parse_json
from rlready.registry.mlflow_store import registered_models as versions
from rlready.registry.mlflow_store.descriptions import SIGNATURE, fact_lines, version_page, wrapped
from rlready.registry.mlflow_store.opened import Opened
from rlready.registry.mlflow_store.predictors.logged_predictor import (
    MODEL_TYPE,
    PREDICTOR,
    RECORD,
    SHA256,
    facts,
    model_of,
)
from rlready.registry.mlflow_store.predictors.records import (
    FittedPredictor,
    LoadedPredictor,
    PredictorMeta,
    StoredPredictor,
)
from rlready.registry.mlflow_store.predictors.served_predictor import MODEL_FILE
from rlready.registry.mlflow_store.predictors.skops_file import check_files, load_estimator
from rlready.registry.mlflow_store.put_evaluation import checked_artifacts
from rlready.registry.mlflow_store.record_tags import join_tags, printable, read_tag_json
from rlready.registry.mlflow_store.registered_models import Version
from rlready.registry.mlflow_store.store import MlflowStore

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

DEFAULT_NAME = "grpo-predictor"
CHAMPION = "champion"


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
            model, is_new = model_of(opened, fitted, files, Path(folder), name)
        about = _registered_description(fitted.target)
        versions.ensure_registered(opened.client, name, {"rlready.kind": MODEL_TYPE}, about)
        tags = {PREDICTOR: fitted.id, **facts(fitted)}
        text = _description(fitted)
        version, _ = versions.find_or_create(opened, name, model.model_id, tags, text)
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
        '3'
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


def _registered_description(target: str) -> str:
    return (
        f"Predictors of a checkpoint's outcome after RL, the first of {printable(target)}. The "
        f"alias `{CHAMPION}` is on the one that was fitted last. Report, training table and "
        f"figures are artifacts of a version's source run.\n\n{SIGNATURE}"
    )


def _description(fitted: FittedPredictor) -> str:
    """Return Markdown for a version's page; the list of versions shows its first line."""
    about = {
        "target": fitted.target,
        "estimator": type(fitted.estimator).__name__,
        "table": fitted.table_digest,
        **{key: str(value) for key, value in fitted.params.items()},
        "proxies": ", ".join(fitted.column_versions),
    }
    summary = [line for text in fitted.summary for line in wrapped("", text, "  ")]
    n = len(fitted.column_versions)
    headline = f"Fitted on {len(fitted.X)} checkpoints, {n} {'proxy' if n == 1 else 'proxies'}"
    return version_page(headline, "\n".join([*summary, "", *fact_lines(about)]).strip())
