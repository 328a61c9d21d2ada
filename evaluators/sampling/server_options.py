"""Options of the `server` engine, and the key that is none of them."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import urllib.parse
from dataclasses import dataclass

from rlready.registry.errors import ConfigError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

MAX_N_PER_REQUEST = 64

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of the `server` engine. The key is never one: it stays in the environment.

    Args:
        url: `http://host:port`, with or without `/v1`, without credentials.
        model: name under which the server knows the checkpoint; None finds the served model
            whose id or root ends in the checkpoint's folder name.
        concurrency: samples under way at most; None is --batch-size, else 256.
        timeout_s: seconds for one answer, with its time in the server's queue.
        max_retries: times that a request is sent again after a failure that may pass.
        n_per_request: samples a request; more than 1 with vLLM only.
        key_variable: name of the environment variable that holds the key.
        logprobs: whether to ask for log-probabilities.
        plain: send the prompt as text and only fields of OpenAI's own API, for a server that
            knows no others. Its own defaults (top-k, penalties) then apply.
    """

    url: str
    model: str | None = None
    concurrency: int | None = None
    timeout_s: float = 1800.0
    max_retries: int = 10
    n_per_request: int = 1
    key_variable: str = DEFAULT_KEY_VARIABLE
    logprobs: bool = True
    plain: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url))
        if self.key_variable and not _VARIABLE.fullmatch(self.key_variable):
            raise ConfigError(
                "--engine-option key_variable is not the name of an environment variable",
                why="the key itself belongs into the environment: options are logged and shown",
                fix=f"export {DEFAULT_KEY_VARIABLE}=..., or give the name of another variable",
            )
        for name, least in (("concurrency", 1), ("max_retries", 0), ("n_per_request", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--engine-option {name} is {value}", fix=f"Give {least} or more")
        if self.n_per_request > MAX_N_PER_REQUEST:
            raise ConfigError(
                f"--engine-option n_per_request is {self.n_per_request}",
                fix=f"Give {MAX_N_PER_REQUEST} or less",
            )
        if not 0.0 < self.timeout_s < math.inf:
            raise ConfigError(
                f"--engine-option timeout_s is {self.timeout_s}", fix="Give seconds above 0"
            )


def check_installed() -> None:
    """Return if the packages that a client needs are there; torch is none of them.

    Raises:
        ConfigError: saying what to install.
    """
    missing = [n for n in ("aiohttp", "transformers") if importlib.util.find_spec(n) is None]
    if missing:
        raise ConfigError(
            f"the engine server needs {' and '.join(missing)}, not installed",
            fix="pip install 'rlready[server]'",
        )


def _checked_url(url: str) -> str:
    """The URL without a trailing `/v1`.

    Raises:
        ConfigError: if it is none, or holds credentials; they are not repeated.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(
            "--engine-option url is not a URL", why=str(error), fix=_URL_FIX
        ) from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"--engine-option url for {host} holds credentials, a query or a fragment",
            why="the URL is logged and shown",
            fix="Leave them out, and put the key into the environment variable "
            f"{DEFAULT_KEY_VARIABLE} or the one that --engine-option key_variable=NAME names",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"--engine-option url is {url!r}", fix=_URL_FIX)
    shown_host = f"[{host}]" if ":" in host else host
    place = shown_host if port is None else f"{shown_host}:{port}"
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{place}{path}"


_URL_FIX = "Give http://host:port or https://host/path"


def server_key(variable: str) -> str | None:
    """The key in an environment variable; None if the default one is not set.

    Raises:
        ConfigError: if a variable that the user named is not set, or does not hold a key.
    """
    key = os.environ.get(variable, "").strip()
    if not key and variable not in ("", DEFAULT_KEY_VARIABLE):
        raise ConfigError(
            f"the environment variable {variable} is not set",
            why="--engine-option key_variable names it as the one with the server's key",
            fix=f"export {variable}=...",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"the environment variable {variable} does not hold a key",
            why="a key is one word of ASCII characters",
        )
    return key or None
