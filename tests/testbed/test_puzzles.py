"""The world's puzzles, solutions, splits and design: exact verifiers and listed recipes."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.testbed.study.recipes import AXES, choose_recipes
from rlready.testbed.training.sft import SftRecipe, examples_of
from rlready.testbed.world.benchmarks import benchmark, benchmarks, write_benchmarks, write_heldout
from rlready.testbed.world.chains import Chain
from rlready.testbed.world.puzzles import Addition, AnyPuzzle, Countdown, boxed, reward, values
from rlready.testbed.world.skills import (
    MIXES,
    SKILLS,
    VARIANTS,
    draw_any,
    draw_different,
    draw_mixture,
)
from rlready.testbed.world.solutions import STYLES, solution, worked_out

ALL = (*SKILLS, *VARIANTS)
SEEDS = st.integers(0, 2**32)
COUNTDOWN = Countdown(numbers=(3, 5, 7), target=20, solution=(7, (("-", 3), ("*", 5))))


def puzzle_of(skill: str, seed: int) -> AnyPuzzle:
    return draw_any(skill, "train", random.Random(seed))


def test_the_problems_read_as_documented() -> None:
    assert COUNTDOWN.text == "Left to right, make 20 of 3, 5, 7"
    assert Addition(left=345, right=678).text == "Add digit by digit: 345+678"
    chain = Chain(start=3, steps=(("+", 4), ("*", 7)), rule="leftward")
    assert chain.text == "Modulo ten, right to left: 3+4*7"
    assert chain.answer == "1"
    assert Chain(start=3, steps=(("+", 4), ("*", 7)), rule="seven").answer == "0"


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("canonical", "9+6=15\n8+7+1=16\n\\boxed{165}"),
        ("terse", "9+6=15\n8+7=16\n\\boxed{165}"),
        ("answer", "\\boxed{165}"),
    ],
)
def test_an_addition_in_each_style(style: str, expected: str) -> None:
    assert solution(Addition(left=89, right=76), style, random.Random(0)) == expected  # type: ignore[arg-type]


def test_styles_of_a_chain_and_of_a_countdown() -> None:
    chain = Chain(start=3, steps=(("+", 4), ("*", 7)))
    rng = random.Random(0)
    assert solution(chain, "canonical", rng) == "3+4=7\n7*7=9\n\\boxed{9}"
    assert solution(chain, "terse", rng) == "3+4=7\n*7=9\n\\boxed{9}"
    assert solution(COUNTDOWN, "canonical", rng) == "7-3=4\n4*5=20\n\\boxed{7-3*5}"
    shuffled = {solution(chain, "shuffled", rng) for _ in range(50)}
    assert shuffled == {"3+4=7\n7*7=9\n\\boxed{9}", "4+3=7\n7*7=9\n\\boxed{9}"}


@given(st.sampled_from(ALL), st.sampled_from(STYLES), SEEDS)
def test_made_solutions_are_accepted(skill: str, style: str, seed: int) -> None:
    puzzle = puzzle_of(skill, seed)
    assert reward(puzzle, solution(puzzle, style, random.Random(seed)))  # type: ignore[arg-type]


@given(st.sampled_from(SKILLS), SEEDS)
def test_every_line_of_a_solution_is_true(skill: str, seed: int) -> None:
    puzzle = puzzle_of(skill, seed)
    for line in solution(puzzle, "shuffled", random.Random(seed)).split("\n")[:-1]:
        left, result = line.split("=")
        difference = eval(left) - int(result)
        assert difference % 10 == 0 if isinstance(puzzle, Chain) else difference == 0


@given(st.sampled_from(SKILLS), SEEDS)
def test_a_noisy_solution_has_a_wrong_line(skill: str, seed: int) -> None:
    puzzle = puzzle_of(skill, seed)
    lines, _ = worked_out(puzzle, random.Random(seed), is_wrong=True)
    wrong = 0
    for line in lines:
        value = eval(line.operator.join(map(str, line.operands)))
        wrong += line.result != (value % 10 if isinstance(puzzle, Chain) else value)
    assert wrong == 1


@given(st.sampled_from(("chain_hard", "add3")), SEEDS, st.data())
def test_a_number_with_any_other_digit_is_refused(
    skill: str, seed: int, data: st.DataObject
) -> None:
    puzzle = puzzle_of(skill, seed)
    (answer,) = puzzle.answers
    place = data.draw(st.integers(0, len(answer) - 1))
    digit = data.draw(st.sampled_from("0123456789").filter(lambda d: d != answer[place]))
    assert not puzzle.accepts(answer[:place] + digit + answer[place + 1 :])


@given(st.sampled_from(("count3", "count4")), SEEDS)
def test_every_right_countdown_answer_is_accepted_and_no_other(skill: str, seed: int) -> None:
    """Against all expressions of the numbers, in numbers and operators alike."""
    puzzle = puzzle_of(skill, seed)
    assert isinstance(puzzle, Countdown)
    rng = random.Random(seed)
    orders = sorted(set(itertools.permutations(puzzle.numbers)))
    for start, *others in rng.sample(orders, min(6, len(orders))):
        for operators in itertools.product("+-*", repeat=len(others)):
            text, value = str(start), start
            for operator, other in zip(operators, others, strict=True):
                text, value = f"{text}{operator}{other}", eval(f"{value}{operator}{other}")
            assert puzzle.accepts(text) == (value == puzzle.target)


def test_several_right_answers_count() -> None:
    puzzle = Countdown(numbers=(2, 3, 4), target=20, solution=(2, (("+", 3), ("*", 4))))
    assert puzzle.accepts("2+3*4")
    assert puzzle.accepts("3+2*4")


@pytest.mark.parametrize(
    "answer",
    [
        "20",
        "4*5",
        "7-3*5*1",
        "7-3+5",
        "5*7-3",
        "7-3*5=20",
        " 7-3*5",
        "(7-3)*5",
        "",
        "7--3*5",
        "٧-3*5",
    ],
)
def test_what_is_no_right_countdown_answer_is_refused(answer: str) -> None:
    assert not COUNTDOWN.accepts(answer)


def test_an_endless_answer_is_refused_at_once() -> None:
    assert not COUNTDOWN.accepts("7-3*5" + "*5" * 10**6)
    assert not Addition(left=10, right=10).accepts("9" * 10**7)


@given(st.text(max_size=40))
def test_the_last_box_counts_and_any_text_is_read(text: str) -> None:
    assume("\\boxed{" not in text)
    assert boxed(text) is None
    assert boxed(f"\\boxed{{1}}{text}\\boxed{{7-3*5}}") == "7-3*5"
    assert reward(COUNTDOWN, f"{text}\\boxed{{7-3*5}}")
    assert not reward(COUNTDOWN, f"{text}\\boxed{{7-3*5")


@given(SEEDS, st.integers(1, 4))
def test_values_are_those_of_bracketed_arithmetic(seed: int, n: int) -> None:
    rng = random.Random(seed)
    start, steps = rng.randint(0, 9), [(rng.choice("+-*"), rng.randint(0, 9)) for _ in range(n)]
    text = "(" * n + str(start) + "".join(f"{op}{number})" for op, number in steps)
    assert values(start, steps)[-1] == eval(text)


# ------------------------------------------------------------------ splits and benchmarks


@pytest.mark.parametrize("skill", ALL)
def test_splits_of_a_skill_are_disjoint(skill: str) -> None:
    drawn = [
        {puzzle.text for puzzle in draw_different(skill, split, 150, seed=0)}
        for split in ("test", "heldout", "train")
    ]
    assert [len(texts) for texts in drawn] == [150] * 3
    assert len(set.union(*drawn)) == 450


def test_halves_are_disjoint_and_make_up_the_whole() -> None:
    for skill in SKILLS:
        before, after = benchmark(skill, "before"), benchmark(skill, "after")
        assert len(before) == len(after) == 100
        texts = {item.puzzle.text for item in (*before, *after)}
        assert len(texts) == 200
        assert {item.id for item in benchmark(skill, "all")} == {i.id for i in (*before, *after)}
        assert benchmark(skill, "before", 10) == before[:10]


def test_no_test_problem_is_ever_trained_on() -> None:
    tested = {item.puzzle.text for items in benchmarks("all").values() for item in items}
    trained = {question for question, _ in examples_of(SftRecipe(budget=3000, n_unique=3000))}
    assert not tested & trained


def test_written_benchmarks_load_and_hold_numbers_only(tmp_path: Path) -> None:
    from rlready.evaluators.benchmarks.problems import BenchmarkSource, load_benchmark

    paths = write_benchmarks(tmp_path, n_per_half=5)
    names = {path.stem for path in paths}
    assert names == {*ALL} - {"count3", "count4"}
    loaded = load_benchmark(BenchmarkSource(name="add3", location=tmp_path / "after/add3.jsonl"))
    assert [(p.id, p.text) for p in loaded.problems] == [
        (item.id, item.puzzle.text) for item in benchmark("add3", "after", 5)
    ]
    row = json.loads((tmp_path / "before" / "chain_easy.jsonl").read_text().split("\n")[0])
    assert set(row) == {"id", "problem", "answer"}


def test_heldout_examples_are_right_and_neither_trained_nor_tested(tmp_path: Path) -> None:
    paths = write_heldout(tmp_path, n=12)
    assert [path.stem for path in paths] == [f"heldout_{style}" for style in STYLES]
    for path in paths:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == 12
        puzzles = dict(draw_mixture_texts("heldout", 12))
        for row in rows:
            question, response = (message["content"] for message in row["messages"])
            assert reward(puzzles[question], response)
            assert puzzles[question].split == "heldout"


def draw_mixture_texts(split: str, n: int) -> list[tuple[str, AnyPuzzle]]:
    drawn = draw_mixture(MIXES["mixed"], split, n, seed=0)  # type: ignore[arg-type]
    return [(puzzle.text, puzzle) for _, puzzle in drawn]


def test_mixtures_sum_to_one_and_are_drawn_in_their_shares() -> None:
    for name, weights in MIXES.items():
        assert sum(weights.values()) == pytest.approx(1)
        drawn = draw_mixture(weights, "train", 40, seed=0)
        assert len({puzzle.text for _, puzzle in drawn}) == 40, name
        counts = Counter(skill for skill, _ in drawn)
        assert all(abs(counts[skill] - 40 * share) < 1 for skill, share in weights.items())


# ---------------------------------------------------------------------- recipes and design


def test_noise_spoils_its_share_of_the_examples() -> None:
    recipe = SftRecipe(budget=400, n_unique=400, noise=0.3, style="answer", mix="hard")
    clean = SftRecipe(budget=400, n_unique=400, style="answer", mix="hard")
    pairs = zip(examples_of(recipe), examples_of(clean), strict=True)
    assert sum(noisy[1] != good[1] for noisy, good in pairs) == pytest.approx(120, abs=6)


def test_a_recipe_becomes_a_record_and_back() -> None:
    record = SftRecipe(budget=6400, n_unique=800, style="terse", noise=0.3).record("base", "abc")
    assert Recipe.from_dict(record.to_dict()) == record
    assert (record.epochs, record.n_unique, record.extra["style"]) == (8.0, 800, "terse")


@pytest.mark.parametrize(
    "wrong", [{"n_unique": 0}, {"n_unique": 7000}, {"noise": 1.5}, {"style": "x"}, {"mix": "x"}]
)
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SftRecipe(**wrong)  # type: ignore[arg-type]


def test_a_smaller_design_is_the_beginning_of_a_larger_one() -> None:
    full = choose_recipes(48)
    assert choose_recipes(12) == full[:12]
    assert len({recipe.id for recipe in full}) == 48
    assert all(re.fullmatch(r"[a-z0-9.-]+", recipe.id) for recipe in full)
    assert choose_recipes(12, seed=1) != full[:12]


def test_the_full_design_is_balanced_on_every_axis() -> None:
    full = choose_recipes(48)
    for axis in ("budget", "style", "noise", "mix", "learning_rate"):
        counts = Counter(getattr(recipe, axis) for recipe in full)
        assert len(counts) == len(AXES[axis])
        assert max(counts.values()) - min(counts.values()) <= 2
    epochs = Counter(recipe.budget // recipe.n_unique for recipe in full)
    assert epochs == {1: 16, 8: 16, 40: 16}


def test_a_design_larger_than_the_crossing_is_refused() -> None:
    with pytest.raises(ConfigError, match="721"):
        choose_recipes(721)
