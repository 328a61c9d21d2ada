"""Which of the models that a server serves is the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rlready.evaluators.sampling.server_client import Endpoint, PassingError, stream
from rlready.evaluators.sampling.server_options import ServerOptions
from rlready.registry.errors import ConfigError, EvaluationError


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a server says of the model that it serves.

    Args:
        id: the name to ask for it by.
        root: where the server says that it has the weights from.
        owner: which software says it is serving.
        context: tokens of a prompt with its sample at most; None if it does not say.
        version: of the software; None if it does not say.
    """

    id: str
    root: str | None
    owner: str | None
    context: int | None
    version: str | None = None


def find_served(endpoint: Endpoint, options: ServerOptions, names: Sequence[str]) -> ServedModel:
    """The served model that is the checkpoint by its name, or that the user names.

    Raises:
        ConfigError: if there is none, or the server cannot draw `n_per_request` samples at once.
        EvaluationError: if the server does not answer.
    """
    answers: Iterator[list[ServedModel]] = stream(lambda put: _list_models(endpoint, put))
    (models,) = answers
    served = _choose(models, options, names)
    if options.n_per_request > 1 and served.owner != "vllm":
        raise ConfigError(
            f"--engine-option n_per_request={options.n_per_request} with a server that calls "
            f"itself {served.owner}",
            why="only vLLM is known to give each sample of a request a seed of its own",
            fix="Leave n_per_request out; raise concurrency to load the server more",
        )
    return served


def _choose(
    models: Sequence[ServedModel], options: ServerOptions, names: Sequence[str]
) -> ServedModel:
    if options.model is not None:
        fitting = [model for model in models if model.id == options.model]
    else:
        fitting = [m for m in models if any(_is_named(m, name) for name in names if name)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(repr(model.id) for model in models[:10]) or "no model"
    if options.model is not None:
        raise ConfigError(
            f"the server {options.url} serves no model {options.model!r}",
            why=f"it serves {listed}",
            fix="Serve the checkpoint, or correct --engine-option model=...",
        )
    raise ConfigError(
        f"the server {options.url} serves {listed}; which of them is {names[0]} cannot be told",
        why="it would be measured under this checkpoint's name",
        fix=f"If one of them has these very weights, name it: --engine-option "
        f"model={models[0].id if models else 'NAME'}",
    )


def _is_named(model: ServedModel, name: str) -> bool:
    """Whether a served model's id or root ends as the checkpoint's name does."""
    tail = PurePosixPath(name).parts
    if not tail:
        return False
    # Every run has a `checkpoint-500`: the run's name has to fit as well.
    n = 2 if tail[-1].startswith("checkpoint") else 1
    claims = [PurePosixPath(claim).parts for claim in (model.id, model.root) if claim]
    return any(len(claim) >= n and claim[-n:] == tail[-n:] for claim in claims)


async def _list_models(endpoint: Endpoint, put: Callable[[list[ServedModel]], None]) -> None:
    """Put what `/v1/models` and, where there is one, `/version` say."""
    async with endpoint.connect(lambda _: None) as connection:
        try:
            answer = await connection.ask_once("GET", "v1/models")
        except PassingError as error:
            raise EvaluationError(
                f"the server {endpoint.url} {error.what}",
                fix="Start it, wait until it is ready, or correct --engine-option url=...",
            ) from error
        try:
            version = str((await connection.ask_once("GET", "version"))["version"])
        except (PassingError, EvaluationError, KeyError, TypeError):
            version = None
        try:
            put([_served_model(card, version) for card in answer["data"]])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"the server {endpoint.url} sent something that is not a list of models: "
                f"{endpoint.shown(str(answer))}",
                fix="Name an OpenAI-compatible server: --engine-option url=http://host:port",
            ) from error


def _served_model(card: dict[str, Any], version: str | None) -> ServedModel:
    root, owner, context = card.get("root"), card.get("owned_by"), card.get("max_model_len")
    return ServedModel(
        id=str(card["id"]),
        root=None if root is None else str(root),
        owner=None if owner is None else str(owner),
        context=None if context is None else int(context),
        version=version,
    )
