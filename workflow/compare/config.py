"""The flags of `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from rlready.workflow.flags import Flag


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What `compare` shows.

    Args:
        samples_dir: Folder of samples, verdicts and losses.
        problems: Problems and examples to show in full for each difference; all are counted.
        level: Share of intervals that contain the true difference, in (0, 1).
        out: Write an HTML page with the samples to this file.
    """

    samples_dir: Path = Path("samples")
    problems: Annotated[int, click.IntRange(min=0)] = 5
    level: Annotated[float, click.FloatRange(0.5, 0.999)] = 0.95
    out: Annotated[Path | None, Flag(metavar="FILE.html")] = None
