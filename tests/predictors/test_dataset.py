"""What a predictor is fitted on, made from tables of others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rlready.predictors.training_table import GROUP, Kind, describe_column, training_table
from rlready.registry.errors import ConfigError


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": ["a", "b", "c", "d"],
            "base": ["q", "q", "l", None],
            "sft": ["x", "y", "x", "x"],
            "heldout_nll@set": [0.5, 0.6, np.nan, 0.7],
            "heldout_nll_se@set": [0.01, 0.02, np.nan, 0.01],
            "pass_at_64@gsm8k": [0.5, 0.75, 0.8, 0.9],
            "n_unique": [1000, 2000, 500, 500],
            "post": [60.0, 62.0, np.nan, 64.0],
            "post_se": [0.5, 0.5, np.nan, 0.5],
            "empty": [np.nan] * 4,
        }
    )


FEATURES = ("heldout_nll@set", "pass_at_64@gsm8k", "n_unique")


def test_rows_keep_their_numbers_under_their_names() -> None:
    """The numbers were once looked up under the new names, and all became empty."""
    table = training_table(frame(), target="post", features=FEATURES, names="name")
    assert table.ids == ["a", "b", "c", "d"]
    assert table.X.loc["b", "pass_at_64@gsm8k"] == 0.75
    assert [column.kind for column in table.columns] == [Kind.LOSS, Kind.PROBABILITY, Kind.COUNT]
    assert [column.sign for column in table.columns] == [-1, 1, 0]


def test_each_combination_of_group_columns_is_a_group() -> None:
    table = training_table(frame(), target="post", features=FEATURES, groups=["base", "sft"])
    assert table.groups.tolist() == ["q / x", "q / y", "l / x", "none / x"]
    assert GROUP in table.X


def test_a_loss_as_target_is_turned_and_shown_as_it_was() -> None:
    table = training_table(frame(), target="post", features=FEATURES, lower_is_better=True)
    assert table.y[0] == -60.0
    assert table.shown(table.y)[0] == 60.0
    assert len(table.with_outcome()) == 3


def test_an_empty_column_is_left_out_and_that_is_said() -> None:
    table = training_table(frame(), target="post", features=[*FEATURES, "empty"])
    assert [column.name for column in table.columns] == list(FEATURES)
    assert table.notes == ("empty is left out: it has no number in any row",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["nope"]}, "no column 'nope'. Its columns: name, base"),
        ({"target": "empty"}, "no row has a number in the target"),
        ({"features": ["post"]}, "must not see the outcome"),
        ({"features": ["n_unique", "n_unique"]}, "named twice"),
        ({"features": []}, "no features"),
        ({"features": ["name"]}, "'name' is not numeric: row 1 holds 'a'"),
        ({"features": ["empty"]}, "none of the features"),
        ({"errors": {"post": "post_se"}}, "which is not a feature"),
        ({"groups": ["post"]}, "'post' is the target, and groups are named by it"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    settings = {"target": "post", "features": FEATURES, **changes}
    with pytest.raises(ConfigError, match=message):
        training_table(frame(), **settings)  # type: ignore[arg-type]


def test_rows_without_a_group_are_said_to_form_one() -> None:
    given = frame().assign(base=["q", "q", None, "n/a"])
    table = training_table(given, target="post", features=FEATURES, groups=["base"])
    assert table.groups.tolist() == ["q", "q", "none", "none"]
    assert "2 of 4 rows have no base: they form the group 'none'" in table.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post": 0.6}, "all 4 outcomes are 0.6"),
        (
            {"n_unique": 5, "heldout_nll@set": 1.25},
            "all 4 checkpoints with an outcome have the same proxies: heldout_nll@set 1.25, n_uni",
        ),
    ],
)
def test_rows_without_differences_are_refused(changes: dict[str, float], message: str) -> None:
    """A fit on equal proxies ended with an error of scikit-learn, because all rows are twins."""
    given = frame().assign(post=[0.5, 0.6, 0.7, 0.8]).assign(**changes)
    features = ["heldout_nll@set", "n_unique"]
    with pytest.raises(ConfigError, match=message):
        training_table(given, target="post", features=features).check_differences()


def test_an_infinite_number_is_refused() -> None:
    given = frame().astype({"n_unique": float})
    given.loc[1, "n_unique"] = np.inf
    with pytest.raises(ConfigError, match="row 2 holds an infinite number"):
        training_table(given, target="post", features=FEATURES)


def test_a_negative_standard_error_is_refused() -> None:
    given = frame()
    given.loc[1, "heldout_nll_se@set"] = -1.0
    with pytest.raises(ConfigError, match="negative standard error"):
        training_table(
            given,
            target="post",
            features=FEATURES,
            errors={"heldout_nll@set": "heldout_nll_se@set"},
        )


@pytest.mark.parametrize(
    ("name", "values", "kind", "sign"),
    [
        ("pre_gsm8k", [40.0, 80.0], Kind.PERCENT, 1),
        ("val_loss", [0.5, 0.6], Kind.LOSS, -1),
        ("val_loss", [-0.5, 0.6], Kind.PLAIN, 0),
        ("token_entropy@world", [0.5, 0.6], Kind.PLAIN, 0),
        ("truncated_share@world", [0.0, 0.6], Kind.PROBABILITY, 0),
        ("response_tokens@world", [10.0, 600.0], Kind.COUNT, 0),
        ("pass_at_8@world", [-1.0, 2.0], Kind.PLAIN, 1),
        ("lenient_pass_at_1@world", [0.1, 0.2], Kind.PROBABILITY, 1),
        ("format_gap@world", [-0.1, 0.2], Kind.PLAIN, 0),
    ],
)
def test_a_column_is_known_by_its_name_and_its_range(
    name: str, values: list[float], kind: Kind, sign: int
) -> None:
    column = describe_column(name, np.array(values))
    assert (column.kind, column.sign) == (kind, sign)
