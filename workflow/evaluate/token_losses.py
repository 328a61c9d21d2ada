"""Losses of the tokens of a held-out set, computed once and then read from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.evaluators.heldout.loss import token_losses
from rlready.evaluators.heldout.loss_files import (
    read_token_nlls,
    token_nll_path,
    write_token_nlls,
)
from rlready.workflow.evaluate.engines import LocalModel
from rlready.workflow.progress import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rlready.evaluators.heldout.tokens import TokenizedSet


def scored_tokens(
    folder: Path,
    tokens: TokenizedSet,
    local: LocalModel,
    clock: Clock,
    warn: Callable[[str], None],
) -> list[NDArray[np.float32]]:
    """Return the losses of a set's scored tokens, nats, from disk if they are there.

    Args:
        folder: folder of the checkpoint's samples and losses.
        tokens: the held-out set.
        local: the checkpoint's weights.
        clock: shows and times the scoring.
        warn: called with a note on a damaged file.
    """
    path = token_nll_path(folder, tokens.examples, local.precision.digest)
    lengths = [int(example.is_response.sum()) for example in tokens.examples]
    losses = read_token_nlls(path, lengths, warn)
    if losses is None:
        model = local.model
        label = f"Loss of {local.path.name} on {tokens.name}"
        with clock.stage("loss", label, len(lengths), "examples") as advance:
            losses = token_losses(model, tokens.examples, on_progress=advance.to)
            advance(0, sum(lengths))
        write_token_nlls(path, losses)
    return losses
