"""Validation at the sizes where something begins or ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.predictors.validation.report import ValidationReport
from rlready.predictors.validation.validate import validate
from rlready.registry.errors import ConfigError


class Line(RegressorMixin, BaseEstimator):
    """A line through x, moved by `shift`."""

    fits = 0

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def fit(self, X: pd.DataFrame, y: FloatArray, sample_weight: Any = None) -> Self:
        type(self).fits += 1
        self.line_ = np.polyfit(X["x"], y, 1)
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return np.polyval(self.line_, X["x"]) + self.shift


class Other(Line):
    """The same, to be told apart by its name."""


def a_table(sizes: list[int], seed: int = 0) -> TrainingTable:
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, sum(sizes)))
    frame = pd.DataFrame({"x": x, "y": 60 + 3 * x + noise})
    frame["g"] = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    return training_table(frame, target="y", features=["x"], groups=["g"])


def validated(table: TrainingTable, splits: tuple[str, ...], **more: Any) -> ValidationReport:
    given: dict[str, Any] = {"models": {"line": Line}, "n_draws": 50, "n_jobs": 1}
    return validate(table, splits=splits, **given | more)


@pytest.mark.parametrize(("n", "is_said"), [(59, False), (60, False), (61, True)])
def test_sixty_rows_are_left_out_one_by_one_and_more_in_parts(n: int, is_said: bool) -> None:
    Line.fits = 0
    notes = validated(a_table([n]), ("loo",)).notes
    assert Line.fits == min(n, 60)
    assert (f"loo: 60 random parts of {n} rows" in notes) == is_said
    assert len([note for note in notes if "random parts" in note]) == is_said


@pytest.mark.parametrize(("n", "can"), [(5, False), (6, True)])
def test_parity_needs_six_rows(n: int, can: bool) -> None:
    report = validated(a_table([n]), ("loo", "parity"))
    assert ("parity" in report.splits) == can
    assert (f"parity needs 6 rows: {n} have an outcome" in report.notes) != can


@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_groups_are_left_out_from_two_and_compared_from_three(n_groups: int) -> None:
    report = validated(a_table([6] * n_groups), ("group",))
    assert ("group" in report.splits) == (n_groups > 1)
    assert report.pairs is not None
    assert (report.pairs.models["line"].problem == "") == (n_groups > 2)
    assert any("no group can be left out" in note for note in report.notes) == (n_groups == 1)
    assert any("need 3 groups" in note for note in report.notes) == (n_groups == 2)


def test_each_fit_is_made_once_and_pairs_cost_none() -> None:
    """4 groups, 6 pairs of them; the constant is fitted beside."""
    Line.fits = 0
    validated(a_table([5] * 4), ("group",))
    assert Line.fits == 4 + 6
    Line.fits = 0
    validated(a_table([5] * 2), ("group",))
    assert Line.fits == 2


def test_a_holdout_needs_three_rows() -> None:
    table = a_table([8])
    report = validated(table, ("loo",), holdout=a_table([3]))
    assert report.splits["holdout"].n_rows == 3
    with pytest.raises(ConfigError, match="2 rows with an outcome; scores need 3"):
        validated(table, ("loo",), holdout=a_table([2]))


def test_defaults_are_two_thousand_draws_and_seed_0() -> None:
    table = a_table([4, 4, 4])
    given: dict[str, Any] = {"models": {"line": Line}, "splits": ("group", "parity"), "n_jobs": 1}
    report = validate(table, **given)
    assert report.to_dict() == validate(table, n_draws=2000, seed=0, **given).to_dict()


def test_selected_needs_two_models_and_three_groups() -> None:
    one, two = {"line": Line}, {"line": Line, "other": Other}
    for models, sizes, has in (
        (one, [5] * 3, False),
        (two, [5] * 3, True),
        (two, [5] * 2, False),
    ):
        found = validated(a_table(sizes), ("group",), models=models).splits["group"].models
        assert ("selected" in found) == has


def test_among_models_of_one_order_the_one_with_the_right_level_is_selected() -> None:
    models = {"high": lambda: Line(shift=5.0), "low": lambda: Line(shift=-4.0), "right": Line}
    found = validated(a_table([5] * 4), ("group",), models=models).splits["group"].models
    assert (found["selected"].predicted == found["right"].predicted).all()


def test_a_proxy_of_one_group_is_named_with_its_group() -> None:
    table = a_table([5, 5])
    X = table.X.assign(x=np.where(table.groups == "g1", table.X["x"], np.nan), w=1.0)
    columns = (*table.columns, replace(table.columns[0], name="w"))
    notes = validated(replace(table, X=X, columns=columns), ("loo",), models=("constant",)).notes
    assert [note for note in notes if "measured in group" in note] == [
        "x was only measured in group g1: fits without this group do not use it"
    ]


@pytest.mark.parametrize(("first", "is_known"), [(0, True), (10, False)])
def test_no_such_note_where_two_groups_or_the_only_one_have_it(first: int, is_known: bool) -> None:
    table = a_table([5, 5, 5])
    X = table.X.assign(x=np.where(np.arange(15) < first, np.nan, table.X["x"]))
    table = replace(table, X=X)
    for each, expected in ((table, not is_known), (table.rows(table.groups == "g2"), False)):
        notes = validated(each, ("loo",), models=("constant",)).notes
        assert any("measured in group" in note for note in notes) == expected


def test_notes_of_twins_come_with_twins() -> None:
    table = a_table([5, 5])
    assert not any("repeat" in note for note in validated(table, ("loo",)).notes)
    table.X.iloc[1] = table.X.iloc[0]
    notes = validated(table, ("loo",)).notes
    assert "1 rows repeat the proxies of another row: they share its fold" in notes
    assert not any("repeat" in note for note in validated(table, ("group",)).notes)


def test_the_default_model_is_named_in_a_list() -> None:
    report = validated(a_table([5, 5]), ("loo",), models=("default", "ridge"))
    assert list(report.splits["loo"].models)[:2] == ["bounded", "ridge"]
    assert report.default_model == "bounded"
