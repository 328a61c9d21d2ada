"""The engine that draws the samples of an evaluation, and the weights on this machine.

An engine that uses the whole device, such as vLLM, is closed before the weights are loaded with
torch, which the held-out loss needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.evaluators.checkpoints import adapted_model
from rlready.evaluators.checkpoints.adapted_model import AdaptableModel
from rlready.evaluators.checkpoints.adapter import Adapter
from rlready.evaluators.checkpoints.folder import (
    Precision,
    Weights,
    check_weights,
    load_config,
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
from rlready.evaluators.sampling.hf import HfOptions, HfSampler
from rlready.evaluators.sampling.ray import RaySampler
from rlready.evaluators.sampling.sampler import Sampler
from rlready.evaluators.sampling.server import ServerSampler
from rlready.evaluators.sampling.server_options import ServerOptions
from rlready.evaluators.sampling.vllm import VllmSampler
from rlready.evaluators.sampling.vllm_start import VllmOptions
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.engine_options import parse_options, ray_options
from rlready.workflow.progress import Clock

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from rlready.evaluators.heldout.tokens import TokenizedSet


class Shared:
    """What the evaluations of one call share: one model in memory, and one engine for adapters.

    Args:
        adapters: adapters of one base model that are drawn with one vLLM engine; it is opened when
            the first of them, or their base model, is drawn, and stays open until `close`.
    """

    def __init__(self, adapters: Sequence[Adapter] = ()) -> None:
        self._adapters = tuple(adapters)
        self._model: AdaptableModel | None = None
        self._engine: VllmSampler | None = None

    @property
    def has_engine(self) -> bool:
        """Whether the engine is shared, so that it holds the device until `close`."""
        return bool(self._adapters)

    def model(self, path: Path, device: str, dtype: torch.dtype) -> AdaptableModel:
        """Return the model in a folder, which replaces another one in memory."""
        model = self._model
        if model is None or (model.path, model.device, model.dtype) != (path, device, dtype):
            self.release()
            model = self._model = AdaptableModel(path, device, dtype)
        return model

    def release(self) -> None:
        """Free the memory of the model; the next use loads it again."""
        if self._model is not None:
            self._model.release()
            self._model = None

    def sampler(
        self, config: EvaluateConfig, local: LocalModel, longest: Callable[[], int], log: Path
    ) -> Sampler | None:
        """Return the shared engine, set to a checkpoint; None if it is not shared."""
        if not self.has_engine:
            return None
        if self._engine is None:
            local.release()
            self._engine = _open_vllm(config, local, self._adapters, longest, log)
        self._engine.use(local.weights.adapter, local.tokenizer)
        return self._engine

    def put_back(self, sampler: Sampler) -> None:
        """Close an engine that is not shared."""
        if sampler is not self._engine:
            sampler.close()

    def close(self) -> None:
        """Close the engine and free the memory of the model."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self._adapters = ()
        self.release()


class LocalModel:
    """A checkpoint's weights on this machine, loaded on first use.

    Args:
        weights: the checked weights: a whole model, or an adapter on its base model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        clock: shows that the weights are loaded, and the progress of the losses.
        dtype: number format of the computation, one of `checkpoints.folder.DTYPES`.
        merge: whether an adapter is merged into the weights.
        shared: keeps the model in memory; a model of another folder replaces it there.
    """

    def __init__(
        self,
        weights: Weights,
        device: str,
        clock: Clock,
        dtype: str = "auto",
        *,
        merge: bool = False,
        shared: Shared | None = None,
    ) -> None:
        self.weights, self.clock = weights, clock
        self._device, self._dtype, self._merge = device, dtype, merge
        self._shared = shared or Shared()
        self._is_said = False
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def path(self) -> Path:
        """Folder of the whole model, which is the base model of an adapter."""
        return self.weights.path

    @property
    def model(self) -> PreTrainedModel:
        """The torch model, in evaluation mode on its device."""
        device = pick_device(self._device)
        if not self._is_said:
            adapter = "" if self.weights.adapter is None else f", an adapter of {self.path},"
            self.clock.say(f"Loading {self.weights.folder}{adapter} on {device}")
            self._is_said = True
        model = self._shared.model(self.path, device, pick_dtype(device, self._dtype))
        if self.weights.adapter is None:
            return model.base()
        return model.with_adapter(self.weights.adapter, self.tokenizer, self._merge)

    @property
    def precision(self) -> Precision:
        """The model's number format, without loading the weights."""
        is_unmerged = self.weights.adapter is not None and not self._merge
        precision = pick_precision(self._device, self._dtype)
        return dataclasses.replace(precision, is_unmerged=is_unmerged)

    def release(self) -> None:
        """Free the memory of the weights; the next use loads them again."""
        self._shared.release()
        self._is_said = False

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration, without loading the weights."""
        return load_config(self.path)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, without loading the weights."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.weights.tokenizer_folder)
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
            label = f"Loss of {self.weights.folder.name} on {tokens.name}"
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
    if config.engine not in ("hf", "auto"):
        local.release()  # another engine asks for most of the device's memory
    if config.engine == "vllm":
        adapter = local.weights.adapter
        adapters = [] if adapter is None else [adapter]
        sampler = _open_vllm(config, local, adapters, longest, log)
        if adapter is not None:
            try:
                sampler.use(adapter, local.tokenizer)
            except CheckpointError:
                sampler.close()
                raise
        return sampler
    if config.engine == "server":
        return _open_server(config, local)
    if config.engine == "ray":
        options, inner = ray_options(config.engine_options)
        inside = dataclasses.replace(config, engine=options.engine, engine_options=inner)
        open_inside = functools.partial(_open_inside, inside, local.weights)
        return RaySampler(local.path, open_inside, options, local.clock.warn)
    return HfSampler(local.model, local.tokenizer, config.batch_size)


def _open_vllm(
    config: EvaluateConfig,
    local: LocalModel,
    adapters: Sequence[Adapter],
    longest: Callable[[], int] | None,
    log: Path | None,
) -> VllmSampler:
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
    check_weights(local.path, local.weights.tokenizer_folder)
    return VllmSampler(
        local.path, local.tokenizer, options, longest=longest, log=log, adapters=adapters
    )


def _open_server(config: EvaluateConfig, local: LocalModel) -> Sampler:
    options = parse_options(ServerOptions, config.engine_options, "server")
    if options.concurrency is None:
        options = dataclasses.replace(options, concurrency=config.batch_size)
    return ServerSampler(
        options,
        local.weights.folder,
        local.tokenizer,
        model_folder=local.path,
        hub_id=config.checkpoint.partition("@")[0],
        on_notice=local.clock.warn,
    )


def _open_inside(config: EvaluateConfig, weights: Weights) -> Sampler:
    """Start the engine inside a Ray worker, which shows no progress."""
    dtype = loss_dtype(config)
    return open_sampler(
        config, LocalModel(weights, config.device, Clock(), dtype, merge=config.merge)
    )


def loss_dtype(config: EvaluateConfig) -> str:
    """Return the number format for torch: the hf engine's `dtype`, or `auto` for other engines."""
    engine, options = config.engine, config.engine_options
    if engine == "ray":
        outer, options = ray_options(options)
        engine = outer.engine
    return parse_options(HfOptions, options, "hf").dtype if engine in ("hf", "auto") else "auto"


def check_adapter_engine(config: EvaluateConfig, adapter: Adapter) -> None:
    """Check that the engine can apply an adapter in the way that the configuration asks for.

    Raises:
        ConfigError: if peft is needed and missing, or the engine does not merge adapters.
        CheckpointError: if the engine cannot apply an adapter of this kind.
    """
    engine = config.engine
    if engine == "ray":
        engine = ray_options(config.engine_options)[0].engine
    if engine in ("auto", "hf") or config.held_out:
        adapted_model.check_installed()
    if engine in ("auto", "hf"):
        return
    if config.merge:
        raise ConfigError(
            f"--merge with the engine {engine}",
            why="vLLM and servers apply adapters beside the base model's weights",
            fix="Leave --merge out, use --engine hf, or merge the adapter and evaluate the folder",
        )
    if not adapter.is_plain:
        raise CheckpointError(
            f"the engine {engine} cannot apply {adapter.path}",
            why="it uses DoRA or modules_to_save, which vLLM does not support",
            fix="Use --engine hf; or merge it, and evaluate the whole model",
        )
