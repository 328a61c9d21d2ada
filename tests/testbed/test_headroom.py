"""The world "headroom": puzzles that the base has never seen, its recipes, and the first world."""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.testbed.study.design import PROFILES, make_design
from rlready.testbed.study.recipes import choose_recipes, drawn_recipes
from rlready.testbed.study.shipped import shipped_recipes, shipped_rows
from rlready.testbed.study.unit import write_inputs
from rlready.testbed.training.grpo import GrpoSettings, pool
from rlready.testbed.training.sft import SftRecipe, examples_of
from rlready.testbed.training.tokenizer import world_tokenizer
from rlready.testbed.world.benchmarks import benchmarks
from rlready.testbed.world.measure import MAX_TOKENS
from rlready.testbed.world.puzzles import reward
from rlready.testbed.world.skills import draw_any, draw_different
from rlready.testbed.world.solutions import STYLES, solution
from rlready.testbed.world.untaught import (
    DRAW,
    Multiplication,
    OctalAddition,
    Sorting,
    Subtraction,
    UntaughtPuzzle,
)
from rlready.testbed.world.worlds import FIRST, HEADROOM, world_of

SEEDS = st.integers(0, 2**32)

ANSWERS: dict[type, Callable[..., str]] = {
    Subtraction: lambda p: str(p.left - p.right),
    Multiplication: lambda p: str(p.number * p.factor),
    OctalAddition: lambda p: f"{int(p.left, 8) + int(p.right, 8):o}",
    Sorting: lambda p: "".join(map(str, sorted(p.digits))),
}


@given(st.sampled_from(sorted(DRAW)), st.sampled_from(STYLES), SEEDS)
def test_solutions_reach_the_answer_of_python(skill: str, style: str, seed: int) -> None:
    puzzle = draw_any(skill, "train", random.Random(seed))
    assert isinstance(puzzle, UntaughtPuzzle)
    assert puzzle.answers == (ANSWERS[type(puzzle)](puzzle),)
    assert reward(puzzle, solution(puzzle, style, random.Random(seed)))  # type: ignore[arg-type]
    assert not puzzle.accepts(f"{puzzle.answers[0]}0")


@given(st.sampled_from(sorted(DRAW)), SEEDS)
def test_a_wrong_step_gives_a_wrong_answer(skill: str, seed: int) -> None:
    puzzle = draw_any(skill, "train", random.Random(seed))
    right = solution(puzzle, "canonical", random.Random(seed))
    wrong = solution(puzzle, "canonical", random.Random(seed), is_wrong=True)
    assert not reward(puzzle, wrong)
    assert len(wrong.splitlines()) == len(right.splitlines())


@pytest.mark.parametrize(
    ("puzzle", "text", "lines"),
    [
        (Subtraction(left=74, right=36), "Subtract: 74-36", "4-6=8 7-3-1=3 \\boxed{38}"),
        (Subtraction(left=50, right=49), "Subtract: 50-49", "0-9=1 5-4-1=0 \\boxed{1}"),
        (
            Multiplication(number=347, factor=3),
            "Multiply: 347*3",
            "7*3=21 4*3+2=14 3*3+1=10 \\boxed{1041}",
        ),
        (OctalAddition(left="45", right="27"), "Base eight: 45+27", "5+7=14 4+2+1=7 \\boxed{74}"),
        (
            Sorting(digits=(5, 1, 9, 3)),
            "Sort: 5193",
            "5193=1 593=3 59=5 9=9 \\boxed{1359}",
        ),
    ],
)
def test_known_solutions(puzzle: UntaughtPuzzle, text: str, lines: str) -> None:
    assert puzzle.text == text
    assert solution(puzzle, "canonical", random.Random(0)).split("\n") == lines.split()


def test_terse_solutions_leave_out_what_the_line_before_gave() -> None:
    rng = random.Random(0)
    product = Multiplication(number=347, factor=3)
    assert solution(product, "terse", rng).startswith("7*3=21\n4*3=14\n3*3=10\n")
    assert solution(Sorting(digits=(5, 1, 9, 3)), "terse", rng).startswith("=1\n=3\n=5\n=9\n")


@pytest.mark.parametrize("skill", HEADROOM.skills)
def test_solutions_are_shorter_than_what_is_sampled(skill: str) -> None:
    tokenizer, rng = world_tokenizer(), random.Random(0)
    for puzzle in draw_different(skill, "test", 200, 0):
        for style in STYLES:
            assert len(tokenizer(solution(puzzle, style, rng)).input_ids) < MAX_TOKENS


@pytest.mark.parametrize("skill", sorted(DRAW))
def test_there_are_enough_problems_for_any_recipe(skill: str) -> None:
    """A recipe may take all of its 1,600 different examples from one skill."""
    assert len(examples_of(SftRecipe(n_unique=1600, mix={skill: 1.0}))) == 1600


def test_a_mixture_belongs_to_one_world() -> None:
    assert world_of("mixed") == FIRST
    assert world_of("headroom") == HEADROOM
    with pytest.raises(ConfigError, match=r"Known mixes: mixed, .*headroom"):
        world_of("none")
    skills = {item.id.rpartition("-")[0] for item in pool(GrpoSettings(mix="mixed"))}
    assert skills == {"pool"}


def test_rl_and_measurements_stay_in_the_world(tmp_path: Path) -> None:
    profile = PROFILES["headroom"]
    texts = {item.puzzle.text.split(":")[0] for item in pool(profile.grpo)}
    assert {"Subtract", "Multiply", "Base eight", "Sort"} < texts
    assert not any(text.startswith("Left to right") for text in texts)
    write_inputs(tmp_path, profile)
    files = {path.stem for path in (tmp_path / "inputs" / "before").glob("*.jsonl")}
    assert files == set(HEADROOM.skills)
    row = json.loads((tmp_path / "inputs" / "heldout_terse.jsonl").read_text().splitlines()[0])
    assert row["messages"][0]["content"]
    assert "[sources.sort4]" in (tmp_path / "inputs" / "space.toml").read_text()


def test_the_halves_before_and_after_share_no_problem() -> None:
    before, after = (benchmarks(half, 50, HEADROOM.skills) for half in ("before", "after"))  # type: ignore[arg-type]
    for skill in HEADROOM.skills:
        texts = {item.puzzle.text for item in before[skill]}
        assert not texts & {item.puzzle.text for item in after[skill]}


def test_drawn_recipes_are_the_same_each_time_and_a_larger_number_gives_more() -> None:
    few, many = drawn_recipes(5, HEADROOM), drawn_recipes(48, HEADROOM)
    assert many[:5] == few
    assert len({recipe.id for recipe in many}) == 48
    assert {recipe.budget for recipe in many} == {7680}
    assert make_design("headroom", 0, 1).recipes == tuple(many)
    with pytest.raises(ConfigError, match="Give 1 to"):
        drawn_recipes(10_000, HEADROOM)


def test_the_shipped_table_has_the_recipes_of_the_design_and_their_spread() -> None:
    rows = shipped_rows("headroom")
    assert list(shipped_recipes("headroom")) == list(rows)
    after = [float(row["value_at_budget/60steps@world_after"]) for row in rows.values()]
    errors = [float(row["value_at_budget/60steps_se@world_after"]) for row in rows.values()]
    assert len(rows) == 48
    assert statistics.stdev(after) > 5 * statistics.fmean(errors)


def test_the_first_world_has_the_digest_that_it_had_before_there_was_a_second() -> None:
    """Results of earlier runs are found again by this digest."""
    ids = [recipe.id for recipe in choose_recipes(48)]
    assert digest([dataclasses.asdict(PROFILES["full"]), ids]) == "f42f32dbdd6673367cbe28cf93d33a0f"
