"""The testbed's parts: chains, tokenizer, models, training, and results that are folders."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.registry.errors import ConfigError
from rlready.testbed.folders import find_or_make
from rlready.testbed.training.model import ModelSize, build_model, untrained_checkpoint
from rlready.testbed.training.tokenizer import TURN_END, encode_pairs, world_tokenizer
from rlready.testbed.training.train import TrainSettings, response_loss, train
from rlready.testbed.world.chains import OPERANDS, Chain
from rlready.testbed.world.puzzles import reward
from rlready.testbed.world.solutions import solution

TOKENIZER = world_tokenizer()
CHAIN = Chain(start=3, steps=(("+", 4), ("*", 7), ("-", 2)))
QUESTION = "Modulo ten, left to right: 3+4*7-2"
SOLUTION = "3+4=7\n7*7=9\n9-2=7\n\\boxed{7}"
TINY = ModelSize(width=32, n_layers=1, mlp_width=64)

STEPS = st.sampled_from(sorted(OPERANDS)).flatmap(
    lambda operator: st.tuples(st.just(operator), st.sampled_from(OPERANDS[operator]))
)
CHAINS = st.builds(
    Chain, start=st.integers(0, 9), steps=st.lists(STEPS, min_size=1, max_size=6).map(tuple)
)


# ------------------------------------------------------------------- chains


def test_a_problem_reads_as_the_documentation_says() -> None:
    assert CHAIN.text == QUESTION
    assert solution(CHAIN, "canonical", random.Random(0)) == SOLUTION
    assert CHAIN.answer == "7"


@given(CHAINS)
def test_each_line_of_a_solution_is_true_and_goes_on_from_the_one_before(chain: Chain) -> None:
    *lines, boxed = solution(chain, "canonical", random.Random(0)).split("\n")
    value = chain.start
    for line, (operator, operand) in zip(lines, chain.steps, strict=True):
        expression, result = line.split("=")
        assert expression == f"{value}{operator}{operand}"
        value = eval(expression) % 10
        assert int(result) == value
    assert boxed == f"\\boxed{{{value}}}"
    assert chain.answer == str(value)


@given(CHAINS, st.data())
def test_a_box_with_any_other_digit_is_refused(chain: Chain, data: st.DataObject) -> None:
    digit = data.draw(st.sampled_from("0123456789").filter(lambda d: d != chain.answer))
    right = solution(chain, "canonical", random.Random(0))
    assert reward(chain, right)
    assert not reward(chain, right[: right.rindex("{") + 1] + digit + "}")
    assert not reward(chain, right[: right.rindex("\n")])


@given(CHAINS, st.integers(0, 2**32))
def test_a_wrong_result_is_carried_forward(chain: Chain, seed: int) -> None:
    wrong = solution(chain, "canonical", random.Random(seed), is_wrong=True)
    *lines, boxed = wrong.split("\n")
    results = [line.split("=")[1] for line in lines]
    assert [line[0] for line in lines] == [str(chain.start), *results[:-1]]
    assert boxed == f"\\boxed{{{results[-1]}}}"


def test_splits_have_their_shares() -> None:
    rng = random.Random(0)
    steps = [(op, n) for op in OPERANDS for n in OPERANDS[op]]
    some = [
        Chain(start=rng.randrange(10), steps=tuple(rng.choices(steps, k=4))) for _ in range(5000)
    ]
    shares = Counter(chain.split for chain in some)
    assert shares["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert shares["heldout"] / 5000 == pytest.approx(0.1, abs=0.02)


# ---------------------------------------------------------------- tokenizer


def test_digits_are_always_tokens_of_their_own() -> None:
    assert TOKENIZER.tokenize("1024\\boxed{10}") == ["1", "0", "2", "4", "\\boxed{", "1", "0", "}"]


def test_the_template_renders_turns_and_opens_the_answer() -> None:
    messages = [{"role": "user", "content": QUESTION}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"{QUESTION}\n"


# ------------------------------------------------------- models and training


def test_an_untrained_checkpoint_reloads_with_equal_logits_and_tokens(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = untrained_checkpoint(tmp_path / "untrained", seed=3)
    text = QUESTION + " Zoë’s 12 eggs"
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
    examples = encode_pairs(TOKENIZER, [(QUESTION, SOLUTION), ("1+1", "1+1=2\n\\boxed{2}")])
    longest, length = examples.lengths.tolist()
    assert examples.ids.shape == (2, longest)
    assert (examples.ids[1, length:] == TOKENIZER.pad_token_id).all()
    assert (examples.ids[1, :length] != TOKENIZER.pad_token_id).all()
    response = examples.ids[1][examples.is_response[1]].tolist()
    assert TOKENIZER.decode(response) == "1+1=2\n\\boxed{2}" + TURN_END


def test_the_loss_is_that_of_the_response_tokens_whatever_the_padding() -> None:
    import torch

    model = build_model(TOKENIZER, TINY, seed=0)
    alone = encode_pairs(TOKENIZER, [(QUESTION, SOLUTION)])
    padded = encode_pairs(TOKENIZER, [(QUESTION, SOLUTION), (QUESTION, SOLUTION * 5)])
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
    chains = [Chain(start=i % 10, steps=(("+", i // 10), ("*", 3))) for i in range(24)]
    pairs = [(c.text, solution(c, "canonical", random.Random(0))) for c in chains]
    model = build_model(TOKENIZER, TINY, seed=seed)
    settings = TrainSettings(
        n_steps=n_steps, batch_size=16, learning_rate=1e-2, warmup_steps=2, seed=seed
    )
    return train(model, encode_pairs(TOKENIZER, pairs), settings)


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


# ------------------------------------------------------ results that are folders


def make(draft: Path) -> dict[str, Any]:
    (draft / "weights").write_text("7")
    return {"cost": 3}


def never(draft: Path) -> dict[str, Any]:
    pytest.fail("it was made again")


def test_a_result_is_made_once_and_then_found(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "result"
    report, is_new = find_or_make(folder, "r.json", "key", make)
    assert (report, is_new) == ({"key": "key", "cost": 3}, True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert find_or_make(folder, "r.json", "key", never) == (report, False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_result_is_told_by_its_key_and_left_alone(tmp_path: Path) -> None:
    find_or_make(tmp_path / "result", "r.json", "key", make)
    with pytest.raises(ConfigError, match="has the key key, not other"):
        find_or_make(tmp_path / "result", "r.json", "other", never)
    assert find_or_make(tmp_path / "result", "r.json", "key", never)[0]["cost"] == 3


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        find_or_make(tmp_path, "r.json", "key", never)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_working_directory_may_become_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    find_or_make(Path("."), "r.json", "key", make)
    assert find_or_make(tmp_path / "here", "r.json", "key", never)[1] is False


def test_a_result_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(draft: Path) -> dict[str, Any]:
        make(draft)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_make(tmp_path / "result", "r.json", "key", interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key_of_the_faster", ["key", "other"])
def test_the_faster_of_two_processes_keeps_its_result(
    tmp_path: Path, key_of_the_faster: str
) -> None:
    """The slower one takes it for its own if it is the same, and says so if it is not."""
    folder = tmp_path / "result"

    def overtaken(draft: Path) -> dict[str, Any]:
        find_or_make(folder, "r.json", key_of_the_faster, lambda draft: {**make(draft), "cost": 1})
        return make(draft)

    def call() -> tuple[dict[str, Any], bool]:
        return find_or_make(folder, "r.json", "key", overtaken)

    if key_of_the_faster == "key":
        assert call()[0]["cost"] == 1
    else:
        with pytest.raises(ConfigError, match="holds something else"):
            call()
    assert json.loads((folder / "r.json").read_text())["cost"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
