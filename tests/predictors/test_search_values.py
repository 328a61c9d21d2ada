"""Values from public outcomes in a study: one fit at a time, and no fit with another unit."""

from __future__ import annotations

import optuna
import pytest
from optuna.study import Study

from rlready.predictors.search.outlook import study_outlook
from rlready.predictors.search.space import RecipeSpace, Source
from rlready.predictors.search.study import SamplerName, ask, open_study
from rlready.predictors.search.trials import KnownRun, add_known_runs, runs_of, senses
from rlready.predictors.search.values import finished_trials, public_notes, write_public_values
from rlready.registry.records import Recipe

WORDS = "from public outcomes, no RL run of yours yet"
SPACE = RecipeSpace(sources=(Source(name="a"), Source(name="b")))


def a_run(number: int, value: float, *, public: bool = True, sd: float | None = None) -> KnownRun:
    return KnownRun(
        name=f"c{number}",
        recipe=Recipe(sources={"a": 0.05 * number, "b": 1.0 - 0.05 * number}),
        values=(value,),
        errors=None if sd is None else (sd,),
        is_predicted=public,
        public=WORDS if public else "",
        is_standing=public and sd is None,
    )


def opened(sampler: SamplerName = "surrogate", n: int = 10) -> tuple[Study, RecipeSpace]:
    """A study with n standings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, space = open_study(SPACE, name="s", sampler=sampler)
    enter(study, space, [a_run(number, 0.1 * number - 0.5) for number in range(1, n + 1)])
    return study, space


def enter(study: Study, space: RecipeSpace, runs: list[KnownRun]) -> None:
    write_public_values(study, [run for run in runs if run.public])
    add_known_runs(study, space, runs)


def values(study: Study, space: RecipeSpace) -> list[float]:
    runs = runs_of(space, finished_trials(study, space), senses(study))
    return [round(float(value), 6) for value in runs.outcomes[:, 0]]


def test_a_new_fit_replaces_all_values_and_adds_no_trial() -> None:
    study, space = opened(n=3)
    n_trials = len(study.trials)
    enter(study, space, [a_run(1, -1.0), a_run(2, 0.25), a_run(3, 0.75)])
    assert values(study, space) == [-1.0, 0.25, 0.75]
    assert len(study.trials) == n_trials
    assert public_notes(study) == [f"3 values are {WORDS}"]


def test_a_value_that_the_last_fit_did_not_give_is_left_out_with_its_reason() -> None:
    study, space = opened(n=3)
    enter(study, space, [a_run(1, -1.0)])
    assert values(study, space) == [-1.0]
    assert "2 values from public outcomes are left out" in public_notes(study)[1]
    enter(study, space, [])
    assert values(study, space) == []


def test_standings_stand_in_no_fit_with_an_outcome() -> None:
    study, space = opened(n=3)
    enter(study, space, [a_run(n, 0.1 * n) for n in (1, 2, 3)] + [a_run(9, 0.6, public=False)])
    assert values(study, space) == [0.6]
    assert "3 values from public outcomes are left out" in public_notes(study)[0]
    # Once the fit gives them the outcome's unit, they come back.
    enter(study, space, [a_run(n, 0.5 + 0.01 * n, sd=0.1) for n in (1, 2, 3)])
    assert sorted(values(study, space)) == [0.51, 0.52, 0.53, 0.6]


def test_a_predictor_and_then_an_outcome_replace_a_value_from_public_outcomes() -> None:
    study, space = opened(n=2)
    predicted = KnownRun(name="c1", recipe=a_run(1, 0).recipe, values=(0.4,), is_predicted=True)
    enter(study, space, [predicted])
    assert values(study, space) == [0.4]
    enter(study, space, [a_run(1, 0.45, public=False)])
    assert values(study, space) == [0.45]


def test_standings_promise_no_gain() -> None:
    study, space = opened()
    asked = ask(study, space)
    assert study_outlook(study, space, [asked.recipe]) is None
    enter(study, space, [a_run(n, 0.5 + 0.01 * n, sd=0.1) for n in range(1, 11)])
    assert study_outlook(study, space, [asked.recipe]) is not None


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sampler_of_optuna_sees_the_present_values_only(
    sampler: SamplerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, space = opened(sampler)
    enter(study, space, [a_run(n, 5.0 + n, sd=0.1) for n in range(1, 11)])
    seen: list[list[float]] = []
    original = type(study.sampler).sample_relative

    def spying(self: object, study: Study, *args: object) -> object:
        seen.append([t.value for t in study.trials if t.value is not None])
        return original(self, study, *args)  # type: ignore[arg-type]

    assert ask(study, space).origin == "stratified"
    monkeypatch.setattr(type(study.sampler), "sample_relative", spying)
    asked = ask(study, space)
    assert asked.origin == sampler
    assert seen[0] == [5.0 + n for n in range(1, 11)]
