"""One object predicts, says how sure it is and where it knows nothing, and can be stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import skops.io
from simulation import simulate
from sklearn.base import clone

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.training_table import GROUP, Kind, TrainingTable, training_table
from rlready.registry.errors import ConfigError

OWN_TYPES = [
    f"rlready.predictors.{name}"
    for name in (
        "calibration.domain.TrainingDomain",
        "calibration.error_law.ErrorLaw",
        "calibration.intervals.Calibration",
        "calibration.intervals.Residuals",
        "calibration.predictor.CalibratedPredictor",
        "calibration.signal_test.ProxySignal",
        "calibration.signal_test.SignalReport",
        "features.Features",
        "models.bounded.Bounded",
        "validation.folds.FoldFit",
    )
]
COLUMNS = ["prediction", "low", "high", "level", "regime", "promise", "domain", "reasons"]


@pytest.fixture(scope="module")
def table() -> TrainingTable:
    """Three groups of 8 with outcomes, a fourth with 3, a fifth without."""
    made = simulate(5, 8, np.random.default_rng(0)).table
    y = made.y.copy()
    y[27:] = np.nan
    return replace(made, y=y)


@pytest.fixture(scope="module")
def predictor(table: TrainingTable) -> CalibratedPredictor:
    return CalibratedPredictor(n_folds=8).fit(table)


def test_assess_tells_for_each_row_all_that_is_known(
    predictor: CalibratedPredictor, table: TrainingTable
) -> None:
    said = predictor.assess(table.X)
    assert list(said.columns) == COLUMNS
    assert list(said.index) == table.ids
    assert ((said["low"] < said["prediction"]) & (said["prediction"] < said["high"])).all()
    np.testing.assert_array_equal(said["prediction"], predictor.predict(table.X))
    assert set(said["regime"][:32]) == {"known group"}
    assert set(said["regime"][32:]) == {"new group, model-based"}
    assert said["promise"].iloc[-1].endswith("not distribution-free")
    assert set(said["domain"]) <= {"in", "edge", "out"}
    assert ((said["reasons"] == "") == (said["domain"] == "in")).all()
    assert predictor.signal_.found()


def test_the_joint_law_knows_ranks_in_a_new_group_better_than_its_level(
    predictor: CalibratedPredictor, table: TrainingTable
) -> None:
    joint = predictor.predictive(table.X, noise=False)
    anchored, new = table.groups == "g03", table.groups == "g04"
    assert (joint.group_sd[new] > 3 * joint.group_sd[anchored]).all()
    assert (joint.row_sd < predictor.predictive(table.X).row_sd).all()
    np.testing.assert_array_equal(joint.mean, predictor.predict(table.X))


def test_a_loss_is_assessed_in_its_own_sign(table: TrainingTable) -> None:
    """The user's target is -y: the same fit, told the other way round."""
    loss = replace(table, lower_is_better=True)
    plain, turned = (CalibratedPredictor(n_folds=8).fit(t) for t in (table, loss))
    up, down = plain.assess(table.X), turned.assess(table.X)
    np.testing.assert_allclose(down["prediction"], -up["prediction"])
    np.testing.assert_allclose(down["low"], -up["high"])
    np.testing.assert_allclose(down["high"], -up["low"])
    np.testing.assert_allclose(turned.predict(table.X), plain.predict(table.X))


def test_a_stored_predictor_comes_back_the_same_without_pickle(
    predictor: CalibratedPredictor, table: TrainingTable
) -> None:
    data = skops.io.dumps(predictor)
    assert sorted(skops.io.get_untrusted_types(data=data)) == OWN_TYPES
    back = skops.io.loads(data, trusted=OWN_TYPES)
    pd.testing.assert_frame_equal(back.assess(table.X), predictor.assess(table.X))
    assert back.signal_ == predictor.signal_
    first, second = (
        p.predictive(table.X).draw(3, np.random.default_rng(1)) for p in (back, predictor)
    )
    np.testing.assert_array_equal(first, second)


def test_it_is_an_estimator_that_can_be_cloned_and_fitted_on_a_frame(
    predictor: CalibratedPredictor, table: TrainingTable
) -> None:
    known = table.with_outcome()
    columns = predictor.columns_
    again = clone(CalibratedPredictor(n_folds=8, columns=columns)).fit(known.X, known.y)
    np.testing.assert_allclose(again.predict(table.X), predictor.predict(table.X), atol=1e-6)
    assert CalibratedPredictor(level=0.8).get_params()["level"] == 0.8
    weighted = CalibratedPredictor("constant", n_folds=3, columns=columns)
    weighted.fit(known.X, known.y, sample_weight=np.where(known.y > 60, 100.0, 1.0))
    assert np.isfinite(weighted.predict(table.X)).all()


def test_permuted_outcomes_end_without_a_signal(table: TrainingTable) -> None:
    y = table.y.copy()
    rng = np.random.default_rng(5)
    for name in np.unique(table.groups[:27]):
        rows = np.flatnonzero((table.groups == name) & np.isfinite(y))
        y[rows] = rng.permutation(y[rows])
    fitted = CalibratedPredictor("ridge", n_folds=3).fit(replace(table, y=y))
    assert not fitted.signal_.found()
    assert "no signal here" in fitted.signal_.in_words()


def test_a_committee_flags_rows_on_which_unlike_models_part(table: TrainingTable) -> None:
    fitted = CalibratedPredictor("ridge", n_folds=3, committee=("constant",)).fit(table)
    assert any("different models" in reason for reason in fitted.assess(table.X)["reasons"])


def _without_column(X: pd.DataFrame) -> pd.DataFrame:
    return X.drop(columns="heldout_nll@sim")


def _of_another_version(X: pd.DataFrame) -> pd.DataFrame:
    return X.rename(columns={"heldout_nll@sim": "heldout_nll@sim#a1b2c3"})


def _without_group(X: pd.DataFrame) -> pd.DataFrame:
    return X.drop(columns=GROUP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_column, "no column 'heldout_nll@sim'.*fitted on it"),
        (_of_another_version, "heldout_nll@sim#a1b2c3.* was measured in another way"),
        (_without_group, "no column 'group'.*known are g00, g01"),
    ],
)
def test_rows_without_the_learned_columns_are_refused(
    predictor: CalibratedPredictor,
    table: TrainingTable,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    for use in (predictor.predict, predictor.assess, predictor.predictive):
        with pytest.raises(ConfigError, match=message):
            use(change(table.X))


def test_rows_of_other_evaluator_versions_are_refused(table: TrainingTable) -> None:
    fitted = CalibratedPredictor("constant", n_folds=2, versions={"heldout_nll@sim": "2"}).fit(
        table
    )
    X = table.X.copy()
    X.attrs["versions"] = {"heldout_nll@sim": "3"}
    with pytest.raises(ConfigError, match="heldout_nll@sim: 3, while the predictor"):
        fitted.predict(X)
    X.attrs["versions"] = {"heldout_nll@sim": "2"}
    fitted.predict(X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "oracle"}, "no model 'oracle'"),
        ({"level": 1.0}, "level 1.0 is not within"),
        ({"n_folds": 1}, "n_folds is 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    table: TrainingTable, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibratedPredictor(**settings).fit(table)


def test_three_rows_and_a_constant_target_are_refused_with_their_reason(
    table: TrainingTable,
) -> None:
    with pytest.raises(ConfigError, match="3 checkpoints have an outcome: too few"):
        CalibratedPredictor().fit(table.rows(np.array([0, 1, 2])))
    flat = replace(table, y=np.full(len(table), -0.5), lower_is_better=True)
    with pytest.raises(ConfigError, match=r"all 40 outcomes are 0\.5"):
        CalibratedPredictor().fit(flat)


def degenerate(name: str) -> TrainingTable:
    table = simulate(3, 8, np.random.default_rng(6)).table
    X = table.X.copy()
    if name == "one group":
        X[GROUP] = "all"
    if name == "duplicates":
        X.iloc[1::2] = X.iloc[::2].to_numpy()
    if name == "collinear":
        X["pass_at_16@sim"] = X["pass_at_64@sim"] * 0.5
        X["self_bleu@sim"] = X["token_entropy@sim"]
    if name == "empty column":
        X["heldout_nll@sim"] = np.nan
    if name == "column of one group":
        X.loc[X[GROUP] != "g01", "heldout_nll@sim"] = np.nan
    if name == "constant column":
        X["token_entropy@sim"] = 0.3
    if name == "extreme loss":
        X.iloc[3, X.columns.get_loc("heldout_nll@sim")] = 60.0
    return replace(table, X=X)


@pytest.mark.parametrize(
    "name",
    [
        "one group",
        "duplicates",
        "collinear",
        "empty column",
        "column of one group",
        "constant column",
        "extreme loss",
    ],
)
def test_degenerate_tables_get_finite_answers(name: str) -> None:
    table = degenerate(name)
    fitted = CalibratedPredictor(n_folds=6).fit(table)
    said = fitted.assess(table.X)
    assert np.isfinite(said[["prediction", "low", "high"]]).all(axis=None)
    assert (said["high"] - said["low"] < 40).all()
    assert np.isfinite(fitted.predictive(table.X).sd).all()
    if name == "empty column":
        assert "heldout_nll@sim is left out: no row with an outcome has it" in fitted.notes_
    if name == "column of one group":
        assert any("too few rows or groups" in note for note in fitted.notes_)
    if name == "duplicates":
        assert any(note.startswith("12 rows repeat") for note in fitted.notes_)


def test_a_table_without_groups_or_errors_is_enough() -> None:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"val_loss": rng.uniform(0.4, 0.8, 16)})
    frame["score"] = 80 - 30 * frame["val_loss"] + rng.normal(0, 0.5, 16)
    table = training_table(frame, target="score", features=["val_loss"])
    fitted = CalibratedPredictor().fit(table)
    said = fitted.assess(table.X.drop(columns=GROUP))
    assert table.columns[0].kind is Kind.LOSS
    assert (said["high"] - said["low"]).median() < 3.5
    assert "outcomes have no standard errors" in fitted.notes_[0]


def test_what_is_said_of_a_fitted_row_has_not_seen_its_outcome() -> None:
    table = simulate(3, 10, np.random.default_rng(5)).table
    known = np.arange(len(table)) % 5 != 0
    predictor = CalibratedPredictor(n_folds=4).fit(table.rows(known))
    said, plain = predictor.assess_unseen(table), predictor.assess(table.X)
    assert said["prediction"][known].to_numpy() == pytest.approx(predictor.out_of_fold_)
    assert (said["low"] <= said["prediction"]).all()
    assert (said["prediction"] <= said["high"]).all()
    pd.testing.assert_frame_equal(said[~known], plain[~known], check_dtype=False)
