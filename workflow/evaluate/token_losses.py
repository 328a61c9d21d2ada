"""The losses of a held-out set's tokens under some weights, scored once and then found on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.workflow.evaluate.engines import LocalModel
from rlready.workflow.progress import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rlready.evaluators.heldout.tokens import TokenizedExample, TokenizedSet


def scored_tokens(
    folder: Path,
    tokens: TokenizedSet,
    local: LocalModel,
    clock: Clock,
    warn: Callable[[str], None],
) -> list[NDArray[np.float32]]:
    """The losses of a set's scored tokens, nats, from disk if an earlier call left them.

    Args:
        folder: of the checkpoint's samples and losses.
        tokens: the set.
        local: the checkpoint's weights.
        clock: shows and times it.
        warn: told of a damaged file.
    """
    from rlready.evaluators.heldout.loss_files import (
        read_token_nlls,
        token_nll_path,
        write_token_nlls,
    )

    path = token_nll_path(folder, tokens.examples, local.precision.digest)
    found = read_token_nlls(path, _lengths(tokens.examples), warn)
    if found is None:
        found = _score(tokens, local, clock)
        write_token_nlls(path, found)
    return found


def _score(tokens: TokenizedSet, local: LocalModel, clock: Clock) -> list[NDArray[np.float32]]:
    from rlready.evaluators.heldout.loss import token_losses

    model = local.model
    label, total = f"Loss of {local.path.name} on {tokens.name}", len(tokens.examples)
    with clock.stage("loss", label, total, "examples") as advance:
        found = token_losses(model, tokens.examples, on_progress=advance.to)
        advance(0, sum(_lengths(tokens.examples)))
    return found


def _lengths(examples: Sequence[TokenizedExample]) -> list[int]:
    return [int(example.is_response.sum()) for example in examples]
