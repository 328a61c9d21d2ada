"""The testbed: tasks, tokenizer, models, training and the demo's command."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rlready.registry.errors import ConfigError
from rlready.registry.records import Protocol, Recipe
from rlready.testbed.demo import main
from rlready.testbed.demo_folder import MARK, DemoSettings, find_demo, make_demo
from rlready.testbed.demo_folder import dialogue as asked_and_answered
from rlready.testbed.model import ModelSize, build_model, untrained_checkpoint
from rlready.testbed.tasks import (
    DIFFICULTIES,
    OPERANDS,
    Chain,
    Teacher,
    draw_chains,
    is_correct_trace,
)
from rlready.testbed.tokenizer import TURN_END, build_tokenizer
from rlready.testbed.train import TrainSettings, encode, response_loss, train

TOKENIZER = build_tokenizer()
CHAIN = Chain(start=3, steps=(("+", 4), ("*", 7), ("-", 2)))
SOLUTION = "3+4=7\n7*7=9\n9-2=7\n\\boxed{7}"
DIALOGUE = [
    {"role": "user", "content": "Modulo ten, left to right: 3+4*7-2"},
    {"role": "assistant", "content": SOLUTION},
]
TINY = ModelSize(width=32, n_layers=1, mlp_width=64)

STEPS = st.sampled_from(sorted(OPERANDS)).flatmap(
    lambda operator: st.tuples(st.just(operator), st.sampled_from(OPERANDS[operator]))
)
CHAINS = st.builds(
    Chain, start=st.integers(0, 9), steps=st.lists(STEPS, min_size=1, max_size=6).map(tuple)
)


# -------------------------------------------------------------------- tasks


def test_a_problem_reads_as_the_documentation_says() -> None:
    assert CHAIN.text == DIALOGUE[0]["content"]
    assert CHAIN.solution == SOLUTION
    assert CHAIN.answer == "7"


@given(CHAINS)
def test_each_line_of_a_solution_is_true_and_goes_on_from_the_one_before(chain: Chain) -> None:
    *lines, boxed = chain.solution.split("\n")
    value = chain.start
    for line, (operator, operand) in zip(lines, chain.steps, strict=True):
        expression, result = line.split("=")
        assert expression == f"{value}{operator}{operand}"
        value = eval(expression) % 10
        assert int(result) == value
    assert boxed == f"\\boxed{{{value}}}"
    assert chain.answer == str(value)
    assert is_correct_trace(chain, chain.solution)


@given(CHAINS, st.data())
def test_a_trace_with_any_other_digit_is_refused(chain: Chain, data: st.DataObject) -> None:
    places = [match.start() for match in re.finditer(r"\d", chain.solution)]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from("0123456789").filter(lambda d: d != chain.solution[place]))
    corrupted = chain.solution[:place] + digit + chain.solution[place + 1 :]
    assert not is_correct_trace(chain, corrupted)


@given(CHAINS, st.data())
def test_a_trace_without_one_of_its_lines_is_refused(chain: Chain, data: st.DataObject) -> None:
    lines = chain.solution.split("\n")
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    assert not is_correct_trace(chain, "\n".join(lines))


def test_a_right_answer_after_two_wrong_steps_is_refused() -> None:
    chain = Chain(start=3, steps=(("+", 4), ("+", 1)))
    assert chain.answer == "8"
    assert not is_correct_trace(chain, "3+4=6\n6+1=8\n\\boxed{8}")


def test_splits_are_disjoint_and_have_their_shares() -> None:
    for difficulty in DIFFICULTIES:
        drawn = {
            split: {chain.text for chain in draw_chains(difficulty, split, 400, seed=1)}
            for split in ("test", "heldout", "train")
        }
        assert [len(texts) for texts in drawn.values()] == [400, 400, 400]
        assert len(set.union(*drawn.values())) == 1200
    rng = random.Random(0)
    steps = [(op, n) for op in OPERANDS for n in OPERANDS[op]]
    some = [
        Chain(start=rng.randrange(10), steps=tuple(rng.choices(steps, k=4))) for _ in range(5000)
    ]
    shares = Counter(chain.split for chain in some)
    assert shares["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert shares["heldout"] / 5000 == pytest.approx(0.1, abs=0.02)


def test_drawn_problems_have_the_operations_of_their_difficulty() -> None:
    for difficulty, n_operations in DIFFICULTIES.items():
        chains = draw_chains(difficulty, "test", 50, seed=0)
        assert {len(chain.steps) for chain in chains} == set(n_operations)
        assert chains[:10] == draw_chains(difficulty, "test", 10, seed=0)


def test_a_teacher_slips_at_its_rate_and_the_same_way_each_time() -> None:
    teacher = Teacher(slip_rate=0.2)
    rates = [rate for rate, _ in teacher.slips.values()]
    assert sum(rates) / len(rates) == pytest.approx(0.2, abs=0.05)
    assert min(rates) < 0.01
    assert max(rates) > 0.9
    rng = random.Random(0)
    results: dict[str, set[str]] = {}
    for chain in draw_chains("easy", "train", 2000, seed=0):
        for line in teacher.solve(chain, rng).split("\n")[:-1]:
            fact, result = line.split("=")
            results.setdefault(fact, set()).add(result)
    assert max(len(seen) for seen in results.values()) == 2


def test_a_teacher_carries_a_wrong_result_forward() -> None:
    rng, teacher = random.Random(0), Teacher(slip_rate=0.5)
    for chain in draw_chains("hard", "train", 50, seed=0):
        *lines, boxed = teacher.solve(chain, rng).split("\n")
        results = [line.split("=")[1] for line in lines]
        assert [line[0] for line in lines] == [str(chain.start), *results[:-1]]
        assert boxed == f"\\boxed{{{results[-1]}}}"


def test_a_teacher_without_slips_writes_the_solution() -> None:
    assert Teacher().solve(CHAIN, random.Random(0)) == SOLUTION


def test_a_slip_rate_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"slip rate 1\.5"):
        Teacher(slip_rate=1.5)


# ---------------------------------------------------------------- tokenizer


@given(st.text())
def test_any_text_comes_back_from_the_tokenizer_unchanged(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_digits_are_always_tokens_of_their_own() -> None:
    assert TOKENIZER.tokenize("1024\\boxed{10}") == ["1", "0", "2", "4", "\\boxed{", "1", "0", "}"]


def test_the_template_renders_turns_and_opens_the_answer() -> None:
    text = TOKENIZER.apply_chat_template(DIALOGUE[:1], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nModulo ten, left to right: 3+4*7-2<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_assistant_mask_covers_the_response_and_its_end_token() -> None:
    encoded = TOKENIZER.apply_chat_template(
        DIALOGUE, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    masked = TOKENIZER.decode([token for token, is_response in pairs if is_response])
    assert masked == DIALOGUE[1]["content"] + TURN_END


# ------------------------------------------------------- models and training


def test_an_untrained_checkpoint_reloads_with_equal_logits_and_tokens(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = untrained_checkpoint(tmp_path / "untrained", seed=3)
    text = DIALOGUE[0]["content"] + " Zoë’s 12 eggs"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids.tolist() == [TOKENIZER(text).input_ids]
    assert tokenizer.chat_template == TOKENIZER.chat_template
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, build_model(TOKENIZER, seed=3)(ids).logits)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(TURN_END)
    assert model.config.max_position_embeddings >= 2048


def test_building_a_model_leaves_the_global_random_state_alone() -> None:
    import torch

    before = torch.random.get_rng_state()
    build_model(TOKENIZER, TINY, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_examples_are_padded_on_the_right_and_marked_on_the_response() -> None:
    shorter = asked_and_answered(Chain(start=1, steps=(("+", 1),)), "1+1=2\n\\boxed{2}")
    examples = encode(TOKENIZER, [DIALOGUE, shorter])
    longest, length = examples.lengths.tolist()
    assert examples.ids.shape == (2, longest)
    assert (examples.ids[1, length:] == TOKENIZER.pad_token_id).all()
    assert (examples.ids[1, :length] != TOKENIZER.pad_token_id).all()
    response = examples.ids[1][examples.is_response[1]].tolist()
    assert TOKENIZER.decode(response) == "1+1=2\n\\boxed{2}" + TURN_END


def test_the_loss_is_that_of_the_response_tokens_whatever_the_padding() -> None:
    import torch

    model = build_model(TOKENIZER, TINY, seed=0)
    longer = asked_and_answered(CHAIN, SOLUTION * 5)
    alone, padded = encode(TOKENIZER, [DIALOGUE]), encode(TOKENIZER, [DIALOGUE, longer])
    with torch.inference_mode():
        log_probs = model(alone.ids).logits[0].log_softmax(-1)
        rows = torch.arange(2)
        n_tokens = padded.is_response.sum(1)
        expected = -sum(
            float(log_probs[i - 1, alone.ids[0, i]])
            for i in range(alone.ids.shape[1])
            if alone.is_response[0, i]
        )
        first = float(response_loss(model, alone, rows[:1])) * int(n_tokens[0])
        other = float(response_loss(model, padded, rows[1:])) * int(n_tokens[1])
        both = float(response_loss(model, padded, rows)) * int(n_tokens.sum())
    assert first == pytest.approx(expected, rel=1e-5)
    assert both == pytest.approx(expected + other, rel=1e-5)


def _losses(seed: int, n_steps: int = 4) -> list[float]:
    chains = draw_chains("easy", "train", 24, seed=0)
    examples = encode(TOKENIZER, [asked_and_answered(chain, chain.solution) for chain in chains])
    model = build_model(TOKENIZER, TINY, seed=seed)
    settings = TrainSettings(
        n_steps=n_steps, batch_size=16, learning_rate=1e-2, warmup_steps=2, seed=seed
    )
    return train(model, examples, settings)


def test_the_same_seed_gives_the_same_losses_bit_for_bit() -> None:
    assert _losses(seed=0) == _losses(seed=0)
    assert _losses(seed=0) != _losses(seed=1)


def test_training_lowers_the_loss() -> None:
    losses = _losses(seed=0, n_steps=40)
    assert losses[-1] < 0.6 * losses[0]


def test_the_rate_warms_up_and_falls_to_a_twentieth() -> None:
    settings = TrainSettings(n_steps=1000, warmup_steps=50)
    shares = [settings.rate_share(step) for step in range(1000)]
    assert shares[0] == pytest.approx(1 / 50, rel=0.01)
    assert max(range(1000), key=shares.__getitem__) == pytest.approx(49, abs=1)
    assert shares[-1] == pytest.approx(0.05, abs=1e-3)


def test_a_training_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_steps is 0"):
        TrainSettings(n_steps=0)


# --------------------------------------------------------------- the demo's folder

SMALL = DemoSettings(n_steps=2, n_unique=64, n_problems=5, n_heldout=7)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "world"
    assert make_demo(folder, SMALL).is_new
    return folder


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_benchmarks_hold_answered_test_problems(demo_folder: Path) -> None:
    for difficulty in DIFFICULTIES:
        rows = _rows(demo_folder / "benchmarks" / f"chain_{difficulty}.jsonl")
        chains = draw_chains(difficulty, "test", 5, seed=0)
        assert [row["problem"] for row in rows] == [chain.text for chain in chains]
        assert [row["answer"] for row in rows] == [chain.answer for chain in chains]
        assert len({row["id"] for row in rows}) == 5


def test_the_heldout_examples_are_correct_and_no_training_problem(demo_folder: Path) -> None:
    rows = _rows(demo_folder / "heldout.jsonl")
    chains = [
        chain
        for difficulty, n in (("easy", 4), ("hard", 3))
        for chain in draw_chains(difficulty, "heldout", n, seed=0)
    ]
    expected = [asked_and_answered(chain, chain.solution) for chain in chains]
    assert [row["messages"] for row in rows] == expected


def test_the_recipe_and_the_prompt_make_records(demo_folder: Path) -> None:
    recipe = Recipe.from_dict(tomllib.loads((demo_folder / "recipe.toml").read_text()))
    assert recipe == SMALL.recipe
    assert recipe.n_unique == 64
    assert recipe.epochs == 1.0
    assert recipe.extra["slip_rate"] == 0.2
    template = (demo_folder / "prompt.txt").read_text()
    assert Protocol(prompt_template=template).prompt_template == "{problem}"


def test_the_demo_checkpoint_is_that_of_its_seed(demo_folder: Path, tmp_path: Path) -> None:
    from rlready.registry.digest import fingerprint

    make_demo(tmp_path / "again", SMALL)
    again = fingerprint(tmp_path / "again" / "checkpoint")
    assert again == fingerprint(demo_folder / "checkpoint")


def test_a_second_call_with_the_same_settings_does_nothing(demo_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_folder.rglob("*")}

    def on_step(n_done: int, loss: float) -> None:
        pytest.fail("it trained again")

    assert not make_demo(demo_folder, SMALL, on_step).is_new
    assert {path: path.stat().st_mtime_ns for path in demo_folder.rglob("*")} == before


def test_other_settings_are_told_apart_by_name_and_change_nothing(demo_folder: Path) -> None:
    with pytest.raises(ConfigError, match="seed is 0 there and 1 is wanted"):
        make_demo(demo_folder, DemoSettings(seed=1, n_steps=2, n_unique=64))
    assert find_demo(demo_folder, SMALL) is not None


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=f"it holds no {MARK}"):
        make_demo(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_working_directory_may_become_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = make_demo(Path("."), SMALL)
    assert made.folder == tmp_path / "here"
    assert find_demo(tmp_path / "here", SMALL) is not None


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def on_step(n_done: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "world", SMALL, on_step)
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_a_demo_once_and_reports_it_as_json(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "world"), "--quick", "--steps", "2", "--json"]
    first, second = (CliRunner().invoke(main, arguments) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert json.loads(first.stdout)["is_new"]
    assert "loss" in first.stderr
    told = json.loads(second.stdout)
    assert not told["is_new"]
    assert second.stderr == ""
    assert (Path(told["checkpoint"]) / "model.safetensors").is_file()
    assert all(Path(path).is_file() for path in told["benchmarks"])


def test_the_command_tells_a_mistake_without_a_traceback(demo_folder: Path) -> None:
    result = CliRunner().invoke(main, ["--out", str(demo_folder), "--seed", "5"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Remove the folder, or name another." in result.stderr
