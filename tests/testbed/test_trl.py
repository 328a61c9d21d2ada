"""Opt-in: the testbed's training against TRL's, on the shipped base, data and order being the same.

Runs where TRL is installed (`pip install -e '.[train]'`), about two minutes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

from rlready.testbed.training.grpo import GrpoSettings
from rlready.testbed.training.sft import SftRecipe
from rlready.testbed.training.train import TrainSettings

pytest.importorskip("trl", reason="TRL is not installed (extra `train`)")

# TRL and its dependencies warn of their own experimental and deprecated parts.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The benchmark's script, which knows how TRL's trainers are given the testbed's data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield importlib.import_module("testbed_trl")


def test_sft_has_the_losses_of_trls_trainer(bench: ModuleType, tmp_path: Path) -> None:
    recipe = SftRecipe(budget=640, n_unique=320, noise=0.3, style="shuffled")
    settings = TrainSettings(
        n_steps=10, batch_size=64, learning_rate=2e-3, warmup_steps=3, n_bucketed=2
    )
    own, theirs = bench.our_sft(recipe, settings), bench.trl_sft(recipe, settings, tmp_path)
    assert theirs.curve == pytest.approx(own.curve, rel=1e-4)
    assert own.curve[-1] < own.curve[0]


def test_grpo_has_the_reward_curve_of_trls_trainer(bench: ModuleType, tmp_path: Path) -> None:
    """Samples are drawn by other engines, so curves agree as two seeds of one trainer do.

    The mean reward of a step comes from 256 samples (standard error 0.03), that of the last ten
    from 2,560; the rest of the tolerance is what training makes of different samples.
    """
    settings = GrpoSettings(n_steps=30, budgets=())
    own, theirs = bench.our_grpo(settings, tmp_path / "own"), bench.trl_grpo(settings, tmp_path)
    assert theirs.curve[0] == pytest.approx(own.curve[0], abs=0.12)
    assert theirs.end == pytest.approx(own.end, abs=0.06)
    for run in (own, theirs):
        assert run.end > run.curve[0] + 0.1
    apart = [abs(a - b) for a, b in zip(own.curve, theirs.curve, strict=True)]
    assert sum(apart) / len(apart) < 0.06
