"""The script for a machine with a GPU runs on this one, so that no minute there is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from places import ROOT


def run(*flags: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), "--json", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_every_part_runs_on_the_cpu_with_a_tiny_shape() -> None:
    result = run("--dry-run")
    assert result["complete"], result["parts"]
    assert result["reached"] is None
    parts = result["parts"]
    assert parts["sampling tiny"]["tokens_per_s"] > 0
    assert parts["loss tiny rows 4096"]["share_of_peak"] > 0
    assert parts["agreement"]["bfloat16_agrees"]
    whole, adapter = parts["weights 1B"]["update_norms"]
    # The whole weights are rounded to bfloat16, the adapter's change is not.
    assert whole == pytest.approx(adapter, rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_claimed() -> None:
    assert run() == {"bench": "gpu", "not_run": "no CUDA device"}
