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

`logprob_sum` is exact (vLLM's `raw_logprobs`). The entropy is None: it needs the distribution of
every token, which vLLM would hand out token by token in Python. `entropy.py` computes it for some
samples once the weights are loaded for the loss.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.adapted_model import no_effect, probe_tokens
from rlready.evaluators.checkpoints.adapter import Adapter
from rlready.evaluators.checkpoints.folder import one_line
from rlready.evaluators.sampling.sample_requests import (
    SampleRequest,
    finished_sample,
    folder_stop_ids,
    in_parts,
    sample_requests,
)
from rlready.evaluators.sampling.sampler import Draw, OnProgress
from rlready.evaluators.sampling.vllm_start import (
    VllmOptions,
    check_installed,
    open_engine,
    reason_of,
)
from rlready.registry import records
from rlready.registry.errors import CheckpointError, EvaluationError
from rlready.registry.records import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUEUED = 4096
"""Requests that vLLM holds at once: several times what it runs, so that it never waits for us."""

_PART_SAMPLES = 1024

_AGAIN = "Run the same command again: it draws what is missing"


class VllmSampler:
    """Draws samples with vLLM in this process, or in one that vLLM starts.

    Args:
        path: folder of a checkpoint that passed `checkpoints.folder.check_folder`.
        tokenizer: tokenizer of the same checkpoint.
        options: options of the engine.
        longest: returns the largest number of tokens of a prompt with its sample; only called on a
            CPU.
        log: file for what vLLM prints; by default one in the folder for temporary files.
        adapters: LoRA adapters of this model that the engine can apply, one at a time (`use`).

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
        *,
        longest: Callable[[], int] | None = None,
        log: Path | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        check_installed()
        self._options = options or VllmOptions()
        self._path, self._tokenizer = path, tokenizer
        self._stop_ids = folder_stop_ids(path, tokenizer)
        self._log = log or Path(tempfile.gettempdir(), f"rlready-vllm-{os.getpid()}.log")
        self._adapters, self._lora = tuple(adapters), None
        max_rank = max((each.max_rank for each in adapters), default=0)
        self._llm: Any = open_engine(path, self._options, longest, self._log, max_rank)
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

    def use(self, adapter: Adapter | None, tokenizer: PreTrainedTokenizerBase) -> None:
        """Draw with this adapter from now on; with the model itself if it is None.

        Args:
            adapter: one of those that the engine was opened with.
            tokenizer: tokenizer of the checkpoint.

        Raises:
            CheckpointError: if vLLM cannot apply the adapter, or it changes no log-probability.
        """
        self._tokenizer = tokenizer
        self._stop_ids = folder_stop_ids(self._path, tokenizer)
        self._lora = None
        if adapter is None:
            return
        from vllm.lora.request import LoRARequest

        number = self._adapters.index(adapter) + 1
        lora = LoRARequest(f"adapter-{number}", number, str(adapter.path))
        probes = probe_tokens(tokenizer)
        try:
            before, after = (self._first_logprobs(probes, each) for each in (None, lora))
        except Exception as error:  # its loader and kernels may raise anything
            raise CheckpointError(
                f"vLLM cannot apply the adapter {adapter.path}",
                why=one_line(error),
                fix="Use --engine hf; or merge it, and evaluate the whole model",
            ) from error
        if before == after:
            raise no_effect(adapter)
        self._lora = lora

    def _first_logprobs(self, probes: list[list[int]], lora: Any) -> list[dict[int, float]]:
        """Return the log-probabilities of the likeliest next tokens of each probe."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5, detokenize=False)
        prompts = [{"prompt_token_ids": ids} for ids in probes]
        outputs = self._llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
        return [
            {token: each.logprob for token, each in output.outputs[0].logprobs[0].items()}
            for output in outputs
        ]

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
        ids: list[str] = self._llm.enqueue(prompts, params, use_tqdm=False, lora_request=self._lora)
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
                why=reason_of(error, self._log),
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
