"""Proxies as numbers of like scale: order kept, far rows damped, errors taken out, gaps said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import simulate
from sklearn.utils.estimator_checks import parametrize_with_checks

from rlready.predictors.features import Features, plain_columns
from rlready.predictors.scales import linked, n_trials
from rlready.predictors.training_table import GROUP, Column, Kind
from rlready.registry.errors import ConfigError

UNKNOWN = np.array([np.nan])


@parametrize_with_checks([Features()])
def test_features_keep_the_contract_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@given(
    kind=st.sampled_from(Kind),
    low=st.floats(0.01, 0.98),
    step=st.floats(1e-6, 0.01),
    trials=st.floats(8, 10_000),
)
def test_every_link_grows(kind: Kind, low: float, step: float, trials: float) -> None:
    unit = 100.0 if kind is Kind.PERCENT else 1.0
    values = unit * np.array([low, low + step])
    found, _ = linked(values, np.zeros(2), kind, trials, "x")
    assert found[1] > found[0]


@given(values=st.lists(st.floats(0.2, 5.0), min_size=3, max_size=20, unique=True))
def test_one_proxy_keeps_its_order_however_far_a_row_lies(values: list[float]) -> None:
    loss = np.array([*values, 500.0])
    column = [Column(name="nll", kind=Kind.LOSS, sign=-1)]
    frame = pd.DataFrame({"nll": loss})
    seen = Features(plain_columns(column)).fit_transform(frame)[:, 0]
    assert (np.diff(seen[np.argsort(loss)]) >= 0).all()
    assert seen[-1] == seen.max() > np.sort(seen)[-2]


@pytest.mark.parametrize("kind", [Kind.LOSS, Kind.PROBABILITY, Kind.PERCENT, Kind.COUNT])
def test_errors_pass_through_a_link_by_its_slope(kind: Kind) -> None:
    unit = 100.0 if kind is Kind.PERCENT else 1.0
    value, step, error = 0.5 * unit, 1e-6 * unit, 0.02 * unit
    around, _ = linked(np.array([value - step, value + step]), np.zeros(2), kind, 500.0, "x")
    slope = (around[1] - around[0]) / (2 * step)
    _, found = linked(np.array([value]), np.array([error]), kind, 500.0, "x")
    assert found[0] == pytest.approx(slope * error, rel=0.003)


def test_more_right_of_as_many_is_never_seen_as_worse() -> None:
    """By its own delta method, 63 right of 64 would be drawn to the centre below 50 of 64."""
    share = np.arange(65) / 64
    frame = pd.DataFrame({"pass_at_1": share, "se": np.sqrt(share * (1 - share) / 64)})
    model = Features([("pass_at_1", "probability", 1, "se")])
    seen = model.fit(frame.iloc[20:50]).transform(frame)[:, 0]
    assert (np.diff(seen[1:-1]) > 0).all()
    assert (np.diff(seen) > -1e-9).all()


def test_a_share_of_zero_is_not_taken_for_certain() -> None:
    """The binomial error of 0 correct of 64 is 0, and nobody knows that pass@1 is 0."""
    values = np.array([0.0, 0.5])
    error = np.sqrt(values * (1 - values) / 64)
    trials = n_trials(values, error, Kind.PROBABILITY)
    assert trials == pytest.approx(64)
    logit, se = linked(values, error, Kind.PROBABILITY, trials, "x")
    assert np.isfinite(logit).all()
    assert se[0] == pytest.approx(se[1], rel=0.05)


def test_a_far_row_does_not_set_the_scale_of_the_others() -> None:
    """RETU's checkpoint of 30 epochs has a loss of 0.87 among losses around 0.45."""
    losses = np.array([0.45, 0.44, 0.46, 0.47, 0.47, 0.43, 0.42, 0.43, 0.44, 0.44])
    column = plain_columns([Column(name="nll", kind=Kind.LOSS, sign=-1)])

    def gap(values: Any) -> float:
        seen = Features(column).fit_transform(pd.DataFrame({"nll": values}))
        return float(seen[3, 0] - seen[1, 0])

    raw_gap = 0.03 / np.std([*losses, 0.87])
    assert gap([*losses, 0.87]) > max(0.35 * gap(losses), 2.0 * raw_gap)


def test_centred_features_do_not_know_a_shift_of_the_group() -> None:
    table = simulate(4, 10, np.random.default_rng(2)).table
    plain = plain_columns([Column(name="token_entropy@sim", error="token_entropy@sim_se")])
    model = Features(plain).fit(table.X)
    new = table.X[table.groups == "g01"].assign(**{GROUP: "new"})
    shifted = new.assign(**{"token_entropy@sim": new["token_entropy@sim"] + 0.5})
    one, other = model.views(new).centred[:, 0], model.views(shifted).centred[:, 0]
    # All rows move alike: by what a mean of ten rows is still drawn to the other groups.
    assert np.ptp(other - one) < 1e-9
    assert abs(np.mean(other - one)) < 0.15


def test_a_known_group_is_seen_alike_alone_and_in_company() -> None:
    table = simulate(3, 6, np.random.default_rng(0)).table
    model = Features(plain_columns(table.columns)).fit(table.X)
    np.testing.assert_allclose(model.transform(table.X)[4:5], model.transform(table.X.iloc[4:5]))


def test_a_single_row_of_a_new_group_lies_between_itself_and_the_other_groups() -> None:
    table = simulate(6, 12, np.random.default_rng(0)).table
    model = Features(plain_columns(table.columns)).fit(table.X)
    row = table.X.iloc[:1].assign(**{GROUP: "new"})
    views = model.views(row)
    assert (np.abs(views.centred) > 0).all()
    assert (np.sign(views.centred) == np.sign(views.raw)).all()


def test_a_noisy_value_is_drawn_to_the_centre_of_its_group() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(40)
    frame = pd.DataFrame({"x": x, "se": np.full(40, 0.05)})
    model = Features([("x", "plain", 0, "se")]).fit(frame)
    far = pd.DataFrame({"x": [2.0, 2.0, 2.0], "se": [0.0, 1.0, np.nan]})
    exact, noisy, unknown = model.transform(far)[:, 0]
    assert noisy == pytest.approx(exact / 2, rel=0.3)
    assert unknown == exact  # no error known is no shrinkage


def test_calibrated_features_give_back_the_slope_that_noise_has_halved() -> None:
    rng = np.random.default_rng(1)
    true = rng.standard_normal(20_000)
    frame = pd.DataFrame({"x": true + rng.standard_normal(len(true)), "se": 1.0})
    seen = Features([("x", "plain", 0, "se")]).fit_transform(frame)[:, 0]
    raw_slope = np.polyfit(frame["x"], true, 1)[0]
    assert raw_slope == pytest.approx(0.5, abs=0.02)
    assert np.polyfit(seen, true, 1)[0] == pytest.approx(true.std(), abs=0.06)


def test_a_missing_proxy_counts_as_the_centre_of_its_group_and_is_said() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, np.nan, 7.0, 8.0], "z": 1.0, GROUP: list("aaaabb")})
    model = Features([("x", "plain", 0, None), ("z", "plain", 0, None)]).fit(frame)
    assert model.missing_ == {"x": 1}
    assert model.views(frame).centred[3, 0] == 0.0
    assert np.isfinite(model.transform(frame)).all()


def test_a_column_without_any_number_is_refused() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "nll": [np.nan, np.nan]})
    with pytest.raises(ConfigError, match=r"'nll' has no number in any of 2 rows"):
        Features([("x", "plain", 0, None), ("nll", "loss", -1, None)]).fit(frame)


def test_rows_that_lack_a_column_are_refused_with_those_there() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 4.0]})
    model = Features([("x", "plain", 0, None)]).fit(frame)
    with pytest.raises(ConfigError, match=r"no column 'x'.*Columns: y"):
        model.transform(frame.rename(columns={"x": "y"}))


def test_a_value_that_its_kind_cannot_have_is_refused() -> None:
    frame = pd.DataFrame({"pass_at_1": [0.2, 0.4]})
    model = Features([("pass_at_1", "probability", 1, None)]).fit(frame)
    with pytest.raises(ConfigError, match=r"'pass_at_1' holds 20"):
        model.transform(frame * 100)


def test_rows_without_groups_are_refused_where_groups_were_learned() -> None:
    table = simulate(3, 4, np.random.default_rng(0)).table
    model = Features(plain_columns(table.columns)).fit(table.X)
    with pytest.raises(ConfigError, match=r"no column 'group'.*known groups: g00, g01, g02"):
        model.transform(table.X.drop(columns=GROUP))
