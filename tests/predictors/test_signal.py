"""Whether proxies say anything is judged inside groups, for the whole family at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulation import simulate

from rlready.predictors.calibration.signal_test import signal_report
from rlready.predictors.training_table import GROUP, Column, TrainingTable


def permuted_inside(table: TrainingTable, rng: np.random.Generator) -> TrainingTable:
    y = table.y.copy()
    for name in np.unique(table.groups):
        rows = np.flatnonzero(table.groups == name)
        y[rows] = rng.permutation(y[rows])
    return replace(table, y=y)


def test_informative_proxies_are_found_and_noise_is_not() -> None:
    report = signal_report(simulate(6, 12, np.random.default_rng(0)).table)
    found = {one.proxy for one in report.proxies if one.adjusted_p <= 0.05}
    assert {"pass_at_64@sim", "heldout_nll@sim"} <= found
    assert "self_bleu@sim" not in found
    assert next(o for o in report.proxies if o.proxy == "heldout_nll@sim").spearman < -0.5
    assert report.found()
    assert "signal:" in report.in_words()


def test_permuted_outcomes_have_no_signal_more_than_once_in_twenty() -> None:
    """40 registries at level 0.05: more than 6 false alarms would happen once in 300 times."""
    rng = np.random.default_rng(1)
    alarms = [
        signal_report(
            permuted_inside(simulate(4, 8, rng).table, rng), n_permutations=200, seed=seed
        ).found()
        for seed in range(40)
    ]
    assert sum(alarms) <= 6


def test_a_difference_between_groups_alone_is_no_signal() -> None:
    """Levels of groups and of a proxy go together perfectly; inside groups nothing does."""
    rng = np.random.default_rng(2)
    table = permuted_inside(simulate(6, 10, rng).table, rng)
    level = np.repeat(rng.normal(size=6), 10)
    X = table.X.assign(level=level * 10 + rng.normal(size=60))
    table = replace(table, X=X, columns=(Column(name="level"),), y=table.y + 100 * level)
    report = signal_report(table)
    assert not report.found()
    assert "no signal here" in report.in_words()


def test_no_increasing_transform_of_a_proxy_changes_the_report() -> None:
    table = simulate(3, 8, np.random.default_rng(3)).table
    bent = table.X.copy()
    for column in table.columns:
        bent[column.name] = np.exp(bent[column.name] / bent[column.name].abs().max()) ** 3
    assert signal_report(replace(table, X=bent)) == signal_report(table)


def test_adjusted_p_is_at_least_the_proxys_own_and_keeps_their_order() -> None:
    report = signal_report(simulate(4, 8, np.random.default_rng(4)).table)
    assert all(one.p <= one.adjusted_p <= 1 for one in report.proxies)
    assert report.p == min(one.adjusted_p for one in report.proxies)


def test_a_group_can_lack_the_signal_that_others_have() -> None:
    table = simulate(4, 16, np.random.default_rng(5)).table
    y = table.y.copy()
    first = table.groups == "g00"
    y[first] = np.random.default_rng(6).permutation(y[first])
    report = signal_report(replace(table, y=y))
    assert report.group_p["g00"] > 0.05 > report.group_p["g01"]


def test_missing_cells_constants_and_lonely_rows_do_not_break_the_test() -> None:
    table = simulate(4, 8, np.random.default_rng(7)).table
    X = table.X.copy()
    X.iloc[:5, X.columns.get_loc("heldout_nll@sim")] = np.nan
    X["self_bleu@sim"] = 1.0
    X[GROUP] = [*["lonely"], *X[GROUP].iloc[1:]]
    report = signal_report(replace(table, X=X))
    by_name = {one.proxy: one for one in report.proxies}
    assert by_name["self_bleu@sim"].p == 1.0
    assert by_name["self_bleu@sim"].spearman == 0.0
    assert by_name["heldout_nll@sim"].n == 27
    assert report.group_p["lonely"] == 1.0


def test_three_rows_cannot_show_a_signal() -> None:
    table = simulate(1, 3, np.random.default_rng(8)).table
    assert not signal_report(table).found()


def test_spearman_equals_scipys_in_one_group() -> None:
    from scipy.stats import spearmanr

    table = simulate(1, 20, np.random.default_rng(9)).table
    for one in signal_report(table, n_permutations=50).proxies:
        expected = spearmanr(table.X[one.proxy], table.y).statistic
        assert one.spearman == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sizes", "can_be_tested"),
    [
        ([1] * 12, False),
        ([4], False),
        ([5], True),
        ([2] * 5, False),
        ([2] * 6, True),
        ([3, 3], False),
        ([3, 4], True),
    ],
)
def test_too_few_rows_in_a_group_are_not_called_no_signal(
    sizes: list[int], can_be_tested: bool
) -> None:
    """The best order of n rows has p = 2 / n!, and a test at .05 needs less than that."""
    rng = np.random.default_rng(0)
    table = simulate(1, sum(sizes), rng).table
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    report = signal_report(replace(table, X=table.X.assign(**{GROUP: groups})))
    assert report.can_be_tested() == can_be_tested
    assert ("cannot be tested" in report.in_words()) != can_be_tested
    if not can_be_tested:
        assert not report.found()
        assert "no signal" not in report.in_words()


def test_equal_outcomes_are_one_order() -> None:
    table = simulate(1, 5, np.random.default_rng(0)).table
    assert signal_report(table).can_be_tested()
    report = signal_report(replace(table, y=np.array([1.0, 1.0, 1.0, 1.0, 2.0])))
    assert not report.can_be_tested()
