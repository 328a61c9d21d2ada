"""The page of `rlready report` as an artifact of the run of a fit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlready.registry.mlflow_store import registered_models as versions
from rlready.registry.mlflow_store.pages.descriptions import bullets, escaped, picture
from rlready.registry.mlflow_store.predictors.fit_page import put_fit_page
from rlready.registry.mlflow_store.predictors.records import PredictorMeta
from rlready.registry.mlflow_store.predictors.store import registered_description
from rlready.registry.mlflow_store.store import VIEW, MlflowStore

FILE = "report.html"
_FIGURES = "report_figures"


def put_report(
    store: MlflowStore,
    meta: PredictorMeta,
    text: str,
    *,
    verdict: str = "",
    remarks: Sequence[str] = (),
    figures: Mapping[str, Path] | None = None,
) -> str:
    """Log a page to the run of a predictor's fit, and show its verdict on MLflow's pages.

    The run's description begins with the verdict and the figures. The page of the registered model
    shows the verdict of the last report, with a link. A page that was logged before is replaced.
    Descriptions that a person wrote stay.

    Args:
        store: the registry.
        meta: of the predictor.
        text: of the page.
        verdict: the page's answer in one sentence.
        remarks: what a reader of the verdict has to know beside it.
        figures: PNG files by title.

    Returns:
        Its address inside MLflow's pages, which begins with `#`.

    Raises:
        StoreError: if the registry cannot be written; the same call may be repeated.
    """
    with store.opened("logging the report", write=True) as opened:
        names = {title: f"{_FIGURES}/{path.name}" for title, path in (figures or {}).items()}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, FILE).write_text(text, encoding="utf-8")
            for path in (figures or {}).values():
                Path(folder, _FIGURES).mkdir(exist_ok=True)
                shutil.copyfile(path, Path(folder, _FIGURES, path.name))
            opened.client.log_artifacts(meta.run_id, folder)
        experiment = opened.client.get_run(meta.run_id).info.experiment_id
        address = f"#/experiments/{experiment}/runs/{meta.run_id}/artifactPath/{FILE}{VIEW}"
        said = [f"**{escaped(verdict)}**", ""] if verdict else []
        link = f"[{FILE}]({address}), by version {meta.version}, says which checkpoint to train."
        pictures = [picture(title, meta.run_id, name) for title, name in names.items()]
        lines = [*said, *bullets(remarks), "", link, *(x for each in pictures for x in ("", each))]
        put_fit_page(opened, meta.run_id, verdict=lines)
        about = registered_description(meta.target, "\n\n".join(filter(None, [*said, link])))
        versions.update_family(opened.client, meta.name, about)
    return address
