"""The example of the whole loop with TRL's trainers ends in a ranking."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

pytest.importorskip("trl", reason="TRL is not installed (extra `train`)")


@pytest.mark.slow
def test_sft_and_grpo_end_ranked_without_anything_typed_by_hand(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "trl_loop.py")],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.iterdir())
    listed, _, ranked = done.stdout.partition("value_at_budget/6steps@chains")
    assert listed.count("sft ") == 4
    assert listed.count("rl ") == 2
    assert "order from public outcomes and 2 of your own" in ranked
    assert ranked.index("gentle-checkpoint-8") < ranked.index("harsh-checkpoint-8")
