"""The page of `rlready report` as an artifact of the run of a fit."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rlready.registry.mlflow_store import registered_models as versions
from rlready.registry.mlflow_store.predictors.records import PredictorMeta
from rlready.registry.mlflow_store.predictors.store import registered_description
from rlready.registry.mlflow_store.store import MlflowStore

FILE = "report.html"


def put_report(store: MlflowStore, meta: PredictorMeta, text: str) -> str:
    """Log a page to the run of a predictor's fit, and link it from the registered model.

    A page that was logged before is replaced. A description that a person wrote stays.

    Args:
        store: the registry.
        meta: of the predictor.
        text: of the page.

    Returns:
        Its address inside MLflow's pages, which begins with `#`.

    Raises:
        StoreError: if the registry cannot be written; the same call may be repeated.
    """
    with store.opened("logging the report", write=True) as opened:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, FILE)
            path.write_text(text, encoding="utf-8")
            opened.client.log_artifact(meta.run_id, str(path))
        experiment = opened.client.get_run(meta.run_id).info.experiment_id
        address = f"#/experiments/{experiment}/runs/{meta.run_id}/artifactPath/{FILE}"
        link = f"[{FILE}]({address}), by version {meta.version}, says which checkpoint to train."
        about = registered_description(meta.target, link)
        versions.update_family(opened.client, meta.name, about)
    return address
