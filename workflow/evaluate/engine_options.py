"""Options of the engines, from `KEY=VALUE` texts on the command line."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from rlready.evaluators.sampling import server_options, vllm
from rlready.evaluators.sampling.hf import HfOptions
from rlready.evaluators.sampling.ray_cluster import RayOptions, import_ray
from rlready.registry.errors import ConfigError

KNOWN_ENGINES = ("hf", "vllm", "server", "ray")

_IN_RAY = ("hf", "vllm")
"""Engines that Ray's workers draw with."""

_INNER = "inner."
"""Prefix of options of the engine inside the `ray` engine."""

T = TypeVar("T")

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def ray_options(texts: Sequence[str]) -> tuple[RayOptions, tuple[str, ...]]:
    """Return the options of the `ray` engine, and those of the engine inside it.

    Raises:
        ConfigError: if one of them is invalid.
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
        n_gpus = parse_options(vllm.VllmOptions, inner, "vllm").tensor_parallel_size
        if n_gpus > 1:
            options = dataclasses.replace(options, gpus_per_worker=float(n_gpus))
    return options, inner


def check_engine(engine: str, options: Sequence[str]) -> None:
    """Check that an engine exists, is installed and takes these options.

    Raises:
        ConfigError: with the known engines or options, or with what to install.
    """
    if engine not in ("auto", *KNOWN_ENGINES):
        raise ConfigError(
            f"there is no engine {engine!r}",
            fix=f"Known engines: auto, {', '.join(KNOWN_ENGINES)}",
        )
    if engine == "vllm":
        parse_options(vllm.VllmOptions, options, engine)
        vllm.check_installed()
    elif engine == "server":
        parse_options(server_options.ServerOptions, options, engine)
        server_options.check_installed()
    elif engine == "ray":
        ray_options(options)
        import_ray()
    else:
        parse_options(HfOptions, options, "hf")


def parse_options(kind: type[T], texts: Sequence[str], engine: str) -> T:
    """Return the options of an engine that `KEY=VALUE` texts name.

    Args:
        kind: dataclass of the options. Its fields are int, float, bool or str, or one of them or
            None; a field without a default is required.
        texts: as on the command line.
        engine: for messages.

    Raises:
        ConfigError: for an unknown, missing or repeated key, or a value of another type.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known = ", ".join(fields)
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in fields:
            raise ConfigError(
                # Not the text: it might hold a password.
                f"--engine-option {key if equals else '...'}: the engine {engine} has no such "
                "option",
                fix=f"Write KEY=VALUE with one of: {known}",
            )
        if key in values:
            raise ConfigError(f"--engine-option {key} is given twice", fix="Give it once")
        values[key] = _parsed(f"--engine-option {text}", value, hints[key])
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"the engine {engine} needs {', '.join(missing)}",
            fix=" ".join(f"--engine-option {name}=..." for name in missing),
        )
    return kind(**values)


def _parsed(what: str, text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (each for each in kinds if each is not types.NoneType)
    if kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        raise ConfigError(f"{what}: {text!r} is neither true nor false")
    try:
        return kind(text)
    except ValueError as error:
        wanted = "whole number" if kind is int else "number"
        raise ConfigError(f"{what}: {text!r} is not a {wanted}") from error
