"""Train shipped recipes again and measure the checkpoints by `rlready evaluate`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rlready.testbed
from rlready.registry.errors import EvaluationError
from rlready.workflow.testbed.narrator import Narrator

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.registry.records import Proxy
    from rlready.registry.store import StoredCheckpoint

COMMAND_LINE = "from rlready.workflow.cli.main import main; main()"
"""Python code that is the command `rlready`."""

_PROJECT = Path(rlready.testbed.__path__[0]).parent


def measure_again(out: Path, store: MlflowStore, names: Sequence[str], narrator: Narrator) -> None:
    """Train two recipes again, and measure the checkpoints as any user would."""
    if not names:
        narrator.step("No checkpoint is trained again: all proxies are the shipped ones")
        narrator.step("No checkpoint is measured again")
        return
    narrator.step(f"Train {len(names)} of the hidden recipes again, from the shipped base")
    folders = _train(out, names, narrator)
    stored = {one.checkpoint.name: one for one in store.checkpoints()}
    if all(name in stored for name in names):
        narrator.step("They are measured already, and the results are reused")
    else:
        flags = _evaluate_flags(out, store, folders)
        words, shown = _evaluate_command(flags, store.experiment)
        narrator.step(f"Measure them: {shown}")
        _stream(words, out / "evaluate.log", store.tracking_uri, narrator)
        stored = {one.checkpoint.name: one for one in store.checkpoints()}
    for name in names:
        _compare_with_shipped(stored[name], narrator)


def _train(out: Path, names: Sequence[str], narrator: Narrator) -> dict[str, Path]:
    from transformers.utils import logging

    from rlready.testbed.study.shipped import shipped_recipes
    from rlready.testbed.study.unit import sft_folder
    from rlready.testbed.training.base import shipped_base
    from rlready.testbed.training.sft import sft
    from rlready.testbed.training.train import one_thread

    logging.disable_progress_bar()  # saving a model of 1 MB has one
    folders = {}
    for name in names:
        recipe = shipped_recipes()[name]
        with one_thread():
            made = sft(shipped_base(), recipe, sft_folder(out, recipe))
        folders[name] = made.folder
        narrator.detail(f"{name}, {recipe.n_steps} steps" + ("" if made.is_new else ", reused"))
    return folders


def _evaluate_flags(out: Path, store: MlflowStore, folders: dict[str, Path]) -> dict[str, str]:
    """Write the inputs of `rlready evaluate`, and return its flags."""
    from rlready.registry.digest import fingerprint
    from rlready.testbed.study.shipped import BENCHMARKS, PROFILE, shipped_recipes
    from rlready.testbed.study.unit import write_inputs
    from rlready.testbed.training.base import shipped_base
    from rlready.testbed.world.measure import MAX_TOKENS
    from rlready.testbed.world.solutions import STYLES
    from rlready.workflow.search.folder import recipe_toml

    write_inputs(out, PROFILE)
    inputs = out.resolve() / "inputs"
    lines = []
    for name, folder in folders.items():
        recipe = shipped_recipes()[name]
        record = recipe.record("testbed-base", fingerprint(shipped_base()))
        (inputs / f"{name}.toml").write_text(recipe_toml(record), encoding="utf-8")
        lines += [
            "[[checkpoint]]",
            f"checkpoint = '{folder.resolve()}'",
            f"name = '{name}'",
            f"step = {recipe.n_steps}",
            f"recipe = '{name}.toml'",
        ]
    (inputs / "checkpoints.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    benchmarks = (f"{name}={inputs / 'before' / name}.jsonl" for name in BENCHMARKS)
    return {
        "list": str(inputs / "checkpoints.toml"),
        "benchmark": ",".join(benchmarks),
        "held-out": ",".join(f"{inputs / f'heldout_{style}'}.jsonl" for style in STYLES),
        "prompt-template": str(inputs / "prompt.txt"),
        "samples": str(PROFILE.n_samples),
        "max-tokens": str(MAX_TOKENS),
        "samples-dir": str(out.resolve() / "samples"),
        "experiment": store.experiment,
    }


def _evaluate_command(flags: dict[str, str], experiment: str) -> tuple[list[str], str]:
    """Return the command that measures, and how it is shown.

    It is an entry point of the MLflow project in this environment. An installed package has no file
    MLproject: there it is the command line.
    """
    if (_PROJECT / "MLproject").is_file():
        words = [sys.executable, "-m", "mlflow", "run", str(_PROJECT), "-e", "evaluate"]
        words += ["--env-manager=local", "--experiment-name", experiment]
        words += [word for key, value in flags.items() for word in ("-P", f"{key}={value}")]
        return words, "mlflow run . -e evaluate --env-manager=local (in this environment)"
    words = [sys.executable, "-c", COMMAND_LINE, "evaluate"]
    words += [word for key, value in flags.items() for word in (f"--{key}", value)]
    return words, "rlready evaluate (no MLproject beside the installed package)"


def _stream(words: Sequence[str], log: Path, tracking_uri: str, narrator: Narrator) -> None:
    """Run a command, keep its output in a file, and show a line for each finished checkpoint."""
    lines = []
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(tracking_uri),
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        print(shlex.join(words), file=file)
        for line in process.stdout:
            file.write(line)
            lines.append(line.strip())
            if line.startswith("[") and line.rstrip().endswith("is measured"):
                narrator.detail(line.rstrip())
    if process.returncode:
        errors = [line for line in lines if line.startswith("error: ")]
        raise EvaluationError(
            "the checkpoints could not be measured",
            why=(errors or ["", *filter(None, lines)])[-1].removeprefix("error: "),
            fix=f"The whole output is in {log}. The same call goes on from here",
        )


def _environment(tracking_uri: str) -> dict[str, str]:
    """Return the environment of a child: its registry is ours, and it is in no run of MLflow."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_RUN_")}
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        environment.pop(name, None)
    paths = [str(Path(sys.executable).parent), environment.get("PATH", "")]
    return {
        **environment,
        "PATH": os.pathsep.join(filter(None, paths)),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "OMP_NUM_THREADS": "1",
    }


def _compare_with_shipped(stored: StoredCheckpoint, narrator: Narrator) -> None:
    """Say whether the weights and pass@1 are those of the shipped results."""
    from rlready.testbed.study.shipped import MEAN, shipped_evaluation

    shipped = shipped_evaluation(stored.checkpoint.name)

    def practice(proxies: Sequence[Proxy]) -> float:
        return next(p.value for p in proxies if (p.name, p.benchmark) == ("pass_at_1", MEAN))

    is_same = stored.checkpoint.id == shipped.checkpoint.id
    narrator.detail(
        f"pass@1 {practice(stored.proxies):.3f}, shipped {practice(shipped.proxies):.3f}; "
        + ("the same weights" if is_same else "this processor rounds sums in another way")
    )
