"""Claim: on real checkpoints the frozen default ranks a new SFT set's rows; the SFT score does not.

Checkpoints of Qwen2.5-7B with their scores after RL (RETU, arXiv 2512.11470v2), SFT sets left out
whole and rows left out one by one. Features were fixed beforehand: the loss on the one common
held-out set and every accuracy before RL. n_unique and the score after 10 exaFLOP of RL serve their
baselines alone. Without a path: the rows of shared/data. Goals, on the full table of 33 rows and
5 SFT sets, for rows of different SFT sets that are compared by one fit without both: decisions on
pairs more than a point apart >= 0.88, Spearman of the Borda order >= 0.80, regret@3 <= 0.5 points.
90 % intervals of SFT sets that are left out, each from a predictor of its own, hold 0.85 to 0.95.

    python bench/retu.py [TABLE.csv] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlready.predictors.calibration.held_out import assess_held_out
from rlready.predictors.models.catalogue import BASELINES, DEFAULT_MODEL, MODELS, make_model
from rlready.predictors.training_table import TrainingTable, training_table
from rlready.predictors.validation.folds import MakeModel, leave_group_out
from rlready.predictors.validation.report import ModelScores
from rlready.predictors.validation.validate import validate

TABLE = Path(__file__).parents[2] / "shared" / "data" / "retu" / "checkpoints.csv"
TARGET, GROUP_COLUMN, SCORE = "post_overall_smooth5_peak", "sft_data", "pre_overall"
PROBE = "post_overall_at_rl10"
SHOWN = ("r2", "spearman", "decision_accuracy", "decision_accuracy_clear")
REGRETS = ("regret_at_1", "regret_at_3")
GOALS = {"decision_accuracy_clear": 0.88, "spearman": 0.80, "regret_at_3": 0.5}
FULL_ROWS = 30
"""Rows from which a table counts as the full one, for which the goals are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path, default=TABLE)
    parser.add_argument("--quick", action="store_true", help="the default and the baselines only")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    table = read(arguments.table)
    names = (DEFAULT_MODEL,) if arguments.quick else (DEFAULT_MODEL, *MODELS)
    report = validate(
        table,
        models(table, names),
        splits=("loo", "group"),
        n_draws=200 if arguments.quick else 1000,
    )
    result: dict[str, Any] = {
        "bench": "retu",
        "n_rows": report.n_rows,
        "n_groups": report.n_groups,
        "default_model": DEFAULT_MODEL,
        "clear_rule": str(report.clear),
        **{name: _figures(split.models) for name, split in report.splits.items()},
    }
    if report.pairs is not None:
        result["pairs"] = _figures(report.pairs.models)
    result["within"] = {
        name: {key: _rounded(interval.score.value) for key, interval in scores.items()}
        for name, scores in report.within.items()
    }
    result["coverage"] = coverage(table)
    result["reached"] = _reached(result["pairs"][DEFAULT_MODEL], report.n_rows)
    if not arguments.json:
        _show(result)
    print(json.dumps(result))


def read(path: Path) -> TrainingTable:
    """The rows of a RETU table that have an outcome, features fixed."""
    frame = pd.read_csv(path)
    frame = frame[frame[TARGET].notna()]
    names = frame[GROUP_COLUMN] + "/" + frame["sft_step"].astype(str)
    proxies = ["val_loss", *[name for name in frame if is_accuracy(name)]]
    extra = [name for name in ("n_unique", PROBE) if name in frame]
    return training_table(
        frame.assign(name=names),
        target=TARGET,
        features=[*proxies, *extra],
        groups=[GROUP_COLUMN],
        names="name",
    )


def coverage(table: TrainingTable) -> dict[str, float]:
    """Share of outcomes in the 90 % intervals of SFT sets that are left out; each set, and all."""
    proxies = tuple(c for c in table.columns if c.name == "val_loss" or is_accuracy(c.name))
    table = replace(table, columns=proxies)
    frame = assess_held_out(table, leave_group_out(table), np.full(len(table), np.nan))
    is_inside = ((frame["low"] <= table.y) & (table.y <= frame["high"])).to_numpy()
    by_set = {name: is_inside[table.groups == name].mean() for name in np.unique(table.groups)}
    return {
        name: round(float(share), 3) for name, share in {**by_set, "all": is_inside.mean()}.items()
    }


def is_accuracy(column: str) -> bool:
    """Whether a column is an accuracy before RL."""
    return column.startswith("pre_") and column != "pre_flops_key"


def models(table: TrainingTable, names: tuple[str, ...]) -> Mapping[str, MakeModel]:
    """Models on the proxies, and each baseline on its own column."""
    proxies = [c for c in table.columns if c.name == "val_loss" or is_accuracy(c.name)]
    made: dict[str, MakeModel] = {name: partial(make_model, name, proxies) for name in names}
    made["constant"] = partial(make_model, "constant", proxies)
    made["loss"] = partial(make_model, "loss", proxies)
    made["rank_average"] = partial(make_model, "rank_average", proxies)
    columns = {"pass_at_1": SCORE, "n_unique": "n_unique", "rl_probe": PROBE}
    for name, column in columns.items():
        chosen = [c for c in table.columns if c.name == column]
        if chosen:
            # A line through whichever column plays this part here.
            made[name] = partial(_line, name, chosen)
    return made


def _line(name: str, columns: list[Any]) -> Any:
    known = "n_unique" if name == "n_unique" else "pass_at_1"
    score = None if name == "n_unique" else columns[0].name
    return make_model(known, columns, score=score)


def _figures(models: Mapping[str, ModelScores]) -> dict[str, dict[str, float | None]]:
    return {
        name: {
            key: _rounded(found.scores[key].score.value)
            for key in (*SHOWN, *REGRETS)
            if key in found.scores
        }
        for name, found in models.items()
        if not found.problem
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 3)


def _reached(found: Mapping[str, float | None], n_rows: int) -> dict[str, bool] | None:
    """Which goals are met; None on fewer rows than they are for."""
    if n_rows < FULL_ROWS:
        return None
    values = {key: found[key] for key in GOALS}
    return {
        key: value is not None
        and (value <= GOALS[key] if key.startswith("regret") else value >= GOALS[key])
        for key, value in values.items()
    }


def _show(result: Mapping[str, Any]) -> None:
    titles = {
        "pairs": "pairs of SFT sets",
        "group": "SFT set left out",
        "loo": "row left out",
    }
    print(f"RETU: {result['n_rows']} rows, {result['n_groups']} groups; {result['clear_rule']}")
    for split, title in titles.items():
        print(f"\n{title:17s}" + "".join(f"{_title(name):>15s}" for name in (*SHOWN, *REGRETS)))
        rows = result[split]
        for name in sorted(rows, key=lambda n: (n != result["default_model"], n in BASELINES)):
            mark = "*" if name == result["default_model"] else " "
            cells = (rows[name].get(key) for key in (*SHOWN, *REGRETS))
            print(f"{mark}{name:16s}" + "".join(f"{_cell(value):>15s}" for value in cells))
    order = ", ".join(
        f"{name} {_cell(rows.get('spearman'))}" for name, rows in result["within"].items()
    )
    print(f"\nSpearman inside SFT sets: {order}")
    cover = ", ".join(f"{name} {share:.2f}" for name, share in result["coverage"].items())
    print(f"cover of 90 % intervals, SFT sets left out: {cover}")
    print(f"* the frozen default. Goals on the full table, pairs of SFT sets: {GOALS}")
    reached = result["reached"]
    print("this is not the full table" if reached is None else f"reached: {reached}")


def _title(name: str) -> str:
    return name.replace("decision_accuracy", "decisions").replace("_at_", "@")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
