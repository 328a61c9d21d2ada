"""Validation: what is held out, how sure a score is, and tables that allow little."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from simulation import simulate
from sklearn.base import BaseEstimator, RegressorMixin

from rlready.predictors.training_table import FloatArray, TrainingTable, training_table
from rlready.predictors.validation.bootstrap import Bootstrapped, Comparison, resampling
from rlready.predictors.validation.fold_runs import FoldRuns
from rlready.predictors.validation.folds import leave_group_out
from rlready.predictors.validation.report import ValidationReport
from rlready.predictors.validation.row_weights import error_notes, outcome_weights
from rlready.predictors.validation.scores import PredictionScorer
from rlready.predictors.validation.validate import validate
from rlready.registry.errors import ConfigError

N_DRAWS = 200


class Line(RegressorMixin, BaseEstimator):
    """A line through one column; remembers which rows it was fitted to."""

    def __init__(self, column: str = "x") -> None:
        self.column = column

    def fit(self, X: pd.DataFrame, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        self.line_ = np.polyfit(X[self.column], y, 1) if X[self.column].nunique() > 1 else [0, 0]
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return np.polyval(self.line_, X[self.column])


class Oracle(RegressorMixin, BaseEstimator):
    """Knows the outcomes of exactly the rows that it was fitted to; 0 for others."""

    def fit(self, X: pd.DataFrame, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        self.known_ = dict(zip(X.index, y, strict=True))
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        return np.array([self.known_.get(name, 0.0) for name in X.index])


class Refuses(Line):
    """A model that needs more rows than there are."""

    def fit(self, X: pd.DataFrame, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        raise ValueError("needs 1,000 rows\nand more")


def a_table(n_groups: int = 4, n_rows: int = 6, seed: int = 0, **columns: Any) -> TrainingTable:
    """Column x tells the outcome up to noise, z tells nothing."""
    rng = np.random.default_rng(seed)
    n = n_groups * n_rows
    x = rng.normal(size=n)
    frame = pd.DataFrame({"x": x, "z": rng.normal(size=n), "y": 60 + 3 * x + rng.normal(size=n)})
    frame["g"] = np.repeat([f"g{i}" for i in range(n_groups)], n_rows)
    for name, values in columns.items():
        frame[name] = values
    return training_table(frame, target="y", features=["x", "z"], groups=["g"])


def validated(table: TrainingTable, **settings: Any) -> ValidationReport:
    given = {"models": {"line": Line}, "n_draws": N_DRAWS, "n_jobs": 1, **settings}
    return validate(table, **given)


def test_no_model_has_seen_the_rows_that_it_is_scored_on() -> None:
    report = validated(a_table(), models={"oracle": Oracle}, splits=["loo", "group"])
    for split in report.splits.values():
        assert (split.models["oracle"].predicted == 0).all()


def test_rows_that_repeat_the_proxies_of_another_are_held_out_with_it() -> None:
    table = a_table()
    table.X.iloc[1] = table.X.iloc[0]
    fitted: list[int] = []

    class Counts(Line):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
            fitted.append(len(X))
            return super().fit(X, y)

    report = validated(table, models={"line": Counts}, splits=["loo"])
    assert sorted(set(fitted)) == [22, 23]
    assert any("1 rows repeat the proxies" in note for note in report.notes)


def test_out_of_fold_scores_are_those_of_the_folds() -> None:
    table = a_table()
    predicted = np.full(len(table), np.nan)
    for rows in leave_group_out(table):
        rest = np.setdiff1d(np.arange(len(table)), rows)
        model = Line().fit(table.X.iloc[rest], table.y[rest])
        predicted[rows] = model.predict(table.X.iloc[rows])
    found = validated(table, splits=["group"]).splits["group"].models["line"]
    assert found.predicted == pytest.approx(predicted)
    expected = PredictionScorer(table.y, predicted, table.groups).scores()
    assert {name: i.score for name, i in found.scores.items()} == expected


def test_every_interval_holds_its_score_and_says_over_how_many() -> None:
    report = validated(a_table(), baseline="z")
    for name in ("loo", "group"):
        for found in report.splits[name].models.values():
            for interval in found.scores.values():
                assert interval.score.n > 0
                if interval.score.value is not None and interval.lo is not None:
                    assert interval.hi is not None
                    assert interval.lo - 1e-9 <= interval.score.value <= interval.hi + 1e-9


def test_the_same_seed_gives_the_same_report_however_many_processes() -> None:
    first = validated(a_table(), baseline="z", seed=3).to_dict()
    assert validated(a_table(), baseline="z", seed=3, n_jobs=2).to_dict() == first
    assert validated(a_table(), baseline="z", seed=4).to_dict() != first


@pytest.mark.slow
def test_fits_in_other_processes_give_what_fits_here_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlready.predictors.validation.fold_runs._PROCESSES_PAY_S", -1.0)
    table = a_table()
    folds = leave_group_out(table)
    runs = [FoldRuns(table, {"oracle": _oracle}, n_jobs=jobs) for jobs in (1, 2)]
    for run in runs:
        run.run(folds)
    for rows in folds:
        here, there = (run.without("oracle", rows) for run in runs)
        assert (here.predicted == there.predicted).all()


_oracle: Callable[[], Any] = Oracle


def test_a_clear_winner_beats_the_baseline_and_an_equal_one_is_undecided() -> None:
    table = a_table(n_groups=8)
    report = validated(table, models={"line": Line, "twin": lambda: Line("z")}, baseline="z")
    found = report.splits["group"].models
    assert report.baseline == "baseline"
    assert found["line"].differences["spearman"].verdict is Comparison.BETTER
    assert found["line"].differences["regret_at_1"].value <= 0
    assert found["twin"].differences["spearman"].value == pytest.approx(0, abs=1e-9)
    assert found["twin"].differences["spearman"].verdict is Comparison.UNDECIDED
    assert found["baseline"].differences == {}


def test_worse_is_the_mirror_of_better() -> None:
    report = validated(a_table(n_groups=8), models={"bad": lambda: Line("z")}, baseline="x")
    assert report.splits["group"].models["bad"].differences["spearman"].verdict is Comparison.WORSE


def test_selected_takes_the_model_that_was_best_without_the_group() -> None:
    models = {"good": Line, "bad": lambda: Line("z")}
    found = validated(a_table(), models=models, splits=["group"]).splits["group"].models
    assert (found["selected"].predicted == found["good"].predicted).all()


def test_selecting_among_models_of_noise_is_scored_below_the_best_of_them() -> None:
    """The best of several useless models looks good only after the choice."""
    rng = np.random.default_rng(5)
    names = [f"z{i}" for i in range(6)]
    frame = pd.DataFrame({name: rng.normal(size=36) for name in names})
    frame["y"], frame["g"] = rng.normal(size=36), np.repeat(list("abcdef"), 6)
    table = training_table(frame, target="y", features=names, groups=["g"])
    models = {name: (lambda name=name: Line(name)) for name in names}
    found = validated(table, models=models, splits=["group"]).splits["group"].models
    values = {n: m.scores["decision_accuracy"].score.value or 0.0 for n, m in found.items()}
    assert values["selected"] < max(values[name] for name in names)


def test_one_number_per_fold_has_no_order() -> None:
    """Leave-one-out means fall as the held-out outcome rises: Spearman was -1."""
    found = validated(a_table()).splits["loo"].models["constant"].scores
    assert found["spearman"].score.value is None
    assert "order between folds has no meaning" in found["spearman"].score.reason
    assert found["r2"].score.value is not None


def test_a_holdout_is_predicted_from_all_rows() -> None:
    table, other = a_table(), a_table(seed=1)
    found = validated(table, holdout=other, splits=["loo"]).splits["holdout"]
    expected = Line().fit(table.X, table.y).predict(other.X)
    assert found.models["line"].predicted == pytest.approx(expected)
    assert (found.n_rows, found.n_groups) == (24, 4)


def test_parity_is_a_line_through_each_proxy_on_the_other_half() -> None:
    found = validated(a_table(), splits=["parity"]).splits["parity"].models
    line = found["line(x)"]
    assert line.scores["r2"].score.n == 20
    assert line.scores["r2"].score.value == pytest.approx(found["line"].scores["r2"].score.value)
    assert line.sd["r2"] > 0
    assert line.scores["r2"].score.value > found["line(z)"].scores["r2"].score.value


def test_rows_without_an_outcome_are_left_aside() -> None:
    table = a_table(y=[np.nan, np.nan, *range(22)])
    assert validated(table, splits=["loo"]).n_rows == 22


def test_the_report_is_json_with_the_promised_keys() -> None:
    found = json.loads(json.dumps(validated(a_table(), baseline="z").to_dict(), allow_nan=False))
    assert set(found["loo"]["line"]["r2"]) >= {"value", "lo", "hi", "n"}
    assert (found["n_rows"], found["n_groups"], found["noise_ceiling_r2"]) == (24, 4, None)
    assert found["default_model"] == "line"
    assert found["differences"]["group"]["line"]["spearman"]["verdict"] in ("better", "undecided")
    assert found["clear_rule"] == "outcomes more than 1 apart"


def test_the_frozen_default_and_every_baseline_are_scored() -> None:
    table = simulate(4, 5, np.random.default_rng(0)).table
    report = validated(table, models=("default",), splits=["group"])
    found = report.splits["group"].models
    assert {report.default_model, "constant", "pass_at_1", "loss"} <= set(found)
    assert report.baseline == "pass_at_1"
    assert found[report.default_model].problem == ""


def test_three_rows_get_an_answer() -> None:
    report = validated(a_table(n_groups=1, n_rows=3))
    assert report.splits["loo"].models["line"].scores["r2"].score.n == 3
    assert set(report.splits) == {"loo"}
    assert any("no group can be left out" in note for note in report.notes)
    assert any("parity needs 6 rows" in note for note in report.notes)


def test_one_group_is_said_to_tell_nothing_of_another() -> None:
    notes = validated(a_table(n_groups=1, n_rows=12)).notes
    assert any("all 12 rows are one group" in note for note in notes)


def test_few_groups_are_said_to_be_few_and_show_what_each_weighs() -> None:
    report = validated(a_table(n_groups=4), splits=["group"])
    assert any(note.startswith("4 groups:") for note in report.notes)
    interval = report.splits["group"].models["line"].scores["r2"]
    assert interval.jackknife is not None
    assert interval.jackknife[0] < interval.jackknife[1]


def test_two_groups_get_intervals_as_wide_as_they_deserve() -> None:
    found = validated(a_table(n_groups=2), splits=["group"]).splits["group"].models["line"]
    interval = found.scores["spearman"]
    assert interval.lo is not None
    assert interval.hi is not None
    assert interval.hi - interval.lo > 0.3


def test_a_perfect_score_of_few_rows_is_not_certain() -> None:
    shared = resampling(np.array(list("aabbcc")), 200)
    found = Bootstrapped(PredictionScorer(np.arange(6.0), np.arange(6.0)), shared)
    interval = found.interval("spearman")
    assert interval.lo is not None
    assert interval.lo < 0.95
    assert interval.hi == 1


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"y": 5.0}, {}, "all 24 outcomes are 5"),
        ({"y": [1.0, 2.0] + [np.nan] * 22}, {}, "2 rows have an outcome; validation needs 3"),
        ({}, {"splits": ["lot"]}, "no split 'lot'. Known: loo, group, parity"),
        ({}, {"baseline": "w"}, "no column 'w' for the baseline. Its columns: x, z"),
        ({}, {"models": ("nothing",)}, "no model 'nothing'. Known: "),
    ],
)
def test_what_cannot_be_validated_is_told(
    change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        validated(a_table(**change), **settings)
    assert message in str(caught.value)


def test_a_model_that_cannot_be_fitted_says_so_and_the_others_are_scored() -> None:
    report = validated(a_table(), models={"line": Line, "refuses": Refuses})
    found = report.splits["loo"].models
    assert found["refuses"].problem == "cannot be fitted to 23 rows: needs 1,000 rows"
    assert found["refuses"].scores["r2"].score.value is None
    assert found["line"].scores["r2"].score.value is not None
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["collinear", "missing", "extreme", "duplicates"])
def test_degenerate_proxies_leave_finite_scores(case: str) -> None:
    table = simulate(3, 5, np.random.default_rng(1)).table
    X = table.X.copy()
    if case == "collinear":
        X["pass_at_64@sim"] = X["pass_at_1@sim"]
    elif case == "missing":
        X["heldout_nll@sim"] = np.nan
    elif case == "extreme":
        X.iloc[0, X.columns.get_loc("heldout_nll@sim")] = 50.0
    else:
        X.iloc[8:] = X.iloc[:7].to_numpy()
    report = validated(replace(table, X=X), models=("default",), splits=["loo"])
    found = report.splits["loo"].models[report.default_model].scores
    assert found["r2"].score.value is not None
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_proxy_of_one_group_leaves_the_others_a_model() -> None:
    """Without that group's rows the column is empty, and the model refused the whole fold."""
    table = simulate(3, 5, np.random.default_rng(1)).table
    X = table.X.copy()
    X.loc[table.groups != "g01", "self_bleu@sim"] = np.nan
    report = validated(replace(table, X=X), models=("default",), splits=["group"])
    assert report.splits["group"].models[report.default_model].problem == ""
    assert any("self_bleu@sim was only measured in group g01" in note for note in report.notes)


def test_draws_take_whole_groups_and_rows_inside_them() -> None:
    groups = np.repeat(["a", "b", "c"], [2, 3, 5])
    draws = resampling(groups, 400, seed=1).draws
    for name, size in (("a", 2), ("b", 3), ("c", 5)):
        totals = draws[:, groups == name].sum(axis=1)
        assert set(totals % size) == {0}, "a group is drawn as a whole, or several times"
    assert (draws.max(axis=1) > 1).any()


def test_many_groups_are_left_out_in_blocks() -> None:
    shared = resampling(np.repeat([f"g{i}" for i in range(30)], 2), 10)
    assert shared.n_groups == 30
    assert len(shared.left_out) == 12


@pytest.mark.slow
def test_intervals_hold_the_truth_where_rows_alone_would_not() -> None:
    """120 registries of 6 groups; with 95 % coverage, below 0.86 is a false alarm of 1 in 10,000.

    `bench/score_intervals.py` measures this with 1,000.
    """
    rng, held, naive = np.random.default_rng(0), 0, 0
    for _ in range(120):
        level = rng.normal(size=(2, 6)).repeat(10, axis=1)
        y, predicted = level + rng.normal(size=(2, 60)) * 0.5
        groups = np.repeat(list("abcdef"), 10)
        scorer = PredictionScorer(y, predicted, groups)
        found = Bootstrapped(scorer, resampling(groups, 300), names=["spearman"])
        interval = found.interval("spearman")
        assert interval.lo is not None
        assert interval.hi is not None
        held += interval.lo <= 0 <= interval.hi
        draws = scorer.at(resampling(np.zeros(60, dtype=str), 300).draws, ["spearman"])["spearman"]
        naive += np.quantile(draws, 0.025) <= 0 <= np.quantile(draws, 0.975)
    assert held / 120 >= 0.86
    assert naive / 120 < 0.75


def test_an_unknown_error_weighs_like_the_usual_one() -> None:
    """One missing error switched all weights off."""
    table = replace(a_table(), y_error=np.array([0.3, np.nan, *[1.0] * 22]))
    usual = float(np.sqrt((0.3**2 + 22) / 23))
    filled = replace(table, y_error=np.where(np.isfinite(table.y_error), table.y_error, usual))
    assert outcome_weights(table) == pytest.approx(outcome_weights(filled))
    assert outcome_weights(table)[0] > outcome_weights(table)[1] > outcome_weights(table)[2]
    assert "1 of 24 outcomes" in error_notes(table)[0]
    assert outcome_weights(a_table()) is None
    assert outcome_weights(replace(table, y_error=np.full(24, 0.5))) is None
    assert error_notes(replace(table, y_error=np.full(24, 0.5))) == []
