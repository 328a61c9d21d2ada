"""A process that works through the units of a testbed run: `python -m ... OUT INDEX`.

Workers share the units by claims: a lock on OUT/claims/<recipe> that dies with its process, so a
killed worker's unit is free at once. A worker prints each finished stage as one line of JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from rlready.registry.failures import EXIT_FAULT, EXIT_USAGE, fault, foreseen
from rlready.testbed.study.design import BASE, Design, read_design
from rlready.testbed.study.unit import measure_unit, run_unit
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.sft import SftRecipe


def main(out: Path, index: int) -> int:
    """Run units until each is finished or held by another worker; return the exit code."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    design = read_design(out)
    units: list[SftRecipe | None] = [None, *design.recipes]
    # Each worker starts at another unit, so that they rarely compete for one.
    start = index * len(units) // max(1, design.n_workers)
    for unit in [*units[start:], *units[:start]]:
        name = BASE if unit is None else unit.id
        with _claim(out, name) as is_mine:
            if not is_mine:
                continue
            try:
                _run(out, unit, name, design)
            except Exception as error:
                line = foreseen(error)
                print(f"error: {name}: {line or fault(error)}", file=sys.stderr)
                return EXIT_FAULT if line is None else EXIT_USAGE
    return 0


def _run(out: Path, unit: SftRecipe | None, name: str, design: Design) -> None:
    def on_stage(stage: str, cpu_seconds: float) -> None:
        line = json.dumps({"unit": name, "stage": stage, "cpu_seconds": cpu_seconds})
        # One write call, which a pipe keeps in one piece: the workers share the pipe.
        os.write(sys.stdout.fileno(), f"{line}\n".encode())

    if unit is None:
        measure_unit(out, shipped_base(), name, design.profile, on_stage)
    else:
        run_unit(out, shipped_base(), unit, design.profile, on_stage)


@contextlib.contextmanager
def _claim(out: Path, name: str) -> Iterator[bool]:
    folder = out / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent process prints the message
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
