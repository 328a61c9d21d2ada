"""Questions to an HTTP server that may be slow, overloaded or gone for a while.

Many are under way at once. A failure that may pass (429, 5xx, a lost connection, an answer cut
short) holds all of them back for a while that doubles each time, and halves how many go out
together; each answer lets one more through. Any other refusal ends the run at once with what the
server said. The key goes into the request's header and nowhere else.
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
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rlready.registry.errors import EvaluationError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

Sleep = Callable[[float], Awaitable[object]]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
"""Waits double from the first to the longest: ten of them give a server five minutes to restart."""

_LONGEST_OBEYED_S = 600.0
"""A server that asks for a longer pause (Retry-After) is left until the user calls again."""

_CONNECT_S = 10.0

_KEEP_ALIVE_S = 3.0
"""Below the 5 s after which uvicorn, and so vLLM and SGLang, close an idle connection: a request
sent into one that is just being closed would look like a failure."""

_PASSING = frozenset({408, 425, 429})
"""Refusals that may pass, beside 5xx."""

_MAX_ANSWER_BYTES = 256 << 20

_SHOWN = 300
"""Characters of a server's own words that are shown."""


class PassingError(Exception):
    """A failure after which the same question may be answered.

    Args:
        what: goes on after "the server ...".
        retry_after_s: how long the server asked to be left alone.
    """

    def __init__(self, what: str, retry_after_s: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.retry_after_s = what, retry_after_s


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server and how to treat it.

    Args:
        url: without credentials; paths are put behind it.
        key: sent as a bearer token; None sends none. Never shown.
        concurrency: questions under way at most.
        timeout_s: seconds for one answer.
        max_retries: times that a question is asked again, and failures in a row of all of them
            together, before giving up.
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
        """Connections that are kept open, for use in the running event loop.

        Args:
            on_notice: told of each pause.
        """
        import aiohttp

        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=_CONNECT_S),
            headers=headers,
        ) as session:
            yield Connection(self, session, Pace(self.concurrency, self.sleep, on_notice))

    def shown(self, text: str) -> str:
        """A server's words, fit to be shown: cut, on one line, without the key."""
        if self.key:
            text = text.replace(self.key, "***")
        text = " ".join(text.split())
        text = "".join(c if c.isprintable() else "?" for c in text)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class Connection:
    """Open connections to an endpoint."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, pace: Pace) -> None:
        self._endpoint, self._session, self._pace = endpoint, session, pace

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]
    ) -> T:
        """What `read` makes of the answer, asked for as often as it takes.

        Args:
            method: GET or POST.
            path: behind the endpoint's URL.
            body: sent as JSON.
            read: gets the answer's JSON; may raise `PassingError` to have it asked for again.

        Raises:
            EvaluationError: if the server refuses the question, or goes on failing.
        """
        most = self._endpoint.max_retries
        for n_failures in itertools.count(1):
            async with self._pace.turn():
                try:
                    answer = read(await self.ask_once(method, path, body))
                except PassingError as error:
                    failure = error
                else:
                    self._pace.succeeded()
                    return answer
            in_a_row = max(n_failures, self._pace.in_a_row)
            if failure.retry_after_s > _LONGEST_OBEYED_S or in_a_row > most:
                raise self._gave_up(failure, in_a_row)
            await self._pace.failed(failure)
        raise AssertionError("the count never ends")

    async def ask_once(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON.

        Raises:
            PassingError: if asking again may help.
            EvaluationError: if the server refuses the question.
        """
        import aiohttp

        url = f"{self._endpoint.url}/{path}"
        try:
            async with self._session.request(
                method, url, json=body, allow_redirects=False
            ) as response:
                content = await self._bounded(response)
        except TimeoutError as error:
            timeout = f"gave no answer within {self._endpoint.timeout_s:g} s"
            raise PassingError(timeout) from error
        except (aiohttp.ClientError, OSError) as error:
            reason = self._endpoint.shown(_reason(error))
            raise PassingError(f"cannot be reached ({reason})") from error
        if response.status == 200:
            return self._json(content)
        said = f"answered {response.status} to {path}: {self._said(content, response.reason)}"
        if response.status in _PASSING or response.status >= 500:
            raise PassingError(said, _seconds(response.headers.get("Retry-After")))
        raise EvaluationError(
            f"the server {self._endpoint.url} {said}",
            why=_REASONS.get(response.status, ""),
            fix=_FIXES.get(response.status, "")
            or "What was drawn before is kept. Correct what the server names, and run the same "
            "command again",
        )

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, which may arrive compressed: 1 MB of it can hold 1 GB."""
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

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            begin = self._endpoint.shown(content[:_SHOWN].decode(errors="replace"))
            raise PassingError(f"sent an answer that is not JSON: {begin!r}") from error

    def _said(self, content: bytes, reason: str | None) -> str:
        """The message in an error's body; vLLM, SGLang and FastAPI put it in different places."""
        text = content[: 64 * _SHOWN].decode(errors="replace")
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(text)
            for key in ("error", "detail", "message"):
                if isinstance(body, dict) and body.get(key):
                    body = body[key]
            text = body if isinstance(body, str) else json.dumps(body)
        return self._endpoint.shown(text) or reason or "nothing"

    def _gave_up(self, failure: PassingError, n_failures: int) -> EvaluationError:
        asked = failure.retry_after_s
        return EvaluationError(
            f"the server {self._endpoint.url} {failure.what}",
            why=f"it asks to be left alone for {asked:.0f} s"
            if asked > _LONGEST_OBEYED_S
            else f"it failed {n_failures} times in a row, with growing pauses",
            fix="The samples drawn so far are kept. When the server is well again, run the same "
            "command again: it draws only what is missing",
        )


_REASONS = {
    401: "the key is missing or wrong",
    403: "the key is not allowed to do this",
    404: "the server does not know this path or model",
}

_FIXES = {
    401: "Put the server's key into the environment variable named by --engine-option "
    "key_variable=... (default OPENAI_API_KEY)",
    404: "Check --engine-option url=... and the model's name at /v1/models",
}


class Pace:
    """How many questions may be under way, and when.

    Args:
        most: of them at once.
        sleep: waits out a pause.
        on_notice: told of each pause.
    """

    def __init__(self, most: int, sleep: Sleep, on_notice: Callable[[str], None]) -> None:
        self._most = self._limit = most
        self._sleep, self._on_notice = sleep, on_notice
        self._n_running = 0
        self._is_paused = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._n_pauses = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one more may go out; it is under way inside."""
        while self._is_paused or self._n_running >= self._limit:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        self._n_running += 1
        try:
            yield
        finally:
            self._n_running -= 1
            self._wake()

    @property
    def in_a_row(self) -> int:
        """Failures since the last answer, one that has just come included.

        Those of questions that were under way when a pause began count as the one that began it.
        """
        return self._n_pauses + (not self._is_paused)

    def succeeded(self) -> None:
        """Let one more go out at a time."""
        self._n_pauses = 0
        self._limit = min(self._most, self._limit + 1)

    async def failed(self, failure: PassingError) -> None:
        """Hold all back for a while; failures of those that were under way then add no pause."""
        if self._is_paused:
            return
        self._n_pauses += 1
        self._limit = max(1, self._limit // 2)
        wait_s = max(failure.retry_after_s, _backoff_s(self._n_pauses))
        self._on_notice(f"the server {failure.what}; asking again in {wait_s:.1f} s")
        self._is_paused = True
        try:
            await self._sleep(wait_s)
        finally:
            self._is_paused = False
            self._wake()

    def _wake(self) -> None:
        n_free = 0 if self._is_paused else self._limit - self._n_running
        while n_free > 0 and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                n_free -= 1


def _backoff_s(n_failures: int) -> float:
    """Doubling, with jitter: several clients of one server must not come back together."""
    longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (n_failures - 1))
    return longest * random.uniform(0.5, 1.0)


def _reason(error: Exception) -> str:
    """Why a connection failed, in the system's words where it is the system that says so."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return str(error) or type(error).__name__


def _seconds(retry_after: str | None) -> float:
    """Seconds that a Retry-After header asks for; 0 if there is none that can be read."""
    if retry_after is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0


@dataclass(frozen=True)
class _End(Generic[T]):
    """The coroutine is over."""

    error: BaseException | None


def stream(work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """What a coroutine hands on, one by one, while it runs in a thread and loop of its own.

    The caller may have an event loop itself (a notebook, a Ray actor). Closing the iterator
    cancels the coroutine and waits for its end.

    Args:
        work: is given the function to hand things on with.
    """
    found: queue.SimpleQueue[T | _End[T]] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(found.put))

    def run() -> None:
        error: BaseException | None = None
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as raised:
            error = raised
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            found.put(_End(error))

    thread = threading.Thread(target=run, name="rlready-server", daemon=True)
    thread.start()
    try:
        while not isinstance(item := found.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it is over
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
