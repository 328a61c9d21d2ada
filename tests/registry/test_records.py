"""Records: checked when made, ids that follow the content."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.registry.digest import canonical_json, digest
from rlready.registry.errors import CheckpointError, RecordError
from rlready.registry.outcomes import Outcome
from rlready.registry.records import Checkpoint, Evaluation, Problem, Protocol, Proxy, Recipe

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
ID = "0123456789abcdef" * 2


def proxy(**changes: Any) -> Proxy:
    values: dict[str, Any] = {
        "name": "pass_at_4",
        "value": 0.5,
        "se": 0.1,
        "unit": "probability",
        "benchmark": "gsm8k",
        "benchmark_digest": ID,
        "n_problems": 10,
        "n_samples": 40,
        "evaluator_version": "1",
    }
    return Proxy(**(values | changes))


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_ids_ignore_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(list(value.items()))))


@given(JSON, JSON)
def test_different_values_have_different_ids(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == (canonical_json(a) == canonical_json(b))


def test_nan_has_no_id() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest(math.nan)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_template": "Q: {problem}"},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"max_tokens": 10},
        {"seed": 1},
        {"seed_rule": "other"},
        {"answer_format": "auto"},
    ],
)
def test_a_protocols_id_changes_with_every_field(change: dict[str, Any]) -> None:
    protocol = Protocol(prompt_template="{problem}")
    assert dataclasses.replace(protocol, **change).digest != protocol.digest
    assert len(change) == 1
    assert set(change) <= {field.name for field in dataclasses.fields(Protocol)}


def test_the_answer_format_is_no_part_of_what_is_drawn() -> None:
    boxed = Protocol(prompt_template="{problem}")
    hashed = dataclasses.replace(boxed, answer_format="hash")
    assert hashed.digest != boxed.digest
    assert hashed.draws_digest == boxed.draws_digest == boxed.digest
    # The id that this protocol had before there were answer formats.
    assert boxed.digest == "9426308cdc4dba289bcd54258b56f49c"
    assert "answer_format" not in boxed.to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt_template": "no placeholder"}, "has no {problem}"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top-p is 0"),
        ({"max_tokens": 0}, "max tokens is 0"),
        ({"answer_format": "box"}, "boxed, hash, phrase, last, auto"),
    ],
)
def test_an_impossible_protocol_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Protocol(**({"prompt_template": "{problem}"} | values))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_undefined_proxy_is_no_record(value: float) -> None:
    with pytest.raises(RecordError, match="left out"):
        proxy(value=value)


def test_an_evaluation_holds_each_proxy_once() -> None:
    checkpoint = Checkpoint(uri="file:///x", fingerprint=ID, name="x")
    with pytest.raises(RecordError, match="more than once"):
        Evaluation(checkpoint=checkpoint, proxies=(proxy(), proxy(value=0.6)))
    both = Evaluation(checkpoint=checkpoint, proxies=(proxy(), proxy(benchmark="svamp")))
    swapped = Evaluation(checkpoint=checkpoint, proxies=both.proxies[::-1])
    assert both.id == swapped.id


def test_a_recipe_comes_back_from_its_values_with_unknown_keys() -> None:
    values = {
        "base_model": "base",
        "sources": {"easy": 0.25, "hard": 0.75},
        "n_unique": 100,
        "epochs": 2,
        "noise": 0.1,
    }
    recipe = Recipe.from_dict(values)
    assert recipe.extra == {"noise": 0.1}
    assert recipe.to_dict() == values
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": {"a": 0.5, "b": 0.4}}, "sum to 0.9"),
        ({"sources": {"a": 1.5, "b": -0.5}}, "outside"),
        ({"sources": "easy"}, "not a table"),
        ({"n_unique": "many"}, "not a whole number"),
        ({"epochs": True}, "not a number"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_an_impossible_recipe_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Recipe.from_dict(values)


def test_a_checkpoint_is_not_its_own_parent() -> None:
    with pytest.raises(RecordError, match="own parent"):
        Checkpoint(uri="file:///x", fingerprint=ID, name="x", parents=(ID,))


def test_an_answer_of_a_problem_is_not_empty() -> None:
    with pytest.raises(RecordError, match="empty reference answer"):
        Problem(id="a", text="1+1", answers=("2", " "))


def test_an_error_keeps_its_parts_on_the_way_out_of_a_process() -> None:
    error = CheckpointError("it broke", why="it was old", fix="Buy another")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is CheckpointError
    assert str(copy) == str(error) == "it broke: it was old. Buy another."


def outcome(**changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "checkpoint_id": ID,
        "algorithm": "grpo",
        "budget": 60,
        "budget_unit": "steps",
        "statistic": "value_at_budget",
        "benchmark": "gsm8k",
        "value": 0.6,
    }
    return Outcome(**{**values, **changes})


def test_an_outcomes_key_names_statistic_budget_and_benchmark() -> None:
    assert outcome().key == "value_at_budget/60steps@gsm8k"
    hours = outcome(budget=1.5, budget_unit="gpu_hours", statistic="peak")
    assert hours.key == "peak/1.5gpu_hours@gsm8k"
    assert outcome(budget=1 / 3).budget_text == "0.3333333333333333steps"


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint_id": ID[::-1]},
        {"algorithm": "dapo"},
        {"budget": 61},
        {"budget_unit": "samples"},
        {"statistic": "peak"},
        {"benchmark": "aime24"},
        {"value": 0.61},
        {"se": 0.0},
        {"seed": 0},
        {"n_evaluations": 2},
        {"rl_recipe": {"group_size": 8}},
        {"benchmark_digest": ID},
        {"protocol_digest": ID},
        {"evaluator_version": "1"},
        {"rl_checkpoint_id": ID[::-1]},
        {"replaces": ID},
    ],
)
def test_every_field_of_an_outcome_changes_its_id(changes: dict[str, Any]) -> None:
    assert set(changes) <= {field.name for field in dataclasses.fields(Outcome)}
    assert outcome(**changes).id != outcome().id


def test_equal_outcomes_have_one_id() -> None:
    assert outcome(budget=60, value=1).id == outcome(budget=60.0, value=1.0).id
    assert outcome(value=-0.0).id == outcome(value=0.0).id
    recipes = ({"a": (1, 2), "b": 1}, {"b": 1, "a": [1, 2]})
    assert len({outcome(rl_recipe=recipe).id for recipe in recipes}) == 1


@given(recipe=st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_an_rl_recipe_is_what_json_gives_back(recipe: dict[str, Any]) -> None:
    once = outcome(rl_recipe=recipe)
    assert outcome(rl_recipe=once.rl_recipe) == once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": math.nan}, "undefined is left out"),
        ({"value": math.inf}, "undefined is left out"),
        ({"se": -0.1}, "standard error"),
        ({"se": math.nan}, "standard error"),
        ({"budget": 0}, "without RL a number is a proxy"),
        ({"budget": math.inf}, "budget"),
        ({"budget_unit": "days"}, "Known: steps, gpu_hours, exaflop, samples"),
        ({"statistic": "best"}, "Known: value_at_budget, peak"),
        ({"benchmark": " "}, "no benchmark"),
        ({"algorithm": ""}, "no algorithm"),
        ({"n_evaluations": 0}, "0 evaluations"),
        ({"checkpoint_id": "x"}, "is not a digest"),
        ({"replaces": "x"}, "is not a digest"),
        ({"rl_checkpoint_id": ID}, "its own outcome"),
        ({"rl_recipe": {"temperature": math.nan}}, "is not JSON"),
        ({"rl_recipe": {"when": object()}}, "is not JSON"),
    ],
)
def test_an_outcome_that_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        outcome(**changes)


@pytest.mark.parametrize(
    "name", ["reward", "train/reward", "Training Reward", "mean_reward", "rewards", "reward/mean"]
)
def test_the_training_reward_is_no_outcome(name: str) -> None:
    with pytest.raises(RecordError, match="also rises when RL exploits it"):
        outcome(benchmark=name)
    assert outcome(benchmark="rewardbench").benchmark == "rewardbench"


@pytest.mark.parametrize("weight", [{}, "1", None, True, [1.0]])
def test_a_source_whose_share_is_no_number_is_refused(weight: object) -> None:
    """A space of the search, `[sources.gsm8k]`, given as a recipe."""
    with pytest.raises(RecordError, match=r"recipe sources.gsm8k is .* not a number"):
        Recipe.from_dict({"sources": {"gsm8k": weight}})
