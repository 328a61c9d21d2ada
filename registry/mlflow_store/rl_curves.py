"""Curves of an RL run, on the run of its outcome: metrics with steps, which MLflow draws.

The outcome is the record that predictors read; curves are for people.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rlready.registry.mlflow_store.record_tags import printable, safe_keys
from rlready.registry.mlflow_store.runs import tag_run
from rlready.registry.mlflow_store.store import MlflowStore

_A_BATCH = 1000  # MLflow writes so many in one transaction
_PREFIX = "curve/"


def put_curves(
    store: MlflowStore,
    run_id: str,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write curves and facts on the run of an outcome.

    Args:
        store: the registry.
        run_id: `StoredOutcome.run_id` of a new outcome; a second call would write points twice.
        curves: steps and finite values by name.
        facts: tags of the run, without the prefix `rlready.`.

    Raises:
        StoreError: if the registry fails while writing.
    """
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    keys = safe_keys(curves)
    with store.opened("storing the curves of an RL run", write=True) as opened:
        metrics = [
            Metric(_PREFIX + keys[name], value, now, step)
            for name, points in curves.items()
            for step, value in points
        ]
        for start in range(0, len(metrics), _A_BATCH):
            opened.client.log_batch(run_id, metrics=metrics[start : start + _A_BATCH])
        tags = {f"rlready.{name}": printable(text) for name, text in (facts or {}).items()}
        tag_run(opened.client, run_id, tags)
