"""The world's base, SFT and GRPO, on the shipped base and on tiny models made on the spot."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.benchmarks.problems import BenchmarkSource, load_benchmark
from rlready.evaluators.metrics.pass_at_k import mean_pass_at_k
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw
from rlready.evaluators.verification.verifier import Verifier
from rlready.registry.digest import fingerprint
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.registry.records import Verdict
from rlready.testbed.training import base as base_module
from rlready.testbed.training.base import (
    MARK,
    SHIPPED,
    WEIGHTS,
    BaseSettings,
    main,
    pretrain,
    shipped_base,
)
from rlready.testbed.training.grpo import GrpoSettings, advantages, grpo, pool
from rlready.testbed.training.model import ModelSize
from rlready.testbed.training.sft import SftRecipe, sft
from rlready.testbed.training.tokenizer import encode_pairs, padded, world_tokenizer
from rlready.testbed.training.train import TrainSettings, batches, response_loss, train
from rlready.testbed.world.benchmarks import benchmark, benchmarks, write_benchmarks
from rlready.testbed.world.measure import count, load, protocol
from rlready.testbed.world.skills import SKILLS, draw_any
from rlready.testbed.world.solutions import STYLES, solution

TINY = BaseSettings(n_steps=2, batch_size=8, size=ModelSize(width=32, n_layers=1, mlp_width=64))
SMALL_RECIPE = SftRecipe(budget=256, n_unique=64)
SMALL_RL = GrpoSettings(
    n_steps=2, n_prompts=4, group_size=4, pool_size=8, budgets=(0, 2), n_eval_problems=4
)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(TINY, tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return load(shipped_base())


# ------------------------------------------------------------------------ the tokenizer


def test_examples_are_encoded_as_the_chat_template_writes_them() -> None:
    tokenizer, rng = world_tokenizer(), random.Random(0)
    puzzles = [draw_any(skill, "train", rng) for skill in SKILLS]
    pairs = [(p.text, solution(p, style, rng)) for p in puzzles for style in STYLES]
    examples = encode_pairs(tokenizer, pairs)
    for i, (question, response) in enumerate(pairs):
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": response},
        ]
        expected: Any = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        length = int(examples.lengths[i])
        assert examples.ids[i, :length].tolist() == expected["input_ids"]
        assert examples.is_response[i, :length].int().tolist() == expected["assistant_masks"]
        assert not examples.is_response[i, length:].any()


@given(st.text())
def test_any_text_comes_back_from_the_worlds_tokenizer(text: str) -> None:
    tokenizer = world_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


# ----------------------------------------------------------------------------- the base


def test_the_shipped_base_is_that_of_the_default_settings_and_small() -> None:
    report = json.loads((shipped_base() / MARK).read_text())
    assert report["key"] == BaseSettings().digest
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1_000_000


def test_the_shipped_base_solves_every_skill_sometimes(shipped: tuple[Any, Any]) -> None:
    """Without that RL has nothing to begin with."""
    counts = count(*shipped, benchmarks("before", 16), n_samples=16, drawn_by=protocol())
    solved = {name: mean_pass_at_k(some, 16, name).value for name, some in counts.items()}
    assert min(solved.values()) > 0.2, solved


def test_a_changed_base_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SHIPPED, tmp_path / "base")
    monkeypatch.setattr(base_module, "SHIPPED", tmp_path / "base")
    assert shipped_base() == tmp_path / "base"
    with (tmp_path / "base" / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(CheckpointError, match="was changed"):
        shipped_base()


def test_a_base_is_made_once(tiny_base: Path) -> None:
    def on_step(n_done: int, loss: float) -> None:
        pytest.fail("it trained again")

    assert pretrain(TINY, tiny_base, on_step) == tiny_base
    with pytest.raises(ConfigError, match="holds something else"):
        pretrain(dataclasses.replace(TINY, seed=1), tiny_base)


def test_a_base_has_the_files_that_were_shipped(tiny_base: Path) -> None:
    """The id of a checkpoint covers its tokenizer: a base made again has to keep it."""
    assert {path.name for path in tiny_base.iterdir()} == {path.name for path in SHIPPED.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tiny_base / name).read_bytes() == (SHIPPED / name).read_bytes(), name


def test_the_command_makes_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "base"), "--steps", "1"])
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(main, ["--out", str(tmp_path / "base"), "--steps", "2"])
    assert again.exit_code == 2
    assert again.stderr.startswith("error: ")


# ------------------------------------------------------------------------------------ SFT


def test_the_same_recipe_gives_the_same_losses_and_weights(tiny_base: Path, tmp_path: Path) -> None:
    first, second = (sft(tiny_base, SMALL_RECIPE, tmp_path / name) for name in "ab")
    assert first.losses == second.losses
    assert len(first.losses) == 4
    assert fingerprint(first.folder) == fingerprint(second.folder)
    other = sft(tiny_base, dataclasses.replace(SMALL_RECIPE, seed=1), tmp_path / "c")
    assert other.losses != first.losses


def test_an_sft_that_is_there_is_found(tiny_base: Path, tmp_path: Path) -> None:
    first = sft(tiny_base, SMALL_RECIPE, tmp_path / "sft")
    again = sft(tiny_base, SMALL_RECIPE, tmp_path / "sft")
    assert (first.is_new, again.is_new) == (True, False)
    assert again.losses == first.losses
    with pytest.raises(ConfigError, match="holds something else"):
        sft(tiny_base, dataclasses.replace(SMALL_RECIPE, noise=0.5), tmp_path / "sft")


def test_bucketed_batches_hold_every_example_once_an_epoch() -> None:
    lengths = torch.tensor([random.Random(i).randint(3, 40) for i in range(96)])
    settings = TrainSettings(n_steps=12, batch_size=8, n_bucketed=4)
    drawn = [batch for batch, _ in zip(batches(lengths, settings), range(12), strict=False)]
    assert sorted(torch.cat(drawn).tolist()) == list(range(96))
    widths = [int(lengths[batch].max() - lengths[batch].min()) for batch in drawn]
    assert statistics.fmean(widths) < 15


# ----------------------------------------------------------------------------------- GRPO


def test_advantages_have_mean_zero_and_deviation_one_or_are_zero() -> None:
    rng = np.random.default_rng(0)
    rewards_PG = (rng.random((50, 8)) < 0.2).astype(float)
    found_PG = advantages(rewards_PG)
    is_equal_P = rewards_PG.std(axis=1) == 0
    assert 0 < is_equal_P.sum() < 50
    assert not found_PG[is_equal_P].any()
    assert found_PG[~is_equal_P].mean(axis=1) == pytest.approx(0, abs=1e-12)
    assert found_PG[~is_equal_P].std(axis=1) == pytest.approx(1)
    assert (np.sign(found_PG[~is_equal_P]) == np.where(rewards_PG[~is_equal_P], 1, -1)).all()


def test_the_samplers_log_probs_equal_the_training_forwards(shipped: tuple[Any, Any]) -> None:
    model, tokenizer = shipped
    items = [item for some in benchmarks("before", 8).values() for item in some]
    draws = [Draw(problem=item.problem(), sample_indices=(0, 1, 2, 3)) for item in items]
    drawn = [
        sample
        for part in HfSampler(model, tokenizer).draw_tokens(draws, protocol())
        for sample in part
    ]
    examples = padded([(s.prompt, s.response) for s in drawn], tokenizer.pad_token_id)
    with torch.inference_mode():
        log_probs = -response_loss(model, examples, torch.arange(len(drawn)), "none")
    sums = [float(some.sum()) for some in log_probs.split([len(s.response) for s in drawn])]
    assert len(drawn) == 4 * len(items)
    for sample, total in zip(drawn, sums, strict=True):
        assert sample.sample.logprob_sum == pytest.approx(total, abs=1e-4)
        assert sample.sample.n_tokens == len(sample.response)
        text = tokenizer.decode(list(sample.response), skip_special_tokens=True)
        assert text == sample.sample.text


def test_draw_tokens_draws_what_draw_does(shipped: tuple[Any, Any]) -> None:
    sampler = HfSampler(*shipped)
    draws = [
        Draw(problem=item.problem(), sample_indices=(0, 5)) for item in benchmark("add2", "all", 5)
    ]
    plain = [s for part in sampler.draw(draws, protocol()) for s in part]
    assert [s.sample for part in sampler.draw_tokens(draws, protocol()) for s in part] == plain


def test_the_worlds_counts_equal_those_of_the_general_verifier(
    shipped: tuple[Any, Any], tmp_path: Path
) -> None:
    """What is CORRECT for `rlready evaluate` is right here, sample by sample, for numbers."""
    model, tokenizer = shipped
    items = benchmark("add2", "before", 10)
    write_benchmarks(tmp_path, 10)
    source = BenchmarkSource(name="add2", location=tmp_path / "before" / "add2.jsonl")
    problems = {problem.id: problem for problem in load_benchmark(source).problems}
    draws = [Draw(problem=problems[i.id], sample_indices=tuple(range(8))) for i in items]
    samples = [s for part in HfSampler(model, tokenizer).draw(draws, protocol()) for s in part]
    with Verifier(n_workers=1) as verifier:
        checks = verifier.check([(problems[s.problem_id].answers, s.text) for s in samples])
    correct = dict.fromkeys(problems, 0)
    for sample, check in zip(samples, checks, strict=True):
        correct[sample.problem_id] += check.verdict is Verdict.CORRECT
    (counts,) = count(model, tokenizer, {"add2": items}, n_samples=8, drawn_by=protocol()).values()
    assert {p.problem_id: p.c for p in counts} == correct
    assert 0 < sum(correct.values()) < 80


def test_counts_give_pass_at_k_as_brute_force_does(shipped: tuple[Any, Any]) -> None:
    from rlready.testbed.world.puzzles import reward

    items = benchmark("chain_easy", "before", 6)
    (counts,) = count(*shipped, {"c": items}, n_samples=6, drawn_by=protocol()).values()
    draws = [Draw(problem=i.problem(), sample_indices=tuple(range(6))) for i in items]
    by_id: dict[str, list[bool]] = {item.id: [] for item in items}
    puzzles = {item.id: item.puzzle for item in items}
    for part in HfSampler(*shipped).draw(draws, protocol()):
        for s in part:
            by_id[s.problem_id].append(reward(puzzles[s.problem_id], s.text))
    subsets = [any(some) for r in by_id.values() for some in itertools.combinations(r, 3)]
    assert mean_pass_at_k(counts, 3, "c").value == pytest.approx(statistics.fmean(subsets))


def test_grpo_gives_a_checkpoint_with_a_curve_once(tiny_base: Path, tmp_path: Path) -> None:
    result = grpo(tiny_base, SMALL_RL, tmp_path / "rl")
    assert [(row.budget, row.benchmark) for row in result.curve] == [
        (budget, skill) for budget in (0, 2) for skill in SKILLS
    ]
    assert len(result.rewards) == len(result.signal_shares) == 2
    rows = list(csv.DictReader((tmp_path / "rl" / "curve.csv").read_text().splitlines()))
    assert set(rows[0]) == {"budget", "benchmark", "value", "se", "n"}
    assert [int(row["budget"]) for row in rows] == [row.budget for row in result.curve]
    again = grpo(tiny_base, SMALL_RL, tmp_path / "rl")
    assert dataclasses.replace(again, is_new=True) == result
    load(tmp_path / "rl")


def test_grpo_with_one_seed_gives_one_result(tiny_base: Path, tmp_path: Path) -> None:
    twice = dataclasses.replace(SMALL_RL, n_updates=2)
    first, second = (grpo(tiny_base, twice, tmp_path / name) for name in "ab")
    assert (first.curve, first.rewards) == (second.curve, second.rewards)
    assert fingerprint(first.folder) == fingerprint(second.folder)


def test_an_update_makes_rewarded_responses_likelier(shipped: tuple[Any, Any]) -> None:
    """Of one prompt, one right and one wrong response; the shipped base itself stays as it is."""
    import copy

    from rlready.evaluators.sampling.hf import TokenSample
    from rlready.registry.records import Sample
    from rlready.testbed.training.grpo import _Run

    model, tokenizer = copy.deepcopy(shipped[0]), shipped[1]
    pairs = [("Add digit by digit: 11+12", f"\\boxed{{{answer}}}") for answer in ("23", "24")]
    examples = encode_pairs(tokenizer, pairs)
    sample = Sample(
        problem_id="", sample_index=0, seed=0, text="", n_tokens=1, finish_reason="stop"
    )
    drawn = []
    for ids, mask in zip(examples.ids, examples.is_response, strict=True):
        n_prompt = int(mask.int().argmax())
        row = ids.tolist()
        drawn.append(
            TokenSample(sample=sample, prompt=tuple(row[:n_prompt]), response=tuple(row[n_prompt:]))
        )

    def log_probs() -> list[float]:
        with torch.inference_mode():
            found = -response_loss(model, examples, torch.arange(2), "none")
        return [float(some.sum()) for some in found.chunk(2)]

    before = log_probs()
    _Run(model, tokenizer, GrpoSettings())._update(0, drawn, np.array([1.0, -1.0]))
    after = log_probs()
    assert after[0] - after[1] > before[0] - before[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 1},
        {"pool_size": 8},
        {"budgets": (0, 61)},
        {"budgets": (30, 0)},
        {"n_steps": 0, "budgets": ()},
        {"mix": "x"},
    ],
)
def test_grpo_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GrpoSettings(**wrong)


def test_the_pool_is_finite_and_apart_from_the_test_problems() -> None:
    texts = {item.puzzle.text for item in pool(GrpoSettings(pool_size=256))}
    tested = {item.puzzle.text for some in benchmarks("all").values() for item in some}
    assert len(texts) == 256
    assert not texts & tested


def test_the_rate_stays_and_then_falls_to_a_tenth() -> None:
    settings = GrpoSettings(n_steps=60)
    shares = [settings.rate_share(step) for step in range(61)]
    assert shares[:30] == [1.0] * 30
    assert shares[60] == pytest.approx(0.1)
    assert all(math.isclose(a - b, 0.03) for a, b in itertools.pairwise(shares[30:]))


@pytest.mark.slow
def test_grpo_raises_the_reward_on_an_easy_set_in_20_steps(tmp_path: Path) -> None:
    result_sft = sft(
        shipped_base(),
        SftRecipe(budget=1600, n_unique=1600, noise=0.3, mix="easy"),
        tmp_path / "sft",
    )
    settings = GrpoSettings(n_steps=20, pool_size=256, mix="easy", budgets=())
    result = grpo(result_sft.folder, settings, tmp_path / "rl")
    first, last = (statistics.fmean(some) for some in (result.rewards[:4], result.rewards[-4:]))
    assert last > first + 0.05


def test_losses_fall_when_the_shipped_base_goes_on(shipped: tuple[Any, Any]) -> None:
    model, tokenizer = load(shipped_base())
    rng = random.Random(0)
    puzzles = [draw_any("chain_easy", "train", rng) for _ in range(256)]
    pairs = [(puzzle.text, solution(puzzle, "canonical", rng)) for puzzle in puzzles]
    losses = train(
        model,
        encode_pairs(tokenizer, pairs),
        TrainSettings(n_steps=8, warmup_steps=1, learning_rate=1e-3),
    )
    assert losses[-1] < losses[0]
