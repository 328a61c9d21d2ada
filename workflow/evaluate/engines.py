"""The engine that draws the samples of an evaluation, and the weights on this machine.

An engine that uses the whole device, such as vLLM, is closed before the weights are loaded with
torch, which the held-out loss needs.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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
from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.loss_files import (
    read_token_nlls,
    token_nll_path,
    write_token_nlls,
)
from rlready.evaluators.memory import give_back_memory
from rlready.evaluators.sampling.hf import HfOptions, HfSampler
from rlready.evaluators.sampling.ray import RaySampler
from rlready.evaluators.sampling.sampler import Sampler
from rlready.evaluators.sampling.server import ServerSampler
from rlready.evaluators.sampling.server_options import ServerOptions
from rlready.evaluators.sampling.vllm import VllmOptions, VllmSampler
from rlready.registry.errors import ConfigError
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engine_options import parse_options, ray_options
from rlready.workflow.progress import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from rlready.evaluators.heldout.tokens import TokenizedSet


class LocalModel:
    """A checkpoint's weights on this machine, loaded on first use.

    Args:
        path: folder of the checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        clock: shows that the weights are loaded, and the progress of the losses.
        dtype: number format of the computation, one of `checkpoints.folder.DTYPES`.
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
        """The model's number format, without loading the weights."""
        return pick_precision(self._device, self._dtype)

    def release(self) -> None:
        """Free the memory of the weights; the next use loads them again."""
        self._model = None
        gc.collect()  # the modules of a model form reference cycles
        give_back_memory()

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration, without loading the weights."""
        return load_config(self.path) if self._model is None else self._model.config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, without loading the weights."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.path)
        return self._tokenizer

    def scored_tokens(
        self, folder: Path, tokens: TokenizedSet, warn: Callable[[str], None]
    ) -> list[NDArray[np.float32]]:
        """Return the losses of a held-out set's scored tokens, nats; computed only once.

        Args:
            folder: folder of the checkpoint's samples and losses.
            tokens: the held-out set.
            warn: called with a note on a damaged file.
        """
        path = token_nll_path(folder, tokens.examples, self.precision.digest)
        lengths = [int(example.is_response.sum()) for example in tokens.examples]
        losses = read_token_nlls(path, lengths, warn)
        if losses is None:
            model = self.model
            label = f"Loss of {self.path.name} on {tokens.name}"
            with self.clock.stage("loss", label, len(lengths), "examples") as advance:
                losses = token_losses(model, tokens.examples, on_progress=advance.to)
                advance(0, sum(lengths))
            write_token_nlls(path, losses)
        return losses


def open_sampler(
    config: EvaluateConfig,
    local: LocalModel,
    longest: Callable[[], int] | None = None,
    log: Path | None = None,
) -> Sampler:
    """Start the engine that the configuration names.

    Args:
        config: what the user asked for.
        local: the checkpoint's weights.
        longest: returns the largest number of tokens of a prompt with its sample.
        log: file for what the engine prints.

    Raises:
        ConfigError: if a package that the engine needs is not installed.
        CheckpointError: if the engine cannot run this checkpoint.
    """
    if config.engine == "vllm":
        return _open_vllm(config, local, longest, log)
    if config.engine == "server":
        return _open_server(config, local)
    if config.engine == "ray":
        options, inner = ray_options(config.engine_options)
        inside = dataclasses.replace(config, engine=options.engine, engine_options=inner)
        open_inside = functools.partial(_open_inside, inside, local.path)
        return RaySampler(local.path, open_inside, options, local.clock.warn)
    return HfSampler(local.model, local.tokenizer, config.batch_size)


def _open_vllm(
    config: EvaluateConfig,
    local: LocalModel,
    longest: Callable[[], int] | None,
    log: Path | None,
) -> Sampler:
    if config.device.startswith("cuda:"):
        raise ConfigError(
            f"--device {config.device} with --engine vllm",
            why="vLLM uses the first visible GPUs",
            fix=f"Set CUDA_VISIBLE_DEVICES={config.device.removeprefix('cuda:')} and leave "
            "--device out",
        )
    options = parse_options(VllmOptions, config.engine_options, "vllm")
    if options.max_num_seqs is None:
        options = dataclasses.replace(options, max_num_seqs=config.batch_size)
    # In a Ray worker the path may name other files than in the process that checked them.
    check_weights(local.path)
    return VllmSampler(local.path, local.tokenizer, options, longest, log)


def _open_server(config: EvaluateConfig, local: LocalModel) -> Sampler:
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


def _open_inside(config: EvaluateConfig, path: Path) -> Sampler:
    """Start the engine inside a Ray worker, which shows no progress."""
    return open_sampler(config, LocalModel(path, config.device, Clock(), loss_dtype(config)))


def loss_dtype(config: EvaluateConfig) -> str:
    """Return the number format for torch: the hf engine's `dtype`, or `auto` for other engines."""
    engine, options = config.engine, config.engine_options
    if engine == "ray":
        outer, options = ray_options(options)
        engine = outer.engine
    return parse_options(HfOptions, options, "hf").dtype if engine in ("hf", "auto") else "auto"
