"""Cells of people's tables: missing ones, percent signs, mixed units."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rlready.predictors.kinds import Kind
from rlready.predictors.table_cells import is_numeric, mixed_units, read_cells
from rlready.predictors.training_table import lacking, training_table
from rlready.registry.errors import ConfigError


def a_frame(**columns: list[object]) -> pd.DataFrame:
    names = ["m1", "m2", "m3", "m4"]
    post = {"post": [0.5, 0.6, 0.7, 0.8]}
    return pd.DataFrame({"name": names, **post, "pass@1": [0.1, 0.2, 0.3, 0.4], **columns})


def test_words_for_a_missing_number_are_read_and_counted() -> None:
    column = pd.Series(["0.5", "n/a", " N/A", "-", "", None, np.nan, 3, "NaN", "%"], dtype=object)
    cells = read_cells(column, "x", [""] * 10)
    assert np.flatnonzero(np.isfinite(cells.values)).tolist() == [0, 7]
    assert cells.words == {"n/a": 1, "N/A": 1, "-": 1, "NaN": 1, "%": 1}
    assert not cells.is_percent
    assert cells.note("x").startswith("x: 1 'n/a' read as missing, 1 'N/A' read as missing")


def test_percent_signs_make_a_column_of_percentages() -> None:
    cells = read_cells(pd.Series(["61%", "0.5 %", "n/a"]), "x", [""] * 3)
    assert cells.values[:2].tolist() == [61.0, 0.5]
    assert cells.is_percent
    frame = a_frame(gsm8k=["0.1%", "0.5%", "0.6 %", "-"], post=["50%", "60%", "70%", "n/a"])
    table = training_table(frame, target="post", features=["gsm8k", "pass@1"], names="name")
    assert table.columns[0].kind is Kind.PERCENT
    assert table.y[:3].tolist() == [50.0, 60.0, 70.0]
    assert table.notes == (
        "gsm8k: 3 numbers with a percent sign read as percent, 1 '-' read as missing",
        "post: 3 numbers with a percent sign read as percent, 1 'n/a' read as missing",
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["0.5", "about 1", "2", ""], r"'x' is not numeric: row 2 \(m2\) holds 'about 1'"),
        (["0,5", "0.5", "2", ""], r"row 1 \(m1\) holds '0,5'"),
        (["0.5", "1.2.3%", "2", ""], "row 2"),
        (["0.5", "1", "inf", ""], r"row 3 \(m3\) holds an infinite number"),
        (["0.5", "-3e200", "1", ""], r"row 2 \(m2\) holds -3e\+200: numbers above 1e\+100"),
        (
            ["61%", "62", "63%", ""],
            r"mixes numbers with and.*without: 62 in row 2 \(m2\); with: 61",
        ),
    ],
)
def test_other_cells_are_refused_with_row_and_column(cells: list[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_table(a_frame(x=cells), target="post", features=["x"], names="name")


def test_a_standard_error_has_the_unit_of_its_column() -> None:
    frame = a_frame(x=["1%", "2%", "3%", "4%"], x_se=[0.1, 0.1, 0.1, 0.1])
    with pytest.raises(ConfigError, match="'x' has percent signs and 'x_se' has none"):
        training_table(frame, target="post", features=["x"], errors={"x": "x_se"})


def test_a_column_with_words_for_missing_numbers_is_numeric() -> None:
    assert is_numeric(pd.Series(["1", "n/a"]))
    assert is_numeric(pd.Series([1, 2]))
    assert not is_numeric(pd.Series(["n/a", "-"]))
    assert is_numeric(pd.Series(["61 %", "5%", "a typo"]))
    assert not is_numeric(pd.Series(["1", "a", "b"]))
    assert not is_numeric(pd.Series(pd.to_datetime(["2026-01-01"])))


def test_outcomes_in_two_units_are_refused_with_their_rows() -> None:
    frame = a_frame(post=[0.5, 55.0, 0.6, 61.0])
    with pytest.raises(ConfigError, match=r"shares: 0.5 in row 1 \(m1\), 0.6.*percentages: 55 in"):
        training_table(frame, target="post", features=["pass@1"], names="name")
    table = training_table(frame, target="post", features=["pass@1"], kinds=["post=percent"])
    assert table.y.tolist() == [0.5, 55.0, 0.6, 61.0]
    with pytest.raises(ConfigError, match="Write --kind post=percent"):
        training_table(frame, target="post", features=["pass@1"], kinds=["post=accuracy"])


@pytest.mark.parametrize(
    "values", [[0.4, 3.3, 10.0, 13.3], [0.0, 20.0, 40.0], [-0.5, 60.0], [0.5, 300.0], [0.1, 0.9]]
)
def test_numbers_of_one_unit_are_not_taken_for_two(values: list[float]) -> None:
    assert mixed_units(np.array([*values, np.nan])) is None


def test_proxies_that_no_two_checkpoints_share_are_refused() -> None:
    nan = np.nan
    frame = a_frame(a=[0.1, nan, nan, nan], b=[nan, 0.1, nan, nan], c=[nan, nan, nan, 1.0])
    message = "no two checkpoints have a proxy in common. m1 has a; m2 has b; m4 has c"
    with pytest.raises(ConfigError, match=message):
        training_table(frame, target="post", features=["a", "b", "c"], names="name")


def test_checkpoints_that_lack_a_proxy_are_named_a_few_of_many() -> None:
    nan = np.nan
    frame = a_frame(a=[0.1, nan, 0.2, nan], b=[0.1, nan, 0.4, nan], c=[1, 2, 3, nan])
    table = training_table(
        frame, target="post", features=["a", "b", "c", "pass@1"], names="name", kinds=["c=count"]
    )
    assert lacking(table) == (
        "a, b are missing for 2 of 4 checkpoints: m2, m4",
        "c is missing for 1 of 4 checkpoints: m4",
    )
    long = pd.DataFrame({"y": range(9), "a": [1.0, 2.0] + [nan] * 7, "b": range(9)})
    (note,) = lacking(training_table(long, target="y", features=["a", "b"]))
    assert (
        note == "a is missing for 7 of 9 checkpoints: row 3, row 4, row 5, row 6, row 7 and 2 more"
    )


def test_a_missing_group_is_called_none_however_it_is_written() -> None:
    frame = a_frame(base=["q", "n/a", "NA", None])
    table = training_table(frame, target="post", features=["pass@1"], groups=["base"])
    assert table.groups.tolist() == ["q", "none", "none", "none"]
