"""A process that measures one checkpoint: `python -m ...`, a configuration as JSON on stdin.

The last line of stdout is a JSON object: the report, or `{"error": ...}` for what a user can mend.
"""

from __future__ import annotations

import json
import sys

from rlready.registry.errors import RlreadyError
from rlready.registry.mlflow_store import MlflowStore
from rlready.workflow.evaluate_jobs import config_from
from rlready.workflow.progress import Clock
from rlready.workflow.steps import evaluate


def main() -> None:
    """Measure the checkpoint that stdin tells of, and say on stdout what came of it."""
    try:
        config = config_from(json.load(sys.stdin))
        store = MlflowStore(config.tracking_uri, config.experiment)
        answer = evaluate(config, store, Clock()).to_dict()
    except RlreadyError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer, ensure_ascii=False, allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
