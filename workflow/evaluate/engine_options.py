"""Options of the engines, parsed from `KEY=VALUE` arguments of the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import pydantic

from rlready.evaluators.sampling import server_options, vllm_start
from rlready.evaluators.sampling.hf import HfOptions
from rlready.evaluators.sampling.ray_cluster import RayOptions, import_ray
from rlready.registry.errors import ConfigError

KNOWN_ENGINES = ("hf", "vllm", "server", "ray")

_IN_RAY = ("hf", "vllm")
"""Engines that can run inside a Ray worker."""

_INNER = "inner."
"""Prefix of the options of the engine inside the Ray workers."""

T = TypeVar("T")

_WRONG_TYPE = {
    "bool_parsing": "is neither true nor false",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
}
"""What is wrong with a value, by pydantic's type of the error."""


def ray_options(texts: Sequence[str]) -> tuple[RayOptions, tuple[str, ...]]:
    """Return the options of the `ray` engine, and those of the engine inside its workers.

    Raises:
        ConfigError: if an option is invalid.
    """
    inner = tuple(text.removeprefix(_INNER) for text in texts if text.startswith(_INNER))
    options = parse_options(RayOptions, [t for t in texts if not t.startswith(_INNER)], "ray")
    if options.engine not in _IN_RAY:
        raise ConfigError(
            f"--engine-option engine={options.engine}: Ray's workers cannot draw with it",
            fix=f"Take one of {', '.join(_IN_RAY)}",
        )
    check_engine(options.engine, inner)
    if options.engine == "vllm" and options.gpus_per_worker is None:
        n_gpus = parse_options(vllm_start.VllmOptions, inner, "vllm").tensor_parallel_size
        if n_gpus > 1:
            options = dataclasses.replace(options, gpus_per_worker=float(n_gpus))
    return options, inner


def check_engine(engine: str, options: Sequence[str]) -> None:
    """Check that an engine exists, is installed and has these options.

    Raises:
        ConfigError: if not; it names the known engines or options, or the missing package.
    """
    if engine not in ("auto", *KNOWN_ENGINES):
        raise ConfigError(
            f"there is no engine {engine!r}",
            fix=f"Known engines: auto, {', '.join(KNOWN_ENGINES)}",
        )
    if engine == "vllm":
        parse_options(vllm_start.VllmOptions, options, engine)
        vllm_start.check_installed()
    elif engine == "server":
        parse_options(server_options.ServerOptions, options, engine)
        server_options.check_installed()
    elif engine == "ray":
        ray_options(options)
        import_ray()
    else:
        parse_options(HfOptions, options, "hf")


def parse_options(kind: type[T], texts: Sequence[str], engine: str) -> T:
    """Return the options of an engine from `KEY=VALUE` texts.

    Args:
        kind: dataclass of the options. Each field is an int, float, bool or str, or may also be
            None. A field without a default is required.
        texts: the texts, as on the command line.
        engine: name of the engine, for messages.

    Raises:
        ConfigError: for an unknown, missing or repeated key, or a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in fields:
            raise ConfigError(
                # Do not show the text: it may contain a password.
                f"--engine-option {key if equals else '...'}: the engine {engine} has no such "
                "option",
                fix=f"Write KEY=VALUE with one of: {', '.join(fields)}",
            )
        if key in values:
            raise ConfigError(f"--engine-option {key} is given twice", fix="Give it once")
        values[key] = value
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise ConfigError(
                f"the engine {engine} needs {key}", fix=f"--engine-option {key}=..."
            ) from error
        wrong = _WRONG_TYPE.get(problem["type"], "is not a number")
        raise ConfigError(
            f"--engine-option {key}={values[key]}: {values[key]!r} {wrong}"
        ) from error
