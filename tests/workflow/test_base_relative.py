"""`rlready evaluate --base`: real weights, both models, a real MLflow database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators.checkpoints import adapted_model
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.store import MemoryStore
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.model import (
    ModelSize,
    build_model,
    save_checkpoint,
)
from rlready.testbed.training.tokenizer import world_tokenizer
from rlready.testbed.world.benchmarks import write_benchmarks, write_heldout
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.progress import Clock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def moved(folder: Path) -> Path:
    """The base model with a little noise in one matrix."""
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "sft"
    shutil.copytree(shipped_base(), path)
    weights = load_file(path / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    noise = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    weights[name] += 0.2 * weights[name].std() * noise
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def inputs(folder: Path) -> tuple[str, ...]:
    write_benchmarks(folder / "problems", 8)
    held_out = write_heldout(folder / "held", 12)[0]
    before = folder / "problems" / "before"
    for name in ("add3", "chain_hard"):
        _make_harder(before / f"{name}.jsonl")
    (folder / "prompt.txt").write_text("{problem}")
    return (
        *("--benchmark", f"add3={before / 'add3.jsonl'}"),
        *("--benchmark", f"hard={before / 'chain_hard.jsonl'}"),
        *("--held-out", f"held={held_out}", "--samples", "48", "--max-tokens", "48"),
        *("--prompt-template", str(folder / "prompt.txt")),
        *("--samples-dir", str(folder / "samples"), "--device", "cpu"),
    )


def _make_harder(path: Path) -> None:
    """The digit after the right one: the base model boxes it by mistake, now and then."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["answer"] = str((int(row["answer"]) + 1) % 10)
    path.write_text("\n".join(map(json.dumps, rows)))


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    code = f"from rlready.workflow.cli.main import main\nmain({['evaluate', *flags]!r})"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_a_checkpoint_is_compared_with_its_base(
    folder: Path, moved: Path, inputs: tuple[str, ...], empty_database: Path
) -> None:
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    base = folder / "base-model"
    shutil.copytree(shipped_base(), base)
    flags = (str(moved), "--base", str(base), *inputs, "--tracking-uri", uri, "--json")

    done = run(*flags)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    against = report["metrics"]["base-model"]
    assert 0.0 < against["update_norm/all"]["value"] < against["update_norm/down_proj"]["value"]
    assert against["update_norm/q_proj"]["value"] == 0.0
    assert against["rotation/down_proj"]["value"] > 0.0 == against["rotation/q_proj"]["value"]
    # The base model never boxes a wrong sum of three digits, so nothing there is within its reach.
    assert [text for text in report["warnings"] if "coverage_ratio_16 is undefined" in text]
    assert "coverage_ratio_16" in report["metrics"]["hard"]
    assert report["metrics"]["mean"]["coverage_ratio_16"]["value"] >= 0.0
    held = report["metrics"]["held"]
    assert held["off_policy_q50"]["value"] < held["off_policy_q90"]["value"]

    stored = {one.checkpoint.kind: one for one in MlflowStore(uri).checkpoints()}
    assert set(stored) == {"base", "sft"}
    assert stored["sft"].checkpoint.parents == (stored["base"].checkpoint.id,)
    assert {"pass_at_1", "heldout_nll"} <= {proxy.name for proxy in stored["base"].proxies}

    # All of it was kept: nothing is drawn, scored or compared once more.
    again = json.loads(run(*flags).stdout)
    assert again["metrics"] == report["metrics"]
    assert not again["is_new"]
    assert set(again["stages"]) == {"logging"}


def test_only_one_model_is_in_memory_at_a_time(
    moved: Path, inputs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base model used to stay loaded while the checkpoint was evaluated."""
    models: list[weakref.ref[Any]] = []
    load_model = adapted_model.load_model

    def load_alone(path: Path, *arguments: Any) -> Any:
        assert not any(model() for model in models), f"another model beside {path}"
        model = load_model(path, *arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(adapted_model, "load_model", load_alone)
    flags = dict(zip(inputs[::2], inputs[1::2], strict=True))
    config = EvaluateConfig(
        checkpoint=str(moved),
        base=str(shipped_base()),
        benchmarks=(flags["--benchmark"],),
        held_out=(flags["--held-out"],),
        samples=2,
        max_tokens=8,
        prompt_template=Path(flags["--prompt-template"]),
        samples_dir=tmp_path / "samples",
        device="cpu",
    )
    report = evaluate_checkpoint(config, MemoryStore(), Clock())
    assert "off_policy_q50" in report.to_dict()["metrics"]["held"]
    assert len(models) == 2


def test_another_architecture_is_refused_before_anything_is_drawn(
    folder: Path, moved: Path, inputs: tuple[str, ...], tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    tokenizer = world_tokenizer()
    model = build_model(tokenizer, ModelSize(n_layers=2), seed=0)
    other = save_checkpoint(model, tokenizer, tmp_path / "other")
    flags = [*inputs, "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    flags[flags.index("--samples-dir") + 1] = str(tmp_path / "samples")
    done = run(str(moved), "--base", str(other), *flags)
    assert done.returncode == 2
    assert "is not the base model of" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "samples").exists()


def test_the_checkpoint_itself_is_no_base(
    moved: Path, inputs: tuple[str, ...], tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = run(str(moved), "--base", str(moved), *inputs, "--tracking-uri", uri)
    assert done.returncode == 2
    assert "has the weights of the checkpoint itself" in done.stderr


def test_other_token_numbers_are_refused(
    moved: Path, inputs: tuple[str, ...], tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    other = tmp_path / "renumbered"
    shutil.copytree(shipped_base(), other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isdigit()][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = run(str(moved), "--base", str(other), *inputs, "--tracking-uri", uri)
    assert done.returncode == 2
    assert "number 2 tokens differently" in done.stderr
