"""Claim: a mean with a ceiling predicts testbed outcomes better, with narrower honest intervals.

For each target of `testbed/results/full.csv` (48 checkpoints, 7 proxies, groups by style):

- r2, spearman, pairs: of predictions by models that have not seen the row (rows left out one by
  one); `pass_at_1` is the line through pass@1, as in `rlready validate`;
- coverage, width, width_top: of 90 % intervals for quarters of the rows, from a predictor of the
  other three; `width_top` is over the quarter with the highest predictions;
- regret_at_1 and regret_at_3: of a plan of N runs for the twelve rows of a quarter, expected by the
  predictor and realised. Both take a recorded outcome for the truth.

The target that `bounded` was built for is `world`; the 12 others (6 skills, 30 and 60 steps) tell
whether it holds elsewhere. They share checkpoints and proxies, so they are not 12 independent ones.

    python bench/bounded.py [--quick] [--json] [--model bounded,multilevel,gp] [--targets all]
                            [--repeats 5] [--one-group]
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from same_numbers import FEATURES, FULL, FULL_TARGET

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.decisions.rl_plan import PlanRule, plan
from rlready.predictors.models.catalogue import make_model
from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.predictors.validation.folds import fit_folds, leave_one_out, out_of_fold
from rlready.predictors.validation.scores import PredictionScorer
from rlready.workflow.predict.registry_table import known_errors

GROUP, PRACTICE, N_PARTS = "recipe.style", "pass_at_1", 4
SKILLS = ("add2", "add3", "chain_easy", "chain_hard", "count3", "count4")
OTHERS = tuple(f"value_at_budget/{n}steps@{skill}_after" for n in (30, 60) for skill in SKILLS)
SHOWN = {"r2": "r2", "spearman": "spearman", "pairs": "decision_accuracy"}
QUARTERS = ("coverage", "width", "width_top", "regret_at_1", "regret_at_3")

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="world alone, one partition")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--model", default="bounded,multilevel,gp")
    parser.add_argument("--targets", choices=("all", "world", "others"), default="all")
    parser.add_argument("--repeats", type=int, default=5, help="partitions in quarters for world")
    parser.add_argument("--one-group", action="store_true", help="no groups by style")
    arguments = parser.parse_args()
    models = arguments.model.split(",")
    result: Figures = {"bench": "bounded", "one_group": arguments.one_group}
    if arguments.targets != "others":
        n_repeats = 1 if arguments.quick else arguments.repeats
        table = testbed_rows(FULL_TARGET, arguments.one_group)
        result["world"] = {model: figures(table, model, n_repeats) for model in models}
        result["world"][PRACTICE] = held_out_scores(table, PRACTICE)
    if arguments.targets != "world" and not arguments.quick:
        tables = [testbed_rows(target, arguments.one_group) for target in OTHERS]
        each = {model: [figures(table, model, 1) for table in tables] for model in models}
        each[PRACTICE] = [held_out_scores(table, PRACTICE) for table in tables]
        result["others"] = {model: averaged(rows) for model, rows in each.items()}
    if not arguments.json:
        for name in ("world", "others"):
            show(name, result.get(name, {}))
    print(json.dumps(result))


def testbed_rows(target: str, one_group: bool) -> TrainingTable:
    """Return the 48 rows with a target of the testbed."""
    frame = pd.read_csv(FULL)
    return training_table(
        frame,
        target=target,
        features=FEATURES,
        errors=known_errors(frame, FEATURES),
        target_error=target.replace("@", "_se@"),
        groups=() if one_group else (GROUP,),
        names="checkpoint_id",
    )


def figures(table: TrainingTable, model: str, n_repeats: int) -> Figures:
    """Return the scores of rows left out, and the intervals and plans of quarters left out."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(n_repeats):
        order = rng.permutation(len(table))
        rows += [quarter(table, np.sort(order[part::N_PARTS]), model) for part in range(N_PARTS)]
    return {**held_out_scores(table, model), **averaged(rows)}


def held_out_scores(table: TrainingTable, model: str) -> Figures:
    """Return the scores of predictions for rows that the model has not seen."""
    folds = leave_one_out(table, len(table))
    fits = fit_folds(partial(make_model, model, table.columns), table, folds)
    predicted = out_of_fold(fits, table)
    scores = PredictionScorer(table.y, predicted, table.groups).scores(tuple(SHOWN.values()))
    return {name: rounded(scores[score].value) for name, score in SHOWN.items()}


def quarter(table: TrainingTable, rows: Any, model: str) -> Figures:
    """Return the figures of the intervals and plans for some rows, from the others."""
    rest, left_out = table.rows(np.setdiff1d(np.arange(len(table)), rows)), table.rows(rows)
    predictor = CalibratedPredictor(model).fit(rest)
    shown = predictor.assess(left_out.X)
    low, high = shown["low"].to_numpy(), shown["high"].to_numpy()
    width = high - low
    best = np.argsort(-shown["prediction"].to_numpy())[: max(len(rows) // N_PARTS, 1)]
    found: Figures = {
        "coverage": float(((low <= left_out.y) & (left_out.y <= high)).mean()),
        "width": float(width.mean()),
        "width_top": float(width[best].mean()),
    }
    places = [str(place) for place in range(len(rows))]
    predictive = predictor.predictive(left_out.X)
    made = plan(predictive, places, 3, rl_noise=0.0, rule=PlanRule(n_draws=4000))
    values = made.policies[made.policy]
    kept = np.maximum.accumulate(left_out.y[[int(str(value.chosen)) for value in values]])
    for n in (1, 3):
        realised = float(left_out.y.max() - kept[n - 1])
        found[f"regret_at_{n}"] = {"expected": values[n - 1].regret, "realised": realised}
    return found


def averaged(rows: list[Figures]) -> Figures:
    """Return the mean of each figure."""
    return {
        name: averaged([row[name] for row in rows])
        if isinstance(value, dict)
        else rounded(float(np.mean([row[name] for row in rows])))
        for name, value in rows[0].items()
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def show(title: str, result: Figures) -> None:
    if not result:
        return
    print(f"{title}: regret as expected / realised")
    names = [*SHOWN, *QUARTERS]
    print(" " * 12 + "".join(f"{name:>17}" for name in names))
    for model, row in result.items():
        cells = [text(row.get(name)) for name in names]
        print(f"{model:>12}" + "".join(f"{cell:>17}" for cell in cells))


def text(value: FloatArray | Figures | float | None) -> str:
    if isinstance(value, dict):
        return f"{value['expected']:.4f} / {value['realised']:.4f}"
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
