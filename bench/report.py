"""Claim: the page of `rlready report` is made in 2 s and under 3 MB for 300 checkpoints.

The rows are those of the testbed, repeated with numbers that are moved by 5 % at random; 120 have
an outcome. CPU seconds on one core. `page`: from the numbers to the text of the page. `numbers`:
reading the registry, loading the predictor, ranking, plan and its replay, as `rlready rank` and
`rlready plan` do. The fit is not part of it.

    python bench/report.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import numpy as np
import pandas as pd
from testbed_registry import put_checkpoints, put_outcomes, shuffled

from rlready.registry.digest import digest
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.predict.fit import fit
from rlready.workflow.report.evidence import gather
from rlready.workflow.report.page import page
from rlready.workflow.report.report import report_of

NAME = "grpo-predictor"
GOALS = {"page_cpu_s": 2.0, "bytes": 3_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60 checkpoints in place of 300")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    n = 60 if arguments.quick else 300
    with tempfile.TemporaryDirectory() as folder:
        store = MlflowStore(f"sqlite:///{folder}/mlflow.db")
        frame = rows(n)
        put_checkpoints(store, frame)
        put_outcomes(store, frame[: 2 * n // 5], budgets=(60,))
        fit(store, name=NAME)
        gather(store, NAME, 3)  # the first call imports
        start = time.process_time()
        evidence = gather(store, NAME, 3)
        gathered = time.process_time()
        text = page(report_of(evidence))
        made = time.process_time()
    result = {
        "n_checkpoints": n,
        "numbers_cpu_s": round(gathered - start, 2),
        "page_cpu_s": round(made - gathered, 2),
        "bytes": len(text.encode()),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        goal = f"  (goal: under {GOALS[name]:g})" if name in GOALS else ""
        print(f"{name:14} {value}{goal}")


def rows(n: int) -> pd.DataFrame:
    """Return n rows like those of the testbed."""
    rng, parts = np.random.default_rng(0), []
    for k in range(-(-n // 48)):
        part = shuffled()
        part["name"] += f"-v{k}"
        part["checkpoint_id"] = [digest([name, k]) for name in part["checkpoint_id"]]
        for name in part:
            measure = str(name).partition("@")[0]
            if measure.startswith(("pass_at", "value_at")) and not measure.endswith(("_se", "_n")):
                moved = part[name] * (1 + 0.05 * rng.standard_normal(len(part)))
                part[name] = moved.clip(0.001, 0.999)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)[:n]


if __name__ == "__main__":
    main()
