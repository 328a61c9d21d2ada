"""Child process that measures one checkpoint; its configuration comes as JSON from stdin.

The last line of stdout is a JSON object: the report, or `{"error": ..., "is_fault": ...}`.
"""

from __future__ import annotations

import json
import signal
import sys

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.evaluate.jobs import FailedEvaluation
from rlready.workflow.progress import Clock


def main() -> None:
    """Measure the checkpoint that stdin names, and print the result."""
    config = EvaluateConfig.from_dict(json.load(sys.stdin))
    try:
        store = MlflowStore(config.tracking_uri, config.experiment)
        answer = evaluate_checkpoint(config, store, Clock()).to_dict()
    except Exception as error:  # one line for people; other checkpoints continue
        failure = FailedEvaluation.of(config.checkpoint, error)
        answer = {"error": failure.error, "is_fault": failure.is_fault}
    print(json.dumps(answer, ensure_ascii=False, allow_nan=False), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent prints the message
    main()
