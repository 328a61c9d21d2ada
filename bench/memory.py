"""Claim: `rank` and `plan` take less than 300 MB at 10,000 rows, whatever the number of draws.

A registry of 10,000 simulated checkpoints (`simulation.py`, 20 groups), 200 of them with an
outcome, is ranked and planned, each in a process of its own. The peak of the process less what it
held before (interpreter, libraries, the table, the fitted predictor) is what the answer took.

    python bench/memory.py [--quick] [--json] [--rows 10000]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

GOAL_MB = 300.0
N_GROUPS, N_OUTCOMES = 20, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="500 rows instead of 10,000")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--only", help="rank, plan or steps, in this process")
    arguments = parser.parse_args()
    n_rows = 500 if arguments.quick else arguments.rows
    if arguments.only:
        print(json.dumps(measured(arguments.only, n_rows, arguments.model)))
        return
    result: dict[str, Any] = {"bench": "memory", "n_rows": n_rows, "goal_mb": GOAL_MB}
    for name in ANSWERS:
        words = [sys.executable, __file__, "--only", name, "--rows", str(n_rows)]
        words += ["--model", arguments.model]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        result[name] = json.loads(done.stdout.splitlines()[-1])
        if not arguments.json:
            print(
                f"{name}: {result[name]['mb']:.0f} MB more than the {result[name]['base_mb']:.0f}"
                f" MB before, {result[name]['seconds']:.1f} s"
            )
    result["reached"] = all(result[name]["mb"] < GOAL_MB for name in ANSWERS)
    print(json.dumps(result))


def measured(name: str, n_rows: int, model: str) -> dict[str, float]:
    """Return the memory and time that one answer takes."""
    applied = an_applied_predictor(n_rows, model)
    answer = ANSWERS[name]
    answer(an_applied_predictor(40, model))  # what is loaded late is no part of it
    before, start = peak_mb(), time.perf_counter()
    answer(applied)
    return {
        "mb": peak_mb() - before,
        "base_mb": before,
        "seconds": time.perf_counter() - start,
    }


def peak_mb() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def _rank(applied: Any) -> None:
    from rlready.workflow.predict.rank import rank_applied

    rank_applied(applied)


def _plan(applied: Any) -> None:
    from rlready.workflow.predict.plan import plan_applied

    plan_applied(applied, 3)


def _steps(applied: Any) -> None:
    from rlready.workflow.predict.steps import plan_applied_steps

    plan_applied_steps(applied, 600)


ANSWERS: dict[str, Callable[[Any], None]] = {"rank": _rank, "plan": _plan, "steps": _steps}


def an_applied_predictor(n_rows: int, model: str) -> Any:
    """Return a predictor fitted on the rows with an outcome, applied to all of them."""
    from dataclasses import replace

    from simulation import simulate

    from rlready.predictors.calibration.predictor import CalibratedPredictor
    from rlready.registry.mlflow_store.predictors.records import PredictorMeta
    from rlready.workflow.predict.load import AppliedPredictor
    from rlready.workflow.predict.registry_table import RegistryTable

    table = simulate(N_GROUPS, n_rows // N_GROUPS, np.random.default_rng(0)).table
    n = len(table)
    has_outcome = np.random.default_rng(1).permutation(n) < min(N_OUTCOMES, n - 8)
    ids = list(table.ids)
    table = replace(table, y=np.where(has_outcome, table.y, np.nan))
    frame = table.X.assign(checkpoint_id=ids, name=[f"sft-{i}" for i in range(n)])
    predictor = CalibratedPredictor(model, n_folds=6).fit(table.with_outcome())
    data = RegistryTable(
        table=table,
        frame=frame,
        target="value_at_budget/200steps@sim",
        groups=(),
        versions={},
        notes=(),
    )
    meta = PredictorMeta(
        name="simulated",
        version="1",
        id="simulated",
        target=data.target,
        table_digest="",
        n_rows=N_OUTCOMES,
        column_versions={},
        params={},
        libraries={},
        model_id="",
        run_id="",
    )
    return AppliedPredictor(predictor=predictor, meta=meta, data=data)


if __name__ == "__main__":
    main()
