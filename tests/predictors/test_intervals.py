"""Intervals cover where they say so, and say no more than holds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import Simulated, simulate
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge

from rlready.predictors.calibration.error_law import ErrorLaw, error_law
from rlready.predictors.calibration.intervals import (
    Calibration,
    Regime,
    anchors_of,
    calibrate,
    has_conformal,
    intervals,
    predictive,
)
from rlready.predictors.training_table import GROUP, TrainingTable
from rlready.predictors.validation.folds import fit_model, group_folds, row_folds
from rlready.registry.errors import ConfigError

N_ROWS = 24


class Centred(RegressorMixin, BaseEstimator):
    """Ridge on proxies minus their group's mean, plus the group's mean outcome: small and fast."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        groups, values = X[GROUP].to_numpy(), np.log(X.drop(columns=GROUP).clip(lower=1e-6))
        self.levels_ = {name: float(np.mean(y[groups == name])) for name in np.unique(groups)}
        self.centres_ = {n: values[groups == n].mean().to_numpy() for n in self.levels_}
        away = values.to_numpy() - np.stack([self.centres_[name] for name in groups])
        self.ridge_ = Ridge(alpha=0.1).fit(away, y - np.array([self.levels_[n] for n in groups]))
        return self

    def predict(self, X: Any) -> Any:
        groups, values = X[GROUP].to_numpy(), np.log(X.drop(columns=GROUP).clip(lower=1e-6))
        given = {n: values[groups == n].mean().to_numpy() for n in np.unique(groups)}
        centres = np.stack([self.centres_.get(name, given[name]) for name in groups])
        overall = float(np.mean(list(self.levels_.values())))
        levels = np.array([self.levels_.get(name, overall) for name in groups])
        return levels + self.ridge_.predict(values.to_numpy() - centres)


def registry(n_groups: int, seed: int) -> Simulated:
    """Groups with positive proxies only, which `Centred` takes logarithms of."""
    made = simulate(n_groups, N_ROWS, np.random.default_rng(seed))
    columns = tuple(c for c in made.table.columns if c.kind != "plain")
    X = made.table.X[[*[c.name for c in columns], GROUP]]
    return replace(made, table=replace(made.table, X=X, columns=columns))


def split(made: Simulated, n_full: int, n_anchors: int = 3) -> np.ndarray[Any, Any]:
    """(n,) training rows: 12 in each of the first groups, anchors in the next, none after."""
    group = np.arange(len(made.table)) // N_ROWS
    at = np.arange(len(made.table)) % N_ROWS
    return ((group < n_full) & (at < 12)) | ((group == n_full) & (at < n_anchors))


def fitted(table: TrainingTable, n_folds: int = 10) -> tuple[Calibration, Any]:
    return calibrate(Centred, table, n_folds=n_folds), fit_model(Centred, table)


@pytest.mark.slow
def test_intervals_and_the_joint_law_cover_in_known_groups_and_with_three_anchors() -> None:
    """Wide bounds for 24 registries; the bench has the exact figures."""
    known, few, law, true = [], [], [], []
    for seed in range(24):
        made = registry(8, seed)
        train = split(made, 6)
        table = made.table
        calibration, model = fitted(table.rows(train))
        group = np.arange(len(table)) // N_ROWS
        for rows, found in (((group < 6) & ~train, known), ((group == 6) & ~train, few)):
            held = table.rows(rows)
            mean = model.predict(held.X)
            low, high, regimes = intervals(calibration, held.X, held.groups, mean, 0.9)
            assert set(regimes) == {Regime.KNOWN_GROUP}
            found.append(np.mean((held.y >= low) & (held.y <= high)))
            joint = predictive(calibration, held.groups, mean, noise=True)
            law.append(np.mean(np.abs(held.y - mean) <= 1.68 * joint.sd))
            joint = predictive(calibration, held.groups, mean, noise=False)
            true.append(np.mean(np.abs(made.truth[rows] - mean) <= 1.68 * joint.sd))
    assert 0.86 < np.mean(known) < 0.94
    assert 0.84 < np.mean(few) < 0.96
    assert 0.85 < np.mean(law) < 0.95
    assert 0.85 < np.mean(true) < 0.95


def test_a_new_group_is_never_given_row_wise_intervals() -> None:
    made = registry(12, 0)
    for n_full, expected in ((4, Regime.NEW_GROUP_MODEL), (10, Regime.NEW_GROUP)):
        train = split(made, n_full, n_anchors=0)
        calibration, model = fitted(made.table.rows(train))
        new = made.table.rows(np.arange(len(made.table)) // N_ROWS == 11)
        low, high, regimes = intervals(calibration, new.X, new.groups, model.predict(new.X), 0.9)
        assert set(regimes) == {expected}
        assert (expected is Regime.NEW_GROUP) == (n_full >= 9)
        assert ("not distribution-free" in expected.promise) == (n_full < 9)
        row_wise = 2 * np.nanquantile(np.abs(calibration.by_row.residuals), 0.9)
        assert (high - low > 2 * row_wise).all()
        assert np.isfinite(low).all()
        assert np.isfinite(high).all()


@given(st.integers(2, 40), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_hierarchical_intervals_need_one_group_less_than_one_over_alpha(
    n: int, level: float
) -> None:
    assert has_conformal(n, level) == (n / (n + 1) >= level - 1e-12)


def test_only_the_hierarchical_regime_says_distribution_free() -> None:
    for regime in Regime:
        claims = "distribution-free" in regime.promise.replace("not distribution-free", "")
        assert claims == (regime is Regime.NEW_GROUP)


def test_fewer_anchors_give_wider_intervals() -> None:
    made = registry(8, 1)
    calibration, model = fitted(made.table.rows(split(made, 6)))
    X = made.table.rows(np.arange(len(made.table)) // N_ROWS == 0).X
    as_few = X.assign(**{GROUP: "g06"})
    widths = []
    for frame in (X, as_few):
        groups = np.asarray(frame[GROUP], dtype=np.str_)
        low, high, _ = intervals(calibration, frame, groups, model.predict(frame), 0.9)
        widths.append(np.mean(high - low))
    assert 1.05 < widths[1] / widths[0] < 1.4


def test_higher_level_contains_lower_level() -> None:
    made = registry(12, 2)
    calibration, model = fitted(made.table.rows(split(made, 10)))
    X, groups = made.table.X, made.table.groups
    mean = model.predict(X)
    ends = [intervals(calibration, X, groups, mean, level) for level in (0.5, 0.8, 0.9)]
    for inner, outer in pairwise(ends):
        assert (outer[0] <= inner[0] + 1e-9).all()
        assert (outer[1] >= inner[1] - 1e-9).all()


def test_shifting_and_scaling_outcomes_shifts_and_scales_intervals() -> None:
    made = registry(5, 3)
    table = made.table.rows(split(made, 4))
    moved = replace(table, y=7.0 - 2.0 * table.y, y_error=2.0 * table.y_error)
    found = []
    for each in (table, moved):
        calibration, model = fitted(each)
        found.append(
            intervals(
                calibration, made.table.X, made.table.groups, model.predict(made.table.X), 0.9
            )
        )
    np.testing.assert_allclose(found[1][0], 7.0 - 2.0 * found[0][1])
    np.testing.assert_allclose(found[1][1], 7.0 - 2.0 * found[0][0])


def test_the_law_tells_a_model_that_uses_anchors_from_one_that_does_not() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat([f"g{g}" for g in range(12)], 10)
    level, own = np.repeat(rng.normal(0, 5, 12), 10), rng.normal(0, 1, 120)
    alone = level + own
    sums = np.bincount(np.repeat(np.arange(12), 10), weights=alone)
    others = (np.repeat(sums, 10) - alone) / 9
    anchors = np.full(120, 9.0)
    uses = error_law(alone, groups, alone - others, alone, anchors)
    ignores = error_law(alone, groups, alone, alone, anchors)
    one = np.array([0.0, 1.0, 3.0, 9.0])
    assert uses.kappa < 0.2
    assert np.isinf(ignores.kappa)
    assert uses.row_sd == pytest.approx(1.0, rel=0.15)
    assert uses.group_sd_new == pytest.approx(5.0, rel=0.5)
    np.testing.assert_allclose(uses.group_sd(one)[1:], uses.row_sd / np.sqrt(one[1:]), rtol=0.2)
    np.testing.assert_allclose(ignores.group_sd(one), ignores.group_sd_new)


@given(st.floats(0.1, 10), st.floats(0, 20), st.floats(0, 5), st.floats(2, 100), st.floats(1, 20))
def test_degrees_of_freedom_lie_between_those_of_the_parts_and_their_sum(
    row_sd: float, group_sd: float, kappa: float, row_df: float, group_df: float
) -> None:
    law = ErrorLaw(
        row_sd=row_sd, group_sd_new=group_sd, kappa=kappa, row_df=row_df, group_df=group_df
    )
    anchors = np.array([0.0, 1.0, 5.0])
    df = law.df(anchors)
    assert (df >= min(row_df, group_df) - 1e-6).all()
    assert (df <= row_df + group_df + 1e-6).all()
    low, high = law.student_ends(np.zeros(3), anchors, 0.9)
    assert (low < 0).all()
    assert (high > 0).all()


def test_true_scores_are_known_better_than_the_outcome_of_one_run() -> None:
    made = registry(5, 5)
    calibration, model = fitted(made.table.rows(split(made, 4)))
    groups = made.table.groups
    mean = model.predict(made.table.X)
    run = predictive(calibration, groups, mean, noise=True)
    true = predictive(calibration, groups, mean, noise=False)
    assert calibration.rl_noise == pytest.approx(0.8)
    np.testing.assert_allclose(run.row_sd**2 - true.row_sd**2, 0.64)
    np.testing.assert_allclose(run.group_sd, true.group_sd)


def test_without_standard_errors_rl_noise_stays_in_the_law() -> None:
    table = registry(4, 6).table
    calibration, model = fitted(replace(table, y_error=np.full(len(table), np.nan)))
    mean = model.predict(table.X)
    run, true = (predictive(calibration, table.groups, mean, noise=n) for n in (True, False))
    np.testing.assert_array_equal(run.row_sd, true.row_sd)


def test_folds_hold_every_row_out_once_but_lonely_ones_and_never_split_twins() -> None:
    table = registry(4, 7).table
    X = table.X.copy()
    X.iloc[0, X.columns.get_loc(GROUP)] = "lonely"
    X.iloc[5] = X.iloc[4]
    table = replace(table, X=X)
    folds = row_folds(table, 24)
    held = np.concatenate(folds)
    assert sorted(held) == list(range(1, len(table)))
    assert sum({4, 5} <= set(fold.tolist()) for fold in folds) == 1
    for fold in folds:
        others = [row for row in fold if row not in (4, 5)]
        assert anchors_of(table.groups[others], table.groups[others]).max() <= 2
    assert sorted(np.concatenate(group_folds(table, 3))) == list(range(len(table)))
    assert len(group_folds(table, 3)) == 3


def test_too_few_rows_are_refused_and_few_rows_say_that_they_are_few() -> None:
    table = registry(2, 8).table
    with pytest.raises(ConfigError, match="3 checkpoints have an outcome: too few"):
        fitted(table.rows(np.array([0, 1, 2])))
    few = table.rows(np.array([0, 1, 2, 24, 25, 26]))
    calibration, model = fitted(few)
    low, high, regimes = intervals(calibration, few.X, few.groups, model.predict(few.X), 0.9)
    assert set(regimes) == {Regime.FEW_ROWS}
    assert np.isfinite(low).all()
    assert (high > low).all()


@pytest.mark.parametrize("n_in_group", [1, 30])
def test_groups_of_one_row_and_one_group_give_finite_intervals(n_in_group: int) -> None:
    table = registry(2, 9).table.rows(np.arange(30))
    names = [f"g{row // n_in_group}" for row in range(30)]
    table = replace(table, X=table.X.assign(**{GROUP: names}))
    calibration, model = fitted(table)
    for groups in (names, ["unseen"] * 30):
        X = table.X.assign(**{GROUP: groups})
        low, high, _ = intervals(calibration, X, np.array(groups), model.predict(X), 0.9)
        assert np.isfinite(low).all()
        assert (high > low).all()
