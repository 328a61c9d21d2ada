"""The recipe space: its file, its limits, and a recipe's other forms."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import numeric_range, parse_space, read_space
from rlready.predictors.search.space_parts import Parametrisation, Points
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

SPACE: dict[str, Any] = {
    "token_budget": 2e8,
    "max_repetitions": 4,
    "recipe": {"base_model": "org/base"},
    "sources": {
        "a": {"available_tokens": 4e7, "mean_tokens": 300, "floor": 0.05},
        "b": {"available_tokens": 3e7, "mean_tokens": 600},
        "c": {"mean_tokens": 400, "cap": 0.5},
    },
    "n_unique": {"low": 20_000, "high": 600_000},
    "epochs": {"low": 1, "high": 8},
    "learning_rate": {"low": 1e-6, "high": 1e-4},
    "batch_size": {"choices": [32, 64]},
    "loss_weighting": {"choices": ["none", "pear_token"]},
    "length_filter": {"choices": ["all", "0-2048"]},
    "axes": {"warmup_share": {"low": 0.0, "high": 0.1}, "packing": {"choices": [True, False]}},
}


def changed(**values: Any) -> RecipeSpace:
    space = copy.deepcopy(SPACE)
    for key, value in values.items():
        table = space
        *path, last = key.split("__")
        for name in path:
            table = table.setdefault(name, {})
        if value is None:
            del table[last]
        else:
            table[last] = value
    return parse_space(space)


def drawn(space: RecipeSpace, seed: int, n: int = 8) -> Points:
    rng = np.random.default_rng(seed)
    weights = space.simplex.project(rng.dirichlet(np.full(len(space.sources), 0.5), n))
    axes = rng.random((n, len(space.axes)))
    for k, axis in enumerate(space.axes):
        if axis.kind == "categorical":
            axes[:, k] = rng.integers(0, len(axis.choices), n)
    return Points(weights=weights, axes=axes)


@given(st.sampled_from(["stick", "softmax", "sparse", "dirichlet"]), st.integers(0, 10_000))
@settings(max_examples=60)
def test_recipe_point_trial_and_features_agree(kind: Parametrisation, seed: int) -> None:
    space = dataclasses.replace(changed(), simplex_kind=kind)
    points = drawn(space, seed)
    recipes = [space.recipe(points, row) for row in range(len(points))]
    back = Points.joined([space.points(recipe) for recipe in recipes])
    tolerance = 1e-3 if kind == "softmax" else 1e-6
    trials = space.from_parameters([space.parameters(back, row) for row in range(len(back))])
    np.testing.assert_allclose(back.weights, points.weights, atol=1e-9)
    np.testing.assert_allclose(trials.weights, back.weights, atol=tolerance)
    np.testing.assert_allclose(trials.axes, back.axes, atol=1e-9)
    np.testing.assert_allclose(space.features(trials), space.features(back), atol=tolerance)
    again = [space.recipe(back, row) for row in range(len(back))]
    assert [r.n_unique for r in again] == [r.n_unique for r in recipes]
    assert [r.extra for r in again] == [
        pytest.approx(r.extra) if not r.extra else {**r.extra, **a.extra}
        for r, a in zip(recipes, again, strict=True)
    ]
    for parameters in (space.parameters(points, row) for row in range(len(points))):
        assert all(
            space.distributions()[name]._contains(
                space.distributions()[name].to_internal_repr(value)
            )
            for name, value in parameters.items()
        )


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_every_recipe_trains_on_the_budget(seed: int) -> None:
    space = changed()
    points = drawn(space, seed)
    lengths = {"a": 300, "b": 600, "c": 400}
    for row in range(len(points)):
        recipe = space.recipe(points, row)
        length = sum(weight * lengths[name] for name, weight in recipe.sources.items())
        assert recipe.n_unique is not None
        assert recipe.epochs is not None
        assert recipe.n_unique * recipe.epochs * length == pytest.approx(2e8)


def test_a_recipe_holds_fields_extras_and_what_is_fixed() -> None:
    recipe = changed().recipe(changed().stratified())
    assert recipe.base_model == "org/base"
    assert set(recipe.extra) == {"length_filter", "warmup_share", "packing"}
    assert recipe.batch_size in (32, 64)


def test_repetitions_are_a_limit_with_the_sign_of_optuna() -> None:
    space = changed()
    lots = space.start(np.array([[0.05, 0.95, 0.0]]))
    lots = Points(weights=np.array([[0.05, 0.95, 0.0]]), axes=lots.axes)
    # b: 0.95 * 600 / 585 of 2e8 tokens from 3e7, so 6.5 repetitions of 4.
    assert space.limits(lots)["repetitions:b"][0] == pytest.approx(6.496 / 4 - 1, abs=1e-3)
    assert not space.keeps_limits(lots)[0]
    assert space.keeps_limits(space.stratified())[0]


def test_mending_leads_recipes_within_their_limits() -> None:
    space = changed(sources__b__mean_tokens=300, sources__c__mean_tokens=300, n_unique__low=90_000)
    points = drawn(space, 0, 200)
    assert not space.keeps_limits(points).all()
    assert space.keeps_limits(space.mended(points)).mean() > 0.99


def test_stratified_is_even_where_that_is_allowed() -> None:
    space = changed(sources__a__available_tokens=4e8, sources__b__available_tokens=4e8)
    np.testing.assert_allclose(space.stratified().weights, 1 / 3)


def test_stratified_is_the_nearest_allowed_mixture_elsewhere() -> None:
    space = changed(sources__b__available_tokens=1e7)
    found = space.stratified()
    assert space.keeps_limits(found)[0]
    assert found.weights[0, 1] < 1 / 3


def test_a_file_and_its_values_give_the_same_space(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(
        "token_budget = 2e8\nmax_repetitions = 4\n[sources.a]\navailable_tokens = 1e8\n"
        "mean_tokens = 300\n[n_unique]\nlow = 20000\nhigh = 600000\n"
    )
    values = {
        "token_budget": 2e8,
        "max_repetitions": 4,
        "sources": {"a": {"available_tokens": 1e8, "mean_tokens": 300}},
        "n_unique": {"low": 20000, "high": 600000},
    }
    assert read_space(path) == parse_space(values)
    assert read_space(path).digest == parse_space(values).digest


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tokens": 1}, "the file has the unknown key 'tokens'.*Known keys: token_budget"),
        ({"sources__a__weight": 1}, r"\[sources\.a\] has the unknown key 'weight'.*floor"),
        ({"learning_rate__lo": 1}, r"\[learning_rate\] has the unknown key 'lo'.*low, high"),
        ({"sources__a__floor": 0.7, "sources__b__floor": 0.5}, "floors of the sources sum to 1.2"),
        ({"sources__a__cap": 0.2, "sources__b__cap": 0.2}, "caps of the sources sum to 0.9"),
        (
            {"sources__c__floor": "much"},
            r"sources\.c\.floor is 'much'\. It should be a valid number",
        ),
        ({"sources__a__mean_tokens": None}, "has available_tokens but no mean_tokens"),
        ({"loss_weighting__choices": ["pear"]}, "'pear' is unknown.*pear_sequence"),
        ({"length_filter__choices": ["short"]}, "'short' is not a range"),
        ({"learning_rate__low": 1e-3}, "learning_rate goes from 0.001 to 0.0001"),
        ({"axes__warmup_share__high": "x"}, r"axes\.warmup_share\.high is 'x'"),
        ({"axes__epochs": {"low": 1, "high": 2}}, r"axes\.epochs has a name that is taken"),
        ({"axes": {"a:b": {"low": 1, "high": 2}}}, "axes has the name 'a:b'.*without a colon"),
        ({"axes": {"": {"low": 1, "high": 2}}}, "axes has the name ''"),
        ({"length_filter__choices": ["20-10"]}, "'20-10' lets nothing pass.*smaller number first"),
        ({"axes__x": {"choices": [float("nan")]}}, r"choices\[0\] is nan\. It should be a finite"),
        ({"epochs__choices": [1, 2]}, "epochs has choices and a range"),
        ({"batch_size__choices": []}, r"batch_size\.choices is \[\]"),
        ({"batch_size__choices": [[1]]}, r"batch_size\.choices\[0\] is \[1\]\. Choices are texts"),
        ({"learning_rate__log": 1}, r"learning_rate\.log is 1\. It should be a valid boolean"),
        ({"token_budget": True}, "token_budget is True. It should be a valid number"),
        ({"token_budget": float("inf")}, "token_budget is inf. It should be a finite number"),
        ({"token_budget": -1}, "token_budget is -1. It should be greater than 0"),
        ({"sources__a": 3}, r"sources\.a is 3\. It should be a table: write \[sources\.a\]"),
        ({"simplex": "logit"}, "simplex is 'logit'.*'stick', 'softmax'"),
        ({"recipe__learning_rate": 1e-5}, "learning_rate is both searched and fixed"),
        ({"recipe__sources": {"a": 1.0}}, "fixes the sources"),
        ({"batch_size__choices": ["many"]}, "batch_size is 'many'"),
        ({"sources": {}}, "names no sources"),
        ({"n_unique__low": 400_000, "n_unique__high": 500_000, "epochs__low": 7}, "epochs of"),
    ],
)
def test_an_invalid_space_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(**values)


def test_a_budget_that_no_mixture_can_fill_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"budget of 2e\+08 .* give 1.2e\+08.*a: 2e\+07 .* x 4"):
        changed(
            sources__a__available_tokens=2e7,
            sources__b__available_tokens=1e7,
            sources__c=None,
        )


def test_a_floor_that_needs_too_many_repetitions_is_refused() -> None:
    said = r"no mixture meets the floors and caps.*a has a floor of 0.9, but its 4e\+07 tokens"
    with pytest.raises(ConfigError, match=said):
        changed(sources__a__floor=0.9, sources__a__available_tokens=1e7)


def test_repetitions_without_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_repetitions of a, b, c cannot be checked"):
        changed(token_budget=None, n_unique=None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sources": {"d": 1.0}}, "source d is not in the space"),
        ({"sources": {"a": 0.3, "c": 0.7}}, "breaks a floor or a cap"),
        ({"learning_rate": 1.0}, "learning_rate 1 is outside"),
        ({"base_model": "other"}, "base_model is 'other', the space's 'org/base'"),
        ({"epochs": 3.0}, "trains on"),
        ({"loss_weighting": "iw"}, "not one of"),
        ({"batch_size": None}, "no batch_size"),
    ],
)
def test_a_recipe_outside_the_space_says_why(values: dict[str, Any], said: str) -> None:
    space = changed()
    known = {**space.recipe(space.stratified()).to_dict(), **values}
    recipe = Recipe.from_dict({key: value for key, value in known.items() if value is not None})
    with pytest.raises(ConfigError, match=said):
        space.points(recipe)


def test_without_a_budget_epochs_are_an_axis() -> None:
    space = changed(token_budget=None)
    assert [axis.name for axis in space.axes][:2] == ["n_unique", "epochs"]
    points = space.start(np.array([[0.4, 0.3, 0.3]]))
    assert space.tokens(points) is not None
    assert "epochs" not in space.limits(points)


def test_filters_read_ranges() -> None:
    assert numeric_range("0-2048") == (0.0, 2048.0)
    assert numeric_range("512-") == (512.0, np.inf)
    with pytest.raises(ConfigError, match="lets nothing pass"):
        numeric_range("5-5")
