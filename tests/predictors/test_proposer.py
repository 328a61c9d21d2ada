"""The surrogate, its proposals, and the study around them."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.spatial.distance import pdist

from rlready import predictors
from rlready.predictors.search.candidates import Guard, Proximity, anywhere
from rlready.predictors.search.proposer import (
    ProposerConfig,
    Runs,
    propose,
    propose_from,
)
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import parse_space
from rlready.predictors.search.space_parts import Points
from rlready.predictors.search.study import (
    Asked,
    SamplerName,
    ask,
    open_study,
    propose_recipes,
)
from rlready.predictors.search.surrogate import MixtureModel
from rlready.predictors.search.trials import (
    KnownRun,
    add_known_runs,
    runs_of,
    senses,
)
from rlready.predictors.search.values import finished_trials
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

QUICK = ProposerConfig(n_candidates=400, n_refinements=2)


@pytest.fixture(autouse=True)
def _silent_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def a_space(**values: Any) -> RecipeSpace:
    return parse_space(
        {
            "sources": {name: {} for name in "abcd"},
            "learning_rate": {"low": 1e-6, "high": 1e-4},
            "loss_weighting": {"choices": ["none", "iw"]},
            **values,
        }
    )


def limited_space() -> RecipeSpace:
    """About half of its recipes repeat `a` or `b` too often."""
    return parse_space(
        {
            "token_budget": 1e8,
            "max_repetitions": 2,
            "sources": {
                "a": {"available_tokens": 2e7, "mean_tokens": 100},
                "b": {"available_tokens": 2e7, "mean_tokens": 100},
                "c": {"mean_tokens": 100},
            },
        }
    )


def outcome(recipe: Recipe) -> float:
    """Best at a quarter of `a`, a learning rate of 2e-5, weighting iw."""
    assert recipe.learning_rate is not None
    return (
        -4.0 * (recipe.sources["a"] - 0.25) ** 2
        - 0.3 * np.log(recipe.learning_rate / 2e-5) ** 2
        + (0.2 if recipe.loss_weighting == "iw" else 0.0)
    )


def some_runs(space: RecipeSpace, n: int, seed: int = 0) -> Runs:
    points = anywhere(space, n, np.random.default_rng(seed))
    values = [outcome(space.recipe(points, row)) for row in range(n)]
    return Runs(points=points, outcomes=np.array(values)[:, None])


def searched(sampler: SamplerName, n: int, seed: int = 0, storage: Any = None) -> list[Asked]:
    study, space = open_study(
        a_space(), name="s", sampler=sampler, seed=seed, storage=storage, config=QUICK
    )
    asked = []
    for _ in range(n):
        asked.append(ask(study, space))
        study.tell(asked[-1].number, outcome(asked[-1].recipe))
    return asked


def test_the_model_predicts_what_it_has_not_seen_and_says_how_well() -> None:
    space = a_space()
    known, new = some_runs(space, 60), some_runs(space, 100, seed=1)
    model = MixtureModel(space.feature_groups)
    model.fit(space.features(known.points), known.outcomes[:, 0])
    mean, sd = model.predict(space.features(new.points), return_std=True)
    errors = mean - new.outcomes[:, 0]
    assert 1.0 - errors.var() / new.outcomes.var() > 0.9
    covered = (np.abs(errors) < 1.645 * np.hypot(sd, model.noise_sd_)).mean()
    assert 0.8 < covered <= 1.0


def test_the_model_is_fitted_again_as_if_new() -> None:
    space = a_space()
    known = some_runs(space, 20)
    X = space.features(known.points)
    model = MixtureModel(space.feature_groups).fit(X, known.outcomes[:, 0])
    again = MixtureModel(space.feature_groups).fit(X[:10], known.outcomes[:10, 0])
    again.fit(X, known.outcomes[:, 0])
    np.testing.assert_array_equal(model.fit(X, known.outcomes[:, 0]).predict(X), again.predict(X))


def test_assuming_a_run_equals_fitting_on_its_prediction() -> None:
    """The rank-one update of what is unknown, against the posterior with one more row."""
    space = a_space()
    known = some_runs(space, 15)
    X = space.features(known.points)
    new = space.features(anywhere(space, 6, np.random.default_rng(3)))
    model = MixtureModel(space.feature_groups).fit(X, known.outcomes[:, 0])
    belief = model.belief(new)
    belief.assume_ran(2)
    kernel = model._kernel(belief.smooth, belief.linear, belief.smooth, belief.linear)
    before = model.belief(new)
    posterior = kernel - before.solved.T @ before.solved
    gain = posterior[:, 2] ** 2 / (posterior[2, 2] + model.noise_ + 1e-8)
    np.testing.assert_allclose(belief.variance, np.diag(posterior) - gain, atol=1e-7)


def test_a_noisy_outcome_moves_the_model_less() -> None:
    X = np.array([[0.1, 0.9], [0.3, 0.7], [0.5, 0.5], [0.7, 0.3], [0.9, 0.1]])
    y = np.array([0.0, 0.1, 3.0, 0.3, 0.4])
    exact = MixtureModel().fit(X, y, np.full(5, 0.01)).predict(X)[2]
    noisy = MixtureModel().fit(X, y, np.array([0.01, 0.01, 3.0, 0.01, 0.01])).predict(X)[2]
    assert noisy < exact


def test_the_model_refuses_missing_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        MixtureModel().fit(np.array([[1.0], [np.nan]]), np.array([1.0, 2.0]))


def test_proposals_beat_what_they_were_made_from() -> None:
    space = a_space()
    runs = some_runs(space, 30)
    found = propose(space, runs, 4, np.random.default_rng(0), config=QUICK)
    told = [outcome(space.recipe(found.points, row)) for row in range(4)]
    assert max(told) > runs.outcomes.max()
    assert np.isfinite(found.mean).all()
    assert (found.sd > 0).all()


def test_the_same_seed_proposes_the_same() -> None:
    space, runs = a_space(), some_runs(a_space(), 20)
    first = propose(space, runs, 3, np.random.default_rng(7), config=QUICK)
    again = propose(space, runs, 3, np.random.default_rng(7), config=QUICK)
    np.testing.assert_array_equal(first.points.weights, again.points.weights)


def test_a_batch_lies_apart_and_apart_from_what_is_running() -> None:
    space, runs = a_space(), some_runs(a_space(), 25)
    config = ProposerConfig(n_candidates=800, apart=0.3, beta=0.0)
    first = propose(space, runs, 4, np.random.default_rng(0), config=config)
    later = propose(space, runs, 4, np.random.default_rng(0), config=config, running=first.points)
    model = MixtureModel(space.feature_groups)
    model.fit(space.features(runs.points), runs.outcomes[:, 0])
    both = space.features(Points.joined([first.points, later.points]))
    gaps = pdist(model.belief(both).smooth)
    assert gaps.min() >= 0.3 - 1e-6


def test_a_finite_pool_gives_rows_of_it_once_each() -> None:
    space, runs = a_space(), some_runs(a_space(), 12)
    pool = anywhere(space, 9, np.random.default_rng(5))
    found = propose_from(
        space, runs, pool, 20, np.random.default_rng(0), config=ProposerConfig(apart=9.0)
    )
    assert sorted(found.indices.tolist()) == list(range(9))


def test_proposals_keep_repetition_limits() -> None:
    space = limited_space()
    points = anywhere(space, 40, np.random.default_rng(0))
    runs = Runs(points=points, outcomes=points.weights[:, :1])
    found = propose(space, runs, 5, np.random.default_rng(0), config=QUICK)
    assert space.keeps_limits(found.points).all()
    assert found.points.weights[0, 0] == pytest.approx(0.4, abs=0.02)


def test_without_runs_recipes_fill_the_space() -> None:
    space = a_space()
    nothing = Points(weights=np.empty((0, 4)), axes=np.empty((0, 2)))
    found = propose(
        space, Runs(points=nothing, outcomes=np.empty((0, 1))), 5, np.random.default_rng(0)
    )
    assert len(np.unique(found.points.weights.round(6), axis=0)) == 5
    assert np.isnan(found.mean).all()
    assert set(found.domain) == {Proximity.OUT}


def test_what_no_run_tells_about_is_marked_and_can_be_left_out() -> None:
    space = a_space()
    near = Points(
        weights=np.random.default_rng(0).dirichlet([60, 60, 1, 1], 30),
        axes=np.column_stack([np.linspace(0.4, 0.6, 30), np.zeros(30)]),
    )
    guard = Guard(space, near)
    far = Points(weights=np.array([[0.0, 0.0, 1.0, 0.0]]), axes=np.array([[0.5, 0.0]]))
    unseen = Points(weights=near.weights[:1], axes=np.array([[0.5, 1.0]]))
    (domain,), (reason,) = guard.judge(far)
    assert domain is Proximity.OUT
    assert "nearest finished run" in reason
    assert guard.judge(unseen)[0] == (Proximity.OUT,)
    assert guard.judge(near.rows(slice(0, 1)))[0] == (Proximity.IN,)
    runs = Runs(points=near, outcomes=near.weights[:, 2:3])
    config = ProposerConfig(n_candidates=2000, out_of_domain="exclude")
    found = propose(space, runs, 3, np.random.default_rng(0), config=config)
    assert Proximity.OUT not in found.domain


def test_two_objectives_spread_over_their_front() -> None:
    space = a_space()
    points = anywhere(space, 30, np.random.default_rng(0))
    runs = Runs(points=points, outcomes=points.weights[:, :2])
    found = propose(space, runs, 6, np.random.default_rng(0), config=QUICK)
    assert (found.points.weights[:, :2].sum(axis=1) > 0.8).all()
    assert np.ptp(found.points.weights[:, 0]) > 0.2


def test_of_many_runs_the_best_are_kept() -> None:
    runs = some_runs(a_space(), 200).some(20)
    assert len(runs) == 20
    assert runs.outcomes.max() == some_runs(a_space(), 200).outcomes.max()


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "random"])
def test_the_stratified_mixture_is_asked_first(sampler: SamplerName) -> None:
    first, second = searched(sampler, 2)
    assert first.origin == "stratified"
    assert list(first.recipe.sources.values()) == pytest.approx([0.25] * 4)
    assert second.origin == sampler


def test_the_search_finds_the_optimum_and_repeats_itself() -> None:
    asked = searched("surrogate", 24)
    assert max(outcome(a.recipe) for a in asked) > 0.1
    assert [a.recipe for a in searched("surrogate", 24)] == [a.recipe for a in asked]
    assert asked[-1].domain is not None
    assert asked[-1].predicted is not None


def test_registry_rows_become_finished_trials() -> None:
    study, space = open_study(a_space(), name="s", config=QUICK)
    runs = some_runs(space, 10)
    rows = [
        KnownRun(
            name=f"row {i}",
            recipe=space.recipe(runs.points, i),
            values=(float(runs.outcomes[i, 0]),),
            errors=(0.1,),
        )
        for i in range(10)
    ]
    strange = KnownRun(name="strange", recipe=Recipe(sources={"z": 1.0}), values=(1.0,))
    broken = KnownRun(name="broken", recipe=rows[0].recipe, values=(float("nan"),))
    found = add_known_runs(study, space, [*rows, strange, broken])
    assert (found.n_added, found.n_known) == (10, 0)
    assert dict(found.left_out).keys() == {"strange", "broken"}
    assert "source z" in dict(found.left_out)["strange"]
    kept = runs_of(space, finished_trials(study, space), senses(study))
    np.testing.assert_allclose(kept.points.weights, runs.points.weights, atol=1e-9)
    np.testing.assert_allclose(kept.outcomes, runs.outcomes)
    assert kept.errors is not None
    np.testing.assert_allclose(kept.errors, 0.1)
    assert add_known_runs(study, space, rows).n_known == 10
    assert ask(study, space).origin == "stratified"
    assert ask(study, space).predicted is not None


def test_a_recipe_that_broke_a_limit_enters_with_its_constraint() -> None:
    study, space = open_study(limited_space(), name="s", config=QUICK)
    recipe = Recipe(sources={"a": 0.9, "c": 0.1})
    add_known_runs(study, space, [KnownRun(name="x", recipe=recipe, values=(1.0,))])
    (trial,) = study.get_trials(states=(TrialState.COMPLETE,))
    assert trial.constraints["repetitions:a"] == pytest.approx(0.9 * 1e8 / 4e7 - 1)


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "random"])
def test_what_is_asked_keeps_the_limits(sampler: SamplerName) -> None:
    study, space = open_study(limited_space(), name="s", sampler=sampler, seed=2, config=QUICK)
    for _ in range(15):
        asked = ask(study, space)
        limits = study.trials[asked.number].constraints
        assert set(limits) == {"repetitions:a", "repetitions:b"}
        assert all(value <= 0 for value in limits.values())
        study.tell(asked.number, asked.recipe.sources["a"])
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert all(max(trial.constraints.values()) > 0 for trial in pruned)


def test_workers_of_one_study_do_not_ask_the_same(tmp_path: Path) -> None:
    """Trials that run count as run, in another process too."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    asked = searched("surrogate", 8, storage=storage)
    for _ in range(3):
        study, space = open_study(a_space(), name="s", storage=storage, config=QUICK)
        asked.append(ask(study, space))
    weights = np.array([list(a.recipe.sources.values()) for a in asked[-3:]])
    assert len(np.unique(weights.round(4), axis=0)) == 3


def test_a_study_of_another_space_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(a_space(), name="s", storage=storage)
    other = a_space(learning_rate={"low": 1e-7, "high": 1e-4})
    with pytest.raises(ConfigError, match="made for another recipe space"):
        open_study(other, name="s", storage=storage)
    with pytest.raises(ConfigError, match="directions"):
        open_study(a_space(), name="s", storage=storage, directions=("minimize",))


def test_a_study_keeps_its_coordinates_when_another_sampler_joins(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    _, first = open_study(a_space(), name="s", sampler="tpe", storage=storage)
    _, second = open_study(a_space(), name="s", sampler="surrogate", storage=storage)
    assert first.simplex.parametrisation == second.simplex.parametrisation == "softmax"


def test_a_loss_is_minimised() -> None:
    study, space = open_study(a_space(), name="s", directions=("minimize",), config=QUICK)
    for _ in range(22):
        asked = ask(study, space)
        study.tell(asked.number, -outcome(asked.recipe))
    assert study.best_value < -0.1
    cautious = ProposerConfig(beta=-1.0, n_candidates=400)
    best, *_ = propose_recipes(study, space, 3, config=cautious)
    assert best.predicted is not None
    assert best.predicted[0][0] < 0.0


def test_a_space_of_one_source_and_nothing_else_can_be_asked() -> None:
    study, space = open_study(parse_space({"sources": {"only": {}}}), name="s", config=QUICK)
    for _ in range(7):
        asked = ask(study, space)
        assert asked.recipe.sources == {"only": 1.0}
        study.tell(asked.number, 1.0)


def test_gp_takes_part() -> None:
    pytest.importorskip("torch")
    study, space = open_study(a_space(), name="s", sampler="gp", config=QUICK)
    asked = ask(study, space)
    study.tell(asked.number, outcome(asked.recipe))
    assert ask(study, space).origin == "gp"


def test_samplers_come_with_their_coordinates() -> None:
    for given, coordinates in (None, "softmax"), ("sparse", "sparse"):
        _, space = open_study(a_space(simplex=given), name="s", sampler="tpe")
        assert space.simplex.parametrisation == coordinates
    with pytest.raises(ConfigError, match="surrogate, gp, tpe, random"):
        open_study(a_space(), name="s", sampler="best")  # type: ignore[arg-type]


def test_the_examples_of_the_public_names_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mix.toml").write_text("[sources.gsm8k]\n[sources.numina]\n")
    names = {name: getattr(predictors, name) for name in predictors.__all__}
    names |= {"space": parse_space({"sources": {"a": {}, "b": {}}}), "optuna": optuna, "np": np}
    for name in ("RecipeSpace", "Source", "SurrogateSampler", "parse_space", "read_space"):
        (test,) = doctest.DocTestFinder(recurse=False).find(names[name], name, globs=dict(names))
        assert test.examples, name
        assert doctest.DocTestRunner().run(test).failed == 0, name
