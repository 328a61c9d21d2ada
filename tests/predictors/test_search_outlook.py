"""What a search can still win, sources that were never tried, and partial outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from rlready.predictors.search.candidates import anywhere
from rlready.predictors.search.outlook import outlook, study_outlook
from rlready.predictors.search.proposer import ProposerConfig, Runs, fit_models, propose_from
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_file import parse_space
from rlready.predictors.search.space_parts import Points
from rlready.predictors.search.study import SurrogateSampler, ask, open_study
from rlready.predictors.search.surrogate import MixtureModel
from rlready.predictors.search.trials import KnownRun, add_known_runs
from rlready.registry.records import Recipe

QUICK = ProposerConfig(n_candidates=400, n_refinements=2)


@pytest.fixture(autouse=True)
def _silent_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def a_space() -> RecipeSpace:
    return parse_space(
        {
            "sources": {name: {} for name in "abcd"},
            "learning_rate": {"low": 1e-6, "high": 1e-4},
            "loss_weighting": {"choices": ["none", "iw"]},
        }
    )


def outcome(recipe: Recipe) -> float:
    assert recipe.learning_rate is not None
    return -4.0 * (recipe.sources["a"] - 0.25) ** 2 - 0.3 * np.log(recipe.learning_rate / 2e-5) ** 2


def some_runs(space: RecipeSpace, n: int) -> Runs:
    points = anywhere(space, n, np.random.default_rng(0))
    values = [outcome(space.recipe(points, row)) for row in range(n)]
    return Runs(points=points, outcomes=np.array(values)[:, None])


def noisy_runs(space: RecipeSpace, n: int, law: Callable[[Recipe], float], noise: float) -> Runs:
    points = anywhere(space, n, np.random.default_rng(0), (1.0,))
    values = [law(space.recipe(points, row)) for row in range(n)]
    noisy = np.array(values) + noise * np.random.default_rng(1).standard_normal(n)
    return Runs(points=points, outcomes=noisy[:, None])


def test_the_gain_is_the_joint_posterior_of_two_recipes() -> None:
    space = a_space()
    known = some_runs(space, 15)
    X = space.features(known.points)
    belief = MixtureModel(space.feature_groups).fit(X, known.outcomes[:, 0]).belief(X[:5])
    gain, sd = belief.gain_over(2)
    assert (gain[2], sd[2]) == (0.0, pytest.approx(0.0, abs=1e-6))
    np.testing.assert_allclose(gain, belief.mean - belief.mean[2])
    assert (sd <= belief.sd + belief.sd[2] + 1e-9).all()


def test_a_flat_surface_is_said_before_anything_is_trained() -> None:
    space = parse_space({"sources": {name: {} for name in "abc"}})
    runs = noisy_runs(space, 40, lambda recipe: 0.7, 0.01)
    found = outlook(space, runs, list(range(40)), space.stratified())
    assert found.is_flat
    assert found.text.startswith("any of these; searching wins nothing here: trials ")
    assert len(found.equals) > 5


def test_a_surface_with_head_room_is_not_called_flat() -> None:
    space = parse_space({"sources": {name: {} for name in "abc"}})
    runs = noisy_runs(space, 12, lambda recipe: -((recipe.sources["a"] - 0.9) ** 2), 0.005)
    best = Points(weights=np.array([[0.9, 0.05, 0.05]]), axes=np.empty((1, 0)))
    found = outlook(space, runs, list(range(12)), best)
    assert not found.is_flat
    assert found.low < found.gain < found.high
    assert found.text.startswith("expected gain of the next recipe over the best known (trial ")
    assert found.best == found.equals[0]


def test_the_most_promising_of_the_asked_trials_is_named() -> None:
    """A search begins with equal shares, which are no advice; the outlook was theirs once."""
    space = parse_space({"sources": {name: {} for name in "abc"}})
    runs = noisy_runs(space, 12, lambda recipe: -((recipe.sources["a"] - 0.9) ** 2), 0.005)
    best = Points(weights=np.array([[0.9, 0.05, 0.05]]), axes=np.empty((1, 0)))
    both = Points.joined([space.stratified(), best])
    found = outlook(space, runs, list(range(12)), both, asked=(20, 21))
    assert found.trial == 21
    assert found.gain == outlook(space, runs, list(range(12)), best).gain
    assert found.text.startswith("expected gain of trial 21 over the best known (trial ")


def test_no_gain_leads_past_the_end_of_the_scale() -> None:
    space = parse_space({"sources": {name: {} for name in "ab"}})
    runs = noisy_runs(space, 10, lambda recipe: 0.5 + 0.499 * recipe.sources["a"], 0.0)
    found = outlook(space, runs, list(range(10)), space.stratified())
    assert found.most <= 1.0 - runs.outcomes.max() + 0.05


def registered(space: RecipeSpace, points: Points, law: Callable[[Recipe], float]) -> list[Any]:
    recipes = [space.recipe(points, row) for row in range(len(points))]
    return [
        KnownRun(name=f"row {i}", recipe=recipe, values=(law(recipe),))
        for i, recipe in enumerate(recipes)
    ]


def test_each_source_that_was_never_tried_gets_one_run_first() -> None:
    """Also if the run fails; and the domain says that its effect cannot be priced."""
    study, space = open_study(
        parse_space({"sources": {name: {} for name in "abcd"}}), name="s", config=QUICK
    )
    weights = np.zeros((12, 4))
    weights[:, :2] = np.random.default_rng(0).dirichlet([1, 1], 12)
    points = Points(weights=weights, axes=np.empty((12, 0)))
    add_known_runs(study, space, registered(space, points, lambda r: r.sources["a"]))
    asked = [ask(study, space) for _ in range(4)]
    assert [each.origin for each in asked] == ["stratified", *["new source"] * 2, "surrogate"]
    for each, name in zip(asked[1:3], "cd", strict=True):
        assert each.recipe.sources[name] == pytest.approx(0.25)
        assert each.recipe.sources["a"] > 0.5
        assert each.domain == "out"
        assert f"no finished run has {name}, so its effect cannot be priced" in each.reason
    study.tell(asked[1].number, state=TrialState.FAIL)
    assert ask(study, space).origin == "surrogate"
    found = study_outlook(study, space, [asked[3].recipe])
    assert found is not None
    assert found.new_sources == ("c", "d")
    assert not found.is_flat
    assert "no finished run has c, d: not priced" in found.text


@pytest.mark.parametrize("n_objectives", [1, 2])
def test_a_recipe_that_fails_is_not_proposed_again_and_again(n_objectives: int) -> None:
    """The search stayed where the model promised most, though each training there failed."""
    directions = ("maximize", "minimize")[:n_objectives]
    study, space = open_study(
        parse_space({"sources": {name: {} for name in "abcd"}}),
        name="s",
        config=QUICK,
        directions=directions,
    )
    points = anywhere(space, 16, np.random.default_rng(0), (1.0,))
    recipes = [space.recipe(points, row) for row in range(16)]
    runs = [
        KnownRun(name=str(k), recipe=r, values=(r.sources["a"], 1.0)[:n_objectives])
        for k, r in enumerate(recipes)
        if r.sources["a"] < 0.6
    ]
    add_known_runs(study, space, runs)
    states = []
    for _ in range(12):
        asked = ask(study, space)
        share = asked.recipe.sources["a"]
        states.append("failed" if share > 0.7 else "told")
        if share > 0.7:
            study.tell(asked.number, state=TrialState.FAIL)
        else:
            study.tell(asked.number, (share, 1.0)[:n_objectives])
    assert 1 <= states.count("failed") <= 6
    assert "told" in states[-4:]


def predicted_next(reported: float | None) -> float:
    """Predicted outcome of the next recipe, while a trial runs that reported its rung 20.

    All finished trials gained 0.3 from that step on.
    """
    study, space = open_study(a_space(), name="s", config=QUICK)
    points = some_runs(space, 12).points
    for row in range(12):
        value = outcome(space.recipe(points, row))
        study.add_trial(
            create_trial(
                params=space.parameters(points, row),
                distributions=space.distributions(),
                value=value,
                intermediate_values={20: value - 0.3},
            )
        )
    running = study.ask(fixed_distributions=space.distributions())
    if reported is not None:
        running.report(reported, 20)
    new = study.ask(fixed_distributions=space.distributions())
    assert isinstance(study.sampler, SurrogateSampler)
    ((mean, _),) = study.sampler.notes[new.number]["rlready:predicted"]
    return float(mean)


def test_a_running_trial_counts_with_what_its_rungs_foresee() -> None:
    unknown, poor, good = (predicted_next(reported) for reported in (None, -0.5, 3.0))
    assert poor < good
    assert good > unknown + 0.1


def test_one_recipe_explores_at_a_time() -> None:
    space, runs = a_space(), some_runs(a_space(), 25)
    pool = anywhere(space, 300, np.random.default_rng(5))
    rng = np.random.default_rng(0)
    eager = propose_from(space, runs, pool, 2, rng, config=ProposerConfig(beta=3.0, apart=0.0))
    model = fit_models(space, runs)[0]
    mean, sd = model.predict(space.features(pool), return_std=True)
    assert eager.indices[0] == np.argmax(mean + 3.0 * sd)
    assert eager.indices[1] == np.argmax(np.where(np.arange(300) == eager.indices[0], -9, mean))
    study, space = open_study(a_space(), name="s", config=QUICK)
    points = some_runs(space, 14).points
    add_known_runs(study, space, registered(space, points, outcome))
    asked = [ask(study, space) for _ in range(3)]
    explores = ["rlready:explores" in study.trials[each.number].user_attrs for each in asked]
    assert explores == [False, True, False]
