"""Fill an MLflow registry from `testbed/results/full.csv`, as if its RL runs came later.

    python bench/testbed_registry.py --tracking-uri sqlite:////tmp/mlflow.db [--outcomes 24]

The 48 SFT checkpoints get their proxies of the benchmark `world` and of the held-out sets. The
first `--outcomes` rows in a random order (`--seed`) get the scores after 30 and 60 RL steps. The
results hold no weights, so that `rlready resolve` finds none.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlready.registry.digest import digest
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe

RESULTS = Path(__file__).parents[1] / "testbed" / "results" / "full.csv"
TARGET = "value_at_budget/60steps@world_after"
GROUP = "recipe.style"
BENCHMARKS = ("world", "heldout_canonical", "heldout_terse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--outcomes", type=int, default=48, help="rows that get an outcome")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows")
    arguments = parser.parse_args()
    store, frame = MlflowStore(arguments.tracking_uri), shuffled(arguments.seed)
    put_checkpoints(store, frame)
    put_outcomes(store, frame[: arguments.outcomes])


def shuffled(seed: int = 0) -> pd.DataFrame:
    """Return the results of the testbed, the rows in a random order."""
    frame = pd.read_csv(RESULTS)
    order = np.random.default_rng(seed).permutation(len(frame))
    return frame.iloc[order].reset_index(drop=True)


def put_checkpoints(store: MlflowStore, frame: pd.DataFrame) -> None:
    """Put a checkpoint with its proxies for each row."""
    for _, row in frame.iterrows():
        proxies = (_proxy(row, name) for name in _proxy_names(frame))
        evaluation = Evaluation(
            checkpoint=checkpoint(row),
            proxies=tuple(proxy for proxy in proxies if proxy is not None),
            config={"seed": 0},
        )
        store.put_evaluation(evaluation)


def put_outcomes(
    store: MlflowStore, frame: pd.DataFrame, budgets: Iterable[int] = (30, 60)
) -> None:
    """Put the scores after RL of each row."""
    for _, row in frame.iterrows():
        for budget in budgets:
            key = f"value_at_budget/{budget}steps"
            store.put_outcome(
                Outcome(
                    checkpoint_id=checkpoint(row).id,
                    algorithm="grpo",
                    budget=budget,
                    budget_unit="steps",
                    statistic="value_at_budget",
                    benchmark="world_after",
                    value=float(row[f"{key}@world_after"]),
                    se=float(row[f"{key}_se@world_after"]),
                    seed=0,
                    rl_recipe={"group_size": 8},
                )
            )


def checkpoint(row: pd.Series[Any]) -> Checkpoint:
    """Return the record of a row's checkpoint."""
    return Checkpoint(
        uri=f"file:///checkpoints/{row['name']}",
        fingerprint=row["checkpoint_id"],
        name=row["name"],
        step=int(row["step"]),
        recipe=Recipe(
            base_model="testbed-base",
            n_unique=int(row["recipe.n_unique"]),
            epochs=float(row["recipe.epochs"]),
            learning_rate=float(row["recipe.learning_rate"]),
            extra={"style": row["recipe.style"], "mix": row["recipe.mix"]},
        ),
    )


def _proxy_names(frame: pd.DataFrame) -> list[str]:
    wanted = [name for name in frame if "@" in name and name.partition("@")[2] in BENCHMARKS]
    return [name for name in wanted if not name.partition("@")[0].endswith(("_se", "_n"))]


def _proxy(row: pd.Series[Any], column: str) -> Proxy | None:
    name, _, benchmark = column.partition("@")
    value, error = float(row[column]), float(row.get(f"{name}_se@{benchmark}", math.nan))
    if math.isnan(value):
        return None
    is_loss = benchmark.startswith("heldout")
    return Proxy(
        name=name,
        value=value,
        se=None if math.isnan(error) else error,
        unit="nats/token" if is_loss else "probability",
        benchmark=benchmark,
        benchmark_digest=digest(benchmark),
        n_problems=int(row[f"{name}_n@{benchmark}"]),
        n_samples=100 if is_loss else 13056,
        evaluator_version="1",
        protocol_digest=None if is_loss else digest("protocol"),
    )


if __name__ == "__main__":
    main()
