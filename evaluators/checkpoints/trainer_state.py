"""What a Trainer wrote beside its checkpoint: the optimizer step."""

from __future__ import annotations

from pathlib import Path

from rlready.registry.errors import CheckpointError
from rlready.registry.foreign_files import read_json_object

NAME = "trainer_state.json"


def trainer_step(folder: Path) -> int | None:
    """Return the step in `trainer_state.json` of transformers or TRL; None without this file.

    Args:
        folder: a checkpoint, for example `runs/sft/checkpoint-500`.

    Raises:
        CheckpointError: if the file holds no step.

    Example:
        >>> trainer_step(Path("runs/sft/checkpoint-500"))  # doctest: +SKIP
        500
    """
    path = folder / NAME
    if not path.is_file():
        return None
    fix = "Give the step as --step N, or copy the folder again"
    step = read_json_object(path, CheckpointError, fix=fix).get("global_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{path} holds no global_step that is a step: {step!r}", fix=fix)
    return step
