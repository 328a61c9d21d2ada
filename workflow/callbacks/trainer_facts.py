"""Facts about a training run, from the arguments and the objects that callbacks are given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.folder import open_weights
from rlready.registry.digest import canonical_json, digest
from rlready.registry.errors import RlreadyError
from rlready.registry.records import Checkpoint, CheckpointKind, Proxy, Recipe
from rlready.workflow.callbacks.registration import Registration, info

_SFT_SETTINGS = (
    *("optim", "weight_decay", "warmup_steps", "max_grad_norm", "bf16", "fp16", "max_length"),
    *("packing", "completion_only_loss", "assistant_only_loss", "neftune_noise_alpha"),
)
_RL_SETTINGS = (
    *("num_generations", "temperature", "top_p", "max_completion_length", "beta", "epsilon"),
    *("epsilon_high", "loss_type", "scale_rewards", "num_iterations", "steps_per_generation"),
    *("learning_rate", "weight_decay", "max_grad_norm", "mask_truncated_completions"),
)
_LORA = {"r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}

EVAL_LOSS_VERSION = "1"
_OTHER_LOSSES = ("eval_aux_loss", "eval_policy_loss")
"""Parts of a loss, which are not losses on a set of examples."""
_DIGESTED_EXAMPLES = 2_000
_TEXT_COLUMNS = ("input_ids", "labels", "completion_mask", "assistant_masks", "prompt", "text")


def model_name(model: Any) -> str:
    """Return the folder or hub id that a model was loaded from; empty if it was made in memory."""
    name = getattr(model, "name_or_path", "") or getattr(
        getattr(model, "config", None), "_name_or_path", ""
    )
    return str(name or "")


def starting_checkpoint(
    registration: Registration, name: str, kind: CheckpointKind
) -> Checkpoint | None:
    """Return the record of the weights that a run starts from; they are registered if needed.

    Args:
        registration: the registry.
        name: folder or hub id.
        kind: kind of weights that are not registered yet.

    Returns:
        None if the weights are not on this machine or are not safetensors.
    """
    try:
        weights = open_weights(name)
    except RlreadyError as error:
        info("the start of this run is not registered: %s", error)
        return None
    return registration.put(weights, kind=kind)


def sft_recipe(args: Any, model: Any, dataset: Any, extra: Mapping[str, Any] | None) -> Recipe:
    """Return the recipe of an SFT run: what the trainer says, and on top what the user says."""
    steps = int(getattr(args, "max_steps", -1))
    values: dict[str, Any] = {
        "base_model": model_name(model) or None,
        "n_unique": None if getattr(args, "packing", False) else _length(dataset),
        "epochs": float(args.num_train_epochs) if steps <= 0 else None,
        "max_steps": steps if steps > 0 else None,
        "learning_rate": float(args.learning_rate) or None,
        "schedule": _text(args.lr_scheduler_type),
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "seed": int(args.seed),
        **_settings(args, _SFT_SETTINGS),
        **_adapter(model),
        **dict(extra or {}),
    }
    return Recipe.from_dict({key: value for key, value in values.items() if value is not None})


def rl_recipe(args: Any, model: Any, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return how RL is done, without budget and seed."""
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {
        "batch_size": batch,
        "schedule": _text(args.lr_scheduler_type),
        **_settings(args, _RL_SETTINGS),
        **_adapter(model),
        **dict(extra or {}),
    }


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """The held-out examples of a trainer: their name, the digest of their content, their number."""

    name: str
    digest: str
    n: int


def loss_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of held-out losses that a trainer logged: `eval_loss`, `eval_NAME_loss`."""
    names = [key for key in metrics if key.startswith("eval_") and key.endswith("_loss")]
    return [name for name in names if name not in _OTHER_LOSSES]


def eval_set(metric: str, dataloader: Any) -> EvalSet | None:
    """Return the examples behind a logged loss.

    None for a stream: losses on unknown data could not be told apart from those on other data.

    Args:
        metric: `eval_loss` or `eval_NAME_loss`.
        dataloader: the trainer's data loader of this evaluation.
    """
    dataset = getattr(dataloader, "dataset", None)
    n = _length(dataset)
    content = None if n is None else _content_digest(dataset, n)
    if n is None or content is None:
        return None
    name = metric.removeprefix("eval_").removesuffix("loss").strip("_")
    return EvalSet(name=name or "eval", digest=content, n=n)


def eval_loss(value: Any, data: EvalSet, args: Any) -> Proxy | None:
    """Return a loss that a trainer measured on held-out examples; None if it is not finite.

    It is a mean over batches, in nats per token, and therefore not the number of `heldout_nll`.
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    way = {
        "mean_of": "batches",
        "batch_size": args.eval_batch_size * args.world_size,
        "bf16": bool(args.bf16),
        "fp16": bool(args.fp16),
    }
    return Proxy(
        name="trainer_eval_loss",
        value=float(value),
        se=None,
        unit="nats/token",
        benchmark=data.name,
        benchmark_digest=data.digest,
        protocol_digest=digest(way),
        n_problems=data.n,
        n_samples=data.n,
        evaluator_version=EVAL_LOSS_VERSION,
    )


def _content_digest(dataset: Any, n: int) -> str | None:
    """Return the digest of the number of examples and the tokens of the first ones."""
    try:
        rows = [dict(dataset[i]) for i in range(min(n, _DIGESTED_EXAMPLES))]
        kept = [{key: row[key] for key in _TEXT_COLUMNS if key in row} for row in rows]
        plain = [{key: _plain(value) for key, value in row.items()} for row in kept]
        return digest([n, plain]) if any(plain) else None
    # A dataset is the user's own object.
    except Exception:
        return None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _settings(args: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that JSON supports; a trainer of another kind lacks some."""
    values = {name: _plain(getattr(args, name, None)) for name in names}
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> Any:
    """Return a JSON value; an enumeration becomes its value."""
    value = getattr(value, "value", value)
    try:
        canonical_json(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def _adapter(model: Any) -> dict[str, Any]:
    """Return the settings of the first LoRA adapter, if there is one."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        return {}
    first = next(itertools.islice(configs.values(), 1), None)
    return {
        key: _text(getattr(first, name))
        for name, key in _LORA.items()
        if getattr(first, name, None) is not None
    }


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset) or None
    except TypeError:  # a stream
        return None


def run_name(args: Any) -> str:
    """Return the name of a run: the last part of `run_name` or of the output folder."""
    return Path(str(getattr(args, "run_name", None) or args.output_dir)).name or "run"
