"""Evaluate a checkpoint in a local folder, and read its proxies back from MLflow.

The checkpoint is the tiny base model that comes with rlready; yours is any folder that
`save_pretrained` wrote. The problems are sums modulo ten, the only skill of this model.

    python examples/evaluate_checkpoint.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from rlready.registry import MlflowStore
from rlready.testbed import shipped_base
from rlready.workflow import Clock, EvaluateConfig, evaluate_checkpoint

N_PROBLEMS = 8


def main(folder: Path) -> None:
    """Write problems and held-out examples, evaluate, and print what the registry holds."""
    chains = [(first, second) for first in range(2, 10) for second in range(3, 5)][:N_PROBLEMS]
    problems = [
        {
            "id": str(i),
            "problem": f"Modulo ten, left to right: {a}+{b}+1",
            "answer": str((a + b + 1) % 10),
        }
        for i, (a, b) in enumerate(chains)
    ]
    held_out = [
        {"problem": row["problem"], "solution": rf"\boxed{{{row['answer']}}}"} for row in problems
    ]
    for name, rows in (("sums.jsonl", problems), ("val.jsonl", held_out)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "prompt.txt").write_text("{problem}")
    config = EvaluateConfig(
        checkpoint=str(shipped_base()),
        name="tiny-base",
        kind="base",
        benchmarks=(f"sums={folder / 'sums.jsonl'}",),
        held_out=(str(folder / "val.jsonl"),),
        prompt_template=folder / "prompt.txt",
        samples=8,
        max_tokens=48,
        samples_dir=folder / "samples",
        device="cpu",
    )
    store = MlflowStore(f"sqlite:///{folder / 'mlflow.db'}")
    evaluate_checkpoint(config, store, Clock())

    stored = store.find("tiny-base")
    for proxy in stored.proxies:
        error = "" if proxy.se is None else f" +- {proxy.se:.3f}"
        print(f"{proxy.name}@{proxy.benchmark}: {proxy.value:.3f}{error} {proxy.unit}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
