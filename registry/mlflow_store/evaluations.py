"""All evaluations of a registry, each with its configuration and references.

The proxies are in the tags of a checkpoint's model. The configuration and the references are only
informative, and stand in the artifacts `config.json` and `evaluation.json` of the run. If MLflow
has lost an artifact, the evaluation is returned without it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rlready.registry.errors import StoreError
from rlready.registry.foreign_files import read_json_object
from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.record_tags import (
    Published,
    read_checkpoint,
    read_evaluations,
    stored_checkpoints,
)
from rlready.registry.records import Evaluation


def stored_evaluations(opened: Opened) -> list[Evaluation]:
    """Return the evaluations of READY models, in the order in which they were put."""
    rows = opened.rows(None, whole=True)
    checkpoints = {each.checkpoint.id: each.checkpoint for each in stored_checkpoints(rows)}
    published: dict[str, tuple[Published, str]] = {}
    for row in rows:
        id_ = read_checkpoint(row.tags).id
        for each in read_evaluations(row.tags):
            published.setdefault(each.id, (each, id_))
    ordered = sorted(published.values(), key=lambda pair: (pair[0].at_ms, pair[0].id))
    return [
        Evaluation(
            checkpoint=checkpoints[id_],
            proxies=each.proxies,
            config=_artifact(opened, each.run_id, "config.json"),
            references=_artifact(opened, each.run_id, "evaluation.json").get("references", {}),
        )
        for each, id_ in ordered
    ]


def _artifact(opened: Opened, run_id: str, name: str) -> dict[str, Any]:
    """Return the JSON object in an artifact of a run; an empty one if there is none."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(opened.client.download_artifacts(run_id, name, folder))
            return read_json_object(path, StoreError, constant=float)
        except (MlflowException, OSError):
            return {}
