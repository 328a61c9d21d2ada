"""Which engine draws the samples of an evaluation, and the weights beside it.

An engine that keeps the device to itself (vLLM) is closed before the weights are loaded for what
only a torch model can tell, such as the held-out loss.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlready.evaluators.checkpoints.folder import (
    Precision,
    check_weights,
    load_config,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    pick_precision,
)
from rlready.evaluators.memory import give_back_memory
from rlready.evaluators.sampling.hf import HfOptions, HfSampler
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from rlready.evaluators.sampling.ray_cluster import RayOptions
    from rlready.evaluators.sampling.sampler import Sampler
    from rlready.workflow.evaluate.config import EvaluateConfig
    from rlready.workflow.progress import Clock

KNOWN_ENGINES = ("hf", "vllm", "server", "ray")

_HF = ("hf", "auto")
"""Names of the hf engine."""

_IN_RAY = ("hf", "vllm")
"""Engines that Ray's workers draw with."""

_INNER = "inner."
"""What options of the engine inside the `ray` engine begin with."""

T = TypeVar("T")

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class LocalModel:
    """The checkpoint's weights on this machine, loaded when they are first needed.

    Args:
        path: folder of the checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        clock: told when the weights are loaded.
        dtype: number format to compute in, one of `checkpoints.DTYPES`.
    """

    def __init__(self, path: Path, device: str, clock: Clock, dtype: str = "auto") -> None:
        self.path, self.clock = path, clock
        self._device, self._dtype = device, dtype
        self._model: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The torch model, in evaluation mode on its device."""
        if self._model is None:
            device = pick_device(self._device)
            self.clock.say(f"Loading {self.path} on {device}")
            self._model = load_model(self.path, device, pick_dtype(device, self._dtype))
        return self._model

    @property
    def precision(self) -> Precision:
        """What the model computes in; loads no weights."""
        return pick_precision(self._device, self._dtype)

    def release(self) -> None:
        """Give the weights' memory back; they are loaded again when they are needed again."""
        self._model = None
        gc.collect()  # a model's modules know each other
        give_back_memory()

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration; loads no weights."""
        return load_config(self.path) if self._model is None else self._model.config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer; loads no weights."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.path)
        return self._tokenizer


def open_sampler(config: EvaluateConfig, local: LocalModel) -> Sampler:
    """The engine that the configuration names, ready to draw.

    Raises:
        ConfigError: if a package that it needs is not installed.
        CheckpointError: if it cannot run this checkpoint.
    """
    if config.engine == "vllm":
        return _open_vllm(config, local)
    if config.engine == "server":
        return _open_server(config, local)
    if config.engine == "ray":
        return _open_ray(config, local)
    return HfSampler(local.model, local.tokenizer, config.batch_size)


def _open_vllm(config: EvaluateConfig, local: LocalModel) -> Sampler:
    from rlready.evaluators.sampling.vllm import VllmOptions, VllmSampler

    if config.device.startswith("cuda:"):
        raise ConfigError(
            f"--device {config.device} with --engine vllm",
            why="vLLM takes the first GPUs that it sees",
            fix=f"Set CUDA_VISIBLE_DEVICES={config.device.removeprefix('cuda:')} and leave "
            "--device out",
        )
    options = parse_options(VllmOptions, config.engine_options, "vllm")
    if options.max_num_seqs is None:
        options = dataclasses.replace(options, max_num_seqs=config.batch_size)
    # A worker of Ray may see other files there than the process that made the plan.
    check_weights(local.path)
    return VllmSampler(local.path, local.tokenizer, options)


def _open_server(config: EvaluateConfig, local: LocalModel) -> Sampler:
    from rlready.evaluators.sampling.server import ServerSampler
    from rlready.evaluators.sampling.server_options import ServerOptions

    options = parse_options(ServerOptions, config.engine_options, "server")
    if options.concurrency is None:
        options = dataclasses.replace(options, concurrency=config.batch_size)
    return ServerSampler(
        options,
        local.path,
        local.tokenizer,
        hub_id=config.checkpoint.partition("@")[0],
        on_notice=local.clock.warn,
    )


def _open_ray(config: EvaluateConfig, local: LocalModel) -> Sampler:
    from rlready.evaluators.sampling.ray import RaySampler

    options, inner = ray_options(config.engine_options)
    inside = dataclasses.replace(config, engine=options.engine, engine_options=inner)
    return RaySampler(
        local.path, functools.partial(_open_inside, inside, local.path), options, local.clock.warn
    )


def _open_inside(config: EvaluateConfig, path: Path) -> Sampler:
    """The engine of one of Ray's workers, where nobody watches a clock."""
    from rlready.workflow.progress import Clock

    return open_sampler(config, LocalModel(path, config.device, Clock(), loss_dtype(config)))


def loss_dtype(config: EvaluateConfig) -> str:
    """The number format of the torch model: that of the hf engine, else `auto`."""
    options = config.engine_options
    engine = config.engine
    if engine == "ray":
        outer, options = ray_options(options)
        engine = outer.engine
    return parse_options(HfOptions, options, "hf").dtype if engine in _HF else "auto"


def ray_options(given: Sequence[str]) -> tuple[RayOptions, tuple[str, ...]]:
    """Options of the `ray` engine, and those of the engine inside it.

    Raises:
        ConfigError: if one of them cannot be meant.
    """
    from rlready.evaluators.sampling.ray_cluster import RayOptions

    inner = tuple(text.removeprefix(_INNER) for text in given if text.startswith(_INNER))
    options = parse_options(RayOptions, [t for t in given if not t.startswith(_INNER)], "ray")
    if options.engine not in _IN_RAY:
        raise ConfigError(
            f"--engine-option engine={options.engine}: Ray's workers cannot draw with it",
            fix=f"Take one of {', '.join(_IN_RAY)}",
        )
    check_engine(options.engine, inner)
    if options.engine == "vllm" and options.gpus_per_worker is None:
        from rlready.evaluators.sampling.vllm import VllmOptions

        n_gpus = parse_options(VllmOptions, inner, "vllm").tensor_parallel_size
        if n_gpus > 1:
            options = dataclasses.replace(options, gpus_per_worker=float(n_gpus))
    return options, inner


def check_engine(engine: str, options: Sequence[str]) -> None:
    """Return if there is such an engine, it is installed, and it takes these options.

    Raises:
        ConfigError: naming the engines, or the options, that there are, or what to install.
    """
    if engine not in ("auto", *KNOWN_ENGINES):
        raise ConfigError(
            f"there is no engine {engine!r}",
            fix=f"Known engines: auto, {', '.join(KNOWN_ENGINES)}",
        )
    if engine == "vllm":
        from rlready.evaluators.sampling.vllm import VllmOptions, check_installed

        parse_options(VllmOptions, options, engine)
        check_installed()
    elif engine == "server":
        from rlready.evaluators.sampling.server_options import ServerOptions, check_installed

        parse_options(ServerOptions, options, engine)
        check_installed()
    elif engine == "ray":
        from rlready.evaluators.sampling.ray_cluster import import_ray

        ray_options(options)
        import_ray()
    else:
        parse_options(HfOptions, options, "hf")


def parse_options(kind: type[T], given: Sequence[str], engine: str) -> T:
    """The options of an engine out of `KEY=VALUE` texts.

    Args:
        kind: dataclass of the options, with a default for each field that may be left out; fields
            are int, float, bool or str, or one of them or None.
        given: as on the command line.
        engine: for messages.

    Raises:
        ConfigError: for an unknown key (naming the known), a value of another type, or a missing
            or repeated key.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known = ", ".join(fields)
    values: dict[str, Any] = {}
    for text in given:
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
    missing = [name for name, field in fields.items() if name not in values and _is_needed(field)]
    if missing:
        raise ConfigError(
            f"the engine {engine} needs {', '.join(missing)}",
            fix=" ".join(f"--engine-option {name}=..." for name in missing),
        )
    return kind(**values)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _parsed(what: str, text: str, hint: Any) -> Any:
    kinds = [
        kind
        for kind in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))
        if kind is not type(None)
    ]
    (kind,) = kinds
    if kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        raise ConfigError(f"{what}: {text!r} is neither true nor false")
    try:
        return kind(text)
    except ValueError as error:
        wanted = "whole number" if kind is int else "number"
        raise ConfigError(f"{what}: {text!r} is no {wanted}") from error
