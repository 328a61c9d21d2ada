"""Claim: on the testbed a plan's expected regret is within a factor of two of the realised one.

The 48 checkpoints of `testbed/results/full.csv` (score after 60 RL steps, groups by style) are
split into quarters. A predictor is fitted on three of them, and a plan is made for the twelve rows
of the fourth: `model` is the expected regret of the predictor alone, `expected` the same times the
factor that plans on the three quarters gave (`plan_replay`), `realised` the best outcome of the
quarter less the best one of the chosen. All three take a recorded outcome for the truth.

    python bench/plan_testbed.py [--quick] [--json] [--model default,multilevel,gp] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd
from testbed_registry import GROUP, RESULTS, TARGET

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.decisions.plan_replay import replay
from rlready.predictors.decisions.rl_plan import EXPECTED, PlanRule, plan
from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.workflow.predict.registry_table import default_features, known_errors

PRACTICE = "pass_at_1@world"
N_PARTS, N_MAX = 4, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 partition instead of 10")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--model", default="default,multilevel,gp")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"bench": "plan_testbed"}
    for model in arguments.model.split(","):
        rng = np.random.default_rng(arguments.seed)
        table = testbed_table()
        rows: dict[str, list[FloatArray]] = {}
        for _ in range(1 if arguments.quick else 10):
            order = rng.permutation(len(table))
            for part in range(N_PARTS):
                for name, numbers in one(table, np.sort(order[part::N_PARTS]), model).items():
                    rows.setdefault(name, []).append(numbers)
        result[model] = {name: summary(np.array(numbers)) for name, numbers in rows.items()}
        if not arguments.json:
            show(model, result[model])
    print(json.dumps(result))


def testbed_table() -> TrainingTable:
    """Return the table with the proxies that `rlready fit` takes by default."""
    frame = pd.read_csv(RESULTS)
    features = default_features(frame, TARGET)
    return training_table(
        frame,
        target=TARGET,
        features=features,
        errors=known_errors(frame, features),
        target_error=TARGET.replace("@", "_se@"),
        groups=(GROUP,),
        names="checkpoint_id",
    )


def one(table: TrainingTable, rows: Any, model: str) -> dict[str, FloatArray]:
    """Return (3, N_MAX): regret by the model alone, expected and realised, by policy."""
    rest, candidates = table.rows(np.setdiff1d(np.arange(len(table)), rows)), table.rows(rows)
    predictor = CalibratedPredictor(model).fit(rest)
    replayed = replay(
        predictor.unseen(rest, noise=True),
        rest.y,
        N_MAX,
        scores={PRACTICE: rest.X[PRACTICE].to_numpy()},
    )
    made = plan(
        predictor.predictive(candidates.X),
        [str(place) for place in range(len(candidates))],
        1,
        rl_noise=0.0,
        n_max=N_MAX,
        scores={PRACTICE: candidates.X[PRACTICE].to_numpy()},
        rule=PlanRule(n_draws=4000),
    )
    assert replayed is not None
    numbers = {}
    for name in (EXPECTED, PRACTICE):
        values = replayed.corrected(made).policies[name]
        chosen = [int(str(value.chosen)) for value in values]
        kept = np.maximum.accumulate(candidates.y[chosen])
        numbers[name] = np.array(
            [
                [value.by_model for value in values],
                [value.regret for value in values],
                candidates.y.max() - kept,
            ]
        )
    return numbers


def summary(numbers: FloatArray) -> dict[str, list[float]]:
    """Average (parts, 3, N) over the parts."""
    names = ("model", "expected", "realised")
    return {
        name: [round(float(value), 4) for value in values]
        for name, values in zip(names, numbers.mean(axis=0), strict=True)
    }


def show(model: str, result: dict[str, dict[str, list[float]]]) -> None:
    print(f"{model}: regret after N = 1 .. {N_MAX} runs")
    for policy, rows in result.items():
        for name, values in rows.items():
            print(f"  {policy:>16} {name:>9}" + "".join(f"{value:>9.4f}" for value in values))
        ratio = rows["expected"][2] / max(rows["realised"][2], 1e-9)
        print(f"  {policy:>16} expected / realised at 3 runs: {ratio:.2f}")


if __name__ == "__main__":
    main()
