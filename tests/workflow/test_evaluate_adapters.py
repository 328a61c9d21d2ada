"""`rlready evaluate` of LoRA adapters: real weights and files, one base model for all of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adapters import change_config, make_adapter

from rlready.evaluators.checkpoints import adapted_model
from rlready.evaluators.checkpoints.folder import load_model
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.registry.store import MemoryStore
from rlready.testbed.training.base import shipped_base
from rlready.testbed.world.benchmarks import write_benchmarks, write_heldout
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.evaluate.many import evaluate_many
from rlready.workflow.progress import Clock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for name, lora in {"a": {}, "b": {"use_rslora": True}, "dora": {"use_dora": True}}.items():
        make_adapter(folder / name, shipped_base(), noise=0.02, **lora)
    make_adapter(folder / "fresh", shipped_base(), noise=0.0)
    write_benchmarks(folder / "problems", 4)
    write_heldout(folder / "held", 6)
    (folder / "prompt.txt").write_text("{problem}")
    return folder


def config(folder: Path, name: str, samples_dir: Path, **values: Any) -> EvaluateConfig:
    (held_out,) = (folder / "held").glob("*canonical*.jsonl")
    return EvaluateConfig(
        **{
            "checkpoint": str(folder / name),
            "benchmarks": (f"add3={folder / 'problems' / 'before' / 'add3.jsonl'}",),
            "held_out": (f"held={held_out}",),
            "samples": 4,
            "max_tokens": 24,
            "prompt_template": folder / "prompt.txt",
            "samples_dir": samples_dir,
            "device": "cpu",
            **values,
        }
    )


def test_merged_and_unmerged_numbers_agree_and_do_not_mix(folder: Path, tmp_path: Path) -> None:
    store, samples = MemoryStore(), tmp_path / "samples"
    unmerged = evaluate_checkpoint(config(folder, "a", samples), store, Clock())
    merged = evaluate_checkpoint(config(folder, "a", samples, merge=True), store, Clock())
    assert (unmerged.n_drawn, merged.n_drawn) == (merged.n_drawn, unmerged.n_drawn)
    assert unmerged.evaluation.checkpoint.id == merged.evaluation.checkpoint.id
    assert unmerged.evaluation.config["protocol"]["adapter"] == "unmerged"
    assert unmerged.evaluation.config["adapter"]["use"] == "unmerged"
    assert "adapter" not in merged.evaluation.config["protocol"]
    assert merged.evaluation.config["adapter"] == {
        "base": shipped_base().as_uri(),
        "use": "merged",
    }
    a, b = unmerged.to_dict()["metrics"], merged.to_dict()["metrics"]
    assert a["held"]["heldout_nll"]["value"] == pytest.approx(
        b["held"]["heldout_nll"]["value"], rel=1e-4
    )
    assert a["add3"]["pass_at_1"] == b["add3"]["pass_at_1"]
    base = next(name for name in a if "update_norm/all" in a[name])
    assert a[base] == b[base]
    assert a[base]["update_norm/q_proj"]["value"] > 0.0 == a[base]["update_norm/up_proj"]["value"]
    ways = {
        proxy.name: (proxy.protocol_digest, other.protocol_digest)
        for proxy, other in zip(unmerged.evaluation.proxies, merged.evaluation.proxies, strict=True)
    }
    assert all(ways[name][0] != ways[name][1] for name in ("pass_at_1", "heldout_nll"))
    # All of it was kept.
    again = evaluate_checkpoint(config(folder, "a", samples), store, Clock())
    assert again.n_drawn == 0
    assert again.to_dict()["metrics"] == a


def test_a_merged_adapter_has_the_numbers_of_the_merged_folder(
    folder: Path, tmp_path: Path
) -> None:
    """Also its protocol, so that adapters and whole models can stand in one table."""
    import torch

    from rlready.evaluators.checkpoints.folder import load_tokenizer, open_weights

    weights = open_weights(str(folder / "b"))
    assert weights.adapter is not None
    tokenizer = load_tokenizer(weights.path)
    own = adapted_model.AdaptableModel(weights.path, "cpu", torch.float32)
    model = own.with_adapter(weights.adapter, tokenizer, merge=True)
    model.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    store, samples = MemoryStore(), tmp_path / "samples"
    merged = evaluate_checkpoint(config(folder, "b", samples, merge=True), store, Clock())
    whole = evaluate_checkpoint(
        config(folder, "b", samples, checkpoint=str(tmp_path / "whole")), store, Clock()
    )
    proxies = {proxy.key: proxy.value for proxy in merged.evaluation.proxies}
    assert (
        proxies.items()
        >= {proxy.key: pytest.approx(proxy.value) for proxy in whole.evaluation.proxies}.items()
    )


def test_the_base_is_loaded_once_and_is_the_parent_of_its_adapters(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []

    def load_and_count(path: Path, *arguments: Any) -> Any:
        loaded.append(path)
        return load_model(path, *arguments)

    monkeypatch.setattr(adapted_model, "load_model", load_and_count)
    store, base = MemoryStore(), str(shipped_base())
    configs = [
        config(folder, name, tmp_path / "samples", base=base)
        for name in ("a", "b", "dora", "fresh")
    ]
    results = evaluate_many(configs, store, Clock())
    assert [report["name"] for report in results.evaluations] == ["a", "b", "dora"]
    assert [report["samples"]["drawn"] for report in results.evaluations] == [16, 16, 16]
    (failure,) = results.failed
    assert "fresh changes nothing: B is zero in all 9 layers" in failure.error
    assert len(loaded) == 1
    stored = {each.checkpoint.name: each.checkpoint for each in store.checkpoints()}
    assert stored["a"].parents == stored["dora"].parents == (stored["base_model"].id,)
    metrics = results.evaluations[1]["metrics"]
    assert "off_policy_q50" in metrics["held"]
    assert metrics["base_model"]["update_norm/all"]["value"] > 0.0


def test_the_registered_base_becomes_the_parent_without_being_measured_again(
    folder: Path, tmp_path: Path
) -> None:
    store, samples = MemoryStore(), tmp_path / "samples"
    values: dict[str, Any] = {"held_out": (), "samples": 1}
    alone = evaluate_checkpoint(config(folder, "b", samples, **values), store, Clock())
    assert alone.evaluation.checkpoint.parents == ()
    base = config(folder, "a", samples, checkpoint=str(shipped_base()), kind="base", **values)
    parent = evaluate_checkpoint(base, store, Clock()).evaluation.checkpoint
    child = evaluate_checkpoint(config(folder, "a", samples, **values), store, Clock())
    assert child.evaluation.checkpoint.parents == (parent.id,)


def test_one_vllm_engine_draws_all_adapters_before_a_loss_needs_the_device(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the hf engine stands for vLLM; `test_vllm_adapters.py` has vLLM itself."""
    import torch

    from rlready.evaluators.heldout.loss import token_losses
    from rlready.evaluators.sampling import vllm_start
    from rlready.evaluators.sampling.hf import HfSampler
    from rlready.workflow.evaluate import engines

    events: list[str] = []

    class StandIn(HfSampler):
        name = "vllm"

        def __init__(
            self, path: Path, tokenizer: Any, options: Any, *, adapters: Any, **others: Any
        ) -> None:
            self.models = adapted_model.AdaptableModel(path, "cpu", torch.float32)
            super().__init__(self.models.base(), tokenizer)
            events.append("open " + " ".join(adapter.path.name for adapter in adapters))

        def use(self, adapter: Any, tokenizer: Any) -> None:
            events.append(f"use {adapter.path.name if adapter else 'base'}")
            model = self.models.with_adapter(adapter, tokenizer) if adapter else self.models.base()
            super().__init__(model, tokenizer)

        def close(self) -> None:
            events.append("close")

    def losses(*arguments: Any, **options: Any) -> Any:
        events.append("loss")
        return token_losses(*arguments, **options)

    monkeypatch.setattr(vllm_start, "check_installed", lambda: None)
    monkeypatch.setattr(engines, "VllmSampler", StandIn)
    monkeypatch.setattr(engines, "token_losses", losses)
    configs = [
        config(folder, name, tmp_path / "samples", engine="vllm", base=str(shipped_base()))
        for name in ("a", "fresh", "b", "dora")
    ]
    results = evaluate_many(configs, MemoryStore(), Clock())
    assert [report["name"] for report in results.evaluations] == ["a", "b"]
    assert [report["samples"]["drawn"] for report in results.evaluations] == [16, 16]
    assert [Path(failure.checkpoint).name for failure in results.failed] == ["fresh", "dora"]
    assert events[:5] == ["open a b", "use base", "use a", "use b", "close"]
    assert set(events[5:]) == {"loss"}
    assert results.evaluations[0]["adapter"] == {
        "base": shipped_base().as_uri(),
        "use": "unmerged",
    }


@pytest.mark.parametrize(
    ("name", "values", "kind", "message"),
    [
        ("a", {"merge": True}, ConfigError, r"--merge with the engine server"),
        ("dora", {}, CheckpointError, r"the engine server cannot apply .*DoRA"),
    ],
)
def test_what_an_engine_cannot_apply_is_refused_before_it_starts(
    folder: Path, tmp_path: Path, name: str, values: dict[str, Any], kind: Any, message: str
) -> None:
    server = {"engine": "server", "engine_options": ("url=http://127.0.0.1:9",), "held_out": ()}
    with pytest.raises(kind, match=message):
        evaluate_checkpoint(
            config(folder, name, tmp_path / "samples", **server, **values), MemoryStore(), Clock()
        )


def test_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(folder / "a", tmp_path / "renumbered"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped_base() / name, adapter)
    tokenizer = json.loads((adapter / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isdigit()][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="number 2 tokens differently"):
        evaluate_checkpoint(
            config(folder, "a", tmp_path / "samples", checkpoint=str(adapter)),
            MemoryStore(),
            Clock(),
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_model_name_or_path": "/nowhere"}, "Name it with --base FOLDER"),
        ({"peft_type": "IA3"}, "only LoRA is read"),
    ],
)
def test_the_command_ends_with_code_2_and_without_a_traceback(
    folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    adapter = Path(shutil.copytree(folder / "a", tmp_path / "lora"))
    change_config(adapter, **values)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("rlready")), "evaluate", str(adapter)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"lora"}
