"""A mean that levels off: taken where outcomes do, left where they do not, and never passed."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from rlready.predictors.bound import Bound, candidate_bounds, scale_ends
from rlready.predictors.calibration.bounded_law import BoundedLaw, bounded_law
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.calibration.trusted_types import trusted_types
from rlready.predictors.models.bounded import Bounded
from rlready.predictors.models.multilevel import Multilevel
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.workflow.predict.figures import draw_predictions

CURVE = Bound(floor=0.0, ceiling=0.8, end=1.0)
shares = st.floats(-0.2, 1.2)
scales = st.floats(0.01, 3.0)


def saturated(n: int, seed: int, steepness: float = 2.0, n_groups: int = 4) -> TrainingTable:
    """Checkpoints whose outcomes level off at 0.8, with two proxies and a level per group."""
    rng = np.random.default_rng(seed)
    skill, group = rng.standard_normal(n), np.arange(n) % n_groups
    eta = steepness * skill + 0.5 + 0.4 * rng.standard_normal(n_groups)[group]
    frame = pd.DataFrame(
        {
            "pass_at_1": expit(0.8 * skill + 0.2 * rng.standard_normal(n)),
            "heldout_nll": np.exp(0.2 * (-skill + 0.4 * rng.standard_normal(n))),
            "rl": np.clip(0.8 * expit(eta) + 0.015 * rng.standard_normal(n), 0.0, 1.0),
            "source": [f"g{g}" for g in group],
        }
    )
    return training_table(
        frame, target="rl", features=["pass_at_1", "heldout_nll"], groups=["source"]
    )


def straight(n: int, seed: int, middle: float = 60.0) -> TrainingTable:
    """The same checkpoints with outcomes on a straight line."""
    table = saturated(n, seed)
    rng = np.random.default_rng(seed + 1000)
    logit = np.log(table.X["pass_at_1"] / (1.0 - table.X["pass_at_1"]))
    y = middle + 3.0 * logit.to_numpy() + 0.5 * rng.standard_normal(n)
    return replace(table, y=np.asarray(y))


def fitted(table: TrainingTable, **settings: object) -> Bounded:
    return Bounded(**settings).fit(table.X, table.y)  # type: ignore[arg-type]


@given(st.floats(-4.0, 4.0))
def test_the_slope_is_that_of_the_curve_and_eta_its_inverse(eta: float) -> None:
    at, step = np.array([eta]), 1e-6
    rise = (CURVE.value(at + step) - CURVE.value(at - step)) / (2 * step)
    np.testing.assert_allclose(CURVE.slope(at), rise, rtol=1e-5)
    np.testing.assert_allclose(CURVE.eta(CURVE.value(at)), at, atol=1e-9)


@given(shares, st.floats(-50.0, 50.0))
def test_nothing_moves_above_the_ceiling_that_was_not_there(value: float, away: float) -> None:
    moved = float(CURVE.moved(np.array([value]), np.array([away]))[0])
    assert moved <= max(value, CURVE.ceiling)
    assert (moved >= value) if away >= 0 else (moved <= value)


def test_the_ends_of_the_scale_come_from_the_range_of_the_outcomes() -> None:
    assert scale_ends(np.array([0.0, 0.4])) == (0.0, 1.0)
    assert scale_ends(np.array([0.4, 61.0])) == (0.0, 100.0)
    assert scale_ends(np.array([3.0, 1000.0])) == (0.0, np.inf)
    assert "negative" in str(scale_ends(np.array([-0.1, 0.4])))


def test_ceilings_stop_at_the_end_of_the_scale_and_none_is_tried_twice() -> None:
    y = np.array([0.2, 0.9])
    ceilings = [b.ceiling for b in candidate_bounds(y, 0.2, (0.0, 1.0), (0.05, 0.25, 1.0, 3.0))]
    assert ceilings == pytest.approx([0.91, 0.95, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_a_ceiling_is_taken_where_outcomes_level_off_and_predicts_better(seed: int) -> None:
    table = saturated(200, seed)
    train = np.arange(200) < 60
    model = fitted(table.rows(train))
    plain = Multilevel().fit(table.rows(train).X, table.rows(train).y)
    assert model.bound_ is not None, model.bound_reason_
    assert 0.75 < model.bound_.ceiling < 1.0
    held = table.rows(~train)
    error, without = (np.mean((held.y - m.predict(held.X)) ** 2) for m in (model, plain))
    assert error < 0.8 * without
    assert (model.predict(held.X) <= model.bound_.ceiling).all()
    assert (model.predict(held.X) >= 0.0).all()


def test_the_order_is_that_of_eta() -> None:
    table = saturated(60, 3)
    model = fitted(table)
    eta = Multilevel.predict(model, table.X)
    assert model.bound_ is not None
    np.testing.assert_array_equal(np.argsort(model.predict(table.X)), np.argsort(eta))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(12, 60))
def test_without_curvature_the_model_is_multilevel_to_the_last_bit(seed: int, n: int) -> None:
    table = straight(n, seed)
    model, plain = fitted(table), Multilevel().fit(table.X, table.y)
    if model.bound_ is None:
        np.testing.assert_array_equal(model.predict(table.X), plain.predict(table.X))
        np.testing.assert_array_equal(model.coef_, plain.coef_)
        assert model.bound_reason_
    else:
        # By chance five folds may favour a ceiling; then it bends the line but little.
        spread = table.y.std()
        assert np.abs(model.predict(table.X) - plain.predict(table.X)).max() < spread


def test_without_curvature_a_ceiling_is_rarely_taken() -> None:
    taken = [fitted(straight(40, seed)).bound_ is not None for seed in range(30)]
    assert np.mean(taken) <= 0.2


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (lambda y: y - 2.0, "negative"),
        (lambda y: np.full(len(y), 0.5), "do not differ"),
    ],
)
def test_it_says_why_there_is_no_ceiling(y: object, reason: str) -> None:
    table = saturated(40, 0)
    model = Bounded().fit(table.X, y(table.y))  # type: ignore[operator]
    assert model.bound_ is None
    assert reason in model.bound_reason_


def test_few_different_rows_get_no_ceiling() -> None:
    model = fitted(saturated(9, 0))
    assert model.bound_ is None
    assert "fewer than 10" in model.bound_reason_
    twins = np.tile(np.arange(8), 4)
    assert fitted(saturated(9, 0).rows(twins)).bound_ is None


def test_given_ends_make_negated_losses_bounded() -> None:
    table = saturated(60, 1)
    model = Bounded(ends=(-1.0, 0.0)).fit(table.X, table.y - 1.0)
    assert model.bound_ is not None
    assert model.bound_.floor == -1.0
    shifted = fitted(table)
    np.testing.assert_allclose(model.predict(table.X), shifted.predict(table.X) - 1.0, atol=1e-6)


def test_rows_with_a_large_weight_draw_the_curve_to_them() -> None:
    table = saturated(60, 2)
    weight = np.where(np.arange(60) < 30, 10.0, 0.1)
    model = Bounded().fit(table.X, table.y, sample_weight=weight)
    gaps, alike = ((table.y - m.predict(table.X)) ** 2 for m in (model, fitted(table)))
    assert model.bound_ is not None
    assert gaps[:30].mean() < alike[:30].mean()


laws = st.builds(
    BoundedLaw,
    bound=st.just(CURVE),
    additive_sd=st.floats(1e-3, 0.3),
    row_sd=scales,
    group_sd_new=scales,
    kappa=st.floats(0.0, 10.0),
    row_df=st.floats(2.0, 100.0),
    group_df=st.floats(1.0, 20.0),
)


@given(laws, shares, st.floats(0.0, 30.0), st.integers(0, 12))
def test_intervals_never_pass_the_ceiling_by_more_than_the_noise(
    law: BoundedLaw, mean: float, t: float, anchors: int
) -> None:
    low, high = law.ends(np.array([mean]), np.array([float(anchors)]), np.array([t]))
    assert high[0] <= min(max(CURVE.ceiling, mean) + t * law.additive_sd, CURVE.end) + 1e-12
    assert low[0] >= CURVE.floor
    if CURVE.floor <= mean <= CURVE.end:
        assert low[0] - 1e-12 <= mean <= high[0] + 1e-12


@given(laws, st.floats(0.02, 0.78), st.floats(-0.5, 0.5))
def test_the_score_is_the_width_at_which_an_end_meets_the_outcome(
    law: BoundedLaw, mean: float, residual: float
) -> None:
    wide = replace(law, bound=replace(CURVE, floor=0.0, end=np.inf))
    at, none = np.array([mean]), np.zeros(1)
    t = wide.scores(np.array([residual]), at, none)
    low, high = wide.ends(at, none, t)
    outcome = mean + residual
    assert (high if residual >= 0 else low)[0] == pytest.approx(max(outcome, 0.0), abs=1e-6)


@given(laws, st.sampled_from([0.5, 0.9, 0.95]))
def test_student_intervals_are_narrow_on_the_plateau(law: BoundedLaw, level: float) -> None:
    law = replace(law, row_sd=min(law.row_sd, 0.5), group_sd_new=min(law.group_sd_new, 0.5))
    law = replace(law, row_df=law.row_df + 10.0, group_df=law.group_df + 10.0)
    low, high = law.student_ends(np.array([0.4, 0.79]), np.array([3.0, 3.0]), level)
    assert (low <= high).all()
    assert (high - low)[1] <= (high - low)[0] + 1e-9


def _errors(rng: np.random.Generator, n_groups: int, n_rows: int) -> tuple[FloatArray, ...]:
    """Outcomes, groups, predictions without the group and without the row.

    The noise is .02; in eta, rows vary by .5 and levels by .8.
    """
    group = np.repeat(np.arange(n_groups), n_rows)
    eta = rng.normal(1.0, 2.0, len(group))
    level = 0.8 * rng.standard_normal(n_groups)[group]
    true = CURVE.value(eta + level + 0.5 * rng.standard_normal(len(group)))
    y = true + 0.02 * rng.standard_normal(len(group))
    alone = CURVE.value(eta + level * (n_rows - 1) / (n_rows - 1 + 0.3))
    return y, group.astype(str), CURVE.value(eta), alone


def test_the_law_of_errors_is_found_from_residuals() -> None:
    y, groups, mean, alone = _errors(np.random.default_rng(0), 30, 12)
    anchors = np.full(len(y), 11.0)
    law = bounded_law(y, groups, y - alone, y - mean, anchors, CURVE)
    assert law.additive_sd == pytest.approx(0.02, rel=0.5)
    assert law.row_sd == pytest.approx(0.5, rel=0.25)
    assert law.group_sd_new == pytest.approx(0.8, rel=0.35)
    assert law.kappa < 3.0
    assert (law.row_df, law.group_df) == (330.0, 29.0)


def test_one_group_and_one_row_per_group_have_a_law() -> None:
    y, _, mean, alone = _errors(np.random.default_rng(1), 12, 4)
    one = bounded_law(y, np.full(len(y), "all"), y - alone, None, np.full(len(y), 47.0), CURVE)
    assert one.kappa == 0.0
    assert one.group_df == 1.0
    single = bounded_law(
        y, np.arange(len(y)).astype(str), np.full(len(y), np.nan), y - mean, 0.0 * y, CURVE
    )
    assert np.isinf(single.kappa)
    assert single.row_df == len(y) - 1.0
    assert np.isfinite(single.student_ends(mean, 0.0 * mean, 0.9)).all()


def test_without_any_error_intervals_are_finite() -> None:
    y, groups, _, _ = _errors(np.random.default_rng(2), 4, 5)
    law = bounded_law(y, groups, 0.0 * y, 0.0 * y, np.full(len(y), 4.0), CURVE)
    assert law.additive_sd > 0.0
    assert np.isfinite(law.scores(np.array([0.0, 0.1]), y[:2], np.zeros(2))).all()


def test_draws_follow_the_curve_and_share_the_level_of_their_group() -> None:
    joint = Predictive(
        mean=np.array([0.4, 0.79, 0.4]),
        row_sd=np.array([0.05, 0.012, 0.05]),
        group_sd=np.array([0.03, 0.002, 0.03]),
        groups=np.array(["a", "a", "b"]),
        bound=CURVE,
        additive_sd=np.array([0.01, 0.01, 0.01]),
    )
    draws = joint.draw(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.median(draws, axis=0), joint.mean, atol=0.01)
    np.testing.assert_allclose(draws.std(axis=0)[[0, 2]], joint.sd[[0, 2]], rtol=0.1)
    assert np.corrcoef(draws.T)[0, 1] > 0.05
    assert abs(np.corrcoef(draws.T)[0, 2]) < 0.05
    noiseless = replace(joint, additive_sd=np.zeros(3)).draw(5000, np.random.default_rng(1))
    assert noiseless.max() <= CURVE.ceiling
    chosen = joint.rows(np.array([1]))
    assert chosen.additive_sd is not None
    assert chosen.additive_sd.tolist() == [0.01]


@pytest.fixture(scope="module")
def predictor() -> CalibratedPredictor:
    return CalibratedPredictor("bounded", n_folds=10).fit(saturated(400, 0).rows(np.arange(48)))


def test_intervals_of_the_predictor_cover_and_narrow_at_the_top(
    predictor: CalibratedPredictor,
) -> None:
    bound = predictor.model_.bound_
    assert isinstance(predictor.calibration_.law, BoundedLaw)
    table, chosen = saturated(400, 0), np.arange(400) < 48
    new = table.rows(~chosen)
    plain = CalibratedPredictor("multilevel", n_folds=10).fit(table.rows(chosen)).assess(new.X)
    said = predictor.assess(new.X)
    cover = np.mean((new.y >= said["low"]) & (new.y <= said["high"]))
    assert cover > 0.8
    assert (said["low"] >= 0.0).all()
    assert (said["high"] <= 1.0).all()
    top = (said["prediction"] >= said["prediction"].quantile(0.75)).to_numpy()
    width, before = said["high"] - said["low"], plain["high"] - plain["low"]
    assert width[top].mean() < 0.8 * before[top].mean()
    assert bound is not None


def test_a_recorded_outcome_takes_the_place_of_the_curve(predictor: CalibratedPredictor) -> None:
    table = saturated(400, 0).rows(np.arange(48))
    table = replace(table, y_error=np.full(48, 0.01))
    posterior = predictor.posterior(table)
    assert posterior.additive_sd is not None
    np.testing.assert_array_equal(posterior.additive_sd, posterior.row_sd)
    assert (
        np.abs(posterior.mean - table.y) <= np.abs(predictor.unseen(table).mean - table.y)
    ).all()
    draws = posterior.draw(4000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(axis=0), posterior.mean, atol=0.005)


def test_the_predictor_can_be_stored(predictor: CalibratedPredictor) -> None:
    content = skops.io.dumps(predictor)
    back = skops.io.load(io.BytesIO(content), trusted=trusted_types())
    table = saturated(48, 0)
    pd.testing.assert_frame_equal(back.assess(table.X), predictor.assess(table.X))


def test_refits_give_the_same_numbers() -> None:
    table = saturated(40, 5)
    first, second = (fitted(table).predict(table.X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_figure_takes_a_prediction_beyond_the_scale(
    predictor: CalibratedPredictor, tmp_path: Path
) -> None:
    """The fit of a fold may have no ceiling; it once predicted below 0, and `fit` broke off."""
    table = saturated(400, 0).rows(np.arange(48))
    beyond = copy.copy(predictor)
    beyond.out_of_fold_ = predictor.out_of_fold_.copy()
    beyond.out_of_fold_[:2] = -0.02, 1.02
    assert draw_predictions(tmp_path / "predictions.png", beyond, table).is_file()
