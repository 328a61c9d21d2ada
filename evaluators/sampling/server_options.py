"""Options of the `server` engine, its key, and which of the served models is the checkpoint."""

from __future__ import annotations

import math
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rlready.evaluators.sampling.engine_options import check_options, check_packages
from rlready.evaluators.sampling.server_client import Endpoint, PassingError, stream
from rlready.registry.errors import ConfigError, EvaluationError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

MAX_N_PER_REQUEST = 64

_URL_FIX = "Give http://host:port or https://host/path"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of the `server` engine. The key is not one of them: it stays in the environment.

    Args:
        url: `http://host:port`, with or without `/v1`, without credentials.
        model: name of the checkpoint on the server; None finds the served model whose id or root
            ends in the name of the checkpoint's folder.
        concurrency: largest number of samples at a time; None is --batch-size, or else 256.
        timeout_s: seconds for one answer, including its time in the server's queue.
        max_retries: number of times that a request is sent again after a failure that may pass.
        n_per_request: samples of one request; more than 1 with vLLM only.
        key_variable: name of the environment variable that holds the key.
        logprobs: whether to request log-probabilities.
        plain: send the prompt as text, and only fields of OpenAI's own API, for a server that
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
        if self.key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ConfigError(
                "--engine-option key_variable is not the name of an environment variable",
                why="the key itself belongs in the environment: options are logged and shown",
                fix=f"export {DEFAULT_KEY_VARIABLE}=..., or give the name of another variable",
            )
        check_options(self, concurrency=1, max_retries=0, n_per_request=1)
        if self.n_per_request > MAX_N_PER_REQUEST:
            raise ConfigError(
                f"--engine-option n_per_request is {self.n_per_request}",
                fix=f"Give {MAX_N_PER_REQUEST} or less",
            )
        if not 0.0 < self.timeout_s < math.inf:
            raise ConfigError(
                f"--engine-option timeout_s is {self.timeout_s}", fix="Give seconds above 0"
            )


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as the server describes it; None where it gives no value.

    Args:
        id: name of the model in requests.
        root: path or hub id of the weights.
        owner: name of the serving software.
        context: largest number of tokens of a prompt with its sample.
        version: version of the software.
    """

    id: str
    root: str | None
    owner: str | None
    context: int | None
    version: str | None = None


def check_installed() -> None:
    """Check that the packages of the client are installed; torch is not one of them.

    Raises:
        ConfigError: saying what to install.
    """
    check_packages("server", "aiohttp", "transformers", fix="pip install 'rlready[server]'")


def _checked_url(url: str) -> str:
    """Return the URL without a trailing `/v1`; credentials in it are refused and not repeated."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        what = "--engine-option url is not a URL"
        raise ConfigError(what, why=str(error), fix=_URL_FIX) from error
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


def server_key(variable: str) -> str | None:
    """Return the key in an environment variable; None if the default one is not set.

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


def find_served(endpoint: Endpoint, options: ServerOptions, names: Sequence[str]) -> ServedModel:
    """Return the served model that the user names, or that has one of the checkpoint's names.

    Raises:
        ConfigError: if there is none, or the server cannot draw `n_per_request` samples at once.
        EvaluationError: if the server does not answer.
    """
    answers: Iterator[list[ServedModel]] = stream(lambda put: _list_models(endpoint, put))
    (models,) = answers
    if options.model is not None:
        candidates = [model for model in models if model.id == options.model]
    else:
        candidates = [m for m in models if any(_is_named(m, name) for name in names if name)]
    if len(candidates) != 1:
        listed = ", ".join(repr(model.id) for model in models[:10]) or "no model"
        if options.model is not None:
            raise ConfigError(
                f"the server {options.url} does not serve the model {options.model!r}",
                why=f"it serves {listed}",
                fix="Serve the checkpoint, or correct --engine-option model=...",
            )
        raise ConfigError(
            f"it is unclear which model of the server {options.url} is {names[0]}",
            why=f"it serves {listed}, and another model would be measured under this name",
            fix="If one of them has the weights of this checkpoint, name it: --engine-option "
            f"model={models[0].id if models else 'NAME'}",
        )
    (served,) = candidates
    if options.n_per_request > 1 and served.owner != "vllm":
        raise ConfigError(
            f"--engine-option n_per_request={options.n_per_request} with a server that calls "
            f"itself {served.owner}",
            why="only vLLM is known to give each sample of a request a seed of its own",
            fix="Leave n_per_request out; raise concurrency to load the server more",
        )
    return served


def _is_named(model: ServedModel, name: str) -> bool:
    """Return whether a served model's id or root ends as the checkpoint's name does."""
    tail = PurePosixPath(name).parts
    if not tail:
        return False
    # Every run has a `checkpoint-500`, so the name of the run has to match too.
    n = 2 if tail[-1].startswith("checkpoint") else 1
    claims = [PurePosixPath(claim).parts for claim in (model.id, model.root) if claim]
    return any(len(claim) >= n and claim[-n:] == tail[-n:] for claim in claims)


async def _list_models(endpoint: Endpoint, put: Callable[[list[ServedModel]], None]) -> None:
    """Put the models of `/v1/models`, with the version of `/version` where there is one."""
    async with endpoint.connect(lambda _: None) as connection:
        try:
            answer = await connection.ask_once("v1/models")
        except PassingError as error:
            raise EvaluationError(
                f"the server {endpoint.url} {error.what}",
                fix="Start it, wait until it is ready, or correct --engine-option url=...",
            ) from error
        try:
            version = str((await connection.ask_once("version"))["version"])
        except (PassingError, EvaluationError, KeyError, TypeError):
            version = None
    try:
        models = []
        for card in answer["data"]:
            root, owner, context = (card.get(k) for k in ("root", "owned_by", "max_model_len"))
            models.append(
                ServedModel(
                    id=str(card["id"]),
                    root=None if root is None else str(root),
                    owner=None if owner is None else str(owner),
                    context=None if context is None else int(context),
                    version=version,
                )
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"the server {endpoint.url} sent something that is not a list of models: "
            f"{endpoint.shown(str(answer))}",
            fix="Name an OpenAI-compatible server: --engine-option url=http://host:port",
        ) from error
    put(models)
