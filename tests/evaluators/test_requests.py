"""What all engines share: requests made of problems, and samples made of tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlready.evaluators.checkpoints.folder import load_tokenizer
from rlready.evaluators.sampling.sample_requests import (
    finished_sample,
    folder_stop_ids,
    sample_requests,
    stop_ids,
)
from rlready.evaluators.sampling.sampler import Draw, sample_seed
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Problem, Protocol
from rlready.testbed.training.model import untrained_checkpoint
from rlready.testbed.training.tokenizer import world_tokenizer

PROTOCOL = Protocol(prompt_template="{problem}", max_tokens=8, seed=5)
PROBLEMS = [Problem(id=name, text="1" * n, answers=("1",)) for name, n in (("a", 2), ("b", 30))]
DRAWS = [Draw(problem=problem, sample_indices=(4, 1)) for problem in PROBLEMS]


def test_requests_carry_their_own_seeds_the_longest_prompts_first() -> None:
    requests = sample_requests(DRAWS, PROTOCOL, world_tokenizer(), None)
    assert [(r.problem_id, r.sample_index) for r in requests] == [
        ("b", 1),
        ("b", 4),
        ("a", 1),
        ("a", 4),
    ]
    assert [r.seed for r in requests] == [
        sample_seed(5, r.problem_id, r.sample_index) for r in requests
    ]


def test_a_prompt_that_leaves_no_room_is_named() -> None:
    with pytest.raises(EvaluationError, match=r"problem b has .* context of 20.* Leave this"):
        sample_requests(DRAWS, PROTOCOL, world_tokenizer(), 20)


def test_a_sample_ends_at_an_end_token_or_was_cut() -> None:
    tokenizer = world_tokenizer()
    (request, *_) = sample_requests(DRAWS, PROTOCOL, tokenizer, None)
    ids = tokenizer.encode("7", add_special_tokens=False)
    end = tokenizer.eos_token_id
    for drawn, reason in (([*ids, end], "stop"), (ids, "length"), ([], "length")):
        sample = finished_sample(
            request, drawn, (end,), tokenizer, logprob_sum=-1.0, entropy_sum=None
        )
        assert (sample.finish_reason, sample.n_tokens) == (reason, len(drawn))
        assert sample.text == ("7" if drawn else "")


def test_end_tokens_are_the_configurations_and_the_tokenizers() -> None:
    tokenizer = world_tokenizer()
    end = tokenizer.eos_token_id
    assert stop_ids([900, end], tokenizer) == tuple(sorted((end, 900)))
    assert stop_ids(900, tokenizer) == tuple(sorted((end, 900)))
    assert stop_ids(None, tokenizer) == (end,)


def test_a_folder_tells_the_end_tokens_that_its_model_has(tmp_path: Path) -> None:
    folder = untrained_checkpoint(tmp_path / "whole")
    tokenizer = load_tokenizer(folder)
    assert folder_stop_ids(folder, tokenizer) == (tokenizer.eos_token_id,)
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "generation_config.json").unlink()
    config = (bare / "config.json").read_text()
    (bare / "config.json").write_text(
        config.replace(f'"eos_token_id": {tokenizer.eos_token_id}', '"eos_token_id": 7')
    )
    assert folder_stop_ids(bare, tokenizer) == tuple(sorted((7, tokenizer.eos_token_id)))
