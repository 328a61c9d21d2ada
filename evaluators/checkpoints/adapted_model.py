"""A base model in memory, to which one adapter after another is applied with peft.

Loading a base model takes far longer than applying an adapter, so it is loaded once for many. The
model that comes out is an ordinary transformers model whose linear layers were replaced, so that
sampling and losses treat it like any other.

    unmerged    W_0 x + scaling * B A x, the factors in float32 as peft keeps them
    merged      (W_0 + scaling * B A) x, rounded to the model's number format; the base model is
                loaded again for the next adapter

In every use the logits of a few prompts have to differ from those of the base model. An adapter
whose tensors a library silently left out would otherwise be recorded with the base model's numbers
(lm-evaluation-harness issue 2432).
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checkpoints.adapter import Adapter
from rlready.evaluators.checkpoints.folder import load_model, one_line
from rlready.evaluators.memory import give_back_memory
from rlready.registry.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE_TEXTS = (
    "What is 12 + 30? Please reason step by step, and put your final answer within \\boxed{}.",
    "1 2 3 4 5 6 7 8 9 0 + - * / = ( ) a b c x y z",
    "The quick brown fox jumps over the lazy dog.",
)
"""Texts on which an adapter has to change the logits."""

_MOST_PROBE_TOKENS = 64
_ROUNDING = 1e-6
"""Share of the largest logit; one step of training moves logits a hundred times as far."""

_MISSING = "Found missing adapter keys"


class AdaptableModel:
    """A base model in memory, with at most one adapter applied.

    Args:
        path: folder of the base model.
        device: torch device.
        dtype: number format of the weights.

    Example:
        >>> models = AdaptableModel(weights.path, "cpu", torch.float32)
        >>> model = models.with_adapter(weights.adapter, load_tokenizer(weights.tokenizer_folder))
    """

    def __init__(self, path: Path, device: str, dtype: torch.dtype) -> None:
        self.path, self.device, self.dtype = path, device, dtype
        self._model: PreTrainedModel | None = None
        self._wrapped: Any = None
        self._applied: tuple[Path, bool] | None = None
        self._adapted: PreTrainedModel | None = None
        self.n_loads = 0
        """How often the base model was read from disk."""

    def base(self) -> PreTrainedModel:
        """Return the base model without an adapter; models returned earlier lose theirs."""
        self._applied = self._adapted = None
        if self._wrapped is not None:
            self._model = self._wrapped.unload()
            self._wrapped = None
        if self._model is None:
            self._model = load_model(self.path, self.device, self.dtype)
            self.n_loads += 1
        return self._model

    def with_adapter(
        self, adapter: Adapter, tokenizer: PreTrainedTokenizerBase, merge: bool = False
    ) -> PreTrainedModel:
        """Return the model with this adapter only; models returned earlier are no longer valid.

        The adapter that is applied already is returned as it is.

        Args:
            adapter: fits the base model (`Adapter.check_base`).
            tokenizer: gives the tokens on which the adapter has to change something.
            merge: add the adapter to the weights.

        Raises:
            ConfigError: if peft is not installed.
            CheckpointError: if the adapter cannot be applied, or changes no logit.
        """
        if self._adapted is not None and self._applied == (adapter.path, merge):
            return self._adapted
        check_installed()
        model = self.base()
        probes = probe_tokens(tokenizer)
        before = _logits(model, probes)
        wrapped = _wrap(model, adapter)
        if merge or adapter.config.get("modules_to_save"):
            # Neither can be undone: unloading would leave the saved modules in their places.
            self._model = None
        if merge:
            with _quiet():
                applied: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
        else:
            applied = wrapped.get_base_model()
            self._wrapped = wrapped if self._model is not None else None
        applied.eval()
        after = _logits(applied, probes)
        if not any(_differs(a, b) for a, b in zip(before, after, strict=True)):
            raise no_effect(adapter, str(self.dtype).removeprefix("torch.") if merge else None)
        self._applied, self._adapted = (adapter.path, merge), applied
        return applied

    def release(self) -> None:
        """Free the memory; the next use loads the base model again."""
        self._model = self._wrapped = self._applied = self._adapted = None
        gc.collect()  # the modules of a model form reference cycles
        give_back_memory()


def check_installed() -> None:
    """Raise a ConfigError that says what to install if peft is missing; loads nothing."""
    import importlib.util

    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "running an adapter needs peft, which is not installed",
            fix="pip install 'rlready[adapters]'",
        )


def probe_tokens(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids of `PROBE_TEXTS`, without texts that the tokenizer cannot express."""
    ids = [tokenizer.encode(t, add_special_tokens=False) for t in PROBE_TEXTS]
    return [tokens[:_MOST_PROBE_TOKENS] for tokens in ids if tokens]


def no_effect(adapter: Adapter, merged_into: str | None = None) -> CheckpointError:
    """Return the error for an adapter with which the logits are those of the base model.

    `merged_into` is the number format that the adapter was merged into, if it was.
    """
    rounded = merged_into not in (None, "float32")
    return CheckpointError(
        f"{adapter.path} changes nothing: with and without it, the model gives the same logits on "
        f"{len(PROBE_TEXTS)} prompts",
        why=f"rounding to {merged_into} removed it, or it never took effect"
        if rounded
        else "its factors cancel out, or its layers are not those that the model runs",
        fix="Leave --merge out, or give --engine-option dtype=float32"
        if rounded
        else "Check target_modules and base model of the training run, or take a later checkpoint",
    )


def _wrap(model: PreTrainedModel, adapter: Adapter) -> Any:
    """Return peft's model around `model`, whose layers are replaced in place."""
    from peft import LoraConfig, PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # Without low_cpu_mem_usage, peft would first draw random factors.
            wrapped = PeftModel.from_pretrained(
                model,
                str(adapter.path),
                config=LoraConfig(**adapter.config, task_type="CAUSAL_LM"),
                low_cpu_mem_usage=True,
                torch_device=str(model.device),
            )
        except Exception as error:  # names and patterns in its files can make peft raise anything
            raise CheckpointError(
                f"the adapter {adapter.path} cannot be applied", why=one_line(error)
            ) from error
    missing = [str(w.message) for w in caught if str(w.message).startswith(_MISSING)]
    if missing:
        raise CheckpointError(
            f"{adapter.path} lacks factors of layers that its target_modules name",
            why=missing[0][:300],
            fix="Copy the folder again, or take another checkpoint",
        )
    return wrapped


def _logits(model: PreTrainedModel, probes: list[list[int]]) -> list[torch.Tensor]:
    import torch

    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
            for ids in probes
        ]


def _differs(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Return whether logits differ by more than the rounding of a product that is zero."""
    return bool((after - before).abs().max() > _ROUNDING * before.abs().max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
