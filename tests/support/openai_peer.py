"""A small HTTP server on loopback that speaks enough of OpenAI's API to misbehave in it.

What it says follows from the seed of the request, as with vLLM: the same request has the same
answer, also from another peer.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body; a status of 0 cuts the connection."""


@dataclass
class Peer:
    """How the server behaves, and what it met.

    Args:
        n_tokens: of the vocabulary that it draws from.
        end: token that ends a sample.
        models: what /v1/models lists.
        disturb: what to answer in place of a completion, from the number of the request (from 0)
            and its body; None answers it well.
        change: what to make of a good answer.
    """

    n_tokens: int = 200
    end: int = 264
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "sft", "owned_by": "vllm", "max_model_len": 4096}]
    )
    disturb: Callable[[int, dict[str, Any]], Answer | None] = lambda n, body: None
    change: Callable[[dict[str, Any], dict[str, Any]], Any] = lambda answer, body: answer
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def completion(self, body: dict[str, Any]) -> Answer:
        """The answer to one request, after what disturbs it."""
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
        disturbed = self.disturb(number, body)
        if disturbed is not None:
            return disturbed
        return ok(self.change(self._completion(body), body))

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        choices = [self._choice(body, index) for index in range(body.get("n", 1))]
        drawn = sum(len(choice["token_ids"]) for choice in choices)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": drawn}
        return {"model": body["model"], "choices": choices, "usage": usage}

    def _choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        rng = np.random.default_rng([body["seed"] + index, len(body["prompt"])])
        length = int(rng.integers(1, body["max_tokens"] + 1))
        ids = rng.integers(0, self.n_tokens, length).tolist()
        is_stopped = length < body["max_tokens"]
        if is_stopped:
            ids[-1] = self.end
        return {
            "index": index,
            "text": "".join(map(chr, ids)),
            "token_ids": ids,
            "finish_reason": "stop" if is_stopped else "length",
            "logprobs": {"token_logprobs": [-float(np.log(self.n_tokens))] * length},
        }


def ok(content: Any) -> Answer:
    """A good answer with this JSON."""
    return 200, {}, json.dumps(content).encode()


def refusal(status: int, message: str = "", **headers: str) -> Answer:
    """An error as vLLM words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message}}).encode()


@contextlib.contextmanager
def listening(peer: Peer, port: int = 0) -> Iterator[str]:
    """The peer's URL while it listens."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            with peer.lock:
                peer.headers.append(dict(self.headers))
            known = {
                "/v1/models": ok({"data": peer.models}),
                "/version": ok({"version": "0.0"}),
            }
            self._send(known.get(self.path, refusal(404, "no such path")))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with peer.lock:
                peer.at_once += 1
                peer.most_at_once = max(peer.most_at_once, peer.at_once)
            answer = peer.completion(body)
            with peer.lock:
                peer.at_once -= 1
            self._send(answer)

        def _send(self, answer: Answer) -> None:
            status, headers, content = answer
            if status == 0:
                self.close_connection = True
                return
            with contextlib.suppress(ConnectionError):  # the client has gone
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: pytest shows what a test prints."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512  # 5 by default: further clients would wait for seconds

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing where a client has gone: an abandoned draw cuts its connections."""
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
