"""A process that measures one checkpoint: `python -m ...`, a configuration as JSON on stdin.

The last line of stdout is a JSON object: the report, or `{"error": ..., "is_fault": ...}`.
"""

from __future__ import annotations

import json
import signal
import sys

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.evaluate.jobs import config_from, failure_of
from rlready.workflow.progress import Clock


def main() -> None:
    """Measure the checkpoint that stdin tells of, and say on stdout what came of it."""
    config = config_from(json.load(sys.stdin))
    try:
        store = MlflowStore(config.tracking_uri, config.experiment)
        answer = evaluate_checkpoint(config, store, Clock()).to_dict()
    except Exception as error:  # the other checkpoints go on, and people see one line
        failure = failure_of(config.checkpoint, error)
        answer = {"error": failure.error, "is_fault": failure.is_fault}
    print(json.dumps(answer, ensure_ascii=False, allow_nan=False), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says what is kept
    main()
