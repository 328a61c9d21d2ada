"""Claim: predictions that were frozen before RL are judged by the outcomes that came later.

A registry gets the 48 checkpoints of `testbed/results/full.csv`, and `rank` freezes their order by
public outcomes. 24 of them get the score after 60 RL steps, a predictor is fitted, and `rank` and
`plan` freeze what they say of the other 24. Then RL "is run" for the three checkpoints of the plan,
later for the rest, and `audit` judges after each. In the end one frozen number is changed in its
file, and the audit refuses it.

    python bench/audit_testbed.py [--quick] [--json] [--seeds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from click.testing import CliRunner, Result
from testbed_registry import GROUP, TARGET, put_checkpoints, put_outcomes, shuffled

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.workflow.cli.main import main as command_line

N_BEFORE, N_RUNS = 24, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one order of the rows")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seeds", type=int, default=3, help="random orders of the rows")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"bench": "audit_testbed", "n_before": N_BEFORE}
    for seed in range(1 if arguments.quick else arguments.seeds):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            shown = io.StringIO() if arguments.json else None
            with contextlib.redirect_stdout(shown) if shown else contextlib.nullcontext():
                result[f"seed {seed}"] = one(Path(folder), seed)
    print(json.dumps(result))


def one(folder: Path, seed: int) -> dict[str, Any]:
    """Return the audits after the plan's runs and after all runs, and how a change is refused."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    store, frame = MlflowStore(uri), shuffled(seed)
    put_checkpoints(store, frame)
    run(uri, "rank", "--json")
    put_outcomes(store, frame[:N_BEFORE], [60])
    run(uri, "fit", "--target", TARGET, "--group", GROUP)
    run(uri, "rank", "--json")
    planned = json.loads(run(uri, "plan", "--rl-runs", str(N_RUNS), "--json").stdout)
    later = frame[N_BEFORE:]
    is_chosen = later["name"].isin(planned["chosen"])
    audits = {}
    for name, rows in (("plan", later[is_chosen]), ("all", later[~is_chosen])):
        put_outcomes(store, pd.DataFrame(rows), [60])
        print(f"\nseed {seed}: audit after {len(rows)} more RL runs")
        print(run(uri, "audit").stdout)
        audits[f"after {name}"] = json.loads(run(uri, "audit", "--json").stdout)
    files = {path: path.read_text() for path in folder.glob("mlruns/**/frozen_prediction.json")}
    path, text = next(item for item in files.items() if '"predicted": 0.' in item[1])
    path.write_text(text.replace('"predicted": 0.', '"predicted": 0.9', 1))
    refused = run(uri, "audit", exit_code=2)
    print(refused.stderr)
    return {**audits, "changed": refused.stderr.strip()}


def run(uri: str, *words: str, exit_code: int = 0) -> Result:
    """Run a command of rlready; stop if it does not end as it should."""
    os.environ["COLUMNS"] = "140"
    done = CliRunner().invoke(command_line, [*words, "--tracking-uri", uri])
    if done.exit_code != exit_code:
        raise SystemExit(f"rlready {' '.join(words)}: exit code {done.exit_code}\n{done.output}")
    return done


if __name__ == "__main__":
    main()
