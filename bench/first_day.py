"""Claim: `rank` answers from the first day, and nothing switches where a predictor can be fitted.

Outcomes of the testbed's 48 checkpoints arrive one by one, in random orders. After each, the answer
is what `rlready rank` gives: public outcomes and those that arrived, and from 5 on the default
model, fitted to them and blended with public outcomes until 12 (`predictors/public/blend.py`).

`smooth`: Spearman of the orders before and after the n-th outcome, over checkpoints that had none
after it. `steps_at_5_as_before`: the medians to n = 5 and 6, where the predictor comes in, are no
lower than those to n = 2, 3 and 4; this was written down before the first run.
`alone`: the same for the default model alone, which takes over at 5 at once.
`rank`: Spearman with the truth, regret of the first (recorded or not), interval, after n outcomes.

    python bench/first_day.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.public.blend import blended, levelled, weight_of_prior
from rlready.predictors.public.order import order_checkpoints
from rlready.predictors.training_table import FloatArray, TrainingTable, training_table

TESTBED = Path(__file__).parents[1] / "testbed" / "results" / "full.csv"
TARGET = "value_at_budget/60steps@world_after"
SCORES = ["pass_at_1@world", "pass_at_4@world", "pass_at_16@world", "pass_at_64@world"]
OWN = "heldout_nll@own_style"
SHOWN = (0, 1, 3, 5, 8, 12)
MOST = 16
FEWEST_FITTED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What is said of all checkpoints: (n,) each; no interval before the first outcome."""

    mean: FloatArray
    alone: FloatArray
    low: FloatArray
    high: FloatArray
    weight: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 orders of arrival instead of 20")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    result = arrivals(2 if arguments.quick else 20)
    if not arguments.json:
        _show(result)
    print(json.dumps(result))


def arrivals(n_orders: int) -> dict[str, Any]:
    """Figures over random orders in which outcomes arrive."""
    table = _table()
    smooth: dict[str, dict[int, list[float]]] = {"smooth": defaultdict(list), "alone": {}}
    smooth["alone"] = defaultdict(list)
    figures: dict[int, list[dict[str, float]]] = defaultdict(list)
    for seed in range(n_orders):
        order = np.random.default_rng(seed).permutation(len(table))
        before: Answer | None = None
        for n in range(MOST + 1):
            answer = _answer(table, order[:n])
            left = order[n:]
            if before is not None:
                smooth["smooth"][n].append(_spearman(before.mean[left], answer.mean[left]))
                smooth["alone"][n].append(_spearman(before.alone[left], answer.alone[left]))
            if n in SHOWN:
                figures[n].append(_figures(table.y, answer, order[:n], left))
            before = answer
    steps = {name: {n: _median(v) for n, v in by_n.items()} for name, by_n in smooth.items()}
    lowest = {name: {n: _rounded(min(v)) for n, v in by_n.items()} for name, by_n in smooth.items()}
    first = min(steps["smooth"][n] for n in range(2, FEWEST_FITTED))
    return {
        "bench": "first_day",
        "n_orders": n_orders,
        "rank": {n: _mean(rows) for n, rows in figures.items()},
        "steps": steps,
        "lowest_steps": lowest,
        "first_order": _first_order(table),
        "steps_at_5_as_before": bool(min(steps["smooth"][n] for n in (5, 6)) >= first),
    }


def _table() -> TrainingTable:
    frame = pd.read_csv(TESTBED)
    own = {
        f"heldout_nll{part}@own_style": [
            row[f"heldout_nll{part}@heldout_{row['recipe.style']}"] for _, row in frame.iterrows()
        ]
        for part in ("", "_se")
    }
    frame = pd.concat([frame, pd.DataFrame(own)], axis=1)
    features = [*SCORES, OWN]
    errors = {name: name.replace("@", "_se@") for name in features}
    return training_table(
        frame,
        target=TARGET,
        features=features,
        errors=errors,
        target_error=TARGET.replace("@", "_se@"),
        names="name",
    )


def _answer(table: TrainingTable, arrived: Any) -> Answer:
    """What `rlready rank` says after some outcomes; see `AppliedPredictor`."""
    y = np.full(len(table), np.nan)
    y[arrived] = table.y[arrived]
    order = order_checkpoints(table.X, table.columns, y, own_style=[OWN])
    by_order = order.predictive()
    low, high = order.interval()
    if len(arrived) < FEWEST_FITTED:
        return Answer(mean=by_order.mean, alone=by_order.mean, low=low, high=high, weight=1.0)
    predictor = CalibratedPredictor().fit(replace(table, y=y).with_outcome())
    fitted = predictor.predictive(table.X)
    weight = weight_of_prior(len(arrived), has_signal=predictor.signal_.found())
    weights = np.where(predictor.assess(table.X)["domain"] == "out", float(weight > 0), weight)
    assessed = predictor.assess(table.X)
    mean = blended(fitted, order, weights).mean
    level = levelled(order)
    ends = [
        np.where(level, weights * end + (1 - weights) * assessed[name].to_numpy(), np.nan)
        for name, end in (("low", low), ("high", high))
    ]
    return Answer(mean=mean, alone=fitted.mean, low=ends[0], high=ends[1], weight=weight)


def _figures(y: FloatArray, answer: Answer, arrived: Any, left: Any) -> dict[str, float]:
    known = answer.mean.copy()
    known[arrived] = y[arrived]
    found = {
        "weight_of_prior": answer.weight,
        "spearman": _spearman(answer.mean[left], y[left]),
        "spearman_alone": _spearman(answer.alone[left], y[left]),
        "regret_at_1": float(y.max() - y[known.argmax()]),
    }
    if len(arrived):
        inside = (y >= answer.low)[left] & (y <= answer.high)[left]
        found |= {"coverage": inside.mean(), "width": (answer.high - answer.low)[left].mean()}
    return found


def _first_order(table: TrainingTable) -> list[dict[str, Any]]:
    """The same five checkpoints after 0, 1, 3, 5 and 12 outcomes of one order of arrival."""
    arrived = np.random.default_rng(0).permutation(len(table))
    left = arrived[12:][np.argsort(-table.y[arrived[12:]])]
    shown = left[np.linspace(1, len(left) - 2, 5).astype(int)]
    rows = []
    for n in (0, 1, 3, 5, 12):
        answer = _answer(table, arrived[:n])
        places = np.argsort(np.argsort(-answer.mean)) + 1
        rows.append(
            {
                "outcomes": n,
                "rows": [
                    {
                        "name": table.ids[i],
                        "true": _rounded(table.y[i]),
                        "place": int(places[i]),
                        "expected": _rounded(answer.mean[i]),
                        "low": _rounded(answer.low[i]) if n else None,
                        "high": _rounded(answer.high[i]) if n else None,
                    }
                    for i in shown
                ],
            }
        )
    return rows


def _spearman(one: FloatArray, other: FloatArray) -> float:
    return float(spearmanr(one, other).statistic)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: _rounded(np.mean([row[key] for row in rows])) for key in rows[0]}


def _median(values: list[float]) -> float:
    return _rounded(np.median(values))


def _rounded(value: Any) -> float:
    return round(float(value), 3)


def _show(result: Mapping[str, Any]) -> None:
    print(" outcomes  prior  Spearman  default alone  regret@1  cover  width")
    for n, row in result["rank"].items():
        cells = [row.get(key, float("nan")) for key in ("coverage", "width")]
        print(
            f"{n:9d} {row['weight_of_prior']:6.2f} {row['spearman']:9.3f} "
            f"{row['spearman_alone']:14.3f} {row['regret_at_1']:9.4f} "
            f"{cells[0]:6.2f} {cells[1]:6.2f}"
        )
    print("\nSpearman of consecutive orders (median; lowest): blended, default alone")
    for n in result["steps"]["smooth"]:
        texts = [
            f"{result['steps'][name][n]:.3f} ({result['lowest_steps'][name][n]:.3f})"
            for name in ("smooth", "alone")
        ]
        print(f"  {n - 1:2d} -> {n:2d}   " + "   ".join(texts))
    print("\nfive checkpoints: place and expected outcome (90 % interval)")
    for step in result["first_order"]:
        texts = [
            f"{row['place']:2d}: {row['expected']:.2f}"
            + (f" ({row['low']:.2f} .. {row['high']:.2f})" if step["outcomes"] else " sd")
            for row in step["rows"]
        ]
        print(f"  after {step['outcomes']:2d}   " + "   ".join(texts))
    print(f"steps to 5 and 6 no larger than those before: {result['steps_at_5_as_before']}")


if __name__ == "__main__":
    main()
