"""Requests to an HTTP server that may be slow, overloaded or unavailable for a while.

Many requests run at once. After a failure that may pass (429, 5xx, a lost connection, an answer cut
short) all of them pause together. The pause doubles with each failure in a row, and half as many
requests are sent together; each success allows one more. Any other refusal ends the run at once
with the server's message. The key goes into the request's header and nowhere else.

The `openai` package retries each request on its own: 16 requests in a storm of 429 become 128.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import json
import os
import queue
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rlready.registry.errors import EvaluationError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

Sleep = Callable[[float], Awaitable[object]]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
"""Pauses double from the first to the longest: ten of them last five minutes."""

_LONGEST_OBEYED_S = 600.0
"""The run ends if the server asks for a longer pause (Retry-After)."""

_CONNECT_S = 10.0

_KEEP_ALIVE_S = 3.0
"""Less than the 5 s after which uvicorn, and so vLLM and SGLang, close an idle connection: a
request into a connection that is being closed would look like a failure."""

_PASSING = frozenset({408, 425, 429})
"""Status codes of failures that may pass, in addition to 5xx."""

_MAX_ANSWER_BYTES = 256 << 20

_SHOWN = 300
"""Largest number of characters that a message quotes from the server."""


class PassingError(Exception):
    """A failure that may pass, so that the same request is worth sending again.

    Args:
        what: text that continues "the server ...".
        retry_after_s: pause that the server asked for.
    """

    def __init__(self, what: str, retry_after_s: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.retry_after_s = what, retry_after_s


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server and how to treat it.

    Args:
        url: without credentials and without a path.
        key: sent as a bearer token, and never shown; None sends none.
        concurrency: largest number of requests at a time.
        timeout_s: seconds for one answer.
        max_retries: number of failures, of one request or of all in a row, that are tolerated.
        sleep: waits between attempts.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    concurrency: int
    timeout_s: float
    max_retries: int
    sleep: Sleep = asyncio.sleep

    @contextlib.asynccontextmanager
    async def connect(self, on_notice: Callable[[str], None]) -> AsyncIterator[Connection]:
        """Open connections for the running event loop; `on_notice` is called at each pause."""
        import aiohttp

        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=_CONNECT_S),
            headers=headers,
        ) as session:
            yield Connection(self, session, Pace(self.concurrency, self.sleep, on_notice))

    def shown(self, text: str) -> str:
        """Return a server's words fit for a message: short, on one line, without the key."""
        if self.key:
            text = text.replace(self.key, "***")
        text = " ".join(text.split())
        text = "".join(c if c.isprintable() else "?" for c in text)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class Connection:
    """Open connections to an endpoint."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, pace: Pace) -> None:
        self._endpoint, self._session, self._pace = endpoint, session, pace

    async def complete(self, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Request a completion until there is one, and return what `read` makes of it.

        Args:
            body: sent as JSON.
            read: takes the answer's JSON; may raise `PassingError` to have it requested again.

        Raises:
            EvaluationError: if the server refuses the request, or continues to fail.
        """
        for n_failures in itertools.count(1):
            async with self._pace.turn() as sent:
                try:
                    answer = read(await self.ask_once("v1/completions", body))
                except PassingError as error:
                    failure = error
                else:
                    self._pace.succeeded()
                    return answer
            n_in_a_row = max(n_failures, self._pace.n_in_a_row(sent))
            is_pause_too_long = failure.retry_after_s > _LONGEST_OBEYED_S
            if is_pause_too_long or n_in_a_row > self._endpoint.max_retries:
                self._pace.stop()
                raise EvaluationError(
                    f"the server {self._endpoint.url} {failure.what}",
                    why=f"it asks for a pause of {failure.retry_after_s:.0f} s"
                    if is_pause_too_long
                    else f"it failed {n_in_a_row} times in a row, with growing pauses",
                    fix="The samples drawn so far are kept. When the server works again, run the "
                    "same command again: it draws only what is missing",
                )
            await self._pace.failed(failure, sent)
        raise AssertionError("the count never ends")

    async def ask_once(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer's JSON to a POST of `body`, or to a GET if there is none.

        Raises:
            PassingError: if asking again may help.
            EvaluationError: if the server refuses the request.
        """
        import aiohttp

        url, method = f"{self._endpoint.url}/{path}", "GET" if body is None else "POST"
        try:
            async with self._session.request(
                method, url, json=body, allow_redirects=False
            ) as response:
                content = await self._bounded(response)
        except TimeoutError as error:
            timeout = f"gave no answer within {self._endpoint.timeout_s:g} s"
            raise PassingError(timeout) from error
        except (aiohttp.ClientError, OSError) as error:
            # The system's own words, such as "Connection refused", are the clearest.
            reason, number = str(error) or type(error).__name__, getattr(error, "errno", None)
            if isinstance(number, int) and number > 0:
                reason = os.strerror(number)
            raise PassingError(f"cannot be reached ({self._endpoint.shown(reason)})") from error
        if response.status == 200:
            try:
                return json.loads(content)
            except (ValueError, RecursionError) as error:
                begin = self._endpoint.shown(content[:_SHOWN].decode(errors="replace"))
                raise PassingError(f"sent an answer that is not JSON: {begin!r}") from error
        message = self._message(content) or response.reason or "nothing"
        what = f"answered {response.status} to {path}: {message}"
        if response.status in _PASSING or response.status >= 500:
            raise PassingError(what, _seconds(response.headers.get("Retry-After")))
        why, fix = _REFUSALS.get(response.status, ("", ""))
        raise EvaluationError(
            f"the server {self._endpoint.url} {what}",
            why=why,
            fix=fix
            or "The samples drawn so far are kept. Correct what the server names, and run the same "
            "command again",
        )

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the body, which may be compressed: 1 MB can expand to 1 GB."""
        content = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            content += chunk
            if len(content) > _MAX_ANSWER_BYTES:
                raise EvaluationError(
                    f"the server {self._endpoint.url} sent more than {_MAX_ANSWER_BYTES} bytes in "
                    "one answer",
                    why="the samples of one request have a few megabytes",
                    fix="Check that the URL is that of an OpenAI-compatible server",
                )
        return bytes(content)

    def _message(self, content: bytes) -> str:
        """Return the text of an error; vLLM, SGLang and FastAPI put it in different places."""
        text = content[: 64 * _SHOWN].decode(errors="replace")
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(text)
            for key in ("error", "detail", "message"):
                if isinstance(body, dict) and body.get(key):
                    body = body[key]
            text = body if isinstance(body, str) else json.dumps(body)
        return self._endpoint.shown(text)


_REFUSALS = {
    401: (
        "the key is missing or wrong",
        "Put the server's key into the environment variable named by --engine-option "
        "key_variable=... (default OPENAI_API_KEY)",
    ),
    403: ("the key does not allow this request", ""),
    404: (
        "the server does not know this path or model",
        "Check --engine-option url=... and the model's name at /v1/models",
    ),
}


class Pace:
    """How many requests may be sent at a time, and when.

    Args:
        most: largest number of requests at a time.
        sleep: waits for the end of a pause.
        on_notice: called with a message at each pause.
    """

    def __init__(self, most: int, sleep: Sleep, on_notice: Callable[[str], None]) -> None:
        self._most = self._limit = most
        self._sleep, self._on_notice = sleep, on_notice
        self._n_running = self._n_pauses = self._n_all_pauses = 0
        self._is_paused = False
        self._change = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[int]:
        """Wait until one more request may be sent, and count it while the context is open.

        The yielded number says when the request was sent; `n_in_a_row` and `failed` take it.
        """
        while self._is_paused or self._n_running >= self._limit:
            await self._change.wait()
        self._n_running += 1
        try:
            yield self._n_all_pauses
        finally:
            self._n_running -= 1
            self._wake()

    def n_in_a_row(self, sent: int) -> int:
        """Return the failures since the last success, including the one of a request.

        The failures of requests that were sent before a pause count as the one that began it, also
        if they arrive after its end.
        """
        return self._n_pauses + (sent == self._n_all_pauses)

    def succeeded(self) -> None:
        """Allow one more request at a time."""
        self._n_pauses = 0
        self._limit = min(self._most, self._limit + 1)

    async def failed(self, failure: PassingError, sent: int) -> None:
        """Pause all requests for a while, unless they paused since this one was sent."""
        if sent < self._n_all_pauses:
            return
        self._n_all_pauses += 1
        self._n_pauses += 1
        self._limit = max(1, self._limit // 2)
        backoff_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (self._n_pauses - 1))
        # Random, so that several clients of one server do not come back together.
        wait_s = max(failure.retry_after_s, backoff_s * random.uniform(0.5, 1.0))
        self._on_notice(f"the server {failure.what}; asking again in {wait_s:.1f} s")
        self._is_paused = True
        try:
            await self._sleep(wait_s)
        finally:
            self._is_paused = False
            self._wake()

    def stop(self) -> None:
        """Let no further request be sent, until the waiting ones are cancelled."""
        self._is_paused = True

    def _wake(self) -> None:
        """Let every waiting request look again whether it may be sent."""
        self._change.set()
        self._change.clear()


def _seconds(retry_after: str | None) -> float:
    """Return the pause that a Retry-After header asks for; 0 if it has no valid value."""
    if retry_after is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0


def stream(work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """Yield the items of a coroutine while it runs in its own thread and event loop.

    The caller may have an event loop itself (a notebook, a Ray actor). Closing the iterator
    cancels the coroutine and waits for its end.

    Args:
        work: takes the function that it calls with each item.
    """
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    end = object()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(items.put))

    def run() -> None:
        with contextlib.suppress(BaseException):  # the task keeps it, and raises it below
            loop.run_until_complete(task)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        items.put(end)

    thread = threading.Thread(target=run, name="rlready-server", daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not end:
            yield item
        task.result()
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
