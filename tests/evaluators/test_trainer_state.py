"""The step of a Trainer's checkpoint, from the file that transformers writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.trainer_callback import TrainerState

from rlready.evaluators.checkpoints.trainer_state import NAME, trainer_step
from rlready.registry.errors import CheckpointError


def test_the_step_is_read_from_the_file_that_transformers_writes(tmp_path: Path) -> None:
    state = TrainerState(global_step=500, epoch=1.5, max_steps=1000)
    state.log_history.append({"step": 500, "loss": 0.7, "epoch": 1.5})
    state.save_to_json(str(tmp_path / NAME))
    assert trainer_step(tmp_path) == 500


def test_a_folder_without_the_file_has_no_step(tmp_path: Path) -> None:
    assert trainer_step(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"global_step": "500"}', '{"global_step": -1}', '{"global_step": true}'],
)
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(CheckpointError, match="Give the step as --step N"):
        trainer_step(tmp_path)


def test_other_keys_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"global_step": 0, "best_metric": None}))
    assert trainer_step(tmp_path) == 0
