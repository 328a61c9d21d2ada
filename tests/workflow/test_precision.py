"""Losses of different number formats or devices share neither a column nor a file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlready.evaluators.checkpoints.folder import Precision, pick_dtype, pick_precision
from rlready.evaluators.metrics.proxies import mostly_unmeasured
from rlready.registry.errors import CheckpointError
from rlready.registry.records import Evaluation, Proxy
from rlready.registry.store import MemoryStore
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.views.checkpoint import proxy_tables
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.evaluate.report import Report
from rlready.workflow.progress import Clock


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with contextlib.redirect_stderr(io.StringIO()):
        return untrained_checkpoint(tmp_path / "sft")


def measured(checkpoint: Path, **options: Any) -> Report:
    """An evaluation on held-out examples, and on a benchmark if options name one."""
    folder = checkpoint.parent
    rows = [{"prompt": f"{i}+1", "response": f"\\boxed{{{i + 1}}}"} for i in range(5)]
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = EvaluateConfig(
        checkpoint=str(checkpoint),
        held_out=(f"held={folder / 'held.jsonl'}",),
        samples_dir=folder / "samples",
        **{"device": "cpu", **options},
    )
    return evaluate_checkpoint(config, MemoryStore(), Clock())


def loss(evaluation: Evaluation) -> Proxy:
    return next(proxy for proxy in evaluation.proxies if proxy.name == "heldout_nll")


def test_float32_on_a_cpu_alone_has_no_digest() -> None:
    digests = [
        Precision(dtype=dtype, device=device).digest
        for dtype in ("float32", "bfloat16", "float16")
        for device in ("cpu", "cuda")
    ]
    assert digests[0] is None
    assert len(set(digests)) == 6
    assert pick_precision("cpu") == Precision(dtype="float32", device="cpu")
    assert pick_dtype("cpu", "float16") is torch.float16


def test_losses_of_two_number_formats_are_two_columns_and_two_files(checkpoint: Path) -> None:
    wide = measured(checkpoint)
    narrow = measured(checkpoint, engine_options=("dtype=bfloat16",))
    assert wide.evaluation.config["engine_used"] == {
        "losses": {"dtype": "float32", "device": "cpu"}
    }
    assert narrow.evaluation.config["engine_used"]["losses"]["dtype"] == "bfloat16"
    first, second = loss(wide.evaluation), loss(narrow.evaluation)
    assert first.value != second.value
    assert first.value == pytest.approx(second.value, rel=0.05)
    # A registry of before has no digest here: these columns go on.
    assert first.protocol_digest is None
    assert second.protocol_digest is not None
    for pattern in ("heldout-*.json", "token-nll-*.npz"):
        assert len(list((checkpoint.parent / "samples").glob(f"*/{pattern}"))) == 2
    again = measured(checkpoint, engine_options=("dtype=bfloat16",))
    assert loss(again.evaluation) == second
    assert set(again.stages) == {"logging"}


def test_further_heads_are_a_warning_of_the_report(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    tensors = {**load_file(weights), "v_head.summary.weight": torch.zeros(1, 64)}
    save_file(tensors, weights, {"format": "pt"})
    report = measured(checkpoint).to_dict()
    assert "v_head.summary.weight" in report["warnings"][0]


def test_a_weight_that_is_nan_ends_the_run_before_anything_is_measured(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        measured(checkpoint)
    assert not (checkpoint.parent / "samples").exists()


def test_samples_without_an_answer_or_an_end_are_warned_of(checkpoint: Path) -> None:
    """unparsed_share 1 and truncated_share 1 gave pass_at_1 0 and no warning."""
    (checkpoint.parent / "toy.jsonl").write_text('{"problem": "1+1", "answer": "2"}')
    options = {"samples": 2, "max_tokens": 3, "k": (1,)}
    report = measured(checkpoint, benchmarks=(f"toy={checkpoint.parent / 'toy.jsonl'}",), **options)
    unparsed, truncated = report.to_dict()["warnings"]
    assert unparsed.startswith("toy: 100% of the samples hold no answer")
    assert truncated.startswith("toy: 100% of the samples were cut at --max-tokens 3")


def share(name: str, value: float) -> Proxy:
    return Proxy(
        name=name,
        value=value,
        se=0.1,
        unit="share",
        benchmark="toy",
        benchmark_digest="a" * 32,
        n_problems=4,
        n_samples=8,
        evaluator_version="1",
    )


@pytest.mark.parametrize("name", ["unparsed_share", "truncated_share"])
def test_the_warning_begins_above_a_half(name: str) -> None:
    assert mostly_unmeasured([share(name, 0.5)], 8) == []
    assert len(mostly_unmeasured([share(name, 0.51)], 8)) == 1


def test_a_table_says_what_its_standard_errors_are_over() -> None:
    sampled, held = share("pass_at_1", 0.5), share("heldout_nll", 2.0)
    base = dataclasses.replace(share("update_norm/all", 0.1), se=None)
    rows = [
        sampled,
        dataclasses.replace(held, benchmark="held"),
        dataclasses.replace(base, benchmark="base"),
    ]
    captions = [table.caption for table in proxy_tables(rows, "x", 60)]
    assert captions == [
        "value ± standard error over problems",
        "value",
        "value ± standard error over examples",
    ]
