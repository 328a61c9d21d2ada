"""Checks of a model's input and output: known token ids, and finite logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import CheckpointError, EvaluationError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def check_prompts(
    prompts: Sequence[tuple[str, Sequence[int]]], n_token_ids: int, path: str
) -> None:
    """Check that the embedding has a row for every token; prompts are problem ids and tokens.

    Raises:
        CheckpointError: naming the first problem with another token.
    """
    for problem_id, prompt in prompts:
        highest = max(prompt, default=0)
        if highest >= n_token_ids:
            raise CheckpointError(
                f"the prompt of problem {problem_id} has token {highest}",
                why=f"the embedding of {path} has {n_token_ids} rows",
                fix="The tokenizer belongs to another model: put the right one beside the weights",
            )


def check_logits(
    logits_BV: torch.Tensor, prompts: Sequence[tuple[str, Sequence[int]]], model: PreTrainedModel
) -> None:
    """Check that no logit is NaN or plus infinity; minus infinity marks an impossible token.

    There is a row of logits for each prompt (problem id and tokens).

    Raises:
        EvaluationError: naming the first problem, and the first module whose output is not finite.
    """
    # The maximum of a row with NaN is NaN, and a maximum needs no copy of the logits.
    bad_B = ~logits_BV.amax(-1).isfinite()
    if not bool(bad_B.any()):
        return
    problem_id, prompt = prompts[int(bad_B.nonzero()[0, 0])]
    module, dtype = _first_bad_module(model, prompt), str(model.dtype).removeprefix("torch.")
    where = f", first in the output of {module}" if module else ""
    raise EvaluationError(
        f"the logits of problem {problem_id} are NaN or infinite{where}",
        why=f"the weights are finite, so an intermediate value overflows {dtype}",
        fix="Training probably diverged: take an earlier checkpoint"
        if dtype == "float32"
        else "Give --engine-option dtype=float32. If that does not help, training diverged",
    )


def _first_bad_module(model: PreTrainedModel, prompt: Sequence[int]) -> str:
    """Return the first module whose output is not finite on this prompt; empty if there is none."""
    import torch

    bad: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, torch.Tensor) and not bool(tensor.isfinite().all()):
                bad.append(name)

        return hook

    # Hooks run in the order in which modules finish, inner modules first.
    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        ids = torch.tensor([list(prompt)], device=model.device)
        model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return bad[0] if bad else ""
