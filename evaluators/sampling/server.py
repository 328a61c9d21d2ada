"""The `server` engine: any OpenAI-compatible endpoint, such as vLLM's or SGLang's.

Prompts are sent as token ids of the checkpoint's own tokenizer to `/v1/completions`, and token ids
come back where the server gives them: nothing is tokenized twice, and no BOS is doubled. Each
request sets everything that a server may have its own default for (vLLM takes temperature, top-k
and penalties from the model's `generation_config.json`).

One request asks for one sample, with the sample's own seed. vLLM gives child k of a request for n
samples the seed `seed + k`, so seeds also differ with `n_per_request` above 1: sample i gets
`sample_seed(i - i % n) + i % n`, whatever subset is requested. SGLang gives all n the same seed,
and with deterministic inference the same text (its pull request 28805), so elsewhere n is 1. That
costs nothing: a request for n occupies its places until the longest of its samples is done.

A server's answers are checked: it has to read as many prompt tokens as were sent, name the
requested model, and give each sample its own text. It cannot be checked that the server holds the
weights of this checkpoint; only the model's name is compared.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from rlready.evaluators.sampling.server_options import ServerOptions, find_served, server_key
from rlready.registry import records
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONCURRENCY = 256
"""Samples that vLLM draws at once by default; more would wait in its queue."""

_PART_SAMPLES = 512

_COPY_LOGPROB = -40.0
"""A text less likely than exp(-40) never comes twice by chance: the second one is a copy."""

_PROBE_TEMPERATURE = 2.0
"""The highest that OpenAI's API and vLLM accept."""

_PROBE_TOLERANCE = 0.02
"""Nats by which a log-probability may differ in another batch."""

_PROBE_CERTAIN = -1e-3
"""A token more certain than this at temperature 1 is also certain at 2, and says nothing."""

_PROBES = 8
"""Largest number of prompts that are tried."""

_NO_LOGPROB = -9999.0
"""vLLM's value for minus infinity."""

_PASSING_ENDS = frozenset({"abort", "error"})
"""Finish reasons of a request that the server dropped, for example while it shut down."""

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
"""Fields that vLLM and SGLang would otherwise take from generation_config.json or their flags."""

_OTHER_SERVER = "Use a server with OpenAI's /v1/completions, such as vLLM or SGLang"

_Chunk = Sequence[SampleRequest]
"""Samples of one problem with consecutive indices and seeds, requested together."""


class ServerSampler:
    """Draws samples from a server.

    Args:
        options: which server, and how to treat it.
        folder: folder of the checkpoint.
        tokenizer: tokenizer of the checkpoint.
        model_folder: folder of the whole model, if the checkpoint is an adapter.
        hub_id: the checkpoint's id on a hub, under which the server may know it too.
        on_notice: called with a message when the server fails and is asked again.
        sleep: waits between attempts.

    Raises:
        ConfigError: if the server does not serve the checkpoint, or there is no key.
        EvaluationError: if the server does not answer.

    Example:
        >>> options = ServerOptions(url="http://localhost:8000")
        >>> sampler = ServerSampler(options, folder, load_tokenizer(folder))
        >>> parts = list(sampler.draw(draws, protocol))
    """

    name = "server"

    def __init__(
        self,
        options: ServerOptions,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_folder: Path | None = None,
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
        self._stop_ids = folder_stop_ids(model_folder or folder, tokenizer)
        self._served = find_served(self._endpoint, options, (str(folder), hub_id or ""))
        self._has_raw_logprobs: bool | None = None
        self._unlikely: dict[int, int] = {}

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`. The server's description of itself is not checked."""
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
        """See `Sampler.close`. Connections are closed at the end of each `draw`."""

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`. Yields parts in the order in which samples are finished.

        Raises:
            EvaluationError: also if the server refuses a request or continues to fail. The samples
                finished before are yielded first.
        """
        requests = sample_requests(draws, protocol, self._tokenizer, self._served.context)
        chunks = list(_chunks(requests, self._options.n_per_request, protocol.seed))
        answers = stream(partial(self._ask_all, chunks, protocol))
        yield from in_parts(self._without_notices(answers), _PART_SAMPLES, on_progress)

    def _without_notices(self, answers: Iterator[list[Sample] | str]) -> Iterator[list[Sample]]:
        for answer in answers:
            if isinstance(answer, str):
                self._on_notice(answer)
            else:
                yield answer

    async def _ask_all(
        self,
        chunks: Sequence[_Chunk],
        protocol: records.Protocol,
        put: Callable[[list[Sample] | str], None],
    ) -> None:
        """Put the samples of each chunk as they arrive, and notices."""
        async with self._endpoint.connect(put) as connection:
            if self._has_raw_logprobs is None and _needs_probe(self._options, protocol):
                self._has_raw_logprobs = await self._probe(connection, chunks, protocol)
            pending = iter(chunks)

            async def work() -> None:
                for chunk in pending:
                    read = partial(self._samples, chunk, protocol)
                    put(await connection.complete(self._body(chunk, protocol), read))

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
            "prompt": list(chunk[0].prompt),
            "max_tokens": protocol.max_tokens,
            "temperature": protocol.temperature,
            "top_p": protocol.top_p,
            "seed": chunk[0].seed,
        }
        if len(chunk) > 1:
            body["n"] = len(chunk)
        if protocol.stop:
            body["stop"] = list(protocol.stop)
        if self._options.logprobs:
            body["logprobs"] = 0
        if not self._options.plain:
            return body | _NO_DEFAULTS | {"stop_token_ids": list(self._stop_ids)}
        # The server puts its tokenizer's BOS before a text, so ours is removed.
        n_bos = int(body["prompt"][0] == self._tokenizer.bos_token_id)
        text = self._tokenizer.decode(body["prompt"][n_bos:], clean_up_tokenization_spaces=False)
        return body | {"prompt": str(text)}

    async def _probe(
        self, connection: Connection, chunks: Sequence[_Chunk], protocol: records.Protocol
    ) -> bool:
        """Return whether log-probabilities are the model's own, whatever the temperature.

        A high temperature flattens a distribution. If it changes the log-probability of the most
        likely token after half a prompt, the server reports the processed distribution. (After a
        whole prompt, a trained model is often certain of the first token.)
        """
        firsts = {chunk[0].prompt: chunk[0] for chunk in chunks}
        for first in list(firsts.values())[:_PROBES]:
            half = dataclasses.replace(first, prompt=first.prompt[: len(first.prompt) // 2 + 1])
            body = self._body((half,), protocol)
            body |= {"max_tokens": 1, "logprobs": 1, "n": 1, "temperature": 1.0, "top_p": 1.0}
            best = await connection.complete(body, _best_logprob)
            if best is None:
                return False
            if best <= _PROBE_CERTAIN:
                body["temperature"] = _PROBE_TEMPERATURE
                other = await connection.complete(body, _best_logprob)
                return other is not None and abs(best - other) < _PROBE_TOLERANCE
        return False

    def _samples(self, chunk: _Chunk, protocol: records.Protocol, answer: Any) -> list[Sample]:
        """Return the samples in one answer.

        Raises:
            PassingError: if the server dropped the request.
            EvaluationError: if it answered another question, or sent no completion.
        """
        try:
            choices = self._choices(chunk, answer)
            return [
                self._sample(request, choice, answer, protocol)
                for request, choice in zip(chunk, choices, strict=True)
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            shown = self._endpoint.shown
            raise self._error(
                f"sent something that is not a completion: {shown(str(answer))}",
                why=f"{type(error).__name__}: {shown(str(error))}",
                fix=_OTHER_SERVER,
            ) from error

    def _choices(self, chunk: _Chunk, answer: Any) -> list[dict[str, Any]]:
        """Return the choices in order, if they answer this very request."""
        model = answer.get("model")
        if model not in (None, self._served.id):
            raise self._error(
                f"answered with the model {self._endpoint.shown(str(model))!r} when asked for "
                f"{self._served.id!r}",
                fix="Serve the checkpoint alone, or name it: --engine-option model=...",
            )
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in choices] != list(range(len(chunk))):
            one = "Ask for one at a time: --engine-option n_per_request=1"
            raise self._error(
                f"gave {len(choices)} samples of problem {chunk[0].problem_id} when asked for "
                f"{len(chunk)}",
                fix=one if len(chunk) > 1 else _OTHER_SERVER,
            )
        n_read = (answer.get("usage") or {}).get("prompt_tokens")
        n_sent = len(chunk[0].prompt)
        if n_read not in (None, n_sent):
            raise self._error(
                f"read the prompt of problem {chunk[0].problem_id} as {n_read} tokens; it has "
                f"{n_sent}",
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
        reason = choice["finish_reason"]
        if reason in _PASSING_ENDS:
            raise PassingError(f"dropped a sample of problem {request.problem_id} ({reason})")
        if reason not in ("stop", "length"):
            raise self._error(
                f"ended sample {request.sample_index} of problem {request.problem_id} with "
                f"{self._endpoint.shown(str(reason))!r}",
                why="a sample ends at an end token (stop) or at --max-tokens (length)",
                fix="Switch off what ends samples otherwise (filters, tools) in the server",
            )
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

    def _logprob_sum(
        self, logprobs: Sequence[Any], n_tokens: int, protocol: records.Protocol
    ) -> float | None:
        """Return the sum at temperature 1; None if the server gives something else."""
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
        # Truncation makes a kept token likelier, by a factor of 1 / top-p at most.
        logprob = sample.logprob_sum - sample.n_tokens * math.log(protocol.top_p)
        if logprob > _COPY_LOGPROB:
            return
        content = hash((sample.problem_id, sample.text))
        # The same sample may be drawn again: its part was damaged, or its answer came too late.
        if self._unlikely.setdefault(content, sample.sample_index) != sample.sample_index:
            raise self._error(
                f"gave sample {sample.sample_index} of problem {sample.problem_id} a text that it "
                f"had given before, at a log-probability of {logprob:.0f}",
                why="it ignores the seeds of requests and repeats itself",
                fix="Serve with vLLM, or with SGLang without deterministic inference; remove the "
                "samples of this benchmark, because copies may be among them",
            )

    def _error(self, what: str, *, why: str = "", fix: str) -> EvaluationError:
        return EvaluationError(f"the server {self._options.url} {what}", why=why, fix=fix)


def _chunks(requests: Sequence[SampleRequest], n: int, base_seed: int) -> Iterator[_Chunk]:
    """Yield the requests in chunks, each within one block of n indices.

    Args:
        requests: requests; those of one problem are neighbours, in ascending order of indices.
        n: samples of a block. With 1, every request keeps its own seed.
        base_seed: seed of the protocol.
    """
    chunk: list[SampleRequest] = []
    for request in requests:
        problem_id, index = request.problem_id, request.sample_index
        follows = chunk and (chunk[-1].problem_id, chunk[-1].sample_index) == (
            problem_id,
            index - 1,
        )
        if chunk and not (follows and index % n):
            yield chunk
            chunk = []
        first_seed = sample_seed(base_seed, problem_id, index - index % n)
        chunk.append(dataclasses.replace(request, seed=first_seed + index % n))
    if chunk:
        yield chunk


def _needs_probe(options: ServerOptions, protocol: records.Protocol) -> bool:
    """Return whether processed log-probabilities would differ from the model's own."""
    return options.logprobs and (protocol.temperature != 1.0 or protocol.top_p < 1.0)


def _best_logprob(answer: Any) -> float | None:
    """Return the log-probability of the most likely first token; None if there is none."""
    try:
        return max(float(v) for v in answer["choices"][0]["logprobs"]["top_logprobs"][0].values())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
