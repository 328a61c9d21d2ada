"""Models by name: scikit-learn's contract, groups, weights, noise, few and odd rows, storage."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy.stats import spearmanr
from simulation import Simulated, World, simulate
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from rlready.predictors.models.baselines import OneProxy, RankAverage
from rlready.predictors.models.bounded import Bounded
from rlready.predictors.models.catalogue import (
    BASELINES,
    DEFAULT_MODEL,
    MIXTURE,
    MODELS,
    baselines_left_out,
    make_model,
    model_names,
)
from rlready.predictors.models.gaussian_process import GaussianProcess
from rlready.predictors.models.group_intercept import GroupIntercept
from rlready.predictors.models.mixture_shares import MixtureRegressor
from rlready.predictors.models.multilevel import Multilevel
from rlready.predictors.models.pls import WeightedPLS
from rlready.predictors.training_table import GROUP, Column, Kind, training_table
from rlready.predictors.validation.folds import fit_folds, fit_model, leave_group_out, out_of_fold
from rlready.registry.errors import ConfigError

QUICK = ("multilevel", "ridge", "pls", "bayesian_ridge")


def _few_trees() -> list[Any]:
    trees = ExtraTreesRegressor(n_estimators=4, max_features=0.5, random_state=0)
    boosting = HistGradientBoostingRegressor(max_iter=12, min_samples_leaf=4, early_stopping=False)
    return [
        GroupIntercept(trees),
        GroupIntercept(boosting),
        make_model("mean_of_three", None).set_params(regressor__trees__n_estimators=4),
    ]


def _expected_failures(estimator: Any) -> dict[str, str]:
    if isinstance(estimator, OneProxy | WeightedPLS):
        return {}
    reason = "a weight is the precision of an outcome; it leaves the proxies' scaling as it is"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks(
    [
        OneProxy(),
        OneProxy(logarithm=True),
        RankAverage(),
        WeightedPLS(),
        GaussianProcess(),
        Multilevel(),
        Bounded(),
        GroupIntercept(),
        GroupIntercept(WeightedPLS()),
        MixtureRegressor(n_trees=4),
        *_few_trees(),
    ],
    expected_failed_checks=_expected_failures,
)
def test_estimators_keep_the_contract_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def registry() -> Simulated:
    return simulate(5, 8, np.random.default_rng(3))


def test_the_default_is_one_of_the_models() -> None:
    assert DEFAULT_MODEL in MODELS
    assert type(make_model("default", None)) is type(make_model(DEFAULT_MODEL, None))


def test_names_hold_what_the_columns_allow_and_the_rest_is_said(registry: Simulated) -> None:
    columns = registry.table.columns
    assert {"constant", "pass_at_1", "pass_at_k", "loss", *MODELS} <= set(model_names(columns))
    assert set(baselines_left_out(columns)) == {"n_unique", "rl_probe"}
    assert "needs a column n_unique" in baselines_left_out(columns)["n_unique"]
    assert MIXTURE not in model_names(columns)


def test_an_unknown_name_is_answered_with_the_known_ones(registry: Simulated) -> None:
    with pytest.raises(ConfigError, match=r"no model 'xgboost'.*multilevel.*mixture"):
        make_model("xgboost", registry.table.columns)


def test_a_baseline_without_its_column_is_refused_with_those_there(registry: Simulated) -> None:
    with pytest.raises(ConfigError, match=r"n_unique is left out.*Columns: pass_at_1@sim"):
        make_model("n_unique", registry.table.columns)


def test_pass_at_k_is_over_the_largest_k_on_every_benchmark() -> None:
    names = ("pass_at_4@a", "pass_at_64@a", "pass_at_16@b", "pass_at_64@b")
    columns = [Column(name=name, kind=Kind.PROBABILITY, sign=1) for name in names]
    assert make_model("pass_at_k", columns).proxies == ["pass_at_64@a", "pass_at_64@b"]


def test_the_post_sft_score_may_have_another_name() -> None:
    columns = [Column(name="pre_overall", kind=Kind.PERCENT, sign=1)]
    assert "pass_at_1" not in model_names(columns)
    assert "pass_at_1" in model_names(columns, score="pre_overall")
    assert make_model("pass_at_1", columns, score="pre_overall").proxies == ["pre_overall"]
    with pytest.raises(ConfigError, match=r"no column 'pass'.*pre_overall"):
        make_model("pass_at_1", columns, score="pass")


@pytest.mark.parametrize("name", [*BASELINES[:5], *MODELS])
def test_a_model_is_cloned_stored_and_loaded_without_pickle(name: str, registry: Simulated) -> None:
    table = registry.table
    model = fit_model(lambda: clone(make_model(name, table.columns)), table)
    stored = skops.io.dumps(model)
    foreign = [t for t in skops.io.get_untrusted_types(data=stored) if "rlready" not in t]
    assert all(t.startswith("sklearn.") for t in foreign), foreign
    trusted = skops.io.get_untrusted_types(data=stored)
    again = skops.io.loads(stored, trusted=trusted)
    np.testing.assert_allclose(again.predict(table.X), model.predict(table.X))


@pytest.mark.parametrize("name", QUICK)
def test_a_new_group_is_ranked_where_levels_tell_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        registry = simulate(7, 12, rng)
        table, new = registry.table, registry.table.groups == "g06"
        model = fit_model(lambda table=table: make_model(name, table.columns), table.rows(~new))
        found.append(spearmanr(model.predict(table.X[new]), registry.truth[new])[0])
    assert np.mean(found) > 0.75


def test_the_default_uses_levels_where_they_tell() -> None:
    """Centred features alone would give 0 between groups; ridge after group means gave 0.3."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4):
        registry = simulate(6, 8, rng, World(level=0.9))
        table = registry.table
        fits = fit_folds(
            lambda table=table: make_model(DEFAULT_MODEL, table.columns),
            table,
            leave_group_out(table),
        )
        found.append(spearmanr(out_of_fold(fits, table), registry.truth)[0])
    assert np.mean(found) > 0.85


@pytest.mark.parametrize("name", [*QUICK, "extra_trees"])
def test_anchors_teach_the_level_of_their_group(name: str, registry: Simulated) -> None:
    table = registry.table
    levels = {g: abs(table.y[table.groups == g].mean() - table.y.mean()) for g in table.groups}
    far = max(levels, key=lambda g: levels[g])
    assert levels[far] > 4, "the seed gives a group that needs its level"
    rest = np.ones(len(table), dtype=bool)
    rest[np.flatnonzero(table.groups == far)[3:]] = False
    model = fit_model(lambda: make_model(name, table.columns), table.rows(rest))
    error = model.predict(table.X[~rest]) - registry.truth[~rest]
    new = table.X[~rest].assign(**{GROUP: "unseen"})
    without = model.predict(new) - registry.truth[~rest]
    assert abs(error.mean()) < 0.5 * abs(without.mean())
    assert model.group_names_ == np.unique(table.groups).tolist()


def test_variance_components_are_near_the_law() -> None:
    registry = simulate(30, 12, np.random.default_rng(0))
    table = registry.table
    model = fit_model(lambda: make_model(DEFAULT_MODEL, table.columns), table)
    assert model.group_sd_ == pytest.approx(6.0, rel=0.25)
    assert 0.8 < model.residual_sd_ < 2.0


def test_one_group_leaves_the_spread_of_groups_to_the_prior() -> None:
    table = simulate(1, 12, np.random.default_rng(0)).table
    model = fit_model(lambda: make_model(DEFAULT_MODEL, table.columns), table)
    assert model.group_sd_ > 0.3 * table.y.std()


def test_a_precise_outcome_counts_for_more(registry: Simulated) -> None:
    table = registry.table
    y = table.y.copy()
    y[0] += 30.0
    model = make_model(DEFAULT_MODEL, table.columns)
    weight = np.ones(len(y))
    wrong = model.fit(table.X, y, sample_weight=weight).predict(table.X)[0]
    weight[0] = 1e-3
    mended = model.fit(table.X, y, sample_weight=weight).predict(table.X)[0]
    assert abs(mended - table.y[0]) < abs(wrong - table.y[0])


def test_errors_give_back_the_slope_that_noise_has_halved() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 60)
    true = rng.standard_normal(len(group))
    frame = pd.DataFrame({"x": true + rng.standard_normal(len(group)), "x_se": 1.0})
    frame["y"] = 2.0 * true + 3.0 * rng.standard_normal(8)[group]
    frame["source"] = group
    exact = pd.DataFrame({"x": [-1.0, 1.0], "x_se": 0.0, GROUP: "0"})
    slopes = []
    for errors in ({"x": "x_se"}, None):
        table = training_table(frame, target="y", features=["x"], errors=errors, groups=["source"])
        model = fit_model(lambda table=table: make_model("default", table.columns), table)
        slopes.append(np.diff(model.predict(exact))[0] / 2.0)
    assert slopes[0] == pytest.approx(2.0, rel=0.15)
    assert slopes[1] == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("name", [*MODELS, "rank_average", "pass_at_1"])
@pytest.mark.parametrize("case", ["three rows", "constant target", "twins", "collinear", "gaps"])
def test_odd_tables_give_finite_predictions(name: str, case: str) -> None:
    table = simulate(3, 5, np.random.default_rng(1)).table
    X, y = table.X.copy(), table.y.copy()
    if case == "three rows":
        X, y = X.iloc[:3], y[:3]
    elif case == "constant target":
        y[:] = 70.0
    elif case == "twins":
        X, y = pd.concat([X, X]), np.concatenate([y, y])
    elif case == "collinear":
        X["pass_at_16@sim"] = X["pass_at_1@sim"]
        X["pass_at_64@sim"] = X["pass_at_1@sim"]
    else:
        X.iloc[::3, 0] = np.nan
        X.iloc[1::3, 3] = np.nan
    predicted = make_model(name, table.columns).fit(X, y).predict(X)
    assert np.isfinite(predicted).all()
    if case == "constant target":
        np.testing.assert_allclose(predicted, 70.0, atol=1e-6)


def test_boosting_never_falls_with_what_can_only_promise_better() -> None:
    table = simulate(3, 12, np.random.default_rng(1)).table
    model = make_model("hist_gb", table.columns).fit(table.X, table.y)
    share = np.linspace(0.01, 0.99, 20)
    error = np.sqrt(share * (1 - share) / 200)
    rows = table.X.iloc[[0] * 20].assign(**{"pass_at_64@sim": share, "pass_at_64@sim_se": error})
    assert (np.diff(model.predict(rows)) >= 0).all()


def test_rank_average_follows_the_signs() -> None:
    columns = [
        Column(name="nll", kind=Kind.LOSS, sign=-1),
        Column(name="pass_at_1", kind=Kind.PROBABILITY, sign=1),
        Column(name="token_entropy"),
    ]
    X = pd.DataFrame({"nll": [0.9, 0.5, 0.4], "pass_at_1": [0.1, 0.2, 0.6], "token_entropy": 1.0})
    model = make_model("rank_average", columns).fit(X, [3.0, 2.0, 1.0])
    assert (np.diff(model.predict(X)) > 0).all(), "whatever the outcomes say"


def test_a_line_over_a_proxy_is_least_squares_and_says_its_gaps() -> None:
    X = pd.DataFrame({"n_unique": [1e3, 1e4, np.nan, 1e5]})
    columns = [Column(name="n_unique", kind=Kind.COUNT)]
    model = make_model("n_unique", columns).fit(X, [1.0, 2.0, 9.0, 3.0])
    assert model.n_missing_ == 1
    assert model.slope_ == pytest.approx(1 / np.log(10), rel=1e-3)
    assert model.predict(X)[2] == pytest.approx(2.0)


def test_pls_with_all_components_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    X, weight = rng.standard_normal((30, 4)), rng.uniform(0.5, 2.0, 30)
    y = X @ [1.0, -2.0, 0.5, 0.0] + rng.standard_normal(30)
    found = WeightedPLS(n_components=4).fit(X, y, weight)
    design = np.column_stack([np.ones(30), X]) * np.sqrt(weight)[:, None]
    slopes = np.linalg.lstsq(design, y * np.sqrt(weight))[0]
    np.testing.assert_allclose([found.intercept_, *found.coef_], slopes, atol=1e-10)


def test_the_multilevel_gradient_is_the_slope_of_its_loss() -> None:
    from rlready.predictors.models.multilevel import Equations

    rng = np.random.default_rng(0)
    blocks = np.array([0, 1, 1, 2, 2, 2])
    equations = Equations(
        rng.standard_normal((20, 6)), rng.standard_normal(20), rng.uniform(0.5, 2, 20), blocks
    )
    at = np.array([2.0, -0.5, 0.3, -1.0])
    _, gradient = equations.loss(at)
    for axis, step in enumerate(1e-5 * np.eye(4)):
        slope = (equations.loss(at + step)[0] - equations.loss(at - step)[0]) / 2e-5
        assert gradient[axis] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_a_mixture_is_foreseen_with_an_error_that_grows_away_from_the_runs() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(5, 0.5), 80)
    loss = -np.log(shares[:, 0] + 0.02) - 0.3 * shares[:, 1]
    model = make_model(MIXTURE, None).fit(shares[:60], loss[:60])
    mean, sd = model.predict(shares[60:], return_std=True)
    assert spearmanr(mean, loss[60:])[0] > 0.9
    assert (sd > 0).all()
    assert sd.mean() > model.predict(shares[:60], return_std=True)[1].mean()


def test_estimators_take_plain_parameters_only(registry: Simulated) -> None:
    plain = (str, int, float, bool, type(None), list, tuple)
    for name in MODELS:
        model = make_model(name, registry.table.columns)
        for key in inspect.signature(type(model)).parameters:
            value = getattr(model, key)
            assert isinstance(value, plain) or hasattr(value, "get_params"), (name, key)
