"""The arithmetic of the table of SFT settings: paired differences, and the noise beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sft_knobs import FULL, KNOBS, PLAIN, Measure, designed, difference, level, settings


def test_the_noise_leaves_out_settings_and_seeds() -> None:
    """Values that are sums of a setting's and a seed's part have no residual."""
    sums = np.array([0.3, 0.4, 0.1])[:, None] + np.array([0.0, 0.02, 0.05])
    assert Measure(sums).sd_residual == pytest.approx(0.0, abs=1e-12)
    assert Measure(sums).sd_plain == pytest.approx(np.std([0.0, 0.02, 0.05], ddof=1))


def test_the_residual_of_two_seeds_is_half_of_the_variance_of_the_differences() -> None:
    values = np.array([[0.1, 0.2], [0.4, 0.3], [0.2, 0.7], [0.0, 0.1]])
    between = (values[:, 1] - values[:, 0]).var(ddof=1) / 2
    measure = Measure(values)
    assert measure.sd_residual == pytest.approx(math.sqrt(between))
    quantile = stats.t.ppf(1 - 0.05 / 6, 3)
    assert measure.beyond == pytest.approx(quantile * math.sqrt(between))


def test_no_knob_is_bold_without_an_effect_in_19_of_20_columns() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        measure = Measure(rng.normal(size=(12, 2)) + rng.normal(size=2))
        found += bool((np.abs(measure.differences_KS.mean(1)) > measure.beyond).any())
    assert 0.01 < found / 500 < 0.07


def test_cells_show_both_differences_of_two_seeds_and_the_error_of_three() -> None:
    two = Measure(np.array([[0.1, 0.2], [0.2, 0.4], [0.1, 0.2], [0.1, 0.2]]))
    assert level(two) == "0.150 (0.100, 0.200)"
    assert difference(two, 0) == "+0.150 (+0.100, +0.200)"
    assert difference(Measure(np.array([[0.1], [0.3]])), 0) == "+0.200"
    three = Measure(np.array([[0.0, 0.0, 0.0], [0.1, 0.2, 0.3], [0.0, 0.1, -0.1]]))
    assert difference(three, 1) == "+0.000 ± 0.058"


def test_each_setting_changes_one_thing_and_has_a_recipe_of_its_own() -> None:
    recipes = settings(is_quick=False)
    assert len({recipe.id for recipe in recipes.values()}) == 1 + len(KNOBS)
    design = designed(recipes, FULL, 1, 2)
    assert [recipe.seed for recipe in design.recipes] == [1] * 12
    assert recipes["plain"] == PLAIN
