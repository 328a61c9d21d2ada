"""The `server` engine: any OpenAI-compatible endpoint, such as vLLM's or SGLang's.

Prompts go out as token ids of the checkpoint's own tokenizer to `/v1/completions`, and token ids
come back where the server gives them: nothing is tokenized twice and no BOS doubled. Everything
that a server may have a default of its own for (vLLM takes temperature, top-k and penalties from
the model's `generation_config.json`) is sent with each request.

One request asks for one sample, with the sample's own seed. vLLM gives child k of a request for n
samples the seed `seed + k`, so `n_per_request` above 1 has distinct seeds there as well: sample i
gets `sample_seed(i - i % n) + i % n`, whatever subset is asked for. SGLang gives all n the same
seed, and with deterministic inference the same text (its pull request 28805), so elsewhere n is
1. Nothing is lost: a request for n holds its places until the longest of them is done.

What a server answers is only a claim. That it read as many prompt tokens as were sent, named the
model that was asked for, and gave each sample its own text is checked; that it holds this
checkpoint's weights cannot be, beyond its name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.sampling.sample_requests import (
    SampleRequest,
    finished_sample,
    folder_stop_ids,
    in_parts,
    sample_requests,
)
from rlready.evaluators.sampling.sampler import Draw, OnProgress, sample_seed
from rlready.evaluators.sampling.server_client import (
    Connection,
    Endpoint,
    PassingError,
    Sleep,
    stream,
)
from rlready.evaluators.sampling.server_models import find_served
from rlready.evaluators.sampling.server_options import ServerOptions, server_key
from rlready.registry import records
from rlready.registry.errors import EvaluationError
from rlready.registry.records import FinishReason, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONCURRENCY = 256
"""Samples that vLLM draws at once unless told otherwise; more would wait in its queue."""

_PART_SAMPLES = 512

_COPY_LOGPROB = -40.0
"""A text less likely than exp(-40) comes twice by chance in no evaluation: it is a copy."""

_PROBE_TEMPERATURE = 2.0
"""The highest that OpenAI's API and vLLM accept."""

_PROBE_TOLERANCE = 0.02
"""Nats by which another batch may move a log-probability."""

_PROBE_CERTAIN = -1e-3
"""A token more certain than this at temperature 1 is so at 2 as well, and tells nothing."""

_PROBES = 8
"""Prompts tried before giving up."""

_NO_LOGPROB = -9999.0
"""What vLLM writes for minus infinity."""

_PASSING_ENDS = frozenset({"abort", "error"})
"""Finish reasons of a request that the server dropped, for example while it shut down."""


class ServerSampler:
    """Draws samples from a server.

    Args:
        options: which server, and how to treat it.
        folder: of the checkpoint.
        tokenizer: of the checkpoint.
        hub_id: of the checkpoint, if it came from a hub: another name that a server may know.
        on_notice: told when the server fails and is asked again.
        sleep: waits between attempts.

    Raises:
        ConfigError: if the server does not serve the checkpoint, or there is no key.
        EvaluationError: if the server does not answer.
    """

    name = "server"

    def __init__(
        self,
        options: ServerOptions,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        hub_id: str | None = None,
        on_notice: Callable[[str], None] | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._options, self._tokenizer = options, tokenizer
        self._on_notice = on_notice or (lambda _: None)
        self._endpoint = Endpoint(
            url=options.url,
            key=server_key(options.key_variable),
            concurrency=max(1, (options.concurrency or _CONCURRENCY) // options.n_per_request),
            timeout_s=options.timeout_s,
            max_retries=options.max_retries,
            sleep=sleep,
        )
        self._stop_ids = folder_stop_ids(folder, tokenizer)
        self._served = find_served(self._endpoint, options, (str(folder), hub_id or ""))
        self._has_raw_logprobs: bool | None = None
        self._unlikely: dict[int, int] = {}

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`. What the server says of itself is a claim."""
        options, served = self._options, self._served
        return {
            "engine": self.name,
            "url": options.url,
            "model": served.id,
            "root": served.root,
            "server": served.owner,
            "server_version": served.version,
            "max_model_len": served.context,
            "n_per_request": options.n_per_request,
            "prompt": "text" if options.plain else "token ids",
        }

    def close(self) -> None:
        """See `Sampler.close`. Connections live no longer than the call that draws."""

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`. Yields parts in the order in which samples are finished.

        Raises:
            EvaluationError: also if the server refuses a request or goes on failing; what was
                finished before is yielded first.
        """
        requests = sample_requests(draws, protocol, self._tokenizer, self._served.context)
        chunks = list(_chunks(requests, self._options.n_per_request, protocol.seed))
        answers: Iterator[list[Sample] | str] = stream(
            lambda put: self._ask_all(chunks, protocol, put)
        )
        yield from in_parts(self._heard(answers), _PART_SAMPLES, on_progress)

    def _heard(self, answers: Iterator[list[Sample] | str]) -> Iterator[list[Sample]]:
        """The samples among the answers; notices are passed on."""
        for found in answers:
            if isinstance(found, str):
                self._on_notice(found)
            else:
                yield found

    async def _ask_all(
        self,
        chunks: Sequence[_Chunk],
        protocol: records.Protocol,
        put: Callable[[list[Sample] | str], None],
    ) -> None:
        """Put the samples of each chunk, as they come, and notices."""
        async with self._endpoint.connect(put) as connection:
            if self._has_raw_logprobs is None and _needs_probe(self._options, protocol):
                self._has_raw_logprobs = await self._probe(connection, chunks, protocol)
            pending = iter(chunks)

            async def work() -> None:
                for chunk in pending:
                    body = self._body(chunk, protocol)

                    def read(answer: Any, chunk: _Chunk = chunk) -> list[Sample]:
                        return self._samples(chunk, answer, protocol)

                    put(await connection.ask("POST", "v1/completions", body, read))

            n_workers = min(len(chunks), self._endpoint.concurrency)
            workers = [asyncio.create_task(work()) for _ in range(n_workers)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _body(self, chunk: _Chunk, protocol: records.Protocol) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._served.id,
            "prompt": self._prompt(chunk),
            "max_tokens": protocol.max_tokens,
            "temperature": protocol.temperature,
            "top_p": protocol.top_p,
            "seed": chunk.seed,
        }
        if chunk.n > 1:
            body["n"] = chunk.n
        if protocol.stop:
            body["stop"] = list(protocol.stop)
        if self._options.logprobs:
            body["logprobs"] = 0
        if not self._options.plain:
            body |= _NO_DEFAULTS | {"stop_token_ids": list(self._stop_ids)}
        return body

    def _prompt(self, chunk: _Chunk) -> list[int] | str:
        ids = list(chunk.requests[0].prompt)
        if not self._options.plain:
            return ids
        # The server puts its tokenizer's BOS before a text: without ours there is one.
        if ids[0] == self._tokenizer.bos_token_id:
            ids = ids[1:]
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    async def _probe(
        self, connection: Connection, chunks: Sequence[_Chunk], protocol: records.Protocol
    ) -> bool:
        """Whether the server's log-probabilities are the model's own, whatever the temperature.

        A high temperature flattens a distribution: if that changes what the server says of the
        most likely token after half a prompt, it speaks of the processed one. (After a whole
        prompt a trained model is often certain how to begin.)
        """
        firsts = {chunk.requests[0].prompt: chunk.requests[0] for chunk in chunks}
        for first in list(firsts.values())[:_PROBES]:
            half = dataclasses.replace(first, prompt=first.prompt[: len(first.prompt) // 2 + 1])
            body = self._body(_Chunk(requests=(half,)), protocol)
            body |= {"max_tokens": 1, "logprobs": 1, "n": 1, "temperature": 1.0, "top_p": 1.0}
            best = await connection.ask("POST", "v1/completions", body, _best_logprob)
            if best is None:
                return False
            if best > _PROBE_CERTAIN:
                continue
            body["temperature"] = _PROBE_TEMPERATURE
            other = await connection.ask("POST", "v1/completions", body, _best_logprob)
            return other is not None and abs(best - other) < _PROBE_TOLERANCE
        return False

    def _samples(self, chunk: _Chunk, answer: Any, protocol: records.Protocol) -> list[Sample]:
        """The samples in one answer.

        Raises:
            PassingError: if the server dropped the request.
            EvaluationError: if it answered something else than it was asked.
        """
        try:
            choices = self._choices(chunk, answer)
            return [
                self._sample(request, choice, answer, protocol)
                for request, choice in zip(chunk.requests, choices, strict=True)
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            shown = self._endpoint.shown(str(answer))
            raise EvaluationError(
                f"the server {self._options.url} sent something that is not a completion: {shown}",
                why=f"{type(error).__name__}: {self._endpoint.shown(str(error))}",
                fix="Use a server with OpenAI's /v1/completions, such as vLLM or SGLang",
            ) from error

    def _choices(self, chunk: _Chunk, answer: Any) -> list[dict[str, Any]]:
        """The answer's choices in order, if it is an answer to this very request."""
        model = answer.get("model")
        if model not in (None, self._served.id):
            raise EvaluationError(
                f"the server {self._options.url} answered with the model "
                f"{self._endpoint.shown(str(model))!r} when asked for {self._served.id!r}",
                fix="Serve the checkpoint alone, or name it: --engine-option model=...",
            )
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in choices] != list(range(chunk.n)):
            raise EvaluationError(
                f"the server {self._options.url} gave {len(choices)} samples of problem "
                f"{chunk.requests[0].problem_id} when asked for {chunk.n}",
                fix="Ask for one at a time: --engine-option n_per_request=1"
                if chunk.n > 1
                else "Use a server with OpenAI's /v1/completions, such as vLLM or SGLang",
            )
        n_read = (answer.get("usage") or {}).get("prompt_tokens")
        n_sent = len(chunk.requests[0].prompt)
        if n_read not in (None, n_sent):
            raise EvaluationError(
                f"the server {self._options.url} read the prompt of problem "
                f"{chunk.requests[0].problem_id} as {n_read} tokens; it has {n_sent}",
                why="it cuts prompts, adds tokens (a second BOS) or has another tokenizer",
                fix="Serve this checkpoint with its own tokenizer and without truncation",
            )
        return choices

    def _sample(
        self,
        request: SampleRequest,
        choice: dict[str, Any],
        answer: dict[str, Any],
        protocol: records.Protocol,
    ) -> Sample:
        reason = self._finish_reason(request, choice["finish_reason"])
        logprobs = list((choice.get("logprobs") or {}).get("token_logprobs") or [])
        ids = choice.get("token_ids")
        if ids is not None:
            ids = [int(token) for token in ids]
            n_tokens = len(ids)
        elif len(answer["choices"]) == 1 and answer.get("usage"):
            n_tokens = int(answer["usage"]["completion_tokens"])
        elif logprobs:
            n_tokens = len(logprobs)
        else:
            raise ValueError("it does not say how many tokens were drawn")
        sample = finished_sample(
            request,
            ids or (),
            self._stop_ids,
            self._tokenizer,
            logprob_sum=self._logprob_sum(logprobs, n_tokens, protocol),
            entropy_sum=None,
        )
        if ids is None or protocol.stop:
            sample = dataclasses.replace(sample, text=str(choice["text"]), n_tokens=n_tokens)
        sample = dataclasses.replace(sample, finish_reason=reason)
        self._check_copy(sample, protocol)
        return sample

    def _finish_reason(self, request: SampleRequest, reason: Any) -> FinishReason:
        if reason == "stop":
            return "stop"
        if reason == "length":
            return "length"
        if reason in _PASSING_ENDS:
            raise PassingError(f"dropped a sample of problem {request.problem_id} ({reason})")
        raise EvaluationError(
            f"the server {self._options.url} ended sample {request.sample_index} of problem "
            f"{request.problem_id} with {self._endpoint.shown(str(reason))!r}",
            why="a sample ends at an end token (stop) or at --max-tokens (length)",
            fix="Switch off what ends samples otherwise (filters, tools) in the server",
        )

    def _logprob_sum(
        self, logprobs: Sequence[Any], n_tokens: int, protocol: records.Protocol
    ) -> float | None:
        """Of the drawn tokens at temperature 1; None if the server gives something else."""
        if _needs_probe(self._options, protocol) and not self._has_raw_logprobs:
            return None
        if not n_tokens or len(logprobs) != n_tokens or None in logprobs:
            return None
        if min(logprobs) <= _NO_LOGPROB:
            return None
        return math.fsum(float(value) for value in logprobs)

    def _check_copy(self, sample: Sample, protocol: records.Protocol) -> None:
        """Raise if the server draws every sample from one stream.

        SGLang with deterministic inference did so for /v1/completions (its issue 15481).
        """
        if sample.logprob_sum is None or protocol.temperature != 1.0:
            return
        # Truncation makes a kept token likelier, by 1 / top-p at most.
        logprob = sample.logprob_sum - sample.n_tokens * math.log(protocol.top_p)
        if logprob > _COPY_LOGPROB:
            return
        content = hash((sample.problem_id, sample.text))
        # The same sample may be drawn again: its part was damaged, or its answer came too late.
        if self._unlikely.setdefault(content, sample.sample_index) != sample.sample_index:
            raise EvaluationError(
                f"the server {self._options.url} gave sample {sample.sample_index} of problem "
                f"{sample.problem_id} a text that it had given before, at a log-probability of "
                f"{logprob:.0f}",
                why="it does not heed the seeds of requests, and repeats itself",
                fix="Serve with vLLM, or with SGLang without deterministic inference; remove the "
                "samples of this benchmark, because copies may be among them",
            )


_NO_DEFAULTS = {
    "top_k": -1,
    "min_p": 0.0,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "skip_special_tokens": True,
    "return_token_ids": True,
}
"""What vLLM and SGLang would else take from the model's generation_config.json or their flags."""


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Samples of one problem with neighbouring indices and seeds, asked for together."""

    requests: tuple[SampleRequest, ...]

    @property
    def seed(self) -> int:
        """Of the first; the server adds 1 for each further one."""
        return self.requests[0].seed

    @property
    def n(self) -> int:
        return len(self.requests)


def _chunks(requests: Sequence[SampleRequest], n: int, base_seed: int) -> Iterator[_Chunk]:
    """The requests in chunks of at most n, each within one block of n indices.

    Args:
        requests: those of a problem in ascending order of their indices.
        n: samples of a block. With 1 every request keeps its own seed.
        base_seed: of the protocol.
    """
    chunk: list[SampleRequest] = []
    for request in requests:
        offset = request.sample_index % n
        if chunk and (offset == 0 or not _follows(chunk[-1], request)):
            yield _Chunk(requests=tuple(chunk))
            chunk = []
        first_seed = sample_seed(base_seed, request.problem_id, request.sample_index - offset)
        chunk.append(dataclasses.replace(request, seed=first_seed + offset))
    if chunk:
        yield _Chunk(requests=tuple(chunk))


def _follows(one: SampleRequest, other: SampleRequest) -> bool:
    return (one.problem_id, one.sample_index + 1) == (other.problem_id, other.sample_index)


def _needs_probe(options: ServerOptions, protocol: records.Protocol) -> bool:
    """Whether processed log-probabilities would differ from the model's own."""
    return options.logprobs and (protocol.temperature != 1.0 or protocol.top_p < 1.0)


def _best_logprob(answer: Any) -> float | None:
    """Log-probability of the most likely first token, if the answer has it."""
    try:
        return max(float(v) for v in answer["choices"][0]["logprobs"]["top_logprobs"][0].values())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
