"""A folder in which tests run `rlready evaluate` as a user does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

N_PROBLEMS, N_SAMPLES = 5, 8


class Workplace:
    """A folder with a benchmark, a held-out set, samples and a registry of its own."""

    def __init__(self, folder: Path, checkpoint: Path, empty_database: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        folder.mkdir(exist_ok=True)
        shutil.copy(empty_database, folder / "mlflow.db")
        self.benchmark = folder / "toy.jsonl"
        rows = [
            {"id": str(i), "problem": f"{i}+2 mod 10", "answer": str((i + 2) % 10)}
            for i in range(N_PROBLEMS)
        ]
        self.benchmark.write_text("\n".join(map(json.dumps, rows)))
        self.held_out = folder / "held.jsonl"
        examples = [{"prompt": f"{i}+1", "response": f"\\boxed{{{i + 1}}}"} for i in range(6)]
        self.held_out.write_text("\n".join(map(json.dumps, examples)))
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    def flags(self, *extra: str) -> list[str]:
        """The command line."""
        return [
            *("evaluate", str(self.checkpoint), "--benchmark", f"toy={self.benchmark}"),
            *("--held-out", str(self.held_out), "--samples", str(N_SAMPLES)),
            *("--max-tokens", "12", "--batch-size", "8", "--device", "cpu"),
            *("--samples-dir", str(self.folder / "samples"), "--tracking-uri", self.uri),
            *extra,
        ]

    def run(self, *extra: str, patch: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own, after the lines of `patch`."""
        code = f"{patch}\nfrom rlready.workflow.cli.main import main\nmain({self.flags(*extra)!r})"
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )

    def report(self, *extra: str) -> dict[str, Any]:
        """What a run with --json prints."""
        done = self.run("--json", *extra)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def counts(self) -> list[dict[str, Any]]:
        """Rows of counts.parquet."""
        (path,) = self.folder.glob("samples/*/*/counts.parquet")
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows

    def texts(self) -> dict[tuple[str, int], tuple[str, str]]:
        """Text and verdict of every sample on disk, each there once."""
        rows = [
            row
            for part in self.folder.glob("samples/*/*/part-*.parquet")
            for row in pq.read_table(part).to_pylist()
        ]
        keys = [(row["problem_id"], row["sample_index"]) for row in rows]
        assert len(set(keys)) == len(keys)
        return {key: (row["text"], row["verdict"]) for key, row in zip(keys, rows, strict=True)}
