"""Claim: a checkpoint is stored in 1.2x MLflow's bare calls, 10,000 make a table in 5 s.

Write: `put_evaluation` of a new checkpoint with 40 proxies (160 metric values), in turn with the
bare sequence create_logged_model, log_batch of the same values, finalize, in a SQLite file in WAL
mode. Bare is timed with a run of its own (create_run, set_terminated), as an evaluation has one,
and inside one shared run. The bare sequence keeps no artifacts, no link from run to model, no
record of units, versions and protocols, finds no duplicate, and takes no lock.

Read: N checkpoints of 40 proxies each, loaded by bulk SQL, through `MlflowStore.checkpoints()` and
through `search_logged_models` in pages of 1,000, which returns them as MLflow's own objects.

Table: the same N checkpoints, each with outcomes of two RL seeds, read and made into one frame, and
that frame as CSV and Parquet.

    python bench/registry.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlready.registry.mlflow_store.mlflow_calls import quiet
from rlready.registry.mlflow_store.record_tags import (
    checkpoint_tags,
    evaluation_tags,
    metrics_by_dataset,
    model_name,
    outcome_tags,
)
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Proxy, Recipe
from rlready.registry.table import checkpoint_table, table_bytes

WRITE_TO_REACH = 1.2
READ_TO_REACH_S = 5.0
TABLE_TO_REACH_S = 5.0
N_SEEDS = 2
N_PROXIES = 40


def an_evaluation(number: int) -> Evaluation:
    """40 proxies over two benchmarks for a checkpoint of its own."""
    checkpoint = Checkpoint(
        uri=f"file:///weights/step-{number}",
        fingerprint=f"{number:032x}",
        name=f"Qwen2.5-step{number}",
        step=number,
        recipe=Recipe(base_model="Qwen2.5-0.5B", epochs=3, learning_rate=1e-5, seed=number),
    )
    proxies = tuple(
        Proxy(
            name=f"pass_at_{j // 2}",
            value=1 / (1 + j + number),
            se=0.01 + j / 1e3,
            se_within=0.005,
            unit="probability",
            benchmark=("gsm8k", "aime24")[j % 2],
            benchmark_digest=("a1" * 16, "b2" * 16)[j % 2],
            protocol_digest="c3" * 16,
            n_problems=200,
            n_samples=12_800,
            evaluator_version="1",
        )
        for j in range(N_PROXIES)
    )
    return Evaluation(checkpoint=checkpoint, proxies=proxies, config={"samples": 64})


def outcomes(number: int) -> list[Outcome]:
    """What RL made of a checkpoint, once a seed."""
    return [
        Outcome(
            checkpoint_id=f"{number:032x}",
            algorithm="grpo",
            rl_recipe={"group_size": 8, "temperature": 1.0},
            budget=60,
            budget_unit="steps",
            statistic="value_at_budget",
            benchmark="gsm8k",
            value=1 / (1 + number) + seed / 100,
            se=0.02,
            seed=seed,
        )
        for seed in range(N_SEEDS)
    ]


def bare(client: Any, experiment_id: str, evaluation: Evaluation, shared_run: str | None) -> None:
    """What a script would write with MLflow's calls alone."""
    from mlflow.entities import Metric

    run_id = shared_run or client.create_run(experiment_id).info.run_id
    checkpoint = evaluation.checkpoint
    model = client.create_logged_model(
        experiment_id,
        name=model_name(checkpoint),
        source_run_id=run_id,
        tags={"weights_uri": checkpoint.uri, "fingerprint": checkpoint.id, "kind": checkpoint.kind},
        params={key: str(value) for key, value in checkpoint.recipe.to_dict().items()},
        model_type="sft-checkpoint",
    )
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(key, value, now + offset, 0, model.model_id, dataset.name, dataset.digest)
        for offset, dataset in enumerate(metrics_by_dataset(evaluation))
        for key, value in dataset.values.items()
    ]
    client.log_batch(run_id, metrics=metrics)
    client.finalize_logged_model(model.model_id, "READY")
    if shared_run is None:
        client.set_terminated(run_id)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor milliseconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def write_times(folder: Path, rounds: int) -> dict[str, Any]:
    """Medians over rounds in which each way writes one checkpoint."""
    store = MlflowStore(f"sqlite:///{folder / 'write.db'}")
    store.put_evaluation(an_evaluation(0))
    client: Any = store._backend.client()
    other = client.create_experiment("bare", artifact_location=(folder / "bare").as_uri())
    shared = client.create_run(other).info.run_id
    ways: dict[str, Callable[[Evaluation], object]] = {
        "rlready": store.put_evaluation,
        "bare": lambda e: bare(client, other, e, None),
        "bare_shared_run": lambda e: bare(client, other, e, shared),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            evaluation = an_evaluation(number)
            times[name].append(timed(lambda w=way, e=evaluation: w(e)))
    found: dict[str, Any] = {"rounds": rounds}
    for name, pairs in times.items():
        wall, cpu = (statistics.median(values) for values in zip(*pairs, strict=True))
        found[name] = {"wall_ms": round(wall, 1), "cpu_ms": round(cpu, 1)}
    for name in ("bare", "bare_shared_run"):
        for clock in ("wall", "cpu"):
            ratio = found["rlready"][f"{clock}_ms"] / found[name][f"{clock}_ms"]
            found[f"{clock}_ratio_to_{name}"] = round(ratio, 2)
    return found


def load(path: Path, experiment_id: int, n_checkpoints: int) -> None:
    """Fill a registry by SQL, row for row what `put_evaluation` writes on models."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        run = "r" * 32
        connection.execute(
            "INSERT INTO runs (run_uuid, experiment_id, status, lifecycle_stage, start_time) "
            "VALUES (?, ?, 'FINISHED', 'active', 0)",
            (run, experiment_id),
        )
        models, tags, metrics = [], [], []
        for number in range(n_checkpoints):
            evaluation, id_ = an_evaluation(number), f"m-{number:032x}"
            models.append((id_, experiment_id, f"n{number}", "x", number, number, 2, "active"))
            held = checkpoint_tags(evaluation.checkpoint)
            held |= evaluation_tags(evaluation, number, run)
            for seed, outcome in enumerate(outcomes(number)):
                held |= outcome_tags(outcome, number + seed, run)
            tags += [(id_, experiment_id, key, value) for key, value in held.items()]
            metrics += [
                (id_, key, offset, 0, value, experiment_id, run, dataset.name, dataset.digest)
                for offset, dataset in enumerate(metrics_by_dataset(evaluation))
                for key, value in dataset.values.items()
            ]
            if len(models) == 500 or number == n_checkpoints - 1:
                insert(connection, models, tags, metrics)
                models, tags, metrics = [], [], []


def insert(connection: sqlite3.Connection, models: Any, tags: Any, metrics: Any) -> None:
    """Bulk insert of some models with their tags and metrics."""
    connection.executemany(
        "INSERT INTO logged_models (model_id, experiment_id, name, artifact_location, "
        "creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        models,
    )
    connection.executemany("INSERT INTO logged_model_tags VALUES (?, ?, ?, ?)", tags)
    connection.executemany(
        "INSERT INTO logged_model_metrics (model_id, metric_name, metric_timestamp_ms, "
        "metric_step, metric_value, experiment_id, run_id, dataset_name, dataset_digest) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        metrics,
    )


def pages(client: Any, experiment_id: str) -> Iterator[int]:
    """Number of models on each page of MLflow's own search."""
    token = None
    while True:
        page = client.search_logged_models([experiment_id], max_results=1000, page_token=token)
        yield len(page)
        token = page.token
        if not token:
            return


def read_times(folder: Path, n_checkpoints: int) -> dict[str, Any]:
    """Seconds to read a registry by each way, and whether ours came back whole."""
    path = folder / "read.db"
    store = MlflowStore(f"sqlite:///{path}")
    experiment_id = store._experiment_to_write()
    load(path, int(experiment_id), n_checkpoints)
    began = time.perf_counter()
    read = store.checkpoints()
    ours = time.perf_counter() - began
    began = time.perf_counter()
    last = store.find(an_evaluation(n_checkpoints - 1).checkpoint.id)
    by_id = time.perf_counter() - began
    began = time.perf_counter()
    store.find(last.checkpoint.name)
    by_name = time.perf_counter() - began
    whole = all(
        s.proxies == an_evaluation(i).proxies and list(s.outcomes) == outcomes(i)
        for i, s in enumerate(read)
    )
    del read
    began = time.perf_counter()
    found = sum(pages(store._backend.client(), experiment_id))
    theirs = time.perf_counter() - began
    return {
        "n_checkpoints": n_checkpoints,
        "n_proxies": N_PROXIES,
        "is_whole": whole and found == n_checkpoints,
        "rlready_s": round(ours, 3),
        "search_logged_models_s": round(theirs, 2),
        "ratio": round(theirs / ours, 1),
        "find_by_id_s": round(by_id, 3),
        "find_by_name_s": round(by_name, 3),
    }


def table_times(folder: Path) -> dict[str, Any]:
    """Seconds from the registry that `read_times` left to a table in each format."""
    store = MlflowStore(f"sqlite:///{folder / 'read.db'}")
    import pandas  # noqa: F401  # its import is not what is measured

    began = time.perf_counter()
    table = checkpoint_table(store.checkpoints())
    found: dict[str, Any] = {"frame_s": round(time.perf_counter() - began, 3)}
    for kind in ("csv", "parquet"):
        began = time.perf_counter()
        size = len(table_bytes(table, kind))
        found[f"{kind}_s"] = round(time.perf_counter() - began, 3)
        found[f"{kind}_mb"] = round(size / 1e6, 1)
    found["n_rows"], found["n_columns"] = table.frame.shape
    found["total_csv_s"] = round(found["frame_s"] + found["csv_s"], 3)
    return found


def main() -> None:
    """Measure all, print, and say whether the aims are reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="300 checkpoints, 15 rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rounds, n_checkpoints = (15, 300) if options.quick else (60, 10_000)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        write = write_times(Path(folder), rounds)
        read = read_times(Path(folder), n_checkpoints)
        table = table_times(Path(folder))
    result = {
        "mlflow": version("mlflow"),
        "python": platform.python_version(),
        "write": write,
        "read": read,
        "table": table,
        "reached": {
            "write": write["wall_ratio_to_bare"] <= WRITE_TO_REACH,
            "read": read["rlready_s"] <= READ_TO_REACH_S,
            "table": table["total_csv_s"] <= TABLE_TO_REACH_S,
        },
    }
    if options.json:
        print(json.dumps(result))
        return
    for name in ("rlready", "bare", "bare_shared_run"):
        print(
            f"write {name:16} {write[name]['wall_ms']:7.1f} ms  CPU {write[name]['cpu_ms']:6.1f} ms"
        )
    print(
        f"      ratio {write['wall_ratio_to_bare']} (CPU {write['cpu_ratio_to_bare']}) to bare with"
    )
    print(f"      a run of its own, {write['wall_ratio_to_bare_shared_run']} in a shared run")
    print(f"read  {n_checkpoints} checkpoints x {N_PROXIES} proxies: {read['rlready_s']} s; ")
    print(f"      search_logged_models {read['search_logged_models_s']} s, {read['ratio']}x")
    print(
        f"table {table['n_rows']} x {table['n_columns']}: frame {table['frame_s']} s, "
        f"CSV {table['csv_s']} s ({table['csv_mb']} MB), Parquet {table['parquet_s']} s"
    )
    print(f"reached: {result['reached']}")


if __name__ == "__main__":
    main()
