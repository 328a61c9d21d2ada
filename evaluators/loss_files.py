"""Held-out losses on disk, so that no example is scored twice.

samples/<checkpoint>/heldout-<digest of set, template and version>.json
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from rlready.evaluators.heldout_loss import ExampleLoss
from rlready.registry.errors import SamplesError


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of one checkpoint on one held-out set.

    Args:
        benchmark_digest: `TokenizedSet.benchmark_digest`.
        examples: one entry an example that was scored.
        n_truncated: examples that were cut at the model's context.
        n_skipped: examples whose prompt alone fills it.
    """

    benchmark_digest: str
    examples: tuple[ExampleLoss, ...]
    n_truncated: int
    n_skipped: int


def write_losses(path: Path, losses: Losses) -> None:
    """Write them by an atomic rename.

    Raises:
        SamplesError: if the disk does not take them.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dataclasses.asdict(losses)), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise SamplesError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Free some space or name another --samples-dir, and run the same command again",
        ) from error


def read_losses(path: Path) -> Losses | None:
    """The losses in a file; None if there is none, or it is damaged and has to be made again."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        examples = tuple(ExampleLoss(**example) for example in values.pop("examples"))
        return Losses(examples=examples, **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
