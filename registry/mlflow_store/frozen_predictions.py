"""Frozen predictions in MLflow: a run for each, which nothing can be added to.

    run       tag rlready.frozen: the record's id; tag rlready.frozen_digest: the digest of all of
              it; start time: when it was made; metrics and parameters for people
    artifact  frozen_prediction.json: the record, the only copy that is read back

A prediction that was made before is not written again: the earlier date is the stronger claim. The
digest and the date are checked at every reading, so that no row can be added or changed unnoticed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import RecordError, StoreError
from rlready.registry.foreign_files import parse_json
from rlready.registry.frozen_prediction import FrozenPrediction
from rlready.registry.mlflow_store.pages.descriptions import NOTE
from rlready.registry.mlflow_store.runs import create_run, log_files

if TYPE_CHECKING:
    from mlflow.entities import Run

    from rlready.registry.mlflow_store.backends import Opened
    from rlready.registry.mlflow_store.store import MlflowStore

FROZEN = "rlready.frozen"
DIGEST = "rlready.frozen_digest"
AT = "rlready.frozen_at_ms"
FILE = "frozen_prediction.json"
_PAGE = 1000
_ABOUT = (
    "Predictions of rlready, written down before the outcomes. `rlready audit` judges them when "
    "the outcomes have arrived. Nothing can be added: the digest is checked."
)


def put_frozen(store: MlflowStore, frozen: FrozenPrediction) -> bool:
    """Write a frozen prediction as a run; return whether it is new.

    A run of a call that was killed before its end is left behind as RUNNING and never read.

    Args:
        store: the registry.
        frozen: the record.

    Raises:
        StoreError: if the registry cannot be written; the same call may be repeated.

    Example:
        >>> put_frozen(store, frozen), put_frozen(store, frozen)
        (True, False)
    """
    with store.opened("freezing a prediction", write=True) as opened:
        client = opened.client
        with opened.lock(f"frozen-{frozen.id}"):
            if any(_is_ended(run) for run in _runs(opened, frozen.id)):
                return False
            tags = {FROZEN: frozen.id, DIGEST: frozen.digest, AT: str(frozen.at_ms), NOTE: _ABOUT}
            name = f"{frozen.command} {frozen.target}"
            run_id = create_run(client, opened.experiment_id, tags, name).info.run_id
            log_files(client, run_id, {FILE: frozen.to_dict()})
            judged = sum(not row.had_outcome for row in frozen.rows)
            client.log_metric(run_id, "n_predicted", float(judged), timestamp=frozen.at_ms)
            client.set_terminated(run_id, "FINISHED")
    return True


def frozen_predictions(store: MlflowStore) -> list[FrozenPrediction]:
    """Return all frozen predictions, the oldest first.

    Raises:
        StoreError: if the registry cannot be read, or a record was changed after it was made.

    Example:
        >>> [frozen.command for frozen in frozen_predictions(store)]
        ['rank', 'plan']
    """
    with store.opened("reading frozen predictions") as opened:
        if not opened.experiment_id:
            return []
        records = [_read(opened, run) for run in _runs(opened) if _is_ended(run)]
    return sorted(records, key=lambda frozen: frozen.at_ms)


def _is_ended(run: Run) -> bool:
    return str(run.info.status) == "FINISHED"


def _runs(opened: Opened, id_: str | None = None) -> list[Run]:
    wanted = f"tags.`{FROZEN}` = '{id_}'" if id_ else f"tags.`{FROZEN}` != ''"
    runs: list[Run] = []
    token: Any = None
    while True:
        page = opened.client.search_runs(
            [opened.experiment_id], wanted, max_results=_PAGE, page_token=token
        )
        runs, token = [*runs, *page], page.token
        if not token:
            return runs


def _read(opened: Opened, run: Run) -> FrozenPrediction:
    from mlflow.exceptions import MlflowException

    run_id = run.info.run_id
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = opened.client.download_artifacts(run_id, FILE, folder)
            values = parse_json(Path(path).read_text(encoding="utf-8"))
        frozen = FrozenPrediction.from_dict(values)
    except (MlflowException, OSError, ValueError, TypeError, RecordError) as error:
        raise StoreError(
            f"the frozen prediction of run {run_id} cannot be read",
            why=str(error).partition("\n")[0],
            fix="Put its file back, or delete the run: it can no longer be judged",
        ) from error
    tags = run.data.tags
    given = (tags.get(FROZEN), tags.get(DIGEST), tags.get(AT))
    if given != (frozen.id, frozen.digest, str(frozen.at_ms)):
        raise StoreError(
            f"the frozen prediction of run {run_id} was changed after it was made",
            why=f"its digest is {frozen.digest}, and {json.dumps(tags.get(DIGEST))} was recorded",
            fix="Put the original file back, or delete the run: it can no longer be judged",
        )
    if run.info.start_time < frozen.at_ms:
        raise StoreError(
            f"the frozen prediction of run {run_id} says that it was made after its run began",
            fix="Delete the run: its date cannot be trusted",
        )
    return frozen


__all__ = ["FILE", "frozen_predictions", "put_frozen"]
