"""Claim: 100,000 samples are imported in under 60 s and 1 GB, texts checked by our verifier.

Files of four tools are made, each with the same samples: 1,000 problems of 100 completions of
about 1,500 characters; four of five reference answers are numbers, the others formulas, and each
problem has up to eight different answers. `rlready import` then reads each in a process of its
own. Seconds are wall time with the start of Python, CPU seconds those of the process and the
verifier's children; `load` is the load of the machine when the import began. Memory is the largest
sum of the resident sets, so that pages which processes share count more than once. The counts have
to be exact.

    python bench/importers.py [--quick] [--json] [--samples 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

GOAL_S, GOAL_MB = 60.0, 1024.0
SAMPLES_PER_PROBLEM = 100
_SYLLABLES = ("ka", "lo", "mi", "ter", "an", "su", "re", "pol", "di", "ven")


class Made(NamedTuple):
    """A problem, its reference answer, and its completions with their scores."""

    key: str
    question: str
    gold: str
    texts: list[str]
    scores: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5,000 samples instead of 100,000")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--samples", type=int, default=100_000)
    arguments = parser.parse_args()
    n_samples = 5_000 if arguments.quick else arguments.samples
    result: dict[str, Any] = {
        "bench": "importers",
        "n_samples": n_samples,
        "goal_s": GOAL_S,
        "goal_mb": GOAL_MB,
    }
    with tempfile.TemporaryDirectory() as folder:
        for tool, write in WRITERS.items():
            path = Path(folder, tool)
            path.mkdir()
            n_correct = write(path, problems(n_samples // SAMPLES_PER_PROBLEM))
            result[tool] = measured(tool, path, n_correct, n_samples)
            if not arguments.json:
                print(f"{tool}: {json.dumps(result[tool])}")
    tools = [result[tool] for tool in WRITERS]
    result["exact"] = all(tool["exact"] for tool in tools)
    result["reached"] = result["exact"] and all(
        tool["seconds"] < GOAL_S and tool["mb"] < GOAL_MB for tool in tools
    )
    print(json.dumps(result))


def problems(n: int) -> Iterator[Made]:
    """Yield problems with their completions; the same for each tool."""
    rng = random.Random(0)
    words = ["".join(rng.choices(_SYLLABLES, k=rng.randrange(1, 5))) for _ in range(2_000)]
    for number in range(n):
        a, b = rng.randrange(2, 10**6), rng.randrange(2, 97)
        is_formula = number % 5 == 0
        gold = rf"\frac{{{a}x+1}}{{{b}}}" if is_formula else str(a)
        wrong = [rf"\frac{{{a}x-{i}}}{{{b}}}" if is_formula else str(a + i) for i in range(1, 8)]
        rate = rng.random()
        scores = [float(rng.random() < rate) for _ in range(SAMPLES_PER_PROBLEM)]
        texts = [
            " ".join(rng.choices(words, k=rng.randrange(150, 350)))
            + rf". The answer is $\boxed{{{gold if score else rng.choice(wrong)}}}$."
            for score in scores
        ]
        yield Made(f"p{number}", f"Problem {number}: find the value.", gold, texts, scores)


def write_verl(folder: Path, made: Iterator[Made]) -> int:
    """Write one line a sample."""
    total = 0.0
    with (folder / "0.jsonl").open("w") as file:
        for each in made:
            total += sum(each.scores)
            for number, (text, score) in enumerate(zip(each.texts, each.scores, strict=True)):
                row = {"input": each.question, "output": text, "gts": each.gold, "score": score}
                row |= {"step": 0, "acc": score, "uid": f"{each.key}_{number}_0"}
                file.write(json.dumps({**row, "data_source": "made"}) + "\n")
    return int(total)


def write_lm_eval(folder: Path, made: Iterator[Made]) -> int:
    """Write one line a document."""
    total = 0.0
    with (folder / "samples_made_2026-11-29T00-00-00.000000.jsonl").open("w") as file:
        for number, each in enumerate(made):
            total += sum(each.scores)
            row = {"doc_id": number, "target": each.gold, "resps": [each.texts]}
            row |= {"filtered_resps": [each.texts], "filter": "all", "metrics": ["exact_match"]}
            arguments = {"gen_args_0": {"arg_0": each.question, "arg_1": {"temperature": 1.0}}}
            row |= {"arguments": arguments, "exact_match": sum(each.scores) / len(each.scores)}
            file.write(json.dumps(row) + "\n")
    return int(total)


def write_lighteval(folder: Path, made: Iterator[Made]) -> int:
    """Write one row a document."""
    import pyarrow as pa
    import pyarrow.parquet

    total, rows = 0.0, []
    for each in made:
        total += sum(each.scores)
        doc = {"query": each.question, "choices": [f"${each.gold}$"], "gold_index": 0}
        rows.append(
            {
                "doc": {**doc, "id": each.key, "task_name": "made|0"},
                "metric": {f"avg@n:n={len(each.texts)}": sum(each.scores) / len(each.scores)},
                "model_response": {"text": each.texts},
            }
        )
    path = folder / "details_made|0_2026-11-29T00-00-00.000000.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=256)
    return int(total)


def write_episodes(folder: Path, made: Iterator[Made]) -> int:
    """Write one line a rollout, as verifiers 0.4 does."""
    total = 0.0
    with (folder / "traces.jsonl").open("w") as file:
        for each in made:
            total += sum(each.scores)
            data = {"id": each.key, "prompt": each.question, "answer": each.gold}
            for text, score in zip(each.texts, each.scores, strict=True):
                reward = {"score": score, "weight": 1.0}
                node = {"message": {"role": "assistant", "content": text}}
                trace = {"ok": True, "rewards": {"correct": reward}, "nodes": [node]}
                row = {"env": {"name": "made"}, "task": {"type": "T", "data": data}, "ok": True}
                file.write(json.dumps({**row, "traces": [trace]}) + "\n")
    return int(total)


WRITERS: dict[str, Callable[[Path, Iterator[Made]], int]] = {
    "verl": write_verl,
    "lm-eval": write_lm_eval,
    "lighteval": write_lighteval,
    "prime-rl": write_episodes,
}


def measured(tool: str, path: Path, n_correct: int, n_samples: int) -> dict[str, Any]:
    """Return seconds, memory and exactness of one import."""
    words = [sys.executable, "-c", "from rlready.workflow.cli.main import main; main()"]
    start, peak, load = time.perf_counter(), 0.0, os.getloadavg()[0]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (
        tempfile.TemporaryFile("w+") as out,
        subprocess.Popen([*words, "import", tool, str(path), "--json"], stdout=out) as process,
    ):
        while process.poll() is None:
            peak = max(peak, _resident_mb(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        out.seek(0)
        steps = json.loads(out.read())["benchmarks"][0]["steps"]
    counts = steps[0]["counts"]
    tool_total = sum(row["c"] for row in counts)
    checked = sum(row["c_rlready"] for row in counts)
    return {
        "seconds": round(seconds, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "load": round(load, 1),
        "mb": round(peak),
        "samples_per_s": round(n_samples / seconds),
        "file_mb": round(sum(p.stat().st_size for p in path.iterdir()) / 1e6, 1),
        "exact": tool_total == checked == n_correct and sum(r["n"] for r in counts) == n_samples,
    }


def _resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its children."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.Error:
        pass
    return total / 2**20


if __name__ == "__main__":
    main()
